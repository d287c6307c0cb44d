//! The program `support-access`: reads the command line, runs the command, and leaves with its exit code. Everything
//! interesting is in `cli.rs`, and for the server in `server.rs`.

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
