//! The migrations of each database, embedded in the program.

use std::sync::LazyLock;

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Embeds the files of a folder of `migrations/`. The macro of sqlx would build SQLite and TLS a
/// second time.
macro_rules! migrator {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        LazyLock::new(|| Migrator::with_migrations(vec![$(migration(
            $file,
            include_str!(concat!("../../migrations/", $folder, "/", $file, ".sql")),
        )),+]))
    };
}

pub(super) static POSTGRES: LazyLock<Migrator> = migrator!("postgres": "0001_schema");

pub(super) static SQLITE: LazyLock<Migrator> = migrator!("sqlite": "0001_schema");

/// A migration. The name of the file contains the version and the description.
fn migration(name: &'static str, sql: &'static str) -> Migration {
    let (version, description) = name.split_once('_').unwrap_or((name, ""));
    let version = version.parse().unwrap_or_default();
    let description = description.replace('_', " ").into();
    Migration::new(version, description, MigrationType::Simple, SqlStr::from_static(sql), false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn every_file_is_embedded() {
        for (folder, embedded) in
            [("migrations/postgres", &POSTGRES), ("migrations/sqlite", &SQLITE)]
        {
            let files = Migrator::new(Path::new(folder)).await.unwrap();
            let described = |migrator: &Migrator| -> Vec<_> {
                let described = migrator.iter().map(|migration| {
                    let Migration { version, description, checksum, no_tx, .. } = migration.clone();
                    (version, description, checksum, no_tx)
                });
                described.collect()
            };
            assert_eq!(described(embedded), described(&files), "{folder}");
        }
    }
}
