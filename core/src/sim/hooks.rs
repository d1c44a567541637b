//! The few places where the simulation looks into a node, and breaks it on purpose.
//!
//! Owns the list of [`Mutation`]s and a notebook for each thread: what was applied, and which defect is switched on. Never
//! costs anything in a release: without the feature `sim` (and outside tests) every function here is an empty inline one.
//! It stays correct because nothing in a node reads the notebook but [`mutated`] and [`wall_ms`], which change nothing
//! unless a mutation was switched on for this thread.

use crate::consensus::LogEntry;
use crate::machine::Machine;

macro_rules! mutations {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $checker:literal, $nodes:literal;)*) => {
        /// A deliberate defect, by which a checker of the simulation is shown able to fail.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutation { $($(#[doc = $doc])* $name),* }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Mutation] = &[$(Mutation::$name),*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Mutation::$name => $text),* }
            }

            /// The checkers that may catch it first, separated by `|`.
            pub const fn caught_by(self) -> &'static str {
                match self { $(Mutation::$name => $checker),* }
            }

            /// How many voters it takes at least to show.
            pub const fn nodes_min(self) -> usize {
                match self { $(Mutation::$name => $nodes),* }
            }
        }
    };
}

mutations! {
    /// What was handed to the log counts as durable before it is.
    AcknowledgeUnsynced = "acknowledge-unsynced", "durability|replicas|history", 1;
    /// The same in an ensemble: a majority counts that has synced nothing.
    CountUnsynced = "count-unsynced", "durability|replicas|history|panic", 3;
    /// Some notifications are not sent.
    DropNotification = "drop-notification", "watches", 1;
    /// Some notifications are sent twice.
    DoubleNotification = "double-notification", "watches", 1;
    /// Touches do not keep a session alive.
    ExpireEarly = "expire-early", "expiry", 1;
    /// A session that is due is never expired.
    NeverExpire = "never-expire", "expiry|liveness", 1;
    /// Closing a session leaves one of its ephemerals.
    LeaveEphemeral = "leave-ephemeral", "history|ephemerals|watches", 1;
    /// Sequence numbers are the number of children.
    ReuseSequence = "reuse-sequence", "sequences|history", 1;
    /// Apply reads the node's own clock.
    ApplyByClock = "apply-by-clock", "history|replicas|durability", 1;
    /// A read does not wait for the session's writes before it.
    OvertakeWrites = "overtake-writes", "session|history", 1;
    /// A write's result is told with another version.
    WrongVersion = "wrong-version", "history", 1;
    /// Some replies are never sent.
    LoseReply = "lose-reply", "liveness|session", 1;
    /// A sync is answered without waiting for its read index.
    StaleSync = "stale-sync", "order", 3;
    /// A leader orders some commands twice, and the machine does not look at their numbers.
    ApplyTwice = "apply-twice", "history", 3;
    /// A vote is given and not remembered, and all stand for election at once.
    ForgetVote = "forget-vote", "durability|replicas|history|ephemerals|panic", 3;
    /// A node confirms its rounds by itself, without the quorum.
    StaleRound = "stale-round", "order|leases", 3;
    /// A listener that promises linearizable reads does not wait for a round.
    StaleListener = "stale-listener", "order", 3;
    /// A round counts from an index that is too low.
    WrongReadIndex = "wrong-read-index", "order", 3;
    /// Sessions stay served after their lease ran out.
    IgnoreLease = "ignore-lease", "leases", 3;
    /// An expiry found by a leader that was deposed keeps its effect when it is sent again.
    KeepExpiry = "keep-expiry", "expiry", 3;
    /// A leader without room on its disk has no reads confirmed.
    MuteWhenFull = "mute-when-full", "reading", 3;
    /// A leader takes each snapshot that a node has received for a transfer that failed.
    ForgetArrival = "forget-arrival", "progress", 3;
    /// Where writes are refused, those that the leader has are refused as well.
    RefuseLent = "refuse-lent", "history|session", 3;
}

/// One entry as a node applied it.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    /// Position in the log.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Whether it changes the membership.
    pub membership: bool,
    /// Its payload.
    pub payload: bytes::Bytes,
    /// Zxid of the machine behind it.
    pub zxid: i64,
    /// Digest of the machine behind it.
    pub digest: u64,
}

#[cfg(any(test, feature = "sim"))]
mod notebook {
    use super::{AppliedEntry, Mutation};
    use std::cell::{Cell, RefCell};

    thread_local! {
        pub(super) static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
        pub(super) static WALL_MS: Cell<i64> = const { Cell::new(0) };
        pub(super) static APPLIED: RefCell<Option<Vec<AppliedEntry>>> = const { RefCell::new(None) };
    }

    /// Switches a defect on for this thread, or all off.
    pub fn mutate(mutation: Option<Mutation>) {
        MUTATION.set(mutation);
    }

    /// From here on this thread's nodes note what they apply; or no more.
    pub fn watch_applied(on: bool) {
        APPLIED.set(on.then(Vec::new));
    }

    /// Takes what was noted.
    pub fn take_applied() -> Vec<AppliedEntry> {
        APPLIED.with_borrow_mut(|noted| noted.as_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Tells the clock of the node that runs now.
    pub fn set_wall_ms(now_ms: i64) {
        WALL_MS.set(now_ms);
    }
}

#[cfg(any(test, feature = "sim"))]
pub use notebook::{mutate, set_wall_ms, take_applied, watch_applied};

/// Whether this defect is switched on.
#[inline(always)]
pub fn mutated(mutation: Mutation) -> bool {
    #[cfg(any(test, feature = "sim"))]
    return notebook::MUTATION.get() == Some(mutation);
    #[cfg(not(any(test, feature = "sim")))]
    {
        let _ = mutation;
        false
    }
}

/// An entry was applied.
#[inline(always)]
pub fn applied(entry: &LogEntry, machine: &Machine) {
    #[cfg(any(test, feature = "sim"))]
    notebook::APPLIED.with_borrow_mut(|noted| {
        if let Some(noted) = noted {
            noted.push(AppliedEntry {
                index: entry.index,
                term: entry.term,
                membership: entry.kind == crate::consensus::EntryKind::Membership,
                payload: entry.payload.clone(),
                zxid: machine.zxid(),
                digest: machine.digest(),
            });
        }
    });
    #[cfg(not(any(test, feature = "sim")))]
    let _ = (entry, machine);
}

/// The time of a batch, unless the defect [`Mutation::ApplyByClock`] is switched on.
#[inline(always)]
pub fn apply_time_ms(batch_ms: i64) -> i64 {
    #[cfg(any(test, feature = "sim"))]
    if mutated(Mutation::ApplyByClock) {
        return notebook::WALL_MS.get();
    }
    batch_ms
}
