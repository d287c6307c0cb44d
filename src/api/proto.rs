//! The generated messages and services. The files in `proto/` document the API.

/// The public API, package `supportaccess.v1`.
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

/// Replication between check nodes. Internal.
pub mod replication {
    /// Package `supportaccess.replication.v1`.
    #[expect(
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    #[allow(
        missing_docs,
        unreachable_pub,
        missing_debug_implementations,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("supportaccess.replication.v1");
    }
}

/// Both packages as a `google.protobuf.FileDescriptorSet`, for server reflection and JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
