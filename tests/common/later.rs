//! A later version of the program, as far as the database sees it: its migrations.

use std::{fs, path::Path};

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use tempfile::TempDir;

/// Only adds: a column that may be empty, a table, and an index, in the words of both databases.
pub const EXPAND: (&str, &str) = (
    "0002_expand_rehearsal.sql",
    "ALTER TABLE grants ADD COLUMN rehearsal_note text;
     CREATE TABLE rehearsal (rehearsal_id bigint PRIMARY KEY, rehearsal_text text NOT NULL);
     CREATE INDEX grants_of_rehearsal ON grants (tenant_id, rehearsal_note);",
);

/// Takes away what the later version no longer needs.
pub const CONTRACT: (&str, &str) =
    ("0003_contract_rehearsal.sql", "DROP INDEX grants_tenant_id_group_id_create_sequence_idx;");

/// Migrates as a program would that has, besides all migrations in `migrations/FOLDER`, those: names of files, and what is in them.
pub async fn migrate(
    folder: &str,
    connection: &mut impl Migrate,
    later: &[(&str, &str)],
) -> Result<(), MigrateError> {
    let all = TempDir::with_prefix("support-access-").unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
    for entry in fs::read_dir(ours).unwrap() {
        let file = entry.unwrap();
        fs::copy(file.path(), all.path().join(file.file_name())).unwrap();
    }
    for (name, sql) in later {
        fs::write(all.path().join(name), sql).unwrap();
    }
    Migrator::new(all.path()).await?.run_direct(None, connection, false).await
}
