//! Conversion between messages and the types of the domain. Requests are validated field by field.
//! The conversion of a domain value to a message cannot fail.

pub(super) mod checks;
pub(super) mod clock;
mod enums;
pub(super) mod events;
mod fields;
pub(super) mod grants;
pub(super) mod lists;
pub(super) mod locks;
pub(super) mod policies;
pub(super) mod replication;
pub(super) mod servers;
pub(super) mod timestamps;

pub(in crate::api) use enums::ProtoEnum;
