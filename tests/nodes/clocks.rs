//! Nodes whose wall clock is wrong by an hour, either way. `libfaketime` makes it so: it answers for the clock that the program
//! asks for the time of day. `CLOCK_BOOTTIME` is asked past it, and monotonic clocks it is told to leave alone.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use chrono::DateTime;
use support_access::api::proto::v1::{DecisionReason, Grant, GrantAccessRequest};

use crate::{
    fleet::{FAST, Fleet, grant_with_token, replica, request, sidecar},
    history::Verdict,
    load::Load,
    postgres::Cluster,
    server::{Launch, eventually},
};

const HOUR: Duration = Duration::from_hours(1);
/// How often each node is asked.
const PACE: Duration = Duration::from_millis(10);

/// The right clock, and two that are wrong.
const CLOCKS: [Option<&str>; 3] = [None, Some("+1h"), Some("-1h")];

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let found =
        folders.map(|it| it.path().join("faketime/libfaketime.so.1")).find(|it| it.exists());
    found.expect("libfaketime is installed: apt-get install libfaketime")
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

/// A replica of each clock, a sidecar of each clock, each at a replica with another clock, and a sidecar that follows a sidecar.
async fn fleet(database_url: &str) -> Fleet {
    let mut fleet = Fleet::new();
    let replicas = CLOCKS.iter().enumerate();
    let replicas =
        replicas.map(|(number, clock)| with_clock(replica(database_url, number), *clock));
    fleet.add_replicas(replicas.collect()).await;
    let urls: Vec<String> = fleet.replicas.iter().map(|it| it.server.url().to_owned()).collect();
    let sidecars = CLOCKS.iter().enumerate();
    let sidecars = sidecars
        .map(|(number, clock)| with_clock(sidecar(&[&urls[(number + 1) % 3]], number), *clock));
    fleet.add_sidecars(sidecars.collect()).await;
    let upstream = fleet.sidecars[1].server.url().to_owned();
    fleet.add_sidecars(vec![with_clock(sidecar(&[&upstream], 3), Some("-1h"))]).await;
    fleet.serving().await;
    clocks_are_wrong(&fleet);
    fleet
}

/// Or else nothing here could fail.
fn clocks_are_wrong(fleet: &Fleet) {
    let clocks = [CLOCKS[0], CLOCKS[1], CLOCKS[2], CLOCKS[0], CLOCKS[1], CLOCKS[2], CLOCKS[2]];
    for (node, clock) in fleet.nodes().zip(clocks) {
        let shown = DateTime::parse_from_rfc3339(&node.server.started_at).unwrap();
        let ahead =
            shown.timestamp() - DateTime::<chrono::Utc>::from(SystemTime::now()).timestamp();
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
        ..request(tenant_id)
    };
    grant_with_token(&mut fleet.admin(replica), request).await.unwrap()
}

async fn all_answer(fleet: &Fleet, tenant_id: &str, token: &str, expected: &Verdict) {
    for node in fleet.nodes() {
        let verdict = fleet.ask(node, tenant_id, token).await;
        assert_eq!(verdict, *expected, "{}", node.server.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_wall_clock_changes_no_answer() {
    let cluster = Cluster::begin();
    let fleet = fleet(&cluster.fresh_database()).await;
    for replica in 0..3 {
        let tenants =
            ["always", "for ten minutes", "in half an hour"].map(|it| format!("{it} {replica}"));
        let always = fleet.granted(replica, &tenants[0]).await;
        let ten_minutes = prost_types::Duration { seconds: 600, nanos: 0 };
        let now = GrantAccessRequest { duration: Some(ten_minutes), ..Default::default() };
        let start_time = Some((SystemTime::now() + HOUR / 2).into());
        let later = GrantAccessRequest { start_time, ..now.clone() };
        let (limited, _) = grant(&fleet, replica, &tenants[1], now).await;
        let (scheduled, token) = grant(&fleet, replica, &tenants[2], later).await;
        for grant in [&always, &limited] {
            let verdict = Verdict::Allowed(grant.grant_id.clone());
            all_answer(&fleet, &grant.tenant_id, &token, &verdict).await;
        }
        let verdict = Verdict::Denied(DecisionReason::NotStarted);
        all_answer(&fleet, &scheduled.tenant_id, &token, &verdict).await;
        for grant in [&always, &limited, &scheduled] {
            let revoked = fleet.revoke_in_time(replica, grant).await;
            assert_eq!(revoked.enforcement.nodes_acknowledged, fleet.count(), "{revoked:?}");
            let verdict = Verdict::Denied(DecisionReason::Revoked);
            let token = &revoked.enforcement.consistency_token;
            all_answer(&fleet, &grant.tenant_id, token, &verdict).await;
        }
    }
    eventually("revocations are fast", async || {
        let grant = fleet.granted(0, "last").await;
        fleet.revoke_in_time(0, &grant).await.elapsed() < FAST
    })
    .await;
}

/// At the end time by the database's clock, which is this machine's, nobody is let in any more, and until shortly before everybody is.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_wall_clock_ends_no_grant_late() {
    let cluster = Cluster::begin();
    let fleet = fleet(&cluster.fresh_database()).await;
    let (monotonic, wall) = (Instant::now(), SystemTime::now());
    let end_time = wall + Duration::from_secs(5);
    let tenant_id = "for a moment";
    let period = GrantAccessRequest { expire_time: Some(end_time.into()), ..Default::default() };
    let (limited, token) = grant(&fleet, 1, tenant_id, period).await;
    let end = monotonic + Duration::from_secs(5);
    let load = Load::on(&fleet, &[tenant_id.into()], PACE);
    for node in fleet.nodes() {
        eventually("it has expired", async || {
            let verdict = fleet.ask(node, tenant_id, &token).await;
            verdict == Verdict::Denied(DecisionReason::Expired)
        })
        .await;
    }
    drop(load);
    let allowed = fleet.history.answers(|it| it.verdict.is_allowed_by(&limited));
    for node in fleet.nodes() {
        let last = allowed.iter().filter(|it| it.node == node.number).map(|it| it.invoked).max();
        let last = last.expect("it was let in");
        println!(
            "{}: last let in {:?} before the end",
            node.server.name,
            end.checked_duration_since(last)
        );
        assert!(last < end, "{} has let in after the end", node.server.name);
        assert!(end - last < FAST, "{} has ended it much too early", node.server.name);
    }
}
