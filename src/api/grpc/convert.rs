//! Conversion between messages and the types of the domain, by concept. Requests are validated
//! field by field. Domain values always have a message.

pub(super) mod checks;
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

pub(super) use enums::ProtoEnum;
