//! The table of check nodes.
//!
//! The statements and the order of commits make the protocol safe:
//!
//! - A heartbeat, an acknowledgement and an eviction write the same row. The database therefore
//!   orders these statements, and each sees the changes of the previous one.
//! - A registration locks the head, like a transaction. A transaction therefore knows every node
//!   that registered earlier. A node that registers later sees the change with the first heartbeat.

use std::sync::atomic::Ordering;

use async_trait::async_trait;

use crate::{
    domain::{Ack, NodeId, NodeInfo, Position, Revision, Time},
    store::{
        HeartbeatResponse, MemberList, Membership, Notification, Registration, StoreError,
        sql::{
            Backend, Connection, Row, SqlStore, Statement,
            rows::{self, FollowersRow, HeartbeatRow, MemberListRow, to_json},
            statements::members,
            with_timeout,
        },
    },
};

impl<DB: Backend> SqlStore<DB> {
    /// Executes a statement of a check node that writes and returns rows.
    async fn write_node_returning<T: Row>(
        &self,
        statement: Statement,
    ) -> Result<Vec<T>, StoreError> {
        let write = async { Connection::take(&self.node_writers).await?.all(statement).await };
        with_timeout(write).await
    }

    /// Executes a statement of a check node that writes, and returns the number of rows.
    pub(super) async fn write_node(&self, statement: Statement) -> Result<u64, StoreError> {
        let write = async { Connection::take(&self.node_writers).await?.execute(statement).await };
        with_timeout(write).await
    }
}

#[async_trait]
impl<DB: Backend> Membership for SqlStore<DB> {
    async fn register(&self, member: &Registration) -> Result<(), StoreError> {
        let insert = members::insert(&DB::DIALECT, member, self.clock.now());
        // The second statement sees all rows that were committed before the head was locked.
        let update = members::update_max_staleness(&DB::DIALECT);
        self.update_head(vec![insert, update]).await?;
        self.notifier.notify(Notification::Membership);
        Ok(())
    }

    /// A single statement outside a transaction commits by itself. When its whole response has been
    /// read, the commit is complete.
    ///
    /// PostgreSQL commits such a statement before it sends `ReadyForQuery`. sqlx ends the stream of
    /// rows at that message only (`PgConnection::run`), and returns an error of the commit even if
    /// rows came before the error. The commit waits as `Dialect::commit_durably` demands;
    /// `statement_timeout` does not shorten that wait, because the server stops this timer earlier.
    ///
    /// SQLite commits in the step that reports the end of the rows, and sqlx ends the stream after
    /// that step, or with its error (`ExecuteIter::next`). Only `fetch_one` and `fetch_optional`
    /// stop earlier, and this module does not use them.
    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        position: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        let statement = members::heartbeat(&DB::DIALECT, node_id, seq, position, self.clock.now());
        let rows: Vec<HeartbeatRow> = self.write_node_returning(statement).await?;
        self.verify_files()?;
        let response = rows.into_iter().next().map(HeartbeatRow::into_domain).transpose()?;
        if let Some(response) = &response {
            // Not the maximum: a restore may shorten the log.
            self.known_head.store(response.head.revision, Ordering::Relaxed);
        }
        Ok(response)
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        position: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        if ack.revision > position.revision {
            return Ok(false); // `position` proves nothing about later revisions
        }
        let statement = members::acknowledge(&DB::DIALECT, node_id, position, ack);
        let is_written = !self.write_node_returning::<(String,)>(statement).await?.is_empty();
        if is_written {
            self.notifier.notify(Notification::Membership);
        }
        Ok(is_written)
    }

    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        let statement = members::update_followers(node_id, to_json(&followers)?);
        self.write_node(statement).await.map(drop)
    }

    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        let rows: Vec<FollowersRow> = self.read(members::followers()).await?;
        rows.into_iter().map(FollowersRow::into_domain).collect()
    }

    async fn members(&self) -> Result<MemberList, StoreError> {
        let statement = members::select(&DB::DIALECT, self.clock.now());
        let known_head = self.known_head();
        with_timeout(async {
            let mut connection = Connection::take(&self.node_readers).await?;
            let rows: Vec<MemberListRow> = connection.all(statement).await?;
            let list = rows::member_list(rows)?;
            connection.ensure_current(known_head, list.head.revision)?;
            Ok(list)
        })
        .await
    }

    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        let statement = members::delete(&DB::DIALECT, node_id, seq);
        let evicted: Vec<(i64,)> = self.write_node_returning(statement).await?;
        if evicted.iter().any(|(longest,)| *longest > 0) {
            // The node is evicted even if this fails. Changes then wait for silent nodes longer
            // than necessary.
            let update = members::update_max_staleness(&DB::DIALECT);
            let _ = self.update_head(vec![update]).await;
        }
        Ok(!evicted.is_empty())
    }

    async fn record_trusted_time(
        &self,
        time: Time,
        accepted_clock: Revision,
    ) -> Result<(), StoreError> {
        self.write_node(members::raise_trusted_time(time, accepted_clock)).await.map(drop)
    }
}
