//! The options of commands that call a server, and the connection.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::time::timeout;
use tonic::{
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    args::parse_duration,
    diagnosis::{Diagnosis, diagnose},
    error::{CliError, causes},
    server_address::ServerAddress,
};
use crate::{
    api::credentials::{ClientCredentials, is_exposed},
    domain::{Caller, Span},
};

const OUTPUT: &str = "Output";
const CONNECTION: &str = "Connection";

// Without a doc comment, which would replace the help text of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Print a table for people, or JSON for scripts
    ///
    /// JSON is the response in the JSON mapping of protobuf, with the field names of the .proto
    /// files. 64-bit numbers are strings. Errors are one JSON object on stderr. Environment:
    /// SUPPORT_ACCESS_OUTPUT.
    #[arg(
        long,
        short,
        help_heading = OUTPUT,
        value_name = "FORMAT",
        env = "SUPPORT_ACCESS_OUTPUT",
        hide_env = true,
        default_value = "table"
    )]
    pub(crate) output: Format,
    /// Show all columns of a table, even if the terminal is narrow
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) wide: bool,
}

// Without a doc comment, which would replace the help text of the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArgs {
    /// The server: HOST:PORT, http(s)://HOST:PORT, or unix:PATH
    ///
    /// Without a scheme, the connection uses TLS, except to a loopback address. Environment:
    /// SUPPORT_ACCESS_SERVER.
    #[arg(
        long,
        help_heading = CONNECTION,
        value_name = "ADDRESS",
        env = "SUPPORT_ACCESS_SERVER",
        hide_env = true,
        default_value = "127.0.0.1:50051"
    )]
    pub(crate) server: ServerAddress,
    /// The authorities of the server's certificate: a PEM file
    ///
    /// Default: the authorities that this machine trusts. Environment: SUPPORT_ACCESS_CA.
    #[arg(
        long,
        help_heading = CONNECTION,
        value_name = "FILE",
        env = "SUPPORT_ACCESS_CA",
        hide_env = true
    )]
    pub(crate) ca: Option<PathBuf>,
    /// The client certificate: a PEM file
    ///
    /// Environment: SUPPORT_ACCESS_CERTIFICATE.
    #[arg(
        long,
        help_heading = CONNECTION,
        value_name = "FILE",
        env = "SUPPORT_ACCESS_CERTIFICATE",
        hide_env = true,
        requires = "key"
    )]
    pub(crate) certificate: Option<PathBuf>,
    /// The private key of --certificate: a PEM file
    ///
    /// Environment: SUPPORT_ACCESS_KEY.
    #[arg(
        long,
        help_heading = CONNECTION,
        value_name = "FILE",
        env = "SUPPORT_ACCESS_KEY",
        hide_env = true,
        requires = "certificate"
    )]
    key: Option<PathBuf>,
    /// A file with a bearer token
    ///
    /// There is no option for the token itself, because other users can see arguments. Environment:
    /// SUPPORT_ACCESS_TOKEN_FILE.
    #[arg(
        long,
        help_heading = CONNECTION,
        value_name = "FILE",
        env = "SUPPORT_ACCESS_TOKEN_FILE",
        hide_env = true
    )]
    token_file: Option<PathBuf>,
    /// Your name in the history, if the server has no authentication
    ///
    /// 1 to 128 ASCII characters. Default: $USER or $LOGNAME. Environment: SUPPORT_ACCESS_ACTOR.
    #[arg(
        long,
        help_heading = CONNECTION,
        value_name = "NAME",
        env = "SUPPORT_ACCESS_ACTOR",
        hide_env = true,
        value_parser = parse_actor
    )]
    actor: Option<AsciiMetadataValue>,
    /// How long to wait for the response, up to 24h
    ///
    /// The server stops the call at the same time. Environment: SUPPORT_ACCESS_TIMEOUT.
    #[arg(
        long,
        help_heading = CONNECTION,
        value_name = "DURATION",
        env = "SUPPORT_ACCESS_TIMEOUT",
        hide_env = true,
        default_value = "10s",
        value_parser = parse_timeout
    )]
    pub(crate) timeout: Span,
}

/// The format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

impl ConnectionArgs {
    /// Connects to the server, within the timeout.
    pub(crate) async fn connect(&self) -> Result<Channel, CliError> {
        let endpoint = Endpoint::from_shared(self.server.as_str().to_owned())
            .map_err(|_| CliError::usage(format!("--server: {} is not an address", self.server)))?;
        let endpoint = if self.server.uses_tls() {
            let tls = self.credentials().tls().map_err(CliError::usage)?;
            endpoint.tls_config(tls).map_err(|error| {
                let cause = causes(&error).last().map(ToString::to_string).unwrap_or_default();
                CliError::usage(format!("the certificates cannot be used: {cause}"))
            })?
        } else {
            endpoint
        };
        match timeout(self.timeout.0, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(self.explain(&error).await),
            Err(_) => Err(self.to_error(&Diagnosis::NoResponse)),
        }
    }

    /// The error for a connection that failed.
    pub(crate) async fn explain(&self, error: &(dyn std::error::Error + 'static)) -> CliError {
        self.to_error(&diagnose(&self.server, error).await)
    }

    fn to_error(&self, diagnosis: &Diagnosis) -> CliError {
        diagnosis.to_error(&self.server, self.ca.is_some(), self.certificate.is_some())
    }

    /// The header with the bearer token.
    pub(crate) fn token(&self) -> Result<Option<AsciiMetadataValue>, CliError> {
        let token = self.credentials().token().map_err(CliError::usage)?;
        if token.is_some() && is_exposed(self.server.as_str()) {
            let message =
                format!("--token-file: others can read a token on its way to {}", self.server);
            return Err(CliError::usage(message).with_hint("use an https:// address"));
        }
        Ok(token)
    }

    /// The header with the actor. `None`: the server calls the actor `anonymous`.
    pub(crate) fn actor(&self) -> Result<Option<AsciiMetadataValue>, CliError> {
        if self.actor.is_some() {
            return Ok(self.actor.clone());
        }
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(user) = variable("USER").or_else(|| variable("LOGNAME")) else { return Ok(None) };
        parse_actor(&user).map(Some).map_err(|problem| {
            CliError::usage(format!("the user name {user:?} cannot be the actor: {problem}"))
                .with_hint("--actor names another actor")
        })
    }

    fn credentials(&self) -> ClientCredentials {
        ClientCredentials {
            ca: self.ca.clone(),
            identity: self.certificate.clone().zip(self.key.clone()),
            token_file: self.token_file.clone(),
        }
    }
}

fn parse_timeout(text: &str) -> Result<Span, String> {
    let timeout = parse_duration(text)?;
    let is_valid = !timeout.is_zero() && timeout <= Span::hours(24);
    is_valid.then_some(timeout).ok_or_else(|| "must be more than 0s and at most 24h".into())
}

fn parse_actor(text: &str) -> Result<AsciiMetadataValue, String> {
    Caller::local(Some(text)).map_err(|error| format!("the name {error}"))?;
    if !text.is_ascii() {
        return Err("the name must be ASCII".into());
    }
    text.parse().map_err(|_| "the name must be a valid header".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_ascii_and_not_the_system() {
        assert!(parse_actor("alice@acme.example").is_ok());
        for text in ["", " a", "é", "system", "a\nb", &"x".repeat(129)] {
            assert!(parse_actor(text).is_err(), "{text:?}");
        }
    }
}
