//! Tests of the whole core, on disks that fail, fill up and lose power. Each file covers one hazard.

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
