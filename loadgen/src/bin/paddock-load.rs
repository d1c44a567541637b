//! The `paddock-load` binary: logging, signals, and off it goes.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Raised by SIGINT and SIGTERM: a run then ends early and reports what it has.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Without the thread that waits for signals, they end the process as they always did.
    if let Ok(signals) = paddock_loadgen::embedded::stop_signal() {
        let wait = move || {
            if signals.recv().is_ok() {
                STOP.store(true, Ordering::Relaxed);
            }
        };
        let _ = std::thread::Builder::new().name("load-signals".to_owned()).spawn(wait);
    }
    paddock_loadgen::cli::main(std::env::args_os(), &STOP)
}
