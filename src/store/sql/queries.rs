//! Reads of single objects and lists.

use async_trait::async_trait;

use crate::{
    domain::{Grant, GrantId, Lock, PolicyOverrides, TenantId, Time},
    store::{
        EventQuery, GrantQuery, HistoryEvent, Listed, LockQuery, PageBounds, Queries, StoreError,
        query::PageItems,
        sql::{
            Backend, Row, SqlStore, Statement,
            rows::{self, GrantRow, ListedEventRow, ListedRow, LockRow},
            statements::{grants, lists},
            with_timeout,
        },
    },
};

/// Maximum number of rows that one statement reads for a list.
const PART: usize = 128;

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
        let statement = |page| lists::grants(&GrantQuery { page, ..query.clone() });
        self.read_list(&query.page, statement, GrantRow::into_domain, Grant::weight).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Listed<HistoryEvent>>, StoreError> {
        let reader = self.keys.reader();
        let statement = |page| lists::events(&EventQuery { page, ..query.clone() });
        let convert = |row: ListedEventRow| row.into_domain(&reader);
        let weight = |listed: &HistoryEvent| listed.event.weight();
        self.read_list(&query.page, statement, convert, weight).await
    }

    async fn locks(&self, query: &LockQuery) -> Result<Vec<Listed<Lock>>, StoreError> {
        let statement = |page| lists::locks(&LockQuery { page, ..query.clone() });
        self.read_list(&query.page, statement, LockRow::into_domain, Lock::weight).await
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

impl<DB: Backend> SqlStore<DB> {
    /// Reads a page in parts, until the page is full. A long part would keep a connection busy with
    /// rows that do not fit.
    async fn read_list<T: Row, U: Send>(
        &self,
        page: &PageBounds,
        statement: impl Fn(PageBounds) -> Statement + Send + Sync,
        convert: impl Fn(T) -> Result<U, StoreError> + Send + Sync,
        weight: impl Fn(&U) -> usize + Send + Sync,
    ) -> Result<Vec<Listed<U>>, StoreError> {
        let convert = |row: ListedRow<T>| row.into_domain(&convert);
        let weight = |listed: &Listed<U>| weight(&listed.item);
        // So the parts of few lists are in memory at a time.
        let lists = self.lists.acquire();
        let _list = with_timeout(async { lists.await.map_err(StoreError::unavailable) }).await?;
        let mut read = PageItems::new();
        let mut after = page.after;
        while !read.is_full() && read.items.len() < page.limit {
            let limit = (page.limit - read.items.len()).min(PART);
            let part = statement(PageBounds { after, limit, ..*page });
            let part = self.read_page(part, convert, weight).await?;
            let is_last = part.len() < limit;
            for listed in part {
                if read.is_full() {
                    break;
                }
                after = Some(listed.position);
                let weight = weight(&listed);
                read.push(listed, weight);
            }
            if is_last {
                break;
            }
        }
        Ok(read.items)
    }
}
