//! Entry point for arbitrary bytes: runs a decoder and checks what it accepts.
//!
//! Owns the property that the fuzz target and the property tests share. Never part of a server's path.

use super::{
    ConnectRequest, ConnectResponse, Limits, ReplyHeader, Request, RequestHeader, Response, Split,
    WatcherEvent, frame, opcode,
};

/// Gives `data` to the decoder that the first byte selects. An accepted record, encoded again, must decode
/// to itself, lists included.
pub fn fuzz_one(data: &[u8]) {
    let Some((selector, body)) = data.split_first() else { return };
    let (name, limits) = (selector >> 3, Limits::new(u32::from(*selector) * 16, 16));
    // Every opcode occurs, and some numbers that are none.
    let opcode = opcode::ALL.get(name as usize).map_or(i32::from(name), |entry| entry.0);
    match selector & 0x07 {
        0 | 1 => request(opcode, body, limits),
        2 | 3 => response(opcode, body, limits),
        4 => {
            if let Ok(first) = ConnectRequest::decode(body, limits) {
                let bytes = encoded(|out| first.put(out));
                assert_eq!(ConnectRequest::decode(&bytes, limits), Ok(first));
            }
        }
        5 => {
            if let Ok(first) = ConnectResponse::decode(body, limits) {
                let bytes = encoded(|out| first.put(out));
                assert_eq!(ConnectResponse::decode(&bytes, limits), Ok(first));
            }
        }
        6 => {
            if let Ok(first) = WatcherEvent::decode(body, limits) {
                let bytes = encoded(|out| first.put(out));
                assert_eq!(WatcherEvent::decode(&bytes, Limits::NONE), Ok(first));
            }
        }
        _ => stream(body, u32::from(*selector)),
    }
}

fn request(opcode: i32, body: &[u8], limits: Limits) {
    let Ok(first) = Request::decode(opcode, body, limits) else { return };
    let bytes = encoded(|out| first.put(out));
    // Malformed text grows (one byte becomes U+FFFD's three), so the second pass has no limit.
    assert_eq!(Request::decode(opcode, &bytes, Limits::NONE).as_ref(), Ok(&first));
    for cut in 0..bytes.len().min(CUTS_MAX) {
        let _ = Request::decode(opcode, &bytes[..cut], limits);
    }
}

fn response(opcode: i32, body: &[u8], limits: Limits) {
    let Ok(first) = Response::decode(opcode, body, limits) else { return };
    let bytes = encoded(|out| first.put(out));
    assert_eq!(Response::decode(opcode, &bytes, Limits::NONE).as_ref(), Ok(&first));
}

/// Prefixes of an accepted record that are tried: enough for every field's border, few enough to stay fast.
const CUTS_MAX: usize = 64;

/// Splits the bytes into frames, as if they arrived on a connection, and decodes each.
fn stream(mut bytes: &[u8], max_bytes: u32) {
    let arrived = bytes.len();
    let mut seen = 0;
    while let Ok(Split::Frame { payload, rest }) = frame::split(bytes, max_bytes) {
        assert!(payload.len() <= max_bytes as usize);
        seen += frame::LENGTH_PREFIX_BYTES + payload.len();
        assert_eq!(seen + rest.len(), arrived);
        if let Ok((header, body)) = RequestHeader::split(payload) {
            request(header.opcode, body, Limits::default());
        }
        if let Ok((header, body)) = ReplyHeader::split(payload) {
            response(header.xid, body, Limits::default());
        }
        bytes = rest;
    }
}

fn encoded(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}
