//! Clients that disconnect before their command is ordered.

use super::place::*;
use crate::command::Op;
use crate::commit::Ticket;
use crate::submit::Submit;

const SESSION: i64 = 3 << 56 | 77;

fn submit(place: &mut Place, node: u8, submit: Submit) {
    let (_, parts, _) = place.slot(node).running.as_mut().expect("it runs");
    parts.shards[0].submits.push(submit).unwrap();
}

fn attach(token: u64) -> Submit {
    let op = Op::AttachSession { timeout_ms: 10_000, password: vec![7; 16], last_zxid_seen: 0 };
    let ticket = Ticket { shard: 0, token };
    Submit::Command { ticket, session: SESSION, attachment: 0, identities: [].into(), op }
}

#[test]
fn a_session_is_not_taken_back_by_a_connection_that_gave_up_while_there_was_no_leader() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    place.open_session(3, SESSION);
    let attachment = |place: &Place, node: u8| {
        place.core(node).applier.machine.sessions().get(SESSION).expect("it lives").attachment
    };
    place.until("the session everywhere", |place| (1..=3).all(|node| place.knows(node, SESSION)));
    let before = attachment(&place, 1);
    place.kill(&[2, 3]);
    place.until("no leader", |place| place.core(1).raft.leader() == 0);
    submit(&mut place, 1, attach(5));
    place.until("it is kept", |place| place.core(1).pending.undecided() == 1);
    submit(&mut place, 1, Submit::Withdraw { ticket: Ticket { shard: 0, token: 5 } });
    place.pass(SECOND);
    place.start(&[2, 3]);
    place.until("it is decided", |place| place.core(1).pending.undecided() == 0);
    assert_eq!(attachment(&place, 1), before, "its client has it elsewhere");
    // A client that is still connected gets the session.
    submit(&mut place, 1, attach(6));
    place.until("it is attached", |place| attachment(place, 1) == before + 1);
}
