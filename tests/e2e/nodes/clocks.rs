//! Nodes whose wall clock is one hour fast or slow, and databases whose clock steps.
//!
//! `libfaketime` changes the wall clock that the process reads. The configuration excludes
//! monotonic clocks, and `CLOCK_BOOTTIME` bypasses the library.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use chrono::DateTime;
use support_access::api::proto::v1::{DecisionReason, EnforcementState, Grant, GrantAccessRequest};
use tonic::Code;

use crate::{
    cli::run_at,
    nodes::{
        fleet::{FAST, Fleet, grant_with_token, replica, sidecar},
        history::{Answer, Verdict},
        load::Load,
        postgres::Cluster,
        requests::grant_request,
        server::{Launch, eventually},
    },
};

const HOUR: Duration = Duration::from_hours(1);
/// The interval between checks at each node.
const PACE: Duration = Duration::from_millis(10);

/// A correct clock and two wrong ones.
const CLOCKS: [Option<&str>; 3] = [None, Some("+1h"), Some("-1h")];

fn library() -> PathBuf {
    remove_leftovers();
    let directories = fs::read_dir("/usr/lib").unwrap().flatten();
    let found = directories
        .map(|entry| entry.path().join("faketime/libfaketime.so.1"))
        .find(|path| path.exists());
    found.expect("libfaketime is installed: apt-get install libfaketime")
}

/// Removes the shared memory of processes that have ended. libfaketime leaves it when a process is
/// killed, and a later process with the same id does not start.
fn remove_leftovers() {
    for entry in fs::read_dir("/dev/shm").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let prefixes = ["faketime_shm_", "sem.faketime_sem_"];
        let process = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn with_clock(launch: Launch, clock: Option<&str>) -> Launch {
    match clock {
        None => launch,
        Some(clock) => launch
            .env("LD_PRELOAD", library())
            .env("FAKETIME", clock)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    }
}

/// Starts a replica and a sidecar for each clock. Each sidecar follows a replica with another
/// clock. A fourth sidecar follows a sidecar.
async fn fleet(database_url: &str) -> Fleet {
    let mut fleet = Fleet::new();
    let replicas = CLOCKS.iter().enumerate();
    let replicas =
        replicas.map(|(number, clock)| with_clock(replica(database_url, number), *clock));
    fleet.add_replicas(replicas.collect()).await;
    let urls: Vec<String> =
        fleet.replicas.iter().map(|node| node.server.url().to_owned()).collect();
    let sidecars = CLOCKS.iter().enumerate();
    let sidecars = sidecars
        .map(|(number, clock)| with_clock(sidecar(&[&urls[(number + 1) % 3]], number), *clock));
    fleet.add_sidecars(sidecars.collect()).await;
    let upstream = fleet.sidecars[1].server.url().to_owned();
    fleet.add_sidecars(vec![with_clock(sidecar(&[&upstream], 3), Some("-1h"))]).await;
    fleet.serving().await;
    assert_clocks_are_wrong(&fleet);
    fleet
}

/// Asserts that the clocks are wrong. Otherwise the tests could not fail.
fn assert_clocks_are_wrong(fleet: &Fleet) {
    let clocks = [CLOCKS[0], CLOCKS[1], CLOCKS[2], CLOCKS[0], CLOCKS[1], CLOCKS[2], CLOCKS[2]];
    for (node, clock) in fleet.nodes().zip(clocks) {
        let node_time = DateTime::parse_from_rfc3339(&node.server.started_at).unwrap();
        let ahead =
            node_time.timestamp() - DateTime::<chrono::Utc>::from(SystemTime::now()).timestamp();
        let expected = match clock {
            Some("+1h") => 3_600,
            Some(_) => -3_600,
            None => 0,
        };
        assert!((ahead - expected).abs() < 60, "{} is {ahead} s ahead", node.server.name);
    }
}

async fn grant(
    fleet: &Fleet,
    replica: usize,
    tenant_id: &str,
    period: GrantAccessRequest,
) -> (Grant, String) {
    let request = GrantAccessRequest {
        start_time: period.start_time,
        expire_time: period.expire_time,
        duration: period.duration,
        until_revoked: false,
        ..grant_request(tenant_id)
    };
    grant_with_token(&mut fleet.admin(replica), request).await.unwrap()
}

async fn assert_all_answer(fleet: &Fleet, tenant_id: &str, token: &str, expected: &Verdict) {
    for node in fleet.nodes() {
        let verdict = fleet.check(node, tenant_id, token).await;
        assert_eq!(verdict, *expected, "{}", node.server.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_do_not_depend_on_the_wall_clock() {
    let cluster = Cluster::launch();
    let fleet = fleet(&cluster.fresh_database()).await;
    for replica in 0..3 {
        let tenants = ["always", "for ten minutes", "in half an hour"]
            .map(|name| format!("{name} {replica}"));
        let always = fleet.grant_everywhere(replica, &tenants[0]).await;
        let ten_minutes = prost_types::Duration { seconds: 600, nanos: 0 };
        let now = GrantAccessRequest { duration: Some(ten_minutes), ..Default::default() };
        let start_time = Some((SystemTime::now() + HOUR / 2).into());
        let later = GrantAccessRequest { start_time, ..now.clone() };
        let (limited, _) = grant(&fleet, replica, &tenants[1], now).await;
        let (scheduled, token) = grant(&fleet, replica, &tenants[2], later).await;
        for grant in [&always, &limited] {
            let verdict = Verdict::Allowed(grant.grant_id.clone());
            assert_all_answer(&fleet, &grant.tenant_id, &token, &verdict).await;
        }
        let verdict = Verdict::Denied(DecisionReason::NotStarted);
        assert_all_answer(&fleet, &scheduled.tenant_id, &token, &verdict).await;
        for grant in [&always, &limited, &scheduled] {
            let revoked = fleet.revoke_within_bound(replica, grant).await;
            assert_eq!(revoked.enforcement.nodes_acknowledged, fleet.count(), "{revoked:?}");
            let verdict = Verdict::Denied(DecisionReason::Revoked);
            let token = &revoked.enforcement.consistency_token;
            assert_all_answer(&fleet, &grant.tenant_id, token, &verdict).await;
        }
    }
    eventually("revocations are fast", async || {
        let grant = fleet.grant_everywhere(0, "last").await;
        fleet.revoke_within_bound(0, &grant).await.elapsed() < FAST
    })
    .await;
}

/// No node allows access after the expire time by the database's clock, which is this machine's
/// clock. No node ends access much earlier.
#[tokio::test(flavor = "multi_thread")]
async fn grants_expire_on_time_despite_a_wrong_wall_clock() {
    let cluster = Cluster::launch();
    let fleet = fleet(&cluster.fresh_database()).await;
    let (monotonic, wall) = (Instant::now(), SystemTime::now());
    let end_time = wall + Duration::from_secs(5);
    let tenant_id = "five seconds";
    let period = GrantAccessRequest { expire_time: Some(end_time.into()), ..Default::default() };
    let (limited, token) = grant(&fleet, 1, tenant_id, period).await;
    let end = monotonic + Duration::from_secs(5);
    let load = Load::on(&fleet, &[tenant_id.into()], PACE);
    for node in fleet.nodes() {
        eventually("the grant has expired", async || {
            let verdict = fleet.check(node, tenant_id, &token).await;
            verdict == Verdict::Denied(DecisionReason::Expired)
        })
        .await;
    }
    drop(load);
    let allowed = fleet.history.answers(|answer| answer.verdict.is_allowed_by(&limited));
    let expired = Verdict::Denied(DecisionReason::Expired);
    let expired = fleet.history.answers(|answer| answer.verdict == expired);
    for node in fleet.nodes() {
        let is_of_node = |answer: &&Answer| answer.node == node.number;
        let last = allowed.iter().filter(is_of_node).map(|answer| answer.invoked).max();
        let last = last.expect("the node allowed access before the expire time");
        let first = expired.iter().filter(is_of_node).map(|answer| answer.answered).min();
        let first = first.expect("the node denied access after the expire time");
        println!(
            "{}: last allowed {:?} before the expire time",
            node.server.name,
            end.checked_duration_since(last)
        );
        assert!(last < end, "{} allowed access after the expire time", node.server.name);
        assert!(first + FAST > end, "{} ended the grant too early", node.server.name);
    }
}

// === a database clock that steps ===

/// Two replicas and a sidecar on a database whose clock steps.
async fn stepping() -> (Cluster, Fleet) {
    let cluster = Cluster::launch_with_clock(library());
    let mut fleet = Fleet::replicas(&cluster.fresh_database(), 2).await;
    let url = fleet.replicas[1].server.url().to_owned();
    fleet.add_sidecar(&[&url]).await;
    fleet.serving().await;
    (cluster, fleet)
}

/// A grant for this time from now, and the end of that time.
async fn grant_for(fleet: &Fleet, tenant_id: &str, seconds: i64) -> (Grant, Instant) {
    let duration = prost_types::Duration { seconds, nanos: 0 };
    let period = GrantAccessRequest { duration: Some(duration), ..Default::default() };
    let (grant, _) = grant(fleet, 0, tenant_id, period).await;
    (grant, Instant::now() + Duration::from_secs(seconds.unsigned_abs()))
}

/// Waits until both replicas reject grants with `CLOCK_UNRELIABLE`.
async fn wait_until_untrusted(fleet: &Fleet) {
    for replica in 0..2 {
        eventually("the replica rejects grants", async || {
            let granted = fleet.admin(replica).grant_access(grant_request("more")).await;
            granted.is_err_and(|status| {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
                status.message().contains("the database clock differs from the elapsed time by")
            })
        })
        .await;
    }
}

/// Waits until both replicas accept grants.
async fn wait_until_trusted(fleet: &Fleet) {
    for replica in 0..2 {
        eventually("the replica accepts grants", async || {
            fleet.admin(replica).grant_access(grant_request("more")).await.is_ok()
        })
        .await;
    }
}

/// Asserts that every node allows access, and that none does after `end`. Prints when each node
/// allowed access last.
async fn assert_ends(fleet: &Fleet, grant: &Grant, end: Instant) {
    let load = Load::on(fleet, std::slice::from_ref(&grant.tenant_id), PACE);
    for node in fleet.nodes() {
        eventually("the grant has expired", async || {
            let verdict = fleet.check(node, &grant.tenant_id, "").await;
            verdict == Verdict::Denied(DecisionReason::Expired)
        })
        .await;
    }
    drop(load);
    let allowed = fleet.history.answers(|answer| answer.verdict.is_allowed_by(grant));
    for node in fleet.nodes() {
        let answers = allowed.iter().filter(|answer| answer.node == node.number);
        let last = answers.map(|answer| answer.invoked).max();
        let last = last.expect("the node allowed access before the end");
        let before = end.checked_duration_since(last);
        println!("{}: last allowed {before:?} before the end", node.server.name);
        assert!(before.is_some(), "{} allowed access after the end", node.server.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_clock_that_is_set_back_extends_no_grant() {
    let (cluster, fleet) = stepping().await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    let (limited, end) = grant_for(&fleet, "limited", 10).await;
    cluster.set_clock("-30m");
    wait_until_untrusted(&fleet).await;
    fleet.replicas[0].server.wait_for_log("the database clock is not trusted");
    // Revocations work, and need no longer than usual.
    let revoked = fleet.revoke_within_bound(1, &kept).await;
    assert_eq!(revoked.enforcement.state(), EnforcementState::Complete);
    assert_ends(&fleet, &limited, end).await;
    cluster.set_clock("+0");
    wait_until_trusted(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_clock_that_was_ahead_extends_no_later_grant() {
    let (cluster, fleet) = stepping().await;
    let revoked = fleet.grant_everywhere(0, "revoked").await;
    cluster.set_clock("+2h");
    wait_until_untrusted(&fleet).await;
    // A change while the clock is ahead.
    fleet.revoke_within_bound(0, &revoked).await;
    cluster.set_clock("+0");
    wait_until_trusted(&fleet).await;
    let (limited, end) = grant_for(&fleet, "limited", 10).await;
    let start = limited.start_time.unwrap();
    let start = SystemTime::try_from(start).unwrap();
    let distance = start.duration_since(SystemTime::now()).unwrap_or_else(|error| error.duration());
    assert!(distance < Duration::from_mins(1), "the grant starts at {start:?}");
    for node in fleet.nodes() {
        // A node that still has the wrong reading ends the grant early.
        fleet.wait_until_allowed(node, &limited).await;
    }
    assert_ends(&fleet, &limited, end).await;
}

/// The operator's command after the database clock was set back.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_follows_a_clock_that_an_operator_accepts() {
    let (cluster, fleet) = stepping().await;
    let ten_hours = prost_types::Duration { seconds: 36_000, nanos: 0 };
    let period = GrantAccessRequest { duration: Some(ten_hours), ..Default::default() };
    let (before, old_token) = grant(&fleet, 0, "acme", period).await;

    cluster.set_clock("-1h");
    wait_until_untrusted(&fleet).await;
    let server = fleet.replicas[0].server.url();
    let accept = ["clock", "accept", "--reason", "the server was reset"];
    let accepted = run_at(server, &accept);
    assert_eq!((accepted.code, accepted.stderr.as_str()), (0, ""), "{accepted:?}");
    let behind = ["(59m 59s behind)", "(1h behind)", "(1h 1s behind)"];
    assert!(behind.iter().any(|text| accepted.stdout.contains(text)), "{accepted:?}");
    let again = run_at(server, &accept);
    assert!(again.stdout.contains("trusted already"), "{again:?}");

    // A node that has not loaded the new epoch would reject the tokens of that epoch.
    for node in fleet.nodes() {
        eventually("tokens from before are rejected", async || {
            let check = fleet.history.check(node.number, &node.client, "acme", &old_token).await;
            check.is_err_and(|rejected| rejected.message().contains("consistency_token"))
        })
        .await;
    }
    fleet.grant_everywhere(1, "bolt").await;
    let moved =
        run_at(fleet.replicas[1].server.url(), &["show", "acme", &before.grant_id, "-o", "json"]);
    let moved: serde_json::Value = serde_json::from_str(&moved.stdout).unwrap();
    let end = moved["grant"]["expire_time"].as_str().unwrap();
    let end = DateTime::parse_from_rfc3339(end).unwrap().timestamp();
    let moved_by = before.expire_time.unwrap().seconds - end;
    assert!((3_600..3_610).contains(&moved_by), "the end was moved by {moved_by} s");
    let history = run_at(server, &["history", "list", "acme"]);
    assert!(history.stdout.contains("behind"), "{history:?}");
    let vendor = run_at(server, &["history", "list", "--vendor"]);
    assert!(vendor.stdout.contains("CLOCK_ACCEPTED"), "{vendor:?}");
}
