//! The server's configuration: what can be set, where it is looked for, and what is refused.
//!
//! Every setting has one name. As a flag it is `--max-staleness`, in the environment `SUPPORT_ACCESS_MAX_STALENESS`, in
//! the file `max_staleness`. All three are read as text by the same parser, so that they cannot drift apart.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use tracing_subscriber::EnvFilter;

use crate::{
    api::grpc::upstream::GrpcUpstream,
    domain::{SupportPolicy, chain::CheckpointKey, time::Span},
};

mod sources;
#[cfg(test)]
mod tests;

pub use sources::{Env, Flags};
use sources::{Parsed, Sources};

/// Where gRPC is served.
pub const LISTEN: &str = "listen";
/// Where HTTP is served.
pub const HTTP_LISTEN: &str = "http-listen";
/// Where the data is.
pub const DATABASE_URL: &str = "database-url";
/// For how long check nodes may answer from one proof.
pub const MAX_STALENESS: &str = "max-staleness";
/// How long the server waits for calls in progress when it is told to stop.
pub const DRAIN_TIMEOUT: &str = "drain-timeout";
/// Whether it may listen beyond loopback.
pub const INSECURE: &str = "insecure";
/// What is logged.
pub const LOG: &str = "log";
/// How it is logged.
pub const LOG_FORMAT: &str = "log-format";
/// Whom a sidecar follows.
pub const UPSTREAM: &str = "upstream";
/// The most live grants of a tenant.
pub const MAX_LIVE_GRANTS_PER_TENANT: &str = "max-live-grants-per-tenant";

/// What checkpoints of histories are signed with.
pub const CHECKPOINT_KEY: &str = "checkpoint-key";

/// What every process has.
const COMMON: [&str; 6] = [LISTEN, HTTP_LISTEN, DRAIN_TIMEOUT, INSECURE, LOG, LOG_FORMAT];
/// What a replica has besides.
const OF_REPLICA: [&str; 4] =
    [DATABASE_URL, MAX_STALENESS, MAX_LIVE_GRANTS_PER_TENANT, CHECKPOINT_KEY];
/// What a sidecar has besides.
const OF_SIDECAR: [&str; 1] = [UPSTREAM];

const MAX_STALENESS_MIN: Duration = Duration::from_millis(200);
const MAX_STALENESS_MAX: Duration = Duration::from_mins(5);
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_hours(1);
const LIVE_GRANTS_MAX: usize = 10_000;

/// All that can be set for a replica.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// What every process has.
    pub common: Common,
    /// Where the data is: `sqlite:`, `postgres:` or `memory:`. May hold a password: never log it.
    pub database_url: String,
    /// For how long check nodes may answer from one proof: a revocation takes this long at most.
    pub max_staleness: Duration,
    /// The most scheduled and active grants that one tenant may have.
    pub max_live_grants_per_tenant: usize,
    /// What the vendor offers. Tenants can only tighten it.
    pub catalogue: SupportPolicy,
    /// What checkpoints of histories are signed with, if they are.
    pub checkpoint_key: Option<CheckpointKey>,
}

/// All that can be set for a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarConfig {
    /// What every process has.
    pub common: Common,
    /// Whom it follows, the first that it can; at least one. Replicas or other sidecars.
    pub upstreams: Vec<String>,
}

/// What can be set for every process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// Where gRPC is served; at least one.
    pub listen: Vec<ListenAddress>,
    /// Where metrics, health and pages are served.
    pub http_listen: SocketAddr,
    /// How long the server waits for calls in progress when it is told to stop.
    pub drain_timeout: Duration,
    /// Whether it may listen beyond loopback although callers cannot be authenticated. The start logs a warning.
    pub insecure: bool,
    /// What is logged, as directives of [`EnvFilter`].
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// Where gRPC is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is wrong with the configuration: one plain sentence that names the key, the value, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

// === impl Config ===

impl Config {
    /// Puts the configuration together: flags before environment before file before defaults.
    pub fn load(flags: &Flags, env: Env<'_>) -> Result<Self, ConfigError> {
        let sources = Sources::open(flags, env)?;
        let default = Self::default();
        Ok(Self {
            database_url: read_database_url(&sources, default.database_url)?,
            max_staleness: sources.read(MAX_STALENESS, default.max_staleness, |text| {
                parse_duration(text, MAX_STALENESS_MIN, MAX_STALENESS_MAX)
            })?,
            max_live_grants_per_tenant: sources.read(
                MAX_LIVE_GRANTS_PER_TENANT,
                default.max_live_grants_per_tenant,
                parse_live_grants,
            )?,
            catalogue: sources.policy()?.unwrap_or(default.catalogue),
            checkpoint_key: sources.read(CHECKPOINT_KEY, None, |path| read_key(path).map(Some))?,
            common: Common::read(&sources)?,
        })
    }

    /// The one setting that a migration needs, from the same places.
    pub fn load_database_url(flags: &Flags, env: Env<'_>) -> Result<String, ConfigError> {
        let sources = Sources::open(flags, env)?;
        read_database_url(&sources, Self::default().database_url)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: Common::default(),
            database_url: "sqlite://support-access.db".into(),
            max_staleness: Duration::from_secs(2),
            max_live_grants_per_tenant: 10_000,
            catalogue: SupportPolicy::default(),
            checkpoint_key: None,
        }
    }
}

/// Shows all but what comes after the scheme of `database_url`, which may hold a password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            common,
            database_url,
            max_staleness,
            max_live_grants_per_tenant,
            catalogue,
            checkpoint_key,
        } = self;
        f.debug_struct("Config")
            .field("common", common)
            .field("database_url", &format_args!("{}:…", scheme(database_url)))
            .field("max_staleness", max_staleness)
            .field("max_live_grants_per_tenant", max_live_grants_per_tenant)
            .field("catalogue", catalogue)
            .field("checkpoint_key", checkpoint_key)
            .finish()
    }
}

// === impl SidecarConfig ===

impl SidecarConfig {
    /// As [`Config::load`].
    pub fn load(flags: &Flags, env: Env<'_>) -> Result<Self, ConfigError> {
        let sources = Sources::open(flags, env)?;
        let upstreams = sources.read_all(UPSTREAM, Vec::new(), parse_upstream)?;
        if upstreams.is_empty() {
            return Err(ConfigError(
                "--upstream must be given, such as http://replica:50051: a sidecar knows only what it is fed".into(),
            ));
        }
        Ok(Self { common: Common::read(&sources)?, upstreams })
    }
}

// === impl Common ===

impl Common {
    fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let default = Self::default();
        let common = Self {
            listen: sources.read_all(LISTEN, default.listen, parse_listen)?,
            http_listen: sources.read(HTTP_LISTEN, default.http_listen, parse_tcp)?,
            drain_timeout: sources.read(DRAIN_TIMEOUT, default.drain_timeout, |text| {
                parse_duration(text, Duration::ZERO, DRAIN_TIMEOUT_MAX)
            })?,
            insecure: sources.read(INSECURE, default.insecure, parse_bool)?,
            log: sources.read(LOG, default.log, parse_log)?,
            log_format: sources.read(LOG_FORMAT, default.log_format, parse_log_format)?,
        };
        common.check_exposure()?;
        Ok(common)
    }

    /// Refuses addresses that others can reach, as long as nobody can tell who is calling.
    fn check_exposure(&self) -> Result<(), ConfigError> {
        let grpc = self.listen.iter().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some((LISTEN, *address)),
            ListenAddress::Unix(_) => None,
        });
        let is_exposed =
            |(_, address): &(_, SocketAddr)| !address.ip().to_canonical().is_loopback();
        match grpc.chain([(HTTP_LISTEN, self.http_listen)]).find(is_exposed) {
            Some((name, address)) if !self.insecure => Err(ConfigError(format!(
                "{name} must be a loopback address such as 127.0.0.1:{}, but is {address}: callers cannot be \
                 authenticated yet, so whoever reaches it could grant access; --insecure allows it all the same",
                address.port()
            ))),
            _ => Ok(()),
        }
    }
}

impl Default for Common {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            listen: vec![ListenAddress::Tcp(loopback(50_051))],
            http_listen: loopback(8_080),
            drain_timeout: Duration::from_secs(10),
            insecure: false,
            log: "info".into(),
            log_format: LogFormat::Auto,
        }
    }
}

// === impl ListenAddress ===

impl FromStr for ListenAddress {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_listen(text).map_err(|found| ConfigError(format!("an address {found}")))
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

// === parsers: an error is the rest of a sentence that begins with the setting's name ===

fn read_database_url(sources: &Sources<'_>, default: String) -> Result<String, ConfigError> {
    sources.read(DATABASE_URL, default, |text| match scheme(text) {
        "sqlite" | "postgres" | "postgresql" | "memory" => Ok(text.to_owned()),
        // Only the scheme is repeated, since the rest may hold a password.
        other => Err(format!(
            "must begin with sqlite:, postgres: or memory:, such as sqlite://support-access.db, but begins with {other:?}"
        )),
    })
}

/// What stands before the first colon; nothing if there is none.
fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

fn parse_listen(text: &str) -> Parsed<ListenAddress> {
    match text.strip_prefix("unix:") {
        Some("") => {
            Err(format!("must name a path, such as unix:/run/access.sock, but is {text:?}"))
        }
        Some(path) => Ok(ListenAddress::Unix(path.into())),
        None => parse_tcp(text).map(ListenAddress::Tcp).map_err(|_| {
            format!("must be like 127.0.0.1:50051, [::1]:50051 or unix:/path, but is {text:?}")
        }),
    }
}

fn parse_upstream(text: &str) -> Parsed<String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("unix:"));
    if rest.is_none_or(str::is_empty) {
        return Err(format!(
            "must be like http://replica:50051 or unix:/run/support-access/check.sock, but is {text:?}"
        ));
    }
    GrpcUpstream::new(text).map(|_| text.to_owned()).map_err(|cause| format!("is wrong: {cause}"))
}

fn parse_tcp(text: &str) -> Parsed<SocketAddr> {
    // The one name that needs no resolver.
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!("must be an IP address and a port, such as 127.0.0.1:8080, but is {text:?}")
    })
}

fn parse_duration(text: &str, min: Duration, max: Duration) -> Parsed<Duration> {
    let found = text.parse::<Span>().ok().map(|span| span.0);
    found.filter(|duration| (min..=max).contains(duration)).ok_or_else(|| {
        let (min, max) = (Span(min), Span(max));
        format!("must be a duration from {min} to {max}, such as 2s, but is {text:?}")
    })
}

fn parse_bool(text: &str) -> Parsed<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("must be true or false, but is {text:?}")),
    }
}

fn parse_log(text: &str) -> Parsed<String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("must be like info or warn,support_access=debug, but is {text:?}")),
    }
}

fn parse_log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("must be auto, text or json, but is {text:?}")),
    }
}

fn parse_live_grants(text: &str) -> Parsed<usize> {
    text.parse().ok().filter(|number| (1..=LIVE_GRANTS_MAX).contains(number)).ok_or_else(|| {
        format!("must be a whole number from 1 to {LIVE_GRANTS_MAX}, but is {text:?}")
    })
}

/// The key in a file. What is in the file is never repeated.
fn read_key(path: &str) -> Parsed<CheckpointKey> {
    let pem = fs::read(path).map_err(|error| {
        format!("must name a file with a key, but {path} cannot be read: {error}")
    })?;
    CheckpointKey::from_pem(&pem).map_err(|error| format!("{error}, but {path} does not"))
}
