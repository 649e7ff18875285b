//! The two logs of a data directory, read without the daemon: up or down, live, copied, or left by a crash.
//!
//! Promises: only acknowledged records are shown, in order of position; nothing is changed, locked or mapped, so a
//! reader disturbs no daemon and a bad sector is an error and not a signal. A segment that the daemon takes back while it
//! is being read is read from its archive, or left out where it has none.
//!
//! [`LogReader::read`] takes what is there now and can be called again for what came since. A segment that a later one
//! has followed is scanned whole, with its damage; the last one is followed from commit record to commit record.
//! [`files`] has the segments and archives, [`gaps`] says what may be missing, [`find`] looks up one message, [`live`] says
//! who still lives.

mod files;
mod find;
mod gaps;
mod live;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use spool_format::layout::{PAGE_OFFSET, record_flag};
use spool_format::scan::{self, Doubt, Item};
use spool_format::{
    CommitRecord, Frame, FrameError, LogKind, SegmentHeader, VoidRecord, frame, kind,
};

pub(super) use files::{Files, SegmentFile};
pub(super) use find::{Finder, FoundMessage, FoundRecord, IdPrefix, Place, Records, event_of};
pub(super) use gaps::Gaps;
pub(super) use live::{Chain, Live, check_checkpoints};

/// Reads one log from a position on.
pub(super) struct LogReader {
    files: Files,
    /// Records before it are passed over.
    from: u64,
    segments: Vec<SegmentFile>,
    /// Of the segment that it began with.
    first: u64,
    /// Of the segment that comes next, or is being read.
    number: u64,
    /// In it: where the next batch begins.
    offset: u64,
    /// Offset at which the last segment was searched for damage in vain.
    searched: Option<u64>,
    voids: Vec<(u64, u64)>,
    damages: Vec<Damage>,
    progress: Option<Box<dyn FnMut(usize, usize)>>,
    sealed: Option<SealedVisit>,
}

/// A range that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) segment: u64,
    /// In the segment.
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) reason: String,
    /// Known to have been acknowledged. If not, it may be a write that a crash cut short.
    pub(super) acknowledged: bool,
}

/// How far [`LogReader::step`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To the end of a segment: there may be more.
    Segment,
    /// To the end of what is there now.
    End,
    /// The visitor has enough.
    Stopped,
}

/// What a visitor says after each record.
pub(super) type Flow = ControlFlow<()>;
/// Takes a segment's header, bytes and end.
type SealedVisit = Box<dyn FnMut(&SegmentHeader, &[u8], u64)>;
pub(super) type Visit<'v> = &'v mut dyn FnMut(u64, &Frame<'_>) -> Flow;

/// Makes what is told how far the reading of a log is: done, of.
pub(super) type NewProgress = fn(&'static str) -> Box<dyn FnMut(usize, usize)>;

/// `mail` or `event`: the name of the log's directory and in listings.
pub(super) fn name(kind: LogKind) -> &'static str {
    match kind {
        LogKind::Mail => "mail",
        LogKind::Event => "event",
    }
}

impl LogReader {
    /// Begins at position `from`; 0 is the first record that is still there, archives included.
    pub(super) fn open(data_dir: &Path, kind: LogKind, from: u64) -> anyhow::Result<Self> {
        Self::over(Files::open(data_dir, kind, true)?, from)
    }

    /// Without what is only kept as an archive.
    pub(super) fn open_in_use(data_dir: &Path, kind: LogKind, from: u64) -> anyhow::Result<Self> {
        Self::over(Files::open(data_dir, kind, false)?, from)
    }

    pub(super) fn over(files: Files, from: u64) -> anyhow::Result<Self> {
        let mut reader = Self {
            files,
            from,
            segments: Vec::new(),
            first: 0,
            number: 0,
            offset: PAGE_OFFSET,
            searched: None,
            voids: Vec::new(),
            damages: Vec::new(),
            progress: None,
            sealed: None,
        };
        reader.refresh()?;
        let first = reader
            .segments
            .iter()
            .find(|s| s.header.next_position() > from);
        reader.begin_with(first.map_or(0, |s| s.header.number));
        Ok(reader)
    }

    fn begin_with(&mut self, number: u64) {
        self.first = number;
        self.enter(number);
    }

    /// Begins not before the segment that was in use at `unix_ms`. Times in a log are as orderly as the clock was: whoever
    /// must not miss anything allows for [`super::logs::SLACK_MS`].
    pub(super) fn begin_at_time(&mut self, unix_ms: u64) {
        let from = self.number;
        let index = find::segment_at(&self.segments, unix_ms);
        if let Some(segment) = self.segments.get(index)
            && segment.header.number > from
        {
            self.begin_with(segment.header.number);
        }
    }

    /// Begins with the last `count` segments that were written to; whether these are all.
    pub(super) fn begin_near_end(&mut self, count: usize) -> bool {
        let written = self.segments.iter().filter(|s| s.has_batch()).count();
        let index = written.saturating_sub(count);
        if let Some(segment) = self.segments.get(index) {
            self.begin_with(segment.header.number);
        }
        index == 0
    }

    /// Calls `progress(done, of)` after each segment.
    pub(super) fn with_progress(mut self, progress: impl FnMut(usize, usize) + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Shows each segment that a later one has followed, whole, before its records are visited, if all of it is read: its bytes
    /// and its end.
    pub(super) fn with_sealed(
        mut self,
        sealed: impl FnMut(&SegmentHeader, &[u8], u64) + 'static,
    ) -> Self {
        self.sealed = Some(Box::new(sealed));
        self
    }

    /// The segment that comes next.
    pub(super) fn next_segment(&self) -> Option<&SegmentFile> {
        self.segments
            .iter()
            .find(|s| s.header.number >= self.number)
    }

    /// The one behind it.
    pub(super) fn following(&self) -> Option<&SegmentFile> {
        let mut rest = self
            .segments
            .iter()
            .filter(|s| s.header.number >= self.number);
        rest.nth(1)
    }

    /// Position behind the last record that was read.
    pub(super) fn end(&self) -> u64 {
        match self.next_segment().or(self.segments.last()) {
            Some(s) if s.header.number == self.number => s.header.first_position + self.offset,
            Some(s) if s.header.number > self.number => s.header.first_position,
            Some(s) => s.header.next_position(),
            None => 0,
        }
    }

    fn gaps(&self) -> Gaps<'_> {
        Gaps {
            kind: self.files.kind(),
            segments: &self.segments,
            voids: &self.voids,
        }
    }

    /// What could not be used of all that was read, without what recovery has declared void.
    pub(super) fn damages(&self) -> Vec<Damage> {
        let gaps = self.gaps();
        let mut damages: Vec<Damage> = self
            .damages
            .iter()
            .filter(|damage| !gaps.excuse(damage))
            .cloned()
            .collect();
        settle(&self.segments, &mut damages);
        damages.extend(gaps.missing(self.first, self.number, &self.damages));
        damages.sort_by_key(|d| (d.segment, d.offset));
        damages
    }

    /// Says on standard error that what was read is not all, if it is so.
    pub(super) fn tell_damages(&self) -> bool {
        let damages = self.damages();
        let lost = damages.iter().filter(|d| d.acknowledged).count();
        if lost > 0 {
            let log = name(self.files.kind());
            eprintln!(
                "{lost} places of the {log} log are damaged or missing, so this may be wrong; see posthaste spool verify"
            );
        }
        lost > 0
    }

    /// Visits every acknowledged record that is there and was not visited yet, commit records and padding left out.
    pub(super) fn read(&mut self, visit: Visit<'_>) -> anyhow::Result<Flow> {
        loop {
            match self.step(visit)? {
                Step::Segment => {}
                Step::End => return Ok(Flow::Continue(())),
                Step::Stopped => return Ok(Flow::Break(())),
            }
        }
    }

    /// As [`Self::read`], but to the end of one segment at most.
    pub(super) fn step(&mut self, visit: Visit<'_>) -> anyhow::Result<Step> {
        let is_last = |reader: &Self| {
            let later = |s: &&SegmentFile| s.header.number > reader.number;
            !reader.segments.iter().any(|s| later(&s) && s.has_batch())
        };
        // What is listed first is read afterwards: a void record is durable before its segments go.
        if is_last(self) {
            self.refresh()?;
        }
        let Some(segment) = self.next_segment().cloned() else {
            return Ok(Step::End);
        };
        if segment.header.number > self.number {
            self.enter(segment.header.number);
        }
        let flow = if segment.archive.is_some() || !is_last(self) {
            self.read_followed(&segment, visit)?
        } else {
            self.read_last(&segment, visit)?
        };
        if let Some(progress) = &mut self.progress {
            let done = self
                .segments
                .partition_point(|s| s.header.number < self.number);
            progress(done, self.segments.len());
        }
        Ok(match flow {
            Read::Stopped => Step::Stopped,
            Read::Gone => {
                self.gone(&segment)?;
                Step::Segment
            }
            Read::Done if segment.header.number == self.number => Step::End,
            Read::Done => Step::Segment,
        })
    }

    /// Goes on behind a segment that was taken back, or with its archive.
    fn gone(&mut self, segment: &SegmentFile) -> anyhow::Result<()> {
        self.refresh()?;
        let number = segment.header.number;
        let elsewhere = |s: &SegmentFile| s.header.number == number && s.path != segment.path;
        if !self.segments.iter().any(elsewhere) {
            self.enter(number + 1);
        }
        Ok(())
    }

    fn enter(&mut self, number: u64) {
        self.number = number;
        self.offset = PAGE_OFFSET;
        self.searched = None;
    }

    /// The rest of a segment that is complete: a later one is in use.
    fn read_followed(&mut self, segment: &SegmentFile, visit: Visit<'_>) -> anyhow::Result<Read> {
        let end = self.gaps().end_of(segment);
        let is_damaged =
            |bytes: &[u8]| scan::sealed(bytes, &segment.header, end).any(|item| is_damage(&item));
        let Some(bytes) = read_settled(segment, &|_| {}, is_damaged)? else {
            return Ok(Read::Gone);
        };
        if self.offset == PAGE_OFFSET
            && let Some(sealed) = &mut self.sealed
        {
            sealed(&segment.header, &bytes, end);
        }
        if self
            .visit_all(segment, scan::sealed(&bytes, &segment.header, end), visit)
            .is_break()
        {
            return Ok(Read::Stopped);
        }
        self.enter(segment.header.number + 1);
        Ok(Read::Done)
    }

    /// What has been committed so far in the last segment.
    fn read_last(&mut self, segment: &SegmentFile, visit: Visit<'_>) -> anyhow::Result<Read> {
        let Ok(file) = File::open(&segment.path) else {
            return Ok(Read::Gone);
        };
        while let Some(batch) = read_batch(&file, &segment.header, self.offset) {
            let mut offset = self.offset;
            while offset < batch.commit_at {
                let local = (offset - self.offset) as usize;
                // `read_batch` has verified each of them.
                let Ok(frame) =
                    frame::read_record(&batch.bytes[local..], offset, segment.header.seed())
                else {
                    break;
                };
                offset = frame.end();
                if self.visit(segment, &frame, visit).is_break() {
                    self.offset = offset;
                    return Ok(Read::Stopped);
                }
            }
            self.offset = batch.end;
            if batch.seals || batch.end >= segment.header.size {
                self.enter(segment.header.number + 1);
                return Ok(Read::Done);
            }
        }
        if self.searched == Some(self.offset) {
            return Ok(Read::Done);
        }
        self.read_behind_damage(segment, visit)
    }

    /// Nothing verifies at the offset: mostly because nothing was written yet, else because of damage before batches that
    /// verify.
    fn read_behind_damage(
        &mut self,
        segment: &SegmentFile,
        visit: Visit<'_>,
    ) -> anyhow::Result<Read> {
        let is_damaged = |bytes: &[u8]| {
            scan::tail(bytes, &segment.header)
                .items()
                .any(|item| is_damage(&item))
        };
        let Some(bytes) = read_settled(segment, &|_| {}, is_damaged)? else {
            return Ok(Read::Gone);
        };
        let tail = scan::tail(&bytes, &segment.header);
        self.searched = Some(self.offset);
        if self.visit_all(segment, tail.items(), visit).is_break() {
            return Ok(Read::Stopped);
        }
        if tail.durable_end > self.offset {
            self.offset = tail.durable_end;
            self.searched = Some(self.offset);
        }
        Ok(Read::Done)
    }

    /// Everything from the offset on. Where the visitor has enough, the offset is behind what it saw last.
    fn visit_all<'a>(
        &mut self,
        segment: &SegmentFile,
        items: impl Iterator<Item = Item<'a>>,
        visit: Visit<'_>,
    ) -> Flow {
        for item in items {
            match item {
                Item::Record(frame) if frame.offset >= self.offset => {
                    if self.visit(segment, &frame, visit).is_break() {
                        self.offset = frame.end();
                        return Flow::Break(());
                    }
                }
                Item::Record(_) => {}
                Item::Damage(damage) => self.damaged(segment, &damage),
            }
        }
        Flow::Continue(())
    }

    fn visit(&mut self, segment: &SegmentFile, frame: &Frame<'_>, visit: Visit<'_>) -> Flow {
        let position = segment.header.first_position + frame.offset;
        match frame.kind {
            kind::PADDING | kind::COMMIT => Flow::Continue(()),
            kind::VOID => {
                self.voids
                    .extend(VoidRecord::decode(frame.payload).map(|v| (v.from, v.to)));
                Flow::Continue(())
            }
            _ if position < self.from => Flow::Continue(()),
            _ => visit(position, frame),
        }
    }

    fn damaged(&mut self, segment: &SegmentFile, damage: &scan::Damage) {
        let damage = Damage::of(segment, damage);
        if self.damages.len() < DAMAGES_MAX && !self.damages.contains(&damage) {
            self.damages.push(damage);
        }
    }

    /// Looks which segments there are.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let listed = self.files.list(&self.segments)?;
        self.segments = listed.segments;
        for damage in listed.damages {
            if !self.damages.contains(&damage) {
                self.damages.push(damage);
            }
        }
        Ok(())
    }
}

impl Damage {
    pub(super) fn of(segment: &SegmentFile, damage: &scan::Damage) -> Self {
        let (from, to) = (damage.offset, damage.offset + damage.len);
        let hit = |broken: &std::ops::Range<u64>| broken.start < to && from < broken.end;
        let acknowledged =
            damage.acknowledged && (segment.archive.is_none() || segment.broken().iter().any(hit));
        Self {
            segment: segment.header.number,
            offset: damage.offset,
            len: damage.len,
            reason: damage.reason.as_str().into(),
            acknowledged,
        }
    }
}

/// Takes back what was called acknowledged and is in doubt (FORMAT.md §7.3, rule 6).
pub(super) fn settle<'d>(
    segments: &[SegmentFile],
    damages: impl IntoIterator<Item = &'d mut Damage>,
) {
    let mut acknowledged = damages.into_iter().filter(|d| d.acknowledged).peekable();
    if acknowledged.peek().is_none() {
        return;
    }
    let mut doubt = Doubt::default();
    for segment in segments.iter().rev().take_while(|s| s.archive.is_none()) {
        // One that is gone, or not given by the medium, proves nothing for those before it.
        let Ok(Some(bytes)) = segment.read(&|_| {}) else {
            break;
        };
        if !doubt.judge(&segment.header, &scan::tail(&bytes, &segment.header)) {
            break;
        }
    }
    for damage in acknowledged {
        damage.acknowledged = !doubt.covers(damage.segment, damage.offset);
    }
}

/// How the reading of a segment ended.
enum Read {
    Done,
    Stopped,
    Gone,
}

/// A committed batch. `bytes` begin at the offset it was asked for.
struct Batch {
    bytes: Vec<u8>,
    commit_at: u64,
    end: u64,
    seals: bool,
}

/// The batch at `offset`, when its commit record is there.
fn read_batch(file: &File, header: &SegmentHeader, offset: u64) -> Option<Batch> {
    let seed = header.seed();
    let mut bytes = Vec::new();
    let mut at = 0usize;
    loop {
        let rest = &bytes[at.min(bytes.len())..];
        let read = frame::read_record(rest, offset + at as u64, seed);
        if matches!(read, Err(FrameError::Cut)) {
            // Short of bytes, or the length word itself is not read yet.
            match grow(file, header, offset, &mut bytes) {
                true => continue,
                false => return None,
            }
        }
        let frame = read.ok()?;
        let end = frame.end();
        if frame.kind == kind::COMMIT {
            CommitRecord::decode(frame.payload, frame.offset, seed).ok()?;
            return Some(Batch {
                commit_at: frame.offset,
                end: frame::page_up(end),
                seals: frame.flags & record_flag::SEAL != 0,
                bytes,
            });
        }
        at = (end - offset) as usize;
    }
}

/// Reads on behind `bytes`; `false` when there is no more.
fn grow(file: &File, header: &SegmentHeader, offset: u64, bytes: &mut Vec<u8>) -> bool {
    let have = bytes.len();
    let left = header.size.saturating_sub(offset + have as u64);
    let more = left.min(have.max(READ_FIRST) as u64) as usize;
    bytes.resize(have + more, 0);
    let read = files::read_at_most(file, &mut bytes[have..], offset + have as u64).unwrap_or(0);
    bytes.truncate(have + read);
    read > 0
}

pub(super) fn is_damage(item: &Item<'_>) -> bool {
    matches!(item, Item::Damage(_))
}

/// The segment's bytes. A daemon that writes on, or gives the file another life, while we read makes sound bytes look
/// damaged: what looks so is read again until it stays the same. `None`: the segment is gone.
pub(super) fn read_settled(
    segment: &SegmentFile,
    pace: &dyn Fn(u64),
    is_damaged: impl Fn(&[u8]) -> bool,
) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(mut bytes) = segment.read(pace)? else {
        return Ok(None);
    };
    for _ in 0..files::READS_MAX {
        if !is_damaged(&bytes) {
            break;
        }
        let Some(again) = segment.read(pace)? else {
            return Ok(None);
        };
        if again == bytes {
            break;
        }
        bytes = again;
    }
    Ok(Some(bytes))
}

const READ_FIRST: usize = 16 * 1024;
const DAMAGES_MAX: usize = 10_000;
/// How far times in the logs may be out of order: an hour that a clock was set back, or that a transaction took
/// (`limits::SESSION_ABSOLUTE`).
pub(super) const SLACK_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests;
