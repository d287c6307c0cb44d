//! The settings of each command, as tables, and the checks of their combinations.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use toml::{Table, Value};

use super::{
    limits::CallLimits,
    sections::{self, SECTIONS},
    setting::{Kind, Many, One, Optional, Setting, Settings, Switch, settings},
    sources::{ConfigError, Env, Flags, Sources},
    values::{
        DatabaseUrl, ListenAddress, LogFormat, TraceRatio, parse_bool, parse_collector,
        parse_duration, parse_log, parse_log_format, parse_mode, parse_number, parse_path,
        parse_ratio, parse_tcp, parse_upstream, parse_web, read_checkpoint_key,
    },
};
use crate::{
    api::{
        credentials::{ClientCredentials, is_exposed},
        integrations::config::IntegrationConfigs,
        web::authzen::config::AuthZenConfig,
    },
    auth::bindings::AuthConfig,
    domain::{SupportPolicy, chain::CheckpointKey},
};

settings! {
    /// Settings of replicas and sidecars.
    pub struct Common {
        /// Address of gRPC: `IP:PORT`, `localhost:PORT` or `unix:PATH`. Port 0 selects a free
        /// port. May be repeated.
        listen: Many<ListenAddress> = "ADDRESS", "127.0.0.1:50051", str::parse;
        /// Address of metrics and health over HTTP: `IP:PORT` or `localhost:PORT`. Port 0 selects
        /// a free port.
        metrics_listen: One<SocketAddr> = "ADDRESS", "127.0.0.1:9464", parse_tcp;
        /// How long calls in progress may continue after a signal to stop, 0s to 1h. Then their
        /// connections are closed.
        drain_timeout: One<Duration> = "DURATION", "10s", |text| {
            parse_duration(text, Duration::ZERO..=Duration::from_hours(1))
        };
        /// The server's certificate for callers over TCP: a PEM file with the chain up to the
        /// authority. Read again when the file changes.
        tls_certificate: Optional<PathBuf> = "FILE", "", parse_path;
        /// The private key of --tls-certificate: a PEM file. Read again when the file changes.
        tls_key: Optional<PathBuf> = "FILE", "", parse_path;
        /// The authorities of client certificates: a PEM file. Read again when the file changes.
        ///
        /// Clients must present a certificate, unless issuers of tokens are configured.
        tls_client_ca: Optional<PathBuf> = "FILE", "", parse_path;
        /// Permission bits of Unix sockets, in octal.
        socket_mode: One<u32> = "BITS", "0660", parse_mode;
        /// Allow connections without TLS beyond loopback, for example behind a mesh that encrypts.
        ///
        /// Others on the network can read tokens, and can forge the responses of upstreams. Logged
        /// as a warning.
        insecure: Switch<bool> = "true|false", "false", parse_bool;
        /// Serve gRPC reflection.
        reflection: Switch<bool> = "true|false", "true", parse_bool;
        /// Log filter: a level (error, warn, info, debug, trace) or directives such as
        /// `warn,support_access=debug`.
        log: One<String> = "DIRECTIVES", "info", parse_log;
        /// Log format: text, json, or auto, which means text on a terminal and json otherwise.
        log_format: One<LogFormat> = "FORMAT", "auto", parse_log_format;
        /// Collector of traces, by OTLP over gRPC. Without a collector, nothing is traced.
        ///
        /// A call with a traceparent header (W3C) continues the trace of its caller.
        otlp_endpoint: Optional<String> = "URL", "", parse_collector;
        /// Fraction of the calls without a traceparent header that are traced, from 0 to 1.
        ///
        /// With a traceparent header, the caller decides.
        trace_ratio: One<TraceRatio> = "RATIO", "0.01", parse_ratio;
    }
    groups {}
    sections {
        limits: CallLimits = sections::limits;
        auth: AuthConfig = sections::auth;
        authzen: AuthZenConfig = sections::authzen;
        integrations: IntegrationConfigs = sections::integrations;
    }
    check Common::check_combinations;
}

settings! {
    /// Settings of a replica.
    pub struct Config {
        /// Address of JSON over HTTP/1.1 and HTTP/2: `IP:PORT`, `localhost:PORT`, `unix:PATH`, or
        /// `off`. Port 0 selects a free port.
        ///
        /// Callers, TLS and limits are the same as for gRPC.
        web_listen: One<Option<ListenAddress>> = "ADDRESS", "127.0.0.1:8080", parse_web;
        /// The database: `sqlite://PATH`, `postgres://USER:PASSWORD@HOST/NAME`, or `memory:`,
        /// which stores nothing on disk.
        ///
        /// Connections to PostgreSQL on another machine use TLS, and verify the certificate
        /// (`sslmode=verify-full`). Only a weaker `sslmode` in the URL or in `PGSSLMODE` changes
        /// this, not `--insecure`. `sslrootcert` names the file of the authority.
        ///
        /// Prefer the environment variable or the file for a URL with a password: other users of
        /// the machine can see flags.
        database_url: One<DatabaseUrl> = "URL", "sqlite://support-access.db", str::parse;
        /// The secret that authenticates the database: a file with 64 hexadecimal digits in lower
        /// case, for example from `openssl rand -hex 32`. All replicas need the same file.
        ///
        /// With the secret, replicas detect each grant, lock and event that another party has
        /// written to the database. Required with PostgreSQL. Without a file, the secret of a
        /// SQLite database is created at the first start, in a file beside the database:
        /// PATH.event-key.
        event_key_file: Optional<PathBuf> = "FILE", "", parse_path;
        /// How long check nodes may answer from one lease, 200ms to 5m. Replicas pass the value on
        /// to sidecars.
        ///
        /// A revocation is enforced everywhere after 1.01 times this duration at the latest. A
        /// check node without contact to the database or its upstream denies every check after
        /// this duration.
        max_staleness: One<Duration> = "DURATION", "2s", |text| {
            parse_duration(text, Duration::from_millis(200)..=Duration::from_mins(5))
        };
        /// Maximum number of scheduled and active grants of one tenant, 1 to 10000. Each agent that
        /// a grant names counts as a grant.
        max_live_grants_per_tenant: One<usize> = "NUMBER", "10000", |text| {
            parse_number(text, 1..=10_000)
        };
        /// Maximum number of scheduled and active grants of one tenant to one group, 1 to 10000.
        /// The cost of a check grows with this number.
        max_live_grants_per_group: One<usize> = "NUMBER", "200", |text| {
            parse_number(text, 1..=10_000)
        };
        /// The key that signs checkpoints of histories: Ed25519 in PKCS#8 PEM, as written by
        /// `openssl genpkey -algorithm ed25519`. Without a key, checkpoints are not signed.
        checkpoint_key: Optional<CheckpointKey> = "FILE", "", read_checkpoint_key;
        /// Pause between two verifications of all hash chains, 1s to 30d. Breaks are logged and
        /// counted in the metrics.
        verify_interval: One<Duration> = "DURATION", "1h", |text| {
            parse_duration(text, Duration::from_secs(1)..=Duration::from_hours(30 * 24))
        };
    }
    groups {
        common: Common;
    }
    sections {
        policy: SupportPolicy = sections::policy;
    }
    check Config::check_combinations;
}

settings! {
    /// Settings of a sidecar.
    pub struct SidecarConfig {
        /// Address of JSON over HTTP/1.1 and HTTP/2: `IP:PORT`, `localhost:PORT`, `unix:PATH`, or
        /// `off`. Port 0 selects a free port.
        ///
        /// Callers, TLS and limits are the same as for gRPC.
        web_listen: One<Option<ListenAddress>> = "ADDRESS", "off", parse_web;
        /// Upstream to follow, a replica or another sidecar: `https://HOST:PORT`,
        /// `http://HOST:PORT` or `unix:PATH`. Required. May be repeated; the first available
        /// upstream is followed.
        upstream: Many<String> = "URL", "", parse_upstream;
        /// The authorities of upstreams: a PEM file. Without a file, the sidecar uses the
        /// authorities that this machine trusts.
        upstream_ca: Optional<PathBuf> = "FILE", "", parse_path;
        /// The sidecar's client certificate for upstreams: a PEM file. Read again for each
        /// connection.
        upstream_certificate: Optional<PathBuf> = "FILE", "", parse_path;
        /// The private key of --upstream-certificate: a PEM file. Read again for each connection.
        upstream_key: Optional<PathBuf> = "FILE", "", parse_path;
        /// A file with the sidecar's bearer token for upstreams. Read again for each connection.
        upstream_token_file: Optional<PathBuf> = "FILE", "", parse_path;
    }
    groups {
        common: Common;
    }
    sections {}
    check SidecarConfig::check_combinations;
}

/// The settings of commands that need the database only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// See [`Config::database_url`].
    pub database_url: DatabaseUrl,
    /// See [`Config::event_key_file`].
    pub event_key_file: Option<PathBuf>,
}

/// The only setting of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// See [`Common::metrics_listen`].
    pub metrics_listen: SocketAddr,
}

/// The files of a server's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and its chain up to the authority.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authorities of client certificates. `None`: clients present no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Loads the configuration from flags, environment, file and defaults, in this order of precedence.
/// The error contains every problem.
pub fn load<C: Settings>(flags: &Flags, env: Env<'_>) -> Result<C, ConfigError> {
    let mut problems = Vec::new();
    let config = C::read(&open(flags, env, &mut problems), &mut problems);
    // A setting with a problem has its default here, which may not fit the other settings.
    if problems.is_empty() {
        config.check(&mut problems);
    }
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

/// Opens the sources of settings. Replicas and sidecars may share a file, which may therefore
/// contain the settings of both.
pub fn open<'a>(flags: &'a Flags, env: Env<'a>, problems: &mut Vec<String>) -> Sources<'a> {
    let groups = [Common::SETTINGS, Config::SETTINGS, SidecarConfig::SETTINGS];
    let names = groups.iter().flat_map(|settings| settings.iter().map(|setting| setting.name));
    Sources::open(flags, env, &names.chain(SECTIONS).collect::<Vec<_>>(), problems)
}

// === impl Common ===

impl Common {
    /// The files of the server's TLS. `None`: TCP listeners have no TLS.
    pub fn tls(&self) -> Option<TlsFiles> {
        let (certificate, key) = (self.tls_certificate.clone()?, self.tls_key.clone()?);
        Some(TlsFiles { certificate, key, client_ca: self.tls_client_ca.clone() })
    }

    /// Whether callers are authenticated. If not, every caller is local and has all roles.
    pub fn is_authenticated(&self) -> bool {
        !self.auth.is_empty() || self.tls_client_ca.is_some()
    }

    fn check_combinations(&self, problems: &mut Vec<String>) {
        if self.tls_certificate.is_some() != self.tls_key.is_some()
            || self.tls_client_ca.is_some() && self.tls_key.is_none()
        {
            problems.push("TLS needs both tls-certificate and tls-key, each a PEM file".into());
        }
        if self.auth.certificates.is_some() && self.tls_client_ca.is_none() {
            let problem =
                "[certificates] needs tls-client-ca, the authorities of client certificates";
            problems.push(problem.into());
        }
    }

    /// Rejects addresses beyond loopback without authentication, or without TLS for tokens.
    fn check_exposure(&self, web: Option<&ListenAddress>, problems: &mut Vec<String>) {
        let is_exposed = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
        let grpc = self.listen.iter().map(|address| ("listen", address));
        let mut tcp =
            grpc.chain(web.map(|address| ("web-listen", address))).filter_map(|(name, address)| {
                match address {
                    ListenAddress::Tcp(address) => Some((name, *address)),
                    ListenAddress::Unix(_) => None,
                }
            });
        let callers = tcp.find(|(_, address)| is_exposed(address));
        let metrics = Some(self.metrics_listen).filter(is_exposed);
        let metrics = metrics.map(|address| ("metrics-listen", address));
        let must_be_loopback = |name: &str, address: SocketAddr| {
            let port = address.port();
            format!("{name} must be a loopback address such as 127.0.0.1:{port}, but is {address}")
        };
        if let Some((name, address)) = callers.or(metrics).filter(|_| !self.is_authenticated()) {
            problems.push(format!(
                "{}: without authentication, every client that reaches the address could grant \
                 access; configure client certificates or issuers of tokens",
                must_be_loopback(name, address),
            ));
        } else if let Some((name, address)) =
            callers.filter(|_| self.tls().is_none() && !self.insecure)
        {
            problems.push(format!(
                "{}: without TLS, others on the network could read tokens; set tls-certificate and \
                 tls-key, or --insecure behind a mesh that encrypts",
                must_be_loopback(name, address),
            ));
        }
    }
}

// === impl Config ===

impl Config {
    fn check_combinations(&self, problems: &mut Vec<String>) {
        self.common.check_exposure(self.web_listen.as_ref(), problems);
    }
}

// === impl SidecarConfig ===

impl SidecarConfig {
    /// The credentials for upstreams.
    pub fn credentials(&self) -> ClientCredentials {
        ClientCredentials {
            ca: self.upstream_ca.clone(),
            identity: self.upstream_certificate.clone().zip(self.upstream_key.clone()),
            token_file: self.upstream_token_file.clone(),
        }
    }

    fn check_combinations(&self, problems: &mut Vec<String>) {
        self.common.check_exposure(self.web_listen.as_ref(), problems);
        if self.upstream.is_empty() {
            problems.push("--upstream must be given, such as https://replica:50051".into());
        }
        if self.upstream_certificate.is_some() != self.upstream_key.is_some() {
            let problem = "a client certificate needs both upstream-certificate and upstream-key";
            problems.push(problem.into());
        }
        let is_plain = |url: &&String| is_exposed(url) && !self.common.insecure;
        problems.extend(self.upstream.iter().filter(is_plain).map(|url| {
            format!(
                "--upstream {url} must start with https://: others on the network could forge \
                 grants; set --insecure behind a mesh that encrypts"
            )
        }));
    }
}

// === impl DatabaseConfig, HealthConfig ===

fn only(settings: &'static [Setting], name: &str) -> Vec<&'static Setting> {
    settings.iter().filter(|setting| setting.name == name).collect()
}

impl Settings for DatabaseConfig {
    fn settings() -> Vec<&'static Setting> {
        let (mut settings, key) =
            (only(Config::SETTINGS, "database_url"), only(Config::SETTINGS, "event_key_file"));
        settings.extend(key);
        settings
    }

    fn read(sources: &Sources<'_>, problems: &mut Vec<String>) -> Self {
        Self {
            database_url: Config::database_url(sources, problems),
            event_key_file: Config::event_key_file(sources, problems),
        }
    }
}

impl Settings for HealthConfig {
    fn settings() -> Vec<&'static Setting> {
        only(Common::SETTINGS, "metrics_listen")
    }

    fn read(sources: &Sources<'_>, problems: &mut Vec<String>) -> Self {
        Self { metrics_listen: Common::metrics_listen(sources, problems) }
    }
}
