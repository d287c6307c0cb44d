//! The roll of check nodes in a database.
//!
//! What makes it safe is in the statements and in the order in which they commit:
//!
//! - A node that renews, one that acknowledges and somebody who strikes it off all write the same row, so that the database
//!   lets one of them after the other, and each sees what the one before has committed.
//! - Whoever registers locks the head, as a change does: so a change knows of every node that registered before it, and every
//!   node that registers after it will hear of it with its first renewal.

use std::sync::atomic::Ordering;

use crate::{
    domain::{Ack, Enforced, NodeId, NodeInfo, Position, Revision, Time},
    store::{
        HeartbeatResponse, MemberList, Notification, Registration, StoreError,
        sql::{
            Backend, Connection, SqlStore, Statement,
            rows::{self, EnforcedRow, RenewalRow, ReportRow, RollRow, to_json},
            statements::membership,
            with_timeout,
        },
    },
};

impl<DB: Backend> SqlStore<DB> {
    pub(super) async fn insert_member(&self, member: &Registration) -> Result<(), StoreError> {
        with_timeout(async {
            let mut connection = Connection::begin(&self.writers, DB::DIALECT.begin_change).await?;
            let _head: Vec<(i64,)> =
                connection.all(Statement::plain(DB::DIALECT.lock_head)).await?;
            connection
                .execute(membership::insert_member(&DB::DIALECT, member, self.clock.now()))
                .await?;
            // Of the rows as they are now that the head is locked: of every node that registered before.
            let _told: Vec<(String,)> =
                connection.all(membership::update_max_staleness(&DB::DIALECT)).await?;
            connection.commit().await
        })
        .await?;
        self.notifier.tell(Notification::Membership);
        Ok(())
    }

    /// One statement, outside a transaction, commits by itself; and when all of its answer has been read, it has.
    ///
    /// PostgreSQL commits such a statement before it says `ReadyForQuery`. sqlx ends the stream of rows at that message and at
    /// no other (`PgConnection::run`), and hands on an error that the commit meets, though rows came before it. What the
    /// commit waits for (`synchronous_commit`) is waited for; `statement_timeout` does not cut that short, because the server
    /// stops that clock before it commits.
    ///
    /// SQLite commits in the step that says that there are no more rows, and sqlx ends the stream after that step, or with its
    /// error (`ExecuteIter::next`). It stops earlier only for `fetch_one` and `fetch_optional`, which we do not use.
    pub(super) async fn renew_member(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        let ask = membership::heartbeat(&DB::DIALECT, node_id, seq, held, self.clock.now());
        let rows: Vec<RenewalRow> = self.keep(ask).await?;
        let renewal = rows.into_iter().next().map(RenewalRow::into_domain).transpose()?;
        if let Some(renewal) = &renewal {
            // Not the most that was ever told: a database may be restored.
            self.known_head.store(renewal.head.revision, Ordering::Relaxed);
        }
        Ok(renewal)
    }

    pub(super) async fn write_ack(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        if ack.revision > held.revision {
            return Ok(false); // of what comes after `held`, nothing is known
        }
        let ask = membership::acknowledge(&DB::DIALECT, node_id, held, ack);
        let is_written = !self.keep::<(String,)>(ask).await?.is_empty();
        if is_written {
            self.notifier.tell(Notification::Membership);
        }
        Ok(is_written)
    }

    pub(super) async fn write_report(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        self.keep_written(membership::write_followers(node_id, to_json(&followers)?))
            .await
            .map(drop)
    }

    pub(super) async fn read_reports(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        let rows: Vec<ReportRow> = self.read(membership::read_followers()).await?;
        rows.into_iter().map(ReportRow::into_domain).collect()
    }

    pub(super) async fn read_roll(&self) -> Result<MemberList, StoreError> {
        let ask = membership::membership(&DB::DIALECT, self.clock.now());
        let told = self.known_head.load(Ordering::Relaxed);
        with_timeout(async {
            let mut connection = Connection::take(&self.roll_readers).await?;
            let roll = rows::membership_of(connection.all::<RollRow>(ask).await?)?;
            connection.ensure_current(told, roll.head.revision)?;
            Ok(roll)
        })
        .await
    }

    pub(super) async fn delete_member(
        &self,
        node_id: NodeId,
        seq: i64,
    ) -> Result<bool, StoreError> {
        let gone: Vec<(i64,)> = self.keep(membership::delete_member(node_id, seq)).await?;
        if gone.iter().any(|(was_longest,)| *was_longest > 0) {
            // It is gone, whatever comes of this: if it fails, changes wait longer than they must for whoever is silent.
            let _ = self.tell_longest_staleness().await;
        }
        Ok(!gone.is_empty())
    }

    /// Brings the head to what the roll says: a node is gone that might answer longer than those that are left.
    async fn tell_longest_staleness(&self) -> Result<(), StoreError> {
        with_timeout(async {
            let mut connection = Connection::begin(&self.writers, DB::DIALECT.begin_change).await?;
            let _head: Vec<(i64,)> =
                connection.all(Statement::plain(DB::DIALECT.lock_head)).await?;
            let _told: Vec<(String,)> =
                connection.all(membership::update_max_staleness(&DB::DIALECT)).await?;
            connection.commit().await
        })
        .await
    }

    pub(super) async fn insert_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        self.keep_written(membership::insert_enforced(first, last, time, enforced)).await.map(drop)
    }

    pub(super) async fn read_enforced(
        &self,
        revision: Revision,
    ) -> Result<Option<Enforced>, StoreError> {
        let row: Option<EnforcedRow> = self.read_first(membership::enforced(revision)).await?;
        row.map_or(Ok(None), EnforcedRow::into_domain)
    }

    /// Asks a statement that writes and answers rows.
    async fn keep<T: super::Answer>(&self, ask: Statement) -> Result<Vec<T>, StoreError> {
        with_timeout(async { Connection::take(&self.roll_writers).await?.all(ask).await }).await
    }

    /// Asks a statement that writes; answers how many rows.
    async fn keep_written(&self, ask: Statement) -> Result<u64, StoreError> {
        with_timeout(async { Connection::take(&self.roll_writers).await?.execute(ask).await }).await
    }
}
