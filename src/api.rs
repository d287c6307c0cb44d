//! The interfaces: gRPC, and an HTTP endpoint for metrics and health.
//!
//! [`calls`] handles each call of gRPC. Checks are answered there; the other services are routes of
//! tonic.
//! `grpc/convert.rs` converts messages, `grpc/status.rs` converts errors.

pub mod body;
pub mod call_id;
pub mod calls;
pub mod credentials;
mod denial;
pub mod detached;
pub mod format;
pub mod grpc;
mod head;
pub mod health;
pub mod integrations;
mod json;
mod known_callers;
pub mod limit;
pub mod message;
pub mod metrics;
pub mod observe;
pub mod operations;
pub mod proto;
pub mod shutdown;
pub(crate) mod threads;
pub mod trace;
mod unary;
pub mod web;
mod wire;
