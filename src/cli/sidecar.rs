//! `support-access sidecar`.

use clap::Args;

use super::{error::CliError, output::Report, settings::SettingArgs};
use crate::server::{self, config::SidecarConfig};

const EXAMPLES: &str = "\
Example:
  support-access sidecar --upstream https://access.example:50051";

const NOTES: &str = "

Each setting is taken from the flag, the environment variable, the configuration file or the
default, as for `serve`. A replica and a sidecar may share a file. To check the settings without
starting anything, use `support-access config check sidecar`.

A sidecar answers checks from memory, and accepts no changes. The sidecar follows the first
available upstream. Without a valid lease, the sidecar denies every check with STALE, and the health
is NOT_SERVING.

Exit codes: 0 stopped by a signal, 1 could not start, failed, or was rejected by every upstream,
64 wrong usage or configuration.";

/// Run a sidecar: a check node beside a gateway, which follows a server
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}{NOTES}"))]
pub(crate) struct SidecarArgs {
    #[command(flatten)]
    settings: SettingArgs<SidecarConfig>,
}

pub(crate) async fn run(args: &SidecarArgs) -> Result<Report, CliError> {
    let config = args.settings.load()?;
    server::run_sidecar(config).await.map_err(|error| CliError::because(&error))?;
    Ok(Report::default())
}
