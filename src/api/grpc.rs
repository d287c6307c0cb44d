//! The gRPC door: the services of `supportaccess.v1` over the use cases.

pub mod access;
pub mod admin;
mod call;
mod convert;
mod guard;
pub mod nodes;
mod status;
pub mod upstream;

pub(in crate::api) use call::parse_timeout;
pub use status::{
    MESSAGE_LENGTH_MAX, Unread, broken_off, excess, explain_refusal, refuse_excess, refuse_late,
    refuse_name, refuse_unauthenticated, refuse_unread,
};
