//! Log lines of the `raft` crate, in our own log.
//!
//! Owns the bridge from `slog` to `tracing`. Never logs above the level of the crate: its "info" is our
//! debug, since the core reports elections itself.

use slog::{Drain, Key, Level, Logger, Never, OwnedKVList, Record, Serializer, o};
use std::fmt::{Arguments, Write};

/// A logger for a Raft node.
pub(in crate::consensus) fn logger() -> Logger {
    Logger::root(ToTracing, o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        let mut line = Line(record.msg().to_string());
        // Writing to a string does not fail.
        let _ = slog::KV::serialize(&record.kv(), record, &mut line);
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "paddock::raft", "{}", line.0),
            Level::Warning => tracing::warn!(target: "paddock::raft", "{}", line.0),
            Level::Info => tracing::debug!(target: "paddock::raft", "{}", line.0),
            Level::Debug | Level::Trace => tracing::trace!(target: "paddock::raft", "{}", line.0),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => {
                tracing::enabled!(target: "paddock::raft", tracing::Level::ERROR)
            }
            Level::Warning => tracing::enabled!(target: "paddock::raft", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "paddock::raft", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => tracing::enabled!(target: "paddock::raft", tracing::Level::TRACE),
        }
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}
