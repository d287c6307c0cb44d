//! Reads: one grant, lists of grants, events and tenants.

use crate::{
    domain::{Event, Grant},
    service::{
        EventView, GrantRef, GrantView, Service, ServiceError,
        page::{Page, PageRequest, QueryId, invalid_token},
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

    /// A page of events: of a grant, or of all histories in the scope.
    pub async fn list_events(
        &self,
        scope: QueryScope,
        grant: Option<&GrantRef>,
        page: &PageRequest,
    ) -> Result<Page<EventView>, ServiceError> {
        let grant_id = match grant {
            Some(grant) => Some(self.get_grant(grant).await?.grant.id()),
            None => None,
        };
        let filter = EventFilter { scope, grant_id };
        let query_id = QueryId::of(("events", &filter, page.order));
        let query = EventQuery { filter, page: page.bounds(query_id)? };
        let events = self.store.queries().events(&query).await?;
        let weight = |listed: &HistoryEvent| Event::weight(&listed.event);
        page.page(query_id, events, weight)?.try_map(|listed| self.event_view(listed))
    }

    /// A page of the ids of the tenants that have a history, in byte order.
    pub async fn list_tenants(&self, page: &PageRequest) -> Result<Page<String>, ServiceError> {
        let query_id = QueryId::of("tenants");
        let after = page.position(query_id)?.unwrap_or_default();
        let after = String::from_utf8(after).map_err(|_| invalid_token())?;
        let mut items = self.store.queries().tenants(&after, page.size() + 1).await?;
        let has_more = items.len() > page.size();
        items.truncate(page.size());
        let last = items.last().filter(|_| has_more);
        let next_token = last.map(|last| query_id.token(last.as_bytes())).unwrap_or_default();
        Ok(Page { items, next_token, resume_token: String::new() })
    }
}
