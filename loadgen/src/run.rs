//! A whole run: server if none is given, tree, load, report.
//!
//! Owns the order of things and the instants at which CPU time is looked at. Never touches a request: that is the
//! engines'.

use crate::check::{Checker, UnknownWrites};
use crate::config::{ConfigError, RunConfig, Target};
use crate::counts::{Counts, Seconds};
use crate::histogram::Latencies;
use crate::keyspace::{Keyspace, Picker, Roles};
use crate::machine::{CpuSample, CpuUsage, Machine, usable_cores};
use crate::pacing::Pace;
use crate::progress::{Meter, second_text};
use crate::report::{
    Findings, IdleReport, Provenance, REPORT_VERSION, Report, Tool, Verification, VerifiedServer, thousands,
};
use crate::session::{Client, SessionOptions, Sessions, Trouble};
use crate::target::{ServerUnderTest, StartError};
use crate::value::Values;
use crate::workers::{LOOK_EVERY, WorkerError, Workers, control, mono_ns, shares, sleep_until};
use crate::workload::idle::Idle;
use crate::workload::load::{Load, LoadPlan};
use crate::workload::preload::{PRELOAD_OUTSTANDING, Preload, PreloadError, Preloaded};
use crate::workload::verify::{VERIFY_CONNECTIONS, VERIFY_OUTSTANDING, Verified, Verify};
use paddock_transport::event_loop::{LoopError, LoopKind, choose};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Connections of the preload: enough to keep any server's disk busy.
const PRELOAD_CONNECTIONS_MAX: u32 = 16;
/// Between the decision to begin and the beginning: every thread looks once a millisecond.
const START_LEAD_NS: u64 = 20_000_000;

/// Why there is no report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A setting that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The transport is not to be had.
    #[error(transparent)]
    Transport(#[from] LoopError),
    /// No server.
    #[error(transparent)]
    Server(#[from] StartError),
    /// The tree could not be filled.
    #[error(transparent)]
    Preload(#[from] PreloadError),
    /// A thread could not do its work.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// It was stopped before anything was measured.
    #[error("stopped before the load began")]
    Stopped,
}

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// The counts and histograms behind it.
    pub counts: Counts,
}

/// Runs `config` to its end.
pub fn run(config: &RunConfig) -> Result<Outcome, RunError> {
    run_until(config, &AtomicBool::new(false))
}

/// Runs `config` until its end or until `stop`: what was measured up to then is reported.
pub fn run_until(config: &RunConfig, stop: &AtomicBool) -> Result<Outcome, RunError> {
    config.validate()?;
    let (kind, _) = choose(config.transport)?;
    let started_ms = wall_ms();
    let threads = config.threads(usable_cores());
    let server = ServerUnderTest::find(config, threads)?;
    let (nonce, mut seeds) = (nonce(config.seed), Seeds(config.seed));
    let keyspace = Keyspace::new(&config.root, config.keys);
    let values = Values::new(nonce, config.value_bytes);
    let preloaded = preload(config, kind, &server, &keyspace, &values, stop)?;

    let (control, seconds) = (control(), Arc::new(Seconds::with_gaps(threads, config.gap_ms)));
    let options = session_options(config, &server.targets, preloaded.zxid);
    let outstanding = config.outstanding() as usize;
    let roles =
        Roles { connections: config.connections, writers: config.writers.unwrap_or(config.connections) };
    let unknown_writes = Arc::new(UnknownWrites::default());
    let clients = shares(config.connections as usize, threads).enumerate().map(|(thread, (first, count))| {
        let plan = LoadPlan {
            keyspace: keyspace.clone(),
            values: values.clone(),
            picker: Picker::new(seeds.next(), config.keys, roles.writers, config.reads, config.distribution),
            checker: config
                .check
                .then(|| Checker::new(config.keys, preloaded.created_all, Arc::clone(&unknown_writes))),
            pace: config.rate.map(|rate| Pace {
                rate,
                arrivals: config.arrivals,
                thread,
                threads,
                seed: seeds.next(),
            }),
            outstanding,
            first_connection: first as u32,
            connections_here: count as u32,
            roles,
            warmup_ns: config.warmup.as_nanos() as u64,
            duration_ns: config.duration.as_nanos() as u64,
            through_failures: config.through_failures,
            timeout_ns: config.session_timeout.as_nanos() as u64,
        };
        let mut sessions = Sessions::new(options.clone(), first, count, outstanding);
        // Writers and readers each go to all servers evenly.
        sessions.spread(|index| roles.rank((first + index) as u32) as usize);
        Client { sessions, workload: Load::new(plan, Arc::clone(&control), Arc::clone(&seconds)) }
    });
    let workers = Workers::start(config, kind, clients.collect())?;
    if !workers.wait_ready(&control) {
        return Err(workers.join().err().map_or(RunError::Stopped, RunError::from));
    }
    let tids = workers.tids();
    let is_ours = |tid: u32| tids.contains(&tid);
    let start_ns = mono_ns() + START_LEAD_NS;
    control.start_at(start_ns);
    let from_ns = start_ns + config.warmup.as_nanos() as u64;
    let until_ns = from_ns + config.duration.as_nanos() as u64;
    let look = || {
        if stop.load(Ordering::Relaxed) {
            control.stop();
        }
        control.stopped() || workers.any_finished()
    };
    let mut meter = Meter::new(config.progress, "warm-up", config.warmup.as_millis() as u64);
    sleep_until(from_ns, || {
        let left_ns = from_ns.saturating_sub(mono_ns());
        let done_ms = (config.warmup.as_nanos() as u64).saturating_sub(left_ns) / 1_000_000;
        meter.update(done_ms, || format!("{:.1} s to go", left_ns as f64 / 1e9));
        look()
    });
    meter.finish();
    let (before, measured_from_ms) = (Sampled::take(&server), wall_ms());
    let mut meter = Meter::new(config.progress, "load", config.duration.as_millis() as u64);
    let mut shown = 0;
    let mut show = |meter: &mut Meter| {
        for second in seconds.done(shown) {
            shown += 1;
            meter.line(u64::from(second.second + 1) * 1000, || second_text(&second));
        }
    };
    sleep_until(until_ns, || {
        show(&mut meter);
        look()
    });
    let after = Sampled::take(&server);
    while !workers.all_finished() {
        show(&mut meter);
        meter.update(config.duration.as_millis() as u64, || "waiting for the last replies".to_owned());
        std::thread::sleep(LOOK_EVERY);
    }
    show(&mut meter);
    meter.finish();
    let mut counts = Counts::default();
    let (mut checker, mut highest_zxid): (Option<Checker>, _) = (None, preloaded.zxid);
    for client in workers.join()? {
        highest_zxid = highest_zxid.max(client.sessions.highest_zxid());
        let (one, its_checker) = client.workload.into_counts(&client.sessions);
        counts.merge(&one);
        match (&mut checker, its_checker) {
            (Some(all), Some(one)) => all.merge(&one),
            (all, one) => *all = one,
        }
    }
    let verification = match checker.filter(|_| config.verifies()) {
        Some(checker) => {
            let tree = Tree { keyspace, values, checker };
            Some(verify(config, kind, &server.targets, tree, highest_zxid, &mut counts)?)
        }
        None => None,
    };
    let measured_ns = (config.duration.as_nanos() as u64).min(after.at_ns.saturating_sub(from_ns));
    let report = Report::new(Findings {
        config,
        threads,
        transport: kind.to_string(),
        counts: &counts,
        measured_from_ms,
        per_second: seconds.done(0),
        gaps: seconds.gaps(),
        verification,
        seconds: measured_ns as f64 / 1e9,
        started_ms,
        generator: after.own.since(&before.own, is_ours),
        server_cpu: server_usage(&server, &before, &after, is_ours),
        server: server.summary(),
    });
    server.stop();
    Ok(Outcome { report, counts })
}

fn preload(
    config: &RunConfig,
    kind: LoopKind,
    server: &ServerUnderTest,
    keyspace: &Keyspace,
    values: &Values,
    stop: &AtomicBool,
) -> Result<Preloaded, RunError> {
    let done = Arc::new(AtomicU32::new(0));
    let connections = config.connections.min(PRELOAD_CONNECTIONS_MAX) as usize;
    let client = Client {
        sessions: Sessions::new(
            session_options(config, &server.targets, 0),
            0,
            connections,
            PRELOAD_OUTSTANDING,
        ),
        workload: Preload::new(keyspace.clone(), values.clone(), Arc::clone(&done)),
    };
    let workers = Workers::start(config, kind, vec![client])?;
    let mut meter = Meter::new(config.progress, "preload", u64::from(config.keys));
    while !workers.all_finished() {
        if stop.load(Ordering::Relaxed) {
            return Err(RunError::Stopped);
        }
        let done = done.load(Ordering::Relaxed);
        meter.update(done.into(), || {
            format!("{} of {} keys", thousands(done.into()), thousands(config.keys.into()))
        });
        std::thread::sleep(LOOK_EVERY);
    }
    meter.finish();
    let outcomes = workers.join()?.into_iter().map(|client| client.workload.outcome());
    Ok(outcomes.collect::<Result<Vec<_>, _>>()?.pop().ok_or(WorkerError::Panic)?)
}

/// What is read back.
struct Tree {
    keyspace: Keyspace,
    values: Values,
    checker: Checker,
}

/// Reads `tree` back through each of `targets` in turn; wrong answers go to `counts`. A load that was ended early is read
/// back like any other.
fn verify(
    config: &RunConfig,
    kind: LoopKind,
    targets: &[Target],
    tree: Tree,
    zxid: i64,
    counts: &mut Counts,
) -> Result<Verification, RunError> {
    let Tree { keyspace, values, mut checker } = tree;
    let mut servers = Vec::new();
    let mut again = false;
    for (number, target) in targets.iter().enumerate() {
        let done = Arc::new(AtomicU32::new(0));
        let only: Arc<[Target]> = Arc::new([target.clone()]);
        let connections = VERIFY_CONNECTIONS.min(config.keys as usize);
        let options = session_options(config, &only, zxid);
        let mut sessions = Sessions::new(options, 0, connections, VERIFY_OUTSTANDING);
        sessions.tolerate();
        let (keyspace, values) = (keyspace.clone(), values.clone());
        let workload = Verify::new(keyspace, values, checker, again, Arc::clone(&done), connections);
        let workers = Workers::start(config, kind, vec![Client { sessions, workload }])?;
        let mut meter = Meter::new(config.progress, "verify", u64::from(config.keys));
        while !workers.all_finished() {
            let done = done.load(Ordering::Relaxed);
            meter.update(done.into(), || {
                let (done, all) = (thousands(done.into()), thousands(config.keys.into()));
                format!("{done} of {all} keys of {}", target.text)
            });
            std::thread::sleep(LOOK_EVERY);
        }
        meter.finish();
        let client = workers.join()?.pop().ok_or(WorkerError::Panic)?;
        let Verified { checker: so_far, counts: mut one, read, zxid } = client.workload.outcome();
        for place in one.examples.iter_mut().filter_map(|(_, place)| place.as_mut()) {
            place.target = number;
        }
        servers.push(VerifiedServer {
            server: target.text.clone(),
            complete: read == config.keys,
            keys: read,
            zxid,
            wrong_answers: one.violations_total(),
        });
        counts.merge(&one);
        again |= read == config.keys;
        checker = so_far;
    }
    let complete = servers.iter().filter(|server| server.complete).count();
    Ok(Verification { servers, complete })
}

/// Holds `config.connections` idle sessions for `config.duration`.
pub fn idle_until(config: &RunConfig, stop: &AtomicBool) -> Result<IdleReport, RunError> {
    config.validate()?;
    let (kind, _) = choose(config.transport)?;
    let started_ms = wall_ms();
    let threads = config.threads(usable_cores());
    let server = ServerUnderTest::find(config, threads)?;
    let control = control();
    let options = session_options(config, &server.targets, 0);
    let duration_ns = config.duration.as_nanos() as u64;
    let clients = shares(config.connections as usize, threads).map(|(first, count)| Client {
        sessions: Sessions::new(options.clone(), first, count, 0),
        workload: Idle::new(Arc::clone(&control), duration_ns),
    });
    let workers = Workers::start(config, kind, clients.collect())?;
    if !workers.wait_ready(&control) {
        return Err(workers.join().err().map_or(RunError::Stopped, RunError::from));
    }
    let tids = workers.tids();
    let is_ours = |tid: u32| tids.contains(&tid);
    let start_ns = mono_ns() + START_LEAD_NS;
    control.start_at(start_ns);
    let before = Sampled::take(&server);
    let mut meter = Meter::new(config.progress, "idle", config.duration.as_millis() as u64);
    sleep_until(start_ns + duration_ns, || {
        let done_ms = mono_ns().saturating_sub(start_ns) / 1_000_000;
        meter.update(done_ms, || format!("{} s of {} s", done_ms / 1000, config.duration.as_secs()));
        if stop.load(Ordering::Relaxed) {
            control.stop();
        }
        control.stopped() || workers.any_finished()
    });
    let after = Sampled::take(&server);
    meter.finish();
    let (mut counts, mut pings) = (Counts::default(), Latencies::default());
    for client in workers.join()? {
        let (one, its_pings) = client.workload.into_counts(&client.sessions);
        counts.merge(&one);
        pings.merge(&its_pings);
    }
    let troubles = Trouble::ALL.iter().map(|&t| (t.name().to_owned(), counts.troubles[t as usize]));
    let report = IdleReport {
        report_version: REPORT_VERSION,
        tool: Tool::this(),
        provenance: Provenance { command: config.command.clone(), started_ms, machine: Machine::read() },
        sessions: config.connections,
        timeout_ms: config.session_timeout.as_millis() as u64,
        seconds: after.at_ns.saturating_sub(before.at_ns) as f64 / 1e9,
        pings: pings.summary(),
        connections: troubles.filter(|&(_, n)| n > 0).collect(),
        reattached: counts.moves.reattached,
        new_sessions: counts.moves.renewed,
        expired_early: counts.moves.expired_early,
        wrong_answers: counts.violations_total(),
        generator: after.own.since(&before.own, is_ours),
        server_cpu: server_usage(&server, &before, &after, is_ours),
        server: server.summary(),
    };
    server.stop();
    Ok(report)
}

/// CPU times at one instant.
struct Sampled {
    at_ns: u64,
    own: CpuSample,
    server: Option<CpuSample>,
}

impl Sampled {
    fn take(server: &ServerUnderTest) -> Self {
        let at_ns = mono_ns();
        let pids = Some(&server.pids[..]).filter(|pids| !pids.is_empty());
        Self {
            at_ns,
            own: CpuSample::read(None, at_ns).unwrap_or_default(),
            server: pids.and_then(|pids| CpuSample::read_all(pids, at_ns).ok()),
        }
    }
}

fn server_usage(
    server: &ServerUnderTest,
    before: &Sampled,
    after: &Sampled,
    is_ours: impl Fn(u32) -> bool,
) -> Option<CpuUsage> {
    if let Some(others) = server.other_threads() {
        return Some(after.own.since(&before.own, |tid| !is_ours(tid) && !others.contains(&tid)));
    }
    Some(after.server.as_ref()?.since(before.server.as_ref()?, |_| true))
}

fn session_options(config: &RunConfig, targets: &Arc<[Target]>, first_zxid: i64) -> SessionOptions {
    SessionOptions {
        targets: Arc::clone(targets),
        timeout_ms: i32::try_from(config.session_timeout.as_millis()).unwrap_or(i32::MAX),
        auth: config.auth.clone(),
        first_zxid,
        through_failures: config.through_failures,
        sessions_must_live: config.sessions_must_live,
    }
}

/// What distinguishes this run's values from any other's, one with the same seed included.
fn nonce(seed: u64) -> u64 {
    seed ^ (wall_ms() as u64).rotate_left(32) ^ u64::from(std::process::id()).rotate_left(17) ^ mono_ns()
}

/// What the calendar says, milliseconds since the Unix epoch; reports' times are of this clock.
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as i64
}

/// A stream of seeds from one: each source of randomness gets its own.
struct Seeds(u64);

impl Seeds {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0
    }
}
