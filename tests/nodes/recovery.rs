//! The database's server is lost, and another is restored from a backup and an archive, to a point in time, as
//! `docs/operations.md` says: behind a lock on everything, until somebody has seen what is missing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use support_access::api::proto::v1::{
    DecisionReason, GetGrantRequest, Grant, GrantState, event::Payload,
};
use tempfile::TempDir;

use crate::{
    database::fleet,
    fleet::{Fleet, MAX_STALENESS},
    history::{Answer, History, Log, Verdict, assert_consistent, is_of, log},
    load::Load,
    locks::{everything, lock, unlock},
    postgres::Cluster,
    proxy::{Proxy, Target as Place},
    server::eventually,
};

/// How often each node is asked.
const PACE: Duration = Duration::from_millis(10);
/// What becomes of each. Ended before the backup, granted before it, granted after it: these survive. Revoked after the point in
/// time, once to be revoked again, once not; granted after the point in time.
const TENANTS: [&str; 6] = ["ended", "kept", "recent", "revoked", "reopened", "lost"];
const LOCKED: Verdict = Verdict::Denied(DecisionReason::Locked);
const REVOKED: Verdict = Verdict::Denied(DecisionReason::Revoked);

/// What is granted, by what becomes of it.
struct Grants {
    kept: Grant,
    recent: Grant,
    revoked: Grant,
    reopened: Grant,
}

/// Runs the command line, and answers its exit code and what it said.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_support-access")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What an operator exports regularly: a file for each tenant.
fn export(folder: &TempDir, name: &str, server: &str) -> PathBuf {
    let exports = folder.path().join(name);
    fs::create_dir(&exports).unwrap();
    for tenant_id in TENANTS {
        let (code, text, error) = run(&["history", "export", tenant_id, "--server", server]);
        assert_eq!((code, error.as_str()), (0, ""));
        fs::write(exports.join(tenant_id), text).unwrap();
    }
    exports
}

/// The last line of an export is its checkpoint. Answers what `history verify` says to another export.
fn verify(kept: &Path, export: &Path, tenant_id: &str) -> (i32, String) {
    let lines = fs::read_to_string(kept.join(tenant_id)).unwrap();
    let checkpoint = kept.join(format!("{tenant_id}.checkpoint"));
    fs::write(&checkpoint, lines.lines().last().unwrap()).unwrap();
    let file = export.join(tenant_id);
    let (file, checkpoint) = (file.to_str().unwrap(), checkpoint.to_str().unwrap());
    let (code, _, error) = run(&["history", "verify", file, "--checkpoint", checkpoint]);
    (code, error)
}

/// The events that are in the first export, and not in the second, as the manual finds them.
fn missing(before: &Path, after: &Path, tenant_id: &str) -> Vec<Value> {
    let mut grep = Command::new("grep");
    grep.args(["--invert-match", "--line-regexp", "--fixed-strings", "--file"]);
    let output = grep.arg(after.join(tenant_id)).arg(before.join(tenant_id)).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // The checkpoint of each export is another.
    records.filter(|record| record.get("event").is_some()).collect()
}

async fn state(fleet: &Fleet, grant: &Grant) -> GrantState {
    let (tenant_id, grant_id) = (grant.tenant_id.clone(), grant.grant_id.clone());
    let request = GetGrantRequest { tenant_id, grant_id };
    fleet.admin(0).get_grant(request).await.unwrap().into_inner().grant.unwrap().state()
}

/// Grants and revocations, before the backup and after it.
async fn before_the_point(fleet: &Fleet, cluster: &Cluster) -> (Grants, PathBuf) {
    let ended = fleet.granted(0, "ended").await;
    fleet.revoke_in_time(1, &ended).await;
    let kept = fleet.granted(0, "kept").await;
    let base = cluster.base_backup();
    let recent = fleet.granted(1, "recent").await;
    let revoked = fleet.granted(0, "revoked").await;
    let reopened = fleet.granted(1, "reopened").await;
    (Grants { kept, recent, revoked, reopened }, base)
}

/// What will be lost.
async fn after_the_point(fleet: &Fleet, grants: &Grants) {
    fleet.revoke_in_time(0, &grants.revoked).await;
    // Nobody will do that again: so what is promised here does not hold for ever.
    History::default().revoke(&mut fleet.admin(1), &grants.reopened).await.unwrap();
    fleet.granted(1, "lost").await;
}

async fn histories(fleet: &Fleet) -> Log {
    log(&mut fleet.admin(0), &TENANTS.map(str::to_owned)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_restored_to_a_point_in_time_behind_a_lock() {
    let cluster = Cluster::begin_archiving();
    cluster.fresh_database();
    let database = Proxy::start(Place::Unix(cluster.socket())).await;
    let mut fleet = fleet(&format!("postgres://postgres@{}/test_0", database.address)).await;
    let folder = TempDir::with_prefix("support-access-").unwrap();
    let (grants, base) = before_the_point(&fleet, &cluster).await;
    let point = cluster.psql("postgres", "SELECT clock_timestamp()");
    after_the_point(&fleet, &grants).await;
    let exported = export(&folder, "before", fleet.replicas[0].server.url());
    let before = histories(&fleet).await;
    cluster.archived();

    let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
    cluster.kill();
    database.cut();
    let killed = Instant::now();
    for node in fleet.nodes() {
        eventually("it cannot tell", async || fleet.ask(node, "kept", "").await == Verdict::Stale)
            .await;
    }
    println!("nobody answers any more {:?} after the server was killed", killed.elapsed());
    let began = Instant::now();
    let restored = Cluster::restored(&cluster, &base, &point);
    println!("restored to {point} in {:?}", began.elapsed());
    // One server that nobody else can reach, and the lock, before anybody can read what is there.
    let first = Fleet::replicas(&restored.url("test_0"), 1).await;
    let locked = lock(&first, 0, everything()).await.lock.unwrap();

    database.lead_to(Place::Unix(restored.socket()));
    database.heal();
    let led = Instant::now();
    for node in fleet.nodes() {
        eventually("it knows of the lock", async || fleet.ask(node, "kept", "").await == LOCKED)
            .await;
    }
    println!(
        "all nodes answer from there, and say LOCKED, {:?} after it was in place",
        led.elapsed()
    );
    let found = export(&folder, "after", first.replicas[0].server.url());
    review(&first, &exported, &found, &grants).await;
    fleet.revoke_in_time(1, &grants.revoked).await;
    let anew = export(&folder, "anew", first.replicas[0].server.url());
    let (code, why) = verify(&exported, &anew, "revoked");
    assert!(code == 1 && why.contains("the history was rewritten"), "{why}");
    let unlocked = Instant::now();
    unlock(&first, 0, &locked).await;
    drop(first);
    all_is_as_it_was(&fleet, &grants).await;
    drop(load);

    fleet.history.nobody_was_let_in_after_the_end();
    let after = histories(&fleet).await;
    let (mut stale, answers) = (0, fleet.history.answers(|_| true));
    for answer in &answers {
        let is_lapsed = answer.invoked >= killed + MAX_STALENESS;
        let is_uncertain = answer.verdict == Verdict::Stale;
        let is_right = match () {
            () if !is_lapsed => is_of(&before, answer),
            () if answer.answered < led => is_uncertain,
            () if answer.answered < unlocked => is_uncertain || answer.verdict == LOCKED,
            () => answer.verdict == LOCKED || is_of(&after, answer),
        };
        assert!(is_right, "killed {killed:?}, led {led:?}, unlocked {unlocked:?}: {answer:?}");
        stale += usize::from(is_uncertain);
    }
    let late = |answer: &&Answer| answer.invoked >= unlocked && answer.verdict != LOCKED;
    let late: Vec<Answer> = answers.iter().filter(late).cloned().collect();
    assert_consistent(&after, &late);
    println!("{} checks, of which {stale} were stale", answers.len());
    fleet.assert_running();
}

/// What an operator finds, while everything is locked.
async fn review(restored: &Fleet, before: &Path, after: &Path, grants: &Grants) {
    for tenant_id in ["ended", "kept", "recent"] {
        assert_eq!(verify(before, after, tenant_id).0, 0, "{tenant_id} has lost nothing");
        assert!(missing(before, after, tenant_id).is_empty());
    }
    for (tenant_id, kind) in [("revoked", "revoked"), ("reopened", "revoked"), ("lost", "granted")]
    {
        let (code, why) = verify(before, after, tenant_id);
        println!("{tenant_id}: {why}");
        assert_eq!(code, 1, "{why}");
        let missing = missing(before, after, tenant_id);
        let kinds: Vec<&str> =
            missing.iter().map(|it| it["event"]["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, [kind], "{missing:?}");
    }
    // What restoring means.
    for grant in [&grants.revoked, &grants.reopened] {
        assert_eq!(state(restored, grant).await, GrantState::Active);
    }
}

/// At every node, and by the processes that were there all the time.
async fn all_is_as_it_was(fleet: &Fleet, grants: &Grants) {
    for node in fleet.nodes() {
        for grant in [&grants.kept, &grants.recent, &grants.reopened] {
            fleet.lets_in(node, grant).await;
        }
        assert_eq!(fleet.ask(node, "ended", "").await, REVOKED);
        assert_eq!(fleet.ask(node, "revoked", "").await, REVOKED);
        let lost = fleet.ask(node, "lost", "").await;
        assert_eq!(lost, Verdict::Denied(DecisionReason::NoGrant));
    }
    let events = &histories(fleet).await["revoked"];
    let last = events.last().unwrap().payload.as_ref();
    assert!(matches!(last, Some(Payload::Revoked(_))), "{last:?}");
    fleet.all_confirm(0).await;
}
