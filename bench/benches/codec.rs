//! The codec's share of a read: decoding a getData request, and encoding its reply.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paddock_transport::wire::primitives::JUTE_MAX_BUFFER_BYTES_DEFAULT;
use paddock_transport::wire::{
    Limits, ReplyHeader, Request, RequestHeader, Response, Split, Stat, Text, opcode, put_request, reply,
    split,
};
use std::hint::black_box;

/// As long as the paths of the load generator.
const PATH: &str = "/paddock-load/00042/123";
const VALUE_BYTES: usize = 100;
/// Requests per pass: as many as a shard finds in one turn under load.
const BATCH: usize = 32;

fn stat() -> Stat {
    Stat {
        czxid: 0x1_0000_0001,
        mzxid: 0x1_0000_0002,
        ctime: 1_700_000_000_000,
        mtime: 1_700_000_000_001,
        version: 1,
        data_length: VALUE_BYTES as i32,
        pzxid: 0x1_0000_0001,
        ..Stat::default()
    }
}

fn get_data(criterion: &mut Criterion) {
    let mut requests = Vec::new();
    for xid in 0..BATCH as i32 {
        put_request(&mut requests, xid, &Request::GetData { path: Text::Borrowed(PATH), watch: false });
    }
    let limits = Limits::new(JUTE_MAX_BUFFER_BYTES_DEFAULT, 0);
    let value = [7; VALUE_BYTES];
    let stat = stat();
    let mut replies = Vec::new();
    for xid in 0..BATCH as i32 {
        reply::put_data(&mut replies, xid, 1, Some(&value), &stat);
    }

    let mut group = criterion.benchmark_group("codec/getData");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("server: decode request", |bencher| {
        bencher.iter(|| {
            each_frame(black_box(&requests), |payload| {
                let (header, body) = RequestHeader::split(payload).expect("a header");
                black_box((header, Request::decode(header.opcode, body, limits).expect("a request")));
            });
        });
    });
    group.bench_function("server: encode reply", |bencher| {
        let mut out = Vec::with_capacity(replies.len());
        bencher.iter(|| {
            out.clear();
            for xid in 0..BATCH as i32 {
                reply::put_data(&mut out, xid, 1, Some(black_box(&value)), black_box(&stat));
            }
            black_box(out.len())
        });
    });
    group.bench_function("server: decode and encode", |bencher| {
        let mut out = Vec::with_capacity(replies.len());
        bencher.iter(|| {
            out.clear();
            each_frame(black_box(&requests), |payload| {
                let (header, body) = RequestHeader::split(payload).expect("a header");
                if let Ok(Request::GetData { path, watch: false }) =
                    Request::decode(header.opcode, body, limits)
                {
                    black_box(path);
                    reply::put_data(&mut out, header.xid, 1, Some(black_box(&value)), black_box(&stat));
                }
            });
            assert_eq!(out.len(), replies.len());
        });
    });
    group.bench_function("client: decode reply", |bencher| {
        bencher.iter(|| {
            each_frame(black_box(&replies), |payload| {
                let (header, body) = ReplyHeader::split(payload).expect("a header");
                black_box((header, Response::decode(opcode::GET_DATA, body, Limits::NONE).expect("a reply")));
            });
        });
    });
    group.finish();
}

fn each_frame(mut bytes: &[u8], mut then: impl FnMut(&[u8])) {
    while let Ok(Split::Frame { payload, rest }) = split(bytes, JUTE_MAX_BUFFER_BYTES_DEFAULT) {
        then(payload);
        bytes = rest;
    }
    assert!(bytes.is_empty());
}

criterion_group!(benches, get_data);
criterion_main!(benches);
