//! Rows of the membership table.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    domain::{Ack, NodeId, NodeInfo},
    store::{
        HeartbeatResponse, Member, MemberList, StoreError,
        sql::rows::{count, parse, position, present, span, time},
    },
};

row! {
    /// The response to a heartbeat.
    pub(in crate::store) struct HeartbeatRow {
        epoch: String,
        revision: i64,
        time: Option<i64>,
        is_in_log: bool,
        heartbeat_time: i64,
    }
}

row! {
    /// The head of the log, and a row of `members` if there is one.
    pub(in crate::store) struct MemberListRow {
        epoch: String,
        revision: i64,
        time: Option<i64>,
        known_max_staleness: i64,
        is_standby: bool,
        clock: i64,
        node_id: Option<String>,
    } with {
        member: MemberRow,
    }
}

row! {
    /// A row of `members`. All columns are NULL if there is none.
    struct MemberRow {
        version: Option<String>,
        heartbeat_seq: Option<i64>,
        acknowledged_revision: Option<i64>,
        nodes: Option<i64>,
        nodes_lapsed: Option<i64>,
        max_staleness: Option<i64>,
        heartbeat_time: Option<i64>,
    }
}

row! {
    /// The followers in a row of `members`.
    pub(in crate::store) struct FollowersRow {
        node_id: String,
        followers: String,
    }
}

fn node_id(value: String) -> Result<NodeId, StoreError> {
    Ok(NodeId(parse("node_id", value, Uuid::parse_str)?))
}

/// The time from `earlier` to `now` by the database's clock. Zero if the clock was set back.
fn age(now: i64, earlier: i64) -> Duration {
    Duration::from_micros(now.saturating_sub(earlier).try_into().unwrap_or(0))
}

impl HeartbeatRow {
    pub(in crate::store) fn into_domain(self) -> Result<HeartbeatResponse, StoreError> {
        let Self { epoch, revision, time: head_time, is_in_log, heartbeat_time } = self;
        let head = position(epoch, revision, head_time)?;
        Ok(HeartbeatResponse { head, is_in_log, now: time("heartbeat_time", heartbeat_time)? })
    }
}

impl MemberRow {
    fn into_domain(self, id: String, now: i64) -> Result<Member, StoreError> {
        let nodes = |column, number| count(column, present(column, number)?);
        Ok(Member {
            node_id: node_id(id)?,
            version: present("version", self.version)?,
            heartbeat_seq: present("heartbeat_seq", self.heartbeat_seq)?,
            ack: Ack {
                revision: present("acknowledged_revision", self.acknowledged_revision)?,
                nodes: nodes("nodes", self.nodes)?,
                nodes_lapsed: nodes("nodes_lapsed", self.nodes_lapsed)?,
            },
            heartbeat_age: age(now, present("heartbeat_time", self.heartbeat_time)?),
        })
    }
}

impl FollowersRow {
    pub(in crate::store) fn into_domain(self) -> Result<(NodeId, Vec<NodeInfo>), StoreError> {
        // For display only: a text of another version must not cause an error.
        let followers = serde_json::from_str(&self.followers).unwrap_or_default();
        Ok((node_id(self.node_id)?, followers))
    }
}

/// The list that `rows` represent. There is at least one row, and each contains the same head.
pub(in crate::store) fn member_list(rows: Vec<MemberListRow>) -> Result<MemberList, StoreError> {
    let mut list = None;
    for row in rows {
        if row.is_standby {
            let standby = "the database is a standby, and may be behind its primary";
            return Err(StoreError::unavailable(standby));
        }
        let known = span("max_staleness", row.known_max_staleness)?;
        let head = position(row.epoch, row.revision, row.time)?;
        let list = list.get_or_insert(MemberList { max_staleness: known, head, members: vec![] });
        let Some(id) = row.node_id else { continue };
        let own = present("max_staleness", row.member.max_staleness)?;
        list.max_staleness = list.max_staleness.max(span("max_staleness", own)?);
        list.members.push(row.member.into_domain(id, row.clock)?);
    }
    list.ok_or_else(|| StoreError::broken("the table head is empty"))
}
