//! The schema of a later program version, as additional migrations.

use std::{fs, path::Path};

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use tempfile::TempDir;

/// A compatible migration: a nullable column, a table and an index. Valid in both databases.
pub const EXPAND: (&str, &str) = (
    "0002_expand_rehearsal.sql",
    "ALTER TABLE grants ADD COLUMN rehearsal_note text;
     CREATE TABLE rehearsal (rehearsal_id bigint PRIMARY KEY, rehearsal_text text NOT NULL);
     CREATE INDEX grants_of_rehearsal ON grants (tenant_id, rehearsal_note);",
);

/// An incompatible migration: drops an index that the later version does not use.
pub const CONTRACT: (&str, &str) =
    ("0003_contract_rehearsal.sql", "DROP INDEX grants_tenant_id_group_id_create_sequence_idx;");

/// Applies all migrations in `migrations/FOLDER` and then `later`, as a later program version
/// would. Each item of `later` is a file name and its SQL.
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
