//! The `paddock-bench` binary: one subcommand per question.

use clap::{Args, Parser, Subcommand};
use paddock_bench::{catchup, echo, ensemble, idle, peers, server, znodes};
use paddock_transport::engine::Address;
use paddock_transport::event_loop::{Choice, LoopKind, choose};
use std::process::ExitCode;
use std::time::Duration;

/// Measures Paddock and its parts.
#[derive(Parser)]
#[command(version, after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Echo(EchoArgs),
    Peers(peers::PeersArgs),
    Ensemble(ensemble::EnsembleArgs),
    Catchup(catchup::CatchupArgs),
    Memory(znodes::MemoryArgs),
    Restart(znodes::RestartArgs),
    Idle(idle::IdleArgs),
}

/// The floor: a server that answers from a template, on each transport.
///
/// With --listen it serves until it is interrupted, for any ZooKeeper load generator. Without, it drives
/// itself over loopback and prints the server's CPU time per request.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  paddock-bench echo\n  paddock-bench echo --transport epoll --listen 127.0.0.1:2199"
)]
struct EchoArgs {
    /// Event loop: auto, uring or epoll. Without --listen, auto measures all that are available.
    #[arg(long, default_value_t)]
    transport: Choice,
    /// Serve on IP:PORT or unix:PATH instead of measuring.
    #[arg(long)]
    listen: Option<Address>,
    /// Measure over a unix socket instead of TCP.
    #[arg(long)]
    unix: bool,
    /// Number of connections to open.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight per connection.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    depth: Vec<usize>,
    /// Length of each measurement, in seconds.
    #[arg(long, alias = "seconds", default_value_t = 2.0, value_name = "SECONDS")]
    duration: f64,
    /// Rounds; each measures everything once.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let outcome = match Cli::parse().what {
        What::Echo(echo) => run_echo(&echo),
        What::Peers(args) => with_servers(|| peers::run(&args)),
        What::Ensemble(args) => with_servers(|| ensemble::run(&args)),
        What::Catchup(args) => with_servers(|| catchup::run(&args)),
        What::Memory(args) => with_servers(|| znodes::memory(&args)),
        What::Restart(args) => with_servers(|| znodes::restart(&args)),
        What::Idle(args) => with_servers(|| idle::run(&args)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("paddock-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a subcommand that starts servers. They end with this process, even if a signal ends it.
fn with_servers(ask: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    server::clean_up_on_signal()?;
    ask()
}

fn run_echo(args: &EchoArgs) -> anyhow::Result<()> {
    if let Some(listen) = &args.listen {
        return echo::serve(choose(args.transport)?.0, listen);
    }
    let kinds = match (args.transport, choose(args.transport)?.0) {
        (Choice::Auto, LoopKind::Uring) => vec![LoopKind::Uring, LoopKind::Epoll],
        (_, kind) => vec![kind],
    };
    let listen = match args.unix {
        true => {
            let name = format!("paddock-echo-{}.socket", std::process::id());
            Address::Unix(std::env::temp_dir().join(name))
        }
        false => Address::Tcp(([127, 0, 0, 1], 0).into()),
    };
    for _ in 0..args.rounds {
        for &depth in &args.depth {
            for &kind in &kinds {
                let run = echo::Run {
                    kind,
                    listen: listen.clone(),
                    connections: args.connections,
                    depth,
                    time: Duration::from_secs_f64(args.duration),
                };
                report(&run, echo::measure(&run)?, args.json);
            }
        }
    }
    Ok(())
}

fn report(run: &echo::Run, outcome: echo::EchoOutcome, json: bool) {
    let family = match run.listen {
        Address::Tcp(_) => "tcp",
        Address::Unix(_) => "unix",
    };
    let (kind, connections, depth) = (run.kind, run.connections, run.depth);
    if json {
        println!(
            "{{\"bench\":\"echo\",\"transport\":\"{kind}\",\"family\":\"{family}\",\"connections\":{connections},\"depth\":{depth},\
             \"requests_per_second\":{:.0},\"cpu_ns_per_request\":{:.1},\"system_calls_per_request\":{:.5},\"requests_per_turn\":{:.2}}}",
            outcome.requests_per_second,
            outcome.cpu_ns_per_request,
            outcome.system_calls_per_request,
            outcome.requests_per_turn
        );
    } else {
        println!("{kind:<5} {family:<4} {connections:>5} x {depth:<3} {outcome}");
    }
}
