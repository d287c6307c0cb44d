//! What the server answers with.

use std::time::Duration;

use support_access::{
    api::proto::v1,
    domain::{
        Epoch, TenantId,
        chain::{ChainHead, Checkpoint, Content, Link},
        time::from_micros,
    },
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use uuid::Uuid;

pub(super) fn refused(field: &str, description: &str) -> Status {
    let violation = FieldViolation::new(field, description);
    let details = ErrorDetails::with_bad_request(vec![violation]);
    Status::with_error_details(Code::FailedPrecondition, "refused", details)
}

/// As a server answers while its database is away.
pub(super) fn busy() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    Status::with_error_details(Code::Unavailable, "the database is not available", details)
}

pub fn mk_grant(grant_id: &str) -> v1::Grant {
    v1::Grant {
        grant_id: grant_id.into(),
        group_id: "support".into(),
        state: v1::GrantState::Active.into(),
        ..v1::Grant::default()
    }
}

/// How many events the checkpoint of every history knows.
pub const HISTORY: usize = 2_500;

/// The records of so many events, and a checkpoint of them.
pub(super) fn history(tenant_id: &str, events: usize) -> (Vec<String>, String) {
    let log = Epoch(Uuid::nil());
    let time = from_micros(1_800_000_000_000_000).unwrap();
    let mut link = Link::START;
    let mut records = Vec::new();
    for revision in 1..=i64::try_from(events).unwrap() {
        let (actor, body) = ("admin", "{}");
        let content = Content {
            tenant_id,
            revision,
            time,
            actor,
            via: None,
            is_asserted: false,
            reason: "",
            body,
        };
        let next = content.link(log, link).unwrap();
        records.push(content.record(log, link.hash, next).unwrap().line);
        link = next;
    }
    let tenant_id = TenantId::new(tenant_id).ok();
    let head = ChainHead { log, link };
    (records, Checkpoint::new(tenant_id.as_ref(), head, time, None).unwrap().line())
}

pub fn mk_lock(lock_id: &str) -> v1::Lock {
    v1::Lock {
        lock_id: lock_id.into(),
        target: Some(v1::lock::Target::AgentId("bob".into())),
        side: v1::LockSide::Vendor.into(),
        state: v1::LockState::Held.into(),
        ..v1::Lock::default()
    }
}

/// A tenant that no case is about.
pub(super) struct Stranger;

/// How far a change has come, by the tenant's name.
pub(super) fn mk_enforcement(tenant: &str) -> Result<Option<v1::Enforcement>, Stranger> {
    let state = match tenant {
        "complete" => v1::EnforcementState::Complete.into(),
        "pending" => v1::EnforcementState::Pending.into(),
        "unheard-of" => 9,
        "silent" => return Ok(None),
        _ => return Err(Stranger),
    };
    Ok(Some(v1::Enforcement { state, revision: 7, ..v1::Enforcement::default() }))
}
