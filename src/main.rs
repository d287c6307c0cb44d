//! The program `support-access`: parses the command line, runs the command, and exits with the exit
//! code. `cli.rs` contains the commands, and `server.rs` contains the server.

use std::process::ExitCode;

fn main() -> ExitCode {
    support_access::cli::run(std::env::args_os())
}
