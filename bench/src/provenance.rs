//! Origin of figures: machine, kernel, commit, command, time. Printed above every table and part of every
//! JSON document.

use paddock_loadgen::machine::Machine;
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

/// Origin of a document's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    pub machine: Machine,
    /// Commit that this binary was built from, with `-dirty` for changed files; empty when unknown.
    pub commit: &'static str,
    /// Whether the build was optimised.
    pub optimised: bool,
    pub command: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: u64,
}

impl Provenance {
    /// Describes this process, now.
    pub fn here() -> Self {
        let mut command: Vec<String> =
            std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        if let Some(program) = command.first_mut() {
            // The directory of the binary tells a reader nothing.
            *program = program.rsplit('/').next().unwrap_or_default().to_owned();
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            machine: Machine::read(),
            commit: env!("PADDOCK_COMMIT"),
            optimised: !cfg!(debug_assertions),
            command,
            started_ms: since_epoch.as_millis() as u64,
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.machine;
        let virtual_machine = if m.virtual_machine { ", virtual machine" } else { "" };
        writeln!(
            f,
            "machine  {}, {} cores{virtual_machine}, {} GiB; Linux {}",
            m.cpu,
            m.cores,
            m.memory_bytes >> 30,
            m.kernel
        )?;
        let commit = if self.commit.is_empty() { "unknown" } else { self.commit };
        writeln!(
            f,
            "commit   {commit}{}",
            if self.optimised { "" } else { ", NOT OPTIMISED: figures mean nothing" }
        )?;
        write!(f, "command  {}", self.command.join(" "))
    }
}

/// Writes `document` as JSON to `path`; `-` is standard output.
pub fn write_json(path: &Path, document: &impl Serialize) -> anyhow::Result<()> {
    let mut out: Box<dyn Write> = match path == Path::new("-") {
        true => Box::new(std::io::stdout().lock()),
        false => Box::new(BufWriter::new(
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
        )),
    };
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)?;
    out.flush().with_context(|| format!("cannot write {}", path.display()))
}

/// Prints `text` unless the JSON document goes to standard output.
pub fn print(json: Option<&Path>, text: impl fmt::Display) {
    if json != Some(Path::new("-")) {
        println!("{text}");
    }
}
