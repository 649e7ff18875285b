//! The owner of the scheduler: one task that feeds it, executes its work, and writes what became of every recipient.
//!
//! Promises: every change of a recipient's state is an event record; a recipient's claim on its segment is given back only
//! when its terminal event is durable; no input waits for a remote host, a name server or a disk other than the event
//! log's: what events say about a message comes with the message or the report, or is looked up elsewhere (`lookup.rs`). Deliberately does not know the dialogue with remote hosts: agents report outcomes.
//!
//! Everything arrives over bounded channels; each round takes what is there, executes all work that follows, then sleeps
//! until something arrives or the scheduler's next time. A crash anywhere repeats at most the attempts whose events were
//! not yet durable.

mod ambiguous;
mod lookup;
mod outcomes;
mod sources;
mod work;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;
use spool_format::{MessageRecord, field_tag};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::ambiguous::Ambiguities;
use self::lookup::Lookups;
use self::work::HOSTS_SWEEP_MIN;
use super::compact::Places;
use super::policies::Policies;
use super::pools::PoolPlan;
use super::recover::{Restoring, Slice};
use super::routes::Routes;
use super::schedule::Schedule;
use crate::accept::Enqueued;
use crate::clock::{Clock, UnixMs};
use crate::config::{PoolId, Shaping, SourceId};
use crate::deliver::{AgentContext, Errand, Habits, Report};
use crate::event::{EventKind, Subject};
use crate::idempotency::{Claim, Keys};
use crate::limits;
use crate::mail::Reply;
use crate::metrics;
use crate::outcome::{Cause, CauseClass, Ruling};
use crate::queue::{FlowName, Life, NewRecipient, QueueId, Scheduler, SessionId, Tag};
use crate::readers::notices::Told;
use crate::route::{NextHop, Route};
use crate::spool::{AppendError, Spool};

/// A question or order of the operator's, executed between two rounds.
pub(super) type Order = Box<dyn FnOnce(&mut Scheduler, UnixMs) + Send>;

/// What the dispatcher is fed with.
pub(super) struct Inputs {
    pub(super) accepted: mpsc::Receiver<Enqueued>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Mail of earlier lives; orders wait until all of it is there, since they may be about any of it.
    pub(super) restoring: Option<Restoring>,
    /// Turns true when the node stops.
    pub(super) stopping: watch::Receiver<bool>,
}

pub(super) struct Dispatcher {
    parts: Parts,
    sessions: FxHashMap<SessionId, mpsc::Sender<Errand>>,
    running: JoinSet<()>,
    resolving: JoinSet<(QueueId, Route)>,
    hosts: FxHashMap<Arc<str>, Hosts>,
    /// Entries of `hosts` at which the expired ones are looked for.
    hosts_swept_at: usize,
    /// What remote hosts mishandle.
    habits: Habits,
    lookups: Lookups,
    ambiguities: Ambiguities,
    releases: Releases,
    /// Messages of each source that metrics know of.
    counted: BTreeMap<(PoolId, SourceId), u64>,
    addresses_watched: bool,
    buffer: Vec<u8>,
}

struct Hosts {
    hops: Arc<[NextHop]>,
    valid_until: UnixMs,
}

/// Claims to give back once the event that ended them is durable, in order of the events.
#[derive(Default)]
struct Releases(VecDeque<Release>);

struct Release {
    event: u64,
    mail: u64,
}

/// What an event needs to know besides the message and the recipient.
#[derive(Default)]
struct Facts<'a> {
    /// When it happened; `None` is now.
    at: Option<UnixMs>,
    source: Cow<'a, str>,
    remote_host: Cow<'a, str>,
    /// Of the remote host, for metrics; empty: none that is known.
    provider: &'a str,
    reply: String,
    cause: &'static str,
    detail: Cow<'a, str>,
    attempts: u16,
    next_attempt: Option<UnixMs>,
    mail_position: Option<u64>,
    ruling: Option<Box<Ruling>>,
    /// Of a delivery: the host tells nobody of it (RFC 3461).
    untold: bool,
}

impl Facts<'_> {
    fn into_owned(self) -> Facts<'static> {
        Facts {
            source: self.source.into_owned().into(),
            remote_host: self.remote_host.into_owned().into(),
            detail: self.detail.into_owned().into(),
            reply: self.reply,
            provider: "",
            ..self
        }
    }
}

/// What a dispatcher is made of.
pub(super) struct Parts {
    pub(super) scheduler: Scheduler,
    pub(super) spool: Arc<Spool>,
    pub(super) keys: Arc<Keys>,
    /// Told which notices recovery found.
    pub(super) told: Arc<Told>,
    pub(super) clock: Clock,
    pub(super) routes: Arc<Routes>,
    pub(super) policies: Arc<Policies>,
    pub(super) shaping: Arc<Shaping>,
    pub(super) agents: Arc<AgentContext>,
    /// In the order of [`crate::config::SourceId`].
    pub(super) source_names: Vec<Arc<str>>,
    /// Told where long content lies.
    pub(super) places: Arc<Places>,
    /// Told what has a time of its own.
    pub(super) schedule: Arc<Schedule>,
    /// Told how many recipients are live.
    pub(super) queued: Arc<AtomicUsize>,
    /// Told the time of each round.
    pub(super) heartbeat: Arc<AtomicU64>,
}

impl Dispatcher {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            sessions: FxHashMap::default(),
            running: JoinSet::new(),
            resolving: JoinSet::new(),
            hosts: FxHashMap::default(),
            hosts_swept_at: HOSTS_SWEEP_MIN,
            habits: Habits::default(),
            lookups: Lookups::default(),
            ambiguities: Ambiguities::default(),
            releases: Releases::default(),
            counted: BTreeMap::new(),
            addresses_watched: false,
            buffer: Vec::new(),
        }
    }

    /// Runs until the node stops and every agent has ended, or the event log fails.
    pub(super) async fn run(mut self, mut inputs: Inputs) {
        if let Err(error) = self.rounds(&mut inputs).await {
            tracing::error!(%error, "the event log takes nothing more; delivery stops");
        }
    }

    async fn rounds(&mut self, inputs: &mut Inputs) -> Result<(), AppendError> {
        let mut durable = self.parts.spool.events.watch();
        let (mut accepted, mut reports, mut found) = (Vec::new(), Vec::new(), Vec::new());
        // When attempts in flight are cut off, once the node stops.
        let mut deadline: Option<UnixMs> = None;
        loop {
            self.beat(inputs);
            self.releases.run(&self.parts.spool);
            let more = self.execute_work(deadline.is_some()).await?;
            self.tell_of_sources().await?;
            self.parts
                .queued
                .store(self.parts.scheduler.counts().total(), Ordering::Relaxed);
            let done = !more && self.sessions.is_empty() && inputs.accepted.is_empty();
            if deadline.is_some_and(|deadline| done && self.looked_up_by(deadline)) {
                return Ok(());
            }
            let wait = if more {
                Duration::ZERO
            } else {
                self.wait(deadline)
            };
            if inputs.restoring.is_none() && deadline.is_none() {
                self.parts.keys.complete();
            }
            let (mut restore, mut asked) = (None, None);
            tokio::select! {
                _ = inputs.reports.recv_many(&mut reports, ROUND) => {}
                _ = inputs.accepted.recv_many(&mut accepted, ROUND), if !inputs.accepted.is_closed() || !inputs.accepted.is_empty() => {}
                slice = restored(&mut inputs.restoring), if inputs.restoring.is_some() => match slice {
                    Some(slice) => restore = Some(slice),
                    None => inputs.restoring = None,
                },
                Some(order) = inputs.orders.recv(), if inputs.restoring.is_none() => asked = Some(order),
                Some(found) = self.resolving.join_next() => match found {
                    Ok((queue, route)) => self.routed(queue, route),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(_) = self.running.join_next() => {}
                Some(batch) = self.lookups.next() => found = batch,
                Ok(()) = durable.changed(), if !self.releases.0.is_empty() => {}
                // A node that is dropped without being stopped ends here too.
                _ = inputs.stopping.wait_for(|stopping| *stopping), if deadline.is_none() => {
                    deadline = Some(self.parts.clock.unix_ms() + limits::DRAIN.as_millis() as u64);
                    // The rest is for the next start.
                    inputs.restoring = None;
                    // Idle agents see their inbox close and say QUIT; busy ones finish their transaction first.
                    self.sessions.values_mut().for_each(|inbox| *inbox = closed_inbox());
                }
                () = tokio::time::sleep(wait) => {}
            }
            if deadline.is_some_and(|deadline| self.parts.clock.unix_ms() >= deadline)
                && !self.running.is_empty()
            {
                tracing::warn!(
                    sessions = self.running.len(),
                    "attempts cut off: they did not end in time"
                );
                // Each still reports what it knows, *ambiguous* where the final dot was out.
                self.running.abort_all();
            }
            if let Some(slice) = restore {
                self.restore(inputs, slice).await?;
            }
            self.looked_up(&mut found).await?;
            if asked.is_some() {
                // Whoever asks knows of all mail that was acknowledged before.
                let before = inputs.accepted.len();
                accepted.extend((0..before).map_while(|_| inputs.accepted.try_recv().ok()));
            }
            self.take_in(&mut accepted, &mut reports).await?;
            if let Some(order) = asked {
                order(&mut self.parts.scheduler, self.parts.clock.unix_ms());
            }
        }
    }

    /// Nothing waits for what it says about its message, or it has waited too long: it happens again after the next start.
    fn looked_up_by(&self, deadline: UnixMs) -> bool {
        self.lookups.is_empty() || self.parts.clock.unix_ms() >= deadline
    }

    /// A sign of life for the watchdog; and, once a second, the scheduler's figures for metrics.
    fn beat(&mut self, inputs: &Inputs) {
        let now = self.parts.clock.unix_ms();
        let before = self.parts.heartbeat.swap(now, Ordering::Relaxed);
        if before / 1_000 == now / 1_000 {
            return;
        }
        let counts = self.parts.scheduler.counts();
        metrics::QUEUE_RECIPIENTS.set_of("ready", counts.ready as f64);
        metrics::QUEUE_RECIPIENTS.set_of("deferred", counts.deferred as f64);
        metrics::QUEUE_RECIPIENTS.set_of("in_flight", counts.in_flight as f64);
        metrics::QUEUES.set(self.parts.scheduler.queues() as f64);
        metrics::QUEUE_SITES.set(self.parts.scheduler.sites() as f64);
        metrics::QUEUE_PATHS.set(self.parts.scheduler.paths() as f64);
        metrics::QUEUE_FLOWS.set(self.parts.scheduler.flows() as f64);
        self.gauge_sources(now);
        self.watch_addresses(now);
        metrics::DELIVERY_CONNECTIONS.set(self.parts.scheduler.connections() as f64);
        metrics::CHANNEL_DEPTH.set_of("accepted", inputs.accepted.len() as f64);
        metrics::CHANNEL_DEPTH.set_of("reports", inputs.reports.len() as f64);
        metrics::CHANNEL_DEPTH.set_of("orders", inputs.orders.len() as f64);
    }

    fn wait(&self, deadline: Option<UnixMs>) -> Duration {
        let now = self.parts.clock.unix_ms();
        let next = match deadline {
            None => self.parts.scheduler.poll_timeout(),
            Some(deadline) => Some(deadline),
        };
        let wait = next.map_or(HEARTBEAT, |at| {
            Duration::from_millis(at.saturating_sub(now))
        });
        // At least a millisecond: a timer may fire a little early, and this is no place to spin.
        wait.clamp(Duration::from_millis(1), HEARTBEAT)
    }

    async fn take_in(
        &mut self,
        accepted: &mut Vec<Enqueued>,
        reports: &mut Vec<Report>,
    ) -> Result<(), AppendError> {
        for report in reports.drain(..) {
            self.report(report).await?;
        }
        for message in accepted.drain(..) {
            self.accepted(&message).await?;
        }
        Ok(())
    }

    async fn accepted(&mut self, message: &Enqueued) -> Result<(), AppendError> {
        let subject = &message.subject;
        let stream_kind = metrics::kind_text(subject.stream_kind);
        metrics::MESSAGES_ACCEPTED.add_to(stream_kind, 1);
        metrics::RECIPIENTS_ACCEPTED.add_to(stream_kind, message.domains.len() as u64);
        metrics::CONTENT_ACCEPTED.add(message.content_len);
        if subject.release_at.is_some() {
            let live = message.domains.len();
            let schedule = &self.parts.schedule;
            schedule.note(subject.server_id, subject.id, message.position, live);
        }
        for number in 0..message.domains.len() as u16 {
            let facts = Facts {
                mail_position: Some(message.position),
                ..announcement(subject)
            };
            self.write(EventKind::Accepted, subject, number, facts)
                .await?;
            if let Some(reason) = message.refused.reason(number) {
                self.refuse(message.position, subject, number, reason)
                    .await?;
            }
        }
        let numbers = 0..message.domains.len() as u16;
        if numbers.clone().all(|n| message.refused.reason(n).is_some()) {
            return Ok(());
        }
        self.parts
            .places
            .note_parts(message.position, &subject.parts);
        let now = self.parts.clock.unix_ms();
        let (server, kind) = (subject.server_id, subject.stream_kind);
        let policy = self.parts.policies.of(server, subject.stream(), kind);
        let life = Life {
            max_age: Some(policy.retry.max_age),
            max_wait: None,
            deadline: subject.deadline,
            release_at: subject.release_at,
        };
        let routes = Arc::clone(&self.parts.routes);
        for (number, domain) in numbers.zip(&message.domains) {
            if message.refused.reason(number).is_some() {
                continue;
            }
            let pool = match routes.tests.holds(domain.as_str()) {
                true => PoolPlan::sandbox_of(routes.sandbox, kind),
                false => message.pool,
            };
            self.parts.scheduler.insert(
                now,
                NewRecipient {
                    position: message.position,
                    number,
                    pool,
                    domain: domain.as_str(),
                    flow: FlowName {
                        server: subject.server_id,
                        server_name: subject.server(),
                        stream: subject.stream(),
                    },
                    message: subject.id.random(),
                    tag: message.tag.as_deref().map(Tag::Text),
                    accepted_at: subject.accepted_at,
                    life,
                    attempts: 0,
                    next_attempt: now,
                },
            );
        }
        Ok(())
    }

    /// Takes over recipients that recovery found alive; more than one slice, if more are there, but not for long.
    async fn restore(&mut self, inputs: &mut Inputs, first: Slice) -> Result<(), AppendError> {
        let Some(restoring) = &mut inputs.restoring else {
            return Ok(());
        };
        let until = self.parts.clock.instant() + RESTORE;
        let mut next = Some(first);
        while let Some(slice) = next {
            let now = self.parts.clock.unix_ms();
            for &(id, number, count) in &slice.ambiguous {
                self.ambiguities.restore(id, number, count);
            }
            for restored in &slice.recipients {
                let (new, known) = restoring.recipient(restored);
                if restored.announced && !restored.refused {
                    self.parts.scheduler.take_over_near(now, new, known);
                } else {
                    self.recovered(new, restored.announced, restored.refused)
                        .await?;
                }
            }
            next = match self.parts.clock.instant() < until {
                true => restoring.try_next(),
                false => None,
            };
        }
        Ok(())
    }

    /// Takes over a recipient of which something is still to be written.
    async fn recovered(
        &mut self,
        new: NewRecipient<'_>,
        announced: bool,
        refused: bool,
    ) -> Result<(), AppendError> {
        // One that cannot be read is scheduled all the same: attempts will say why they fail.
        let payload = self.parts.spool.mail.fetch(new.position).await;
        let payload = payload.map(|record| record.payload).unwrap_or_default();
        if let Ok(record) = MessageRecord::decode(&payload) {
            let subject = Subject::of(&record, std::iter::once(new.number));
            if !announced {
                let facts = Facts {
                    mail_position: Some(new.position),
                    ..announcement(&subject)
                };
                if let (0, Some(claim)) = (new.number, Claim::from_bytes(&subject.idempotency)) {
                    self.parts
                        .keys
                        .insert(claim, subject.id, subject.accepted_at);
                }
                // Before its event, which the reader of notices relies on.
                self.parts.told.insert(&subject.notice_of);
                self.write(EventKind::Accepted, &subject, new.number, facts)
                    .await?;
            }
            if refused {
                let recipient = record.recipients.get(usize::from(new.number));
                let reason = recipient.and_then(|r| r.fields.find_text(field_tag::REFUSED));
                let reason = reason.unwrap_or_default();
                return self
                    .refuse(new.position, &subject, new.number, reason)
                    .await;
            }
        }
        let now = self.parts.clock.unix_ms();
        self.parts.scheduler.take_over(now, new);
        Ok(())
    }

    /// Ends a recipient that was taken only to be bounced: over SMTP a refused submission is accepted first (DESIGN §1.2).
    async fn refuse(
        &mut self,
        position: u64,
        subject: &Subject,
        number: u16,
        reason: &str,
    ) -> Result<(), AppendError> {
        let facts = Facts {
            cause: CauseClass::SubmissionRefused.as_str(),
            detail: reason.into(),
            ..Facts::default()
        };
        self.end(EventKind::Bounced, position, subject, number, facts)
            .await
    }
}

impl Releases {
    fn run(&mut self, spool: &Spool) {
        let durable = spool.events.durable();
        while let Some(release) = self.0.front()
            && release.event < durable
        {
            spool.mail.release(release.mail, 1);
            self.0.pop_front();
        }
    }
}

/// The next slice, for a branch that is looked at only while there may be one.
async fn restored(restoring: &mut Option<Restoring>) -> Option<Slice> {
    match restoring {
        Some(restoring) => restoring.next().await,
        None => None,
    }
}

fn facts_of(cause: &Cause) -> Facts<'_> {
    Facts {
        reply: cause
            .reply
            .as_ref()
            .map(Reply::to_lines)
            .unwrap_or_default(),
        cause: cause.class.as_str(),
        detail: cause.detail.as_str().into(),
        ruling: cause.ruling.clone(),
        ..Facts::default()
    }
}

/// Of the *accepted* event. That a message was imported tells a later import of the same file what is there already.
fn announcement(subject: &Subject) -> Facts<'static> {
    let detail = match (subject.imported, subject.release_at) {
        (true, _) => IMPORTED,
        (false, Some(_)) => "scheduled",
        (false, None) => "",
    };
    Facts {
        detail: detail.into(),
        next_attempt: subject.release_at,
        ..Facts::default()
    }
}

/// An inbox whose agent sees its end at once.
fn closed_inbox() -> mpsc::Sender<Errand> {
    mpsc::channel(1).0
}

/// Detail of the *accepted* event of a message that was imported.
pub(super) const IMPORTED: &str = "imported";
/// Inputs taken in one round.
const ROUND: usize = 256;
/// Time for mail of earlier lives in one round: everything else waits meanwhile.
const RESTORE: Duration = Duration::from_millis(20);
/// Longest sleep, so that the watchdog sees a living scheduler.
const HEARTBEAT: Duration = Duration::from_secs(1);
