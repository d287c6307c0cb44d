//! The arguments that all commands have which ask a server.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tonic::metadata::AsciiMetadataValue;

use super::super::{args::parse_span, failure::Failure};
use crate::{
    api::credentials::ClientCredentials,
    domain::{Caller, Span},
};

/// Above these arguments in help texts.
const HEADING: &str = "Options of the commands that ask a server";

/// How to reach the server, and how to show its answer.
#[derive(Debug, Clone, Args)]
pub(super) struct ClientArgs {
    #[arg(
        long,
        help = "The server: https://HOST:PORT, http://HOST:PORT, or unix:PATH for a socket on this machine",
        global = true,
        help_heading = HEADING,
        value_name = "URL",
        env = "SUPPORT_ACCESS_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:50051",
        value_parser = parse_server
    )]
    pub(super) server: String,
    /// The authorities that vouch for the server, a PEM file. Default: those that this machine trusts.
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", env = "SUPPORT_ACCESS_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// The client's own certificate, a PEM file.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        env = "SUPPORT_ACCESS_CERTIFICATE",
        hide_env_values = true,
        requires = "key"
    )]
    certificate: Option<PathBuf>,
    /// The private key of --certificate, a PEM file.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        env = "SUPPORT_ACCESS_KEY",
        hide_env_values = true,
        requires = "certificate"
    )]
    key: Option<PathBuf>,
    /// A file with a bearer token that says who acts. A token itself would show in the list of processes.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FILE",
        env = "SUPPORT_ACCESS_TOKEN_FILE",
        hide_env_values = true
    )]
    token_file: Option<PathBuf>,
    /// Who acts, for the history, where the server cannot tell callers apart: 1 to 128 ASCII characters. Default: the user of this machine ($USER, or $LOGNAME).
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "NAME",
        env = "SUPPORT_ACCESS_ACTOR",
        hide_env_values = true,
        value_parser = parse_actor
    )]
    pub(super) actor: Option<AsciiMetadataValue>,
    /// How long to wait for an answer, such as 500ms, 10s or 1m. The server is told, and gives up then too.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "DURATION",
        env = "SUPPORT_ACCESS_TIMEOUT",
        hide_env_values = true,
        default_value = "10s",
        value_parser = parse_timeout
    )]
    pub(super) timeout: Span,
    /// How to show the answer: a table for people, or JSON for scripts. JSON is the answer's message in protobuf's JSON
    /// mapping, under the field names of the .proto files; 64-bit numbers are strings there.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FORMAT",
        env = "SUPPORT_ACCESS_OUTPUT",
        hide_env_values = true,
        default_value = "table"
    )]
    pub(super) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

impl ClientArgs {
    /// How the client proves who it is, and knows the server.
    pub(super) fn credentials(&self) -> ClientCredentials {
        ClientCredentials {
            ca: self.ca.clone(),
            identity: self.certificate.clone().zip(self.key.clone()),
            token_file: self.token_file.clone(),
        }
    }
}

fn parse_server(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "write it like https://access.example:50051, http://127.0.0.1:50051 or unix:/run/support-access.sock";
    let is_path = text.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
    let is_url = (text.starts_with("http://") || text.starts_with("https://"))
        && text.parse::<http::Uri>().is_ok_and(|uri| matches!(uri.path(), "" | "/"));
    if is_path || is_url { Ok(text.to_owned()) } else { Err(EXAMPLE.into()) }
}

fn parse_timeout(text: &str) -> Result<Span, String> {
    parse_span(text).and_then(|span| {
        let is_sensible = !span.is_zero() && span <= Span::hours(24);
        is_sensible.then_some(span).ok_or_else(|| "it must be more than 0, and at most 24h".into())
    })
}

fn parse_actor(text: &str) -> Result<AsciiMetadataValue, String> {
    Caller::local(Some(text)).map_err(|error| format!("the name {error}"))?;
    if !text.is_ascii() {
        return Err("the name must be ASCII".into());
    }
    text.parse().map_err(|_| "the name cannot be sent".into())
}

/// The user of this machine; `None` if it does not say, and then the server calls the caller anonymous.
pub(super) fn os_user() -> Result<Option<AsciiMetadataValue>, Failure> {
    let get = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(user) = get("USER").or_else(|| get("LOGNAME")) else { return Ok(None) };
    let refuse = |found| {
        Failure::usage(format!("this machine's user {user:?} cannot be the actor: {found}"))
            .with_hint("--actor, or SUPPORT_ACCESS_ACTOR, gives another name")
    };
    parse_actor(&user).map(Some).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_or_sockets() {
        for text in
            ["http://127.0.0.1:50051", "https://[::1]:1/", "https://host", "unix:/a", "unix:a"]
        {
            assert_eq!(parse_server(text), Ok(text.to_owned()));
        }
        for text in ["", "unix:", "127.0.0.1:50051", "http://", "http://a/b", "ftp://a"] {
            assert!(parse_server(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn actors_are_ascii_and_not_the_system() {
        assert!(parse_actor("alice@acme.example").is_ok());
        for text in ["", " a", "é", "system", "a\nb", &"x".repeat(129)] {
            assert!(parse_actor(text).is_err(), "{text:?}");
        }
    }
}
