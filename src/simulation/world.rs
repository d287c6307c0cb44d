//! The simulated world: one database, machines with clocks of their own, and what runs on them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    domain::{AccessLevel, Clock, GroupId, NodeId, NodeKind, SupportPolicy, Time, time::between},
    node::{
        CheckNode,
        replica::Replica,
        upstream_session::{self, Upstream},
    },
    service::{Limits, Service, expiry},
    simulation::{
        clocks::{DRIFT_MAX, DatabaseClock, MachineClock},
        database::Database,
        host::Host,
        judge::{Aftermath, Judge, Subject},
        line::Line,
        network::{Address, Network},
        random::Random,
        store::FaultyStore,
    },
    store::Store,
};

/// How many groups each tenant lets in.
pub(super) const GROUPS: usize = 3;
/// How long a process may take to end when it is told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Ends that are further away than this are not watched.
const WATCHED: Duration = Duration::from_secs(30);

/// What a world is made of.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The drift of the database's clock, in millionths.
    pub(super) database_drift: i64,
    pub(super) machines: Vec<MachinePlan>,
}

#[derive(Debug, Clone)]
pub(super) struct MachinePlan {
    /// Whom it follows; a replica follows nobody.
    pub(super) upstreams: Vec<usize>,
    /// The drift of its clock, in millionths.
    pub(super) drift: i64,
    /// By how much its wall clock is wrong.
    pub(super) wall_offset: TimeDelta,
    /// For how long it may answer from one lease, if it is a replica.
    pub(super) lease: Duration,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) random: Arc<Random>,
    pub(super) judge: Arc<Judge>,
    pub(super) database: Arc<Database>,
    pub(super) network: Network,
    pub(super) machines: Vec<Machine>,
    pub(super) tasks: TaskTracker,
    /// The longest of all machines.
    pub(super) lease: Duration,
}

/// A place where one process after the other runs.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    number: usize,
    pub(super) plan: MachinePlan,
    pub(super) clock: Arc<MachineClock>,
    /// To the database.
    pub(super) line: Arc<Line>,
    process: Mutex<Option<Arc<Process>>>,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) node: Arc<CheckNode>,
    pub(super) host: Host,
    stop: CancellationToken,
    /// Whether it has opened its doors.
    is_ready: Arc<AtomicBool>,
    /// Cancelled when it answers nobody any more.
    pub(super) doors: CancellationToken,
    pub(super) replica: Option<(Arc<Replica>, Arc<Service>)>,
}

impl Plan {
    /// So many replicas with right clocks, and nothing else.
    pub(super) fn replicas(count: usize, lease: Duration) -> Self {
        let machine =
            MachinePlan { upstreams: Vec::new(), drift: 0, wall_offset: TimeDelta::zero(), lease };
        Self { database_drift: 0, machines: vec![machine; count] }
    }

    /// With a sidecar that follows these, in turn.
    pub(super) fn with_sidecar(mut self, upstreams: Vec<usize>) -> Self {
        let machine = MachinePlan { upstreams, ..self.machines[0].clone() };
        self.machines.push(machine);
        self
    }

    pub(super) fn random(random: &Random) -> Self {
        let lease =
            Duration::from_millis(*random.pick(&[400, 600, 1_000, 1_000, 2_000]).unwrap_or(&400));
        let is_mixed = random.chance(30);
        let machine = |upstreams: Vec<usize>| MachinePlan {
            upstreams,
            drift: drift(random),
            wall_offset: wall_offset(random),
            lease: if is_mixed && random.chance(50) { lease * 2 } else { lease },
        };
        let mut machines: Vec<_> = (0..3).map(|_| machine(Vec::new())).collect();
        let (near, far) = (random.between(2, 4), random.between(1, 3));
        for _ in 0..near {
            machines.push(machine(some(random, 0, 3)));
        }
        let near = machines.len();
        for _ in 0..far {
            let from = if random.chance(30) { 0 } else { 3 };
            machines.push(machine(some(random, from, near)));
        }
        Self { database_drift: drift(random), machines }
    }
}

/// One to three of the numbers from `first` to before `end`, in any order.
fn some(random: &Random, first: usize, end: usize) -> Vec<usize> {
    let mut chosen = Vec::new();
    for _ in 0..random.between(1, 3) {
        let number = random.between(first as u64, end as u64 - 1);
        let number = usize::try_from(number).unwrap_or(first);
        if !chosen.contains(&number) {
            chosen.push(number);
        }
    }
    chosen
}

/// Often as wrong as can be.
fn drift(random: &Random) -> i64 {
    let most = DRIFT_MAX.unsigned_abs();
    match random.between(0, 5) {
        0 | 1 => DRIFT_MAX,
        2 | 3 => -DRIFT_MAX,
        4 => 0,
        _ => i64::try_from(random.between(0, 2 * most)).unwrap_or(0) - DRIFT_MAX,
    }
}

/// A little, or by hours, either way.
pub(super) fn wall_offset(random: &Random) -> TimeDelta {
    let most = *random.pick(&[0, 500, 3_600_000, 20_000_000]).unwrap_or(&0);
    let offset = i64::try_from(random.between(0, 2 * most)).unwrap_or(0);
    TimeDelta::milliseconds(offset - i64::try_from(most).unwrap_or(0))
}

impl World {
    pub(super) async fn new(plan: Plan, random: Arc<Random>) -> Arc<Self> {
        let lease = plan.machines.iter().map(|machine| machine.lease).max().unwrap_or_default();
        let (to_watch, ends) = mpsc::unbounded_channel();
        let clock = Arc::new(DatabaseClock::new(plan.database_drift));
        let judge = Arc::new(Judge::new(lease, Arc::clone(&clock), to_watch));
        let database = Database::new(clock, Arc::clone(&judge));
        if let Ok(head) = database.store.log().head().await {
            judge.restored(head, Aftermath::Clean);
        }
        let network = Network::new(Arc::clone(&random));
        let machine = |(number, plan): (usize, MachinePlan)| Machine::new(number, plan, &random);
        let machines = plan.machines.into_iter().enumerate().map(machine).collect();
        let tasks = TaskTracker::new();
        let world = Arc::new(Self { random, judge, database, network, machines, tasks, lease });
        world.tasks.spawn(Arc::clone(&world).watch_ends(ends));
        world
    }

    pub(super) fn now(&self) -> Time {
        self.database.clock.now()
    }

    /// Starts a process on a machine where none runs.
    pub(super) fn start(self: &Arc<Self>, number: usize) -> Option<Arc<Process>> {
        let machine = &self.machines[number];
        if machine.process().is_some() {
            return None;
        }
        let process = if machine.plan.upstreams.is_empty() {
            self.start_replica(machine)
        } else {
            self.start_sidecar(machine)
        };
        let MachinePlan { upstreams, drift, lease, .. } = &machine.plan;
        let name = &machine.name;
        self.judge.note(&format!("{name} starts: {lease:?}, drift {drift}, follows {upstreams:?}"));
        *machine.process.lock() = Some(Arc::clone(&process));
        self.tasks.spawn(Arc::clone(self).observe(number, Arc::clone(&process)));
        Some(process)
    }

    fn start_replica(&self, machine: &Machine) -> Arc<Process> {
        let clock: Arc<dyn Clock> = machine.clock.clone();
        let node = CheckNode::new(NodeId(self.random.uuid()), NodeKind::Replica, clock);
        let (database, line) = (Arc::clone(&self.database), Arc::clone(&machine.line));
        let store: Arc<dyn Store> = Arc::new(FaultyStore::new(database, line));
        let lease = machine.plan.lease;
        let replica = Replica::new(Arc::clone(&node), store, lease);
        let limits = Limits { live_grants_per_tenant: 100, max_staleness: lease };
        let work = Arc::new(Service::new(Arc::clone(&replica), catalogue(), limits));
        let process = Arc::new(Process {
            node,
            host: Host::new(&machine.name, Arc::clone(&self.judge)),
            stop: CancellationToken::new(),
            is_ready: Arc::default(),
            doors: CancellationToken::new(),
            replica: Some((Arc::clone(&replica), Arc::clone(&work))),
        });
        let (stop, is_ready) = (process.stop.clone(), Arc::clone(&process.is_ready));
        process.host.spawn(async move {
            while replica.join().await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
            is_ready.store(true, Ordering::Relaxed);
            let enforcer = Arc::clone(replica.enforcer());
            tokio::join!(
                replica.run(stop.clone()),
                enforcer.run(stop.clone()),
                expiry::run(work, stop)
            );
        });
        process
    }

    fn start_sidecar(self: &Arc<Self>, machine: &Machine) -> Arc<Process> {
        let clock: Arc<dyn Clock> = machine.clock.clone();
        let node = CheckNode::new(NodeId(self.random.uuid()), NodeKind::Sidecar, clock);
        let address = |&upstream: &usize| {
            let (world, follower) = (Arc::clone(self), machine.number);
            Arc::new(Address { world, follower, upstream }) as Arc<dyn Upstream>
        };
        let upstreams: Vec<_> = machine.plan.upstreams.iter().map(address).collect();
        let process = Arc::new(Process {
            node: Arc::clone(&node),
            host: Host::new(&machine.name, Arc::clone(&self.judge)),
            stop: CancellationToken::new(),
            is_ready: Arc::new(AtomicBool::new(true)),
            doors: CancellationToken::new(),
            replica: None,
        });
        let (stop, judge) = (process.stop.clone(), Arc::clone(&self.judge));
        process.host.spawn(async move {
            if let Err(error) = upstream_session::run(node, upstreams, stop).await {
                judge.accuse(format!("a sidecar was refused: {error}"));
            }
        });
        process
    }

    /// Looks at a node whenever it has changed.
    async fn observe(self: Arc<Self>, number: usize, process: Arc<Process>) {
        let mut news = process.node.watch();
        let name = &self.machines[number].name;
        let mut before = None;
        while process.host.lives_until(news.changed()).await {
            let now = (process.node.revision(), process.node.read_view().is_fresh());
            if before != Some(now) {
                before = Some(now);
                let what = if now.1 { "fresh" } else { "stale" };
                self.judge.note(&format!("{name} is at r{}, {what}", now.0));
            }
            if !process.doors.is_cancelled() {
                self.judge.look(name, &process.node);
            }
        }
    }

    /// Ends a process without a word.
    pub(super) fn crash(&self, number: usize) {
        let machine = &self.machines[number];
        if let Some(process) = machine.process.lock().take() {
            self.judge.note(&format!("{} crashes", machine.name));
            process.doors.cancel();
            process.host.kill();
            machine.clock.wake_up();
        }
    }

    /// Tells a process to end, and waits until it has.
    pub(super) async fn stop(&self, number: usize) {
        let machine = &self.machines[number];
        if let Some(process) = machine.process() {
            self.judge.note(&format!("{} is told to stop", machine.name));
            process.doors.cancel();
            process.stop.cancel();
            let _ = timeout(STOP_TIMEOUT, process.host.ended()).await;
            self.crash(number);
        }
    }

    /// Asks every node about a grant, at this very moment. A node that is paused might go on and answer at any time.
    pub(super) fn ask_all(&self, subject: &Subject) {
        for machine in &self.machines {
            if let Some(process) = machine.open_process() {
                self.judge.ask(&machine.name, &process.node, subject);
            }
        }
    }

    /// Asks about grants when they end, and a little later.
    async fn watch_ends(self: Arc<Self>, mut ends: mpsc::UnboundedReceiver<(Subject, Time)>) {
        while let Some((subject, end)) = ends.recv().await {
            if between(self.now(), end) < WATCHED {
                self.tasks.spawn(Arc::clone(&self).watch_end(subject, end));
            }
        }
    }

    async fn watch_end(self: Arc<Self>, subject: Subject, end: Time) {
        while self.now() < end {
            let rest = between(self.now(), end) * 98 / 100;
            sleep(rest.max(Duration::from_millis(1))).await;
        }
        for pause in [0, 1, 2, 4, 8, 16, 32] {
            sleep(Duration::from_millis(pause)).await;
            self.ask_all(&subject);
        }
    }
}

impl Machine {
    fn new(number: usize, plan: MachinePlan, random: &Arc<Random>) -> Self {
        let letter = if plan.upstreams.is_empty() { 'R' } else { 'S' };
        let boot_offset = random.millis(0, 100_000_000);
        let clock = Arc::new(MachineClock::new(plan.drift, boot_offset, plan.wall_offset));
        Self {
            name: format!("{letter}{number}"),
            number,
            plan,
            clock,
            line: Line::new(Arc::clone(random)),
            process: Mutex::default(),
        }
    }

    pub(super) fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().clone()
    }

    /// The process, if it answers.
    pub(super) fn open_process(&self) -> Option<Arc<Process>> {
        self.process().filter(|process| {
            process.is_ready.load(Ordering::Relaxed) && !process.doors.is_cancelled()
        })
    }
}

pub(super) fn catalogue() -> SupportPolicy {
    let mut policy = SupportPolicy::default();
    let template = policy.groups[0].clone();
    policy.groups = (0..GROUPS)
        .map(|number| {
            let mut group = template.clone();
            group.group_id = group_id(number);
            group.max_access_level = AccessLevel::Admin;
            group
        })
        .collect();
    policy
}

pub(super) fn group_id(number: usize) -> GroupId {
    GroupId::new(&format!("g{number}")).unwrap_or_else(|_| GroupId::fixed("g"))
}
