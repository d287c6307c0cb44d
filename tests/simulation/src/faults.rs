//! Random faults, and the repair at the end.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    checker::RestoreKind,
    cluster::Cluster,
    link::LinkConditions,
    network::Route,
    plan::{REPLICAS, wall_offset},
    workload::Workload,
};

/// Injects faults until quiesced.
#[derive(Debug)]
pub(crate) struct FaultInjector {
    cluster: Arc<Cluster>,
    workload: Arc<Workload>,
    /// Cancelled when all faults must end.
    quiesce: CancellationToken,
    /// The longest lease duration, in milliseconds.
    lease_ms: u64,
    /// Locked during a fault of the database, so that these faults do not overlap.
    database_fault: Mutex<()>,
    /// Faults that have not ended.
    active: TaskTracker,
}

impl FaultInjector {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        workload: Arc<Workload>,
        quiesce: CancellationToken,
    ) -> Arc<Self> {
        let lease_ms = u64::try_from(cluster.max_staleness.as_millis()).unwrap_or(1);
        let (database_fault, active) = (Mutex::default(), TaskTracker::new());
        Arc::new(Self { cluster, workload, quiesce, lease_ms, database_fault, active })
    }

    /// Injects one fault after the other. Faults may overlap.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let pause = self.cluster.random.millis(20, self.lease_ms / 2);
            if self.quiesce.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            let injector = Arc::clone(&self);
            self.active.spawn(async move {
                injector.inject().await;
            });
        }
    }

    async fn inject(&self) {
        match self.cluster.random.between(0, 99) {
            0..10 => self.pause(self.any_machine(), self.cluster.random.chance(50)).await,
            10..18 => self.crash().await,
            18..23 => self.stop().await,
            23..48 => self.degrade_database_link().await,
            48..68 => self.degrade_route().await,
            68..70 => self.set_wall_clock(),
            70..71 => self.step_database_clock().await,
            71..74 => self.fail_database().await,
            74..77 => self.restore_database().await,
            77..79 => self.forge_grants().await,
            _ => self.fault_after_renewal().await,
        }
    }

    fn any_machine(&self) -> usize {
        let machines = self.cluster.machines.len() as u64;
        usize::try_from(self.cluster.random.between(0, machines - 1)).unwrap_or(0)
    }

    fn any_replica(&self) -> usize {
        usize::try_from(self.cluster.random.between(0, REPLICAS as u64 - 1)).unwrap_or(0)
    }

    /// The duration of a fault: mostly short, sometimes about as long as a lease, sometimes much
    /// longer.
    fn duration(&self) -> Duration {
        let random = &self.cluster.random;
        let lease_ms = self.lease_ms;
        match random.between(0, 9) {
            0..4 => random.millis(1, lease_ms / 3),
            4..8 => random.millis(lease_ms * 8 / 10, lease_ms * 13 / 10),
            _ => random.millis(lease_ms, lease_ms * 3),
        }
    }

    /// Waits for the duration of a fault, or until quiesced.
    async fn hold(&self, duration: Duration) {
        self.quiesce.run_until_cancelled(sleep(duration)).await;
    }

    // === machines ===

    /// Pauses a process, as SIGSTOP does, or suspends the machine.
    async fn pause(&self, number: usize, is_suspended: bool) {
        let machine = &self.cluster.machines[number];
        let Some(running) = machine.running() else { return };
        let fault = if is_suspended { "suspended" } else { "paused" };
        self.cluster.checker.log(&format!("{} is {fault}", machine.name));
        running.process.pause();
        if is_suspended {
            machine.clock.suspend();
        }
        self.hold(self.duration()).await;
        self.cluster.checker.log(&format!("{} resumes", machine.name));
        machine.clock.resume();
        running.process.resume();
    }

    async fn crash(&self) {
        let number = self.any_machine();
        self.cluster.crash(number);
        self.hold(self.duration()).await;
        self.restart(number).await;
    }

    async fn stop(&self) {
        let number = self.any_machine();
        self.cluster.stop(number).await;
        self.hold(self.duration()).await;
        self.restart(number).await;
    }

    /// Starts a node, often over a slow link, and revokes a grant as soon as the node has a lease.
    async fn restart(&self, number: usize) {
        let Some(running) = self.cluster.start(number) else { return };
        let link = &self.cluster.machines[number].database_link;
        if self.cluster.random.chance(50) {
            link.modify(|conditions| conditions.delay = (0, self.lease_ms / 4));
        }
        let is_fresh = timeout(self.cluster.max_staleness * 2, async {
            let mut progress = running.node.watch();
            while !running.node.read_view().is_fresh() {
                progress.changed().await;
            }
        });
        if let Some(Ok(())) = self.quiesce.run_until_cancelled(is_fresh).await {
            self.revoke_any();
        }
        link.modify(|conditions| conditions.delay = LinkConditions::HEALTHY.delay);
    }

    fn revoke_any(&self) {
        let (replica, live) = (self.workload.any_replica(), self.workload.any_live());
        if let (Some(replica), Some((grant, terms))) = (replica, live) {
            let deadline = Instant::now() + self.cluster.max_staleness * 4;
            self.workload.revoke(&replica, grant, &terms, deadline);
        }
    }

    fn set_wall_clock(&self) {
        let machine = &self.cluster.machines[self.any_machine()];
        machine.clock.set_wall(wall_offset(&self.cluster.random));
    }

    /// Steps the database clock, for a while or for good. An operator may accept each step.
    async fn step_database_clock(&self) {
        let random = &self.cluster.random;
        let most = *random.pick(&[200, 2_000, 20_000, 3_600_000]).unwrap_or(&200);
        let millis = i64::try_from(random.between(1, most)).unwrap_or(1);
        let by = TimeDelta::milliseconds(if random.chance(50) { millis } else { -millis });
        let is_undone = random.chance(50);
        self.step_clock(by);
        self.accept_clock().await;
        if is_undone {
            self.hold(self.duration()).await;
            self.step_clock(-by);
            self.accept_clock().await;
        }
    }

    /// In some cases, an operator accepts the clock after a while.
    async fn accept_clock(&self) {
        if self.cluster.random.chance(60) {
            return;
        }
        self.hold(self.duration()).await;
        if let Some(replica) = self.workload.any_replica() {
            self.workload.accept_clock(&replica);
        }
    }

    fn step_clock(&self, by: TimeDelta) {
        self.cluster.checker.log(&format!("the database clock steps by {by}"));
        self.cluster.database.clock.step(by);
    }

    // === links ===

    async fn degrade_database_link(&self) {
        const HEALTHY: LinkConditions = LinkConditions::HEALTHY;
        let (random, lease_ms) = (&self.cluster.random, self.lease_ms);
        let machine = &self.cluster.machines[self.any_replica()];
        let conditions = match random.between(0, 7) {
            0 => LinkConditions::CUT,
            1 => LinkConditions::REFUSED,
            2 => LinkConditions { delay: (0, lease_ms / 2), ..HEALTHY },
            3 => LinkConditions { commit_gap: (0, lease_ms * 11 / 10), ..HEALTHY },
            4 => {
                let commit_gap = (lease_ms * 5 / 10, lease_ms * 9 / 10);
                LinkConditions { commit_gap, ..HEALTHY }
            }
            5 => LinkConditions { lost_responses: 30, ..HEALTHY },
            6 => LinkConditions { read_delay: (0, lease_ms * 12 / 10), ..HEALTHY },
            _ => LinkConditions { lost_notifications: 100, delay: (0, 20), ..HEALTHY },
        };
        self.cluster.checker.log(&format!("{} to the database: {conditions:?}", machine.name));
        machine.database_link.set(conditions);
        self.hold(self.duration()).await;
        machine.database_link.set(HEALTHY);
    }

    async fn degrade_route(&self) {
        let (random, checker) = (&self.cluster.random, &self.cluster.checker);
        let sidecars = (self.cluster.machines.len() - REPLICAS) as u64;
        let sidecar = REPLICAS as u64 + random.between(0, sidecars - 1);
        let sidecar = usize::try_from(sidecar).unwrap_or(REPLICAS);
        let machine = &self.cluster.machines[sidecar];
        let Some(&upstream) = random.pick(&machine.plan.upstreams) else { return };
        let route = self.cluster.network.route(sidecar, upstream);
        let name = format!("{} to machine {upstream}", machine.name);
        let fault = random.between(0, 6);
        let slow = (0, self.lease_ms / 4);
        match fault {
            0 | 1 => {
                checker.log(&format!("{name}: streams are disconnected"));
                let losses = if random.chance(50) { 40 } else { 0 };
                route.to_upstream.modify(|conditions| conditions.lost_responses = losses);
                route.to_follower.modify(|conditions| conditions.lost_responses = losses);
                route.disconnect();
                return;
            }
            2 => route.to_upstream.modify(|conditions| conditions.is_cut = true),
            3 => route.to_follower.modify(|conditions| conditions.is_cut = true),
            4 => route.to_upstream.modify(|conditions| conditions.delay = slow),
            5 => route.to_follower.modify(|conditions| conditions.delay = slow),
            _ => {
                route.to_upstream.modify(|conditions| conditions.is_cut = true);
                route.to_follower.modify(|conditions| conditions.is_cut = true);
            }
        }
        checker.log(&format!("{name}: fault {fault}"));
        self.hold(self.duration()).await;
        route.set(LinkConditions::HEALTHY);
    }

    // === the database ===

    /// Takes the database down for a while, like a failover without losses.
    async fn fail_database(&self) {
        let Ok(_fault) = self.database_fault.try_lock() else { return };
        self.cluster.checker.log("the database is down");
        self.cluster.database.go_down();
        self.hold(self.duration()).await;
        self.cluster.checker.log("the database is up");
        self.cluster.database.come_up();
    }

    /// Loses the last commits in a failover, restores an older backup, or replaces the database by
    /// an empty one. The database comes up once all leases have expired, as the documentation
    /// requires.
    async fn restore_database(&self) {
        let Ok(_fault) = self.database_fault.try_lock() else { return };
        let (database, random) = (&self.cluster.database, &self.cluster.random);
        let backup = database.backup();
        let most = if random.chance(60) { 400 } else { 3_000 };
        self.hold(random.millis(0, most)).await;
        self.cluster.checker.log("the database is down, and will be restored");
        database.go_down();
        sleep(self.cluster.max_staleness).await;
        if random.chance(20) {
            let by =
                -TimeDelta::milliseconds(i64::try_from(random.between(1, 20_000)).unwrap_or(1));
            self.step_clock(by);
        }
        if random.chance(80) {
            database.come_up_with(backup, RestoreKind::LeasesExpired).await;
        } else {
            database.come_up_empty().await;
        }
    }

    /// Inserts forged grants into the rows that a replica loads.
    async fn forge_grants(&self) {
        let database = &self.cluster.database;
        self.cluster.checker.log("the database contains forged grants");
        database.forgeries.lock().has_grants = true;
        let replica = self.any_replica();
        self.cluster.crash(replica);
        self.cluster.start(replica);
        self.hold(self.duration()).await;
        self.cluster.checker.log("the database contains no forged grants");
        database.forgeries.lock().has_grants = false;
    }

    // === after a renewal ===

    /// Revokes a grant right after a node has renewed the lease, and cuts that node off.
    async fn fault_after_renewal(&self) {
        let random = &self.cluster.random;
        let number = self.any_machine();
        let machine = &self.cluster.machines[number];
        let Some(running) = machine.serving_node() else { return };
        let mut progress = running.node.watch();
        let renewed = timeout(self.cluster.max_staleness, async {
            let leases = progress.read().leases;
            while progress.read().leases == leases {
                progress.changed().await;
            }
        });
        if renewed.await.is_err() {
            return;
        }
        self.cluster.checker.log(&format!("{} is cut off after a renewal", machine.name));
        self.revoke_any();
        match random.between(0, 5) {
            0 => self.pause(number, false).await,
            1 => self.pause(number, true).await,
            2 if number < REPLICAS => {
                machine.database_link.modify(|conditions| conditions.is_cut = true);
                self.hold(self.duration()).await;
                machine.database_link.modify(|conditions| conditions.is_cut = false);
            }
            2..5 => {
                for route in self.routes_of(number) {
                    route.to_follower.modify(|conditions| conditions.is_cut = true);
                }
                self.hold(self.duration()).await;
                for route in self.routes_of(number) {
                    route.to_follower.modify(|conditions| conditions.is_cut = false);
                }
            }
            _ => {
                self.cluster.crash(number);
                self.cluster.start(number);
            }
        }
    }

    fn routes_of(&self, number: usize) -> Vec<Arc<Route>> {
        let upstreams = self.cluster.machines[number].plan.upstreams.iter();
        upstreams.map(|upstream| self.cluster.network.route(number, *upstream)).collect()
    }

    // === repair ===

    /// Waits for all faults to end, repairs everything, and starts all nodes.
    pub(crate) async fn repair(&self) {
        let cluster = &self.cluster;
        self.active.close();
        self.active.wait().await;
        cluster.checker.log("everything is repaired");
        cluster.database.clock.correct();
        for route in cluster.network.routes() {
            route.set(LinkConditions::HEALTHY);
        }
        for (number, machine) in cluster.machines.iter().enumerate() {
            machine.database_link.set(LinkConditions::HEALTHY);
            machine.clock.resume();
            if let Some(running) = machine.running() {
                running.process.resume();
            }
            cluster.start(number);
        }
    }
}
