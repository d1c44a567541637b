//! The settings of a run's nodes.
//!
//! Owns the ranges from which a seed draws. Never starts anything.

use super::super::node::{Clock, Setup, SimNode};
use super::super::rng::Rng;
use super::super::workload::SUPER;
use super::operator::member;
use super::{MAX_STALENESS_NS, SECOND, TICK_TIME_MS};
use crate::acl::digest_id;
use crate::command::policy;
use crate::consensus::ConsensusConfig;
use crate::members::{MemberRole, Members};
use crate::shard::ShardConfig;
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::Address;

/// One node, or several voters and observers. With `changes`, some more nodes that may join.
pub(super) fn ensemble(voters: Option<usize>, changes: bool, rng: &mut Rng) -> Vec<SimNode> {
    let voters = voters.unwrap_or_else(|| *rng.pick(&[1, 1, 3, 3, 3, 5]));
    let observers = if voters > 1 { *rng.pick(&[0, 0, 0, 1, 2]) } else { 0 };
    if voters == 1 {
        return vec![node(1, None, rng)];
    }
    let role = |number: u8| {
        if usize::from(number) <= voters { MemberRole::Participant } else { MemberRole::Observer }
    };
    let founders = (voters + observers) as u8;
    let members = (1..=founders).map(|number| (number, member(number, role(number)))).collect();
    let members = Members { members, ..Members::default() };
    let spares = if changes { rng.range(1, 2) as u8 } else { 0 };
    let mut nodes: Vec<SimNode> =
        (1..=founders + spares).map(|number| node(number, Some(&members), rng)).collect();
    for spare in &mut nodes[usize::from(founders)..] {
        (spare.founder, spare.wanted) = (false, false);
    }
    nodes
}

fn node(number: u8, members: Option<&Members>, rng: &mut Rng) -> SimNode {
    let shards = rng.range(1, 3) as usize;
    let mut consensus = ConsensusConfig::standalone("/data".into(), shards);
    consensus.node = number;
    consensus.members = members.cloned();
    consensus.max_staleness_ns = MAX_STALENESS_NS;
    consensus.policy = policy::RECONFIG;
    consensus.inline = true;
    consensus.tick_time_ms = TICK_TIME_MS;
    consensus.segment_bytes = Some(64 << 10);
    consensus.snap_count = rng.range(40, 600);
    consensus.batches_in_flight = rng.range(1, 3) as usize;
    consensus.commit_ring_entries = *rng.pick(&[4, 64, 1024]);
    let shard = ShardConfig {
        node: number,
        tick_time_ms: TICK_TIME_MS,
        linearizable: vec![false, true],
        read_only_mode: rng.one_in(3),
        policy: policy::RECONFIG,
        super_digest: Some(digest_id(SUPER)),
        max_staleness_ns: MAX_STALENESS_NS,
        session_timeout_min_ms: 2 * TICK_TIME_MS as i32,
        session_timeout_max_ms: 20 * TICK_TIME_MS as i32,
        ..ShardConfig::default()
    };
    SimNode {
        setup: Setup { shards, consensus, shard },
        disk: FaultDisk::new(),
        clock: Clock::new(rng.range(1, 1000) * SECOND, rng.range(0, 40_000) as i64 - 20_000),
        process: None,
        life: 0,
        paused_until: 0,
        disk_ns: rng.range(50_000, 3_000_000),
        slow_until: 0,
        disk_busy: false,
        refuses: true,
        wanted: true,
        founder: true,
        address: members.map(|_| Address::Tcp(([10, 0, 1, number], 2888).into())),
    }
}
