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
    checker::{Subject, agent_id},
    cluster::{GROUPS, Machine, Process, World, group_id},
    domain::{
        AccessLevel, Caller, End, ExtendRequest, FreeText, GrantRequest, GrantTerms, LockRequest,
        LockTarget, LockTerms, Revision, Span, TenantId, Ticket,
    },
    service::{Enforcement, GrantRef, Service, locks::LockRef},
};

/// How far a change has come, once that was said.
pub(crate) type Answer = oneshot::Receiver<Option<Enforcement>>;

/// Everything that administrators do.
#[derive(Debug)]
pub(crate) struct Users {
    world: Arc<World>,
    /// How many grants there were.
    grants: AtomicUsize,
}

impl Users {
    pub(crate) fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { world, grants: AtomicUsize::new(0) })
    }

    /// Does one thing after the other, until all is calm.
    pub(crate) async fn work(self: Arc<Self>, calm: CancellationToken) {
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
    pub(crate) fn replica(&self) -> Option<Arc<Process>> {
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
    pub(crate) fn any_live(&self) -> Option<(Subject, GrantTerms)> {
        let grants = self.world.judge.grants().into_iter();
        let mut live: Vec<_> = grants.filter(|(.., is_live)| *is_live).collect();
        // Their ids are random, and not from the seed.
        live.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        self.world.random.pick(&live).map(|(subject, terms, _)| (subject.clone(), terms.clone()))
    }

    /// Somebody is let in, for the first time by that tenant and to that group. Returns who.
    pub(crate) fn grant(&self, process: &Process, end: End, delay: Option<Duration>) -> Subject {
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
            start_time,
            end,
            reason: FreeText::default(),
            ticket: Ticket::default(),
        };
        let deadline = self.deadline();
        self.ask(process, subject.clone(), move |work| async move {
            let _ = work.grant_access(&administrator(), request, deadline).await;
            None
        });
        subject
    }

    fn extend(&self, process: &Process) {
        let Some((subject, terms)) = self.any_live() else { return };
        let (grant, deadline) = (reference(&subject, &terms), self.deadline());
        let request = ExtendRequest { end: self.end(), reason: FreeText::default() };
        self.ask(process, subject, move |work| async move {
            let caller = administrator();
            let extended = work.extend_access(&caller, &grant, None, request, deadline).await;
            extended.ok().map(|(_, enforcement)| enforcement)
        });
    }

    fn revoke_any(&self, process: &Process) {
        if let Some((subject, terms)) = self.any_live() {
            self.revoke(process, subject, &terms, self.deadline());
        }
    }

    pub(crate) fn revoke(
        &self,
        process: &Process,
        subject: Subject,
        terms: &GrantTerms,
        deadline: Instant,
    ) -> Answer {
        let grant = reference(&subject, terms);
        self.ask(process, subject, move |work| async move {
            let caller = administrator();
            let revoked =
                work.revoke_access(&caller, &grant, None, FreeText::default(), deadline).await;
            revoked.ok().map(|revoked| revoked.enforcement)
        })
    }

    fn revoke_all(&self, process: &Process) {
        let Some((subject, _)) = self.any_live() else { return };
        let (tenant_id, deadline) = (subject.tenant_id.clone(), self.deadline());
        self.ask(process, subject, move |work| async move {
            let caller = administrator();
            let revoked =
                work.revoke_all_access(&caller, &tenant_id, FreeText::default(), deadline).await;
            revoked.ok().map(|revoked| revoked.enforcement)
        });
    }

    /// Mostly a tenant. What is locked for more, is so for a short time: else nothing would be allowed any more.
    fn lock(&self, process: &Process) {
        let Some((subject, _)) = self.any_live() else { return };
        let random = &self.world.random;
        let target = match random.between(0, 19) {
            0 => LockTarget::Everything,
            1 => LockTarget::Agent(agent_id()),
            2 | 3 => LockTarget::Group(subject.group_id.clone()),
            _ => LockTarget::Tenant(subject.tenant_id.clone()),
        };
        let is_wide = target.tenant_id().is_none();
        let end = (is_wide || random.chance(70)).then(|| {
            let most = if is_wide { 300 } else { 2_000 };
            End::After(Span(random.millis(20, most)))
        });
        let deadline = self.deadline();
        let reason = FreeText::new("why").unwrap_or_default();
        self.ask(process, subject, move |work| async move {
            let request = LockRequest { target, reason, end };
            let locked = work.lock_access(&administrator(), request, deadline).await;
            locked.ok().map(|(_, enforcement)| enforcement)
        });
    }

    fn unlock_any(&self, process: &Process) {
        if let Some(lock) = self.world.random.pick(&self.world.judge.locks()) {
            self.unlock(process, lock);
        }
    }

    /// Lifts all that is locked.
    pub(crate) fn unlock_all(&self, process: &Process) {
        self.world.judge.locks().iter().for_each(|lock| self.unlock(process, lock));
    }

    fn unlock(&self, process: &Process, lock: &LockTerms) {
        // Nobody is told of its enforcement, and so nobody is asked about then.
        let subject = Subject { tenant_id: tenant(0), group_id: group_id(0) };
        let tenant_id = lock.target.tenant_id().cloned();
        let lock = LockRef { tenant_id, text: lock.lock_id.to_string() };
        let deadline = self.deadline();
        self.ask(process, subject, move |work| async move {
            let (caller, reason) = (administrator(), FreeText::default());
            let _ = work.unlock_access(&caller, &lock, reason, deadline).await;
            None
        });
    }

    fn wait(&self, process: &Process) {
        let (head, random) = (self.world.judge.head(), &self.world.random);
        let Some((subject, _)) = self.any_live() else { return };
        let back = Revision::try_from(random.between(0, 3)).unwrap_or(0);
        let deadline = self.deadline();
        self.ask(process, subject, move |work| async move {
            work.wait_enforced((head - back).max(1), deadline).await.ok()
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

/// The caller of every change.
fn administrator() -> Caller {
    Caller::local(None).expect("a local caller needs no name")
}

fn tenant(number: usize) -> TenantId {
    TenantId::new(&format!("t{number}")).expect("a valid id")
}

fn reference(subject: &Subject, terms: &GrantTerms) -> GrantRef {
    GrantRef { tenant_id: subject.tenant_id.clone(), text: terms.grant_id.to_string() }
}
