//! Statements on the log and the head.

use crate::{
    domain::{
        Epoch, GrantId, GroupId, Lock, LockId, RequestId, Revision, Sequence, TenantId, Time,
        TokenKey,
        authenticity::{LogKeys, MaskedSum},
        ids::Actor,
    },
    store::{
        IdempotencyKey, StoreError,
        sql::{
            rows::to_json,
            statements::{Dialect, EVENT, Statement, Value, grants, locks, owner, placeholders},
        },
        transaction::StampedEvent,
    },
};

pub(in crate::store) fn head() -> Statement {
    Statement::new("SELECT epoch, token_key, revision, time FROM head")
}

/// The part of the head that authenticates the rows.
pub(in crate::store) fn state_head() -> Statement {
    Statement::new(
        "SELECT log_name, epoch, revision, time, event_key_id, state_nonce, state_sum FROM head",
    )
}

/// The event key and the log.
pub(in crate::store) fn event_key() -> Statement {
    Statement::new("SELECT log_name, epoch, event_key_id FROM head")
}

/// The first use of an event key, in an empty log.
pub(in crate::store) fn insert_event_key(id: [u8; 8], masked: &MaskedSum) -> Statement {
    let sql = "UPDATE head SET event_key_id = $1, state_nonce = $2, state_sum = $3 \
               WHERE id = 1 AND event_key_id IS NULL AND revision = 0";
    let values = vec![id[..].into(), masked.nonce[..].into(), masked.sum[..].into()];
    Statement::with(sql, values)
}

/// Another event key.
pub(in crate::store) fn update_event_key(id: [u8; 8], masked: &MaskedSum) -> Statement {
    let sql = "UPDATE head SET event_key_id = $1, state_nonce = $2, state_sum = $3 WHERE id = 1";
    let values = vec![id[..].into(), masked.nonce[..].into(), masked.sum[..].into()];
    Statement::with(sql, values)
}

/// The HMACs of an event, and of its owner, by another event key.
pub(in crate::store) fn update_macs(
    revision: Revision,
    [mac, owner_mac]: [[u8; 32]; 2],
) -> Statement {
    let sql = "UPDATE events SET mac = $2, owner_mac = $3 WHERE revision = $1";
    Statement::with(sql, vec![revision.into(), mac[..].into(), owner_mac[..].into()])
}

/// All events, in order.
pub(in crate::store) fn all_events() -> Statement {
    Statement::new(format!("SELECT {EVENT} FROM events AS e ORDER BY e.revision"))
}

/// The last policy event of each tenant.
pub(in crate::store) fn load_policies() -> Statement {
    Statement::new(
        "SELECT e.tenant_id, e.sequence, e.hash FROM \
         (SELECT tenant_id, max(sequence) AS sequence FROM events \
         WHERE kind = 'policy_updated' GROUP BY tenant_id) AS p \
         JOIN events AS e ON e.tenant_id = p.tenant_id AND e.sequence = p.sequence",
    )
}

/// The last event about a grant.
pub(in crate::store) fn last_grant_event(tenant_id: &TenantId, grant_id: GrantId) -> Statement {
    let sql = format!(
        "SELECT {EVENT} FROM events AS e WHERE e.tenant_id = $1 AND e.grant_id = $2 \
         ORDER BY e.sequence DESC LIMIT 1"
    );
    Statement::with(sql, vec![tenant_id.into(), grant_id.into()])
}

/// The last event about each of some grants of a tenant. `CROSS JOIN` makes SQLite read the ids
/// first. Otherwise, it reads every event of the tenant for each of them.
pub(in crate::store) fn last_grant_events(
    dialect: &Dialect,
    tenant_id: &TenantId,
    grant_ids: &[String],
) -> Result<Statement, StoreError> {
    let sql = format!(
        "SELECT {EVENT} FROM {} AS t CROSS JOIN events AS e \
         WHERE e.tenant_id = $1 AND e.sequence = \
         (SELECT max(sequence) FROM events WHERE tenant_id = $1 AND grant_id = t.value)",
        (dialect.each_text)("$2")
    );
    Ok(Statement::with(sql, vec![tenant_id.into(), to_json(&grant_ids)?.into()]))
}

/// The last events about the latest ended grants of some groups.
pub(in crate::store) fn latest_ended_events(
    dialect: &Dialect,
    tenant_id: &TenantId,
    group_ids: &[&str],
) -> Result<Statement, StoreError> {
    let sql = format!(
        "SELECT {EVENT} FROM {} AS t CROSS JOIN latest_ended_grants AS l CROSS JOIN events AS e \
         WHERE l.tenant_id = $1 AND l.group_id = t.value AND e.tenant_id = $1 AND e.sequence = \
         (SELECT max(sequence) FROM events WHERE tenant_id = $1 AND grant_id = l.grant_id)",
        (dialect.each_text)("$2")
    );
    Ok(Statement::with(sql, vec![tenant_id.into(), to_json(&group_ids)?.into()]))
}

/// The last event about a lock.
pub(in crate::store) fn last_lock_event(lock_id: LockId) -> Statement {
    let sql = format!(
        "SELECT {EVENT} FROM events AS e WHERE e.lock_id = $1 ORDER BY e.sequence DESC LIMIT 1"
    );
    Statement::with(sql, vec![lock_id.into()])
}

/// The last event about the latest ended grant of a group.
pub(in crate::store) fn latest_ended_event(tenant_id: &TenantId, group_id: &GroupId) -> Statement {
    let sql = format!(
        "SELECT {EVENT} FROM latest_ended_grants AS l JOIN events AS e \
         ON e.tenant_id = l.tenant_id AND e.grant_id = l.grant_id \
         WHERE l.tenant_id = $1 AND l.group_id = $2 ORDER BY e.sequence DESC LIMIT 1"
    );
    Statement::with(sql, vec![tenant_id.into(), group_id.as_str().into()])
}

/// The last events about the live grants of a tenant, by the events alone.
pub(in crate::store) fn live_grant_events(tenant_id: &TenantId) -> Statement {
    let sql = format!(
        "SELECT {EVENT} FROM events AS e WHERE e.tenant_id = $1 \
         AND e.kind IN ('granted', 'extended') \
         AND NOT EXISTS (SELECT 1 FROM events AS n WHERE n.tenant_id = e.tenant_id \
         AND n.grant_id = e.grant_id AND n.sequence > e.sequence)"
    );
    Statement::with(sql, vec![tenant_id.into()])
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

/// The event of a history at a sequence.
pub(in crate::store) fn event_at(tenant_id: &str, sequence: Sequence) -> Statement {
    let sql = format!("SELECT {EVENT} FROM events AS e WHERE e.tenant_id = $1 AND e.sequence = $2");
    Statement::with(sql, vec![tenant_id.into(), sequence.into()])
}

/// The last event of a history.
pub(in crate::store) fn last_event(tenant_id: &str) -> Statement {
    let sql = format!(
        "SELECT {EVENT} FROM events AS e WHERE e.tenant_id = $1 ORDER BY e.sequence DESC LIMIT 1"
    );
    Statement::with(sql, vec![tenant_id.into()])
}

pub(in crate::store) fn insert_event(stamped: &StampedEvent, keys: &LogKeys) -> Statement {
    insert_events(std::slice::from_ref(stamped), keys)
}

/// Inserts consecutive events.
pub(in crate::store) fn insert_events(rows: &[StampedEvent], keys: &LogKeys) -> Statement {
    let sql = format!(
        "INSERT INTO events (revision, tenant_id, sequence, hash, time, actor, via, \
         actor_asserted, reason, kind, grant_id, lock_id, body, mac, owner_mac) VALUES {}",
        placeholders(1, rows.len(), 15)
    );
    let values = rows.iter().flat_map(|stamped| event_values(stamped, keys)).collect();
    Statement::with(sql, values)
}

fn event_values(stamped: &StampedEvent, keys: &LogKeys) -> [Value; 15] {
    let StampedEvent { event, body, hash } = stamped;
    let [mac, owner_mac] =
        stamped.with_columns(|columns| [keys.mac(columns), keys.owner_mac(columns)]);
    [
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
        mac[..].into(),
        owner_mac[..].into(),
    ]
}

/// The events that accept the clock, as rows that contribute to the sum.
pub(in crate::store) fn load_accepted_clocks() -> Statement {
    Statement::new("SELECT revision, hash FROM events WHERE kind = 'clock_accepted'")
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
    masked: &MaskedSum,
) -> Statement {
    let notify = dialect.notify_log;
    let sql = format!(
        "UPDATE head SET revision = $1, time = $2, state_nonce = $3, state_sum = $4 \
         WHERE id = 1 RETURNING {notify}"
    );
    let (nonce, sum) = (masked.nonce[..].into(), masked.sum[..].into());
    Statement::with(sql, vec![revision.into(), time.into(), nonce, sum])
}

/// As [`update_head`], after an event that accepts the clock.
pub(in crate::store) fn update_head_and_epoch(
    dialect: &Dialect,
    revision: Revision,
    time: Time,
    masked: &MaskedSum,
    (epoch, token_key): (Epoch, TokenKey),
) -> Statement {
    let notify = dialect.notify_log;
    let sql = format!(
        "UPDATE head SET revision = $1, time = $2, state_nonce = $3, state_sum = $4, epoch = $5, \
         token_key = $6 WHERE id = 1 RETURNING {notify}"
    );
    let (nonce, sum) = (masked.nonce[..].into(), masked.sum[..].into());
    let (revision, token_key) = (revision.into(), token_key.0.as_slice().into());
    Statement::with(sql, vec![revision, time.into(), nonce, sum, epoch.into(), token_key])
}

/// For a transaction that has locked the head.
pub(in crate::store) fn update_epoch(
    dialect: &Dialect,
    epoch: Epoch,
    token_key: TokenKey,
    masked: &MaskedSum,
) -> Statement {
    let notify = dialect.notify_log;
    let sql = format!(
        "UPDATE head SET epoch = $1, token_key = $2, state_nonce = $3, state_sum = $4 \
         WHERE id = 1 RETURNING {notify}"
    );
    let (nonce, sum) = (masked.nonce[..].into(), masked.sum[..].into());
    Statement::with(sql, vec![epoch.into(), token_key.0.as_slice().into(), nonce, sum])
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
