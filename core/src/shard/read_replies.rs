//! Replies to reads.
//!
//! Owns the reply of each read for the znode that the batch lookup found, with the order of errors of
//! spec 01 section 7.1. Never looks up the path of a request, except for multiRead and
//! getAllChildrenNumber, and never blocks. Correct because all replies of a turn are at one version of
//! the tree.

use crate::acl::{self, perms};
use crate::client_stat::wire_stat;
use crate::command::Identity;
use crate::tree::{Reader, Znode};
use crate::watch::WatcherMode;
use paddock_transport::io::OutBuf;
use paddock_transport::wire::multi::MultiOp;
use paddock_transport::wire::{
    Acl, List, Multi, MultiResult, ReplyHeader, Request, Response, Text, error, opcode, put_frame,
    put_multi_end, reply,
};
use std::borrow::Cow;
use std::cell::Cell;

/// The reads of one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadKind {
    Exists,
    GetData,
    GetAcl,
    GetChildren,
    GetChildren2,
    GetAllChildrenNumber,
}

impl ReadKind {
    pub fn of(opcode: i32) -> Option<Self> {
        Some(match opcode {
            opcode::EXISTS => ReadKind::Exists,
            opcode::GET_DATA => ReadKind::GetData,
            opcode::GET_ACL => ReadKind::GetAcl,
            opcode::GET_CHILDREN => ReadKind::GetChildren,
            opcode::GET_CHILDREN2 => ReadKind::GetChildren2,
            opcode::GET_ALL_CHILDREN_NUMBER => ReadKind::GetAllChildrenNumber,
            _ => return None,
        })
    }
    /// Whether the record has a watch flag behind the path.
    pub fn has_watch(self) -> bool {
        matches!(self, ReadKind::Exists | ReadKind::GetData | ReadKind::GetChildren | ReadKind::GetChildren2)
    }
    /// The watch that a true flag arms when `err` is the answer.
    pub fn arms(self, err: i32) -> Option<WatcherMode> {
        match self {
            ReadKind::Exists if err == 0 || err == error::NO_NODE => Some(WatcherMode::Data),
            ReadKind::GetData if err == 0 => Some(WatcherMode::Data),
            ReadKind::GetChildren | ReadKind::GetChildren2 if err == 0 => Some(WatcherMode::Child),
            _ => None,
        }
    }
}

/// The version and the rules under which all reads of a turn are answered.
pub(super) struct ReadView<'s> {
    pub reader: &'s Reader,
    pub zxid: i64,
    pub policy: u32,
    /// Znodes visited in this turn by requests that visit many.
    pub visited: Cell<u64>,
    /// Bytes of the largest reply to one multiRead.
    pub multi_read_bytes_max: usize,
}

impl ReadView<'_> {
    /// Answers one read and returns the error code of the reply.
    pub fn answer(
        &self,
        read: ReadKind,
        xid: i32,
        path: &str,
        found: Option<Znode<'_>>,
        ids: &[Identity],
        out: &mut OutBuf,
    ) -> i32 {
        let refused = self.refusal(read, path, found.as_ref(), ids);
        let (0, Some(znode)) = (refused, found) else {
            reply::put_error(out.bytes(), xid, self.zxid, refused);
            return refused;
        };
        let stat = wire_stat(&znode.stat());
        let zxid = self.zxid;
        if matches!(read, ReadKind::GetChildren | ReadKind::GetChildren2) {
            self.visit(stat.num_children as usize);
        }
        match read {
            ReadKind::Exists => reply::put_stat(out.bytes(), xid, zxid, &stat),
            ReadKind::GetData => match znode.shared_data() {
                Some(data) => {
                    reply::put_data_head(out.bytes(), xid, zxid, data.len());
                    out.push_shared(data);
                    stat.put(out.bytes());
                }
                None => reply::put_data(out.bytes(), xid, zxid, znode.data(), &stat),
            },
            ReadKind::GetAcl => {
                let list = acl::mask_for_reader(znode.acl(), ids, self.policy);
                let entries: Vec<Acl<'_>> =
                    list.entries.iter().map(|a| Acl::new(a.perms, &a.id.scheme, &a.id.id)).collect();
                reply::put_response(out.bytes(), xid, zxid, &Response::Acl(List::new(&entries), stat));
            }
            ReadKind::GetChildren => reply::put_names(out.bytes(), xid, zxid, znode.children(), None),
            ReadKind::GetChildren2 => reply::put_names(out.bytes(), xid, zxid, znode.children(), Some(&stat)),
            ReadKind::GetAllChildrenNumber => {
                reply::put_response(out.bytes(), xid, zxid, &Response::Number(self.descendants(znode)));
            }
        }
        0
    }

    /// The first error that applies; 0 if the znode exists and `ids` may read it.
    fn refusal(&self, read: ReadKind, path: &str, found: Option<&Znode<'_>>, ids: &[Identity]) -> i32 {
        if read == ReadKind::Exists && path.as_bytes().contains(&0) {
            return error::BAD_ARGUMENTS;
        }
        let Some(znode) = found else { return error::NO_NODE };
        let needed = if read == ReadKind::GetAcl { perms::READ | perms::ADMIN } else { perms::READ };
        if acl::allowed(znode.acl(), needed, ids, self.policy) { 0 } else { error::NO_AUTH }
    }

    /// Adds to the znodes visited in this turn.
    pub fn visit(&self, znodes: usize) {
        self.visited.set(self.visited.get() + znodes as u64);
    }

    /// Number of znodes below `top`.
    fn descendants(&self, top: Znode<'_>) -> i32 {
        let mut count: usize = 0;
        let mut open = vec![top];
        while let Some(znode) = open.pop() {
            let path = if znode.path() == "/" { "" } else { znode.path() };
            let mut below = format!("{path}/");
            let stem = below.len();
            for name in znode.children() {
                below.truncate(stem);
                below.push_str(name);
                count += 1;
                if let Some(child) = self.reader.get(&below)
                    && child.stat().num_children > 0
                {
                    open.push(child);
                }
            }
        }
        self.visit(count);
        count.try_into().unwrap_or(i32::MAX)
    }

    /// Answers multiRead: each operation has its own result, all at one version. A reply that exceeds the
    /// bound is replaced by an error.
    pub fn multi_read(&self, xid: i32, ops: Multi<'_, Request<'_>>, ids: &[Identity], out: &mut Vec<u8>) {
        let begin = out.len();
        let mut fits = true;
        put_frame(out, |out| {
            ReplyHeader { xid, zxid: self.zxid, err: 0 }.put(out);
            for op in ops.iter() {
                fits = out.len() - begin <= self.multi_read_bytes_max;
                if !fits {
                    return;
                }
                self.visit(1);
                let (read, path) = match &op {
                    Request::GetData { path, .. } => (ReadKind::GetData, path),
                    Request::GetChildren { path, .. } => (ReadKind::GetChildren, path),
                    // The decoder lets nothing else into a multiRead.
                    _ => continue,
                };
                let found = self.reader.get(path);
                let code = self.refusal(read, path, found.as_ref(), ids);
                match found {
                    Some(znode) if code == 0 && read == ReadKind::GetData => {
                        let stat = wire_stat(&znode.stat());
                        MultiResult::GetData { data: znode.data(), stat }.put(out);
                    }
                    Some(znode) if code == 0 => {
                        self.visit(znode.stat().num_children as usize);
                        let names: Vec<Text<'_>> = znode.children().map(Cow::Borrowed).collect();
                        MultiResult::GetChildren { children: List::new(&names) }.put(out);
                    }
                    _ => MultiResult::Error { code }.put(out),
                }
            }
            put_multi_end(out);
        });
        if !fits {
            out.truncate(begin);
            // The discarded reply must not occupy memory while the peer does not read.
            out.shrink_to(begin);
            reply::put_error(out, xid, self.zxid, error::MARSHALLING_ERROR);
        }
    }
}
