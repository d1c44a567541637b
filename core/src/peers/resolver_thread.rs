//! Names resolved by a thread of its own, because the system's resolver may block for any time.
//!
//! Owns the thread, started with the first name that is not numeric, and the channels to it.
//!
//! Never makes the loop wait: both channels hold one request of every node, and a node has one at a time.
//!
//! Correct because no answer is slept through. The thread pushes it before it wakes the loop, and the loop
//! checks [`Resolver::is_ready`] before it sleeps.

#![forbid(unsafe_code)]

use super::resolver::{Resolver, numeric};
use crate::members::NODE_MAX;
use crossbeam_channel::{Receiver, Sender, bounded};
use paddock_transport::wake::Waker;
use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Capacity of both channels: one request of each node, and one answer.
const QUESTIONS_MAX: usize = NODE_MAX as usize + 1;

type Answer = (u8, Result<SocketAddr, String>);

struct Question {
    node: u8,
    host: String,
    port: u16,
    /// Selects one of several addresses, in rotation, so that an unreachable one does not hide the others.
    turn: usize,
}

/// See the module doc.
pub struct ThreadResolver {
    waker: Arc<Waker>,
    /// The thread's channel ends, until it is started.
    ends: Option<(Receiver<Question>, Sender<Answer>)>,
    questions: Sender<Question>,
    answers: Receiver<Answer>,
    /// Answers for numeric addresses, which need no thread.
    inline: VecDeque<Answer>,
    /// By node: whether a request is unanswered.
    waiting: Vec<bool>,
    turns: Vec<usize>,
}

impl ThreadResolver {
    /// `waker` wakes the loop that polls this resolver.
    pub fn new(waker: Arc<Waker>) -> Self {
        let (questions, questions_end) = bounded(QUESTIONS_MAX);
        let (answers_end, answers) = bounded(QUESTIONS_MAX);
        Self {
            waker,
            ends: Some((questions_end, answers_end)),
            questions,
            answers,
            inline: VecDeque::new(),
            waiting: vec![false; usize::from(u8::MAX) + 1],
            turns: vec![0; usize::from(u8::MAX) + 1],
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let Some((questions, answers)) = self.ends.take() else { return Ok(()) };
        let waker = Arc::clone(&self.waker);
        let (again, started) = ((questions.clone(), answers.clone()), std::thread::Builder::new());
        // Nothing joins the thread. It ends once its resolver is dropped, however long the last answer
        // takes.
        let started = started.name("paddock-resolver".to_owned()).spawn(move || {
            for question in questions {
                if answers.send(answer(&question)).is_err() {
                    return;
                }
                waker.wake();
            }
        });
        started.map(|_| ()).map_err(|e| {
            self.ends = Some(again);
            format!("no thread could be started to resolve names: {e}")
        })
    }
}

impl Resolver for ThreadResolver {
    fn request(&mut self, node: u8, host: &str, port: u16) {
        let at = usize::from(node);
        if self.waiting[at] {
            return;
        }
        if let Some(ip) = numeric(host) {
            return self.inline.push_back((node, Ok(SocketAddr::new(ip, port))));
        }
        let turn = self.turns[at];
        self.turns[at] = turn.wrapping_add(1);
        let asked = self.start().and_then(|()| {
            let question = Question { node, host: host.to_owned(), port, turn };
            self.questions.try_send(question).map_err(|_| "the thread that resolves names is gone".to_owned())
        });
        match asked {
            Ok(()) => self.waiting[at] = true,
            Err(why) => self.inline.push_back((node, Err(why))),
        }
    }

    fn poll(&mut self) -> Option<Answer> {
        if let Some(answer) = self.inline.pop_front() {
            return Some(answer);
        }
        let answer = self.answers.try_recv().ok()?;
        self.waiting[usize::from(answer.0)] = false;
        Some(answer)
    }

    fn is_ready(&self) -> bool {
        !self.inline.is_empty() || !self.answers.is_empty()
    }
}

fn answer(question: &Question) -> Answer {
    let found = (question.host.as_str(), question.port).to_socket_addrs();
    let chosen = found.map_err(|e| e.to_string()).and_then(|all| {
        let all: Vec<SocketAddr> = all.collect();
        match all.is_empty() {
            true => Err("the name has no address".to_owned()),
            false => Ok(all[question.turn % all.len()]),
        }
    });
    (question.node, chosen.map_err(|e| format!("'{}' cannot be resolved: {e}", question.host)))
}
