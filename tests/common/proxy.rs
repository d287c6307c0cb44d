//! The way between two processes, which a test can slow down, stop and cut.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    time::sleep,
};

/// How much is read at a time.
const CHUNK: usize = 16 * 1_024;

/// Where a proxy connects to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A proxy inside the test's process. Ends with the runtime it was started in.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    way: watch::Sender<Way>,
    bytes: Arc<Bytes>,
}

/// How it is with the way.
#[derive(Debug, Clone)]
struct Way {
    target: Target,
    /// Whether what the client sends reaches the server.
    is_open_up: bool,
    /// Whether what the server sends reaches the client.
    is_open_down: bool,
    /// How long it takes, each way.
    delay: Duration,
    /// Whether new connections are refused.
    is_cut: bool,
    /// Counts the cuts: a connection ends with the next.
    cuts: u64,
}

/// What has passed.
#[derive(Debug, Default)]
struct Bytes {
    up: AtomicU64,
    down: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToUpstream,
    ToFollower,
}

impl Proxy {
    /// A way to `target`, on a free port of loopback.
    pub async fn start(target: Target) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = watch::Sender::new(Way {
            target,
            is_open_up: true,
            is_open_down: true,
            delay: Duration::ZERO,
            is_cut: false,
            cuts: 0,
        });
        let bytes = Arc::<Bytes>::default();
        tokio::spawn(accept(listener, way.subscribe(), Arc::clone(&bytes)));
        Self { address, way, bytes }
    }

    /// Its URL for gRPC.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New connections go elsewhere.
    pub fn lead_to(&self, target: Target) {
        self.way.send_modify(|way| way.target = target);
    }

    /// Nothing gets through any more, and no connection is closed: as if the network were gone.
    pub fn stop(&self) {
        self.way.send_modify(|way| (way.is_open_up, way.is_open_down) = (false, false));
    }

    /// Nothing that the client sends gets through.
    pub fn stop_up(&self) {
        self.way.send_modify(|way| way.is_open_up = false);
    }

    /// Nothing that the server sends gets through.
    pub fn stop_down(&self) {
        self.way.send_modify(|way| way.is_open_down = false);
    }

    /// Everything takes longer, each way.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }

    /// Closes all connections, and accepts none.
    pub fn cut(&self) {
        self.way.send_modify(|way| (way.is_cut, way.cuts) = (true, way.cuts + 1));
    }

    /// All is well again. What was held back gets through.
    pub fn heal(&self) {
        self.way.send_modify(|way| {
            (way.is_open_up, way.is_open_down, way.is_cut) = (true, true, false);
            way.delay = Duration::ZERO;
        });
    }

    /// How many bytes have come from the server so far.
    pub fn bytes_down(&self) -> u64 {
        self.bytes.down.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, way: watch::Receiver<Way>, bytes: Arc<Bytes>) {
    while let Ok((client, _)) = listener.accept().await {
        if !way.borrow().is_cut {
            client.set_nodelay(true).unwrap();
            tokio::spawn(pass(client, way.clone(), Arc::clone(&bytes)));
        }
    }
}

/// Serves one connection until it ends or is cut.
async fn pass(client: TcpStream, way: watch::Receiver<Way>, bytes: Arc<Bytes>) {
    let cuts = way.borrow().cuts;
    let mut cut = way.clone();
    let passing = async {
        let (from_client, to_client) = client.into_split();
        open(&way, Direction::ToUpstream).await;
        let target = way.borrow().target.clone();
        match target {
            Target::Tcp(address) => {
                let Ok(server) = TcpStream::connect(address).await else { return };
                server.set_nodelay(true).unwrap();
                let (from_server, to_server) = server.into_split();
                tokio::join!(
                    pump(from_client, to_server, &way, Direction::ToUpstream, &bytes.up),
                    pump(from_server, to_client, &way, Direction::ToFollower, &bytes.down),
                );
            }
            Target::Unix(path) => {
                let Ok(server) = UnixStream::connect(path).await else { return };
                let (from_server, to_server) = server.into_split();
                tokio::join!(
                    pump(from_client, to_server, &way, Direction::ToUpstream, &bytes.up),
                    pump(from_server, to_client, &way, Direction::ToFollower, &bytes.down),
                );
            }
        }
    };
    tokio::select! {
        () = passing => {}
        _ = cut.wait_for(|way| way.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: &watch::Receiver<Way>,
    direction: Direction,
    bytes: &AtomicU64,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await.unwrap_or(0);
        let delay = way.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await; // the way is long
        }
        // That a side has gone is not known on the other either, while nothing gets through.
        open(way, direction).await;
        if length == 0 || to.write_all(&chunk[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Waits until a direction is open.
async fn open(way: &watch::Receiver<Way>, direction: Direction) {
    let is_open = |way: &Way| match direction {
        Direction::ToUpstream => way.is_open_up,
        Direction::ToFollower => way.is_open_down,
    };
    // It fails if the proxy is gone: then nothing will be stopped any more.
    let _ = way.clone().wait_for(is_open).await;
}
