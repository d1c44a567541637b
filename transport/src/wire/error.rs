//! Error codes of replies (spec 01 section 7).

macro_rules! codes {
    ($($(#[$doc:meta])* $konst:ident = $value:expr, $name:literal;)*) => {
        $($(#[$doc])* pub const $konst: i32 = $value;)*
        /// Every code with its name, in the order of the specification.
        pub const ALL: &[(i32, &str)] = &[$(($konst, $name)),*];
    };
}

codes! {
    OK = 0, "Ok";
    /// A write that Paddock refused before ordering it.
    SYSTEM_ERROR = -1, "SystemError";
    /// In a multi: ops behind the one that failed.
    RUNTIME_INCONSISTENCY = -2, "RuntimeInconsistency";
    /// Never sent to clients.
    DATA_INCONSISTENCY = -3, "DataInconsistency";
    /// Made by clients only.
    CONNECTION_LOSS = -4, "ConnectionLoss";
    /// The request could not be decoded. The connection stays open.
    MARSHALLING_ERROR = -5, "MarshallingError";
    /// Unknown opcode (the connection is closed), or a feature that is off.
    UNIMPLEMENTED = -6, "Unimplemented";
    /// Made by clients only.
    OPERATION_TIMEOUT = -7, "OperationTimeout";
    /// Invalid path, flags, ttl, ….
    BAD_ARGUMENTS = -8, "BadArguments";
    /// Used between servers only.
    UNKNOWN_SESSION = -12, "UnknownSession";
    /// Reconfig: no synced quorum of the new configuration.
    NEW_CONFIG_NO_QUORUM = -13, "NewConfigNoQuorum";
    /// A reconfig is pending already.
    RECONFIG_IN_PROGRESS = -14, "ReconfigInProgress";
    /// Never sent to clients.
    API_ERROR = -100, "APIError";
    /// The znode (for create, the parent) is missing.
    NO_NODE = -101, "NoNode";
    /// The ACL check failed.
    NO_AUTH = -102, "NoAuth";
    BAD_VERSION = -103, "BadVersion";
    /// Create below an ephemeral znode.
    NO_CHILDREN_FOR_EPHEMERALS = -108, "NoChildrenForEphemerals";
    /// Create of an existing path.
    NODE_EXISTS = -110, "NodeExists";
    /// Delete of a znode with children.
    NOT_EMPTY = -111, "NotEmpty";
    /// The session is closing or expired.
    SESSION_EXPIRED = -112, "SessionExpired";
    /// Made by clients only.
    INVALID_CALLBACK = -113, "InvalidCallback";
    /// Null or empty ACL list, unknown scheme, malformed id.
    INVALID_ACL = -114, "InvalidACL";
    /// Authentication failed. The connection is closed afterwards.
    AUTH_FAILED = -115, "AuthFailed";
    /// Internal to the C client.
    CLOSING = -116, "Closing";
    /// Internal to the C client.
    NOTHING = -117, "Nothing";
    /// The session is owned by another server.
    SESSION_MOVED = -118, "SessionMoved";
    /// A write on a read-only server.
    NOT_READ_ONLY = -119, "NotReadOnly";
    /// Ephemeral create on a local session that may not be upgraded.
    EPHEMERAL_ON_LOCAL_SESSION = -120, "EphemeralOnLocalSession";
    /// checkWatches or removeWatches without such a watch.
    NO_WATCHER = -121, "NoWatcher";
    /// Made by clients only.
    REQUEST_TIMEOUT = -122, "RequestTimeout";
    /// Reconfig is switched off.
    RECONFIG_DISABLED = -123, "ReconfigDisabled";
    /// An enforced authentication scheme is missing. The connection is closed afterwards.
    SESSION_CLOSED_REQUIRE_SASL_AUTH = -124, "SessionClosedRequireSaslAuth";
    /// A hard quota is exceeded.
    QUOTA_EXCEEDED = -125, "QuotaExceeded";
    /// The request waited too long in the throttle queue and was not executed.
    THROTTLED_OP = -127, "ThrottledOp";
}

/// The name of a code, as in ZooKeeper's documentation.
pub fn name(code: i32) -> Option<&'static str> {
    ALL.iter().find(|(c, _)| *c == code).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_share_a_code() {
        for (i, (code, first)) in ALL.iter().enumerate() {
            assert_eq!(name(*code), Some(*first));
            assert!(ALL[..i].iter().all(|(c, n)| c != code && n != first), "{code} {first}");
        }
        assert_eq!(name(7), None);
    }
}
