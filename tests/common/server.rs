//! Real replicas and sidecars, on free ports or Unix sockets, that end with the test.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
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

#[path = "watchdog.rs"]
mod watchdog;

/// How long a server may take to come up, to end, or to be what a test waits for, on a machine that is busy.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// A server that is about to be started.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    name: String,
    listens: bool,
}

/// A process that ends with its owner.
#[derive(Debug)]
struct Process(Child);

/// A process that was started, and may not listen yet.
#[derive(Debug)]
struct Starting {
    process: Process,
    name: String,
    logs: Receiver<String>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Process,
    /// For people.
    pub name: String,
    /// Where it serves gRPC: URLs, of TCP or of Unix sockets, in the order of the flags.
    pub urls: Vec<String>,
    /// Where it serves HTTP.
    pub http: SocketAddr,
    /// When it said that it listens, by its own clock.
    pub started_at: String,
    /// What it said before.
    pub said_first: Vec<String>,
    /// What it said since, and nobody has looked at.
    logs: Mutex<Receiver<String>>,
}

/// How a process ended that was not told to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stderr: String,
}

// === impl Launch ===

impl Launch {
    /// A replica on a database.
    pub fn replica(database_url: &str) -> Self {
        Self::new("serve", "replica").flags(&["--database-url", database_url])
    }

    /// A sidecar that follows the first of `upstreams` that it can.
    pub fn sidecar(upstreams: &[&str]) -> Self {
        let launch = Self::new("sidecar", "sidecar");
        upstreams.iter().fold(launch, |launch, url| launch.flags(&["--upstream", url]))
    }

    fn new(subcommand: &str, name: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
        command.args([subcommand, "--metrics-listen", "127.0.0.1:0", "--log-format", "json"]);
        Self { command, name: name.into(), listens: false }
    }

    /// What it is called in what is printed.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// More flags.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.command.args(flags);
        self
    }

    /// Listens on a Unix socket instead of a port. May be repeated.
    pub fn on_socket(self, path: &Path) -> Self {
        let launch = self.flags(&["--listen", &format!("unix:{}", path.display())]);
        Self { listens: true, ..launch }
    }

    /// Listens on a free port of loopback, besides other places.
    pub fn on_port(self) -> Self {
        Self { listens: true, ..self.flags(&["--listen", "127.0.0.1:0"]) }
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it, and waits until it listens.
    pub fn start(self) -> Server {
        self.try_start().expect("the server did not start; its log is above")
    }

    /// As [`Self::start`]; `None` if it has ended instead.
    pub fn try_start(self) -> Option<Server> {
        self.spawn().listening()
    }

    /// Starts many, all at the same time.
    pub fn start_all(launches: impl IntoIterator<Item = Self>) -> Vec<Server> {
        let starting: Vec<Starting> = launches.into_iter().map(Self::spawn).collect();
        let listening = starting.into_iter().map(Starting::listening);
        listening.map(|server| server.expect("a server did not start; its log is above")).collect()
    }

    /// Starts it, and waits until it has ended by itself.
    pub fn outcome(self) -> Outcome {
        let mut starting = self.spawn();
        let status = wait(&mut starting.process.0);
        let stderr: Vec<String> = starting.logs.iter().collect();
        let code = status.expect("it ends by itself").code();
        Outcome { code, stderr: stderr.join("\n") }
    }

    fn spawn(self) -> Starting {
        let Self { mut command, name, .. } = if self.listens { self } else { self.on_port() };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        watchdog::began(process.0.id());
        let stderr = process.0.stderr.take().unwrap();
        let (sender, logs) = channel();
        let prefix = name.clone();
        thread::spawn(move || read_lines(&prefix, stderr, &sender));
        Starting { process, name, logs }
    }
}

// === impl Starting ===

impl Starting {
    /// Waits for the lines that say where gRPC and, after it, HTTP are served.
    fn listening(self) -> Option<Server> {
        let mut urls = Vec::new();
        let mut said_first = Vec::new();
        loop {
            let text = self.logs.recv_timeout(TIMEOUT).ok()?;
            let Ok(line) = serde_json::from_str::<Value>(&text) else { continue };
            if line["message"] != "listening" {
                said_first.push(text);
                continue;
            }
            match (line["grpc"].as_str(), line["metrics"].as_str()) {
                (Some(socket), _) if socket.starts_with("unix:") => urls.push(socket.to_owned()),
                (Some(address), _) => urls.push(format!("http://{address}")),
                (None, Some(http)) => {
                    let Self { process, name, logs } = self;
                    let logs = Mutex::new(logs);
                    let http = http.parse().unwrap();
                    let started_at = line["timestamp"].as_str().unwrap().to_owned();
                    return Some(Server {
                        process,
                        name,
                        urls,
                        http,
                        started_at,
                        said_first,
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
    /// Starts a replica on a database, and waits until it listens.
    pub fn start(database_url: &str) -> Self {
        Launch::replica(database_url).start()
    }

    /// [`Self::start`], with more flags.
    pub fn start_with(database_url: &str, flags: &[&str]) -> Self {
        Launch::replica(database_url).flags(flags).start()
    }

    /// Where it serves gRPC.
    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// Its port of loopback.
    pub fn address(&self) -> SocketAddr {
        self.url().strip_prefix("http://").expect("it listens on a port").parse().unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Channel {
        connect(self.url()).await
    }

    /// A client for administrators.
    pub async fn admin(&self) -> SupportAccessAdminClient<Channel> {
        SupportAccessAdminClient::new(self.connect().await)
    }

    /// A client for gateways.
    pub async fn access(&self) -> SupportAccessClient<Channel> {
        SupportAccessClient::new(self.connect().await)
    }

    /// Waits until it can answer checks.
    pub async fn serving(&self) {
        let channel = self.connect().await;
        eventually(&format!("{} is SERVING", self.name), async || is_serving(&channel).await).await;
    }

    /// Waits until `/readyz` says that it can be asked, as what starts servers does.
    pub async fn ready(&self) {
        eventually(&format!("{} is ready", self.name), async || {
            let mut stream = TcpStream::connect(self.http).await.unwrap();
            stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer).await;
            read.is_ok() && answer.starts_with("HTTP/1.0 200 ")
        })
        .await;
    }

    /// Waits until it has ended, though it was not told to.
    pub fn ended(&mut self) -> Outcome {
        let code = wait(&mut self.process.0).expect("it ends by itself").code();
        let stderr: Vec<String> = self.logs.lock().iter().collect();
        Outcome { code, stderr: stderr.join("\n") }
    }

    /// Whether it goes on.
    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    /// Waits until it says something.
    pub fn says(&self, what: &str) {
        let logs = self.logs.lock();
        while !logs.recv_timeout(TIMEOUT).expect("it says it").contains(what) {}
    }

    /// SIGKILL: no goodbye. Returns once the process is gone.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// SIGTERM. Returns once the process is gone.
    pub fn stop(&mut self) -> ExitStatus {
        signal("TERM", self.pid());
        wait(&mut self.process.0).expect("it ends when it is told to")
    }

    /// SIGSTOP: its connections stay open, and it does nothing.
    pub fn pause(&self) {
        signal("STOP", self.pid());
    }

    /// SIGCONT: it goes on after [`Self::pause`].
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

/// Waits for a process to end by itself, but not for ever.
pub fn wait(process: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5)); // between two looks at the process
    }
    None
}

/// A connection to a URL, of TCP or of a Unix socket.
pub async fn connect(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

/// Whether the server can answer checks, as its health service says.
pub async fn is_serving(channel: &Channel) -> bool {
    let request = HealthCheckRequest::default();
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}

/// Asks again until the answer is yes.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in {TIMEOUT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await; // between two questions
    }
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success(), "process {pid} is gone");
}

fn read_lines(name: &str, stderr: impl Read, sender: &Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        // Shown with the test if it fails.
        eprintln!("{name}: {line}");
        let _ = sender.send(line);
    }
}
