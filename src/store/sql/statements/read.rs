//! What is read.

use crate::{
    domain::{GrantId, GrantState, Revision, TenantId, Time},
    store::{
        EventQuery, GrantQuery,
        sql::statements::{Dialect, Statement, Value, history, limit_value},
    },
};

const TERMS: &str = "g.tenant_id, g.grant_id, g.group_id, g.agent_ids, g.access_level, g.start_time, \
                     g.expire_time, g.revoke_time";
const REST: &str = "g.reason, g.ticket, g.create_time, g.creator, g.revoker, g.revoke_reason, \
                    g.create_revision, g.revision";
pub(super) const EVENT: &str =
    "e.revision, e.tenant_id, e.time, e.actor, e.via, e.is_asserted, e.reason, e.body";

pub(in crate::store) fn head() -> Statement {
    Statement::plain("SELECT epoch, revision, time FROM head")
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
    let sql = format!(
        "SELECT {EVENT} FROM events AS e WHERE e.revision > $1 ORDER BY e.revision LIMIT $2"
    );
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
    let (index, states) = states_condition(&query.states, &mut || bind((*now).into()));
    let is_live = index == Some(GRANTS_LIVE);
    let group = group_id.as_ref().map(|id| bind(id.as_str().into()));
    let agent = agent_id.as_ref().map(|id| bind(id.as_str().into()));
    let is_group_page = group.is_some() && agent.is_none() && !is_live;
    // Few grants are live, so that their index is the best there is; else that of the agent or the group.
    let (tables, page) = match (&agent, &group) {
        (Some(agent), _) if is_live => {
            let names = format!("a.agent_id = {agent} AND {SAME_GRANT}");
            let tables = format!("{} CROSS JOIN grant_agents AS a", grants(dialect, index));
            (tables, Page::of(dialect, "g", &[]).and(&names))
        }
        (Some(agent), _) => {
            let tables = "grant_agents AS a CROSS JOIN grants AS g".to_owned();
            let page = Page::of(dialect, "a", &[("agent_id", agent)]).and(SAME_GRANT);
            (tables, page)
        }
        (None, Some(group)) if is_group_page => {
            let page = Page::of(dialect, "g", &[("group_id", group)]);
            (grants(dialect, Some("grants_of_group")), page)
        }
        (None, _) => (grants(dialect, index), Page::of(dialect, "g", &[])),
    };
    let mut conditions = vec![page.condition];
    conditions.extend(states);
    if let Some(group) = group.filter(|_| !is_group_page) {
        conditions.push(format!("g.group_id = {group}"));
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
        let end = "coalesce(g.revoke_time, g.expire_time, g.start_time + 1)";
        conditions.push(format!("g.start_time < {end}"));
    }
    let (conditions, order) = (conditions.join(" AND "), page.order);
    let sql = format!(
        "SELECT {TERMS}, {REST} FROM {tables} WHERE {conditions} ORDER BY {order} LIMIT $3"
    );
    Statement::new(sql, values)
}

const SAME_GRANT: &str = "a.tenant_id = g.tenant_id AND a.create_revision = g.create_revision";

fn grants(dialect: &Dialect, index: Option<&str>) -> String {
    match index {
        Some(index) if dialect.names_indexes => format!("grants AS g INDEXED BY {index}"),
        _ => "grants AS g".to_owned(),
    }
}

/// The rows of the tenant `$1` before the revision `$2`, newest first.
pub(super) struct Page {
    pub(super) condition: String,
    pub(super) order: String,
}

impl Page {
    /// The page of those rows of `table` that have `equal` columns. There must be an index on the tenant, those columns, and
    /// the revision.
    ///
    /// PostgreSQL is told so in a roundabout way, as a range of rows. Of a plain `tenant_id = $1 ORDER BY revision` it knows
    /// that any index on the revision is in order, too, and takes that where it believes that the tenant's rows are
    /// frequent: then a tenant whose rows are all old is found only at the end of everybody's.
    pub(super) fn of(dialect: &Dialect, table: &str, equal: &[(&str, &String)]) -> Self {
        let revision =
            if table == "e" { "e.revision" } else { &format!("{table}.create_revision") };
        let mut columns = vec![format!("{table}.tenant_id")];
        columns.extend(equal.iter().map(|(column, _)| format!("{table}.{column}")));
        let mut given = vec!["$1"];
        given.extend(equal.iter().map(|(_, value)| value.as_str()));
        if dialect.names_indexes {
            let pairs = columns.iter().zip(given);
            let equal = pairs.map(|(column, value)| format!("{column} = {value} AND "));
            return Self {
                condition: format!("{}{revision} < $2", equal.collect::<String>()),
                order: format!("{revision} DESC"),
            };
        }
        let order = columns.join(" DESC, ");
        let (columns, given) = (columns.join(", "), given.join(", "));
        Self {
            condition: format!(
                "({columns}, {revision}) < ({given}, $2) AND ({columns}) >= ({given})"
            ),
            order: format!("{order} DESC, {revision} DESC"),
        }
    }

    fn and(self, condition: &str) -> Self {
        Self { condition: format!("{} AND {condition}", self.condition), ..self }
    }
}

const GRANTS_LIVE: &str = "grants_live";
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

/// A page of a tenant's events, read off one index, each with its link and the record of its change: the next one that ends at it or after
/// it, if that one began by then. Each is found by its key.
pub(in crate::store) fn list_events(dialect: &Dialect, query: &EventQuery) -> Statement {
    let EventQuery { tenant_id, grant_id, before, limit } = query;
    let mut values = vec![
        history(tenant_id.as_ref()).into(),
        before.unwrap_or(Revision::MAX).into(),
        limit_value(*limit),
    ];
    let id = "$4".to_owned();
    let mut equal = Vec::new();
    if let Some(grant_id) = grant_id {
        values.push((*grant_id).into());
        equal.push(("grant_id", &id));
    }
    let Page { condition, order } = Page::of(dialect, "e", &equal);
    let sql = format!(
        "SELECT {EVENT}, n.elapsed, n.nodes_acknowledged, n.nodes_lapsed, c.sequence, c.hash \
         FROM events AS e LEFT JOIN chain AS c ON c.revision = e.revision \
         LEFT JOIN enforcements AS n ON n.first_revision <= e.revision AND n.last_revision = \
         (SELECT min(last_revision) FROM enforcements WHERE last_revision >= e.revision) \
         WHERE {condition} ORDER BY {order} LIMIT $3"
    );
    Statement::new(sql, values)
}

pub(in crate::store) fn overrides(tenant_id: &TenantId) -> Statement {
    Statement::new("SELECT body FROM policy_overrides WHERE tenant_id = $1", vec![tenant_id.into()])
}

/// The earliest end of a grant, and that of a lock; NULL if there is none.
pub(in crate::store) fn next_expiry() -> Statement {
    Statement::plain(
        "SELECT (SELECT expire_time FROM grants \
         WHERE ended_revision IS NULL AND expire_time IS NOT NULL \
         ORDER BY expire_time LIMIT 1) AS of_grants, \
         (SELECT expire_time FROM locks \
         WHERE ended_revision IS NULL AND expire_time IS NOT NULL \
         ORDER BY expire_time LIMIT 1) AS of_locks",
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
