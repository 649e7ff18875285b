//! Durability: two logs of segments, the mail log (envelopes and content) and the event log (facts).
//!
//! Promises: what a [`Receipt`] was given for survives `kill -9` and power loss from that moment; a full disk, a failed
//! sync, a damaged or missing segment never lose more than they hit, and are never silent; one process at a time.
//! Does not know: what a record means beyond who still holds it.
//!
//! # How it works
//! Appending is reservation (one `fetch_add`), a copy into the in-memory image of the segment's tail, and publication of the
//! length word ([`reserve`], over [`memory`]). One committer thread per log writes whole, page-aligned batches and syncs
//! them ([`commit`]). A preparing thread has the next segment ready and takes back dead ones ([`roll`], [`reclaim`]). A start
//! reads what lies behind the newest checkpoint ([`recover`], [`backlog`]), which a thread writes now and then
//! ([`checkpoint`], [`checkpointer`]). All of it reaches files through [`disk`] only.
//!
//! Not by stores through a shared map, although segments are mapped for reading: such a store dirties a whole large folio,
//! measured at 103 times the bytes; and its errors come as signals instead of codes (DESIGN §3.3).
//!
//! # States of a recipient
//! Each state, the one step that leaves it, and what a crash there means. The record that makes the step is durable before
//! anybody acts on it; `accepted = delivered + bounced + expired + cancelled + live` holds after every row.
//!
//! | State | Known by | Step out | A crash here |
//! |---|---|---|---|
//! | offered | nothing on disk | the message record is committed → *queued* | the client was told nothing; it tries again |
//! | appended | message record, not committed | its commit → *queued* | dropped at recovery, or kept if its batch was whole: then the client's retry is a second message |
//! | queued (ready or deferred) | message record; newest event of the recipient, if any, is `accepted` or `deferred` | the agent takes it → *in flight*; operator or age → *cancelled*, *bounced*, *expired* | queued again; its wait starts from the last `deferred` event |
//! | in flight | as queued: starting an attempt writes nothing | the remote host's reply → *answered* | queued again; the attempt ended with the connection |
//! | answered | reply in memory, event not committed | event commit → a terminal state, or *queued* | sent again: the one window of a duplicate, milliseconds |
//! | ambiguous | `ambiguous` event | the stream's policy: *queued*, or *bounced* with cause `ambiguous` | as its event says |
//! | delivered, bounced, expired, cancelled | its terminal event; exactly one | none. `release` of the message record, then reclaim of the segment | stays; a reclaim that was under way is repeated |
//!
//! A segment of the mail log is reclaimed when no recipient of it is in any but the last row.

#![cfg_attr(
    feature = "loom",
    allow(dead_code, reason = "the models do without the other tests")
)]

mod admit;
pub mod archive;
pub mod backlog;
pub mod bases;
mod checkpoint;
mod checkpointer;
mod cold;
pub mod commit;
mod compact;
mod digests;
pub mod disk;
mod erase;
pub mod log;
mod memory;
mod read;
mod reclaim;
mod recover;
mod reserve;
mod roll;
mod segment;
pub mod space;
mod sync;

#[cfg(test)]
#[cfg(feature = "loom")]
mod loom;
#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use spool_format::layout::{SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};
pub use spool_format::{Frame, LogKind, RecordError};
use tokio::sync::watch;

pub use archive::Retention;
pub use archive::keeper::History;
pub use backlog::{Backlog, BacklogError, Sizes};
pub use bases::{Base, ReaderBases};
pub use commit::{OnDurable, Receipt, Ticket};
pub use compact::Sealed;
pub use erase::{EraseError, Erased};
pub use log::{AppendError, Log, LogStat};
pub use recover::{Damage, Replay};
pub use segment::{ReadError, Record};
pub use space::Pressure;

use admit::Credits;
use archive::Shelf;
use archive::keeper::Keeper;
use backlog::{Gathering, Intake};
use checkpoint::{Pending, Store};
use checkpointer::Checkpointer;
use commit::Committer;
use digests::Digests;
use disk::{Access, Disk, Lock, LockError};
use log::{Parts, Shared};
use memory::Ring;
use reclaim::Gone;
use recover::{Known, RecoverError, Recovered};
use roll::{Line, Place, Preparer, PreparerBell, Site};
use space::Space;
use sync::{Mutex, Ordering, lock};

use crate::clock::Clock;
use crate::limits;
use crate::metrics;

/// How a spool is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub data_dir: PathBuf,
    /// Bytes of a segment of the mail log.
    pub mail_segment: u64,
    pub event_segment: u64,
    /// Bytes of memory in which the mail log gathers; a multiple of a page, at least ten.
    pub mail_ring: u64,
    pub event_ring: u64,
    /// Space that mail leaves free for outcomes of accepted mail.
    pub reserve: u64,
    /// Free space under which new mail is refused (or a tenth of the disk, whichever is smaller).
    pub refuse_below: u64,
    pub epoch: u64,
    /// Free space under which the alarm is raised and history gives way (or a fifth of the disk, whichever is smaller).
    pub warn_below: u64,
    /// What is kept of segments that nobody holds.
    pub history: History,
    /// Of checkpoints and of a start's memory.
    pub sizes: Sizes,
    /// Go on where the file system may run out of space that it allocated (copy-on-write, network).
    pub any_file_system: bool,
}

impl Options {
    /// The defaults of the configuration file.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            mail_segment: 64 << 20,
            event_segment: 16 << 20,
            mail_ring: limits::MAIL_RING as u64,
            event_ring: limits::EVENT_RING as u64,
            reserve: 256 << 20,
            refuse_below: 2 << 30,
            epoch: 0,
            warn_below: 4 << 30,
            history: History::default(),
            any_file_system: false,
            sizes: Sizes::default(),
        }
    }
}

/// Why a spool cannot be opened. Each is told to a person, and decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// 73.
    #[error("the data directory {} is in use by process {pid}", path.display())]
    Locked { path: PathBuf, pid: u32 },
    /// 73 or 74: see the error's kind.
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// 78.
    #[error("{} was written by a newer version of posthaste (format {version})", path.display())]
    Newer { path: PathBuf, version: u16 },
    /// 78.
    #[error(
        "{} is on {file_system}, where allocated space can run out later: use another file system, or set [spool] any_file_system = true",
        path.display()
    )]
    FileSystem {
        path: PathBuf,
        file_system: &'static str,
    },
    /// 78.
    #[error(
        "a segment of {bytes} bytes: it must be a multiple of 4096 from {SEGMENT_SIZE_MIN} to {SEGMENT_SIZE_MAX}"
    )]
    SegmentSize { bytes: u64 },
}

impl From<BacklogError> for OpenError {
    fn from(error: BacklogError) -> Self {
        let BacklogError { path, reason } = error;
        let error = io::Error::other(reason);
        Self::Io { path, error }
    }
}

impl From<RecoverError> for OpenError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Io { path, error } => Self::Io { path, error },
            RecoverError::Newer { path, version } => Self::Newer { path, version },
        }
    }
}

/// The two logs, their threads, and the lock on the data directory.
pub struct Spool {
    pub mail: Log,
    pub events: Log,
    space: Arc<Space>,
    bell: Arc<PreparerBell>,
    keeper: Arc<Keeper>,
    health: Arc<watch::Sender<Option<String>>>,
    store: Arc<Store>,
    backlog: Mutex<Option<Backlog>>,
    running: Mutex<Option<Running>>,
    data_dir: PathBuf,
    /// Held by whoever erases.
    erasing: Mutex<()>,
}

struct Running {
    committers: Vec<JoinHandle<()>>,
    preparer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    checkpointer_bell: Arc<PreparerBell>,
    /// Where there is something to keep.
    keeper: Option<JoinHandle<()>>,
    _lock: Arc<dyn Lock>,
}

impl Spool {
    /// Whether this disk takes a write and a sync now. Done at every start, and every `limits::PROBE_INTERVAL` while not.
    pub fn probe(disk: &dyn Disk, data_dir: &Path) -> io::Result<()> {
        let path = data_dir.join(PROBE_FILE);
        disk.create_dir(data_dir)?;
        match disk.unlink(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(&path)?;
        disk::write_all_at(file.as_ref(), &[0x5A; 4096], 0)?;
        file.sync()?;
        disk.unlink(&path)
    }

    /// The process that holds the data directory, if one does.
    pub fn holder(disk: &dyn Disk, data_dir: &Path) -> Option<u32> {
        match take_lock(disk, data_dir) {
            Err(OpenError::Locked { pid, .. }) => Some(pid),
            _ => None,
        }
    }

    /// Takes the lock, reads what lies behind the newest checkpoint, and makes both logs ready for appends. `replay` is
    /// given the records that are read. Who lives is told by [`Self::take_backlog`]. Dead segments stay until
    /// [`Self::allow_reclaim`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        clock: Clock,
        replay: &mut dyn Replay,
    ) -> Result<Self, OpenError> {
        let data_dir = &options.data_dir;
        let on = |path: &Path| {
            let path = path.to_path_buf();
            move |error| OpenError::Io { path, error }
        };
        for bytes in [options.mail_segment, options.event_segment] {
            let fits = (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&bytes);
            if !fits || !bytes.is_multiple_of(4096) {
                return Err(OpenError::SegmentSize { bytes });
            }
        }
        disk.create_dir(data_dir).map_err(on(data_dir))?;
        let held: Arc<dyn Lock> = take_lock(disk.as_ref(), data_dir)?.into();
        if let Some(file_system) = disk.unreliable_allocation(data_dir).map_err(on(data_dir))? {
            let path = data_dir.clone();
            if !options.any_file_system {
                return Err(OpenError::FileSystem { path, file_system });
            }
            tracing::warn!(
                file_system,
                "allocated space can run out on this file system"
            );
        }
        erase::redo(disk.as_ref(), data_dir)?;
        let health = Arc::new(watch::Sender::new(None));
        let bell = Arc::new(PreparerBell::new());
        let checkpoints = data_dir.join("spool").join("checkpoint");
        let opened = Store::open(&disk, checkpoints.clone(), |path, reason| {
            metrics::SPOOL_CHECKPOINT_FAILURES.add(1);
            tracing::error!(path = %path.display(), reason, "a checkpoint cannot be used; the start takes longer");
        });
        let store = Arc::new(opened.map_err(on(&checkpoints))?);
        let chain = store.chain();
        let mut intake = Intake {
            gathering: Gathering::behind(&store, chain.as_ref(), options.sizes)?,
            replay,
            failure: None,
        };
        let start = Start {
            disk: &disk,
            options: &options,
            clock,
            health: &health,
            bell: &bell,
        };
        let mut lines = Vec::new();
        let mut voids = Vec::new();
        let mut ends = Vec::new();
        let mut scanned = Vec::new();
        for kind in [LogKind::Mail, LogKind::Event] {
            let known = chain.as_ref().map(|chain| match kind {
                LogKind::Mail => Known {
                    position: chain.mail_to(),
                    gaps: &chain.gaps.mail,
                },
                LogKind::Event => Known {
                    position: chain.event_to(),
                    gaps: &chain.gaps.events,
                },
            });
            let opened = start.log(kind, known.unwrap_or_default(), &mut intake)?;
            lines.push(opened.line);
            voids.push(opened.voids);
            ends.push(opened.end);
            scanned.push(opened.scanned);
        }
        if let Some(error) = intake.failure {
            return Err(error.into());
        }
        let mut backlog = intake.gathering.finish()?;
        let mail = Arc::clone(&lines[0].log);
        let events = Arc::clone(&lines[1].log);
        // Outcomes first: a spare of the event log is never waited for longer than its own making.
        lines.reverse();
        let keeps = options.history.content.is_some();
        let space = Arc::new(Space::new(
            data_dir.clone(),
            options.reserve,
            options.refuse_below,
            options.warn_below,
        ));
        let spool_dir = data_dir.join("spool");
        let bases = ReaderBases::open(Arc::clone(&disk), &spool_dir).map_err(on(&spool_dir))?;
        let digests = Digests::at(Arc::clone(&disk), &spool_dir);
        let keeper = Arc::new(Keeper {
            bell: Arc::new(PreparerBell::new()),
            preparer: Arc::clone(&bell),
            space: Arc::clone(&space),
            disk: Arc::clone(&disk),
            clock,
            mail: Arc::clone(&mail),
            events: Arc::clone(&events),
            history: options.history.clone(),
            bases: Arc::new(bases),
            digests,
        });
        let preparer = Preparer {
            bell: Arc::clone(&bell),
            keeper: Arc::clone(&keeper.bell),
            space: Arc::clone(&space),
            disk: Arc::clone(&disk),
            epoch: options.epoch,
            clock,
            lines,
        };
        preparer.measure();
        // Before there is a committer, so that one batch takes all (FORMAT.md §7.1, rule 7).
        let mut published = Vec::new();
        for (log, voids) in [&mail, &events].into_iter().zip(&voids) {
            published.push(reclaim::publish_voids(log, voids));
        }
        let mut committers = Vec::new();
        for log in [&mail, &events] {
            let committer = Committer::new(Arc::clone(log));
            let name = format!("commit-{}", log.name());
            let thread = std::thread::Builder::new().name(name);
            committers.push(
                thread
                    .spawn(move || committer.run())
                    .map_err(on(data_dir))?,
            );
        }
        let preparer = std::thread::Builder::new()
            .name("prepare-segments".into())
            .spawn(move || preparer.run())
            .map_err(on(data_dir))?;
        let checkpointer_bell = Arc::new(PreparerBell::new());
        let checkpointer = Checkpointer {
            store: Arc::clone(&store),
            mail: Arc::clone(&mail),
            events: Arc::clone(&events),
            space: Arc::clone(&space),
            bell: Arc::clone(&checkpointer_bell),
            clock,
            sizes: options.sizes,
        };
        if scanned[0] > options.sizes.checkpoint_mail
            || scanned[1] > options.sizes.checkpoint_events
        {
            // What took long to read need not be read again.
            let gaps = checkpointer.gaps();
            let begun = store.begin(None, (ends[0], ends[1]), gaps, clock.unix_ms());
            match begun {
                Ok(writer) => backlog.keep(Pending::new(&store, writer, &held)),
                Err(error) => tracing::warn!(%error, "the start leaves no checkpoint behind"),
            }
        }
        let checkpointer = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || checkpointer.run())
            .map_err(on(data_dir))?;
        let keeping = match keeps || options.history.events.is_some() {
            true => {
                let thread = std::thread::Builder::new().name("keep-archives".into());
                let keeper = Arc::clone(&keeper);
                Some(thread.spawn(move || keeper.run()).map_err(on(data_dir))?)
            }
            false => None,
        };
        let spool = Self {
            mail: Log { shared: mail },
            events: Log { shared: events },
            space,
            bell,
            keeper,
            health,
            store,
            backlog: Mutex::new(Some(backlog)),
            running: Mutex::new(Some(Running {
                committers,
                preparer,
                checkpointer,
                checkpointer_bell,
                keeper: keeping,
                _lock: held,
            })),
            data_dir: data_dir.clone(),
            erasing: Mutex::new(()),
        };
        for last in published {
            let durable = last.is_some_and(|last| last.is_none_or(|ticket| ticket.wait().is_ok()));
            if !durable {
                let failure = spool.health.borrow().clone().unwrap_or_default();
                let error = io::Error::other(failure);
                let path = data_dir.clone();
                return Err(OpenError::Io { path, error });
            }
        }
        Ok(spool)
    }

    /// What lives, once. Every message of it is to be held before [`Self::allow_reclaim`].
    pub fn take_backlog(&self) -> Option<Backlog> {
        lock(&self.backlog).take()
    }

    /// The backlog cannot be told to its end. The file that is to blame is put aside, so that the next start does without; this
    /// process must end.
    pub fn abandon(&self, error: &BacklogError) {
        self.store.put_aside(&error.path);
        self.health.send_replace(Some(error.to_string()));
    }

    /// Position in the mail log up to which the newest checkpoint goes, and in the event log below which no start needs an
    /// event: that of the older of the newest two. `None` while there are not two.
    pub fn checkpointed(&self) -> Option<(u64, u64)> {
        self.store.bounds()
    }

    /// Every live recipient is held from now on: segments without any may go.
    pub fn allow_reclaim(&self) {
        self.space.reclaim.store(true, Ordering::Relaxed);
        self.bell.ring();
        self.keeper.bell.ring();
    }

    /// Events before `position` are in a checkpoint, and would be in an older one if that were lost: their segments may
    /// become archives.
    #[cfg(test)]
    pub(crate) fn allow_archive_of_events(&self, position: u64) {
        self.space
            .checkpointed
            .fetch_max(position, Ordering::Relaxed);
        self.keeper.bell.ring();
    }

    /// Bases of the event log's readers.
    pub fn readers(&self) -> &ReaderBases {
        &self.keeper.bases
    }

    /// How much space is left, and who has to give way.
    pub fn pressure(&self) -> Pressure {
        self.space.pressure()
    }

    /// Whether [`Self::allow_reclaim`] was called.
    pub fn is_reclaiming(&self) -> bool {
        self.space.reclaim.load(Ordering::Relaxed)
    }

    /// New mail is to be refused (452 4.3.1): little space is left, or no segment could be prepared. Ends by itself.
    pub fn full(&self) -> bool {
        self.space.is_low()
            || self.mail.shared.full.load(Ordering::Relaxed)
            || self.events.shared.full.load(Ordering::Relaxed)
    }

    /// Says why, once a log has failed. For ever: the node stops accepting and exits.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.health.subscribe()
    }

    /// Commits what was appended, stops the threads, releases the lock. Appends are refused from now on. Blocks for as long
    /// as a commit takes.
    /// # Errors
    /// [`AppendError::Stopped`] when a log has failed: what was not acknowledged may be lost.
    pub fn close(&self) -> Result<(), AppendError> {
        let Some(running) = lock(&self.running).take() else {
            return self.verdict();
        };
        running.checkpointer_bell.close();
        if running.checkpointer.join().is_err() {
            tracing::error!("the checkpoint thread panicked");
        }
        self.mail.shared.close();
        self.events.shared.close();
        for committer in running.committers {
            // A panicking committer has aborted the process.
            let _ = committer.join();
        }
        self.keeper.bell.close();
        if running.keeper.is_some_and(|keeper| keeper.join().is_err()) {
            tracing::error!("the thread that keeps archives panicked");
        }
        self.bell.close();
        if running.preparer.join().is_err() {
            tracing::error!("the preparing thread panicked");
        }
        self.verdict()
    }

    fn verdict(&self) -> Result<(), AppendError> {
        match &*self.health.borrow() {
            Some(_) => Err(AppendError::Stopped),
            None => Ok(()),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // The verdict was there to be asked for.
        let _ = self.close();
    }
}

fn take_lock(disk: &dyn Disk, data_dir: &Path) -> Result<Box<dyn Lock>, OpenError> {
    let path = data_dir.join(LOCK_FILE);
    disk.lock(&path).map_err(|error| match error {
        LockError::Held { pid } => {
            let path = data_dir.to_path_buf();
            OpenError::Locked { path, pid }
        }
        LockError::Io(error) => OpenError::Io { path, error },
    })
}

/// A log that was recovered.
struct Opened {
    line: Line,
    /// What is void in it from now on.
    voids: Vec<(u64, u64)>,
    /// Position behind the last record of earlier lives.
    end: u64,
    /// Bytes that were read.
    scanned: u64,
}

/// What both logs are started with.
struct Start<'a> {
    disk: &'a Arc<dyn Disk>,
    options: &'a Options,
    clock: Clock,
    health: &'a Arc<watch::Sender<Option<String>>>,
    bell: &'a Arc<PreparerBell>,
}

impl Start<'_> {
    fn log(
        &self,
        kind: LogKind,
        known: Known<'_>,
        replay: &mut dyn Replay,
    ) -> Result<Opened, OpenError> {
        let options = self.options;
        let (name, size, ring) = match kind {
            LogKind::Mail => ("mail", options.mail_segment, options.mail_ring),
            LogKind::Event => ("event", options.event_segment, options.event_ring),
        };
        let dir = self.options.data_dir.join("spool").join(name);
        let disk = self.disk.as_ref();
        let on = |error| {
            let path = dir.clone();
            OpenError::Io { path, error }
        };
        disk.create_dir(&dir).map_err(on)?;
        if kind == LogKind::Event {
            recover::replay_archives(disk, &dir, known.position, replay)?;
        }
        let recovered = recover::recover(disk, &dir, kind, size, known, replay)?;
        let Recovered {
            segments,
            gaps,
            place,
            mut spares,
            temporaries,
            voids,
            unused,
            end,
            scanned,
        } = recovered;
        for path in temporaries {
            disk.unlink(&path).map_err(on)?;
        }
        let ring = Arc::new(Ring::new(ring, place.first_position).map_err(on)?);
        let site = Site {
            disk,
            dir: &dir,
            kind,
            size,
            epoch: self.options.epoch,
            clock: self.clock,
            ring: &ring,
            race: &|_| 1.0,
        };
        let recycled = spares.pop();
        let tail = roll::prepare(&site, place, recycled.as_deref()).map_err(on)?;
        if let (LogKind::Event, Some((path, from))) = (kind, unused) {
            // These segments stay, one for each start; a mail segment is recycled, for which it has to be whole.
            let opened = disk.open(&path, Access::Write);
            if let Err(error) = opened.and_then(|file| file.discard(from)) {
                tracing::warn!(path = %path.display(), %error, "unused space is not given back");
            }
        }
        let next = Place::after(&tail.segment.header);
        let shelf = Shelf::open(kind, Arc::clone(self.disk), &dir).map_err(on)?;
        let credits = Credits::new(ring.len(), limits::COMMIT_BYTES_MAX as u64);
        let log = Shared::new(Parts {
            kind,
            disk: Arc::clone(self.disk),
            dir,
            segment_size: size,
            clock: self.clock,
            ring,
            credits,
            tail,
            recovered: segments,
            gaps,
            shelf,
            health: Arc::clone(self.health),
            preparer: Arc::clone(self.bell),
        });
        let line = Line {
            log: Arc::new(log),
            next,
            gone: Gone::of(spares),
            reclaims: kind == LogKind::Mail || self.options.history.events.is_some(),
            keeps: kind == LogKind::Event || self.options.history.content.is_some(),
        };
        Ok(Opened {
            line,
            voids,
            end,
            scanned,
        })
    }
}

const LOCK_FILE: &str = "lock";
const PROBE_FILE: &str = "probe";
