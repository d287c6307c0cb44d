//! The database goes away, comes back as it was some time ago, or is another one.

use std::time::{Duration, Instant};

use support_access::api::proto::v1::{DecisionReason, EnforcementState, Grant};
use tonic::Code;

use crate::{
    fleet::{Fleet, MAX_STALENESS, grant, replica, sidecar},
    history::{Log, Verdict, assert_consistent, is_of, log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::{Server, eventually, is_serving},
};

/// How often each node is asked.
const PACE: Duration = Duration::from_millis(20);
/// So soon after the last renewal every lease is still good.
pub const SOON: Duration = Duration::from_millis(1_200);

/// Two replicas, a sidecar on a Unix socket, and one that follows that.
pub async fn fleet(database_url: &str) -> Fleet {
    fleet_with(database_url, &[]).await
}

/// As [`fleet`], with more flags for the replicas.
pub async fn fleet_with(database_url: &str, flags: &[&str]) -> Fleet {
    let mut fleet = Fleet::new();
    fleet.add_replicas((0..2).map(|it| replica(database_url, it).flags(flags)).collect()).await;
    let socket = fleet.socket("sidecar-0");
    let upstreams = [0, 1].map(|it| fleet.replicas[it].server.url().to_owned());
    let launches = vec![
        sidecar(&[&upstreams[0], &upstreams[1]], 0).on_socket(&socket),
        sidecar(&[&format!("unix:{}", socket.display())], 1),
    ];
    fleet.add_sidecars(launches).await;
    fleet.serving().await;
    fleet
}

#[tokio::main]
async fn outage(take_away: impl Fn(&Cluster), bring_back: impl Fn(&Cluster)) {
    let cluster = Cluster::begin();
    let fleet = fleet(&cluster.fresh_database()).await;
    let kept = fleet.granted(0, "kept").await;
    let load = Load::on(&fleet, &["kept".into()], PACE);

    let began = Instant::now();
    take_away(&cluster);
    let gone = Instant::now();
    for node in fleet.nodes() {
        let verdict = fleet.ask(node, "kept", "").await;
        let is_soon = began.elapsed() < SOON;
        assert!(!is_soon || verdict.is_allowed_by(&kept), "checks go on: {verdict:?}");
    }
    changes_are_refused(&fleet, &kept).await;
    for node in fleet.nodes() {
        eventually("it is not SERVING", async || !is_serving(&node.channel).await).await;
        assert_eq!(fleet.ask(node, "kept", "").await, Verdict::Stale);
    }
    let late = || fleet.history.answers(|answer| answer.invoked >= gone + MAX_STALENESS);
    eventually("no lease can be good any more", async || late().len() > 10).await;
    let late = late();
    assert!(late.iter().all(|answer| answer.verdict == Verdict::Stale), "{late:?}");

    bring_back(&cluster);
    fleet.serving().await;
    for node in fleet.nodes() {
        fleet.lets_in(node, &kept).await;
    }
    for replica in 0..2 {
        fleet.all_confirm(replica).await;
    }
    let revoked = fleet.revoke_in_time(1, &kept).await;
    println!("when all is well again: {revoked:?}");
    drop(load);
    let tenants = ["kept", "in between"].map(str::to_owned);
    fleet.history.verify(&log(&mut fleet.admin(0), &tenants).await);
}

/// For want of a database, which may come back.
pub async fn changes_are_refused(fleet: &Fleet, kept: &Grant) {
    for replica in 0..2 {
        let mut admin = fleet.admin(replica);
        let (granted, revoked) =
            tokio::join!(grant(&mut admin, "kept"), fleet.revoke(replica, kept));
        for refused in [granted.unwrap_err(), revoked.unwrap_err()] {
            assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        }
    }
}

/// Revokes as soon as the database takes changes. Returns when that was in force everywhere.
async fn revoke_when_possible(fleet: &Fleet, replica: usize, grant: &Grant) -> Instant {
    let mut revoked = None;
    eventually("the database takes a revocation", async || {
        revoked = fleet.revoke(replica, grant).await.ok();
        revoked.is_some()
    })
    .await;
    println!("the first revocation: {revoked:?}");
    assert_eq!(revoked.unwrap().enforcement.state(), EnforcementState::Complete);
    Instant::now()
}

#[test]
fn a_database_that_stops_and_starts() {
    outage(Cluster::stop, Cluster::start);
}

#[test]
fn a_database_that_is_killed_and_recovers() {
    outage(Cluster::kill, Cluster::start);
}

#[test]
fn a_database_that_does_not_answer() {
    outage(Cluster::pause, Cluster::resume);
}

/// What two logs say: the one before, and the one that took its place.
struct Histories {
    before: Log,
    after: Log,
}

impl Histories {
    /// Every answer is of one of them, and none is of the first once the second is known to be in force everywhere.
    fn verify(&self, fleet: &Fleet, in_force: Instant) {
        let answers = fleet.history.answers(|_| true);
        for answer in &answers {
            let is_known = is_of(&self.before, answer) || is_of(&self.after, answer);
            assert!(is_known, "of neither log: {answer:?}");
        }
        let late = fleet.history.answers(|answer| answer.invoked > in_force);
        assert_consistent(&self.after, &late);
        let stale = answers.iter().filter(|answer| answer.verdict == Verdict::Stale).count();
        println!("{} answers, of which {stale} were stale", answers.len());
    }
}

const TENANTS: [&str; 4] = ["ended", "kept", "lost", "new"];

async fn histories(fleet: &Fleet) -> Log {
    log(&mut fleet.admin(0), &TENANTS.map(str::to_owned)).await
}

/// A backup is put back. What was revoked since is granted again, and what was granted since is gone; then new events take the
/// numbers of the lost ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_put_back_to_an_older_state() {
    let cluster = Cluster::begin();
    let mut fleet = fleet(&cluster.fresh_database()).await;
    let ended = fleet.granted(0, "ended").await;
    let kept = fleet.granted(0, "kept").await;
    cluster.stop();
    let backup = cluster.copy_aside();
    cluster.start();
    fleet.serving().await;
    revoke_when_possible(&fleet, 0, &ended).await;
    fleet.granted(0, "lost").await;
    let lost_head = fleet.head_revision(0).await;
    let before = histories(&fleet).await;

    // What is promised from here on is promised by another history.
    fleet.history = std::sync::Arc::default();
    let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
    cluster.stop();
    cluster.replace_data(&backup);
    cluster.start();
    // At once: the next events have the numbers of the lost ones.
    let mut new = None;
    eventually("the database takes changes", async || {
        new = grant(&mut fleet.admin(1), "new").await.ok();
        new.is_some()
    })
    .await;
    let new = new.unwrap();
    let head = fleet.head_revision(1).await;
    assert!(head <= lost_head, "the new event must have the revision of a lost one");
    let in_force = revoke_when_possible(&fleet, 1, &kept).await;
    for node in fleet.nodes() {
        fleet.lets_in(node, &ended).await;
        fleet.lets_in(node, &new).await;
        let verdict = fleet.ask(node, "lost", "").await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::NoGrant));
    }
    fleet.all_confirm(0).await;
    drop(load);
    fleet.history.nobody_was_let_in_after_the_end();
    Histories { before, after: histories(&fleet).await }.verify(&fleet, in_force);
}

/// Only time can tell when a node that is cut off has lost what it knows of the old history, whatever it has confirmed of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_put_back_while_a_sidecar_is_cut_off() {
    let cluster = Cluster::begin();
    // Long enough for what follows.
    let (flags, lease) = (["--max-staleness", "6s"], Duration::from_secs(6));
    let mut fleet = Fleet::new();
    fleet.add_replicas(vec![replica(&cluster.fresh_database(), 0).flags(&flags)]).await;
    let uplink = Proxy::start(Target::Tcp(fleet.replicas[0].server.address())).await;
    fleet.add_sidecar(&[&uplink.url()]).await;
    fleet.serving().await;
    let kept = fleet.granted(0, "kept").await;
    cluster.stop();
    let backup = cluster.copy_aside();
    cluster.start();
    fleet.serving().await;
    for _ in 0..10 {
        fleet.all_confirm(0).await;
    }

    let cut_off = Instant::now();
    uplink.stop();
    cluster.kill();
    cluster.replace_data(&backup);
    cluster.start();
    let sidecar = &fleet.sidecars[0];
    let verdict = fleet.ask(sidecar, "kept", "").await;
    assert!(verdict.is_allowed_by(&kept) || cut_off.elapsed() > lease / 2, "{verdict:?}");
    let in_force = revoke_when_possible(&fleet, 0, &kept).await;
    println!("{:?} after the sidecar was cut off", in_force - cut_off);
    fleet.nobody_is_let_in(&kept).await;
    uplink.heal();
    fleet.all_confirm(0).await;
    fleet.history.nobody_was_let_in_after_the_end();
}

/// Another database takes the place of the first, with a longer or a shorter history.
#[tokio::main]
async fn replaced_by_another(events: usize) {
    let other = Cluster::begin();
    let server = Server::start(&other.fresh_database());
    let mut theirs = grant(&mut server.admin().await, "new").await.unwrap();
    for _ in 0..events {
        theirs = grant(&mut server.admin().await, "new").await.unwrap();
    }
    drop(server);
    other.stop();

    let cluster = Cluster::begin();
    let mut fleet = fleet(&cluster.fresh_database()).await;
    let ended = fleet.granted(0, "ended").await;
    let lost = fleet.granted(0, "lost").await;
    fleet.revoke(0, &ended).await.unwrap();
    let before = histories(&fleet).await;

    fleet.history = std::sync::Arc::default();
    let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
    cluster.stop();
    cluster.replace_data(&other.data());
    cluster.start();
    let in_force = revoke_when_possible(&fleet, 0, &theirs).await;
    for node in fleet.nodes() {
        eventually("what it held is dropped", async || {
            let verdict = fleet.ask(node, &lost.tenant_id, "").await;
            verdict == Verdict::Denied(DecisionReason::NoGrant)
        })
        .await;
    }
    fleet.all_confirm(1).await;
    drop(load);
    fleet.history.nobody_was_let_in_after_the_end();
    Histories { before, after: histories(&fleet).await }.verify(&fleet, in_force);
}

#[test]
fn another_database_with_a_longer_history() {
    replaced_by_another(10);
}

#[test]
fn another_database_with_a_shorter_history() {
    replaced_by_another(0);
}

/// A replica that is started while the others have another history joins the one that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_comes_later_joins_the_history_that_is_there() {
    let cluster = Cluster::begin();
    let url = cluster.fresh_database();
    let mut fleet = fleet(&url).await;
    let kept = fleet.granted(0, "kept").await;
    fleet.add_replicas(vec![replica(&url, 2)]).await;
    fleet.serving().await;
    let verdict = fleet.ask(&fleet.replicas[2], "kept", "").await;
    assert!(verdict.is_allowed_by(&kept), "from the first answer: {verdict:?}");
    fleet.all_confirm(2).await;
}
