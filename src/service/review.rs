//! Reads: one grant, lists of grants, events and tenants.

use crate::{
    domain::{Event, Grant},
    service::{
        GrantRef, GrantView, Service, ServiceError,
        page::{Page, PageRequest, QueryId},
    },
    store::{EventFilter, EventQuery, GrantFilter, GrantQuery, HistoryEvent, QueryScope},
};

impl Service {
    /// One grant.
    pub async fn get_grant(&self, grant: &GrantRef) -> Result<GrantView, ServiceError> {
        let found = self.store.queries().grant(&grant.tenant_id, grant.id()?).await?;
        let found = found.ok_or_else(|| grant.not_found())?;
        Ok(GrantView::at(found, self.now()))
    }

    /// A page of grants.
    pub async fn list_grants(
        &self,
        filter: GrantFilter,
        page: &PageRequest,
    ) -> Result<Page<GrantView>, ServiceError> {
        let query_id = QueryId::of(("grants", &filter, page.order));
        let now = self.now();
        let query = GrantQuery { filter, now, page: page.bounds(query_id)? };
        let grants = self.store.queries().grants(&query).await?;
        let page = page.page(query_id, grants, Grant::weight)?;
        Ok(page.map(|grant| GrantView::at(grant, now)))
    }

    /// A page of events, of all grants or of one.
    pub async fn list_events(
        &self,
        scope: QueryScope,
        grant: Option<&GrantRef>,
        page: &PageRequest,
    ) -> Result<Page<HistoryEvent>, ServiceError> {
        let grant_id = match grant {
            Some(grant) => Some(self.get_grant(grant).await?.grant.id()),
            None => None,
        };
        let filter = EventFilter { scope, grant_id };
        let query_id = QueryId::of(("events", &filter, page.order));
        let query = EventQuery { filter, page: page.bounds(query_id)? };
        let events = self.store.queries().events(&query).await?;
        let weight = |listed: &HistoryEvent| Event::weight(&listed.event);
        Ok(page.page(query_id, events, weight)?)
    }

    /// The ids of the tenants that have a history, after the id `after`, in byte order.
    pub async fn list_tenants(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>, ServiceError> {
        Ok(self.store.queries().tenants(after, limit).await?)
    }
}
