//! What became of each recipient, as event records; claims end with the terminal ones.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use spool_format::kind;

use super::{Dispatcher, Facts, Release, facts_of};
use crate::classify::is_the_tables;
use crate::clock::{UnixMs, rfc3339};
use crate::deliver::{self, RecipientResult, Report};
use crate::event::{Dsn, Event, EventKind, Judged, Subject};
use crate::limits;
use crate::mail::{Act, Staged};
use crate::metrics;
use crate::outcome::{CauseClass, Outcome};
use crate::queue::{Disposition, SessionState};
use crate::spool::AppendError;

impl Dispatcher {
    pub(super) async fn report(&mut self, mut report: Report) -> Result<(), AppendError> {
        let now = self.parts.clock.unix_ms();
        for result in &mut report.results {
            self.judge_ambiguous(result);
        }
        let dispositions: Vec<_> = report
            .results
            .iter()
            .map(|r| (r.position, r.number, self.disposition(r, now)))
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
                    if let Some(tls) = &remote.tls {
                        let version = tls.split(' ').next().unwrap_or_default();
                        metrics::DELIVERY_TLS_VERSIONS
                            .add_to(version.strip_prefix("TLSv").unwrap_or(version), 1);
                    }
                }
                SessionState::Closed {
                    site_failure: failure.as_ref().map(|(scope, _)| *scope),
                }
            }
        };
        self.note_trouble(&report, now);
        let next_attempts = self
            .parts
            .scheduler
            .report(now, report.session, &dispositions, state);
        if report.runs_ahead {
            self.parts.scheduler.runs_ahead(now, report.session);
        }
        self.remember(&report);
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
        let shaping = Arc::clone(&self.parts.shaping);
        let host = report.remote.as_deref().map(|remote| &*remote.name);
        let provider = host.map_or("", |host| shaping.name_of_host(host));
        for result in &report.results {
            let next_attempt = next_attempts
                .iter()
                .find(|(position, number, _)| {
                    (*position, *number) == (result.position, result.number)
                })
                .map(|(_, _, at)| *at);
            let way = Facts {
                untold: !report.remote.as_ref().is_some_and(|remote| remote.dsn),
                source: source.as_deref().unwrap_or_default().into(),
                remote_host: remote_host.as_str().into(),
                provider,
                attempts: result.attempts.saturating_add(1),
                next_attempt,
                ..Facts::default()
            };
            self.outcome(result, way).await?;
        }
        Ok(())
    }

    fn disposition(&self, result: &RecipientResult, now: UnixMs) -> Disposition {
        let retry = result.subject.as_ref().map(|subject| {
            let (server, kind) = (subject.server_id, subject.stream_kind);
            self.parts.policies.of(server, subject.stream(), kind).retry
        });
        deliver::disposition(&result.outcome, now, retry)
    }

    /// What a session showed of its host, or of a recipient, for those that come after it.
    fn remember(&mut self, report: &Report) {
        let now = self.parts.clock.unix_ms();
        if let (Some(sign), Some(remote)) = (report.sign, &report.remote)
            && self.habits.note(now, remote.address.ip(), sign)
        {
            let habit = sign.habit.as_str();
            metrics::REMOTE_HABITS.add_to(habit, 1);
            tracing::warn!(
                host = %remote,
                habit,
                minutes = limits::HABIT_MEMORY.as_secs() / 60,
                "the host mishandles what it offers; it is not used for a while, at the cost of round trips"
            );
        }
        if let Some(position) = report.broken_by {
            self.habits.isolate(now, position);
        }
    }

    async fn outcome(
        &mut self,
        result: &RecipientResult,
        way: Facts<'_>,
    ) -> Result<(), AppendError> {
        let (kind, verdict) = match &result.outcome {
            Outcome::Delivered { reply } => {
                let verdict = Facts {
                    reply: reply.to_lines(),
                    ..Facts::default()
                };
                (EventKind::Delivered, verdict)
            }
            Outcome::Bounced { cause, .. } => (EventKind::Bounced, facts_of(cause)),
            Outcome::Deferred { cause, .. } => (EventKind::Deferred, facts_of(cause)),
            Outcome::Ambiguous { cause } => (EventKind::Ambiguous, facts_of(cause)),
            Outcome::NotAttempted => return Ok(()),
        };
        let mut facts = Facts {
            reply: verdict.reply,
            cause: verdict.cause,
            detail: verdict.detail,
            ruling: verdict.ruling,
            ..way
        };
        count_attempt(&result.outcome, facts.provider);
        let subject = result.subject.as_ref();
        let staged = subject.and_then(|subject| self.staged(subject, result.number));
        if let (Some(staged), false) = (staged, facts.reply.is_empty())
            && kind != EventKind::Delivered
        {
            (facts.cause, facts.detail) = asked_for(staged);
        }
        let later = staged.filter(|s| s.act == Act::Report && kind == EventKind::Delivered);
        let report = later.map(|staged| {
            let (cause, detail) = asked_for(staged);
            Facts {
                cause,
                detail,
                attempts: facts.attempts,
                mail_position: Some(result.position),
                ..Facts::default()
            }
        });
        self.record(kind, result.position, subject, result.number, facts)
            .await?;
        match report {
            None => Ok(()),
            Some(facts) => {
                let kind = EventKind::BouncedLater;
                self.record(kind, result.position, subject, result.number, facts)
                    .await
            }
        }
    }

    /// What is staged for a recipient at a test address.
    fn staged(&self, subject: &Subject, number: u16) -> Option<&'static Staged> {
        let asked = subject.bounce_type.as_deref();
        let tests = &self.parts.routes.tests;
        tests.staged(subject.forward_path(number), asked)
    }

    /// Writes a terminal event and notes the claims that end with it.
    pub(super) async fn end(
        &mut self,
        kind: EventKind,
        position: u64,
        subject: &Subject,
        number: u16,
        facts: Facts<'_>,
    ) -> Result<(), AppendError> {
        debug_assert!(kind.is_terminal(), "{kind:?}");
        let facts = match kind {
            EventKind::Expired => past_deadline(self.parts.clock.unix_ms(), subject, facts),
            _ => facts,
        };
        // Readers want to know more of the message than the event says.
        let facts = Facts {
            mail_position: Some(position),
            ..facts
        };
        metrics::OUTCOMES.add_to(kind.as_str(), 1);
        let waited = subject.waited_ms(self.parts.clock.unix_ms()) as f64 / 1_000.0;
        let stream_kind = metrics::kind_text(subject.stream_kind);
        match kind {
            EventKind::Delivered => {
                metrics::DELIVERY_SECONDS.record(&[stream_kind, facts.provider], waited);
            }
            _ => metrics::UNDELIVERED_SECONDS.record(&[stream_kind, kind.as_str()], waited),
        }
        self.ambiguities.forget(subject.id, number);
        let event = self.write(kind, subject, number, facts).await?;
        if subject.release_at.is_some() {
            let schedule = &self.parts.schedule;
            schedule.ended(subject.server_id, subject.id, number, event);
        }
        self.releases.0.push_back(Release {
            event,
            mail: position,
        });
        // A part in a segment that was lost was never claimed.
        let log = &self.parts.spool.mail;
        let parts = subject.parts.iter().copied();
        let claimed = parts.filter(|&part| log.is_retained(part));
        self.releases
            .0
            .extend(claimed.map(|mail| Release { event, mail }));
        Ok(())
    }

    /// Appends one event; it is durable within [`limits::LAZY_COMMIT`] and a sync. Returns its position.
    pub(super) async fn write(
        &mut self,
        kind: EventKind,
        subject: &Subject,
        number: u16,
        facts: Facts<'_>,
    ) -> Result<u64, AppendError> {
        let event = Event {
            kind,
            at: facts.at.unwrap_or_else(|| self.parts.clock.unix_ms()),
            message_id: subject.id,
            recipient_number: number,
            recipient: subject.forward_path(number),
            server_id: subject.server_id,
            server: subject.server(),
            stream: subject.stream(),
            source: &facts.source,
            remote_host: &facts.remote_host,
            reply: &facts.reply,
            cause: facts.cause,
            detail: &facts.detail,
            judged: facts.ruling.as_deref().map(Judged::of).unwrap_or_default(),
            attempts: facts.attempts,
            next_attempt: facts.next_attempt,
            mail_position: facts.mail_position,
            origin: "",
            since: None,
            idempotency: match (kind, number) {
                (EventKind::Accepted, 0) => &subject.idempotency,
                _ => &[],
            },
            reverse_path: &subject.reverse_path,
            tag: match kind {
                EventKind::Deferred | EventKind::Ambiguous => "",
                _ => subject.tag(),
            },
            notice: &[],
            notice_at: None,
            dsn: match tells(kind, subject, number, &facts) {
                true => subject.dsn(number),
                false => Dsn::default(),
            },
            notice_of: match (kind, number) {
                (EventKind::Accepted, 0) => &subject.notice_of,
                _ => &[],
            },
        };
        self.buffer.clear();
        event.encode(&mut self.buffer);
        self.append_event().await
    }

    /// What is encoded in the buffer.
    pub(super) async fn append_event(&mut self) -> Result<u64, AppendError> {
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
}

/// Whether readers may have to tell of it by mail.
fn tells(kind: EventKind, subject: &Subject, number: u16, facts: &Facts<'_>) -> bool {
    match kind {
        EventKind::Accepted
        | EventKind::Deferred
        | EventKind::Bounced
        | EventKind::Expired
        | EventKind::BouncedLater => true,
        // RFC 3461 §5.2.2: a host that offers DSN has taken over what was asked of us; where it would tell us and not the
        // sender, nothing was passed on.
        EventKind::Delivered => {
            let untold = facts.untold || !subject.reverse_path.is_empty();
            untold && subject.dsn(number).notify.contains("SUCCESS")
        }
        _ => false,
    }
}

/// Cause and detail.
fn asked_for(staged: &Staged) -> (&'static str, Cow<'static, str>) {
    let detail = format!("The test address asked for {}.", staged.name);
    (staged.cause, detail.into())
}

/// Of one that expired: whether its deadline was the reason.
fn past_deadline<'a>(now: UnixMs, subject: &Subject, facts: Facts<'a>) -> Facts<'a> {
    let at = facts.at.unwrap_or(now);
    match subject.deadline.filter(|&deadline| deadline <= at) {
        Some(deadline) if facts.cause == CauseClass::Expired.as_str() => Facts {
            cause: CauseClass::Deadline.as_str(),
            detail: format!(
                "Its deadline, {}, passed before it could be delivered (5.4.7).",
                rfc3339(deadline)
            )
            .into(),
            ..facts
        },
        _ => facts,
    }
}

fn count_attempt(outcome: &Outcome, provider: &str) {
    let (outcome, cause) = match outcome {
        Outcome::Delivered { .. } => ("delivered", None),
        Outcome::Deferred { cause, .. } => ("deferred", Some(cause)),
        Outcome::Bounced { cause, .. } => ("bounced", Some(cause)),
        Outcome::Ambiguous { cause } => ("ambiguous", Some(cause)),
        Outcome::NotAttempted => ("not_attempted", None),
    };
    metrics::ATTEMPTS.add_at(&[outcome, provider], 1);
    if let Some(cause) = cause {
        metrics::CAUSES.add_at(&[cause.class.as_str(), outcome], 1);
        if let Some(ruling) = &cause.ruling {
            let by = match is_the_tables(&ruling.rule) {
                true => &*ruling.rule,
                false => "rule",
            };
            metrics::JUDGED.add_to(by, 1);
        }
    }
}
