//! `support-access completions`.

use clap::{Args, Command, CommandFactory, ValueHint};
use clap_complete::{Shell, generate};

use super::{Cli, output::Report};

const NAME: &str = "support-access";

/// Print the completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  support-access completions bash > ~/.local/share/bash-completion/completions/support-access
  support-access completions zsh > \"${fpath[1]}/_support-access\"
  support-access completions fish > ~/.config/fish/completions/support-access.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Report {
    let mut command = with_hints(Cli::command());
    let mut script = Vec::new();
    if args.shell != Shell::Bash {
        generate(args.shell, &mut command, NAME, &mut script);
        return Report::new(String::from_utf8_lossy(&script));
    }
    // The labels in clap_complete's script for bash do not match if the name of the program has a
    // hyphen (clap-rs/clap#6421). Only the registration at the end needs the real name.
    let name = NAME.replace('-', "_");
    generate(args.shell, &mut command, &name, &mut script);
    let script = String::from_utf8_lossy(&script);
    Report::new(script.replace(&format!("-o default {name}\n"), &format!("-o default {NAME}\n")))
}

/// Completes files only where an argument is a file.
fn with_hints(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let is_file =
            arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "FILE"));
        match (arg.get_action().takes_values(), is_file) {
            (false, _) => arg,
            (true, true) => arg.value_hint(ValueHint::FilePath),
            (true, false) => arg.value_hint(ValueHint::Other),
        }
    });
    command.mut_subcommands(with_hints)
}
