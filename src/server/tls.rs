//! TLS of the gRPC doors: certificates and keys read from files, and read again when these change.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    auth::{ConnectionInfo, Peer, certificate::Certificate},
    domain::Time,
    server::{
        config::{TLS_CERTIFICATE, TLS_CLIENT_CA, TlsFiles},
        readings::end,
    },
};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is logged that handshakes fail.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is spoken after the handshake (RFC 7301): HTTP/2, as gRPC needs.
const PROTOCOL: &[u8] = b"h2";

/// Why there can be no TLS. Displayed, it is one plain sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

/// The TLS of all gRPC listeners on the network.
pub(super) struct Tls {
    files: TlsFiles,
    /// Whether clients may come without a certificate, since they may have a token.
    is_certificate_optional: bool,
    current: ArcSwap<Current>,
    handshakes_failed: AtomicU64,
    /// When that was last logged.
    failure_told: Mutex<Option<Instant>>,
}

/// What holds for new connections.
struct Current {
    config: Arc<ServerConfig>,
    /// When its certificates end, by their setting.
    ends: Vec<(&'static str, Time)>,
    /// Cancelled once an authority is trusted no more that may have vouched for a client.
    distrust: CancellationToken,
}

/// What is in the files.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files, and whoever looks after them later must be told what was in them.
    pub(super) fn load(
        files: TlsFiles,
        is_certificate_optional: bool,
    ) -> Result<(Self, Watch), TlsError> {
        let contents = Contents::read(&files).map_err(TlsError)?;
        let config = contents.config(&files, is_certificate_optional).map_err(TlsError)?;
        let (config, ends) = (Arc::new(config), contents.ends());
        let distrust = CancellationToken::new();
        let current = ArcSwap::from_pointee(Current { config, ends, distrust });
        let tls = Self {
            files,
            is_certificate_optional,
            current,
            handshakes_failed: AtomicU64::new(0),
            failure_told: Mutex::new(None),
        };
        Ok((tls, Watch(contents)))
    }

    /// Shakes hands with a client, in good time, and learns who it is. What it has shown may come to be distrusted later.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Shaken> {
        let address = stream.peer_addr().ok();
        self.shake(stream).await.inspect_err(|error| self.note_failure(error, address))
    }

    /// How many handshakes have failed because either side would not have the other: not those that just ended.
    pub(super) fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }

    fn note_failure(&self, error: &io::Error, address: Option<SocketAddr>) {
        if error.kind() != io::ErrorKind::InvalidData {
            debug!(%error, "a TLS handshake has ended");
            return;
        }
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        let mut told = self.failure_told.lock();
        // Strangers must not fill the log.
        if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            *told = Some(Instant::now());
            let address = address.map(tracing::field::display);
            warn!(target: "support_access::audit", address, %error, "a TLS handshake has failed");
        }
    }

    async fn shake(&self, stream: TcpStream) -> io::Result<Shaken> {
        let Current { config, distrust, .. } = &*self.current.load_full();
        let acceptor = TlsAcceptor::from(Arc::clone(config));
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = match shown {
            None => Peer::Unknown,
            Some(der) => Certificate::from_der(der).map(Peer::Certificate).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the client certificate cannot be read")
            })?,
        };
        let distrust = matches!(peer, Peer::Certificate(_)).then(|| distrust.child_token());
        let address = stream.get_ref().0.peer_addr().ok().map(|it| it.ip().to_canonical());
        Ok(Shaken { stream, visitor: ConnectionInfo::new(peer, address), distrust })
    }

    /// When the certificates in use end, by their setting: of several in a file, the one that ends first.
    pub(super) fn ends(&self) -> Vec<(&'static str, Time)> {
        self.current.load().ends.clone()
    }

    fn take(&self, config: ServerConfig, contents: &Contents, keeps_authorities: bool) {
        let old = self.current.load_full();
        let distrust =
            if keeps_authorities { old.distrust.clone() } else { CancellationToken::new() };
        let (config, ends) = (Arc::new(config), contents.ends());
        self.current.store(Arc::new(Current { config, ends, distrust }));
        if !keeps_authorities {
            info!("an authority is trusted no more: who has shown a certificate must do so again");
            old.distrust.cancel();
        }
    }

    /// Looks at the files until stopped, and takes what is new. A new configuration has sessions of its own: nobody resumes one
    /// that an authority vouched for which is not trusted any more.
    pub(super) async fn watch(self: Arc<Self>, watch: Watch, stop: CancellationToken) {
        let Watch(mut known) = watch;
        let mut complaint = None;
        while stop.run_until_cancelled(sleep(LOOK_INTERVAL)).await.is_some() {
            let renewed = Contents::read(&self.files).and_then(|contents| {
                if contents == known {
                    return Ok(None);
                }
                let config = contents.config(&self.files, self.is_certificate_optional)?;
                Ok(Some((contents, config)))
            });
            match renewed {
                Ok(None) => complaint = None,
                Ok(Some((contents, config))) => {
                    self.take(config, &contents, contents.keeps_authorities_of(&known));
                    known = contents;
                    complaint = None;
                    info!("the certificates were read anew");
                }
                // They may be in the middle of being replaced: what there was goes on.
                Err(error) if complaint.as_ref() != Some(&error) => {
                    warn!(%error, "the certificates have changed, but cannot be used: going on with those before");
                    complaint = Some(error);
                }
                Err(_) => {}
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// A connection after the handshake.
pub(super) struct Shaken {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) visitor: ConnectionInfo,
    /// Is cancelled when what the client has shown may not be trusted any more.
    pub(super) distrust: Option<CancellationToken>,
}

/// What was in the files.
pub(super) struct Watch(Contents);

impl Contents {
    /// When the certificates end, by their setting.
    fn ends(&self) -> Vec<(&'static str, Time)> {
        let own = (TLS_CERTIFICATE, all_in(Some(&self.certificate)));
        let authorities = (TLS_CLIENT_CA, all_in(self.client_ca.as_deref()));
        let ends = [own, authorities].into_iter();
        ends.filter_map(|(setting, found)| Some((setting, end(&found?)?))).collect()
    }

    /// Whether all authorities are trusted that were in `old`.
    fn keeps_authorities_of(&self, old: &Self) -> bool {
        match (all_in(old.client_ca.as_deref()), all_in(self.client_ca.as_deref())) {
            (Some(old), Some(new)) => old.iter().all(|one| new.contains(one)),
            (old, _) => old.is_none(),
        }
    }

    fn read(files: &TlsFiles) -> Result<Self, String> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn config(
        &self,
        files: &TlsFiles,
        is_certificate_optional: bool,
    ) -> Result<ServerConfig, String> {
        let chain = certificates(&self.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| format!("{} holds no private key in PEM", files.key.display()))?;
        let builder = ServerConfig::builder();
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(ca), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(ca, path)? {
                    roots.add(root).map_err(|error| {
                        format!("{} holds no certificate of an authority: {error}", path.display())
                    })?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
                let verifier = if is_certificate_optional {
                    verifier.allow_unauthenticated()
                } else {
                    verifier
                };
                let verifier = verifier.build().map_err(|error| error.to_string())?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("{} is not the key of {}", files.key.display(), files.certificate.display())
            }
            other => format!("{} cannot be used: {other}", files.certificate.display()),
        })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

fn all_in(pem: Option<&[u8]>) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem?).collect::<Result<_, _>>().ok()
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| format!("{} is not PEM", path.display()))?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate in PEM", path.display()));
    }
    Ok(found)
}
