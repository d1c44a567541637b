//! Opcodes (spec 01 section 4).

/// Who answers a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Goes through the log.
    Write,
    /// A barrier: waits for the log.
    Sync,
    /// Answered from the tree or the connection of the node that got it.
    Read,
    /// Answered before the request pipeline: authentication. If undecodable, the connection is closed without a
    /// reply.
    Local,
}

macro_rules! opcodes {
    ($($(#[$doc:meta])* $konst:ident = $value:expr, $name:literal, $class:ident;)*) => {
        $($(#[$doc])* pub const $konst: i32 = $value;)*
        /// Every opcode that a client may send, with name and class.
        pub const ALL: &[(i32, &str, Class)] = &[$(($konst, $name, Class::$class)),*];
        /// The opcode's name; `None` for one that a client may not send.
        pub const fn name(opcode: i32) -> Option<&'static str> {
            match opcode { $($konst => Some($name),)* _ => None }
        }
        /// The opcode's class; `None` for one that a client may not send: answered with zxid -1 and error -6, then
        /// closed.
        pub const fn class(opcode: i32) -> Option<Class> {
            match opcode { $($konst => Some(Class::$class),)* _ => None }
        }
    };
}

opcodes! {
    /// create: answers the path.
    CREATE = 1, "create", Write;
    /// delete.
    DELETE = 2, "delete", Write;
    /// exists.
    EXISTS = 3, "exists", Read;
    /// getData.
    GET_DATA = 4, "getData", Read;
    /// setData.
    SET_DATA = 5, "setData", Write;
    /// getACL.
    GET_ACL = 6, "getACL", Read;
    /// setACL.
    SET_ACL = 7, "setACL", Write;
    /// getChildren: names only.
    GET_CHILDREN = 8, "getChildren", Read;
    /// sync.
    SYNC = 9, "sync", Sync;
    /// ping.
    PING = 11, "ping", Read;
    /// getChildren2: names and Stat.
    GET_CHILDREN2 = 12, "getChildren2", Read;
    /// check: exists for multi; alone it is refused with -6 (spec 01 section 6.5).
    CHECK = 13, "check", Write;
    /// multi.
    MULTI = 14, "multi", Write;
    /// create2: answers path and Stat.
    CREATE2 = 15, "create2", Write;
    /// reconfig.
    RECONFIG = 16, "reconfig", Write;
    /// checkWatches.
    CHECK_WATCHES = 17, "checkWatches", Read;
    /// removeWatches.
    REMOVE_WATCHES = 18, "removeWatches", Read;
    /// createContainer.
    CREATE_CONTAINER = 19, "createContainer", Write;
    /// deleteContainer: meant for the server's own container manager.
    DELETE_CONTAINER = 20, "deleteContainer", Write;
    /// createTTL.
    CREATE_TTL = 21, "createTTL", Write;
    /// multiRead.
    MULTI_READ = 22, "multiRead", Read;
    /// auth.
    AUTH = 100, "auth", Local;
    /// setWatches.
    SET_WATCHES = 101, "setWatches", Read;
    /// sasl.
    SASL = 102, "sasl", Local;
    /// getEphemerals.
    GET_EPHEMERALS = 103, "getEphemerals", Read;
    /// getAllChildrenNumber.
    GET_ALL_CHILDREN_NUMBER = 104, "getAllChildrenNumber", Read;
    /// setWatches2: with persistent watches.
    SET_WATCHES2 = 105, "setWatches2", Read;
    /// addWatch.
    ADD_WATCH = 106, "addWatch", Read;
    /// whoAmI.
    WHO_AM_I = 107, "whoAmI", Read;
    /// closeSession.
    CLOSE_SESSION = -11, "closeSession", Write;
}

/// Server to client in the type field of notifications' framing; invalid from clients.
pub const NOTIFICATION: i32 = 0;
/// Type of an error result in a multi; invalid from clients as a request.
pub const ERROR: i32 = -1;
/// Internal to ZooKeeper's log; invalid from clients.
pub const CREATE_SESSION: i32 = -10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_that_clients_may_not_send_have_no_class() {
        for opcode in [0, 10, 23, 99, 108, 999, -1, -2, -10, i32::MIN, i32::MAX] {
            assert_eq!((class(opcode), name(opcode)), (None, None), "{opcode}");
        }
        for (opcode, n, c) in ALL {
            assert_eq!((name(*opcode), class(*opcode)), (Some(*n), Some(*c)));
        }
    }
}
