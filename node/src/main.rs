//! The `halloo` binary: one command line for the daemon and everything that talks to it.

use std::process::ExitCode;

fn main() -> ExitCode {
    halloo::cli::main(std::env::args_os())
}
