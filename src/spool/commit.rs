//! Group commit: one thread per log that writes batches, syncs them, and tells who waits.
//!
//! Promises: nobody is told that a record is durable before a sync that began after the record was written has
//! succeeded; [`Receipt`] is made here and nowhere else; after a failed write or sync nothing is written any more and
//! everybody, for ever, is told that the log has stopped; every waiter is answered exactly once.
//! Does not know: what is in the records.
//!
//! The batch adapts by itself: while one sync runs the next batch gathers. A single writer is never delayed. Where several
//! were waiting, those who were just answered are usually about to append again: the next batch is held open until as many
//! are waiting as before, at most for half the time of a sync, since missing it would cost them a whole one. Measured
//! with 64 writers of 10 KB on the reference machine (`benches/spool`): 62 records a sync instead of 34. The thread sleeps
//! meanwhile, and the last of them wakes it: once a batch, whatever its size. A single writer's next record is looked for
//! a moment before the thread sleeps, since to be woken would take a third of a sync.
//! Records that nobody waits for gather for up to `limits::LAZY_COMMIT`.
//!
//! Where the log fills a segment faster than a disk can zero the file for the next one, each batch waits a little instead of
//! one append for the rest of the file: new files come at the disk's pace either way (`benches/spool`, part *rolls*).
//!
//! A panic here aborts the process: half a commit is a state that nobody understands.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use spool_format::RunningHash;
use spool_format::layout::PAGE_OFFSET;
use tokio::sync::oneshot;

use super::disk::write_all_at;
use super::log::{AppendError, NOT_COMMITTING, Shared};
use super::reserve::Batch;
use super::roll::Tail;
use super::sync::{Ordering, fence, yield_now};
use crate::limits;

/// Proof that a record is durable: the value from which an acknowledgement is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    position: u64,
}

impl Receipt {
    pub fn position(&self) -> u64 {
        self.position
    }
}

/// Runs on the committer's thread once the record is durable, or will never be; must not block.
pub type OnDurable = Box<dyn FnOnce(Result<Receipt, AppendError>) + Send>;

/// An appended record on its way to the disk.
///
/// # Durability
/// `Ok`: a power cut cannot lose the record. `Err`: it may or may not survive; nobody has been told that it did.
/// # Cancel safety
/// Dropping the ticket does not withdraw the record.
#[must_use = "the record is not durable yet"]
#[derive(Debug)]
pub struct Ticket {
    position: u64,
    answer: oneshot::Receiver<Result<Receipt, AppendError>>,
}

impl Ticket {
    pub(crate) fn new(position: u64, on_durable: Option<OnDurable>) -> (Self, Teller) {
        let (tell, answer) = oneshot::channel();
        (Self { position, answer }, Teller { tell, on_durable })
    }

    /// Where the record is, or will be.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// [`Self::await`](Future) for a thread outside the reactor.
    pub fn wait(self) -> Result<Receipt, AppendError> {
        self.answer
            .blocking_recv()
            .unwrap_or(Err(AppendError::Stopped))
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(AppendError::Stopped)))
    }
}

/// The committer's end of a ticket.
pub(crate) struct Teller {
    tell: oneshot::Sender<Result<Receipt, AppendError>>,
    on_durable: Option<OnDurable>,
}

/// Somebody who waits for everything below `end`.
pub(crate) struct Waiter {
    pub(crate) position: u64,
    pub(crate) end: u64,
    pub(crate) teller: Teller,
}

impl Waiter {
    fn answer(self, durable: bool) {
        let answer = if durable {
            Ok(Receipt {
                position: self.position,
            })
        } else {
            Err(AppendError::Stopped)
        };
        if let Some(on_durable) = self.teller.on_durable {
            on_durable(answer);
        }
        // The ticket may be gone.
        let _ = self.teller.tell.send(answer);
    }
}

/// The state of the committer's thread.
pub(crate) struct Committer {
    log: Arc<Shared>,
    tail: Arc<Tail>,
    /// Where the next batch begins.
    from: u64,
    hash: RunningHash,
    /// The segment is sealed and durable; the next one is not there yet.
    finished: bool,
    /// Waiters of the batch that is being gathered.
    later: Vec<Waiter>,
    lazy_since: Option<Instant>,
    /// Answered so far; with `Shared::arrivals` it tells how many are waiting.
    answered: u64,
    /// How many were answered by the last batch or waiting when it was done: so many writers there are.
    writers: u64,
    /// Until then the next batch is held open for them.
    held_until: Instant,
    /// Until then the next append is likely, and cheaper to look for than to be woken for.
    awake_until: Option<Instant>,
}

impl Committer {
    pub(crate) fn new(log: Arc<Shared>) -> Self {
        let tail = log.current.load_full();
        let hash = RunningHash::start(&tail.segment.header);
        Self {
            held_until: log.clock.instant(),
            log,
            tail,
            from: PAGE_OFFSET,
            hash,
            finished: false,
            later: Vec::new(),
            lazy_since: None,
            answered: 0,
            writers: 0,
            awake_until: None,
        }
    }

    /// Until the log is closed.
    pub(crate) fn run(mut self) {
        let _abort = AbortOnPanic;
        self.log.doorbell.belongs_to_me();
        while self.turn() {}
        self.end();
    }

    /// Commits what there is, or sleeps until there may be something. `false`: the log is closed, and all is done.
    pub(crate) fn turn(&mut self) -> bool {
        // Relaxed: `sleep` looks again behind its fence.
        let closing = self.log.closing.load(Ordering::Relaxed);
        self.move_on();
        if self.log.has_failed() {
            self.refuse();
        }
        match self.patience(closing) {
            _ if self.log.has_failed() && closing => return false,
            Some(Duration::ZERO) => self.commit(),
            None if closing => return false,
            wait => self.sleep(wait),
        }
        true
    }

    /// How long the next commit may wait: not at all, a while, or without bound since there is nothing.
    fn patience(&mut self, closing: bool) -> Option<Duration> {
        if self.finished || self.log.has_failed() || self.tail.region.tail() == self.from {
            self.lazy_since = None;
            return None;
        }
        if closing || self.log.urgent.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let now = self.log.clock.instant();
        let since = *self.lazy_since.get_or_insert(now);
        Some((since + LAZY).saturating_duration_since(now))
    }

    fn sleep(&mut self, at_most: Option<Duration>) {
        self.gather();
        if let Some(until) = self.awake_until.take() {
            while self.log.clock.instant() < until {
                if self.log.urgent.load(Ordering::Relaxed) {
                    return;
                }
                yield_now();
            }
        }
        let (log, tail, from) = (&self.log, &self.tail, self.from);
        let lazy = at_most.is_some();
        log.doorbell.sleep(at_most, || {
            if log.has_failed() {
                // Only to refuse those who came too late.
                return log.urgent.swap(false, Ordering::Relaxed)
                    || log.closing.load(Ordering::Relaxed);
            }
            let waiting = log.urgent.load(Ordering::Relaxed) || !lazy;
            log.closing.load(Ordering::Relaxed)
                || (self.finished && tail.next.is_set())
                || (!self.finished && waiting && tail.region.tail() != from)
        });
    }

    /// To the next segment, when this one is done with.
    fn move_on(&mut self) {
        if !self.finished {
            return;
        }
        if let Some(next) = self.tail.next.get() {
            self.hash = RunningHash::start(&next.segment.header);
            self.tail = next;
            self.from = PAGE_OFFSET;
            self.finished = false;
        }
    }

    fn commit(&mut self) {
        self.lazy_since = None;
        self.keep_pace();
        self.gather();
        // Before the batch is closed: whoever asks from now on may have missed it, and is asked for again.
        self.log.urgent.store(false, Ordering::Relaxed);
        let batch = self.close_batch();
        let began = self.log.clock.instant();
        let since = &self.log.committing_since;
        since.store(self.log.clock.unix_ms(), Ordering::Relaxed);
        let written = self
            .tail
            .region
            .show(&batch, |bytes| {
                write_all_at(self.tail.file.as_ref(), bytes, batch.from)
            })
            .and_then(|()| self.tail.file.sync());
        since.store(NOT_COMMITTING, Ordering::Relaxed);
        match written {
            Ok(()) => {
                let took = self.log.clock.instant() - began;
                self.complete(&batch, took);
            }
            Err(error) => {
                self.log.fail(&error);
                self.refuse();
            }
        }
    }

    /// Lets the next segment catch up, but for a moment only.
    fn keep_pace(&self) {
        if cfg!(feature = "loom") {
            // Time is not modelled, and nothing hangs on it.
            return;
        }
        let clock = self.log.clock;
        let until = clock.instant() + PACE_MAX;
        while !self.log.is_stopped() && self.log.outruns_its_spare() && clock.instant() < until {
            std::thread::sleep(PACE_STEP);
        }
    }

    fn waiting(&self) -> u64 {
        let arrivals = self.log.arrivals.load(Ordering::Relaxed);
        // A waiter is counted after it was pushed, so it may be answered before it is counted.
        arrivals.saturating_sub(self.answered)
    }

    /// Holds the batch open for the writers that were there a moment ago.
    fn gather(&self) {
        let all_here = || self.waiting() >= self.writers || self.log.is_stopped();
        while self.writers > 1 && !all_here() {
            let left = self
                .held_until
                .saturating_duration_since(self.log.clock.instant());
            if left.is_zero() {
                break;
            }
            let last = self.answered + self.writers;
            self.log.doorbell.sleep_until_visited(last, left, all_here);
        }
    }

    fn close_batch(&mut self) -> Batch {
        let mut spins = 0_u32;
        let batch = self.tail.region.close(self.from, &mut self.hash, || {
            // A writer is copying; it holds no lock and waits for nothing, but may have lost its processor.
            spins += 1;
            // loom has to be told of every turn of a loop.
            if spins.is_multiple_of(SPINS) || cfg!(feature = "loom") {
                yield_now();
            } else {
                std::hint::spin_loop();
            }
        });
        self.log.credits.give_back(batch.paid);
        if batch.sealed {
            // A commit that filled the segment has nobody else to roll it.
            self.log.roll(&self.tail);
            // Who asked may have been asking for the next segment.
            self.log.urgent.store(true, Ordering::Relaxed);
        }
        batch
    }

    fn complete(&mut self, batch: &Batch, took: Duration) {
        let watermark = self.tail.segment.first_position() + batch.end;
        self.tail.segment.extend(batch.end);
        self.tail.region.clear(batch);
        self.log.advance(watermark, batch, took);
        let (now, later) = self.take_waiters(watermark);
        self.later = later;
        self.answered += now.len() as u64;
        self.writers = now.len() as u64 + self.waiting();
        let alone = now.len() == 1;
        for waiter in now {
            waiter.answer(true);
        }
        let now = self.log.clock.instant();
        self.held_until = now + (took / 2).min(GATHER_MAX);
        self.awake_until = alone.then_some(now + took.min(AWAKE_MAX));
        self.from = batch.end;
        if batch.sealed {
            // All its waiters are answered, so all holds that they took are taken: it may be judged.
            self.tail.segment.close();
            self.finished = true;
            self.log.preparer.ring();
        }
    }

    /// Those at or below the watermark, and the others.
    fn take_waiters(&mut self, watermark: u64) -> (Vec<Waiter>, Vec<Waiter>) {
        let mut all = std::mem::take(&mut self.later);
        while let Some(waiter) = self.log.waiters.pop() {
            all.push(waiter);
        }
        all.into_iter().partition(|waiter| waiter.end <= watermark)
    }

    fn refuse(&mut self) {
        for waiter in std::mem::take(&mut self.later) {
            waiter.answer(false);
        }
        refuse_all(&self.log);
    }

    fn end(mut self) {
        // Partner: `Shared::refuse_if_ended`. Either this thread sees a late waiter, or its writer sees the flag.
        self.log.ended.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.refuse();
    }
}

pub(crate) fn refuse_all(log: &Shared) {
    while let Some(waiter) = log.waiters.pop() {
        waiter.answer(false);
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Real time would make a model end differently each time.
const LAZY: Duration = if cfg!(feature = "loom") {
    Duration::from_secs(86_400)
} else {
    limits::LAZY_COMMIT
};
/// How long a batch is held open for writers that may come back.
const GATHER_MAX: Duration = Duration::from_micros(if cfg!(feature = "loom") { 0 } else { 500 });
/// How long the thread stays awake after a commit at most. To be woken costs 30 to 50 µs on a virtual machine, a sync
/// on a good disk 100.
const AWAKE_MAX: Duration = Duration::from_micros(if cfg!(feature = "loom") { 0 } else { 100 });
/// How long a batch waits for the next segment to be made, at most: a hundred batches fill a segment, and a disk that
/// writes 50 MB/s zeroes one in a little more than a second.
const PACE_MAX: Duration = Duration::from_millis(12);
const PACE_STEP: Duration = Duration::from_micros(250);
/// Looks at a writer's progress between two offers of the processor to somebody else.
const SPINS: u32 = 64;
