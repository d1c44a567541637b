//! Hazards: a node votes after it lost entries, a change gets stuck, or a client never gets its answer.
//!
//! The tests run the leader's planner, the real state machine, and Raft's joint memberships. They set only
//! the progress of the other nodes.

use super::*;
use crate::command::{Identity, Op, SEMANTICS, policy};
use crate::commit::Outcome;
use crate::machine::{Applied, Machine};
use crate::tree::Writer;
use paddock_transport::wire::{Request, error, opcode};

const ALICE: i64 = 0x0100_0000_0000_0001;
/// Turns after which a test fails: many times what the longest change needs.
const STEPS_MAX: usize = 2_000;

struct Other {
    matched: u64,
    snapshot: bool,
    up: bool,
    identity: [u8; 16],
}

struct Cluster {
    machine: Machine,
    tree: Writer,
    applied: Applied,
    raft: Membership,
    leader: u8,
    planner: MembershipPlanner,
    nodes: BTreeMap<u8, Other>,
    index: u64,
    now_ns: u64,
    seq: u64,
    /// Steps of the planner, in order.
    acts: Vec<Act>,
    /// Outcomes of reconfigurations, without deferred ones.
    results: Vec<Outcome>,
}

fn members(nodes: &[u8]) -> BTreeMap<u8, Member> {
    nodes.iter().map(|n| (*n, Member::parse(&format!("10.0.0.{n}:2888:3888;2181")).unwrap())).collect()
}

fn spec(node: u8, role: &str) -> String {
    format!("server.{node}=10.0.0.{node}:2888:3888:{role};2181")
}

impl Cluster {
    /// Running nodes with the first one as leader. Their identities are recorded and no step is pending.
    fn new(nodes: &[u8]) -> Cluster {
        let (tree, _) = crate::tree::tree(0);
        let leader = nodes[0];
        let mut cluster = Cluster {
            machine: Machine::new(&tree),
            tree,
            applied: Applied::default(),
            raft: Membership::new(nodes.iter().copied().map(u64::from).collect(), vec![]),
            leader,
            planner: MembershipPlanner::new(leader, [leader; 16], [9; 16], members(nodes)),
            nodes: BTreeMap::new(),
            index: 1000,
            now_ns: 1,
            seq: 0,
            acts: Vec::new(),
            results: Vec::new(),
        };
        for node in nodes {
            cluster.start(*node, [*node; 16]);
        }
        let open = Op::OpenSession { timeout_ms: 10_000, password: [0; 16] };
        cluster.run(open);
        cluster.settle();
        assert_eq!(cluster.machine.members().members.len(), nodes.len());
        assert!(cluster.machine.members().members.values().all(|m| m.identity.is_some()));
        assert_eq!(cluster.planner.deadline_ns(), None, "nothing is under way");
        cluster.acts.clear();
        cluster
    }

    /// Starts a node whose log is up to date.
    fn start(&mut self, node: u8, identity: [u8; 16]) {
        self.nodes.insert(node, Other { matched: self.index, snapshot: false, up: true, identity });
        self.planner.link_up(node, identity);
    }

    /// Starts a node with an empty disk.
    fn start_empty(&mut self, node: u8, identity: [u8; 16]) {
        self.start(node, identity);
        self.node(node).matched = 0;
    }

    fn stop(&mut self, node: u8) {
        self.node(node).up = false;
        self.planner.link_down(node);
    }

    fn node(&mut self, node: u8) -> &mut Other {
        self.nodes.get_mut(&node).unwrap()
    }

    fn batch(&self) -> Batch {
        let policy = policy::RECONFIG;
        Batch {
            semantics: SEMANTICS,
            policy,
            time_ms: 5,
            applied_zxid: 0,
            applied_digest: 0,
            commands: vec![],
        }
    }

    fn apply(&mut self, batch: &Batch) {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(batch).unwrap();
        let batch = rkyv::access::<_, rkyv::rancor::Error>(&bytes).unwrap();
        self.machine.apply(&mut self.tree, 1, batch, &mut self.applied).unwrap();
        self.take();
    }

    fn take(&mut self) {
        self.index += 1;
        let done = self.applied.results.drain(..).map(|r| r.outcome).filter(|o| *o != Outcome::Deferred);
        self.results.extend(done);
        if self.applied.membership.changed {
            self.planner.changed();
        }
        self.applied.clear();
    }

    fn run(&mut self, op: Op) {
        self.seq += 1;
        let identities = vec![Identity { scheme: "super".into(), id: String::new() }];
        let command =
            Command { node: 1, incarnation: 1, seq: self.seq, session: ALICE, attachment: 1, identities, op };
        let batch = Batch { commands: vec![command], ..self.batch() };
        self.apply(&batch);
    }

    fn reconfig(&mut self, joining: &[String], leaving: &str) {
        self.results.clear();
        let joining = joining.join(",");
        let request = Request::Reconfig {
            joining: Some(joining.as_str().into()),
            leaving: Some(leaving.into()),
            new_members: None,
            config_id: -1,
        };
        let mut body = Vec::new();
        request.put(&mut body);
        self.run(Op::Request { opcode: opcode::RECONFIG, body });
        assert!(self.results.is_empty(), "{:?}", self.results);
    }

    /// Runs one turn of the planner and performs its step.
    fn turn(&mut self) -> Option<Act> {
        let progress: Vec<Progress> = (self.raft.nodes().iter())
            .map(|id| {
                let node = self.nodes.get(&(*id as u8));
                let matched = node.map_or(0, |n| n.matched);
                let active = node.is_some_and(|n| n.up);
                let (learner, snapshot) = (self.raft.learners.contains(id), node.is_some_and(|n| n.snapshot));
                Progress { node: *id, matched, active, learner, snapshot }
            })
            .collect();
        let view = View {
            now_ns: self.now_ns,
            applied: self.index,
            commit: self.index,
            state: self.machine.membership(),
            raft: &self.raft,
            progress: &progress,
        };
        let act = self.planner.turn(&view)?;
        self.acts.push(act.clone());
        match &act {
            Act::Order(command) => self.apply(&batch_of(command, self.batch())),
            Act::Change { target, command } => self.change(target, command.as_ref()),
            Act::Transfer { to } => self.lead(*to as u8),
        }
        Some(act)
    }

    fn change(&mut self, target: &Target, command: Option<&MembershipCommand>) {
        for id in &target.voters {
            let node = &self.nodes[&(*id as u8)];
            let new = !self.raft.voters.contains(id);
            assert!(!new || self.raft.learners.contains(id), "{id} votes without having followed");
            assert!(!new || node.matched + PROMOTE_LAG_ENTRIES >= self.index, "{id} votes and is behind");
            let foreign = !admits(self.machine.membership(), *id as u8, &node.identity);
            assert!(!new || !foreign, "{id} votes and is somebody else");
        }
        assert!(target.voters.contains(&u64::from(self.leader)), "the leader shall not vote");
        self.raft = self.raft.enter(target).unwrap();
        if let Some(command) = command {
            let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&batch_of(command, self.batch())).unwrap();
            self.machine.begin_reconfig(rkyv::access::<_, rkyv::rancor::Error>(&bytes).unwrap());
        }
        self.planner.changed();
        assert_eq!(self.turn(), None, "while it is joint nothing else begins");
        self.raft = self.raft.leave().unwrap();
        self.machine.finish_reconfig(&mut self.tree, 1, &mut self.applied);
        self.planner.changed();
        self.take();
    }

    fn lead(&mut self, node: u8) {
        self.leader = node;
        self.planner = MembershipPlanner::new(node, self.nodes[&node].identity, [8; 16], BTreeMap::new());
        for (node, other) in &self.nodes {
            if other.up {
                self.planner.link_up(*node, other.identity);
            }
        }
    }

    /// Runs turns at the planner's own deadlines until no step is pending.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.turn().is_some() || self.planner.is_due(self.now_ns) {
                continue;
            }
            let Some(deadline_ns) = self.planner.deadline_ns() else { return };
            self.now_ns = deadline_ns;
        }
        panic!("not settled: {:?} {:?}", self.machine.membership(), self.raft);
    }

    /// Runs turns at the planner's own deadlines for some time.
    fn wait(&mut self, ns: u64) {
        let until = self.now_ns + ns;
        while self.now_ns < until {
            while self.turn().is_some() {}
            self.now_ns = self.planner.deadline_ns().unwrap_or(until).clamp(self.now_ns + 1, until);
        }
    }

    fn catch_up(&mut self) {
        for node in self.nodes.values_mut().filter(|n| n.up) {
            node.matched = self.index;
        }
    }

    fn config(&self) -> String {
        String::from_utf8(self.tree.get("/zookeeper/config").unwrap().data().unwrap().to_vec()).unwrap()
    }
}

#[test]
fn a_standalone_node_is_left_alone() {
    let (tree, _) = crate::tree::tree(0);
    let machine = Machine::new(&tree);
    let mut planner = MembershipPlanner::new(1, [1; 16], [9; 16], BTreeMap::new());
    let raft = Membership::new(vec![1], vec![]);
    let view =
        View { now_ns: 0, applied: 0, commit: 0, state: machine.membership(), raft: &raft, progress: &[] };
    assert_eq!(planner.turn(&view), None);
    assert!(!planner.is_due(u64::MAX) && planner.deadline_ns().is_none());
}

#[test]
fn adding_two_nodes_waits_until_they_have_the_log() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[spec(4, "participant"), spec(5, "participant")], "");
    cluster.start_empty(4, [4; 16]);
    cluster.start_empty(5, [5; 16]);
    cluster.wait(CATCH_UP_STALL_NS / 2);
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3], vec![4, 5]));
    assert!(cluster.results.is_empty());
    for at in [300, 600] {
        cluster.node(4).matched = at;
        cluster.node(5).matched = at;
        cluster.wait(CATCH_UP_STALL_NS / 2);
    }
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3], vec![4, 5]), "they move: it waits");
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3, 4, 5], vec![]));
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
    assert_eq!(cluster.machine.members().get(5).unwrap().identity, Some([5; 16]));
}

#[test]
fn a_joiner_that_never_comes_neither_holds_up_the_answer_nor_gets_a_vote() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[spec(4, "participant")], "");
    cluster.wait(2 * CATCH_UP_STALL_NS);
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]), "three of four are a quorum, as for ZooKeeper");
    assert!(cluster.config().contains("server.4="));
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3], vec![4]));
    cluster.start_empty(4, [4; 16]);
    cluster.wait(CATCH_UP_STALL_NS);
    assert_eq!(cluster.raft.learners, [4]);
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3, 4], vec![]));
}

#[test]
fn a_change_beside_a_participant_that_never_came_is_answered_at_once() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[spec(4, "participant")], "");
    cluster.wait(CATCH_UP_STALL_NS / 2);
    let waits = cluster.planner.waits_for().to_owned();
    assert!(
        waits.contains("reconfiguration 1 waits for server 4 (not connected): 3 of its 4 voters"),
        "{waits}"
    );
    cluster.wait(CATCH_UP_STALL_NS);
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
    assert_eq!(cluster.planner.waits_for(), "no vote until caught up: server 4 (not connected)");
    let begun = cluster.now_ns;
    cluster.reconfig(&[spec(5, "observer")], "");
    while cluster.results.is_empty() {
        cluster.wait(LOOK_NS);
        assert!(cluster.now_ns - begun < CATCH_UP_STALL_NS, "server 4 is not what this change is about");
    }
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
    cluster.start_empty(4, [4; 16]);
    cluster.node(4).snapshot = true;
    cluster.wait(LOOK_NS);
    assert!(cluster.planner.waits_for().ends_with("server 4 (it is sent a snapshot)"));
    cluster.node(4).snapshot = false;
    cluster.catch_up();
    cluster.settle();
    assert_eq!((cluster.raft.voters.as_slice(), cluster.planner.waits_for()), (&[1, 2, 3, 4][..], ""));
}

#[test]
fn the_moment_in_which_raft_forgets_the_answers_refuses_no_change() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[spec(4, "participant")], "");
    cluster.wait(CATCH_UP_STALL_NS - 2 * LOOK_NS);
    assert!(cluster.results.is_empty());
    let set_others_up =
        |cluster: &mut Cluster, up: bool| [2, 3].iter().for_each(|n| cluster.node(*n).up = up);
    set_others_up(&mut cluster, false);
    cluster.wait(4 * LOOK_NS);
    assert!(matches!(cluster.results[..], [] | [Outcome::Ok(_)]), "{:?}", cluster.results);
    set_others_up(&mut cluster, true);
    cluster.wait(2 * LOOK_NS);
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]), "{:?}", cluster.results);
    // After a longer silence they count as absent, even with a link.
    set_others_up(&mut cluster, false);
    cluster.wait(PRESENT_NS);
    cluster.reconfig(&[spec(5, "observer")], "");
    cluster.wait(2 * CATCH_UP_STALL_NS);
    assert_eq!(cluster.results, [Outcome::Err(error::NEW_CONFIG_NO_QUORUM)]);
}

#[test]
fn a_participant_that_is_behind_is_waited_for_where_a_change_needs_it() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[spec(4, "participant")], "");
    cluster.wait(2 * CATCH_UP_STALL_NS);
    cluster.start_empty(4, [4; 16]);
    cluster.node(4).snapshot = true;
    // Of the new voters 1, 3 and 4, node 3 is down and node 4 is behind.
    cluster.stop(3);
    cluster.reconfig(&[], "2");
    cluster.wait(2 * CATCH_UP_STALL_NS);
    assert!(cluster.results.is_empty(), "it moves");
    let waits = cluster.planner.waits_for().to_owned();
    assert!(
        waits.contains("server 3 (not connected), server 4 (it is sent a snapshot): 1 of its 3"),
        "{waits}"
    );
    cluster.node(4).snapshot = false;
    cluster.catch_up();
    cluster.settle();
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
    assert_eq!(cluster.raft.voters, [1, 3, 4]);
}

#[test]
fn without_a_quorum_of_the_new_members_nothing_changes() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    let text = cluster.config();
    cluster.reconfig(&[4, 5, 6, 7].map(|n| spec(n, "participant")), "");
    cluster.wait(2 * CATCH_UP_STALL_NS);
    assert_eq!(cluster.results, [Outcome::Err(error::NEW_CONFIG_NO_QUORUM)]);
    cluster.settle();
    assert_eq!((cluster.config(), cluster.raft.clone()), (text, Membership::new(vec![1, 2, 3], vec![])));
    assert!(cluster.machine.membership().leaving.is_empty());
}

#[test]
fn a_joiner_that_crawls_is_not_waited_for_for_ever() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[spec(4, "participant"), spec(5, "participant")], "2,3");
    cluster.start_empty(4, [4; 16]);
    cluster.start_empty(5, [5; 16]);
    cluster.node(5).snapshot = true;
    let begun = cluster.now_ns;
    while cluster.results.is_empty() {
        cluster.wait(CATCH_UP_STALL_NS / 2);
        cluster.index += 1000;
        cluster.node(4).matched += 1;
        assert!(cluster.now_ns - begun < 2 * CATCH_UP_NS_MAX);
    }
    assert_eq!(cluster.results, [Outcome::Err(error::NEW_CONFIG_NO_QUORUM)]);
}

#[test]
fn a_removed_node_hears_of_it_before_it_is_dropped() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[], "3");
    cluster.wait(LOOK_NS);
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
    assert_eq!(cluster.raft, Membership::new(vec![1, 2], vec![3]), "it follows on");
    cluster.wait(10 * TOLD_NS);
    assert_eq!(cluster.raft.learners, [3], "it is slow");
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2], vec![]));

    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.stop(3);
    cluster.reconfig(&[], "3");
    let begun = cluster.now_ns;
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2], vec![]), "it cannot be reached");
    assert!(cluster.now_ns - begun >= LINGER_NS);
}

#[test]
fn a_node_that_returns_with_an_empty_disk_while_it_lingers_follows_anew() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.stop(3);
    cluster.reconfig(&[], "3");
    cluster.wait(LOOK_NS);
    assert_eq!(cluster.raft.learners, [3]);
    cluster.reconfig(&[spec(3, "participant")], "");
    cluster.acts.clear();
    cluster.turn();
    let dropped = Target { voters: vec![1, 2], learners: vec![] };
    let forget = Some(MembershipCommand::Forget { nodes: vec![3] });
    assert_eq!(cluster.acts[..1], [Act::Change { target: dropped, command: forget }]);
    cluster.start_empty(3, [33; 16]);
    cluster.wait(CATCH_UP_STALL_NS / 2);
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3], vec![]));
    assert_eq!(cluster.machine.members().get(3).unwrap().identity, Some([33; 16]));
}

#[test]
fn a_node_with_a_lost_disk_votes_only_after_it_has_followed_again() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.stop(2);
    cluster.start_empty(2, [22; 16]);
    assert!(!admits(cluster.machine.membership(), 2, &[22; 16]));
    cluster.turn();
    let dropped = Target { voters: vec![1, 3], learners: vec![] };
    let adopt = Some(MembershipCommand::Adopt { node: 2, identity: [22; 16] });
    assert_eq!(cluster.acts, [Act::Change { target: dropped, command: adopt }]);
    assert!(admits(cluster.machine.membership(), 2, &[22; 16]));
    assert!(!admits(cluster.machine.membership(), 2, &[2; 16]), "the old directory may not come back either");
    cluster.wait(3 * CATCH_UP_STALL_NS);
    assert_eq!(cluster.raft, Membership::new(vec![1, 3], vec![2]));
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3], vec![]));
}

/// Raft counts a new node as active before its first message.
#[test]
fn a_node_with_a_lost_disk_votes_in_a_short_log_only_when_it_has_what_was_committed_when_it_came() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.index = PROMOTE_LAG_ENTRIES / 2;
    cluster.catch_up();
    cluster.stop(2);
    cluster.start_empty(2, [22; 16]);
    cluster.wait(3 * CATCH_UP_STALL_NS);
    assert_eq!(cluster.raft, Membership::new(vec![1, 3], vec![2]));
    let came = cluster.index;
    cluster.node(2).snapshot = true;
    cluster.wait(CATCH_UP_STALL_NS);
    (cluster.node(2).snapshot, cluster.node(2).matched) = (false, came / 2);
    cluster.wait(CATCH_UP_STALL_NS);
    assert_eq!(cluster.raft, Membership::new(vec![1, 3], vec![2]), "a snapshot from before it came");
    // A new leader did not see the node come. It requires what is committed at its own first turn.
    cluster.lead(3);
    cluster.wait(CATCH_UP_STALL_NS);
    assert_eq!(cluster.raft, Membership::new(vec![1, 3], vec![2]));
    cluster.node(2).matched = came;
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3], vec![]));
    // The node lost its disk once more.
    cluster.stop(2);
    cluster.start_empty(2, [23; 16]);
    cluster.wait(CATCH_UP_STALL_NS);
    assert_eq!(cluster.raft, Membership::new(vec![1, 3], vec![2]));
}

#[test]
fn a_lost_disk_takes_no_vote_where_the_rest_is_no_quorum() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.stop(2);
    cluster.stop(3);
    cluster.start_empty(2, [22; 16]);
    cluster.wait(10 * RETRY_NS);
    assert_eq!(cluster.acts, []);
    cluster.start(3, [3; 16]);
    cluster.wait(LOOK_NS);
    assert_eq!(cluster.raft, Membership::new(vec![1, 3], vec![2]), "without another word");
}

#[test]
fn a_leader_that_is_removed_hands_over_first() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[], "1");
    cluster.settle();
    assert_eq!(cluster.acts[0], Act::Transfer { to: 2 });
    assert_eq!(
        cluster.raft,
        Membership::new(vec![2, 3], vec![1])
            .enter(&Target { voters: vec![2, 3], learners: vec![] })
            .and_then(|m| m.leave())
            .unwrap()
    );
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
}

#[test]
fn all_members_are_replaced_in_one_request() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    for node in [4, 5, 6] {
        cluster.start_empty(node, [node; 16]);
    }
    cluster.reconfig(&[4, 5, 6].map(|n| spec(n, "participant")), "1,2,3");
    cluster.wait(LOOK_NS);
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![4, 5, 6], vec![]));
    assert!([4, 5, 6].contains(&cluster.leader));
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
}

#[test]
fn a_new_leader_goes_on_with_what_the_old_one_began() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&[spec(4, "participant")], "3");
    cluster.start_empty(4, [4; 16]);
    cluster.wait(LOOK_NS);
    assert_eq!(cluster.raft.learners, [4]);
    cluster.stop(1);
    cluster.lead(2);
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 4], vec![]));
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
}

#[test]
fn roles_change_both_ways() {
    let mut cluster = Cluster::new(&[1, 2, 3, 4]);
    cluster.reconfig(&[spec(3, "observer"), spec(4, "observer")], "");
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2], vec![3, 4]));
    cluster.catch_up();
    cluster.node(4).matched = 1;
    cluster.reconfig(&[spec(3, "participant"), spec(4, "participant")], "");
    cluster.wait(2 * CATCH_UP_STALL_NS);
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3], vec![4]), "4 is behind");
    assert!(matches!(cluster.results[..], [Outcome::Ok(_)]));
    cluster.catch_up();
    cluster.settle();
    assert_eq!(cluster.raft, Membership::new(vec![1, 2, 3, 4], vec![]));
}

#[test]
fn another_address_alone_needs_no_change_of_voters() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&["server.2=10.0.0.22:2888:3888:participant;2181".to_owned()], "");
    cluster.settle();
    assert!(matches!(cluster.acts[..], [Act::Order(MembershipCommand::Conclude { number: 1 })]));
    assert!(cluster.config().contains("10.0.0.22"));
}

#[test]
fn a_step_whose_proposal_was_lost_is_taken_again() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    cluster.reconfig(&["server.2=10.0.0.22:2888:3888:participant;2181".to_owned()], "");
    let progress: Vec<Progress> = (1..=3)
        .map(|node| Progress { node, matched: 2000, active: true, learner: false, snapshot: false })
        .collect();
    let mut look = |now_ns| {
        let view = View {
            now_ns,
            applied: cluster.index,
            commit: cluster.index,
            state: cluster.machine.membership(),
            raft: &cluster.raft,
            progress: &progress,
        };
        cluster.planner.changed();
        cluster.planner.turn(&view)
    };
    let now_ns = 1_000_000_000;
    let first = look(now_ns);
    assert!(first.is_some());
    assert_eq!(look(now_ns + LOOK_NS), None);
    assert_eq!(look(now_ns + RETRY_NS - 1), None);
    assert_eq!(look(now_ns + RETRY_NS), first);
}
