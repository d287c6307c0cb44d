//! The words: what a grant, a policy, a question and a decision are, and the pure functions between them.
//!
//! Nothing here does I/O, waits, or reads a clock: time is an argument. Every other room speaks these words.

pub mod caller;
pub mod chain;
pub mod clock;
pub mod decision;
pub mod event;
pub mod explain;
pub mod grant;
pub mod lock;
pub mod node;
pub mod overrides;
pub mod policy;
pub mod request;
pub mod revision;
pub mod text;
pub mod time;
pub mod violation;

pub use caller::{Action, Attribution, Caller, Denied, Party, Permission, Role, Scope, Tenants};
pub use clock::{BootTime, Clock};
pub use decision::{Decision, Question, Reason, decide};
pub use event::{Event, EventKind};
pub use grant::{AccessLevel, AgentKind, Grant, GrantState, GrantTerms, Revocation};
pub use lock::{Lock, LockId, LockRequest, LockState, LockTarget, LockTerms};
pub use node::{Ack, Enforced, NodeId, NodeInfo, NodeKind};
pub use overrides::PolicyOverrides;
pub use policy::{SupportGroup, SupportPolicy};
pub use request::{End, ExtendRequest, GrantRequest, PolicyRequest, RevokeRequest, UnlockRequest};
pub use revision::{Epoch, LogName, Position, Revision, Sequence, TokenKey};
pub use text::{AgentId, FreeText, GrantId, GroupId, RequestId, TenantId, Ticket};
pub use time::{Now, Span, Time};
pub use violation::{FieldViolation, Violations};
