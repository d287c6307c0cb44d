//! Credentials of clients, and the headers that carry credentials.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::{HeaderName, Uri};
use tonic::{
    metadata::AsciiMetadataValue,
    transport::{Certificate, ClientTlsConfig, Identity},
};

/// The metadata key of a bearer token (RFC 6750).
pub const AUTHORIZATION: &str = "authorization";
/// The header that names the actor. Accepted without authentication, and from a portal that is
/// trusted to assert names.
pub const ACTOR: HeaderName = HeaderName::from_static("support-access-actor");

/// Whether the traffic to `url` leaves this host without encryption.
pub fn is_exposed(url: &str) -> bool {
    let Some(uri) = url.strip_prefix("http://").and_then(|_| url.parse::<Uri>().ok()) else {
        return false;
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    host != "localhost" && !host.parse().is_ok_and(is_loopback)
}

/// The credential files of a client, which are read again for each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCredentials {
    /// The authorities of servers. `None`: the authorities that this host trusts.
    pub ca: Option<PathBuf>,
    /// The client's certificate and private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A file with the client's bearer token.
    pub token_file: Option<PathBuf>,
}

impl ClientCredentials {
    /// The TLS configuration. The error names the file that cannot be read.
    pub fn tls(&self) -> Result<ClientTlsConfig, String> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let mut config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(config)
    }

    /// The value of the [`AUTHORIZATION`] header. `None`: the client has no token.
    pub fn token(&self) -> Result<Option<AsciiMetadataValue>, String> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let shown = path.display();
        let text =
            fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| format!("{shown} does not contain a token"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}
