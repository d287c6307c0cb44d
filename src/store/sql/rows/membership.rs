//! Rows of the roll of check nodes, and records of what was enforced.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::{Ack, Enforced, Epoch, NodeId, NodeInfo, Position, Time},
    store::{
        HeartbeatResponse, HistoryEvent, Member, Membership, StoreError,
        sql::{
            rows::{EventRow, LinkRow, corrupt, text, time},
            unavailable,
        },
    },
};

/// The row of `head`.
#[derive(Debug)]
pub(in crate::store) struct HeadRow {
    epoch: String,
    revision: i64,
    time: Option<i64>,
}

/// The head, and what else a renewal answers.
#[derive(Debug)]
pub(in crate::store) struct RenewalRow {
    head: HeadRow,
    is_held: bool,
    renew_time: i64,
}

/// The head, and a row of `check_node`, if there is one.
#[derive(Debug)]
pub(in crate::store) struct RollRow {
    head: HeadRow,
    max_staleness_known: i64,
    is_standby: bool,
    clock: i64,
    node_id: Option<String>,
    member: MemberRow,
}

/// A row of `check_node`; all of it is NULL if there is none.
#[derive(Debug)]
struct MemberRow {
    version: Option<String>,
    seq: Option<i64>,
    acked_revision: Option<i64>,
    nodes: Option<i64>,
    nodes_lapsed: Option<i64>,
    max_staleness: Option<i64>,
    renew_time: Option<i64>,
}

/// What a row of `check_node` says of others.
#[derive(Debug)]
pub(in crate::store) struct ReportRow {
    node_id: String,
    report: String,
}

/// A row of `enforcements`; all of it is NULL if there is none.
#[derive(Debug)]
pub(in crate::store) struct EnforcedRow {
    elapsed: Option<i64>,
    nodes_acknowledged: Option<i64>,
    nodes_lapsed: Option<i64>,
}

/// A row of `events`, what was recorded of its enforcement, and its place in its chain.
#[derive(Debug)]
pub(in crate::store) struct ListedEventRow {
    event: EventRow,
    enforced: EnforcedRow,
    link: LinkRow,
}

from_row! { HeadRow [epoch, revision, time] [] }
from_row! { RenewalRow [is_held, renew_time] [head] }
from_row! { RollRow [max_staleness_known, is_standby, clock, node_id] [head, member] }
from_row! { MemberRow [version, seq, acked_revision, nodes, nodes_lapsed, max_staleness, renew_time] [] }
from_row! { ReportRow [node_id, report] [] }
from_row! { EnforcedRow [elapsed, nodes_acknowledged, nodes_lapsed] [] }
from_row! { ListedEventRow [] [event, enforced, link] }

/// A length of time that a column holds in microseconds.
pub(in crate::store) fn span(column: &'static str, micros: i64) -> Result<Duration, StoreError> {
    let micros = micros.try_into().map_err(|_| corrupt(column, micros, None))?;
    Ok(Duration::from_micros(micros))
}

fn node_name(value: String) -> Result<NodeId, StoreError> {
    Ok(NodeId(text("node_id", value, Uuid::parse_str)?))
}

fn count(column: &'static str, number: i64) -> Result<u32, StoreError> {
    number.try_into().map_err(|_| corrupt(column, number, None))
}

/// From `earlier` to `now`, both by the database's clock; zero if that was set back in between.
fn ago(now: i64, earlier: i64) -> Duration {
    Duration::from_micros(now.saturating_sub(earlier).try_into().unwrap_or(0))
}

/// The table has no NULL there.
fn present<T>(column: &'static str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| corrupt(column, "NULL", None))
}

// === Rows to words ===

impl HeadRow {
    pub(in crate::store) fn into_domain(self) -> Result<Position, StoreError> {
        let Self { epoch, revision, time: micros } = self;
        let time = micros.map(|micros| time("time", micros)).transpose()?;
        Ok(Position { epoch: Epoch(text("epoch", epoch, Uuid::parse_str)?), revision, time })
    }
}

impl RenewalRow {
    pub(in crate::store) fn into_domain(self) -> Result<HeartbeatResponse, StoreError> {
        let Self { head, is_held, renew_time } = self;
        let now: Time = time("renew_time", renew_time)?;
        Ok(HeartbeatResponse { head: head.into_domain()?, is_held, now })
    }
}

impl MemberRow {
    fn into_domain(self, node_id: String, now: i64) -> Result<Member, StoreError> {
        let Self { version, seq, acked_revision, nodes, nodes_lapsed, renew_time, .. } = self;
        Ok(Member {
            node_id: node_name(node_id)?,
            version: present("version", version)?,
            seq: present("seq", seq)?,
            ack: Ack {
                revision: present("acked_revision", acked_revision)?,
                nodes: count("nodes", present("nodes", nodes)?)?,
                nodes_lapsed: count("nodes_lapsed", present("nodes_lapsed", nodes_lapsed)?)?,
            },
            renewed_ago: ago(now, present("renew_time", renew_time)?),
        })
    }
}

impl ReportRow {
    pub(in crate::store) fn into_domain(self) -> Result<(NodeId, Vec<NodeInfo>), StoreError> {
        // For people: what another version has written must not stop anything.
        let followers = serde_json::from_str(&self.report).unwrap_or_default();
        Ok((node_name(self.node_id)?, followers))
    }
}

/// The roll that `rows` add up to: at least one, each with the same head.
pub(in crate::store) fn membership_of(rows: Vec<RollRow>) -> Result<Membership, StoreError> {
    let mut roll = None;
    for row in rows {
        let RollRow { head, max_staleness_known, is_standby, clock, node_id, member } = row;
        if is_standby {
            return Err(unavailable("the database is a standby, and may be behind its primary"));
        }
        let known = span("max_staleness", max_staleness_known)?;
        let head = head.into_domain()?;
        let roll =
            roll.get_or_insert(Membership { max_staleness: known, head, members: Vec::new() });
        let Some(node_id) = node_id else { continue };
        let own = span("max_staleness", present("max_staleness", member.max_staleness)?)?;
        roll.max_staleness = roll.max_staleness.max(own);
        roll.members.push(member.into_domain(node_id, clock)?);
    }
    roll.ok_or_else(|| StoreError::Broken("the table head is empty".into()))
}

impl EnforcedRow {
    pub(in crate::store) fn into_domain(self) -> Result<Option<Enforced>, StoreError> {
        let Self { elapsed, nodes_acknowledged, nodes_lapsed } = self;
        let Some(elapsed) = elapsed else { return Ok(None) };
        Ok(Some(Enforced {
            elapsed: span("elapsed", elapsed)?,
            nodes_acknowledged: count(
                "nodes_acknowledged",
                present("nodes_acknowledged", nodes_acknowledged)?,
            )?,
            nodes_lapsed: count("nodes_lapsed", present("nodes_lapsed", nodes_lapsed)?)?,
        }))
    }
}

impl ListedEventRow {
    pub(in crate::store) fn into_domain(self) -> Result<HistoryEvent, StoreError> {
        Ok(HistoryEvent {
            event: self.event.into_domain()?,
            enforced: self.enforced.into_domain()?,
            link: self.link.into_domain()?,
        })
    }
}
