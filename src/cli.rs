//! The command line: a file per command, each of which turns its arguments into a request and the answer into a report.
//! Only [`output`] prints. Doc comments of arguments are their help texts.

#![allow(clippy::doc_markdown, reason = "a help text has no use for backticks")]

use std::ffi::OsString;

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use client::{Client, ClientArgs};
use failure::Failure;
use output::{Exit, Report};

mod args;
mod check;
mod client;
mod completions;
mod explain;
mod extend;
mod failure;
mod grant;
mod history;
mod json;
mod list;
mod migrate;
pub mod output;
mod policy;
mod revoke;
mod serve;
mod show;
mod table;
mod view;

const EXIT_CODES: &str = "\
Exit codes:
  0   done; for check: allowed
  1   failed; for check: denied
  2   for check: could not tell; the server gave no answer, or a STALE one
  64  wrong usage or configuration; nothing was tried

Times are RFC 3339 with a zone, seconds optional: 2026-12-01T09:00Z, 2026-12-01T10:00:30+01:00.
Durations are numbers with units: 90s, 30m, 8h, 7d (of 24 hours), and sums such as \"1d 12h\".
Tables show times in UTC.";

/// Customers decide when the vendor's support staff may enter their tenant.
///
/// `serve` is the server. The other commands ask a running one: a tenant administrator's grant, extend, revoke, list,
/// show, history and policy; a gateway's check, and explain for when it says no.
#[derive(Debug, Parser)]
#[command(name = "support-access", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Migrate(migrate::MigrateArgs),
    Grant(grant::GrantArgs),
    Extend(extend::ExtendArgs),
    Revoke(revoke::RevokeArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    History(history::HistoryArgs),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    Completions(completions::CompletionsArgs),
}

impl Cli {
    /// Reads the command line. What is wrong with it, and a help text that was asked for, come back as the error.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(args)
    }

    /// What the command runs on: threads for the server, this one thread for anything else.
    pub fn runtime(&self) -> Result<Runtime, Failure> {
        let mut builder = match self.command {
            Command::Serve(_) => Builder::new_multi_thread(),
            _ => Builder::new_current_thread(),
        };
        builder
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))
    }

    /// Runs the command.
    pub async fn run(&self) -> Result<Report, Failure> {
        match &self.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::Grant(args) => grant::run(&self.connect().await?, args).await,
            Command::Extend(args) => extend::run(&self.connect().await?, args).await,
            Command::Revoke(args) => revoke::run(&self.connect().await?, args).await,
            Command::List(args) => list::run(&self.connect().await?, args).await,
            Command::Show(args) => show::run(&self.connect().await?, args).await,
            Command::Check(args) => check::run(&self.connect().await?, args).await,
            Command::Explain(args) => explain::run(&self.connect().await?, args).await,
            Command::History(args) => history::run(&self.connect().await?, args).await,
            Command::Policy(command) => policy::run(&self.connect().await?, command).await,
            Command::Completions(args) => Ok(completions::run(args)),
        }
    }

    async fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.client).await
    }

    /// The exit code of a failure: a check that failed has not been denied, it could not tell.
    pub fn exit_when_failed(&self) -> Exit {
        match self.command {
            Command::Check(_) => Exit::Unknown,
            _ => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_has_a_help_text() {
        fn visit(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }
}
