//! The gRPC services over the use cases.

pub mod access;
pub mod admin;
mod call;
mod convert;
pub(in crate::api) mod envoy;
pub mod errors;
mod guard;
pub mod nodes;
pub mod replication;
pub mod server_info;
mod status;
pub mod upstream;

pub use call::parse_timeout;
pub(in crate::api) use call::{CheckCall, TIMEOUT, deadline_of, timeout_of};
pub(in crate::api) use convert::ProtoEnum;
pub use status::{
    Failure, MESSAGE_LENGTH_MAX, Unread, disconnected, excess, excess_trailers, explain_refusal,
    failure_trailers, reject, reject_excess, reject_head, reject_late, reject_name,
    reject_unauthenticated, reject_unauthenticated_call, reject_unknown_method, shutdown_trailers,
    state_call_id, status_of, unwritten,
};
