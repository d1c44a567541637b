//! Four-letter words: collecting the facts that their answers need.
//!
//! Owns each connection that sent a word until the answer is written.
//!
//! Never blocks. A word that lists clients asks the node's other shards through [`super::mailboxes`]. The
//! shard answers when all have replied, or after [`CLIENT_LIST_WAIT_MAX_NS`] with the lines present by
//! then.
//!
//! Correct because pending words are answered in the order of their deadlines: an incomplete list delays
//! the words behind it until its own deadline at most.

use super::Shard;
use super::config::CLIENT_LIST_WAIT_MAX_NS;
use super::connection::{Connection, ConnectionPhase};
use super::mailboxes::ClientList;
use super::serving_mode::ServingMode;
use crate::admin::text::{self, ClientLine, Facts, Serving};
use crate::admin::words::Word;
use crate::freshness::ALWAYS;
use crate::submit::Submit;
use paddock_transport::engine::{ConnId, Now};
use paddock_transport::io::Io;
use std::sync::Arc;

/// A word that waits for the clients of other shards.
pub(super) struct PendingWord {
    conn: ConnId,
    word: Word,
    list: Arc<ClientList>,
    /// The word is answered by then, with an incomplete list if need be.
    pub until_ns: u64,
}

impl Shard {
    /// Answers a word: at once, or after the other shards have listed their clients.
    pub(super) fn take_word(&mut self, now: Now, slot: u32, word: Word, io: &mut Io) {
        let lists = matches!(word, Word::Stat | Word::Cons) && self.config.words.allows(word);
        if !lists {
            self.answer_word(now, slot, word, Vec::new(), io);
            return;
        }
        let Some(connection) = self.connections.slot(slot) else { return };
        connection.phase = ConnectionPhase::AwaitingClientList;
        connection.input = Vec::new();
        let (conn, until_ns) = (connection.id, now.mono_ns + CLIENT_LIST_WAIT_MAX_NS);
        let list = self.mailboxes.request_client_list(self.config.id);
        self.pending_words.push_back(PendingWord { conn, word, list, until_ns });
        self.answer_pending_words(now, io);
    }

    /// Answers the pending words whose list is complete or overdue.
    pub(super) fn answer_pending_words(&mut self, now: Now, io: &mut Io) {
        while let Some(pending) = self.pending_words.front() {
            if !pending.list.is_complete() && now.mono_ns < pending.until_ns {
                return;
            }
            let Some(PendingWord { conn, word, list, .. }) = self.pending_words.pop_front() else { return };
            let waits = |c: &mut Connection| c.phase == ConnectionPhase::AwaitingClientList;
            if self.connections.find(conn).is_some_and(waits) {
                let slot = conn.index() as u32;
                let mut lines = self.client_lines(Some(slot));
                lines.extend(list.take_lines());
                self.answer_word(now, slot, word, lines, io);
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
            serving: match self.serving.mode {
                ServingMode::Full => Serving::Full,
                ServingMode::ReadOnly => Serving::ReadOnly,
                ServingMode::Closed => Serving::Nobody,
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
        if asks && !self.submit_queue.push_untracked(Submit::Lead) {
            answer = "busy; try again\n".to_owned();
        }
        if let Some(out) = self.connections.slot(slot).and_then(|c| io.out(c.id)) {
            out.bytes().extend_from_slice(answer.as_bytes());
        }
        self.cells().words_answered.add(1);
        self.close(now, slot, io);
    }

    /// One line per client of this shard. `asking` is the slot of the connection that sent the word, if
    /// it is one of them.
    pub(super) fn client_lines(&self, asking: Option<u32>) -> Vec<ClientLine> {
        let line = |c: &Connection| ClientLine {
            peer: c.peer.to_string(),
            interest: if Some(c.id.index() as u32) == asking { 0 } else { 1 | u8::from(c.stalled) << 2 },
            queued: c.pending.len() as u64,
            received: c.received,
            sent: c.sent,
            session: (c.session != 0).then_some((c.session, c.timeout_ms)),
            established_ms: c.established_ms,
        };
        self.connections.iter().filter(|c| c.phase != ConnectionPhase::Closing).map(line).collect()
    }
}
