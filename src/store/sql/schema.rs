//! Whether a database is ours, and of which version, before we touch it; and bringing it to this version.

use sqlx::{
    FromRow,
    migrate::{Migrate, MigrateError, Migrator},
};
use tracing::info;

use crate::store::OpenError;

/// Where sqlx notes which migrations it has made.
pub(in crate::store) const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
/// What it notes, as far as we care.
pub(in crate::store) const SELECT_APPLIED: &str =
    "SELECT version, description, success, checksum FROM _sqlx_migrations ORDER BY version";

/// What the description of a migration begins with that only adds, and does no harm to programs of earlier versions.
const EXPAND: &str = "expand";

/// A migration that a database says it has seen.
#[derive(Debug, Clone, FromRow)]
pub(in crate::store) struct Applied {
    pub(in crate::store) version: i64,
    pub(in crate::store) description: String,
    pub(in crate::store) success: bool,
    pub(in crate::store) checksum: Vec<u8>,
}

/// Refuses a database that is not ours, not what we left, or further than we can go along with. `place` says which it is, without
/// a password.
pub(in crate::store) fn check(
    place: &str,
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
            "{place} holds the tables of something else: give support-access a database of its own"
        )));
    }
    judge(place, applied, migrator).map(drop)
}

/// Judges once more, after [`run`]: a process of another version may have migrated at the same time.
pub(in crate::store) fn confirm(
    place: &str,
    applied: &[Applied],
    migrator: &Migrator,
) -> Result<(), OpenError> {
    if let Some(ahead) = judge(place, applied, migrator)? {
        info!(
            database = place,
            schema_version = ahead,
            known = newest(migrator),
            "the schema is of a later version, which has only added to it"
        );
    }
    Ok(())
}

/// The version of the schema, if it is ahead of ours, and we can go along with that.
fn judge(place: &str, applied: &[Applied], migrator: &Migrator) -> Result<Option<i64>, OpenError> {
    let refuse = |complaint| Err(OpenError(format!("{place} {complaint}")));
    let newest = newest(migrator);
    let mut ahead = None;
    for row in applied {
        let Applied { version, success, checksum, .. } = row;
        let known = migrator.iter().find(|migration| migration.version == *version);
        let complaint = match known {
            _ if !success => format!(
                "is in the middle of migration {version}, which failed: restore it from a backup"
            ),
            None if *version > newest && row.only_adds() => {
                ahead = Some(*version);
                continue;
            }
            None => format!(
                "has schema version {version}, but this program knows only {newest}: \
                 run the version of support-access that wrote it, or a later one"
            ),
            Some(known) if *known.checksum != **checksum => format!(
                "was brought to schema version {version} by another build of support-access than \
                 this: run that build, or restore it from a backup"
            ),
            Some(_) => continue,
        };
        return refuse(complaint);
    }
    match (ahead, missing(applied, migrator)) {
        (Some(version), Some(missing)) => refuse(format!(
            "was brought to schema version {version}, without version {missing}, by another build of \
             support-access than this: run that build, or restore it from a backup"
        )),
        _ => Ok(ahead),
    }
}

/// Whether there are migrations to be made.
pub(in crate::store) fn is_behind(applied: &[Applied], migrator: &Migrator) -> bool {
    missing(applied, migrator).is_some()
}

/// The first version of ours that has not been applied.
fn missing(applied: &[Applied], migrator: &Migrator) -> Option<i64> {
    let is_missing = |version| applied.iter().all(|row| row.version != version);
    migrator.iter().map(|migration| migration.version).find(|it| is_missing(*it))
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or_default()
}

impl Applied {
    /// Whether a program that does not know this migration may go on as if it were not there.
    fn only_adds(&self) -> bool {
        self.description.split_whitespace().next() == Some(EXPAND)
    }
}

/// Makes the migrations that are missing. Several processes may do so at once.
pub(in crate::store) async fn run<C: Migrate>(
    connection: &mut C,
    migrator: &Migrator,
) -> Result<(), MigrateError> {
    // Which migrations we need not know, is judged before and after, not by sqlx.
    let mut ours = Migrator::with_migrations(migrator.iter().cloned().collect());
    ours.set_ignore_missing(true);
    ours.run_direct(None, connection, false).await
}

/// What an operator is told whose database could not be migrated.
pub(in crate::store) fn failed(place: &str, error: &MigrateError) -> OpenError {
    let cause = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => plain(error),
        other => other.to_string(),
    };
    OpenError(format!(
        "{place} could not be migrated: {cause}; mend that and start again, nothing is lost"
    ))
}

/// What a database complained of, in its own words and on one line.
pub(in crate::store) fn plain(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    static OURS: Migrator = sqlx::migrate!("migrations/sqlite");

    /// The program's first migration, and a second one.
    fn migrator() -> Migrator {
        let first = OURS.iter().next().unwrap().clone();
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

    fn verdict(tables: &[&str], applied: &[Applied]) -> String {
        let tables: Vec<String> = tables.iter().map(|&table| table.to_owned()).collect();
        match check("the database", &tables, applied, &migrator()) {
            Ok(()) => "ok".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn only_an_empty_database_or_our_own_will_do() {
        let ours = [MIGRATIONS_TABLE, "head", "events"];
        assert_eq!(verdict(&[], &[]), "ok");
        assert_eq!(verdict(&[MIGRATIONS_TABLE], &[]), "ok", "a first start that was cut short");
        assert_eq!(verdict(&ours, &applied()), "ok");
        let mut theirs = applied();
        theirs[0].description = "customers".into();
        for (tables, applied) in
            [(&["customers"][..], &[][..]), (&ours[..], &[][..]), (&ours[..], &theirs[..])]
        {
            assert_eq!(
                verdict(tables, applied),
                "the database holds the tables of something else: give support-access a database \
                 of its own"
            );
        }
    }

    /// Ours, and then what a later version has made of it.
    fn later(migrations: &[(i64, &str)]) -> Vec<Applied> {
        let mut all = applied();
        for (version, description) in migrations {
            let description = (*description).to_owned();
            all.push(Applied { version: *version, description, ..all[0].clone() });
        }
        all
    }

    #[test]
    fn a_later_schema_will_do_if_it_has_only_added() {
        let tables = [MIGRATIONS_TABLE, "head"];
        let verdict = |migrations: &[(i64, &str)]| verdict(&tables, &later(migrations));
        assert_eq!(verdict(&[(8_000, "expand notes"), (9_000, "expand")]), "ok");
        for description in ["contract notes", "expanded notes", "notes expand", "Expand notes", ""]
        {
            let refused = verdict(&[(8_000, "expand notes"), (9_000, description)]);
            assert!(refused.contains("has schema version 9000, but this program"), "{refused}");
        }
        // One after it adds again: that makes no difference to what was taken away.
        let refused = verdict(&[(8_000, "contract notes"), (9_000, "expand notes")]);
        assert!(refused.contains("has schema version 8000, but this program"), "{refused}");
        // No later version can have left it out.
        let refused = verdict(&[(0, "expand notes")]);
        assert!(refused.contains("has schema version 0, but this program"), "{refused}");
    }

    #[test]
    fn a_later_schema_has_all_that_we_know_and_is_whole() {
        let tables = [MIGRATIONS_TABLE, "head"];
        let mut holed = later(&[(9_000, "expand notes")]);
        holed.remove(1);
        let refused = verdict(&tables, &holed);
        assert!(
            refused.contains(
                "was brought to schema version 9000, without version 2, by another build"
            ),
            "{refused}"
        );
        let mut dirty = later(&[(9_000, "expand notes")]);
        dirty.last_mut().unwrap().success = false;
        assert!(verdict(&tables, &dirty).contains("is in the middle of migration 9000"));
        assert_eq!(
            judge("the database", &later(&[(9_000, "expand")]), &migrator()).unwrap(),
            Some(9_000)
        );
        assert_eq!(judge("the database", &applied()[..1], &migrator()).unwrap(), None);
    }

    #[test]
    fn a_schema_that_we_did_not_leave_is_refused() {
        let tables = [MIGRATIONS_TABLE, "head"];
        let mut newer = applied();
        newer.push(Applied { version: 9_999, ..newer[0].clone() });
        assert!(verdict(&tables, &newer).contains("has schema version 9999, but this program"));
        let mut dirty = applied();
        dirty[0].success = false;
        assert!(verdict(&tables, &dirty).contains("is in the middle of migration 1"));
        let mut changed = applied();
        changed[0].checksum[0] ^= 1;
        assert!(verdict(&tables, &changed).contains("by another build of support-access"));
    }
}
