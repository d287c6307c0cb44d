//! `support-access database`

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    output::Report,
    serve::{DatabaseArgs, variable},
};
use crate::{domain::clock::SystemClock, server::config::Config, store};

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
/// `serve` does that too when it starts. Use this command to migrate earlier, or as another user of the database.
#[derive(Debug, Args)]
struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Declare that an older state of the database was restored.
///
/// Running servers and sidecars load all data again within seconds. Consistency tokens from before are rejected with
/// CONSISTENCY_TOKEN_INVALID, because the events that they identify may be lost.
#[derive(Debug, Args)]
struct RestoredArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(args: &DatabaseCommandArgs) -> Result<Report, Failure> {
    let text = match &args.command {
        DatabaseCommand::Migrate(MigrateArgs { database }) => {
            store::migrate(&url(database)?).await.map_err(|error| Failure::because(&error))?;
            "The database is up to date.\n".into()
        }
        DatabaseCommand::Restored(RestoredArgs { database }) => {
            let url = url(database)?;
            if url == "memory:" {
                let message = "database-url is memory:, where there is nothing to restore";
                return Err(Failure::new(message));
            }
            let store = store::open(&url, Arc::new(SystemClock)).await;
            let store = store.map_err(|error| Failure::because(&error))?;
            let epoch = store.log().replace_epoch().await;
            store.close().await;
            let epoch = epoch.map_err(|error| Failure::because(&error))?;
            format!("The restore is declared. The database has a new epoch: {epoch}.\n")
        }
    };
    Ok(Report { text, ..Report::default() })
}

fn url(args: &DatabaseArgs) -> Result<String, Failure> {
    Config::load_database_url(&args.to_flags(), &variable)
        .map_err(|error| Failure::usage(error.to_string()))
}
