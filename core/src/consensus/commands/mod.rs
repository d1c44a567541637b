//! A command's way from the ring of its shard to an entry of the log.
//!
//! Owns the submission queue, the pending commands of this node by number, and the leader's queue of each node. Never decides which node
//! leads. Correct because each node numbers what it forwards as one stream, and the leader takes only the next number of a stream.

pub(super) mod leader_queue;
pub(super) mod pending;
pub(super) mod submissions;
use super::control::StopReason;
use crate::command::Batch;

/// A batch as it goes into the log.
pub(in crate::consensus) fn encode_batch(batch: &Batch) -> Result<Vec<u8>, StopReason> {
    rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(batch, Vec::new())
        .map_err(|e| StopReason::LogFailed(format!("a batch cannot be written down: {e}")))
}
