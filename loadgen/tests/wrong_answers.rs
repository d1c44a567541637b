//! A server breaks one promise once, somewhere in a run of some thousand requests. The run must end with
//! exactly that violation. A server that keeps its promises must cause none, however its bytes are cut.

mod common;

use common::{Fault, Played, SECOND, Scene, run};
use paddock_loadgen::check::ViolationKind;
use paddock_loadgen::session::{ClientError, Moves, Trouble};
use paddock_loadgen::workload::verify::Verified;
use paddock_transport::wire::error;

fn with(fault: Fault) -> Played {
    run(&Scene { fault, ..Scene::default() })
}

#[track_caller]
fn assert_only_violation(played: &Played, kind: ViolationKind) {
    let kinds: Vec<_> = played.counts.violations.keys().copied().collect();
    assert_eq!(kinds, [kind], "{:?}", played.counts.examples);
    assert!(!played.counts.examples.is_empty());
}

#[test]
fn a_correct_server_violates_nothing_however_its_bytes_are_cut() {
    for fragments in [vec![], vec![1], vec![3, 1, 20, 7], vec![4], vec![200]] {
        let played = run(&Scene { fragments, ..Scene::default() });
        assert_eq!(played.counts.violations_total(), 0, "{:?}", played.counts.examples);
        assert!(played.counts.completed.iter().all(|&n| n > 100), "{:?}", played.counts.completed);
        assert_eq!((played.counts.errors_total(), played.counts.outcome_unknown), (0, 0));
    }
}

#[test]
fn a_stale_value() {
    assert_only_violation(&with(Fault::StaleRead { nth: 300 }), ViolationKind::StaleValue);
}

#[test]
fn a_value_of_another_key() {
    assert_only_violation(&with(Fault::WrongKey { nth: 300 }), ViolationKind::WrongKey);
}

#[test]
fn a_value_that_nobody_wrote() {
    assert_only_violation(&with(Fault::Garbage { nth: 300 }), ViolationKind::CorruptValue);
}

#[test]
fn a_znode_that_is_gone() {
    assert_only_violation(&with(Fault::Forgotten { nth: 300 }), ViolationKind::MissingZnode);
}

#[test]
fn a_zxid_that_goes_back_within_a_session() {
    assert_only_violation(&with(Fault::ZxidBack { nth: 300 }), ViolationKind::ZxidWentBack);
}

#[test]
fn replies_in_another_order_than_their_requests() {
    let played = with(Fault::Swapped { nth: 300 });
    assert_only_violation(&played, ViolationKind::UnexpectedXid);
    assert!(played.counts.outcome_unknown > 0, "what waited on that connection cannot be matched any more");
    assert_eq!(played.server.reattached, 1);
}

#[test]
fn replies_that_never_come() {
    let played = with(Fault::Swallowed { nth: 300 });
    assert_only_violation(&played, ViolationKind::MissingReply);
    assert_eq!(
        played.counts.violations[&ViolationKind::MissingReply],
        4,
        "all that was in flight on that connection"
    );
}

#[test]
fn a_write_that_was_applied_twice() {
    assert_only_violation(&with(Fault::AppliedTwice { nth: 100 }), ViolationKind::VersionDisagrees);
}

#[test]
fn a_write_that_was_acknowledged_and_lost() {
    let played = with(Fault::LostWrite { nth: 100 });
    assert!(
        played.counts.violations.contains_key(&ViolationKind::StaleValue),
        "{:?}",
        played.counts.examples
    );
}

#[test]
fn lost_connections_are_taken_up_again_and_violate_nothing() {
    let played =
        run(&Scene { fault: Fault::ClosedWithout { nth: 200 }, fragments: vec![50], ..Scene::default() });
    assert_eq!(played.counts.violations_total(), 0, "{:?}", played.counts.examples);
    assert!(played.counts.outcome_unknown > 0);
    assert_eq!(played.counts.troubles[Trouble::ConnectionLost as usize], 4);
    assert_eq!(played.server.reattached, 4, "the same sessions go on");
    assert!(played.counts.completed.iter().sum::<u64>() > 1_000, "{:?}", played.counts.completed);
}

/// Few enough writes for this many keys that a lost write is not written again.
fn read_back(fault: Fault) -> (Played, Verified) {
    let mut played = run(&Scene { fault, reads: 0.0, keys: 20_000, verify: true, ..Scene::default() });
    let verified = played.verified.take().unwrap();
    (played, verified)
}

#[test]
fn everything_is_read_back_from_a_correct_server_through_lost_connections_too() {
    for fault in [Fault::None, Fault::ClosedWithout { nth: 200 }] {
        let (played, verified) = read_back(fault);
        assert_eq!(played.counts.violations_total(), 0, "{:?}", played.counts.examples);
        assert_eq!(verified.counts.violations_total(), 0, "{:?}", verified.counts.examples);
        assert_eq!(verified.read, 20_000);
    }
}

#[test]
fn an_acknowledged_write_that_nobody_reads_is_missed_at_the_end() {
    let (played, verified) = read_back(Fault::LostWrite { nth: 100 });
    assert_eq!(played.counts.violations_total(), 0, "{:?}", played.counts.examples);
    assert_eq!(
        verified.counts.violations.get(&ViolationKind::LostWrite),
        Some(&1),
        "{:?}",
        verified.counts.examples
    );
    assert_eq!(verified.counts.violations_total(), 1);
}

#[test]
fn sessions_that_expire_are_replaced_and_counted_and_wrong_only_on_demand() {
    let scene = Scene { fault: Fault::Expired { nth: 200 }, duration_ns: SECOND / 2, ..Scene::default() };
    let played = run(&scene);
    assert_eq!(played.counts.violations_total(), 0, "{:?}", played.counts.examples);
    let Moves { reattached, renewed, expired, expired_early } = played.counts.moves;
    assert_eq!((reattached, renewed, expired, expired_early), (0, 4, 4, 4));
    assert!(played.counts.completed.iter().sum::<u64>() > 1_000, "{:?}", played.counts.completed);

    let played = run(&Scene { sessions_must_live: true, ..scene });
    assert_only_violation(&played, ViolationKind::ExpiredEarly);
    let (violation, place) = played.counts.examples[0];
    assert_eq!(violation.wanted, 60_000);
    assert!(place.is_some_and(|place| place.session > 0), "{place:?}");
}

#[test]
fn requests_lost_with_their_connections_count_with_the_time_they_had_waited() {
    let lost = |through_failures| {
        let stall = Fault::ClosedWithout { nth: 200 };
        let played = run(&Scene { fault: stall, through_failures, ..Scene::default() });
        let recorded: u64 = played.counts.latency.iter().map(|latency| latency.count()).sum();
        (recorded, played.counts)
    };
    let ((without, _), (with, counts)) = (lost(false), lost(true));
    assert_eq!(with - without, counts.outcome_unknown);
    assert!(counts.writes_unknown > 0 && counts.writes_unknown < counts.outcome_unknown, "{counts:?}");
}

#[test]
fn error_replies_are_errors_and_not_wrong_answers() {
    let played = with(Fault::Refuse { err: error::NO_AUTH });
    assert_eq!(played.counts.violations_total(), 0, "{:?}", played.counts.examples);
    assert!(played.counts.errors[&error::NO_AUTH] > 100);
    assert_eq!(played.counts.completed[1], 0);
}

#[test]
fn a_silent_server_is_given_up_after_two_thirds_of_the_timeout() {
    let played = run(&Scene {
        fault: Fault::Stall { from_ns: SECOND, until_ns: 8 * SECOND },
        duration_ns: 10 * SECOND,
        step_ns: SECOND / 100,
        timeout_ms: 6_000,
        ..Scene::default()
    });
    assert_eq!(played.counts.troubles[Trouble::ServerSilent as usize], 4);
    assert_eq!(played.counts.violations_total(), 0, "{:?}", played.counts.examples);
}

#[test]
fn nobody_there_is_an_error_that_says_what_to_do() {
    use common::{FakeServer, play};
    use paddock_loadgen::session::{Client, SessionOptions, Sessions};
    use paddock_loadgen::workload::{Control, idle::Idle};
    use std::sync::Arc;
    let options = |target: &str| SessionOptions {
        targets: Arc::new([target.parse().unwrap()]),
        timeout_ms: 6_000,
        auth: None,
        first_zxid: 0,
        through_failures: false,
        sessions_must_live: false,
    };
    let meet = |target: &str, greets: bool| {
        let mut server = FakeServer::new(Fault::None);
        server.greets = greets;
        let mut client = Client {
            sessions: Sessions::new(options(target), 0, 2, 0),
            workload: Idle::new(Arc::new(Control::default()), SECOND),
        };
        play(&mut SECOND.clone(), SECOND / 100, &[], &mut client, &mut server);
        client.sessions.fatal().cloned().unwrap()
    };
    let refused = meet("127.0.0.1:1", true);
    assert!(matches!(refused, ClientError::Connect { .. }));
    assert!(refused.to_string().contains("paddock serve"), "{refused}");
    let mute = meet("127.0.0.1:2181", false);
    assert!(matches!(mute, ClientError::NoAnswer { .. }));
    assert!(mute.to_string().contains("maxClientCnxns"), "{mute}");
}
