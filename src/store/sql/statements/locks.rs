//! Statements on locks.

use crate::{
    domain::{Lock, LockId, Party, Revision, TenantId, Time},
    store::sql::statements::{Statement, owner},
};

pub(super) const TERMS: &str =
    "l.lock_id, l.tenant_id, l.target, l.target_id, l.party, l.expire_time";
/// The columns besides [`TERMS`].
pub(super) const REST: &str = "l.reason, l.create_time, l.creator, l.unlock_time, l.unlocker, \
                               l.unlock_reason, l.create_sequence, l.sequence, l.ended_sequence";

pub(in crate::store) fn select(lock_id: LockId) -> Statement {
    let sql = format!("SELECT {TERMS}, {REST} FROM locks AS l WHERE l.lock_id = $1");
    Statement::with(sql, vec![lock_id.into()])
}

pub(in crate::store) fn count_live(party: Party, tenant_id: Option<&TenantId>) -> Statement {
    let mut values = vec![party.as_str().into()];
    let mut condition = "";
    if let Some(tenant_id) = tenant_id {
        values.push(tenant_id.into());
        condition = " AND tenant_id = $2";
    }
    let sql = format!(
        "SELECT count(*) FROM locks WHERE ended_sequence IS NULL AND party = $1{condition}"
    );
    Statement::with(sql, values)
}

pub(in crate::store) fn due(now: Time, limit: usize) -> Statement {
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM locks AS l \
         WHERE l.ended_sequence IS NULL AND l.expire_time IS NOT NULL AND l.expire_time <= $1 \
         ORDER BY l.expire_time, l.create_revision LIMIT $2"
    );
    Statement::with(sql, vec![now.into(), limit.into()])
}

pub(in crate::store) fn insert(lock: &Lock, create_revision: Revision) -> Statement {
    let terms = &lock.terms;
    let sql = "INSERT INTO locks (tenant_id, create_sequence, sequence, create_revision, lock_id, \
               target, target_id, party, expire_time, reason, create_time, creator) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let values = vec![
        owner(lock.tenant_id()).into(),
        lock.create_sequence.into(),
        lock.sequence.into(),
        create_revision.into(),
        terms.lock_id.into(),
        terms.target.field().into(),
        terms.target.id().into(),
        terms.party.as_str().into(),
        terms.expire_time.into(),
        lock.reason.as_str().into(),
        lock.create_time.into(),
        lock.creator.as_str().into(),
    ];
    Statement::with(sql, values)
}

/// Ends a lock.
pub(in crate::store) fn end(lock: &Lock) -> Statement {
    let lifting = lock.lifting.as_ref();
    let sql = "UPDATE locks SET sequence = $3, ended_sequence = $3, unlock_time = $4, \
               unlocker = $5, unlock_reason = $6 \
               WHERE tenant_id = $1 AND create_sequence = $2 AND lock_id = $7 \
               AND ended_sequence IS NULL";
    let values = vec![
        owner(lock.tenant_id()).into(),
        lock.create_sequence.into(),
        lock.sequence.into(),
        lifting.map(|lifting| lifting.time).into(),
        lifting.map(|lifting| lifting.actor.as_str()).into(),
        lifting.map(|lifting| lifting.reason.as_str()).into(),
        lock.id().into(),
    ];
    Statement::with(sql, values)
}
