//! The map that checks read: every live grant, and the latest ended one of each tenant and group.

use std::{mem::size_of, sync::Arc};

use foldhash::fast::RandomState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};

use crate::{
    domain::{Event, GrantId, Revision, TenantId, Terms, Time},
    node::Gauges,
    store::Held,
};

type Tenants = GenericHashMap<TenantId, Arc<TenantGrants>, RandomState, DefaultSharedPtr>;

/// Grants as of one revision. A clone shares everything with the original and costs nothing, so the next snapshot is made
/// from the last one by changing only the tenants that an event is about.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: Revision,
    /// When the last event was committed.
    time: Option<Time>,
    tenants: Tenants,
    live_grants: u64,
    bytes: u64,
}

/// What one tenant has granted. A decision looks at all of it: the limit on live grants per tenant bounds its cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TenantGrants {
    /// Grants that no event has ended; some may have expired since.
    live: Vec<Arc<Terms>>,
    /// At most one for each group: the one that ended last.
    ended: Vec<Arc<Terms>>,
}

impl Snapshot {
    /// The last event that is included.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When the last event that is included was committed: no decision from this snapshot may be for an earlier time, or what
    /// an event has ended could come back.
    pub fn time(&self) -> Option<Time> {
        self.time
    }

    /// The grants that can matter to a check on `tenant_id`.
    pub fn grants(&self, tenant_id: &TenantId) -> impl Iterator<Item = &Terms> {
        let of_tenant = self.tenants.get(tenant_id);
        of_tenant
            .into_iter()
            .flat_map(|grants| grants.live.iter().chain(&grants.ended))
            .map(AsRef::as_ref)
    }

    /// Every grant that is held, with its tenant, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantId, &Terms)> {
        self.tenants.iter().flat_map(|(tenant_id, grants)| {
            grants.live.iter().chain(&grants.ended).map(move |terms| (tenant_id, terms.as_ref()))
        })
    }

    /// What metrics say.
    pub fn gauges(&self) -> Gauges {
        let tenants = self.tenants.len() as u64;
        let per_tenant = size_of::<(TenantId, Arc<TenantGrants>)>() + size_of::<TenantGrants>();
        Gauges {
            revision: self.revision,
            live_grants: self.live_grants,
            tenants,
            snapshot_bytes: self.bytes + tenants * per_tenant as u64,
        }
    }

    /// Takes in the event that follows on this snapshot.
    pub fn apply(&mut self, event: &Event) {
        debug_assert_eq!(event.revision, self.revision + 1);
        self.set_head(event.revision, Some(event.time));
        let Some(grant) = event.kind.grant() else { return };
        let terms = grant.terms.clone();
        let held = if event.kind.ends_grant() { Held::LastEnded } else { Held::Live };
        self.remove_live(&event.tenant_id, terms.grant_id);
        self.insert(&event.tenant_id, terms, held);
    }

    pub(super) fn set_head(&mut self, revision: Revision, time: Option<Time>) {
        self.revision = revision;
        self.time = time;
    }

    pub(super) fn insert(&mut self, tenant_id: &TenantId, terms: Terms, held: Held) {
        match held {
            Held::Live => self.insert_live(tenant_id, terms),
            Held::LastEnded => self.insert_ended(tenant_id, terms),
        }
    }

    fn insert_live(&mut self, tenant_id: &TenantId, terms: Terms) {
        self.live_grants += 1;
        self.bytes += weight(&terms);
        self.tenant(tenant_id).live.push(Arc::new(terms));
    }

    /// Keeps the one that ended last, by the order in which decisions prefer them.
    fn insert_ended(&mut self, tenant_id: &TenantId, terms: Terms) {
        let rank = |terms: &Terms| (terms.end_time(), terms.access_level, terms.grant_id);
        let added = weight(&terms);
        let ended = &mut self.tenant(tenant_id).ended;
        match ended.iter_mut().find(|other| other.group_id == terms.group_id) {
            Some(other) if rank(other) >= rank(&terms) => {}
            Some(other) => {
                let removed = weight(other);
                *other = Arc::new(terms);
                self.bytes = self.bytes + added - removed;
            }
            None => {
                ended.push(Arc::new(terms));
                self.bytes += added;
            }
        }
    }

    fn remove_live(&mut self, tenant_id: &TenantId, grant_id: GrantId) {
        let Some(grants) = self.tenants.get(tenant_id) else { return };
        let is_it = |terms: &Arc<Terms>| terms.grant_id == grant_id;
        if let Some(index) = grants.live.iter().position(is_it) {
            let removed = self.tenant(tenant_id).live.swap_remove(index);
            self.live_grants -= 1;
            self.bytes -= weight(&removed);
        }
    }

    fn tenant(&mut self, tenant_id: &TenantId) -> &mut TenantGrants {
        Arc::make_mut(self.tenants.entry(tenant_id.clone()).or_default())
    }
}

/// The memory that one grant takes, in bytes, without what it shares with others.
fn weight(terms: &Terms) -> u64 {
    let agents: usize =
        terms.agent_ids.iter().map(|agent| size_of_val(agent) + agent.as_str().len()).sum();
    (size_of::<Terms>() + size_of::<Arc<Terms>>() + terms.group_id.as_str().len() + agents) as u64
}
