//! The domain: grants, locks, policies, checks and decisions, and pure functions on these types.
//!
//! No function performs I/O, waits or reads a clock: the time is an argument. All other modules use
//! these types.

/// Gives an enum `ALL`, with every value in the order of declaration, and `as_str`.
macro_rules! names {
    ($(#[$doc:meta])* $Enum:ident { $($Variant:ident = $name:literal,)* }) => {
        impl $Enum {
            /// Every value, in the order of declaration.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$Variant),*];

            $(#[$doc])*
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)*
                }
            }
        }
    };
}

pub mod admission;
pub mod authenticity;
pub mod caller;
pub mod chain;
pub mod check;
pub mod clock;
pub mod decision;
pub mod event;
pub mod explain;
pub mod grant;
pub mod ids;
pub mod lock;
pub mod node;
pub mod overrides;
pub mod policy;
pub mod request;
pub mod revision;
pub mod time;
pub mod token;
pub mod trusted_clock;
pub mod violation;

pub use admission::{AccessLevel, Admission, AdmittedKinds, AgentKind, AgentKindEntry};
pub use caller::{
    Action, Attribution, AuthenticationMethod, Caller, Denied, Party, Permission, Role, Scope,
    Tenants,
};
pub use check::{AccessCheck, AssertedGroups};
pub use clock::{BootTime, Clock};
pub use decision::{Decision, Reason, Remedy, decide};
pub use event::{AcceptedClock, Event, EventKind};
pub use grant::{Grant, GrantState, GrantTerms, Revocation};
pub use ids::{AgentId, FreeText, GrantId, GroupId, RequestId, TenantId, Ticket};
pub use lock::{Lock, LockId, LockRequest, LockState, LockTarget, LockTerms};
pub use node::{Ack, Enforced, NodeId, NodeInfo, NodeKind};
pub use overrides::{OverrideField, OverridesUpdate, PolicyOverrides, PolicyRequest};
pub use policy::{SupportGroup, SupportPolicy};
pub use request::{
    AcceptClockRequest, End, ExtendRequest, GrantRequest, RevokeRequest, UnlockRequest,
};
pub use revision::{Epoch, LogName, Position, Revision, Sequence, TokenKey};
pub use time::{Now, Span, Time};
pub use trusted_clock::{Judgement, TrustedClock};
pub use violation::{FieldViolation, ViolationReason, Violations};
