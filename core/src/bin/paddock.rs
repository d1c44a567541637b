//! The `paddock` binary: from flags to an exit code. All else is in the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    paddock_core::cli::run(paddock_core::cli::Cli::parse())
}
