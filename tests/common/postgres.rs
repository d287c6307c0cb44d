//! A private PostgreSQL server for tests, from Debian's packages.
//!
//! The server does not run as root and listens only on a socket in a temporary directory. A
//! watchdog stops the server when the test process ends, even after SIGKILL.
//!
//! `initdb` runs once. The result is kept as a template under `target/` and copied for each
//! cluster.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, id},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[path = "pgbouncer.rs"]
pub mod pgbouncer;
#[path = "standby.rs"]
mod standby;

/// The account that Debian's packages create. PostgreSQL does not run as root.
const ACCOUNT: &str = "postgres";
/// The longest that one operation may take while other tests keep the machine busy.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Small, because many clusters run at once. `fsync` stays on, as in production.
const SETTINGS: &str = "-c listen_addresses= -c shared_buffers=16MB -c fsync=on";

/// A running cluster. Dropping the value stops the server and deletes the data.
#[derive(Debug)]
pub struct Cluster {
    /// Contains `data/`, the socket and `log`.
    directory: PathBuf,
    /// Waits until this process has ended, then stops the server and removes the directory.
    watchdog: Child,
    databases: AtomicU32,
    /// Settings besides [`SETTINGS`].
    settings: String,
    /// Environment variables of the server.
    environment: Vec<(&'static str, PathBuf)>,
}

// === impl Cluster ===

impl Cluster {
    /// Returns the cluster that all tests of this process share. Each test creates a separate
    /// database.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::launch)
    }

    /// Starts a new cluster that the test can stop and start.
    pub fn launch() -> Self {
        let cluster = Self::prepare();
        cluster.start();
        cluster
    }

    /// Starts a new cluster in recovery: a standby whose primary is unavailable.
    pub fn launch_standby() -> Self {
        let cluster = Self::prepare();
        check(as_account("touch").arg(cluster.data().join("standby.signal")));
        cluster.start();
        cluster
    }

    /// Starts a new cluster with TLS on this port of the loopback address.
    pub fn launch_tls(port: u16, (certificate, key): &(String, String)) -> Self {
        let mut cluster = Self::prepare();
        for (name, content) in [("server.crt", certificate), ("server.key", key)] {
            write_private(&cluster.data().join(name), content);
        }
        cluster.settings = format!("-c listen_addresses=127.0.0.1 -c port={port} -c ssl=on");
        cluster.start();
        cluster
    }

    /// Starts a new cluster whose clock [`Self::set_clock`] can step, by means of libfaketime.
    pub fn launch_with_clock(libfaketime: PathBuf) -> Self {
        let mut cluster = Self::prepare();
        cluster.environment = vec![
            ("LD_PRELOAD", libfaketime),
            ("FAKETIME_TIMESTAMP_FILE", cluster.directory.join("clock")),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ];
        cluster.set_clock("+0");
        cluster.start();
        cluster
    }

    /// Sets the distance of the clock from this machine's clock, such as `-30m`.
    pub fn set_clock(&self, distance: &str) {
        let (clock, written) = (self.directory.join("clock"), self.directory.join("clock-new"));
        fs::write(&written, distance).expect("the directory exists");
        fs::rename(written, clock).expect("the directory exists");
    }

    /// Returns a superuser URL for the database named `database`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&user={ACCOUNT}", self.directory.display())
    }

    /// Creates an empty database and returns the URL.
    pub fn fresh_database(&self) -> String {
        self.fresh_database_with("")
    }

    /// Like [`Self::fresh_database`], with options for `CREATE DATABASE`.
    pub fn fresh_database_with(&self, options: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name} {options}"));
        self.url(&name)
    }

    /// Runs SQL as the superuser and returns the output.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut command = as_account(&binary("psql"));
        command.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"]);
        command.args(["--set=ON_ERROR_STOP=1", "--username", ACCOUNT, "--dbname", database]);
        command.arg("--host").arg(&self.directory).args(["--file", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("psql starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(sql.as_bytes()).expect("psql reads");
        drop(stdin);
        let output = child.wait_with_output().expect("psql ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "psql failed on {sql:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Returns the server log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Starts the server unless it is running.
    pub fn start(&self) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            // `env` sets the variables as the account of the server: libfaketime creates shared
            // memory that only one account can open.
            let mut start = as_account("env");
            for (name, value) in &self.environment {
                start.arg(format!("{name}={}", value.display()));
            }
            start.arg(binary("pg_ctl"));
            start.args(["start", "--wait", "--silent", "--pgdata"]).arg(self.data());
            start.arg("--log").arg(self.directory.join("log"));
            let (settings, directory) = (&self.settings, self.directory.display());
            start.arg("--options").arg(format!("{SETTINGS} {settings} -k {directory}"));
            let status = start.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if status.expect("pg_ctl starts").success() {
                return;
            }
            // After a kill, child processes of the old server may still hold shared memory.
            assert!(Instant::now() < deadline, "PostgreSQL does not start:\n{}", self.log());
            thread::sleep(Duration::from_millis(50)); // retry interval
        }
    }

    /// Shuts the server down in fast mode, which closes all connections.
    pub fn stop(&self) {
        let mut stop = as_account(&binary("pg_ctl"));
        stop.args(["stop", "--wait", "--silent", "--mode=fast", "--pgdata"]).arg(self.data());
        check(&mut stop);
    }

    /// Restarts the server as a standby whose primary is unavailable.
    pub fn demote(&self) {
        self.stop();
        check(as_account("touch").arg(self.data().join("standby.signal")));
        self.start();
    }

    /// Kills every process of the server with SIGKILL, and waits until all have ended. A backend
    /// that outlived the postmaster could still commit.
    pub fn kill(&self) {
        let postmaster = self.postmaster();
        // Pause the postmaster first, so that no new child processes start.
        signal("STOP", &[postmaster]);
        let mut processes = children(postmaster);
        processes.push(postmaster);
        signal("KILL", &processes);
        let deadline = Instant::now() + TIMEOUT;
        while processes.iter().any(|pid| is_running(*pid)) {
            assert!(Instant::now() < deadline, "PostgreSQL must end when killed");
            thread::sleep(Duration::from_millis(5)); // poll interval
        }
    }

    /// Pauses every server process with SIGSTOP. Connections stay open but get no response.
    pub fn pause(&self) {
        let postmaster = self.postmaster();
        // Pause the postmaster first, so that no new child processes start.
        signal("STOP", &[postmaster]);
        signal("STOP", &children(postmaster));
    }

    /// Resumes the server processes after [`Self::pause`].
    pub fn resume(&self) {
        let postmaster = self.postmaster();
        let mut pids = vec![postmaster];
        pids.extend(children(postmaster));
        signal("CONT", &pids);
    }

    /// Returns the path of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }

    /// Copies the data directory. The server must be stopped.
    pub fn copy_aside(&self) -> PathBuf {
        let copy = self.directory.join("data-aside");
        check(Command::new("cp").args(["-a", "--reflink=auto"]).arg(self.data()).arg(&copy));
        copy
    }

    /// Replaces the data directory with `data`, which may come from another cluster. The server
    /// must be stopped.
    pub fn replace_data(&self, data: &Path) {
        fs::rename(self.data(), self.directory.join("data-before"))
            .expect("the old data directory can be moved");
        fs::rename(data, self.data()).expect("the new data directory is on the same disk");
    }

    fn prepare() -> Self {
        Self::prepare_from(&template())
    }

    /// Prepares a stopped cluster with a copy of the data directory `data`.
    fn prepare_from(data: &Path) -> Self {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("support-access-pg-{}-{number}", id()));
        check(as_account("mkdir").args(["-m", "700"]).arg(&directory));
        let watchdog = watch(&directory);
        let copy = directory.join("data");
        check(Command::new("cp").args(["-a", "--reflink=auto"]).arg(data).arg(copy));
        let databases = AtomicU32::new(0);
        Self { directory, watchdog, databases, settings: String::new(), environment: vec![] }
    }

    /// Returns the data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn postmaster(&self) -> u32 {
        let path = self.data().join("postmaster.pid");
        let text = fs::read_to_string(path).expect("the server is running");
        text.lines().next().and_then(|line| line.parse().ok()).expect("the first line is a pid")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Starts the process that cleans up after this one.
///
/// The watchdog's standard input closes when this process ends, even after a panic or SIGKILL. The
/// watchdog has a separate process group, so signals for the tests (Ctrl-C, a time limit) do not
/// reach it.
fn watch(directory: &Path) -> Child {
    let script = r#"
        cat > /dev/null
        pid=$(head -n 1 "$1/data/postmaster.pid" 2> /dev/null) && kill -CONT "$pid" 2> /dev/null
        "$2" stop --silent --mode=immediate --pgdata "$1/data" > /dev/null 2>&1
        rm -rf "$1"
    "#;
    let mut command = as_account("sh");
    command.args(["-c", script, "watchdog"]).arg(directory).arg(binary("pg_ctl"));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().expect("sh starts")
}

/// Returns the template data directory. The first caller runs `initdb`.
fn template() -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let version = PathBuf::from(binary("initdb"));
    let version = version.iter().rev().nth(2).expect("a version").to_string_lossy().into_owned();
    let template = cache.join(format!("postgres-{version}-template"));
    fs::create_dir_all(cache).expect("target/tmp can be made");
    let lock = File::create(cache.join("postgres-template.lock")).expect("the lock can be made");
    lock.lock().expect("the lock can be taken");
    if !template.exists() {
        let fresh = std::env::temp_dir().join(format!("support-access-pg-template-{}", id()));
        let mut initdb = as_account(&binary("initdb"));
        initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        initdb.args(["--wal-segsize=1", "--username", ACCOUNT, "--pgdata"]).arg(&fresh);
        check(&mut initdb);
        let unfinished = template.with_extension("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        check(Command::new("cp").arg("-a").arg(&fresh).arg(&unfinished));
        fs::rename(&unfinished, &template).expect("the template can be put in place");
        fs::remove_dir_all(&fresh).expect("the original can be removed");
    }
    template
}

/// Returns the path of a PostgreSQL program, from the newest installed version.
fn binary(name: &str) -> String {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).collect();
    paths.retain(|path| path.exists());
    paths.sort();
    let path = paths.pop().expect("PostgreSQL is installed: apt-get install postgresql");
    path.to_str().expect("the path is UTF-8").to_owned()
}

/// Returns a command that runs as [`ACCOUNT`] if this process is root.
fn as_account(program: &str) -> Command {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = if is_root {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups", "--", program]);
        setpriv
    } else {
        Command::new(program)
    };
    command.current_dir("/"); // readable by every account
    command
}

/// Writes a file that only the server can read.
fn write_private(path: &Path, content: &str) {
    let mut shell = as_account("sh");
    shell.args(["-c", "umask 077; cat > \"$1\"", "write"]).arg(path).stdin(Stdio::piped());
    let mut child = shell.spawn().expect("sh starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(content.as_bytes()).expect("sh reads");
    drop(stdin);
    assert!(child.wait().expect("sh ends").success(), "{} is written", path.display());
}

fn check(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the command starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {errors}");
}

fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let _ = Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status();
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Whether a process exists, and is not a zombie.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, after_name)| !after_name.starts_with('Z'))
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(1)?.parse().ok()
}
