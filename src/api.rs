//! The interfaces: gRPC, and an HTTP endpoint for metrics and health.
//!
//! Layers of gRPC, from the outside in: [`observe`], [`shutdown`], [`trim`],
//! [`grpc::explain_refusal`], [`authenticate`], [`limit`], and [`detached`] around services that
//! make changes.
//! `grpc/convert.rs` converts messages, `grpc/status.rs` converts errors.

pub mod authenticate;
pub mod credentials;
pub mod detached;
pub mod grpc;
pub mod health;
pub mod limit;
mod message;
pub mod metrics;
pub mod observe;
pub mod operations;
pub mod proto;
pub mod shutdown;
pub mod trace;
pub mod trim;
