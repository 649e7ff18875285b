//! The content record (FORMAT.md §5.4): a piece of content too long for its message record.
//!
//! It names its message so that a person can say whose a dead one was; only the message record decides whether it counts.

use crate::RecordError;
use crate::bytes::{Reader, put};
use crate::layout::content;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRecord<'a> {
    pub message_id: [u8; 16],
    /// 0 for the first piece of the message.
    pub number: u32,
    pub octets: &'a [u8],
}

impl<'a> ContentRecord<'a> {
    /// Everything before the octets.
    pub fn head(message_id: [u8; 16], number: u32) -> [u8; content::OCTETS] {
        let mut head = [0; content::OCTETS];
        put(&mut head, content::MESSAGE_ID, &message_id);
        put(&mut head, content::NUMBER, &number.to_le_bytes());
        head
    }

    pub fn decode(payload: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(payload);
        let decoded = Self {
            message_id: reader.bytes16("message id")?,
            number: reader.u32("number")?,
            octets: &[],
        };
        reader.u32("reserved bytes")?;
        Ok(Self {
            octets: reader.rest(),
            ..decoded
        })
    }
}
