//! Feeds arbitrary bytes to every decoder of the client protocol. The property is `wire::fuzz_one`, which
//! the property tests run on a stable compiler too.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| paddock_transport::wire::fuzz_one(data));
