//! How a run's nodes are set up.
//!
//! Owns the ranges from which a seed draws. Never starts anything.

use super::super::node::{Clock, Setup, SimNode};
use super::super::rng::Rng;
use super::{MAX_STALENESS_NS, SECOND, TICK_TIME_MS};
use crate::consensus::ConsensusConfig;
use crate::members::{Member, MemberRole, Members};
use crate::shard::ShardConfig;
use paddock_storage::fault::FaultDisk;
use paddock_transport::engine::Address;

/// One node, or several voters and observers.
pub(super) fn ensemble(voters: Option<usize>, rng: &mut Rng) -> Vec<SimNode> {
    let voters = voters.unwrap_or_else(|| *rng.pick(&[1, 1, 3, 3, 3, 5]));
    let observers = if voters > 1 { *rng.pick(&[0, 0, 0, 1, 2]) } else { 0 };
    if voters == 1 {
        return vec![node(1, None, rng)];
    }
    let member = |number: u8| Member {
        host: format!("10.0.1.{number}"),
        peer_port: 2888,
        election_port: 3888,
        role: if usize::from(number) <= voters { MemberRole::Participant } else { MemberRole::Observer },
        client: None,
        identity: None,
    };
    let all = (voters + observers) as u8;
    let members = (1..=all).map(|number| (number, member(number))).collect();
    let members = Members { members, ..Members::default() };
    (1..=all).map(|number| node(number, Some(&members), rng)).collect()
}

fn node(number: u8, members: Option<&Members>, rng: &mut Rng) -> SimNode {
    let shards = rng.range(1, 3) as usize;
    let mut consensus = ConsensusConfig::standalone("/data".into(), shards);
    consensus.node = number;
    consensus.members = members.cloned();
    consensus.max_staleness_ns = MAX_STALENESS_NS;
    consensus.inline = true;
    consensus.tick_time_ms = TICK_TIME_MS;
    consensus.segment_bytes = Some(64 << 10);
    consensus.snap_count = rng.range(40, 600);
    consensus.batches_in_flight = rng.range(1, 3) as usize;
    consensus.commit_ring_entries = *rng.pick(&[4, 64, 1024]);
    let shard = ShardConfig {
        tick_time_ms: TICK_TIME_MS,
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
        address: members.map(|_| Address::Tcp(([10, 0, 1, number], 2888).into())),
    }
}
