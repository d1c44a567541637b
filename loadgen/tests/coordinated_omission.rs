//! A fast server stops for 1.4 s in the middle of a 10 s run. A generator that waits for the server sends
//! nothing meanwhile. It sees one slow reply per connection and reports a good 99th percentile, although
//! users who came during the stall did wait. These tests show that an open loop counts that waiting.

mod common;

use common::{Fault, MS, SECOND, Scene, run};
use paddock_loadgen::config::Arrivals;
use paddock_loadgen::keyspace::Op;

const STALL: Fault = Fault::Stall { from_ns: 4 * SECOND, until_ns: 4 * SECOND + 1_400 * MS };

fn scene(rate: Option<f64>, arrivals: Arrivals, outstanding: usize) -> Scene {
    Scene {
        fault: STALL,
        reads: 1.0,
        connections: 4,
        outstanding,
        rate,
        arrivals,
        duration_ns: 10 * SECOND,
        ..Scene::default()
    }
}

#[test]
fn an_open_loop_charges_a_stall_to_everybody_who_came_during_it() {
    for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
        let played = run(&scene(Some(1_000.0), arrivals, 1_000));
        let latency = played.counts.latency[Op::Get as usize].summary();
        assert!((9_500..10_500).contains(&latency.count), "{latency:?}");
        // 14 % of all requests were due during the stall. The last hundredth among them waited nearly all
        // of it.
        assert!((1_200_000.0..1_400_000.0).contains(&latency.p99_us), "{latency:?}");
        assert!(
            (390_000.0..500_000.0).contains(&latency.p90_us),
            "10 % waited longer than 0.4 s: {latency:?}"
        );
        assert!(latency.p50_us < 2_000.0, "{latency:?}");
        assert_eq!(played.counts.violations_total(), 0);
    }
}

#[test]
fn what_cannot_be_sent_because_all_connections_are_full_is_charged_from_its_intended_instant() {
    // Only 4 requests may be in flight, so nearly all requests of the stall are sent after it.
    let played = run(&scene(Some(1_000.0), Arrivals::Constant, 1));
    let intended = played.counts.latency[Op::Get as usize].summary();
    let from_send = played.counts.from_send[Op::Get as usize].summary();
    let late = played.counts.lateness.summary();
    assert!(intended.p99_us > 1_200_000.0, "{intended:?}");
    assert!(from_send.p99_us < 10_000.0, "this is what omission looks like: {from_send:?}");
    assert!(late.p99_us > 1_200_000.0, "{late:?}");
    assert_eq!(played.counts.unsent, 0);
}

#[test]
fn a_closed_loop_shows_the_stall_only_in_its_maximum() {
    let played = run(&scene(None, Arrivals::Constant, 1));
    let latency = played.counts.latency[Op::Get as usize].summary();
    assert!(latency.p99_us < 10_000.0, "{latency:?}");
    assert!(latency.max_us > 1_390_000.0, "{latency:?}");
}

#[test]
fn requests_that_could_not_be_sent_by_the_end_count_with_the_time_they_had_waited() {
    let played = run(&Scene {
        fault: Fault::Stall { from_ns: 0, until_ns: 3 * SECOND },
        duration_ns: 2 * SECOND,
        ..scene(Some(1_000.0), Arrivals::Constant, 1)
    });
    let latency = played.counts.latency[Op::Get as usize].summary();
    assert_eq!(played.counts.unsent, 1_996);
    assert_eq!(latency.count, 2_000);
    assert!(
        (950_000.0..1_050_000.0).contains(&latency.p50_us),
        "half of them waited a second or more: {latency:?}"
    );
    assert_eq!(played.counts.completed.iter().sum::<u64>(), 0, "nothing was answered in time");
    assert_eq!(played.counts.violations_total(), 0, "late is not missing");
}

#[test]
fn the_stall_shows_in_the_seconds() {
    let played = run(&scene(Some(1_000.0), Arrivals::Constant, 1_000));
    let seconds = played.seconds.done(0);
    assert_eq!(seconds.len(), 10);
    assert!(seconds[4].operations <= 2, "{:?}", seconds[4]);
    assert!(seconds[5].operations > 1_900, "{:?}", seconds[5]);
    assert!(seconds[5].max_us > 1_390_000.0 && seconds[3].max_us < 2_000.0);
    assert_eq!(
        seconds.iter().map(|s| s.operations).sum::<u64>(),
        played.counts.completed.iter().sum::<u64>()
    );
}

#[test]
fn the_warm_up_is_not_measured() {
    let played = run(&Scene {
        fault: Fault::Stall { from_ns: 0, until_ns: SECOND / 2 },
        warmup_ns: SECOND,
        duration_ns: SECOND,
        ..scene(Some(1_000.0), Arrivals::Constant, 1_000)
    });
    let latency = played.counts.latency[Op::Get as usize].summary();
    assert_eq!(latency.count, 1_000);
    assert!(latency.max_us < 2_000.0, "{latency:?}");
}
