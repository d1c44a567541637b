//! The server processes of a local ensemble.
//!
//! Owns each process from its start to its end.
//! Never reads a server's output beyond the last line of its log.
//! Correct because a process is signalled only before it is waited for, while its process number is still
//! its own. No server outlives this process: the kernel kills it with its parent.

#![forbid(unsafe_code)]

use super::layout::NodeLayout;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Time for a clean stop before a server is killed: twice the time that a server allows its last writes.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two checks of servers that are stopping.
const STOP_POLL: Duration = Duration::from_millis(10);

/// Bytes of a log's end in which the last line is searched.
const LOG_END_BYTES: u64 = 4096;

/// A node and its process, if it runs.
#[derive(Debug)]
pub struct NodeProcess {
    pub layout: NodeLayout,
    process: Option<Child>,
    /// Length of the log when the process started. Earlier lines are of another process.
    log_from: u64,
}

/// The end of a process.
#[derive(Debug)]
pub struct Death {
    pub node: u8,
    /// As reported by the kernel.
    pub status: ExitStatus,
    /// Last line of the process's log.
    pub last_line: String,
}

impl NodeProcess {
    /// The process is not started yet.
    pub fn new(layout: NodeLayout) -> Self {
        Self { layout, process: None, log_from: 0 }
    }

    /// Starts `program serve` with the node's configuration and `flags`. Gives the process number.
    pub fn start(&mut self, program: &Path, flags: &[OsString]) -> io::Result<u32> {
        let log = File::options().create(true).append(true).open(&self.layout.log)?;
        self.log_from = log.metadata()?.len();
        let process = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&self.layout.config)
            .arg("--exit-with-parent")
            .arg(std::process::id().to_string())
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A process group of its own: Ctrl-C in a terminal reaches only the parent, which then stops
            // every server once.
            .process_group(0)
            .spawn()?;
        let id = process.id();
        self.process = Some(process);
        Ok(id)
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// The end of the process, once.
    pub fn take_death(&mut self) -> Option<Death> {
        let status = self.process.as_mut()?.try_wait().ok().flatten()?;
        self.process = None;
        Some(Death { node: self.layout.node, status, last_line: last_line(&self.layout.log, self.log_from) })
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            // The child was not waited for, so the process number is still its own. A signal to an ended
            // process has no effect.
            let _ = kill_process(Pid::from_child(process), signal);
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Stops all servers: SIGTERM, then SIGKILL after [`STOP_PATIENCE`]. Gives those that did not stop cleanly.
/// A server ended by the SIGTERM itself had not started to handle it and counts as clean.
pub fn stop_all(nodes: &mut [NodeProcess]) -> Vec<Death> {
    nodes.iter().for_each(|n| n.signal(Signal::TERM));
    // A paused process cannot handle SIGTERM.
    nodes.iter().for_each(|n| n.signal(Signal::CONT));
    let until = Instant::now() + STOP_PATIENCE;
    let mut unclean = Vec::new();
    while nodes.iter().any(NodeProcess::runs) {
        let dead = nodes.iter_mut().filter_map(NodeProcess::take_death);
        let asked = Some(Signal::TERM.as_raw());
        unclean.extend(dead.filter(|d| !d.status.success() && d.status.signal() != asked));
        if Instant::now() >= until {
            nodes.iter().for_each(|n| n.signal(Signal::KILL));
        }
        std::thread::sleep(STOP_POLL);
    }
    unclean
}

/// The last line after byte `from` of a file that may be long or growing.
fn last_line(path: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_END_BYTES).max(from)))?;
        let mut end = Vec::new();
        file.take(LOG_END_BYTES).read_to_end(&mut end)?;
        let text = String::from_utf8_lossy(&end);
        Ok(text.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or_default().to_owned())
    };
    read().ok().filter(|l| !l.is_empty()).unwrap_or_else(|| "it said nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_found_in_a_long_an_empty_and_a_binary_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_line(&log, 0), "it said nothing");
        for (text, want) in [
            (b"".to_vec(), "it said nothing"),
            (b"\n\n".to_vec(), "it said nothing"),
            (b"one\n two \n\n".to_vec(), "two"),
            ([vec![b'x'; 100_000], b"\nlast".to_vec()].concat(), "last"),
            (b"a\n\xff\xfe\n".to_vec(), "\u{fffd}\u{fffd}"),
        ] {
            std::fs::write(&log, text).unwrap();
            assert_eq!(last_line(&log, 0), want);
        }
        std::fs::write(&log, "of the process before\n").unwrap();
        assert_eq!(last_line(&log, 22), "it said nothing");
    }
}
