//! The `paddock-load` binary.

fn main() {}
