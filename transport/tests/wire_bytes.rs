//! Bytes written by hand: the examples of the protocol's specification, and quirks of multi observed on a
//! real server. If one of these changes, clients in the field break.

use paddock_transport::wire::{
    Acl, ConnectRequest, ConnectResponse, Create, CreateOp, DecodeError, Limits, List, Multi, MultiOp,
    MultiResult, Request, RequestHeader, Response, Stat, Text, error, event, opcode, put_frame,
    put_multi_end, reply, request,
};

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'|').collect();
    digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

fn bytes(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

fn path(text: &str) -> Text<'_> {
    Text::Borrowed(text)
}

const OPEN: &[Acl<'static>] = &[Acl::OPEN];

fn create(op: CreateOp, at: &'static str, flags: i32) -> Request<'static> {
    Request::Create(Create { op, path: path(at), data: Some(b""), acl: List::new(OPEN), flags })
}

#[test]
fn the_handshake_of_the_specification() {
    let request = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms: 30_000,
        session_id: 0,
        password: Some(&[0; 16]),
        read_only: Some(false),
    };
    let expected = unhex(
        "0000002d | 00000000 | 0000000000000000 | 00007530 | 0000000000000000 | 00000010 \
         00000000000000000000000000000000 | 00",
    );
    assert_eq!(bytes(|out| put_frame(out, |out| request.put(out))), expected);
    assert_eq!(ConnectRequest::decode(&expected[4..], Limits::NONE), Ok(request));

    let response = ConnectResponse {
        protocol_version: 0,
        timeout_ms: 20_000,
        session_id: 0x0100_000d_4c7a_0000,
        password: Some(&[7; 16]),
        read_only: Some(false),
    };
    let expected = unhex(
        "00000025 | 00000000 | 00004e20 | 0100000d4c7a0000 | 00000010 07070707070707070707070707070707 | 00",
    );
    assert_eq!(bytes(|out| reply::put_connect(out, &response)), expected);
}

#[test]
fn a_client_without_the_read_only_field_is_told_apart() {
    let with = ConnectRequest {
        protocol_version: 7,
        last_zxid_seen: -1,
        timeout_ms: 1,
        session_id: 2,
        password: None,
        read_only: Some(true),
    };
    let frame = bytes(|out| with.put(out));
    let without = ConnectRequest { read_only: None, ..with };
    assert_eq!(ConnectRequest::decode(&frame, Limits::NONE), Ok(with));
    assert_eq!(ConnectRequest::decode(&frame[..frame.len() - 1], Limits::NONE), Ok(without));
    assert_eq!(bytes(|out| without.put(out)), frame[..frame.len() - 1]);
    // 0x02 is true as well, and bytes behind the record are ignored.
    let mut odd = frame.clone();
    *odd.last_mut().unwrap() = 2;
    odd.extend(b"junk");
    assert_eq!(ConnectRequest::decode(&odd, Limits::NONE), Ok(with));
    for cut in 0..frame.len() - 1 {
        assert!(ConnectRequest::decode(&frame[..cut], Limits::NONE).is_err(), "cut to {cut}");
    }
}

#[test]
fn requests_replies_and_notifications_of_the_specification() {
    let get = Request::GetData { path: path("/a"), watch: true };
    assert_eq!(
        bytes(|out| request::put_request(out, 5, &get)),
        unhex("0000000f | 00000005 | 00000004 | 00000002 2f61 | 01")
    );
    assert_eq!(
        bytes(|out| reply::put_error(out, 5, 0x0102, error::NO_NODE)),
        unhex("00000010 | 00000005 | 0000000000000102 | ffffff9b")
    );
    assert_eq!(
        bytes(|out| reply::put_notification(out, -1, event::NODE_DATA_CHANGED, "/a")),
        unhex("0000001e | ffffffff | ffffffffffffffff | 00000000 | 00000003 | 00000003 | 00000002 2f61")
    );
    assert_eq!(
        bytes(|out| reply::put_ping(out, 9)),
        unhex("00000010 | fffffffe | 0000000000000009 | 00000000")
    );
}

#[test]
fn a_multi_and_its_answer_of_the_specification() {
    let ops = [create(CreateOp::Create, "/m", 0), Request::Check { path: path("/m"), version: 0 }];
    let expected = unhex(
        "00000001 00 ffffffff | 00000002 2f6d | 00000000 | 00000001 0000001f 00000005 776f726c64 00000006 \
         616e796f6e65 | 00000000 | 0000000d 00 ffffffff | 00000002 2f6d | 00000000 | ffffffff 01 ffffffff",
    );
    let multi = Request::Multi(Multi::new(&ops));
    assert_eq!(bytes(|out| multi.put(out)), expected);
    assert_eq!(Request::decode(opcode::MULTI, &expected, Limits::default()), Ok(multi));

    let results = [MultiResult::Create { path: path("/m") }, MultiResult::Check];
    let expected =
        unhex("00000001 00 00000000 | 00000002 2f6d | 0000000d 00 00000000 | ffffffff 01 ffffffff");
    assert_eq!(bytes(|out| Multi::new(&results).put(out)), expected);
    // As a server without a list encodes: one element after another.
    assert_eq!(
        bytes(|out| {
            results.iter().for_each(|result| result.put(out));
            put_multi_end(out);
        }),
        expected
    );
    assert_eq!(MultiResult::decode_all(&expected, Limits::NONE), Ok(Multi::new(&results)));
}

#[test]
fn a_failed_multi_tells_the_failure_once() {
    let results: Vec<_> = (0..4).map(|i| MultiResult::of_failed(i, 1, error::BAD_VERSION)).collect();
    let codes: Vec<_> = Multi::new(&results)
        .iter()
        .map(|result| match result {
            MultiResult::Error { code } => code,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(codes, [0, -103, -2, -2]);
    // The header's err field repeats the code.
    assert_eq!(bytes(|out| results[1].put(out)), unhex("ffffffff 00 ffffff99 | ffffff99"));
}

#[test]
fn in_a_multi_the_flags_decide_the_create() {
    use CreateOp::{Create, Create2, CreateContainer, CreateTtl};
    let ttl = CreateTtl { ttl_ms: 5000 };
    let mode = |op, flags| {
        let ops = [create(op, "/m", flags)];
        let body = bytes(|out| Multi::new(&ops).put(out));
        match Request::decode(opcode::MULTI, &body, Limits::default()) {
            Ok(Request::Multi(ops)) => match ops.iter().next() {
                Some(Request::Create(create)) => Ok(create.op),
                other => panic!("{other:?}"),
            },
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e),
        }
    };
    for flags in 0..=3 {
        for (op, becomes) in
            [(Create, Create), (Create2, Create2), (CreateContainer, CreateContainer), (ttl, Create)]
        {
            assert_eq!(mode(op, flags), Ok(becomes), "{op:?} with flags {flags}");
        }
    }
    for op in [Create, Create2, CreateContainer, ttl] {
        assert_eq!(mode(op, 4), Ok(CreateContainer), "{op:?}");
        for flags in [-1, 5, 6, 7, 100] {
            let expected = if op == ttl { Ok(ttl) } else { Err(DecodeError::UnknownValue(flags)) };
            assert_eq!(mode(op, flags), expected, "{op:?} with flags {flags}");
        }
    }
    // None of this applies outside a multi.
    let body = bytes(|out| create(ttl, "/m", 4).put(out));
    assert_eq!(Request::decode(opcode::CREATE_TTL, &body, Limits::default()), Ok(create(ttl, "/m", 4)));
}

#[test]
fn writes_in_a_multi_read_are_told_from_nonsense_in_it() {
    let decode = |ops: &[Request<'_>]| {
        let body = bytes(|out| Multi::new(ops).put(out));
        Request::decode(opcode::MULTI_READ, &body, Limits::default()).map(drop)
    };
    let (get, delete) =
        (Request::GetData { path: path("/"), watch: true }, Request::Delete { path: path("/a"), version: 0 });
    assert_eq!(decode(std::slice::from_ref(&get)), Ok(()));
    assert_eq!(decode(&[delete.clone(), delete.clone()]), Err(DecodeError::WriteInMultiRead(opcode::DELETE)));
    assert_eq!(decode(&[get.clone(), delete.clone()]), Err(DecodeError::MultiOp(opcode::DELETE)));
    assert_eq!(decode(&[Request::Sync { path: path("/") }]), Err(DecodeError::MultiOp(opcode::SYNC)));
    let body = bytes(|out| Multi::new(&[get]).put(out));
    assert_eq!(
        Request::decode(opcode::MULTI, &body, Limits::default()),
        Err(DecodeError::MultiOp(opcode::GET_DATA))
    );
}

#[test]
fn null_and_empty_data_are_different_values() {
    for (data, expected) in [(None, "ffffffff"), (Some(&b""[..]), "00000000"), (Some(b"x"), "00000001 78")] {
        let body = bytes(|out| Request::SetData { path: path("/a"), data, version: -1 }.put(out));
        assert_eq!(body, unhex(&format!("00000002 2f61 | {expected} | ffffffff")));
        assert_eq!(
            Request::decode(opcode::SET_DATA, &body, Limits::default()),
            Ok(Request::SetData { path: path("/a"), data, version: -1 })
        );
        let frame = bytes(|out| reply::put_data(out, 1, 2, data, &Stat::default()));
        assert_eq!(
            Response::decode(opcode::GET_DATA, &frame[20..], Limits::NONE),
            Ok(Response::Data(data, Stat::default()))
        );
    }
}

#[test]
fn a_frame_without_room_for_a_header_is_an_error() {
    for n in 0..8 {
        assert!(RequestHeader::split(&[0; 8][..n]).is_err());
    }
    assert_eq!(
        RequestHeader::split(&unhex("80000000 | fffffff5 | ff")),
        Ok((RequestHeader { xid: i32::MIN, opcode: opcode::CLOSE_SESSION }, &[0xff][..]))
    );
}
