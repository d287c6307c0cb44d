//! A TCP proxy that a test can delay, block and cut.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    time::sleep,
};

/// Bytes per read.
const CHUNK: usize = 16 * 1_024;

/// The address that a proxy connects to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A proxy inside the test process. The proxy ends with the Tokio runtime that started it.
#[derive(Debug)]
pub struct Proxy {
    /// The address on which the proxy listens.
    pub address: SocketAddr,
    network: watch::Sender<Network>,
    bytes: Arc<Bytes>,
    commit_fault: Arc<Mutex<Option<CommitFault>>>,
}

/// The end of a connection at a `COMMIT` of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// The `COMMIT` does not reach the server.
    Lost,
    /// The server commits, and the response does not reach the client.
    Unanswered,
}

/// The current state of the simulated network.
#[derive(Debug, Clone)]
struct Network {
    target: Target,
    /// Whether bytes from the client reach the server.
    is_open_to_server: bool,
    /// Whether bytes from the server reach the client.
    is_open_to_client: bool,
    /// The delay of each read, in both directions.
    delay: Duration,
    /// Whether new connections are closed at once.
    is_cut: bool,
    /// The number of cuts so far. A connection ends at the next cut.
    cuts: u64,
}

/// The number of bytes forwarded in each direction.
#[derive(Debug, Default)]
struct Bytes {
    to_server: AtomicU64,
    to_client: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Starts a proxy to `target` on a free loopback port.
    pub async fn start(target: Target) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let network = watch::Sender::new(Network {
            target,
            is_open_to_server: true,
            is_open_to_client: true,
            delay: Duration::ZERO,
            is_cut: false,
            cuts: 0,
        });
        let bytes = Arc::<Bytes>::default();
        let commit_fault = Arc::default();
        let (receiver, fault) = (network.subscribe(), Arc::clone(&commit_fault));
        tokio::spawn(accept(listener, receiver, Arc::clone(&bytes), fault));
        Self { address, network, bytes, commit_fault }
    }

    /// Ends the connection that sends the next `COMMIT`.
    pub fn fail_commit(&self, fault: CommitFault) {
        *self.commit_fault.lock() = Some(fault);
    }

    /// Whether no fault is left that [`Self::fail_commit`] has set.
    pub fn has_failed_commit(&self) -> bool {
        self.commit_fault.lock().is_none()
    }

    /// Returns the proxy's URL for gRPC.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Directs new connections to `target`.
    pub fn set_target(&self, target: Target) {
        self.network.send_modify(|network| network.target = target);
    }

    /// Blocks both directions and keeps connections open, like a network partition.
    pub fn block(&self) {
        self.network.send_modify(|network| {
            (network.is_open_to_server, network.is_open_to_client) = (false, false);
        });
    }

    /// Blocks bytes from the client to the server.
    pub fn block_to_server(&self) {
        self.network.send_modify(|network| network.is_open_to_server = false);
    }

    /// Blocks bytes from the server to the client.
    pub fn block_to_client(&self) {
        self.network.send_modify(|network| network.is_open_to_client = false);
    }

    /// Delays both directions by `delay`.
    pub fn delay(&self, delay: Duration) {
        self.network.send_modify(|network| network.delay = delay);
    }

    /// Closes all connections, and closes each new connection at once.
    pub fn cut(&self) {
        self.network
            .send_modify(|network| (network.is_cut, network.cuts) = (true, network.cuts + 1));
    }

    /// Removes all faults and forwards the blocked bytes.
    pub fn heal(&self) {
        self.network.send_modify(|network| {
            (network.is_open_to_server, network.is_open_to_client, network.is_cut) =
                (true, true, false);
            network.delay = Duration::ZERO;
        });
    }

    /// Returns the number of bytes received from the server so far.
    pub fn bytes_to_client(&self) -> u64 {
        self.bytes.to_client.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    network: watch::Receiver<Network>,
    bytes: Arc<Bytes>,
    fault: Arc<Mutex<Option<CommitFault>>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if !network.borrow().is_cut {
            client.set_nodelay(true).unwrap();
            let commits = Commits { fault: Arc::clone(&fault), is_unanswered: false.into() };
            tokio::spawn(forward(client, network.clone(), Arc::clone(&bytes), commits));
        }
    }
}

/// Forwards one connection until it ends or is cut.
async fn forward(
    client: TcpStream,
    network: watch::Receiver<Network>,
    bytes: Arc<Bytes>,
    commits: Commits,
) {
    let cuts = network.borrow().cuts;
    let mut cut = network.clone();
    let forwarding = async {
        let (from_client, to_client) = client.into_split();
        open(&network, Direction::ToServer).await;
        let target = network.borrow().target.clone();
        match target {
            Target::Tcp(address) => {
                let Ok(server) = TcpStream::connect(address).await else { return };
                server.set_nodelay(true).unwrap();
                let (from_server, to_server) = server.into_split();
                tokio::join!(
                    pump(
                        from_client,
                        to_server,
                        &network,
                        Direction::ToServer,
                        &bytes.to_server,
                        &commits
                    ),
                    pump(
                        from_server,
                        to_client,
                        &network,
                        Direction::ToClient,
                        &bytes.to_client,
                        &commits
                    ),
                );
            }
            Target::Unix(path) => {
                let Ok(server) = UnixStream::connect(path).await else { return };
                let (from_server, to_server) = server.into_split();
                tokio::join!(
                    pump(
                        from_client,
                        to_server,
                        &network,
                        Direction::ToServer,
                        &bytes.to_server,
                        &commits
                    ),
                    pump(
                        from_server,
                        to_client,
                        &network,
                        Direction::ToClient,
                        &bytes.to_client,
                        &commits
                    ),
                );
            }
        }
    };
    tokio::select! {
        () = forwarding => {}
        _ = cut.wait_for(|network| network.cuts != cuts) => {}
    }
}

/// The commits on one connection.
struct Commits {
    fault: Arc<Mutex<Option<CommitFault>>>,
    /// Whether the response to a `COMMIT` is awaited, and must not reach the client.
    is_unanswered: AtomicBool,
}

impl Commits {
    /// Whether the connection ends with this chunk.
    fn end(&self, chunk: &[u8], direction: Direction) -> bool {
        if matches!(direction, Direction::ToClient) {
            return self.is_unanswered.load(Ordering::SeqCst);
        }
        let is_commit = chunk.windows(7).any(|window| window == b"COMMIT\0");
        let fault = if is_commit { self.fault.lock().take() } else { None };
        self.is_unanswered.fetch_or(fault == Some(CommitFault::Unanswered), Ordering::SeqCst);
        fault == Some(CommitFault::Lost)
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    network: &watch::Receiver<Network>,
    direction: Direction,
    bytes: &AtomicU64,
    commits: &Commits,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await.unwrap_or(0);
        let delay = network.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await; // network delay
        }
        // While a direction is blocked, the peer does not see that the connection has closed
        // either.
        open(network, direction).await;
        let is_end = length == 0 || commits.end(&chunk[..length], direction);
        if is_end || to.write_all(&chunk[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Waits until the direction is open.
async fn open(network: &watch::Receiver<Network>, direction: Direction) {
    let is_open = |network: &Network| match direction {
        Direction::ToServer => network.is_open_to_server,
        Direction::ToClient => network.is_open_to_client,
    };
    // Fails only after the proxy is dropped. Then no further block can occur.
    let _ = network.clone().wait_for(is_open).await;
}
