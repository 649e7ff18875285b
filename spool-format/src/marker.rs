//! Records about other records (FORMAT.md §5.6, §5.7): erased ones, and ranges that are void.

use crate::RecordError;
use crate::bytes::{Reader, array, put, u32_at, u64_at};
use crate::digest;
use crate::event::EventRecord;
use crate::frame::{Frame, padded_len, seal};
use crate::layout::{erasable_len, erased, fixed_len, kind, record, void};
use crate::message::StreamKind;
use crate::segment::Seed;

/// What is left of a record whose payload was erased for privacy: same place, same length, its hash kept, so that the
/// running hash and a digest over the segment's records still hold, and the part of its payload that names nobody, so
/// that the lives of messages still add up. Written over the record: the one permitted overwrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedRecord<'a> {
    /// Checksum of the record as first written.
    pub crc: u32,
    /// Kind of the record as first written.
    pub kind: u8,
    /// Digest of the record as first written; zeros where it was erased before digests were kept.
    pub digest: [u8; 32],
    /// The fixed part of the payload as first written; empty where none was kept.
    pub fixed: &'a [u8],
}

/// What is known of an erased message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedMessage {
    pub id: [u8; 16],
    pub accepted_unix_ms: u64,
    pub content_len: u64,
    pub server_id: u32,
    pub header_len: u32,
    /// How many there were.
    pub recipients: u16,
    pub stream_kind: StreamKind,
}

impl<'a> ErasedRecord<'a> {
    /// Whether the record is of a kind that is erased, and long enough.
    pub fn can_be(frame: &Frame<'_>) -> bool {
        erasable_len(frame.kind).is_some_and(|len| frame.payload.len() >= len)
    }

    /// What will be left of this record. `None` where it is of a kind that is not erased, or too short.
    pub fn of(frame: &Frame<'a>) -> Option<Self> {
        if !Self::can_be(frame) {
            return None;
        }
        Some(Self {
            crc: frame.crc,
            kind: frame.kind,
            digest: digest::of_record(frame),
            fixed: frame.payload.get(..fixed_len(frame.kind)?)?,
        })
    }

    /// Makes `payload` that of an erased record. `None`, and nothing done, where it is too short to be erased.
    pub fn write(&self, payload: &mut [u8]) -> Option<()> {
        if payload.len() < erased::FIXED + self.fixed.len() {
            return None;
        }
        payload.fill(0);
        put(payload, erased::CRC, &self.crc.to_le_bytes());
        put(payload, erased::KIND, &[self.kind]);
        put(payload, erased::DIGEST, &self.digest);
        put(payload, erased::FIXED, self.fixed);
        Some(())
    }

    /// The whole record, as it is to lie at `offset`; `record_len` and `flags` are those of the record as first written.
    /// `None` where it is too short to be erased.
    pub fn encode(&self, record_len: usize, flags: u8, seed: Seed, offset: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; padded_len(record_len)];
        self.write(bytes.get_mut(record::PAYLOAD..record_len)?)?;
        seal(&mut bytes, record_len, kind::ERASED, flags, seed, offset);
        Some(bytes)
    }

    pub fn decode(payload: &'a [u8]) -> Result<Self, RecordError> {
        let short = RecordError::Short("erased record");
        let kind = *payload.get(erased::KIND).ok_or(short)?;
        let fixed = fixed_len(kind).and_then(|len| payload.get(erased::FIXED..erased::FIXED + len));
        Ok(Self {
            crc: u32_at(payload, erased::CRC).ok_or(short)?,
            kind,
            digest: array(payload, erased::DIGEST).ok_or(short)?,
            fixed: fixed
                .filter(|fixed| fixed.iter().any(|&byte| byte != 0))
                .unwrap_or_default(),
        })
    }

    /// The event that it was, without its fields.
    pub fn event(&self) -> Option<EventRecord<'a>> {
        (self.kind == kind::EVENT)
            .then(|| EventRecord::decode(self.fixed).ok())
            .flatten()
    }

    /// The message that it was.
    pub fn message(&self) -> Option<ErasedMessage> {
        (self.kind == kind::MESSAGE)
            .then(|| decode_message(self.fixed).ok())
            .flatten()
    }

    /// The id of the message that it was, was content of, or was about.
    pub fn message_id(&self) -> Option<[u8; 16]> {
        match self.kind {
            kind::EVENT => self.event().map(|event| event.message_id),
            kind::MESSAGE | kind::CONTENT => array(self.fixed, 0),
            _ => None,
        }
    }
}

fn decode_message(fixed: &[u8]) -> Result<ErasedMessage, RecordError> {
    let mut reader = Reader::new(fixed);
    let id = reader.bytes16("id")?;
    let accepted_unix_ms = reader.u64("time")?;
    let content_len = reader.u64("content length")?;
    let server_id = reader.u32("server id")?;
    reader.u32("flags")?;
    Ok(ErasedMessage {
        id,
        accepted_unix_ms,
        content_len,
        server_id,
        header_len: reader.u32("header length")?,
        recipients: reader.u16("recipients")?,
        stream_kind: StreamKind::from_byte(reader.u8("stream kind")?)?,
    })
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
