//! Making archives, and making them anew without what is over or was erased.
//!
//! One at a time, and of each log by one thread at a time: `Shelf::changing` is held from reading a segment or an archive
//! until the new file is durable. Whoever erases records in place takes it afterwards, and so finds either the new archive
//! or none.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spool_format::archive::{self, Contents, Owners, StreamKey, ledger};
use spool_format::layout::PAGE_OFFSET;
use spool_format::{LogKind, SegmentHeader};

use super::{Changing, Entry, Opened, Over, Retention, Shelf};
use crate::clock::{Clock, UnixMs};
use crate::limits;
use crate::metrics;
use crate::spool::disk::{Access, DiskFile, read_at_most, write_all_at};
use crate::spool::log::Shared;
use crate::spool::segment::Segment;
use crate::spool::sync::lock;

/// How fast it goes. Asked after each frame.
pub(super) trait Pace {
    /// # Errors
    /// The work is to be given up.
    fn step(&mut self) -> io::Result<()>;
}

/// As fast as it can.
pub(super) struct AtOnce;

impl Pace for AtOnce {
    fn step(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Rests as long as it works, so that archiving costs half a processor at most.
pub(super) struct Leisurely<'a> {
    pub(super) clock: Clock,
    pub(super) since: Instant,
    /// Waits; `false` when the work is to be given up.
    pub(super) rest: &'a dyn Fn(Duration) -> bool,
}

impl Pace for Leisurely<'_> {
    fn step(&mut self) -> io::Result<()> {
        let worked = self.clock.instant().duration_since(self.since);
        if !(self.rest)(worked.min(limits::ARCHIVE_REST_MAX)) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.since = self.clock.instant();
        Ok(())
    }
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archived {
    /// There is an archive, of this many bytes.
    Kept(u64),
    /// Nothing in it is to be kept.
    Nothing,
}

impl Shelf {
    /// Archives a segment that is not written any more. Doing it again does no harm: an archive that is there, and can be
    /// read, stays as it is.
    pub(super) fn archive(
        &self,
        log: &Arc<Shared>,
        segment: &Segment,
        retention: Option<&dyn Retention>,
        now: UnixMs,
        pace: &mut dyn Pace,
    ) -> io::Result<Archived> {
        let mut changing = self.change();
        let (number, first) = (segment.number(), segment.first_position());
        if self.has(number, first) {
            match self.load(first, number) {
                Ok(opened) => return Ok(Archived::Kept(opened.footer.file_len())),
                Err(error) => {
                    tracing::error!(log = self.name(), segment = number, %error, "an archive cannot be read; it is made again from its segment");
                }
            }
        }
        let header = &segment.header;
        let (mut raw, is_whole) = self.read_segment(segment)?;
        let end = raw.len() as u64;
        let contents = match (self.kind, retention) {
            (LogKind::Mail, Some(retention)) => {
                let (owners, dead) = owners(log, self, header, &raw);
                settle(&mut raw, header, &owners, &dead, retention, now)
            }
            _ => ledger::events(&raw, header, end),
        };
        if contents.records == 0 && self.kind == LogKind::Mail {
            return match is_whole {
                true => Ok(Archived::Nothing),
                false => Err(io::Error::other(format!(
                    "{} cannot be read",
                    segment.path.display()
                ))),
            };
        }
        let len = self.write(header, &raw, &contents, now, &mut changing, pace)?;
        if !is_whole {
            // The medium may give another time what is not in the archive.
            segment.quarantine();
        }
        Ok(Archived::Kept(len))
    }

    /// Up to the segment's end, and whether all of it could be read. Not through its map: a page that the medium does not give
    /// is zeroes and damage here, not the end of the node.
    pub(in crate::spool) fn read_segment(&self, segment: &Segment) -> io::Result<(Vec<u8>, bool)> {
        let mut is_whole = true;
        let file = self.disk.open(&segment.path, Access::Read)?;
        let mut raw = vec![0; segment.end() as usize];
        for (index, chunk) in raw.chunks_mut(CHUNK).enumerate() {
            let at = (index * CHUNK) as u64;
            if read_at_most(file.as_ref(), chunk, at).is_err() {
                for (index, page) in chunk.chunks_mut(PAGE_OFFSET as usize).enumerate() {
                    let offset = at + index as u64 * PAGE_OFFSET;
                    if let Err(error) = read_at_most(file.as_ref(), page, offset) {
                        page.fill(0);
                        is_whole = false;
                        let segment = segment.number();
                        tracing::error!(log = self.name(), segment, offset, %error, "a page of the spool cannot be read");
                    }
                }
            }
        }
        if SegmentHeader::decode(&raw).as_ref() != Ok(&segment.header) {
            // Its header was good when it was opened.
            raw[..PAGE_OFFSET as usize].copy_from_slice(&segment.header.encode());
        }
        Ok((raw, is_whole))
    }

    /// Makes the archive anew without what is over, or removes it where nothing is left.
    pub(super) fn renew(
        &self,
        opened: &Opened,
        retention: &dyn Retention,
        now: UnixMs,
        pace: &mut dyn Pace,
    ) -> io::Result<Archived> {
        let mut changing = self.change();
        let header = &opened.header;
        let mut raw = opened.raw();
        let (owners, dead) = (&opened.tables.owners, BTreeSet::new());
        let contents = settle(&mut raw, header, owners, &dead, retention, now);
        if contents.records == 0 {
            self.remove(header.first_position)?;
            return Ok(Archived::Nothing);
        }
        let len = self.write(header, &raw, &contents, now, &mut changing, pace)?;
        Ok(Archived::Kept(len))
    }

    /// Erases the records at these positions wherever they are archived; to be called after they were erased in their
    /// segments, as far as these are there. Returns which were found in an archive, and whether they were erased just now.
    /// On success no archive holds them any more, not after a power cut either.
    pub(in crate::spool) fn erase(
        &self,
        changing: &mut Changing<'_>,
        positions: &[u64],
        now: UnixMs,
    ) -> io::Result<BTreeMap<u64, bool>> {
        let mut by_archive: BTreeMap<u64, (Entry, Vec<u64>)> = BTreeMap::new();
        for &position in positions {
            let items = lock(&self.items);
            if let Some((&first, &item)) = items.range(..=position).next_back() {
                let entry = by_archive.entry(first);
                entry.or_insert((item, Vec::new())).1.push(position - first);
            }
        }
        let mut found = BTreeMap::new();
        for (first, (item, mut offsets)) in by_archive {
            let opened = self.load(first, item.number)?;
            offsets.retain(|offset| *offset < opened.footer.raw_len);
            let header = &opened.header;
            let mut raw = opened.raw();
            let mut hit = false;
            for offset in offsets {
                let erased = ledger::erase(&mut raw, header, &[offset]) > 0;
                found.insert(first + offset, erased);
                hit |= erased;
            }
            if !hit {
                continue;
            }
            let end = raw.len() as u64;
            let contents = match self.kind {
                LogKind::Mail => {
                    let owners = &opened.tables.owners;
                    let dead = BTreeSet::new();
                    ledger::settle(&mut raw, header, end, owners, &dead, now, &mut |_, _, _| {
                        false
                    })
                }
                LogKind::Event => ledger::events(&raw, header, end),
            };
            self.write(header, &raw, &contents, now, changing, &mut AtOnce)?;
        }
        Ok(found)
    }

    fn write(
        &self,
        header: &SegmentHeader,
        raw: &[u8],
        contents: &Contents,
        now: UnixMs,
        Changing(made): &mut Changing<'_>,
        pace: &mut dyn Pace,
    ) -> io::Result<u64> {
        let path = self.path(header.number, header.first_position);
        let temporary = path.with_extension("tmp");
        match self.disk.unlink(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.write_file(&temporary, header, raw, contents, now, pace);
        let renamed = written.and_then(|len| {
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(&self.dir)?;
            Ok(len)
        });
        let len = renamed.inspect_err(|_| {
            // Best effort: the next start removes it.
            let _ = self.disk.unlink(&temporary);
        })?;
        **made += 1;
        let item = Entry {
            number: header.number,
            len,
            made: **made,
            over: None,
        };
        self.keep(header.first_position, item);
        metrics::SPOOL_ARCHIVED.add_to(self.name(), 1);
        Ok(len)
    }

    fn write_file(
        &self,
        path: &Path,
        header: &SegmentHeader,
        raw: &[u8],
        contents: &Contents,
        now: UnixMs,
        pace: &mut dyn Pace,
    ) -> io::Result<u64> {
        let file = self.disk.create(path)?;
        let mut out = Out {
            file: file.as_ref(),
            pending: Vec::with_capacity(CHUNK),
            written: 0,
            synced: 0,
        };
        let len = archive::encode(header, raw, contents, now, LEVEL, |bytes| {
            out.push(bytes)?;
            pace.step()
        })?;
        out.flush()?;
        // Synced, and out of the cache: it is not read soon.
        file.settle()?;
        Ok(len)
    }
}

/// Writes in large pieces, and syncs on the way, so that a commit never queues behind a whole archive.
struct Out<'a> {
    file: &'a dyn DiskFile,
    pending: Vec<u8>,
    written: u64,
    synced: u64,
}

impl Out<'_> {
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        match self.pending.len() >= CHUNK {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        write_all_at(self.file, &self.pending, self.written)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        if self.written - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }
}

/// Erases what is over by now.
fn settle(
    raw: &mut [u8],
    header: &SegmentHeader,
    owners: &Owners,
    dead: &BTreeSet<[u8; 16]>,
    retention: &dyn Retention,
    now: UnixMs,
) -> Contents {
    let end = raw.len() as u64;
    let mut known = BTreeMap::new();
    ledger::settle(raw, header, end, owners, dead, now, &mut |_, key, at| {
        let kept = *known
            .entry(key.clone())
            .or_insert_with(|| kept_ms(retention, key));
        at.saturating_add(kept) <= now
    })
}

fn kept_ms(retention: &dyn Retention, key: &StreamKey) -> u64 {
    let kept = match *key == StreamKey::default() {
        true => retention.longest(),
        false => retention.of(key.server_id, &key.stream_id),
    };
    kept.as_millis() as u64
}

/// When this archive is to be looked at, and when nothing of it is wanted any more.
pub(super) fn over(opened: &Opened, retention: &dyn Retention) -> Over {
    let mut over = Over {
        partly: u64::MAX,
        wholly: 0,
    };
    for span in &opened.tables.streams {
        let kept = kept_ms(retention, &span.key);
        // Content goes within a day of its time, or within twice its time: a file is not made anew for each message.
        let grace = kept.min(limits::ARCHIVE_SWEEP_GRACE.as_millis() as u64);
        let first = span.oldest_unix_ms.saturating_add(kept + grace);
        over.partly = over.partly.min(first);
        over.wholly = over.wholly.max(span.youngest_unix_ms.saturating_add(kept));
    }
    over
}

/// Streams of the messages whose content records are in this segment, and those of the messages that are no more. The
/// message record comes behind its content, so the segments behind are looked through until all are found. A message that is
/// in none of them any more was over before its content, or never was one: nobody can read such content. What is not found
/// because the search is bounded is of no known stream.
fn owners(
    log: &Arc<Shared>,
    shelf: &Shelf,
    header: &SegmentHeader,
    raw: &[u8],
) -> (Owners, BTreeSet<[u8; 16]>) {
    let ledger::Survey {
        mut owners,
        mut missing,
        erased: mut dead,
    } = ledger::survey(raw, header, raw.len() as u64);
    missing.retain(|id| !dead.contains(id));
    let mut position = header.next_position();
    for _ in 0..limits::ARCHIVE_LOOK_AHEAD {
        if missing.is_empty() {
            break;
        }
        let segment = log.segment_from(position);
        let bound = segment.as_ref().map_or(u64::MAX, |s| s.first_position());
        let found = match (shelf.reaching(position, bound), segment) {
            (Some(Ok(opened)), _) => {
                position = opened.header.next_position();
                ledger::survey(&opened.raw(), &opened.header, opened.footer.raw_len)
            }
            (_, Some(segment)) => {
                position = segment.header.next_position();
                match shelf.read_segment(&segment) {
                    Ok((raw, true)) => ledger::survey(&raw, &segment.header, raw.len() as u64),
                    // What is not known is kept.
                    _ => return (owners, dead),
                }
            }
            (Some(Err(_)), None) => return (owners, dead),
            (None, None) => {
                dead.append(&mut missing);
                break;
            }
        };
        for (id, key) in found.owners {
            if missing.remove(&id) {
                owners.insert(id, key);
            }
        }
        for id in found.erased {
            if missing.remove(&id) {
                dead.insert(id);
            }
        }
    }
    (owners, dead)
}

/// zstd's fastest ordinary level: measured in ARCHITECTURE.md.
const LEVEL: i32 = 1;
const CHUNK: usize = 1 << 20;
const SYNC_EVERY: u64 = 4 << 20;
