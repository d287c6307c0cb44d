//! The chains in a database: every event is linked by the change that writes it. What an older version of this program has
//! written, which knows of no chains, is linked afterwards, by whoever comes next.

use std::{collections::HashMap, sync::atomic::Ordering};

use crate::{
    domain::{
        Epoch, Event, Revision, TenantId,
        chain::{ChainHead, Link, Record, Sequence},
    },
    store::{
        StoreError, recorded,
        sql::{
            Backend, Connection, SqlStore,
            rows::{ChainHeadRow, EventRow, LinkRow, RecordRow},
            statements::{chain, history},
            transaction::SqlTransaction,
            with_timeout,
        },
    },
};

/// How many events are linked in one transaction.
const BATCH: usize = 500;

/// The ends of the chains, as far as a change has looked.
#[derive(Debug)]
pub(super) struct Chains {
    log: Epoch,
    last: HashMap<String, Link>,
}

impl Chains {
    /// The chains of the log of this name.
    pub(super) fn new(log: Epoch) -> Self {
        Self { log, last: HashMap::new() }
    }

    /// Links an event that was just written.
    pub(super) async fn push<DB: Backend>(
        &mut self,
        connection: &mut Connection<DB>,
        event: &Event,
        body: &str,
    ) -> Result<(), StoreError> {
        let tenant_id = history(event.tenant_id.as_ref());
        let last = self.last(connection, tenant_id).await?;
        let link = recorded(event, body).link(self.log, last);
        let link = link.map_err(|error| StoreError::Broken(Box::new(error)))?;
        connection.execute(chain::insert(&[(event.revision, tenant_id.to_owned(), link)])).await?;
        self.last.insert(tenant_id.to_owned(), link);
        Ok(())
    }

    /// Links the oldest events that are in no chain. False if there were none.
    pub(super) async fn catch_up<DB: Backend>(
        &mut self,
        connection: &mut Connection<DB>,
    ) -> Result<bool, StoreError> {
        let rows: Vec<EventRow> = connection.all(chain::unlinked(BATCH)).await?;
        let mut links = Vec::with_capacity(rows.len());
        for row in rows {
            let last = self.last(connection, row.tenant_id()).await?;
            let link = row.link(self.log, last)?;
            self.last.insert(row.tenant_id().to_owned(), link);
            links.push((row.revision(), row.tenant_id().to_owned(), link));
        }
        if links.is_empty() {
            return Ok(false);
        }
        connection.execute(chain::insert(&links)).await?;
        Ok(true)
    }

    async fn last<DB: Backend>(
        &self,
        connection: &mut Connection<DB>,
        tenant_id: &str,
    ) -> Result<Link, StoreError> {
        if let Some(last) = self.last.get(tenant_id) {
            return Ok(*last);
        }
        let row: Option<LinkRow> = connection.first(chain::last(tenant_id)).await?;
        let last = row.map(LinkRow::into_domain).transpose()?.flatten();
        Ok(last.unwrap_or(Link::START))
    }
}

impl<DB: Backend> SqlStore<DB> {
    /// Begins a change, all earlier events being in their chains.
    pub(super) async fn begin_linked(&self) -> Result<SqlTransaction<DB>, StoreError> {
        loop {
            if let Some(change) = self.begin_or_link().await? {
                return Ok(change);
            }
        }
    }

    /// Links all that is in no chain, however long that takes.
    pub(in crate::store) async fn link_all(&self) -> Result<(), StoreError> {
        while with_timeout(self.begin_or_link()).await?.is_none() {}
        Ok(())
    }

    /// Begins a change; or if there are events in no chain, links some of them instead, and commits that.
    async fn begin_or_link(&self) -> Result<Option<SqlTransaction<DB>>, StoreError> {
        self.begin_at_head().await?.unless_behind().await
    }

    pub(super) async fn read_records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let mut connection = self.connection_on_whole_chains().await?;
        let rows: Vec<RecordRow> =
            with_timeout(connection.all(chain::records(tenant_id, sequence, limit))).await?;
        rows.into_iter().map(RecordRow::into_domain).collect()
    }

    pub(super) async fn read_tenant_after(
        &self,
        tenant_id: &str,
    ) -> Result<Option<String>, StoreError> {
        let mut connection = self.connection_on_whole_chains().await?;
        let row: Option<(String,)> =
            with_timeout(connection.first(chain::tenant_after(tenant_id))).await?;
        Ok(row.map(|(next,)| next))
    }

    pub(super) async fn read_chain_head(
        &self,
        tenant_id: Option<&TenantId>,
    ) -> Result<ChainHead, StoreError> {
        let mut connection = self.connection_on_whole_chains().await?;
        let row: Option<ChainHeadRow> =
            with_timeout(connection.first(chain::head(tenant_id))).await?;
        row.ok_or_else(|| StoreError::Broken("the table head is empty".into()))?.into_domain()
    }

    /// A connection to a database that knows as much of the log as this process was told of, once all events are in their chains.
    async fn connection_on_whole_chains(&self) -> Result<Connection<DB>, StoreError> {
        loop {
            let look = async {
                let mut connection = Connection::take(&self.readers).await?;
                let row: Option<(bool, Revision)> = connection.first(chain::is_behind()).await?;
                let (is_behind, revision) =
                    row.ok_or_else(|| StoreError::Broken("the table head is empty".into()))?;
                connection.ensure_current(self.known_head.load(Ordering::Relaxed), revision)?;
                Ok((connection, is_behind))
            };
            let (connection, is_behind) = with_timeout(look).await?;
            if !is_behind {
                return Ok(connection);
            }
            drop(connection);
            // However long that takes.
            self.link_all().await?;
        }
    }
}
