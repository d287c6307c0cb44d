//! Lists. Each page is read from one index that has the order of the list.

use crate::{
    domain::{GrantState, Time},
    store::{
        EventQuery, GrantQuery, ListOrder, ListPosition, LockQuery, PageBounds, QueryScope,
        sql::statements::{EVENT, Statement, Value, bind, grants, locks, owner},
    },
};

/// A list under construction.
struct List<'a> {
    /// The tables.
    from: String,
    conditions: Vec<String>,
    /// The column that orders the list.
    position: String,
    page: &'a PageBounds,
    values: Vec<Value>,
}

impl<'a> List<'a> {
    /// A list in the scope of the rows of `table`, which is also part of `from`.
    fn new(
        from: impl Into<String>,
        table: &str,
        scope: &QueryScope,
        (sequence, revision): (&str, &str),
        page: &'a PageBounds,
    ) -> Self {
        let mut list = Self {
            from: from.into(),
            conditions: Vec::new(),
            position: format!("{table}.{sequence}"),
            page,
            values: Vec::new(),
        };
        let tenant_id = match scope {
            QueryScope::Tenant(tenant_id) => owner(Some(tenant_id)),
            QueryScope::Vendor => owner(None),
            QueryScope::All => {
                list.position = format!("{table}.{revision}");
                return list;
            }
        };
        list.add_equal(&format!("{table}.tenant_id"), tenant_id);
        list
    }

    fn bind(&mut self, value: impl Into<Value>) -> String {
        bind(&mut self.values, value)
    }

    fn add(&mut self, condition: impl Into<String>) {
        self.conditions.push(condition.into());
    }

    fn add_equal(&mut self, column: &str, value: impl Into<Value>) {
        let value = self.bind(value);
        self.add(format!("{column} = {value}"));
    }

    /// The page with these columns.
    fn select(mut self, columns: &str) -> Statement {
        let position = self.position.clone();
        let (comparison, beginning, direction) = match self.page.order {
            ListOrder::NewestFirst => ("<", ListPosition::MAX, "DESC"),
            ListOrder::OldestFirst => (">", ListPosition::MIN, "ASC"),
        };
        // Also on the first page: without statistics, PostgreSQL otherwise reads and sorts all
        // rows.
        let after = self.bind(self.page.after.unwrap_or(beginning));
        self.add(format!("{position} {comparison} {after}"));
        let limit = self.bind(self.page.limit);
        let Self { from, conditions, values, .. } = self;
        let conditions = conditions.join(" AND ");
        let sql = format!(
            "SELECT {position} AS position, {columns} FROM {from} WHERE {conditions} \
             ORDER BY {position} {direction} LIMIT {limit}"
        );
        Statement::with(sql, values)
    }
}

const CREATED: (&str, &str) = ("create_sequence", "create_revision");
const AGENTS: &str = "a.tenant_id = g.tenant_id AND a.create_sequence = g.create_sequence";

pub(in crate::store) fn grants(query: &GrantQuery) -> Statement {
    let GrantQuery { filter, now, page } = query;
    let (scope, is_live) = (&filter.scope, is_live(&filter.states));
    // Few grants are live, and fewer than all grants name the agent. The query starts at the live
    // grants if only these can match, and otherwise at the grants that name the agent.
    let is_led_by_agent = filter.agent_id.is_some() && !is_live && *scope != QueryScope::All;
    let mut list = if is_led_by_agent {
        let from = format!("grant_agents AS a JOIN grants AS g ON {AGENTS}");
        List::new(from, "a", scope, CREATED, page)
    } else {
        List::new("grants AS g", "g", scope, CREATED, page)
    };
    if let Some(agent_id) = &filter.agent_id {
        let agent_id = list.bind(agent_id.as_str());
        list.add(if is_led_by_agent {
            format!("a.agent_id = {agent_id}")
        } else {
            let named = format!("a.agent_id = {agent_id} AND {AGENTS}");
            format!("EXISTS (SELECT 1 FROM grant_agents AS a WHERE {named})")
        });
    }
    if let Some(group_id) = &filter.group_id {
        list.add_equal("g.group_id", group_id.as_str());
    }
    if is_live {
        // The exact condition of the partial index, so that the database can use that index.
        list.add("g.ended_sequence IS NULL");
    }
    add_states(&mut list, &filter.states, *now);
    if let Some(start) = filter.overlap_start {
        let start = list.bind(start);
        list.add(format!("coalesce(g.revoke_time, g.expire_time, {start} + 1) > {start}"));
    }
    if let Some(end) = filter.overlap_end {
        let end = list.bind(end);
        list.add(format!("g.start_time < {end}"));
    }
    if filter.overlap_start.is_some() || filter.overlap_end.is_some() {
        // A grant that was revoked before its start was never active.
        list.add("g.start_time < coalesce(g.revoke_time, g.expire_time, g.start_time + 1)");
    }
    list.select(&format!("{}, {}", grants::TERMS, grants::REST))
}

/// Whether the states include no ended grant.
fn is_live(states: &[GrantState]) -> bool {
    !states.is_empty() && !states.iter().any(|state| state.is_ended())
}

/// Adds the condition that a grant is in one of `states`.
fn add_states(list: &mut List<'_>, states: &[GrantState], now: Time) {
    if states.is_empty() || GrantState::ALL.iter().all(|state| states.contains(state)) {
        return;
    }
    let now = if states == [GrantState::Revoked] { String::new() } else { list.bind(now) };
    let unexpired = format!("(g.expire_time IS NULL OR g.expire_time > {now})");
    let condition = |state: &GrantState| match state {
        GrantState::Scheduled => {
            format!("(g.ended_sequence IS NULL AND g.start_time > {now} AND {unexpired})")
        }
        GrantState::Active => {
            format!("(g.ended_sequence IS NULL AND g.start_time <= {now} AND {unexpired})")
        }
        GrantState::Expired => format!(
            "(g.revoke_time IS NULL AND (g.ended_sequence IS NOT NULL OR g.expire_time <= {now}))"
        ),
        GrantState::Revoked => "(g.revoke_time IS NOT NULL)".to_owned(),
    };
    let alternatives: Vec<_> = states.iter().map(condition).collect();
    list.add(format!("({})", alternatives.join(" OR ")));
}

/// Joins each event with the enforcement of the change. This is the first record that ends at the
/// event or later, if that record also starts at the event or earlier.
pub(in crate::store) fn events(query: &EventQuery) -> Statement {
    let EventQuery { filter, page } = query;
    let from = "events AS e LEFT JOIN enforcements AS n ON n.first_revision <= e.revision \
                AND n.last_revision = \
                (SELECT min(last_revision) FROM enforcements WHERE last_revision >= e.revision)";
    let mut list = List::new(from, "e", &filter.scope, ("sequence", "revision"), page);
    if let Some(grant_id) = filter.grant_id {
        list.add_equal("e.grant_id", grant_id);
    }
    let event = EVENT;
    list.select(&format!("{event}, n.elapsed, n.nodes_acknowledged, n.nodes_lapsed"))
}

pub(in crate::store) fn locks(query: &LockQuery) -> Statement {
    let LockQuery { filter, now, page } = query;
    let mut list = List::new("locks AS l", "l", &filter.scope, CREATED, page);
    if !filter.include_ended {
        let now = list.bind(*now);
        list.add("l.ended_sequence IS NULL");
        list.add(format!("(l.expire_time IS NULL OR l.expire_time > {now})"));
    }
    list.select(&format!("{}, {}", locks::TERMS, locks::REST))
}

/// Finds each tenant with one index lookup, for a history of any length.
pub(in crate::store) fn tenants(after: &str, limit: usize) -> Statement {
    let sql = "WITH RECURSIVE tenants (tenant_id, number) AS ( \
               SELECT (SELECT min(tenant_id) FROM events WHERE tenant_id > $1), 1 \
               UNION ALL \
               SELECT (SELECT min(e.tenant_id) FROM events AS e \
               WHERE e.tenant_id > tenants.tenant_id), number + 1 \
               FROM tenants WHERE tenant_id IS NOT NULL AND number < $2) \
               SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL \
               ORDER BY number LIMIT $2";
    Statement::with(sql, vec![after.into(), limit.into()])
}

/// The last policy event of a tenant.
pub(in crate::store) fn last_policy_event(tenant_id: &str) -> Statement {
    let event = EVENT;
    let sql = format!(
        "SELECT {event} FROM events AS e WHERE e.tenant_id = $1 AND e.kind = 'policy_updated' \
         ORDER BY e.sequence DESC LIMIT 1"
    );
    Statement::with(sql, vec![tenant_id.into()])
}

/// The earliest end of a grant, and of a lock. NULL if there is none.
pub(in crate::store) fn next_expiry() -> Statement {
    Statement::new(
        "SELECT (SELECT expire_time FROM grants \
         WHERE ended_sequence IS NULL AND expire_time IS NOT NULL \
         ORDER BY expire_time LIMIT 1) AS grants, \
         (SELECT expire_time FROM locks \
         WHERE ended_sequence IS NULL AND expire_time IS NOT NULL \
         ORDER BY expire_time LIMIT 1) AS locks",
    )
}
