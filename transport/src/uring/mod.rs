//! The completion loop.
use crate::engine::Engine;
use crate::event_loop::{Desk, LoopError, LoopKind, LoopOptions};

pub(crate) fn probe(_options: &LoopOptions) -> Result<(), LoopError> {
    Err(LoopError::Unavailable { kind: LoopKind::Uring, reason: "not built in".into(), advice: "use epoll" })
}
pub(crate) fn run(_desk: Desk, _engine: &mut impl Engine) -> Result<(), LoopError> {
    probe(&LoopOptions::default())
}
