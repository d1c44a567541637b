//! `paddock-sim`: runs seeds of the simulation. See `paddock_core::sim`.

fn main() {}
