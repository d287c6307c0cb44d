//! The files of a server's TLS: reading, comparing, and building a configuration.

use std::{fs, path::Path, sync::Arc};

use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::{auth::certificate::earliest_expiry, domain::Time, server::config::TlsFiles};

/// The protocol after the handshake (ALPN, RFC 7301) of gRPC.
const PROTOCOL: &[u8] = b"h2";

/// The content of the files.
#[derive(PartialEq, Eq)]
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, String> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    /// Earliest expiry of the certificates in each file, by the setting that names the file.
    pub(super) fn expiries(&self) -> Vec<(&'static str, Time)> {
        let own = ("tls-certificate", all_certificates(Some(&self.certificate)));
        let authorities = ("tls-client-ca", all_certificates(self.client_ca.as_deref()));
        let found = [own, authorities].into_iter();
        found.filter_map(|(setting, found)| Some((setting, earliest_expiry(&found?)?))).collect()
    }

    /// Whether every authority in `before` is still trusted.
    pub(super) fn contains_authorities_of(&self, before: &Self) -> bool {
        let authorities = |contents: &Self| all_certificates(contents.client_ca.as_deref());
        match (authorities(before), authorities(self)) {
            (Some(before), Some(now)) => before.iter().all(|authority| now.contains(authority)),
            (before, _) => before.is_none(),
        }
    }

    pub(super) fn config(
        &self,
        files: &TlsFiles,
        is_certificate_optional: bool,
    ) -> Result<ServerConfig, String> {
        let chain = certificates(&self.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| format!("{} contains no private key in PEM", files.key.display()))?;
        let builder = ServerConfig::builder();
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(ca), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(ca, path)? {
                    roots.add(root).map_err(|error| {
                        format!("{} contains an invalid authority: {error}", path.display())
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

/// All certificates of a PEM file. `None`: there is no file, or a document in it is invalid.
fn all_certificates(pem: Option<&[u8]>) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem?).collect::<Result<_, _>>().ok()
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| format!("{} is not PEM", path.display()))?;
    if found.is_empty() {
        return Err(format!("{} contains no certificate in PEM", path.display()));
    }
    Ok(found)
}
