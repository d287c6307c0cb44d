//! A primary database is killed and a standby is promoted behind the same address.
//!
//! Synchronous replication loses no change. Asynchronous replication may lose changes, and every
//! node detects the loss.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use support_access::api::proto::v1::{DecisionReason, EnforcementState, Grant, GrantAccessRequest};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status};

use crate::nodes::{
    administrator::Administrator,
    database::{SOON, assert_changes_fail, fleet, fleet_with},
    fleet::{Fleet, MAX_STALENESS, grant},
    history::{Answer, History, Verdict, log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    requests::grant_request,
    server::eventually,
};

/// The interval between checks at each node.
const PACE: Duration = Duration::from_millis(10);
/// The number of changes to wait for before the failover, and after it.
const STEADY: usize = 15;
const ADMINISTRATORS: usize = 4;
const DATABASE: &str = "test_0";

/// A primary, a standby, and a proxy that leads to one of them.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    service: Proxy,
}

impl Pair {
    /// Starts a primary and a streaming standby.
    async fn start() -> Self {
        let primary = Cluster::launch();
        primary.fresh_database();
        let standby = primary.standby();
        let service = Proxy::start(Target::Unix(primary.socket())).await;
        Self { primary, standby, service }
    }

    /// Returns the database URL of the replicas.
    fn url(&self) -> String {
        format!("postgres://postgres@{}/{DATABASE}", self.service.address)
    }

    /// Kills the primary and returns the time.
    fn kill_primary(&self) -> Instant {
        self.primary.kill();
        self.service.cut();
        Instant::now()
    }

    /// Promotes the standby behind the service address and returns the time.
    fn fail_over(&self) -> Instant {
        self.standby.promote();
        self.redirect_to(&self.standby);
        Instant::now()
    }

    /// Makes a change that no standby receives, until the primary has `events` events. The commit
    /// waits for the standby, so each attempt kills and restarts the primary, after which the
    /// change is visible.
    async fn commit_without_standby<T: Debug>(
        &self,
        events: &str,
        mut call: impl AsyncFnMut() -> Result<T, Status>,
    ) {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
        // The waiting commit may also be a node's heartbeat.
        while self.primary.psql(DATABASE, "SELECT count(*) FROM events") != events {
            tokio::select! {
                answer = retry(&mut call) => panic!("must wait for the standby: {answer:?}"),
                () = eventually("a commit waits", async || {
                    self.primary.psql("postgres", waiting) != "0"
                }) => {}
            }
            self.primary.kill();
            self.primary.start();
        }
    }

    /// Closes all connections and directs new connections to `cluster`.
    fn redirect_to(&self, cluster: &Cluster) {
        self.service.cut();
        self.service.set_target(Target::Unix(cluster.socket()));
        self.service.heal();
    }
}

/// Retries until the call succeeds.
async fn retry<T>(call: &mut impl AsyncFnMut() -> Result<T, Status>) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
}

/// Asserts that a retry is not acknowledged either, although the change is visible. An
/// acknowledgement would arrive within `2 * MAX_STALENESS`.
async fn assert_never_acknowledged<T: Debug>(mut call: impl AsyncFnMut() -> Result<T, Status>) {
    let acknowledged = timeout(MAX_STALENESS * 2, retry(&mut call)).await;
    assert!(acknowledged.is_err(), "must wait for the standby: {acknowledged:?}");
}

/// Administrators at all replicas, and checks at all nodes.
struct Workload {
    administrators: JoinSet<Administrator>,
    is_over: Arc<AtomicBool>,
    tenants: Vec<String>,
    load: Load,
}

impl Workload {
    /// Starts the workload. The checks include the tenants in `others`.
    fn start(fleet: &Fleet, others: &[&str]) -> Self {
        let seed = std::env::var("NODES_SEED")
            .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("NODES_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (is_over, mut administrators) = (Arc::<AtomicBool>::default(), JoinSet::new());
        let mut tenants: Vec<String> =
            others.iter().map(|&tenant_id| tenant_id.to_owned()).collect();
        for number in 0..ADMINISTRATORS {
            let tenant_id = format!("tenant-{number}");
            let urls = fleet.replicas.iter().map(|node| node.server.url().to_owned()).collect();
            let random = StdRng::seed_from_u64(random.random());
            let history = Arc::clone(&fleet.history);
            let administrator = Administrator::new(&tenant_id, urls, history, random);
            administrators.spawn(
                administrator.run(Arc::clone(&is_over), |is_over| is_over.load(Ordering::Relaxed)),
            );
            tenants.push(tenant_id);
        }
        let load = Load::on(fleet, &tenants, PACE);
        Self { administrators, is_over, tenants, load }
    }

    /// Stops the workload and verifies that no change was lost and all answers are correct. Returns
    /// the number of acknowledged changes.
    async fn end(self, fleet: &Fleet) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let administrators = self.administrators.join_all().await;
        assert_eq!(self.load.failures(), 0, "no check may fail");
        drop(self.load);
        let mut failures = BTreeMap::<&String, usize>::new();
        for (error, count) in administrators.iter().flat_map(Administrator::failures) {
            *failures.entry(error).or_default() += count;
        }
        println!("failed calls, each retried: {failures:?}");
        let log = log(&mut fleet.admin(0), &self.tenants).await;
        fleet.history.verify(&log);
        let acknowledged = administrators
            .iter()
            .map(|administrator| administrator.verify(&log[administrator.tenant_id()]))
            .sum();
        let (answers, allowed) = fleet.history.counts();
        println!(
            "{acknowledged} changes acknowledged, {answers} checks, of which {allowed} were allowed"
        );
        acknowledged
    }
}

/// Returns the times of the first and last `STALE` answers since `since`, and the number of those
/// answers.
fn stale(fleet: &Fleet, since: Instant) -> Option<(Duration, Duration, usize)> {
    let stale =
        fleet.history.answers(|answer| answer.invoked >= since && answer.verdict == Verdict::Stale);
    let first = stale.iter().map(|answer| answer.answered).min()?;
    let last = stale.iter().map(|answer| answer.answered).max()?;
    Some((first - since, last - since, stale.len()))
}

async fn wait_until_all_are_stale(fleet: &Fleet, tenant_id: &str) {
    for node in fleet.nodes() {
        eventually("the node answers STALE", async || {
            fleet.check(node, tenant_id, "").await == Verdict::Stale
        })
        .await;
    }
}

/// The failover takes longer than `max_staleness`. Then the old primary returns without the later
/// changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn promoting_a_synchronous_standby_loses_no_change() {
    let pair = Pair::start().await;
    pair.primary.replicate_synchronously();
    let mut fleet = fleet(&pair.url()).await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    let workload = Workload::start(&fleet, &["kept"]);
    fleet.history.wait_for_changes(STEADY).await;
    let killed = pair.kill_primary();
    wait_until_all_are_stale(&fleet, "kept").await;
    let expired = |answer: &Answer| answer.invoked >= killed + MAX_STALENESS;
    eventually("checks run after all leases have expired", async || {
        !fleet.history.answers(expired).is_empty()
    })
    .await;
    for answer in fleet.history.answers(expired) {
        assert_eq!(answer.verdict, Verdict::Stale, "{answer:?}");
    }
    let promoted = pair.fail_over();
    fleet.serving().await;
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, &kept).await;
    }
    println!("all nodes answered again {:?} after the promotion", promoted.elapsed());
    fleet.history.wait_for_changes(STEADY).await;
    let acknowledged = workload.end(&fleet).await;
    assert!(acknowledged > 20, "the run must include enough changes");
    let (first, last, count) = stale(&fleet, killed).unwrap();
    println!("{count} checks were STALE, from {first:?} to {last:?} after the primary was killed");
    assert!(first >= SOON, "leases must stay valid after the loss of the primary: {first:?}");
    fleet.wait_until_all_acknowledge(1).await;

    old_primary_renews_no_lease(&pair, &fleet, &kept).await;
    fleet.assert_running();
}

/// The address leads to the old primary again, which was disconnected but not fenced.
async fn old_primary_renews_no_lease(pair: &Pair, fleet: &Fleet, kept: &Grant) {
    let ended = fleet.grant_everywhere(0, "ended").await;
    let never_seen = fleet.grant_everywhere(1, "new").await;
    pair.primary.start();
    pair.redirect_to(&pair.primary);
    let redirected = Instant::now();
    // A replica that still reaches the true primary.
    let at_standby = Fleet::replicas(&pair.standby.url(DATABASE), 1).await;
    let revoked = fleet.history.revoke(&mut at_standby.admin(0), &ended).await.unwrap();
    assert_eq!(revoked.enforcement.state(), EnforcementState::Complete);
    fleet.assert_denied(&ended).await;
    wait_until_all_are_stale(fleet, "new").await;
    println!(
        "all nodes were STALE {:?} after they were promoted to the old primary",
        redirected.elapsed()
    );
    assert_changes_fail(fleet, kept).await;
    let late = |answer: &Answer| answer.invoked >= redirected + MAX_STALENESS;
    for answer in fleet.history.answers(late) {
        assert_eq!(answer.verdict, Verdict::Stale, "{answer:?}");
    }
    pair.redirect_to(&pair.standby);
    drop(at_standby);
    fleet.serving().await;
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, kept).await;
        fleet.wait_until_allowed(node, &never_seen).await;
        let verdict = fleet.check(node, "ended", &revoked.enforcement.consistency_token).await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::Revoked));
    }
    fleet.wait_until_all_acknowledge(0).await;
    fleet.history.assert_no_access_after_revocation();
}

/// The failover takes less than `max_staleness`, so no check notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_within_max_staleness_causes_no_stale_answer() {
    let pair = Pair::start().await;
    pair.primary.replicate_synchronously();
    let mut fleet = fleet_with(&pair.url(), &["--max-staleness", "15s"]).await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    let workload = Workload::start(&fleet, &["kept"]);
    fleet.history.wait_for_changes(STEADY).await;
    let lost = pair.kill_primary();
    let promoted = pair.fail_over();
    println!("the standby was promoted {:?} after the primary was killed", promoted - lost);
    let mut changed = None;
    eventually("a change succeeds", async || {
        changed = grant(&mut fleet.admin(0), "failover").await.ok();
        changed.is_some()
    })
    .await;
    println!("a change succeeded {:?} after the primary was killed", lost.elapsed());
    fleet.history.wait_for_changes(STEADY).await;
    let acknowledged = workload.end(&fleet).await;
    assert!(acknowledged > 20, "the run must include enough changes");
    assert_eq!(stale(&fleet, lost), None, "no check may be STALE");
    fleet.wait_until_allowed(&fleet.sidecars[1], &kept).await;
    fleet.assert_running();
}

/// The standby lacks the last changes. The acknowledged changes are lost, as after a restore, and
/// every node detects the loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_detect_the_changes_lost_by_an_asynchronous_standby() {
    let pair = Pair::start().await;
    let mut fleet = fleet(&pair.url()).await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    let reopened = fleet.grant_everywhere(1, "reopened").await;
    let sent = pair.primary.psql("postgres", "SELECT pg_current_wal_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{sent}'");
    eventually("the standby has replayed the log", async || {
        pair.standby.psql("postgres", &replayed) == "t"
    })
    .await;
    pair.standby.stop();
    // Acknowledged and enforced on all nodes, but not replicated.
    let revoked = History::default().revoke(&mut fleet.admin(0), &reopened).await.unwrap();
    assert_eq!(revoked.enforcement.state(), EnforcementState::Complete);
    let lost: Grant = fleet.grant_everywhere(1, "lost").await;

    pair.kill_primary();
    // The operator waits until no node answers from the lost state.
    wait_until_all_are_stale(&fleet, "kept").await;
    pair.standby.start();
    let promoted = pair.fail_over();
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, &kept).await;
        fleet.wait_until_allowed(node, &reopened).await;
        let verdict = fleet.check(node, "lost", "").await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::NoGrant));
    }
    let wrong = |answer: &Answer| answer.answered > promoted && answer.verdict.is_allowed_by(&lost);
    assert_eq!(fleet.history.answers(wrong).len(), 0);
    fleet.revoke_within_bound(1, &reopened).await;
    fleet.wait_until_all_acknowledge(0).await;
    fleet.assert_running();
}

/// Starts a pair, and stops the standby. Commits on the primary then wait, and become visible after
/// a restart of the primary.
async fn without_standby() -> (Pair, Fleet, Grant) {
    let pair = Pair::start().await;
    pair.primary.replicate_synchronously();
    let fleet = fleet(&pair.url()).await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    pair.standby.stop();
    (pair, fleet, kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unreplicated_revocation_is_never_acknowledged() {
    let (pair, mut fleet, kept) = without_standby().await;
    pair.commit_without_standby("2", async || fleet.revoke(0, &kept).await).await;
    assert_never_acknowledged(async || fleet.revoke(0, &kept).await).await;

    pair.kill_primary();
    pair.standby.start();
    pair.fail_over();
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, &kept).await;
    }
    fleet.revoke_within_bound(0, &kept).await;
    fleet.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unreplicated_grant_is_never_acknowledged() {
    let (pair, mut fleet, kept) = without_standby().await;
    let request =
        GrantAccessRequest { request_id: "once".into(), ..grant_request("replicated late") };
    let mut admin = fleet.admin(1);
    pair.commit_without_standby("2", async || admin.grant_access(request.clone()).await).await;
    assert_never_acknowledged(async || admin.grant_access(request.clone()).await).await;

    pair.kill_primary();
    pair.standby.start();
    pair.fail_over();
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, &kept).await;
        let verdict = fleet.check(node, "replicated late", "").await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::NoGrant));
    }
    let granted = admin.grant_access(request).await.unwrap().into_inner().grant.unwrap();
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, &granted).await;
    }
    fleet.assert_running();
}
