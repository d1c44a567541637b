//! A whole run: start a server if none is given, fill the tree, drive the load, read the tree back, report.
//!
//! Owns the order of these steps and the instants at which CPU time is sampled. Never touches a request:
//! that is the business of the engines. Correct because the steps share no state but the values that one
//! hands to the next.

use crate::check::{Checker, UnknownWrites};
use crate::config::{ConfigError, RunConfig, Target};
use crate::counts::{Counts, Seconds};
use crate::embedded::EmbeddedServerError;
use crate::histogram::Latencies;
use crate::keyspace::{Keyspace, Picker, Roles};
use crate::machine::{CpuSample, CpuUsage, Machine, usable_cores};
use crate::pacing::Pace;
use crate::progress::{Meter, second_text};
use crate::report::{
    Findings, IdleReport, Provenance, REPORT_VERSION, Report, Tool, Verification, VerifiedServer, thousands,
};
use crate::session::{Client, SessionOptions, Sessions, Trouble, Workload};
use crate::target::ServerUnderTest;
use crate::value::Values;
use crate::workers::{LOOK_EVERY, WorkerError, Workers, control, mono_ns, shares, sleep_until};
use crate::workload::Control;
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
/// Time between the announcement of the start and the start. Threads poll for it every millisecond.
const START_LEAD_NS: u64 = 20_000_000;

/// Why a run has no report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A setting that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The event loop asked for is not available.
    #[error(transparent)]
    Transport(#[from] LoopError),
    /// The embedded server did not start.
    #[error(transparent)]
    Server(#[from] EmbeddedServerError),
    /// The tree could not be filled.
    #[error(transparent)]
    Preload(#[from] PreloadError),
    /// A worker thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The run was stopped before anything was measured.
    #[error("stopped before the load began")]
    Stopped,
}

/// Result of a run.
#[derive(Debug)]
pub struct Outcome {
    pub report: Report,
    /// The counters and histograms that the report is made from.
    pub counts: Counts,
}

/// Runs `config` to its end.
pub fn run(config: &RunConfig) -> Result<Outcome, RunError> {
    run_until(config, &AtomicBool::new(false))
}

/// Runs `config` until its end or until `stop` is set. A stopped run reports what was measured until then.
pub fn run_until(config: &RunConfig, stop: &AtomicBool) -> Result<Outcome, RunError> {
    config.validate()?;
    let (kind, _) = choose(config.transport)?;
    let started_ms = wall_ms();
    let threads = config.threads(usable_cores());
    let server = ServerUnderTest::find(config, threads)?;
    let context = RunContext { config, kind, threads, server: &server, stop };
    let tree = Tree {
        keyspace: Keyspace::new(&config.root, config.keys),
        values: Values::new(nonce(config.seed), config.value_bytes),
    };
    let preloaded = context.preload(&tree)?;

    let control = control();
    let seconds = Arc::new(Seconds::with_gaps(threads, config.gap_ms));
    let clients = context.load_clients(&tree, preloaded, &control, &seconds);
    let load = context.begin(clients, &control)?;
    let measured = context.measure(&load, &control, &seconds);
    let Collected { mut counts, checker, highest_zxid } = collect(load.workers.join()?, preloaded.zxid);
    let verification = match checker.filter(|_| config.verifies()) {
        Some(checker) => Some(context.read_back(&tree, checker, highest_zxid, &mut counts)?),
        None => None,
    };
    let is_ours = |tid: u32| load.tids.contains(&tid);
    let report = Report::new(Findings {
        config,
        threads,
        transport: kind.to_string(),
        counts: &counts,
        measured_from_ms: measured.from_ms,
        per_second: seconds.done(0),
        gaps: seconds.gaps(),
        verification,
        seconds: measured.length_ns(config) as f64 / 1e9,
        started_ms,
        generator: measured.after.own.since(&measured.before.own, is_ours),
        server_cpu: server_usage(&server, &measured.before, &measured.after, is_ours),
        server: server.summary(),
    });
    server.stop();
    Ok(Outcome { report, counts })
}

/// Holds `config.connections` idle sessions for `config.duration`, or until `stop` is set.
pub fn idle_until(config: &RunConfig, stop: &AtomicBool) -> Result<IdleReport, RunError> {
    config.validate()?;
    let (kind, _) = choose(config.transport)?;
    let started_ms = wall_ms();
    let threads = config.threads(usable_cores());
    let server = ServerUnderTest::find(config, threads)?;
    let context = RunContext { config, kind, threads, server: &server, stop };
    let control = control();
    let idle = context.begin(context.idle_clients(&control), &control)?;
    let (before, after) = context.stay_idle(&idle, &control);
    let (mut counts, mut pings) = (Counts::default(), Latencies::default());
    for client in idle.workers.join()? {
        let (of_thread, its_pings) = client.workload.into_counts(&client.sessions);
        counts.merge(&of_thread);
        pings.merge(&its_pings);
    }
    let is_ours = |tid: u32| idle.tids.contains(&tid);
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

/// Layout and values of the tree that a run fills, loads and reads back.
struct Tree {
    keyspace: Keyspace,
    values: Values,
}

/// Threads whose sessions are all established, and the instant at which they begin.
struct Begun<W: Workload> {
    workers: Workers<W>,
    /// Kernel thread ids of `workers`, to tell their CPU time from the embedded server's.
    tids: Vec<u32>,
    start_ns: u64,
}

/// The measured time of a load.
struct Measured {
    from_ns: u64,
    /// Wall clock at `from_ns`, milliseconds since the Unix epoch.
    from_ms: i64,
    before: Sampled,
    after: Sampled,
}

impl Measured {
    /// The configured duration, or less if the run ended early.
    fn length_ns(&self, config: &RunConfig) -> u64 {
        (config.duration.as_nanos() as u64).min(self.after.at_ns.saturating_sub(self.from_ns))
    }
}

/// Results of all threads of a load.
struct Collected {
    counts: Counts,
    checker: Option<Checker>,
    /// Highest zxid in any reply, the preload's included. No server below it may be read back.
    highest_zxid: i64,
}

/// The settings and the server that every step of a run needs. Each method is one step.
struct RunContext<'a> {
    config: &'a RunConfig,
    kind: LoopKind,
    threads: usize,
    server: &'a ServerUnderTest,
    stop: &'a AtomicBool,
}

impl RunContext<'_> {
    /// Fills `tree` on one thread.
    fn preload(&self, tree: &Tree) -> Result<Preloaded, RunError> {
        let config = self.config;
        let done = Arc::new(AtomicU32::new(0));
        let connections = config.connections.min(PRELOAD_CONNECTIONS_MAX) as usize;
        let options = session_options(config, &self.server.targets, 0);
        let client = Client {
            sessions: Sessions::new(options, 0, connections, PRELOAD_OUTSTANDING),
            workload: Preload::new(tree.keyspace.clone(), tree.values.clone(), Arc::clone(&done)),
        };
        let workers = Workers::start(config, self.kind, vec![client])?;
        let mut meter = Meter::new(config.progress, "preload", u64::from(config.keys));
        while !workers.all_finished() {
            if self.stop.load(Ordering::Relaxed) {
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

    /// One client per thread, each with its share of the connections, its own seeds and its own checker.
    fn load_clients(
        &self,
        tree: &Tree,
        preloaded: Preloaded,
        control: &Arc<Control>,
        seconds: &Arc<Seconds>,
    ) -> Vec<Client<Load>> {
        let (config, threads) = (self.config, self.threads);
        let mut seeds = Seeds(config.seed);
        let options = session_options(config, &self.server.targets, preloaded.zxid);
        let outstanding = config.outstanding() as usize;
        let writers = config.writers.unwrap_or(config.connections);
        let roles = Roles { connections: config.connections, writers };
        let unknown_writes = Arc::new(UnknownWrites::default());
        let client = |(thread, (first, count)): (usize, (usize, usize))| {
            let picker =
                Picker::new(seeds.next(), config.keys, roles.writers, config.reads, config.distribution);
            let checker = || Checker::new(config.keys, preloaded.created_all, Arc::clone(&unknown_writes));
            let plan = LoadPlan {
                keyspace: tree.keyspace.clone(),
                values: tree.values.clone(),
                picker,
                checker: config.check.then(checker),
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
            // Writers are dealt out evenly over all servers, and so are readers.
            sessions.spread(|index| roles.rank((first + index) as u32) as usize);
            Client { sessions, workload: Load::new(plan, Arc::clone(control), Arc::clone(seconds)) }
        };
        shares(config.connections as usize, threads).enumerate().map(client).collect()
    }

    /// One client per thread, each with its share of the idle sessions.
    fn idle_clients(&self, control: &Arc<Control>) -> Vec<Client<Idle>> {
        let options = session_options(self.config, &self.server.targets, 0);
        let duration_ns = self.config.duration.as_nanos() as u64;
        let client = |(first, count)| Client {
            sessions: Sessions::new(options.clone(), first, count, 0),
            workload: Idle::new(Arc::clone(control), duration_ns),
        };
        shares(self.config.connections as usize, self.threads).map(client).collect()
    }

    /// Starts the threads, waits until every session is established, and announces the instant of the start.
    fn begin<W>(&self, clients: Vec<Client<W>>, control: &Control) -> Result<Begun<W>, RunError>
    where
        W: Workload + Send + 'static,
        W::Request: Send,
    {
        let workers = Workers::start(self.config, self.kind, clients)?;
        if !workers.wait_ready(control) {
            return Err(workers.join().err().map_or(RunError::Stopped, RunError::from));
        }
        let tids = workers.tids();
        let start_ns = mono_ns() + START_LEAD_NS;
        control.start_at(start_ns);
        Ok(Begun { workers, tids, start_ns })
    }

    /// Passes a stop on to the threads. `true`: the load ends before its time.
    fn ends_early<W>(&self, workers: &Workers<W>, control: &Control) -> bool
    where
        W: Workload + Send + 'static,
        W::Request: Send,
    {
        if self.stop.load(Ordering::Relaxed) {
            control.stop();
        }
        control.stopped() || workers.any_finished()
    }

    /// Waits for the end of the load and shows its progress. Samples CPU time at both ends of the measured
    /// time.
    fn measure(&self, load: &Begun<Load>, control: &Control, seconds: &Seconds) -> Measured {
        let config = self.config;
        let from_ns = load.start_ns + config.warmup.as_nanos() as u64;
        let until_ns = from_ns + config.duration.as_nanos() as u64;
        self.warm_up(from_ns, load, control);
        let (before, from_ms) = (Sampled::take(self.server), wall_ms());
        let duration_ms = config.duration.as_millis() as u64;
        let mut meter = Meter::new(config.progress, "load", duration_ms);
        let mut shown = 0;
        let mut show = |meter: &mut Meter| {
            for second in seconds.done(shown) {
                shown += 1;
                meter.line(u64::from(second.second + 1) * 1000, || second_text(&second));
            }
        };
        sleep_until(until_ns, || {
            show(&mut meter);
            self.ends_early(&load.workers, control)
        });
        let after = Sampled::take(self.server);
        while !load.workers.all_finished() {
            show(&mut meter);
            meter.update(duration_ms, || "waiting for the last replies".to_owned());
            std::thread::sleep(LOOK_EVERY);
        }
        show(&mut meter);
        meter.finish();
        Measured { from_ns, from_ms, before, after }
    }

    /// Waits until the measured time begins at `from_ns`.
    fn warm_up(&self, from_ns: u64, load: &Begun<Load>, control: &Control) {
        let warmup = self.config.warmup;
        let mut meter = Meter::new(self.config.progress, "warm-up", warmup.as_millis() as u64);
        sleep_until(from_ns, || {
            let left_ns = from_ns.saturating_sub(mono_ns());
            let done_ms = (warmup.as_nanos() as u64).saturating_sub(left_ns) / 1_000_000;
            meter.update(done_ms, || format!("{:.1} s to go", left_ns as f64 / 1e9));
            self.ends_early(&load.workers, control)
        });
        meter.finish();
    }

    /// Waits for the end of the idle time. Returns CPU times from before and after.
    fn stay_idle(&self, idle: &Begun<Idle>, control: &Control) -> (Sampled, Sampled) {
        let (config, start_ns) = (self.config, idle.start_ns);
        let duration_ns = config.duration.as_nanos() as u64;
        let before = Sampled::take(self.server);
        let mut meter = Meter::new(config.progress, "idle", config.duration.as_millis() as u64);
        sleep_until(start_ns + duration_ns, || {
            let done_ms = mono_ns().saturating_sub(start_ns) / 1_000_000;
            meter.update(done_ms, || format!("{} s of {} s", done_ms / 1000, config.duration.as_secs()));
            self.ends_early(&idle.workers, control)
        });
        let after = Sampled::take(self.server);
        meter.finish();
        (before, after)
    }

    /// Reads `tree` back through each target in turn, also after a load that ended early. Adds violations
    /// to `counts`.
    fn read_back(
        &self,
        tree: &Tree,
        mut checker: Checker,
        zxid: i64,
        counts: &mut Counts,
    ) -> Result<Verification, RunError> {
        let keys = self.config.keys;
        let mut servers = Vec::new();
        let mut again = false;
        for (number, target) in self.server.targets.iter().enumerate() {
            let mut verified = self.read_back_from(target, tree, checker, again, zxid)?;
            for place in verified.counts.examples.iter_mut().filter_map(|(_, place)| place.as_mut()) {
                place.target = number;
            }
            servers.push(VerifiedServer {
                server: target.text.clone(),
                complete: verified.read == keys,
                keys: verified.read,
                zxid: verified.zxid,
                wrong_answers: verified.counts.violations_total(),
            });
            counts.merge(&verified.counts);
            again |= verified.read == keys;
            checker = verified.checker;
        }
        let complete = servers.iter().filter(|server| server.complete).count();
        Ok(Verification { servers, complete })
    }

    /// Reads `tree` back through `target` alone. `again`: another server has given all keys before.
    fn read_back_from(
        &self,
        target: &Target,
        tree: &Tree,
        checker: Checker,
        again: bool,
        zxid: i64,
    ) -> Result<Verified, RunError> {
        let config = self.config;
        let done = Arc::new(AtomicU32::new(0));
        let only: Arc<[Target]> = Arc::new([target.clone()]);
        let connections = VERIFY_CONNECTIONS.min(config.keys as usize);
        let options = session_options(config, &only, zxid);
        let mut sessions = Sessions::new(options, 0, connections, VERIFY_OUTSTANDING);
        sessions.tolerate();
        let (keyspace, values) = (tree.keyspace.clone(), tree.values.clone());
        let workload = Verify::new(keyspace, values, checker, again, Arc::clone(&done), connections);
        let workers = Workers::start(config, self.kind, vec![Client { sessions, workload }])?;
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
        Ok(client.workload.outcome())
    }
}

/// Merges the results of all threads. `zxid` is the preload's.
fn collect(clients: Vec<Client<Load>>, zxid: i64) -> Collected {
    let mut all = Collected { counts: Counts::default(), checker: None, highest_zxid: zxid };
    for client in clients {
        all.highest_zxid = all.highest_zxid.max(client.sessions.highest_zxid());
        let (counts, checker) = client.workload.into_counts(&client.sessions);
        all.counts.merge(&counts);
        match (&mut all.checker, checker) {
            (Some(merged), Some(checker)) => merged.merge(&checker),
            (merged, checker) => *merged = checker,
        }
    }
    all
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

/// A number that differs between runs, even with the same seed, so that their values differ.
fn nonce(seed: u64) -> u64 {
    seed ^ (wall_ms() as u64).rotate_left(32) ^ u64::from(std::process::id()).rotate_left(17) ^ mono_ns()
}

/// Wall clock, milliseconds since the Unix epoch. Times in reports are on this clock.
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as i64
}

/// Derives one seed per source of randomness from a single seed.
struct Seeds(u64);

impl Seeds {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0
    }
}
