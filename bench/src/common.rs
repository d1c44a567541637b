//! Command-line options that subcommands share: where servers run, which ZooKeeper they are compared with,
//! how often each row is measured, and where the figures go.

use crate::provenance;
use crate::server::{Cores, Installation, Program, default_jars};
use anyhow::ensure;
use clap::Args;
use paddock_loadgen::config::Progress;
use paddock_transport::event_loop::Choice;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Options for the placement of servers and the output of figures.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The servers' core [default: the last usable one]
    #[arg(long, value_name = "CORE")]
    core: Option<u32>,
    /// Parent of the data directories, which chooses the disk [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write everything as JSON (- for standard output, which then carries nothing else)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print no progress while measuring
    #[arg(long)]
    quiet: bool,
}

impl Common {
    /// The server's core and the generator's cores.
    pub fn cores(&self) -> anyhow::Result<Cores> {
        Cores::divide(self.core)
    }

    /// Parent of the data directories.
    pub fn parent(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Prints a line of progress to standard error.
    pub fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("{what}");
        }
    }

    pub fn progress(&self) -> Progress {
        if self.quiet { Progress::Quiet } else { Progress::Live }
    }

    /// Prints `text`, and writes the document to the file of `--json`.
    pub fn publish(&self, document: &impl Serialize, text: impl fmt::Display) -> anyhow::Result<()> {
        provenance::print(self.json.as_deref(), text);
        self.json.as_deref().map_or(Ok(()), |path| provenance::write_json(path, document))
    }
}

/// Options for a measurement of one Paddock alone.
#[derive(Args, Clone, Debug)]
pub struct Single {
    /// Event loop of the server: auto, uring or epoll
    #[arg(long, default_value_t, value_name = "NAME")]
    transport: Choice,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Single {
    /// A new, empty Paddock, and the division of cores.
    pub fn install(&self) -> anyhow::Result<(Installation, Cores)> {
        let cores = self.common.cores()?;
        let program = Program::Paddock(self.transport);
        Ok((Installation::new(program, Some(cores.server), &self.common.parent())?, cores))
    }
}

/// Options for how often and how long each row of a table is measured.
#[derive(Args, Clone, Debug)]
pub struct Laps {
    /// Rounds; each measures everything once
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Length of each measurement, in seconds
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = crate::load::seconds)]
    pub(crate) duration: f64,
    /// Length of the same load before each measurement, in seconds
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = crate::load::seconds)]
    pub(crate) warmup: f64,
    /// Number of znodes to read and write
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    pub(crate) value_size: u32,
}

impl Laps {
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }

    /// Length of the load before each measurement.
    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

/// Options for the ZooKeeper to compare with.
#[derive(Args, Clone, Debug)]
pub struct Rival {
    /// Directory with ZooKeeper's jars [default: ~/.cache/paddock-peers/lib if it is there; java must be in
    /// PATH]
    #[arg(long, value_name = "DIR")]
    zookeeper: Option<PathBuf>,
    /// Do not measure ZooKeeper
    #[arg(long, conflicts_with = "zookeeper")]
    no_zookeeper: bool,
}

impl Rival {
    /// ZooKeeper; `None` if its jars are missing or it was left out. Prints a note for `bench` if they are
    /// missing.
    pub fn program(&self, bench: &str) -> anyhow::Result<Option<Program>> {
        if self.no_zookeeper {
            return Ok(None);
        }
        let Some(jars) = self.zookeeper.clone().or_else(default_jars) else {
            eprintln!("{bench}: no ZooKeeper (--zookeeper DIR names a directory with its jars)");
            return Ok(None);
        };
        ensure!(jars.is_dir(), "--zookeeper {}: no such directory of jars", jars.display());
        Ok(Some(Program::ZooKeeper(jars)))
    }
}
