//! Reading a whole segment back, damaged or not (FORMAT.md §7): recovery, `spool verify` and the readers' catch-up.
//!
//! A [`Scan`] yields every record that verifies and one [`Damage`] for every range that does not, in order and without a
//! gap. It knows nothing of what payloads mean. After damage it goes on at the next offset where a record verifies, so a
//! broken byte costs the record that holds it and no more. Because a candidate must match 48 zero bits and a checksum
//! whose seed nobody outside knows, content that imitates records is not taken for them.
//!
//! [`sealed`] is for segments whose end is known: what lies below it was acknowledged. [`tail`] is for a log's last
//! segment: its end is the last commit record that verifies, found from the back. What lies behind was never
//! acknowledged. Damage before the last batch is proven damage to acknowledged bytes, since a writer begins no batch before
//! the sync of the one before; damage within the last batch may as well be a torn write that nobody was told of, and
//! [`Damage::acknowledged`] says which.

use crate::bytes::{array, u32_at};
use crate::commit::{CommitRecord, RunningHash};
use crate::frame::{self, Frame, FrameError, page_up};
use crate::layout::{
    ALIGNMENT, COMMIT_RECORD_LEN, PAGE, PAGE_OFFSET, RECORD_HEADER, kind, record, record_flag,
};
use crate::segment::{Seed, SegmentHeader};

/// A part of a segment, in order of offset and without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// Of any kind, padding and commit records included.
    Record(Frame<'a>),
    Damage(Damage),
}

/// A range that does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In the segment.
    pub offset: u64,
    pub len: u64,
    pub reason: DamageReason,
    /// Whether the bytes are known to have been synced. If not, they may be a write that a crash cut short.
    pub acknowledged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DamageReason {
    /// A copy of the segment's header does not verify; the other one serves.
    Header,
    /// No record begins here: the length is zero or impossible.
    Length,
    /// The record reaches past the end of the file or of the acknowledged bytes.
    Cut,
    Checksum,
    /// A commit record verifies but does not describe the records before it.
    Commit,
}

impl DamageReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Length => "length",
            Self::Cut => "cut",
            Self::Checksum => "checksum",
            Self::Commit => "commit",
        }
    }
}

/// The items of a segment up to its end.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    /// Up to the end of what is to be read, or less where the file is cut.
    segment: &'a [u8],
    seed: Seed,
    offset: u64,
    end: u64,
    /// Damage below it is damage to acknowledged bytes.
    acknowledged_below: u64,
    batch: Batch,
    header_damaged: bool,
    /// Bytes that may still be checked in vain.
    search_budget: u64,
}

/// What the next commit record will be compared with.
#[derive(Clone, Copy, Debug)]
struct Batch {
    from: u64,
    count: u32,
    hash: RunningHash,
    /// Damage since `from`: nothing to compare with.
    damaged: bool,
}

/// The items of a segment whose end is known, because a later one is in use: `header.size` for a sealed one, else where
/// the next segment's header says that this one ended (`previous_end`, less this one's `first_position`). All below was
/// acknowledged, except damage that recovery found in doubt and covered with a void record. `segment` is the file from
/// its byte 0, possibly cut.
pub fn sealed<'a>(segment: &'a [u8], header: &SegmentHeader, end: u64) -> Scan<'a> {
    Scan::new(segment, header, end.min(header.size), u64::MAX)
}

/// The last segment of a log.
#[derive(Clone, Debug)]
pub struct Tail<'a> {
    /// Offset behind the last batch with a verifying commit record, a multiple of the page; the first page's end where
    /// there is none. The log ends here.
    pub durable_end: u64,
    /// Offset of that batch; damage below it is damage to acknowledged bytes.
    pub last_batch: u64,
    /// The last commit record seals the segment, or leaves no room in it.
    pub sealed: bool,
    /// Whole records behind `durable_end`: written, never acknowledged, ignored.
    pub uncommitted: u32,
    /// Where the last of them ends.
    pub uncommitted_end: u64,
    scan: Scan<'a>,
}

impl<'a> Tail<'a> {
    /// What lies before [`durable_end`](Self::durable_end).
    pub fn items(&self) -> Scan<'a> {
        self.scan.clone()
    }
}

/// Where near the end of a log damage is in doubt: in the last batch of its last segment, and where that batch is the first of
/// its segment and damaged, also in the last batch of the segment before, since void records may be among what is lost
/// (FORMAT.md §7.3).
#[derive(Clone, Debug, Default)]
pub struct Doubt(Vec<(u64, u64)>);

impl Doubt {
    /// To be called with one segment after the other from the last one that exists on, as long as it returns true.
    pub fn judge(&mut self, header: &SegmentHeader, tail: &Tail<'_>) -> bool {
        if tail.durable_end == PAGE_OFFSET {
            // Never used.
            return true;
        }
        self.0.push((header.number, tail.last_batch));
        let is_damaged =
            |item: Item<'_>| matches!(item, Item::Damage(d) if d.offset >= PAGE_OFFSET);
        tail.last_batch == PAGE_OFFSET && tail.items().any(is_damaged)
    }

    /// Whether damage at this offset of the segment of this number is in doubt.
    pub fn covers(&self, number: u64, offset: u64) -> bool {
        let mut judged = self.0.iter();
        judged.any(|&(segment, from)| segment == number && offset >= from)
    }
}

/// Judges the last segment of a log. `segment` is the file from its byte 0. One that is shorter than it was made has been
/// cut, and acknowledged batches may be among what is gone: all of it that is missing is damage.
pub fn tail<'a>(segment: &'a [u8], header: &SegmentHeader) -> Tail<'a> {
    let seed = header.seed();
    if (segment.len() as u64) < header.size {
        return Tail {
            durable_end: header.size,
            last_batch: header.size,
            sealed: true,
            uncommitted: 0,
            uncommitted_end: header.size,
            scan: Scan::new(segment, header, header.size, u64::MAX),
        };
    }
    let written = usize::try_from(header.size)
        .ok()
        .and_then(|size| segment.get(..size))
        .unwrap_or(segment);
    let last = last_commit(written, seed);
    let (durable_end, last_batch, sealed) = match &last {
        Some((frame, commit)) => {
            let end = page_up(frame.end());
            let sealed = frame.flags & record_flag::SEAL != 0 || end == header.size;
            (end, commit.from, sealed)
        }
        None => (PAGE_OFFSET, PAGE_OFFSET, false),
    };
    let mut uncommitted = 0;
    let mut uncommitted_end = durable_end;
    while let Ok(frame) = frame::read(written, uncommitted_end, seed) {
        uncommitted += 1;
        uncommitted_end = frame.end();
    }
    Tail {
        durable_end,
        last_batch,
        sealed,
        uncommitted,
        uncommitted_end,
        scan: Scan::new(written, header, durable_end, last_batch),
    }
}

/// The last commit record of the segment that verifies, searched from the back: 8 bytes are compared at each place, so
/// the search costs one pass over the unused part of the segment.
fn last_commit(segment: &[u8], seed: Seed) -> Option<(Frame<'_>, CommitRecord)> {
    let mut offset = segment.len().checked_sub(COMMIT_RECORD_LEN)? / ALIGNMENT * ALIGNMENT;
    while offset >= PAGE {
        if let Some(found) = commit_at(segment, offset, seed) {
            return Some(found);
        }
        offset -= ALIGNMENT;
    }
    None
}

fn commit_at(segment: &[u8], offset: usize, seed: Seed) -> Option<(Frame<'_>, CommitRecord)> {
    let bytes = segment.get(offset..)?;
    let len = usize::try_from(u32_at(bytes, record::LEN)?).ok()?;
    if len != COMMIT_RECORD_LEN || bytes.get(record::KIND) != Some(&kind::COMMIT) {
        return None;
    }
    let frame = frame::read_record(bytes, offset as u64, seed).ok()?;
    let commit = CommitRecord::decode(frame.payload, frame.offset, seed).ok()?;
    Some((frame, commit))
}

impl<'a> Scan<'a> {
    fn new(segment: &'a [u8], header: &SegmentHeader, end: u64, acknowledged_below: u64) -> Self {
        let kept = usize::try_from(end).ok().and_then(|end| segment.get(..end));
        Self {
            segment: kept.unwrap_or(segment),
            seed: header.seed(),
            offset: PAGE_OFFSET,
            end,
            acknowledged_below,
            batch: Batch {
                from: PAGE_OFFSET,
                count: 0,
                hash: RunningHash::start(header),
                damaged: false,
            },
            header_damaged: !SegmentHeader::is_whole(segment),
            search_budget: SEARCH_FACTOR * segment.len() as u64,
        }
    }

    /// Begins with the batch at `offset`; what lies before is not looked at.
    pub fn skip_to(mut self, offset: u64) -> Self {
        if offset > self.offset {
            self.offset = offset;
            self.batch.from = offset;
            // There is nothing to compare its commit record with.
            self.batch.damaged = true;
            self.header_damaged = false;
        }
        self
    }

    fn damage(&self, offset: u64, end: u64, reason: DamageReason) -> Item<'a> {
        Item::Damage(Damage {
            offset,
            len: end - offset,
            reason,
            acknowledged: offset < self.acknowledged_below,
        })
    }

    /// Takes a record that verifies: a commit record is compared with what came before it.
    fn accept(&mut self, frame: Frame<'a>) -> Item<'a> {
        self.offset = frame.end();
        if frame.kind != kind::COMMIT {
            // Padding between a commit record and the next page belongs to no batch.
            if frame.offset >= self.batch.from {
                self.batch.count = self.batch.count.saturating_add(1);
                self.batch.hash.push_frame(&frame);
            }
            return Item::Record(frame);
        }
        let commit = CommitRecord::decode(frame.payload, frame.offset, self.seed);
        let agrees = commit.is_ok_and(|commit| {
            self.batch.damaged
                || (commit.from == self.batch.from
                    && commit.count == self.batch.count
                    && commit.running_hash == self.batch.hash.value())
        });
        self.batch = Batch {
            from: page_up(frame.end()),
            count: 0,
            hash: commit.map_or(self.batch.hash, |commit| {
                RunningHash::resume(commit.running_hash)
            }),
            damaged: false,
        };
        if agrees {
            Item::Record(frame)
        } else {
            self.damage(frame.offset, frame.end(), DamageReason::Commit)
        }
    }

    /// Passes over bytes that do not verify, up to the next that do.
    fn skip(&mut self, error: FrameError) -> Item<'a> {
        let from = self.offset;
        if error == FrameError::Checksum {
            let len = usize::try_from(from)
                .ok()
                .and_then(|at| u32_at(self.segment, at));
            self.spend(u64::from(len.unwrap_or_default()));
        }
        self.offset = self.next_record(from + ALIGNMENT as u64);
        // Damage that does not reach the page where the next batch begins has hit only padding behind a commit record.
        if self.offset > self.batch.from {
            self.batch.damaged = true;
        }
        let reason = match error {
            FrameError::Empty | FrameError::Length(_) => DamageReason::Length,
            FrameError::Cut => DamageReason::Cut,
            FrameError::Checksum => DamageReason::Checksum,
        };
        self.damage(from, self.offset, reason)
    }

    /// The first offset from `offset` on where a record verifies, or the end.
    fn next_record(&mut self, mut offset: u64) -> u64 {
        while offset < self.end {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let Some(bytes) = self.segment.get(start..) else {
                break;
            };
            if self.is_plausible(bytes) && frame::read_record(bytes, offset, self.seed).is_ok() {
                return offset;
            }
            offset += ALIGNMENT as u64;
        }
        self.end
    }

    /// Whether `bytes` look like a record enough to compute its checksum: a possible length and reserved bytes that are
    /// zero sort out nearly all.
    fn is_plausible(&mut self, bytes: &[u8]) -> bool {
        let Some(len) = u32_at(bytes, record::LEN) else {
            return false;
        };
        let fits = usize::try_from(len).is_ok_and(|len| len >= RECORD_HEADER && len <= bytes.len());
        fits && array(bytes, record::RESERVED) == Some([0; 6]) && self.spend(u64::from(len))
    }

    /// Takes bytes to be checked in vain from the budget.
    fn spend(&mut self, len: u64) -> bool {
        let enough = len <= self.search_budget;
        self.search_budget = self.search_budget.saturating_sub(len);
        enough
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if std::mem::take(&mut self.header_damaged) {
            return Some(self.damage(0, PAGE_OFFSET, DamageReason::Header));
        }
        if self.offset >= self.end {
            return None;
        }
        match frame::read(self.segment, self.offset, self.seed) {
            Ok(frame) => Some(self.accept(frame)),
            Err(error) => Some(self.skip(error)),
        }
    }
}

/// Checksums of bytes that turn out to be no record may cover this many times the segment in all. Honest damage needs
/// less than once; of a file made to cost more, the rest is reported as damage.
const SEARCH_FACTOR: u64 = 64;
