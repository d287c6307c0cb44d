//! A server with an empty database, for documents that do not start a server.

use std::{
    io::{self, BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{common::event_key::event_key_variable, docs::postgres::Cluster};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_support-access");

/// The kind of the database.
#[derive(Debug)]
pub(crate) enum Backend {
    Sqlite,
    Postgres(Cluster),
}

impl Backend {
    /// The URL of an empty database. An SQLite file is in the directory of the shell.
    pub(crate) fn database_url(&self) -> String {
        match self {
            Self::Sqlite => "sqlite://support-access.db".into(),
            Self::Postgres(cluster) => cluster.fresh_database(),
        }
    }
}

/// Two loopback ports that are currently free.
pub(crate) fn free_ports() -> [String; 3] {
    // All are bound before the first is released, so that the ports differ.
    let listeners =
        [0, 0, 0].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port().to_string())
}

/// A server that ends with the test, even if the process of the test is killed.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    /// The address of the gRPC listener.
    pub(crate) address: String,
}

impl Server {
    /// Starts a server, and waits until the server listens.
    pub(crate) fn start(directory: &Path, database_url: &str) -> Self {
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", PROGRAM])
            .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .args(["--web-listen", "off"])
            .args(["--database-url", database_url])
            .envs(event_key_variable(database_url))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut log = BufReader::new(process.stderr.take().expect("the log is piped"));
        let mut lines = String::new();
        let address = loop {
            let start = lines.len();
            let length = log.read_line(&mut lines).expect("the log is readable");
            assert!(length > 0, "the server ended before it listened:\n{lines}");
            if let Some(address) = grpc_address(&lines[start..]) {
                break address.to_owned();
            }
        };
        // Continue to read the log, because the server would block on a full pipe.
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Self { process, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both calls fail only if the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address in a log line about the gRPC listener.
fn grpc_address(line: &str) -> Option<&str> {
    let lower = line.to_lowercase();
    let start = line
        .find("127.0.0.1:")
        .filter(|_| lower.contains("listening") && lower.contains("grpc"))?;
    line[start..].split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit()).next()
}

#[test]
fn the_grpc_address_is_found_in_the_log() {
    let line = r#"{"fields":{"message":"listening","protocol":"gRPC","address":"127.0.0.1:41"}}"#;
    assert_eq!(grpc_address(line), Some("127.0.0.1:41"));
    assert_eq!(grpc_address(&line.replace("gRPC", "http")), None);
    assert_eq!(grpc_address(&line.replace("listening", "connected")), None);
}
