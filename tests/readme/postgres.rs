//! A PostgreSQL cluster of its own, reached by a Unix socket, and ended with the test.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_mins(1);

/// The cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    directory: TempDir,
    process: Child,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("support-access-pg-").tempdir().unwrap();
        let path = directory.path();
        if is_root() {
            run(Command::new("chown").arg("postgres:").arg(path));
        }
        let data = path.join("data");
        run(program("initdb").args(["--auth", "trust", "--username", "postgres"]).args([
            OsStr::new("--no-sync"),
            OsStr::new("--pgdata"),
            data.as_os_str(),
        ]));
        let process = program("postgres")
            .args([OsStr::new("-D"), data.as_os_str(), OsStr::new("-k"), path.as_os_str()])
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path.join("log")).unwrap())
            .spawn()
            .unwrap();
        let cluster = Self { directory, process };
        cluster.wait_until_ready();
        cluster
    }

    /// The database that every cluster has.
    pub(crate) fn database_url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.directory.path().display())
    }

    fn wait_until_ready(&self) {
        let began = Instant::now();
        let is_ready = || {
            let mut ask = program("pg_isready");
            ask.arg("--quiet").arg("--host").arg(self.directory.path()).status().unwrap().success()
        };
        while !is_ready() {
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < DEADLINE, "PostgreSQL does not start:\n{}", log());
            sleep(Duration::from_millis(20)); // between two looks at whether it is ready
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // To the postmaster, which `setpriv` became, and not SIGKILL: it has to end its own processes.
        let _ = Command::new("kill").arg("-QUIT").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

/// One of PostgreSQL's programs, the newest there is, and not as root, which it refuses.
fn program(name: &str) -> Command {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = folders.map(|folder| folder.path()).max_by_key(version);
    let path = newest.map(|folder| folder.join("bin").join(name)).filter(|path| path.exists());
    let path = path.unwrap_or_else(|| Path::new(name).to_owned());
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(path);
    command.current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
