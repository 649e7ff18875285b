//! Records about other records (FORMAT.md §5.6, §5.7): erased ones, and ranges that are void.

use crate::RecordError;
use crate::bytes::{array, put, u32_at, u64_at};
use crate::layout::{erased, void};

/// What is left of a record whose payload was erased for privacy: same place, same length, its hash kept, so that the
/// running hash and a digest over the segment's records still hold. Written over the record: the one permitted overwrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedRecord {
    /// Checksum of the record as first written.
    pub crc: u32,
    /// Kind of the record as first written.
    pub kind: u8,
    /// Digest of the record as first written; zeros where the segment has none.
    pub digest: [u8; 32],
}

impl ErasedRecord {
    /// Makes `payload` that of an erased record. `None`, and nothing done, where it is too short to be erased.
    pub fn write(&self, payload: &mut [u8]) -> Option<()> {
        if payload.len() < erased::ZEROS {
            return None;
        }
        payload.fill(0);
        put(payload, erased::CRC, &self.crc.to_le_bytes());
        put(payload, erased::KIND, &[self.kind]);
        put(payload, erased::DIGEST, &self.digest);
        Some(())
    }

    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let short = RecordError::Short("erased record");
        Ok(Self {
            crc: u32_at(payload, erased::CRC).ok_or(short)?,
            kind: *payload.get(erased::KIND).ok_or(short)?,
            digest: array(payload, erased::DIGEST).ok_or(short)?,
        })
    }
}

/// The records in `from..to` (positions of the same log) were never acknowledged, or were refused after they had reached
/// the disk: they do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoidRecord {
    pub from: u64,
    pub to: u64,
}

impl VoidRecord {
    pub fn encode(&self) -> [u8; void::LEN] {
        let mut payload = [0; void::LEN];
        put(&mut payload, void::FROM, &self.from.to_le_bytes());
        put(&mut payload, void::TO, &self.to.to_le_bytes());
        payload
    }

    pub fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let short = RecordError::Short("void range");
        let decoded = Self {
            from: u64_at(payload, void::FROM).ok_or(short)?,
            to: u64_at(payload, void::TO).ok_or(short)?,
        };
        if decoded.from > decoded.to {
            return Err(RecordError::Mismatch("void range"));
        }
        Ok(decoded)
    }
}
