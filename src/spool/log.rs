//! One log: appending, reading, and the state that its threads share.
//!
//! Promises: an append takes no lock and copies its payload once; it waits only when no segment is ready, or when a
//! batch's worth is gathered already; a position that was handed out names the same record for ever.
//! Does not know: what a record means. Kinds and payloads are the callers'.
//!
//! Positions grow with time, but records become durable in batches: a record may be read when the watermark has passed it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use spool_format::layout::{PAGE_OFFSET, RECORD_HEADER};
use spool_format::{LogKind, frame};
use tokio::sync::{Notify, watch};

use super::admit::{Credit, Credits};
use super::archive::Shelf;
use super::cold::Cold;
use super::commit::{self, OnDurable, Ticket, Waiter};
use super::disk::Disk;
use super::memory::Ring;
use super::reclaim::Gaps;
use super::reserve::{Appended, Batch};
use super::roll::{PreparerBell, Tail};
use super::segment::Segment;
use super::sync::{
    AtomicBool, AtomicU32, AtomicU64, Current, Doorbell, Mutex, Ordering, Queue, at_most, lock,
};
use crate::clock::{Clock, UnixMs};
use crate::limits;
use crate::metrics;

/// Why a record was not appended, or not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No segment was ready in time, or the disk is full: 452 4.3.1, the client may retry.
    #[error("no space for new records")]
    Full,
    /// A sync failed, or the log is closed: 451 4.3.0.
    #[error("the log has stopped")]
    Stopped,
    /// It would not fit into a segment.
    #[error("a record of {size_bytes} bytes is too large for a segment")]
    TooLarge { size_bytes: u64 },
}

/// Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
}

/// A log in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStat {
    pub kind: LogKind,
    /// First retained position.
    pub start: u64,
    /// Durable watermark.
    pub durable: u64,
    /// End of what was reserved.
    pub tail: u64,
    pub segments: u64,
    pub segment_bytes: u64,
    /// What `hold` and `release` left.
    pub live: u64,
    /// Since the start of the node.
    pub commits: u64,
    pub records: u64,
    pub bytes_written: u64,
    pub sync_micros_total: u64,
    /// The longest write and sync of one batch.
    pub sync_micros_max: u64,
    /// Segments recycled or removed.
    pub reclaimed: u64,
    /// Archives of such segments, and their bytes.
    pub archives: u64,
    pub archive_bytes: u64,
    pub failed: bool,
    /// No segment could be prepared.
    pub full: bool,
    /// How long the batch that is being written and synced takes so far.
    pub committing: Duration,
}

pub(crate) struct Shared {
    pub(crate) kind: LogKind,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_size: u64,
    pub(crate) clock: Clock,
    /// The segment that is being written.
    pub(crate) current: Current<Tail>,
    /// Where the records of its segments gather, and how much more may.
    pub(crate) ring: Arc<Ring>,
    pub(crate) credits: Credits,
    pub(crate) spare: Mutex<Spare>,
    /// How much of the file that will be the spare is written, in thousandths.
    made: AtomicU32,
    /// Notified when `current` changed, and when that can no longer be expected.
    rolled: Notify,
    /// Retained segments by position, the current one and those before it.
    pub(crate) segments: ArcSwap<Vec<Arc<Segment>>>,
    pub(crate) waiters: Queue<Waiter>,
    /// How many were ever pushed to `waiters`: a hint for the committer, and the number of each.
    pub(crate) arrivals: AtomicU64,
    pub(crate) doorbell: Doorbell,
    /// Somebody waits for what is in the image.
    pub(crate) urgent: AtomicBool,
    pub(crate) closing: AtomicBool,
    /// The committer's thread is over.
    pub(crate) ended: AtomicBool,
    failed: AtomicBool,
    /// The last attempt to prepare a segment found no space.
    pub(crate) full: AtomicBool,
    /// Since when the committer writes and syncs, in milliseconds of the clock.
    pub(crate) committing_since: AtomicU64,
    durable: watch::Sender<u64>,
    pub(super) watermark: AtomicU64,
    health: Arc<watch::Sender<Option<String>>>,
    pub(crate) preparer: Arc<PreparerBell>,
    pub(crate) gaps: Mutex<Gaps>,
    /// What is kept of segments that are gone.
    pub(crate) shelf: Shelf,
    /// Names of segments were removed, and the directory not synced since.
    pub(crate) names_unsettled: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) cold: Cold,
}

/// The segment ahead, and whether somebody waits for it. Taken once per segment.
#[derive(Default)]
pub(crate) struct Spare {
    pub(crate) ready: Option<Arc<Tail>>,
    pub(crate) wanted: bool,
}

pub(crate) struct Counters {
    commits: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    sync_micros: AtomicU64,
    sync_micros_max: AtomicU64,
    pub(crate) reclaimed: AtomicU64,
}

/// What [`Shared::new`] is given.
pub(crate) struct Parts {
    pub(crate) kind: LogKind,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_size: u64,
    pub(crate) clock: Clock,
    pub(crate) ring: Arc<Ring>,
    pub(crate) credits: Credits,
    pub(crate) tail: Arc<Tail>,
    pub(crate) recovered: Vec<Arc<Segment>>,
    pub(crate) gaps: Gaps,
    pub(crate) shelf: Shelf,
    pub(crate) health: Arc<watch::Sender<Option<String>>>,
    pub(crate) preparer: Arc<PreparerBell>,
}

impl Log {
    /// Reserves, fills and publishes one record whose payload is `parts`, concatenated. `on_durable` runs when the record
    /// is durable or never will be, even when the ticket was dropped. Concurrent callers share one sync.
    /// # Durability
    /// None yet: that is what the [`Ticket`] resolves to.
    /// # Errors
    /// [`AppendError::Full`] when no segment was ready within `limits::SEGMENT_WAIT`; nothing was written.
    /// # Cancel safety
    /// Dropping this future before it resolves means that nothing was written.
    pub async fn append(
        &self,
        kind: u8,
        flags: u8,
        parts: &[&[u8]],
        on_durable: Option<OnDurable>,
    ) -> Result<Ticket, AppendError> {
        self.append_held(kind, flags, parts, 0, on_durable).await
    }

    /// [`Self::append`] of a record that `holds` recipients hold before anybody can judge its segment dead.
    pub async fn append_held(
        &self,
        kind: u8,
        flags: u8,
        parts: &[&[u8]],
        holds: u32,
        on_durable: Option<OnDurable>,
    ) -> Result<Ticket, AppendError> {
        let shared = &self.shared;
        let len = shared.len_of(parts)?;
        let mut on_durable = on_durable;
        loop {
            let credit = shared.admit(len).await?;
            let mut pushed = None;
            let (appended, full) = shared.current.with(|tail| {
                let appended = tail.region.append(kind, flags, parts, |offset, end| {
                    tail.segment.hold(u64::from(holds));
                    let on_durable = on_durable.take();
                    pushed = Some(shared.push_waiter(tail, offset, end, on_durable));
                });
                let full = pushed.is_none().then(|| Arc::clone(tail));
                (appended, full)
            });
            shared.pay(credit, len, appended);
            if let Some((ticket, number)) = pushed {
                shared.announce(number);
                return Ok(ticket);
            }
            if let Some(tail) = full {
                shared.next_segment(appended, &tail).await?;
            }
        }
    }

    /// [`Self::append`] where nobody waits: such records may gather for `limits::LAZY_COMMIT`. Returns the position.
    pub async fn append_lazy(
        &self,
        kind: u8,
        flags: u8,
        parts: &[&[u8]],
    ) -> Result<u64, AppendError> {
        let len = self.shared.len_of(parts)?;
        loop {
            let credit = self.shared.admit(len).await?;
            let tail = self.shared.current.load_full();
            let appended = tail.region.append(kind, flags, parts, |_, _| {});
            self.shared.pay(credit, len, appended);
            if let Appended::At { offset, .. } = appended {
                self.shared.doorbell.ring_lazily();
                return Ok(tail.segment.first_position() + offset);
            }
            self.shared.next_segment(appended, &tail).await?;
        }
    }

    /// Everything below is on stable storage.
    pub fn durable(&self) -> u64 {
        self.shared.durable()
    }

    /// The durable watermark as it moves.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// A segment is kept while anybody holds a record of it. To be called before the record's `on_durable` has returned, or
    /// while something else holds the segment, or before `Spool::allow_reclaim`.
    /// # Panics
    /// When the segment is gone: a broken invariant of the caller.
    pub fn hold(&self, position: u64, recipients: u32) {
        match self.shared.segment(position) {
            Ok(segment) => segment.hold(u64::from(recipients)),
            Err(_) => panic!("position {position} is held too late"),
        }
    }

    /// Whether the segment of this position is there. One that holds a live recipient always is, unless it was lost.
    pub fn is_retained(&self, position: u64) -> bool {
        self.shared.segment(position).is_ok()
    }

    /// Positions that are in the same segment as this one, if that is there.
    pub fn segment_range(&self, position: u64) -> Option<Range<u64>> {
        let segment = self.shared.segment(position).ok()?;
        Some(segment.first_position()..segment.header.next_position())
    }

    /// Undoes `hold`. Only after the record's end is durable elsewhere: the segment may be gone at once.
    /// # Panics
    /// When more is released than was held.
    pub fn release(&self, position: u64, recipients: u32) {
        match self.shared.segment(position) {
            Ok(segment) => {
                if segment.release(u64::from(recipients)) && segment.is_closed() {
                    self.shared.preparer.ring();
                }
            }
            Err(_) => panic!("position {position} is released without being held"),
        }
    }

    /// Largest payload that a segment takes, and a batch.
    pub fn payload_max(&self) -> usize {
        self.shared.payload_max()
    }

    pub fn stat(&self) -> LogStat {
        let shared = &self.shared;
        let segments = shared.segments.load();
        let current = shared.current.load_full();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (archives, archive_bytes) = shared.shelf.total();
        LogStat {
            kind: shared.kind,
            start: self.start(),
            durable: self.durable(),
            tail: current.segment.first_position()
                + current.region.tail().min(current.segment.header.size),
            segments: segments.len() as u64,
            segment_bytes: segments.iter().map(|segment| segment.header.size).sum(),
            live: segments.iter().map(|segment| segment.live()).sum(),
            commits: count(&shared.counters.commits),
            records: count(&shared.counters.records),
            bytes_written: count(&shared.counters.bytes),
            sync_micros_total: count(&shared.counters.sync_micros),
            sync_micros_max: count(&shared.counters.sync_micros_max),
            reclaimed: count(&shared.counters.reclaimed),
            archives,
            archive_bytes,
            failed: shared.has_failed(),
            full: shared.full.load(Ordering::Relaxed),
            committing: match count(&shared.committing_since) {
                NOT_COMMITTING => Duration::ZERO,
                since => Duration::from_millis(shared.clock.unix_ms().saturating_sub(since)),
            },
        }
    }
}

impl Counters {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            commits: zero(),
            records: zero(),
            bytes: zero(),
            sync_micros: zero(),
            sync_micros_max: zero(),
            reclaimed: zero(),
        }
    }
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let watermark = parts.tail.segment.first_position() + PAGE_OFFSET;
        let mut segments = parts.recovered;
        segments.push(Arc::clone(&parts.tail.segment));
        Self {
            kind: parts.kind,
            disk: parts.disk,
            dir: parts.dir,
            segment_size: parts.segment_size,
            clock: parts.clock,
            credits: parts.credits,
            ring: parts.ring,
            current: Current::new(parts.tail),
            spare: Mutex::new(Spare::default()),
            made: AtomicU32::new(0),
            rolled: Notify::new(),
            segments: ArcSwap::from_pointee(segments),
            waiters: Queue::new(),
            arrivals: AtomicU64::new(0),
            doorbell: Doorbell::new(),
            urgent: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            committing_since: AtomicU64::new(NOT_COMMITTING),
            durable: watch::Sender::new(watermark),
            watermark: AtomicU64::new(watermark),
            health: parts.health,
            preparer: parts.preparer,
            gaps: Mutex::new(parts.gaps),
            shelf: parts.shelf,
            names_unsettled: AtomicBool::new(false),
            counters: Counters::new(),
            cold: Cold::new(),
        }
    }

    /// Everything below is on stable storage.
    pub(crate) fn durable(&self) -> u64 {
        // Acquire: partner of the release store in `advance`.
        self.watermark.load(Ordering::Acquire)
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            LogKind::Mail => "mail",
            LogKind::Event => "event",
        }
    }

    fn payload_max(&self) -> usize {
        // The header page in front, the sealing commit's page behind.
        let in_segment = self.segment_size - 2 * PAGE_OFFSET;
        in_segment.min(self.credits.total()) as usize - RECORD_HEADER
    }

    /// What a record of this payload occupies.
    pub(crate) fn len_of(&self, parts: &[&[u8]]) -> Result<u64, AppendError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.payload_max() {
            let size_bytes = frame::record_len(len) as u64;
            return Err(AppendError::TooLarge { size_bytes });
        }
        Ok(frame::padded_len(frame::record_len(len)) as u64)
    }

    /// Once there is room in the batch that is being gathered: a batch is bounded so that a sync is.
    async fn admit(&self, len: u64) -> Result<Credit<'_>, AppendError> {
        // Lazy records alone would wait for their time.
        let hurry = || {
            self.urgent.store(true, Ordering::Relaxed);
            self.doorbell.ring();
        };
        let credit = self.credits.take(len, || self.is_stopped(), hurry).await;
        match credit {
            Some(credit) if !self.is_stopped() => Ok(credit),
            _ => Err(AppendError::Stopped),
        }
    }

    pub(crate) fn pay(&self, credit: Credit<'_>, len: u64, appended: Appended) {
        match appended {
            Appended::At { .. } => credit.spend(len),
            Appended::Crossed { padding } => credit.spend(padding),
            Appended::Sealed => {}
        }
    }

    /// To be called before the record is published: the committer that sees the record then sees who waits for it. Returns
    /// the waiter's number too.
    pub(crate) fn push_waiter(
        &self,
        tail: &Tail,
        offset: u64,
        end: u64,
        on_durable: Option<OnDurable>,
    ) -> (Ticket, u64) {
        let first = tail.segment.first_position();
        let (position, end) = (first + offset, first + end);
        let (ticket, teller) = Ticket::new(position, on_durable);
        self.waiters.push(Waiter {
            position,
            end,
            teller,
        });
        let before = self.arrivals.fetch_add(1, Ordering::Relaxed);
        (ticket, before + 1)
    }

    /// The waiter of this number is there, and its record is published.
    fn announce(&self, number: u64) {
        self.urgent.store(true, Ordering::Relaxed);
        self.doorbell.ring_as(number);
        self.refuse_if_ended();
    }

    /// Waits until `tail` is not the current segment any more.
    async fn next_segment(&self, appended: Appended, tail: &Arc<Tail>) -> Result<(), AppendError> {
        if matches!(appended, Appended::Crossed { .. }) {
            self.roll(tail);
            // The seal is to be written whoever else comes.
            self.urgent.store(true, Ordering::Relaxed);
            self.doorbell.ring();
        }
        let moved = || tail.next.is_set();
        let wait = async {
            while !moved() {
                let rolled = self.rolled.notified();
                tokio::pin!(rolled);
                rolled.as_mut().enable();
                if self.is_stopped() {
                    return Err(AppendError::Stopped);
                }
                if moved() {
                    break;
                }
                if self.full.load(Ordering::Relaxed) {
                    return Err(AppendError::Full);
                }
                rolled.await;
            }
            Ok(())
        };
        if moved() {
            return Ok(());
        }
        let waited = at_most(limits::SEGMENT_WAIT, wait).await;
        waited.unwrap_or(Err(AppendError::Full))
    }

    /// The prepared segment takes over from `sealed`, at once or as soon as it is there.
    pub(crate) fn roll(&self, sealed: &Arc<Tail>) {
        let mut spare = lock(&self.spare);
        if !sealed.next.is_set() {
            match spare.ready.take() {
                Some(next) => self.link(sealed, next),
                None => spare.wanted = true,
            }
        }
        drop(spare);
        self.preparer.ring();
    }

    /// The new file is zeroed so far, from 0 to 1.
    pub(crate) fn is_made(&self, part: f64) {
        // Relaxed: a hint, nothing hangs on it.
        self.made.store((part * 1000.0) as u32, Ordering::Relaxed);
    }

    /// The segment fills faster than the one behind it comes into being. The first quarter of a segment may.
    pub(crate) fn outruns_its_spare(&self) -> bool {
        let made = f64::from(self.made.load(Ordering::Relaxed)) / 1000.0;
        self.used() > 0.25 + 0.75 * made
            && !self.full.load(Ordering::Relaxed)
            && lock(&self.spare).ready.is_none()
    }

    /// A prepared segment. Whether somebody waited for it.
    pub(crate) fn supply(&self, next: Arc<Tail>) -> bool {
        let mut spare = lock(&self.spare);
        self.is_made(0.0);
        let wanted = std::mem::take(&mut spare.wanted);
        if wanted {
            let sealed = self.current.load_full();
            self.link(&sealed, next);
        } else {
            spare.ready = Some(next);
        }
        wanted
    }

    /// Called by whoever holds the lock on `spare`.
    fn link(&self, sealed: &Tail, next: Arc<Tail>) {
        let segment = Arc::clone(&next.segment);
        self.segments.rcu(|segments| {
            let mut segments = Vec::clone(segments);
            segments.push(Arc::clone(&segment));
            segments
        });
        self.current.store(Arc::clone(&next));
        let first = sealed.next.set(next);
        assert!(first, "a segment was followed twice");
        self.rolled.notify_waiters();
        self.doorbell.ring();
    }

    /// Lets appends that wait for a segment look again.
    pub(crate) fn notify_rolled(&self) {
        self.rolled.notify_waiters();
    }

    pub(crate) fn advance(&self, watermark: u64, batch: &Batch, took: Duration) {
        // Release: partner of the acquire load in `Log::durable`.
        self.watermark.store(watermark, Ordering::Release);
        self.durable.send_replace(watermark);
        let micros = took.as_micros() as u64;
        let counters = &self.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters
            .records
            .fetch_add(u64::from(batch.count), Ordering::Relaxed);
        counters
            .bytes
            .fetch_add(batch.end - batch.from, Ordering::Relaxed);
        counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
        counters
            .sync_micros_max
            .fetch_max(micros, Ordering::Relaxed);
        metrics::SPOOL_COMMITS.add_to(self.name(), 1);
        metrics::SPOOL_RECORDS.add_to(self.name(), u64::from(batch.count));
        metrics::SPOOL_WRITTEN.add_to(self.name(), batch.end - batch.from);
        metrics::SPOOL_COMMIT_SECONDS.record(&[self.name()], took.as_secs_f64());
    }

    /// For ever: what was not synced may be gone from the page cache, and a later sync would prove nothing.
    pub(crate) fn fail(&self, error: &std::io::Error) {
        let segment = self.current.load_full().segment.number();
        let text = format!(
            "the {} log stopped: writing segment {segment:016x} failed: {error}",
            self.name()
        );
        tracing::error!(log = self.name(), segment, %error, "sync failed; the log stops for good");
        // Release: partner of `has_failed`.
        self.failed.store(true, Ordering::Release);
        self.health.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(text);
            first
        });
        self.wake_everybody();
    }

    /// How much of the current segment was reserved, from 0 to 1.
    pub(crate) fn used(&self) -> f64 {
        let tail = self.current.load_full();
        (tail.region.tail() as f64 / self.segment_size as f64).min(1.0)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.has_failed() || self.closing.load(Ordering::Relaxed)
    }

    /// No append from now on; the committer commits what is there and ends.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.doorbell.ring();
        self.wake_everybody();
    }

    fn wake_everybody(&self) {
        self.rolled.notify_waiters();
        self.credits.wake();
    }

    /// An append that overlapped the end of the committer's thread answers its own waiter. To be called when the doorbell
    /// was rung.
    pub(crate) fn refuse_if_ended(&self) {
        // Behind the doorbell's fence, whose partner here is in `Committer::end`.
        if self.ended.load(Ordering::Relaxed) {
            commit::refuse_all(self);
        }
    }
}

pub(crate) const NOT_COMMITTING: UnixMs = 0;
