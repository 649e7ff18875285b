//! A retained segment as readers see it: where it lies, how far it may be read, how many live recipients hold it.
//!
//! Promises: a record is shown only when its checksum matches and it lies below the segment's end; what a reader got
//! stays valid (and unchanged) however long it is kept, because a segment whose map is held is neither recycled nor erased
//! in ([`Segment::still`]).
//! Does not know: writers, and what a payload means.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use spool_format::frame::{self, FrameError};
use spool_format::layout::{ALIGNMENT, PAGE_OFFSET, RECORD_HEADER};
use spool_format::scan::{self, Item};
use spool_format::{LogKind, Seed, SegmentHeader};

use super::disk::{Access, Disk, DiskFile, Map, read_at_most, write_all_at};
use super::memory;
use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock, park_timeout};

/// A record that was read and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub position: u64,
    pub kind: u8,
    pub flags: u8,
    /// A part of the segment's map where there is one: holding it keeps the map.
    pub payload: Bytes,
}

/// Why a record cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("position {0} lies in no retained segment")]
    NotRetained(u64),
    #[error("position {0} is not durable yet")]
    NotDurable(u64),
    /// The others of the segment can still be read; the next whole one begins at `resume` or behind it.
    #[error("the record at position {position} is damaged: {error}")]
    Damaged {
        position: u64,
        error: FrameError,
        resume: u64,
    },
    #[error("segment {segment} cannot be read: {error}")]
    Io { segment: u64, error: std::io::Error },
    #[error("too much is being read from the disk")]
    Busy,
}

impl ReadError {
    /// Nothing is wrong with what is kept: later it may be read. Not so where a medium or a file fails.
    pub fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::NotDurable(_) | Self::Busy => true,
            Self::Io { error, .. } => {
                let of_the_process = [
                    Errno::MFILE,
                    Errno::NFILE,
                    Errno::NOMEM,
                    Errno::INTR,
                    Errno::AGAIN,
                ];
                error
                    .raw_os_error()
                    .is_some_and(|code| of_the_process.iter().any(|e| e.raw_os_error() == code))
            }
            Self::NotRetained(_) | Self::Damaged { .. } => false,
        }
    }
}

/// What a bounded read gave.
pub(crate) enum Part {
    Whole(Record),
    /// The record takes this many bytes.
    Longer(usize),
}

pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    seed: Seed,
    /// Offset behind the last byte that may be read.
    end: AtomicU64,
    /// What keeps it: live recipients, and whatever else was told to `hold`.
    live: AtomicU64,
    /// Nothing will be added, and everybody who waited for a record of it was told.
    closed: AtomicBool,
    /// What is to be kept of it is kept elsewhere.
    settled: AtomicBool,
    /// Acknowledged bytes of it are damaged: the file is kept, and never used again.
    damaged: AtomicBool,
    source: ArcSwapOption<Source>,
    /// Somebody may change bytes: no map is made. Held while `source` is set.
    is_still: Mutex<bool>,
    /// Reading from the file, and changing bytes of it, take turns.
    turn: RwLock<()>,
}

enum Source {
    Map(Map),
    File(Arc<dyn DiskFile>),
}

impl Segment {
    /// One that is about to be written.
    pub(crate) fn open(header: SegmentHeader, path: PathBuf) -> Self {
        let seed = header.seed();
        Self {
            header,
            path,
            seed,
            end: AtomicU64::new(PAGE_OFFSET),
            live: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            source: ArcSwapOption::empty(),
            is_still: Mutex::new(false),
            turn: RwLock::new(()),
        }
    }

    /// One of an earlier life, readable up to `end`.
    pub(crate) fn recovered(header: SegmentHeader, path: PathBuf, end: u64) -> Self {
        let segment = Self::open(header, path);
        segment.end.store(end, Ordering::Relaxed);
        segment.closed.store(true, Ordering::Relaxed);
        segment
    }

    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }

    pub(crate) fn first_position(&self) -> u64 {
        self.header.first_position
    }

    pub(crate) fn contains(&self, position: u64) -> bool {
        (self.first_position()..self.header.next_position()).contains(&position)
    }

    pub(crate) fn end(&self) -> u64 {
        // Acquire: partner of the release store in `extend`.
        self.end.load(Ordering::Acquire)
    }

    /// Everything below offset `end` is durable.
    pub(crate) fn extend(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    pub(crate) fn close(&self) {
        // Release: partner of `is_dead`; holds taken before are seen with it.
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What an operator may want to look at is not written over.
    pub(crate) fn quarantine(&self) {
        if !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(segment = %self.name(), "damaged; its file will be kept as .bad when nothing in it lives");
        }
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(crate) fn hold(&self, count: u64) {
        self.live.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether nothing holds it any more.
    pub(crate) fn release(&self, count: u64) -> bool {
        // AcqRel: who sees zero sees everything that was done under the holds.
        let before = self.live.fetch_sub(count, Ordering::AcqRel);
        assert!(
            before >= count,
            "segment {}: {count} released, {before} held",
            self.number()
        );
        before == count
    }

    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.is_closed() && self.live() == 0
    }

    /// Its archive is durable, or there is nothing to keep.
    pub(crate) fn settle(&self) {
        // Release: partner of `is_settled`; who takes the segment back sees the archive in its list.
        self.settled.store(true, Ordering::Release);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Whether nobody else keeps the file's map: then its bytes may change.
    pub(crate) fn end_of_life(self) -> bool {
        match self.source.into_inner() {
            None => true,
            Some(source) => {
                let seen = source.watch();
                drop(source);
                seen.is_none_or(|alive| alive.strong_count() == 0)
            }
        }
    }

    pub(crate) fn attach(&self, file: &Arc<dyn DiskFile>) -> std::io::Result<()> {
        self.attach_once(|| Ok(Arc::clone(file))).map(drop)
    }

    /// Whoever comes first decides how the segment is read.
    fn attach_once(
        &self,
        open: impl FnOnce() -> std::io::Result<Arc<dyn DiskFile>>,
    ) -> std::io::Result<Arc<Source>> {
        let is_still = lock(&self.is_still);
        if let Some(source) = self.source.load_full() {
            return Ok(source);
        }
        let file = open()?;
        let map = match *is_still {
            true => None,
            false => file.map(&self.name())?,
        };
        let source = Arc::new(map.map_or(Source::File(file), Source::Map));
        self.source.store(Some(Arc::clone(&source)));
        Ok(source)
    }

    /// Waits, no longer than `patience`, until nobody has the file mapped; from then on it is read through a descriptor, and
    /// its bytes may be changed with what this returns. `None`: somebody keeps a record of it for longer.
    pub(crate) fn still(
        self: &Arc<Self>,
        disk: &dyn Disk,
        patience: Duration,
    ) -> std::io::Result<Option<Still>> {
        let file = disk.open(&self.path, Access::Write)?;
        let before = {
            let mut is_still = lock(&self.is_still);
            *is_still = true;
            self.source
                .swap(Some(Arc::new(Source::File(Arc::clone(&file)))))
        };
        // From here on the drop of `still` gives the map back.
        let still = Still {
            segment: Arc::clone(self),
            file,
        };
        let alive = before.as_deref().and_then(Source::watch);
        drop(before);
        let mut waited = Duration::ZERO;
        while alive.as_ref().is_some_and(|alive| alive.strong_count() > 0) {
            if waited >= patience {
                return Ok(None);
            }
            park_timeout(STILL_POLL);
            waited += STILL_POLL;
        }
        Ok(Some(still))
    }

    fn name(&self) -> String {
        let log = match self.header.kind {
            LogKind::Mail => "mail",
            LogKind::Event => "event",
        };
        format!("{log}/{:016x}", self.number())
    }

    fn source(&self, disk: &dyn Disk) -> Result<Arc<Source>, ReadError> {
        match self.source.load_full() {
            Some(source) => Ok(source),
            None => self
                .attach_once(|| disk.open(&self.path, Access::Read))
                .map_err(|error| self.io(error)),
        }
    }

    fn io(&self, error: std::io::Error) -> ReadError {
        let segment = self.number();
        ReadError::Io { segment, error }
    }

    /// The record at `offset`, and the offset behind it.
    pub(crate) fn read(&self, disk: &dyn Disk, offset: u64) -> Result<(Record, u64), ReadError> {
        let end = self.end();
        let position = self.first_position() + offset;
        if offset < PAGE_OFFSET || offset >= end {
            return Err(ReadError::NotDurable(position));
        }
        match &*self.source(disk)? {
            Source::Map(map) => {
                // A file that was cut since is fail-stop (SIGBUS); one that was short before is damage.
                let readable = map.bytes.get(..end as usize).unwrap_or(&map.bytes);
                match frame::read(readable, offset, self.seed) {
                    Ok(found) => {
                        let start = offset as usize + RECORD_HEADER;
                        let payload = match found.payload.len() {
                            0 => Bytes::new(),
                            len => map.bytes.slice(start..start + len),
                        };
                        Ok(self.record(position, &found, payload))
                    }
                    Err(error) => Err(self.damaged(disk, offset, error)),
                }
            }
            Source::File(file) => {
                let read = self.read_file(file.as_ref(), offset, end);
                let bytes = read.map_err(|error| self.io(error))?;
                match frame::read_record(&bytes, offset, self.seed) {
                    Ok(found) => {
                        let payload = Bytes::copy_from_slice(found.payload);
                        Ok(self.record(position, &found, payload))
                    }
                    Err(error) => Err(self.damaged(disk, offset, error)),
                }
            }
        }
    }

    /// The record at `offset` if all its pages are in memory and it verifies; in all other cases somebody who may wait for
    /// the medium has to look.
    pub(crate) fn read_resident(&self, offset: u64) -> Option<Record> {
        let source = self.source.load();
        let Some(Source::Map(map)) = source.as_deref() else {
            return None;
        };
        let readable = map.bytes.get(..self.end() as usize)?;
        let start = offset as usize;
        let word = readable.get(start..start + 4)?;
        if !memory::is_resident(word) {
            return None;
        }
        let len = u32::from_le_bytes(word.try_into().ok()?) as usize;
        if !memory::is_resident(readable.get(start..start.checked_add(len)?)?) {
            return None;
        }
        let found = frame::read(readable, offset, self.seed).ok()?;
        let payload = match found.payload.len() {
            0 => Bytes::new(),
            len => map
                .bytes
                .slice(start + RECORD_HEADER..start + RECORD_HEADER + len),
        };
        Some(
            self.record(self.first_position() + offset, &found, payload)
                .0,
        )
    }

    /// The record at `offset` if it takes at most `most` bytes, read from the file; the page cache is left as it was. Waits
    /// for the medium.
    pub(crate) fn read_aside(
        &self,
        disk: &dyn Disk,
        offset: u64,
        most: usize,
    ) -> Result<Part, ReadError> {
        let rest = self.end() - offset;
        let mut bytes = vec![0; most.min(rest as usize)];
        let count = self.with_file(disk, |file, map| {
            self.read_past_cache(file, map, &mut bytes, offset)
        })?;
        bytes.truncate(count);
        let word = bytes
            .first_chunk()
            .map_or(0, |word| u32::from_le_bytes(*word));
        let len = (word as usize).next_multiple_of(ALIGNMENT);
        if len > bytes.len() && count == most && len as u64 <= rest {
            return Ok(Part::Longer(len));
        }
        match frame::read_record(&bytes, offset, self.seed) {
            Ok(found) => {
                let range = RECORD_HEADER..RECORD_HEADER + found.payload.len();
                let (record, _) = self.record(self.first_position() + offset, &found, Bytes::new());
                let payload = match range.is_empty() {
                    true => Bytes::new(),
                    false => Bytes::from(bytes).slice(range),
                };
                Ok(Part::Whole(Record { payload, ..record }))
            }
            Err(error) => Err(self.damaged(disk, offset, error)),
        }
    }

    /// The length that the record at `offset` claims, rounded up.
    pub(crate) fn record_bytes(&self, disk: &dyn Disk, offset: u64) -> Result<u64, ReadError> {
        let mut word = [0; 4];
        self.with_file(disk, |file, map| {
            self.read_past_cache(file, map, &mut word, offset)
        })?;
        Ok(u64::from(u32::from_le_bytes(word)).next_multiple_of(ALIGNMENT as u64))
    }

    fn with_file<T>(
        &self,
        disk: &dyn Disk,
        read: impl FnOnce(&dyn DiskFile, Option<&Bytes>) -> std::io::Result<T>,
    ) -> Result<T, ReadError> {
        let source = self.source(disk)?;
        let result = match &*source {
            Source::Map(map) => {
                let file = disk.open(&self.path, Access::Read);
                file.and_then(|file| read(file.as_ref(), Some(&map.bytes)))
            }
            Source::File(file) => read(file.as_ref(), None),
        };
        result.map_err(|error| {
            if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
                self.quarantine();
            }
            self.io(error)
        })
    }

    fn read_past_cache(
        &self,
        file: &dyn DiskFile,
        map: Option<&Bytes>,
        buffer: &mut [u8],
        offset: u64,
    ) -> std::io::Result<usize> {
        let end = offset + buffer.len() as u64;
        let pages = offset / PAGE_OFFSET..end.div_ceil(PAGE_OFFSET);
        let shown = map.and_then(|map| {
            map.get(
                (pages.start * PAGE_OFFSET) as usize
                    ..map.len().min((pages.end * PAGE_OFFSET) as usize),
            )
        });
        let resident = shown.map(memory::residency).unwrap_or_default();
        file.expect_random()?;
        let turn = self.undisturbed();
        let count = read_at_most(file, buffer, offset)?;
        drop(turn);
        let mut page = 0;
        for run in resident.chunk_by(|a, b| a == b) {
            if run.first() == Some(&false) {
                let from = (pages.start + page) * PAGE_OFFSET;
                file.forget(from, run.len() as u64 * PAGE_OFFSET)?;
            }
            page += run.len() as u64;
        }
        Ok(count)
    }

    /// No byte changes below the end as long as this is held.
    pub(crate) fn undisturbed(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn map_bytes(&self) -> Option<Bytes> {
        match self.source.load().as_deref() {
            Some(Source::Map(map)) => Some(map.bytes.clone()),
            _ => None,
        }
    }

    fn record(&self, position: u64, found: &frame::Frame<'_>, payload: Bytes) -> (Record, u64) {
        let record = Record {
            position,
            kind: found.kind,
            flags: found.flags,
            payload,
        };
        (record, found.end())
    }

    /// The bytes from `offset` to the end of the record there, if its length word may be believed so far.
    fn read_file(&self, file: &dyn DiskFile, offset: u64, end: u64) -> std::io::Result<Vec<u8>> {
        let _turn = self.undisturbed();
        let rest = end - offset;
        let mut word = [0; 4];
        read_at_most(file, &mut word, offset)?;
        let len = u64::from(u32::from_le_bytes(word)).next_multiple_of(8);
        let mut bytes = vec![0; len.clamp(RECORD_HEADER as u64, rest.max(8)) as usize];
        let count = read_at_most(file, &mut bytes, offset)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn damaged(&self, disk: &dyn Disk, offset: u64, error: FrameError) -> ReadError {
        self.quarantine();
        let position = self.first_position() + offset;
        let resume = self.first_position() + self.resume_after(disk, offset).unwrap_or(self.end());
        ReadError::Damaged {
            position,
            error,
            resume,
        }
    }

    /// Where reading can go on. Costs a pass over the segment: damage is rare.
    fn resume_after(&self, disk: &dyn Disk, offset: u64) -> Option<u64> {
        let end = self.end();
        let bytes = match &*self.source(disk).ok()? {
            Source::Map(map) => map.bytes.clone(),
            Source::File(file) => {
                let _turn = self.undisturbed();
                let mut bytes = vec![0; end as usize];
                let count = read_at_most(file.as_ref(), &mut bytes, 0).ok()?;
                bytes.truncate(count);
                bytes.into()
            }
        };
        let mut items = scan::sealed(&bytes, &self.header, end);
        items.find_map(|item| match item {
            Item::Record(frame) if frame.offset > offset => Some(frame.offset),
            _ => None,
        })
    }
}

impl Source {
    /// Tells as long as anybody has the file mapped.
    fn watch(&self) -> Option<Weak<()>> {
        match self {
            Self::Map(map) => Some(Weak::clone(&map.alive)),
            Self::File(_) => None,
        }
    }
}

/// A segment whose bytes may be changed: nobody has it mapped, nobody will, and whoever reads it takes turns with
/// [`Self::write`]. It is mapped again after this is dropped.
pub(crate) struct Still {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
}

impl Still {
    /// Readers see all of `bytes`, or none.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let turn = self.segment.turn.write();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        write_all_at(self.file.as_ref(), bytes, offset)
    }

    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }

    /// Bytes that begin with the record at `offset`, if there is one.
    pub(crate) fn read(&self, offset: u64) -> std::io::Result<Vec<u8>> {
        let end = self.segment.end();
        match offset < end {
            true => self.segment.read_file(self.file.as_ref(), offset, end),
            false => Ok(Vec::new()),
        }
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let mut is_still = lock(&self.segment.is_still);
        *is_still = false;
        self.segment.source.store(None);
    }
}

/// How often holders of a map are looked at.
const STILL_POLL: Duration = Duration::from_millis(5);
