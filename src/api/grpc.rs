//! The gRPC services over the use cases.

pub mod access;
pub mod admin;
mod call;
mod convert;
pub mod errors;
mod guard;
pub mod nodes;
pub mod replication;
pub mod server_info;
mod status;
pub mod upstream;

pub use call::parse_timeout;
pub(in crate::api) use call::{ENFORCEMENT_TIMEOUT, TIMEOUT};
pub use status::{
    MESSAGE_LENGTH_MAX, Unread, broken_off, excess, explain_refusal, refuse_excess, refuse_late,
    refuse_name, refuse_unauthenticated, refuse_unread, shutdown_trailers, state_call_id,
};
