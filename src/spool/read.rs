//! Reading a log: from segments, and from archives of those that are gone.
//!
//! Promises: a record is shown when it is durable and its checksum matches, wherever it lies; reading on passes from
//! archived segments of the event log to those that are there without a gap; a damaged place costs itself.
//! Does not know: who reads. Archives of the mail log are read by position only: what a reader passes through is what the
//! log itself holds.

use std::sync::Arc;

use spool_format::LogKind;
use spool_format::layout::{PAGE_OFFSET, kind};

use super::archive::Opened;
use super::log::{Log, Shared};
use super::segment::{ReadError, Record, Segment};
use super::sync::Ordering;
use crate::clock::UnixMs;

/// Where the next records are.
enum Place {
    Segment(Arc<Segment>),
    Archive(Arc<Opened>),
}

impl Log {
    /// The record at `position`, verified. Without a copy where segments are mapped; from its archive where the segment is
    /// gone.
    pub fn read(&self, position: u64) -> Result<Record, ReadError> {
        match self.shared.durable_segment(position) {
            Ok((segment, offset)) => Ok(segment.read(self.shared.disk.as_ref(), offset)?.0),
            Err(ReadError::NotRetained(_)) => self.shared.shelf.read(position),
            Err(error) => Err(error),
        }
    }

    /// The first record at or behind `position` that is not the engine's own, and the position behind it. `None`: there is
    /// none below the durable watermark, yet. A retained log begins at [`Self::start`]; earlier positions count as that.
    pub fn next(&self, position: u64) -> Result<Option<(Record, u64)>, ReadError> {
        let mut position = position;
        while position < self.durable() {
            let (first, (record, end)) = match self.shared.place_from(position)? {
                None => return Ok(None),
                Some(Place::Segment(segment)) => {
                    let first = segment.first_position();
                    let offset = position.saturating_sub(first).max(PAGE_OFFSET);
                    if offset >= segment.end() {
                        if !segment.is_closed() {
                            return Ok(None);
                        }
                        position = segment.header.next_position();
                        continue;
                    }
                    (first, segment.read(self.shared.disk.as_ref(), offset)?)
                }
                Some(Place::Archive(opened)) => {
                    let first = opened.header.first_position;
                    let offset = position.saturating_sub(first).max(PAGE_OFFSET);
                    if offset >= opened.footer.raw_len {
                        position = opened.end();
                        continue;
                    }
                    (first, self.shared.shelf.read_from(&opened, offset)?)
                }
            };
            position = first + end;
            if is_callers(&record) {
                return Ok(Some((record, position)));
            }
        }
        Ok(None)
    }

    /// [`Self::next`], over and over, up to the watermark.
    pub fn records_from(
        &self,
        position: u64,
    ) -> impl Iterator<Item = Result<(Record, u64), ReadError>> {
        let (log, mut position) = (self.clone(), position);
        std::iter::from_fn(move || match log.next(position) {
            Ok(found) => {
                let (record, next) = found?;
                position = next;
                Some(Ok((record, next)))
            }
            Err(error) => {
                position = match &error {
                    ReadError::Damaged { resume, .. } => *resume,
                    // The segment as a whole: on to the next one.
                    _ => log.shared.place_behind(position),
                };
                Some(Err(error))
            }
        })
    }

    /// What archives hold at or behind `position`, whether or not their segments are there too: with [`Self::records_from`]
    /// before it, all that is kept of the mail log.
    pub fn archived_from(
        &self,
        position: u64,
    ) -> impl Iterator<Item = Result<(Record, u64), ReadError>> {
        let (log, mut position) = (self.clone(), position);
        std::iter::from_fn(move || {
            let shelf = &log.shared.shelf;
            loop {
                let opened = match shelf.reaching(position, u64::MAX)? {
                    Ok(opened) => opened,
                    Err(error) => {
                        position = shelf.next_first(position).unwrap_or(u64::MAX);
                        return Some(Err(error));
                    }
                };
                let first = opened.header.first_position;
                let offset = position.saturating_sub(first).max(PAGE_OFFSET);
                if offset >= opened.footer.raw_len {
                    position = opened.end();
                    continue;
                }
                match shelf.read_from(&opened, offset) {
                    Ok((record, end)) => {
                        position = first + end;
                        if is_callers(&record) {
                            return Some(Ok((record, position)));
                        }
                    }
                    Err(error) => {
                        position = match &error {
                            ReadError::Damaged { resume, .. } => *resume,
                            _ => opened.end(),
                        };
                        return Some(Err(error));
                    }
                }
            }
        })
    }

    /// First position that is retained.
    pub fn start(&self) -> u64 {
        let segments = self.shared.segments.load();
        let first = segments.first().map(|segment| segment.first_position());
        let first = first.unwrap_or_default();
        let archived = match self.shared.kind {
            LogKind::Event => self.shared.shelf.first(),
            LogKind::Mail => None,
        };
        archived.map_or(first, |archived| archived.min(first)) + PAGE_OFFSET
    }

    /// A position before everything that was appended at `unix_ms` or later; the start of the log at the earliest.
    pub fn position_before(&self, unix_ms: UnixMs) -> u64 {
        let segments = self.shared.segments.load();
        let older = |segment: &&Arc<Segment>| segment.header.created_unix_ms <= unix_ms;
        let segment = segments.iter().rev().find(older);
        let segment = segment.map(|segment| segment.first_position());
        let archived = || match self.shared.kind {
            LogKind::Event => self.shared.shelf.first_before(unix_ms),
            LogKind::Mail => None,
        };
        segment.or_else(archived).unwrap_or_else(|| self.start())
    }
}

impl Shared {
    /// The segment of a position that may be read, and the offset in it.
    pub(crate) fn durable_segment(&self, position: u64) -> Result<(Arc<Segment>, u64), ReadError> {
        // Acquire: partner of the release store in `advance`.
        if position >= self.watermark.load(Ordering::Acquire) {
            return Err(ReadError::NotDurable(position));
        }
        let segment = self.segment(position)?;
        let offset = position - segment.first_position();
        if offset < PAGE_OFFSET || offset >= segment.end() {
            return Err(ReadError::NotDurable(position));
        }
        Ok((segment, offset))
    }

    pub(crate) fn segment(&self, position: u64) -> Result<Arc<Segment>, ReadError> {
        let segments = self.segments.load();
        let after = segments.partition_point(|segment| segment.first_position() <= position);
        let found = after.checked_sub(1).map(|index| &segments[index]);
        match found.filter(|segment| segment.contains(position)) {
            Some(segment) => Ok(Arc::clone(segment)),
            None => Err(ReadError::NotRetained(position)),
        }
    }

    /// The first segment that reaches behind `position`.
    pub(super) fn segment_from(&self, position: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.load();
        let index = segments.partition_point(|s| s.header.next_position() <= position);
        segments.get(index).map(Arc::clone)
    }

    /// The first segment or archive that reaches behind `position`. Segments are looked at first: one that goes meanwhile has
    /// its archive by then.
    fn place_from(&self, position: u64) -> Result<Option<Place>, ReadError> {
        let segment = self.segment_from(position);
        if self.kind == LogKind::Event {
            let bound = segment.as_ref().map_or(u64::MAX, |s| s.first_position());
            if let Some(opened) = self.shelf.reaching(position, bound) {
                return Ok(Some(Place::Archive(opened?)));
            }
        }
        Ok(segment.map(Place::Segment))
    }

    /// Where reading goes on when what holds `position` cannot be read at all.
    fn place_behind(&self, mut position: u64) -> u64 {
        while let Ok(Some(Place::Archive(opened))) = self.place_from(position) {
            position = opened.end();
        }
        let segment = self.segment_from(position);
        let archive = match self.kind {
            LogKind::Event => self.shelf.next_first(position),
            LogKind::Mail => None,
        };
        match (segment, archive) {
            (Some(segment), _) if segment.contains(position) => segment.header.next_position(),
            (Some(segment), Some(archive)) => archive.min(segment.first_position()),
            (Some(segment), None) if segment.first_position() > position => {
                segment.first_position()
            }
            (Some(segment), None) => segment.header.next_position(),
            (None, archive) => archive.unwrap_or(u64::MAX),
        }
    }
}

fn is_callers(record: &Record) -> bool {
    !matches!(record.kind, kind::PADDING | kind::COMMIT | kind::VOID)
}
