//! The messages and services of `supportaccess.v1`, generated from `proto/`, which documents them.

/// The package `supportaccess.v1`.
#[expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
#[allow(missing_docs, unreachable_pub, missing_debug_implementations, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("supportaccess.v1");
}

/// The descriptors as a `google.protobuf.FileDescriptorSet`, for reflection and JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
