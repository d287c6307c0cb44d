//! A cluster for a targeted scenario, in which everything works until the scenario injects a fault.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    check::GrantKey,
    checker::RestoreKind,
    cluster::{Cluster, RunningNode},
    database::Backup,
    domain::{BootTime, End, EventKind, Reason, Revision},
    link::LinkConditions,
    liveness::PROMPT,
    node::enforcement::Commit,
    plan::Plan,
    random::Random,
    service::EnforcementState,
    workload::{Response, Workload},
};

/// Timeout of everything that should succeed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of a caller that then waits at another replica.
const SHORT_DEADLINE: Duration = Duration::from_millis(300);

pub(crate) struct Fixture {
    pub(crate) cluster: Arc<Cluster>,
    workload: Arc<Workload>,
}

impl Fixture {
    /// A cluster in which no node runs.
    pub(crate) async fn new(plan: Plan, seed: u64) -> Self {
        let cluster = Cluster::new(plan, Arc::new(Random::new(seed))).await;
        let workload = Workload::new(Arc::clone(&cluster));
        Self { cluster, workload }
    }

    // === nodes ===

    /// Starts a node, and waits for the first lease.
    pub(crate) async fn start(&self, number: usize) -> Arc<RunningNode> {
        let running = self.cluster.start(number).expect("the machine runs no node");
        self.wait_until(number, |running| running.node.read_view().is_fresh()).await;
        running
    }

    /// Starts the first nodes, one after the other.
    pub(crate) async fn start_all(&self, count: usize) {
        for number in 0..count {
            self.start(number).await;
        }
    }

    pub(crate) fn running(&self, number: usize) -> Arc<RunningNode> {
        self.cluster.machines[number].running().expect("the scenario has started the node")
    }

    fn name(&self, number: usize) -> &str {
        &self.cluster.machines[number].name
    }

    /// Waits until a node satisfies a condition.
    pub(crate) async fn wait_until(&self, number: usize, condition: impl Fn(&RunningNode) -> bool) {
        let waiting = async {
            let running = self.running(number);
            while !condition(&running) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(TIMEOUT, waiting).await.is_err() {
            let name = self.name(number);
            self.cluster.checker.violation(format!("{name} never satisfied a condition"));
        }
    }

    /// Waits until a node has a newer lease.
    pub(crate) async fn wait_for_renewal(&self, number: usize) {
        let valid_from =
            |running: &RunningNode| running.node.view().lease().map(|lease| lease.valid_from);
        let before = valid_from(&self.running(number)).unwrap_or(BootTime(i64::MIN));
        self.wait_until(number, |running| valid_from(running) > Some(before)).await;
    }

    /// Waits until an upstream has a number of followers.
    pub(crate) async fn wait_for_followers(&self, number: usize, count: usize) {
        self.wait_until(number, |running| running.node.gauges().followers == count).await;
    }

    /// Makes a replica read the membership now, as when a caller starts to wait for a change.
    pub(crate) fn read_membership(&self, number: usize) {
        let running = self.running(number);
        let Some((replica, _)) = &running.replica else { return };
        let time = self.cluster.now();
        let commit = Commit {
            first: Revision::MAX,
            last: Revision::MAX,
            time,
            in_log: (Revision::MAX, time),
            at: running.node.boot_time(),
            max_staleness: self.cluster.max_staleness,
        };
        drop(replica.enforcer().wait_for(commit));
    }

    // === changes ===

    /// Grants access, and gives all nodes time to apply the grant.
    pub(crate) async fn grant(&self, replica: usize, end: End) -> GrantKey {
        let grant = self.workload.grant(&self.running(replica), end, None);
        sleep(Duration::from_millis(300)).await;
        grant
    }

    /// Grants access that starts after `delay`. Does not wait for the commit.
    pub(crate) fn grant_later(&self, replica: usize, delay: Duration) -> GrantKey {
        self.workload.grant(&self.running(replica), End::UntilRevoked, Some(delay))
    }

    pub(crate) async fn grant_many(&self, replica: usize, count: i64) {
        let head = self.cluster.checker.head();
        for _ in 0..count {
            self.workload.grant(&self.running(replica), End::UntilRevoked, None);
        }
        self.wait_until(replica, |running| running.node.revision() >= head + count).await;
    }

    pub(crate) fn revoke(&self, replica: usize, grant: &GrantKey) -> Response {
        let grants = self.cluster.checker.grants();
        let live = grants.into_iter().find(|(live, ..)| live == grant);
        let (grant, terms, _) = live.expect("the scenario has granted access");
        let deadline = Instant::now() + TIMEOUT;
        self.workload.revoke(&self.running(replica), grant, &terms, deadline)
    }

    /// Accepts the clock at a replica, and waits for the commit.
    pub(crate) async fn accept_clock(&self, replica: usize) {
        let head = self.cluster.checker.head();
        self.workload.accept_clock(&self.running(replica));
        self.wait_until(replica, |_| {
            let last = self.cluster.checker.head();
            let event = self.cluster.checker.event(last).filter(|_| last > head);
            event.is_some_and(|event| matches!(event.kind, EventKind::ClockAccepted { .. }))
        })
        .await;
    }

    /// Waits at a replica for the enforcement of the last change, for at most `timeout`.
    pub(crate) fn wait_enforced(
        &self,
        replica: usize,
        grant: &GrantKey,
        timeout: Duration,
    ) -> Response {
        let (revision, deadline) = (self.cluster.checker.head(), Instant::now() + timeout);
        self.workload.wait_enforced(&self.running(replica), grant.clone(), revision, deadline)
    }

    /// Waits until a change is committed after revision `head`.
    pub(crate) async fn wait_for_commit(&self, head: Revision) {
        while self.cluster.checker.head() == head {
            sleep(Duration::from_millis(1)).await;
        }
    }

    // === expectations ===

    /// Waits until a revocation is enforced.
    pub(crate) async fn expect_enforced(&self, response: Response) {
        if !matches!(timeout(TIMEOUT, response).await, Ok(Ok(Some(_)))) {
            self.cluster.checker.violation("a revocation was not enforced in time".into());
        }
    }

    /// Waits for the enforcement of the last change at one replica after the other, as a caller
    /// with short deadlines behind a load balancer does. Requires that the enforcement is known
    /// within `limit`.
    pub(crate) async fn expect_enforced_at_any(
        &self,
        replicas: &[usize],
        grant: &GrantKey,
        limit: Duration,
    ) {
        let start = Instant::now();
        for &replica in replicas.iter().cycle() {
            let response = self.wait_enforced(replica, grant, SHORT_DEADLINE).await;
            let state = response.ok().flatten().map(|enforcement| enforcement.state);
            if start.elapsed() > limit {
                self.cluster.checker.violation("a caller that switches waits too long".into());
            }
            if state == Some(EnforcementState::Complete) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Revokes a grant, and requires that no lease has to expire.
    pub(crate) async fn expect_prompt_revoke(&self, replica: usize, grant: &GrantKey) {
        if timeout(PROMPT, self.revoke(replica, grant)).await.is_err() {
            self.cluster.checker.violation("a revocation takes too long".into());
        }
    }

    pub(crate) fn expect_allowed(&self, number: usize, grant: &GrantKey) {
        self.expect_reason(number, grant, Reason::GrantActive);
    }

    /// Requires that a node answers a check with this reason.
    pub(crate) fn expect_reason(&self, number: usize, grant: &GrantKey, expected: Reason) {
        let (name, running) = (self.name(number), self.running(number));
        let reason = self.cluster.checker.check(name, &running.node, grant);
        if reason != expected {
            let text = format!("{name} answers {reason:?} instead of {expected:?}");
            self.cluster.checker.violation(text);
        }
    }

    pub(crate) fn expect_denied(&self, number: usize, grant: &GrantKey) {
        let (name, running) = (self.name(number), self.running(number));
        let reason = self.cluster.checker.check(name, &running.node, grant);
        if reason == Reason::GrantActive {
            self.cluster.checker.violation(format!("{name} allows a grant that has ended"));
        }
    }

    pub(crate) fn expect_fresh(&self, number: usize) {
        if !self.running(number).node.read_view().is_fresh() {
            self.cluster.checker.violation(format!("{} is still stale", self.name(number)));
        }
    }

    /// Requires that a node has a lease at all times, for `span`.
    pub(crate) async fn expect_fresh_for(&self, number: usize, span: Duration) {
        let start = Instant::now();
        while start.elapsed() < span {
            self.expect_fresh(number);
            sleep(Duration::from_millis(10)).await;
        }
    }

    // === faults ===

    /// Sets the conditions between a replica and the database.
    pub(crate) fn set_database_link(&self, number: usize, conditions: LinkConditions) {
        self.cluster.machines[number].database_link.set(conditions);
    }

    pub(crate) fn backup(&self) -> Backup {
        self.cluster.database.backup()
    }

    /// Restores a backup. All leases must have expired.
    pub(crate) async fn restore(&self, backup: Backup) {
        self.cluster.database.come_up_with(backup, RestoreKind::LeasesExpired).await;
    }

    /// Disconnects a follower from an upstream, and sets the conditions between the two.
    pub(crate) fn set_route(&self, follower: usize, upstream: usize, conditions: LinkConditions) {
        let route = self.cluster.network.route(follower, upstream);
        route.disconnect();
        route.set(conditions);
    }
}
