//! A small world for scenarios that are aimed at one rule: everything is fine until the scenario says otherwise.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    checker::Subject,
    cluster::{Plan, Process, World},
    domain::{BootTime, End, Reason, Revision},
    link::Weather,
    liveness,
    node::enforcement::Commit,
    random::Random,
    workload::{Answer, Users},
};

/// How long anything may take that is not meant to fail.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Stage {
    pub(crate) world: Arc<World>,
    users: Arc<Users>,
}

impl Stage {
    /// A world where nothing runs.
    pub(crate) async fn new(plan: Plan, seed: u64) -> Self {
        let world = World::new(plan, Arc::new(Random::new(seed))).await;
        let users = Users::new(Arc::clone(&world));
        Self { world, users }
    }

    /// Starts a process, and waits until it answers.
    pub(crate) async fn start(&self, number: usize) -> Arc<Process> {
        let process = self.world.start(number).expect("nothing runs there yet");
        self.until(number, |process| process.node.read_view().is_fresh()).await;
        process
    }

    /// Waits until something holds of a process.
    pub(crate) async fn until(&self, number: usize, holds: impl Fn(&Process) -> bool) {
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

    pub(crate) fn process(&self, number: usize) -> Arc<Process> {
        self.world.machines[number].process().expect("the scenario has started it")
    }

    fn name(&self, number: usize) -> &str {
        &self.world.machines[number].name
    }

    /// Waits until a node has proven that it is current anew.
    pub(crate) async fn until_proven(&self, number: usize) {
        let valid_from =
            |process: &Process| process.node.view().lease().map(|lease| lease.valid_from);
        let before = valid_from(&self.process(number)).unwrap_or(BootTime(i64::MIN));
        self.until(number, |process| valid_from(process) > Some(before)).await;
    }

    /// Lets somebody in, and waits until that is known everywhere.
    pub(crate) async fn grant(&self, by: usize, end: End) -> Subject {
        let subject = self.users.grant(&self.process(by), end, None);
        sleep(Duration::from_millis(300)).await;
        subject
    }

    /// Makes a replica read the membership now, as it does when a caller begins to wait for a change.
    pub(crate) fn read_membership(&self, number: usize) {
        let process = self.process(number);
        let Some((replica, _)) = &process.replica else { return };
        let commit = Commit {
            first: Revision::MAX,
            last: Revision::MAX,
            time: self.world.now(),
            at: process.node.boot_time(),
            max_staleness: self.world.lease,
        };
        drop(replica.enforcer().wait_for(commit, None));
    }

    /// Lets many in.
    pub(crate) async fn grant_many(&self, by: usize, count: i64) {
        let head = self.world.judge.head();
        for _ in 0..count {
            self.users.grant(&self.process(by), End::UntilRevoked, None);
        }
        self.until(by, |process| process.node.revision() >= head + count).await;
    }

    pub(crate) fn revoke(&self, by: usize, subject: &Subject) -> Answer {
        let grants = self.world.judge.grants();
        let live = grants.into_iter().find(|(live, ..)| live == subject);
        let (subject, terms, _) = live.expect("the scenario has granted it");
        self.users.revoke(&self.process(by), subject, &terms, Instant::now() + TIMEOUT)
    }

    /// Waits until a revocation is in force everywhere.
    pub(crate) async fn complete(&self, answer: Answer) {
        if !matches!(timeout(TIMEOUT, answer).await, Ok(Ok(Some(_)))) {
            self.world.judge.accuse("a revocation was not answered".into());
        }
    }

    /// Revokes, which must not take long.
    pub(crate) async fn prompt(&self, by: usize, subject: &Subject) {
        if timeout(liveness::PROMPT, self.revoke(by, subject)).await.is_err() {
            self.world.judge.accuse("a revocation takes long, though all is well".into());
        }
    }

    /// Asks a node about a grant that is active.
    pub(crate) fn expect_allowed(&self, number: usize, subject: &Subject) {
        let reason = self.world.judge.ask(self.name(number), &self.process(number).node, subject);
        if reason != Reason::GrantActive {
            let name = self.name(number);
            self.world.judge.accuse(format!("{name} answers {reason:?} to a grant that is active"));
        }
    }

    pub(crate) fn expect_fresh(&self, number: usize) {
        if !self.process(number).node.read_view().is_fresh() {
            self.world.judge.accuse(format!("{} is still stale", self.name(number)));
        }
    }

    pub(crate) fn weather(&self, number: usize, weather: Weather) {
        self.world.machines[number].line.change(|it| *it = weather);
    }

    pub(crate) fn weather_between(&self, follower: usize, upstream: usize, weather: Weather) {
        let pair = self.world.network.pair(follower, upstream);
        pair.cut();
        pair.up.change(|it| *it = weather);
        pair.down.change(|it| *it = weather);
    }
}
