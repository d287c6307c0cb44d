//! `support-access serve`

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{error::CliError, output::Report};
use crate::server::{
    self,
    config::{self, Config, Flags},
};

const PLACES: &str = "\
Examples:
  support-access serve
  support-access serve --config access.toml

Each setting is looked for as a flag, then in the environment (an empty variable counts as not
set), then in the configuration file, and then has its default. The file is TOML:

  listen = [\"127.0.0.1:50051\", \"unix:/run/support-access.sock\"]
  max_staleness = \"2s\"
  tls_certificate = \"server.pem\"
  tls_key = \"server.key\"
  tls_client_ca = \"ca.pem\"          # needed for [certificates]
  trust_portal_assertion = false    # true: a portal may name the administrator without a token

  [policy]                          # the vendor's catalogue; tenants can only narrow it
  max_duration = \"90d\"              # at most 3650d
  default_duration = \"7d\"           # at most max_duration
  preset_durations = [\"1h\", \"8h\", \"1d\", \"7d\", \"30d\"]   # at most 32, shortest first
  until_revoked_allowed = true
  reason_required = false
  ticket_required = false
  max_schedule_ahead = \"90d\"        # 0s: grants start at once

  [[policy.groups]]                 # at most 100; default: support and engineering
  group_id = \"support\"
  display_name = \"Support\"
  description = \"Support analysts who answer your tickets.\"
  max_access_level = \"ADMIN\"        # READ_ONLY, READ_WRITE or ADMIN

  [certificates]                    # names in client certificates, by role: gateway, node,
  gateway = [\"spiffe://vendor.example/gateway\"]      # portal, operator, auditor
  [users]                           # users of this machine at Unix sockets, by role: their uids.
  gateway = [1000]                  # Nobody else may use the sockets then
  [[issuers]]                       # whose bearer tokens are taken
  issuer = \"https://id.example\"   # the claim iss
  audience = \"support-access\"     # in the claim aud
  keys = \"https://id.example/jwks.json\"   # a JWK set: https, or a file
  name_claim = \"sub\"              # for the history; /a/b is a path within a claim
  role_claim = \"roles\"
  tenant_claim = \"tenants\"
  leeway = \"30s\"                  # by how much clocks may differ: at most 5m
  tenants = [\"acme\"]              # for whom it may speak; left out: for all, if it alone does
  [issuers.roles]                   # what is in the role claim, by role
  tenant_admin = [\"access-admin\"]

  [limits]                          # numbers at least 1
  connections = 4096                # on all gRPC listeners together
  connections_per_address = 2048
  calls_per_connection = 1024
  calls_per_caller = 512            # at a time
  checks_per_second = 100000        # of one caller; twice as many at once
  requests_per_second = 2000        # all others
  followers_per_caller = 4096
  keepalive_interval = \"20s\"      # how often a silent connection is asked whether it is there
  keepalive_timeout = \"10s\"       # how long it may take to say so

Exit codes: 0 stopped by a signal, 1 could not start or failed, 64 wrong usage or configuration.";

/// Run the server.
#[derive(Debug, Args)]
#[command(after_long_help = PLACES)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    /// For how long check nodes may answer from one proof that they are current: from 200ms to 5m. A revocation is in
    /// force everywhere after this time at the latest; a check node that is cut off denies everything after this time.
    /// Sidecars are told by the replica.
    ///
    /// Default: 2s. Environment: SUPPORT_ACCESS_MAX_STALENESS. File: max_staleness.
    #[arg(long, value_name = "DURATION")]
    max_staleness: Option<String>,
    /// The most scheduled and active grants that one tenant may have: from 1 to 10000.
    ///
    /// Default: 10000. Environment: SUPPORT_ACCESS_MAX_LIVE_GRANTS_PER_TENANT. File: max_live_grants_per_tenant.
    #[arg(long, value_name = "NUMBER")]
    max_live_grants_per_tenant: Option<String>,
    /// The file with the key that checkpoints of histories are signed with: Ed25519 in PKCS#8 PEM, as `openssl genpkey
    /// -algorithm ed25519` writes it.
    ///
    /// Default: none, and checkpoints are not signed. Environment: SUPPORT_ACCESS_CHECKPOINT_KEY. File: checkpoint_key.
    #[arg(long, value_name = "FILE")]
    checkpoint_key: Option<String>,
    /// How long after the chains of the history were verified that begins anew: from 1s to 30d. What does not verify is logged, and
    /// counted among the metrics.
    ///
    /// Default: 1h. Environment: SUPPORT_ACCESS_VERIFY_INTERVAL. File: verify_interval.
    #[arg(long, value_name = "DURATION")]
    verify_interval: Option<String>,
}

/// What every process has.
#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// Where to serve gRPC: IP:PORT, localhost:PORT or unix:PATH. Port 0 takes a free one. May be repeated.
    ///
    /// Default: 127.0.0.1:50051. Environment: SUPPORT_ACCESS_LISTEN, separated by commas. File: listen.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Where to serve HTTP (metrics and health): IP:PORT or localhost:PORT. Port 0 takes a free one.
    ///
    /// Default: 127.0.0.1:9464. Environment: SUPPORT_ACCESS_METRICS_LISTEN. File: metrics_listen.
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<String>,
    /// How long to wait for calls in progress after a signal to stop, before they are cut: from 0s to 1h.
    ///
    /// Default: 10s. Environment: SUPPORT_ACCESS_DRAIN_TIMEOUT. File: drain_timeout.
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<String>,
    /// The server's certificate for gRPC, a PEM file with those that lead from it to the authority; read again when it
    /// changes. Unix sockets have no TLS.
    ///
    /// Default: none. Environment: SUPPORT_ACCESS_TLS_CERTIFICATE. File: tls_certificate.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// The private key of --tls-certificate, a PEM file; read again when it changes.
    ///
    /// Default: none. Environment: SUPPORT_ACCESS_TLS_KEY. File: tls_key.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// The authorities whose client certificates are taken, a PEM file; read again when it changes. Clients must show a
    /// certificate then, unless issuers of tokens are configured.
    ///
    /// Default: none. Environment: SUPPORT_ACCESS_TLS_CLIENT_CA. File: tls_client_ca.
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<String>,
    /// Who may use Unix sockets: their permission bits, in octal.
    ///
    /// Default: 0660. Environment: SUPPORT_ACCESS_SOCKET_MODE. File: socket_mode.
    #[arg(long, value_name = "BITS")]
    socket_mode: Option<String>,
    /// Do without TLS beyond loopback, as behind a mesh that encrypts: take tokens that others can read on the way, and follow
    /// upstreams whose answers others can change.
    /// Logged as a warning.
    ///
    /// Default: false. Environment: SUPPORT_ACCESS_INSECURE, true or false. File: insecure.
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    insecure: Option<String>,
    /// Whether callers may ask by gRPC reflection which services there are.
    ///
    /// Default: true. Environment: SUPPORT_ACCESS_REFLECTION, true or false. File: reflection.
    #[arg(long, value_name = "true|false")]
    reflection: Option<String>,
    /// What to log: a level (error, warn, info, debug, trace), or directives such as warn,support_access=debug.
    ///
    /// Default: info. Environment: SUPPORT_ACCESS_LOG. File: log.
    #[arg(long, value_name = "DIRECTIVES")]
    log: Option<String>,
    /// How to log: text, json, or auto, which is text on a terminal and json otherwise.
    ///
    /// Default: auto. Environment: SUPPORT_ACCESS_LOG_FORMAT. File: log_format.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// The collector that traces are sent to, by OTLP over gRPC. Calls that come with a traceparent (W3C) go on in that trace.
    ///
    /// Default: none, and nothing is traced. Environment: SUPPORT_ACCESS_OTLP_ENDPOINT. File: otlp_endpoint.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How many of the calls to trace that come without a traceparent: from 0, none, to 1, all. With one, the caller decides.
    ///
    /// Default: 0.01. Environment: SUPPORT_ACCESS_TRACE_RATIO. File: trace_ratio, as a text.
    #[arg(long, value_name = "RATIO")]
    trace_ratio: Option<String>,
}

/// Where the data is.
#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// The file with the configuration, in TOML. Environment: SUPPORT_ACCESS_CONFIG. Default: none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database: sqlite://PATH, postgres://USER:PASSWORD@HOST/NAME, or memory: to forget everything at the end.
    ///
    /// Default: sqlite://support-access.db. Environment: SUPPORT_ACCESS_DATABASE_URL, which other users of the machine
    /// cannot read as they can a flag. File: database_url.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

pub(crate) async fn run(args: &ServeArgs) -> Result<Report, CliError> {
    let config = Config::load(&args.to_flags(), &variable)
        .map_err(|error| CliError::usage(error.to_string()))?;
    server::run(config).await.map_err(|error| CliError::because(&error))?;
    Ok(Report::default())
}

/// A variable of the environment. Its value is wrong, and refused later, if it is not Unicode.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

impl ServeArgs {
    fn to_flags(&self) -> Flags {
        let Self {
            common,
            database,
            max_staleness,
            max_live_grants_per_tenant,
            checkpoint_key,
            verify_interval,
        } = self;
        common
            .add_to(database.to_flags())
            .with(config::MAX_STALENESS, max_staleness.clone())
            .with(config::MAX_LIVE_GRANTS_PER_TENANT, max_live_grants_per_tenant.clone())
            .with(config::CHECKPOINT_KEY, checkpoint_key.clone())
            .with(config::VERIFY_INTERVAL, verify_interval.clone())
    }
}

impl CommonArgs {
    pub(crate) fn add_to(&self, flags: Flags) -> Flags {
        let Self {
            listen,
            metrics_listen,
            drain_timeout,
            tls_certificate,
            tls_key,
            tls_client_ca,
            socket_mode,
            insecure,
            reflection,
            log,
            log_format,
            otlp_endpoint,
            trace_ratio,
        } = self;
        flags
            .with(config::LISTEN, listen.clone())
            .with(config::METRICS_LISTEN, metrics_listen.clone())
            .with(config::DRAIN_TIMEOUT, drain_timeout.clone())
            .with(config::TLS_CERTIFICATE, tls_certificate.clone())
            .with(config::TLS_KEY, tls_key.clone())
            .with(config::TLS_CLIENT_CA, tls_client_ca.clone())
            .with(config::SOCKET_MODE, socket_mode.clone())
            .with(config::INSECURE, insecure.clone())
            .with(config::REFLECTION, reflection.clone())
            .with(config::LOG, log.clone())
            .with(config::LOG_FORMAT, log_format.clone())
            .with(config::OTLP_ENDPOINT, otlp_endpoint.clone())
            .with(config::TRACE_RATIO, trace_ratio.clone())
    }
}

impl DatabaseArgs {
    pub(crate) fn to_flags(&self) -> Flags {
        let Self { config, database_url } = self;
        Flags::default().with_file(config.clone()).with(config::DATABASE_URL, database_url.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_help_text_is_one() {
        let (_, file) = PLACES.split_once("TOML:\n").unwrap();
        let lines = file.lines().filter_map(|line| line.strip_prefix("  "));
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let config = Config::load(&Flags::default().with_file(Some(path)), &|_| None).unwrap();
        // What it shows are the defaults, where there are any.
        assert_eq!(config.common.limits, config::CallLimits::default());
        assert_eq!(config.common.security.auth.issuers().count(), 1);
        assert_eq!(config.max_staleness, Config::default().max_staleness);
    }
}
