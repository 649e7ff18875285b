//! A checkpoint (FORMAT.md §10): who lived at a place in both logs, so that a start need not read what lies before it.
//!
//! A *base* holds all live recipients of the mail log up to a position; a *delta* holds those of the part of the mail log
//! behind its base or the delta before it. A file is a header and checksummed blocks; entries are coded against the
//! one before them, and a name is written where it is first used. An entry of a message with one recipient takes some 22 bytes.
//!
//! Promises: every changed, missing or added byte is found before an entry is believed ([`Reading`] checks a block before it
//! shows it, and the end block counts what came before); decoding allocates for what is there, not for what is claimed.
//! Does not know files: blocks go in and come out as bytes.

use crate::RecordError;
use crate::bytes::{Reader, array, len32, put, u16_at, u32_at, u64_at};
pub use crate::entry::{EntryReader, EntryWriter};
use crate::layout::{
    CHECKPOINT_MAGIC, POSITION_MAX, SEGMENT_SIZE_MAX, VERSION, checkpoint, checkpoint_block,
    checkpoint_block_kind, checkpoint_form,
};
use crate::live::LiveMessage;
use crate::message::StreamKind;
use crate::names::Names;
use crate::varint::{self, Varints};

/// What a checkpoint covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Base = 1,
    Delta = 2,
}

/// The first bytes of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    pub form: Form,
    /// Grows from file to file.
    pub number: u64,
    /// Number of the base that this is a delta of; the own number of a base.
    pub base: u64,
    /// Messages at positions from here, 0 in a base, ...
    pub mail_from: u64,
    /// ... up to here are in it.
    pub mail_to: u64,
    /// Events below are taken into account in the base; all of them are about messages below the base's `mail_to`.
    pub event_to: u64,
    pub created_unix_ms: u64,
    /// Random.
    pub salt: [u8; 16],
}

/// Why bytes are not a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("it is cut off")]
    Cut,
    #[error("not a checkpoint")]
    Magic,
    #[error("written by a newer version (format {0}, this is format {VERSION})")]
    Newer(u16),
    #[error("a checksum does not match")]
    Checksum,
    #[error("its {0} is impossible")]
    Field(&'static str),
    #[error("an entry cannot be read: {0}")]
    Entry(#[from] RecordError),
}

impl CheckpointHeader {
    pub fn encode(&self) -> [u8; checkpoint::LEN] {
        let form = match self.form {
            Form::Base => checkpoint_form::BASE,
            Form::Delta => checkpoint_form::DELTA,
        };
        let mut bytes = [0; checkpoint::LEN];
        put(&mut bytes, checkpoint::MAGIC, &CHECKPOINT_MAGIC);
        put(&mut bytes, checkpoint::VERSION, &VERSION.to_le_bytes());
        put(&mut bytes, checkpoint::FORM, &[form]);
        for (at, value) in [
            (checkpoint::NUMBER, self.number),
            (checkpoint::BASE, self.base),
            (checkpoint::MAIL_FROM, self.mail_from),
            (checkpoint::MAIL_TO, self.mail_to),
            (checkpoint::EVENT_TO, self.event_to),
            (checkpoint::CREATED_UNIX_MS, self.created_unix_ms),
        ] {
            put(&mut bytes, at, &value.to_le_bytes());
        }
        put(&mut bytes, checkpoint::SALT, &self.salt);
        let crc = header_crc(&bytes);
        put(&mut bytes, checkpoint::CRC, &crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let bytes = bytes.get(..checkpoint::LEN).ok_or(CheckpointError::Cut)?;
        if array(bytes, checkpoint::MAGIC) != Some(CHECKPOINT_MAGIC) {
            return Err(CheckpointError::Magic);
        }
        let version = u16_at(bytes, checkpoint::VERSION).unwrap_or_default();
        let crc = u32_at(bytes, checkpoint::CRC);
        if crc != Some(header_crc(bytes)) {
            return Err(CheckpointError::Checksum);
        }
        if version > VERSION {
            return Err(CheckpointError::Newer(version));
        }
        if u32_at(bytes, checkpoint::FEATURES) != Some(0) {
            return Err(CheckpointError::Field("features"));
        }
        let number = |at| u64_at(bytes, at).unwrap_or_default();
        let form = match bytes.get(checkpoint::FORM) {
            Some(&checkpoint_form::BASE) => Form::Base,
            Some(&checkpoint_form::DELTA) => Form::Delta,
            _ => return Err(CheckpointError::Field("form")),
        };
        let decoded = Self {
            form,
            number: number(checkpoint::NUMBER),
            base: number(checkpoint::BASE),
            mail_from: number(checkpoint::MAIL_FROM),
            mail_to: number(checkpoint::MAIL_TO),
            event_to: number(checkpoint::EVENT_TO),
            created_unix_ms: number(checkpoint::CREATED_UNIX_MS),
            salt: array(bytes, checkpoint::SALT).unwrap_or_default(),
        };
        let is_base = form == Form::Base;
        if is_base != (decoded.base == decoded.number) || (is_base && decoded.mail_from != 0) {
            return Err(CheckpointError::Field("base"));
        }
        if decoded.mail_from > decoded.mail_to
            || decoded.mail_to.max(decoded.event_to) > POSITION_MAX
        {
            return Err(CheckpointError::Field("position"));
        }
        Ok(decoded)
    }

    fn seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.salt), &self.number.to_le_bytes())
    }
}

fn header_crc(bytes: &[u8]) -> u32 {
    let before = bytes.get(..checkpoint::CRC).unwrap_or_default();
    let after = bytes.get(checkpoint::NUMBER..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

/// What is in a checkpoint, or in a part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub recipients: u64,
    /// Messages of a delta whose record compaction wrote.
    pub copies: u64,
}

/// What the end of a checkpoint says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub counts: Counts,
    /// Every egress pool that a message in it names, with the kind of stream that did.
    pub pools: Vec<(Box<str>, StreamKind)>,
}

/// Ranges of positions at which nothing is expected, of both logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointGaps {
    pub mail: Vec<(u64, u64)>,
    pub events: Vec<(u64, u64)>,
}

/// Makes a checkpoint, block by block, each handed to the caller as bytes to be written behind the ones before.
pub struct Writing {
    seed: u32,
    /// Of the file.
    offset: u64,
    entries: EntryWriter,
    summary: Summary,
}

impl Writing {
    /// The writer, and the file's first bytes: the header and the block of gaps.
    pub fn start(
        header: &CheckpointHeader,
        gaps: &CheckpointGaps,
    ) -> Result<(Self, Vec<u8>), RecordError> {
        let mut bytes = header.encode().to_vec();
        let mut payload = Vec::new();
        for ranges in [&gaps.mail, &gaps.events] {
            varint::write(&mut payload, ranges.len() as u64);
            for &(from, to) in ranges {
                varint::write(&mut payload, from);
                varint::write(&mut payload, to);
            }
        }
        let mut writing = Self {
            seed: header.seed(),
            offset: checkpoint::LEN as u64,
            entries: EntryWriter::default(),
            summary: Summary::default(),
        };
        writing.block(checkpoint_block_kind::GAPS, &payload, &mut bytes)?;
        Ok((writing, bytes))
    }

    /// Adds a message with its live recipients.
    pub fn push(&mut self, message: &LiveMessage, names: &Names) -> Result<(), RecordError> {
        let origins = self.entries.origins_written;
        self.entries.push(message, names)?;
        let counts = &mut self.summary.counts;
        counts.messages += 1;
        counts.recipients += message.recipients.len() as u64;
        counts.copies += u64::from(message.is_copy);
        if self.entries.origins_written > origins
            && let Some(origin) = names.origins.get(message.origin)
        {
            let pools = &mut self.summary.pools;
            let known = |(name, kind): &(Box<str>, StreamKind)| {
                **name == *origin.pool && *kind == origin.stream_kind
            };
            if !pools.iter().any(known) {
                pools.push((Box::from(&*origin.pool), origin.stream_kind));
            }
        }
        Ok(())
    }

    /// Appends a block to `out`, if one is full.
    pub fn take_full(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if self.entries.len() < BLOCK {
            return Ok(());
        }
        self.take(out)
    }

    fn take(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let payload = self.entries.take();
        if !payload.is_empty() {
            self.block(checkpoint_block_kind::ENTRIES, &payload, out)?;
        }
        self.entries.recycle(payload);
        Ok(())
    }

    /// Appends what is left, and the end.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<Summary, RecordError> {
        self.take(out)?;
        let Counts {
            messages,
            recipients,
            copies,
        } = self.summary.counts;
        let numbers = [messages, recipients, copies, self.offset].map(u64::to_le_bytes);
        let mut payload = numbers.as_flattened().to_vec();
        varint::write(&mut payload, self.summary.pools.len() as u64);
        for (name, kind) in &self.summary.pools {
            payload.push(kind.byte());
            varint::write(&mut payload, name.len() as u64);
            payload.extend_from_slice(name.as_bytes());
        }
        self.block(checkpoint_block_kind::END, &payload, out)?;
        Ok(self.summary)
    }

    fn block(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let mut front = [0; checkpoint_block::PAYLOAD];
        let len = len32(payload.len(), "block")?;
        put(&mut front, checkpoint_block::LEN, &len.to_le_bytes());
        put(&mut front, checkpoint_block::KIND, &[kind]);
        let crc = block_crc(self.seed, self.offset, &front, payload);
        put(&mut front, checkpoint_block::CRC, &crc.to_le_bytes());
        out.extend_from_slice(&front);
        out.extend_from_slice(payload);
        self.offset += (front.len() + payload.len()) as u64;
        Ok(())
    }
}

/// In this order: seed (salt and number), offset of the block in the file, length, what follows the checksum.
fn block_crc(seed: u32, offset: u64, front: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    let len = front.get(..checkpoint_block::CRC).unwrap_or_default();
    let rest = front.get(checkpoint_block::KIND..).unwrap_or_default();
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, len), rest);
    crc32c::crc32c_append(crc, payload)
}

/// A checked block of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// For [`EntryReader`].
    Entries(&'a [u8]),
    /// The last one.
    End(Summary),
}

/// Checks the blocks of a checkpoint in their order.
#[derive(Clone, Debug)]
pub struct Reading {
    seed: u32,
    offset: u64,
}

impl Reading {
    /// `header` was read from the file's first [`checkpoint::LEN`] bytes.
    pub fn start(header: &CheckpointHeader) -> Self {
        Self {
            seed: header.seed(),
            offset: checkpoint::LEN as u64,
        }
    }

    /// Where the next block begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length of the block that begins with `front`, its own front included. To be compared with what is left of the file
    /// before it is believed.
    pub fn block_len(front: &[u8]) -> Result<usize, CheckpointError> {
        let len = u32_at(front, checkpoint_block::LEN).ok_or(CheckpointError::Cut)?;
        if u64::from(len) > BLOCK_MAX {
            return Err(CheckpointError::Field("block length"));
        }
        usize::try_from(len)
            .ok()
            .and_then(|len| len.checked_add(checkpoint_block::PAYLOAD))
            .ok_or(CheckpointError::Field("block length"))
    }

    /// The first block, which holds the gaps.
    pub fn gaps(&mut self, block: &[u8]) -> Result<CheckpointGaps, CheckpointError> {
        let (kind, payload) = self.checked(block)?;
        if kind != checkpoint_block_kind::GAPS {
            return Err(CheckpointError::Field("block kind"));
        }
        let mut reader = Reader::new(payload);
        let mut gaps = CheckpointGaps::default();
        for ranges in [&mut gaps.mail, &mut gaps.events] {
            for _ in 0..reader.varint("gaps")? {
                let (from, to) = (reader.varint("gap")?, reader.varint("gap")?);
                if from > to || to > POSITION_MAX {
                    return Err(RecordError::Mismatch("gap").into());
                }
                ranges.push((from, to));
            }
        }
        if !reader.is_empty() {
            return Err(CheckpointError::Field("block of gaps"));
        }
        Ok(gaps)
    }

    /// Any block behind the first.
    pub fn block<'a>(&mut self, block: &'a [u8]) -> Result<Block<'a>, CheckpointError> {
        let before = self.offset;
        let (kind, payload) = self.checked(block)?;
        match kind {
            checkpoint_block_kind::ENTRIES => Ok(Block::Entries(payload)),
            checkpoint_block_kind::END => Ok(Block::End(read_end(payload, before)?)),
            _ => Err(CheckpointError::Field("block kind")),
        }
    }

    fn checked<'a>(&mut self, block: &'a [u8]) -> Result<(u8, &'a [u8]), CheckpointError> {
        let (front, payload) = block
            .split_at_checked(checkpoint_block::PAYLOAD)
            .ok_or(CheckpointError::Cut)?;
        if Self::block_len(front)? != block.len() {
            return Err(CheckpointError::Cut);
        }
        if u32_at(front, checkpoint_block::CRC)
            != Some(block_crc(self.seed, self.offset, front, payload))
        {
            return Err(CheckpointError::Checksum);
        }
        self.offset += block.len() as u64;
        let kind = front.get(checkpoint_block::KIND).copied();
        Ok((kind.unwrap_or_default(), payload))
    }
}

/// The payload of the end block, which begins at `offset` of the file.
fn read_end(payload: &[u8], offset: u64) -> Result<Summary, CheckpointError> {
    let mut reader = Reader::new(payload);
    let counts = Counts {
        messages: reader.u64("counts")?,
        recipients: reader.u64("counts")?,
        copies: reader.u64("counts")?,
    };
    if reader.u64("offset")? != offset {
        return Err(CheckpointError::Field("end"));
    }
    let mut pools = Vec::new();
    for _ in 0..reader.varint("pools")? {
        let kind = StreamKind::from_byte(reader.u8("pool")?)?;
        let len = reader.index("pool")?;
        pools.push((Box::from(reader.text(len, "pool")?), kind));
    }
    if !reader.is_empty() {
        return Err(CheckpointError::Field("end"));
    }
    Ok(Summary { counts, pools })
}

/// Payload at which a block is closed: large enough for one read, small enough to be kept in a cache.
pub const BLOCK: usize = 256 << 10;
/// An entry is never longer than the record that it is made from.
const BLOCK_MAX: u64 = SEGMENT_SIZE_MAX + BLOCK as u64;
