//! The codec against recordings of real ZooKeepers.
//!
//! The danger: a codec that agrees with itself and with no other implementation.
//! `golden/conversation-*.txt` is a conversation with every request and reply. Each frame must decode, be
//! used up to its last byte, and encode to the same bytes. `golden/probes-*.txt` are odd and broken
//! requests with ZooKeeper's error codes. The decoder must refuse what ZooKeeper could not decode, and
//! nothing else. `golden/record.py` makes both.

use paddock_transport::wire::{
    ConnectRequest, ConnectResponse, Limits, ReplyHeader, Request, RequestHeader, Response, Split,
    WatcherEvent, error, frame, opcode, put_frame, reply, request,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

const VERSIONS: [&str; 2] = ["3.8.0", "3.9.4"];

fn lines(name: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes();
    assert!(digits.len().is_multiple_of(2), "{text}");
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn payload(bytes: &[u8]) -> &[u8] {
    match frame::split(bytes, i32::MAX as u32) {
        Ok(Split::Frame { payload, rest: [] }) => payload,
        other => panic!("not exactly one frame: {other:?}"),
    }
}

/// Decodes one line of a conversation and encodes the result.
fn again(kind: &str, opcode: i32, bytes: &[u8]) -> Vec<u8> {
    let payload = payload(bytes);
    let mut out = Vec::new();
    match kind {
        "c>" => put_frame(&mut out, |out| ConnectRequest::decode(payload, Limits::NONE).unwrap().put(out)),
        "c<" => reply::put_connect(&mut out, &ConnectResponse::decode(payload, Limits::NONE).unwrap()),
        ">" => {
            let (header, body) = RequestHeader::split(payload).unwrap();
            assert_eq!(header.opcode, opcode);
            match Request::decode(opcode, body, Limits::default()) {
                Ok(decoded) => {
                    assert_eq!(decoded.opcode(), opcode);
                    request::put_request(&mut out, header.xid, &decoded);
                }
                Err(e) => {
                    assert_eq!(e.code(), error::UNIMPLEMENTED, "{e}");
                    out.extend_from_slice(bytes);
                }
            }
        }
        "<" => {
            let (header, body) = ReplyHeader::split(payload).unwrap();
            if header.err == error::OK {
                let response = Response::decode(opcode, body, Limits::NONE).unwrap();
                reply::put_response(&mut out, header.xid, header.zxid, &response);
                let cheap = cheaply(header, &response);
                assert!(cheap.is_none_or(|cheap| cheap == out), "the short way differs: {response:?}");
            } else {
                reply::put_error(&mut out, header.xid, header.zxid, header.err);
            }
        }
        "!" => {
            let (header, body) = ReplyHeader::split(payload).unwrap();
            let event = WatcherEvent::decode(body, Limits::NONE).unwrap();
            reply::put_notification(&mut out, header.zxid, event.kind, &event.path);
        }
        other => panic!("{other}"),
    }
    out
}

/// Encodes a reply through the functions that make a whole frame without a [`Response`].
fn cheaply(ReplyHeader { xid, zxid, .. }: ReplyHeader, response: &Response<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match response {
        Response::Empty => reply::put_empty(&mut out, xid, zxid),
        Response::Stat(stat) => reply::put_stat(&mut out, xid, zxid, stat),
        Response::Data(data, stat) => {
            reply::put_data(&mut out, xid, zxid, *data, stat);
            if let Some(data) = data {
                let mut shared = Vec::new();
                reply::put_data_head(&mut shared, xid, zxid, data.len());
                shared.extend_from_slice(data);
                stat.put(&mut shared);
                assert_eq!(shared, out);
            }
        }
        Response::Names(names) => {
            let names: Vec<_> = names.iter().collect();
            reply::put_names(&mut out, xid, zxid, names.iter().map(|n| &**n), None);
        }
        Response::NamesStat(names, stat) => {
            let names: Vec<_> = names.iter().collect();
            reply::put_names(&mut out, xid, zxid, names.iter().map(|n| &**n), Some(stat));
        }
        other => {
            let mut record = Vec::new();
            other.put(&mut record);
            reply::put_record(&mut out, xid, zxid, &record);
        }
    }
    Some(out)
}

#[test]
fn every_recorded_frame_decodes_and_encodes_to_the_same_bytes() {
    for version in VERSIONS {
        let mut answered = BTreeSet::new();
        for line in lines(&format!("conversation-{version}.txt")) {
            let words: Vec<_> = line.split(' ').collect();
            let (kind, hex) = (words[0], words[words.len() - 1]);
            let opcode = if words.len() == 3 { words[1].parse().unwrap() } else { 0 };
            let bytes = unhex(hex);
            assert_eq!(again(kind, opcode, &bytes), bytes, "{version}: {line}");
            if kind == "<" && ReplyHeader::split(&bytes[4..]).unwrap().0.err == error::OK {
                answered.insert(opcode);
            }
        }
        for (opcode, name, _) in opcode::ALL {
            // check exists only inside multi. Clients of 3.8.0 do not delete containers.
            let never =
                *opcode == opcode::CHECK || (*opcode == opcode::DELETE_CONTAINER && version == "3.8.0");
            assert_eq!(answered.contains(opcode), !never, "{version}: {name}");
        }
    }
}

/// Deliberate differences from ZooKeeper.
fn excused(version: &str, opcode: i32, what: &str) -> bool {
    match what {
        // Decodes. The state machine, which knows the scheme, answers -5.
        "acl null id" => true,
        // Stricter than ZooKeeper, which registers a watch on null that can never fire.
        "list 3 null string" | "list 4 null string" => opcode == opcode::SET_WATCHES2,
        // ZooKeeper checks create flags before a null path. Both are errors.
        "filled" => {
            matches!(opcode, opcode::CREATE | opcode::CREATE2 | opcode::CREATE_CONTAINER | opcode::CREATE_TTL)
        }
        // Watcher types and strictness of 3.9.
        _ if version == "3.8.0" => {
            matches!(opcode, opcode::CHECK_WATCHES | opcode::REMOVE_WATCHES)
                && (what.starts_with("kind ") || what == "null path")
                || what.starts_with("op ") && what.contains(" flags ")
        }
        _ => false,
    }
}

#[test]
fn what_zookeeper_cannot_decode_is_refused_and_nothing_else() {
    let mut differences: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for version in VERSIONS {
        for line in lines(&format!("probes-{version}.txt")) {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap();
            let (opcode, answer, hex, what) = (word().parse::<i32>().unwrap(), word(), word(), word());
            let body = if hex == "-" { Vec::new() } else { unhex(hex) };
            let ours = Request::decode(opcode, &body, Limits::default());
            let theirs = answer.parse::<i32>();
            let agreed = match (&ours, &theirs) {
                (Ok(_), Ok(code)) => *code != error::MARSHALLING_ERROR,
                (Err(e), Ok(code)) => e.code() == *code,
                (_, Err(_)) => false,
            };
            if !agreed && !excused(version, opcode, what) {
                let ours = ours.map_or_else(|e| e.to_string(), |_| "decodes".into());
                differences
                    .entry(format!("{opcode} {what}: {answer}, but {ours}"))
                    .or_default()
                    .push(version.into());
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}
