//! Errors of a PostgreSQL database that cannot be opened, for the operator.

use std::io::ErrorKind;

use sqlx::{error::DatabaseError, postgres::PgConnectOptions};

use crate::store::{OpenError, sql::schema};

/// Names the database, without a password.
pub(super) fn describe(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    format!("the database {database:?} on {}", server(options))
}

fn server(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("PostgreSQL at {}", socket.display()),
        None => format!("PostgreSQL at {}:{}", options.get_host(), options.get_port()),
    }
}

/// Why the database cannot be opened.
pub(super) fn open_error(options: &PgConnectOptions, error: &sqlx::Error) -> OpenError {
    let cause = schema::plain(error);
    let server = server(options);
    let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default();
    OpenError(match (code.as_ref(), error) {
        ("28000" | "28P01", _) => {
            format!("{server} rejects the user ({cause}); correct database-url")
        }
        ("3D000", _) => format!("{} does not exist; create the database", describe(options)),
        // An error of rustls, such as an unknown authority, is of this kind.
        (_, sqlx::Error::Tls(_)) => distrusted(&server, &cause),
        (_, sqlx::Error::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            distrusted(&server, &cause)
        }
        (_, sqlx::Error::Configuration(_)) => format!("{server} cannot be used: {cause}"),
        (_, sqlx::Error::Io(_)) => {
            format!(
                "{server} cannot be reached ({cause}); start the server, or correct database-url"
            )
        }
        (_, sqlx::Error::PoolTimedOut) => {
            format!(
                "{server} does not respond; check that the server runs and that a pooler has free \
                 connections, or correct database-url"
            )
        }
        _ => format!("{} cannot be used: {cause}", describe(options)),
    })
}

fn distrusted(server: &str, cause: &str) -> String {
    format!(
        "{server} is not verified ({cause}); configure TLS in the server, and name its authority \
         in sslrootcert. A weaker sslmode lets others on the network read the password"
    )
}
