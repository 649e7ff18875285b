//! The event record (FORMAT.md §5.5): one fact about one recipient of one message. Its position is the event's id.

use crate::RecordError;
use crate::bytes::Reader;
use crate::layout::event;
use crate::list::{Fields, List};

pub use crate::layout::{event_field, event_kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRecord<'a> {
    /// Of [`event_kind`], or one that this version does not know.
    pub kind: u16,
    pub at_unix_ms: u64,
    /// Zeros where the event is about no message (a manual suppression).
    pub message_id: [u8; 16],
    /// In order of RCPT, from 0.
    pub recipient_number: u16,
    /// Tags of [`event_field`], or ones that this version does not know.
    pub fields: Fields<'a>,
}

impl<'a> EventRecord<'a> {
    pub fn encoded_len(&self) -> usize {
        event::FIELDS + self.fields.encoded_len()
    }

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        out.reserve(self.encoded_len());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.recipient_number.to_le_bytes());
        out.extend_from_slice(&[0; event::AT_UNIX_MS - event::RESERVED]);
        out.extend_from_slice(&self.at_unix_ms.to_le_bytes());
        out.extend_from_slice(&self.message_id);
        self.fields.encode(out)
    }

    pub fn decode(payload: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(payload);
        let kind = reader.u16("kind")?;
        let recipient_number = reader.u16("recipient number")?;
        reader.u32("reserved bytes")?;
        Ok(Self {
            kind,
            recipient_number,
            at_unix_ms: reader.u64("time")?,
            message_id: reader.bytes16("message id")?,
            fields: List::parse(reader.rest())?,
        })
    }
}
