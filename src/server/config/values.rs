//! Types and parsers of values.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use http::{Uri, uri::PathAndQuery};
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use tracing_subscriber::filter::Targets;

use crate::{
    api::{credentials::ClientCredentials, grpc::upstream::GrpcUpstream},
    domain::{
        Span,
        chain::{CheckpointKey, KeyError},
    },
};

/// A value, or the rest of a sentence that starts with the name of the setting.
type Parsed<T> = Result<T, String>;

/// An address for callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port. The kernel replaces port 0 by a free port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The URL of a database. May contain a password, which neither `Debug` nor
/// [`DatabaseUrl::redacted`] shows.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

/// A fraction of all calls, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRatio(pub u32);

// === impl ListenAddress ===

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        match text.strip_prefix("unix:") {
            Some("") => {
                Err(format!("must name a path, such as unix:/run/access.sock, but is {text:?}"))
            }
            Some(path) => Ok(Self::Unix(path.into())),
            None => parse_tcp(text).map(Self::Tcp).map_err(|_| {
                format!("must be like 127.0.0.1:50051, [::1]:50051 or unix:/path, but is {text:?}")
            }),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl DatabaseUrl ===

impl DatabaseUrl {
    /// The whole URL. Never log it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL. For PostgreSQL only the scheme, because the rest may contain a password.
    pub fn redacted(&self) -> &str {
        let scheme = scheme(&self.0);
        if scheme.starts_with("postgres") { scheme } else { &self.0 }
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Parsed<Self> {
        match scheme(text) {
            "sqlite" | "postgres" | "postgresql" | "memory" => Ok(Self(text.to_owned())),
            // The error repeats only the scheme: the rest may contain a password.
            other => Err(format!(
                "must start with sqlite:, postgres: or memory:, such as \
                 sqlite://support-access.db, but starts with {other:?}"
            )),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.redacted())
    }
}

/// The part of a URL before the first colon.
fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

// === parsers ===

pub(super) fn parse_tcp(text: &str) -> Parsed<SocketAddr> {
    // `localhost` is the only name that needs no resolver.
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!("must be an IP address and a port, such as 127.0.0.1:9464, but is {text:?}")
    })
}

/// An address for callers. `None`: `off`.
pub(super) fn parse_web(text: &str) -> Parsed<Option<ListenAddress>> {
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| format!("{error}; use off to serve no web listener"))
}

pub(super) fn parse_upstream(text: &str) -> Parsed<String> {
    let schemes = ["http://", "https://", "unix:"];
    let rest = schemes.into_iter().find_map(|scheme| text.strip_prefix(scheme));
    // An `@` may follow a password, which the error must not repeat. `GrpcUpstream` rejects it.
    if rest.is_none_or(str::is_empty) && !text.contains('@') {
        return Err(format!(
            "must be like https://replica:50051 or unix:/run/support-access/check.sock, \
             but is {text:?}"
        ));
    }
    GrpcUpstream::new(text, &ClientCredentials::default())
        .map(|_| text.to_owned())
        .map_err(|error| format!("is not a valid URL: {error}"))
}

pub(super) fn parse_duration(text: &str, range: RangeInclusive<Duration>) -> Parsed<Duration> {
    let parsed = text.parse::<Span>().ok().map(|span| span.0);
    parsed.filter(|duration| range.contains(duration)).ok_or_else(|| {
        let (min, max) = (Span(*range.start()), Span(*range.end()));
        format!("must be a duration from {min} to {max}, such as 2s, but is {text:?}")
    })
}

pub(super) fn parse_number(text: &str, range: RangeInclusive<usize>) -> Parsed<usize> {
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (min, max) = range.into_inner();
        format!("must be a whole number from {min} to {max}, but is {text:?}")
    })
}

pub(super) fn parse_bool(text: &str) -> Parsed<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("must be true or false, but is {text:?}")),
    }
}

pub(super) fn parse_mode(text: &str) -> Parsed<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() <= 4);
    mode.ok_or_else(|| {
        format!("must be permission bits in octal, such as \"0660\", but is {text:?}")
    })
}

#[expect(clippy::unnecessary_wraps, reason = "every parser returns a result")]
pub(super) fn parse_path(text: &str) -> Parsed<PathBuf> {
    Ok(PathBuf::from(text))
}

pub(super) fn parse_log(text: &str) -> Parsed<String> {
    match text.parse::<Targets>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("must be like info or warn,support_access=debug, but is {text:?}")),
    }
}

pub(super) fn parse_log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("must be auto, text or json, but is {text:?}")),
    }
}

/// The URL of an OTLP collector. The error does not repeat the text, which may contain a password.
pub(super) fn parse_collector(text: &str) -> Parsed<String> {
    let uri = text.parse::<Uri>().ok().filter(|uri| {
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        let path = uri.path_and_query().map(PathAndQuery::as_str);
        is_http && !has_user && matches!(path, None | Some("/"))
    });
    uri.map(|_| text.to_owned()).ok_or_else(|| {
        "must be the URL of a collector of OTLP over gRPC, such as http://127.0.0.1:4317, without \
         a path or a password"
            .into()
    })
}

pub(super) fn parse_ratio(text: &str) -> Parsed<TraceRatio> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the ratio is from 0 to 1"
    )]
    let millionths = ratio.map(|ratio| TraceRatio((ratio * 1_000_000.0).round() as u32));
    millionths.ok_or_else(|| format!("must be a number from 0 to 1, such as 0.01, but is {text:?}"))
}

/// Reads the key file `path`. The error does not repeat the content of the file.
pub(super) fn read_checkpoint_key(path: &str) -> Parsed<CheckpointKey> {
    let pem = fs::read(path)
        .map_err(|error| format!("must name a key file, but {path} cannot be read: {error}"))?;
    let document = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| KeyError::NotPrivate);
    let key = document.and_then(|der| CheckpointKey::from_pkcs8(der.secret_pkcs8_der()));
    key.map_err(|error| format!("{error}, but {path} does not"))
}
