//! A private PgBouncer before a private PostgreSQL. `scripts/setup` unpacks the packages of two
//! releases of Debian: PgBouncer 1.18 loses prepared statements in transaction mode, and 1.24 keeps
//! them.

use std::{
    fs::{File, read_dir, read_to_string},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{ACCOUNT, Cluster, TIMEOUT, as_account, check, signal, write_private};

/// A running PgBouncer, which listens on a socket. Dropping the value kills the process.
#[derive(Debug)]
pub struct PgBouncer {
    directory: PathBuf,
    process: Child,
}

/// Returns the programs of all releases.
pub fn releases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/pgbouncer");
    let entries = read_dir(directory).into_iter().flatten().flatten();
    let mut programs: Vec<_> = entries.map(|entry| entry.path().join("run")).collect();
    programs.sort();
    assert_eq!(programs.len(), 2, "PgBouncer is installed: scripts/setup");
    programs
}

// === impl PgBouncer ===

impl PgBouncer {
    /// Starts a PgBouncer before `cluster`, with settings such as `pool_mode = session`.
    pub fn launch(program: &Path, cluster: &Cluster, settings: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = cluster.directory.join(format!("pgbouncer-{number}"));
        check(as_account("mkdir").arg(&directory));
        let process = Self::start(program, cluster, &directory, settings);
        Self { directory, process }
    }

    /// Kills the process, and starts another one at the same address.
    pub fn replace(&mut self, program: &Path, cluster: &Cluster, settings: &[&str]) {
        self.kill();
        check(as_account("rm").arg("-f").arg(self.socket()));
        self.process = Self::start(program, cluster, &self.directory, settings);
    }

    /// Returns a superuser URL for a database of the cluster, given by its URL at the server.
    pub fn url(&self, direct: &str) -> String {
        let database = direct.split(['/', '?']).nth(3).expect("a database");
        let directory = self.directory.display();
        format!("postgres:///{database}?host={directory}&port=6432&user={ACCOUNT}")
    }

    /// Changes settings, and keeps the connections. Returns after the change.
    pub fn reload(&self, cluster: &Cluster, settings: &[&str]) {
        Self::configure(cluster, &self.directory, settings);
        signal("HUP", &[self.process.id()]);
        // An event loop handles the signal before a connection that comes later.
        let log = self.directory.join("log");
        let deadline = Instant::now() + TIMEOUT;
        while !read_to_string(&log).unwrap_or_default().contains("re-reading config") {
            assert!(Instant::now() < deadline, "PgBouncer reads the settings");
            thread::sleep(Duration::from_millis(5)); // poll interval
        }
    }

    fn configure(cluster: &Cluster, directory: &Path, settings: &[&str]) -> PathBuf {
        let path = directory.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} user={ACCOUNT}\n[pgbouncer]\nauth_type = any\n\
             unix_socket_dir = {}\nlisten_port = 6432\n{}\n",
            cluster.directory.display(),
            directory.display(),
            settings.join("\n")
        );
        write_private(&path, &text);
        path
    }

    fn start(program: &Path, cluster: &Cluster, directory: &Path, settings: &[&str]) -> Child {
        let configuration = Self::configure(cluster, directory, settings);
        let mut command = as_account("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg(&configuration);
        let log = File::create(directory.join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().expect("PgBouncer starts");
        let deadline = Instant::now() + TIMEOUT;
        while UnixStream::connect(directory.join(".s.PGSQL.6432")).is_err() {
            assert!(Instant::now() < deadline, "PgBouncer listens");
            thread::sleep(Duration::from_millis(5)); // poll interval
        }
        process
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.6432")
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.kill();
    }
}
