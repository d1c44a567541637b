//! The keys that ZooKeeper 3.9 knows, and what Paddock does with each.
//!
//! Owns the tables of keys.
//! Never reads a value.
//! Correct because a key is in exactly one table (a test), so no effective key is reported as having no
//! effect.

#![forbid(unsafe_code)]

/// How Paddock treats a key of a configuration file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// The key has its effect.
    Effective,
    /// A ZooKeeper key that has no effect here yet. A finding reports it.
    NoEffect,
    /// Asks for a protection that this version cannot give: refused unless it is switched off.
    Guard,
    /// Hierarchical quorums: refused, since Paddock counts majorities of servers only.
    Hierarchy,
    Unknown,
}

const EFFECTIVE: &[&str] = &[
    "4lw.commands.whitelist",
    "DigestAuthenticationProvider.superDigest",
    "clientPort",
    "clientPortAddress",
    "dataDir",
    "dynamicConfigFile",
    "extendedTypesEnabled",
    "forceSync",
    "initLimit",
    "jute.maxbuffer",
    "maxClientCnxns",
    "maxSessionTimeout",
    "minSessionTimeout",
    "paddock.linearizableClientPort",
    "paddock.maxStaleness",
    "paddock.raft.election",
    "paddock.raft.heartbeat",
    "paddock.raft.tick",
    "paddock.readConsistency",
    "peerType",
    "quorumListenOnAllIPs",
    "readonlymode.enabled",
    "reconfigEnabled",
    "skipACL",
    "snapCount",
    "standaloneEnabled",
    "syncLimit",
    "tickTime",
];

const GUARDS: &[&str] = &["enforce.auth.enabled", "sessionRequireClientSASLAuth", "sslQuorum"];

const NO_EFFECT: &[&str] = &[
    "DigestAuthenticationProvider.digestAlg",
    "DigestAuthenticationProvider.enabled",
    "X509AuthenticationProvider.superUser",
    "allowSaslFailedClients",
    "audit.enable",
    "autopurge.purgeInterval",
    "autopurge.snapRetainCount",
    "client.certReload",
    "client.portUnification",
    "client.secure",
    "clientPortListenBacklog",
    "clientTcpKeepAlive",
    "cnxTimeout",
    "commitLogCount",
    "connectToLearnerMasterLimit",
    "connectionMaxTokens",
    "dataLogDir",
    "digest.enabled",
    "electionAlg",
    "electionPortBindRetry",
    "enableEagerACLCheck",
    "enforce.auth.schemes",
    "enforceQuota",
    "fips-mode",
    "flushDelay",
    "fsync.warningthresholdms",
    "globalOutstandingLimit",
    "jute.maxbuffer.extrasize",
    "largeRequestMaxBytes",
    "largeRequestThreshold",
    "leaderServes",
    "letAnySaslUserDoX",
    "localSessionsEnabled",
    "localSessionsUpgradingEnabled",
    "maxBatchSize",
    "maxCnxns",
    "maxGetChildrenResponseCacheSize",
    "maxResponseCacheSize",
    "maxWriteQueuePollTime",
    "observerMasterPort",
    "portUnification",
    "preAllocSize",
    "quorumCnxnTimeoutMs",
    "requestThrottleLimit",
    "requestThrottleStallTime",
    "secureClientPort",
    "secureClientPortAddress",
    "serializeLastProcessedZxid.enabled",
    "serverCnxnFactory",
    "snapSizeLimitInKb",
    "sslQuorumReloadCertFiles",
    "superUser",
    "syncEnabled",
    "tcpKeepAlive",
    "throttledOpWaitTime",
    "txnLogSizeLimitInKb",
];

/// Prefixes of ZooKeeper keys without effect.
const NO_EFFECT_PREFIXES: &[&str] = &[
    "X509AuthenticationProvider.superUser.",
    "admin.",
    "authProvider.",
    "commitProcessor.",
    "connection",
    "fastleader.",
    "leader.",
    "learner.",
    "metricsProvider.",
    "multiAddress.",
    "nio.",
    "observer.",
    "quorum.",
    "snapshot.",
    "ssl.",
    "superUser.",
    "znode.container.",
];

/// Classifies `key`. A leading `zookeeper.`, as in a system property, is ignored.
pub fn known(key: &str) -> Known {
    let key = plain(key);
    if EFFECTIVE.contains(&key) || key.starts_with("server.") {
        Known::Effective
    } else if GUARDS.contains(&key) {
        Known::Guard
    } else if key.starts_with("group.") || key.starts_with("weight.") {
        Known::Hierarchy
    } else if NO_EFFECT.contains(&key) || NO_EFFECT_PREFIXES.iter().any(|p| key.starts_with(p)) {
        Known::NoEffect
    } else {
        Known::Unknown
    }
}

/// Whether the key is that of a server line, `server.N`.
pub fn is_server_line(key: &str) -> bool {
    plain(key).starts_with("server.")
}

pub fn plain(key: &str) -> &str {
    key.strip_prefix("zookeeper.").unwrap_or(key)
}

/// The known key most similar to `key`, within an edit distance of a third of its length.
pub fn nearest(key: &str) -> Option<&'static str> {
    let key = plain(key);
    let near =
        EFFECTIVE.iter().chain(GUARDS).chain(NO_EFFECT).map(|known| (distance(key, known), *known)).min()?;
    (near.0 <= key.chars().count().div_ceil(3)).then_some(near.1)
}

/// Edit distance, ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_stands_in_two_tables() {
        let mut all: Vec<_> = EFFECTIVE.iter().chain(GUARDS).chain(NO_EFFECT).collect();
        let total = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), total);
    }

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        assert_eq!(nearest("tickTme"), Some("tickTime"));
        assert_eq!(nearest("maxClientCnxn"), Some("maxClientCnxns"));
        assert_eq!(nearest("datadir"), Some("dataDir"));
        assert_eq!(nearest("zzzzzz"), None);
    }

    #[test]
    fn what_a_real_ensemble_sets_is_no_unknown_key() {
        for key in ["cnxTimeout", "quorumCnxnTimeoutMs", "electionPortBindRetry", "learner.asyncSending"] {
            assert_eq!(known(key), Known::NoEffect, "{key}");
        }
        for key in
            ["leader.maxConcurrentSnapSyncs", "zookeeper.nio.numWorkerThreads", "observer.reconnectDelayMs"]
        {
            assert_eq!(known(key), Known::NoEffect, "{key}");
        }
    }

    #[test]
    fn system_property_spelling_is_the_same_key() {
        assert_eq!(known("zookeeper.skipACL"), Known::Effective);
        assert_eq!(known("server.1"), Known::Effective);
        assert_eq!(known("weight.1"), Known::Hierarchy);
        assert_eq!(known("frobnicate"), Known::Unknown);
    }
}
