//! Administrators: they grant, extend, revoke, lock and unlock at any replica, and wait until that is in force.

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
    domain::{
        AccessLevel, AgentId, AgentKind, Caller, End, ExtendRequest, FreeText, GrantRequest,
        GrantTerms, LockRequest, LockTarget, LockTerms, Revision, RevokeRequest, Span, TenantId,
        Ticket, UnlockRequest, token::TokenEvent,
    },
    service::{Enforcement, GrantRef, Service, locks::LockRef},
    simulation::{
        judge::Subject,
        world::{GROUPS, Machine, Process, World, group_id},
    },
};

/// How far a change has come, once that was said.
pub(super) type Answer = oneshot::Receiver<Option<Enforcement>>;

/// Everything that administrators do.
#[derive(Debug)]
pub(super) struct Users {
    world: Arc<World>,
    /// How many grants there were.
    grants: AtomicUsize,
}

impl Users {
    pub(super) fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { world, grants: AtomicUsize::new(0) })
    }

    /// Does one thing after the other, until all is calm.
    pub(super) async fn work(self: Arc<Self>, calm: CancellationToken) {
        let random = Arc::clone(&self.world.random);
        while calm.run_until_cancelled(sleep(random.millis(5, 250))).await.is_some() {
            let Some(process) = self.replica() else { continue };
            match random.between(0, 99) {
                0..33 => drop(self.grant(&process, self.end(), self.delay())),
                33..46 => self.extend(&process),
                46..80 => self.revoke_any(&process),
                80..84 => self.revoke_all(&process),
                84..91 => self.lock(&process),
                91..95 => self.unlock_any(&process),
                _ => self.wait(&process),
            }
        }
    }

    /// Any replica that answers.
    pub(super) fn replica(&self) -> Option<Arc<Process>> {
        let machines = self.world.machines.iter();
        let processes = machines.filter_map(Machine::open_process);
        let replicas: Vec<_> = processes.filter(|process| process.replica.is_some()).collect();
        self.world.random.pick(&replicas).cloned()
    }

    fn end(&self) -> End {
        let random = &self.world.random;
        match random.between(0, 9) {
            0..4 => End::UntilRevoked,
            4..8 => End::After(Span(random.millis(50, 3_000))),
            _ => End::After(Span(random.millis(3_000, 10_000))),
        }
    }

    /// How long before a grant starts; mostly none.
    fn delay(&self) -> Option<Duration> {
        let random = &self.world.random;
        random.chance(20).then(|| random.millis(50, 2_000))
    }

    fn deadline(&self) -> Instant {
        let random = &self.world.random;
        let most = if random.chance(30) { 300 } else { 20_000 };
        Instant::now() + random.millis(most / 300, most)
    }

    /// A grant that is still in force, as far as the log says.
    pub(super) fn any_live(&self) -> Option<(Subject, GrantTerms)> {
        let grants = self.world.judge.grants().into_iter();
        let mut live: Vec<_> = grants.filter(|(.., is_live)| *is_live).collect();
        // Their ids are random, and not from the seed.
        live.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        self.world.random.pick(&live).map(|(subject, terms, _)| (subject.clone(), terms.clone()))
    }

    /// Somebody is let in, for the first time by that tenant and to that group. Returns who.
    pub(super) fn grant(&self, process: &Process, end: End, delay: Option<Duration>) -> Subject {
        let number = self.grants.fetch_add(1, Ordering::Relaxed);
        let tenant_id = tenant(number / GROUPS);
        let subject = Subject { tenant_id, group_id: group_id(number % GROUPS) };
        let start_time =
            delay.and_then(|delay| Some(self.world.now() + TimeDelta::from_std(delay).ok()?));
        let request = GrantRequest {
            request_id: None,
            tenant_id: subject.tenant_id.clone(),
            group_id: subject.group_id.clone(),
            agent_ids: BTreeSet::new(),
            access_level: AccessLevel::Admin,
            agent_kinds: None,
            start_time,
            end,
            reason: FreeText::default(),
            ticket: Ticket::default(),
        };
        let deadline = self.deadline();
        self.ask(process, subject.clone(), move |work| async move {
            let _ = work.grant_access(&Caller::local(None).unwrap(), request, deadline).await;
            None
        });
        subject
    }

    fn extend(&self, process: &Process) {
        let Some((subject, terms)) = self.any_live() else { return };
        let (grant, deadline) = (reference(&subject, &terms), self.deadline());
        let request = ExtendRequest {
            request_id: None,
            etag: None,
            end: self.end(),
            reason: FreeText::default(),
        };
        self.ask(process, subject, move |work| async move {
            let caller = Caller::local(None).unwrap();
            let extended = work.extend_access(&caller, &grant, request, deadline).await;
            extended.ok().map(|extended| extended.enforcement)
        });
    }

    fn revoke_any(&self, process: &Process) {
        if let Some((subject, terms)) = self.any_live() {
            self.revoke(process, subject, &terms, self.deadline());
        }
    }

    pub(super) fn revoke(
        &self,
        process: &Process,
        subject: Subject,
        terms: &GrantTerms,
        deadline: Instant,
    ) -> Answer {
        let grant = reference(&subject, terms);
        self.ask(process, subject, move |work| async move {
            let caller = Caller::local(None).unwrap();
            let request = RevokeRequest::default();
            let revoked = work.revoke_access(&caller, &grant, request, deadline).await;
            revoked.ok().map(|revoked| revoked.enforcement)
        })
    }

    fn revoke_all(&self, process: &Process) {
        let Some((subject, _)) = self.any_live() else { return };
        let (tenant_id, deadline) = (subject.tenant_id.clone(), self.deadline());
        self.ask(process, subject, move |work| async move {
            let caller = Caller::local(None).unwrap();
            let request = RevokeRequest::default();
            let revoked = work.revoke_all_access(&caller, &tenant_id, request, deadline).await;
            revoked.ok().map(|revoked| revoked.enforcement)
        });
    }

    /// Mostly a tenant. What is locked for more, is so for a short time: else nothing would be allowed any more.
    fn lock(&self, process: &Process) {
        let Some((subject, _)) = self.any_live() else { return };
        let random = &self.world.random;
        let own = Some(subject.tenant_id.clone());
        let (tenant_id, target) = match random.between(0, 19) {
            0 => (None, LockTarget::Everything),
            1 => (None, LockTarget::Agent(AgentId::fixed("anna"))),
            2 => (None, LockTarget::Group(subject.group_id.clone())),
            3 => (None, LockTarget::AgentKind(AgentKind::Human)),
            4 => (own, LockTarget::AgentKind(AgentKind::Human)),
            5 => (own, LockTarget::Agent(AgentId::fixed("anna"))),
            6 | 7 => (own, LockTarget::Group(subject.group_id.clone())),
            _ => (own, LockTarget::Everything),
        };
        let is_wide = tenant_id.is_none();
        let end = (is_wide || random.chance(70)).then(|| {
            let most = if is_wide { 300 } else { 2_000 };
            End::After(Span(random.millis(20, most)))
        });
        let deadline = self.deadline();
        let reason = FreeText::new("why").unwrap_or_default();
        self.ask(process, subject, move |work| async move {
            let request = LockRequest { request_id: None, tenant_id, target, reason, end };
            let locked = work.lock_access(&Caller::local(None).unwrap(), request, deadline).await;
            locked.ok().map(|locked| locked.enforcement)
        });
    }

    fn unlock_any(&self, process: &Process) {
        if let Some(lock) = self.world.random.pick(&self.world.judge.locks()) {
            self.unlock(process, lock);
        }
    }

    /// Lifts all that is locked.
    pub(super) fn unlock_all(&self, process: &Process) {
        self.world.judge.locks().iter().for_each(|lock| self.unlock(process, lock));
    }

    fn unlock(&self, process: &Process, lock: &LockTerms) {
        // Nobody is told of its enforcement, and so nobody is asked about then.
        let subject = Subject { tenant_id: tenant(0), group_id: group_id(0) };
        let tenant_id = lock.tenant_id.clone();
        let lock = LockRef { tenant_id, text: lock.lock_id.to_string() };
        let deadline = self.deadline();
        self.ask(process, subject, move |work| async move {
            let caller = Caller::local(None).unwrap();
            let reason = FreeText::default();
            let request = UnlockRequest { request_id: None, etag: None, reason };
            let _ = work.unlock_access(&caller, &lock, request, deadline).await;
            None
        });
    }

    fn wait(&self, process: &Process) {
        let (head, random) = (self.world.judge.head(), &self.world.random);
        let Some((subject, _)) = self.any_live() else { return };
        let back = Revision::try_from(random.between(0, 3)).unwrap_or(0);
        let Some(event) = self.world.judge.event((head - back).max(1)) else { return };
        let Some(key) = process.node.read_view().view.snapshot().token_key() else { return };
        let Ok(token) = key.encrypt(TokenEvent::new(event.revision, Some(event.time))) else {
            return;
        };
        let deadline = self.deadline();
        self.ask(process, subject, move |work| async move {
            let (tenant_id, token) = (event.tenant_id.as_ref(), token.to_string());
            work.wait_enforced(tenant_id, &token, deadline).await.ok()
        });
    }

    /// Asks a replica for something, and asks all nodes about the subject as soon as that is in force. Whoever waits gets the answer
    /// then.
    fn ask<F>(
        &self,
        process: &Process,
        subject: Subject,
        work: impl FnOnce(Arc<Service>) -> F + Send + 'static,
    ) -> Answer
    where
        F: Future<Output = Option<Enforcement>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let Some((_, at)) = process.replica.clone() else { return answered };
        let (world, host) = (Arc::clone(&self.world), process.host.clone());
        let incarnation = world.judge.incarnation();
        process.host.spawn(async move {
            let done = work(at).await;
            if let Some(enforcement) = &done {
                world.judge.told(enforcement, incarnation, |then| host.has_run_since(then));
                world.ask_all(&subject);
            }
            let _ = answer.send(done);
        });
        answered
    }
}

fn tenant(number: usize) -> TenantId {
    TenantId::new(&format!("t{number}")).unwrap_or_else(|_| TenantId::fixed("t"))
}

fn reference(subject: &Subject, terms: &GrantTerms) -> GrantRef {
    GrantRef { tenant_id: subject.tenant_id.clone(), text: terms.grant_id.to_string() }
}
