//! Frames (a length, then the payload), and the four-letter words that may come instead of the first
//! frame.
//!
//! Owns where a message ends. Never waits and never buffers. Correct because each call looks only at the
//! bytes that have arrived, and checks a length against the limit before it uses the length.

use super::primitives::{JUTE_MAX_BUFFER_BYTES_DEFAULT, wire_length};
use thiserror::Error;

/// Bytes of the length before each frame.
pub const LENGTH_PREFIX_BYTES: usize = 4;

/// Longest request frame accepted by default, bytes: `jute.maxbuffer`. Exactly this length is allowed.
pub const FRAME_MAX_BYTES_DEFAULT: u32 = JUTE_MAX_BUFFER_BYTES_DEFAULT;

/// A length that no frame may have. The connection is closed without a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("negative frame length {0}")]
    Negative(i32),
    #[error("frame of {length} bytes is longer than the limit of {max} bytes (jute.maxbuffer)")]
    TooLong {
        /// Length announced by the peer.
        length: u32,
        /// Largest length that is allowed.
        max: u32,
    },
}

/// The first frame in the bytes that have arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split<'a> {
    /// A whole frame, and the bytes behind it.
    Frame {
        /// The payload, without its length prefix.
        payload: &'a [u8],
        rest: &'a [u8],
    },
    /// Not a whole frame yet.
    Incomplete {
        /// Bytes, counted from the start of the length prefix, without which another attempt is useless.
        needed_bytes: usize,
    },
}

/// Cuts the first frame off `bytes`. `max_bytes` bounds the payload.
#[inline]
pub fn split(bytes: &[u8], max_bytes: u32) -> Result<Split<'_>, FrameError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<LENGTH_PREFIX_BYTES>() else {
        return Ok(Split::Incomplete { needed_bytes: LENGTH_PREFIX_BYTES });
    };
    let length = i32::from_be_bytes(*prefix);
    let length = u32::try_from(length).map_err(|_| FrameError::Negative(length))?;
    if length > max_bytes {
        return Err(FrameError::TooLong { length, max: max_bytes });
    }
    Ok(match rest.split_at_checked(length as usize) {
        Some((payload, rest)) => Split::Frame { payload, rest },
        None => Split::Incomplete { needed_bytes: LENGTH_PREFIX_BYTES + length as usize },
    })
}

/// Appends a frame whose payload `fill` writes, and fills in its length afterwards.
#[inline]
pub fn put_frame<R>(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_PREFIX_BYTES]);
    let result = fill(out);
    let length = wire_length(out.len() - start - LENGTH_PREFIX_BYTES);
    out[start..start + LENGTH_PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    result
}

/// Bytes of a four-letter word.
pub const FOUR_LETTER_BYTES: usize = 4;

macro_rules! words {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// A command that may come as the first four bytes of a connection (spec 03 section 1).
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum FourLetterWord { $($(#[$doc])* $variant),* }

        impl FourLetterWord {
            pub const ALL: &[FourLetterWord] = &[$(FourLetterWord::$variant),*];

            /// The word that the first four bytes of a connection spell; `None` if they are a length.
            pub const fn recognise(first: [u8; FOUR_LETTER_BYTES]) -> Option<Self> {
                $(if u32::from_be_bytes(first) == u32::from_be_bytes(*$text) {
                    return Some(FourLetterWord::$variant);
                })*
                None
            }
            pub const fn bytes(self) -> &'static [u8; FOUR_LETTER_BYTES] {
                match self { $(FourLetterWord::$variant => $text),* }
            }
        }
    };
}

words! {
    /// Reports the server's configuration.
    Conf = b"conf";
    /// Lists connections with their statistics.
    Cons = b"cons";
    /// Resets the statistics of connections.
    Crst = b"crst";
    /// Reports data and snapshot sizes.
    Dirs = b"dirs";
    /// Lists sessions and ephemeral znodes.
    Dump = b"dump";
    /// Reports the server's environment.
    Envi = b"envi";
    /// Reads the trace mask.
    Gtmk = b"gtmk";
    /// Reports the digest history.
    Hash = b"hash";
    /// Answers `rw`, `ro` or `null`.
    Isro = b"isro";
    /// Paddock's extension: asks this server to become the leader.
    Lead = b"lead";
    /// Reports metrics, one per line.
    Mntr = b"mntr";
    /// Answers `imok` while the server runs.
    Ruok = b"ruok";
    /// Resets the server's statistics.
    Srst = b"srst";
    /// Reports a summary of the server.
    Srvr = b"srvr";
    /// Reports a summary of the server and its clients.
    Stat = b"stat";
    /// Sets the trace mask: [`FourLetterWord::extra_bytes`] more follow.
    Stmk = b"stmk";
    /// Lists watches by session.
    Wchc = b"wchc";
    /// Lists watches by path.
    Wchp = b"wchp";
    /// Reports a summary of the watches.
    Wchs = b"wchs";
    /// Sent by an interrupted telnet: closes the connection.
    TelnetClose = b"\xff\xf4\xff\xfd";
}

impl FourLetterWord {
    /// The word as text. [`FourLetterWord::TelnetClose`] has no text and is `telnet close`.
    pub fn name(self) -> &'static str {
        std::str::from_utf8(self.bytes()).unwrap_or("telnet close")
    }
    /// Bytes that belong to the command and follow the word: the mask of `stmk`, a long.
    pub const fn extra_bytes(self) -> usize {
        match self {
            FourLetterWord::Stmk => 8,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let mut bytes = 8u32.to_be_bytes().to_vec();
        bytes.extend(b"12345678rest");
        assert_eq!(split(&bytes, 8), Ok(Split::Frame { payload: b"12345678", rest: b"rest" }));
        assert_eq!(split(&bytes, 7), Err(FrameError::TooLong { length: 8, max: 7 }));
        assert_eq!(split(&[0xff; 4], 8), Err(FrameError::Negative(-1)));
        // A length above the limit is refused before its bytes arrive.
        assert!(split(&[0x7f, 0xff, 0xff, 0xff], 8).is_err());
    }

    #[test]
    fn every_prefix_of_a_frame_says_how_much_is_needed() {
        let bytes = [0, 0, 0, 3, b'a', b'b', b'c'];
        for cut in 0..bytes.len() {
            let needed_bytes = if cut < 4 { 4 } else { 7 };
            assert_eq!(split(&bytes[..cut], 100), Ok(Split::Incomplete { needed_bytes }), "cut at {cut}");
        }
        assert_eq!(split(&[0; 4], 100), Ok(Split::Frame { payload: b"", rest: b"" }));
    }

    #[test]
    fn words_are_told_from_lengths() {
        for word in FourLetterWord::ALL {
            assert_eq!(FourLetterWord::recognise(*word.bytes()), Some(*word));
        }
        for other in [*b"ruoK", *b"xxxx", [0, 0, 0, 45], [0xff; 4]] {
            assert_eq!(FourLetterWord::recognise(other), None);
        }
        assert_eq!(FourLetterWord::Ruok.name(), "ruok");
        assert_eq!(FourLetterWord::TelnetClose.name(), "telnet close");
    }
}
