//! TLS of the listeners of callers. Certificates and keys are read from files, and read again when
//! the files change.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    auth::{ConnectionInfo, Peer, certificate::Certificate},
    domain::Time,
    server::{config::TlsFiles, listeners::Protocol},
};

mod files;

use files::Contents;

/// Interval between checks of the files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why TLS cannot be set up. The message is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

/// The TLS of all TCP listeners for callers.
pub(super) struct Tls {
    files: TlsFiles,
    /// Whether clients may connect without a certificate, because tokens are accepted.
    is_certificate_optional: bool,
    current: ArcSwap<Current>,
    handshakes_failed: AtomicU64,
}

/// The configuration of new connections.
struct Current {
    grpc: Arc<ServerConfig>,
    web: Arc<ServerConfig>,
    /// Earliest expiry of the certificates in each file, by the setting that names the file.
    expiries: Vec<(&'static str, Time)>,
    /// Cancelled when an authority is removed that may have issued the certificate of a connected
    /// client.
    revoked: CancellationToken,
}

/// A connection, the client, and a token that is cancelled when an authority is removed that may
/// have issued the client's certificate.
type TlsConnection = (TlsStream<TcpStream>, ConnectionInfo, Option<CancellationToken>);

/// The content of the files at the last reload.
pub(super) struct Loaded(Contents);

impl Tls {
    /// Reads the files. Pass the result to [`Tls::watch`].
    pub(super) fn load(
        files: TlsFiles,
        is_certificate_optional: bool,
    ) -> Result<(Self, Loaded), TlsError> {
        let contents = Contents::read(&files).map_err(TlsError)?;
        let config = contents.config(&files, is_certificate_optional).map_err(TlsError)?;
        let current = Current::new(config, contents.expiries(), CancellationToken::new());
        let current = ArcSwap::from_pointee(current);
        let handshakes_failed = AtomicU64::new(0);
        let tls = Self { files, is_certificate_optional, current, handshakes_failed };
        Ok((tls, Loaded(contents)))
    }

    /// Performs the handshake with a client within the timeout.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        protocol: Protocol,
    ) -> io::Result<TlsConnection> {
        let address = stream.peer_addr().ok();
        let handshake = self.handshake(stream, protocol).await;
        handshake.inspect_err(|error| self.note_failure(error, address))
    }

    /// The number of handshakes that the server or the client rejected. Timeouts and closed
    /// connections do not count.
    pub(super) fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }

    fn note_failure(&self, error: &io::Error, address: Option<SocketAddr>) {
        if error.kind() != io::ErrorKind::InvalidData {
            debug!(%error, "a TLS handshake was not completed");
            return;
        }
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        let address = address.map(tracing::field::display);
        warn!(target: "support_access::audit", address, %error, "a TLS handshake has failed");
    }

    async fn handshake(&self, stream: TcpStream, protocol: Protocol) -> io::Result<TlsConnection> {
        let Current { grpc, web, revoked, .. } = &*self.current.load_full();
        let config = match protocol {
            Protocol::Grpc => grpc,
            Protocol::Web => web,
        };
        let acceptor = TlsAcceptor::from(Arc::clone(config));
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = match certificate {
            None => Peer::Unknown,
            Some(der) => Certificate::from_der(der).map(Peer::Certificate).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the client certificate cannot be read")
            })?,
        };
        let revoked = matches!(peer, Peer::Certificate(_)).then(|| revoked.child_token());
        let address = stream.get_ref().0.peer_addr().ok();
        let address = address.map(|address| address.ip().to_canonical());
        Ok((stream, ConnectionInfo::new(peer, address), revoked))
    }

    /// Earliest expiry of the certificates in each file, by the setting that names the file.
    pub(super) fn expiries(&self) -> Vec<(&'static str, Time)> {
        self.current.load().expiries.clone()
    }

    /// Reloads the files when they change, until `stop`. Invalid files are logged, and the previous
    /// configuration stays in use.
    ///
    /// Each configuration has separate TLS sessions, so that no client resumes a session that a
    /// removed authority has authenticated.
    pub(super) async fn watch(self: Arc<Self>, loaded: Loaded, stop: CancellationToken) {
        let Loaded(mut contents) = loaded;
        let mut last_error = None;
        while stop.run_until_cancelled(sleep(RELOAD_INTERVAL)).await.is_some() {
            match self.reload(&contents) {
                Ok(None) => last_error = None,
                Ok(Some((renewed, config))) => {
                    let keeps_authorities = renewed.contains_authorities_of(&contents);
                    self.replace(config, &renewed, keeps_authorities);
                    contents = renewed;
                    last_error = None;
                    info!("certificates reloaded");
                }
                // Another process may be replacing the files.
                Err(error) if last_error.as_ref() != Some(&error) => {
                    warn!(
                        %error,
                        "the certificates have changed, but cannot be used: \
                         the previous certificates stay in use"
                    );
                    last_error = Some(error);
                }
                Err(_) => {}
            }
        }
    }

    /// The files and their configuration. `None`: the files have not changed.
    fn reload(&self, before: &Contents) -> Result<Option<(Contents, ServerConfig)>, String> {
        let contents = Contents::read(&self.files)?;
        if contents == *before {
            return Ok(None);
        }
        let config = contents.config(&self.files, self.is_certificate_optional)?;
        Ok(Some((contents, config)))
    }

    fn replace(&self, config: ServerConfig, contents: &Contents, keeps_authorities: bool) {
        let before = self.current.load_full();
        let revoked =
            if keeps_authorities { before.revoked.clone() } else { CancellationToken::new() };
        self.current.store(Arc::new(Current::new(config, contents.expiries(), revoked)));
        if !keeps_authorities {
            info!("an authority was removed: closing connections with client certificates");
            before.revoked.cancel();
        }
    }
}

impl Current {
    fn new(
        grpc: ServerConfig,
        expiries: Vec<(&'static str, Time)>,
        revoked: CancellationToken,
    ) -> Self {
        let mut web = grpc.clone();
        web.alpn_protocols.push(b"http/1.1".to_vec());
        Self { grpc: Arc::new(grpc), web: Arc::new(web), expiries, revoked }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}
