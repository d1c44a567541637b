//! The machine against its specification and against itself: results, rollback, replay and restart.

mod golden;
mod membership;
mod multi;
mod replay;
mod rig;
mod sessions;
mod streams;
mod writes;
