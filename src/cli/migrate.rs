//! `support-access migrate`

use clap::Args;

use super::{
    failure::Failure,
    output::Report,
    serve::{DatabaseArgs, variable},
};
use crate::{server::config::Config, store};

/// Create the database's schema, or bring it to the latest version, and leave.
///
/// `serve` does that too when it starts. This is for those who want it done before, and by another user of the database.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(args: &MigrateArgs) -> Result<Report, Failure> {
    let url = Config::load_database_url(&args.database.to_flags(), &variable)
        .map_err(|error| Failure::usage(error.to_string()))?;
    store::migrate(&url).await.map_err(|error| Failure::because(&error))?;
    Ok(Report { text: "The database is up to date.\n".into(), ..Report::default() })
}
