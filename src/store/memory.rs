//! The store as a model: everything in memory, gone with the process. What the contract means, in the simplest code.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use imbl::{HashMap, OrdMap, OrdSet, Vector};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

use crate::{
    domain::{
        Clock, Event, EventKind, Grant, GrantId, GrantState, GroupId, RequestId, Revision,
        TenantId, Terms, Tightening, Time,
    },
    store::{
        Change, Entry, EventQuery, GrantQuery, Held, PATIENCE, Remembered, RequestMark, Store,
        StoreError, stamp,
    },
};

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    /// What is committed; `None` once closed.
    state: Arc<ArcSwapOption<State>>,
    /// Held by the one change that is being made.
    writer: Arc<Mutex<()>>,
}

/// Persistent collections: a change works on a copy that costs nothing, and puts it in place when it commits.
#[derive(Debug, Clone, Default)]
struct State {
    /// The log; the event of revision `n` is at `n - 1`.
    events: Vector<Event>,
    /// Every grant, by tenant and age.
    grants: OrdMap<(TenantId, Revision), Grant>,
    /// Where each grant is in `grants`.
    keys: HashMap<GrantId, (TenantId, Revision)>,
    /// The grants that no event has ended.
    live: OrdSet<(TenantId, Revision)>,
    requests: HashMap<(TenantId, RequestId), ([u8; 32], Revision)>,
    tightenings: HashMap<TenantId, Tightening>,
}

struct MemoryChange {
    now: Time,
    working: State,
    target: Arc<ArcSwapOption<State>>,
    _writer: OwnedMutexGuard<()>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = Arc::new(ArcSwapOption::from_pointee(State::default()));
        Self { clock, state, writer: Arc::default() }
    }

    fn state(&self) -> Result<Arc<State>, StoreError> {
        open_state(&self.state)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(&self) -> Result<Box<dyn Change>, StoreError> {
        let turn = timeout(PATIENCE, Arc::clone(&self.writer).lock_owned()).await;
        let writer = turn.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let working = State::clone(&*self.state()?);
        let last = working.events.last().map(|event| event.time);
        let now = self.clock.now();
        Ok(Box::new(MemoryChange {
            now: last.map_or(now, |last| last.max(now)),
            working,
            target: Arc::clone(&self.state),
            _writer: writer,
        }))
    }

    async fn head(&self) -> Result<Revision, StoreError> {
        Ok(self.state()?.head())
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, Terms, Held) + Send),
    ) -> Result<Revision, StoreError> {
        let state = self.state()?;
        let mut last_ended: std::collections::HashMap<(&TenantId, &GroupId), &Terms> =
            std::collections::HashMap::new();
        for (key, grant) in &state.grants {
            if state.live.contains(key) {
                visit(grant.tenant_id.clone(), grant.terms.clone(), Held::Live);
                continue;
            }
            let last = last_ended.entry((&grant.tenant_id, &grant.terms.group_id));
            let rank = |terms: &Terms| (terms.end_time(), terms.access_level, terms.grant_id);
            last.and_modify(|last| {
                if rank(&grant.terms) > rank(last) {
                    *last = &grant.terms;
                }
            })
            .or_insert(&grant.terms);
        }
        for ((tenant_id, _), terms) in last_ended {
            visit(tenant_id.clone(), terms.clone(), Held::LastEnded);
        }
        Ok(state.head())
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let state = self.state()?;
        let skipped = usize::try_from(revision).unwrap_or(0).min(state.events.len());
        Ok(state.events.iter().skip(skipped).take(limit).cloned().collect())
    }

    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        Ok(self.state()?.grant(tenant_id, grant_id))
    }

    async fn list_grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        let state = self.state()?;
        Ok(state
            .grants_of(&query.tenant_id, query.before)
            .filter(|grant| matches(grant, state.is_live(grant), query))
            .take(query.limit)
            .cloned()
            .collect())
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let before = query.before.unwrap_or(Revision::MAX);
        let state = self.state()?;
        Ok(state
            .events
            .iter()
            .rev()
            .skip_while(|event| event.revision >= before)
            .filter(|event| event.tenant_id == query.tenant_id)
            .filter(|event| query.grant_id.is_none() || event.grant_id() == query.grant_id)
            .take(query.limit)
            .cloned()
            .collect())
    }

    async fn tightening(&self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        Ok(self.state()?.tightenings.get(tenant_id).cloned().unwrap_or_default())
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        let state = self.state()?;
        Ok(state.live_grants().filter_map(|grant| grant.terms.expire_time).min())
    }

    async fn close(&self) {
        self.state.store(None);
    }
}

fn open_state(state: &ArcSwapOption<State>) -> Result<Arc<State>, StoreError> {
    state.load_full().ok_or_else(|| StoreError::Unavailable("the store is closed".into()))
}

fn matches(grant: &Grant, is_live: bool, query: &GrantQuery) -> bool {
    let terms = &grant.terms;
    let state = match grant.state(query.now) {
        state if is_live || state.is_ended() => state,
        _ => GrantState::Expired, // says its last event, whatever the asker's clock says
    };
    let end = terms.end_time().unwrap_or(Time::MAX_UTC);
    // A grant that was revoked before it started was never in force.
    let was_in_force = terms.start_time < end;
    let has_overlap = query.overlap_start.is_some() || query.overlap_end.is_some();
    (query.states.is_empty() || query.states.contains(&state))
        && query.group_id.as_ref().is_none_or(|group| *group == terms.group_id)
        && query.agent_id.as_ref().is_none_or(|agent| terms.agent_ids.contains(agent))
        && query.overlap_start.is_none_or(|start| end > start)
        && query.overlap_end.is_none_or(|limit| terms.start_time < limit)
        && (was_in_force || !has_overlap)
}

// === impl State ===

impl State {
    fn head(&self) -> Revision {
        self.events.last().map_or(0, |event| event.revision)
    }

    fn grant(&self, tenant_id: &TenantId, grant_id: GrantId) -> Option<Grant> {
        let key = self.keys.get(&grant_id).filter(|(owner, _)| owner == tenant_id)?;
        self.grants.get(key).cloned()
    }

    /// Newest first.
    fn grants_of(
        &self,
        tenant_id: &TenantId,
        before: Option<Revision>,
    ) -> impl Iterator<Item = &Grant> {
        let first = (tenant_id.clone(), Revision::MIN);
        let limit = (tenant_id.clone(), before.unwrap_or(Revision::MAX));
        self.grants.range(first..limit).rev().map(|(_, grant)| grant)
    }

    fn is_live(&self, grant: &Grant) -> bool {
        self.live.contains(&(grant.tenant_id.clone(), grant.create_revision))
    }

    fn live_grants(&self) -> impl Iterator<Item = &Grant> {
        self.live.iter().filter_map(|key| self.grants.get(key))
    }

    fn apply(&mut self, event: Event, request: Option<RequestMark>) {
        if let Some(grant) = event.kind.grant() {
            let key = (grant.tenant_id.clone(), grant.create_revision);
            self.keys.insert(grant.id(), key.clone());
            if event.kind.ends_grant() {
                self.live.remove(&key);
            } else {
                self.live.insert(key.clone());
            }
            self.grants.insert(key, grant.clone());
        }
        if let EventKind::PolicyUpdated { tightening, .. } = &event.kind {
            self.tightenings.insert(event.tenant_id.clone(), tightening.clone());
        }
        if let Some(RequestMark { request_id, fingerprint }) = request {
            let key = (event.tenant_id.clone(), request_id);
            self.requests.insert(key, (fingerprint, event.revision));
        }
        self.events.push_back(event);
    }
}

// === impl MemoryChange ===

#[async_trait]
impl Change for MemoryChange {
    fn now(&self) -> Time {
        self.now
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        Ok(self.working.grant(tenant_id, grant_id))
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<Remembered>, StoreError> {
        let key = (tenant_id.clone(), request_id.clone());
        let found = self.working.requests.get(&key).and_then(|(fingerprint, revision)| {
            let index = usize::try_from(revision - 1).ok()?;
            let grant = self.working.events.get(index)?.kind.grant()?.clone();
            Some(Remembered { fingerprint: *fingerprint, grant })
        });
        Ok(found)
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        let working = &self.working;
        let is_live =
            |grant: &&Grant| working.live.contains(&(tenant_id.clone(), grant.create_revision));
        Ok(working.grants_of(tenant_id, None).filter(is_live).take(limit).cloned().collect())
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        Ok(self.live_grants(tenant_id, usize::MAX).await?.len())
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        let is_due = |grant: &&Grant| grant.terms.expire_time.is_some_and(|end| end <= now);
        let mut due: Vec<Grant> = self.working.live_grants().filter(is_due).cloned().collect();
        due.sort_by_key(|grant| (grant.terms.expire_time, grant.create_revision));
        due.truncate(limit);
        Ok(due)
    }

    async fn tightening(&mut self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        Ok(self.working.tightenings.get(tenant_id).cloned().unwrap_or_default())
    }

    async fn append(&mut self, entry: Entry) -> Result<Event, StoreError> {
        let (event, request) = stamp(entry, self.working.head() + 1, self.now);
        self.working.apply(event.clone(), request);
        Ok(event)
    }

    async fn commit(self: Box<Self>) -> Result<Revision, StoreError> {
        let revision = self.working.head();
        open_state(&self.target)?;
        self.target.store(Some(Arc::new(self.working)));
        Ok(revision)
    }
}
