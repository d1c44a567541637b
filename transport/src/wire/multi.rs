//! The framing of multi and multiRead: ops and results, each behind a header, ended by a terminator.
//!
//! Owns which ops and results such a list may hold. Never executes anything. Correct because a list in
//! wire form has been read to its terminator once, by the same code that iterates it.

use super::list::List;
use super::primitives::{DecodeError, Limits, Reader, Text, put_boolean, put_buffer, put_int, put_text};
use super::records::Stat;
use super::request::{Create, CreateOp, Request, create_flags};
use super::{error, opcode};
use std::fmt;

/// Element type of a [`Multi`]: an op or a result.
pub trait MultiOp<'a>: Clone + PartialEq + fmt::Debug {
    /// Reads the record that follows a header of type `kind`.
    fn read(kind: i32, reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
    /// The type field of the header.
    fn kind(&self) -> i32;
    /// The err field of the header.
    fn header_err(&self) -> i32;
    /// Appends the record, without its header.
    fn put_record(&self, out: &mut Vec<u8>);

    /// Appends header and record.
    fn put(&self, out: &mut Vec<u8>) {
        put_header(out, self.kind(), false, self.header_err());
        self.put_record(out);
    }
}

/// Appends the terminator of a multi's ops or results.
pub fn put_multi_end(out: &mut Vec<u8>) {
    put_header(out, -1, true, -1);
}

fn put_header(out: &mut Vec<u8>, kind: i32, done: bool, err: i32) {
    put_int(out, kind);
    put_boolean(out, done);
    put_int(out, err);
}

/// Reads the next header: its type, or `None` for the terminator. ZooKeeper ignores the err field.
fn read_header(r: &mut Reader<'_>) -> Result<Option<i32>, DecodeError> {
    let (kind, done, _err) = (r.int()?, r.boolean()?, r.int()?);
    Ok((!done).then_some(kind))
}

/// The ops of a multi ([`Request`]s) or its results ([`MultiResult`]s).
pub struct Multi<'a, T>(MultiForm<'a, T>);

enum MultiForm<'a, T> {
    Wire { count: u32, reader: Reader<'a> },
    Slice(&'a [T]),
}

impl<T> Clone for MultiForm<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for MultiForm<'_, T> {}
impl<T> Clone for Multi<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Multi<'_, T> {}

impl<'a, T: MultiOp<'a>> Multi<'a, T> {
    /// A list of `items`, to be encoded.
    pub const fn new(items: &'a [T]) -> Self {
        Self(MultiForm::Slice(items))
    }
    /// Reads a list to its terminator.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Self::read_checked(reader, |_| Ok(()))
    }
    fn read_checked(
        reader: &mut Reader<'a>,
        mut check: impl FnMut(&T) -> Result<(), DecodeError>,
    ) -> Result<Self, DecodeError> {
        let start = *reader;
        let mut count = 0;
        while let Some(kind) = read_header(reader)? {
            check(&T::read(kind, reader)?)?;
            count += 1;
        }
        let used = start.rest().len() - reader.rest().len();
        Ok(Self(MultiForm::Wire { count, reader: Reader::new(&start.rest()[..used], start.limits()) }))
    }
    /// Appends the list with its terminator.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|op| op.put(out));
        put_multi_end(out);
    }
    pub const fn len(&self) -> usize {
        match self.0 {
            MultiForm::Wire { count, .. } => count as usize,
            MultiForm::Slice(items) => items.len(),
        }
    }
    /// An empty list is legal.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The elements in order, decoded in place.
    pub const fn iter(&self) -> MultiIter<'a, T> {
        MultiIter(self.0)
    }
}

impl<'a, T: MultiOp<'a>> PartialEq for Multi<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: MultiOp<'a>> fmt::Debug for Multi<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: MultiOp<'a>> IntoIterator for Multi<'a, T> {
    type Item = T;
    type IntoIter = MultiIter<'a, T>;
    fn into_iter(self) -> MultiIter<'a, T> {
        self.iter()
    }
}

/// Iterator over a [`Multi`].
pub struct MultiIter<'a, T>(MultiForm<'a, T>);

impl<'a, T: MultiOp<'a>> Iterator for MultiIter<'a, T> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            MultiForm::Wire { count, reader } => {
                *count = count.checked_sub(1)?;
                let kind = read_header(reader).ok()??;
                T::read(kind, reader).ok()
            }
            MultiForm::Slice(items) => {
                let (first, rest) = items.split_first()?;
                *items = rest;
                Some(first.clone())
            }
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = match self.0 {
            MultiForm::Wire { count, .. } => count as usize,
            MultiForm::Slice(items) => items.len(),
        };
        (n, Some(n))
    }
}

impl<'a, T: MultiOp<'a>> ExactSizeIterator for MultiIter<'a, T> {}

/// The request that a list of ops belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MultiKind {
    /// multi: creates, deletes, setData, check.
    Write,
    /// multiRead: getData and getChildren.
    Read,
}

/// The request that may hold an op; `None` if neither may.
fn kind_of(opcode: i32) -> Option<MultiKind> {
    match opcode {
        opcode::CREATE
        | opcode::CREATE2
        | opcode::CREATE_CONTAINER
        | opcode::CREATE_TTL
        | opcode::DELETE
        | opcode::SET_DATA
        | opcode::CHECK => Some(MultiKind::Write),
        opcode::GET_DATA | opcode::GET_CHILDREN => Some(MultiKind::Read),
        _ => None,
    }
}

impl<'a> Multi<'a, Request<'a>> {
    /// Decodes the ops of a request. One op that may not be there, or a mix of writes and reads, refuses
    /// the whole request.
    pub fn read_ops(reader: &mut Reader<'a>, wanted: MultiKind) -> Result<Self, DecodeError> {
        let mut first = None;
        let mut last_opcode = 0;
        let list = Self::read_checked(reader, |op: &Request<'_>| {
            last_opcode = op.opcode();
            let kind = kind_of(last_opcode).ok_or(DecodeError::MultiOp(last_opcode))?;
            if *first.get_or_insert(kind) != kind {
                return Err(DecodeError::MultiOp(last_opcode));
            }
            check_create_flags(op)
        })?;
        match (first, wanted) {
            (Some(MultiKind::Write), MultiKind::Read) => Err(DecodeError::WriteInMultiRead(last_opcode)),
            (Some(MultiKind::Read), MultiKind::Write) => Err(DecodeError::MultiOp(last_opcode)),
            _ => Ok(list),
        }
    }
}

/// Within a multi, ZooKeeper 3.9 turns create flags into a mode while it decodes. Unknown flags refuse the
/// whole request, and so do TTL flags on an op without a ttl. The flags of createTTL are left for the op's
/// own -8.
fn check_create_flags(op: &Request<'_>) -> Result<(), DecodeError> {
    match op {
        Request::Create(Create { op: CreateOp::CreateTtl { .. }, .. }) => Ok(()),
        Request::Create(Create { flags, .. }) if !(0..=create_flags::CONTAINER).contains(flags) => {
            Err(DecodeError::UnknownValue(*flags))
        }
        _ => Ok(()),
    }
}

/// Within a multi the flags decide the op, where alone the opcode does. The container flag makes any
/// create a createContainer, and a createTTL without TTL flags is a plain create.
fn op_of_flags(op: CreateOp, flags: i32) -> CreateOp {
    match (op, flags) {
        (_, create_flags::CONTAINER) => CreateOp::CreateContainer,
        (CreateOp::CreateTtl { .. }, create_flags::PERSISTENT..=create_flags::EPHEMERAL_SEQUENTIAL) => {
            CreateOp::Create
        }
        _ => op,
    }
}

impl<'a> MultiOp<'a> for Request<'a> {
    fn read(kind: i32, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if kind_of(kind).is_none() {
            return Err(DecodeError::MultiOp(kind));
        }
        let mut op = Request::read(kind, reader)?;
        if let Request::Create(create) = &mut op {
            create.op = op_of_flags(create.op, create.flags);
        }
        Ok(op)
    }
    fn kind(&self) -> i32 {
        self.opcode()
    }
    fn header_err(&self) -> i32 {
        -1
    }
    fn put_record(&self, out: &mut Vec<u8>) {
        self.put(out);
    }
}

/// The result of one op.
#[derive(Clone, PartialEq, Debug)]
pub enum MultiResult<'a> {
    /// create: the final path.
    Create {
        /// The final path, sequence suffix included.
        path: Text<'a>,
    },
    /// create2, createContainer and createTTL.
    Create2 {
        /// The final path, sequence suffix included.
        path: Text<'a>,
        /// Stat of the new znode.
        stat: Stat,
    },
    Delete,
    Check,
    SetData {
        /// Stat after the change.
        stat: Stat,
    },
    /// getData of a multiRead.
    GetData {
        /// `None` encodes null data.
        data: Option<&'a [u8]>,
        stat: Stat,
    },
    /// getChildren of a multiRead.
    GetChildren {
        /// Names, in no particular order.
        children: List<'a, Text<'a>>,
    },
    /// The op failed. In a multi also: the op did not run because another one failed.
    Error {
        /// 0 for ops before the one that failed, the error of that op, and -2 for ops behind it.
        code: i32,
    },
}

impl<'a> MultiResult<'a> {
    /// The result of op `index` in a multi whose op `failed` failed with `code`.
    pub const fn of_failed(index: usize, failed: usize, code: i32) -> MultiResult<'static> {
        let code = if index < failed {
            error::OK
        } else if index == failed {
            code
        } else {
            error::RUNTIME_INCONSISTENCY
        };
        MultiResult::Error { code }
    }
    /// Decodes the body of a reply to multi or multiRead.
    pub fn decode_all(body: &'a [u8], limits: Limits) -> Result<Multi<'a, Self>, DecodeError> {
        Multi::read(&mut Reader::new(body, limits))
    }
}

impl<'a> MultiOp<'a> for MultiResult<'a> {
    fn read(kind: i32, r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match kind {
            opcode::CREATE => MultiResult::Create { path: r.text()? },
            opcode::CREATE2 => MultiResult::Create2 { path: r.text()?, stat: Stat::read(r)? },
            opcode::DELETE => MultiResult::Delete,
            opcode::CHECK => MultiResult::Check,
            opcode::SET_DATA => MultiResult::SetData { stat: Stat::read(r)? },
            opcode::GET_DATA => MultiResult::GetData { data: r.buffer()?, stat: Stat::read(r)? },
            opcode::GET_CHILDREN => MultiResult::GetChildren { children: List::read(r)? },
            opcode::ERROR => MultiResult::Error { code: r.int()? },
            other => return Err(DecodeError::MultiOp(other)),
        })
    }
    fn kind(&self) -> i32 {
        match self {
            MultiResult::Create { .. } => opcode::CREATE,
            MultiResult::Create2 { .. } => opcode::CREATE2,
            MultiResult::Delete => opcode::DELETE,
            MultiResult::Check => opcode::CHECK,
            MultiResult::SetData { .. } => opcode::SET_DATA,
            MultiResult::GetData { .. } => opcode::GET_DATA,
            MultiResult::GetChildren { .. } => opcode::GET_CHILDREN,
            MultiResult::Error { .. } => opcode::ERROR,
        }
    }
    fn header_err(&self) -> i32 {
        match self {
            MultiResult::Error { code } => *code,
            _ => 0,
        }
    }
    fn put_record(&self, out: &mut Vec<u8>) {
        match self {
            MultiResult::Create { path } => put_text(out, path),
            MultiResult::Create2 { path, stat } => {
                put_text(out, path);
                stat.put(out);
            }
            MultiResult::Delete | MultiResult::Check => {}
            MultiResult::SetData { stat } => stat.put(out),
            MultiResult::GetData { data, stat } => {
                put_buffer(out, *data);
                stat.put(out);
            }
            MultiResult::GetChildren { children } => children.put(out),
            MultiResult::Error { code } => put_int(out, *code),
        }
    }
}
