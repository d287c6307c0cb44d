//! `support-access migrate`

use clap::Args;

use super::{failure::Failure, output::Report, settings::SettingArgs};
use crate::{server::config::MigrationConfig, store};

/// Create the database schema, or migrate it to the latest version, and exit.
///
/// `serve` also does this when it starts. Use this command to migrate in advance, with another
/// database user.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    settings: SettingArgs<MigrationConfig>,
}

pub(crate) async fn run(args: &MigrateArgs) -> Result<Report, Failure> {
    let MigrationConfig { database_url } = args.settings.load()?;
    store::migrate(database_url.as_str()).await.map_err(|error| Failure::because(&error))?;
    Ok(Report { text: "The database is up to date.\n".into(), ..Report::default() })
}
