//! The listening sockets. They are bound before the database is opened.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as BlockingUnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tracing::warn;

use crate::server::config::{Common, ListenAddress};

/// Length of an accept queue, if the kernel (`somaxconn`) allows as many. The default of 128 is too
/// short, because all clients reconnect at once when a server restarts. When the queue is full, a
/// TCP client may wait on a connection that the server has dropped.
const BACKLOG: u32 = 1_024;

/// Reason why an address cannot be bound. The message is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}")]
pub struct BindError {
    address: ListenAddress,
    cause: String,
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP/1.1 and HTTP/2, see [`Web`](crate::api::web::Web).
    Web,
}

/// All listening sockets of a process.
#[derive(Debug)]
pub struct Listeners {
    /// gRPC.
    pub grpc: Vec<Listener>,
    /// JSON over HTTP. `None`: not served.
    pub web: Option<Listener>,
    /// Metrics and health over HTTP.
    pub metrics: TcpListener,
}

/// A listening socket of callers.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixSocket),
}

/// A Unix socket. Its file is removed on drop.
#[derive(Debug)]
pub struct UnixSocket {
    // Dropped before `listener`. Otherwise a successor could replace the file just before its
    // removal.
    file: SocketFile,
    pub(super) listener: UnixListener,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Identifies the file, so that the file of a successor is not removed.
    inode: Option<u64>,
}

// === impl Listeners ===

impl Listeners {
    /// Binds every address of the configuration, and the address `web`.
    pub fn bind(config: &Common, web: Option<&ListenAddress>) -> Result<Self, BindError> {
        let mut grpc = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            grpc.push(Listener::bind(address, config.socket_mode)?);
        }
        let web = web.map(|address| Listener::bind(address, config.socket_mode)).transpose()?;
        let metrics = bind_tcp(config.metrics_listen)?;
        Ok(Self { grpc, web, metrics })
    }
}

// === impl Listener ===

impl Listener {
    /// Binds `address`. `socket_mode` are the permission bits of a Unix socket.
    pub fn bind(address: &ListenAddress, socket_mode: u32) -> Result<Self, BindError> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address).map(Self::Tcp),
            ListenAddress::Unix(path) => {
                let failed = |cause| BindError { address: address.clone(), cause };
                UnixSocket::bind(path, socket_mode).map(Self::Unix).map_err(failed)
            }
        }
    }

    /// The bound address, with the real port instead of port 0.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(socket) => Ok(ListenAddress::Unix(socket.file.path.clone())),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let failed =
        |error| BindError { address: ListenAddress::Tcp(address), cause: cause_of(&error) };
    listen_tcp(address).map_err(failed)
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted server can bind while connections of the earlier process are closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

// === impl UnixSocket ===

impl UnixSocket {
    /// Binds `path`. Replaces the socket of a process that has died, and no other file.
    fn bind(path: &Path, mode: u32) -> Result<Self, String> {
        remove_dead_socket(path)?;
        let failed = |error: rustix::io::Errno| cause_of(&error.into());
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.map_err(failed)?;
        bind(&socket, &address).map_err(failed)?;
        let mut file = SocketFile { path: path.to_owned(), inode: None };
        let secured = fs::set_permissions(path, fs::Permissions::from_mode(mode));
        let metadata = secured.and_then(|()| fs::symlink_metadata(path));
        file.inode = Some(metadata.map_err(|error| cause_of(&error))?.ino());
        // Clients can connect from here on, after the permission bits are set.
        listen(&socket, BACKLOG.cast_signed()).map_err(failed)?;
        let listener = UnixListener::from_std(socket.into()).map_err(|error| cause_of(&error))?;
        Ok(Self { file, listener })
    }
}

fn remove_dead_socket(path: &Path) -> Result<(), String> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cause_of(&error)),
    };
    if !metadata.file_type().is_socket() {
        return Err("a file of that name exists, and is not a socket".to_owned());
    }
    match BlockingUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| cause_of(&error))
        }
        Ok(_) => Err(cause_of(&io::ErrorKind::AddrInUse.into())),
        Err(error) => Err(cause_of(&error)),
    }
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = match (fs::symlink_metadata(&self.path), self.inode) {
            (Ok(metadata), Some(inode)) => metadata.ino() == inode,
            // Binding succeeded, but a later step failed.
            (Ok(_), None) => true,
            (Err(_), _) => false,
        };
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// An error in words for an operator.
fn cause_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process is already listening there".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "this user has no permission".to_owned(),
        io::ErrorKind::NotFound => "the directory does not exist".to_owned(),
        _ => error.to_string(),
    }
}
