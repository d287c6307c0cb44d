//! The rules of the protocol, and the rule that is broken.

use std::cell::Cell;

use crate::{
    domain::{Ack, Event, NodeId, Position},
    node::CheckNode,
    store::{HeartbeatResponse, Store, StoreError},
};

include!(concat!(env!("OUT_DIR"), "/rules.rs"));

thread_local! {
    static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// Breaks a rule, or none, in everything that this thread runs from now on.
pub(crate) fn break_rule(rule: Option<Rule>) {
    BROKEN.set(rule);
}

/// Whether this thread runs with the rule broken.
pub(crate) fn is_broken(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

// === called by mutants ===

/// Returns a response to a heartbeat of a node that has no membership row.
pub(crate) async fn heartbeat_without_row(
    store: &Store,
    position: Option<Position>,
) -> Result<Option<HeartbeatResponse>, StoreError> {
    let now = store.begin().await?.now();
    let head = store.log().head().await?;
    let is_in_log = position.is_some_and(|position| position.epoch == head.epoch);
    Ok(Some(HeartbeatResponse { head, is_in_log, now }))
}

/// Acknowledges events that checks are not answered from yet.
pub(crate) async fn acknowledge_unpublished(
    store: &Store,
    node: &CheckNode,
    events: &[Event],
) -> Result<(), StoreError> {
    let Some((last, position)) = events.last().zip(node.position()) else { return Ok(()) };
    let (revision, time) = (last.revision, Some(last.time));
    let ack = Ack { revision, ..node.ack() };
    let position = Position { revision, time, ..position };
    store.membership().acknowledge(node.id(), position, ack).await.map(drop)
}

/// Deletes the membership row of a node, whichever heartbeat the row shows.
pub(crate) async fn evict_any_heartbeat(
    store: &Store,
    node_id: NodeId,
) -> Result<bool, StoreError> {
    loop {
        let members = store.membership().members().await?.members;
        let Some(member) = members.iter().find(|member| member.node_id == node_id) else {
            return Ok(false);
        };
        if store.membership().evict(node_id, member.heartbeat_seq).await? {
            return Ok(true);
        }
    }
}
