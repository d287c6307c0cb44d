//! The program `support-access`. The command line is in `cli.rs`, and the server in `server.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    support_access::cli::run(std::env::args_os())
}
