//! The generated messages and services. The files in `proto/` document the API.

use crate::domain::OverrideField;

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

/// A subset of Envoy's external authorization API, package `envoy.service.auth.v3`.
#[expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
#[allow(missing_docs, unreachable_pub, missing_debug_implementations, reason = "generated code")]
pub mod envoy {
    tonic::include_proto!("envoy.service.auth.v3");
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

/// All packages as a `google.protobuf.FileDescriptorSet`, for server reflection and JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

impl v1::PolicyOverrides {
    /// The fields that are set.
    pub fn fields(&self) -> impl Iterator<Item = OverrideField> {
        let is_set = |field: &OverrideField| match field {
            OverrideField::Groups => self.groups.is_some(),
            OverrideField::PresetDurations => self.preset_durations.is_some(),
            OverrideField::DefaultDuration => self.default_duration.is_some(),
            OverrideField::MaxDuration => self.max_duration.is_some(),
            OverrideField::UntilRevokedAllowed => self.until_revoked_allowed.is_some(),
            OverrideField::ReasonRequired => self.reason_required.is_some(),
            OverrideField::TicketRequired => self.ticket_required.is_some(),
            OverrideField::MaxScheduleAhead => self.max_schedule_ahead.is_some(),
            OverrideField::AgentKinds => self.agent_kinds.is_some(),
        };
        OverrideField::ALL.iter().copied().filter(is_set)
    }
}
