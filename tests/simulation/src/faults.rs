//! What goes wrong, and when it is over.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    checker::Aftermath,
    cluster::{World, wall_offset},
    link::Weather,
    network::Pair,
    workload::Users,
};

/// Lets things go wrong until all is calm.
#[derive(Debug)]
pub(crate) struct Storms {
    world: Arc<World>,
    users: Arc<Users>,
    calm: CancellationToken,
    /// The longest lease, in milliseconds.
    lease: u64,
    /// Held while the database fails.
    failure: Mutex<()>,
    /// What has not been put right yet.
    raging: TaskTracker,
}

impl Storms {
    pub(crate) fn new(world: Arc<World>, users: Arc<Users>, calm: CancellationToken) -> Arc<Self> {
        let lease = u64::try_from(world.lease.as_millis()).unwrap_or(1);
        Arc::new(Self {
            world,
            users,
            calm,
            lease,
            failure: Mutex::default(),
            raging: TaskTracker::new(),
        })
    }

    /// One thing after the other; each may go on for a while.
    pub(crate) async fn rage(self: Arc<Self>) {
        let random = Arc::clone(&self.world.random);
        loop {
            let pause = random.millis(20, self.lease / 2);
            if self.calm.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            let storm = Arc::clone(&self);
            self.raging.spawn(async move {
                storm.any().await;
            });
        }
    }

    async fn any(&self) {
        match self.world.random.between(0, 99) {
            0..10 => self.hold_up(self.machine(), self.world.random.chance(50)).await,
            10..18 => self.crash().await,
            18..23 => self.leave().await,
            23..48 => self.line().await,
            48..68 => self.pair().await,
            68..71 => self.clocks(),
            71..74 => self.outage().await,
            74..77 => self.restore().await,
            _ => self.ambush().await,
        }
    }

    fn machine(&self) -> usize {
        let machines = self.world.machines.len() as u64;
        usize::try_from(self.world.random.between(0, machines - 1)).unwrap_or(0)
    }

    fn replica(&self) -> usize {
        usize::try_from(self.world.random.between(0, 2)).unwrap_or(0)
    }

    /// Mostly short, sometimes about as long as a lease, sometimes much longer.
    fn span(&self) -> Duration {
        let random = &self.world.random;
        let lease = self.lease;
        match random.between(0, 9) {
            0..4 => random.millis(1, lease / 3),
            4..8 => random.millis(lease * 8 / 10, lease * 13 / 10),
            _ => random.millis(lease, lease * 3),
        }
    }

    /// Waits, or until all is calm.
    async fn last(&self, span: Duration) {
        self.calm.run_until_cancelled(sleep(span)).await;
    }

    // === machines ===

    /// A process stops running for a while: SIGSTOP, or the whole machine is suspended.
    async fn hold_up(&self, number: usize, is_suspended: bool) {
        let machine = &self.world.machines[number];
        let Some(process) = machine.process() else { return };
        let what = if is_suspended { "suspended" } else { "paused" };
        self.world.judge.note(&format!("{} is {what}", machine.name));
        process.host.pause();
        if is_suspended {
            machine.clock.fall_asleep();
        }
        self.last(self.span()).await;
        self.world.judge.note(&format!("{} goes on", machine.name));
        machine.clock.wake_up();
        process.host.resume();
    }

    async fn crash(&self) {
        let number = self.machine();
        self.world.crash(number);
        self.last(self.span()).await;
        self.come_back(number).await;
    }

    async fn leave(&self) {
        let number = self.machine();
        self.world.stop(number).await;
        self.last(self.span()).await;
        self.come_back(number).await;
    }

    /// Often slowly, and somebody is revoked as soon as it can answer.
    async fn come_back(&self, number: usize) {
        let Some(process) = self.world.start(number) else { return };
        let line = &self.world.machines[number].line;
        if self.world.random.chance(50) {
            line.change(|it| it.delay = (0, self.lease / 4));
        }
        let ready = timeout(self.world.lease * 2, async {
            let mut news = process.node.watch();
            while !process.node.read_view().is_fresh() {
                news.changed().await;
            }
        });
        if let Some(Ok(())) = self.calm.run_until_cancelled(ready).await {
            self.revoke_any();
        }
        line.change(|it| it.delay = Weather::FINE.delay);
    }

    /// Somebody is revoked, whoever it is.
    fn revoke_any(&self) {
        let (replica, live) = (self.users.replica(), self.users.any_live());
        if let (Some(replica), Some((subject, terms))) = (replica, live) {
            let deadline = Instant::now() + self.world.lease * 4;
            self.users.revoke(&replica, subject, &terms, deadline);
        }
    }

    fn clocks(&self) {
        let random = &self.world.random;
        if random.chance(50) {
            self.world.machines[self.machine()].clock.set_wall(wall_offset(random));
        } else {
            let span = i64::try_from(random.between(1, 200)).unwrap_or(1);
            self.world.judge.note(&format!("the database's clock is set back by {span} ms"));
            self.world.database.clock.set_back(TimeDelta::milliseconds(span));
        }
    }

    // === lines ===

    /// Bad weather between a replica and the database.
    async fn line(&self) {
        let (random, lease) = (&self.world.random, self.lease);
        let machine = &self.world.machines[self.replica()];
        let weather = match random.between(0, 7) {
            0 => Weather { is_cut: true, ..Weather::FINE },
            1 => Weather { is_refused: true, ..Weather::FINE },
            2 => Weather { delay: (0, lease / 2), ..Weather::FINE },
            3 => Weather { gap: (0, lease * 11 / 10), ..Weather::FINE },
            4 => Weather { gap: (lease * 5 / 10, lease * 9 / 10), ..Weather::FINE },
            5 => Weather { lost_answers: 30, ..Weather::FINE },
            6 => Weather { reading: (0, lease * 12 / 10), ..Weather::FINE },
            _ => Weather { lost_hints: 100, delay: (0, 20), ..Weather::FINE },
        };
        self.world.judge.note(&format!("{} to the database: {weather:?}", machine.name));
        machine.line.change(|it| *it = weather);
        self.last(self.span()).await;
        machine.line.change(|it| *it = Weather::FINE);
    }

    /// Bad weather between a follower and a node that feeds it.
    async fn pair(&self) {
        let random = &self.world.random;
        let sidecar = 3 + random.between(0, self.world.machines.len() as u64 - 4);
        let sidecar = usize::try_from(sidecar).unwrap_or(3);
        let machine = &self.world.machines[sidecar];
        let Some(&upstream) = random.pick(&machine.plan.upstreams) else { return };
        let pair = self.world.network.pair(sidecar, upstream);
        self.weather_between(&pair, &format!("{} to {upstream}", machine.name)).await;
    }

    async fn weather_between(&self, pair: &Pair, name: &str) {
        let (random, judge) = (&self.world.random, &self.world.judge);
        let dice = random.between(0, 6);
        let slow = (0, self.lease / 4);
        match dice {
            0 | 1 => {
                judge.note(&format!("{name}: streams are cut"));
                let losses = if random.chance(50) { 40 } else { 0 };
                pair.up.change(|it| it.lost_answers = losses);
                pair.down.change(|it| it.lost_answers = losses);
                pair.cut();
                return;
            }
            2 => pair.up.change(|it| it.is_cut = true),
            3 => pair.down.change(|it| it.is_cut = true),
            4 => pair.up.change(|it| it.delay = slow),
            5 => pair.down.change(|it| it.delay = slow),
            _ => {
                pair.up.change(|it| it.is_cut = true);
                pair.down.change(|it| it.is_cut = true);
            }
        }
        judge.note(&format!("{name}: bad weather {dice}"));
        self.last(self.span()).await;
        pair.up.change(|it| *it = Weather::FINE);
        pair.down.change(|it| *it = Weather::FINE);
    }

    // === the database ===

    /// ToFollower for a while, or fails over to a machine that has everything.
    async fn outage(&self) {
        let Ok(_failure) = self.failure.try_lock() else { return };
        self.world.judge.note("the database is down");
        self.world.database.go_down();
        self.last(self.span()).await;
        self.world.judge.note("the database is up");
        self.world.database.come_up();
    }

    /// Fails over to a machine that lacks the last commits, or an older backup is restored, or another database takes the place:
    /// once nobody can answer any more, as the documentation demands.
    async fn restore(&self) {
        let Ok(_failure) = self.failure.try_lock() else { return };
        let (database, random) = (&self.world.database, &self.world.random);
        let Ok(backup) = database.store.backup() else { return };
        let most = if random.chance(60) { 400 } else { 3_000 };
        self.last(random.millis(0, most)).await;
        self.world.judge.note("the database is down, to be restored");
        database.go_down();
        sleep(self.world.lease).await;
        if random.chance(80) {
            database.come_up_with(backup, Aftermath::Clean).await;
        } else {
            database.come_up_empty().await;
        }
    }

    // === at the worst moment ===

    /// Somebody is revoked right when a node, which has just proven that it is current, is cut off.
    async fn ambush(&self) {
        let random = &self.world.random;
        let number = self.machine();
        let victim = &self.world.machines[number];
        let Some(process) = victim.open_process() else { return };
        let mut news = process.node.watch();
        let proven = timeout(self.world.lease, async {
            let leases = news.read().leases;
            while news.read().leases == leases {
                news.changed().await;
            }
        });
        if proven.await.is_err() {
            return;
        }
        self.world.judge.note(&format!("ambush of {}", victim.name));
        self.revoke_any();
        match random.between(0, 5) {
            0 => self.hold_up(number, false).await,
            1 => self.hold_up(number, true).await,
            2 if number < 3 => {
                victim.line.change(|it| it.is_cut = true);
                self.last(self.span()).await;
                victim.line.change(|it| it.is_cut = false);
            }
            2..5 => {
                for pair in self.pairs_of(number) {
                    pair.down.change(|it| it.is_cut = true);
                }
                self.last(self.span()).await;
                for pair in self.pairs_of(number) {
                    pair.down.change(|it| it.is_cut = false);
                }
            }
            _ => {
                self.world.crash(number);
                self.world.start(number);
            }
        }
    }

    fn pairs_of(&self, number: usize) -> Vec<Arc<Pair>> {
        let upstreams = self.world.machines[number].plan.upstreams.iter();
        upstreams.map(|upstream| self.world.network.pair(number, *upstream)).collect()
    }

    // === afterwards ===

    /// Everything works again, and everybody is there.
    pub(crate) async fn heal(&self) {
        let world = &self.world;
        self.raging.close();
        self.raging.wait().await;
        world.judge.note("everything is healed");
        for pair in world.network.all() {
            pair.up.change(|it| *it = Weather::FINE);
            pair.down.change(|it| *it = Weather::FINE);
        }
        for (number, machine) in world.machines.iter().enumerate() {
            machine.line.change(|it| *it = Weather::FINE);
            machine.clock.wake_up();
            if let Some(process) = machine.process() {
                process.host.resume();
            }
            world.start(number);
        }
    }
}
