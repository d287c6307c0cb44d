//! The map that checks read: every live grant, and the latest ended one of each tenant and group; and every live lock.

use std::{fmt, mem::size_of, sync::Arc};

use foldhash::fast::RandomState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};

use crate::{
    domain::{
        Epoch, GrantId, GrantTerms, GroupId, LockTerms, Position, Question, Revision, TenantId,
        Time, TokenKey,
    },
    node::{Gauges, locks::Locks, message::Change},
    store::Retained,
};

type Tenants = GenericHashMap<TenantId, Arc<TenantGrants>, RandomState, DefaultSharedPtr>;
type Groups = GenericHashMap<GroupId, (), RandomState, DefaultSharedPtr>;

/// Grants and locks as of one revision. A clone shares everything with the original and costs nothing, so the next snapshot is made
/// from the last one by changing only the tenants that an event is about.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The last event that is included; `None` while nothing is known.
    position: Option<Position>,
    /// The key of consistency tokens in the epoch of the position.
    token_key: Option<TokenKey>,
    tenants: Tenants,
    /// Every group that was ever granted access: few, so that grants share their names.
    groups: Groups,
    locks: Locks,
    live_grants: u64,
    bytes: u64,
}

/// The locks and grants of a snapshot, some at a time.
pub struct Parts {
    locks: std::vec::IntoIter<LockTerms>,
    grants: Box<dyn Iterator<Item = (TenantId, Retained, GrantTerms)> + Send>,
}

/// What one tenant has granted. A decision looks at all of it: the limit on live grants per tenant bounds its cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TenantGrants {
    /// Grants that no event has ended; some may have expired since.
    live: Vec<GrantTerms>,
    /// At most one for each group: the one that ended last.
    ended: Vec<GrantTerms>,
}

impl Snapshot {
    /// Nothing: what a log holds at its beginning.
    pub fn beginning(epoch: Epoch, token_key: TokenKey) -> Self {
        let position = Position { epoch, revision: 0, time: None };
        Self { position: Some(position), token_key: Some(token_key), ..Self::default() }
    }

    /// The place in the log that the snapshot is of; `None` while nothing is known.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The key of consistency tokens in the epoch of the position; `None` while nothing is known.
    pub fn token_key(&self) -> Option<TokenKey> {
        self.token_key
    }

    /// The last event that is included.
    pub fn revision(&self) -> Revision {
        self.position.map_or(0, |position| position.revision)
    }

    /// When the last event that is included was committed: no decision from this snapshot may be for an earlier time, or what
    /// an event has ended could come back.
    pub fn time(&self) -> Option<Time> {
        self.position.and_then(|position| position.time)
    }

    /// The grants that can matter to a check on `tenant_id`.
    pub fn grants(&self, tenant_id: &TenantId) -> impl Iterator<Item = &GrantTerms> {
        let of_tenant = self.tenants.get(tenant_id);
        of_tenant.into_iter().flat_map(|grants| grants.live.iter().chain(&grants.ended))
    }

    /// The locks that can matter to a check.
    pub fn locks_on(&self, question: &Question) -> Vec<&LockTerms> {
        self.locks.on(question)
    }

    /// Every lock that is held, in no particular order.
    pub fn locks(&self) -> impl Iterator<Item = &LockTerms> {
        self.locks.iter()
    }

    /// Every grant that is held, with its tenant and why, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantId, Retained, &GrantTerms)> {
        self.tenants.iter().flat_map(|(tenant_id, grants)| {
            let live = grants.live.iter().map(|terms| (Retained::Live, terms));
            let ended = grants.ended.iter().map(|terms| (Retained::LastEnded, terms));
            live.chain(ended).map(move |(held, terms)| (tenant_id, held, terms))
        })
    }

    /// All locks, then all grants, to be sent: some at a time, so many as make a message.
    pub fn into_parts(self) -> Parts {
        let locks: Vec<_> = self.locks.iter().cloned().collect();
        let grants = self.tenants.into_iter().flat_map(|(tenant_id, grants)| {
            let live = grants.live.iter().map(|terms| (Retained::Live, terms));
            let ended = grants.ended.iter().map(|terms| (Retained::LastEnded, terms));
            let all = live.chain(ended);
            let all = all.map(|(held, terms)| (tenant_id.clone(), held, terms.clone()));
            all.collect::<Vec<_>>()
        });
        Parts { locks: locks.into_iter(), grants: Box::new(grants) }
    }

    /// What metrics say.
    pub fn gauges(&self) -> Gauges {
        let tenants = self.tenants.len() as u64;
        let per_tenant = size_of::<(TenantId, Arc<TenantGrants>)>() + size_of::<TenantGrants>();
        Gauges {
            revision: self.revision(),
            live_grants: self.live_grants,
            locks: self.locks.iter().count() as u64,
            tenants,
            snapshot_bytes: self.bytes + tenants * per_tenant as u64,
            ..Gauges::default()
        }
    }

    /// Takes in the change that follows on this snapshot.
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
        let Some((tenant_id, held, terms)) = &change.grant else { return };
        self.remove_live(tenant_id, terms.grant_id);
        self.insert(tenant_id, terms.clone(), *held);
    }

    /// Says which position the snapshot is of, once everything is in it.
    pub fn set_position(&mut self, position: Position, token_key: TokenKey) {
        self.position = Some(position);
        self.token_key = Some(token_key);
    }

    /// Takes in a grant.
    pub fn insert(&mut self, tenant_id: &TenantId, mut terms: GrantTerms, held: Retained) {
        terms.group_id = self.shared(terms.group_id);
        match held {
            Retained::Live => self.insert_live(tenant_id, terms),
            Retained::LastEnded => self.insert_ended(tenant_id, terms),
        }
    }

    /// Takes in a lock.
    pub fn insert_lock(&mut self, terms: LockTerms) {
        self.locks.insert(terms);
    }

    fn insert_live(&mut self, tenant_id: &TenantId, terms: GrantTerms) {
        self.live_grants += 1;
        self.bytes += weight(&terms);
        push(&mut self.tenant(tenant_id).live, terms);
    }

    /// Keeps the one that ended last, by the order in which decisions prefer them.
    fn insert_ended(&mut self, tenant_id: &TenantId, terms: GrantTerms) {
        let rank = |terms: &GrantTerms| (terms.end_time(), terms.access_level, terms.grant_id);
        let added = weight(&terms);
        let ended = &mut self.tenant(tenant_id).ended;
        match ended.iter_mut().find(|other| other.group_id == terms.group_id) {
            Some(other) if rank(other) >= rank(&terms) => {}
            Some(other) => {
                let removed = weight(other);
                *other = terms;
                self.bytes = self.bytes + added - removed;
            }
            None => {
                push(ended, terms);
                self.bytes += added;
            }
        }
    }

    fn remove_live(&mut self, tenant_id: &TenantId, grant_id: GrantId) {
        let Some(grants) = self.tenants.get(tenant_id) else { return };
        let is_it = |terms: &GrantTerms| terms.grant_id == grant_id;
        if let Some(index) = grants.live.iter().position(is_it) {
            let removed = self.tenant(tenant_id).live.swap_remove(index);
            self.live_grants -= 1;
            self.bytes -= weight(&removed);
        }
    }

    /// The name of a group, as other grants have it.
    fn shared(&mut self, group_id: GroupId) -> GroupId {
        if let Some((known, ())) = self.groups.get_key_value(&group_id) {
            return known.clone();
        }
        self.groups.insert(group_id.clone(), ());
        group_id
    }

    fn tenant(&mut self, tenant_id: &TenantId) -> &mut TenantGrants {
        Arc::make_mut(self.tenants.entry(tenant_id.clone()).or_default())
    }
}

// === impl Parts ===

/// The most bytes of one part, estimated.
const PART_WEIGHT_MAX: u64 = 64 * 1_024;

/// Some of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Some locks.
    Locks(Vec<LockTerms>),
    /// Some grants.
    Grants(Vec<(TenantId, Retained, GrantTerms)>),
}

impl Iterator for Parts {
    type Item = SnapshotPart;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut locks, mut bytes) = (Vec::new(), 0);
        while bytes < PART_WEIGHT_MAX
            && let Some(lock) = self.locks.next()
        {
            bytes += lock.weight() as u64;
            locks.push(lock);
        }
        if !locks.is_empty() {
            return Some(SnapshotPart::Locks(locks));
        }
        let mut grants = Vec::new();
        while bytes < PART_WEIGHT_MAX
            && let Some(grant) = self.grants.next()
        {
            bytes += weight(&grant.2);
            grants.push(grant);
        }
        (!grants.is_empty()).then_some(SnapshotPart::Grants(grants))
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Adds one without much room for more: most tenants have few, and there are many tenants.
fn push(grants: &mut Vec<GrantTerms>, terms: GrantTerms) {
    if grants.len() == grants.capacity() {
        grants.reserve_exact(1 + grants.len() / 8);
    }
    grants.push(terms);
}

/// The memory that one grant takes, in bytes, without what it shares with others.
fn weight(terms: &GrantTerms) -> u64 {
    let agents: usize =
        terms.agent_ids.iter().map(|agent| size_of_val(agent) + agent.as_str().len()).sum();
    (size_of::<GrantTerms>() + agents) as u64
}
