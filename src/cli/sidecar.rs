//! `support-access sidecar`

use std::path::PathBuf;

use clap::Args;

use super::{
    error::CliError,
    output::Report,
    serve::{CommonArgs, variable},
};
use crate::server::{
    self,
    config::{self, Flags, SidecarConfig},
};

const PLACES: &str = "\
Example:
  support-access sidecar --upstream https://replica:50051 --listen unix:/run/access/check.sock

Each setting is looked for as a flag, then in the environment, then in the configuration file, and
then has its default, as for serve. The file may be the same.

A sidecar answers checks from memory, and takes no changes. It is fed by the first upstream that
it can follow, and goes to the next when that is lost. While it cannot prove that it is current,
it denies every check with STALE, and its health is NOT_SERVING.

Exit codes: 0 stopped by a signal, 1 could not start, failed, or an upstream refuses it, 64 wrong
usage or configuration.";

/// Run a sidecar: a check node beside a gateway, fed by a server.
#[derive(Debug, Args)]
#[command(after_long_help = PLACES)]
pub(crate) struct SidecarArgs {
    /// Whom to follow: the URL of a server or of another sidecar, https://HOST:PORT, http://HOST:PORT or
    /// unix:PATH. May be repeated.
    ///
    /// Required. Environment: SUPPORT_ACCESS_UPSTREAM, separated by commas. File: upstream.
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// The authorities that vouch for upstreams, a PEM file.
    ///
    /// Default: those that this machine trusts. Environment: SUPPORT_ACCESS_UPSTREAM_CA. File: upstream_ca.
    #[arg(long, value_name = "FILE")]
    upstream_ca: Option<String>,
    /// The sidecar's own certificate, to show to upstreams, a PEM file; read anew for each connection.
    ///
    /// Default: none. Environment: SUPPORT_ACCESS_UPSTREAM_CERTIFICATE. File: upstream_certificate.
    #[arg(long, value_name = "FILE")]
    upstream_certificate: Option<String>,
    /// The private key of --upstream-certificate, a PEM file; read anew for each connection.
    ///
    /// Default: none. Environment: SUPPORT_ACCESS_UPSTREAM_KEY. File: upstream_key.
    #[arg(long, value_name = "FILE")]
    upstream_key: Option<String>,
    /// A file with the sidecar's bearer token for upstreams; read anew for each connection.
    ///
    /// Default: none. Environment: SUPPORT_ACCESS_UPSTREAM_TOKEN_FILE. File: upstream_token_file.
    #[arg(long, value_name = "FILE")]
    upstream_token_file: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
    /// The file with the configuration, in TOML. Environment: SUPPORT_ACCESS_CONFIG. Default: none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(args: &SidecarArgs) -> Result<Report, CliError> {
    let config = SidecarConfig::load(&args.to_flags(), &variable)
        .map_err(|error| CliError::usage(error.to_string()))?;
    server::run_sidecar(config).await.map_err(|error| CliError::because(&error))?;
    Ok(Report::default())
}

impl SidecarArgs {
    fn to_flags(&self) -> Flags {
        let Self {
            upstream,
            upstream_ca,
            upstream_certificate,
            upstream_key,
            upstream_token_file,
            common,
            config,
        } = self;
        common
            .add_to(Flags::default().with_file(config.clone()))
            .with(config::UPSTREAM, upstream.clone())
            .with(config::UPSTREAM_CA, upstream_ca.clone())
            .with(config::UPSTREAM_CERTIFICATE, upstream_certificate.clone())
            .with(config::UPSTREAM_KEY, upstream_key.clone())
            .with(config::UPSTREAM_TOKEN_FILE, upstream_token_file.clone())
    }
}
