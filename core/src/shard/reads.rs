//! Answers from the tree.
//!
//! Owns what each reading request answers for the znode that was found, with the order of errors of spec 01 section 7.1.
//! Never looks up a request's own path (the round does, all together) and never blocks; only multiRead and
//! getAllChildrenNumber look further themselves.

use crate::acl::{self, perms};
use crate::command::Identity;
use crate::machine::wire_stat;
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

/// The reads that concern one path and are looked up together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Read {
    Exists,
    GetData,
    GetAcl,
    GetChildren,
    GetChildren2,
    GetAllChildrenNumber,
}

impl Read {
    pub fn of(opcode: i32) -> Option<Self> {
        Some(match opcode {
            opcode::EXISTS => Read::Exists,
            opcode::GET_DATA => Read::GetData,
            opcode::GET_ACL => Read::GetAcl,
            opcode::GET_CHILDREN => Read::GetChildren,
            opcode::GET_CHILDREN2 => Read::GetChildren2,
            opcode::GET_ALL_CHILDREN_NUMBER => Read::GetAllChildrenNumber,
            _ => return None,
        })
    }
    /// Whether the record has a watch flag behind the path.
    pub fn has_watch(self) -> bool {
        matches!(self, Read::Exists | Read::GetData | Read::GetChildren | Read::GetChildren2)
    }
    /// The watch that a true flag arms when `err` is the answer.
    pub fn arms(self, err: i32) -> Option<WatcherMode> {
        match self {
            Read::Exists if err == 0 || err == error::NO_NODE => Some(WatcherMode::Data),
            Read::GetData if err == 0 => Some(WatcherMode::Data),
            Read::GetChildren | Read::GetChildren2 if err == 0 => Some(WatcherMode::Child),
            _ => None,
        }
    }
}

/// Under which everything of a turn is read.
pub(super) struct View<'s> {
    pub reader: &'s Reader,
    pub zxid: i64,
    pub policy: u32,
    /// Znodes looked at in this turn by requests that look at many.
    pub visited: Cell<u64>,
    /// What the reply to one multiRead may grow to.
    pub multi_read_bytes_max: usize,
}

impl View<'_> {
    /// Answers one read; the error code it answered with.
    pub fn answer(
        &self,
        read: Read,
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
        if matches!(read, Read::GetChildren | Read::GetChildren2) {
            self.visit(stat.num_children as usize);
        }
        match read {
            Read::Exists => reply::put_stat(out.bytes(), xid, zxid, &stat),
            Read::GetData => match znode.shared_data() {
                Some(data) => {
                    reply::put_data_head(out.bytes(), xid, zxid, data.len());
                    out.push_shared(data);
                    stat.put(out.bytes());
                }
                None => reply::put_data(out.bytes(), xid, zxid, znode.data(), &stat),
            },
            Read::GetAcl => {
                let list = acl::mask_for_reader(znode.acl(), ids, self.policy);
                let entries: Vec<Acl<'_>> =
                    list.entries.iter().map(|a| Acl::new(a.perms, &a.id.scheme, &a.id.id)).collect();
                reply::put_response(out.bytes(), xid, zxid, &Response::Acl(List::new(&entries), stat));
            }
            Read::GetChildren => reply::put_names(out.bytes(), xid, zxid, znode.children(), None),
            Read::GetChildren2 => reply::put_names(out.bytes(), xid, zxid, znode.children(), Some(&stat)),
            Read::GetAllChildrenNumber => {
                reply::put_response(out.bytes(), xid, zxid, &Response::Number(self.descendants(znode)));
            }
        }
        0
    }

    /// Which error wins, or 0 when the znode is there and may be read.
    fn refusal(&self, read: Read, path: &str, found: Option<&Znode<'_>>, ids: &[Identity]) -> i32 {
        if read == Read::Exists && path.as_bytes().contains(&0) {
            return error::BAD_ARGUMENTS;
        }
        let Some(znode) = found else { return error::NO_NODE };
        let needed = if read == Read::GetAcl { perms::READ | perms::ADMIN } else { perms::READ };
        if acl::allowed(znode.acl(), needed, ids, self.policy) { 0 } else { error::NO_AUTH }
    }

    /// Notes that a request looked at `znodes` of them.
    pub fn visit(&self, znodes: usize) {
        self.visited.set(self.visited.get() + znodes as u64);
    }

    /// All znodes below, by walking down.
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

    /// Answers multiRead: each op for itself, all at one version; or not at all when the reply grows beyond all reason.
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
                    Request::GetData { path, .. } => (Read::GetData, path),
                    Request::GetChildren { path, .. } => (Read::GetChildren, path),
                    // The decoder lets nothing else into a multiRead.
                    _ => continue,
                };
                let found = self.reader.get(path);
                let code = self.refusal(read, path, found.as_ref(), ids);
                match found {
                    Some(znode) if code == 0 && read == Read::GetData => {
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
            // A peer that never reads must not keep the room of what it was not sent.
            out.shrink_to(begin);
            reply::put_error(out, xid, self.zxid, error::MARSHALLING_ERROR);
        }
    }
}
