//! The fields of lines in the text format.
//!
//! A value is printed as it is only if no character in it could end the value. Otherwise, the value
//! is quoted and escaped, so that no name in a line can look like another field.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Formats fields as `name=value` or `name="escaped value"`.
#[derive(Debug)]
pub(super) struct QuotedFields;

impl<'w> FormatFields<'w> for QuotedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = FieldWriter { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct FieldWriter<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl FieldWriter<'_> {
    fn write(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return write_message(&mut self.writer, value);
        }
        let name = name.strip_prefix("r#").unwrap_or(name);
        if !value.is_empty() && value.chars().all(is_plain) {
            write!(self.writer, "{name}={value}")
        } else {
            write!(self.writer, "{name}={value:?}")
        }
    }
}

impl Visit for FieldWriter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Whether a character cannot be mistaken for the end of a value. Letters beyond ASCII may be
/// invisible.
fn is_plain(character: char) -> bool {
    character.is_ascii_graphic() && !matches!(character, '"' | '=' | '\\' | '{' | '}')
}

/// A message is text of the program, but may contain the error of a library.
fn write_message(writer: &mut Writer<'_>, message: &str) -> fmt::Result {
    message.chars().try_for_each(|character| {
        if character.is_control() {
            write!(writer, "{}", character.escape_default())
        } else {
            writer.write_char(character)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{info, info_span, subscriber::with_default};

    use super::*;
    use crate::server::telemetry::written::Written;

    /// The line that `act` logs.
    fn line(act: impl FnOnce()) -> String {
        let written = Arc::new(Written::default());
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .fmt_fields(QuotedFields)
            .with_writer(Arc::clone(&written))
            .finish();
        with_default(subscriber, act);
        written.text()
    }

    #[test]
    fn a_name_cannot_forge_a_field_or_a_line() {
        let actor = "maria@acme\" action=\"GrantAccess\" tenant_id=\"globex";
        let line = line(|| {
            let call_id = "a\"}:b{c=d";
            let _span = info_span!("rpc", %call_id).entered();
            let error = "first\nsecond\u{1b}[31m\u{202e}";
            info!(%actor, name = "two words", plain = "acme", empty = "", error, count = 7, "x\ny");
        });
        let expected = "INFO rpc{call_id=\"a\\\"}:b{c=d\"}: \
             support_access::server::telemetry::text::tests: x\\ny \
             actor=\"maria@acme\\\" action=\\\"GrantAccess\\\" tenant_id=\\\"globex\" \
             name=\"two words\" plain=acme empty=\"\" \
             error=\"first\\nsecond\\u{1b}[31m\\u{202e}\" count=7";
        assert_eq!(line.trim(), expected);
    }

    #[test]
    fn values_of_libraries_are_quoted() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "the fields are printed")]
        struct Peer {
            name: &'static str,
        }
        let line = line(|| info!(peer = ?Peer { name: "x y" }, some = ?Some(1), "m"));
        assert!(line.contains("peer=\"Peer { name: \\\"x y\\\" }\" some=Some(1)"), "{line}");
    }
}
