//! The chains of a log in memory.

use std::ops::Bound;

use imbl::{OrdMap, Vector};

use crate::{
    domain::{
        Epoch, Event, Revision, TenantId,
        chain::{Link, Record, Sequence},
    },
    store::{StoreError, recorded},
};

/// Every event's place in its chain, and its record.
#[derive(Debug, Clone, Default)]
pub(super) struct Chains {
    records: OrdMap<(Option<TenantId>, Sequence), Record>,
    /// That of revision `n` is at `n - 1`.
    links: Vector<Link>,
}

impl Chains {
    /// Links the next event of the log of this name.
    pub(super) fn push(&mut self, log: Epoch, event: &Event) -> Result<(), StoreError> {
        let broken = |error| StoreError::Broken(Box::new(error));
        let body = serde_json::to_string(&event.kind)
            .map_err(|error| StoreError::Broken(Box::new(error)))?;
        let content = recorded(event, &body);
        let last = self.last(event.tenant_id.as_ref());
        let link = content.link(log, last).map_err(broken)?;
        let record = content.record(log, last.hash, link).map_err(broken)?;
        self.links.push_back(link);
        self.records.insert((event.tenant_id.clone(), link.sequence), record);
        Ok(())
    }

    pub(super) fn link(&self, revision: Revision) -> Option<Link> {
        self.links.get(usize::try_from(revision - 1).ok()?).copied()
    }

    /// The end of a chain.
    pub(super) fn last(&self, tenant_id: Option<&TenantId>) -> Link {
        let last = self.after(tenant_id, 0).next_back();
        last.map_or(Link::START, |record| record.link)
    }

    pub(super) fn tenant_after(&self, tenant_id: &str) -> Option<String> {
        let last = (TenantId::new(tenant_id).ok(), Sequence::MAX);
        let mut later = self.records.range((Bound::Excluded(last), Bound::Unbounded));
        later.next().and_then(|((next, _), _)| Some(next.as_ref()?.to_string()))
    }

    pub(super) fn after(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> impl DoubleEndedIterator<Item = &Record> {
        let from = (tenant_id.cloned(), sequence.saturating_add(1));
        let to = (tenant_id.cloned(), Sequence::MAX);
        self.records.range(from..=to).map(|(_, record)| record)
    }
}
