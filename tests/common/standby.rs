//! Copies of a cluster: a backup that can be restored to a point in time, and a standby that streams.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{ACCOUNT, Cluster, TIMEOUT, as_account, binary, check};

/// What a standby is called by its primary.
pub const STANDBY: &str = "standby";

impl Cluster {
    /// A cluster that keeps all that it writes in an archive, segment by segment.
    pub fn begin_archiving() -> Self {
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

    /// Copies what a running server has on disk, as it is for a backup.
    pub fn base_backup(&self) -> PathBuf {
        let base = self.directory.join("base");
        let mut copy = as_account(&binary("pg_basebackup"));
        copy.args(["--checkpoint=fast", "--no-sync", "--username", ACCOUNT, "--host"]);
        check(copy.arg(&self.directory).arg("--pgdata").arg(&base));
        base
    }

    /// Waits until all that was committed so far is in the archive.
    pub fn archived(&self) {
        let last = self.psql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
        let archived = "SELECT coalesce(max(last_archived_wal), '') FROM pg_stat_archiver";
        poll("the archive has it", || self.psql("postgres", archived) >= last);
    }

    /// A new cluster, from a backup and the archive of one that is lost, as that was at `time`.
    pub fn restored(lost: &Self, base: &Path, time: &str) -> Self {
        let cluster = Self::prepare_from(base);
        cluster.configure(&format!(
            "archive_mode = off\nrestore_command = 'cp {}/%f %p'\nrecovery_target_time = '{time}'\n\
             recovery_target_action = 'promote'",
            lost.archive().display()
        ));
        check(as_account("touch").arg(cluster.data().join("recovery.signal")));
        cluster.start();
        cluster.recovered();
        cluster
    }

    /// A standby that streams from this cluster, and has all that was committed so far.
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

    /// From when the server has seen it, no commit is answered before that standby has it.
    pub fn replicate_to(&self, standby: &str) {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
        self.psql("postgres", &format!("{set}; SELECT pg_reload_conf()"));
    }

    /// As [`Self::replicate_to`], and waits until it is so.
    pub fn replicate_synchronously(&self) {
        self.replicate_to(STANDBY);
        let states = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        poll("the standby is synchronous", || self.psql("postgres", states) == "1");
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        let mut promote = as_account(&binary("pg_ctl"));
        check(promote.args(["promote", "--wait", "--silent", "--pgdata"]).arg(self.data()));
        self.recovered();
    }

    fn recovered(&self) {
        poll("recovery has ended", || self.psql("postgres", "SELECT pg_is_in_recovery()") == "f");
    }

    fn archive(&self) -> PathBuf {
        self.directory.join("archive")
    }

    /// Adds lines to the configuration of a server that is not running.
    fn configure(&self, lines: &str) {
        let path = self.data().join("postgresql.conf");
        assert!(fs::exists(&path).unwrap_or_default(), "a cluster has its configuration");
        let mut file = OpenOptions::new().append(true).open(path).expect("it can be written");
        writeln!(file, "{lines}").expect("it can be written");
    }
}

fn poll(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(20)); // between two looks
    }
}
