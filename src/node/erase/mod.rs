//! Erasing what the spool holds of somebody: a job of the running node, or of a command while no node runs.
//!
//! Promises: a message is erased only when every recipient of it has ended; nothing about whom it is kept or logged; done
//! again it finds what is left, so that whatever interrupts it, the same order finishes it.
//! Does not know: suppressions, which are the account's.
//!
//! How: portions of messages are looked up in both logs ([`search`]); those with recipients that still wait refuse the
//! order, or are cancelled through the scheduler and waited for. Then notices about them are erased, their events, their content,
//! and their records last, so that a message is found again as long as anything of it is left.

mod matching;
mod search;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{self, Handle, Runtime};

use super::admin::Backend;
use crate::clock::{self, Clock, UnixMs, Zone, rfc3339};
use crate::http::{AdminBackend, AdminError, Command, Selection, Verb, wire};
use crate::limits;
use crate::mail::MessageId;
use crate::readers::statistics::Statistics;
use crate::readers::tables::discard_all;
use crate::spool::disk::real::RealDisk;
use crate::spool::{Damage, EraseError, Frame, LogKind, OpenError, Options, Replay, Spool};

pub use matching::{Address, Who};
pub use search::Query;
use search::{Search, Stopped};

/// Orders that were given since the start, newest last.
#[derive(Default)]
pub(super) struct Erasures {
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    last_id: u64,
    known: VecDeque<wire::Erasure>,
}

impl Erasures {
    /// Starts a job; one runs at a time.
    pub(super) fn begin(
        backend: &Backend,
        what: &wire::NewErasure,
    ) -> Result<wire::Erasure, AdminError> {
        let query = query(what).map_err(AdminError::Invalid)?;
        let erasures = Arc::clone(&backend.erasures);
        let begun = {
            let mut jobs = erasures.jobs();
            if jobs.known.iter().any(|job| job.state == RUNNING) {
                return Err(AdminError::Conflict(
                    "another erasure is running; its end is to be waited for".to_owned(),
                ));
            }
            jobs.last_id += 1;
            let job = wire::Erasure {
                id: jobs.last_id,
                state: RUNNING.to_owned(),
                started_at: rfc3339(backend.clock.unix_ms()),
                dry_run: what.dry_run,
                ..wire::Erasure::default()
            };
            jobs.known.push_back(job.clone());
            let surplus = jobs.known.len().saturating_sub(limits::ERASURES_KNOWN);
            jobs.known.drain(..surplus);
            job
        };
        let (backend, what, id) = (backend.clone(), what.clone(), begun.id);
        let runtime = Handle::current();
        // Not one of the runtime's: the node does not wait for it when it stops. What it has begun is in a journal.
        let thread = std::thread::Builder::new().name("erase".to_owned());
        let started = thread.spawn(move || erasures.run(&backend, &runtime, &query, &what, id));
        started
            .map(|_| begun)
            .map_err(|error| AdminError::Unavailable(format!("no thread: {error}")))
    }

    pub(super) fn look(&self, id: u64) -> Result<wire::Erasure, AdminError> {
        let jobs = self.jobs();
        let job = jobs.known.iter().find(|job| job.id == id);
        job.cloned().ok_or_else(|| {
            AdminError::NotFound(format!(
                "there is no erasure {id} (any more); after a restart of the node, order it again: it finds what is left"
            ))
        })
    }

    fn run(
        &self,
        backend: &Backend,
        runtime: &Handle,
        query: &Query,
        what: &wire::NewErasure,
        id: u64,
    ) {
        low_priority();
        let cancel = |id: MessageId| {
            let order = backend.operate(cancel(), Selection::of_message(id));
            let affected = runtime.block_on(order).map_err(|e| e.to_string())?;
            Ok(affected.ready + affected.deferred + affected.in_flight)
        };
        let task = Task {
            spool: &backend.spool,
            clock: backend.clock,
            query,
            dry_run: what.dry_run,
            cancel: what.cancel.then_some(&cancel),
            tell: &|erasure| {
                self.change(id, |job| copy_counts(job, erasure));
                !*backend.stopping.borrow()
            },
            forget: &|events| {
                let forgotten = async {
                    backend.bounces.reader().forget(events).await?;
                    // Readers go on in between.
                    for events in events.chunks(limits::ERASE_AT_ONCE) {
                        backend.activity.reader().forget(events).await?;
                    }
                    // What is erased was counted.
                    backend.statistics.reader().forget(events).await
                };
                runtime.block_on(forgotten).map_err(|e| e.to_string())
            },
            sum: RefCell::default(),
        };
        // What they are about to send would be missed.
        let told = backend.notices.told(backend.spool.events.durable());
        let told = runtime
            .block_on(async { tokio::time::timeout(limits::ERASE_NOTICES_WAIT, told).await });
        if told.is_err() {
            tracing::warn!(
                "notices by mail are behind: one that is sent after this erasure may name who is erased; erase again later"
            );
        }
        let result = {
            // A copy that is made after the search would be missed.
            let _still = backend.places.hold_still();
            task.run()
        };
        let ended = end(task.sum.into_inner(), result, backend.clock.unix_ms());
        tracing::info!(
            state = ended.state,
            dry_run = what.dry_run,
            messages = ended.messages,
            mail_records = ended.mail_records,
            event_records = ended.event_records,
            erased = ended.erased,
            already_erased = ended.already_erased,
            unerasable = ended.unerasable,
            busy = ended.busy,
            cancelled = ended.cancelled,
            live = ended.live_count,
            error = ended.error,
            "an erasure has ended"
        );
        self.change(id, |job| {
            copy_counts(job, &ended);
            job.state.clone_from(&ended.state);
            job.ended_at.clone_from(&ended.ended_at);
        });
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut wire::Erasure)) {
        if let Some(job) = self.jobs().known.iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All but who it is and where it stands.
fn copy_counts(job: &mut wire::Erasure, counts: &wire::Erasure) {
    *job = wire::Erasure {
        id: job.id,
        state: std::mem::take(&mut job.state),
        started_at: std::mem::take(&mut job.started_at),
        ended_at: job.ended_at.take(),
        dry_run: job.dry_run,
        ..counts.clone()
    };
}

/// Parses an order.
pub fn query(what: &wire::NewErasure) -> Result<Query, String> {
    let address = |text: &str| {
        Address::parse(text, what.exact).map_err(|error| format!("`{text}` is no mailbox: {error}"))
    };
    let who = match (&what.recipient, &what.sender, &what.message) {
        (Some(text), None, None) => Who::Recipient(address(text)?),
        (None, Some(text), None) => Who::Sender(address(text)?),
        (None, None, Some(text)) => {
            let id = text.parse();
            Who::Message(id.map_err(|_| format!("`{text}` is no message id"))?)
        }
        _ => return Err("give exactly one of recipient, sender, message".to_owned()),
    };
    let before = what.before.as_deref().map(|text| {
        clock::parse_rfc3339(text).ok_or_else(|| format!("`{text}` is no time (RFC 3339)"))
    });
    Ok(Query {
        who,
        server: what.server.clone(),
        before: before.transpose()?,
    })
}

/// Erases with no node running: takes the data directory's lock. Nothing can be cancelled then. `zone` is that of statistics
/// where none were made yet.
pub fn without_node(
    options: Options,
    zone: Option<Zone>,
    what: &wire::NewErasure,
    tell: &dyn Fn(&wire::Erasure),
) -> Result<wire::Erasure, OpenError> {
    let clock = Clock::start();
    let query = match query(what) {
        Ok(query) => query,
        Err(error) => {
            let failed = wire::Erasure::default();
            return Ok(end(failed, Err(Trouble::Other(error)), clock.unix_ms()));
        }
    };
    let data_dir = options.data_dir.clone();
    let spool = Spool::open(Arc::new(RealDisk::new()), options, clock, &mut Ignore)?;
    let spool = Arc::new(spool);
    let counter = match what.dry_run {
        true => None,
        false => match Counter::start(&spool, &data_dir, zone, clock) {
            Ok(counter) => Some(counter),
            Err(error) => {
                let failed = wire::Erasure::default();
                let why = format!(
                    "nothing was erased: what is to be erased cannot be counted for the statistics first: {error}"
                );
                return Ok(end(failed, Err(Trouble::Other(why)), clock.unix_ms()));
            }
        },
    };
    let sum = wire::Erasure {
        started_at: rfc3339(clock.unix_ms()),
        dry_run: what.dry_run,
        ..wire::Erasure::default()
    };
    let task = Task {
        spool: &spool,
        clock,
        query: &query,
        dry_run: what.dry_run,
        cancel: None,
        tell: &|sum| {
            tell(sum);
            true
        },
        forget: &|events| {
            if let Some(counter) = &counter {
                counter.keep(events)?;
            }
            discard_all(&data_dir).map_err(|e| e.to_string())
        },
        sum: RefCell::new(sum),
    };
    let result = task.run();
    let sum = task.sum.into_inner();
    if let Some(counter) = counter {
        counter.close();
    }
    Ok(end(sum, result, clock.unix_ms()))
}

/// The statistics while no node runs: they have counted all that is erased.
struct Counter {
    runtime: Runtime,
    statistics: Statistics,
}

impl Counter {
    fn start(
        spool: &Arc<Spool>,
        dir: &Path,
        zone: Option<Zone>,
        clock: Clock,
    ) -> Result<Self, String> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let zone_there = runtime.block_on(Statistics::zone_in(dir));
        // What is counted now is counted for good.
        let zone = zone_there.or(zone).ok_or(
            "nothing says in which time zone; name the daemon's configuration with --config",
        )?;
        let statistics = Statistics::open(Arc::clone(spool), dir, zone, clock);
        let statistics = statistics.map_err(|error| error.to_string())?;
        let counted = runtime.block_on(statistics.count_all());
        counted.map_err(|error| error.to_string())?;
        Ok(Self {
            runtime,
            statistics,
        })
    }

    /// Sees to it that these events are not needed any more.
    fn keep(&self, events: &[u64]) -> Result<(), String> {
        let kept = self.statistics.reader().forget(events);
        self.runtime.block_on(kept).map_err(|e| e.to_string())
    }

    fn close(self) {
        self.runtime.block_on(self.statistics.reader().close());
    }
}

/// The search reads the logs itself.
struct Ignore;

impl Replay for Ignore {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}
    fn damage(&mut self, _: LogKind, _: &Damage) {}
}

/// Why it ended early.
#[derive(Debug)]
enum Trouble {
    /// Recipients still wait, and were not to be cancelled or did not end in time.
    Live(Vec<MessageId>),
    Stopped,
    Disk(EraseError),
    Other(String),
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Asked => Self::Stopped,
            Stopped::Unread(error) => Self::Other(format!(
                "the spool cannot be searched now: {error}; order it again, it finds what is left"
            )),
        }
    }
}

impl From<EraseError> for Trouble {
    fn from(error: EraseError) -> Self {
        Self::Disk(error)
    }
}

fn end(sum: wire::Erasure, result: Result<(), Trouble>, now: UnixMs) -> wire::Erasure {
    let mut ended = wire::Erasure {
        ended_at: Some(rfc3339(now)),
        ..sum
    };
    let (state, error) = match result {
        Ok(()) => (DONE, None),
        Err(Trouble::Live(live)) => {
            ended.live_count = live.len() as u64;
            let first = live.iter().take(limits::ERASURE_LIVE_SHOWN);
            ended.live = first.map(ToString::to_string).collect();
            (REFUSED, None)
        }
        Err(Trouble::Stopped) => {
            let why = "the node stopped; order it again, it finds what is left";
            (FAILED, Some(why.to_owned()))
        }
        Err(Trouble::Disk(error)) => (
            FAILED,
            Some(format!(
                "{error}; what was begun is finished when the node starts again"
            )),
        ),
        Err(Trouble::Other(error)) => (FAILED, Some(error)),
    };
    ended.state = state.to_owned();
    ended.error = error;
    ended
}

/// One order under way.
struct Task<'a> {
    spool: &'a Spool,
    clock: Clock,
    query: &'a Query,
    dry_run: bool,
    /// Cancels the waiting recipients of a message; how many there were.
    cancel: Option<&'a dyn Fn(MessageId) -> Result<u64, String>>,
    /// Takes what is known so far; `false` to stop.
    tell: &'a dyn Fn(&wire::Erasure) -> bool,
    /// Makes readers forget these events.
    forget: &'a dyn Fn(&[u64]) -> Result<(), String>,
    sum: RefCell<wire::Erasure>,
}

impl Task<'_> {
    fn run(&self) -> Result<(), Trouble> {
        let on = |bytes| {
            let mut sum = self.sum.borrow_mut();
            sum.scanned_bytes += bytes;
            sum.total_bytes = sum.total_bytes.max(sum.scanned_bytes);
            (self.tell)(&sum)
        };
        let mut search = Search::new(self.spool, self.query, &on);
        self.sum.borrow_mut().total_bytes = search.total();
        loop {
            let more = search.next()?;
            self.portion(&mut search)?;
            if !more {
                return Ok(());
            }
        }
    }

    fn portion(&self, search: &mut Search<'_>) -> Result<(), Trouble> {
        let live = search.live();
        match self.cancel {
            _ if live.is_empty() => {}
            _ if self.dry_run => self.count(|sum| {
                sum.live_count += live.len() as u64;
                let room = limits::ERASURE_LIVE_SHOWN.saturating_sub(sum.live.len());
                sum.live
                    .extend(live.iter().take(room).map(ToString::to_string));
            }),
            Some(cancel) => self.cancel(search, live, cancel)?,
            None => return Err(Trouble::Live(live)),
        }
        let [notice_parts, notices] = search.notices();
        let [parts, messages] = search.mail();
        let mail = [&notice_parts, &notices, &parts, &messages];
        self.count(|sum| {
            sum.messages += search.messages();
            sum.mail_records += mail.iter().map(|found| found.len() as u64).sum::<u64>();
            sum.event_records += search.events.len() as u64;
        });
        if !self.dry_run {
            // Before, so that a crash in the middle leaves nothing behind; and after, since they, or the mail records to which
            // events of other recipients lead, may have been read meanwhile.
            (self.forget)(&search.events).map_err(Trouble::Other)?;
            self.erase(LogKind::Mail, &notice_parts)?;
            self.erase(LogKind::Mail, &notices)?;
            self.erase(LogKind::Event, &search.events)?;
            self.erase(LogKind::Mail, &parts)?;
            self.erase(LogKind::Mail, &messages)?;
            (self.forget)(&search.events).map_err(Trouble::Other)?;
        }
        Ok(())
    }

    /// Waits until all of them have ended: an attempt that is under way decides for itself.
    fn cancel(
        &self,
        search: &mut Search<'_>,
        mut live: Vec<MessageId>,
        cancel: &dyn Fn(MessageId) -> Result<u64, String>,
    ) -> Result<(), Trouble> {
        let started = self.clock.instant();
        let mut asked: Option<Instant> = None;
        while !live.is_empty() {
            let now = self.clock.instant();
            if now.duration_since(started) > limits::ERASE_PATIENCE {
                return Err(Trouble::Live(live));
            }
            if asked.is_none_or(|asked| now.duration_since(asked) > CANCEL_AGAIN) {
                for id in &live {
                    let cancelled = cancel(*id).map_err(Trouble::Other)?;
                    if asked.is_none() {
                        self.count(|sum| sum.cancelled += cancelled);
                    }
                }
                asked = Some(now);
            }
            std::thread::park_timeout(CANCEL_POLL);
            search.catch_up()?;
            live = search.live();
        }
        Ok(())
    }

    fn erase(&self, log: LogKind, positions: &[u64]) -> Result<(), Trouble> {
        for positions in positions.chunks(limits::ERASE_AT_ONCE) {
            let erased = self.spool.erase(log, positions)?;
            self.count(|sum| {
                sum.erased += erased.erased;
                sum.already_erased += erased.already;
                sum.unerasable += erased.unerasable;
                sum.busy += erased.busy;
            });
            if !(self.tell)(&self.sum.borrow()) {
                return Err(Trouble::Stopped);
            }
        }
        Ok(())
    }

    fn count(&self, count: impl FnOnce(&mut wire::Erasure)) {
        count(&mut self.sum.borrow_mut());
    }
}

/// Others go first. Where it is not possible, it goes as it is.
fn low_priority() {
    let _ = rustix::process::nice(10);
}

const RUNNING: &str = "running";
const DONE: &str = "done";
const REFUSED: &str = "refused";
const FAILED: &str = "failed";
/// How often it is looked whether the cancelled have ended.
const CANCEL_POLL: Duration = Duration::from_millis(100);
/// A message that compaction moved between look-up and order was missed: it is cancelled again.
const CANCEL_AGAIN: Duration = Duration::from_secs(10);

fn cancel() -> Command {
    Command {
        verb: Verb::Cancel,
        reason: None,
    }
}
