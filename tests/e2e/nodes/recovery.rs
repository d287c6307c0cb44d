//! Point-in-time recovery after the loss of the database server, as `docs/operations.md` describes
//! it.
//!
//! A lock on all access is set before the restored server replaces the lost one. The lock stays
//! until the operator has reviewed the lost events.

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

use crate::nodes::{
    database::fleet,
    fleet::{Fleet, MAX_STALENESS},
    history::{Answer, History, Log, Verdict, assert_consistent, log, matches_log},
    load::Load,
    locks::{everything, lift, lock},
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::eventually,
};

/// The interval between checks at each node.
const PACE: Duration = Duration::from_millis(10);
/// The tenants, named after the history of their grant.
///
/// - `ended`, `kept` and `recent`: revoked before the backup, granted before the backup, and
///   granted after the backup. The restore loses no event of these tenants.
/// - `revoked` and `reopened`: revoked after the point in time, so the restore loses the
///   revocation. The operator revokes only the first grant again.
/// - `lost`: granted after the point in time.
const TENANTS: [&str; 6] = ["ended", "kept", "recent", "revoked", "reopened", "lost"];
const LOCKED: Verdict = Verdict::Denied(DecisionReason::Locked);
const REVOKED: Verdict = Verdict::Denied(DecisionReason::Revoked);

/// The grants, named after their history.
struct Grants {
    kept: Grant,
    recent: Grant,
    revoked: Grant,
    reopened: Grant,
}

/// Runs the command line. Returns the exit code, stdout and stderr.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_support-access")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Exports the history of each tenant to a file, as an operator does regularly.
fn export(directory: &TempDir, name: &str, server: &str) -> PathBuf {
    let exports = directory.path().join(name);
    fs::create_dir(&exports).unwrap();
    for tenant_id in TENANTS {
        let (code, text, error) = run(&["history", "export", tenant_id, "--server", server]);
        assert_eq!((code, error.as_str()), (0, ""));
        fs::write(exports.join(tenant_id), text).unwrap();
    }
    exports
}

/// Runs `history verify` on an export with the checkpoint of an earlier one. The checkpoint is the
/// last line of the earlier export. Returns the exit code and stderr.
fn verify(kept: &Path, export: &Path, tenant_id: &str) -> (i32, String) {
    let lines = fs::read_to_string(kept.join(tenant_id)).unwrap();
    let checkpoint = kept.join(format!("{tenant_id}.checkpoint"));
    fs::write(&checkpoint, lines.lines().last().unwrap()).unwrap();
    let file = export.join(tenant_id);
    let (file, checkpoint) = (file.to_str().unwrap(), checkpoint.to_str().unwrap());
    let (code, _, error) = run(&["history", "verify", file, "--checkpoint", checkpoint]);
    (code, error)
}

/// Returns the events that only the first export contains, with the command from the manual.
fn missing(before: &Path, after: &Path, tenant_id: &str) -> Vec<Value> {
    let mut grep = Command::new("grep");
    grep.args(["--invert-match", "--line-regexp", "--fixed-strings", "--file"]);
    let output = grep.arg(after.join(tenant_id)).arg(before.join(tenant_id)).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // The exports have different checkpoints.
    records.filter(|record| record.get("event").is_some()).collect()
}

async fn state(fleet: &Fleet, grant: &Grant) -> GrantState {
    let (tenant_id, grant_id) = (grant.tenant_id.clone(), grant.grant_id.clone());
    let request = GetGrantRequest { tenant_id, grant_id };
    fleet.admin(0).get_grant(request).await.unwrap().into_inner().grant.unwrap().state()
}

/// Grants and revokes access before and after the backup.
async fn before_the_point(fleet: &Fleet, cluster: &Cluster) -> (Grants, PathBuf) {
    let ended = fleet.grant_everywhere(0, "ended").await;
    fleet.revoke_within_bound(1, &ended).await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    let base = cluster.base_backup();
    let recent = fleet.grant_everywhere(1, "recent").await;
    let revoked = fleet.grant_everywhere(0, "revoked").await;
    let reopened = fleet.grant_everywhere(1, "reopened").await;
    (Grants { kept, recent, revoked, reopened }, base)
}

/// Makes the changes that the restore loses.
async fn after_the_point(fleet: &Fleet, grants: &Grants) {
    fleet.revoke_within_bound(0, &grants.revoked).await;
    // No test revokes this grant again, so this revocation is not recorded in the fleet's history.
    History::default().revoke(&mut fleet.admin(1), &grants.reopened).await.unwrap();
    fleet.grant_everywhere(1, "lost").await;
}

async fn histories(fleet: &Fleet) -> Log {
    log(&mut fleet.admin(0), &TENANTS.map(str::to_owned)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn point_in_time_recovery_under_a_global_lock() {
    let cluster = Cluster::launch_archiving();
    cluster.fresh_database();
    let database = Proxy::start(Target::Unix(cluster.socket())).await;
    let mut fleet = fleet(&format!("postgres://postgres@{}/test_0", database.address)).await;
    let directory = TempDir::with_prefix("support-access-").unwrap();
    let (grants, base) = before_the_point(&fleet, &cluster).await;
    let point = cluster.psql("postgres", "SELECT clock_timestamp()");
    after_the_point(&fleet, &grants).await;
    let exported = export(&directory, "before", fleet.replicas[0].server.url());
    let before = histories(&fleet).await;
    cluster.wait_until_archived();

    let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
    cluster.kill();
    database.cut();
    let killed = Instant::now();
    for node in fleet.nodes() {
        eventually("the node answers STALE", async || {
            fleet.check(node, "kept", "").await == Verdict::Stale
        })
        .await;
    }
    println!("all nodes were STALE {:?} after the server was killed", killed.elapsed());
    let started = Instant::now();
    let restored = Cluster::restored(&cluster, &base, &point);
    println!("restored to {point} in {:?}", started.elapsed());
    // A replica that no gateway can reach sets the lock before any gateway can read the restored
    // data.
    let first = Fleet::replicas(&restored.url("test_0"), 1).await;
    let locked = lock(&first, 0, everything()).await.lock.unwrap();

    database.set_target(Target::Unix(restored.socket()));
    database.heal();
    let redirected = Instant::now();
    for node in fleet.nodes() {
        eventually("the node answers LOCKED", async || {
            fleet.check(node, "kept", "").await == LOCKED
        })
        .await;
    }
    println!(
        "all nodes were LOCKED {:?} after the restored server was in place",
        redirected.elapsed()
    );
    let exported_after = export(&directory, "after", first.replicas[0].server.url());
    review(&first, &exported, &exported_after, &grants).await;
    fleet.revoke_within_bound(1, &grants.revoked).await;
    let reviewed = export(&directory, "reviewed", first.replicas[0].server.url());
    let (code, error) = verify(&exported, &reviewed, "revoked");
    assert!(code == 2 && error.contains("the history was rewritten"), "{error}");
    let lifted = Instant::now();
    lift(&first, 0, &locked).await;
    drop(first);
    assert_restored_state(&fleet, &grants).await;
    drop(load);

    fleet.history.assert_no_access_after_revocation();
    let after = histories(&fleet).await;
    let answers = fleet.history.answers(|_| true);
    for answer in &answers {
        let is_expired = answer.invoked >= killed + MAX_STALENESS;
        let is_uncertain = answer.verdict == Verdict::Stale;
        let is_correct = match () {
            () if !is_expired => matches_log(&before, answer),
            () if answer.answered < redirected => is_uncertain,
            () if answer.answered < lifted => is_uncertain || answer.verdict == LOCKED,
            () => answer.verdict == LOCKED || matches_log(&after, answer),
        };
        let times = (killed, redirected, lifted);
        assert!(is_correct, "(killed, redirected, lifted) = {times:?}: {answer:?}");
    }
    let late = |answer: &&Answer| answer.invoked >= lifted && answer.verdict != LOCKED;
    let late: Vec<Answer> = answers.iter().filter(late).cloned().collect();
    assert_consistent(&after, &late);
    fleet.assert_running();
}

/// Reviews the lost events while everything is locked.
async fn review(restored: &Fleet, before: &Path, after: &Path, grants: &Grants) {
    for tenant_id in ["ended", "kept", "recent"] {
        assert_eq!(verify(before, after, tenant_id).0, 0, "{tenant_id} lost no event");
        assert!(missing(before, after, tenant_id).is_empty());
    }
    for (tenant_id, kind) in [("revoked", "revoked"), ("reopened", "revoked"), ("lost", "granted")]
    {
        let (code, error) = verify(before, after, tenant_id);
        println!("{tenant_id}: {error}");
        assert_eq!(code, 2, "{error}");
        let missing = missing(before, after, tenant_id);
        let kinds: Vec<&str> =
            missing.iter().map(|record| record["event"]["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, [kind], "{missing:?}");
    }
    // The restore has undone these revocations.
    for grant in [&grants.revoked, &grants.reopened] {
        assert_eq!(state(restored, grant).await, GrantState::Active);
    }
}

/// Asserts the restored state at every node that ran during the recovery.
async fn assert_restored_state(fleet: &Fleet, grants: &Grants) {
    for node in fleet.nodes() {
        for grant in [&grants.kept, &grants.recent, &grants.reopened] {
            fleet.wait_until_allowed(node, grant).await;
        }
        assert_eq!(fleet.check(node, "ended", "").await, REVOKED);
        assert_eq!(fleet.check(node, "revoked", "").await, REVOKED);
        let lost = fleet.check(node, "lost", "").await;
        assert_eq!(lost, Verdict::Denied(DecisionReason::NoGrant));
    }
    let events = &histories(fleet).await["revoked"];
    let last = events.last().unwrap().payload.as_ref();
    assert!(matches!(last, Some(Payload::Revoked(_))), "{last:?}");
    fleet.wait_until_all_acknowledge(0).await;
}
