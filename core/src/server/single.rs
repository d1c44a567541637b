//! Consensus core and shard on one thread, for a machine with one usable core.
//!
//! Owns the order of the two within a turn. Owns which connections are the core's: those that it dialled,
//! and those of the peers' listener.
//! Never looks into a connection.
//! Correct because core and shard use the same rings as between threads. The core runs first, so that a
//! durable write is answered in this turn. It runs again after the shard, so that forwarded writes reach the
//! disk in this turn.

#![forbid(unsafe_code)]

use paddock_transport::engine::{Closed, ConnId, Engine, Next, Now, Origin};
use paddock_transport::io::Io;

/// `core` and `shard` as one engine.
pub(super) struct Pair<C, S> {
    pub(super) core: C,
    pub(super) shard: S,
    /// Number of the peers' listener, if there is one.
    pub(super) peers: Option<u16>,
    /// The core's connections: one for each peer.
    links: Vec<ConnId>,
}

impl<C, S> Pair<C, S> {
    pub(super) fn new(core: C, shard: S, peers: Option<u16>) -> Self {
        Self { core, shard, peers, links: Vec::new() }
    }

    fn is_link(&self, conn: ConnId) -> bool {
        self.links.contains(&conn)
    }
}

impl<C: Engine, S: Engine> Engine for Pair<C, S> {
    fn opened(&mut self, now: Now, conn: ConnId, origin: &Origin, io: &mut Io) {
        // A shard never dials.
        if origin.listener.is_none_or(|listener| Some(listener) == self.peers) {
            self.links.push(conn);
            self.core.opened(now, conn, origin, io);
        } else {
            self.shard.opened(now, conn, origin, io);
        }
    }
    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8], io: &mut Io) {
        if self.is_link(conn) {
            self.core.received(now, conn, bytes, io);
        } else {
            self.shard.received(now, conn, bytes, io);
        }
    }
    fn eof(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        if self.is_link(conn) {
            self.core.eof(now, conn, io);
        } else {
            self.shard.eof(now, conn, io);
        }
    }
    fn drained(&mut self, now: Now, conn: ConnId, io: &mut Io) {
        if self.is_link(conn) {
            self.core.drained(now, conn, io);
        } else {
            self.shard.drained(now, conn, io);
        }
    }
    fn closed(&mut self, now: Now, conn: ConnId, why: Closed, io: &mut Io) {
        if self.is_link(conn) {
            self.links.retain(|link| *link != conn);
        } else {
            self.shard.closed(now, conn, why, io);
        }
        // A failed dial was never opened, and the core ignores connections that it does not know.
        self.core.closed(now, conn, why, io);
    }
    fn turn(&mut self, now: Now, io: &mut Io) -> Next {
        let before = self.core.turn(now, io);
        let shard = self.shard.turn(now, io);
        if before == Next::Stop {
            return Next::Stop;
        }
        let core = self.core.turn(now, io);
        soonest(shard, core)
    }
    fn late(&mut self, now: Now, io: &mut Io) {
        // The core's statements stay valid: they carry terms, and numbers of rounds that other nodes began.
        self.shard.late(now, io);
    }
    fn park(&mut self) -> bool {
        if !self.core.park() {
            return false;
        }
        let parked = self.shard.park();
        if !parked {
            self.core.unpark();
        }
        parked
    }
    fn unpark(&mut self) {
        self.core.unpark();
        self.shard.unpark();
    }
}

fn soonest(a: Next, b: Next) -> Next {
    match (a, b) {
        (Next::Stop, _) | (_, Next::Stop) => Next::Stop,
        (Next::Again, _) | (_, Next::Again) => Next::Again,
        (Next::Sleep { deadline_ns: a }, Next::Sleep { deadline_ns: b }) => {
            Next::Sleep { deadline_ns: [a, b].into_iter().flatten().min() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_sleeps_until_the_earlier_deadline_and_not_at_all_if_one_has_work() {
        let sleep = |deadline_ns| Next::Sleep { deadline_ns };
        assert_eq!(soonest(sleep(Some(5)), sleep(Some(3))), sleep(Some(3)));
        assert_eq!(soonest(sleep(None), sleep(Some(3))), sleep(Some(3)));
        assert_eq!(soonest(sleep(None), sleep(None)), sleep(None));
        assert_eq!(soonest(sleep(None), Next::Again), Next::Again);
        assert_eq!(soonest(Next::Again, Next::Stop), Next::Stop);
    }
}
