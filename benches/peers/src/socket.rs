//! Connections over TCP, Unix sockets and mutual TLS.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// A connection of any kind.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket for T {}

/// The server.
#[derive(Debug, Args)]
pub struct Target {
    /// `unix:PATH`, or an address.
    #[arg(long = "target")]
    address: String,
    /// The authority of the server's certificate. Connects with TLS.
    #[arg(long, requires_all = ["certificate", "key"])]
    ca: Option<PathBuf>,
    /// The client's certificate.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// The key of the client's certificate.
    #[arg(long)]
    key: Option<PathBuf>,
}

impl Target {
    /// Opens a connection.
    pub async fn connect(&self) -> Box<dyn Socket> {
        if let Some(path) = self.address.strip_prefix("unix:") {
            return Box::new(UnixStream::connect(path).await.expect("the server listens"));
        }
        let stream = TcpStream::connect(&self.address).await.expect("the server listens");
        stream.set_nodelay(true).expect("the socket is open");
        let Some(connector) = self.tls() else { return Box::new(stream) };
        let name = ServerName::try_from("localhost").expect("the name is valid");
        Box::new(connector.connect(name, stream).await.expect("the server accepts the certificate"))
    }

    fn tls(&self) -> Option<TlsConnector> {
        let (ca, certificate, key) =
            (self.ca.as_ref()?, self.certificate.as_ref()?, self.key.as_ref()?);
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(ca).expect("the file is a certificate");
        roots.add(authority).expect("the certificate is an authority");
        let chain = vec![CertificateDer::from_pem_file(certificate).expect("it is a certificate")];
        let key = PrivateKeyDer::from_pem_file(key).expect("the file is a key");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the versions");
        let mut config = builder
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("the key belongs to the certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        Some(TlsConnector::from(Arc::new(config)))
    }
}
