//! Deliberate defects, by which the simulation shows that each of its checkers can fail.
//!
//! Owns the list of [`Mutation`]s and, for each thread, the active defect and the entries that its nodes
//! applied.
//!
//! Never costs anything in a release build. Without the feature `sim`, and outside tests, every function
//! here is empty and inlined.
//!
//! Correct because a node reads this state only through [`mutated`] and [`apply_time_ms`]. Both change
//! nothing unless the simulation switched a defect on for this thread.

#![forbid(unsafe_code)]

macro_rules! mutations {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $checker:literal, $nodes:literal;)*) => {
        /// A deliberate defect that a checker of the simulation has to catch.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutation { $($(#[doc = $doc])* $name),* }

        impl Mutation {
            pub const ALL: &'static [Mutation] = &[$(Mutation::$name),*];

            /// The defect's name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Mutation::$name => $text),* }
            }

            /// The checkers that may catch the defect first, separated by `|`.
            pub const fn caught_by(self) -> &'static str {
                match self { $(Mutation::$name => $checker),* }
            }

            /// The smallest number of voters with which the defect can show.
            pub const fn nodes_min(self) -> usize {
                match self { $(Mutation::$name => $nodes),* }
            }
        }
    };
}

mutations! {
    /// An entry counts as durable once it is handed to the log, before the log syncs it.
    AcknowledgeUnsynced = "acknowledge-unsynced", "durability|replicas|history", 1;
    /// A follower acknowledges entries that it has not synced, so a majority may have synced nothing.
    CountUnsynced = "count-unsynced", "durability|replicas|history|panic", 3;
    /// Some watch notifications are not sent.
    DropNotification = "drop-notification", "watches", 1;
    /// Some watch notifications are sent twice.
    DoubleNotification = "double-notification", "watches", 1;
    /// Heartbeats do not keep a session alive.
    ExpireEarly = "expire-early", "expiry", 1;
    /// A session whose timeout has passed never expires.
    NeverExpire = "never-expire", "expiry|liveness", 1;
    /// Closing a session leaves one of its ephemeral nodes.
    LeaveEphemeral = "leave-ephemeral", "history|ephemerals|watches", 1;
    /// The sequence number of a new node is the number of children.
    ReuseSequence = "reuse-sequence", "sequences|history", 1;
    /// Apply reads the node's own clock.
    ApplyByClock = "apply-by-clock", "history|replicas|durability", 1;
    /// A read does not wait for earlier writes of its session.
    OvertakeWrites = "overtake-writes", "session|history", 1;
    /// The reply to a write carries a wrong version.
    WrongVersion = "wrong-version", "history", 1;
    /// Some replies are never sent.
    LoseReply = "lose-reply", "liveness|session", 1;
    /// A sync is answered without waiting for its read index.
    StaleSync = "stale-sync", "order", 3;
    /// A leader proposes some commands twice, and the machine does not check their numbers.
    ApplyTwice = "apply-twice", "history", 3;
    /// A node votes without remembering its vote, and all nodes campaign at once.
    ForgetVote = "forget-vote", "durability|replicas|history|ephemerals|panic", 3;
    /// A node confirms its own read rounds, without the quorum.
    StaleRound = "stale-round", "order|leases", 3;
    /// A listener that promises linearizable reads does not wait for a round.
    StaleListener = "stale-listener", "order", 3;
    /// A round is confirmed at an index that is too low.
    WrongReadIndex = "wrong-read-index", "order", 3;
    /// A node serves a session after the session's lease ran out.
    IgnoreLease = "ignore-lease", "leases", 3;
    /// An expiry that a deposed leader found keeps its effect when it is sent again.
    KeepExpiry = "keep-expiry", "expiry", 3;
    /// A leader with a full disk gets no reads confirmed.
    MuteWhenFull = "mute-when-full", "reading", 3;
    /// A leader treats each snapshot that a node has received as a failed transfer.
    ForgetArrival = "forget-arrival", "progress", 3;
    /// A node that refuses writes also refuses those that the leader already has.
    RefuseLent = "refuse-lent", "history|session", 3;
}

/// One entry as a node applied it.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    pub index: u64,
    pub term: u64,
    /// Whether the entry changes the membership.
    pub membership: bool,
    pub payload: bytes::Bytes,
    /// The machine's zxid after the entry.
    pub zxid: i64,
    /// The machine's digest after the entry.
    pub digest: u64,
}

#[cfg(any(test, feature = "sim"))]
mod recording {
    use super::{AppliedEntry, Mutation};
    use std::cell::{Cell, RefCell};

    thread_local! {
        pub(super) static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
        pub(super) static WALL_MS: Cell<i64> = const { Cell::new(0) };
        pub(super) static APPLIED: RefCell<Option<Vec<AppliedEntry>>> = const { RefCell::new(None) };
    }

    /// Switches one defect on for this thread, or all off.
    pub fn mutate(mutation: Option<Mutation>) {
        MUTATION.set(mutation);
    }

    /// Starts or stops recording what this thread's nodes apply.
    pub fn watch_applied(on: bool) {
        APPLIED.set(on.then(Vec::new));
    }

    /// Takes the entries recorded since the last call.
    pub fn take_applied() -> Vec<AppliedEntry> {
        APPLIED.with_borrow_mut(|recorded| recorded.as_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Sets the wall clock of the node that runs now, in milliseconds.
    pub fn set_wall_ms(now_ms: i64) {
        WALL_MS.set(now_ms);
    }
}

#[cfg(any(test, feature = "sim"))]
pub use recording::{mutate, set_wall_ms, take_applied, watch_applied};

/// Whether the defect is switched on for this thread.
#[inline(always)]
pub fn mutated(mutation: Mutation) -> bool {
    #[cfg(any(test, feature = "sim"))]
    return recording::MUTATION.get() == Some(mutation);
    #[cfg(not(any(test, feature = "sim")))]
    {
        let _ = mutation;
        false
    }
}

/// Records an applied entry. `entry` is called only while a simulation records.
#[inline(always)]
pub fn applied(entry: impl FnOnce() -> AppliedEntry) {
    #[cfg(any(test, feature = "sim"))]
    recording::APPLIED.with_borrow_mut(|recorded| {
        if let Some(recorded) = recorded {
            recorded.push(entry());
        }
    });
    #[cfg(not(any(test, feature = "sim")))]
    let _ = entry;
}

/// The batch's time, or the node's own clock under the defect [`Mutation::ApplyByClock`].
#[inline(always)]
pub fn apply_time_ms(batch_ms: i64) -> i64 {
    #[cfg(any(test, feature = "sim"))]
    if mutated(Mutation::ApplyByClock) {
        return recording::WALL_MS.get();
    }
    batch_ms
}
