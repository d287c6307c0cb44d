//! Statements on the membership table.

use crate::{
    domain::{Ack, NodeId, Position, Revision, Time},
    store::{
        Registration,
        sql::statements::{Dialect, Statement, Value, bind, clock_expression},
    },
};

/// Adds a row. An existing row may be from an earlier attempt whose response was lost. The row
/// becomes like a new one, but its `heartbeat_seq` never decreases, because other nodes watch the
/// row.
pub(in crate::store) fn insert(dialect: &Dialect, member: &Registration, clock: Time) -> Statement {
    let Registration { node_id, version, max_staleness, first_heartbeat } = member;
    let mut values = vec![
        (*node_id).into(),
        version.as_str().into(),
        (*max_staleness).into(),
        (*first_heartbeat).into(),
    ];
    let now = clock_expression(dialect, clock, &mut values);
    let sql = format!(
        "INSERT INTO members (node_id, heartbeat_seq, acknowledged_revision, nodes, nodes_lapsed, \
         max_staleness, version, heartbeat_time, followers) \
         VALUES ($1, $4, 0, 0, 0, $3, $2, {now}, '[]') \
         ON CONFLICT (node_id) DO UPDATE SET acknowledged_revision = 0, nodes = 0, \
         nodes_lapsed = 0, max_staleness = excluded.max_staleness, version = excluded.version, \
         followers = '[]'"
    );
    Statement::with(sql, values)
}

/// Updates the head to the rows. For a transaction that has locked the head.
pub(in crate::store) fn update_max_staleness(dialect: &Dialect) -> Statement {
    let sql = format!(
        "UPDATE head SET max_staleness = (SELECT coalesce(max(max_staleness), 0) FROM members) \
         WHERE id = 1 RETURNING {}",
        dialect.notify_membership
    );
    Statement::new(sql)
}

/// One statement is one transaction, and reads one snapshot. The clock is read when the row is
/// written.
pub(in crate::store) fn heartbeat(
    dialect: &Dialect,
    node_id: NodeId,
    seq: i64,
    position: Option<Position>,
    clock: Time,
) -> Statement {
    let mut values = vec![node_id.into(), seq.into()];
    let is_in_log = is_in_log(position, &mut values);
    let now = clock_expression(dialect, clock, &mut values);
    let sql = format!(
        "UPDATE members SET heartbeat_seq = \
         CASE WHEN heartbeat_seq < $2 THEN $2 ELSE heartbeat_seq + 1 END, heartbeat_time = {now} \
         WHERE node_id = $1 \
         RETURNING (SELECT epoch FROM head) AS epoch, (SELECT revision FROM head) AS revision, \
         (SELECT time FROM head) AS time, {is_in_log} AS is_in_log, heartbeat_time, {}",
        dialect.commit_durably
    );
    Statement::with(sql, values)
}

/// Returns a row if it wrote one. Leaves `heartbeat_seq` unchanged: an acknowledgement renews no
/// lease.
pub(in crate::store) fn acknowledge(
    dialect: &Dialect,
    node_id: NodeId,
    position: Position,
    ack: Ack,
) -> Statement {
    let mut values = vec![
        node_id.into(),
        ack.revision.into(),
        i64::from(ack.nodes).into(),
        i64::from(ack.nodes_lapsed).into(),
    ];
    let is_in_log = is_in_log(Some(position), &mut values);
    let sql = format!(
        "UPDATE members SET acknowledged_revision = $2, nodes = $3, nodes_lapsed = $4 \
         WHERE node_id = $1 AND acknowledged_revision <= $2 AND {is_in_log} RETURNING {}",
        dialect.notify_membership_lazily
    );
    Statement::with(sql, values)
}

/// The condition that `position` is in this log; never NULL. Two logs that share a position share
/// all earlier events, so that a comparison of one event is enough.
fn is_in_log(position: Option<Position>, values: &mut Vec<Value>) -> String {
    let epoch = bind(values, Value::MaybeText(position.map(|position| position.epoch.to_string())));
    let revision = bind(values, position.map(|position| position.revision));
    let time = bind(values, position.and_then(|position| position.time));
    format!(
        "EXISTS (SELECT 1 FROM head WHERE epoch = {epoch} AND ({revision} = 0 \
         OR EXISTS (SELECT 1 FROM events WHERE revision = {revision} AND time = {time})))"
    )
}

pub(in crate::store) fn update_followers(node_id: NodeId, followers: String) -> Statement {
    let sql = "UPDATE members SET followers = $2 WHERE node_id = $1";
    Statement::with(sql, vec![node_id.into(), followers.into()])
}

pub(in crate::store) fn followers() -> Statement {
    Statement::new("SELECT node_id, followers FROM members")
}

/// A row for each node, each with the head; one row with the head alone if there are no nodes.
pub(in crate::store) fn select(dialect: &Dialect, clock: Time) -> Statement {
    let mut values = Vec::new();
    let now = clock_expression(dialect, clock, &mut values);
    let sql = format!(
        "SELECT h.epoch, h.revision, h.time, h.max_staleness AS known_max_staleness, \
         {} AS is_standby, {now} AS clock, m.node_id, m.version, m.heartbeat_seq, \
         m.acknowledged_revision, m.nodes, m.nodes_lapsed, m.max_staleness, m.heartbeat_time \
         FROM head AS h LEFT JOIN members AS m ON TRUE",
        dialect.is_standby
    );
    Statement::with(sql, values)
}

pub(in crate::store) fn trusted_time() -> Statement {
    Statement::new("SELECT time AS trusted_time FROM trusted_time")
}

pub(in crate::store) fn raise_trusted_time(time: Time, accepted_clock: Revision) -> Statement {
    let sql = "UPDATE trusted_time SET time = $1 \
               WHERE id = 1 AND accepted_clock = $2 AND (time IS NULL OR time < $1)";
    Statement::with(sql, vec![time.into(), accepted_clock.into()])
}

/// Starts from an accepted clock. For a transaction that has updated the head to `revision` at
/// `time`.
pub(in crate::store) fn accept_time(time: Time, revision: Revision) -> Statement {
    let sql = "UPDATE trusted_time SET time = $1, accepted_clock = $2 WHERE id = 1";
    Statement::with(sql, vec![time.into(), revision.into()])
}

/// Waits for uncommitted writes of the row, and then reads the row again. Returns a row if the
/// node's row was deleted. The value is the node's `max_staleness` if all others are shorter, or
/// else 0.
pub(in crate::store) fn delete(dialect: &Dialect, node_id: NodeId, seq: i64) -> Statement {
    let sql = format!(
        "DELETE FROM members WHERE node_id = $1 AND heartbeat_seq = $2 \
         RETURNING CASE WHEN max_staleness > (SELECT coalesce(max(max_staleness), 0) \
         FROM members AS other WHERE other.node_id <> $1) THEN max_staleness ELSE 0 END, {}",
        dialect.commit_durably
    );
    Statement::with(sql, vec![node_id.into(), seq.into()])
}
