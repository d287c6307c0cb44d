//! A real server process, on free ports, that ends with the test.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use serde_json::Value;
use support_access::api::proto::v1::{
    support_access_admin_client::SupportAccessAdminClient,
    support_access_client::SupportAccessClient,
};
use tonic::transport::{Channel, Endpoint};

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Child,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
}

impl Server {
    /// Starts a server on a database, and waits until it listens.
    pub fn start(database_url: &str) -> Self {
        Self::start_with(database_url, &[])
    }

    /// [`Self::start`], with more flags.
    pub fn start_with(database_url: &str, flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_support-access"))
            .args(["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(["--database-url", database_url, "--log-format", "json"])
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = process.stderr.take().unwrap();
        let (sender, logs) = channel();
        thread::spawn(move || read_lines(stderr, &sender));
        Self { process, grpc: address(&logs) }
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A client for administrators.
    pub async fn admin(&self) -> SupportAccessAdminClient<Channel> {
        SupportAccessAdminClient::new(self.connect().await)
    }

    /// A client for gateways.
    pub async fn access(&self) -> SupportAccessClient<Channel> {
        SupportAccessClient::new(self.connect().await)
    }

    /// SIGKILL: no goodbye. Returns once the process is gone.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_lines(stderr: impl Read, sender: &Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        // Shown with the test if it fails.
        eprintln!("server: {line}");
        let _ = sender.send(line);
    }
}

/// Waits for the line that says where gRPC is served.
fn address(logs: &Receiver<String>) -> SocketAddr {
    loop {
        let line = logs.recv_timeout(PATIENCE).expect("the server did not start; its log is above");
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        if let ("listening", Some(address)) =
            (line["message"].as_str().unwrap_or_default(), line["grpc"].as_str())
        {
            return address.parse().unwrap();
        }
    }
}
