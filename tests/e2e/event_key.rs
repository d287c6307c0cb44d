//! The event key is replaced, as docs/operations.md describes.

use std::{fs, path::Path, process::Command};

use support_access::api::proto::v1::DecisionReason;
use tonic::Code;

use crate::common::{
    postgres::Cluster,
    requests::{check_request, grant_request},
    server::{Launch, Outcome, Server, eventually},
};

fn launch(url: &str, key: &Path) -> Launch {
    Launch::replica(url).env("SUPPORT_ACCESS_EVENT_KEY_FILE", key)
}

fn rotate(url: &str, old: &Path, new: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
    command.args(["database", "rotate-event-key", "--database-url", url, "--event-key-file"]);
    let output = command.arg(old).arg("--new-event-key-file").arg(new).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.starts_with("The event key is replaced."), "{stdout}");
}

async fn grant(server: &Server) -> Result<String, Code> {
    let granted = server.admin().await.grant_access(grant_request("acme")).await;
    let granted = granted.map_err(|status| status.code())?;
    Ok(granted.into_inner().consistency_token)
}

async fn check(server: &Server, consistency_token: &str) -> DecisionReason {
    let request = check_request("acme", consistency_token);
    server.access().await.check_access(request).await.unwrap().into_inner().reason()
}

/// Rotates the key of a database with a grant. Returns a server with the old key, unless `stops`.
async fn rotated(url: &str, directory: &Path, stops: bool) -> (Server, Option<Server>) {
    let [old, new] = [('a', "old.key"), ('b', "new.key")].map(|(digit, name)| {
        let path = directory.join(name);
        fs::write(&path, digit.to_string().repeat(64)).unwrap();
        path
    });
    let mut server = launch(url, &old).start();
    let token = grant(&server).await.unwrap();
    assert_eq!(check(&server, &token).await, DecisionReason::GrantActive);
    if stops {
        assert!(server.stop().success());
    }
    rotate(url, &old, &new);

    let Outcome { code, stderr } = launch(url, &old).outcome();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("was written with another event key"), "{stderr}");
    let current = launch(url, &new).start();
    assert_eq!(check(&current, &token).await, DecisionReason::GrantActive, "an earlier grant");
    let token = grant(&current).await.unwrap();
    assert_eq!(check(&current, &token).await, DecisionReason::GrantActive);
    (current, (!stops).then_some(server))
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_in_a_sqlite_file_stay_valid_with_another_event_key() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("test.db").display());
    rotated(&url, directory.path(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_in_postgresql_stay_valid_with_another_event_key() {
    let directory = tempfile::tempdir().unwrap();
    rotated(&Cluster::shared().fresh_database(), directory.path(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_keeps_the_old_event_key_changes_nothing_and_denies_everything() {
    let directory = tempfile::tempdir().unwrap();
    let url = Cluster::shared().fresh_database();
    let (_current, outdated) = rotated(&url, directory.path(), false).await;
    let outdated = outdated.unwrap();
    assert_eq!(grant(&outdated).await, Err(Code::Internal));
    eventually("everything is denied", async || {
        check(&outdated, "").await == DecisionReason::Locked
    })
    .await;
}
