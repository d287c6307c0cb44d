//! A small world for scenarios that are aimed at one rule: everything is fine until the scenario says otherwise.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    domain::{BootTime, End, Reason},
    simulation::{
        judge::Subject,
        line::Weather,
        random::Random,
        users::{Answer, Users},
        wellness,
        world::{Plan, Process, World},
    },
};

/// How long anything may take that is not meant to fail.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Stage {
    pub(super) world: Arc<World>,
    users: Arc<Users>,
}

impl Stage {
    /// A world where nothing runs.
    pub(super) async fn new(plan: Plan, seed: u64) -> Self {
        let world = World::new(plan, Arc::new(Random::new(seed))).await;
        let users = Users::new(Arc::clone(&world));
        Self { world, users }
    }

    /// Starts a process, and waits until it answers.
    pub(super) async fn start(&self, number: usize) -> Arc<Process> {
        let process = self.world.start(number).expect("nothing runs there yet");
        self.until(number, |process| process.node.read_view().is_fresh()).await;
        process
    }

    /// Waits until something holds of a process.
    pub(super) async fn until(&self, number: usize, holds: impl Fn(&Process) -> bool) {
        let waiting = async {
            let process = self.process(number);
            while !holds(&process) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(TIMEOUT, waiting).await.is_err() {
            self.world.judge.accuse(format!("{} did not do what it should", self.name(number)));
        }
    }

    pub(super) fn process(&self, number: usize) -> Arc<Process> {
        self.world.machines[number].process().expect("the scenario has started it")
    }

    fn name(&self, number: usize) -> &str {
        &self.world.machines[number].name
    }

    /// Waits until a node has proven that it is current anew.
    pub(super) async fn until_proven(&self, number: usize) {
        let valid_from =
            |process: &Process| process.node.view().lease().map(|lease| lease.valid_from);
        let before = valid_from(&self.process(number)).unwrap_or(BootTime(i64::MIN));
        self.until(number, |process| valid_from(process) > Some(before)).await;
    }

    /// Lets somebody in, and waits until that is known everywhere.
    pub(super) async fn grant(&self, by: usize, end: End) -> Subject {
        let subject = self.users.grant(&self.process(by), end, None);
        sleep(Duration::from_millis(300)).await;
        subject
    }

    /// Has a replica look at the roll now.
    pub(super) fn look_at_roll(&self, number: usize) {
        if let Some((replica, _)) = &self.process(number).replica {
            replica.enforcer().look_now();
        }
    }

    /// Lets many in.
    pub(super) async fn grant_many(&self, by: usize, count: i64) {
        let head = self.world.judge.head();
        for _ in 0..count {
            self.users.grant(&self.process(by), End::UntilRevoked, None);
        }
        self.until(by, |process| process.node.revision() >= head + count).await;
    }

    pub(super) fn revoke(&self, by: usize, subject: &Subject) -> Answer {
        let grants = self.world.judge.grants();
        let live = grants.into_iter().find(|(live, ..)| live == subject);
        let (subject, terms, _) = live.expect("the scenario has granted it");
        self.users.revoke(&self.process(by), subject, &terms, Instant::now() + TIMEOUT)
    }

    /// Waits until a revocation is in force everywhere.
    pub(super) async fn complete(&self, answer: Answer) {
        if !matches!(timeout(TIMEOUT, answer).await, Ok(Ok(Some(_)))) {
            self.world.judge.accuse("a revocation was not answered".into());
        }
    }

    /// Revokes, which must not take long.
    pub(super) async fn prompt(&self, by: usize, subject: &Subject) {
        if timeout(wellness::PROMPT, self.revoke(by, subject)).await.is_err() {
            self.world.judge.accuse("a revocation takes long, though all is well".into());
        }
    }

    /// Asks a node about a grant that is active.
    pub(super) fn expect_allowed(&self, number: usize, subject: &Subject) {
        let reason = self.world.judge.ask(self.name(number), &self.process(number).node, subject);
        if reason != Reason::GrantActive {
            let name = self.name(number);
            self.world.judge.accuse(format!("{name} answers {reason:?} to a grant that is active"));
        }
    }

    pub(super) fn expect_fresh(&self, number: usize) {
        if !self.process(number).node.read_view().is_fresh() {
            self.world.judge.accuse(format!("{} is still stale", self.name(number)));
        }
    }

    pub(super) fn weather(&self, number: usize, weather: Weather) {
        self.world.machines[number].line.change(|it| *it = weather);
    }

    pub(super) fn weather_between(&self, follower: usize, upstream: usize, weather: Weather) {
        let pair = self.world.network.pair(follower, upstream);
        pair.cut();
        pair.up.change(|it| *it = weather);
        pair.down.change(|it| *it = weather);
    }
}
