//! What is on disk at a start: which segments, how far each was acknowledged, and every record in them.
//!
//! Promises: every acknowledged record behind the checkpoint that verifies is replayed; nothing that was never committed is; a bad record
//! costs itself and is reported; one bad segment never stops the rest; running it again, or after a crash in its middle,
//! gives the same. It changes nothing: new records go into a new segment, and only that one's header says where the log
//! ended before it.
//! Does not know: what a record means.
//!
//! # Which segment was the last
//! Segments are found by name and read with `read`, never through a map, so that a bad sector is an error and not a
//! signal. The last one with a verifying commit record is the tail; those behind it are spares that were never used. All
//! before the tail are whole up to their end: their own size, or where the header of a later one says that recovery cut
//! the log (`previous_end`). The tail's file is synced and dropped from the page cache before it is judged: after a failed
//! sync, or a `kill -9`, the cache may show bytes that the medium does not have.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spool_format::archive::parse_file_name;
use spool_format::layout::{PAGE, PAGE_OFFSET, kind};
use spool_format::scan::{self, Doubt, Item};
use spool_format::{Frame, HeaderError, LogKind, RecordError, SegmentHeader, VoidRecord};

use super::archive::open_segment_bytes;
use super::disk::{Access, Disk, DiskFile, read_at_most};
use super::reclaim::Gaps;
use super::roll::{Place, is_free, is_temporary, number_of, segment_path};
use super::segment::Segment;

/// Takes what recovery finds, in order of position: the mail log first, then the event log.
pub trait Replay {
    /// A whole, acknowledged record of any kind but the engine's own.
    fn record(&mut self, log: LogKind, position: u64, frame: &Frame<'_>);
    fn damage(&mut self, log: LogKind, damage: &Damage);
    /// A whole record whose payload is not what its kind says.
    fn unreadable(&mut self, _log: LogKind, _position: u64, _error: RecordError) {}
    /// After each segment.
    fn progress(&mut self, _log: LogKind, _segments: usize, _of: usize) {}
}

/// A range of a segment that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub segment: u64,
    /// In the segment; the whole segment when `len` is its size.
    pub offset: u64,
    pub len: u64,
    pub reason: &'static str,
    /// Known to have been acknowledged. If not, it may be a write that a crash cut short.
    pub acknowledged: bool,
}

/// A log as it was found.
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) gaps: Gaps,
    /// Of the segment that comes next.
    pub(crate) place: Place,
    /// Spares that were never used, and dead segments.
    pub(crate) spares: Vec<PathBuf>,
    /// Left by a preparation that did not finish.
    pub(crate) temporaries: Vec<PathBuf>,
    /// To be written into the new tail.
    pub(crate) voids: Vec<(u64, u64)>,
    /// The file that was written last, and from which offset on its space is void.
    pub(crate) unused: Option<(PathBuf, u64)>,
    /// Position behind the last acknowledged record.
    pub(crate) end: u64,
    /// Bytes of records that were read.
    pub(crate) scanned: u64,
}

/// Where the reading of a log begins: what lies before is in a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known<'a> {
    pub(crate) position: u64,
    pub(crate) gaps: &'a [(u64, u64)],
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} was written by a newer version of posthaste (format {version})", path.display())]
    Newer { path: PathBuf, version: u16 },
}

/// A segment file whose header verifies.
struct Found {
    header: SegmentHeader,
    path: PathBuf,
}

/// A segment file that says nothing of itself. It is left as it is.
struct Unknown {
    number: u64,
    len: u64,
    reason: &'static str,
}

/// Where the acknowledged part of the log ends.
struct TailEnd {
    index: usize,
    end: u64,
    sealed: bool,
    /// Damage below this offset is damage to acknowledged bytes.
    last_batch: u64,
}

pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    log: LogKind,
    segment_size: u64,
    known: Known<'_>,
    replay: &mut dyn Replay,
) -> Result<Recovered, RecoverError> {
    let names = disk.list(dir).map_err(|e| io_error(dir, e))?;
    let temporaries = names.iter().filter(|name| is_temporary(name));
    let temporaries = temporaries.map(|name| dir.join(name)).collect();
    let (found, unknown) = find(disk, dir, log, &names)?;
    let mut reader = Reader::new(disk);
    let tail = find_tail(&found, &mut reader)?;
    let mut gaps = Gaps::default();
    for &(from, to) in known.gaps {
        gaps.add(from, to);
    }
    for Found { header, .. } in &found {
        gaps.add(header.previous_end, header.first_position);
    }
    let mut place = place_behind(&found, &unknown, tail.as_ref(), segment_size);
    let end = tail
        .as_ref()
        .map_or(0, |tail| found[tail.index].header.first_position + tail.end);
    let used = tail.as_ref().map_or(0, |tail| tail.index + 1);
    let mut damages: Vec<Damage> = unknown.iter().map(Unknown::damage).collect();
    if end < known.position {
        // Positions are never given twice.
        place.first_position = place
            .first_position
            .max(known.position.next_multiple_of(PAGE_OFFSET));
        damages.push(Damage {
            segment: place.number,
            offset: 0,
            len: known.position - end,
            reason: "the log ends before its checkpoint",
            acknowledged: true,
        });
    }
    let mut scanned = 0;
    let mut segments = Vec::with_capacity(used);
    let is_known = |segment: &&Found| segment.header.next_position() <= known.position;
    let skipped = found[..used].iter().take_while(is_known).count();
    for (index, segment) in found[..used].iter().enumerate() {
        let tail = tail.as_ref().filter(|tail| tail.index == index);
        let end = tail.map_or_else(|| end_of(&segment.header, &gaps), |tail| tail.end);
        let (header, path) = (segment.header.clone(), segment.path.clone());
        if index < skipped {
            segments.push(Arc::new(Segment::recovered(header, path, end)));
            continue;
        }
        let from = known.position.saturating_sub(header.first_position);
        reader.read(&segment.path, header.number, end)?;
        scanned += end.saturating_sub(from);
        let sink = &mut Sink {
            log,
            replay,
            gaps: &mut gaps,
            damages: &mut damages,
        };
        sink.take(
            &header,
            from..end,
            tail.map_or(u64::MAX, |t| t.last_batch),
            &reader.bytes,
        );
        segments.push(Arc::new(Segment::recovered(header, path, end)));
        replay.progress(log, index + 1 - skipped, used - skipped);
    }
    find_missing(&found[..used], &unknown, &gaps, &mut damages);
    let mut voids = Vec::new();
    if let Some(tail) = &tail {
        let header = &found[tail.index].header;
        if place.previous_end == place.first_position && !tail.sealed {
            // The new header cannot say it: see `place_behind`.
            voids.push((header.first_position + tail.end, header.next_position()));
        }
    }
    damages.sort_by_key(|damage| (damage.segment, damage.offset));
    if damages.iter().any(|damage| damage.acknowledged) {
        let doubt = doubt(&found[..used], &mut reader)?;
        for damage in &mut damages {
            damage.acknowledged &= !doubt.covers(damage.segment, damage.offset);
        }
    }
    for damage in &damages {
        let header = found.iter().find(|f| f.header.number == damage.segment);
        if let Some(Found { header, .. }) = header {
            let from = header.first_position + damage.offset;
            let void = gaps.covers(from, from + damage.len);
            // A whole segment is void when it was dead: perhaps it was being put aside when power failed.
            let whole = gaps.covers(header.first_position, header.next_position());
            let segment = segments.iter().find(|s| s.number() == damage.segment);
            if let Some(segment) = segment.filter(|_| damage.acknowledged && (whole || !void)) {
                segment.quarantine();
            }
            if void {
                continue;
            }
            if !damage.acknowledged {
                // Reported once; from now on it counts as what it most likely is.
                voids.push((from, from + damage.len));
            }
        }
        replay.damage(log, damage);
    }
    for &(from, to) in &voids {
        gaps.add(from, to);
    }
    // Only what the new header declares void.
    let cut = |tail: &TailEnd| {
        let segment = &found[tail.index];
        let end = segment.header.first_position + tail.end;
        (place.previous_end == end && !tail.sealed).then(|| (segment.path.clone(), tail.end))
    };
    let unused = tail.as_ref().and_then(cut);
    let spares = found[used..].iter().map(|spare| spare.path.clone());
    let free = names.iter().filter(|name| is_free(name));
    let spares = spares.chain(free.map(|name| dir.join(name)));
    Ok(Recovered {
        segments,
        gaps,
        place,
        spares: spares.collect(),
        temporaries,
        voids,
        unused,
        end,
        scanned,
    })
}

/// Replays the archives of the event log that reach behind `position`: they are part of the log and come before its segments.
pub(crate) fn replay_archives(
    disk: &dyn Disk,
    dir: &Path,
    position: u64,
    replay: &mut dyn Replay,
) -> Result<(), RecoverError> {
    let names = disk.list(dir).map_err(|e| io_error(dir, e))?;
    let has_segment = |number| names.iter().any(|name| number_of(name) == Some(number));
    let archives = names.iter().filter_map(|name| {
        let (number, first) = parse_file_name(name)?;
        (!has_segment(number)).then(|| (first, number, dir.join(name)))
    });
    let mut archives: Vec<_> = archives.collect();
    archives.sort_unstable();
    for (index, (first, number, path)) in archives.iter().enumerate() {
        let next = archives.get(index + 1).map_or(u64::MAX, |next| next.0);
        if next <= position {
            continue;
        }
        let lost = |offset, len, reason| Damage {
            segment: *number,
            offset,
            len,
            reason,
            acknowledged: true,
        };
        match open_segment_bytes(disk, path) {
            Ok((header, _)) if header.next_position() <= position => {}
            Ok((header, bytes)) => {
                let start = position.saturating_sub(*first);
                for item in scan::sealed(&bytes, &header, bytes.len() as u64).skip_to(start) {
                    match item {
                        Item::Record(frame) => match frame.kind {
                            kind::PADDING | kind::COMMIT | kind::VOID => {}
                            _ => replay.record(LogKind::Event, first + frame.offset, &frame),
                        },
                        Item::Damage(d) => {
                            let damage = lost(d.offset, d.len, d.reason.as_str());
                            replay.damage(LogKind::Event, &damage);
                        }
                    }
                }
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "an archive cannot be read");
                replay.damage(LogKind::Event, &lost(0, 0, "unreadable archive"));
            }
        }
        replay.progress(LogKind::Event, index + 1, archives.len());
    }
    Ok(())
}

fn io_error(path: &Path, error: io::Error) -> RecoverError {
    let path = path.to_path_buf();
    RecoverError::Io { path, error }
}

/// Segments in order of number and position, and files that could not be told what they are.
fn find(
    disk: &dyn Disk,
    dir: &Path,
    log: LogKind,
    names: &[String],
) -> Result<(Vec<Found>, Vec<Unknown>), RecoverError> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let (mut found, mut unknown) = (Vec::<Found>::new(), Vec::new());
    for number in numbers {
        let path = segment_path(dir, number);
        let opened = disk.open(&path, Access::Read);
        let file = opened.map_err(|error| io_error(&path, error))?;
        let len = file.len().map_err(|error| io_error(&path, error))?;
        let mut page = vec![0; PAGE];
        let refused = |reason| Unknown {
            number,
            len,
            reason,
        };
        let Ok(count) = read_at_most(file.as_ref(), &mut page, 0) else {
            unknown.push(refused("unreadable header"));
            continue;
        };
        match SegmentHeader::decode(&page[..count]) {
            Err(HeaderError::Newer(version)) => return Err(RecoverError::Newer { path, version }),
            Err(_) => unknown.push(refused("header")),
            Ok(header) => {
                let behind = found.last().map_or(0, |f| f.header.next_position());
                let fits = header.kind == log
                    && header.number == number
                    && header.first_position >= behind;
                if fits {
                    found.push(Found { header, path });
                } else {
                    unknown.push(refused("misplaced segment"));
                }
            }
        }
    }
    Ok((found, unknown))
}

/// The last segment with a commit record, and where its last batch ends.
fn find_tail(found: &[Found], reader: &mut Reader<'_>) -> Result<Option<TailEnd>, RecoverError> {
    for (index, segment) in found.iter().enumerate().rev() {
        let opened = reader.disk.open(&segment.path, Access::Read);
        let settled = opened.and_then(|file| file.settle());
        settled.map_err(|error| io_error(&segment.path, error))?;
        reader.read(&segment.path, segment.header.number, segment.header.size)?;
        let tail = scan::tail(&reader.bytes, &segment.header);
        if reader
            .unreadable_from
            .is_some_and(|from| from < segment.header.size)
            && !tail.sealed
        {
            // Acknowledged commit records may be among what cannot be read: nothing of it may be cut off.
            return Ok(Some(TailEnd {
                index,
                end: segment.header.size,
                sealed: true,
                last_batch: u64::MAX,
            }));
        }
        if tail.durable_end > PAGE_OFFSET {
            if tail.uncommitted > 0 {
                let (segment, records) = (segment.header.number, tail.uncommitted);
                tracing::info!(
                    segment,
                    records,
                    "records that were never committed are ignored"
                );
            }
            return Ok(Some(TailEnd {
                index,
                end: tail.durable_end,
                sealed: tail.sealed,
                last_batch: tail.last_batch,
            }));
        }
    }
    Ok(None)
}

/// What the last segments leave in doubt: the end of one before the tail too, where a first batch that would say so is torn.
fn doubt(used: &[Found], reader: &mut Reader<'_>) -> Result<Doubt, RecoverError> {
    let mut doubt = Doubt::default();
    for Found { header, path } in used.iter().rev() {
        reader.read(path, header.number, header.size)?;
        if reader.unreadable_from.is_some()
            || !doubt.judge(header, &scan::tail(&reader.bytes, header))
        {
            break;
        }
    }
    Ok(doubt)
}

/// A new segment, above everything that is there.
fn place_behind(
    found: &[Found],
    unknown: &[Unknown],
    tail: Option<&TailEnd>,
    segment_size: u64,
) -> Place {
    let last_found = found.last().map(|f| &f.header);
    let last_number = last_found.map_or(0, |header| header.number);
    let behind: Vec<&Unknown> = unknown.iter().filter(|u| u.number > last_number).collect();
    let room: u64 = behind
        .iter()
        .map(|unknown| unknown.len.max(segment_size).next_multiple_of(PAGE_OFFSET))
        .sum();
    let number = behind.iter().map(|u| u.number).max().unwrap_or(last_number) + 1;
    let first_position = last_found.map_or(0, SegmentHeader::next_position) + room;
    let tail_header = tail.map(|tail| &found[tail.index].header);
    let is_used = |u: &Unknown| tail_header.is_none_or(|header| u.number > header.number);
    let previous_end = match (tail, tail_header) {
        // What cannot be read behind the tail may hold acknowledged records: nothing is declared void.
        _ if unknown.iter().any(is_used) => first_position,
        (Some(tail), Some(header)) => header.first_position + tail.end,
        _ => found
            .first()
            .map_or(first_position, |f| f.header.first_position),
    };
    Place {
        number,
        first_position,
        previous_end,
    }
}

/// Offset up to which a segment before the tail was acknowledged.
fn end_of(header: &SegmentHeader, gaps: &Gaps) -> u64 {
    let next = header.next_position();
    let cut = gaps
        .ranges()
        .iter()
        .find(|(from, to)| *from < next && *to >= next);
    cut.map_or(header.size, |(from, _)| {
        from.saturating_sub(header.first_position).max(PAGE_OFFSET)
    })
}

fn find_missing(found: &[Found], unknown: &[Unknown], gaps: &Gaps, damages: &mut Vec<Damage>) {
    for pair in found.windows(2) {
        let (before, after) = (&pair[0].header, &pair[1].header);
        let numbers = before.number + 1..after.number;
        let explained = gaps.covers(before.next_position(), after.first_position)
            || unknown.iter().any(|u| numbers.contains(&u.number));
        if !explained {
            damages.push(Damage {
                segment: before.number + 1,
                offset: 0,
                len: after.first_position - before.next_position(),
                reason: "missing segment",
                acknowledged: true,
            });
        }
    }
}

impl Unknown {
    fn damage(&self) -> Damage {
        Damage {
            segment: self.number,
            offset: 0,
            len: self.len,
            reason: self.reason,
            acknowledged: true,
        }
    }
}

/// Where the items of a segment go.
struct Sink<'a> {
    log: LogKind,
    replay: &'a mut dyn Replay,
    gaps: &'a mut Gaps,
    damages: &'a mut Vec<Damage>,
}

impl Sink<'_> {
    fn take(
        &mut self,
        header: &SegmentHeader,
        range: Range<u64>,
        acknowledged_below: u64,
        bytes: &[u8],
    ) {
        for item in scan::sealed(bytes, header, range.end).skip_to(range.start) {
            match item {
                Item::Record(frame) => self.record(header.first_position + frame.offset, &frame),
                Item::Damage(damage) if self.damages.len() < DAMAGES_MAX => {
                    self.damages.push(Damage {
                        segment: header.number,
                        offset: damage.offset,
                        len: damage.len,
                        reason: damage.reason.as_str(),
                        acknowledged: damage.offset < acknowledged_below,
                    });
                }
                Item::Damage(_) => {}
            }
        }
    }

    fn record(&mut self, position: u64, frame: &Frame<'_>) {
        match frame.kind {
            kind::PADDING | kind::COMMIT => {}
            kind::VOID => {
                if let Ok(void) = VoidRecord::decode(frame.payload) {
                    self.gaps.add(void.from, void.to);
                }
            }
            _ => self.replay.record(self.log, position, frame),
        }
    }
}

/// One buffer for all segments.
pub(crate) struct Reader<'a> {
    disk: &'a dyn Disk,
    pub(crate) bytes: Vec<u8>,
    /// Offset of the first page that the medium did not give; it and others like it read as zeroes.
    pub(crate) unreadable_from: Option<u64>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(disk: &'a dyn Disk) -> Self {
        Self {
            disk,
            bytes: Vec::new(),
            unreadable_from: None,
        }
    }

    /// The first `end` bytes of the file, or all of a shorter one.
    pub(crate) fn read(&mut self, path: &Path, segment: u64, end: u64) -> Result<(), RecoverError> {
        let on = |error| io_error(path, error);
        let file = self.disk.open(path, Access::Read).map_err(on)?;
        let len = file.len().map_err(on)?.min(end) as usize;
        // What is there already is overwritten: zeroing it first would cost as much as reading.
        self.bytes.resize(len, 0);
        self.unreadable_from = None;
        for at in (0..len).step_by(CHUNK) {
            let end = len.min(at + CHUNK);
            if self.fill(file.as_ref(), at, end).is_err() {
                self.fill_by_page(file.as_ref(), at, end, segment);
            }
        }
        Ok(())
    }

    fn fill(&mut self, file: &dyn DiskFile, at: usize, end: usize) -> io::Result<()> {
        let count = read_at_most(file, &mut self.bytes[at..end], at as u64)?;
        self.bytes[at + count..end].fill(0);
        Ok(())
    }

    fn fill_by_page(&mut self, file: &dyn DiskFile, at: usize, end: usize, segment: u64) {
        for page in (at..end).step_by(PAGE) {
            let page_end = end.min(page + PAGE);
            if let Err(error) = self.fill(file, page, page_end) {
                self.bytes[page..page_end].fill(0);
                self.unreadable_from.get_or_insert(page as u64);
                tracing::error!(segment, offset = page, %error, "a page of the spool cannot be read");
            }
        }
    }
}

const CHUNK: usize = 1 << 20;
/// Ranges that are remembered and reported one by one.
const DAMAGES_MAX: usize = 10_000;
