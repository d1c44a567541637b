//! Four-letter words: gathering what their answers need.
//!
//! Owns the connection that asks until it is answered. Never waits: a word that lists clients calls the roll of the
//! node's other shards and is answered when they have told, or after [`ROLL_CALL_MAX_NS`] with those that have.

use super::Shard;
use super::config::ROLL_CALL_MAX_NS;
use super::connection::{Connection, Phase};
use super::footing::Footing;
use super::neighbours::{Letter, Roll};
use crate::admin::text::{self, ClientLine, Facts, Serving};
use crate::admin::words::Word;
use crate::freshness::ALWAYS;
use crate::submit::Submit;
use paddock_transport::engine::{ConnId, Now};
use paddock_transport::io::Io;
use std::sync::Arc;

/// A word that waits for the roll.
pub(super) struct Asking {
    conn: ConnId,
    word: Word,
    roll: Arc<Roll>,
    pub until_ns: u64,
}

impl Shard {
    /// Answers a word, at once if it needs nobody else.
    pub(super) fn take_word(&mut self, now: Now, slot: u32, word: Word, io: &mut Io) {
        let lists = matches!(word, Word::Stat | Word::Cons) && self.config.words.allows(word);
        if !lists {
            self.answer_word(now, slot, word, Vec::new(), io);
            return;
        }
        let Some(connection) = self.connections.slot(slot) else { return };
        connection.phase = Phase::Asking;
        connection.input = Vec::new();
        let (conn, until_ns) = (connection.id, now.mono_ns + ROLL_CALL_MAX_NS);
        let roll = self.neighbours.call_roll(self.config.id);
        self.asking.push_back(Asking { conn, word, roll, until_ns });
        self.answer_rolls(now, io);
    }

    /// Answers the words whose roll is complete or too late.
    pub(super) fn answer_rolls(&mut self, now: Now, io: &mut Io) {
        while let Some(asking) = self.asking.front() {
            if !asking.roll.is_complete() && now.mono_ns < asking.until_ns {
                return;
            }
            let Some(Asking { conn, word, roll, .. }) = self.asking.pop_front() else { return };
            if self.connections.find(conn).is_some_and(|c| c.phase == Phase::Asking) {
                let slot = conn.index() as u32;
                let mut lines = self.client_lines(Some(slot));
                lines.extend(roll.lines());
                self.answer_word(now, slot, word, lines, io);
            }
        }
    }

    /// Does what other shards asked for.
    pub(super) fn take_letters(&mut self, now: Now, io: &mut Io) {
        if !self.neighbours.rung(self.config.id) {
            return;
        }
        for letter in self.neighbours.letters(self.config.id) {
            match letter {
                Letter::Evict(session) => {
                    if let Some(slot) = self.sessions.get(&session).copied() {
                        self.close(now, slot, io);
                    }
                }
                Letter::Roll(roll) => self.neighbours.answer_roll(&roll, self.client_lines(None)),
            }
        }
    }

    fn answer_word(&mut self, now: Now, slot: u32, word: Word, clients: Vec<ClientLine>, io: &mut Io) {
        self.publish_gauges();
        let facts = Facts {
            stats: &self.stats,
            words: self.config.words,
            conf_lines: &self.config.conf_lines,
            clients: &clients,
            now_ms: now.wall_ms,
            serving: match self.judge.footing {
                Footing::Full => Serving::Full,
                Footing::ReadOnly => Serving::ReadOnly,
                Footing::Closed => Serving::Nobody,
            },
            lag_ms: match self.freshness.fresh_ns() {
                0 => None,
                ALWAYS => Some(0),
                at => Some(now.mono_ns.saturating_sub(at) / 1_000_000),
            },
        };
        let mut answer = if word == Word::TelnetClose { String::new() } else { text::answer(word, &facts) };
        let asks = word == Word::Lead
            && self.config.words.allows(word)
            && text::why_not_to_lead(&self.stats).is_none();
        if asks && !self.uplink.push_plain(Submit::Lead) {
            answer = "busy; try again\n".to_owned();
        }
        if let Some(out) = self.connections.slot(slot).and_then(|c| io.out(c.id)) {
            out.bytes().extend_from_slice(answer.as_bytes());
        }
        self.cells().words_answered.add(1);
        self.close(now, slot, io);
    }

    fn client_lines(&self, asking: Option<u32>) -> Vec<ClientLine> {
        let line = |c: &Connection| ClientLine {
            peer: c.peer.to_string(),
            interest: if Some(c.id.index() as u32) == asking { 0 } else { 1 | u8::from(c.stalled) << 2 },
            queued: c.pending.len() as u64,
            received: c.received,
            sent: c.sent,
            session: (c.session != 0).then_some((c.session, c.timeout_ms)),
            established_ms: c.established_ms,
        };
        self.connections.iter().filter(|c| c.phase != Phase::Closing).map(line).collect()
    }
}
