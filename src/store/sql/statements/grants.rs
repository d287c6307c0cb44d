//! Statements on grants.

use crate::{
    domain::{Grant, GrantId, GroupId, Revision, Sequence, TenantId, Time},
    store::{
        StoreError,
        sql::{
            rows::{level_number, to_json},
            statements::{Dialect, EVENT, Statement, Value, placeholders},
        },
    },
};

pub(super) const TERMS: &str = "g.tenant_id, g.grant_id, g.group_id, g.agent_ids, g.access_level, \
                                g.agent_kinds, g.start_time, g.expire_time, g.revoke_time, \
                                g.ended_sequence";
/// The columns besides [`TERMS`].
pub(super) const REST: &str = "g.reason, g.ticket, g.create_time, g.creator, g.revoker, \
                               g.revoke_reason, g.create_sequence, g.sequence";

pub(in crate::store) fn select(tenant_id: &TenantId, grant_id: GrantId) -> Statement {
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM grants AS g WHERE g.tenant_id = $1 AND g.grant_id = $2"
    );
    Statement::with(sql, vec![tenant_id.into(), grant_id.into()])
}

pub(in crate::store) fn live(
    tenant_id: &TenantId,
    before: Option<Sequence>,
    limit: usize,
) -> Statement {
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM grants AS g \
         WHERE g.tenant_id = $1 AND g.create_sequence < $2 AND g.ended_sequence IS NULL \
         ORDER BY g.create_sequence DESC LIMIT $3"
    );
    let before = before.unwrap_or(Sequence::MAX);
    Statement::with(sql, vec![tenant_id.into(), before.into(), limit.into()])
}

/// The last event about each grant that `rows` selects, which names the grants `g`.
fn last_events(rows: &str) -> String {
    format!(
        "SELECT {EVENT} FROM (SELECT g.tenant_id, g.grant_id FROM grants AS g {rows}) AS r \
         JOIN events AS e ON e.tenant_id = r.tenant_id AND e.sequence = (SELECT max(sequence) \
         FROM events WHERE tenant_id = r.tenant_id AND grant_id = r.grant_id)"
    )
}

/// The last events about the grants that [`live`] selects.
pub(in crate::store) fn live_events(
    tenant_id: &TenantId,
    before: Option<Sequence>,
    limit: usize,
) -> Statement {
    let sql = last_events(
        "WHERE g.tenant_id = $1 AND g.create_sequence < $2 AND g.ended_sequence IS NULL \
         ORDER BY g.create_sequence DESC LIMIT $3",
    );
    let before = before.unwrap_or(Sequence::MAX);
    Statement::with(sql, vec![tenant_id.into(), before.into(), limit.into()])
}

/// The last events about the grants that [`due`] selects.
pub(in crate::store) fn due_events(now: Time, limit: usize) -> Statement {
    let sql = last_events(
        "WHERE g.ended_sequence IS NULL AND g.expire_time IS NOT NULL AND g.expire_time <= $1 \
         ORDER BY g.expire_time, g.create_revision LIMIT $2",
    );
    Statement::with(sql, vec![now.into(), limit.into()])
}

pub(in crate::store) fn size_of_live(dialect: &Dialect, tenant_id: &TenantId) -> Statement {
    let sql = format!(
        "SELECT count(*) + (SELECT coalesce(sum({} - 1), 0) FROM grants \
         WHERE tenant_id = $1 AND ended_sequence IS NULL AND agent_ids <> '[]') \
         FROM grants WHERE tenant_id = $1 AND ended_sequence IS NULL",
        dialect.agent_count
    );
    Statement::with(sql, vec![tenant_id.into()])
}

pub(in crate::store) fn count_live(tenant_id: &TenantId, group_id: &GroupId) -> Statement {
    let sql = "SELECT count(*) FROM grants \
               WHERE tenant_id = $1 AND group_id = $2 AND ended_sequence IS NULL";
    Statement::with(sql, vec![tenant_id.into(), group_id.as_str().into()])
}

/// The last events about the live grants of all tenants.
pub(in crate::store) fn last_events_of_live(after: Revision, limit: usize) -> Statement {
    let sql = format!(
        "SELECT g.create_revision AS position, {EVENT} FROM grants AS g \
         JOIN events AS e ON e.tenant_id = g.tenant_id AND e.sequence = (SELECT max(sequence) \
         FROM events WHERE tenant_id = g.tenant_id AND grant_id = g.grant_id) \
         WHERE g.ended_sequence IS NULL AND g.create_revision > $1 \
         ORDER BY g.create_revision LIMIT $2"
    );
    Statement::with(sql, vec![after.into(), limit.into()])
}

pub(in crate::store) fn due(now: Time, limit: usize) -> Statement {
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM grants AS g \
         WHERE g.ended_sequence IS NULL AND g.expire_time IS NOT NULL AND g.expire_time <= $1 \
         ORDER BY g.expire_time, g.create_revision LIMIT $2"
    );
    Statement::with(sql, vec![now.into(), limit.into()])
}

pub(in crate::store) fn insert(
    grant: &Grant,
    create_revision: Revision,
) -> Result<Statement, StoreError> {
    let terms = &grant.terms;
    let sql = "INSERT INTO grants (tenant_id, create_sequence, sequence, create_revision, \
               grant_id, group_id, agent_ids, access_level, agent_kinds, start_time, \
               expire_time, reason, ticket, create_time, creator) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
    let values = vec![
        (&grant.tenant_id).into(),
        grant.create_sequence.into(),
        grant.sequence.into(),
        create_revision.into(),
        terms.grant_id.into(),
        terms.group_id.as_str().into(),
        to_json(&terms.agent_ids)?.into(),
        level_number(terms.access_level).into(),
        to_json(&terms.agent_kinds)?.into(),
        terms.start_time.into(),
        terms.expire_time.into(),
        grant.reason.as_str().into(),
        grant.ticket.as_str().into(),
        grant.create_time.into(),
        grant.creator.as_str().into(),
    ];
    Ok(Statement::with(sql, values))
}

pub(in crate::store) fn insert_agents(
    dialect: &Dialect,
    grant: &Grant,
) -> Result<Statement, StoreError> {
    let sql = format!(
        "INSERT INTO grant_agents (tenant_id, create_sequence, agent_id) \
         SELECT $1, $2, t.value FROM {} AS t",
        (dialect.each_text)("$3")
    );
    let agent_ids = to_json(&grant.terms.agent_ids)?;
    let values = vec![(&grant.tenant_id).into(), grant.create_sequence.into(), agent_ids.into()];
    Ok(Statement::with(sql, values))
}

/// Updates a grant to the last event. Only the end of a grant ever changes.
pub(in crate::store) fn update(grant: &Grant, is_ended: bool) -> Statement {
    let revocation = grant.revocation.as_ref();
    let sql = "UPDATE grants SET sequence = $3, ended_sequence = $4, expire_time = $5, \
               revoke_time = $6, revoker = $7, revoke_reason = $8 \
               WHERE tenant_id = $1 AND create_sequence = $2 AND grant_id = $9 \
               AND ended_sequence IS NULL";
    let values = vec![
        (&grant.tenant_id).into(),
        grant.create_sequence.into(),
        grant.sequence.into(),
        is_ended.then_some(grant.sequence).into(),
        grant.terms.expire_time.into(),
        grant.terms.revoke_time.into(),
        revocation.map(|revocation| revocation.revoker.as_str()).into(),
        revocation.map(|revocation| revocation.reason.as_str()).into(),
        grant.id().into(),
    ];
    Statement::with(sql, values)
}

/// Updates ended grants of a tenant to their last events. Returns the `create_sequence` of each.
pub(in crate::store) fn end_all(tenant_id: &TenantId, ended: &[&Grant]) -> Statement {
    let sql = format!(
        "UPDATE grants SET sequence = v.column2, ended_sequence = v.column2, \
         expire_time = v.column4, revoke_time = v.column5, revoker = v.column6, \
         revoke_reason = v.column7 FROM (VALUES {}) AS v \
         WHERE grants.tenant_id = $1 AND grants.create_sequence = v.column1 \
         AND grants.grant_id = v.column3 AND grants.ended_sequence IS NULL \
         RETURNING create_sequence",
        placeholders(2, ended.len(), 7)
    );
    let mut values = vec![tenant_id.into()];
    for grant in ended {
        let revocation = grant.revocation.as_ref();
        values.extend::<[Value; 7]>([
            grant.create_sequence.into(),
            grant.sequence.into(),
            grant.id().into(),
            grant.terms.expire_time.into(),
            grant.terms.revoke_time.into(),
            revocation.map(|revocation| revocation.revoker.as_str()).into(),
            revocation.map(|revocation| revocation.reason.as_str()).into(),
        ]);
    }
    Statement::with(sql, values)
}

/// Stores an ended grant, if it is the latest of its tenant and group. Without a row of the grant,
/// a foreign key would reject the row, so that none is stored.
pub(in crate::store) fn upsert_latest_ended(grant: &Grant, end_time: Time) -> Statement {
    let sql = "INSERT INTO latest_ended_grants AS l \
               (tenant_id, group_id, end_time, access_level, grant_id, create_sequence) \
               SELECT $1, $2, $3, $4, $5, $6 WHERE EXISTS \
               (SELECT 1 FROM grants WHERE tenant_id = $1 AND create_sequence = $6) \
               ON CONFLICT (tenant_id, group_id) DO UPDATE SET end_time = excluded.end_time, \
               access_level = excluded.access_level, grant_id = excluded.grant_id, \
               create_sequence = excluded.create_sequence \
               WHERE (excluded.end_time, excluded.access_level, excluded.grant_id) \
               > (l.end_time, l.access_level, l.grant_id)";
    let values = vec![
        (&grant.tenant_id).into(),
        grant.terms.group_id.as_str().into(),
        end_time.into(),
        level_number(grant.terms.access_level).into(),
        grant.id().into(),
        grant.create_sequence.into(),
    ];
    Statement::with(sql, values)
}
