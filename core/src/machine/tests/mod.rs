//! The machine against the specification, and against itself: what a client is told, what is undone, what a replay
//! or a restart may not change.

mod golden;
mod membership;
mod multi;
mod replay;
mod rig;
mod sessions;
mod streams;
mod writes;
