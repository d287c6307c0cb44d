//! `support-access database`

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{failure::Failure, output::Report, settings::SettingArgs};
use crate::{
    server::{SystemClock, config::DatabaseConfig},
    store,
};

/// Prepare the database, or declare that it was restored.
#[derive(Debug, Args)]
pub(crate) struct DatabaseCommandArgs {
    #[command(subcommand)]
    command: DatabaseCommand,
}

#[derive(Debug, Subcommand)]
enum DatabaseCommand {
    Migrate(MigrateArgs),
    Restored(RestoredArgs),
}

/// Create the database's schema, or migrate it to the latest version.
///
/// `serve` also does this when it starts. Use this command to migrate in advance, with another
/// database user.
#[derive(Debug, Args)]
struct MigrateArgs {
    #[command(flatten)]
    settings: SettingArgs<DatabaseConfig>,
}

/// Declare that an older state of the database was restored.
///
/// Running servers and sidecars load all data again within seconds. Earlier consistency tokens are
/// rejected with CONSISTENCY_TOKEN_INVALID, because their events may be lost.
#[derive(Debug, Args)]
struct RestoredArgs {
    #[command(flatten)]
    settings: SettingArgs<DatabaseConfig>,
}

pub(crate) async fn run(args: &DatabaseCommandArgs) -> Result<Report, Failure> {
    let text = match &args.command {
        DatabaseCommand::Migrate(MigrateArgs { settings }) => {
            let DatabaseConfig { database_url } = settings.load()?;
            store::migrate(database_url.as_str())
                .await
                .map_err(|error| Failure::because(&error))?;
            "The database is up to date.\n".into()
        }
        DatabaseCommand::Restored(RestoredArgs { settings }) => {
            let DatabaseConfig { database_url } = settings.load()?;
            let url = database_url.as_str();
            if url == "memory:" {
                let message = "database-url is memory:, where there is nothing to restore";
                return Err(Failure::new(message));
            }
            let store = store::open(url, Arc::new(SystemClock)).await;
            let store = store.map_err(|error| Failure::because(&error))?;
            let epoch = store.log().replace_epoch().await;
            store.close().await;
            let epoch = epoch.map_err(|error| Failure::because(&error))?;
            format!("The restore is declared. The database has a new epoch: {epoch}.\n")
        }
    };
    Ok(Report { text, ..Report::default() })
}
