//! Archives: what a log keeps of segments whose files were taken back (FORMAT.md §11).
//!
//! Promises: an archive is whole or not there; it is there before its segment goes; a record of it is shown only when
//! its checksum matches; reading holds a few decompressed frames and no more. An archive of the mail log is a side store:
//! recovery does not look at it, and it can go at any time. Of the event log it is part of the log.
//! Does not know: when an archive is made and when it goes. [`keeper`] decides, on a thread of its own.
//!
//! # States of a sealed segment, and what a crash there means
//!
//! | State | On disk | A crash here |
//! |---|---|---|
//! | dead, not archived | `.seg` | judged again at the next start |
//! | being archived | `.seg`, `.tmp` | the `.tmp` is removed at the next start |
//! | archived | `.seg`, `.arc` | recovery reads the segment; once it is dead again, the archive is found and stays as it is |
//! | taken back | `.arc`, gap known | a power cut may bring the name of the `.seg` back: as above |
//! | content over in part | `.arc`, `.tmp` | the old archive; it is looked at again |
//! | over | nothing | the name of the `.arc` may come back: it is removed again |
//!
//! Where a segment comes back beside its archive, the archive is what counts: records of it may have been erased since.

pub(super) mod keeper;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spool_format::archive::{self, Archive, Footer, Tables};
use spool_format::layout::{
    ARCHIVE_FRAME, PAGE_OFFSET, RECORD_HEADER, archive_footer, archive_header,
};
use spool_format::scan;
use spool_format::{FrameError, LogKind, SegmentHeader, frame};

use super::disk::{Access, Disk, DiskFile, read_at_most};
use super::segment::{ReadError, Record};
use super::sync::{Mutex, MutexGuard, lock};
use crate::clock::UnixMs;
use crate::limits;
use crate::metrics;

/// How long content is kept, counted from its acceptance. Answers may change while the node runs.
pub trait Retention: fmt::Debug + Send + Sync {
    fn of(&self, server_id: u32, stream_id: &str) -> Duration;
    /// Of content whose stream is not known: the longest of all.
    fn longest(&self) -> Duration;
    /// Another number as soon as an answer is another.
    fn version(&self) -> u64;
}

/// The archives of one log.
pub(crate) struct Shelf {
    kind: LogKind,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// By first position.
    items: Mutex<BTreeMap<u64, Entry>>,
    cache: Mutex<Cache>,
    /// Held by whoever makes or replaces archives, and by whoever changes a segment that could become one. Counts those that
    /// were made.
    changing: Mutex<u64>,
}

/// The right to make and replace archives.
pub(super) struct Changing<'a>(MutexGuard<'a, u64>);

/// An archive that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    number: u64,
    len: u64,
    /// Another one for each file of this name.
    made: u64,
    /// Of the policy with this version: when a part of it is over, and when all of it is.
    over: Option<(u64, Over)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Over {
    /// Time from which it is worth rewriting.
    partly: u64,
    wholly: u64,
}

/// An archive whose tables were read.
pub(super) struct Opened {
    pub(super) header: SegmentHeader,
    pub(super) footer: Footer,
    pub(super) tables: Tables,
    file: Arc<dyn DiskFile>,
}

impl Opened {
    /// Position behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.header.first_position + self.footer.raw_len
    }
}

/// What was read last, newest at the back. Few of each: a reader goes on where it was.
#[derive(Default)]
struct Cache {
    opened: VecDeque<Arc<Opened>>,
    frames: VecDeque<((u64, u32), Bytes)>,
}

impl Cache {
    fn forget(&mut self, first_position: u64) {
        self.opened
            .retain(|o| o.header.first_position != first_position);
        self.frames
            .retain(|((first, _), _)| *first != first_position);
    }
}

impl Shelf {
    /// Looks which archives there are, by their names alone.
    pub(super) fn open(kind: LogKind, disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        let names = disk.list(dir)?;
        let mut items = BTreeMap::new();
        for name in &names {
            let Some((number, first_position)) = archive::parse_file_name(name) else {
                continue;
            };
            let len = disk.open(&dir.join(name), Access::Read)?.len()?;
            let item = Entry {
                number,
                len,
                made: 0,
                over: None,
            };
            items.insert(first_position, item);
        }
        let shelf = Self {
            kind,
            disk,
            dir: dir.to_path_buf(),
            items: Mutex::new(items),
            cache: Mutex::default(),
            changing: Mutex::default(),
        };
        shelf.tell();
        Ok(shelf)
    }

    /// No archive is made or replaced as long as it is held.
    pub(super) fn change(&self) -> Changing<'_> {
        Changing(lock(&self.changing))
    }

    fn name(&self) -> &'static str {
        match self.kind {
            LogKind::Mail => "mail",
            LogKind::Event => "event",
        }
    }

    fn path(&self, number: u64, first_position: u64) -> PathBuf {
        let name = archive::file_name_of(number, first_position);
        self.dir.join(name)
    }

    /// Archives and their bytes.
    pub(super) fn total(&self) -> (u64, u64) {
        let items = lock(&self.items);
        (
            items.len() as u64,
            items.values().map(|item| item.len).sum(),
        )
    }

    fn tell(&self) {
        let (count, bytes) = self.total();
        metrics::SPOOL_ARCHIVES.set_of(self.name(), count as f64);
        metrics::SPOOL_ARCHIVE_BYTES.set_of(self.name(), bytes as f64);
    }

    pub(super) fn first(&self) -> Option<u64> {
        lock(&self.items).keys().next().copied()
    }

    fn has(&self, number: u64, first_position: u64) -> bool {
        let items = lock(&self.items);
        items
            .get(&first_position)
            .is_some_and(|item| item.number == number)
    }

    /// The archive of the lowest positions that reaches behind `position`, and begins before `bound`.
    pub(super) fn reaching(
        &self,
        position: u64,
        bound: u64,
    ) -> Option<Result<Arc<Opened>, ReadError>> {
        let (before, behind) = {
            let items = lock(&self.items);
            let mut before = items.range(..=position);
            let before = before.next_back().map(|(first, item)| (*first, *item));
            let behind = items.range(position.saturating_add(1)..).next();
            (before, behind.map(|(first, item)| (*first, *item)))
        };
        if let Some((first, item)) = before.filter(|(first, _)| *first < bound) {
            match self.opened(first, item) {
                Ok(opened) if opened.end() <= position => {}
                found => return Some(found),
            }
        }
        let (first, item) = behind.filter(|(first, _)| *first < bound)?;
        Some(self.opened(first, item))
    }

    /// The first position behind `position` at which an archive begins.
    pub(super) fn next_first(&self, position: u64) -> Option<u64> {
        let items = lock(&self.items);
        let mut behind = items.range(position.saturating_add(1)..);
        behind.next().map(|(first, _)| *first)
    }

    /// Where the last archive begins whose segment was made at `unix_ms` or before.
    pub(super) fn first_before(&self, unix_ms: UnixMs) -> Option<u64> {
        let items: Vec<(u64, Entry)> = {
            let items = lock(&self.items);
            items.iter().map(|(first, item)| (*first, *item)).collect()
        };
        let is_older = |(first, item): &(u64, Entry)| {
            // One that cannot be read is taken for younger: then more is read, and nothing missed.
            self.opened(*first, *item)
                .is_ok_and(|opened| opened.header.created_unix_ms <= unix_ms)
        };
        let behind = items.partition_point(is_older);
        let (first, _) = items.get(behind.checked_sub(1)?)?;
        Some(*first)
    }

    fn opened(&self, first_position: u64, item: Entry) -> Result<Arc<Opened>, ReadError> {
        {
            let mut cache = lock(&self.cache);
            let mut known = cache.opened.iter();
            if let Some(at) = known.position(|o| o.header.first_position == first_position) {
                let found = cache.opened.remove(at);
                cache.opened.extend(found.iter().cloned());
                if let Some(found) = found {
                    return Ok(found);
                }
            }
        }
        let opened = self.load(first_position, item.number);
        let opened = Arc::new(opened.map_err(|error| self.unreadable(item.number, error))?);
        let mut cache = lock(&self.cache);
        // Whoever replaced or removed it meanwhile has emptied the cache before.
        if lock(&self.items)
            .get(&first_position)
            .is_some_and(|now| now.made == item.made)
        {
            cache.opened.push_back(Arc::clone(&opened));
            if cache.opened.len() > limits::ARCHIVES_OPEN {
                cache.opened.pop_front();
            }
        }
        Ok(opened)
    }

    fn unreadable(&self, segment: u64, error: io::Error) -> ReadError {
        ReadError::Io { segment, error }
    }

    fn load(&self, first_position: u64, number: u64) -> io::Result<Opened> {
        let file = self
            .disk
            .open(&self.path(number, first_position), Access::Read)?;
        let len = file.len()?;
        let start = len.saturating_sub(archive_footer::LEN as u64);
        let tail = read_range(file.as_ref(), start, len - start)?;
        let footer = Footer::decode(&tail, len).map_err(io::Error::other)?;
        let tables = read_range(file.as_ref(), footer.tables, footer.tables_len)?;
        let tables = Tables::decode(&tables, &footer).map_err(io::Error::other)?;
        let head = read_range(file.as_ref(), 0, archive_header::FRAMES as u64)?;
        let header = archive::segment_header(&head).or_else(|error| {
            // The segment has its own, in the first frame.
            let raw = decompress(file.as_ref(), &tables, &footer, 0).ok();
            let header = raw.and_then(|raw| SegmentHeader::decode(&raw).ok());
            header.ok_or(io::Error::other(error))
        })?;
        let opened = Opened {
            header,
            footer,
            tables,
            file,
        };
        let header = &opened.header;
        let fits = (header.number, header.first_position) == (number, first_position)
            && header.kind == self.kind
            && opened.footer.raw_len <= header.size;
        match fits {
            true => Ok(opened),
            false => Err(io::Error::other("the archive is of another segment")),
        }
    }

    /// When the segment was made, as far as the beginning of the file tells.
    fn created(&self, first_position: u64, number: u64) -> Option<UnixMs> {
        let path = self.path(number, first_position);
        let file = self.disk.open(&path, Access::Read).ok()?;
        let head = read_range(file.as_ref(), 0, archive_header::FRAMES as u64).ok()?;
        Some(archive::segment_header(&head).ok()?.created_unix_ms)
    }

    fn frame(&self, opened: &Opened, number: u32) -> Result<Bytes, FrameError> {
        let key = (opened.header.first_position, number);
        {
            let mut cache = lock(&self.cache);
            if let Some(at) = cache.frames.iter().position(|(known, _)| *known == key) {
                let found = cache.frames.remove(at);
                cache.frames.extend(found.iter().cloned());
                if let Some((_, bytes)) = found {
                    return Ok(bytes);
                }
            }
        }
        // What does not decompress is a record that does not verify.
        let raw = opened
            .decompress(number)
            .map_err(|_| FrameError::Checksum)?;
        let raw = Bytes::from(raw);
        let mut cache = lock(&self.cache);
        if cache.opened.iter().any(|o| std::ptr::eq(&**o, opened)) {
            cache.frames.push_back((key, raw.clone()));
            if cache.frames.len() > limits::ARCHIVE_FRAMES_CACHED {
                cache.frames.pop_front();
            }
        }
        Ok(raw)
    }

    /// The bytes of the segment from `offset` to `end`, cut where the archive ends.
    fn bytes(&self, opened: &Opened, offset: u64, end: u64) -> Result<Vec<u8>, FrameError> {
        let end = end.min(opened.footer.raw_len);
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        for number in opened.footer.frames_of(offset, end) {
            let raw = self.frame(opened, number)?;
            let first = u64::from(number) * ARCHIVE_FRAME as u64;
            let from = offset.saturating_sub(first) as usize;
            let to = ((end - first) as usize).min(raw.len());
            bytes.extend_from_slice(&raw[from.min(to)..to]);
        }
        Ok(bytes)
    }

    /// The record at `position`.
    pub(super) fn read(&self, position: u64) -> Result<Record, ReadError> {
        let before = {
            let items = lock(&self.items);
            let mut before = items.range(..=position);
            before.next_back().map(|(first, item)| (*first, *item))
        };
        let (first, item) = before.ok_or(ReadError::NotRetained(position))?;
        let opened = self.opened(first, item)?;
        if position >= opened.end() {
            return Err(ReadError::NotRetained(position));
        }
        Ok(self.read_from(&opened, position - first)?.0)
    }

    /// The record at `offset` of the archived segment, and the offset behind it.
    pub(super) fn read_from(
        &self,
        opened: &Opened,
        offset: u64,
    ) -> Result<(Record, u64), ReadError> {
        let position = opened.header.first_position + offset;
        if offset < PAGE_OFFSET || offset >= opened.footer.raw_len {
            return Err(ReadError::NotRetained(position));
        }
        let seed = opened.header.seed();
        let read = self.record_bytes(opened, offset).and_then(|bytes| {
            match frame::read_record(&bytes, offset, seed) {
                Ok(found) => {
                    let record = Record {
                        position,
                        kind: found.kind,
                        flags: found.flags,
                        payload: Bytes::copy_from_slice(found.payload),
                    };
                    Ok((record, found.end()))
                }
                Err(error) => Err(error),
            }
        });
        read.map_err(|error| ReadError::Damaged {
            position,
            error,
            resume: opened.header.first_position + self.resume_after(opened, offset),
        })
    }

    fn record_bytes(&self, opened: &Opened, offset: u64) -> Result<Vec<u8>, FrameError> {
        let head = self.bytes(opened, offset, offset + RECORD_HEADER as u64)?;
        let word = head.first_chunk::<4>().ok_or(FrameError::Cut)?;
        let len = u64::from(u32::from_le_bytes(*word)).next_multiple_of(8);
        let end = offset.saturating_add(len);
        if len <= head.len() as u64 || end > opened.footer.raw_len {
            return Ok(head);
        }
        self.bytes(opened, offset, end)
    }

    /// Where reading can go on. Costs the whole archive: damage is rare.
    fn resume_after(&self, opened: &Opened, offset: u64) -> u64 {
        let raw = opened.raw();
        let end = opened.footer.raw_len;
        scan::sealed(&raw, &opened.header, end)
            .find_map(|item| match item {
                scan::Item::Record(frame) if frame.offset > offset => Some(frame.offset),
                _ => None,
            })
            .unwrap_or(end)
    }

    /// A file of this name is there, and durable.
    fn keep(&self, first_position: u64, item: Entry) {
        lock(&self.cache).forget(first_position);
        lock(&self.items).insert(first_position, item);
        self.tell();
    }

    /// Removes an archive. Durable with the next sync of the directory; until then it may come back, and is removed again.
    fn remove(&self, first_position: u64) -> io::Result<u64> {
        let Some(item) = lock(&self.items).get(&first_position).copied() else {
            return Ok(0);
        };
        let path = self.path(item.number, first_position);
        match self.disk.unlink(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        lock(&self.items).remove(&first_position);
        lock(&self.cache).forget(first_position);
        self.tell();
        Ok(item.len)
    }
}

impl Opened {
    fn decompress(&self, number: u32) -> io::Result<Vec<u8>> {
        decompress(self.file.as_ref(), &self.tables, &self.footer, number)
    }

    /// The segment up to its end; frames that are broken are zeroes.
    fn raw(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(self.footer.raw_len as usize);
        for number in 0..self.footer.frames {
            match self.decompress(number) {
                Ok(frame) => raw.extend_from_slice(&frame),
                Err(_) => raw.resize(raw.len() + self.footer.frame_len(number), 0),
            }
        }
        raw
    }
}

fn decompress(
    file: &dyn DiskFile,
    tables: &Tables,
    footer: &Footer,
    number: u32,
) -> io::Result<Vec<u8>> {
    let entry = tables.frames.get(number as usize);
    let entry = entry.ok_or(io::ErrorKind::InvalidData)?;
    let compressed = read_range(file, entry.offset, entry.len.into())?;
    archive::decode_frame(&compressed, number, entry, footer).map_err(io::Error::other)
}

/// The bytes of an archived segment up to its end, and its header: for whoever reads a log from its files. Frames that are
/// broken are zeroes, which do not verify.
pub fn open_segment_bytes(disk: &dyn Disk, path: &Path) -> io::Result<(SegmentHeader, Vec<u8>)> {
    let file = disk.open(path, Access::Read)?;
    let bytes = read_range(file.as_ref(), 0, file.len()?)?;
    let archive = Archive::parse(&bytes).map_err(io::Error::other)?;
    let (raw, _) = archive.segment();
    Ok((archive.header, raw))
}

fn read_range(file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    // Lengths were checked against the file's.
    let mut bytes = vec![0; len as usize];
    match read_at_most(file, &mut bytes, offset)? {
        count if count as u64 == len => Ok(bytes),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
