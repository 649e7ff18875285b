//! Which segments of a log there are, and their bytes: segments in use and archives alike.
//!
//! Promises: files are opened for reading and read, never locked, mapped or written; a file that the daemon takes back, or
//! gives another life, while it is being read is *gone*, never wrong bytes; of a segment that is there twice, in use and
//! archived, only one is listed. Does not know: what records mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::bail;
use spool_format::archive::{self, Archive, ArchiveError, Footer, Tables};
use spool_format::layout::{
    ARCHIVE_FRAME, PAGE, PAGE_OFFSET, archive_footer, archive_header, record_flag,
};
use spool_format::{
    EventRecord, HeaderError, LogKind, MessageRecord, SegmentHeader, frame, kind, redo, scan,
};

use super::{Damage, name};

/// One log's directory.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Files {
    dir: PathBuf,
    kind: LogKind,
    archives: bool,
}

/// A segment whose header verifies.
#[derive(Clone, Debug)]
pub(in crate::cli) struct SegmentFile {
    pub(in crate::cli) header: SegmentHeader,
    pub(in crate::cli) path: PathBuf,
    /// Of an archive: what its end says.
    pub(in crate::cli) archive: Option<Footer>,
    /// Of the file.
    pub(in crate::cli) len: u64,
    /// When the file had last changed when a search of all of it found no batch. Shared by copies.
    unused_at: Arc<Mutex<Option<SystemTime>>>,
}

/// What a directory held.
pub(in crate::cli) struct Listed {
    /// In order of number.
    pub(in crate::cli) segments: Vec<SegmentFile>,
    /// Files that do not say what they are.
    pub(in crate::cli) damages: Vec<Damage>,
}

impl Files {
    /// `archives`: also the segments that are only kept as archives.
    pub(in crate::cli) fn open(
        data_dir: &Path,
        kind: LogKind,
        archives: bool,
    ) -> anyhow::Result<Self> {
        let spool = data_dir.join("spool");
        if let Err(error) = std::fs::read_dir(&spool)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(refused(error, &spool, "read"));
        }
        if !spool.is_dir() {
            bail!(
                "{} holds no spool (there is no {}); name the daemon's data directory with --data-dir or its configuration with --config",
                data_dir.display(),
                spool.display()
            );
        }
        Ok(Self {
            dir: spool.join(name(kind)),
            kind,
            archives,
        })
    }

    pub(in crate::cli) fn kind(&self) -> LogKind {
        self.kind
    }

    pub(in crate::cli) fn look(&self) -> anyhow::Result<Listed> {
        self.list(&[])
    }

    /// What is there now, without what does not say what it is.
    pub(in crate::cli) fn segments(&self) -> anyhow::Result<Vec<SegmentFile>> {
        Ok(self.list(&[])?.segments)
    }

    /// What is there now. Headers of `known` segments are not read again: a number is never used twice.
    pub(super) fn list(&self, known: &[SegmentFile]) -> anyhow::Result<Listed> {
        let mut names = BTreeMap::<u64, (Option<PathBuf>, Option<PathBuf>)>::new();
        let entries =
            std::fs::read_dir(&self.dir).map_err(|error| refused(error, &self.dir, "list"))?;
        for entry in entries {
            let entry = entry.map_err(|error| refused(error, &self.dir, "list"))?;
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else {
                continue;
            };
            if let Some(number) = number_of(file_name) {
                names.entry(number).or_default().0 = Some(entry.path());
            } else if self.archives
                && let Some((number, _)) = archive::parse_file_name(file_name)
            {
                names.entry(number).or_default().1 = Some(entry.path());
            }
        }
        let mut listed = Listed {
            segments: Vec::with_capacity(names.len()),
            damages: Vec::new(),
        };
        for (number, (segment, archive)) in names {
            let mut reason = None;
            for (path, is_archive) in [(segment, false), (archive, true)] {
                let Some(path) = path else { continue };
                let same = |s: &&SegmentFile| s.header.number == number && s.path == path;
                if let Some(segment) = known.iter().find(same) {
                    listed.segments.push(segment.clone());
                    reason = None;
                    break;
                }
                let inspected = match is_archive {
                    true => self.inspect_archive(number, &path)?,
                    false => self.inspect(number, &path)?,
                };
                match inspected {
                    Inspected::Gone => {}
                    Inspected::Refused(why, len) => reason = Some((why, len)),
                    Inspected::Segment(segment) => {
                        listed.segments.push(*segment);
                        reason = None;
                        break;
                    }
                }
            }
            if let Some((reason, len)) = reason {
                listed.damages.push(Damage {
                    segment: number,
                    offset: 0,
                    len,
                    reason,
                    acknowledged: true,
                });
            }
        }
        Ok(listed)
    }

    fn inspect(&self, number: u64, path: &Path) -> anyhow::Result<Inspected> {
        let mut refusal = None;
        // A file that gets another life under our hands has half a header for a moment, and then another name.
        for _ in 0..READS_MAX {
            let mut page = vec![0; PAGE];
            let read = File::open(path).and_then(|file| {
                let len = file.metadata()?.len();
                read_at_most(&file, &mut page, 0).map(|count| (count, len))
            });
            let (count, len) = match read {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Inspected::Gone);
                }
                read => read.map_err(|error| refused(error, path, "read"))?,
            };
            let reason = match SegmentHeader::decode(&page[..count]) {
                Ok(header) if header.kind == self.kind && header.number == number => {
                    return Ok(Inspected::Segment(Box::new(SegmentFile {
                        header,
                        path: path.into(),
                        archive: None,
                        len,
                        unused_at: Arc::default(),
                    })));
                }
                Err(HeaderError::Newer(version)) => return Err(newer(path, version)),
                Ok(_) => "misplaced segment",
                Err(_) => "header",
            };
            if refusal == Some(page) {
                return Ok(Inspected::Refused(reason.into(), len));
            }
            refusal = Some(page_again(path)?);
        }
        Ok(Inspected::Gone)
    }

    fn inspect_archive(&self, number: u64, path: &Path) -> anyhow::Result<Inspected> {
        let read = File::open(path).and_then(|file| {
            let len = file.metadata()?.len();
            let mut head = vec![0; archive_header::FRAMES];
            let count = read_at_most(&file, &mut head, 0)?;
            head.truncate(count);
            let mut tail = vec![0; archive_footer::LEN];
            let at = len.saturating_sub(tail.len() as u64);
            let count = read_at_most(&file, &mut tail, at)?;
            tail.truncate(count);
            Ok((head, tail, len))
        });
        let (head, tail, len) = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inspected::Gone),
            read => read.map_err(|error| refused(error, path, "read"))?,
        };
        let header = archive::segment_header(&head).or_else(|error| match error {
            ArchiveError::Newer(_) => Err(error),
            // The archive has a second copy, in its first frame.
            _ => {
                let bytes = std::fs::read(path).map_err(|_| error)?;
                Archive::parse(&bytes).map(|archive| archive.header)
            }
        });
        let found = header.and_then(|header| Ok((header, Footer::decode(&tail, len)?)));
        Ok(match found {
            Ok((header, footer)) if header.kind == self.kind && header.number == number => {
                Inspected::Segment(Box::new(SegmentFile {
                    header,
                    path: path.into(),
                    archive: Some(footer),
                    len,
                    unused_at: Arc::default(),
                }))
            }
            Ok(_) => Inspected::Refused("misplaced archive".into(), len),
            Err(ArchiveError::Newer(version)) => return Err(newer(path, version)),
            Err(error) => Inspected::Refused(error.to_string(), len),
        })
    }
}

enum Inspected {
    Segment(Box<SegmentFile>),
    /// Why, and the file's length.
    Refused(String, u64),
    Gone,
}

impl SegmentFile {
    /// Whether a batch was written to it: a prepared segment has none.
    pub(in crate::cli) fn has_batch(&self) -> bool {
        self.archive.is_some() || File::open(&self.path).is_ok_and(|file| self.has_batch_in(&file))
    }

    fn has_batch_in(&self, file: &File) -> bool {
        if super::read_batch(file, &self.header, PAGE_OFFSET).is_some() {
            return true;
        }
        // The first batch may be damaged and others behind it not: all of the file is searched, once after each change.
        let changed = file.metadata().and_then(|m| m.modified()).ok();
        let mut unused_at = self
            .unused_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if changed.is_some() && *unused_at == changed {
            return false;
        }
        let bytes = read_all(file, self.header.size as usize, &|_| {});
        let used = scan::tail(&bytes, &self.header).durable_end > PAGE_OFFSET;
        if !used {
            *unused_at = changed;
        }
        used
    }

    /// The segment's bytes, or `None` when it is gone. `pace` is called with each number of bytes before they are read.
    pub(super) fn read(&self, pace: &dyn Fn(u64)) -> anyhow::Result<Option<Vec<u8>>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| refused(error, &self.path, "open"))?,
        };
        let Some(footer) = &self.archive else {
            let mut bytes = read_all(&file, self.header.size as usize, pace);
            let is_still = self.is_still(&file);
            self.finish_erasures(&mut bytes);
            return Ok(is_still.then_some(bytes));
        };
        let bytes = read_all(&file, self.len as usize, pace);
        // What cannot be decompressed reads as zeros, which do not verify.
        Ok(Some(match Archive::parse(&bytes) {
            Ok(archive) => archive.segment().0,
            Err(_) => vec![0; footer.raw_len as usize],
        }))
    }

    /// Does in `bytes` what a node's start would do in the file: a power cut may have left records half erased (FORMAT.md §12).
    fn finish_erasures(&self, bytes: &mut [u8]) {
        let spool = self.path.parent().and_then(Path::parent);
        let Some(journals) = spool.and_then(|spool| std::fs::read_dir(spool.join("erase")).ok())
        else {
            return;
        };
        let paths = journals.flatten().map(|entry| entry.path());
        for path in paths.filter(|path| path.extension().is_some_and(|e| e == "redo")) {
            // One that is gone since is done; one that is damaged the node reports at its start.
            let entries = std::fs::read(&path).map(|journal| redo::decode(&journal));
            for entry in entries.into_iter().flatten().flatten() {
                if entry.is_in(&self.header) {
                    entry.apply(&self.header, bytes);
                }
            }
        }
    }

    /// Of an archive: the parts of the segment that cannot be decompressed. What else does not verify in it was like that when
    /// it was archived.
    pub(in crate::cli) fn broken(&self) -> Vec<std::ops::Range<u64>> {
        let Some(footer) = &self.archive else {
            return Vec::new();
        };
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        match Archive::parse(&bytes) {
            Ok(archive) => archive.segment().1,
            Err(_) => std::iter::once(0..footer.raw_len).collect(),
        }
    }

    /// The record at `offset` with its header, checked. `None`: there is none, or the file is gone.
    pub(super) fn record(&self, offset: u64) -> Option<Vec<u8>> {
        let file = File::open(&self.path).ok()?;
        let read = |len: usize| {
            let mut bytes = vec![0; len];
            let count = match &self.archive {
                None => read_at_most(&file, &mut bytes, offset).ok()?,
                Some(footer) => read_archived(&file, footer, offset, &mut bytes)?,
            };
            bytes.truncate(count);
            Some(bytes)
        };
        let mut bytes = read(RECORD_FIRST)?;
        let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        let padded = frame::padded_len(len);
        if padded > bytes.len() && (padded as u64) < self.header.size {
            bytes = read(padded)?;
        }
        frame::read_record(&bytes, offset, self.header.seed()).ok()?;
        bytes.truncate(padded);
        Some(bytes)
    }

    /// Whether `file` still holds what was listed: it may have been recycled under our descriptor.
    fn is_still(&self, file: &File) -> bool {
        let mut page = vec![0; PAGE];
        let count = read_at_most(file, &mut page, 0).unwrap_or(0);
        SegmentHeader::decode(&page[..count]).is_ok_and(|header| header == self.header)
    }

    /// When its first record was written, as far as its first records tell.
    pub(in crate::cli) fn began_at(&self) -> u64 {
        if let Some(footer) = &self.archive
            && footer.oldest_unix_ms > 0
        {
            // Copies that compaction made are older than their segment.
            return footer.oldest_unix_ms.max(self.header.created_unix_ms);
        }
        self.first_time().unwrap_or(self.header.created_unix_ms)
    }

    fn first_time(&self) -> Option<u64> {
        let file = File::open(&self.path).ok()?;
        let mut bytes = vec![0; TIME_WITHIN];
        let count = read_at_most(&file, &mut bytes, PAGE_OFFSET).ok()?;
        let mut at = 0;
        while let Ok(frame) = frame::read_record(
            &bytes[at..count],
            PAGE_OFFSET + at as u64,
            self.header.seed(),
        ) {
            let is_copy = frame.flags & record_flag::MOVED != 0;
            let time = match frame.kind {
                kind::MESSAGE if !is_copy => MessageRecord::decode(frame.payload)
                    .ok()
                    .map(|r| r.accepted_unix_ms),
                kind::EVENT => EventRecord::decode(frame.payload)
                    .ok()
                    .map(|r| r.at_unix_ms),
                _ => None,
            };
            if time.is_some() {
                return time;
            }
            at = (frame.end() - PAGE_OFFSET) as usize;
            if at > count {
                return None;
            }
        }
        None
    }
}

/// Up to `len` bytes from the beginning, fewer of a file that was cut. An unreadable part stays zero and shows as damage.
fn read_all(file: &File, len: usize, pace: &dyn Fn(u64)) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let chunk = len.min(filled + READ_CHUNK);
        pace((chunk - filled) as u64);
        match read_at_most(file, &mut bytes[filled..chunk], filled as u64) {
            Ok(0) => {
                bytes.truncate(filled);
                break;
            }
            Ok(count) => filled += count,
            Err(_) => filled = chunk,
        }
    }
    bytes
}

/// Fills `bytes` with what the archive holds from `offset` of its segment on; only the frames needed are read.
fn read_archived(file: &File, footer: &Footer, offset: u64, bytes: &mut [u8]) -> Option<usize> {
    let mut tables = vec![0; footer.tables_len as usize];
    let count = read_at_most(file, &mut tables, footer.tables).ok()?;
    let tables = Tables::decode(&tables[..count], footer).ok()?;
    let end = footer.raw_len.min(offset + bytes.len() as u64);
    let mut filled = 0;
    for number in footer.frames_of(offset, end) {
        let entry = tables.frames.get(number as usize)?;
        let mut compressed = vec![0; entry.len as usize];
        let count = read_at_most(file, &mut compressed, entry.offset).ok()?;
        let raw = archive::decode_frame(&compressed[..count], number, entry, footer).ok()?;
        let start = u64::from(number) * ARCHIVE_FRAME as u64;
        let from = offset.saturating_sub(start).min(raw.len() as u64) as usize;
        let part = &raw[from..];
        let part = &part[..part.len().min(bytes.len() - filled)];
        bytes[filled..filled + part.len()].copy_from_slice(part);
        filled += part.len();
    }
    Some(filled)
}

fn page_again(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut page = vec![0; PAGE];
    if let Ok(file) = File::open(path) {
        read_at_most(&file, &mut page, 0).map_err(|error| refused(error, path, "read"))?;
    }
    Ok(page)
}

/// Says what to do about a file that cannot be read.
fn refused(error: io::Error, path: &Path, what: &str) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run this as the daemon's user or as a member of its group"
        }
        io::ErrorKind::NotFound => "is this the data directory of a node that has run?",
        _ => "the kernel's log says more about the disk",
    };
    let text = format!("cannot {what} {} ({hint})", path.display());
    anyhow::Error::new(error).context(text)
}

fn newer(path: &Path, version: u16) -> anyhow::Error {
    anyhow::anyhow!(
        "{} has format version {version}, which this posthaste does not know; use the one that runs the daemon",
        path.display()
    )
}

pub(super) fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
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
    let stem = name.strip_suffix(".seg")?;
    let is_number = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    is_number
        .then(|| u64::from_str_radix(stem, 16).ok())
        .flatten()
}

const READ_CHUNK: usize = 1 << 20;
/// Times that what looks damaged is read again while it changes.
pub(super) const READS_MAX: usize = 10;
/// Enough for most records.
const RECORD_FIRST: usize = 16 * 1024;
/// Of a segment, where the time of its first record is looked for.
const TIME_WITHIN: usize = 128 * 1024;
