//! `support-access config check`.

use clap::{Args, Subcommand};

use super::{error::CliError, output::Report, settings::SettingArgs};
use crate::server::{
    check_files, check_sidecar_files,
    config::{Config, Settings, SidecarConfig},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    Check(CheckArgs),
}

/// Check the configuration of a server, or of a sidecar, without starting anything
///
/// The settings come from the same flags, environment variables and file as those of `serve` or
/// `sidecar`. Certificate and key files are read; keys at URLs are not fetched. The output is the
/// effective settings as a configuration file, without secrets; or every problem. The exit code is
/// 0 if the configuration is valid, and 64 otherwise.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  support-access config check --config access.toml
  support-access config check sidecar --upstream https://access.example:50051"
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    settings: SettingArgs<Config>,
    #[command(subcommand)]
    sidecar: Option<CheckSidecar>,
}

#[derive(Debug, Subcommand)]
enum CheckSidecar {
    Sidecar(SidecarSettings),
}

/// Check the configuration of a sidecar
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access config check sidecar --upstream https://access.example:50051")]
struct SidecarSettings {
    #[command(flatten)]
    settings: SettingArgs<SidecarConfig>,
}

impl ConfigCommand {
    pub(crate) fn run(&self) -> Result<Report, CliError> {
        let Self::Check(CheckArgs { settings, sidecar }) = self;
        match sidecar {
            Some(CheckSidecar::Sidecar(SidecarSettings { settings })) => {
                check(settings, check_sidecar_files)
            }
            None => check(settings, |config| check_files(&config.common)),
        }
    }
}

fn check<C: Settings>(
    settings: &SettingArgs<C>,
    check_files: impl Fn(&C) -> Vec<String>,
) -> Result<Report, CliError> {
    let config = settings.load()?;
    let problems = check_files(&config);
    if !problems.is_empty() {
        return Err(CliError::invalid(problems));
    }
    Ok(Report::new(settings.effective(&config)))
}
