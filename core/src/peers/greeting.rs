//! The handshake's record: the sender, the node that it wants, and whether it is accepted.
//!
//! Owns the 80 bytes that each end sends first (`docs/formats/peers.md`), and the reasons for a refusal.
//! Never decides; `handshake` does.
//!
//! Correct across versions because this record keeps its shape in all of them. A newer node can tell an
//! older one that it is too old.

#![forbid(unsafe_code)]

use super::crc::crc32c;
use std::fmt;
use thiserror::Error;

/// Version of everything that follows the greeting on the wire.
pub const PROTOCOL_VERSION: u16 = 3;

pub(super) const GREETING_BYTES: usize = 80;

/// First bytes of a greeting.
const MAGIC: [u8; 4] = *b"PDKP";

/// The sender is a member, by the membership that it knows.
const FLAG_MEMBER: u8 = 1;
/// The sender's log or snapshots hold anything.
const FLAG_DATA: u8 = 2;

/// Offset of the checksum, which counts as zero while it is computed.
const CHECKSUM_AT: usize = 12;

/// How many bytes of an unknown protocol the log shows.
const SHOWN_BYTES: usize = 16;

/// Why a link is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The greeting has another protocol version.
    WrongVersion,
    /// The other node belongs to another ensemble.
    WrongCluster,
    /// The node is not a member.
    UnknownNode,
    /// The dialler wanted to reach another node.
    NotForMe,
    /// The node was a member and was removed.
    Removed,
    /// A link with this node is up already.
    Duplicate,
    /// Neither node belongs to an ensemble yet, and their lists of voters differ.
    OtherFounders,
    /// The node ran before with the same start number: an older copy of its data directory was restored.
    OldCopy,
    /// A reason of a later version, by its code.
    Other(u8),
}

impl Refusal {
    pub(super) fn code(self) -> u8 {
        match self {
            Refusal::WrongVersion => 1,
            Refusal::WrongCluster => 2,
            Refusal::UnknownNode => 3,
            Refusal::NotForMe => 4,
            Refusal::Removed => 5,
            Refusal::Duplicate => 6,
            Refusal::OtherFounders => 8,
            Refusal::OldCopy => 9,
            Refusal::Other(code) => code,
        }
    }

    pub(super) fn from_code(code: u8) -> Self {
        use Refusal::*;
        let named =
            [WrongVersion, WrongCluster, UnknownNode, NotForMe, Removed, Duplicate, OtherFounders, OldCopy];
        named.into_iter().find(|r| r.code() == code).unwrap_or(Other(code))
    }
}

/// Why the first bytes are not a valid greeting.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum GreetingError {
    #[error("{}", stranger(.0))]
    Stranger(Vec<u8>),
    #[error("the checksum of its greeting is wrong")]
    Checksum,
}

/// The first record that each end sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    /// Protocol version of the sender.
    pub version: u16,
    /// Number of the sender.
    pub node: u8,
    /// Number of the node that the sender wants to reach.
    pub wanted: u8,
    /// `None` if accepted. Always `None` in the dialler's first greeting.
    pub refusal: Option<Refusal>,
    /// Whether the sender is a member, by the membership that it knows.
    pub member: bool,
    /// Whether the sender's log or snapshots hold anything.
    pub data: bool,
    /// Drawn at each start, so that two nodes with the same number differ. 0 if not given.
    pub life: u16,
    /// Id of the sender's ensemble; all zero if unknown.
    pub cluster: [u8; 16],
    /// Identity of the sender's data directory.
    pub identity: [u8; 16],
    /// Number of the sender's start.
    pub incarnation: u64,
    /// The dialler's count of its dials since its start. The answer repeats it.
    pub attempt: u64,
    /// Version of the membership that the sender knows; 0 if none.
    pub members_version: i64,
    /// Hash of the voters with which the sender would bootstrap an ensemble, for comparison only. 0 if it
    /// would bootstrap none.
    pub founders: u64,
}

impl Greeting {
    pub(super) fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = self.node;
        bytes[7] = self.wanted;
        bytes[8] = self.refusal.map_or(0, Refusal::code);
        bytes[9] = if self.member { FLAG_MEMBER } else { 0 } | if self.data { FLAG_DATA } else { 0 };
        bytes[10..12].copy_from_slice(&self.life.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster);
        bytes[32..48].copy_from_slice(&self.identity);
        bytes[48..56].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.members_version.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.founders.to_le_bytes());
        let checksum = crc32c(&bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The greeting at the beginning of `bytes`, or `None` if it is incomplete.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, GreetingError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(GreetingError::Stranger(bytes[..bytes.len().min(SHOWN_BYTES)].to_vec()));
        }
        let Some(bytes) = bytes.first_chunk::<GREETING_BYTES>() else { return Ok(None) };
        let mut unsigned = *bytes;
        unsigned[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
        if crc32c(&unsigned).to_le_bytes() != field::<4>(bytes, CHECKSUM_AT) {
            return Err(GreetingError::Checksum);
        }
        Ok(Some(Self {
            version: u16::from_le_bytes(field(bytes, 4)),
            node: bytes[6],
            wanted: bytes[7],
            refusal: (bytes[8] != 0).then(|| Refusal::from_code(bytes[8])),
            member: bytes[9] & FLAG_MEMBER != 0,
            data: bytes[9] & FLAG_DATA != 0,
            life: u16::from_le_bytes(field(bytes, 10)),
            cluster: field(bytes, 16),
            identity: field(bytes, 32),
            incarnation: u64::from_le_bytes(field(bytes, 48)),
            attempt: u64::from_le_bytes(field(bytes, 56)),
            members_version: i64::from_le_bytes(field(bytes, 64)),
            founders: u64::from_le_bytes(field(bytes, 72)),
        }))
    }
}

/// Hash of the voters with which a node would bootstrap an ensemble. Equal for equal voters, never zero;
/// voters are in ascending order. FNV-1a is enough, because nothing is gained by making two lists collide.
pub fn founders(voters: &[u64]) -> u64 {
    let bytes = voters.iter().flat_map(|voter| voter.to_le_bytes());
    let mixed = bytes
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    mixed.max(1)
}

/// Bytes in hexadecimal, for the log.
pub(super) struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn field<const N: usize>(bytes: &[u8; GREETING_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Guesses the protocol of an unknown sender, so that the log can say what to change.
fn stranger(first: &[u8]) -> String {
    let known = if [&b"GET "[..], b"POST", b"HEAD", b"PUT "].iter().any(|word| first.starts_with(word)) {
        "it speaks HTTP; this is the port for the ensemble's other nodes"
    } else if first.starts_with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) {
        "it speaks ZooKeeper's election protocol; a Paddock ensemble takes no ZooKeeper servers"
    } else if first.starts_with(&[0x16, 0x03]) {
        "it speaks TLS; the links between nodes do not"
    } else if first.starts_with(&[0, 0, 0]) {
        "it speaks ZooKeeper's protocol; this is the port for the ensemble's other nodes, clients have their own"
    } else {
        "it does not speak Paddock's peer protocol"
    };
    format!("{known} (first bytes: {})", Hex(first))
}
