//! The `paddock-bench` binary.

fn main() {}
