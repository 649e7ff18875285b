//! Entries of a checkpoint (FORMAT.md §10.4): a message with its live recipients, coded against the one before it.
//!
//! Promises: an entry is never longer than the record that it is made from; decoding allocates for what is there.
//! Does not know blocks, nor where the bytes come from: a start keeps what it has read of the mail log in the same form.

use crate::RecordError;
use crate::bytes::Reader;
use crate::layout::{entry_flag, live_flag};
use crate::live::{LiveMessage, LiveRecipient, TAG_MARKS, TAG_NONE, TAG_UNKNOWN};
use crate::names::{Names, Origin};
use crate::varint::{self, Varints};

/// Entries one behind another, as in a block; also what a start keeps of the part of the mail log that it has read.
#[derive(Debug, Default)]
pub struct EntryWriter {
    bytes: Vec<u8>,
    last: Last,
    /// By number in [`Names`]: the number here plus one, 0 where not written yet.
    domains: Vec<u32>,
    origins: Vec<u32>,
    domains_written: u32,
    pub(crate) origins_written: u32,
}

/// What the next entry is coded against.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    position: u64,
    accepted_at: u64,
}

impl EntryWriter {
    pub fn push(&mut self, message: &LiveMessage, names: &Names) -> Result<(), RecordError> {
        let single = match message.recipients.as_slice() {
            [] => return Err(RecordError::Mismatch("recipients")),
            [only] => only.number == 0,
            _ => false,
        };
        let origin = names
            .origins
            .get(message.origin)
            .ok_or(RecordError::Mismatch("origin"))?;
        let known = slot(&mut self.origins, message.origin);
        let mut flags = 0;
        for (flag, set) in [
            (entry_flag::COPY, message.is_copy),
            (entry_flag::PARTS, !message.parts.is_empty()),
            (entry_flag::MANY, !single),
            (entry_flag::NEW_ORIGIN, *known == 0),
            (entry_flag::DEADLINE, message.deadline > 0),
            (entry_flag::SCHEDULE, message.release_at > 0),
            (entry_flag::TAGGED, message.tag > TAG_NONE),
            (entry_flag::UNTAGGED, message.tag == TAG_NONE),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let out = &mut self.bytes;
        out.push(flags);
        varint::write_difference(out, self.last.position, message.position);
        varint::write_difference(out, self.last.accepted_at, message.accepted_at);
        let (time, random) = message.id.split_at(ID_TIME);
        varint::write_difference(out, message.accepted_at, time_of(time));
        out.extend_from_slice(random);
        varint::write(out, message.content_len);
        for time in [message.deadline, message.release_at] {
            if time > 0 {
                varint::write_difference(out, message.accepted_at, time);
            }
        }
        if message.tag > TAG_NONE {
            varint::write(out, message.tag.into());
        }
        if *known == 0 {
            self.origins_written += 1;
            *known = self.origins_written;
            origin.encode(out)?;
        } else {
            varint::write(out, u64::from(*known - 1));
        }
        if !single {
            varint::write(out, message.recipients.len() as u64);
        }
        let mut number = 0;
        for recipient in &message.recipients {
            if !single {
                let step = recipient
                    .number
                    .checked_sub(number)
                    .ok_or(RecordError::Mismatch("recipient number"))?;
                varint::write(out, step.into());
                number = recipient.number;
            }
            let known = slot(&mut self.domains, recipient.domain);
            let tried = recipient.attempts > 0 || recipient.next_attempt > 0;
            let mut word = 0;
            for (flag, set) in [
                (live_flag::NEW_DOMAIN, *known == 0),
                (live_flag::UNANNOUNCED, !recipient.announced),
                (live_flag::REFUSED, recipient.refused),
                (live_flag::TRIED, tried),
            ] {
                word |= if set { flag } else { 0 };
            }
            if *known == 0 {
                let domain = names
                    .domains
                    .get(recipient.domain)
                    .ok_or(RecordError::Mismatch("domain"))?;
                self.domains_written += 1;
                *known = self.domains_written;
                varint::write(out, word);
                varint::write(out, domain.len() as u64);
                out.extend_from_slice(domain.as_bytes());
            } else {
                varint::write(out, word | u64::from(*known - 1) << LIVE_FLAGS);
            }
            if tried {
                let ambiguous = u64::from(recipient.ambiguous) << ATTEMPTS_BITS;
                varint::write(out, ambiguous | u64::from(recipient.attempts));
                varint::write_difference(out, message.accepted_at, recipient.next_attempt);
            }
        }
        if !message.parts.is_empty() {
            varint::write(out, message.parts.len() as u64);
            let mut before = message.position;
            for &part in &message.parts {
                varint::write_difference(out, before, part);
                before = part;
            }
        }
        self.last = Last {
            position: message.position,
            accepted_at: message.accepted_at,
        };
        Ok(())
    }

    /// Bytes since the last [`Self::take`].
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The entries since the last call. The next one is coded against nothing, but names that were written stay known.
    pub fn take(&mut self) -> Vec<u8> {
        self.last = Last::default();
        std::mem::take(&mut self.bytes)
    }

    pub(crate) fn recycle(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.bytes = bytes;
    }
}

fn slot(numbers: &mut Vec<u32>, number: u32) -> &mut u32 {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    if numbers.len() <= index {
        numbers.resize(index + 1, 0);
    }
    #[expect(clippy::indexing_slicing, reason = "it was just made long enough")]
    &mut numbers[index]
}

/// Reads entries back: the blocks in their order, each with [`Self::block`], then [`Self::next`] until there is none.
#[derive(Debug, Default)]
pub struct EntryReader {
    /// In [`Names`], by their numbers in the file.
    domains: Vec<u32>,
    origins: Vec<u32>,
    last: Last,
}

impl EntryReader {
    /// To be called before the first [`Self::next`] of each block.
    pub fn block(&mut self) {
        self.last = Last::default();
    }

    /// Takes an entry from the front of `rest` into `message`. `false`: there is none.
    pub fn next(
        &mut self,
        rest: &mut &[u8],
        names: &mut Names,
        message: &mut LiveMessage,
    ) -> Result<bool, RecordError> {
        if rest.is_empty() {
            return Ok(false);
        }
        let mut reader = Reader::new(rest);
        self.entry(&mut reader, names, message)?;
        *rest = reader.rest();
        Ok(true)
    }

    fn entry(
        &mut self,
        reader: &mut Reader<'_>,
        names: &mut Names,
        message: &mut LiveMessage,
    ) -> Result<(), RecordError> {
        let flags = reader.u8("entry")?;
        const TAG: u8 = entry_flag::TAGGED | entry_flag::UNTAGGED;
        if flags & TAG == TAG {
            return Err(RecordError::Mismatch("tag"));
        }
        message.is_copy = flags & entry_flag::COPY != 0;
        message.position = reader.difference(self.last.position, "position")?;
        message.accepted_at = reader.difference(self.last.accepted_at, "time")?;
        let time = reader
            .difference(message.accepted_at, "id")?
            .to_be_bytes_48();
        let (front, random) = message.id.split_at_mut(ID_TIME);
        front.copy_from_slice(&time?);
        random.copy_from_slice(reader.take(random.len(), "id")?);
        message.content_len = reader.varint("content length")?;
        let accepted_at = message.accepted_at;
        for (flag, time) in [
            (entry_flag::DEADLINE, &mut message.deadline),
            (entry_flag::SCHEDULE, &mut message.release_at),
        ] {
            *time = match flags & flag {
                0 => 0,
                _ => reader.difference(accepted_at, "time")?,
            };
        }
        message.tag = match flags & TAG {
            entry_flag::UNTAGGED => TAG_NONE,
            entry_flag::TAGGED => u16::try_from(reader.varint("tag")?)
                .ok()
                .filter(|mark| (TAG_NONE + 1..TAG_MARKS).contains(mark))
                .ok_or(RecordError::Mismatch("tag"))?,
            _ => TAG_UNKNOWN,
        };
        message.origin = if flags & entry_flag::NEW_ORIGIN != 0 {
            let number = names.origins.number(Origin::decode(reader)?);
            self.origins.push(number);
            number
        } else {
            let number = reader.index("origin")?;
            *self
                .origins
                .get(number)
                .ok_or(RecordError::Mismatch("origin"))?
        };
        message.recipients.clear();
        let many = flags & entry_flag::MANY != 0;
        let count = if many {
            reader.varint("recipients")?
        } else {
            1
        };
        let mut number = 0;
        for index in 0..count {
            if many {
                let step = reader.varint("recipient number")?;
                let next = u64::from(number) + step;
                number = u16::try_from(next).map_err(|_| RecordError::Mismatch("recipients"))?;
                if index > 0 && step == 0 {
                    return Err(RecordError::Mismatch("recipient number"));
                }
            }
            let recipient = self.recipient(reader, names, number, message.accepted_at)?;
            message.recipients.push(recipient);
        }
        if message.recipients.is_empty() {
            return Err(RecordError::Mismatch("recipients"));
        }
        message.parts.clear();
        if flags & entry_flag::PARTS != 0 {
            let count = reader.varint("content parts")?;
            let mut before = message.position;
            for _ in 0..count {
                before = reader.difference(before, "content part")?;
                message.parts.push(before);
            }
        }
        self.last = Last {
            position: message.position,
            accepted_at: message.accepted_at,
        };
        Ok(())
    }

    fn recipient(
        &mut self,
        reader: &mut Reader<'_>,
        names: &mut Names,
        number: u16,
        accepted_at: u64,
    ) -> Result<LiveRecipient, RecordError> {
        let word = reader.varint("recipient")?;
        let domain = if word & live_flag::NEW_DOMAIN != 0 {
            if word >> LIVE_FLAGS != 0 {
                return Err(RecordError::Mismatch("domain"));
            }
            let len = reader.index("domain")?;
            let domain = names.domains.number(reader.text(len, "domain")?);
            self.domains.push(domain);
            domain
        } else {
            let known = usize::try_from(word >> LIVE_FLAGS).ok();
            *known
                .and_then(|number| self.domains.get(number))
                .ok_or(RecordError::Mismatch("domain"))?
        };
        let mut recipient = LiveRecipient {
            number,
            domain,
            announced: word & live_flag::UNANNOUNCED == 0,
            refused: word & live_flag::REFUSED != 0,
            ..LiveRecipient::default()
        };
        if word & live_flag::TRIED != 0 {
            let attempts = reader.varint("attempts")?;
            recipient.ambiguous = u8::try_from(attempts >> ATTEMPTS_BITS)
                .map_err(|_| RecordError::Mismatch("attempts"))?;
            recipient.attempts = u16::try_from(attempts & u64::from(u16::MAX))
                .map_err(|_| RecordError::Mismatch("attempts"))?;
            recipient.next_attempt = reader.difference(accepted_at, "next attempt")?;
        }
        Ok(recipient)
    }
}

/// The time in a UUIDv7: its first six bytes, big-endian.
fn time_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |time, byte| time << 8 | u64::from(*byte))
}

trait Time48 {
    fn to_be_bytes_48(self) -> Result<[u8; ID_TIME], RecordError>;
}

impl Time48 for u64 {
    fn to_be_bytes_48(self) -> Result<[u8; ID_TIME], RecordError> {
        let bytes: [u8; 8] = self.to_le_bytes();
        let [a, b, c, d, e, f, 0, 0] = bytes else {
            return Err(RecordError::Mismatch("id"));
        };
        Ok([f, e, d, c, b, a])
    }
}

/// Bytes of an id that are a time.
const ID_TIME: usize = 6;
/// Bits of [`live_flag`].
const LIVE_FLAGS: u32 = 4;
/// Bits of the attempts; above them are counted those that were ambiguous.
const ATTEMPTS_BITS: u32 = 16;
