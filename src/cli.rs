//! The command line: a file per command, each of which turns its arguments into a request and the answer into a report.
//! Only [`output`] prints. Doc comments of arguments are their help texts.

#![allow(clippy::doc_markdown, reason = "a help text has no use for backticks")]

use std::ffi::{OsStr, OsString};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use client::Asking;
use failure::Failure;
use output::{Exit, Report};

mod args;
mod check;
mod client;
mod completions;
mod config;
mod database;
mod explain;
mod extend;
mod failure;
mod grant;
mod health;
mod history;
mod json;
mod list;
mod lock;
mod locks;
mod nodes;
pub mod output;
mod policy;
mod revoke;
mod serve;
mod settings;
mod show;
mod sidecar;
mod table;
mod unlock;
mod view;
mod wait;

const EXIT_CODES: &str = "\
Exit codes:
  0   done; for check: allowed
  1   failed; for check: denied; for health: it does not serve
  2   could not tell; for check: the server gave no answer, or a STALE one; for extend, revoke,
      lock, policy set and wait: it is done, and permanent, but not yet known at every check node
      (PENDING)
  64  wrong usage or configuration; nothing was tried

Times are RFC 3339 with a zone, seconds optional: 2026-12-01T09:00Z, 2026-12-01T10:00:30+01:00.
Durations are numbers with units: 90s, 30m, 8h, 7d (of 24 hours), and sums such as \"1d 12h\".
Tables show times in UTC.";

/// Customers decide when the vendor's support staff may enter their tenant.
///
/// `serve` is the server, and `sidecar` a part of it that only answers checks, beside a gateway; `health` asks either
/// whether it serves. The other commands ask a running one: a tenant administrator's grant, extend, revoke, wait, list, show,
/// history, policy, lock, unlock and locks; a gateway's check, and explain for when it says no; an operator's nodes, and
/// lock, unlock and locks for emergencies.
#[derive(Debug, Parser)]
#[command(name = "support-access", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Sidecar(sidecar::SidecarArgs),
    Database(database::DatabaseCommandArgs),
    Health(health::HealthArgs),
    Config(config::ConfigArgs),
    Grant(Asking<grant::GrantArgs>),
    Extend(Asking<extend::ExtendArgs>),
    Revoke(Asking<revoke::RevokeArgs>),
    List(Asking<list::ListArgs>),
    Show(Asking<show::ShowArgs>),
    Check(Asking<check::CheckArgs>),
    Explain(Asking<explain::ExplainArgs>),
    History(Asking<history::HistoryArgs>),
    Policy(Asking<policy::PolicyArgs>),
    Wait(Asking<wait::WaitArgs>),
    Nodes(Asking<nodes::NodesArgs>),
    Lock(Asking<lock::LockArgs>),
    Unlock(Asking<unlock::UnlockArgs>),
    Locks(Asking<locks::LocksArgs>),
    Completions(completions::CompletionsArgs),
}

impl Cli {
    /// Reads the command line. What is wrong with it, and a help text that was asked for, come back as the error.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = without_empty_variables(Self::command());
        let matches = command.try_get_matches_from_mut(args)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// What the command runs on: threads for the server, this one thread for anything else.
    pub fn runtime(&self) -> Result<Runtime, Failure> {
        let mut builder = match self.command {
            Command::Serve(_) | Command::Sidecar(_) => Builder::new_multi_thread(),
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
            Command::Sidecar(args) => sidecar::run(args).await,
            Command::Database(args) => database::run(args).await,
            Command::Health(args) => health::run(args).await,
            Command::Config(args) => config::run(args),
            Command::Grant(asking) => grant::run(&asking.connect().await?, &asking.args).await,
            Command::Extend(asking) => extend::run(&asking.connect().await?, &asking.args).await,
            Command::Revoke(asking) => revoke::run(&asking.connect().await?, &asking.args).await,
            Command::List(asking) => list::run(&asking.connect().await?, &asking.args).await,
            Command::Show(asking) => show::run(&asking.connect().await?, &asking.args).await,
            Command::Check(asking) => check::run(&asking.connect().await?, &asking.args).await,
            Command::Explain(asking) => explain::run(&asking.connect().await?, &asking.args).await,
            Command::History(asking) => history::run(asking).await,
            Command::Policy(asking) => policy::run(&asking.connect().await?, &asking.args).await,
            Command::Wait(asking) => wait::run(&asking.connect().await?, &asking.args).await,
            Command::Nodes(asking) => nodes::run(&asking.connect().await?, &asking.args).await,
            Command::Lock(asking) => lock::run(&asking.connect().await?, &asking.args).await,
            Command::Unlock(asking) => unlock::run(&asking.connect().await?, &asking.args).await,
            Command::Locks(asking) => locks::run(&asking.connect().await?, &asking.args).await,
            Command::Completions(args) => Ok(completions::run(args)),
        }
    }

    /// The exit code of a failure: a check that failed has not been denied, it could not tell.
    pub fn exit_when_failed(&self) -> Exit {
        match self.command {
            Command::Check(_) => Exit::Unknown,
            _ => Exit::Failed,
        }
    }
}

/// An empty variable is one that is not set, as for the server's configuration: it cannot be unset everywhere.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(None::<&str>),
        _ => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests {
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
                let is_of_client = [
                    "server",
                    "ca",
                    "certificate",
                    "key",
                    "token_file",
                    "actor",
                    "timeout",
                    "output",
                ]
                .contains(&arg.get_id().as_str());
                assert_eq!(arg.get_help_heading().is_some(), is_of_client, "{}", arg.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }
}
