//! The fields of an encoded message, without its descriptor.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The fields of a message, until the first malformed one.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

/// A field.
pub(super) struct Field<'a> {
    pub(super) tag: u32,
    /// Empty for numbers.
    pub(super) bytes: &'a [u8],
}

// === impl Fields ===

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let (tag, wire_type) = decode_key(&mut self.0).ok()?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut self.0, DecodeContext::default()).ok()?;
            return Some(Field { tag, bytes: &[] });
        }
        let length = usize::try_from(decode_varint(&mut self.0).ok()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Field { tag, bytes })
    }
}
