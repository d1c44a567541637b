//! Messages between the shards of one node.
//!
//! Owns one mailbox per shard, and the client lists that several shards fill for one four-letter word.
//!
//! Never on the path of a request: messages are sent when a client reattaches and when an operator asks
//! for the list of clients. Each lock is held for one operation on a queue.
//!
//! Correct because losing a message is harmless. A mailbox holds [`MAILBOX_MESSAGES_MAX`] messages and
//! drops the oldest beyond that. A lost eviction only delays the closing of a connection whose commands
//! the attachment number already refuses. A client list that stays incomplete is answered after a bounded
//! wait, with the lines present by then.

use super::Shard;
use super::address_limit::AddressLimit;
use super::serving_mode::ServingMode;
use crate::admin::text::ClientLine;
use paddock_transport::engine::Now;
use paddock_transport::io::Io;
use paddock_transport::wake::Waker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Messages in one mailbox: more than one turn of another shard can send.
const MAILBOX_MESSAGES_MAX: usize = 4096;

/// A request from one shard to another.
pub(super) enum ShardMessage {
    /// Close the connection of this session, if the receiver has it.
    Evict(i64),
    /// Add the receiver's clients to the list.
    ListClients(Arc<ClientList>),
}

/// The clients of all shards but the asking one, collected for a four-letter word.
#[derive(Debug)]
pub(super) struct ClientList {
    asker: u16,
    /// Shards that have not answered.
    missing: AtomicUsize,
    lines: Mutex<Vec<ClientLine>>,
}

impl ClientList {
    /// Whether every shard has answered.
    pub fn is_complete(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }
    /// Takes the lines that have arrived.
    pub fn take_lines(&self) -> Vec<ClientLine> {
        std::mem::take(&mut *lock(&self.lines))
    }
}

struct Mailbox {
    /// The mailbox may hold messages. Every turn reads it, so it is an atomic outside the lock.
    has_mail: AtomicBool,
    messages: Mutex<VecDeque<ShardMessage>>,
    waker: Arc<Waker>,
}

impl Mailbox {
    fn notify(&self) {
        self.has_mail.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// State that the shards of one node share beside the tree.
pub struct Mailboxes {
    mailboxes: Vec<Mailbox>,
    pub(super) addresses: AddressLimit,
    /// The serving mode last written to the node's log, so that only one shard writes each change; 0: none.
    logged_mode: AtomicU8,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under these locks cannot leave a queue half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailboxes {
    /// Mailboxes of the shards whose loops have these wakers, in the order of shard numbers.
    /// `per_address_max` is `maxClientCnxns`; 0: unlimited.
    pub fn new(wakers: Vec<Arc<Waker>>, per_address_max: u32) -> Arc<Self> {
        let mailboxes = wakers
            .into_iter()
            .map(|waker| Mailbox { has_mail: AtomicBool::new(false), messages: Mutex::default(), waker })
            .collect();
        let addresses = AddressLimit::new(per_address_max);
        Arc::new(Self { mailboxes, addresses, logged_mode: AtomicU8::new(0) })
    }

    /// Notes the serving mode of the node. `true`: no shard has noted it since the last change, so the
    /// caller logs it.
    pub(super) fn note_mode(&self, mode: ServingMode) -> bool {
        self.logged_mode.swap(mode as u8, Ordering::Relaxed) != mode as u8
    }

    /// Asks all shards but `from` to close their connection of `session`, if they have one.
    pub(super) fn evict(&self, from: u16, session: i64) {
        self.send(from, || ShardMessage::Evict(session));
    }

    /// Asks all shards but `from` for their clients.
    pub(super) fn request_client_list(&self, from: u16) -> Arc<ClientList> {
        let missing = AtomicUsize::new(self.mailboxes.len().saturating_sub(1));
        let list = Arc::new(ClientList { asker: from, missing, lines: Mutex::default() });
        self.send(from, || ShardMessage::ListClients(list.clone()));
        list
    }

    /// Adds one shard's clients. The last answer wakes the asker.
    pub(super) fn answer_client_list(&self, list: &ClientList, lines: Vec<ClientLine>) {
        lock(&list.lines).extend(lines);
        if list.missing.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(mailbox) = self.mailboxes.get(usize::from(list.asker))
        {
            mailbox.notify();
        }
    }

    fn send(&self, from: u16, message: impl Fn() -> ShardMessage) {
        for (_, mailbox) in self.mailboxes.iter().enumerate().filter(|(n, _)| *n != usize::from(from)) {
            let mut messages = lock(&mailbox.messages);
            if messages.len() >= MAILBOX_MESSAGES_MAX {
                messages.pop_front();
            }
            messages.push_back(message());
            drop(messages);
            mailbox.notify();
        }
    }

    /// Whether the mailbox of `shard` may hold messages, or a client list that it asked for is complete.
    pub(super) fn has_mail(&self, shard: u16) -> bool {
        self.mailboxes.get(usize::from(shard)).is_some_and(|m| m.has_mail.load(Ordering::Acquire))
    }

    /// Takes the messages to `shard`.
    pub(super) fn take(&self, shard: u16) -> VecDeque<ShardMessage> {
        let Some(mailbox) = self.mailboxes.get(usize::from(shard)) else { return VecDeque::new() };
        // Cleared before the queue is taken: a message that arrives in between sets the flag again.
        mailbox.has_mail.store(false, Ordering::Release);
        std::mem::take(&mut *lock(&mailbox.messages))
    }
}

impl Shard {
    /// Handles the messages of other shards.
    pub(super) fn take_mail(&mut self, now: Now, io: &mut Io) {
        if !self.mailboxes.has_mail(self.config.id) {
            return;
        }
        for message in self.mailboxes.take(self.config.id) {
            match message {
                ShardMessage::Evict(session) => {
                    if let Some(slot) = self.sessions.get(&session).copied() {
                        self.close(now, slot, io);
                    }
                }
                ShardMessage::ListClients(list) => {
                    self.mailboxes.answer_client_list(&list, self.client_lines(None));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_reach_the_other_shards_and_never_pile_up() {
        let wakers = (0..3).map(|_| Waker::new().unwrap()).collect();
        let all = Mailboxes::new(wakers, 0);
        for session in 0..MAILBOX_MESSAGES_MAX as i64 + 5 {
            all.evict(1, session);
        }
        assert!(all.has_mail(0) && !all.has_mail(1) && all.has_mail(2));
        let messages = all.take(0);
        assert!(matches!(messages[0], ShardMessage::Evict(5)));
        assert_eq!(messages.len(), MAILBOX_MESSAGES_MAX);
        assert!(!all.has_mail(0));
    }
}
