//! The doors: gRPC and HTTP. Messages become words in `grpc/convert.rs`, errors become statuses in `grpc/status.rs`.
//!
//! Layers of the gRPC door, from the outside in: [`observe`], [`endings`], [`grpc::explain_refusal`], then the
//! services.

pub mod endings;
pub mod grpc;
pub mod health;
pub mod http;
pub mod metrics;
pub mod observe;
pub mod proto;
