//! What is written.

use crate::{
    domain::{Event, Grant, Revision, Time},
    store::{
        IdempotencyKey, StoreError,
        sql::{
            rows::{level_number, to_json},
            statements::{Dialect, Statement, Value, history},
        },
    },
};

pub(in crate::store) fn insert_event(event: &Event, body: String) -> Statement {
    let Event { revision, tenant_id, time, author, reason, kind } = event;
    let sql = "INSERT INTO events (revision, tenant_id, time, actor, via, is_asserted, reason, kind, \
               grant_id, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let values = vec![
        (*revision).into(),
        history(tenant_id.as_ref()).into(),
        (*time).into(),
        author.actor.as_str().into(),
        Value::MaybeText(author.via.as_ref().map(|via| via.as_str().to_owned())),
        i64::from(author.is_asserted).into(),
        reason.as_str().into(),
        kind.name().into(),
        event.grant_id().into(),
        body.into(),
    ];
    Statement::new(sql, values)
}

pub(in crate::store) fn insert_grant(grant: &Grant) -> Result<Statement, StoreError> {
    let Grant { tenant_id, terms, reason, ticket, create_time, creator, .. } = grant;
    let sql = "INSERT INTO grants (tenant_id, create_revision, revision, grant_id, group_id, \
               agent_ids, access_level, start_time, expire_time, reason, ticket, create_time, creator) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    let values = vec![
        tenant_id.into(),
        grant.create_revision.into(),
        grant.revision.into(),
        terms.grant_id.into(),
        terms.group_id.as_str().into(),
        to_json(&terms.agent_ids)?.into(),
        level_number(terms.access_level).into(),
        terms.start_time.into(),
        terms.expire_time.into(),
        reason.as_str().into(),
        ticket.as_str().into(),
        (*create_time).into(),
        creator.as_str().into(),
    ];
    Ok(Statement::new(sql, values))
}

pub(in crate::store) fn insert_agents(
    dialect: &Dialect,
    grant: &Grant,
) -> Result<Statement, StoreError> {
    let sql = format!(
        "INSERT INTO grant_agents (tenant_id, create_revision, agent_id) \
         SELECT $1, $2, t.value FROM {} AS t",
        dialect.each_text
    );
    let agent_ids = to_json(&grant.terms.agent_ids)?;
    let values = vec![(&grant.tenant_id).into(), grant.create_revision.into(), agent_ids.into()];
    Ok(Statement::new(sql, values))
}

/// Brings a grant to what its last event says. Only the end of a grant ever changes.
pub(in crate::store) fn update_grant(grant: &Grant, is_ended: bool) -> Statement {
    let revocation = grant.revocation.as_ref();
    let text = |text: Option<&str>| Value::MaybeText(text.map(str::to_owned));
    let sql = "UPDATE grants SET revision = $3, ended_revision = $4, expire_time = $5, \
               revoke_time = $6, revoker = $7, revoke_reason = $8 \
               WHERE tenant_id = $1 AND create_revision = $2 AND grant_id = $9 \
               AND ended_revision IS NULL";
    let values = vec![
        (&grant.tenant_id).into(),
        grant.create_revision.into(),
        grant.revision.into(),
        Value::MaybeInt(is_ended.then_some(grant.revision)),
        grant.terms.expire_time.into(),
        grant.terms.revoke_time.into(),
        text(revocation.map(|revocation| revocation.revoker.as_str())),
        text(revocation.map(|revocation| revocation.reason.as_str())),
        grant.id().into(),
    ];
    Statement::new(sql, values)
}

/// Notes a grant that has ended, if it is the latest of its tenant and group.
pub(in crate::store) fn upsert_latest_ended(grant: &Grant, end_time: Time) -> Statement {
    let sql = "INSERT INTO latest_ended AS l \
               (tenant_id, group_id, end_time, access_level, grant_id, create_revision) \
               VALUES ($1, $2, $3, $4, $5, $6) \
               ON CONFLICT (tenant_id, group_id) DO UPDATE SET end_time = excluded.end_time, \
               access_level = excluded.access_level, grant_id = excluded.grant_id, \
               create_revision = excluded.create_revision \
               WHERE (excluded.end_time, excluded.access_level, excluded.grant_id) \
               > (l.end_time, l.access_level, l.grant_id)";
    let values = vec![
        (&grant.tenant_id).into(),
        grant.terms.group_id.as_str().into(),
        end_time.into(),
        level_number(grant.terms.access_level).into(),
        grant.id().into(),
        grant.create_revision.into(),
    ];
    Statement::new(sql, values)
}

pub(in crate::store) fn insert_request(event: &Event, mark: &IdempotencyKey) -> Statement {
    let sql = "INSERT INTO requests (tenant_id, request_id, fingerprint, revision) \
               VALUES ($1, $2, $3, $4)";
    let values = vec![
        history(event.tenant_id.as_ref()).into(),
        mark.request_id.as_str().into(),
        Value::Bytes(mark.fingerprint.to_vec()),
        event.revision.into(),
    ];
    Statement::new(sql, values)
}

pub(in crate::store) fn upsert_overrides(event: &Event, body: String) -> Statement {
    let sql = "INSERT INTO policy_overrides (tenant_id, revision, body) VALUES ($1, $2, $3) \
               ON CONFLICT (tenant_id) DO UPDATE SET revision = excluded.revision, \
               body = excluded.body";
    Statement::new(
        sql,
        vec![history(event.tenant_id.as_ref()).into(), event.revision.into(), body.into()],
    )
}

pub(in crate::store) fn update_head(
    dialect: &Dialect,
    revision: Revision,
    time: Time,
) -> Statement {
    let sql = format!(
        "UPDATE head SET revision = $1, time = $2 WHERE id = 1 RETURNING {}",
        dialect.tell_log
    );
    Statement::new(sql, vec![revision.into(), time.into()])
}
