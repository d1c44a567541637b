//! Properties of the codec under random input.
//!
//! The danger: a decoder that trusts its input. Any request or reply that can be encoded must decode to
//! the same value. Every shortened one must be refused, and no bytes may cause a panic.

use paddock_transport::wire::{
    Acl, ClientInfo, ConnectRequest, ConnectResponse, Create, CreateOp, Id, Limits, List, Multi, MultiResult,
    Request, Response, SetWatches, Split, Stat, Text, WatchMode, WatcherEvent, WatcherKind, frame, fuzz_one,
    opcode, put_frame, reply, request,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::borrow::Cow;

/// Permissions, scheme and id of one ACL entry.
type Entry = (i32, Option<String>, Option<String>);

/// Values for the fields of any message. Each message takes what it needs.
#[derive(Clone, Debug)]
struct Values {
    texts: Vec<String>,
    data: Option<Vec<u8>>,
    acls: Option<Vec<Entry>>,
    lists: Vec<Vec<String>>,
    ints: [i32; 4],
    longs: [i64; 7],
    flag: bool,
    ops: Vec<(u8, i32)>,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "(/[a-z0-9.-]{0,8}){0,4}",
        1 => vec(any::<char>(), 0..6).prop_map(String::from_iter),
    ]
}

fn values() -> impl Strategy<Value = Values> {
    (
        vec(text(), 4),
        option::of(vec(any::<u8>(), 0..40)),
        option::of(vec((any::<i32>(), option::of(text()), option::of(text())), 0..4)),
        vec(vec(text(), 0..4), 5),
        any::<[i32; 4]>(),
        any::<[i64; 7]>(),
        any::<bool>(),
        vec((any::<u8>(), 0..5i32), 0..6),
    )
        .prop_map(|(texts, data, acls, lists, ints, longs, flag, ops)| Values {
            texts,
            data,
            acls,
            lists,
            ints,
            longs,
            flag,
            ops,
        })
}

fn borrow(text: &str) -> Text<'_> {
    Cow::Borrowed(text)
}

fn stat(v: &Values) -> Stat {
    Stat {
        czxid: v.longs[0],
        mzxid: v.longs[1],
        ctime: v.longs[2],
        mtime: v.longs[3],
        version: v.ints[0],
        cversion: v.ints[1],
        aversion: v.ints[2],
        ephemeral_owner: v.longs[4],
        data_length: v.ints[3],
        num_children: v.ints[0] ^ v.ints[1],
        pzxid: v.longs[5],
    }
}

/// Slices that messages borrow their lists from.
struct Lists<'a> {
    acls: Option<Vec<Acl<'a>>>,
    texts: Vec<Vec<Text<'a>>>,
    clients: Vec<ClientInfo<'a>>,
}

impl<'a> Lists<'a> {
    fn new(v: &'a Values) -> Self {
        let acl = |(perms, scheme, id): &'a Entry| Acl {
            perms: *perms,
            id: Id { scheme: scheme.as_deref().map(borrow), id: id.as_deref().map(borrow) },
        };
        Self {
            acls: v.acls.as_ref().map(|acls| acls.iter().map(acl).collect()),
            texts: v.lists.iter().map(|list| list.iter().map(|t| borrow(t)).collect()).collect(),
            clients: v
                .lists
                .iter()
                .map(|_| ClientInfo { auth_scheme: borrow(&v.texts[0]), user: borrow(&v.texts[1]) })
                .collect(),
        }
    }
    fn acl(&'a self) -> List<'a, Acl<'a>> {
        self.acls.as_deref().map_or(List::NULL, List::new)
    }
    fn list(&'a self, i: usize) -> List<'a, Text<'a>> {
        List::new(&self.texts[i])
    }
}

fn create<'a>(v: &'a Values, lists: &'a Lists<'a>, op: CreateOp, flags: i32) -> Request<'a> {
    Request::Create(Create {
        op,
        path: borrow(&v.texts[0]),
        data: v.data.as_deref(),
        acl: lists.acl(),
        flags,
    })
}

/// Ops that a multi may hold and that its decoder leaves unchanged.
fn write_ops<'a>(v: &'a Values, lists: &'a Lists<'a>) -> Vec<Request<'a>> {
    let op = |(which, flags): &(u8, i32)| match which % 7 {
        0 => create(v, lists, CreateOp::Create, flags % 4),
        1 => create(v, lists, CreateOp::Create2, flags % 4),
        2 => create(v, lists, CreateOp::CreateContainer, *flags),
        3 => create(v, lists, CreateOp::CreateTtl { ttl_ms: v.longs[0] }, 5 + flags % 2),
        4 => Request::Delete { path: borrow(&v.texts[1]), version: *flags },
        5 => Request::SetData { path: borrow(&v.texts[2]), data: v.data.as_deref(), version: *flags },
        _ => Request::Check { path: borrow(&v.texts[3]), version: *flags },
    };
    v.ops.iter().map(op).collect()
}

fn read_ops(v: &Values) -> Vec<Request<'_>> {
    let op = |(which, _): &(u8, i32)| match which % 2 {
        0 => Request::GetData { path: borrow(&v.texts[0]), watch: v.flag },
        _ => Request::GetChildren { path: borrow(&v.texts[1]), watch: v.flag },
    };
    v.ops.iter().map(op).collect()
}

fn results<'a>(v: &'a Values, lists: &'a Lists<'a>) -> Vec<MultiResult<'a>> {
    let result = |(which, code): &(u8, i32)| match which % 8 {
        0 => MultiResult::Create { path: borrow(&v.texts[0]) },
        1 => MultiResult::Create2 { path: borrow(&v.texts[0]), stat: stat(v) },
        2 => MultiResult::Delete,
        3 => MultiResult::Check,
        4 => MultiResult::SetData { stat: stat(v) },
        5 => MultiResult::GetData { data: v.data.as_deref(), stat: stat(v) },
        6 => MultiResult::GetChildren { children: lists.list(0) },
        _ => MultiResult::Error { code: *code },
    };
    v.ops.iter().map(result).collect()
}

/// Every request, made of `v`.
fn requests<'a>(
    v: &'a Values,
    lists: &'a Lists<'a>,
    writes: &'a [Request<'a>],
    reads: &'a [Request<'a>],
) -> Vec<Request<'a>> {
    let path = || borrow(&v.texts[0]);
    let (watch, version, data) = (v.flag, v.ints[0], v.data.as_deref());
    let optional = |i: usize| v.flag.then(|| borrow(&v.texts[i]));
    let kinds = [
        WatcherKind::Children,
        WatcherKind::Data,
        WatcherKind::Any,
        WatcherKind::Persistent,
        WatcherKind::PersistentRecursive,
    ];
    let kind = kinds[v.ints[1].rem_euclid(5) as usize];
    let set_watches = SetWatches {
        relative_zxid: v.longs[0],
        data: lists.list(0),
        exist: lists.list(1),
        child: lists.list(2),
        ..SetWatches::default()
    };
    vec![
        create(v, lists, CreateOp::Create, v.ints[0]),
        create(v, lists, CreateOp::Create2, v.ints[0]),
        create(v, lists, CreateOp::CreateContainer, v.ints[0]),
        create(v, lists, CreateOp::CreateTtl { ttl_ms: v.longs[0] }, v.ints[0]),
        Request::Delete { path: path(), version },
        Request::DeleteContainer { path: path() },
        Request::Exists { path: path(), watch },
        Request::GetData { path: path(), watch },
        Request::SetData { path: path(), data, version },
        Request::GetAcl { path: path() },
        Request::SetAcl { path: path(), acl: lists.acl(), version },
        Request::GetChildren { path: path(), watch },
        Request::GetChildren2 { path: path(), watch },
        Request::GetAllChildrenNumber { path: path() },
        Request::GetEphemerals { prefix: optional(0) },
        Request::Sync { path: path() },
        Request::Check { path: path(), version },
        Request::Multi(Multi::new(writes)),
        Request::MultiRead(Multi::new(reads)),
        Request::Reconfig {
            joining: optional(1),
            leaving: optional(2),
            new_members: optional(3),
            config_id: v.longs[1],
        },
        Request::CheckWatches { path: path(), kind },
        Request::RemoveWatches { path: path(), kind },
        Request::AddWatch {
            path: path(),
            mode: if watch { WatchMode::Persistent } else { WatchMode::PersistentRecursive },
        },
        Request::SetWatches(set_watches.clone()),
        Request::SetWatches2(SetWatches {
            persistent: lists.list(3),
            persistent_recursive: lists.list(4),
            ..set_watches
        }),
        Request::Auth { kind: v.ints[2], scheme: optional(1), auth: data },
        Request::Sasl { token: data },
        Request::WhoAmI,
        Request::Ping,
        Request::CloseSession,
    ]
}

/// Every response, with the opcode that it answers.
fn responses<'a>(
    v: &'a Values,
    lists: &'a Lists<'a>,
    results: &'a [MultiResult<'a>],
) -> Vec<(i32, Response<'a>)> {
    let path = || borrow(&v.texts[0]);
    let (data, stat) = (v.data.as_deref(), stat(v));
    vec![
        (opcode::CREATE, Response::Path(path())),
        (opcode::SYNC, Response::Path(path())),
        (opcode::CREATE2, Response::PathStat(path(), stat)),
        (opcode::CREATE_CONTAINER, Response::PathStat(path(), stat)),
        (opcode::CREATE_TTL, Response::PathStat(path(), stat)),
        (opcode::EXISTS, Response::Stat(stat)),
        (opcode::SET_DATA, Response::Stat(stat)),
        (opcode::SET_ACL, Response::Stat(stat)),
        (opcode::GET_DATA, Response::Data(data, stat)),
        (opcode::RECONFIG, Response::Data(data, stat)),
        (opcode::GET_CHILDREN, Response::Names(lists.list(0))),
        (opcode::GET_EPHEMERALS, Response::Names(lists.list(1))),
        (opcode::GET_CHILDREN2, Response::NamesStat(lists.list(2), stat)),
        (opcode::GET_ACL, Response::Acl(lists.acl(), stat)),
        (opcode::GET_ALL_CHILDREN_NUMBER, Response::Number(v.ints[0])),
        (opcode::ADD_WATCH, Response::WatchAdded(v.ints[0])),
        (opcode::SASL, Response::Token(data)),
        (opcode::WHO_AM_I, Response::Clients(List::new(&lists.clients))),
        (opcode::MULTI, Response::Multi(Multi::new(results))),
        (opcode::MULTI_READ, Response::Multi(Multi::new(results))),
        (opcode::DELETE, Response::Empty),
    ]
}

/// A frame's payload, which must be all of `bytes`.
fn payload(bytes: &[u8]) -> &[u8] {
    match frame::split(bytes, u32::MAX) {
        Ok(Split::Frame { payload, rest: [] }) => payload,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_understood_as_said_and_refused_when_cut_short(v in values()) {
        let lists = Lists::new(&v);
        let (writes, reads) = (write_ops(&v, &lists), read_ops(&v));
        let all = requests(&v, &lists, &writes, &reads);
        prop_assert_eq!(all.len(), opcode::ALL.len());
        for said in all {
            let mut bytes = Vec::new();
            request::put_request(&mut bytes, v.ints[3], &said);
            let body = &payload(&bytes)[8..];
            let understood = Request::decode(said.opcode(), body, Limits::default());
            prop_assert_eq!(understood.as_ref(), Ok(&said));
            for cut in 0..body.len() {
                let part = Request::decode(said.opcode(), &body[..cut], Limits::default());
                prop_assert!(part.is_err(), "{:?} cut to {}", said, cut);
            }
            let mut longer = body.to_vec();
            longer.extend(b"\xff junk");
            prop_assert_eq!(Request::decode(said.opcode(), &longer, Limits::default()), Ok(said));
        }
    }

    #[test]
    fn every_reply_is_understood_as_said_and_refused_when_cut_short(v in values()) {
        let lists = Lists::new(&v);
        let results = results(&v, &lists);
        for (opcode, said) in responses(&v, &lists, &results) {
            let mut bytes = Vec::new();
            reply::put_response(&mut bytes, v.ints[0], v.longs[0], &said);
            let body = &payload(&bytes)[16..];
            let understood = Response::decode(opcode, body, Limits::NONE);
            prop_assert_eq!(understood.as_ref(), Ok(&said));
            for cut in 0..body.len() {
                prop_assert!(Response::decode(opcode, &body[..cut], Limits::NONE).is_err(), "{:?} to {}", said, cut);
            }
        }
    }

    #[test]
    fn handshakes_and_events_are_understood_as_said(v in values(), read_only in option::of(any::<bool>())) {
        let said = ConnectRequest {
            protocol_version: v.ints[0],
            last_zxid_seen: v.longs[0],
            timeout_ms: v.ints[1],
            session_id: v.longs[1],
            password: v.data.as_deref(),
            read_only,
        };
        let mut bytes = Vec::new();
        put_frame(&mut bytes, |out| said.put(out));
        prop_assert_eq!(ConnectRequest::decode(payload(&bytes), Limits::NONE), Ok(said));

        let said = ConnectResponse {
            protocol_version: v.ints[0],
            timeout_ms: v.ints[1],
            session_id: v.longs[1],
            password: v.data.as_deref(),
            read_only,
        };
        bytes.clear();
        reply::put_connect(&mut bytes, &said);
        prop_assert_eq!(ConnectResponse::decode(payload(&bytes), Limits::NONE), Ok(said));

        bytes.clear();
        reply::put_notification(&mut bytes, v.longs[0], v.ints[0], &v.texts[0]);
        let event = WatcherEvent { kind: v.ints[0], state: 3, path: borrow(&v.texts[0]) };
        prop_assert_eq!(WatcherEvent::decode(&payload(&bytes)[16..], Limits::NONE), Ok(event));
    }

    /// "A read allocates nothing" rests on this: well-formed strings are borrowed from the frame.
    #[test]
    fn well_formed_text_is_borrowed_from_the_frame(v in values()) {
        let mut bytes = Vec::new();
        Request::GetData { path: borrow(&v.texts[0]), watch: v.flag }.put(&mut bytes);
        let decoded = Request::decode(opcode::GET_DATA, &bytes, Limits::default());
        let borrowed = matches!(decoded, Ok(Request::GetData { path: Cow::Borrowed(_), .. }));
        prop_assert!(borrowed);
    }

    #[test]
    fn bytes_from_anywhere_never_panic(data in vec(any::<u8>(), 0..300)) {
        fuzz_one(&data);
    }

    /// Lengths, counts and opcodes are small numbers, so these bytes get further into a decoder.
    #[test]
    fn bytes_that_look_like_lengths_never_panic(
        selector in any::<u8>(),
        words in vec(prop_oneof![-3..20i32, any::<i32>()], 0..60),
        offset in 0..4usize,
    ) {
        let mut data = vec![selector];
        data.extend(std::iter::repeat_n(0, offset));
        data.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        fuzz_one(&data);
    }

    /// Valid messages with a few changed bytes, which get furthest into a decoder.
    #[test]
    fn damaged_messages_never_panic(
        v in values(),
        selector in any::<u8>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let lists = Lists::new(&v);
        let (writes, reads, results) = (write_ops(&v, &lists), read_ops(&v), results(&v, &lists));
        let spoil = |mut data: Vec<u8>| {
            for (at, value) in &damage {
                let at = at.index(data.len());
                data[at] = *value;
            }
            fuzz_one(&data);
        };
        for (number, (known, ..)) in opcode::ALL.iter().enumerate() {
            for said in requests(&v, &lists, &writes, &reads).iter().filter(|r| r.opcode() == *known) {
                let mut data = vec![(number as u8) << 3];
                said.put(&mut data);
                spoil(data);
            }
            for (_, said) in responses(&v, &lists, &results).iter().filter(|(opcode, _)| opcode == known) {
                let mut data = vec![(number as u8) << 3 | 2];
                said.put(&mut data);
                spoil(data);
            }
        }
        let mut stream = vec![selector | 7];
        requests(&v, &lists, &writes, &reads).iter().for_each(|r| request::put_request(&mut stream, v.ints[0], r));
        spoil(stream);
    }
}
