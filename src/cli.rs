//! The command line.
//!
//! Each noun has a file that turns arguments into requests, and responses into a [`Report`]. Only
//! [`output`] prints. Doc comments of arguments are help texts. The first line of a help text ends
//! without a full stop.

#![allow(clippy::doc_markdown, reason = "help texts have no markup")]

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write,
    mem,
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::Styles};
use tokio::runtime::{Builder, Runtime};

use client::Remote;
use error::CliError;
use exit::Exit;
use output::Report;

mod args;
mod checks;
mod client;
mod clock;
mod completions;
mod config;
mod connection;
mod database;
mod diagnosis;
mod error;
mod exit;
mod grants;
mod health;
mod history;
mod info;
mod json;
mod locks;
mod nodes;
mod output;
mod policy;
mod serve;
mod server_address;
mod settings;
mod sidecar;
mod table;
mod tenants;
mod view;

/// Customers decide when the vendor's support staff may enter their tenant
#[derive(Debug, Parser)]
#[command(
    name = "support-access",
    version,
    max_term_width = 100,
    help_template = "{about-with-newline}\n{usage-heading} {usage}{after-help}"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Grant(Remote<grants::GrantArgs>),
    Extend(Remote<grants::ExtendArgs>),
    Revoke(Remote<grants::RevokeArgs>),
    List(Remote<grants::ListArgs>),
    Show(Remote<grants::ShowArgs>),
    Check(Remote<checks::CheckArgs>),
    Explain(Remote<checks::ExplainArgs>),
    /// Create, lift and list locks
    #[command(subcommand)]
    Lock(locks::LockCommand),
    /// Show and change a tenant's support policy
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// List, export and verify histories
    #[command(subcommand)]
    History(history::HistoryCommand),
    /// List the tenants
    #[command(subcommand)]
    Tenant(tenants::TenantCommand),
    /// List the check nodes
    #[command(subcommand)]
    Node(nodes::NodeCommand),
    /// Accept the clock of the database after a step
    #[command(subcommand)]
    Clock(clock::ClockCommand),
    Serve(serve::ServeArgs),
    Sidecar(sidecar::SidecarArgs),
    /// Migrate the database, and declare a restore
    #[command(subcommand)]
    Database(database::DatabaseCommand),
    /// Check a configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check whether the server on this machine serves
    #[command(subcommand)]
    Health(health::HealthCommand),
    Version(info::VersionArgs),
    Whoami(Remote<info::WhoamiArgs>),
    Completions(completions::CompletionsArgs),
}

/// The commands by purpose, for the help text.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Access", &["grant", "extend", "revoke", "list", "show", "check", "explain"]),
    ("Administration", &["lock", "policy", "history", "tenant", "node", "clock"]),
    ("Server", &["serve", "sidecar", "config", "database", "health"]),
    ("Information", &["version", "whoami", "completions", "help"]),
];

/// Reads the command line, runs the command, prints the result and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let is_json = asks_for_json(&args);
    match Cli::parse_args(args) {
        Ok(cli) => output::conclude(cli.run(), is_json),
        Err(error) => output::print_usage(&error, is_json),
    }
}

impl Cli {
    fn parse_args(args: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = complete_command();
        let matches = command.try_get_matches_from_mut(args)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    fn run(&self) -> Result<Report, CliError> {
        self.runtime()?.block_on(self.command.run())
    }

    /// A server needs several threads. Every other command needs one.
    fn runtime(&self) -> Result<Runtime, CliError> {
        let mut builder = match self.command {
            Command::Serve(_) | Command::Sidecar(_) => Builder::new_multi_thread(),
            _ => Builder::new_current_thread(),
        };
        let runtime = builder.enable_all().build();
        runtime.map_err(|error| CliError::new(format!("the runtime cannot be started: {error}")))
    }
}

impl Command {
    async fn run(&self) -> Result<Report, CliError> {
        match self {
            Self::Grant(command) => command.run().await,
            Self::Extend(command) => command.run().await,
            Self::Revoke(command) => command.run().await,
            Self::List(command) => command.run().await,
            Self::Show(command) => command.run().await,
            Self::Check(command) => command.run().await,
            Self::Explain(command) => command.run().await,
            Self::Lock(command) => command.run().await,
            Self::Policy(command) => command.run().await,
            Self::History(command) => command.run().await,
            Self::Tenant(command) => command.run().await,
            Self::Node(command) => command.run().await,
            Self::Clock(command) => command.run().await,
            Self::Serve(args) => serve::run(args).await,
            Self::Sidecar(args) => sidecar::run(args).await,
            Self::Database(command) => command.run().await,
            Self::Config(command) => command.run(),
            Self::Health(command) => command.run().await,
            Self::Version(args) => args.run().await,
            Self::Whoami(command) => command.run().await,
            Self::Completions(args) => Ok(completions::run(args)),
        }
    }
}

/// The command with the help text. Errors show usage lines without options from the environment.
fn complete_command() -> clap::Command {
    let mut command = ignore_empty_variables(Cli::command());
    command.build();
    fix_usage(&mut command);
    let help = help_text(&command);
    command.after_help(help)
}

/// An empty variable counts as unset, because not every environment can unset a variable.
fn ignore_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(None::<&str>),
        _ => arg,
    });
    command.mut_subcommands(ignore_empty_variables)
}

/// Fixes the usage lines before clap parses the arguments. clap would add each option whose value
/// came from the environment, as if the option were required.
fn fix_usage(command: &mut clap::Command) {
    command.get_subcommands_mut().for_each(fix_usage);
    let usage = command.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    *command = mem::take(command).override_usage(usage);
}

/// The commands in groups, the exit codes, and the forms of times and durations.
fn help_text(command: &clap::Command) -> String {
    let header = Styles::styled().get_header().to_owned();
    let literal = Styles::styled().get_literal().to_owned();
    let mut text = String::new();
    // A write to a String cannot fail.
    for (group, names) in GROUPS {
        let _ = writeln!(text, "{header}{group}:{header:#}");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {literal}{name:13}{literal:#}{about}");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{header}Exit codes:{header:#}");
    for (exit, meaning) in Exit::MEANINGS {
        let _ = writeln!(text, "  {:<13}{meaning}", exit as u8);
    }
    text + "
Durations are numbers with units: w, d (24 hours), h, m, s, ms, us; also sums, such as \"1d 12h\".
Times are RFC 3339 with a zone: 2026-12-01T09:00Z or 2026-12-01T10:00:30+01:00. Tables use UTC.
Help for a command: support-access COMMAND --help"
}

/// Whether the user has requested JSON. The raw arguments decide, because an error in the arguments
/// is printed as JSON, too.
fn asks_for_json(args: &[OsString]) -> bool {
    let mut format = env::var("SUPPORT_ACCESS_OUTPUT").unwrap_or_default();
    let mut is_next = false;
    for arg in args.iter().skip(1).map(|arg| arg.to_string_lossy()) {
        if arg == "--" {
            break;
        }
        if is_next {
            format = arg.into_owned();
            is_next = false;
        } else if let Some(value) = arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o"))
        {
            is_next = value.is_empty();
            value.trim_start_matches('=').clone_into(&mut format);
        } else {
            is_next = arg == "--output";
        }
    }
    format == "json"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(command: &clap::Command, check: &impl Fn(&clap::Command)) {
        check(command);
        command.get_subcommands().for_each(|subcommand| visit(subcommand, check));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_has_a_help_text_and_every_command_an_example() {
        visit(&Cli::command(), &|command| {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has a help text");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{name} {}", arg.get_id());
            }
            let help = command.get_after_help().or_else(|| command.get_after_long_help());
            let has_example = help.is_some_and(|help| help.to_string().contains("Example"));
            assert!(has_example || command.has_subcommands(), "{name} has an example");
        });
    }

    #[test]
    fn no_flag_takes_a_list_separated_by_commas() {
        visit(&Cli::command(), &|command| {
            for arg in command.get_arguments() {
                let delimiter = arg.get_value_delimiter();
                assert_eq!(delimiter, None, "{} {}", command.get_name(), arg.get_id());
            }
        });
    }

    #[test]
    fn every_command_is_in_one_group_of_the_help_text() {
        let mut command = Cli::command();
        command.build();
        let mut names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        let mut grouped: Vec<&str> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        names.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(names, grouped);
    }

    #[test]
    fn the_output_format_is_found_in_raw_arguments() {
        let asks = |args: &str| {
            let args = args.split_whitespace().map(OsString::from);
            asks_for_json(
                &[OsString::from("support-access")].into_iter().chain(args).collect::<Vec<_>>(),
            )
        };
        for args in
            ["--output json", "--output=json", "-o json", "-ojson", "-o=json", "a -o json b"]
        {
            assert!(asks(args), "{args}");
        }
        for args in ["", "json", "-o table json", "-o json -o table", "-- -o json", "--wide json"] {
            assert!(!asks(args), "{args}");
        }
    }
}
