//! `paddock cluster`: an ensemble of real server processes on this machine, for trials and tests.
//!
//! Owns the directory ([`layout`]) and the processes ([`children`]), and reports on both on standard output.
//! Never serves, and never restarts a dead node unless asked to.
//! Correct because it waits for signals of the kernel (the end of a child, an operator's stop) and not for
//! time. No process that it started outlives it.

#![forbid(unsafe_code)]

mod children;
pub mod layout;

use crate::members::MemberRole;
use crate::status::{self, Verdict};
use children::{Death, NodeProcess, stop_all};
use crossbeam_channel::{Receiver, Sender, bounded};
use layout::{LayoutError, NodeLayout, Wanted};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pause before a dead node is restarted: one that cannot start must not use up the machine.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Interval of the checks whether all nodes serve.
const READY_POLL: Duration = Duration::from_millis(100);

/// Time without being ready after which the reason is printed, once.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// Options of the command.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ensemble and its directory.
    pub wanted: Wanted,
    /// Flags for each `paddock serve`.
    pub flags: Vec<OsString>,
    /// Whether dead nodes are restarted.
    pub restart: bool,
}

/// Why there is no ensemble, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The directory cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("cannot start node {node}: {source}")]
    Start { node: u8, source: io::Error },
    /// Signals cannot be watched, or this program's file cannot be found.
    #[error("{doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    #[error("all nodes have ended; their logs say why")]
    AllEnded,
    /// Nodes that did not stop cleanly.
    #[error("{}", nodes.join("; "))]
    Unclean {
        /// A sentence for each node.
        nodes: Vec<String>,
    },
}

/// Runs the ensemble until SIGTERM or SIGINT, with a line on `out` for each event. Continues when the reader
/// of `out` is gone.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<(), ClusterError> {
    let stop = crate::server::stop_signal()
        .map_err(|source| ClusterError::System { doing: "watching for SIGTERM", source })?;
    let ended =
        child_signal().map_err(|source| ClusterError::System { doing: "watching for SIGCHLD", source })?;
    let program: PathBuf = std::env::current_exe()
        .map_err(|source| ClusterError::System { doing: "finding this program", source })?;
    let layouts = layout::prepare(&options.wanted)?;
    let mut nodes: Vec<NodeProcess> = layouts.iter().cloned().map(NodeProcess::new).collect();
    let start = |node: &mut NodeProcess, out: &mut dyn Write| -> Result<(), ClusterError> {
        let started = node.start(&program, &options.flags);
        let pid = started.map_err(|source| ClusterError::Start { node: node.layout.node, source })?;
        let NodeLayout { node, role, client, dir, .. } = &node.layout;
        let role = if layouts.len() == 1 { "standalone".to_owned() } else { role.to_string() };
        say(out, &format!("node {node}  {role:11}  {client}  pid {pid}  {}", dir.display()));
        Ok(())
    };
    for node in &mut nodes {
        start(node, out)?;
    }
    let connect: Vec<String> = layouts.iter().map(|p| p.client.to_string()).collect();
    say(out, &format!("connect string: {}", connect.join(",")));
    say(out, &format!("logs: {}/node-*/log; stop with Ctrl-C or SIGTERM", options.wanted.dir.display()));
    let (mut ready, _watching) = watch_ready(connect, &layouts);
    let mut again: Vec<(u8, Instant)> = Vec::new();
    loop {
        let next = again.iter().map(|(_, at)| *at).min();
        let due = next.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
        crossbeam_channel::select! {
            recv(stop) -> _ => break,
            recv(ready) -> line => match line {
                Ok(line) => say(out, &line),
                // The watcher is done. A closed channel would be ready for ever.
                Err(_) => ready = crossbeam_channel::never(),
            },
            recv(ended) -> _ => {}
            recv(due) -> _ => {}
        }
        for death in nodes.iter_mut().filter_map(NodeProcess::take_death) {
            say(out, &describe(&death));
            if options.restart {
                again.push((death.node, Instant::now() + RESTART_PAUSE));
            }
        }
        for node in &mut nodes {
            let number = node.layout.node;
            if again.iter().any(|(n, at)| *n == number && Instant::now() >= *at) {
                again.retain(|(n, _)| *n != number);
                start(node, out)?;
            }
        }
        if again.is_empty() && !nodes.iter().any(NodeProcess::runs) {
            return Err(ClusterError::AllEnded);
        }
    }
    say(out, "stopping");
    let unclean: Vec<String> = stop_all(&mut nodes).iter().map(describe).collect();
    if unclean.is_empty() { Ok(()) } else { Err(ClusterError::Unclean { nodes: unclean }) }
}

fn say(out: &mut dyn Write, line: &str) {
    // The reader may be gone; the ensemble continues.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn describe(death: &Death) -> String {
    format!("node {} ended ({}): {}", death.node, death.status, death.last_line)
}

/// A message when a child may have ended. Several ends may share one message.
fn child_signal() -> io::Result<Receiver<()>> {
    let (tell, told) = bounded(1);
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGCHLD])?;
    std::thread::Builder::new().name("paddock-children".to_owned()).spawn(move || {
        for _ in signals.forever() {
            // A full channel holds a message already.
            let _ = tell.try_send(());
        }
    })?;
    Ok(told)
}

/// Asks the nodes until all serve, and gives the line that says so. Dropping the sender stops it.
fn watch_ready(servers: Vec<String>, layouts: &[NodeLayout]) -> (Receiver<String>, Sender<()>) {
    let (tell, told) = bounded(2);
    let (alive, gone) = bounded::<()>(0);
    let voters = layouts.iter().filter(|p| p.role == MemberRole::Participant).count();
    let observers = layouts.len() - voters;
    let watch = move || {
        let begun = Instant::now();
        let mut complained = false;
        loop {
            let report = status::ask_all(&servers, status::PATIENCE);
            let why = match report.verdict() {
                Verdict::Healthy => {
                    let _ = tell.send(format!("ready: {voters} voter(s), {observers} observer(s)"));
                    return;
                }
                Verdict::Degraded { why } | Verdict::NoSingleLeader { why } => why.join("; "),
            };
            if !complained && begun.elapsed() > READY_PATIENCE {
                complained = true;
                let _ = tell.try_send(format!("not ready yet: {why}"));
            }
            if gone.recv_timeout(READY_POLL) == Err(crossbeam_channel::RecvTimeoutError::Disconnected) {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("paddock-ready".to_owned()).spawn(watch) {
        tracing::warn!("it will not be reported when the ensemble is ready: {error}");
    }
    (told, alive)
}
