//! The commit record (FORMAT.md §5.2): the last record of a batch, and the proof that the batch was handed to the disk
//! as a whole.
//!
//! A batch begins at a page; its commit record is followed by padding to the next page. A reader that finds a verifying
//! commit record *behind* a batch knows that the batch was synced, because a writer begins no batch before the sync of
//! the one before has succeeded: this is how recovery tells a torn tail from damage to acknowledged bytes.

use crate::RecordError;
use crate::bytes::{array, put, u32_at, u64_at};
use crate::frame::{self, Frame};
use crate::layout::{COMMIT_RECORD_LEN, PAGE_OFFSET, commit, kind, record, record_flag};
use crate::marker::ErasedRecord;
use crate::segment::{Seed, SegmentHeader};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRecord {
    /// Offset in the segment of the batch's first record, a multiple of the page.
    pub from: u64,
    /// Offset of the commit record itself.
    pub to: u64,
    /// Records in `from..to`, padding included.
    pub count: u32,
    /// Over all records of the segment's batches up to `to`.
    pub running_hash: u64,
}

impl CommitRecord {
    /// The payload. `seed` is the segment's.
    pub fn encode(&self, seed: Seed) -> [u8; commit::LEN] {
        let mut payload = [0; commit::LEN];
        put(&mut payload, commit::FROM, &self.from.to_le_bytes());
        put(&mut payload, commit::TO, &self.to.to_le_bytes());
        put(
            &mut payload,
            commit::RUNNING_HASH,
            &self.running_hash.to_le_bytes(),
        );
        put(&mut payload, commit::MARK, &seed.mark);
        put(&mut payload, commit::COUNT, &self.count.to_le_bytes());
        payload
    }

    /// The payload of a commit record that was read with `seed` at `offset`.
    pub fn decode(payload: &[u8], offset: u64, seed: Seed) -> Result<Self, RecordError> {
        let short = RecordError::Short("commit");
        let decoded = Self {
            from: u64_at(payload, commit::FROM).ok_or(short)?,
            to: u64_at(payload, commit::TO).ok_or(short)?,
            count: u32_at(payload, commit::COUNT).ok_or(short)?,
            running_hash: u64_at(payload, commit::RUNNING_HASH).ok_or(short)?,
        };
        if array(payload, commit::MARK) != Some(seed.mark) {
            return Err(RecordError::Mismatch("mark"));
        }
        let from_fits = decoded.from >= PAGE_OFFSET && decoded.from.is_multiple_of(PAGE_OFFSET);
        if decoded.to != offset || !from_fits || decoded.from > offset {
            return Err(RecordError::Mismatch("range"));
        }
        Ok(decoded)
    }

    /// Writes the whole record at its offset, then padding up to the next page, into `bytes`, which are the segment's
    /// from `self.to` up to [`frame::page_up`] of the record's end. Length words are stored like the rest: nobody reads
    /// this range before it is written to the disk.
    /// # Panics
    /// When `bytes` is not that long.
    pub fn write(&self, bytes: &mut [u8], seal: bool, seed: Seed) {
        let end = self.to + COMMIT_RECORD_LEN as u64;
        let flags = if seal { record_flag::SEAL } else { 0 };
        let Some((commit, padding)) = bytes.split_at_mut_checked(COMMIT_RECORD_LEN) else {
            panic!("no room for a commit record in {} bytes", bytes.len());
        };
        assert_eq!(padding.len() as u64, frame::page_up(end) - end, "padding");
        put(commit, record::PAYLOAD, &self.encode(seed));
        frame::seal(
            commit,
            COMMIT_RECORD_LEN,
            kind::COMMIT,
            flags,
            seed,
            self.to,
        );
        if !padding.is_empty() {
            padding.fill(0);
            let len = padding.len();
            frame::seal(padding, len, kind::PADDING, 0, seed, end);
        }
    }
}

/// Bytes from a commit record's offset to the end of its padding: what [`CommitRecord::write`] fills.
pub const fn commit_len(to: u64) -> u64 {
    frame::page_up(to + COMMIT_RECORD_LEN as u64) - to
}

/// Chains the records of a segment's batches (FORMAT.md §5.2): each record's length and checksum, in order, without
/// commit records and the padding behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningHash(u64);

impl RunningHash {
    /// At the beginning of a segment.
    pub fn start(header: &SegmentHeader) -> Self {
        Self(u64_at(&header.salt, 0).unwrap_or_default())
    }

    pub fn resume(value: u64) -> Self {
        Self(value)
    }

    pub fn push(&mut self, len: u32, crc: u32) {
        let word = (u64::from(len) << 32) | u64::from(crc);
        let mixed = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }

    /// Takes a record that was read back. An erased record counts as what it was.
    pub fn push_frame(&mut self, frame: &Frame<'_>) {
        let crc = match frame.kind {
            kind::ERASED => ErasedRecord::decode(frame.payload).map_or(frame.crc, |old| old.crc),
            _ => frame.crc,
        };
        self.push(u32::try_from(frame.record_len).unwrap_or(u32::MAX), crc);
    }

    /// Takes all records in `batch`, which a writer has just published and which are therefore trusted: the next
    /// commit record covers exactly these bytes. Returns how many there were.
    /// # Panics
    /// When `batch` is not whole records: a broken invariant of the engine.
    pub fn push_batch(&mut self, batch: &[u8]) -> u32 {
        let mut rest = batch;
        let mut count = 0;
        while !rest.is_empty() {
            let len = u32_at(rest, record::LEN).unwrap_or_default();
            let crc = u32_at(rest, record::CRC).unwrap_or_default();
            let padded = usize::try_from(len).map_or(0, frame::padded_len);
            match rest.split_at_checked(padded) {
                Some((_, behind)) if padded > 0 => rest = behind,
                _ => panic!("unpublished record in a batch: length {len}"),
            }
            self.push(len, crc);
            count += 1;
        }
        count
    }

    pub fn value(self) -> u64 {
        self.0
    }
}
