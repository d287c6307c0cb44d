//! The queries of lists.

use crate::domain::{
    AgentId, Enforced, Event, GrantId, GrantState, GroupId, Revision, Sequence, TenantId, Time,
    chain::Hash,
};

/// The position of an item in a list: a [`Sequence`] if the list covers one history, a [`Revision`]
/// if it covers all. For grants and locks, the position is that of the event that created them.
pub type ListPosition = i64;

/// The maximum size of a page, estimated, in bytes. By default, clients reject more than 4 MiB.
pub const PAGE_WEIGHT_MAX: usize = 3 * 1_024 * 1_024;

/// Which histories a query covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryScope {
    /// The history of one tenant.
    Tenant(TenantId),
    /// The vendor's own history.
    Vendor,
    /// All histories.
    All,
}

/// The order of a list, by creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListOrder {
    /// Newest first.
    #[default]
    NewestFirst,
    /// Oldest first.
    OldestFirst,
}

/// Which part of a list to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageBounds {
    /// The order.
    pub order: ListOrder,
    /// Only items that come after this position in that order.
    pub after: Option<ListPosition>,
    /// The maximum number of items to return.
    pub limit: usize,
}

/// The items of a page while the page is read. A full page holds all items that fit into
/// [`PAGE_WEIGHT_MAX`], and one more.
#[derive(Debug)]
pub(super) struct PageItems<T> {
    pub(super) items: Vec<T>,
    weight: usize,
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The position, for [`PageBounds::after`].
    pub position: ListPosition,
    /// The item.
    pub item: T,
}

/// Selects grants. All filters must match; an absent filter matches every grant. The vendor's own
/// history contains no grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFilter {
    /// The tenants.
    pub scope: QueryScope,
    /// In one of these states. Empty: in any state. A grant that an event has ended by its end time
    /// is `EXPIRED`, even if the time of the query is earlier because clocks differ.
    pub states: Vec<GrantState>,
    /// To this group.
    pub group_id: Option<GroupId>,
    /// Naming this agent.
    pub agent_id: Option<AgentId>,
    /// Active at some time at or after this time.
    pub overlap_start: Option<Time>,
    /// Active at some time before this time. With either of the two bounds, a grant that was
    /// revoked before its start does not match, because that grant was never active.
    pub overlap_end: Option<Time>,
}

/// A page of grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantQuery {
    /// Which grants.
    pub filter: GrantFilter,
    /// The time at which states are derived.
    pub now: Time,
    /// Which part of the list.
    pub page: PageBounds,
}

/// Selects events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    /// The histories.
    pub scope: QueryScope,
    /// Events about this grant.
    pub grant_id: Option<GrantId>,
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Which events.
    pub filter: EventFilter,
    /// Which part of the list.
    pub page: PageBounds,
}

/// Selects locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFilter {
    /// The histories: locks in one tenant, locks that apply in all tenants (`Vendor`), or all
    /// locks.
    pub scope: QueryScope,
    /// Whether to include ended locks. A lock counts as ended after the event that ended the lock,
    /// even if the time of the query is earlier because clocks differ.
    pub include_ended: bool,
}

/// A page of locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockQuery {
    /// Which locks.
    pub filter: LockFilter,
    /// The time at which states are derived.
    pub now: Time,
    /// Which part of the list.
    pub page: PageBounds,
}

/// An event as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The event.
    pub event: Event,
    /// The event's hash in the chain.
    pub hash: Hash,
    /// The recorded enforcement of the change.
    pub enforced: Option<Enforced>,
}

impl<T> PageItems<T> {
    pub(super) const fn new() -> Self {
        Self { items: Vec::new(), weight: 0 }
    }

    pub(super) fn push(&mut self, item: T, weight: usize) {
        self.items.push(item);
        self.weight += weight;
    }

    pub(super) fn is_full(&self) -> bool {
        self.weight > PAGE_WEIGHT_MAX && self.items.len() > 1
    }
}

impl QueryScope {
    /// The history of the tenant, or the vendor's own.
    pub fn of(tenant_id: Option<TenantId>) -> Self {
        tenant_id.map_or(Self::Vendor, Self::Tenant)
    }

    /// Whether the scope includes the history of the tenant, or the vendor's own.
    pub fn includes(&self, tenant_id: Option<&TenantId>) -> bool {
        match self {
            Self::Tenant(own) => tenant_id == Some(own),
            Self::Vendor => tenant_id.is_none(),
            Self::All => true,
        }
    }

    /// The position of an event, or of what the event created, in a list of this scope.
    pub fn position(&self, sequence: Sequence, revision: Revision) -> ListPosition {
        match self {
            Self::Tenant(_) | Self::Vendor => sequence,
            Self::All => revision,
        }
    }
}

impl PageBounds {
    /// The first `limit` items, newest first.
    pub const fn newest(limit: usize) -> Self {
        Self { order: ListOrder::NewestFirst, after: None, limit }
    }

    /// Whether an item at this position comes after the bound.
    pub fn includes(&self, position: ListPosition) -> bool {
        self.after.is_none_or(|after| match self.order {
            ListOrder::NewestFirst => position < after,
            ListOrder::OldestFirst => position > after,
        })
    }
}

impl GrantFilter {
    /// Every grant in the scope.
    pub const fn all(scope: QueryScope) -> Self {
        let (group_id, agent_id, overlap_start, overlap_end) = (None, None, None, None);
        Self { scope, states: Vec::new(), group_id, agent_id, overlap_start, overlap_end }
    }
}
