//! What is asked of the roll of check nodes, and of what was proven of the enforcement of changes.

use crate::{
    domain::{Ack, Enforced, NodeId, Position, Revision, Time},
    store::{
        Registration,
        sql::statements::{Dialect, Statement, Value},
    },
};

/// Makes a row, or makes one that is there already say no more than a new one: it may have been made by an earlier try, whose
/// answer was lost. `seq` never goes back: somebody may be watching whether it moves.
pub(in crate::store) fn insert_member(
    dialect: &Dialect,
    member: &Registration,
    clock: Time,
) -> Statement {
    let Registration { node_id, version, max_staleness, first_heartbeat } = member;
    let mut values = vec![
        (*node_id).into(),
        version.as_str().into(),
        (*max_staleness).into(),
        (*first_heartbeat).into(),
    ];
    let now = now(dialect, clock, &mut values);
    let sql = format!(
        "INSERT INTO check_node (node_id, seq, acked_revision, nodes, nodes_lapsed, max_staleness, \
         version, renew_time, report) VALUES ($1, $4, 0, 0, 0, $3, $2, {now}, '[]') \
         ON CONFLICT (node_id) DO UPDATE SET acked_revision = 0, nodes = 0, nodes_lapsed = 0, \
         max_staleness = excluded.max_staleness, version = excluded.version, report = '[]'"
    );
    Statement::new(sql, values)
}

/// Brings the head to what the roll says. Only for whoever has locked the head.
pub(in crate::store) fn update_max_staleness(dialect: &Dialect) -> Statement {
    let sql = format!(
        "UPDATE head SET max_staleness = (SELECT coalesce(max(max_staleness), 0) FROM check_node) \
         WHERE id = 1 RETURNING {}",
        dialect.tell_roll
    );
    Statement::new(sql, vec![])
}

/// In one statement, and so in one transaction and as of one moment. The clock is read when the row is written.
pub(in crate::store) fn heartbeat(
    dialect: &Dialect,
    node_id: NodeId,
    seq: i64,
    held: Option<Position>,
    clock: Time,
) -> Statement {
    let mut values = vec![node_id.into(), seq.into()];
    let held = is_held(held, &mut values);
    let now = now(dialect, clock, &mut values);
    let sql = format!(
        "UPDATE check_node SET seq = CASE WHEN seq < $2 THEN $2 ELSE seq + 1 END, \
         renew_time = {now} WHERE node_id = $1 \
         RETURNING (SELECT epoch FROM head) AS epoch, (SELECT revision FROM head) AS revision, \
         (SELECT time FROM head) AS time, {held} AS is_held, renew_time"
    );
    Statement::new(sql, values)
}

/// Answers a row if it wrote one. Does not touch `seq`: an acknowledgement proves nothing to the node.
pub(in crate::store) fn acknowledge(
    dialect: &Dialect,
    node_id: NodeId,
    held: Position,
    ack: Ack,
) -> Statement {
    let mut values = vec![
        node_id.into(),
        ack.revision.into(),
        i64::from(ack.nodes).into(),
        i64::from(ack.nodes_lapsed).into(),
    ];
    let held = is_held(Some(held), &mut values);
    let sql = format!(
        "UPDATE check_node SET acked_revision = $2, nodes = $3, nodes_lapsed = $4 \
         WHERE node_id = $1 AND acked_revision <= $2 AND {held} RETURNING {}",
        dialect.tell_roll_soon
    );
    Statement::new(sql, values)
}

/// The condition that `held` is in this log. Two logs that have a position in common have everything before it in common, so
/// one event is enough. It is never NULL.
fn is_held(held: Option<Position>, values: &mut Vec<Value>) -> String {
    values.push(Value::MaybeText(held.map(|held| held.epoch.to_string())));
    let epoch = values.len();
    values.push(Value::MaybeInt(held.map(|held| held.revision)));
    let revision = values.len();
    values.push(held.and_then(|held| held.time).into());
    let time = values.len();
    format!(
        "EXISTS (SELECT 1 FROM head WHERE epoch = ${epoch} AND (${revision} = 0 \
         OR EXISTS (SELECT 1 FROM events WHERE revision = ${revision} AND time = ${time})))"
    )
}

pub(in crate::store) fn write_followers(node_id: NodeId, report: String) -> Statement {
    let sql = "UPDATE check_node SET report = $2 WHERE node_id = $1";
    Statement::new(sql, vec![node_id.into(), report.into()])
}

pub(in crate::store) fn read_followers() -> Statement {
    Statement::new("SELECT node_id, report FROM check_node", vec![])
}

/// A row for each node, each with the head; one row, with the head alone, if there are no nodes.
pub(in crate::store) fn membership(dialect: &Dialect, clock: Time) -> Statement {
    let mut values = Vec::new();
    let now = now(dialect, clock, &mut values);
    let sql = format!(
        "SELECT h.epoch, h.revision, h.time, h.max_staleness AS max_staleness_known, \
         {} AS is_standby, {now} AS clock, m.node_id, m.version, m.seq, m.acked_revision, m.nodes, \
         m.nodes_lapsed, m.max_staleness, m.renew_time \
         FROM head AS h LEFT JOIN check_node AS m ON TRUE",
        dialect.is_standby
    );
    Statement::new(sql, values)
}

/// Waits for whoever has written the row and not committed yet, and then looks at it again. Answers a row if it deleted one: the
/// node's connection, if no other has one as long.
pub(in crate::store) fn delete_member(node_id: NodeId, seq: i64) -> Statement {
    let sql = "DELETE FROM check_node WHERE node_id = $1 AND seq = $2 \
               RETURNING CASE WHEN max_staleness > (SELECT coalesce(max(max_staleness), 0) \
               FROM check_node AS other WHERE other.node_id <> $1) THEN max_staleness ELSE 0 END";
    Statement::new(sql, vec![node_id.into(), seq.into()])
}

/// Writes nothing if there is a record already, or no such event.
pub(in crate::store) fn insert_enforced(
    first: Revision,
    last: Revision,
    time: Time,
    enforced: Enforced,
) -> Statement {
    let sql = "INSERT INTO enforcements \
               (last_revision, first_revision, elapsed, nodes_acknowledged, nodes_lapsed) \
               SELECT revision, $2, $3, $4, $5 FROM events WHERE revision = $1 AND time = $6 \
               ON CONFLICT (last_revision) DO NOTHING";
    let values = vec![
        last.into(),
        first.into(),
        enforced.elapsed.into(),
        i64::from(enforced.nodes_acknowledged).into(),
        i64::from(enforced.nodes_lapsed).into(),
        time.into(),
    ];
    Statement::new(sql, values)
}

/// Changes do not overlap, so the record of an event, if there is one, is the next one that ends at it or after it.
pub(in crate::store) fn enforced(revision: Revision) -> Statement {
    let sql = "SELECT n.elapsed, n.nodes_acknowledged, n.nodes_lapsed FROM \
               (SELECT first_revision, elapsed, nodes_acknowledged, nodes_lapsed FROM enforcements \
               WHERE last_revision >= $1 ORDER BY last_revision LIMIT 1) AS n \
               WHERE n.first_revision <= $1";
    Statement::new(sql, vec![revision.into()])
}

/// The database's clock in its own words, or else `clock`, bound to a new value.
fn now(dialect: &Dialect, clock: Time, values: &mut Vec<Value>) -> String {
    dialect.clock.map_or_else(
        || {
            values.push(clock.into());
            format!("${}", values.len())
        },
        str::to_owned,
    )
}
