//! Administrators who grant, extend and revoke access, and create and lift locks. Each call goes to
//! any replica, and waits for the enforcement.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    check::{GrantKey, agent_id, human_id, requested_kinds},
    cluster::{Cluster, Machine, RunningNode},
    domain::{
        AcceptClockRequest, AccessLevel, AgentKind, Caller, End, ExtendRequest, FreeText,
        GrantRequest, GrantTerms, LockRequest, LockTarget, LockTerms, Revision, RevokeRequest,
        Span, TenantId, Ticket, UnlockRequest, token::TokenEvent,
    },
    plan::{GROUPS, group_id},
    service::{Enforcement, EnforcementState, GrantRef, Service, locks::LockRef},
};

/// How often a caller waits at another replica.
const SWITCHES_MAX: usize = 50;

/// The response to a change: the enforcement, or `None` if the change failed.
pub(crate) type Response = oneshot::Receiver<Option<Enforcement>>;

#[derive(Debug)]
pub(crate) struct Workload {
    cluster: Arc<Cluster>,
    /// The number of grants so far.
    grants: AtomicUsize,
}

impl Workload {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self { cluster, grants: AtomicUsize::new(0) })
    }

    /// Makes one random change after the other, until quiesced.
    pub(crate) async fn run(self: Arc<Self>, quiesce: CancellationToken) {
        let random = Arc::clone(&self.cluster.random);
        while quiesce.run_until_cancelled(sleep(random.millis(5, 250))).await.is_some() {
            let Some(replica) = self.any_replica() else { continue };
            match random.between(0, 103) {
                0..33 => drop(self.grant(&replica, self.any_end(), self.any_delay())),
                33..46 => self.extend(&replica),
                46..80 => self.revoke_any(&replica),
                80..84 => self.revoke_all(&replica),
                84..91 => self.lock(&replica),
                91..95 => self.lift_any(&replica),
                95..99 => self.revoke_while_switching(),
                _ => self.wait_for_any(&replica),
            }
        }
    }

    // === random choices ===

    /// Any replica that serves.
    pub(crate) fn any_replica(&self) -> Option<Arc<RunningNode>> {
        let nodes = self.cluster.machines.iter().filter_map(Machine::serving_node);
        let replicas: Vec<_> = nodes.filter(|running| running.replica.is_some()).collect();
        self.cluster.random.pick(&replicas).cloned()
    }

    /// Any replica that serves and trusts the database clock.
    pub(crate) fn any_replica_with_trusted_clock(&self) -> Option<Arc<RunningNode>> {
        let nodes = self.cluster.machines.iter().filter_map(Machine::serving_node);
        let is_trusted = |running: &Arc<RunningNode>| {
            let replica = running.replica.as_ref();
            replica.is_some_and(|(replica, _)| replica.database_clock().is_trusted())
        };
        let replicas: Vec<_> = nodes.filter(is_trusted).collect();
        self.cluster.random.pick(&replicas).cloned()
    }

    /// Any grant that no event has ended.
    pub(crate) fn any_live(&self) -> Option<(GrantKey, GrantTerms)> {
        let grants = self.cluster.checker.grants().into_iter();
        let mut live: Vec<_> = grants.filter(|(.., is_live)| *is_live).collect();
        // Grant ids do not depend on the seed, so the order must not depend on grant ids.
        live.sort_by(|(left, ..), (right, ..)| left.cmp(right));
        self.cluster.random.pick(&live).map(|(grant, terms, _)| (grant.clone(), terms.clone()))
    }

    fn any_end(&self) -> End {
        let random = &self.cluster.random;
        match random.between(0, 9) {
            0..4 => End::UntilRevoked,
            4..8 => End::After(Span(random.millis(50, 3_000))),
            _ => End::After(Span(random.millis(3_000, 10_000))),
        }
    }

    /// Time until a grant starts; mostly none.
    fn any_delay(&self) -> Option<Duration> {
        let random = &self.cluster.random;
        random.chance(20).then(|| random.millis(50, 2_000))
    }

    fn any_deadline(&self) -> Instant {
        let random = &self.cluster.random;
        let most = if random.chance(30) { 300 } else { 20_000 };
        Instant::now() + random.millis(most / 300, most)
    }

    // === changes ===

    /// Grants access, for the first time by that tenant and to that group.
    pub(crate) fn grant(
        &self,
        replica: &RunningNode,
        end: End,
        delay: Option<Duration>,
    ) -> GrantKey {
        let number = self.grants.fetch_add(1, Ordering::Relaxed);
        let tenant_id = tenant(number / GROUPS);
        let grant = GrantKey { tenant_id, group_id: group_id(number % GROUPS) };
        let start_time =
            delay.and_then(|delay| Some(self.cluster.now() + TimeDelta::from_std(delay).ok()?));
        let request = GrantRequest {
            request_id: None,
            tenant_id: grant.tenant_id.clone(),
            group_id: grant.group_id.clone(),
            agent_ids: BTreeSet::new(),
            agent_kinds: requested_kinds(&grant.group_id),
            access_level: AccessLevel::Admin,
            start_time,
            end,
            reason: FreeText::default(),
            ticket: Ticket::default(),
        };
        let deadline = self.any_deadline();
        self.call(replica, grant.clone(), move |service| async move {
            let _ = service.grant_access(&administrator(), request, deadline).await;
            None
        });
        grant
    }

    fn extend(&self, replica: &RunningNode) {
        let Some((grant, terms)) = self.any_live() else { return };
        let (reference, deadline) = (reference(&grant, &terms), self.any_deadline());
        let request = ExtendRequest {
            request_id: None,
            etag: None,
            end: self.any_end(),
            reason: FreeText::default(),
        };
        self.call(replica, grant, move |service| async move {
            let caller = administrator();
            let extended = service.extend_access(&caller, &reference, request, deadline);
            extended.await.ok().map(|extended| extended.enforcement)
        });
    }

    fn revoke_any(&self, replica: &RunningNode) {
        if let Some((grant, terms)) = self.any_live() {
            self.revoke(replica, grant, &terms, self.any_deadline());
        }
    }

    pub(crate) fn revoke(
        &self,
        replica: &RunningNode,
        grant: GrantKey,
        terms: &GrantTerms,
        deadline: Instant,
    ) -> Response {
        let reference = reference(&grant, terms);
        self.call(replica, grant, move |service| async move {
            let (caller, request) = (administrator(), RevokeRequest::default());
            let revoked = service.revoke_access(&caller, &reference, request, deadline);
            revoked.await.ok().map(|revoked| revoked.enforcement)
        })
    }

    fn revoke_all(&self, replica: &RunningNode) {
        let Some((grant, _)) = self.any_live() else { return };
        let (tenant_id, deadline) = (grant.tenant_id.clone(), self.any_deadline());
        self.call(replica, grant, move |service| async move {
            let (caller, request) = (administrator(), RevokeRequest::default());
            let revoked = service.revoke_all_access(&caller, &tenant_id, request, deadline);
            revoked.await.ok().map(|revoked| revoked.enforcement)
        });
    }

    /// Locks a tenant, or sometimes all tenants. A lock in all tenants ends soon, because otherwise
    /// no check would be allowed.
    fn lock(&self, replica: &RunningNode) {
        let Some((grant, _)) = self.any_live() else { return };
        let random = &self.cluster.random;
        let own = Some(grant.tenant_id.clone());
        let (tenant_id, target) = match random.between(0, 19) {
            0 => (None, LockTarget::Everything),
            1 => (None, LockTarget::Agent(agent_id())),
            2 => (None, LockTarget::Group(grant.group_id.clone())),
            3 => (None, LockTarget::AgentKind(AgentKind::Human)),
            4 => (own, LockTarget::AgentKind(AgentKind::Human)),
            5 => (own, LockTarget::Agent(agent_id())),
            6 => (None, LockTarget::AgentKind(AgentKind::Ai)),
            7 => (own, LockTarget::AgentKind(AgentKind::Ai)),
            8 => (own, LockTarget::Agent(human_id())),
            9 | 10 => (own, LockTarget::Group(grant.group_id.clone())),
            _ => (own, LockTarget::Everything),
        };
        let is_wide = tenant_id.is_none();
        let end = (is_wide || random.chance(70)).then(|| {
            let most = if is_wide { 300 } else { 2_000 };
            End::After(Span(random.millis(20, most)))
        });
        let deadline = self.any_deadline();
        let reason = FreeText::new("simulation").unwrap_or_default();
        self.call(replica, grant, move |service| async move {
            let request = LockRequest { request_id: None, tenant_id, target, reason, end };
            let locked = service.lock_access(&administrator(), request, deadline).await;
            locked.ok().map(|locked| locked.enforcement)
        });
    }

    /// An operator accepts the clock.
    pub(crate) fn accept_clock(&self, replica: &RunningNode) {
        // The response contains no enforcement, so no grant is checked after the call.
        let unused = GrantKey { tenant_id: tenant(0), group_id: group_id(0) };
        let deadline = self.any_deadline();
        self.call(replica, unused, move |service| async move {
            let request = AcceptClockRequest::default();
            let _ = service.accept_clock(&administrator(), request, deadline).await;
            None
        });
    }

    fn lift_any(&self, replica: &RunningNode) {
        if let Some(lock) = self.cluster.random.pick(&self.cluster.checker.locks()) {
            self.lift(replica, lock);
        }
    }

    pub(crate) fn lift_all(&self, replica: &RunningNode) {
        self.cluster.checker.locks().iter().for_each(|lock| self.lift(replica, lock));
    }

    fn lift(&self, replica: &RunningNode, lock: &LockTerms) {
        // Lifting a lock returns no enforcement, so no grant is checked after the call.
        let unused = GrantKey { tenant_id: tenant(0), group_id: group_id(0) };
        let tenant_id = lock.tenant_id.clone();
        let lock = LockRef { tenant_id, text: lock.lock_id.to_string() };
        let deadline = self.any_deadline();
        self.call(replica, unused, move |service| async move {
            let request =
                UnlockRequest { request_id: None, etag: None, reason: FreeText::default() };
            let _ = service.unlock_access(&administrator(), &lock, request, deadline).await;
            None
        });
    }

    /// Revokes a grant with a short deadline. Then waits for the enforcement at one replica after
    /// the other, as a caller behind a load balancer does.
    fn revoke_while_switching(self: &Arc<Self>) {
        let Some((grant, terms)) = self.any_live() else { return };
        let workload = Arc::clone(self);
        self.cluster.tasks.spawn(async move {
            let random = &workload.cluster.random;
            let soon = || Instant::now() + random.millis(50, 300);
            let Some(replica) = workload.any_replica() else { return };
            let mut response = workload.revoke(&replica, grant.clone(), &terms, soon());
            for _ in 0..SWITCHES_MAX {
                let Ok(Some(Enforcement { state, revision, .. })) = response.await else { return };
                let Some(replica) = workload.any_replica() else { return };
                if state == EnforcementState::Complete {
                    return;
                }
                response = workload.wait_enforced(&replica, grant.clone(), revision, soon());
            }
        });
    }

    fn wait_for_any(&self, replica: &RunningNode) {
        let (head, random) = (self.cluster.checker.head(), &self.cluster.random);
        let Some((grant, _)) = self.any_live() else { return };
        let back = Revision::try_from(random.between(0, 3)).unwrap_or(0);
        self.wait_enforced(replica, grant, (head - back).max(1), self.any_deadline());
    }

    /// Waits at a replica for the enforcement of an event of the current log. Without the event,
    /// there is no response.
    pub(crate) fn wait_enforced(
        &self,
        replica: &RunningNode,
        grant: GrantKey,
        revision: Revision,
        deadline: Instant,
    ) -> Response {
        let (_, no_response) = oneshot::channel();
        let Some(event) = self.cluster.checker.event(revision) else { return no_response };
        let read_view = replica.node.read_view();
        let Some(key) = read_view.view.snapshot().token_key() else { return no_response };
        let token = key.encrypt(TokenEvent::new(event.revision, Some(event.time)));
        let Ok(token) = token else { return no_response };
        self.call(replica, grant, move |service| async move {
            let (tenant_id, token) = (event.tenant_id.as_ref(), token.to_string());
            service.wait_enforced(tenant_id, &token, deadline).await.ok()
        })
    }

    /// Calls a replica. When the call returns an enforcement, checks the grant at all nodes at
    /// once.
    fn call<F>(
        &self,
        replica: &RunningNode,
        grant: GrantKey,
        call: impl FnOnce(Arc<Service>) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = Option<Enforcement>> + Send + 'static,
    {
        let (respond, response) = oneshot::channel();
        let Some((_, service)) = replica.replica.clone() else { return response };
        let (cluster, process) = (Arc::clone(&self.cluster), replica.process.clone());
        let log = cluster.checker.log_number();
        replica.process.spawn(async move {
            let enforcement = call(service).await;
            if let Some(enforcement) = &enforcement {
                let has_run_since = |then| process.has_run_since(then);
                cluster.checker.record_enforcement(enforcement, log, has_run_since);
                cluster.check_everywhere(&grant);
            }
            let _ = respond.send(enforcement);
        });
        response
    }
}

/// The caller of every change.
fn administrator() -> Caller {
    Caller::local(None).expect("a local caller needs no name")
}

fn tenant(number: usize) -> TenantId {
    TenantId::new(&format!("t{number}")).expect("a valid id")
}

fn reference(grant: &GrantKey, terms: &GrantTerms) -> GrantRef {
    GrantRef { tenant_id: grant.tenant_id.clone(), text: terms.grant_id.to_string() }
}
