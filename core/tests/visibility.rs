//! Two clients of one node on different shards. A write that was acknowledged to one is visible to the other
//! at once: the reader asks only after the acknowledgement, and must never be answered from before the
//! write.

mod common;

use common::{Process, scratch, transports};

const ROUNDS: u64 = 3000;

fn told_is_visible(transport: &str) {
    let (_guard, dir) = scratch();
    let server = Process::start(
        &dir,
        "maxClientCnxns=0\nforceSync=no\n",
        &["--transport", transport, "--shards", "2"],
    );
    // Connections are assigned to shards in turn, so two consecutive ones are on different shards.
    let mut writer = server.client(30_000);
    let mut reader = server.client(30_000);
    assert_eq!(writer.create("/told", &0u64.to_be_bytes(), 0).unwrap().err, 0);
    for round in 1..=ROUNDS {
        let acknowledged = writer.set("/told", &round.to_be_bytes()).unwrap();
        assert_eq!(acknowledged.err, 0);
        let (data, _) = reader.get("/told").unwrap().unwrap();
        assert_eq!(u64::from_be_bytes(data.try_into().unwrap()), round, "the reader is behind what was told");
        std::mem::swap(&mut writer, &mut reader);
    }
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn what_one_shard_told_the_other_sees_at_once() {
    told_is_visible(transports()[0]);
}

#[test]
fn what_one_shard_told_the_other_sees_at_once_on_epoll() {
    told_is_visible(transports()[1]);
}
