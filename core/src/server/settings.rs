//! The settings of the consensus core and of the shards, each from one place of the configuration, and the
//! random numbers that they start with. Nothing here reads a file.

use super::StartError;
use super::cores::Placement;
use crate::admin::words::Words;
use crate::config::Config;
use crate::consensus::ConsensusConfig;
use crate::consensus::config::{BATCHES_IN_FLIGHT_MAX, BATCHES_IN_FLIGHT_SHARED_MAX};
use crate::shard::ShardConfig;

pub(super) fn random_bytes() -> Result<[u8; 16], StartError> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| StartError::System { doing: "drawing random bytes", source: e.into() })?;
    Ok(bytes)
}

/// Password of a new session. The kernel's generator was ready when [`random_bytes`] succeeded at the start,
/// and cannot fail later.
pub(super) fn draw_password() -> [u8; 16] {
    random_bytes().expect("the kernel's random numbers ended while the server ran")
}

pub(super) fn shard_config(config: &Config, id: u16) -> ShardConfig {
    // Names that enable nothing were reported when the file was read.
    let (words, _) = Words::parse(&config.whitelist);
    ShardConfig {
        id,
        node: config.node,
        jute_max_buffer_bytes: config.jute_max_buffer_bytes,
        tick_time_ms: config.tick_time_ms,
        session_timeout_min_ms: config.min_session_timeout_ms as i32,
        session_timeout_max_ms: config.max_session_timeout_ms as i32,
        policy: policy(config),
        super_digest: config.super_digest.clone(),
        words,
        conf_lines: config.conf_lines(),
        max_staleness_ns: u64::from(config.max_staleness_ms) * 1_000_000,
        read_only_mode: config.read_only_mode,
        linearizable: (0u16..).zip(config.listeners()).map(|(n, _)| config.is_linearizable(n)).collect(),
    }
}

fn policy(config: &Config) -> u32 {
    use crate::command::policy::{EXTENDED_TYPES, ONE_VOTER, RECONFIG, SKIP_ACL};
    [
        (config.skip_acl, SKIP_ACL),
        (config.extended_types, EXTENDED_TYPES),
        (config.reconfig, RECONFIG),
        (!config.standalone_enabled, ONE_VOTER),
    ]
    .iter()
    .filter(|(on, _)| *on)
    .fold(0, |bits, (_, bit)| bits | bit)
}

pub(super) fn consensus_config(
    config: &Config,
    placement: &Placement,
) -> Result<ConsensusConfig, StartError> {
    let random = random_bytes()?;
    Ok(ConsensusConfig {
        batches_in_flight: match placement.consensus {
            Some(_) => BATCHES_IN_FLIGHT_MAX,
            None => BATCHES_IN_FLIGHT_SHARED_MAX,
        },
        node: config.node,
        members: config.ensemble.as_ref().map(|e| e.members.clone()),
        tick_time_ms: config.tick_time_ms,
        max_staleness_ns: u64::from(config.max_staleness_ms) * 1_000_000,
        init_limit_ns: u64::from(config.init_limit_ms) * 1_000_000,
        raft: config.raft,
        policy: policy(config),
        force_sync: config.force_sync,
        snap_count: config.snap_count,
        seed: u128::from_ne_bytes(random_bytes()?) as u64,
        new_identity: random,
        log_salt: u128::from_ne_bytes(random_bytes()?) as u64,
        ..ConsensusConfig::standalone(config.data_dir.clone(), placement.shards.len())
    })
}
