//! Statements that compare rows with the events about them. Each reads both in one statement, so
//! that no change can happen between the two reads.

use crate::{
    domain::Revision,
    store::sql::statements::{EVENT, Statement, grants, locks},
};

/// Events, each with the number of rows that it created.
pub(in crate::store) fn events(after: Revision, limit: usize) -> Statement {
    let sql = format!(
        "SELECT {EVENT}, e.revision AS position, CASE e.kind \
         WHEN 'granted' THEN (SELECT count(*) FROM grants AS g \
         WHERE g.tenant_id = e.tenant_id AND g.create_sequence = e.sequence \
         AND g.grant_id = e.grant_id) \
         WHEN 'locked' THEN (SELECT count(*) FROM locks AS l \
         WHERE l.tenant_id = e.tenant_id AND l.create_sequence = e.sequence \
         AND l.lock_id = e.lock_id) \
         ELSE 1 END AS created \
         FROM events AS e WHERE e.revision > $1 ORDER BY e.revision LIMIT $2"
    );
    Statement::with(sql, vec![after.into(), limit.into()])
}

/// Grants, each with its last event.
pub(in crate::store) fn grants(after: Revision, limit: usize) -> Statement {
    let columns = format!("{}, {}", grants::TERMS, grants::REST);
    objects("grants", "g", "grant_id", &columns, after, limit)
}

/// Locks, each with its last event.
pub(in crate::store) fn locks(after: Revision, limit: usize) -> Statement {
    let columns = format!("{}, {}", locks::TERMS, locks::REST);
    objects("locks", "l", "lock_id", &columns, after, limit)
}

fn objects(
    table: &str,
    alias: &str,
    id: &str,
    columns: &str,
    after: Revision,
    limit: usize,
) -> Statement {
    let sql = format!(
        "SELECT {columns}, {alias}.create_revision AS position, \
         first.revision AS first_revision, last.body AS last_body FROM {table} AS {alias} \
         LEFT JOIN events AS first ON first.tenant_id = {alias}.tenant_id \
         AND first.sequence = {alias}.create_sequence \
         LEFT JOIN events AS last ON last.tenant_id = {alias}.tenant_id AND last.sequence = \
         (SELECT max(e.sequence) FROM events AS e \
         WHERE e.tenant_id = {alias}.tenant_id AND e.{id} = {alias}.{id}) \
         WHERE {alias}.create_revision > $1 ORDER BY {alias}.create_revision LIMIT $2"
    );
    Statement::with(sql, vec![after.into(), limit.into()])
}
