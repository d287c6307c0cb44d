//! `support-access completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, output::Report};

/// Write the completions for a shell to stdout, to be sourced.
///
/// For bash: `support-access completions bash > ~/.local/share/bash-completion/completions/support-access`
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "support-access", &mut script);
    Report { text: String::from_utf8_lossy(&script).into_owned(), ..Report::default() }
}
