//! The server's configuration: what can be set, where it is looked for, and what is refused.
//!
//! Every setting has one name. As a flag it is `--max-staleness`, in the environment `SUPPORT_ACCESS_MAX_STALENESS`, in
//! the file `max_staleness`. All three are read as text by the same parser, so that they cannot drift apart.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use crate::{
    api::credentials::{ClientCredentials, is_exposed},
    domain::{SupportPolicy, chain::CheckpointKey},
};

mod limits;
mod parsers;
mod security;
mod sources;
#[cfg(test)]
mod tests;

pub use limits::CallLimits;
use parsers::{
    parse_collector, parse_duration, parse_listen, parse_live_grants, parse_log, parse_log_format,
    parse_ratio, parse_tcp, parse_upstream, read_key, scheme,
};
pub use security::{Security, TlsFiles};
use sources::Sources;
pub use sources::{Env, Flags};

/// Where gRPC is served.
pub const LISTEN: &str = "listen";
/// Where HTTP is served.
pub const METRICS_LISTEN: &str = "metrics-listen";
/// Where the data is.
pub const DATABASE_URL: &str = "database-url";
/// For how long check nodes may answer from one proof.
pub const MAX_STALENESS: &str = "max-staleness";
/// How long the server waits for calls in progress when it is told to stop.
pub const DRAIN_TIMEOUT: &str = "drain-timeout";
/// The server's certificate.
pub const TLS_CERTIFICATE: &str = "tls-certificate";
/// Its private key.
pub const TLS_KEY: &str = "tls-key";
/// Scope client certificates are taken.
pub const TLS_CLIENT_CA: &str = "tls-client-ca";
/// The permission bits of Unix sockets.
pub const SOCKET_MODE: &str = "socket-mode";
/// Whether tokens may come in without TLS.
pub const INSECURE: &str = "insecure";
/// Whether callers may ask which services there are.
pub const REFLECTION: &str = "reflection";
/// What is logged.
pub const LOG: &str = "log";
/// How it is logged.
pub const LOG_FORMAT: &str = "log-format";
/// Where traces are sent.
pub const OTLP_ENDPOINT: &str = "otlp-endpoint";
/// How many of the calls are traced that nobody has decided about.
pub const TRACE_RATIO: &str = "trace-ratio";
/// Whom a sidecar follows.
pub const UPSTREAM: &str = "upstream";
/// Scope certificates a sidecar takes.
pub const UPSTREAM_CA: &str = "upstream-ca";
/// A sidecar's own certificate, for those that it follows.
pub const UPSTREAM_CERTIFICATE: &str = "upstream-certificate";
/// Its private key.
pub const UPSTREAM_KEY: &str = "upstream-key";
/// A sidecar's token, for those that it follows.
pub const UPSTREAM_TOKEN_FILE: &str = "upstream-token-file";
/// The most live grants of a tenant.
pub const MAX_LIVE_GRANTS_PER_TENANT: &str = "max-live-grants-per-tenant";
/// What checkpoints of histories are signed with.
pub const CHECKPOINT_KEY: &str = "checkpoint-key";
/// How often the history is verified.
pub const VERIFY_INTERVAL: &str = "verify-interval";

/// What every process has.
const COMMON: [&str; 13] = [
    LISTEN,
    METRICS_LISTEN,
    DRAIN_TIMEOUT,
    TLS_CERTIFICATE,
    TLS_KEY,
    TLS_CLIENT_CA,
    SOCKET_MODE,
    INSECURE,
    REFLECTION,
    LOG,
    LOG_FORMAT,
    OTLP_ENDPOINT,
    TRACE_RATIO,
];
/// What a replica has besides.
const OF_REPLICA: [&str; 5] =
    [DATABASE_URL, MAX_STALENESS, MAX_LIVE_GRANTS_PER_TENANT, CHECKPOINT_KEY, VERIFY_INTERVAL];
/// What a sidecar has besides.
const OF_SIDECAR: [&str; 5] =
    [UPSTREAM, UPSTREAM_CA, UPSTREAM_CERTIFICATE, UPSTREAM_KEY, UPSTREAM_TOKEN_FILE];

const MAX_STALENESS_MIN: Duration = Duration::from_millis(200);
const MAX_STALENESS_MAX: Duration = Duration::from_mins(5);
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_hours(1);
const LIVE_GRANTS_MAX: usize = 10_000;
const VERIFY_INTERVAL_MIN: Duration = Duration::from_secs(1);
const VERIFY_INTERVAL_MAX: Duration = Duration::from_hours(30 * 24);

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
    /// The vendor's catalogue. Tenants can only narrow it.
    pub catalogue: SupportPolicy,
    /// What checkpoints of histories are signed with, if they are.
    pub checkpoint_key: Option<CheckpointKey>,
    /// How long after the history was verified that begins anew.
    pub verify_interval: Duration,
}

/// All that can be set for a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarConfig {
    /// What every process has.
    pub common: Common,
    /// Whom it follows, the first that it can; at least one. Replicas or other sidecars.
    pub upstreams: Vec<String>,
    /// How it proves who it is to them, and knows them.
    pub upstream_credentials: ClientCredentials,
}

/// What can be set for every process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// Where gRPC is served; at least one.
    pub listen: Vec<ListenAddress>,
    /// Where metrics, health and pages are served.
    pub metrics_listen: SocketAddr,
    /// How long the server waits for calls in progress when it is told to stop.
    pub drain_timeout: Duration,
    /// How much callers may use of it.
    pub limits: CallLimits,
    /// Who can reach it, and how they prove who they are.
    pub security: Security,
    /// What is logged, as directives of [`tracing_subscriber::EnvFilter`].
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Where traces are sent, if anywhere: the URL of a collector that takes OTLP over gRPC.
    pub otlp_endpoint: Option<String>,
    /// How many of the calls are traced whose callers have not decided that.
    pub trace_ratio: TraceRatio,
}

/// A part of all calls, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRatio(pub u32);

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
            verify_interval: sources.read(VERIFY_INTERVAL, default.verify_interval, |text| {
                parse_duration(text, VERIFY_INTERVAL_MIN, VERIFY_INTERVAL_MAX)
            })?,
            common: Common::read(&sources)?,
        })
    }

    /// The one setting that a migration needs, from the same places.
    pub fn load_database_url(flags: &Flags, env: Env<'_>) -> Result<String, ConfigError> {
        let sources = Sources::open(flags, env)?;
        read_database_url(&sources, Self::default().database_url)
    }

    /// The one setting that tells where health can be asked, of a server or of a sidecar, from the same places.
    pub fn load_metrics_listen(flags: &Flags, env: Env<'_>) -> Result<SocketAddr, ConfigError> {
        read_metrics_listen(&Sources::open(flags, env)?, Common::default().metrics_listen)
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
            verify_interval: Duration::from_hours(1),
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
            verify_interval,
        } = self;
        f.debug_struct("Config")
            .field("common", common)
            .field("database_url", &format_args!("{}:…", scheme(database_url)))
            .field("max_staleness", max_staleness)
            .field("max_live_grants_per_tenant", max_live_grants_per_tenant)
            .field("catalogue", catalogue)
            .field("checkpoint_key", checkpoint_key)
            .field("verify_interval", verify_interval)
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
                "--upstream must be given, such as https://replica:50051: a sidecar knows only what it is fed".into(),
            ));
        }
        let upstream_credentials = security::read_upstream_credentials(&sources)?;
        let common = Common::read(&sources)?;
        if !common.security.insecure
            && let Some(plain) = upstreams.iter().find(|url| is_exposed(url))
        {
            return Err(ConfigError(format!(
                "--upstream {plain} must begin with https://: whoever is on the way could feed grants of their own; --insecure \
                 allows it all the same, as behind a mesh that encrypts"
            )));
        }
        Ok(Self { common, upstreams, upstream_credentials })
    }
}

// === impl Common ===

impl Common {
    fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let default = Self::default();
        let common = Self {
            listen: sources.read_all(LISTEN, default.listen, parse_listen)?,
            metrics_listen: read_metrics_listen(sources, default.metrics_listen)?,
            drain_timeout: sources.read(DRAIN_TIMEOUT, default.drain_timeout, |text| {
                parse_duration(text, Duration::ZERO, DRAIN_TIMEOUT_MAX)
            })?,
            limits: sources.limits()?,
            security: Security::read(sources)?,
            log: sources.read(LOG, default.log, parse_log)?,
            log_format: sources.read(LOG_FORMAT, default.log_format, parse_log_format)?,
            otlp_endpoint: sources
                .read(OTLP_ENDPOINT, None, |url| parse_collector(url).map(Some))?,
            trace_ratio: sources.read(TRACE_RATIO, default.trace_ratio, parse_ratio)?,
        };
        common.security.check_exposure(&common.listen, common.metrics_listen)?;
        Ok(common)
    }
}

impl Default for Common {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            listen: vec![ListenAddress::Tcp(loopback(50_051))],
            metrics_listen: loopback(9_464),
            drain_timeout: Duration::from_secs(10),
            limits: CallLimits::default(),
            security: Security::default(),
            log: "info".into(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
            trace_ratio: TraceRatio(10_000),
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

fn read_metrics_listen(
    sources: &Sources<'_>,
    default: SocketAddr,
) -> Result<SocketAddr, ConfigError> {
    sources.read(METRICS_LISTEN, default, parse_tcp)
}

fn read_database_url(sources: &Sources<'_>, default: String) -> Result<String, ConfigError> {
    sources.read(DATABASE_URL, default, |text| match scheme(text) {
        "sqlite" | "postgres" | "postgresql" | "memory" => Ok(text.to_owned()),
        // Only the scheme is repeated, since the rest may hold a password.
        other => Err(format!(
            "must begin with sqlite:, postgres: or memory:, such as sqlite://support-access.db, but begins with {other:?}"
        )),
    })
}
