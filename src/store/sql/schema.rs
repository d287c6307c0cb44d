//! The check of a database before any write, and the migration to the version of this program.

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use tracing::info;

use crate::store::{OpenError, sql::rows::row};

/// The table in which sqlx records the applied migrations.
pub(in crate::store) const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
/// The records of that table.
pub(in crate::store) const SELECT_APPLIED: &str =
    "SELECT version, description, success, checksum FROM _sqlx_migrations ORDER BY version";

/// The first word of the description of a migration that leaves earlier programs able to run.
const EXPAND: &str = "expand";

row! {
    /// A migration that the database has recorded.
    #[derive(Clone)]
    pub(in crate::store) struct Applied {
        pub(in crate::store) version: i64,
        pub(in crate::store) description: String,
        pub(in crate::store) success: bool,
        pub(in crate::store) checksum: Vec<u8>,
    }
}

/// Rejects a database of another program, a damaged schema, or an incompatible later version.
/// `database` names the database for the operator, without a password.
pub(in crate::store) fn check(
    database: &str,
    tables: &[String],
    applied: &[Applied],
    migrator: &Migrator,
) -> Result<(), OpenError> {
    let is_empty = tables.iter().all(|table| table == MIGRATIONS_TABLE) && applied.is_empty();
    if is_empty {
        return Ok(());
    }
    let is_ours = migrator.iter().next().is_some_and(|first| {
        applied
            .first()
            .is_some_and(|row| row.version == first.version && row.description == first.description)
    });
    if !is_ours {
        return Err(OpenError(format!(
            "{database} contains tables of another program; give support-access a separate \
             database"
        )));
    }
    check_versions(database, applied, migrator).map(drop)
}

/// Checks the schema again after [`run`]: a process of another version may have migrated at the
/// same time.
pub(in crate::store) fn confirm(
    database: &str,
    applied: &[Applied],
    migrator: &Migrator,
) -> Result<(), OpenError> {
    if let Some(ahead) = check_versions(database, applied, migrator)? {
        info!(
            database,
            schema_version = ahead,
            known = newest(migrator),
            "the schema is of a later, compatible version"
        );
    }
    Ok(())
}

/// The version of the schema, if later than that of this program and compatible.
fn check_versions(
    database: &str,
    applied: &[Applied],
    migrator: &Migrator,
) -> Result<Option<i64>, OpenError> {
    let reject = |problem| Err(OpenError(format!("{database} {problem}")));
    let newest = newest(migrator);
    let mut ahead = None;
    for row in applied {
        let Applied { version, success, checksum, .. } = row;
        let known = migrator.iter().find(|migration| migration.version == *version);
        let problem = match known {
            _ if !success => format!(
                "is in the middle of migration {version}, which failed; restore the database from \
                 a backup"
            ),
            None if *version > newest && row.is_expand() => {
                ahead = Some(*version);
                continue;
            }
            None => format!(
                "has schema version {version}, but this program knows only {newest}; \
                 run the version of support-access that wrote it, or a later one"
            ),
            Some(known) if *known.checksum != **checksum => format!(
                "was migrated to schema version {version} by another build of support-access; run \
                 that build, or restore the database from a backup"
            ),
            Some(_) => continue,
        };
        return reject(problem);
    }
    match (ahead, missing(applied, migrator)) {
        (Some(version), Some(missing)) => reject(format!(
            "was migrated to schema version {version}, without version {missing}, by another build \
             of support-access; run that build, or restore the database from a backup"
        )),
        _ => Ok(ahead),
    }
}

/// Whether migrations of this program are missing.
pub(in crate::store) fn is_behind(applied: &[Applied], migrator: &Migrator) -> bool {
    missing(applied, migrator).is_some()
}

/// The first version of this program that has not been applied.
fn missing(applied: &[Applied], migrator: &Migrator) -> Option<i64> {
    let is_missing = |version| applied.iter().all(|row| row.version != version);
    migrator.iter().map(|migration| migration.version).find(|version| is_missing(*version))
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or_default()
}

impl Applied {
    /// Whether a program that does not know this migration can run with the schema.
    fn is_expand(&self) -> bool {
        self.description.split_whitespace().next() == Some(EXPAND)
    }
}

/// Applies the missing migrations. Several processes may do so concurrently.
pub(in crate::store) async fn run<C: Migrate>(
    connection: &mut C,
    migrator: &Migrator,
) -> Result<(), MigrateError> {
    // `check` and `confirm` decide about unknown migrations, not sqlx.
    let mut ours = Migrator::with_migrations(migrator.iter().cloned().collect());
    ours.set_ignore_missing(true);
    ours.run_direct(None, connection, false).await
}

/// The error for the operator after a failed migration.
pub(in crate::store) fn failed(database: &str, error: &MigrateError) -> OpenError {
    let cause = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => plain(error),
        other => other.to_string(),
    };
    OpenError(format!(
        "{database} could not be migrated, and no data is lost: {cause}; correct the cause and \
         start again"
    ))
}

/// The message of a database error, on one line.
pub(in crate::store) fn plain(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) | sqlx::Error::Configuration(error) => error.to_string(),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrations::SQLITE;

    /// The first migration of this program, and a second one.
    fn migrator() -> Migrator {
        let first = SQLITE.iter().next().unwrap().clone();
        let second = sqlx::migrate::Migration { version: 2, ..first.clone() };
        Migrator::with_migrations(vec![first, second])
    }

    fn applied() -> Vec<Applied> {
        let applied = |migration: &sqlx::migrate::Migration| Applied {
            version: migration.version,
            description: migration.description.to_string(),
            success: true,
            checksum: migration.checksum.to_vec(),
        };
        migrator().iter().map(applied).collect()
    }

    fn outcome(tables: &[&str], applied: &[Applied]) -> String {
        let tables: Vec<String> = tables.iter().map(|&table| table.to_owned()).collect();
        match check("the database", &tables, applied, &migrator()) {
            Ok(()) => "ok".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_empty_database_or_one_of_this_program_is_accepted() {
        let ours = [MIGRATIONS_TABLE, "head", "events"];
        assert_eq!(outcome(&[], &[]), "ok");
        assert_eq!(outcome(&[MIGRATIONS_TABLE], &[]), "ok", "the first start was interrupted");
        assert_eq!(outcome(&ours, &applied()), "ok");
        let mut theirs = applied();
        theirs[0].description = "customers".into();
        for (tables, applied) in
            [(&["customers"][..], &[][..]), (&ours[..], &[][..]), (&ours[..], &theirs[..])]
        {
            assert_eq!(
                outcome(tables, applied),
                "the database contains tables of another program; give support-access a separate \
                 database"
            );
        }
    }

    /// The migrations of this program, followed by those of a later version.
    fn later(migrations: &[(i64, &str)]) -> Vec<Applied> {
        let mut all = applied();
        for (version, description) in migrations {
            let description = (*description).to_owned();
            all.push(Applied { version: *version, description, ..all[0].clone() });
        }
        all
    }

    #[test]
    fn a_later_schema_is_accepted_if_it_only_expands() {
        let tables = [MIGRATIONS_TABLE, "head"];
        let outcome = |migrations: &[(i64, &str)]| outcome(&tables, &later(migrations));
        assert_eq!(outcome(&[(8_000, "expand notes"), (9_000, "expand")]), "ok");
        for description in ["contract notes", "expanded notes", "notes expand", "Expand notes", ""]
        {
            let error = outcome(&[(8_000, "expand notes"), (9_000, description)]);
            assert!(error.contains("has schema version 9000, but this program"), "{error}");
        }
        // A later expanding migration does not restore what an earlier one removed.
        let error = outcome(&[(8_000, "contract notes"), (9_000, "expand notes")]);
        assert!(error.contains("has schema version 8000, but this program"), "{error}");
        // A migration with a smaller version cannot be from a later program.
        let error = outcome(&[(0, "expand notes")]);
        assert!(error.contains("has schema version 0, but this program"), "{error}");
    }

    #[test]
    fn a_later_schema_must_be_complete() {
        let tables = [MIGRATIONS_TABLE, "head"];
        let mut holed = later(&[(9_000, "expand notes")]);
        holed.remove(1);
        let error = outcome(&tables, &holed);
        assert!(
            error.contains(
                "was migrated to schema version 9000, without version 2, by another build"
            ),
            "{error}"
        );
        let mut dirty = later(&[(9_000, "expand notes")]);
        dirty.last_mut().unwrap().success = false;
        assert!(outcome(&tables, &dirty).contains("is in the middle of migration 9000"));
        assert_eq!(
            check_versions("the database", &later(&[(9_000, "expand")]), &migrator()).unwrap(),
            Some(9_000)
        );
        assert_eq!(check_versions("the database", &applied()[..1], &migrator()).unwrap(), None);
    }
}
