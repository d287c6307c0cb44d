//! The files of a SQLite database are removed, replaced and restored under real servers.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use support_access::api::proto::v1::{DecisionReason, ListGrantsRequest};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::common::{
    requests::{check_request, grant_request},
    server::{Launch, Outcome, Server, eventually, is_serving},
};

/// A directory with a SQLite database.
struct Database {
    root: TempDir,
}

impl Database {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        Self { root }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.directory().join(format!("test.db{suffix}"))
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.file("").display())
    }

    fn start(&self) -> Server {
        Server::start(&self.url())
    }

    /// The error of a server that does not start.
    fn error(&self) -> String {
        let Outcome { code, stderr } = Launch::replica(&self.url()).outcome();
        assert_eq!(code, Some(1), "{stderr}");
        stderr.lines().last().unwrap().to_owned()
    }

    fn command(&self, command: &str) -> bool {
        let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_support-access"));
        let process = process.args(["database", command, "--database-url", &self.url()]);
        process.status().unwrap().success()
    }
}

async fn grant(server: &Server) -> Result<String, Status> {
    let granted = server.admin().await.grant_access(grant_request("acme")).await?;
    Ok(granted.into_inner().grant.unwrap().grant_id)
}

async fn count_grants(server: &Server) -> usize {
    let request = ListGrantsRequest { tenant_id: "acme".into(), ..Default::default() };
    server.admin().await.list_grants(request).await.unwrap().into_inner().grants.len()
}

async fn check(server: &Server) -> DecisionReason {
    server
        .access()
        .await
        .check_access(check_request("acme", ""))
        .await
        .unwrap()
        .into_inner()
        .reason()
}

/// Asserts that a server without its files rejects changes at once, and denies checks soon.
async fn assert_closed(server: &Server) {
    let rejected = grant(server).await.expect_err("the change would be lost");
    assert_eq!(rejected.code(), Code::Unavailable);
    assert!(rejected.message().contains("was removed or replaced"), "{rejected:?}");
    server.wait_for_log("rejecting changes, because they would be lost");
    eventually("checks are STALE", async || check(server).await == DecisionReason::Stale).await;
    let channel = server.connect().await;
    eventually("the server is NOT_SERVING", async || !is_serving(&channel).await).await;
}

/// Replaces a file by a copy, as a restore under a running server does.
fn replace(path: &Path) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).unwrap();
    fs::rename(&copy, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_files_are_removed_or_replaced_rejects_changes() {
    type Loss = fn(&Database);
    let losses: [(&str, Loss); 7] = [
        ("all files are removed", |database| {
            for suffix in ["", "-wal", "-shm"] {
                fs::remove_file(database.file(suffix)).unwrap();
            }
        }),
        ("the main file is removed", |database| fs::remove_file(database.file("")).unwrap()),
        ("the log is removed", |database| fs::remove_file(database.file("-wal")).unwrap()),
        ("the index is removed", |database| fs::remove_file(database.file("-shm")).unwrap()),
        ("the main file is replaced", |database| replace(&database.file(""))),
        ("the log is replaced", |database| replace(&database.file("-wal"))),
        ("the directory is moved", |database| {
            fs::rename(database.directory(), database.root.path().join("moved")).unwrap();
        }),
    ];
    for (description, lose) in losses {
        println!("{description}");
        let database = Database::new();
        let mut server = database.start();
        grant(&server).await.unwrap();
        lose(&database);
        assert_closed(&server).await;
        assert!(server.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_leads_to_another_file_counts_as_a_replacement() {
    let (database, other) = (Database::new(), Database::new());
    drop(other.start());
    let link = database.root.path().join("link");
    std::os::unix::fs::symlink(database.directory(), &link).unwrap();
    let server = Server::start(&format!("sqlite://{}", link.join("test.db").display()));
    grant(&server).await.unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(other.directory(), &link).unwrap();
    assert_closed(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_continues_once_its_files_are_back() {
    let database = Database::new();
    let mut server = database.start();
    grant(&server).await.unwrap();
    let moved = database.root.path().join("moved");
    fs::rename(database.directory(), &moved).unwrap();
    assert_closed(&server).await;
    // Connections that are opened meanwhile must not use these files.
    fs::create_dir(database.directory()).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        fs::copy(moved.join(format!("test.db{suffix}")), database.file(suffix)).unwrap();
    }
    assert_closed_still(&server).await;
    fs::remove_dir_all(database.directory()).unwrap();
    fs::rename(&moved, database.directory()).unwrap();
    server.wait_for_log("the files of the database are back");
    server.serving().await;
    grant(&server).await.unwrap();
    assert_eq!(check(&server).await, DecisionReason::GrantActive);
    assert!(server.stop().success());
    assert_eq!(count_grants(&database.start()).await, 2);
}

async fn assert_closed_still(server: &Server) {
    assert_eq!(grant(server).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(check(server).await, DecisionReason::Stale);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_server_does_not_start_without_its_write_ahead_log() {
    let database = Database::new();
    let mut server = database.start();
    grant(&server).await.unwrap();
    server.kill();
    let aside = database.root.path().join("aside");
    for suffix in ["-wal", ""] {
        fs::rename(database.file(suffix), &aside).unwrap();
        let error = database.error();
        let expected = "ends at revision 0, but revision 1 was acknowledged; put the original file";
        assert!(error.contains(expected), "{error}");
        assert!(!database.command("migrate"));
        fs::rename(&aside, database.file(suffix)).unwrap();
    }
    // The failed starts have lost nothing.
    assert_eq!(count_grants(&database.start()).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_database_is_accepted_after_a_declared_restore() {
    let database = Database::new();
    let mut server = database.start();
    grant(&server).await.unwrap();
    assert!(server.stop().success());
    let backup = database.root.path().join("backup");
    fs::copy(database.file(""), &backup).unwrap();
    let mut server = database.start();
    grant(&server).await.unwrap();
    // The backup is written into the file, under the running server.
    fs::copy(&backup, database.file("")).unwrap();
    server.kill();
    fs::remove_file(database.file("-wal")).unwrap();
    let error = database.error();
    assert!(error.contains("ends at revision 1, but revision 2 was acknowledged"), "{error}");
    assert!(database.command("restored"));
    let server = database.start();
    assert_eq!(count_grants(&server).await, 1);
    grant(&server).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_all_files_does_not_start_on_an_empty_database() {
    let database = Database::new();
    let mut server = database.start();
    grant(&server).await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(database.file(suffix)).unwrap();
    }
    assert!(server.stop().success());
    assert!(database.error().contains("ends at revision 0, but revision 1 was acknowledged"));
    assert!(!database.file("").exists(), "no empty database is created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_private_and_looser_modes_are_logged() {
    let database = Database::new();
    let mut server = database.start();
    grant(&server).await.unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mode = fs::metadata(database.file(suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
    assert!(server.stop().success());
    let warning = "other users of this host may access the database";
    assert!(!server.startup_logs.iter().any(|line| line.contains(warning)));

    fs::set_permissions(database.file(""), fs::Permissions::from_mode(0o640)).unwrap();
    let server = database.start();
    let warned = server.startup_logs.iter().filter(|line| line.contains(warning)).count();
    assert_eq!(warned, 1, "{:?}", server.startup_logs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_a_damaged_file_ends() {
    let database = Database::new();
    let mut server = database.start();
    for _ in 0..50 {
        grant(&server).await.unwrap();
    }
    assert!(server.stop().success());
    let mut file = fs::read(database.file("")).unwrap();
    let middle = file.len() / 2 / 4096 * 4096;
    file[middle..middle + 4096].fill(0xa5);
    fs::write(database.file(""), file).unwrap();
    let Outcome { code, stderr } = Launch::replica(&database.url()).outcome();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("is corrupt or not a SQLite database; restore a backup"), "{stderr}");
}
