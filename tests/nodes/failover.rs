//! The primary is killed, and a standby takes its place behind the same address, as that of a service which always leads to the
//! primary. With synchronous replication nothing is lost; with asynchronous replication what is lost is noticed.

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

use crate::{
    administrator::Administrator,
    database::{SOON, changes_are_refused, fleet, fleet_with},
    fleet::{Fleet, MAX_STALENESS, grant, request},
    history::{History, Verdict, log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::eventually,
};

/// How often each node is asked.
const PACE: Duration = Duration::from_millis(10);
/// How many events are made before the failover, and after it.
const STEADY: usize = 15;
const ADMINISTRATORS: usize = 4;
const DATABASE: &str = "test_0";

/// A primary, a standby, and the address behind which one of them is.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    service: Proxy,
}

impl Pair {
    /// With a standby that has everything, and from now on gets everything, if it runs.
    async fn begin() -> Self {
        let primary = Cluster::begin();
        primary.fresh_database();
        let standby = primary.standby();
        let service = Proxy::start(Target::Unix(primary.socket())).await;
        Self { primary, standby, service }
    }

    /// What replicas are told.
    fn url(&self) -> String {
        format!("postgres://postgres@{}/{DATABASE}", self.service.address)
    }

    /// The primary dies.
    fn lose(&self) -> Instant {
        self.primary.kill();
        self.service.cut();
        Instant::now()
    }

    /// The standby takes its place.
    fn fail_over(&self) -> Instant {
        self.standby.promote();
        self.lead_to(&self.standby);
        Instant::now()
    }

    /// Somebody asks for a change that no standby can get, until the primary has it, of which so many events are then known. What was
    /// not answered can be read there, since the primary was killed meanwhile, and started again.
    async fn keeps<T: Debug>(&self, events: &str, mut ask: impl AsyncFnMut() -> Result<T, Status>) {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
        // A node that registers commits, too, and may come first.
        while self.primary.psql(DATABASE, "SELECT count(*) FROM events") != events {
            tokio::select! {
                answer = insist(&mut ask) => panic!("no standby has it: {answer:?}"),
                () = eventually("a commit waits", async || {
                    self.primary.psql("postgres", waiting) != "0"
                }) => {}
            }
            self.primary.kill();
            self.primary.start();
        }
    }

    /// All connections end, and new ones lead there.
    fn lead_to(&self, cluster: &Cluster) {
        self.service.cut();
        self.service.lead_to(Target::Unix(cluster.socket()));
        self.service.heal();
    }
}

/// Asks until there is an answer.
async fn insist<T>(ask: &mut impl AsyncFnMut() -> Result<T, Status>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
}

/// Nobody is told that it was done before, though it can be read. (Who is told, is told sooner.)
async fn nobody_is_told<T: Debug>(mut ask: impl AsyncFnMut() -> Result<T, Status>) {
    let told = timeout(MAX_STALENESS * 2, insist(&mut ask)).await;
    assert!(told.is_err(), "no standby has it: {told:?}");
}

/// Administrators at all replicas, and gateways at all nodes.
struct Work {
    administrators: JoinSet<Administrator>,
    is_over: Arc<AtomicBool>,
    tenants: Vec<String>,
    load: Load,
}

impl Work {
    /// Begins, and asks about `others` as well.
    fn begin(fleet: &Fleet, others: &[&str]) -> Self {
        let seed =
            std::env::var("NODES_SEED").map_or_else(|_| rand::random(), |it| it.parse().unwrap());
        println!("NODES_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (is_over, mut administrators) = (Arc::<AtomicBool>::default(), JoinSet::new());
        let mut tenants: Vec<String> = others.iter().map(|&it| it.to_owned()).collect();
        for number in 0..ADMINISTRATORS {
            let tenant_id = format!("tenant-{number}");
            let urls = fleet.replicas.iter().map(|node| node.server.url().to_owned()).collect();
            let random = StdRng::seed_from_u64(random.random());
            let history = Arc::clone(&fleet.history);
            let administrator = Administrator::new(&tenant_id, urls, history, random);
            administrators
                .spawn(administrator.work(Arc::clone(&is_over), |it| it.load(Ordering::Relaxed)));
            tenants.push(tenant_id);
        }
        let load = Load::on(fleet, &tenants, PACE);
        Self { administrators, is_over, tenants, load }
    }

    /// Ends, and sees that nothing was lost, and nobody wrong. Answers how many changes were acknowledged.
    async fn end(self, fleet: &Fleet) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let administrators = self.administrators.join_all().await;
        assert_eq!(self.load.failures(), 0, "checks that were not answered");
        drop(self.load);
        let mut refused = BTreeMap::<&String, usize>::new();
        for (why, count) in administrators.iter().flat_map(Administrator::refused) {
            *refused.entry(why).or_default() += count;
        }
        println!("changes that were asked for again: {refused:?}");
        let log = log(&mut fleet.admin(0), &self.tenants).await;
        fleet.history.verify(&log);
        let told = administrators.iter().map(|it| it.audit(&log[it.tenant_id()])).sum();
        let (answers, allowed) = fleet.history.counts();
        println!("{told} changes acknowledged, {answers} checks, of which {allowed} were allowed");
        told
    }
}

/// When checks were first and last STALE, since `since`.
fn stale(fleet: &Fleet, since: Instant) -> Option<(Duration, Duration, usize)> {
    let stale = fleet.history.answers(|it| it.invoked >= since && it.verdict == Verdict::Stale);
    let first = stale.iter().map(|it| it.answered).min()?;
    let last = stale.iter().map(|it| it.answered).max()?;
    Some((first - since, last - since, stale.len()))
}

async fn all_are_stale(fleet: &Fleet, tenant_id: &str) {
    for node in fleet.nodes() {
        eventually("it cannot tell", async || {
            fleet.ask(node, tenant_id, "").await == Verdict::Stale
        })
        .await;
    }
}

/// It takes longer than nodes can go on alone. Then the old primary comes back, and knows nothing of what has happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_synchronous_standby_takes_over_and_nothing_is_lost() {
    let pair = Pair::begin().await;
    pair.primary.replicate_synchronously();
    let mut fleet = fleet(&pair.url()).await;
    let kept = fleet.granted(0, "kept").await;
    let work = Work::begin(&fleet, &["kept"]);
    fleet.history.goes_on(STEADY).await;
    let lost = pair.lose();
    all_are_stale(&fleet, "kept").await;
    let led = pair.fail_over();
    fleet.serving().await;
    for node in fleet.nodes() {
        fleet.lets_in(node, &kept).await;
    }
    println!("all nodes answer again {:?} after the standby was in its place", led.elapsed());
    fleet.history.goes_on(STEADY).await;
    let told = work.end(&fleet).await;
    assert!(told > 20, "too little happened to prove anything");
    let (first, end, count) = stale(&fleet, lost).unwrap();
    println!("{count} checks were STALE, from {first:?} to {end:?} after the primary was killed");
    assert!(first >= SOON && first <= MAX_STALENESS, "{first:?}");
    fleet.all_confirm(1).await;

    the_old_primary_proves_nothing(&pair, &fleet, &kept).await;
    fleet.assert_running();
}

/// The address leads back to it, as it may when it was cut off and not fenced.
async fn the_old_primary_proves_nothing(pair: &Pair, fleet: &Fleet, kept: &Grant) {
    let ended = fleet.granted(0, "ended").await;
    let never_seen = fleet.granted(1, "new").await;
    pair.primary.start();
    pair.lead_to(&pair.primary);
    let misled = Instant::now();
    // Somebody who still finds the true one.
    let elsewhere = Fleet::replicas(&pair.standby.url(DATABASE), 1).await;
    let revoked = fleet.history.revoke(&mut elsewhere.admin(0), &ended).await.unwrap();
    assert_eq!(revoked.enforcement.state(), EnforcementState::Complete);
    fleet.nobody_is_let_in(&ended).await;
    all_are_stale(fleet, "new").await;
    println!("all nodes were STALE {:?} after they were led to the old primary", misled.elapsed());
    changes_are_refused(fleet, kept).await;
    let late = |it: &crate::history::Answer| it.invoked >= misled + MAX_STALENESS;
    for answer in fleet.history.answers(late) {
        assert_eq!(answer.verdict, Verdict::Stale, "{answer:?}");
    }
    pair.lead_to(&pair.standby);
    drop(elsewhere);
    fleet.serving().await;
    for node in fleet.nodes() {
        fleet.lets_in(node, kept).await;
        fleet.lets_in(node, &never_seen).await;
        let verdict = fleet.ask(node, "ended", &revoked.enforcement.consistency_token).await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::Revoked));
    }
    fleet.all_confirm(0).await;
    fleet.history.nobody_was_let_in_after_the_end();
}

/// Nodes may go on for longer than it takes: no check notices it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_within_max_staleness_is_not_noticed_by_checks() {
    let pair = Pair::begin().await;
    pair.primary.replicate_synchronously();
    let mut fleet = fleet_with(&pair.url(), &["--max-staleness", "15s"]).await;
    let kept = fleet.granted(0, "kept").await;
    let work = Work::begin(&fleet, &["kept"]);
    fleet.history.goes_on(STEADY).await;
    let lost = pair.lose();
    let led = pair.fail_over();
    println!("the standby was in its place {:?} after the primary was killed", led - lost);
    let mut changed = None;
    eventually("changes are made again", async || {
        changed = grant(&mut fleet.admin(0), "in between").await.ok();
        changed.is_some()
    })
    .await;
    println!("changes are made again {:?} after the primary was killed", lost.elapsed());
    fleet.history.goes_on(STEADY).await;
    let told = work.end(&fleet).await;
    assert!(told > 20, "too little happened to prove anything");
    assert_eq!(stale(&fleet, lost), None, "checks were STALE");
    fleet.lets_in(&fleet.sidecars[1], &kept).await;
    fleet.assert_running();
}

/// The standby has not got the last changes. What was acknowledged is lost, as by a restore, and every node notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_asynchronous_standby_loses_what_it_did_not_get() {
    let pair = Pair::begin().await;
    let mut fleet = fleet(&pair.url()).await;
    let kept = fleet.granted(0, "kept").await;
    let reopened = fleet.granted(1, "reopened").await;
    let sent = pair.primary.psql("postgres", "SELECT pg_current_wal_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{sent}'");
    eventually("the standby has it", async || pair.standby.psql("postgres", &replayed) == "t")
        .await;
    pair.standby.stop();
    // Acknowledged, and in force everywhere; but nobody else has it.
    let revoked = History::default().revoke(&mut fleet.admin(0), &reopened).await.unwrap();
    assert_eq!(revoked.enforcement.state(), EnforcementState::Complete);
    let lost: Grant = fleet.granted(1, "lost").await;

    pair.lose();
    // The operator's duty: nobody may answer any more from what is lost.
    all_are_stale(&fleet, "kept").await;
    pair.standby.start();
    let led = pair.fail_over();
    for node in fleet.nodes() {
        fleet.lets_in(node, &kept).await;
        fleet.lets_in(node, &reopened).await;
        let verdict = fleet.ask(node, "lost", "").await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::NoGrant));
    }
    let wrong = |it: &crate::history::Answer| it.answered > led && it.verdict.is_allowed_by(&lost);
    assert_eq!(fleet.history.answers(wrong).len(), 0);
    fleet.revoke_in_time(1, &reopened).await;
    fleet.all_confirm(0).await;
    fleet.assert_running();
}

/// The standby is gone, and the primary alone. A commit that no standby has is not answered; but who kills the server, and starts
/// it again, can read it.
async fn alone() -> (Pair, Fleet, Grant) {
    let pair = Pair::begin().await;
    pair.primary.replicate_synchronously();
    let fleet = fleet(&pair.url()).await;
    let kept = fleet.granted(0, "kept").await;
    pair.standby.stop();
    (pair, fleet, kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_that_only_a_lost_primary_has_is_never_complete() {
    let (pair, mut fleet, kept) = alone().await;
    pair.keeps("2", async || fleet.revoke(0, &kept).await).await;
    nobody_is_told(async || fleet.revoke(0, &kept).await).await;

    pair.lose();
    pair.standby.start();
    pair.fail_over();
    for node in fleet.nodes() {
        fleet.lets_in(node, &kept).await;
    }
    fleet.revoke_in_time(0, &kept).await;
    fleet.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_grant_that_only_a_lost_primary_has_is_never_confirmed() {
    let (pair, mut fleet, kept) = alone().await;
    let request = GrantAccessRequest { request_id: "once".into(), ..request("unheard of") };
    let mut admin = fleet.admin(1);
    pair.keeps("2", async || admin.grant_access(request.clone()).await).await;
    nobody_is_told(async || admin.grant_access(request.clone()).await).await;

    pair.lose();
    pair.standby.start();
    pair.fail_over();
    for node in fleet.nodes() {
        fleet.lets_in(node, &kept).await;
        let verdict = fleet.ask(node, "unheard of", "").await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::NoGrant));
    }
    let granted = admin.grant_access(request).await.unwrap().into_inner().grant.unwrap();
    for node in fleet.nodes() {
        fleet.lets_in(node, &granted).await;
    }
    fleet.assert_running();
}
