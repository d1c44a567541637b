//! With which membership a node begins.
//!
//! Owns the one moment at which the configured servers count: the first start, when there is neither snapshot nor log. What
//! they say is written down durably before there is a log, so that a node that was interrupted begins with the same. Never
//! changes a membership: from then on it comes from snapshot and log alone, and a configuration that says something
//! else is told so in one line.

use super::config::ConsensusConfig;
use super::group::Membership;
use super::open::StartError;
use crate::machine::MembershipState;
use crate::members::Members;
use paddock_storage::DataDir;

/// The membership before the first entry of the log.
pub(super) fn membership(dir: &DataDir, config: &ConsensusConfig) -> Result<Membership, StartError> {
    let alone = Membership::new(vec![u64::from(config.node)], Vec::new());
    let unusable = |what: String| StartError::Membership { path: dir.path().join("bootstrap"), what };
    if let Some(bytes) = dir.bootstrap()? {
        return Membership::decode(&bytes).map_err(|e| unusable(e.to_string()));
    }
    let Some(members) = config.members.as_ref().filter(|members| !members.members.is_empty()) else {
        return Ok(alone);
    };
    if dir.has_log()? {
        // It has been a standalone server so far, and nobody has told its group otherwise.
        return Ok(alone);
    }
    let membership = configured(members);
    membership.check().map_err(|e| unusable(format!("{e} in the configured servers")))?;
    dir.write_bootstrap(&membership.encode())?;
    Ok(membership)
}

/// Says so where the recovered membership is not the configured one.
pub(super) fn compare(config: &ConsensusConfig, found: &Membership) -> Result<(), StartError> {
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

/// Whether this node began with other servers than the ensemble that it belongs to: it would count other majorities than the rest. Only
/// before the first reconfiguration, from which on all have the same; and not of a server that was alone and gets company.
pub(super) fn differs(node: u8, found: &Membership, state: &MembershipState) -> Option<String> {
    let members = &state.members;
    if members.get(node).is_none() || state.number > 0 || found.is_sole_voter(u64::from(node)) {
        return None;
    }
    let wanted = configured(members);
    let strangers = found.voters.iter().any(|voter| !wanted.voters.contains(voter));
    let unknown = wanted.voters.iter().any(|v| !found.voters.contains(v) && !found.learners.contains(v));
    (strangers || unknown).then(|| {
        format!(
            "the ensemble began with the voters {:?}, and this server with {:?} from its own server lines: they would count \
             different majorities. Give all servers the same lines, empty this one's data directory except for myid, and start it",
            wanted.voters, found.voters
        )
    })
}

fn configured(members: &Members) -> Membership {
    Membership::new(members.voters().map(u64::from).collect(), members.observers().map(u64::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Member, MemberRole};

    fn state(voters: &[u8], observers: &[u8]) -> MembershipState {
        let mut state = MembershipState::default();
        for node in voters.iter().chain(observers) {
            let role = if voters.contains(node) { MemberRole::Participant } else { MemberRole::Observer };
            let member = Member {
                host: "a".into(),
                peer_port: 1,
                election_port: 2,
                role,
                client: None,
                identity: None,
            };
            state.members.members.insert(*node, member);
        }
        state
    }

    #[test]
    fn a_server_that_began_with_other_voters_is_noticed() {
        let three = Membership::new(vec![1, 2, 3], vec![]);
        assert!(
            differs(2, &three, &state(&[1, 2], &[]))
                .unwrap()
                .contains("[1, 2], and this server with [1, 2, 3]")
        );
        assert!(differs(2, &Membership::new(vec![1, 2], vec![]), &state(&[1, 2, 3], &[])).is_some());
        assert!(differs(2, &three, &state(&[1, 2], &[3])).is_some());
        assert_eq!(differs(2, &three, &state(&[1, 2, 3], &[4])), None);
    }

    #[test]
    fn who_joins_gets_company_or_lost_a_disk_is_not_taken_for_one_with_other_voters() {
        let four = Membership::new(vec![1, 2, 3, 4], vec![]);
        assert_eq!(differs(4, &four, &state(&[1, 2, 3], &[])), None, "it joins");
        let alone = Membership::new(vec![1], vec![]);
        assert_eq!(differs(1, &alone, &state(&[1, 2, 3], &[])), None, "it gets company");
        let returning = Membership::new(vec![1, 3], vec![2]);
        assert_eq!(differs(1, &returning, &state(&[1, 2, 3], &[])), None, "2 lost its disk");
        let later = MembershipState { number: 1, ..state(&[1, 2], &[]) };
        assert_eq!(differs(1, &four, &later), None, "a reconfiguration made all the same");
    }
}
