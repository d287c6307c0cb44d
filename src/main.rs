//! The program `support-access`: parses the command line, runs the command, and exits with the exit
//! code. `cli.rs` contains the commands, and `server.rs` contains the server.

use std::process::ExitCode;

use support_access::cli::{Cli, output};

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(usage) => return output::usage(&usage),
    };
    let outcome = cli.runtime().and_then(|runtime| runtime.block_on(cli.run()));
    output::conclude(outcome, cli.exit_when_failed())
}
