//! `paddock-bench memory` and `paddock-bench restart`: costs of many znodes and many clients in a real
//! server.
//!
//! Owns the two measurements. Correct because memory is the difference in anonymous resident memory of the
//! server's process. Mapped files are left out: the kernel drops their pages when it needs room.

use crate::client::Client;
use crate::common::Single;
use crate::load::Load;
use crate::provenance::Provenance;
use crate::server::{Cores, Memory, Running};
use clap::Args;
use paddock_loadgen::keyspace::Keyspace;
use paddock_loadgen::report::thousands;
use serde::Serialize;
use std::time::Duration;

/// Root of the tree that `paddock-load` makes.
const ROOT: &str = "/paddock-load";
/// Longest wait for a session while many are being opened.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections dialled before their answers are read: fewer than the backlog of a listener.
const DIAL_BATCH: usize = 100;
/// Memory that has not changed for this long has settled: commits are reclaimed, and checkpoints are over.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest wait for memory to settle.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// A smaller difference counts as no change.
const SETTLED_BYTES: u64 = 256 << 10;

/// Bytes per znode and per idle connection, in a real server.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  paddock-bench memory
  paddock-bench memory --keys 100000 --connections 5000 --json memory.json")]
pub struct MemoryArgs {
    #[command(flatten)]
    single: Single,
    /// Number of znodes to create
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    value_size: u32,
    /// Number of idle connections
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
}

#[derive(Debug, Serialize)]
struct MemoryDocument {
    document_version: u32,
    bench: &'static str,
    provenance: Provenance,
    keys: u32,
    value_bytes: u32,
    connections: u32,
    /// Memory of an empty server.
    empty: Memory,
    /// Memory with the idle connections, without znodes.
    with_connections: Memory,
    /// Memory with the znodes as created one by one, without idle connections.
    with_znodes: Memory,
    /// Memory with the znodes as loaded by a restart.
    after_restart: Memory,
    bytes_per_connection: f64,
    /// Memory per znode without its data.
    bytes_per_znode: f64,
    bytes_per_znode_after_restart: f64,
}

/// Runs the subcommand `paddock-bench memory`.
pub fn memory(args: &MemoryArgs) -> anyhow::Result<()> {
    let common = &args.single.common;
    let (installation, cores) = args.single.install()?;
    let server = installation.start("/")?;
    // Buffers and tables that any first client causes belong to the empty server.
    drop(sessions(&server, 1)?);
    let empty = settled(&server)?;
    common.say(&format!("memory: {} idle connections", args.connections));
    let held = sessions(&server, args.connections as usize)?;
    let with_connections = settled(&server)?;
    for client in held {
        client.close()?;
    }
    let without = settled(&server)?;
    common.say(&format!("memory: creating {} znodes", thousands(args.keys.into())));
    fill(&server, &cores, args.keys, args.value_size)?;
    let with_znodes = settled(&server)?;
    common.say("memory: restart");
    server.stop()?;
    let server = installation.start("/")?;
    let after_restart = settled(&server)?;
    server.stop()?;

    let znodes = f64::from(args.keys + Keyspace::new(ROOT, args.keys).directories());
    let per_znode = |with: Memory, without: Memory| {
        let bytes = with.anonymous_bytes as f64 - without.anonymous_bytes as f64;
        (bytes - f64::from(args.keys) * f64::from(args.value_size)) / znodes
    };
    let document = MemoryDocument {
        document_version: 1,
        bench: "memory",
        provenance: Provenance::here(),
        keys: args.keys,
        value_bytes: args.value_size,
        connections: args.connections,
        bytes_per_connection: (with_connections.anonymous_bytes as f64 - empty.anonymous_bytes as f64)
            / f64::from(args.connections),
        bytes_per_znode: per_znode(with_znodes, without),
        bytes_per_znode_after_restart: per_znode(after_restart, empty),
        empty,
        with_connections,
        with_znodes,
        after_restart,
    };
    common.publish(&document, memory_text(&document))
}

fn memory_text(d: &MemoryDocument) -> String {
    let mib = |memory: Memory| format!("{:.1} MiB", memory.anonymous_bytes as f64 / f64::from(1 << 20));
    format!(
        "{}\n\n  empty server                     {}\n  {} idle connections            {}   {:.0} bytes per connection\n  \
         {} znodes of {} bytes      {}   {:.0} bytes per znode beside its data\n  \
         the same after a restart         {}   {:.0} bytes per znode beside its data",
        d.provenance,
        mib(d.empty),
        thousands(d.connections.into()),
        mib(d.with_connections),
        d.bytes_per_connection,
        thousands(d.keys.into()),
        d.value_bytes,
        mib(d.with_znodes),
        d.bytes_per_znode,
        mib(d.after_restart),
        d.bytes_per_znode_after_restart,
    )
}

/// Stop, start, time to the first read, with many znodes.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  paddock-bench restart
  paddock-bench restart --keys 100000 --rounds 5 --json restart.json")]
pub struct RestartArgs {
    #[command(flatten)]
    single: Single,
    /// Number of znodes to create
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    value_size: u32,
    /// Number of stops and starts
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

#[derive(Debug, Serialize)]
struct RestartDocument {
    document_version: u32,
    bench: &'static str,
    provenance: Provenance,
    keys: u32,
    value_bytes: u32,
    rounds: Vec<Restart>,
    /// Median of the rounds, s.
    start_seconds: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Restart {
    /// From SIGTERM to the end of the process.
    stop_seconds: f64,
    /// From the start of the process to the answer to its first read.
    start_seconds: f64,
}

/// Runs the subcommand `paddock-bench restart`.
pub fn restart(args: &RestartArgs) -> anyhow::Result<()> {
    let common = &args.single.common;
    let (installation, cores) = args.single.install()?;
    let mut server = installation.start("/")?;
    common.say(&format!("restart: creating {} znodes", thousands(args.keys.into())));
    fill(&server, &cores, args.keys, args.value_size)?;
    let mut path = Vec::new();
    Keyspace::new(ROOT, args.keys).append_path(args.keys / 2, &mut path);
    let path = String::from_utf8(path)?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        let stopped = server.stop()?;
        server = installation.start(&path)?;
        let one =
            Restart { stop_seconds: stopped.as_secs_f64(), start_seconds: server.started_in.as_secs_f64() };
        common.say(&format!("restart: round {round}: {:.2} s to the first read", one.start_seconds));
        rounds.push(one);
    }
    server.stop()?;
    let mut sorted: Vec<f64> = rounds.iter().map(|r| r.start_seconds).collect();
    sorted.sort_by(f64::total_cmp);
    let document = RestartDocument {
        document_version: 1,
        bench: "restart",
        provenance: Provenance::here(),
        keys: args.keys,
        value_bytes: args.value_size,
        start_seconds: sorted[sorted.len() / 2],
        rounds,
    };
    common.publish(&document, restart_text(&document))
}

fn restart_text(d: &RestartDocument) -> String {
    let mut text =
        format!("{}\n\n  {} znodes of {} bytes", d.provenance, thousands(d.keys.into()), d.value_bytes);
    for (n, round) in d.rounds.iter().enumerate() {
        text += &format!(
            "\n  round {:<3} stop {:>7.3} s   start to first read {:>7.3} s",
            n + 1,
            round.stop_seconds,
            round.start_seconds
        );
    }
    text + &format!("\n  median                    start to first read {:>7.3} s", d.start_seconds)
}

/// Fills the tree through the preload of `paddock-load`. The load behind it is as short as possible.
fn fill(server: &Running, cores: &Cores, keys: u32, value_bytes: u32) -> anyhow::Result<()> {
    let load = Load {
        reads: 1.0,
        connections: 16.min(keys),
        outstanding: Some(1),
        rate: None,
        keys,
        value_bytes,
        duration: Duration::from_millis(100),
        warmup: Duration::ZERO,
        check: true,
    };
    load.run(server, cores).map(|_| ())
}

/// Opens `count` idle sessions.
fn sessions(server: &Running, count: usize) -> anyhow::Result<Vec<Client>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let dialled = (all.len()..count).take(DIAL_BATCH).map(|_| Client::dial(server.address, PATIENCE));
        for client in dialled.collect::<Vec<_>>() {
            let mut client = client?;
            client.established()?;
            all.push(client);
        }
    }
    Ok(all)
}

/// Waits until the server's memory has settled, and returns it.
fn settled(server: &Running) -> anyhow::Result<Memory> {
    let mut last = server.memory()?;
    let began = std::time::Instant::now();
    loop {
        std::thread::sleep(SETTLE);
        let now = server.memory()?;
        if now.anonymous_bytes.abs_diff(last.anonymous_bytes) < SETTLED_BYTES || began.elapsed() > SETTLE_MAX
        {
            return Ok(now);
        }
        last = now;
    }
}
