//! Digests of segments that are not written any more (FORMAT.md §14), so that `posthaste audit` can show that history was not
//! changed.
//!
//! Promises: an entry that was written is synced and is never written again; a segment has one as soon as the keeper comes
//! to it; erasing and archiving change no digest. Nothing depends on them: what cannot be read is told and put aside.
//! Does not know: when ([`super::archive::keeper`]), nor what a change would mean.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spool_format::LogKind;
use spool_format::digest::{self, Digest, Entry};

use super::disk::{Access, Disk, DiskFile, read_at_most, write_all_at};
use super::log::Shared;
use super::segment::Segment;
use super::sync::{Mutex, lock};
use crate::clock::UnixMs;
use crate::limits;
use crate::metrics;

pub(crate) struct Digests {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Opened at first use: no start waits for it.
    opened: Mutex<Option<Opened>>,
    /// After a failure.
    retry_at: Mutex<UnixMs>,
}

struct Opened {
    file: Arc<dyn DiskFile>,
    /// First positions of segments that have an entry: 16 octets for each segment that ever was.
    known: HashSet<(LogKind, u64)>,
    /// Where the next entry belongs.
    end: u64,
    chain: Digest,
}

impl Digests {
    pub(super) fn at(disk: Arc<dyn Disk>, spool_dir: &Path) -> Self {
        Self {
            disk,
            dir: spool_dir.to_path_buf(),
            opened: Mutex::new(None),
            retry_at: Mutex::default(),
        }
    }

    /// Whether it is time to try, after a failure.
    pub(super) fn may_try(&self, now: UnixMs) -> bool {
        now >= *lock(&self.retry_at)
    }

    /// `false` where that cannot be told.
    pub(super) fn has(&self, log: &Shared, segment: &Segment) -> bool {
        let key = (log.kind, segment.first_position());
        let has = |opened: &mut Opened| Ok(opened.known.contains(&key));
        self.with(has).unwrap_or(false)
    }

    /// Reads the segment and writes its entry down. Records of it must not be erased meanwhile: that is waited for.
    /// # Durability
    /// `Ok`: the entry survives a power cut.
    /// # Errors
    /// Also where a part of the segment cannot be read. It is not tried again for some time.
    pub(super) fn write(&self, log: &Shared, segment: &Segment, now: UnixMs) -> io::Result<()> {
        let written = self.try_write(log, segment, now);
        if written.is_err() {
            *lock(&self.retry_at) = now + limits::ARCHIVE_RETRY.as_millis() as u64;
        }
        written
    }

    fn try_write(&self, log: &Shared, segment: &Segment, now: UnixMs) -> io::Result<()> {
        let (raw, is_whole) = {
            let _unchanged = log.shelf.change();
            log.shelf.read_segment(segment)?
        };
        if !is_whole {
            return Err(io::Error::other("it cannot be read"));
        }
        let entry = Entry::of(&raw, &segment.header, raw.len() as u64, now);
        self.with(|opened| {
            let (bytes, chain) = entry.encode(&opened.chain);
            write_all_at(opened.file.as_ref(), &bytes, opened.end)?;
            opened.file.sync()?;
            opened.end += bytes.len() as u64;
            opened.chain = chain;
            opened.known.insert((log.kind, segment.first_position()));
            Ok(())
        })?;
        metrics::SPOOL_DIGESTS.add_to(log.name(), 1);
        Ok(())
    }

    /// What fails here is opened, and read, again the next time: after a failed sync nobody knows what the file holds.
    fn with<T>(&self, act: impl FnOnce(&mut Opened) -> io::Result<T>) -> io::Result<T> {
        let mut opened = lock(&self.opened);
        let mut current = match opened.take() {
            Some(current) => current,
            None => self.open()?,
        };
        let done = act(&mut current)?;
        *opened = Some(current);
        Ok(done)
    }

    fn open(&self) -> io::Result<Opened> {
        let path = self.dir.join(FILE);
        let file = match self.disk.open(&path, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(&path),
            file => file?,
        };
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let count = read_at_most(file.as_ref(), &mut bytes, 0)?;
        bytes.truncate(count);
        let read = match digest::Digests::read(&bytes) {
            Ok(read) => read,
            Err(digest::DigestsError::Magic) => {
                let aside = self.dir.join(ASIDE);
                tracing::error!(aside = %aside.display(), "the file of digests is damaged and put aside: history up to now cannot be proved unchanged");
                self.disk.rename(&path, &aside)?;
                return self.create(&path);
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        if !read.broken.is_empty() {
            tracing::error!(path = %path.display(), entries = ?read.broken, "digests are damaged; see posthaste audit");
        }
        let known = read.entries.iter();
        let known = known.map(|(entry, _)| (entry.log, entry.first_position));
        Ok(Opened {
            file,
            known: known.collect(),
            end: read.end,
            chain: read.chain(),
        })
    }

    /// Under another name until it says what it is.
    fn create(&self, path: &Path) -> io::Result<Opened> {
        let temporary = path.with_extension("tmp");
        match self.disk.unlink(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&temporary)?;
        let header = digest::Digests::header();
        write_all_at(file.as_ref(), &header, 0)?;
        file.sync()?;
        self.disk.rename(&temporary, path)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(Opened {
            file,
            known: HashSet::new(),
            end: header.len() as u64,
            chain: digest::Digests::default().chain(),
        })
    }
}

const FILE: &str = "digests";
const ASIDE: &str = "digests.damaged";
