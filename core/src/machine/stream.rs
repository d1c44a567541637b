//! The stream of each node's commands: every command once and in order.
//!
//! Owns (incarnation, seq) of the last command accepted from each of at most 254 nodes.
//! Never holds a result: the node that submitted the command gets its result by applying the log itself.
//! Correct because an accepted command advances its stream by exactly one, whatever its effect. A command
//! proposed twice is therefore recognised, and a missing one cannot be passed over.
#![forbid(unsafe_code)]

use super::{ApplyError, Sums};
use crate::command::ArchivedCommand;
use crate::mutation::{Mutation, mutated};
use std::collections::BTreeMap;

/// Incarnation and number of the last command accepted from a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamPosition {
    pub incarnation: u64,
    /// Number of the command, from 1 in each incarnation.
    pub seq: u64,
}

impl StreamPosition {
    /// Whether the stream was reset and no command was accepted since.
    pub fn is_anew(self) -> bool {
        self == ANEW
    }
}

/// Position of a stream that was reset. No incarnation is zero.
const ANEW: StreamPosition = StreamPosition { incarnation: 0, seq: 0 };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// The command is the next one of its stream.
    Apply,
    /// The command was accepted before, or its node has restarted since.
    Skip,
}

/// The streams of all nodes.
#[derive(Clone, Default, Debug)]
pub(super) struct CommandStreams {
    last: BTreeMap<u8, StreamPosition>,
}

impl CommandStreams {
    /// Advances the command's stream, unless the command must be skipped.
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
            // A late command of the former data directory: no client waits for it.
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

    /// Resets the stream of a node with a new data directory, which counts its starts from 1. The first
    /// incarnation to come is accepted.
    pub(super) fn begin_anew(&mut self, node: u8, sums: &mut Sums) {
        if self.last.contains_key(&node) {
            self.set(node, ANEW, sums);
        }
    }

    /// Replaces the position of a node's stream.
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
