//! Once and in order: the numbered stream of each node's commands.
//!
//! Owns (incarnation, seq) of the last command taken, per node. Never holds a result: the node that asked gets it by
//! applying the log itself. It stays correct because a stream advances by exactly one per command taken, with effect
//! or without, so what was proposed twice is recognised and what is missing cannot be passed over. Bounded by the
//! node ids, of which there are 254.
#![forbid(unsafe_code)]

use super::{ApplyError, Sums};
use crate::command::ArchivedCommand;
use crate::mutation::{Mutation, mutated};
use std::collections::BTreeMap;

/// The last command taken of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamPosition {
    /// Incarnation of the node.
    pub incarnation: u64,
    /// Number of the command, from 1 in each incarnation.
    pub seq: u64,
}

impl StreamPosition {
    /// Whether the stream was begun anew and nothing of it was taken since.
    pub fn is_anew(self) -> bool {
        self == ANEW
    }
}

/// Where the stream of a node stands that begins anew. No start has the number zero.
const ANEW: StreamPosition = StreamPosition { incarnation: 0, seq: 0 };

/// What to do with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// It is the next one.
    Apply,
    /// It was taken before, or its node has since started anew.
    Skip,
}

/// All streams.
#[derive(Clone, Default, Debug)]
pub(super) struct Streams {
    last: BTreeMap<u8, StreamPosition>,
}

impl Streams {
    /// Advances the command's stream, or says that it stays where it is.
    pub(super) fn take(&mut self, command: &ArchivedCommand, sums: &mut Sums) -> Result<Turn, ApplyError> {
        let node = command.node;
        let came =
            StreamPosition { incarnation: command.incarnation.to_native(), seq: command.seq.to_native() };
        let last = self.last.get(&node).copied();
        let expected = match last {
            Some(last) if came.incarnation < last.incarnation => return Ok(Turn::Skip),
            Some(last) if came.incarnation == last.incarnation => {
                if came.seq <= last.seq && mutated(Mutation::ApplyTwice) {
                    return Ok(Turn::Apply);
                }
                if came.seq <= last.seq {
                    return Ok(Turn::Skip);
                }
                last.seq + 1
            }
            // The rest of a life that is over: nobody waits for it.
            Some(last) if last.is_anew() && came.seq != 1 => return Ok(Turn::Skip),
            _ => 1,
        };
        if came.seq != expected {
            return Err(ApplyError::StreamGap {
                node,
                incarnation: came.incarnation,
                expected,
                found: came.seq,
            });
        }
        self.set(node, came, sums);
        Ok(Turn::Apply)
    }

    /// The node comes with another data directory, whose starts are counted from one again: whichever comes first counts.
    pub(super) fn begin_anew(&mut self, node: u8, sums: &mut Sums) {
        if self.last.contains_key(&node) {
            self.set(node, ANEW, sums);
        }
    }

    /// Puts a stream where it stands.
    pub(super) fn set(&mut self, node: u8, position: StreamPosition, sums: &mut Sums) {
        let before = self.last.insert(node, position);
        sums.replace_stream(node, before, position);
    }

    pub(super) fn get(&self, node: u8) -> Option<StreamPosition> {
        self.last.get(&node).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, StreamPosition)> + '_ {
        self.last.iter().map(|(node, position)| (*node, *position))
    }
}
