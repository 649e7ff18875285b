//! The owner of the scheduler: one task that feeds it, executes its work, and writes what became of every recipient.
//!
//! Promises: every change of a recipient's state is an event record; a recipient's claim on its segment is given back only
//! when its terminal event is durable; no input waits for a remote host, a name server or a disk other than the event
//! log's. Deliberately does not know the dialogue with remote hosts: agents report outcomes.
//!
//! Everything arrives over bounded channels; each round takes what is there, executes all work that follows, then sleeps
//! until something arrives or the scheduler's next time. A crash anywhere repeats at most the attempts whose events were
//! not yet durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use spool_format::{Content, MessageRecord, StreamKind, field_tag, kind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::routes::Routes;
use crate::accept::Enqueued;
use crate::clock::{Clock, UnixMs};
use crate::config::PoolId;
use crate::deliver::{self, AgentContext, RecipientResult, Report, SessionPlan};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::{MessageId, Reply};
use crate::metrics;
use crate::outcome::{Cause, CauseClass, Outcome};
use crate::queue::{
    Batch, Disposition, NewRecipient, QueueId, RouteAnswer, Scheduler, SessionId, SessionState,
    Withdrawal, Work,
};
use crate::route::{NextHop, Route};
use crate::spool::{AppendError, Spool};

/// A question or order of the operator's, executed between two rounds.
pub(super) type Order = Box<dyn FnOnce(&mut Scheduler, UnixMs) + Send>;

/// What the dispatcher is fed with.
pub(super) struct Inputs {
    pub(super) accepted: mpsc::Receiver<Enqueued>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Turns true when the node stops.
    pub(super) stopping: watch::Receiver<bool>,
}

pub(super) struct Dispatcher {
    parts: Parts,
    sessions: FxHashMap<SessionId, mpsc::Sender<Batch>>,
    running: JoinSet<()>,
    lookups: JoinSet<(QueueId, Route)>,
    hosts: FxHashMap<Arc<str>, Hosts>,
    /// Entries of `hosts` at which the expired ones are looked for.
    hosts_swept_at: usize,
    releases: Releases,
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

/// What an event needs to know besides the recipient.
#[derive(Default)]
struct Facts<'a> {
    source: &'a str,
    remote_host: &'a str,
    reply: String,
    cause: &'a str,
    detail: &'a str,
    attempts: u16,
    next_attempt: Option<UnixMs>,
}

/// What a dispatcher is made of.
pub(super) struct Parts {
    pub(super) scheduler: Scheduler,
    pub(super) spool: Arc<Spool>,
    pub(super) clock: Clock,
    pub(super) routes: Arc<Routes>,
    pub(super) agents: Arc<AgentContext>,
    /// In the order of [`crate::config::SourceId`].
    pub(super) source_names: Vec<Arc<str>>,
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
            lookups: JoinSet::new(),
            hosts: FxHashMap::default(),
            hosts_swept_at: HOSTS_SWEEP_MIN,
            releases: Releases::default(),
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
        let (mut accepted, mut reports) = (Vec::new(), Vec::new());
        // When attempts in flight are cut off, once the node stops.
        let mut deadline: Option<UnixMs> = None;
        loop {
            self.beat(inputs);
            self.releases.run(&self.parts.spool);
            let more = self.execute_work(deadline.is_some()).await?;
            self.parts
                .queued
                .store(self.parts.scheduler.counts().total(), Ordering::Relaxed);
            if deadline.is_some() && !more && self.sessions.is_empty() && inputs.accepted.is_empty()
            {
                return Ok(());
            }
            let wait = if more {
                Duration::ZERO
            } else {
                self.wait(deadline)
            };
            tokio::select! {
                _ = inputs.reports.recv_many(&mut reports, ROUND) => {}
                _ = inputs.accepted.recv_many(&mut accepted, ROUND), if !inputs.accepted.is_closed() || !inputs.accepted.is_empty() => {}
                Some(order) = inputs.orders.recv() => order(&mut self.parts.scheduler, self.parts.clock.unix_ms()),
                Some(found) = self.lookups.join_next() => match found {
                    Ok((queue, route)) => self.routed(queue, route),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(_) = self.running.join_next() => {}
                Ok(()) = durable.changed(), if !self.releases.0.is_empty() => {}
                // A node that is dropped without being stopped ends here too.
                _ = inputs.stopping.wait_for(|stopping| *stopping), if deadline.is_none() => {
                    deadline = Some(self.parts.clock.unix_ms() + limits::DRAIN.as_millis() as u64);
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
            self.take_in(&mut accepted, &mut reports).await?;
        }
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

    // ---------------------------------------------------------------------------------------- accepted mail

    async fn accepted(&mut self, message: &Enqueued) -> Result<(), AppendError> {
        let payload = self.load(message.position);
        // A record that cannot be read again at once is scheduled all the same: attempts will say why they fail.
        if let Some(record) = payload
            .as_deref()
            .and_then(|payload| MessageRecord::decode(payload).ok())
        {
            let stream_kind = stream_kind_text(record.stream_kind);
            metrics::MESSAGES_ACCEPTED.add_to(stream_kind, 1);
            metrics::RECIPIENTS_ACCEPTED.add_to(stream_kind, message.domains.len() as u64);
            metrics::CONTENT_ACCEPTED.add(record.content.len());
            for number in 0..message.domains.len() as u16 {
                self.write(EventKind::Accepted, &record, number, Facts::default())
                    .await?;
                if message.refused {
                    self.refuse(message.position, &record, number).await?;
                }
            }
            if message.refused {
                return Ok(());
            }
        }
        let now = self.parts.clock.unix_ms();
        for (number, domain) in message.domains.iter().enumerate() {
            self.parts.scheduler.insert(
                now,
                NewRecipient {
                    position: message.position,
                    number: number as u16,
                    pool: message.pool,
                    domain: domain.as_str(),
                    server: message.server_id,
                    accepted_at: message.accepted_at,
                    attempts: 0,
                    next_attempt: now,
                },
            );
        }
        Ok(())
    }

    /// Takes over a recipient that recovery found alive.
    pub(super) async fn recovered(
        &mut self,
        new: NewRecipient<'_>,
        announced: bool,
        refused: bool,
    ) -> Result<(), AppendError> {
        if !announced || refused {
            let Some(payload) = self.load(new.position) else {
                return Ok(());
            };
            let Ok(record) = MessageRecord::decode(&payload) else {
                return Ok(());
            };
            if !announced {
                self.write(EventKind::Accepted, &record, new.number, Facts::default())
                    .await?;
            }
            if refused {
                return self.refuse(new.position, &record, new.number).await;
            }
        }
        self.parts.scheduler.insert(self.parts.clock.unix_ms(), new);
        Ok(())
    }

    /// Ends a recipient that was taken only to be bounced: over SMTP a refused submission is accepted first (DESIGN §1.2).
    async fn refuse(
        &mut self,
        position: u64,
        record: &MessageRecord<'_>,
        number: u16,
    ) -> Result<(), AppendError> {
        let recipient = record.recipients.get(usize::from(number));
        let reason = recipient
            .and_then(|r| r.fields.find_text(field_tag::REFUSED))
            .unwrap_or_default();
        let facts = Facts {
            cause: CauseClass::SubmissionRefused.as_str(),
            detail: reason,
            ..Facts::default()
        };
        self.end(EventKind::Bounced, position, record, number, facts)
            .await
    }

    // ---------------------------------------------------------------------------------------- work

    /// Executes a bounded amount of work; says whether there may be more. A node that stops starts nothing new.
    async fn execute_work(&mut self, stopping: bool) -> Result<bool, AppendError> {
        for _ in 0..limits::WORK_PER_ROUND {
            let now = self.parts.clock.unix_ms();
            let work = if stopping {
                self.parts.scheduler.poll_ended(now)
            } else {
                self.parts.scheduler.poll(now)
            };
            let Some(work) = work else {
                return Ok(!stopping
                    && self
                        .parts
                        .scheduler
                        .poll_timeout()
                        .is_some_and(|at| at <= now));
            };
            match work {
                Work::Resolve {
                    queue,
                    pool,
                    domain,
                } => self.resolve(queue, pool, domain),
                Work::Open {
                    session,
                    source,
                    site_key,
                    first,
                    ..
                } => self.open(session, source, &site_key, first),
                Work::Deliver { session, batch } => self.deliver(session, batch),
                Work::Close { session } => {
                    if let Some(inbox) = self.sessions.get_mut(&session) {
                        *inbox = closed_inbox();
                    }
                }
                Work::Expire {
                    position,
                    number,
                    attempts,
                } => {
                    let facts = Facts {
                        cause: CauseClass::Expired.as_str(),
                        detail: "The age limit was reached before the message could be delivered (5.4.7).",
                        attempts,
                        ..Facts::default()
                    };
                    self.end_at(EventKind::Expired, position, number, facts)
                        .await?;
                }
                Work::Unroutable {
                    position,
                    number,
                    attempts,
                    cause,
                } => {
                    let facts = Facts {
                        attempts,
                        ..facts_of(&cause)
                    };
                    self.end_at(EventKind::Bounced, position, number, facts)
                        .await?;
                }
                Work::Withdrawn {
                    position,
                    number,
                    attempts,
                    how,
                } => {
                    let (kind, detail) = match how {
                        Withdrawal::Bounce => (EventKind::Bounced, "Bounced by the operator."),
                        Withdrawal::Cancel => (EventKind::Cancelled, "Cancelled by the operator."),
                    };
                    let facts = Facts {
                        cause: CauseClass::Admin.as_str(),
                        detail,
                        attempts,
                        ..Facts::default()
                    };
                    self.end_at(kind, position, number, facts).await?;
                }
            }
        }
        Ok(true)
    }

    fn resolve(&mut self, queue: QueueId, pool: PoolId, domain: Arc<str>) {
        let routes = Arc::clone(&self.parts.routes);
        self.lookups.spawn(async move {
            // In a task of its own: every question is answered, also when the resolver panics.
            let found = tokio::spawn(async move { routes.resolve(pool, &domain).await }).await;
            let route = found.unwrap_or_else(|error| {
                let detail = format!("The look-up of the route failed in the program: {error}.");
                Route::Defer {
                    cause: Cause::new(CauseClass::LocalSystem, detail),
                }
            });
            (queue, route)
        });
    }

    fn routed(&mut self, queue: QueueId, route: Route) {
        let now = self.parts.clock.unix_ms();
        let result = match &route {
            Route::Hosts { .. } => "ok",
            Route::Defer { .. } => "temporary",
            Route::Bounce { .. } => "permanent",
        };
        metrics::ROUTES.add_to(result, 1);
        let answer = match route {
            Route::Hosts {
                site_key,
                hosts,
                valid_for,
            } => {
                let valid_until = now + valid_for.as_millis() as u64;
                // Amortised: a sweep for as many insertions as it keeps entries, so the map stays within twice the live sites.
                if self.hosts.len() >= self.hosts_swept_at {
                    self.hosts.retain(|_, hosts| hosts.valid_until > now);
                    self.hosts_swept_at = (2 * self.hosts.len()).max(HOSTS_SWEEP_MIN);
                }
                // A second longer than the scheduler believes it, so that what it opens now still finds its hosts.
                self.hosts.insert(
                    Arc::clone(&site_key),
                    Hosts {
                        hops: hosts,
                        valid_until: valid_until + 1_000,
                    },
                );
                RouteAnswer::Site {
                    key: site_key,
                    valid_until,
                }
            }
            Route::Defer { cause } => RouteAnswer::Defer {
                cause: Arc::new(cause),
            },
            Route::Bounce { cause } => RouteAnswer::Refused {
                cause: Arc::new(cause),
            },
        };
        self.parts.scheduler.routed(now, queue, answer);
    }

    fn open(
        &mut self,
        session: SessionId,
        source: crate::config::SourceId,
        site_key: &str,
        first: Batch,
    ) {
        let Some(hosts) = self.hosts.get(site_key) else {
            // Forgotten since: nothing was tried, and the route is asked for again when it has expired.
            self.give_back(session, &first);
            return;
        };
        let (inbox, batches) = mpsc::channel(1);
        self.sessions.insert(session, inbox);
        let plan = SessionPlan {
            session,
            source,
            hosts: Arc::clone(&hosts.hops),
            first,
        };
        self.running.spawn(deliver::run_agent(
            Arc::clone(&self.parts.agents),
            plan,
            batches,
        ));
    }

    fn deliver(&mut self, session: SessionId, batch: Batch) {
        let sent = match self.sessions.get(&session) {
            Some(inbox) => inbox.try_send(batch).map_err(|error| match error {
                mpsc::error::TrySendError::Full(batch)
                | mpsc::error::TrySendError::Closed(batch) => batch,
            }),
            None => Err(batch),
        };
        // The agent has just ended; its own report of that is on its way and says Closed.
        if let Err(batch) = sent {
            let results = not_attempted(&batch);
            self.parts.scheduler.report(
                self.parts.clock.unix_ms(),
                session,
                &results,
                SessionState::Idle,
            );
        }
    }

    fn give_back(&mut self, session: SessionId, batch: &Batch) {
        let state = SessionState::Closed { site_failure: None };
        self.parts.scheduler.report(
            self.parts.clock.unix_ms(),
            session,
            &not_attempted(batch),
            state,
        );
    }

    // ---------------------------------------------------------------------------------------- outcomes

    async fn report(&mut self, report: Report) -> Result<(), AppendError> {
        let now = self.parts.clock.unix_ms();
        let dispositions: Vec<_> = report
            .results
            .iter()
            .map(|r| (r.position, r.number, disposition(&r.outcome)))
            .collect();
        let state = match &report.state {
            deliver::SessionState::Idle => SessionState::Idle,
            deliver::SessionState::Closed { failure } => {
                self.sessions.remove(&report.session);
                metrics::DELIVERY_SESSIONS
                    .add_to(if failure.is_some() { "failed" } else { "ok" }, 1);
                if let Some(remote) = &report.remote {
                    metrics::DELIVERY_TLS
                        .add_to(if remote.tls.is_some() { "tls" } else { "clear" }, 1);
                }
                SessionState::Closed {
                    site_failure: failure.as_ref().map(|(scope, _)| *scope),
                }
            }
        };
        let next_attempts = self
            .parts
            .scheduler
            .report(now, report.session, &dispositions, state);
        let remote_host = report
            .remote
            .as_deref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let source = self
            .parts
            .source_names
            .get(usize::from(report.source.0))
            .cloned();
        let mut loaded: Option<(u64, Bytes)> = None;
        for result in &report.results {
            let next_attempt = next_attempts
                .iter()
                .find(|(number, _)| *number == result.number)
                .map(|(_, at)| *at);
            if matches!(result.outcome, Outcome::NotAttempted) {
                continue;
            }
            if loaded
                .as_ref()
                .is_none_or(|(position, _)| *position != result.position)
            {
                loaded = self
                    .load(result.position)
                    .map(|payload| (result.position, payload));
            }
            let Some((_, payload)) = &loaded else {
                continue;
            };
            // A copy of the handle, so that the record does not borrow from `loaded` while events are written.
            let payload = payload.clone();
            let Ok(record) = MessageRecord::decode(&payload) else {
                continue;
            };
            let way = Facts {
                source: source.as_deref().unwrap_or_default(),
                remote_host: &remote_host,
                attempts: result.attempts.saturating_add(1),
                next_attempt,
                ..Facts::default()
            };
            self.outcome(&record, result, way).await?;
        }
        Ok(())
    }

    async fn outcome(
        &mut self,
        record: &MessageRecord<'_>,
        result: &RecipientResult,
        way: Facts<'_>,
    ) -> Result<(), AppendError> {
        let verdict = match &result.outcome {
            Outcome::Delivered { reply } => Facts {
                reply: reply.to_lines(),
                ..Facts::default()
            },
            Outcome::Deferred { cause, .. }
            | Outcome::Bounced { cause, .. }
            | Outcome::Ambiguous { cause } => facts_of(cause),
            Outcome::NotAttempted => return Ok(()),
        };
        let facts = Facts {
            reply: verdict.reply,
            cause: verdict.cause,
            detail: verdict.detail,
            ..way
        };
        count_attempt(&result.outcome);
        match &result.outcome {
            Outcome::Delivered { .. } => {
                self.end(
                    EventKind::Delivered,
                    result.position,
                    record,
                    result.number,
                    facts,
                )
                .await
            }
            Outcome::Bounced { .. } => {
                self.end(
                    EventKind::Bounced,
                    result.position,
                    record,
                    result.number,
                    facts,
                )
                .await
            }
            Outcome::Deferred { .. } => self
                .write(EventKind::Deferred, record, result.number, facts)
                .await
                .map(drop),
            Outcome::Ambiguous { .. } => self
                .write(EventKind::Ambiguous, record, result.number, facts)
                .await
                .map(drop),
            Outcome::NotAttempted => Ok(()),
        }
    }

    /// Writes a terminal event for a recipient that the scheduler has let go of.
    async fn end_at(
        &mut self,
        kind: EventKind,
        position: u64,
        number: u16,
        facts: Facts<'_>,
    ) -> Result<(), AppendError> {
        let Some(payload) = self.load(position) else {
            return Ok(());
        };
        let Ok(record) = MessageRecord::decode(&payload) else {
            return Ok(());
        };
        self.end(kind, position, &record, number, facts).await
    }

    /// Writes a terminal event and notes the claims that end with it.
    async fn end(
        &mut self,
        kind: EventKind,
        position: u64,
        record: &MessageRecord<'_>,
        number: u16,
        facts: Facts<'_>,
    ) -> Result<(), AppendError> {
        debug_assert!(kind.is_terminal(), "{kind:?}");
        metrics::OUTCOMES.add_to(kind.as_str(), 1);
        if kind == EventKind::Delivered {
            let age_ms = self
                .parts
                .clock
                .unix_ms()
                .saturating_sub(record.accepted_unix_ms);
            metrics::DELIVERY_SECONDS.record(
                stream_kind_text(record.stream_kind),
                age_ms as f64 / 1_000.0,
            );
        }
        let event = self.write(kind, record, number, facts).await?;
        self.releases.0.push_back(Release {
            event,
            mail: position,
        });
        if let Content::Records(parts) = record.content {
            // A part in a segment that was lost was never claimed.
            let log = &self.parts.spool.mail;
            let claimed = parts
                .iter()
                .map(|part| part.position)
                .filter(|&part| log.is_retained(part));
            self.releases
                .0
                .extend(claimed.map(|mail| Release { event, mail }));
        }
        Ok(())
    }

    /// Appends one event; it is durable within [`limits::LAZY_COMMIT`] and a sync. Returns its position.
    async fn write(
        &mut self,
        kind: EventKind,
        record: &MessageRecord<'_>,
        number: u16,
        facts: Facts<'_>,
    ) -> Result<u64, AppendError> {
        let recipient = record
            .recipients
            .get(usize::from(number))
            .map_or("", |r| r.forward_path);
        let event = Event {
            kind,
            at: self.parts.clock.unix_ms(),
            message_id: MessageId::from_bytes(record.id),
            recipient_number: number,
            recipient,
            server_id: record.server_id,
            server: record.server_name,
            stream: record.stream_id,
            source: facts.source,
            remote_host: facts.remote_host,
            reply: &facts.reply,
            cause: facts.cause,
            detail: facts.detail,
            attempts: facts.attempts,
            next_attempt: facts.next_attempt,
        };
        self.buffer.clear();
        event.encode(&mut self.buffer);
        loop {
            match self
                .parts
                .spool
                .events
                .append_lazy(kind::EVENT, 0, &[&self.buffer])
                .await
            {
                // Outcomes have space of their own (`[spool] reserve`); when even that is used up, delivery waits for room
                // rather than lose one.
                Err(AppendError::Full) => {
                    tracing::error!("no room for events: delivery waits until the disk has some");
                    self.parts
                        .heartbeat
                        .store(self.parts.clock.unix_ms(), Ordering::Relaxed);
                    tokio::time::sleep(limits::EVENT_RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// The message record; a damaged one is reported and its recipients stay as they are until an operator decides.
    fn load(&self, position: u64) -> Option<Bytes> {
        match self.parts.spool.mail.read(position) {
            Ok(record) => Some(record.payload),
            Err(error) => {
                metrics::SPOOL_DAMAGE.add_to("mail", 1);
                tracing::error!(position, %error, "message record cannot be read; see `posthaste spool verify`");
                None
            }
        }
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

fn disposition(outcome: &Outcome) -> Disposition {
    match outcome {
        Outcome::Delivered { .. } | Outcome::Bounced { .. } => Disposition::Terminal,
        Outcome::Deferred { .. } | Outcome::Ambiguous { .. } => {
            Disposition::Retry { not_before: None }
        }
        Outcome::NotAttempted => Disposition::NotAttempted,
    }
}

fn not_attempted(batch: &Batch) -> Vec<(u64, u16, Disposition)> {
    batch
        .recipients
        .iter()
        .map(|r| (batch.position, r.number, Disposition::NotAttempted))
        .collect()
}

fn facts_of(cause: &Cause) -> Facts<'_> {
    Facts {
        reply: cause
            .reply
            .as_ref()
            .map(Reply::to_lines)
            .unwrap_or_default(),
        cause: cause.class.as_str(),
        detail: &cause.detail,
        ..Facts::default()
    }
}

fn count_attempt(outcome: &Outcome) {
    let (outcome, cause) = match outcome {
        Outcome::Delivered { .. } => ("delivered", None),
        Outcome::Deferred { cause, .. } => ("deferred", Some(cause)),
        Outcome::Bounced { cause, .. } => ("bounced", Some(cause)),
        Outcome::Ambiguous { cause } => ("ambiguous", Some(cause)),
        Outcome::NotAttempted => ("not_attempted", None),
    };
    metrics::ATTEMPTS.add_to(outcome, 1);
    if let Some(cause) = cause {
        metrics::CAUSES.add_to(cause.class.as_str(), 1);
    }
}

fn stream_kind_text(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Transactional => "transactional",
        StreamKind::Broadcast => "broadcast",
        StreamKind::Inbound => "inbound",
    }
}

/// An inbox whose agent sees its end at once.
fn closed_inbox() -> mpsc::Sender<Batch> {
    mpsc::channel(1).0
}

/// Inputs taken in one round.
const ROUND: usize = 256;
/// Longest sleep, so that the watchdog sees a living scheduler.
const HEARTBEAT: Duration = Duration::from_secs(1);
const HOSTS_SWEEP_MIN: usize = 1_024;
