//! Opcodes (spec 01 section 4).

/// The part of the server that answers a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Ordered through the log.
    Write,
    /// A barrier: waits for the log.
    Sync,
    /// Answered by the receiving node alone, from its tree or the state of the connection.
    Read,
    /// Authentication, answered before the request pipeline. An undecodable request closes the connection
    /// without a reply.
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
        /// The opcode's class; `None` for one that a client may not send. Such a request is answered with
        /// zxid -1 and error -6, and its connection is closed.
        pub const fn class(opcode: i32) -> Option<Class> {
            match opcode { $($konst => Some(Class::$class),)* _ => None }
        }
    };
}

opcodes! {
    /// create: answers the path.
    CREATE = 1, "create", Write;
    DELETE = 2, "delete", Write;
    EXISTS = 3, "exists", Read;
    GET_DATA = 4, "getData", Read;
    SET_DATA = 5, "setData", Write;
    GET_ACL = 6, "getACL", Read;
    SET_ACL = 7, "setACL", Write;
    /// getChildren: answers names only.
    GET_CHILDREN = 8, "getChildren", Read;
    SYNC = 9, "sync", Sync;
    PING = 11, "ping", Read;
    /// getChildren2: answers names and Stat.
    GET_CHILDREN2 = 12, "getChildren2", Read;
    /// check: for use within multi. Alone it is refused with -6 (spec 01 section 6.5).
    CHECK = 13, "check", Write;
    MULTI = 14, "multi", Write;
    /// create2: answers path and Stat.
    CREATE2 = 15, "create2", Write;
    RECONFIG = 16, "reconfig", Write;
    CHECK_WATCHES = 17, "checkWatches", Read;
    REMOVE_WATCHES = 18, "removeWatches", Read;
    CREATE_CONTAINER = 19, "createContainer", Write;
    /// deleteContainer: meant for the server's own container manager.
    DELETE_CONTAINER = 20, "deleteContainer", Write;
    CREATE_TTL = 21, "createTTL", Write;
    MULTI_READ = 22, "multiRead", Read;
    AUTH = 100, "auth", Local;
    SET_WATCHES = 101, "setWatches", Read;
    SASL = 102, "sasl", Local;
    GET_EPHEMERALS = 103, "getEphemerals", Read;
    GET_ALL_CHILDREN_NUMBER = 104, "getAllChildrenNumber", Read;
    /// setWatches2: includes persistent watches.
    SET_WATCHES2 = 105, "setWatches2", Read;
    ADD_WATCH = 106, "addWatch", Read;
    WHO_AM_I = 107, "whoAmI", Read;
    CLOSE_SESSION = -11, "closeSession", Write;
}

/// ZooKeeper's number for notifications to clients. Invalid from clients.
pub const NOTIFICATION: i32 = 0;
/// Type of an error result in a multi. Invalid from clients as a request.
pub const ERROR: i32 = -1;
/// Internal to ZooKeeper's log. Invalid from clients.
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
