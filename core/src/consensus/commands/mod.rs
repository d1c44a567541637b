//! A command's path from the ring of its shard to an entry of the log.
//!
//! Owns the submission queue, this node's pending commands, and the leader's queue of each node. Never
//! decides which node leads. Correct because each node numbers the commands that it forwards as one stream,
//! and the leader takes only the next number of a stream.

pub(super) mod leader_queue;
pub(super) mod pending;
pub(super) mod submissions;
use super::control::StopReason;
use crate::command::Batch;

/// The batch's bytes as a log entry carries them.
pub(in crate::consensus) fn encode_batch(batch: &Batch) -> Result<Vec<u8>, StopReason> {
    rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(batch, Vec::new())
        .map_err(|e| StopReason::LogFailed(format!("a batch cannot be written down: {e}")))
}
