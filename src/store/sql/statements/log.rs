//! Statements on the log and the head.

use crate::{
    domain::{Epoch, Lock, RequestId, Revision, Sequence, TenantId, Time, TokenKey, ids::Actor},
    store::{
        IdempotencyKey,
        sql::statements::{Dialect, Statement, grants, locks, owner},
        transaction::StampedEvent,
    },
};

pub(super) const EVENT: &str = "e.revision, e.tenant_id, e.sequence, e.time, e.actor, e.via, \
                                e.actor_asserted, e.reason, e.body";

pub(in crate::store) fn head() -> Statement {
    Statement::new("SELECT epoch, token_key, revision, time FROM head")
}

pub(in crate::store) fn events_after(revision: Revision, limit: usize) -> Statement {
    let sql = format!(
        "SELECT {EVENT} FROM events AS e WHERE e.revision > $1 ORDER BY e.revision LIMIT $2"
    );
    Statement::with(sql, vec![revision.into(), limit.into()])
}

pub(in crate::store) fn load_live() -> Statement {
    let sql = format!("SELECT {} FROM grants AS g WHERE g.ended_sequence IS NULL", grants::TERMS);
    Statement::new(sql)
}

pub(in crate::store) fn load_latest_ended() -> Statement {
    let sql = format!(
        "SELECT {} FROM latest_ended_grants AS l JOIN grants AS g \
         ON g.tenant_id = l.tenant_id AND g.create_sequence = l.create_sequence",
        grants::TERMS
    );
    Statement::new(sql)
}

pub(in crate::store) fn load_locks() -> Statement {
    let sql = format!("SELECT {} FROM locks AS l WHERE l.ended_sequence IS NULL", locks::TERMS);
    Statement::new(sql)
}

pub(in crate::store) fn revision_of(tenant_id: Option<&TenantId>, sequence: Sequence) -> Statement {
    let sql = "SELECT revision FROM events WHERE tenant_id = $1 AND sequence = $2";
    Statement::with(sql, vec![owner(tenant_id).into(), sequence.into()])
}

/// The last link of a chain.
pub(in crate::store) fn last_link(tenant_id: &str) -> Statement {
    let sql =
        "SELECT sequence, hash FROM events WHERE tenant_id = $1 ORDER BY sequence DESC LIMIT 1";
    Statement::with(sql, vec![tenant_id.into()])
}

pub(in crate::store) fn insert_event(stamped: &StampedEvent) -> Statement {
    let StampedEvent { event, body, hash } = stamped;
    let sql = "INSERT INTO events (revision, tenant_id, sequence, hash, time, actor, via, \
               actor_asserted, reason, kind, grant_id, lock_id, body) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    let values = vec![
        event.revision.into(),
        owner(event.tenant_id.as_ref()).into(),
        event.sequence.into(),
        hash.0.as_slice().into(),
        event.time.into(),
        event.author.actor.as_str().into(),
        event.author.via.as_ref().map(Actor::as_str).into(),
        i64::from(event.author.is_asserted).into(),
        event.reason.as_str().into(),
        event.kind.name().into(),
        event.grant_id().into(),
        event.kind.lock().map(Lock::id).into(),
        body.as_str().into(),
    ];
    Statement::with(sql, values)
}

/// The events with which operators accepted the clock.
pub(in crate::store) fn clock_events() -> Statement {
    Statement::new(format!(
        "SELECT {EVENT} FROM events AS e WHERE e.kind = 'clock_accepted' ORDER BY e.revision"
    ))
}

pub(in crate::store) fn update_head(
    dialect: &Dialect,
    revision: Revision,
    time: Time,
) -> Statement {
    let notify = dialect.notify_log;
    let sql = format!("UPDATE head SET revision = $1, time = $2 WHERE id = 1 RETURNING {notify}");
    Statement::with(sql, vec![revision.into(), time.into()])
}

/// As [`update_head`], after an event that accepts the clock.
pub(in crate::store) fn update_head_and_epoch(
    dialect: &Dialect,
    revision: Revision,
    time: Time,
    (epoch, token_key): (Epoch, TokenKey),
) -> Statement {
    let notify = dialect.notify_log;
    let sql = format!(
        "UPDATE head SET revision = $1, time = $2, epoch = $3, token_key = $4 WHERE id = 1 \
         RETURNING {notify}"
    );
    let token_key = token_key.0.as_slice();
    Statement::with(sql, vec![revision.into(), time.into(), epoch.into(), token_key.into()])
}

/// For a transaction that has locked the head.
pub(in crate::store) fn update_epoch(
    dialect: &Dialect,
    epoch: Epoch,
    token_key: TokenKey,
) -> Statement {
    let notify = dialect.notify_log;
    let sql = format!("UPDATE head SET epoch = $1, token_key = $2 WHERE id = 1 RETURNING {notify}");
    Statement::with(sql, vec![epoch.into(), token_key.0.as_slice().into()])
}

pub(in crate::store) fn request(tenant_id: Option<&TenantId>, request_id: &RequestId) -> Statement {
    let sql = "SELECT part, fingerprint, first_revision, last_revision FROM requests \
               WHERE tenant_id = $1 AND request_id = $2 ORDER BY part";
    Statement::with(sql, vec![owner(tenant_id).into(), request_id.as_str().into()])
}

pub(in crate::store) fn insert_request(
    key: &IdempotencyKey,
    part: u32,
    first: Revision,
    last: Revision,
) -> Statement {
    let sql = "INSERT INTO requests (tenant_id, request_id, part, fingerprint, first_revision, \
               last_revision) VALUES ($1, $2, $3, $4, $5, $6)";
    let values = vec![
        owner(key.tenant_id.as_ref()).into(),
        key.request_id.as_str().into(),
        i64::from(part).into(),
        key.fingerprint.as_slice().into(),
        first.into(),
        last.into(),
    ];
    Statement::with(sql, values)
}
