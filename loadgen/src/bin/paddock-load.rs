//! The `paddock-load` binary: parse, run, exit.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

fn main() -> ExitCode {
    paddock_loadgen::cli::main(std::env::args_os(), &AtomicBool::new(false))
}
