//! The simulated cluster: one database, and machines with separate clocks that run check nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    check::GrantKey,
    checker::{Checker, GrantEnd, RestoreKind},
    clocks::{DatabaseClock, MachineClock},
    database::Database,
    domain::{Clock, NodeId, NodeKind, Time, time::between},
    faulty_store::FaultyStore,
    link::Link,
    network::{Network, SimulatedName, SimulatedUpstream},
    node::{
        CheckNode,
        replica::Replica,
        upstreams::{self, Upstream, UpstreamName},
    },
    plan::{MachinePlan, Plan, catalogue},
    process::Process,
    random::Random,
    service::{Limits, Service, expiry},
    store::Store,
};

/// How long a process may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Ends of grants that are further away are not watched.
const WATCHED_ENDS: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) random: Arc<Random>,
    pub(crate) checker: Arc<Checker>,
    pub(crate) database: Arc<Database>,
    pub(crate) network: Network,
    pub(crate) machines: Vec<Machine>,
    pub(crate) tasks: TaskTracker,
    /// The longest `max_staleness` of all machines.
    pub(crate) max_staleness: Duration,
}

/// A machine, which runs at most one check node at a time.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    number: usize,
    pub(crate) plan: MachinePlan,
    pub(crate) clock: Arc<MachineClock>,
    pub(crate) database_link: Arc<Link>,
    running: Mutex<Option<Arc<RunningNode>>>,
}

/// A check node in a process.
#[derive(Debug)]
pub(crate) struct RunningNode {
    pub(crate) node: Arc<CheckNode>,
    pub(crate) process: Process,
    /// `None` for a sidecar.
    pub(crate) replica: Option<(Arc<Replica>, Arc<Service>)>,
    /// Whether the node accepts connections.
    is_ready: Arc<AtomicBool>,
    /// Cancelled when the node stops answering checks and serving followers.
    pub(crate) closed: CancellationToken,
    stop: CancellationToken,
}

impl Cluster {
    /// A cluster in which no machine runs a node.
    pub(crate) async fn new(plan: Plan, random: Arc<Random>) -> Arc<Self> {
        let max_staleness = plan.machines.iter().map(|machine| machine.max_staleness).max();
        let max_staleness = max_staleness.unwrap_or_default();
        let (to_watch, ends) = mpsc::unbounded_channel();
        let clock = Arc::new(DatabaseClock::new(plan.database_drift));
        let checker = Arc::new(Checker::new(max_staleness, Arc::clone(&clock), to_watch));
        let database = Database::new(clock, Arc::clone(&checker));
        if let Ok(head) = database.store.log().head().await {
            checker.record_restore(head, RestoreKind::LeasesExpired);
        }
        let network = Network::new(Arc::clone(&random));
        let machine = |(number, plan): (usize, MachinePlan)| Machine::new(number, plan, &random);
        let machines = plan.machines.into_iter().enumerate().map(machine).collect();
        let tasks = TaskTracker::new();
        let cluster =
            Arc::new(Self { random, checker, database, network, machines, tasks, max_staleness });
        cluster.tasks.spawn(Arc::clone(&cluster).watch_ends(ends));
        cluster
    }

    /// The time of the database.
    pub(crate) fn now(&self) -> Time {
        self.database.clock.now()
    }

    // === nodes ===

    /// Starts a node, unless the machine already runs one.
    pub(crate) fn start(self: &Arc<Self>, number: usize) -> Option<Arc<RunningNode>> {
        let machine = &self.machines[number];
        if machine.running().is_some() {
            return None;
        }
        let running = if machine.plan.upstreams.is_empty() {
            self.start_replica(machine)
        } else {
            self.start_sidecar(machine)
        };
        let MachinePlan { upstreams, drift, max_staleness, .. } = &machine.plan;
        let name = &machine.name;
        self.checker.log(&format!(
            "{name} starts: {max_staleness:?}, drift {drift}, follows {upstreams:?}"
        ));
        *machine.running.lock() = Some(Arc::clone(&running));
        self.tasks.spawn(Arc::clone(self).observe(number, Arc::clone(&running)));
        Some(running)
    }

    fn start_replica(&self, machine: &Machine) -> Arc<RunningNode> {
        let clock: Arc<dyn Clock> = machine.clock.clone();
        let node = CheckNode::new(NodeId(self.random.uuid()), NodeKind::Replica, clock);
        let (database, link) = (Arc::clone(&self.database), Arc::clone(&machine.database_link));
        let store = Store::new(Arc::new(FaultyStore::new(database, link, node.id())));
        let max_staleness = machine.plan.max_staleness;
        let replica = Replica::new(Arc::clone(&node), store, max_staleness);
        let limits =
            Limits { live_grants_per_tenant: 100, live_grants_per_group: 100, max_staleness };
        let service = Arc::new(Service::new(Arc::clone(&replica), catalogue(), limits));
        let running = Arc::new(RunningNode {
            node,
            process: Process::new(&machine.name, Arc::clone(&self.checker)),
            replica: Some((Arc::clone(&replica), Arc::clone(&service))),
            is_ready: Arc::default(),
            closed: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let (stop, is_ready) = (running.stop.clone(), Arc::clone(&running.is_ready));
        running.process.spawn(async move {
            while replica.join().await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
            is_ready.store(true, Ordering::Relaxed);
            let enforcer = Arc::clone(replica.enforcer());
            tokio::join!(
                replica.run(stop.clone()),
                enforcer.run(stop.clone()),
                expiry::run(service, stop)
            );
        });
        running
    }

    fn start_sidecar(self: &Arc<Self>, machine: &Machine) -> Arc<RunningNode> {
        let clock: Arc<dyn Clock> = machine.clock.clone();
        let node = CheckNode::new(NodeId(self.random.uuid()), NodeKind::Sidecar, clock);
        let upstream = |&upstream: &usize| {
            let (cluster, follower) = (Arc::clone(self), machine.number);
            Arc::new(SimulatedUpstream { cluster, follower, upstream }) as Arc<dyn Upstream>
        };
        let upstreams: Vec<_> = machine.plan.upstreams.iter().map(upstream).collect();
        let name = |nodes| Arc::new(SimulatedName(nodes)) as Arc<dyn UpstreamName>;
        // One name with several addresses, or several names with one address.
        let names = if self.random.chance(50) {
            vec![name(upstreams)]
        } else {
            upstreams.into_iter().map(|upstream| name(vec![upstream])).collect()
        };
        let running = Arc::new(RunningNode {
            node: Arc::clone(&node),
            process: Process::new(&machine.name, Arc::clone(&self.checker)),
            replica: None,
            is_ready: Arc::new(AtomicBool::new(true)),
            closed: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let (stop, checker) = (running.stop.clone(), Arc::clone(&self.checker));
        running.process.spawn(async move {
            if let Err(error) = upstreams::run(node, names, stop).await {
                checker.violation(format!("a sidecar was rejected: {error}"));
            }
        });
        running
    }

    /// Kills a process.
    pub(crate) fn crash(&self, number: usize) {
        let machine = &self.machines[number];
        if let Some(running) = machine.running.lock().take() {
            self.checker.log(&format!("{} crashes", machine.name));
            running.closed.cancel();
            running.process.kill();
            machine.clock.resume();
        }
    }

    /// Stops a process, and waits for the end.
    pub(crate) async fn stop(&self, number: usize) {
        let machine = &self.machines[number];
        if let Some(running) = machine.running() {
            self.checker.log(&format!("{} is stopped", machine.name));
            running.closed.cancel();
            running.stop.cancel();
            let _ = timeout(STOP_TIMEOUT, running.process.ended()).await;
            self.crash(number);
        }
    }

    // === checks ===

    /// Checks a node after each change of the view.
    async fn observe(self: Arc<Self>, number: usize, running: Arc<RunningNode>) {
        let mut progress = running.node.watch();
        let name = &self.machines[number].name;
        let mut logged = None;
        while running.process.lives_until(progress.changed()).await {
            let state = (running.node.revision(), running.node.read_view().is_fresh());
            if logged != Some(state) {
                logged = Some(state);
                let lease = if state.1 { "fresh" } else { "stale" };
                self.checker.log(&format!("{name} is at r{}, {lease}", state.0));
            }
            if !running.closed.is_cancelled() {
                self.checker.check_recent_grants(name, &running.node);
            }
        }
    }

    /// Checks a grant at every node now, including paused nodes, which might resume and answer at
    /// any time.
    pub(crate) fn check_everywhere(&self, grant: &GrantKey) {
        for machine in &self.machines {
            if let Some(running) = machine.serving_node() {
                self.checker.check(&machine.name, &running.node, grant);
            }
        }
    }

    /// Checks grants around the end times.
    async fn watch_ends(self: Arc<Self>, mut ends: mpsc::UnboundedReceiver<GrantEnd>) {
        while let Some((grant, end, elapsed)) = ends.recv().await {
            if between(self.now(), end) < WATCHED_ENDS {
                self.tasks.spawn(Arc::clone(&self).watch_end(grant.clone(), end));
            }
            let cluster = Arc::clone(&self);
            self.tasks.spawn(async move {
                sleep_until(elapsed).await;
                cluster.check_everywhere(&grant);
            });
        }
    }

    async fn watch_end(self: Arc<Self>, grant: GrantKey, end: Time) {
        while self.now() < end {
            let rest = between(self.now(), end) * 98 / 100;
            sleep(rest.max(Duration::from_millis(1))).await;
        }
        for pause in [0, 1, 2, 4, 8, 16, 32] {
            sleep(Duration::from_millis(pause)).await;
            self.check_everywhere(&grant);
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
            database_link: Link::new(Arc::clone(random)),
            running: Mutex::default(),
        }
    }

    pub(crate) fn running(&self) -> Option<Arc<RunningNode>> {
        self.running.lock().clone()
    }

    /// The node of this machine, if the node answers checks and serves followers.
    pub(crate) fn serving_node(&self) -> Option<Arc<RunningNode>> {
        self.running().filter(|running| {
            running.is_ready.load(Ordering::Relaxed) && !running.closed.is_cancelled()
        })
    }
}
