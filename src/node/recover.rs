//! From the spool to the scheduler at a start: what lives, in slices, while mail flows already.
//!
//! Promises: a recipient that was handed over is final and its segments are held, so its delivery may begin while
//! others are still being read; segments may be reclaimed only when the last one was handed over; how far it is can be
//! asked at any time. Does not know the logs: [`Backlog`] tells who lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use spool_format::{LiveMessage, MessageRecord, Origin, TAG_UNKNOWN};
use tokio::sync::mpsc;

use super::compact::Places;
use super::policies::Policies;
use super::pools::PoolPlan;
use super::schedule::Schedule;
use super::systemd;
use crate::clock::{Clock, UnixMs};
use crate::config::{PoolId, Retry, StreamKind};
use crate::limits;
use crate::mail::{MessageId, TestDomains};
use crate::metrics;
use crate::queue::{FlowName, Known, Life, NewRecipient, Tag};
use crate::spool::{
    Backlog, BacklogError, Damage, Frame, Log, LogKind, RecordError, Replay, Spool,
};

/// How far a start is: for `/readyz`, the service manager and the log.
pub(super) struct Progress {
    clock: Clock,
    started: std::time::Instant,
    /// What is not done yet, in words; empty: nothing.
    word: Mutex<String>,
    told_at: AtomicU64,
}

impl Progress {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            started: clock.instant(),
            word: Mutex::new("opening the spool".to_owned()),
            told_at: AtomicU64::new(clock.unix_ms()),
        }
    }

    /// Why the node is not ready, if recovery is the reason.
    pub(super) fn word(&self) -> Option<String> {
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        (!word.is_empty()).then(|| word.clone())
    }

    fn set(&self, word: String) {
        let now = self.clock.unix_ms();
        let told = self.told_at.load(Ordering::Relaxed);
        if now.saturating_sub(told) >= TELL_MS {
            self.told_at.store(now, Ordering::Relaxed);
            systemd::status(&word);
            tracing::info!("{word}");
        }
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = word;
    }

    fn logs(&self, log: LogKind, segments: usize, of: usize) {
        let log = log_name(log);
        self.set(format!(
            "recovering the {log} log: {segments} of {of} segments"
        ));
    }

    fn recipients(&self, recovered: u64, of: u64) {
        self.set(format!(
            "recovering queued mail: {recovered} of at most {of} recipients"
        ));
    }

    /// Everybody who lives is with the scheduler.
    pub(super) fn end(&self, recipients: u64) {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = String::new();
        let seconds = self.clock.instant().duration_since(self.started);
        let seconds = seconds.as_secs_f64();
        metrics::SPOOL_RECOVERY_SECONDS.set(seconds);
        systemd::status(&format!("ready; {recipients} recipients were recovered"));
        tracing::info!(recipients, seconds, "queued mail recovered");
    }
}

/// Looks on while the spool is opened.
pub(super) struct Watch {
    progress: Arc<Progress>,
    /// Places of the mail and of the event log that could not be read; each was reported when it was met.
    pub(super) damaged: [u64; 2],
}

impl Watch {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        let damaged = [0; 2];
        Self { progress, damaged }
    }

    fn count(&mut self, log: LogKind) {
        self.damaged[usize::from(log == LogKind::Event)] += 1;
    }
}

impl Replay for Watch {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}

    fn damage(&mut self, log: LogKind, damage: &Damage) {
        let Damage {
            segment,
            offset,
            len,
            reason,
            acknowledged,
        } = damage;
        if *acknowledged {
            self.count(log);
            metrics::SPOOL_DAMAGE.add_to(log_name(log), 1);
            tracing::error!(
                ?log,
                segment,
                offset,
                len,
                reason,
                "damaged spool: these bytes are skipped, the rest goes on; see `posthaste spool verify`"
            );
        } else {
            tracing::info!(
                ?log,
                segment,
                offset,
                len,
                reason,
                "a write that a crash cut short; it was never acknowledged"
            );
        }
    }

    fn unreadable(&mut self, log: LogKind, position: u64, error: RecordError) {
        self.count(log);
        match log {
            LogKind::Mail => {
                tracing::error!(position, %error, "message record cannot be read; it is kept and not delivered");
            }
            LogKind::Event => tracing::error!(position, %error, "event record cannot be read"),
        }
    }

    fn progress(&mut self, log: LogKind, segments: usize, of: usize) {
        self.progress.logs(log, segments, of);
    }
}

fn log_name(log: LogKind) -> &'static str {
    match log {
        LogKind::Mail => "mail",
        LogKind::Event => "event",
    }
}

/// Live recipients, already held, on their way to the scheduler.
pub(super) struct Slice {
    /// Numbered on from the slice before.
    domains: Vec<Arc<str>>,
    /// Likewise.
    origins: Vec<Origin>,
    pub(super) recipients: Vec<Restored>,
    /// Those with attempts that may have delivered them: how many.
    pub(super) ambiguous: Vec<(MessageId, u16, u8)>,
}

pub(super) struct Restored {
    position: u64,
    accepted_at: UnixMs,
    life: Life,
    next_attempt: UnixMs,
    /// [`MessageId::random`] of its message.
    message: u64,
    /// If directives ask for it.
    tag: Option<Arc<str>>,
    /// Else [`spool_format::tag_mark`] of it.
    mark: u16,
    domain: u32,
    origin: u32,
    pool: PoolId,
    number: u16,
    attempts: u16,
    /// Its *accepted* event is in the log.
    pub(super) announced: bool,
    /// Taken only to be bounced; the reason is in the record.
    pub(super) refused: bool,
}

/// Where the dispatcher takes them from.
pub(super) struct Restoring {
    slices: mpsc::Receiver<Slice>,
    domains: Vec<(Arc<str>, Known)>,
    origins: Vec<Origin>,
    recovered: u64,
    progress: Arc<Progress>,
    spool: Arc<Spool>,
}

impl Restoring {
    /// The next slice; `None`: that was all.
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Slice> {
        let slice = self.slices.recv().await;
        match &slice {
            Some(slice) => self.note(slice),
            None if self.spool.is_reclaiming() => self.progress.end(self.recovered),
            // The reader gave up, and the node ends.
            None => {}
        }
        slice
    }

    /// One that is there already.
    pub(super) fn try_next(&mut self) -> Option<Slice> {
        let slice = self.slices.try_recv().ok()?;
        self.note(&slice);
        Some(slice)
    }

    fn note(&mut self, slice: &Slice) {
        let new = slice.domains.iter();
        self.domains
            .extend(new.map(|domain| (Arc::clone(domain), Known::default())));
        self.origins.extend(slice.origins.iter().cloned());
        self.recovered += slice.recipients.len() as u64;
    }

    /// As the scheduler takes it, and where its queue was found the last time.
    pub(super) fn recipient<'a>(
        &'a mut self,
        restored: &'a Restored,
    ) -> (NewRecipient<'a>, &'a mut Known) {
        let (domain, known) = &mut self.domains[restored.domain as usize];
        let origin = &self.origins[restored.origin as usize];
        let new = NewRecipient {
            position: restored.position,
            number: restored.number,
            pool: restored.pool,
            domain,
            flow: FlowName {
                server: origin.server_id,
                server_name: &origin.server_name,
                stream: &origin.stream_id,
            },
            message: restored.message,
            tag: Some(match &restored.tag {
                Some(tag) => Tag::Text(tag),
                None => Tag::Mark(restored.mark),
            }),
            accepted_at: restored.accepted_at,
            life: restored.life,
            attempts: restored.attempts,
            next_attempt: restored.next_attempt,
        };
        (new, known)
    }
}

/// Begins to read the backlog on a thread that may block.
pub(super) fn start(
    spool: &Arc<Spool>,
    backlog: Backlog,
    plan: &PoolPlan,
    policies: &Arc<Policies>,
    (places, schedule): (&Arc<Places>, &Arc<Schedule>),
    progress: &Arc<Progress>,
    tags: Vec<u16>,
) -> Restoring {
    let (sender, slices) = mpsc::channel(limits::RECOVERY_SLICES);
    let mut loader = Loader {
        spool: Arc::clone(spool),
        pools: plan.by_name(),
        fallback: plan.sandbox[0],
        sandbox: plan.sandbox,
        tests: plan.tests.clone(),
        of_domains: Vec::new(),
        policies: Arc::clone(policies),
        of_origins: Vec::new(),
        places: Arc::clone(places),
        schedule: Arc::clone(schedule),
        progress: Arc::clone(progress),
        slices: sender,
        tags,
    };
    tokio::task::spawn_blocking(move || {
        if let Err(error) = loader.run(backlog) {
            tracing::error!(%error, "the checkpoint cannot be read to its end; the next start does without it");
            loader.spool.abandon(&error);
        }
    });
    Restoring {
        slices,
        domains: Vec::new(),
        origins: Vec::new(),
        recovered: 0,
        progress: Arc::clone(progress),
        spool: Arc::clone(spool),
    }
}

/// A time that 0 stands for none of.
fn some(time: UnixMs) -> Option<UnixMs> {
    (time > 0).then_some(time)
}

struct Loader {
    spool: Arc<Spool>,
    pools: Vec<(Arc<str>, StreamKind, PoolId)>,
    fallback: PoolId,
    sandbox: [PoolId; 2],
    tests: TestDomains,
    /// By the numbers of the backlog's domains: of test addresses.
    of_domains: Vec<bool>,
    policies: Arc<Policies>,
    /// By the numbers of the backlog's origins: pool, and its stream's waits.
    of_origins: Vec<(PoolId, Retry)>,
    places: Arc<Places>,
    schedule: Arc<Schedule>,
    progress: Arc<Progress>,
    slices: mpsc::Sender<Slice>,
    /// Marks of tags that directives name: who has one is asked for the tag in its record.
    tags: Vec<u16>,
}

impl Loader {
    fn run(&mut self, mut backlog: Backlog) -> Result<(), BacklogError> {
        let expected = backlog.expected();
        let (mut message, mut holds) = (LiveMessage::default(), Holds::default());
        let (mut known_domains, mut known_origins, mut recovered) = (0, 0, 0);
        let mut recipients = Vec::with_capacity(limits::RECOVERY_SLICE);
        let mut ambiguous = Vec::new();
        loop {
            let more = backlog.next(&mut message)?;
            if more && self.hold(&mut holds, &message) {
                let (pool, retry) = self.origin(&backlog, message.origin);
                let unclear = message.recipients.iter().filter(|r| r.ambiguous > 0);
                let id = MessageId::from_bytes(message.id);
                let random = id.random();
                let tag = self.tag_of(&message);
                let new = backlog
                    .names()
                    .domains
                    .all()
                    .iter()
                    .skip(self.of_domains.len());
                self.of_domains
                    .extend(new.map(|domain| self.tests.holds(domain)));
                let kind = backlog
                    .names()
                    .origins
                    .get(message.origin)
                    .map(|o| o.stream_kind);
                let kind = kind.unwrap_or(StreamKind::Transactional);
                let sandbox = PoolPlan::sandbox_of(self.sandbox, kind);
                if message.release_at > 0 {
                    let origin = backlog.names().origins.get(message.origin);
                    let server = origin.map_or(0, |origin| origin.server_id);
                    let live = message.recipients.len();
                    self.schedule.note(server, id, message.position, live);
                }
                ambiguous.extend(unclear.map(|r| (id, r.number, r.ambiguous)));
                recovered += message.recipients.len() as u64;
                let life = Life {
                    max_age: Some(retry.max_age),
                    max_wait: Some(retry.max),
                    deadline: some(message.deadline),
                    release_at: some(message.release_at),
                };
                recipients.extend(message.recipients.iter().map(|recipient| Restored {
                    position: message.position,
                    accepted_at: message.accepted_at,
                    life: match recipient.ambiguous {
                        0 => life,
                        _ => Life {
                            max_wait: Some(retry.max.max(limits::AMBIGUOUS_WAIT)),
                            ..life
                        },
                    },
                    next_attempt: recipient.next_attempt,
                    message: random,
                    tag: tag.clone(),
                    mark: message.tag,
                    domain: recipient.domain,
                    origin: message.origin,
                    pool: match self.of_domains.get(recipient.domain as usize) {
                        Some(true) => sandbox,
                        _ => pool,
                    },
                    number: recipient.number,
                    attempts: recipient.attempts,
                    announced: recipient.announced,
                    refused: recipient.refused,
                }));
            }
            if !more || recipients.len() >= limits::RECOVERY_SLICE {
                holds.give(&self.spool.mail);
                let domains = backlog.names().domains.all()[known_domains..].to_vec();
                known_domains += domains.len();
                let origins = backlog.names().origins.all()[known_origins..].to_vec();
                known_origins += origins.len();
                let next = Vec::with_capacity(limits::RECOVERY_SLICE);
                let recipients = std::mem::replace(&mut recipients, next);
                let slice = Slice {
                    domains,
                    origins,
                    recipients,
                    ambiguous: std::mem::take(&mut ambiguous),
                };
                self.progress.recipients(recovered, expected);
                if self.slices.blocking_send(slice).is_err() {
                    // The node stops.
                    return Ok(());
                }
            }
            if !more {
                let lost = backlog.lost();
                if lost > 0 {
                    tracing::error!(
                        recipients = lost,
                        "accepted mail is lost: these recipients have no outcome and the spool has no record of their messages; `posthaste audit` names them"
                    );
                }
                self.spool.allow_reclaim();
                return Ok(());
            }
        }
    }

    fn tag_of(&self, message: &LiveMessage) -> Option<Arc<str>> {
        let may_be = message.tag == TAG_UNKNOWN || self.tags.contains(&message.tag);
        if self.tags.is_empty() || !may_be {
            return None;
        }
        let record = self.spool.mail.read_aside(message.position).ok()?;
        let message = MessageRecord::decode(&record.payload).ok()?;
        message.tag.map(Arc::from)
    }

    /// Claims the segments of a message and its content. `false`: the message is gone.
    fn hold(&self, holds: &mut Holds, message: &LiveMessage) -> bool {
        let live = message.recipients.len() as u64;
        let mail = &self.spool.mail;
        if !holds.add(mail, message.position, live) {
            metrics::SPOOL_DAMAGE.add_to("mail", 1);
            tracing::error!(
                position = message.position,
                recipients = live,
                "a live message is in a segment that is gone; see `posthaste spool verify`"
            );
            return false;
        }
        self.places.note_parts(message.position, &message.parts);
        for &part in &message.parts {
            if !holds.add(mail, part, live) {
                tracing::error!(
                    position = part,
                    "content of a live message is in a segment that is gone; see `posthaste spool verify`"
                );
            }
        }
        true
    }

    fn origin(&mut self, backlog: &Backlog, number: u32) -> (PoolId, Retry) {
        let origins = backlog.names().origins.all();
        for origin in origins.iter().skip(self.of_origins.len()) {
            let kind = origin.stream_kind;
            let found = self
                .pools
                .iter()
                .find(|(name, of, _)| **name == *origin.pool && *of == kind);
            let pool = found.map_or(self.fallback, |(_, _, pool)| *pool);
            let policy = self.policies.of(origin.server_id, &origin.stream_id, kind);
            self.of_origins.push((pool, policy.retry));
        }
        self.of_origins[number as usize]
    }
}

/// Claims of one segment, given to the log together: messages come in the order of their places.
#[derive(Default)]
struct Holds {
    /// Positions of the segment.
    range: std::ops::Range<u64>,
    position: u64,
    count: u64,
}

impl Holds {
    /// `false`: the segment of this position is gone.
    fn add(&mut self, log: &Log, position: u64, count: u64) -> bool {
        if !self.range.contains(&position) {
            let Some(range) = log.segment_range(position) else {
                return false;
            };
            self.give(log);
            self.range = range;
            self.position = position;
        }
        self.count += count;
        true
    }

    fn give(&mut self, log: &Log) {
        while self.count > 0 {
            let count = u32::try_from(self.count).unwrap_or(u32::MAX);
            log.hold(self.position, count);
            self.count -= u64::from(count);
        }
    }
}

/// Between two words to the log and the service manager.
const TELL_MS: u64 = 1_000;
