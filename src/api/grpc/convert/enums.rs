//! Enums of the domain and of the API, by the names of the variants.

use crate::{
    api::proto::v1 as pb,
    domain::{
        AccessLevel, AgentKind, GrantState, LockState, NodeKind, Party, Reason, Remedy, Role,
        ViolationReason,
        explain::{ChecklistAnswer, ChecklistQuestion},
    },
    service::EnforcementState,
};

/// A domain enum that an enum of the API mirrors.
pub(in crate::api) trait ProtoEnum: Sized {
    /// The number in a message.
    fn to_proto(self) -> i32;

    /// The value of a number. `None`: unspecified or unknown.
    fn from_proto(number: i32) -> Option<Self>;
}

/// Both matches are exhaustive: a variant that one side lacks does not compile.
macro_rules! proto_enums {
    ($($domain:ident = $proto:ident { $($variant:ident),* $(,)? })*) => {
        $(
            impl ProtoEnum for $domain {
                fn to_proto(self) -> i32 {
                    match self {
                        $(Self::$variant => pb::$proto::$variant.into(),)*
                    }
                }

                fn from_proto(number: i32) -> Option<Self> {
                    match pb::$proto::try_from(number).ok()? {
                        pb::$proto::Unspecified => None,
                        $(pb::$proto::$variant => Some(Self::$variant),)*
                    }
                }
            }
        )*
    };
}

proto_enums! {
    AccessLevel = AccessLevel { ReadOnly, ReadWrite, Admin }
    AgentKind = AgentKind { Human, Ai, Service }
    GrantState = GrantState { Scheduled, Active, Expired, Revoked }
    LockState = LockState { Active, Expired, Lifted }
    Party = Party { Tenant, Vendor }
    NodeKind = NodeKind { Replica, Sidecar }
    EnforcementState = EnforcementState { Complete, Pending }
    Reason = DecisionReason {
        GrantActive, NoGrant, NotStarted, Expired, Revoked, GroupMismatch, AgentNotNamed,
        LevelExceeded, Locked, Stale, AgentKindNotAllowed, OnBehalfOfRequired, InputMissing,
        InputAmbiguous, InputInvalid, ClaimOverflow,
    }
    Remedy = Remedy {
        None, RequestGrant, WaitForStart, RequestHigherLevel, AskTenantToUnlock, AskVendorToUnlock,
        Retry, RequestAgentKind, StateOnBehalfOf, CorrectInput,
    }
    ChecklistQuestion = ChecklistQuestion {
        AccessGranted, PeriodNotExpired, EntryActive, CorrectOption, NotLocked,
    }
    ChecklistAnswer = ChecklistAnswer { Yes, No, NotApplicable }
    Role = Role { TenantAdmin, TenantAuditor, Portal, Gateway, Node, Operator, Auditor }
    ViolationReason = ViolationReason {
        Required, Malformed, OutOfRange, Conflict, GroupNotAllowed, LevelNotAllowed,
        DurationNotAllowed, UntilRevokedNotAllowed, ReasonRequired, TicketRequired, StartNotAllowed,
        AgentKindNotAllowed, ExceedsCatalogue,
    }
}
