//! Erasing records in place, for privacy (FORMAT.md §5.6, §12).
//!
//! Promises: a record that was named is erased or as it was, whatever fails, and never damage: a journal that is durable
//! before the first byte changes lets the next start finish what was begun. Doing it twice changes nothing. The logs'
//! checks still hold, positions stay, and no reader in this process sees a record half erased or one that changes under it.
//! Does not know: whom a record names, and whether anybody still needs it. The caller erases only what has ended.
//!
//! How: records are taken segment by segment. The segment is brought to rest ([`Segment::still`]): maps of it are given up,
//! since what is behind a map must not change. Then journal, overwriting, one sync, and the journal goes. Readers of
//! other processes read the file; what does not verify they read again, and in a directory left by a crash they take
//! the journal's word.
//!
//! A segment that is being written is no exception: what is erased lies below the durable watermark, the committer writes
//! above it, and neither writes the other's bytes. Not by writing the segment anew beside the old one: the old bytes would
//! stay on the disk, and the tail could not be replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spool_format::frame;
use spool_format::layout::{PAGE, kind};
use spool_format::{LogKind, RedoEntry, SegmentHeader, redo};

use super::disk::{self, Access, Disk};
use super::log::Log;
use super::segment::{Segment, Still};
use super::{OpenError, Spool};
use crate::clock::UnixMs;
use crate::limits;
use crate::metrics;

/// What became of records that were to be erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    pub erased: u64,
    /// Erased before.
    pub already: u64,
    /// Not there any more.
    pub gone: u64,
    /// Damaged, too short, or of a kind that is not erased: left as they are.
    pub unerasable: u64,
    /// In segments of which somebody keeps a record for longer than `limits::ERASE_PATIENCE`: to be tried again.
    pub busy: u64,
}

impl Erased {
    pub fn add(&mut self, other: Self) {
        self.erased += other.erased;
        self.already += other.already;
        self.gone += other.gone;
        self.unerasable += other.unerasable;
        self.busy += other.busy;
    }
}

/// Writing failed. What was begun is finished by the next start; the rest is as it was.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct EraseError {
    pub path: PathBuf,
    pub error: io::Error,
}

fn on(path: &Path) -> impl FnOnce(io::Error) -> EraseError {
    let path = path.to_path_buf();
    move |error| EraseError { path, error }
}

impl Spool {
    /// Overwrites the records at `positions`. Blocks: for the disk, and for readers of the segments concerned.
    /// # Durability
    /// `Ok`: what is counted as erased is erased on stable storage.
    pub fn erase(&self, log: LogKind, positions: &[u64]) -> Result<Erased, EraseError> {
        let log = match log {
            LogKind::Mail => &self.mail,
            LogKind::Event => &self.events,
        };
        let _one_at_a_time = super::sync::lock(&self.erasing);
        let mut positions = positions.to_vec();
        positions.sort_unstable();
        positions.dedup();
        let mut sum = Erased::default();
        // Until the end: what is archived meanwhile would not have been erased.
        let shelf = &log.shared.shelf;
        let mut changing = shelf.change();
        let mut gone = Vec::new();
        let mut rest = &positions[..];
        while let Some(&first) = rest.first() {
            let Ok(segment) = log.shared.segment(first) else {
                gone.push(first);
                rest = &rest[1..];
                continue;
            };
            let count = rest.partition_point(|position| segment.contains(*position));
            let (here, behind) = rest.split_at(count);
            sum.add(self.erase_in(log, &segment, here)?);
            rest = behind;
        }
        let now = log.shared.clock.unix_ms();
        let archived = shelf.erase(&mut changing, &positions, now);
        let archived = archived.map_err(on(&log.shared.dir))?;
        for position in gone {
            match archived.get(&position) {
                Some(true) => sum.erased += 1,
                Some(false) => sum.already += 1,
                None => sum.gone += 1,
            }
        }
        metrics::SPOOL_ERASED.add_to(log.shared.name(), sum.erased);
        Ok(sum)
    }

    /// `segment` is kept: its file is not recycled as long as we have it.
    fn erase_in(
        &self,
        log: &Log,
        segment: &Arc<Segment>,
        positions: &[u64],
    ) -> Result<Erased, EraseError> {
        let disk = log.shared.disk.as_ref();
        let mut sum = Erased::default();
        let still = segment.still(disk, limits::ERASE_PATIENCE);
        let Some(still) = still.map_err(on(&segment.path))? else {
            sum.busy += positions.len() as u64;
            return Ok(sum);
        };
        let journals = Journals::of(disk, &self.data_dir);
        for positions in positions.chunks(limits::ERASE_AT_ONCE) {
            let entries = entries(&still, positions, &mut sum);
            if entries.is_empty() {
                continue;
            }
            let journal = journals.write(&entries, log.shared.clock.unix_ms())?;
            overwrite(&still, &entries).map_err(on(&segment.path))?;
            sum.erased += entries.len() as u64;
            journals.remove(&journal);
        }
        Ok(sum)
    }
}

/// What is to be done, and in `sum` what is not.
fn entries(still: &Still, positions: &[u64], sum: &mut Erased) -> Vec<RedoEntry> {
    let header = &still.segment().header;
    let mut entries = Vec::with_capacity(positions.len());
    for position in positions {
        let offset = position - header.first_position;
        let bytes = still.read(offset).unwrap_or_default();
        match frame::read_record(&bytes, offset, header.seed()) {
            Ok(frame) if frame.kind == kind::ERASED => sum.already += 1,
            Ok(frame) => match RedoEntry::of(header, &frame) {
                Some(entry) => entries.push(entry),
                None => sum.unerasable += 1,
            },
            Err(_) => sum.unerasable += 1,
        }
    }
    entries
}

fn overwrite(still: &Still, entries: &[RedoEntry]) -> io::Result<()> {
    for entry in entries {
        still.write(&entry.record(&still.segment().header), entry.offset)?;
    }
    still.sync()
}

/// `spool/erase` of a data directory.
struct Journals<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    spool: PathBuf,
}

impl<'a> Journals<'a> {
    fn of(disk: &'a dyn Disk, data_dir: &Path) -> Self {
        let spool = data_dir.join("spool");
        let dir = spool.join("erase");
        Self { disk, dir, spool }
    }

    /// A durable journal.
    fn write(&self, entries: &[RedoEntry], now: UnixMs) -> Result<PathBuf, EraseError> {
        self.disk.create_dir(&self.dir).map_err(on(&self.dir))?;
        let names = self.disk.list(&self.dir).map_err(on(&self.dir))?;
        let numbers = names
            .iter()
            .filter_map(|name| number_of(name, SUFFIX).or_else(|| number_of(name, TEMPORARY)));
        let last = numbers.max();
        let number = last.unwrap_or_default() + 1;
        let path = self.dir.join(format!("{number:016x}.{SUFFIX}"));
        let temporary = path.with_extension(TEMPORARY);
        let bytes = redo::encode(entries, now);
        let written = self.disk.create(&temporary).and_then(|file| {
            disk::write_all_at(file.as_ref(), &bytes, 0)?;
            file.sync()
        });
        let written = written.and_then(|()| self.disk.rename(&temporary, &path));
        if let Err(error) = written {
            // It means nothing; the next start removes it if this does not.
            let _ = self.disk.unlink(&temporary);
            return Err(on(&temporary)(error));
        }
        self.disk.sync_dir(&self.dir).map_err(on(&self.dir))?;
        Ok(path)
    }

    /// All that it names is durable. Its return after a power cut would do no harm.
    fn remove(&self, journal: &Path) {
        if let Err(error) = self.disk.unlink(journal) {
            tracing::warn!(path = %journal.display(), %error, "a journal that is done stays behind");
        }
    }

    /// Finishes what an earlier process has begun.
    fn redo(&self) -> Result<(), EraseError> {
        let mut names = match self.disk.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names.map_err(on(&self.dir))?,
        };
        names.sort_unstable();
        for name in &names {
            let path = self.dir.join(name);
            if number_of(name, SUFFIX).is_some() {
                self.redo_one(&path)?;
            } else if name.ends_with(TEMPORARY) {
                self.disk.unlink(&path).map_err(on(&path))?;
            }
        }
        Ok(())
    }

    fn redo_one(&self, path: &Path) -> Result<(), EraseError> {
        let bytes = self.read(path).map_err(on(path))?;
        let entries = match redo::decode(&bytes) {
            Ok(entries) => entries,
            Err(error) => {
                // It was whole when it got its name. What it was about may be half done: recovery reports such records.
                tracing::error!(path = %path.display(), %error, "a damaged journal of an erasure is left as it is; erase again, then remove it");
                return Ok(());
            }
        };
        let mut done = 0;
        for same in entries.chunk_by(|a, b| (a.log as u8, a.segment) == (b.log as u8, b.segment)) {
            done += self.redo_in(same)?;
        }
        tracing::info!(records = done, "an erasure that was cut short is finished");
        self.remove(path);
        Ok(())
    }

    /// How many records of one segment were erased: none if its file is gone or has another life.
    fn redo_in(&self, entries: &[RedoEntry]) -> Result<usize, EraseError> {
        let Some(first) = entries.first() else {
            return Ok(0);
        };
        let log = match first.log {
            LogKind::Mail => "mail",
            LogKind::Event => "event",
        };
        let path = super::roll::segment_path(&self.spool.join(log), first.segment);
        let file = match self.disk.open(&path, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            file => file.map_err(on(&path))?,
        };
        let mut page = vec![0; PAGE];
        let count = disk::read_at_most(file.as_ref(), &mut page, 0).map_err(on(&path))?;
        let Ok(header) = SegmentHeader::decode(&page[..count]) else {
            return Ok(0);
        };
        let here = entries.iter().filter(|entry| entry.is_in(&header));
        let mut done = 0;
        for entry in here {
            let record = entry.record(&header);
            disk::write_all_at(file.as_ref(), &record, entry.offset).map_err(on(&path))?;
            done += 1;
        }
        if done > 0 {
            file.sync().map_err(on(&path))?;
        }
        Ok(done)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path, Access::Read)?;
        let mut bytes = vec![0; file.len()? as usize];
        let count = disk::read_at_most(file.as_ref(), &mut bytes, 0)?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

/// Before anything is read: finishes erasures that a crash cut short.
pub(crate) fn redo(disk: &dyn Disk, data_dir: &Path) -> Result<(), OpenError> {
    let done = Journals::of(disk, data_dir).redo();
    done.map_err(|EraseError { path, error }| OpenError::Io { path, error })
}

fn number_of(name: &str, suffix: &str) -> Option<u64> {
    let stem = name.strip_suffix(suffix)?.strip_suffix('.')?;
    let is_number = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(stem, 16).ok().filter(|_| is_number)
}

const SUFFIX: &str = "redo";
const TEMPORARY: &str = "tmp";
