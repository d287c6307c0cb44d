//! The hash chains, and the recorded enforcement of changes.

use async_trait::async_trait;

use crate::{
    domain::{
        Enforced, Revision, Sequence, TenantId, Time,
        chain::{ChainHead, Record},
    },
    store::{
        History, StoreError,
        sql::{
            Backend, Connection, SqlStore, only,
            rows::{ChainHeadRow, EnforcedRow, RecordRow},
            statements::history,
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
        let read = async { self.current_reader().await?.all(statement).await };
        let rows: Vec<RecordRow> = with_timeout(read).await?;
        rows.into_iter().map(RecordRow::into_domain).collect()
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        let known_head = self.known_head();
        with_timeout(async {
            let mut connection = Connection::take(&self.readers).await?;
            let row: ChainHeadRow = only(connection.first(history::chain_head(tenant_id)).await?)?;
            connection.ensure_current(known_head, row.revision)?;
            row.into_domain()
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
}
