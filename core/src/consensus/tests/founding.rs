//! Whole cores with their links, in one thread: which of them found an ensemble, and when none may.

use super::rig::{TIMEOUT_MS, disk};
use crate::command::Op;
use crate::commit::Ticket;
use crate::consensus::founding::FOUNDING_GRACE_NS;
use crate::consensus::group::Group;
use crate::consensus::refound::{RefoundError, refound};
use crate::consensus::{Consensus, ConsensusConfig, Parts, StopReason};
use crate::members::{Member, MemberRole, Members};
use crate::stats::Stats;
use crate::submit::Submit;
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::{Address, Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::inproc::InProc;
use paddock_transport::io::Io;
use paddock_transport::wake::Waker;
use std::collections::BTreeSet;
use std::sync::Arc;

const STEP_NS: u64 = 10_000_000;
const SECOND: u64 = 1_000_000_000;
/// Longer than any grace, any backoff and several elections.
const LONG_NS: u64 = 30 * SECOND;

/// A place where a node may run.
struct Slot {
    config: ConsensusConfig,
    disk: Arc<FaultDisk>,
    running: Option<(Consensus, Parts, Arc<Stats>)>,
    conns: BTreeSet<ConnId>,
    disks: u8,
}

impl Engine for Slot {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        match &mut self.running {
            Some((core, ..)) => {
                self.conns.insert(conn);
                core.opened(now, conn, origin, io);
            }
            None => io.abort(conn),
        }
    }
    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        if let Some((core, ..)) = &mut self.running {
            core.received(now, conn, bytes, io);
        }
    }
    fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        match &mut self.running {
            Some((core, ..)) => core.eof(now, conn, io),
            None => io.abort(conn),
        }
    }
    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        self.conns.remove(&conn);
        if let Some((core, ..)) = &mut self.running {
            core.closed(now, conn, why, io);
        }
    }
    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        match self.running.as_mut().map(|(core, ..)| core.turn(now, io)) {
            // The place stays, for whoever is started there next.
            None | Some(Next::Stop) => Next::Sleep { deadline_ns: None },
            Some(next) => next,
        }
    }
    fn park(&mut self) -> bool {
        self.running.as_mut().is_none_or(|(core, ..)| core.park())
    }
}

/// Nodes 1 to n, none of which runs at first.
struct Place {
    slots: Vec<Slot>,
    net: InProc,
    now: Now,
}

fn port(node: u8) -> u16 {
    2000 + u16::from(node)
}

fn members(nodes: &[u8]) -> Option<Members> {
    let member = |node: &u8| Member {
        host: "127.0.0.1".to_owned(),
        peer_port: port(*node),
        election_port: 3000,
        role: MemberRole::Participant,
        client: None,
        identity: None,
    };
    let members = nodes.iter().map(|node| (*node, member(node))).collect();
    Some(Members { members, ..Members::default() })
}

impl Place {
    /// Each node with server lines of its own.
    fn new(lines: &[&[u8]]) -> Place {
        let mut net = InProc::new(lines.len());
        let slots = (1..).zip(lines).map(|(node, lines)| {
            net.listen(usize::from(node) - 1, Address::Tcp(([127, 0, 0, 1], port(node)).into()));
            let mut config = ConsensusConfig::standalone("/data".into(), 1);
            (config.segment_bytes, config.inline) = (Some(1 << 20), true);
            (config.node, config.seed) = (node, u64::from(node));
            config.members = members(lines);
            let mut slot = Slot { config, disk: disk(), running: None, conns: BTreeSet::new(), disks: 0 };
            slot.new_disk();
            slot
        });
        let slots = slots.collect();
        Place { slots, net, now: Now { mono_ns: 1000 * SECOND, wall_ms: 1_700_000_000_000 } }
    }

    fn three() -> Place {
        Place::new(&[&[1, 2, 3][..]; 3])
    }

    fn slot(&mut self, node: u8) -> &mut Slot {
        &mut self.slots[usize::from(node) - 1]
    }

    fn core(&self, node: u8) -> &Consensus {
        &self.slots[usize::from(node) - 1].running.as_ref().expect("it runs").0
    }

    fn start(&mut self, nodes: &[u8]) {
        for node in nodes {
            let slot = self.slot(*node);
            let waker = Waker::new().unwrap();
            let stats = Arc::new(Stats::new(1, 0));
            let config = slot.config.clone();
            let (core, parts) = Consensus::open(config, waker.clone(), &[waker], stats.clone()).unwrap();
            slot.running = Some((core, parts, stats));
        }
    }

    fn kill(&mut self, nodes: &[u8]) {
        for node in nodes {
            let at = usize::from(*node) - 1;
            self.slots[at].running = None;
            for conn in std::mem::take(&mut self.slots[at].conns) {
                self.net.io(at).abort(conn);
            }
        }
        self.step();
    }

    fn step(&mut self) {
        self.now.mono_ns += STEP_NS;
        let mut engines: Vec<&mut dyn Engine> =
            self.slots.iter_mut().map(|slot| slot as &mut dyn Engine).collect();
        self.net.step(self.now, &mut engines);
        for (core, parts, _) in self.slots.iter_mut().filter_map(|slot| slot.running.as_mut()) {
            if core.has_disk_work() {
                core.disk_turn();
            }
            let shard = &mut parts.shards[0];
            while let Some(published) = shard.commits.next() {
                shard.reader.move_to(&published.version);
            }
            shard.commits.release();
        }
        self.reopen();
    }

    /// A node that has a snapshot to begin with begins with it, as its server would have it.
    fn reopen(&mut self) {
        let reopens = |slot: &Slot| {
            let reason = slot.running.as_ref().and_then(|(_, parts, _)| parts.control.reason());
            matches!(reason, Some(StopReason::Reopen { .. }))
        };
        let reopening: Vec<u8> =
            (1..).zip(&self.slots).filter(|(_, slot)| reopens(slot)).map(|(node, _)| node).collect();
        if !reopening.is_empty() {
            self.kill(&reopening);
            self.start(&reopening);
        }
    }

    fn pass(&mut self, ns: u64) {
        let end = self.now.mono_ns + ns;
        while self.now.mono_ns < end {
            self.step();
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Place) -> bool) {
        let end = self.now.mono_ns + LONG_NS;
        while !done(self) {
            assert!(self.now.mono_ns < end, "{what}: not within {} s", LONG_NS / SECOND);
            self.step();
        }
    }

    fn cluster(&self, node: u8) -> [u8; 16] {
        self.core(node).applier.machine.members().cluster
    }

    fn are_one(&self, nodes: &[u8]) -> bool {
        let first = self.cluster(nodes[0]);
        first != [0; 16] && nodes.iter().all(|node| self.cluster(*node) == first)
    }

    /// Until these belong to one ensemble in which the directory of each of them is known.
    fn until_founded(&mut self, nodes: &[u8]) {
        self.until("one ensemble", |place| {
            let known = |on: u8| {
                let state = place.core(on).applier.machine.membership();
                nodes.iter().all(|node| state.recorded(*node).is_some())
            };
            place.are_one(nodes) && nodes.iter().all(|node| known(*node))
        });
    }

    fn led(&self, nodes: &[u8]) -> bool {
        nodes.iter().any(|node| self.core(*node).group.leader() != 0)
    }

    /// What the four-letter words of a node say of its writes.
    fn words(&self, node: u8) -> String {
        let (_, _, stats) = self.slots[usize::from(node) - 1].running.as_ref().expect("it runs");
        stats.write_block().to_string()
    }

    fn open_session(&mut self, node: u8, session: i64) {
        let (_, parts, _) = self.slot(node).running.as_mut().expect("it runs");
        let op = Op::OpenSession { timeout_ms: TIMEOUT_MS, password: [7; 16] };
        let ticket = Ticket { shard: 0, token: 1 };
        let submit = Submit::Command { ticket, session, attachment: 0, identities: [].into(), op };
        parts.shards[0].submits.push(submit).unwrap();
        self.until("a session", |place| place.knows(node, session));
    }

    /// A write that fails, and yet stands in the log.
    fn write(&mut self, node: u8, token: u64, bytes: usize) {
        let (_, parts, _) = self.slot(node).running.as_mut().expect("it runs");
        let op = Op::Request { opcode: 5, body: vec![0; bytes] };
        let ticket = Ticket { shard: 0, token };
        let submit = Submit::Command { ticket, session: 1, attachment: 1, identities: [].into(), op };
        parts.shards[0].submits.push(submit).unwrap();
        self.until("a decision", |place| place.core(node).outbound.undecided() == 0);
    }

    fn knows(&self, node: u8, session: i64) -> bool {
        self.core(node).applier.machine.sessions().get(session).is_some()
    }
}

impl Slot {
    fn new_disk(&mut self) {
        self.disks += 1;
        self.disk = disk();
        self.config.disk = self.disk.clone();
        self.config.new_identity = [self.config.node * 16 + self.disks; 16];
    }
}

#[test]
fn a_first_start_waits_for_nobody_who_is_there() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    let begun = place.now.mono_ns;
    place.until_founded(&[1, 2, 3]);
    assert!(place.now.mono_ns - begun < FOUNDING_GRACE_NS / 2);
}

#[test]
fn a_first_start_without_one_server_waits_for_it_a_while_and_goes_on() {
    let mut place = Place::three();
    place.start(&[1, 3]);
    place.pass(FOUNDING_GRACE_NS - SECOND);
    assert!(!place.led(&[1, 3]));
    assert!(place.words(1).contains("waits up to 5 s for server 2"), "{}", place.words(1));
    place.until_founded(&[1, 3]);
}

#[test]
fn who_was_late_at_the_first_start_has_a_vote_for_those_who_have_the_log() {
    let mut place = Place::three();
    place.start(&[1, 2]);
    place.until_founded(&[1, 2]);
    place.kill(&[1]);
    place.start(&[3]);
    place.until("a leader by the vote of the late one", |place| place.core(2).group.leader() == 2);
    place.until_founded(&[2, 3]);
}

#[test]
fn two_emptied_servers_of_three_found_nothing_beside_the_third() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    let before = place.cluster(3);
    place.kill(&[1, 2]);
    let kept = place.slot(1).config.clone();
    for node in [1, 2] {
        place.slot(node).new_disk();
    }
    place.start(&[1, 2]);
    place.pass(LONG_NS);
    assert!(!place.led(&[1, 2, 3]));
    assert!(place.words(1).contains("server 3 has data"), "{}", place.words(1));
    assert!(place.words(3).contains("no leader can be elected: servers 1 and 2"), "{}", place.words(3));

    // That it is gone for a while changes nothing.
    place.kill(&[3]);
    place.pass(LONG_NS);
    assert!(!place.led(&[1, 2]));
    place.start(&[3]);

    // With one more of the old directories it goes on where it was, and the other one is fed.
    place.kill(&[1]);
    place.slot(1).config = kept;
    place.start(&[1]);
    place.until_founded(&[1, 2, 3]);
    assert_eq!(place.cluster(2), before);
}

#[test]
fn to_begin_anew_without_the_one_that_has_data_takes_a_restart_without_it() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    let before = place.cluster(3);
    place.kill(&[1, 2]);
    for node in [1, 2] {
        place.slot(node).new_disk();
    }
    place.start(&[1, 2]);
    place.pass(SECOND);
    place.kill(&[1, 2, 3]);
    place.start(&[1, 2]);
    place.until_founded(&[1, 2]);
    assert_ne!(place.cluster(1), before);
    // It does not mix with them, and says so.
    place.start(&[3]);
    place.pass(LONG_NS);
    assert_eq!(place.cluster(3), before);
    assert!(place.words(3).contains("no leader can be elected: servers 1 and 2"), "{}", place.words(3));
    assert_ne!(place.core(3).group.leader(), place.core(1).group.leader());
}

#[test]
fn a_server_that_is_left_alone_with_the_data_goes_on_when_it_is_told_to() {
    const SESSION: i64 = 3 << 56 | 77;
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    let before = place.cluster(3);
    place.open_session(3, SESSION);
    // Far more than comes in one message: who is fed must not stop at what the log says of the former ensemble.
    for n in 0..20 {
        place.write(3, n, 100_000);
    }
    place.kill(&[1, 2]);
    let old = place.slot(1).config.clone();
    for node in [1, 2] {
        place.slot(node).new_disk();
    }
    place.start(&[1, 2]);
    place.pass(SECOND);
    place.kill(&[3]);
    let config = place.slot(3).config.clone();
    refound(config.clone(), [0xaa; 16], 0).unwrap();
    assert!(matches!(refound(config, [0xbb; 16], 0), Err(RefoundError::Alone(3))));
    place.start(&[3]);
    place.until_founded(&[1, 2, 3]);
    assert_eq!(place.cluster(1), [0xaa; 16]);
    place.until("its data everywhere", |place| (1..=3).all(|node| place.knows(node, SESSION)));
    place.until("all votes", |place| {
        (1..=3).all(|node| {
            let membership = place.core(node).group.membership();
            membership.voters == [1, 2, 3] && !membership.is_joint()
        })
    });
    // They are three that need two.
    place.kill(&[3]);
    place.until("another leader", |place| matches!(place.core(1).group.leader(), 1 | 2));
    // A directory of before is nobody's any more.
    place.kill(&[1]);
    place.slot(1).config = old;
    place.start(&[1, 3]);
    place.until("a leader", |place| place.led(&[2]) && place.led(&[3]));
    place.pass(LONG_NS);
    assert_eq!(place.cluster(1), before);
    assert!(place.words(1).contains("no leader can be elected: servers 2 and 3"), "{}", place.words(1));
    assert!(place.led(&[2, 3]) && !place.led(&[1]));
}

#[test]
fn only_a_voter_with_data_can_be_left_alone() {
    let mut place = Place::three();
    let config = place.slot(1).config.clone();
    assert!(matches!(refound(config, [0xaa; 16], 0), Err(RefoundError::NoEnsemble(_))));
    place.slot(1).new_disk();
    place.slot(1).config.members = None;
    place.start(&[1]);
    place.kill(&[1]);
    let config = place.slot(1).config.clone();
    assert!(matches!(refound(config, [0xaa; 16], 0), Err(RefoundError::NoEnsemble(_))));
}

/// Three begin together; one of them was a standalone server before.
fn a_standalone_servers_data_leads(late_ns: u64) {
    const SESSION: i64 = 1 << 56 | 77;
    let mut place = Place::three();
    place.slot(1).config.members = None;
    place.start(&[1]);
    place.open_session(1, SESSION);
    place.kill(&[1]);
    place.slot(1).config.members = members(&[1, 2, 3]);
    place.start(&[2, 3]);
    place.pass(late_ns);
    place.start(&[1]);
    place.until_founded(&[1, 2, 3]);
    place.until("its data everywhere", |place| (1..=3).all(|node| place.knows(node, SESSION)));
    place.until("all votes", |place| place.core(2).group.membership().voters == [1, 2, 3]);
}

#[test]
fn two_empty_servers_beside_one_that_was_standalone_take_its_data() {
    a_standalone_servers_data_leads(STEP_NS);
    a_standalone_servers_data_leads(FOUNDING_GRACE_NS - SECOND);
}

#[test]
fn servers_that_would_count_other_votes_found_nothing_until_their_lines_agree() {
    let mut place = Place::new(&[&[1, 2, 3], &[1, 2, 3], &[2, 3, 4], &[2, 3, 4]]);
    place.start(&[1, 2, 3, 4]);
    place.pass(LONG_NS);
    assert!(!place.led(&[1, 2, 3, 4]));
    for (node, at_odds) in [(1, 3), (2, 3), (3, 2), (4, 2)] {
        let words = place.words(node);
        assert!(words.contains(&format!("server {at_odds} begins with other voters")), "{node}: {words}");
    }
    // Corrected, without anything else being done.
    place.kill(&[1, 2, 3, 4]);
    for node in 1..=4 {
        place.slot(node).config.members = members(&[1, 2, 3, 4]);
    }
    place.start(&[1, 2, 3, 4]);
    place.until_founded(&[1, 2, 3, 4]);
}

#[test]
fn a_directory_of_another_server_is_refused_by_name() {
    let mut place = Place::three();
    place.start(&[1, 2, 3]);
    place.until_founded(&[1, 2, 3]);
    place.until("it is known everywhere", |place| {
        place.core(1).applier.machine.membership().recorded(1).is_some()
    });
    place.kill(&[1, 2]);
    let config = place.slot(1).config.clone();
    let open = |config: &ConsensusConfig| {
        let waker = Waker::new().unwrap();
        let opened = Consensus::open(config.clone(), waker.clone(), &[waker], Arc::new(Stats::new(1, 0)));
        opened.map(|_| ()).map_err(|error| error.to_string())
    };
    let as_two = ConsensusConfig { node: 2, ..config.clone() };
    let refused = open(&as_two).unwrap_err();
    assert!(refused.contains("is that of server 1, and this is to be server 2"), "{refused}");
    assert!(refound(as_two.clone(), [0xaa; 16], 0).unwrap_err().to_string().contains("server 1"));

    // One from before numbers were recorded: the ensemble knows whose it is.
    let meta = std::path::Path::new("/data/meta");
    place.slot(1).disk.corrupt(meta, |bytes| {
        bytes[40] = 0;
        bytes[12..16].fill(0);
        let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    });
    let refused = open(&as_two).unwrap_err();
    assert!(refused.contains("is that of server 1, and this is to be server 2"), "{refused}");
    open(&config).unwrap();
    assert!(open(&as_two).is_err());
}
