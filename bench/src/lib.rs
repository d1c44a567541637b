//! Benchmarks of Paddock: what the `paddock-bench` binary and the criterion benches share.

pub mod echo;
