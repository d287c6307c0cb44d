//! The doors: gRPC and HTTP. Messages become words in `grpc/convert.rs`, errors become statuses in `grpc/status.rs`.

pub mod grpc;
pub mod proto;
