//! A segment in memory, written the way the engine writes one, by a single writer.
//!
//! For tests, golden files, the fuzzer and tools; the engine has its own, lock-free image. What both share is in
//! [`frame::finish`] and [`CommitRecord::write`].

use crate::commit::{CommitRecord, RunningHash, commit_len};
use crate::frame::{self, padded_len, record_len};
use crate::layout::{kind, record};
use crate::segment::{Seed, SegmentHeader};

/// A segment that is being written.
#[derive(Clone, Debug)]
pub struct SegmentImage {
    header: SegmentHeader,
    seed: Seed,
    bytes: Vec<u8>,
    tail: usize,
    batch_from: usize,
    hash: RunningHash,
}

impl SegmentImage {
    /// A new segment whose unwritten part is zero.
    /// # Panics
    /// When the header is impossible, like [`SegmentHeader::encode`].
    pub fn new(header: SegmentHeader) -> Self {
        let size = usize::try_from(header.size).unwrap_or_default();
        Self::over(header, vec![0; size])
    }

    /// A segment over the bytes of the file's earlier life.
    /// # Panics
    /// When `bytes` is not `header.size` long, and like [`new`](Self::new).
    pub fn over(header: SegmentHeader, mut bytes: Vec<u8>) -> Self {
        assert_eq!(bytes.len() as u64, header.size, "size");
        let page = header.encode();
        crate::bytes::put(&mut bytes, 0, &page);
        Self {
            seed: header.seed(),
            hash: RunningHash::start(&header),
            bytes,
            tail: page.len(),
            batch_from: page.len(),
            header,
        }
    }

    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Offset at which the next record would begin.
    pub fn tail(&self) -> u64 {
        self.tail as u64
    }

    /// Writes one record and returns its offset; `None` where it does not fit before the segment's limit.
    pub fn append(&mut self, kind: u8, flags: u8, payload: &[u8]) -> Option<u64> {
        let len = record_len(payload.len());
        let range = self.reserve(padded_len(len))?;
        let offset = range.start as u64;
        let record = self.bytes.get_mut(range)?;
        crate::bytes::put(record, record::PAYLOAD, payload);
        frame::seal(record, len, kind, flags, self.seed, offset);
        Some(offset)
    }

    /// Writes a padding record over the next `len` bytes, a multiple of the alignment from 8 on: what a writer does that
    /// gives up, or that finds the segment full.
    pub fn pad(&mut self, len: usize) -> Option<u64> {
        let range = self.reserve(len)?;
        let offset = range.start as u64;
        let record = self.bytes.get_mut(range)?;
        frame::seal(record, len, kind::PADDING, 0, self.seed, offset);
        Some(offset)
    }

    fn reserve(&mut self, len: usize) -> Option<std::ops::Range<usize>> {
        let end = self.tail.checked_add(len)?;
        if len == 0 || end as u64 > self.header.limit() {
            return None;
        }
        let range = self.tail..end;
        self.tail = end;
        Some(range)
    }

    /// Closes the batch; `None` where there is none. Returns the commit record's offset.
    pub fn commit(&mut self) -> Option<u64> {
        if self.tail == self.batch_from {
            return None;
        }
        self.close_batch(false)
    }

    /// Fills the segment up to its limit and closes it with the sealing commit record.
    pub fn seal(&mut self) -> Option<u64> {
        let limit = usize::try_from(self.header.limit()).ok()?;
        if self.tail < limit {
            self.pad(limit - self.tail)?;
        }
        self.close_batch(true)
    }

    fn close_batch(&mut self, seal: bool) -> Option<u64> {
        let count = self
            .hash
            .push_batch(self.bytes.get(self.batch_from..self.tail)?);
        let to = self.tail as u64;
        let end = self
            .tail
            .checked_add(usize::try_from(commit_len(to)).ok()?)?;
        let commit = CommitRecord {
            from: self.batch_from as u64,
            to,
            count,
            running_hash: self.hash.value(),
        };
        commit.write(self.bytes.get_mut(self.tail..end)?, seal, self.seed);
        self.tail = end;
        self.batch_from = end;
        Some(to)
    }
}
