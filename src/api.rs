//! The doors: gRPC and HTTP. Messages become words in `grpc/convert.rs`, errors become statuses in `grpc/status.rs`.
//!
//! Layers of the gRPC door, from the outside in: [`observe`], [`endings`], [`grpc::explain_refusal`], [`authenticate`], [`limit`], then the
//! services.

pub mod authenticate;
pub mod credentials;
pub mod grpc;
pub mod health;
pub mod http;
pub mod keyed_semaphore;
pub mod limit;
pub mod metrics;
pub mod observe;
pub mod proto;
pub mod shutdown;
pub mod trace;
