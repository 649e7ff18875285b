//! Sources that stop and come back: told to the log, to metrics, and to the event log.

use std::sync::Arc;

use super::Dispatcher;
use crate::clock::UnixMs;
use crate::config::SourceId;
use crate::deliver::{self, Report, SessionState};
use crate::event::{Event, EventKind};
use crate::mail::MessageId;
use crate::metrics;
use crate::outcome::CauseClass;
use crate::queue::{SourceChange, SourceRow, StopCause};
use crate::spool::AppendError;

impl Dispatcher {
    pub(super) async fn tell_of_sources(&mut self) -> Result<(), AppendError> {
        for change in self.parts.scheduler.take_source_changes() {
            self.tell_of_source(&change).await?;
        }
        Ok(())
    }

    async fn tell_of_source(&mut self, change: &SourceChange) -> Result<(), AppendError> {
        let name = self.source_name(change.source);
        let (kind, about) = match (&change.stop, &change.was) {
            (Some(stop), _) => (EventKind::SourceStopped, stop),
            (None, Some(was)) => (EventKind::SourceResumed, was),
            (None, None) => return Ok(()),
        };
        let why = about.why.as_str();
        if change.stop.is_some() {
            metrics::SOURCE_STOPS.add_to(why, 1);
            tracing::warn!(source = %name, why, reason = %about.reason, "a source is taken out of service");
        } else {
            tracing::info!(source = %name, why, reason = %about.reason, "a source is in service again");
        }
        let event = Event {
            kind,
            at: change.at,
            message_id: MessageId::from_bytes([0; 16]),
            recipient_number: 0,
            recipient: "",
            server_id: 0,
            server: "",
            stream: "",
            source: &name,
            remote_host: "",
            reply: "",
            cause: cause_of(about.why).as_str(),
            detail: &about.reason,
            judged: Default::default(),
            attempts: 0,
            next_attempt: change.stop.as_ref().and_then(|stop| stop.until),
            mail_position: None,
            origin: "",
            since: None,
            idempotency: &[],
            reverse_path: "",
            ..Event::nothing()
        };
        self.buffer.clear();
        event.encode(&mut self.buffer);
        self.append_event().await.map(drop)
    }

    /// Tells the scheduler what the session says of its source, ahead of its report.
    pub(super) fn note_trouble(&mut self, report: &Report, now: UnixMs) {
        let failure = match &report.state {
            SessionState::Closed { failure: Some(of) } => Some(&of.1),
            _ => None,
        };
        if let Some((trouble, cause)) =
            deliver::trouble_of(report.trouble, failure, &report.results)
        {
            let said = cause.reply.as_ref().map(|reply| format!(": {reply}"));
            let text = format!("{}{}", cause.detail, said.unwrap_or_default());
            let session = report.session;
            self.parts
                .scheduler
                .source_trouble(now, session, trouble, &text);
        }
    }

    /// Sources without an address on this host are out, until one is there; the first time all are looked at.
    pub(super) fn watch_addresses(&mut self, now: UnixMs) {
        let first = !std::mem::replace(&mut self.addresses_watched, true);
        let sources = Arc::clone(&self.parts.agents.sources);
        let rows = self.parts.scheduler.sources(now);
        for source in sources.iter().filter(|source| source.proxy.is_none()) {
            let is_missing = |row: &&SourceRow| {
                let stop = row.stop.as_ref();
                row.source == source.id && stop.is_some_and(|s| s.why == StopCause::Missing)
            };
            let is_out = rows.iter().any(|row| is_missing(&row));
            if !is_out && !first {
                continue;
            }
            match deliver::missing(source) {
                Some(why) if first => self.parts.scheduler.source_missing(now, source.id, &why),
                None if is_out => self.parts.scheduler.source_found(now, source.id),
                _ => {}
            }
        }
    }

    pub(super) fn gauge_sources(&mut self, now: UnixMs) {
        for row in self.parts.scheduler.sources(now) {
            let name = self.source_name(row.source);
            let up = row.weight > 0 && row.stop.is_none();
            metrics::SOURCE_UP.set_of(&name, if up { 1.0 } else { 0.0 });
            metrics::SOURCE_CONNECTIONS.set_of(&name, row.connections as f64);
            let counted = self.counted.entry((row.pool, row.source)).or_default();
            metrics::SOURCE_MESSAGES.add_to(&name, row.messages_ever - *counted);
            *counted = row.messages_ever;
        }
    }

    fn source_name(&self, source: SourceId) -> Arc<str> {
        let name = self.parts.source_names.get(usize::from(source.0));
        name.map_or_else(|| "".into(), Arc::clone)
    }
}

fn cause_of(why: StopCause) -> CauseClass {
    match why {
        StopCause::Drained => CauseClass::Admin,
        StopCause::Missing | StopCause::Proxy => CauseClass::LocalSystem,
        StopCause::Refused => CauseClass::Reputation,
    }
}
