//! The data that checks read: all live grants, the latest ended grant of each tenant and group, and
//! all live locks.

use std::{collections::HashSet, mem::size_of, sync::Arc};

use foldhash::fast::RandomState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};

use crate::{
    domain::{
        AcceptedClock, AccessCheck, Epoch, GrantId, GrantTerms, GroupId, LockTerms, Now, Position,
        Revision, TenantId, Time, TokenKey,
    },
    node::{gauges::Gauges, locks::Locks, message::Change, tenant_grants::TenantGrants},
    store::Retained,
};

type Tenants = GenericHashMap<TenantId, Arc<TenantGrants>, RandomState, DefaultSharedPtr>;
type Groups = GenericHashMap<GroupId, (), RandomState, DefaultSharedPtr>;

/// Estimated memory of a tenant in the map, without the id and the grants, in bytes.
const TENANT_SIZE: usize =
    size_of::<(TenantId, Arc<TenantGrants>)>() * 2 + size_of::<TenantGrants>() + 160;
/// Estimated memory of a group in the map, without the id, in bytes.
const GROUP_SIZE: usize = size_of::<GroupId>() * 2 + 112;

/// Grants and locks as of one revision.
///
/// A clone is cheap, and shares memory with the original. So the next snapshot is a clone in which
/// only the tenants of the new events are replaced.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The last event in the snapshot; `None` before the first load, and after the content was
    /// freed.
    position: Option<Position>,
    /// The key of consistency tokens in the epoch of the position.
    token_key: Option<TokenKey>,
    /// Every clock that an operator has accepted, in the order of the log.
    accepted_clocks: Arc<[AcceptedClock]>,
    tenants: Tenants,
    /// Every group that was ever granted access. Grants share these ids, of which there are few.
    groups: Groups,
    locks: Locks,
    live_grants: u64,
    bytes: u64,
    /// The grants that are not used, because their rows differed from their events.
    rejected: Arc<HashSet<GrantId>>,
    /// Whether the rows that the node loaded were not authentic.
    has_forged_rows: bool,
}

impl Snapshot {
    /// The empty snapshot at the start of a log.
    pub fn beginning(epoch: Epoch, token_key: TokenKey) -> Self {
        let position = Position { epoch, revision: 0, time: None };
        Self { position: Some(position), token_key: Some(token_key), ..Self::default() }
    }

    /// The position of the last event in the snapshot; `None` before the first load.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// No content, and the same key of consistency tokens: a change that has committed still needs
    /// the key.
    pub(super) fn freed(&self) -> Self {
        Self { token_key: self.token_key, ..Self::default() }
    }

    /// The key of consistency tokens in the epoch of the position; `None` before the first load.
    pub fn token_key(&self) -> Option<TokenKey> {
        self.token_key
    }

    /// Every clock that an operator has accepted, in the order of the log.
    pub fn accepted_clocks(&self) -> &Arc<[AcceptedClock]> {
        &self.accepted_clocks
    }

    /// The revision of the last event in the snapshot.
    pub fn revision(&self) -> Revision {
        self.position.map_or(0, |position| position.revision)
    }

    /// The time of the last event in the snapshot. A decision for an earlier time could allow a
    /// grant that an event has ended.
    pub fn time(&self) -> Option<Time> {
        self.position.and_then(|position| position.time)
    }

    /// The grants of a tenant; `None`: the tenant never had one.
    pub fn tenant(&self, tenant_id: &TenantId) -> Option<&TenantGrants> {
        self.tenants.get(tenant_id).map(Arc::as_ref)
    }

    /// The grants that decide a check: a decision by them is the decision by all grants of the
    /// tenant.
    pub fn candidates<'a>(
        &'a self,
        check: &AccessCheck,
        now: Now,
    ) -> impl Iterator<Item = &'a GrantTerms> {
        let of_tenant = self.tenant(&check.tenant_id).into_iter();
        of_tenant.flat_map(move |grants| grants.candidates(check, now))
    }

    /// All grants of a tenant in the snapshot.
    pub fn grants(&self, tenant_id: &TenantId) -> impl Iterator<Item = &GrantTerms> {
        let of_tenant = self.tenant(tenant_id).into_iter();
        of_tenant.flat_map(|grants| grants.iter().map(|(_, terms)| terms))
    }

    /// The locks that can decide a check.
    pub fn locks_on(&self, check: &AccessCheck) -> Vec<&LockTerms> {
        self.locks.on(check)
    }

    /// All locks, in no particular order.
    pub fn locks(&self) -> impl Iterator<Item = &LockTerms> {
        self.locks.iter()
    }

    /// All grants with tenants, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantId, Retained, &GrantTerms)> {
        self.tenants.iter().flat_map(|(tenant_id, grants)| {
            grants.iter().map(move |(retained, terms)| (tenant_id, retained, terms))
        })
    }

    /// All locks, and all grants with tenants, in no particular order. Clones one at a time: a
    /// follower that does not read must not hold copies.
    pub(super) fn into_items(
        self,
    ) -> (impl Iterator<Item = LockTerms>, impl Iterator<Item = (TenantId, Retained, GrantTerms)>)
    {
        let grants = self.tenants.into_iter().flat_map(|(tenant_id, grants)| {
            (0..).map_while(move |index| {
                let (retained, terms) = grants.get(index)?;
                Some((tenant_id.clone(), retained, terms.clone()))
            })
        });
        (self.locks.into_terms(), grants)
    }

    /// The gauges of the snapshot, for metrics.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            revision: self.revision(),
            live_grants: self.live_grants,
            locks: self.locks.count(),
            forgeries: u64::from(self.has_forged_rows) + self.quarantines() as u64,
            tenants: self.tenants.len() as u64,
            snapshot_bytes: self.memory(),
            ..Gauges::default()
        }
    }

    /// The number of histories in which everything is denied, because of a forgery.
    pub fn quarantines(&self) -> usize {
        self.locks.quarantines()
    }

    /// Estimated memory, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let maps = self.tenants.len() * TENANT_SIZE + self.groups.len() * GROUP_SIZE;
        let clocks = size_of_val(&*self.accepted_clocks);
        self.bytes + (maps + clocks) as u64 + self.locks.memory()
    }

    /// Applies the next change.
    pub fn apply(&mut self, change: &Change) {
        debug_assert_eq!(change.revision, self.revision() + 1);
        if let Some(position) = &mut self.position {
            position.revision = change.revision;
            position.time = Some(change.time);
        }
        match &change.lock {
            Some(lock) if lock.is_ended => self.locks.remove(&lock.terms),
            Some(lock) => self.locks.insert(lock.terms.clone()),
            None => {}
        }
        let Some((tenant_id, retained, terms)) = &change.grant else { return };
        self.remove_live(tenant_id, terms.grant_id);
        self.insert(tenant_id, terms.clone(), *retained);
    }

    /// Sets the position, once the content is complete.
    pub fn set_position(&mut self, position: Position, token_key: TokenKey) {
        for (_, grants) in self.tenants.iter_mut() {
            Arc::make_mut(grants).sort();
        }
        self.position = Some(position);
        self.token_key = Some(token_key);
    }

    /// Sets the accepted clocks, in the order of the log.
    pub fn set_accepted_clocks(&mut self, clocks: Arc<[AcceptedClock]>) {
        self.accepted_clocks = clocks;
    }

    /// Adds a grant.
    pub fn insert(&mut self, tenant_id: &TenantId, mut terms: GrantTerms, retained: Retained) {
        terms.group_id = self.interned(terms.group_id);
        match retained {
            Retained::Live => self.insert_live(tenant_id, terms),
            Retained::LastEnded => self.insert_ended(tenant_id, terms),
        }
    }

    /// Adds a lock.
    pub fn insert_lock(&mut self, terms: LockTerms) {
        self.locks.insert(terms);
    }

    /// Whether the loaded rows were not authentic, so that grants may be missing.
    pub fn has_forged_rows(&self) -> bool {
        self.has_forged_rows
    }

    /// States that the loaded rows were not authentic.
    pub fn set_forged_rows(&mut self) {
        self.has_forged_rows = true;
    }

    /// Removes a grant that must not be used. Several rows may claim to be this grant.
    pub fn reject(&mut self, tenant_id: &TenantId, grant_id: GrantId) {
        Arc::make_mut(&mut self.rejected).insert(grant_id);
        while self.remove_live(tenant_id, grant_id) {}
        if !self.tenants.contains_key(tenant_id) {
            return;
        }
        if let Some(removed) = self.tenant_mut(tenant_id).remove_ended(grant_id) {
            self.bytes -= weight(&removed);
        }
    }

    /// Whether the grant was rejected when the snapshot was loaded.
    pub(super) fn has_rejected(&self, grant_id: GrantId) -> bool {
        self.rejected.contains(&grant_id)
    }

    fn insert_live(&mut self, tenant_id: &TenantId, terms: GrantTerms) {
        self.live_grants += 1;
        self.bytes += weight(&terms);
        let is_complete = self.position.is_some();
        let grants = self.tenant_mut(tenant_id);
        if is_complete {
            grants.insert_live(terms);
        } else {
            grants.load_live(terms);
        }
    }

    fn insert_ended(&mut self, tenant_id: &TenantId, terms: GrantTerms) {
        self.bytes += weight(&terms);
        if let Some(removed) = self.tenant_mut(tenant_id).insert_ended(terms) {
            self.bytes -= weight(&removed);
        }
    }

    /// Removes a live grant. Returns false if there is none.
    fn remove_live(&mut self, tenant_id: &TenantId, grant_id: GrantId) -> bool {
        // A tenant that does not have the grant stays shared with earlier snapshots.
        let index = self.tenant(tenant_id).and_then(|grants| grants.find_live(grant_id));
        let Some(index) = index else { return false };
        let removed = self.tenant_mut(tenant_id).remove_live(index);
        self.live_grants -= 1;
        self.bytes -= weight(&removed);
        true
    }

    /// The shared copy of a group id.
    fn interned(&mut self, group_id: GroupId) -> GroupId {
        if let Some((known, ())) = self.groups.get_key_value(&group_id) {
            return known.clone();
        }
        self.bytes += group_id.as_str().len() as u64;
        self.groups.insert(group_id.clone(), ());
        group_id
    }

    fn tenant_mut(&mut self, tenant_id: &TenantId) -> &mut TenantGrants {
        let bytes = &mut self.bytes;
        let grants = self.tenants.entry(tenant_id.clone()).or_insert_with(|| {
            *bytes += tenant_id.as_str().len() as u64;
            Arc::default()
        });
        Arc::make_mut(grants)
    }
}

/// Estimated memory of a grant, in bytes, without the ids that are shared with other grants.
pub(super) fn weight(terms: &GrantTerms) -> u64 {
    (size_of::<GrantTerms>() + terms.agents_memory()) as u64
}
