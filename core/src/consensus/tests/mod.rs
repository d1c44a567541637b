//! The core as a whole, on a disk that fails, fills up and loses power. Each file is a hazard.

mod backpressure;
mod catching_up;
mod checkpoints;
mod cluster;
mod departed;
mod disks;
mod ensemble;
mod founding;
mod full_disks;
mod ids;
mod old_copy;
mod place;
mod raft;
mod recovery;
mod restarts;
mod rig;
mod sessions;
mod turns;
