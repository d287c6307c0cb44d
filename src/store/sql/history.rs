//! The hash chains, and the recorded enforcement of changes.

use async_trait::async_trait;
use tokio::task::yield_now;

use crate::{
    domain::{
        Enforced, Revision, Sequence, TenantId, Time,
        chain::{ChainHead, Link, Record},
    },
    store::{
        ComparePosition, Comparison, History, StoreError,
        sql::{
            Backend, Connection, Row, SqlStore, Statement, only,
            rows::{
                ComparedEventRow, ComparedGrantRow, ComparedLockRow, ComparedRow, EnforcedRow,
                EventReader, EventRow, RecordRow, StateHeadRow,
            },
            statements::{differences, history, log, owner},
            with_timeout,
        },
    },
};

#[async_trait]
impl<DB: Backend> History for SqlStore<DB> {
    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let statement = history::records(tenant_id, sequence, limit);
        let reader = self.keys.reader();
        let convert = |row: RecordRow| row.into_domain(&reader);
        let length = |record: &Record| record.line.len();
        with_timeout(async { self.current_reader().await?.page(statement, convert, length).await })
            .await
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        let known_head = self.known_head();
        with_timeout(async {
            let mut connection = Connection::take(&self.readers).await?;
            // The head first: the end of the chain then includes everything up to the head.
            let head: StateHeadRow = only(connection.first(log::state_head()).await?)?;
            connection.ensure_current(known_head, head.revision)?;
            let log = head.log()?;
            let reader = self.keys.reader_of(log);
            let last: Option<EventRow> =
                connection.first(log::last_event(owner(tenant_id))).await?;
            let link = last.map(|last| last.into_link(&reader)).transpose()?;
            Ok(ChainHead { log, link: link.unwrap_or(Link::START) })
        })
        .await
    }

    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        let statement = history::insert_enforced(&DB::DIALECT, first, last, time, enforced);
        self.write_node(statement).await.map(drop)
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        let row: Option<EnforcedRow> = self.read_first(history::enforced(revision)).await?;
        row.map_or(Ok(None), EnforcedRow::into_domain)
    }

    async fn compare(&self, from: ComparePosition, limit: usize) -> Result<Comparison, StoreError> {
        match from {
            ComparePosition::Events(after) => {
                let page = self.compare_page(differences::events(after, limit), limit);
                let position = |row: &ComparedEventRow| ComparePosition::Events(row.position);
                let next = ComparePosition::Grants(Revision::MIN);
                Ok(page.await?.compare(&self.keys.reader(), position, Some(next)).await)
            }
            ComparePosition::Grants(after) => {
                let page = self.compare_page(differences::grants(after, limit), limit);
                let position = |row: &ComparedGrantRow| ComparePosition::Grants(row.last.position);
                let next = ComparePosition::Locks(Revision::MIN);
                Ok(page.await?.compare(&self.keys.reader(), position, Some(next)).await)
            }
            ComparePosition::Locks(after) => {
                let page = self.compare_page(differences::locks(after, limit), limit);
                let position = |row: &ComparedLockRow| ComparePosition::Locks(row.last.position);
                Ok(page.await?.compare(&self.keys.reader(), position, None).await)
            }
        }
    }
}

/// Some rows to compare.
struct ComparePage<T> {
    rows: Vec<T>,
    is_last: bool,
}

impl<DB: Backend> SqlStore<DB> {
    async fn compare_page<T: Row>(
        &self,
        statement: Statement,
        limit: usize,
    ) -> Result<ComparePage<T>, StoreError> {
        let read = async { self.current_reader().await?.all(statement).await };
        let rows: Vec<T> = with_timeout(read).await?;
        Ok(ComparePage { is_last: rows.len() < limit, rows })
    }
}

impl<T: ComparedRow> ComparePage<T> {
    async fn compare(
        self,
        reader: &EventReader,
        position: impl FnOnce(&T) -> ComparePosition,
        next: Option<ComparePosition>,
    ) -> Comparison {
        let rows = self.rows.len();
        let bytes = self.rows.iter().map(ComparedRow::body_length).sum();
        let last = self.rows.last().map(position);
        let next = if self.is_last { next } else { last };
        let mut differences = Vec::new();
        for row in self.rows {
            differences.extend(row.difference(reader));
            // A long body takes milliseconds, and checks must not wait for many of them.
            yield_now().await;
        }
        Comparison { differences, rows, bytes, next }
    }
}
