//! `support-access sidecar`

use std::path::PathBuf;

use clap::Args;

use super::{
    failure::Failure,
    output::Report,
    serve::{CommonArgs, variable},
};
use crate::server::{
    self,
    config::{self, Flags, SidecarConfig},
};

const PLACES: &str = "\
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
    /// Whom to follow: the URL of a server or of another sidecar, http://HOST:PORT or unix:PATH. May be repeated, or
    /// separated by commas.
    ///
    /// Required. Environment: SUPPORT_ACCESS_UPSTREAM, separated by commas. File: upstream.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    upstream: Vec<String>,
    #[command(flatten)]
    common: CommonArgs,
    /// The file with the configuration, in TOML. Environment: SUPPORT_ACCESS_CONFIG. Default: none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(args: &SidecarArgs) -> Result<Report, Failure> {
    let SidecarArgs { upstream, common, config } = args;
    let flags = common.add_to(Flags::default().with_file(config.clone()));
    let flags = flags.with(config::UPSTREAM, upstream.clone());
    let config = SidecarConfig::load(&flags, &variable)
        .map_err(|error| Failure::usage(error.to_string()))?;
    server::run_sidecar(config).await.map_err(|error| Failure::because(&error))?;
    Ok(Report::default())
}
