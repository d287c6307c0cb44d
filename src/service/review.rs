//! Review: one grant, all grants, the whole history.

use crate::{
    domain::{AgentId, Grant, GrantState, GroupId, TenantId, Time},
    service::{
        GrantRef, GrantView, Service, ServiceError,
        page::{Page, PageRequest, QueryId},
    },
    store::{EventQuery, GrantQuery, HistoryEvent},
};

/// Which grants to list. Filters are combined with "and".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFilter {
    /// The tenant.
    pub tenant_id: TenantId,
    /// In one of these states; empty: any.
    pub states: Vec<GrantState>,
    /// To this group.
    pub group_id: Option<GroupId>,
    /// Naming this agent.
    pub agent_id: Option<AgentId>,
    /// In force at some time from then on.
    pub overlap_start: Option<Time>,
    /// In force at some time before then.
    pub overlap_end: Option<Time>,
}

impl Service {
    /// One grant.
    pub async fn get_grant(&self, grant: &GrantRef) -> Result<GrantView, ServiceError> {
        let found = self.store.queries().grant(&grant.tenant_id, grant.id()?).await?;
        let found = found.ok_or_else(|| grant.not_found())?;
        Ok(GrantView::at(found, self.now()))
    }

    /// A page of a tenant's grants, newest first.
    pub async fn list_grants(
        &self,
        filter: GrantFilter,
        page: &PageRequest,
    ) -> Result<Page<GrantView>, ServiceError> {
        let query_id = QueryId::of(("grants", &filter));
        let now = self.now();
        let query = GrantQuery {
            tenant_id: filter.tenant_id,
            states: filter.states,
            group_id: filter.group_id,
            agent_id: filter.agent_id,
            overlap_start: filter.overlap_start,
            overlap_end: filter.overlap_end,
            now,
            before: page.before(query_id)?,
            limit: page.limit(),
        };
        let grants = self.store.queries().grants(&query).await?;
        let Page { items, next_token } =
            page.page(query_id, grants, |grant: &Grant| grant.create_revision, Grant::weight);
        let items = items.into_iter().map(|grant| GrantView::at(grant, now)).collect();
        Ok(Page { items, next_token })
    }

    /// A page of the history of a tenant, of one of its grants, or of the vendor's own, newest first.
    pub async fn list_events(
        &self,
        tenant_id: Option<&TenantId>,
        grant: Option<&GrantRef>,
        page: &PageRequest,
    ) -> Result<Page<HistoryEvent>, ServiceError> {
        let grant_id = match grant {
            Some(grant) => Some(self.get_grant(grant).await?.grant.id()),
            None => None,
        };
        let query_id = QueryId::of(("events", tenant_id, grant_id));
        let query = EventQuery {
            tenant_id: tenant_id.cloned(),
            grant_id,
            before: page.before(query_id)?,
            limit: page.limit(),
        };
        let events = self.store.queries().events(&query).await?;
        let revision = |listed: &HistoryEvent| listed.event.revision;
        Ok(page.page(query_id, events, revision, |listed: &HistoryEvent| listed.event.weight()))
    }
}
