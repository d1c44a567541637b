//! The checksum of frames and greetings.

#![forbid(unsafe_code)]

/// CRC-32C (Castagnoli) of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
