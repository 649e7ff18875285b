//! The segment ahead: how a file becomes a segment, and the thread that always has one ready.
//!
//! Promises: a segment is used only when its space is allocated, its header synced and its name durable; its space was
//! written before, so that a commit needs no block allocation and an `fdatasync` no journal; a full disk is met here,
//! before it can hurt, and leaves room (`reserve`) for the outcomes of mail that was accepted already.
//! Does not know: what is in the segments it recycles, beyond that nobody holds them.
//!
//! # Making a segment
//! 1. `<number>.tmp`: a reclaimed file renamed (and the directory synced, so that the old name can never show the new
//!    header), or a new one, allocated in full and written with zeroes once. Not `ftruncate`: a hole is space that may
//!    be missing later.
//! 2. Header with a fresh random salt; sync.
//! 3. Rename to `<number>.seg`; sync the directory.
//!
//! A crash in between leaves a `.tmp`, which the next start removes. One file descriptor is opened in step 1 and written
//! through until the segment is sealed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spool_format::{LogKind, SegmentHeader};

use super::disk::{Access, Disk, DiskFile, is_full, write_all_at};
use super::log::Shared;
use super::memory::Ring;
use super::reclaim::{self, Gone};
use super::reserve::Region;
use super::segment::Segment;
use super::space::Space;
use super::sync::{AtomicBool, Later, Ordering, lock};
use crate::clock::Clock;

/// A segment that is, or will be, written.
pub(crate) struct Tail {
    pub(crate) segment: Arc<Segment>,
    pub(crate) region: Region,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The one after it.
    pub(crate) next: Later<Tail>,
}

/// Where a segment is made, and from what.
pub(crate) struct Site<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) kind: LogKind,
    pub(crate) size: u64,
    pub(crate) epoch: u64,
    pub(crate) clock: Clock,
    /// Where the log's segments gather.
    pub(crate) ring: &'a Arc<Ring>,
    /// Is told how far a new file is and tells how far the segment is used that it has to be ready for, both from 0 to 1:
    /// pieces of the file keep ahead of that, and otherwise leave the disk to commits.
    pub(crate) race: &'a dyn Fn(f64) -> f64,
}

/// Which segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u64,
    pub(crate) first_position: u64,
    /// Where the log before it ends.
    pub(crate) previous_end: u64,
}

impl Place {
    /// Behind a segment that is written to its end.
    pub(crate) fn after(header: &SegmentHeader) -> Self {
        Self {
            number: header.number + 1,
            first_position: header.next_position(),
            previous_end: header.next_position(),
        }
    }
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SEGMENT_SUFFIX}"))
}

fn temporary_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{TEMPORARY_SUFFIX}"))
}

/// The number in a segment's file name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let (stem, suffix) = name.split_once('.')?;
    let is_number = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    (suffix == SEGMENT_SUFFIX && is_number)
        .then(|| u64::from_str_radix(stem, 16).ok())
        .flatten()
}

pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY_SUFFIX)
}

/// What a dead segment is called until it is used again.
pub(crate) fn free_path(segment: &Path) -> PathBuf {
    segment.with_extension(FREE_SUFFIX)
}

/// What a dead segment is called that was found damaged: it is never used again, and removed by hand.
pub(crate) fn bad_path(segment: &Path) -> PathBuf {
    segment.with_extension(BAD_SUFFIX)
}

pub(crate) fn is_free(name: &str) -> bool {
    name.ends_with(FREE_SUFFIX)
}

/// Makes the segment `place`, from `recycled` (a file of the same directory that nobody needs) if there is one.
pub(crate) fn prepare(
    site: &Site<'_>,
    place: Place,
    recycled: Option<&Path>,
) -> io::Result<Arc<Tail>> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    let header = SegmentHeader {
        kind: site.kind,
        number: place.number,
        first_position: place.first_position,
        size: site.size,
        epoch: site.epoch,
        created_unix_ms: site.clock.unix_ms(),
        previous_end: place.previous_end,
        salt,
    };
    let made = make_file(site, &header, recycled);
    let (file, path) = made.inspect_err(|_| {
        // Best effort: what stays behind is removed or recognised by the next start.
        let _ = site.disk.unlink(&temporary_path(site.dir, place.number));
        let _ = site.disk.unlink(&segment_path(site.dir, place.number));
    })?;
    let segment = Segment::open(header.clone(), path);
    segment.attach(&file)?;
    Ok(Arc::new(Tail {
        segment: Arc::new(segment),
        region: Region::new(site.ring, &header),
        file,
        next: Later::new(),
    }))
}

fn make_file(
    site: &Site<'_>,
    header: &SegmentHeader,
    recycled: Option<&Path>,
) -> io::Result<(Arc<dyn DiskFile>, PathBuf)> {
    let temporary = temporary_path(site.dir, header.number);
    let file = match recycled {
        Some(old) => recycle(site, old, &temporary)?,
        None => None,
    };
    let file = match file {
        Some(file) => file,
        None => allocate(site, &temporary)?,
    };
    write_all_at(file.as_ref(), &header.encode(), 0)?;
    file.sync()?;
    let path = segment_path(site.dir, header.number);
    site.disk.rename(&temporary, &path)?;
    site.disk.sync_dir(site.dir)?;
    Ok((file, path))
}

/// The old file under its temporary name. `None`: it is of another size, and gone.
fn recycle(site: &Site<'_>, old: &Path, temporary: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
    site.disk.rename(old, temporary)?;
    site.disk.sync_dir(site.dir)?;
    let file = site.disk.open(temporary, Access::Write)?;
    if file.len()? == site.size {
        return Ok(Some(file));
    }
    site.disk.unlink(temporary)?;
    Ok(None)
}

fn allocate(site: &Site<'_>, temporary: &Path) -> io::Result<Arc<dyn DiskFile>> {
    let file = site.disk.create(temporary)?;
    file.allocate(site.size)?;
    let zeroes = vec![0; ZERO_CHUNK_MAX.min(site.size as usize)];
    let mut at = 0;
    while at < site.size {
        let made = at as f64 / site.size as f64;
        let ahead = made - (site.race)(made);
        // In pieces, so that a commit never queues behind more than one; in large ones when time is short.
        let chunk = if ahead > 0.0 {
            ZERO_CHUNK.min(zeroes.len())
        } else {
            zeroes.len()
        };
        let count = chunk.min((site.size - at) as usize);
        let began = site.clock.instant();
        write_all_at(file.as_ref(), &zeroes[..count], at)?;
        file.sync()?;
        at += count as u64;
        if ahead > 0.0 {
            // The further ahead, the longer: up to nine tenths of the time are the commits'.
            let took = site.clock.instant() - began;
            std::thread::sleep(took.mul_f64(9.0 * ahead).min(ZERO_PAUSE_MAX));
        }
    }
    Ok(file)
}

/// Wakes the preparing thread.
pub(crate) struct PreparerBell {
    rung: Mutex<bool>,
    changed: Condvar,
    closing: AtomicBool,
}

impl PreparerBell {
    pub(crate) fn new() -> Self {
        Self {
            rung: Mutex::new(false),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
        }
    }

    pub(crate) fn ring(&self) {
        *self.rung() = true;
        self.changed.notify_one();
    }

    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.ring();
    }

    fn rung(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Until it is rung.
    pub(crate) fn wait(&self, at_most: Duration) {
        let rung = self.rung();
        let waited = self
            .changed
            .wait_timeout_while(rung, at_most, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }

    /// Sleeps, however often it is rung, but not when it is closed meanwhile.
    pub(crate) fn pause(&self, time: Duration) {
        let closing = || self.is_closing();
        let rung = self.rung();
        // A poisoned lock is no reason to stop.
        drop(self.changed.wait_timeout_while(rung, time, |_| !closing()));
    }
}

/// The preparing thread: spares, reclaim, free space.
pub(crate) struct Preparer {
    pub(crate) bell: Arc<PreparerBell>,
    /// Of the thread that archives dead segments.
    pub(crate) keeper: Arc<PreparerBell>,
    pub(crate) space: Arc<Space>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) epoch: u64,
    pub(crate) clock: Clock,
    pub(crate) lines: Vec<Line>,
}

/// One log's part of it.
pub(crate) struct Line {
    pub(crate) log: Arc<Shared>,
    pub(crate) next: Place,
    pub(crate) gone: Gone,
    pub(crate) reclaims: bool,
    /// Dead segments wait for the keeper of archives.
    pub(crate) keeps: bool,
}

impl Preparer {
    pub(crate) fn run(mut self) {
        while !self.bell.is_closing() {
            self.measure();
            for index in 0..self.lines.len() {
                self.serve(index);
            }
            self.bell.wait(POLL);
        }
        for line in &self.lines {
            line.log.notify_rolled();
        }
    }

    pub(crate) fn measure(&self) {
        self.space.measure(self.disk.as_ref());
    }

    fn serve(&mut self, index: usize) {
        if self.lines[index].reclaims && self.space.reclaim.load(Ordering::Relaxed) {
            let line = &mut self.lines[index];
            if reclaim::collect(&line.log, &mut line.gone, line.keeps) {
                self.keeper.ring();
            }
        }
        if !self.lines[index].log.is_stopped() && lock(&self.lines[index].log.spare).ready.is_none()
        {
            self.prepare(index);
        }
        self.trim(index);
    }

    fn prepare(&mut self, index: usize) {
        let result = self.make(index);
        let line = &mut self.lines[index];
        match result {
            Ok(tail) => {
                line.next = Place::after(&tail.segment.header);
                line.log.full.store(false, Ordering::Relaxed);
                if line.log.supply(tail) {
                    // The next one is due at once.
                    self.bell.ring();
                }
            }
            Err(error) => {
                let log = line.log.name();
                if !line.log.full.swap(true, Ordering::Relaxed) {
                    if is_full(&error) {
                        tracing::error!(
                            log,
                            "no space for the next segment; new records are refused once this one is full"
                        );
                    } else {
                        tracing::error!(log, %error, "the next segment cannot be prepared; trying again every second");
                    }
                }
                line.log.notify_rolled();
            }
        }
    }

    fn make(&mut self, index: usize) -> io::Result<Arc<Tail>> {
        let logs: Vec<_> = self
            .lines
            .iter()
            .map(|line| Arc::clone(&line.log))
            .collect();
        let line = &mut self.lines[index];
        let recycled = line.gone.files.pop();
        if recycled.is_none() && line.log.kind == LogKind::Mail {
            let free = self.disk.space(&self.space.data_dir)?.free;
            if free < line.log.segment_size.saturating_add(self.space.reserve) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let site = Site {
            disk: self.disk.as_ref(),
            dir: &line.log.dir,
            kind: line.log.kind,
            size: line.log.segment_size,
            epoch: self.epoch,
            clock: self.clock,
            ring: &line.log.ring,
            race: &|made| {
                line.log.is_made(made);
                used(&logs, &self.bell)
            },
        };
        prepare(&site, line.next, recycled.as_deref())
    }

    /// Files beyond what the next roll can use.
    fn trim(&mut self, index: usize) {
        let line = &mut self.lines[index];
        let surplus = line.gone.files.len().saturating_sub(FILES_KEPT);
        let mut removed = false;
        for path in line.gone.files.drain(..surplus) {
            match self.disk.unlink(&path) {
                Ok(()) => removed = true,
                Err(error) => tracing::warn!(path = %path.display(), %error, "not removed"),
            }
        }
        if removed {
            // A name that comes back after a power cut is reclaimed again.
            let _ = self.disk.sync_dir(&line.log.dir);
        }
    }
}

/// Of the segment, without one to follow it, that is used most.
fn used(logs: &[Arc<Shared>], bell: &PreparerBell) -> f64 {
    if bell.is_closing() {
        return 1.0;
    }
    let waiting = logs.iter().filter(|log| lock(&log.spare).ready.is_none());
    waiting.fold(0.0, |most, log| log.used().max(most))
}

const SEGMENT_SUFFIX: &str = "seg";
const TEMPORARY_SUFFIX: &str = "tmp";
const FREE_SUFFIX: &str = "free";
/// One write and sync while a new segment is zeroed: a third of a millisecond on a good disk.
const ZERO_CHUNK: usize = 512 << 10;
/// The same when the segment may be needed before it is ready.
const ZERO_CHUNK_MAX: usize = 4 << 20;
/// A slow disk must not make a segment take minutes.
const ZERO_PAUSE_MAX: Duration = Duration::from_millis(20);
const BAD_SUFFIX: &str = "bad";
/// Reclaimed files that are kept for the next rolls instead of being removed.
const FILES_KEPT: usize = 2;
/// How often free space is looked at, and a failed preparation tried again.
const POLL: Duration = Duration::from_secs(1);
