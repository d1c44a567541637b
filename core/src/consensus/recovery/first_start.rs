//! The membership with which a node begins.
//!
//! Owns the one moment at which the configured servers count: the first start, with neither snapshot nor log.
//! The node records them durably before there is a log, so that an interrupted start begins with the same
//! servers. Never changes a membership that any node counts on: from the first vote or entry on it comes from
//! snapshot and log alone. A configuration that differs gets one line in the log.

use crate::consensus::config::ConsensusConfig;
use crate::consensus::raft::Membership;
use crate::consensus::recovery::StartError;
use crate::members::Members;
use paddock_storage::DataDir;

/// The membership before the first entry of the log.
pub(in crate::consensus) fn membership(
    dir: &DataDir,
    config: &ConsensusConfig,
) -> Result<Membership, StartError> {
    let alone = Membership::new(vec![u64::from(config.node)], Vec::new());
    let unusable = |what: String| StartError::Membership { path: dir.path().join("bootstrap"), what };
    if let Some(bytes) = dir.bootstrap()? {
        return Membership::decode(&bytes).map_err(|e| unusable(e.to_string()));
    }
    let Some(members) = config.members.as_ref().filter(|members| !members.members.is_empty()) else {
        return Ok(alone);
    };
    if dir.has_log()? {
        // The directory belongs to a standalone server, and its log has no other membership.
        return Ok(alone);
    }
    let membership = configured(members);
    membership.check().map_err(|e| unusable(format!("{e} in the configured servers")))?;
    dir.write_bootstrap(&membership.encode())?;
    Ok(membership)
}

/// The membership of a node that has neither log nor vote. No node counts on the recorded one yet, so
/// corrected server lines count.
pub(in crate::consensus) fn renew(
    dir: &DataDir,
    config: &ConsensusConfig,
    found: Membership,
) -> Result<Membership, StartError> {
    let Some(members) = config.members.as_ref().filter(|members| !members.members.is_empty()) else {
        return Ok(found);
    };
    let wanted = configured(members);
    if wanted == found {
        return Ok(found);
    }
    let unusable = |what: String| StartError::Membership { path: dir.path().join("bootstrap"), what };
    wanted.check().map_err(|e| unusable(format!("{e} in the configured servers")))?;
    dir.write_bootstrap(&wanted.encode())?;
    Ok(wanted)
}

/// Compares the recovered membership with the configured one, and logs a difference.
pub(in crate::consensus) fn compare(config: &ConsensusConfig, found: &Membership) -> Result<(), StartError> {
    match &config.members {
        None if !found.is_sole_voter(u64::from(config.node)) => Err(StartError::Membership {
            path: config.data_dir.clone(),
            what: format!(
                "it belongs to an ensemble with the voters {:?}, and no ensemble is configured. Start it with the \
                 ensemble's server lines, or choose another data directory",
                found.voters
            ),
        }),
        None => Ok(()),
        Some(members) => {
            let wanted = configured(members);
            if (&wanted.voters, &wanted.learners) != (&found.voters, &found.learners) {
                tracing::warn!(
                    "the configured servers (voters {:?}, observers {:?}) are not the recorded ones (voters {:?}, observers \
                     {:?}); the recorded ones count, and are changed with reconfig",
                    wanted.voters,
                    wanted.learners,
                    found.voters,
                    found.learners
                );
            }
            Ok(())
        }
    }
}

fn configured(members: &Members) -> Membership {
    Membership::new(members.voters().map(u64::from).collect(), members.observers().map(u64::from).collect())
}
