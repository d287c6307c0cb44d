//! Real replicas and sidecars on free ports or Unix sockets. Each process ends with the test.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;
use support_access::api::proto::v1::{
    support_access_admin_client::SupportAccessAdminClient,
    support_access_client::SupportAccessClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

#[path = "log_lines.rs"]
mod log_lines;
#[path = "watchdog.rs"]
mod watchdog;

/// The longest wait for a server. Generous, because other tests keep the machine busy.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// The command line of a server.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    name: String,
    listens: bool,
    pub upstreams: Vec<String>,
    /// See [`Launch::log_unread_until`].
    unread_until: Option<Receiver<()>>,
}

/// A child process that is killed on drop.
#[derive(Debug)]
struct Process(Child);

/// A started process that may not listen yet.
#[derive(Debug)]
struct Starting {
    process: Process,
    name: String,
    upstreams: Vec<String>,
    logs: Receiver<String>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Process,
    /// The prefix of the server's log lines in the test output.
    pub name: String,
    /// The gRPC URLs of TCP ports or Unix sockets, in the order of the flags.
    pub urls: Vec<String>,
    /// The URLs that the server follows.
    pub upstreams: Vec<String>,
    /// The address of the HTTP server.
    pub http: SocketAddr,
    /// The time of the `listening` log line, by the server's clock.
    pub started_at: String,
    /// The log lines before `listening`.
    pub startup_logs: Vec<String>,
    /// The log lines since `listening` that no test has read yet.
    logs: Mutex<Receiver<String>>,
}

/// How a process ended without a signal from the test.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stderr: String,
}

// === impl Launch ===

impl Launch {
    /// A replica on the given database.
    pub fn replica(database_url: &str) -> Self {
        let mut launch = Self::new("serve", "replica").flags(&["--database-url", database_url]);
        launch.command.envs(super::event_key::event_key_variable(database_url));
        launch
    }

    /// A sidecar that follows the first available upstream in `upstreams`.
    pub fn sidecar(upstreams: &[&str]) -> Self {
        let mut launch = Self::new("sidecar", "sidecar");
        launch.upstreams = upstreams.iter().map(|&url| url.to_owned()).collect();
        upstreams.iter().fold(launch, |launch, url| launch.flags(&["--upstream", url]))
    }

    fn new(subcommand: &str, name: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
        command.args([subcommand, "--metrics-listen", "127.0.0.1:0", "--log-format", "json"]);
        command.env("SUPPORT_ACCESS_WEB_LISTEN", "off");
        let (name, upstreams) = (name.into(), Vec::new());
        Self { command, name, listens: false, upstreams, unread_until: None }
    }

    /// Sets the name that prefixes the server's log lines.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Adds command-line flags.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.command.args(flags);
        self
    }

    /// Listens on a Unix socket instead of a port. May be called several times.
    pub fn on_socket(self, path: &Path) -> Self {
        let launch = self.flags(&["--listen", &format!("unix:{}", path.display())]);
        Self { listens: true, ..launch }
    }

    /// Also listens on a free loopback port.
    pub fn on_port(self) -> Self {
        Self { listens: true, ..self.flags(&["--listen", "127.0.0.1:0"]) }
    }

    /// Listens on this address.
    pub fn on_address(self, address: &str) -> Self {
        Self { listens: true, ..self.flags(&["--listen", address]) }
    }

    /// Resolves names with this file instead of `/etc/hosts`, in a mount namespace.
    pub fn with_hosts(self, hosts: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            command.args(["--user", "--map-root-user"]);
        }
        // The shell replaces itself, so signals reach the server.
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        command.args(["sh", "-c", script]).arg(hosts).arg(self.command.get_program());
        command.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        Self { command, ..self }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Once the server listens, nothing reads its log until the sender of `resumed` is dropped.
    pub fn log_unread_until(self, resumed: Receiver<()>) -> Self {
        Self { unread_until: Some(resumed), ..self }
    }

    /// Starts the server and waits until the server listens.
    pub fn start(self) -> Server {
        self.try_start().expect("the server did not start; its log is above")
    }

    /// Like [`Self::start`]. Returns `None` if the server ended instead.
    pub fn try_start(self) -> Option<Server> {
        self.spawn().listening()
    }

    /// Starts all servers at the same time.
    pub fn start_all(launches: impl IntoIterator<Item = Self>) -> Vec<Server> {
        let starting: Vec<Starting> = launches.into_iter().map(Self::spawn).collect();
        let listening = starting.into_iter().map(Starting::listening);
        listening.map(|server| server.expect("a server did not start; its log is above")).collect()
    }

    /// Starts the process and waits until the process ends without a signal.
    pub fn outcome(self) -> Outcome {
        let mut starting = self.spawn();
        let status = wait(&mut starting.process.0);
        let stderr: Vec<String> = starting.logs.iter().collect();
        let code = status.expect("the process ends").code();
        Outcome { code, stderr: stderr.join("\n") }
    }

    fn spawn(self) -> Starting {
        let Self { mut command, name, upstreams, unread_until, .. } =
            if self.listens { self } else { self.on_port() };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        watchdog::started(process.0.id());
        let stderr = process.0.stderr.take().unwrap();
        let (sender, logs) = channel();
        let prefix = name.clone();
        thread::spawn(move || log_lines::read(&prefix, stderr, &sender, unread_until));
        Starting { process, name, upstreams, logs }
    }
}

// === impl Starting ===

impl Starting {
    /// Waits for the `listening` log lines: first gRPC, then HTTP.
    fn listening(self) -> Option<Server> {
        let mut urls = Vec::new();
        let mut startup_logs = Vec::new();
        loop {
            let text = self.logs.recv_timeout(TIMEOUT).ok()?;
            let Ok(line) = serde_json::from_str::<Value>(&text) else { continue };
            if line["message"] != "listening" {
                startup_logs.push(text);
                continue;
            }
            match (line["grpc"].as_str(), line["metrics"].as_str()) {
                (Some(socket), _) if socket.starts_with("unix:") => urls.push(socket.to_owned()),
                (Some(address), _) => urls.push(format!("http://{address}")),
                (None, Some(http)) => {
                    let Self { process, name, upstreams, logs } = self;
                    let logs = Mutex::new(logs);
                    let http = http.parse().unwrap();
                    let started_at = line["timestamp"].as_str().unwrap().to_owned();
                    return Some(Server {
                        process,
                        name,
                        urls,
                        upstreams,
                        http,
                        started_at,
                        startup_logs,
                        logs,
                    });
                }
                (None, None) => {}
            }
        }
    }
}

// === impl Server ===

impl Server {
    /// Starts a replica and waits until the replica listens.
    pub fn start(database_url: &str) -> Self {
        Launch::replica(database_url).start()
    }

    /// Like [`Self::start`], with additional flags.
    pub fn start_with(database_url: &str, flags: &[&str]) -> Self {
        Launch::replica(database_url).flags(flags).start()
    }

    /// Returns the first gRPC URL.
    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// Returns the loopback address of the first gRPC port.
    pub fn address(&self) -> SocketAddr {
        self.url().strip_prefix("http://").expect("the server listens on a port").parse().unwrap()
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Opens a new connection.
    pub async fn connect(&self) -> Channel {
        connect(self.url()).await
    }

    /// Returns an admin client on a new connection.
    pub async fn admin(&self) -> SupportAccessAdminClient<Channel> {
        SupportAccessAdminClient::new(self.connect().await)
    }

    /// Returns a gateway client on a new connection.
    pub async fn access(&self) -> SupportAccessClient<Channel> {
        SupportAccessClient::new(self.connect().await)
    }

    /// Waits until the health service reports `SERVING`.
    pub async fn serving(&self) {
        let channel = self.connect().await;
        eventually(&format!("{} is SERVING", self.name), async || is_serving(&channel).await).await;
    }

    /// Waits until `/readyz` returns 200, as an orchestrator does.
    pub async fn ready(&self) {
        eventually(&format!("{} is ready", self.name), async || {
            let mut stream = TcpStream::connect(self.http).await.unwrap();
            stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.unwrap();
            let mut response = String::new();
            let read = stream.read_to_string(&mut response).await;
            read.is_ok() && response.starts_with("HTTP/1.0 200 ")
        })
        .await;
    }

    /// Waits until the process has ended without a signal.
    pub fn wait_for_end(&mut self) -> Outcome {
        let code = wait(&mut self.process.0).expect("the process ends").code();
        let stderr: Vec<String> = self.logs.lock().iter().collect();
        Outcome { code, stderr: stderr.join("\n") }
    }

    /// Returns whether the process is running.
    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    /// Waits for a log line that contains `text`.
    pub fn wait_for_log(&self, text: &str) {
        let logs = self.logs.lock();
        while !logs.recv_timeout(TIMEOUT).expect("the server logs it").contains(text) {}
    }

    /// Kills the server with SIGKILL and waits for the process to end.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Stops the server with SIGTERM and waits for the process to end.
    pub fn stop(&mut self) -> ExitStatus {
        signal("TERM", self.pid());
        wait(&mut self.process.0).expect("the process ends after SIGTERM")
    }

    /// Pauses the server with SIGSTOP. Connections stay open.
    pub fn pause(&self) {
        signal("STOP", self.pid());
    }

    /// Resumes the server with SIGCONT after [`Self::pause`].
    pub fn resume(&self) {
        signal("CONT", self.pid());
    }
}

// === impl Process ===

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        watchdog::ended(self.0.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits up to [`TIMEOUT`] for a process to end.
pub fn wait(process: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5)); // poll interval
    }
    None
}

/// Connects to a TCP or Unix socket URL.
pub async fn connect(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

/// Returns whether the server's health service reports `SERVING`.
pub async fn is_serving(channel: &Channel) -> bool {
    let request = HealthCheckRequest::default();
    let response = HealthClient::new(channel.clone()).check(request).await;
    response.is_ok_and(|response| response.into_inner().status() == ServingStatus::Serving)
}

/// Polls until the condition is true, and panics after [`TIMEOUT`].
pub async fn eventually(description: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_true().await {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {description}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll interval
    }
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success(), "process {pid} is running");
}
