//! `support-access config`

use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    output::Report,
    settings::{SettingArgs, invalid},
};
use crate::server::{
    check_files, check_sidecar_files,
    config::{Config, Settings, SidecarConfig},
};

const NOTES: &str = "\
The settings come from the same flags, environment variables and file as those of `serve` or
`sidecar`. Certificate and key files are read; keys at URLs are not fetched.

Prints the effective settings as a configuration file, without secrets; or every problem.

Exit codes: 0 the configuration is valid; 64 it is not.";

/// Check a configuration without starting anything.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Check(CheckArgs),
}

/// Check the configuration of a server, or of a sidecar.
#[derive(Debug, Args)]
#[command(after_help = NOTES, args_conflicts_with_subcommands = true)]
struct CheckArgs {
    #[command(flatten)]
    settings: SettingArgs<Config>,
    #[command(subcommand)]
    sidecar: Option<CheckSidecar>,
}

#[derive(Debug, Subcommand)]
enum CheckSidecar {
    /// Check the configuration of a sidecar.
    Sidecar(SidecarSettings),
}

#[derive(Debug, Args)]
#[command(after_help = NOTES)]
struct SidecarSettings {
    #[command(flatten)]
    settings: SettingArgs<SidecarConfig>,
}

pub(crate) fn run(args: &ConfigArgs) -> Result<Report, Failure> {
    let ConfigCommand::Check(CheckArgs { settings, sidecar }) = &args.command;
    match sidecar {
        Some(CheckSidecar::Sidecar(SidecarSettings { settings })) => {
            check(settings, check_sidecar_files)
        }
        None => check(settings, |config| check_files(&config.common)),
    }
}

fn check<C: Settings>(
    settings: &SettingArgs<C>,
    check_files: impl Fn(&C) -> Vec<String>,
) -> Result<Report, Failure> {
    let config = settings.load()?;
    let problems = check_files(&config);
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    Ok(Report { text: settings.effective(&config), ..Report::default() })
}
