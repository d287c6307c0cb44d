//! What is read.

use crate::{
    domain::{GrantId, GrantState, Revision, TenantId, Time},
    store::{
        EventQuery, GrantQuery,
        sql::statements::{Dialect, Statement, Value, limit_value},
    },
};

const TERMS: &str = "g.tenant_id, g.grant_id, g.group_id, g.agent_ids, g.access_level, g.start_time, \
                     g.expire_time, g.revoke_time";
const REST: &str = "g.reason, g.ticket, g.create_time, g.creator, g.revoker, g.revoke_reason, \
                    g.create_revision, g.revision";
const EVENT: &str = "revision, tenant_id, time, actor, reason, body";

pub(in crate::store) fn head() -> Statement {
    Statement::plain("SELECT revision FROM head")
}

pub(in crate::store) fn load_live() -> Statement {
    let sql = format!("SELECT {TERMS} FROM grants AS g WHERE g.ended_revision IS NULL");
    Statement::new(sql, vec![])
}

pub(in crate::store) fn load_latest_ended() -> Statement {
    let sql = format!(
        "SELECT {TERMS} FROM latest_ended AS l CROSS JOIN grants AS g \
         WHERE g.tenant_id = l.tenant_id AND g.create_revision = l.create_revision"
    );
    Statement::new(sql, vec![])
}

pub(in crate::store) fn events_after(revision: Revision, limit: usize) -> Statement {
    let sql = format!("SELECT {EVENT} FROM events WHERE revision > $1 ORDER BY revision LIMIT $2");
    Statement::new(sql, vec![revision.into(), limit_value(limit)])
}

pub(in crate::store) fn grant(tenant_id: &TenantId, grant_id: GrantId) -> Statement {
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM grants AS g WHERE g.tenant_id = $1 AND g.grant_id = $2"
    );
    Statement::new(sql, vec![tenant_id.into(), grant_id.into()])
}

/// A page of a tenant's grants, read off the one index that is both in the page's order and closest to its filters: no sort,
/// and no walk through a long history for a few live grants.
pub(in crate::store) fn list_grants(dialect: &Dialect, query: &GrantQuery) -> Statement {
    let GrantQuery { tenant_id, group_id, agent_id, overlap_start, overlap_end, now, .. } = query;
    let mut values = vec![
        tenant_id.into(),
        query.before.unwrap_or(Revision::MAX).into(),
        limit_value(query.limit),
    ];
    let mut bind = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let mut conditions = Vec::new();
    let (index, states) = states_condition(&query.states, &mut || bind((*now).into()));
    conditions.extend(states);
    if let Some(group_id) = group_id {
        conditions.push(format!("g.group_id = {}", bind(group_id.as_str().into())));
    }
    if let Some(start) = overlap_start {
        let start = bind((*start).into());
        conditions.push(format!("coalesce(g.revoke_time, g.expire_time, {start} + 1) > {start}"));
    }
    if let Some(end) = overlap_end {
        conditions.push(format!("g.start_time < {}", bind((*end).into())));
    }
    if overlap_start.is_some() || overlap_end.is_some() {
        // A grant that was revoked before it started was never in force.
        conditions
            .push("g.start_time < coalesce(g.revoke_time, g.expire_time, g.start_time + 1)".into());
    }
    let index = match index {
        Some(GRANTS_LIVE) => Some(GRANTS_LIVE), // few: the best there is
        _ if group_id.is_some() => Some(GRANTS_OF_GROUP),
        index => index,
    };
    let hint = match index {
        Some(index) if dialect.names_indexes => format!(" INDEXED BY {index}"),
        _ => String::new(),
    };
    // The order of the tables is the order in which SQLite reads them. PostgreSQL chooses for itself.
    let (tables, order) = match agent_id {
        None => (format!("grants AS g{hint}"), "g"),
        Some(_) if index == Some(GRANTS_LIVE) => {
            (format!("grants AS g{hint} CROSS JOIN grant_agents AS a"), "g")
        }
        Some(_) => ("grant_agents AS a CROSS JOIN grants AS g".to_owned(), "a"),
    };
    if let Some(agent_id) = agent_id {
        let agent_id = bind(agent_id.as_str().into());
        conditions.push(format!(
            "a.tenant_id = $1 AND a.agent_id = {agent_id} AND a.create_revision = g.create_revision"
        ));
    }
    if order == "a" {
        conditions.push("a.create_revision < $2".into());
    }
    conditions.insert(0, "g.tenant_id = $1 AND g.create_revision < $2".into());
    let conditions = conditions.join(" AND ");
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM {tables} WHERE {conditions} \
         ORDER BY {order}.create_revision DESC LIMIT $3"
    );
    Statement::new(sql, values)
}

const GRANTS_LIVE: &str = "grants_live";
const GRANTS_OF_GROUP: &str = "grants_of_group";
const GRANTS_REVOKED: &str = "grants_revoked";
const GRANTS_UNREVOKED: &str = "grants_unrevoked";

/// The condition that a grant is in one of `states`, and the index that holds only such grants, if there is one.
fn states_condition(
    states: &[GrantState],
    bind_now: &mut dyn FnMut() -> String,
) -> (Option<&'static str>, Option<String>) {
    let asked = |state| states.contains(&state);
    let is_any = states.is_empty() || GrantState::ALL.into_iter().all(asked);
    if is_any {
        return (None, None);
    }
    let has_live = asked(GrantState::Scheduled) || asked(GrantState::Active);
    let has_ended = asked(GrantState::Expired) || asked(GrantState::Revoked);
    let needs_now = has_live || asked(GrantState::Expired);
    let now = if needs_now { bind_now() } else { String::new() };
    let unexpired = format!("(g.expire_time IS NULL OR g.expire_time > {now})");
    let alternatives = states.iter().map(|state| match state {
        GrantState::Scheduled => {
            format!("(g.ended_revision IS NULL AND g.start_time > {now} AND {unexpired})")
        }
        GrantState::Active => {
            format!("(g.ended_revision IS NULL AND g.start_time <= {now} AND {unexpired})")
        }
        GrantState::Expired => format!(
            "(g.revoke_time IS NULL AND (g.ended_revision IS NOT NULL OR g.expire_time <= {now}))"
        ),
        GrantState::Revoked => "(g.revoke_time IS NOT NULL)".to_owned(),
    });
    let alternatives = alternatives.collect::<Vec<_>>().join(" OR ");
    // An index of some rows is used only where the query says, in so many words, that it wants no others.
    let (index, only) = match (has_live, has_ended, asked(GrantState::Revoked)) {
        (true, false, _) => (Some(GRANTS_LIVE), "g.ended_revision IS NULL AND "),
        (_, _, false) => (Some(GRANTS_UNREVOKED), "g.revoke_time IS NULL AND "),
        (false, true, true) if !asked(GrantState::Expired) => {
            (Some(GRANTS_REVOKED), "g.revoke_time IS NOT NULL AND ")
        }
        _ => (None, ""),
    };
    (index, Some(format!("{only}({alternatives})")))
}

pub(in crate::store) fn list_events(query: &EventQuery) -> Statement {
    let EventQuery { tenant_id, grant_id, before, limit } = query;
    let mut values =
        vec![tenant_id.into(), before.unwrap_or(Revision::MAX).into(), limit_value(*limit)];
    let mut of_grant = "";
    if let Some(grant_id) = grant_id {
        values.push((*grant_id).into());
        of_grant = " AND grant_id = $4";
    }
    let sql = format!(
        "SELECT {EVENT} FROM events WHERE tenant_id = $1 AND revision < $2{of_grant} \
         ORDER BY revision DESC LIMIT $3"
    );
    Statement::new(sql, values)
}

pub(in crate::store) fn tightening(tenant_id: &TenantId) -> Statement {
    Statement::new("SELECT body FROM tightenings WHERE tenant_id = $1", vec![tenant_id.into()])
}

pub(in crate::store) fn next_expiry() -> Statement {
    Statement::plain(
        "SELECT expire_time FROM grants WHERE ended_revision IS NULL AND expire_time IS NOT NULL \
         ORDER BY expire_time LIMIT 1",
    )
}

pub(in crate::store) fn remembered(tenant_id: &TenantId, request_id: &str) -> Statement {
    let sql = "SELECT r.fingerprint, e.body FROM requests AS r \
               JOIN events AS e ON e.revision = r.revision \
               WHERE r.tenant_id = $1 AND r.request_id = $2";
    Statement::new(sql, vec![tenant_id.into(), request_id.into()])
}

pub(in crate::store) fn live_grants(
    dialect: &Dialect,
    tenant_id: &TenantId,
    limit: usize,
) -> Statement {
    let hint = if dialect.names_indexes { " INDEXED BY grants_live" } else { "" };
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM grants AS g{hint} \
         WHERE g.tenant_id = $1 AND g.ended_revision IS NULL \
         ORDER BY g.create_revision DESC LIMIT $2"
    );
    Statement::new(sql, vec![tenant_id.into(), limit_value(limit)])
}

pub(in crate::store) fn count_live_grants(dialect: &Dialect, tenant_id: &TenantId) -> Statement {
    let hint = if dialect.names_indexes { " INDEXED BY grants_live" } else { "" };
    let sql = format!(
        "SELECT count(*) FROM grants{hint} WHERE tenant_id = $1 AND ended_revision IS NULL"
    );
    Statement::new(sql, vec![tenant_id.into()])
}

pub(in crate::store) fn due_grants(now: Time, limit: usize) -> Statement {
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM grants AS g \
         WHERE g.ended_revision IS NULL AND g.expire_time IS NOT NULL AND g.expire_time <= $1 \
         ORDER BY g.expire_time, g.create_revision LIMIT $2"
    );
    Statement::new(sql, vec![now.into(), limit_value(limit)])
}
