//! Statements on the hash chains, and on the recorded enforcement of changes.

use crate::{
    domain::{Enforced, Revision, Sequence, TenantId, Time},
    store::sql::statements::{Dialect, EVENT, Statement, owner},
};

/// Events of a chain, each with the previous hash.
pub(in crate::store) fn records(
    tenant_id: Option<&TenantId>,
    sequence: Sequence,
    limit: usize,
) -> Statement {
    let sql = format!(
        "SELECT {EVENT}, h.log_name, p.hash AS previous_hash \
         FROM events AS e CROSS JOIN head AS h \
         LEFT JOIN events AS p ON p.tenant_id = e.tenant_id AND p.sequence = e.sequence - 1 \
         WHERE e.tenant_id = $1 AND e.sequence > $2 ORDER BY e.sequence LIMIT $3"
    );
    Statement::with(sql, vec![owner(tenant_id).into(), sequence.into(), limit.into()])
}

/// Does nothing if the change already has a record, or if the log has no such event.
pub(in crate::store) fn insert_enforced(
    dialect: &Dialect,
    first: Revision,
    last: Revision,
    time: Time,
    enforced: Enforced,
) -> Statement {
    let sql = format!(
        "INSERT INTO enforcements \
         (last_revision, first_revision, elapsed, nodes_acknowledged, nodes_lapsed) \
         SELECT revision, $2, $3, $4, $5 FROM events WHERE revision = $1 AND time = $6 \
         ON CONFLICT (last_revision) DO NOTHING RETURNING {}",
        dialect.commit_durably
    );
    let values = vec![
        last.into(),
        first.into(),
        enforced.elapsed.into(),
        i64::from(enforced.nodes_acknowledged).into(),
        i64::from(enforced.nodes_lapsed).into(),
        time.into(),
    ];
    Statement::with(sql, values)
}

/// Changes do not overlap. The record of an event, if there is one, is therefore the first record
/// that ends at the event or later.
pub(in crate::store) fn enforced(revision: Revision) -> Statement {
    let sql = "SELECT n.elapsed, n.nodes_acknowledged, n.nodes_lapsed FROM \
               (SELECT first_revision, elapsed, nodes_acknowledged, nodes_lapsed FROM enforcements \
               WHERE last_revision >= $1 ORDER BY last_revision LIMIT 1) AS n \
               WHERE n.first_revision <= $1";
    Statement::with(sql, vec![revision.into()])
}
