//! The address of a server.

use std::{fmt, str::FromStr};

use http::{Uri, uri::Authority};

use crate::api::credentials::is_exposed;

/// The address of a server, as a URL or as `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerAddress(String);

impl ServerAddress {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the address starts with https://.
    pub(crate) fn uses_tls(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The path of a Unix socket.
    pub(crate) fn socket(&self) -> Option<&str> {
        self.0.strip_prefix("unix:")
    }

    /// The host and the port of a TCP address.
    pub(crate) fn host_and_port(&self) -> Option<(String, u16)> {
        let uri: Uri = self.0.parse().ok()?;
        let port = uri.port_u16().unwrap_or(if self.uses_tls() { 443 } else { 80 });
        Some((uri.host()?.trim_matches(['[', ']']).to_owned(), port))
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORMS: &str =
            "write HOST:PORT, https://HOST:PORT, http://HOST:PORT or unix:/path/of/the/socket";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(FORMS) } else { Ok(Self(text.into())) };
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let uri = text.parse::<Uri>().map_err(|_| FORMS)?;
            return if matches!(uri.path(), "" | "/") { Ok(Self(text.into())) } else { Err(FORMS) };
        }
        let authority = text.parse::<Authority>().map_err(|_| FORMS)?;
        if authority.port_u16().is_none() || authority.host().is_empty() || text.contains('@') {
            return Err(FORMS);
        }
        let plain = format!("http://{text}");
        Ok(Self(if is_exposed(&plain) { format!("https://{text}") } else { plain }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_port_or_a_url_or_a_socket() {
        let cases = [
            ("localhost:50051", "http://localhost:50051"),
            ("127.0.0.1:50051", "http://127.0.0.1:50051"),
            ("[::1]:50051", "http://[::1]:50051"),
            ("access.example:50051", "https://access.example:50051"),
            ("10.0.0.1:443", "https://10.0.0.1:443"),
            ("http://access.example:50051", "http://access.example:50051"),
            ("https://[::1]:1/", "https://[::1]:1/"),
            ("https://host", "https://host"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:a", "unix:a"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(ServerAddress(expected.into())), "{text}");
        }
        for text in ["", "unix:", "host", "http://", "http://a/b", "ftp://a:1", ":50051", "a@b:1"] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text:?}");
        }
    }
}
