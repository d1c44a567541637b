//! What the subcommands that start servers have in common: where these run, whom they are held against, how often they are
//! measured, and where the figures go.

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

/// Where servers run and figures go.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The servers' core [default: the last usable one]
    #[arg(long, value_name = "CORE")]
    core: Option<u32>,
    /// Where data directories are made: chooses the disk [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write everything as JSON (- for standard output, which then carries nothing else)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Say nothing while measuring
    #[arg(long)]
    quiet: bool,
}

impl Common {
    /// Which core is whose.
    pub fn cores(&self) -> anyhow::Result<Cores> {
        Cores::divide(self.core)
    }

    /// Below which directory data directories are made.
    pub fn parent(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Says what is being done.
    pub fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("{what}");
        }
    }

    /// How a long measurement shows how far it is.
    pub fn progress(&self) -> Progress {
        if self.quiet { Progress::Quiet } else { Progress::Live }
    }

    /// Prints `text`, and writes the document where it is wanted.
    pub fn publish(&self, document: &impl Serialize, text: impl fmt::Display) -> anyhow::Result<()> {
        provenance::print(self.json.as_deref(), text);
        self.json.as_deref().map_or(Ok(()), |path| provenance::write_json(path, document))
    }
}

/// One Paddock alone.
#[derive(Args, Clone, Debug)]
pub struct Single {
    /// Event loop of the server: auto, uring or epoll
    #[arg(long, default_value_t, value_name = "NAME")]
    transport: Choice,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Single {
    /// A new, empty Paddock, and which core is whose.
    pub fn install(&self) -> anyhow::Result<(Installation, Cores)> {
        let cores = self.common.cores()?;
        let program = Program::Paddock(self.transport);
        Ok((Installation::new(program, Some(cores.server), &self.common.parent())?, cores))
    }
}

/// How often and how long each row of a table is measured.
#[derive(Args, Clone, Debug)]
pub struct Laps {
    /// How often to measure everything, in turns
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = crate::load::seconds)]
    pub(crate) duration: f64,
    /// Seconds of the same load before each measurement
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = crate::load::seconds)]
    pub(crate) warmup: f64,
    /// Znodes
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    pub(crate) value_size: u32,
}

impl Laps {
    /// Length of each measurement.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }

    /// Length of the load before it.
    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

/// The ZooKeeper beside it.
#[derive(Args, Clone, Debug)]
pub struct Rival {
    /// Directory with ZooKeeper's jars [default: ~/.cache/paddock-peers/lib if it is there; java must be in PATH]
    #[arg(long, value_name = "DIR")]
    zookeeper: Option<PathBuf>,
    /// Leave ZooKeeper out
    #[arg(long, conflicts_with = "zookeeper")]
    no_zookeeper: bool,
}

impl Rival {
    /// ZooKeeper, if it is there and not left out; `bench` says it where it is not there.
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
