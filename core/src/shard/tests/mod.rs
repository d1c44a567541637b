//! Shards over the in-process loop, beside a consensus core that is a state machine and nothing else.

mod ensemble;
mod hostile;
mod order;
mod protocol;
mod read_only;
mod rig;
mod watches;
