//! Reads of single objects and lists.

use async_trait::async_trait;

use crate::{
    domain::{Grant, GrantId, Lock, PolicyOverrides, TenantId, Time},
    store::{
        EventQuery, GrantQuery, HistoryEvent, Listed, LockQuery, Queries, StoreError,
        sql::{
            Backend, SqlStore,
            rows::{self, GrantRow, ListedEventRow, ListedRow, LockRow},
            statements::{grants, lists},
        },
    },
};

#[async_trait]
impl<DB: Backend> Queries for SqlStore<DB> {
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        let row: Option<GrantRow> = self.read_first(grants::select(tenant_id, grant_id)).await?;
        row.map(GrantRow::into_domain).transpose()
    }

    async fn grants(&self, query: &GrantQuery) -> Result<Vec<Listed<Grant>>, StoreError> {
        let rows: Vec<ListedRow<GrantRow>> = self.read(lists::grants(query)).await?;
        rows.into_iter().map(|row| row.into_domain(GrantRow::into_domain)).collect()
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Listed<HistoryEvent>>, StoreError> {
        let rows: Vec<ListedRow<ListedEventRow>> = self.read(lists::events(query)).await?;
        let reader = self.keys.reader();
        let convert = |row: ListedEventRow| row.into_domain(&reader);
        rows.into_iter().map(|row| row.into_domain(convert)).collect()
    }

    async fn locks(&self, query: &LockQuery) -> Result<Vec<Listed<Lock>>, StoreError> {
        let rows: Vec<ListedRow<LockRow>> = self.read(lists::locks(query)).await?;
        rows.into_iter().map(|row| row.into_domain(LockRow::into_domain)).collect()
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String,)> = self.read(lists::tenants(after, limit)).await?;
        Ok(rows.into_iter().map(|(tenant_id,)| tenant_id).collect())
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let last = self.read_first(lists::last_policy_event(tenant_id.as_str())).await?;
        rows::overrides(last, &self.keys.reader())
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        let next: Option<(Option<i64>, Option<i64>)> =
            self.read_first(lists::next_expiry()).await?;
        let next = next.and_then(|(grants, locks)| grants.into_iter().chain(locks).min());
        next.map(|micros| rows::time("expire_time", micros)).transpose()
    }
}
