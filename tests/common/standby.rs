//! Copies of a cluster: a base backup for point-in-time recovery, and a streaming standby.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{ACCOUNT, Cluster, TIMEOUT, as_account, binary, check};

/// The standby's `application_name` on the primary.
pub const STANDBY: &str = "standby";

impl Cluster {
    /// Starts a new cluster that archives each WAL segment.
    pub fn launch_archiving() -> Self {
        let cluster = Self::prepare();
        check(as_account("mkdir").arg(cluster.archive()));
        let archive = cluster.archive();
        let archive = archive.display();
        cluster.configure(&format!(
            "archive_mode = on\narchive_command = 'test ! -f {archive}/%f && cp %p {archive}/%f'"
        ));
        cluster.start();
        cluster
    }

    /// Takes a base backup of the running server.
    pub fn base_backup(&self) -> PathBuf {
        let base = self.directory.join("base");
        let mut copy = as_account(&binary("pg_basebackup"));
        copy.args(["--checkpoint=fast", "--no-sync", "--username", ACCOUNT, "--host"]);
        check(copy.arg(&self.directory).arg("--pgdata").arg(&base));
        base
    }

    /// Waits until everything committed so far is in the archive.
    pub fn wait_until_archived(&self) {
        let last = self.psql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
        let archived = "SELECT coalesce(max(last_archived_wal), '') FROM pg_stat_archiver";
        poll("the archive contains the last segment", || self.psql("postgres", archived) >= last);
    }

    /// Restores a lost cluster to its state at `time`, from a base backup and the WAL archive.
    pub fn restored(lost: &Self, base: &Path, time: &str) -> Self {
        let cluster = Self::prepare_from(base);
        cluster.configure(&format!(
            "archive_mode = off\nrestore_command = 'cp {}/%f %p'\nrecovery_target_time = '{time}'\n\
             recovery_target_action = 'promote'",
            lost.archive().display()
        ));
        check(as_account("touch").arg(cluster.data().join("recovery.signal")));
        cluster.start();
        cluster.wait_for_recovery();
        cluster
    }

    /// Starts a streaming standby of this cluster that contains everything committed so far.
    pub fn standby(&self) -> Self {
        let standby = Self::prepare_from(&self.base_backup());
        standby.configure(&format!(
            "primary_conninfo = 'host={} user={ACCOUNT} application_name={STANDBY}'",
            self.directory.display()
        ));
        check(as_account("touch").arg(standby.data().join("standby.signal")));
        standby.start();
        standby
    }

    /// Sets the synchronous standby. After the configuration reload, each commit waits for the
    /// named standby.
    pub fn replicate_to(&self, standby: &str) {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
        self.psql("postgres", &format!("{set}; SELECT pg_reload_conf()"));
    }

    /// Like [`Self::replicate_to`], and waits until the standby is synchronous.
    pub fn replicate_synchronously(&self) {
        self.replicate_to(STANDBY);
        let states = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        poll("the standby is synchronous", || self.psql("postgres", states) == "1");
    }

    /// Promotes this standby to primary.
    pub fn promote(&self) {
        let mut promote = as_account(&binary("pg_ctl"));
        check(promote.args(["promote", "--wait", "--silent", "--pgdata"]).arg(self.data()));
        self.wait_for_recovery();
    }

    fn wait_for_recovery(&self) {
        poll("recovery has ended", || self.psql("postgres", "SELECT pg_is_in_recovery()") == "f");
    }

    fn archive(&self) -> PathBuf {
        self.directory.join("archive")
    }

    /// Appends lines to the configuration of a stopped server.
    fn configure(&self, lines: &str) {
        let path = self.data().join("postgresql.conf");
        assert!(fs::exists(&path).unwrap_or_default(), "the cluster has a configuration file");
        let mut file =
            OpenOptions::new().append(true).open(path).expect("the configuration is writable");
        writeln!(file, "{lines}").expect("the configuration is writable");
    }
}

fn poll(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_true() {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(20)); // poll interval
    }
}
