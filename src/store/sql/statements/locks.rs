//! What is read and written of locks.

use crate::{
    domain::{Lock, LockId, Party, Revision, TenantId, Time},
    store::{
        LockQuery, StoreError,
        sql::{
            rows::to_json,
            statements::{Dialect, Statement, Value, history, limit_value, read::Page},
        },
    },
};

/// Every lock that no event has ended.
pub(in crate::store) fn load() -> Statement {
    Statement::plain("SELECT body FROM locks WHERE ended_revision IS NULL")
}

pub(in crate::store) fn lock(lock_id: LockId) -> Statement {
    Statement::new("SELECT body FROM locks WHERE lock_id = $1", vec![lock_id.to_string().into()])
}

/// How many locks of a side no event has ended: on one tenant, or all.
pub(in crate::store) fn count_live(
    dialect: &Dialect,
    side: Party,
    tenant_id: Option<&TenantId>,
) -> Statement {
    let mut values = vec![side.as_str().into()];
    let mut condition = "";
    if let Some(tenant_id) = tenant_id {
        values.push(tenant_id.into());
        condition = " AND tenant_id = $2";
    }
    let hint = hint(dialect, "locks_live_of_side");
    let sql = format!(
        "SELECT count(*) FROM locks{hint} WHERE ended_revision IS NULL AND side = $1{condition}"
    );
    Statement::new(sql, values)
}

pub(in crate::store) fn due(now: Time, limit: usize) -> Statement {
    let sql = "SELECT body FROM locks \
               WHERE ended_revision IS NULL AND expire_time IS NOT NULL AND expire_time <= $1 \
               ORDER BY expire_time, create_revision LIMIT $2";
    Statement::new(sql, vec![now.into(), limit_value(limit)])
}

/// A page of locks, read off one index that is in its order.
pub(in crate::store) fn list(dialect: &Dialect, query: &LockQuery) -> Statement {
    let LockQuery { tenant_id, include_ended, now, before, limit } = query;
    let before = before.unwrap_or(Revision::MAX);
    let mut values = Vec::new();
    let mut bind = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let (Page { mut condition, order }, index) = if let Some(tenant_id) = tenant_id {
        bind(tenant_id.into());
        bind(before.into());
        (Page::of(dialect, "l", &[]), ["locks_live_of_tenant", "locks_of_tenant"])
    } else {
        let condition = format!("l.create_revision < {}", bind(before.into()));
        let order = "l.create_revision DESC".to_owned();
        (Page { condition, order }, ["locks_live", ""])
    };
    if !include_ended {
        let now = bind((*now).into());
        condition = format!(
            "{condition} AND l.ended_revision IS NULL \
             AND (l.expire_time IS NULL OR l.expire_time > {now})"
        );
    }
    let limit = bind(limit_value(*limit));
    let hint = hint(dialect, index[usize::from(*include_ended)]);
    let sql = format!(
        "SELECT l.body FROM locks AS l{hint} WHERE {condition} ORDER BY {order} LIMIT {limit}"
    );
    Statement::new(sql, values)
}

/// The index to use, where a query may name it.
fn hint(dialect: &Dialect, index: &str) -> String {
    if dialect.names_indexes && !index.is_empty() {
        format!(" INDEXED BY {index}")
    } else {
        String::new()
    }
}

pub(in crate::store) fn insert(lock: &Lock) -> Result<Statement, StoreError> {
    let sql = "INSERT INTO locks (create_revision, lock_id, tenant_id, side, expire_time, body) \
               VALUES ($1, $2, $3, $4, $5, $6)";
    let values = vec![
        lock.create_revision.into(),
        lock.id().to_string().into(),
        history(lock.tenant_id()).into(),
        lock.terms.side.as_str().into(),
        lock.terms.expire_time.into(),
        to_json(lock)?.into(),
    ];
    Ok(Statement::new(sql, values))
}

/// Brings a lock to its end, as its last event says.
pub(in crate::store) fn end(lock: &Lock) -> Result<Statement, StoreError> {
    let sql = "UPDATE locks SET ended_revision = $1, body = $2 \
               WHERE create_revision = $3 AND lock_id = $4 AND ended_revision IS NULL";
    let values = vec![
        lock.revision.into(),
        to_json(lock)?.into(),
        lock.create_revision.into(),
        lock.id().to_string().into(),
    ];
    Ok(Statement::new(sql, values))
}
