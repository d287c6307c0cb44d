//! `support-access database migrate`, `database restored` and `database rotate-event-key`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, Subcommand};

use super::{error::CliError, output::Report, settings::SettingArgs};
use crate::{
    server::{SystemClock, config::DatabaseConfig},
    store,
};

#[derive(Debug, Subcommand)]
pub(crate) enum DatabaseCommand {
    Migrate(MigrateArgs),
    Restored(RestoredArgs),
    RotateEventKey(RotateEventKeyArgs),
}

/// Create the database schema, or migrate it to the version of this program
///
/// `serve` also does this when it starts. Use this command to migrate in advance, or as another
/// database user.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  SUPPORT_ACCESS_DATABASE_URL=postgres://owner@db/access support-access database migrate")]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    settings: SettingArgs<DatabaseConfig>,
}

/// Start a new epoch of the log, after the database was restored from a backup
///
/// Check nodes then load all data again, and consistency tokens from before the restore are no
/// longer accepted. docs/operations.md describes the whole procedure.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  SUPPORT_ACCESS_DATABASE_URL=postgres://owner@db/access support-access database restored")]
pub(crate) struct RestoredArgs {
    #[command(flatten)]
    settings: SettingArgs<DatabaseConfig>,
}

/// Replace the event key, while no replica runs
///
/// Verifies all events and rows with the current key, and authenticates them with the new key, in
/// one transaction. Afterwards, replace the file of every replica with the new file.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  openssl rand -hex 32 > new.key
  support-access database rotate-event-key --event-key-file event.key \
    --new-event-key-file new.key")]
pub(crate) struct RotateEventKeyArgs {
    #[command(flatten)]
    settings: SettingArgs<DatabaseConfig>,
    /// The file with the new event key: 64 hexadecimal digits in lower case.
    #[arg(long, value_name = "FILE")]
    new_event_key_file: PathBuf,
}

impl DatabaseCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        match self {
            Self::Migrate(args) => migrate(args.settings.load()?).await,
            Self::Restored(args) => restored(args.settings.load()?).await,
            Self::RotateEventKey(args) => {
                rotate_event_key(args.settings.load()?, &args.new_event_key_file).await
            }
        }
    }
}

async fn migrate(config: DatabaseConfig) -> Result<Report, CliError> {
    let migrated = store::migrate(config.database_url.as_str()).await;
    migrated.map_err(|error| CliError::because(&error))?;
    Ok(Report::new("The database is up to date.\n"))
}

async fn restored(config: DatabaseConfig) -> Result<Report, CliError> {
    let url = config.database_url.as_str();
    if url == "memory:" {
        return Err(CliError::usage(
            "--database-url: memory: cannot be restored; name the restored database",
        ));
    }
    store::accept_restored(url).map_err(|error| CliError::because(&error))?;
    let event_key_file = config.event_key_file.as_deref();
    let store = store::open(url, Arc::new(SystemClock), event_key_file).await;
    let store = store.map_err(|error| CliError::because(&error))?;
    let epoch = store.log().replace_epoch().await;
    store.close().await;
    let epoch = epoch.map_err(|error| CliError::because(&error))?;
    Ok(Report::new(format!("The restore is declared. The database has a new epoch: {epoch}.\n")))
}

async fn rotate_event_key(config: DatabaseConfig, new: &Path) -> Result<Report, CliError> {
    let new = store::read_event_key(new).map_err(|error| CliError::because(&error))?;
    let (url, event_key_file) = (config.database_url.as_str(), config.event_key_file.as_deref());
    let store = store::open(url, Arc::new(SystemClock), event_key_file).await;
    let store = store.map_err(|error| CliError::because(&error))?;
    let replaced = store.log().rotate_event_key(&new).await;
    store.close().await;
    replaced.map_err(|error| CliError::because(&error))?;
    Ok(Report::new(
        "The event key is replaced. Replace the file of every replica, and start the replicas.\n",
    ))
}
