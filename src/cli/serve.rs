//! `support-access serve`.

use clap::Args;

use super::{error::CliError, output::Report, settings::SettingArgs};
use crate::server::{
    self,
    config::{Config, EXAMPLE},
};

/// Run a replica: a server with access to the database
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = notes())]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs<Config>,
}

const EXAMPLES: &str = "\
Examples:
  support-access serve
  support-access serve --config access.toml";

fn notes() -> String {
    let example = EXAMPLE.lines().map(|line| format!("  {line}").trim_end().to_owned());
    let example = example.collect::<Vec<_>>().join("\n");
    format!(
        "\
{EXAMPLES}

Each setting is taken from the flag, the environment variable (an empty variable counts as unset),
the configuration file or the default, in this order. `support-access config check` checks the
settings without starting anything. The file is TOML. The tables of the file have neither flags nor
variables:

{example}

Exit codes: 0 stopped by a signal, 1 could not start or failed, 64 wrong usage or configuration."
    )
}

pub(crate) async fn run(args: &ServeArgs) -> Result<Report, CliError> {
    let config = args.settings.load()?;
    server::run(config).await.map_err(|error| CliError::because(&error))?;
    Ok(Report::default())
}
