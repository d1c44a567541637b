//! Jute's primitive types.
//!
//! Owns the only code that takes bytes apart ([`Reader`]) and the functions that put them together. Never
//! looks past the slice it was given. Correct because each read first checks what is left: a length from
//! the peer is compared, never trusted.

use std::borrow::Cow;
use thiserror::Error;

/// A decoded string. Borrowed from the frame if the bytes were UTF-8, owned if malformed bytes became
/// U+FFFD.
pub type Text<'a> = Cow<'a, str>;

/// Default of `jute.maxbuffer`, bytes, as in ZooKeeper.
pub const JUTE_MAX_BUFFER_BYTES_DEFAULT: u32 = 0xf_ffff;

/// Bound on the length of a string or buffer inside a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `jute.maxbuffer` + `zookeeper.jute.maxbuffer.extrasize`, bytes.
    pub value_max_bytes: u32,
}

impl Limits {
    /// No limit except the end of the frame: for data that was bounded when it first came in (log entries,
    /// replies).
    pub const NONE: Limits = Limits { value_max_bytes: i32::MAX as u32 };

    /// The limits that follow from `jute.maxbuffer` and `zookeeper.jute.maxbuffer.extrasize`.
    pub const fn new(jute_max_buffer_bytes: u32, extra_bytes: u32) -> Self {
        Self { value_max_bytes: jute_max_buffer_bytes.saturating_add(extra_bytes) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(JUTE_MAX_BUFFER_BYTES_DEFAULT, JUTE_MAX_BUFFER_BYTES_DEFAULT)
    }
}

/// Why bytes cannot be decoded as a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The record ends before its fields do.
    #[error("record is cut short: {needed} bytes needed, {left} left")]
    Short {
        /// Bytes that the next field takes.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A string's or buffer's length is below -1 or above the limit.
    #[error("unreasonable length {0}")]
    Length(i32),
    /// Null where a string is required (null paths: spec 01 section 7.1).
    #[error("null string where one is needed")]
    NullText,
    /// Null where a buffer is required.
    #[error("null buffer where one is needed")]
    NullBuffer,
    /// Null where a vector is required.
    #[error("null vector where one is needed")]
    NullList,
    /// An enumeration's value is unknown (addWatch mode, watcher type, create flags within a multi).
    #[error("unknown value {0} of an enumeration")]
    UnknownValue(i32),
    /// A multi holds an op that it may not hold, or mixes reads and writes.
    #[error("operation {0} is not allowed here in a multi")]
    MultiOp(i32),
    /// A multiRead that is well-formed but holds a write. ZooKeeper answers -5 with a stray terminator
    /// behind it.
    #[error("write operation {0} in a multiRead")]
    WriteInMultiRead(i32),
    /// No request has this opcode. Answered with -6 and a close.
    #[error("unknown opcode {0}")]
    UnknownOpcode(i32),
}

impl DecodeError {
    /// The error code of the reply: -6 for an unknown opcode, -5 otherwise.
    pub const fn code(&self) -> i32 {
        match self {
            DecodeError::UnknownOpcode(_) => super::error::UNIMPLEMENTED,
            _ => super::error::MARSHALLING_ERROR,
        }
    }
}

/// Takes a record apart, front to back.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    limits: Limits,
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8], limits: Limits) -> Self {
        Self { rest: bytes, limits }
    }
    /// Bytes not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
    pub const fn limits(&self) -> Limits {
        self.limits
    }
    /// Reads the next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(DecodeError::Short { needed: n, left: self.rest.len() }),
        }
    }
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(DecodeError::Short { needed: N, left: self.rest.len() }),
        }
    }
    /// A boolean: any non-zero byte is true.
    #[inline]
    pub fn boolean(&mut self) -> Result<bool, DecodeError> {
        Ok(self.array::<1>()?[0] != 0)
    }
    /// A jute int: 4 bytes, big-endian.
    #[inline]
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }
    /// A jute long: 8 bytes, big-endian.
    #[inline]
    pub fn long(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }
    /// A buffer; `None` is null, which differs from empty.
    #[inline]
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let length = self.int()?;
        match u32::try_from(length) {
            Ok(n) if n <= self.limits.value_max_bytes => self.take(n as usize).map(Some),
            Err(_) if length == -1 => Ok(None),
            _ => Err(DecodeError::Length(length)),
        }
    }
    /// A string; `None` is null.
    #[inline]
    pub fn opt_text(&mut self) -> Result<Option<Text<'a>>, DecodeError> {
        Ok(self.buffer()?.map(text_from))
    }
    /// A string that may not be null.
    #[inline]
    pub fn text(&mut self) -> Result<Text<'a>, DecodeError> {
        self.opt_text()?.ok_or(DecodeError::NullText)
    }
    /// A string; null reads as empty. For paths where ZooKeeper answers null and empty alike.
    #[inline]
    pub fn text_or_empty(&mut self) -> Result<Text<'a>, DecodeError> {
        Ok(self.opt_text()?.unwrap_or_default())
    }
}

/// Decodes as Java does: malformed bytes become U+FFFD.
#[inline]
pub fn text_from(bytes: &[u8]) -> Text<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(replace_malformed(bytes)),
    }
}

/// Replaces malformed stretches by U+FFFD, as many as Java does. Rust agrees with Java except for encoded
/// surrogates (`ED A0..BF xx`): Java makes one U+FFFD of each, Rust one per byte. Java's jute encoder
/// produces such surrogates for code points above U+FFFF.
#[cold]
fn replace_malformed(mut bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let error = match std::str::from_utf8(bytes) {
            Ok(valid) => {
                out.push_str(valid);
                break;
            }
            Err(error) => error,
        };
        let (valid, bad) = bytes.split_at(error.valid_up_to());
        out.push_str(&String::from_utf8_lossy(valid));
        out.push(char::REPLACEMENT_CHARACTER);
        let skip = match bad {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => 3,
            [0xed, 0xa0..=0xbf, ..] => 2,
            _ => error.error_len().unwrap_or(bad.len()),
        };
        bytes = &bad[skip..];
    }
    out
}

/// A length in wire form. Values are bounded far below 2 GiB where they come in.
#[inline]
pub(super) fn wire_length(n: usize) -> i32 {
    debug_assert!(i32::try_from(n).is_ok(), "a value of {n} bytes has no length on the wire");
    n as i32
}

/// Appends one byte: 0 or 1.
#[inline]
pub fn put_boolean(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}
/// Appends 4 bytes, big-endian.
#[inline]
pub fn put_int(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}
/// Appends 8 bytes, big-endian.
#[inline]
pub fn put_long(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}
/// Appends a buffer; `None` is null.
#[inline]
pub fn put_buffer(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            put_int(out, wire_length(bytes.len()));
            out.extend_from_slice(bytes);
        }
        None => put_int(out, -1),
    }
}
/// Appends a string as UTF-8. Java peers write code points above U+FFFF as encoded surrogates, which no
/// decoder reads back, their own included. Paddock writes what every decoder reads.
#[inline]
pub fn put_text(out: &mut Vec<u8>, value: &str) {
    put_buffer(out, Some(value.as_bytes()));
}
/// Appends a string; `None` is null.
#[inline]
pub fn put_opt_text(out: &mut Vec<u8>, value: Option<&str>) {
    put_buffer(out, value.map(str::as_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int_then(length: i32, bytes: &[u8]) -> Vec<u8> {
        let mut v = length.to_be_bytes().to_vec();
        v.extend_from_slice(bytes);
        v
    }

    #[test]
    fn lengths_below_minus_one_or_above_the_limit_are_refused() {
        let limits = Limits::new(4, 2);
        for (length, expected) in [
            (-1, Ok(None)),
            (0, Ok(Some(&b""[..]))),
            (6, Ok(Some(&b"abcdef"[..]))),
            (7, Err(DecodeError::Length(7))),
            (-2, Err(DecodeError::Length(-2))),
            (i32::MIN, Err(DecodeError::Length(i32::MIN))),
            (i32::MAX, Err(DecodeError::Length(i32::MAX))),
        ] {
            let bytes = int_then(length, b"abcdefg");
            assert_eq!(Reader::new(&bytes, limits).buffer(), expected, "length {length}");
        }
        let bytes = int_then(i32::MAX, b"abc");
        assert_eq!(
            Reader::new(&bytes, Limits::NONE).buffer(),
            Err(DecodeError::Short { needed: i32::MAX as usize, left: 3 })
        );
    }

    #[test]
    fn any_non_zero_byte_is_true() {
        for byte in 0..=255u8 {
            assert_eq!(Reader::new(&[byte], Limits::NONE).boolean(), Ok(byte != 0));
        }
    }

    #[test]
    fn malformed_utf8_becomes_what_java_makes_of_it() {
        let r = "\u{fffd}";
        for (bytes, expected) in [
            (&b"abc"[..], "abc".to_string()),
            (b"\xc3\xa4", "ä".into()),
            (b"a\xffb", format!("a{r}b")),
            (b"\xc0\x80", format!("{r}{r}")),
            (b"a\xc3", format!("a{r}")),
            (b"\xe2\x82", r.into()),
            (b"\xe2\x82A", format!("{r}A")),
            (b"\xe0\x80\x80", format!("{r}{r}{r}")),
            (b"\xed\xa0\xbd\xed\xb8\x80", format!("{r}{r}")),
            (b"\xed\xa0", r.into()),
            (b"\xed\xa0A", format!("{r}A")),
            (b"\xed\xa0\xffA", format!("{r}{r}A")),
            (b"\xf0\x9f\x98\x80", "😀".into()),
            (b"\xf0\x9f\x98", r.into()),
            (b"\xf0\x9fA", format!("{r}A")),
            (b"\xf4\x90\x80\x80", format!("{r}{r}{r}{r}")),
            (b"\xf8\x88", format!("{r}{r}")),
        ] {
            assert_eq!(text_from(bytes), expected, "{bytes:02x?}");
        }
        assert!(matches!(text_from(b"/plain"), Cow::Borrowed("/plain")));
    }
}
