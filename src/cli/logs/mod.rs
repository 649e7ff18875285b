//! The two logs of a data directory, read without the daemon: up or down, live or left by a crash.
//!
//! Promises: only acknowledged records are shown, in order of position; nothing is changed, locked or mapped, so a
//! reader disturbs no daemon and a bad sector is an error and not a signal. A segment that the daemon takes back while it
//! is being read is left out.
//!
//! [`LogReader::read`] takes what is there now and can be called again for what came since. A segment that a later one
//! has followed is scanned whole, with its damage; the last one is followed from commit record to commit record.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use spool_format::layout::{PAGE, PAGE_OFFSET, record_flag};
use spool_format::scan::{self, Item};
use spool_format::{
    CommitRecord, Frame, FrameError, HeaderError, LogKind, SegmentHeader, VoidRecord, frame, kind,
};

/// Reads one log from a position on.
pub(super) struct LogReader {
    dir: PathBuf,
    kind: LogKind,
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
}

/// A file whose header verifies.
#[derive(Clone, Debug)]
pub(super) struct SegmentFile {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
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

/// What a visitor says after each record.
pub(super) type Flow = ControlFlow<()>;
type Visit<'v> = &'v mut dyn FnMut(u64, &Frame<'_>) -> Flow;

/// `mail` or `event`: the name of the log's directory and in listings.
pub(super) fn name(kind: LogKind) -> &'static str {
    match kind {
        LogKind::Mail => "mail",
        LogKind::Event => "event",
    }
}

impl LogReader {
    /// Begins at position `from`; 0 is the first record that is still there.
    pub(super) fn open(data_dir: &Path, kind: LogKind, from: u64) -> anyhow::Result<Self> {
        let spool = data_dir.join("spool");
        if let Err(error) = std::fs::read_dir(&spool)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            bail!(
                "{} cannot be read: {error}; run this as the daemon's user or as a member of its group",
                spool.display()
            );
        }
        if !spool.is_dir() {
            bail!(
                "{} holds no spool (there is no {}); name the daemon's data directory with --data-dir or its configuration with --config",
                data_dir.display(),
                spool.display()
            );
        }
        let mut reader = Self {
            dir: spool.join(name(kind)),
            kind,
            from,
            segments: Vec::new(),
            first: 0,
            number: 0,
            offset: PAGE_OFFSET,
            searched: None,
            voids: Vec::new(),
            damages: Vec::new(),
            progress: None,
        };
        reader.refresh()?;
        let first = reader
            .segments
            .iter()
            .find(|s| s.header.next_position() > from);
        reader.first = first.map_or(0, |s| s.header.number);
        reader.number = reader.first;
        Ok(reader)
    }

    /// Calls `progress(done, of)` after each segment.
    pub(super) fn with_progress(mut self, progress: impl FnMut(usize, usize) + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    pub(super) fn segments(&self) -> &[SegmentFile] {
        &self.segments
    }

    /// Position behind the last record that was read.
    pub(super) fn end(&self) -> u64 {
        let here = self
            .segments
            .iter()
            .find(|s| s.header.number >= self.number);
        match here.or(self.segments.last()) {
            Some(s) if s.header.number == self.number => s.header.first_position + self.offset,
            Some(s) => s.header.first_position,
            None => 0,
        }
    }

    /// What could not be used of all that was read, without what recovery has declared void.
    pub(super) fn damages(&self) -> Vec<Damage> {
        let void = |damage: &&Damage| {
            let segment = self
                .segments
                .iter()
                .find(|s| s.header.number == damage.segment);
            segment.is_some_and(|s| {
                let from = s.header.first_position + damage.offset;
                self.covers(from, from + damage.len)
            })
        };
        let mut damages: Vec<Damage> = self.damages.iter().filter(|d| !void(d)).cloned().collect();
        damages.extend(self.missing());
        damages.sort_by_key(|d| (d.segment, d.offset));
        damages
    }

    /// Visits every acknowledged record that is there and was not visited yet, commit records and padding left out.
    pub(super) fn read(&mut self, visit: Visit<'_>) -> anyhow::Result<Flow> {
        loop {
            self.refresh()?;
            let Some(index) = self
                .segments
                .iter()
                .position(|s| s.header.number >= self.number)
            else {
                return Ok(Flow::Continue(()));
            };
            let segment = self.segments[index].clone();
            if segment.header.number > self.number {
                self.enter(segment.header.number);
            }
            let followed = self.segments[index + 1..].iter().any(has_batch);
            let flow = if followed {
                self.read_followed(&segment, visit)?
            } else {
                self.read_last(&segment, visit)?
            };
            if flow.is_break() {
                return Ok(flow);
            }
            if let Some(progress) = &mut self.progress {
                progress(index + 1, self.segments.len());
            }
            if segment.header.number == self.number {
                return Ok(Flow::Continue(()));
            }
        }
    }

    fn enter(&mut self, number: u64) {
        self.number = number;
        self.offset = PAGE_OFFSET;
        self.searched = None;
    }

    /// The rest of a segment that is complete: a later one is in use.
    fn read_followed(&mut self, segment: &SegmentFile, visit: Visit<'_>) -> anyhow::Result<Flow> {
        let end = self.end_of(&segment.header);
        let is_damaged =
            |bytes: &[u8]| scan::sealed(bytes, &segment.header, end).any(|item| is_damage(&item));
        let Some(bytes) = read_settled(segment, is_damaged)? else {
            self.enter(segment.header.number + 1);
            return Ok(Flow::Continue(()));
        };
        if self
            .visit_all(segment, scan::sealed(&bytes, &segment.header, end), visit)
            .is_break()
        {
            return Ok(Flow::Break(()));
        }
        self.enter(segment.header.number + 1);
        Ok(Flow::Continue(()))
    }

    /// What has been committed so far in the last segment.
    fn read_last(&mut self, segment: &SegmentFile, visit: Visit<'_>) -> anyhow::Result<Flow> {
        let Ok(file) = File::open(&segment.path) else {
            // Taken back since it was listed.
            return Ok(Flow::Continue(()));
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
                    return Ok(Flow::Break(()));
                }
            }
            self.offset = batch.end;
            if batch.seals || batch.end >= segment.header.size {
                self.enter(segment.header.number + 1);
                return Ok(Flow::Continue(()));
            }
        }
        if self.searched == Some(self.offset) {
            return Ok(Flow::Continue(()));
        }
        self.read_behind_damage(segment, visit)
    }

    /// Nothing verifies at the offset: mostly because nothing was written yet, else because of damage before batches that
    /// verify.
    fn read_behind_damage(
        &mut self,
        segment: &SegmentFile,
        visit: Visit<'_>,
    ) -> anyhow::Result<Flow> {
        let is_damaged = |bytes: &[u8]| {
            scan::tail(bytes, &segment.header)
                .items()
                .any(|item| is_damage(&item))
        };
        let Some(bytes) = read_settled(segment, is_damaged)? else {
            return Ok(Flow::Continue(()));
        };
        let tail = scan::tail(&bytes, &segment.header);
        self.searched = Some(self.offset);
        if self.visit_all(segment, tail.items(), visit).is_break() {
            return Ok(Flow::Break(()));
        }
        if tail.durable_end > self.offset {
            self.offset = tail.durable_end;
            self.searched = Some(self.offset);
        }
        Ok(Flow::Continue(()))
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
        let damage = Damage {
            segment: segment.header.number,
            offset: damage.offset,
            len: damage.len,
            reason: damage.reason.as_str().into(),
            acknowledged: damage.acknowledged,
        };
        if self.damages.len() < DAMAGES_MAX && !self.damages.contains(&damage) {
            self.damages.push(damage);
        }
    }

    /// Offset up to which a followed segment was acknowledged: its size, or where recovery cut the log.
    fn end_of(&self, header: &SegmentHeader) -> u64 {
        let next = header.next_position();
        let later = self
            .segments
            .iter()
            .map(|s| &s.header)
            .filter(|h| h.number > header.number);
        let cut = later
            .filter(|h| h.previous_end < next && h.first_position >= next)
            .map(|h| h.previous_end)
            .min();
        cut.map_or(header.size, |end| {
            end.saturating_sub(header.first_position).max(PAGE_OFFSET)
        })
    }

    /// Whether what headers and void records say together covers the range: one gap may have several reasons, such as
    /// segments that died and, behind them, spares that a crash left unused.
    fn covers(&self, from: u64, to: u64) -> bool {
        let headers = self
            .segments
            .iter()
            .map(|s| (s.header.previous_end, s.header.first_position));
        let mut ranges: Vec<(u64, u64)> = headers.chain(self.voids.iter().copied()).collect();
        ranges.sort_unstable();
        let mut covered = from;
        for (start, end) in ranges {
            if start > covered {
                break;
            }
            covered = covered.max(end);
        }
        covered >= to
    }

    /// Numbers that are not there although their neighbours are, and that no void record says to be gone on purpose. The
    /// newest copy of such a record lies behind the gap, so only gaps in what was read are judged.
    fn missing(&self) -> Vec<Damage> {
        let gap = |pair: &[SegmentFile]| {
            let (before, after) = (&pair[0].header, &pair[1].header);
            let known = |d: &Damage| (before.number + 1..after.number).contains(&d.segment);
            let explained = after.number == before.number + 1
                || before.number < self.first
                || after.number > self.number
                || self.covers(before.next_position(), after.first_position)
                || self.damages.iter().any(known);
            (!explained).then(|| Damage {
                segment: before.number + 1,
                offset: 0,
                len: after.first_position - before.next_position(),
                reason: "missing segment".into(),
                acknowledged: true,
            })
        };
        self.segments.windows(2).filter_map(gap).collect()
    }

    /// Looks which segments there are.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let mut numbers = Vec::new();
        let entries = std::fs::read_dir(&self.dir)
            .with_context(|| format!("{} cannot be listed", self.dir.display()))?;
        for entry in entries {
            let name = entry
                .with_context(|| format!("{} cannot be listed", self.dir.display()))?
                .file_name();
            numbers.extend(name.to_str().and_then(number_of));
        }
        numbers.sort_unstable();
        let mut segments = Vec::with_capacity(numbers.len());
        for number in numbers {
            let known = self.segments.iter().find(|s| s.header.number == number);
            match known
                .cloned()
                .map(Ok)
                .or_else(|| self.inspect(number).transpose())
            {
                Some(segment) => segments.push(segment?),
                None => continue,
            }
        }
        self.segments = segments;
        Ok(())
    }

    /// `None`: gone, or no segment; the latter is noted as damage.
    fn inspect(&mut self, number: u64) -> anyhow::Result<Option<SegmentFile>> {
        let path = self.dir.join(format!("{number:016x}.{SUFFIX}"));
        let mut page = vec![0; PAGE];
        let read = File::open(&path).and_then(|file| {
            let len = file.metadata()?.len();
            read_at_most(&file, &mut page, 0).map(|count| (count, len))
        });
        let (count, len) = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let reason = match SegmentHeader::decode(&page[..count]) {
            Ok(header) if header.kind == self.kind && header.number == number => {
                return Ok(Some(SegmentFile { header, path }));
            }
            Err(HeaderError::Newer(version)) => {
                bail!(
                    "{} has format version {version}, which this posthaste does not know; use the one that runs the daemon",
                    path.display()
                )
            }
            Ok(_) => "misplaced segment",
            Err(_) => "header",
        };
        let damage = Damage {
            segment: number,
            offset: 0,
            len,
            reason: reason.into(),
            acknowledged: true,
        };
        if !self.damages.contains(&damage) {
            self.damages.push(damage);
        }
        Ok(None)
    }
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
    let read = read_at_most(file, &mut bytes[have..], offset + have as u64).unwrap_or(0);
    bytes.truncate(have + read);
    read > 0
}

fn has_batch(segment: &SegmentFile) -> bool {
    File::open(&segment.path)
        .is_ok_and(|file| read_batch(&file, &segment.header, PAGE_OFFSET).is_some())
}

fn is_damage(item: &Item<'_>) -> bool {
    matches!(item, Item::Damage(_))
}

/// The segment's bytes. A daemon that writes on, or gives the file another life, while we read makes sound bytes look
/// damaged: what looks so is read again until it stays the same.
fn read_settled(
    segment: &SegmentFile,
    is_damaged: impl Fn(&[u8]) -> bool,
) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(mut bytes) = read_whole(segment)? else {
        return Ok(None);
    };
    for _ in 0..READS_MAX {
        if !is_damaged(&bytes) {
            break;
        }
        let Some(again) = read_whole(segment)? else {
            return Ok(None);
        };
        if again == bytes {
            break;
        }
        bytes = again;
    }
    Ok(Some(bytes))
}

/// The file's bytes, or `None` when it was taken back meanwhile.
fn read_whole(segment: &SegmentFile) -> anyhow::Result<Option<Vec<u8>>> {
    let file = match File::open(&segment.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("{} cannot be opened", segment.path.display()))?,
    };
    let mut bytes = vec![0; segment.header.size as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        let chunk = bytes.len().min(filled + READ_CHUNK);
        match read_at_most(&file, &mut bytes[filled..chunk], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            // An unreadable part stays zero and shows as damage.
            Err(_) => filled = chunk,
        }
    }
    // The file may have been recycled under our descriptor: its header then tells of another life.
    let mut page = vec![0; PAGE];
    let count = read_at_most(&file, &mut page, 0).unwrap_or(0);
    let same = SegmentHeader::decode(&page[..count]).is_ok_and(|header| header == segment.header);
    Ok(same.then_some(bytes))
}

fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The number in a segment's file name.
fn number_of(name: &str) -> Option<u64> {
    let (stem, suffix) = name.split_once('.')?;
    let is_number = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    (suffix == SUFFIX && is_number)
        .then(|| u64::from_str_radix(stem, 16).ok())
        .flatten()
}

const SUFFIX: &str = "seg";
const READ_FIRST: usize = 16 * 1024;
const READ_CHUNK: usize = 1 << 20;
const DAMAGES_MAX: usize = 10_000;
/// Times that a segment with damage is read again while it changes.
const READS_MAX: usize = 10;

#[cfg(test)]
mod tests;
