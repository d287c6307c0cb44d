//! How a client proves who it is, and knows the server.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::Uri;
use tonic::{
    metadata::AsciiMetadataValue,
    transport::{Certificate, ClientTlsConfig, Identity},
};

/// The metadata key of a bearer token (RFC 6750).
pub const AUTHORIZATION: &str = "authorization";

/// Whether what is sent to `url` leaves this host, and can be read and changed on its way: `http://` to any other.
pub fn is_exposed(url: &str) -> bool {
    let Some(uri) = url.strip_prefix("http://").and_then(|_| url.parse::<Uri>().ok()) else {
        return false;
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    host != "localhost" && !host.parse().is_ok_and(is_loopback)
}

/// The files with what a client knows servers by, and proves itself with. They are read for each connection anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCredentials {
    /// The authorities that vouch for servers. `None`: those that this host trusts.
    pub ca: Option<PathBuf>,
    /// The client's own certificate and private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A file with its bearer token.
    pub token_file: Option<PathBuf>,
}

impl ClientCredentials {
    /// TLS as these files say.
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

    /// The header with the token of the file.
    pub fn token(&self) -> Result<Option<AsciiMetadataValue>, String> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let shown = path.display();
        let text =
            fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| format!("{shown} does not hold a token"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_on_this_host_needs_no_encryption() {
        for url in
            ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1/", "unix:/a", "https://a"]
        {
            assert!(!is_exposed(url), "{url}");
        }
        for url in [
            "http://replica:50051",
            "http://10.0.0.1:1",
            "http://[2001:db8::1]:1",
            "http://localhost.example",
        ] {
            assert!(is_exposed(url), "{url}");
        }
    }
}
