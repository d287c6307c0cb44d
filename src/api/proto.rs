//! The messages and services of `supportaccess.v1`, as generated from `proto/`, which is their manual.

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

/// All of it as a `google.protobuf.FileDescriptorSet`: for server reflection, and for JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
