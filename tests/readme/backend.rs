//! What the walk-through is played on: a database of its own, and a server on it.

use std::{
    io::{self, BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::postgres::Cluster;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_support-access");

/// Where the walk-through's data is kept.
#[derive(Debug)]
pub(crate) enum Backend {
    Sqlite,
    Postgres(Cluster),
}

impl Backend {
    /// An empty database.
    pub(crate) fn database_url(&self) -> String {
        match self {
            // In the directory that the server is started in, as the README has it.
            Self::Sqlite => "sqlite://support-access.db".into(),
            Self::Postgres(cluster) => cluster.fresh_database(),
        }
    }
}

/// Loopback addresses that were free a moment ago: for a server that the walk-through itself starts.
pub(crate) fn free_addresses() -> [String; 2] {
    // Both at once, or the second could be the first again.
    let listeners = [0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").to_string())
}

/// A server that is ended with the test.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    /// Where to call it.
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(directory: &Path, database_url: &str) -> Self {
        let mut process = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .args(["--database-url", database_url])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting the server");
        let mut log = BufReader::new(process.stderr.take().expect("its log"));
        let mut said = String::new();
        let url = loop {
            let from = said.len();
            let read = log.read_line(&mut said).expect("reading the log");
            assert!(read > 0, "the server ended before it listened:\n{said}");
            if let Some(address) = grpc_address(&said[from..]) {
                break format!("http://{address}");
            }
        };
        // Read on, or the server would wait for room to log in.
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Self { process, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to do about either here: the process is ended, or was already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address in a log line of the message `listening`, if it is the one for gRPC.
fn grpc_address(line: &str) -> Option<&str> {
    let lower = line.to_lowercase();
    let at = line
        .find("127.0.0.1:")
        .filter(|_| lower.contains("listening") && lower.contains("grpc"))?;
    line[at..].split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit()).next()
}

#[test]
fn the_address_is_found_in_the_log() {
    let line = r#"{"fields":{"message":"listening","protocol":"gRPC","address":"127.0.0.1:41"}}"#;
    assert_eq!(grpc_address(line), Some("127.0.0.1:41"));
    assert_eq!(grpc_address(&line.replace("gRPC", "http")), None);
    assert_eq!(grpc_address(&line.replace("listening", "connected")), None);
}
