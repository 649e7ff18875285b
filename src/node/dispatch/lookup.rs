//! Events about messages that are not at hand: expired, withdrawn and unroutable recipients, and attempts that were cut off.
//!
//! Promises: the dispatcher's task never reads the mail log; events about one message are written in the order in which
//! things happened; no more than [`limits::COLD_BACKLOG_MAX`] messages wait, since the scheduler is not asked for more
//! endings meanwhile.
//! A message that cannot be read is looked for in its *accepted* events, so that what becomes of its recipients is on record
//! all the same: their attempts are deferred with cause *damaged*, which an operator may repair or cancel, and at the age
//! limit they expire. How: the scheduler has let go of such a recipient, its claim on the segment stands until its event is durable. So
//! the event can wait for what it says about the message, and a crash before it is written means that it happens again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use spool_format::MessageRecord;
use tokio::task::JoinSet;

use super::{Dispatcher, Facts};
use crate::event::{Event, EventKind, Subject};
use crate::limits;
use crate::metrics;
use crate::node::compact::Places;
use crate::outcome::CauseClass;
use crate::spool::{AppendError, Log, Spool};

#[derive(Default)]
pub(super) struct Lookups {
    /// By position of the message, in order.
    waiting: FxHashMap<u64, Vec<Waiting>>,
    /// Positions that nobody looks up yet.
    asked: VecDeque<u64>,
    running: JoinSet<Vec<Found>>,
}

struct Waiting {
    kind: EventKind,
    number: u16,
    facts: Facts<'static>,
    /// Known, but others of the message came first.
    subject: Option<Arc<Subject>>,
}

pub(super) struct Found {
    position: u64,
    /// Or why it cannot be read.
    subject: Result<Arc<Subject>, String>,
    /// If it cannot: what its *accepted* events say.
    of_events: Option<Arc<Subject>>,
}

impl Waiting {
    /// The message cannot be read: its events say so.
    fn explain(&mut self, error: &str) {
        metrics::MESSAGES_UNREADABLE.add(1);
        if self.kind == EventKind::Expired {
            self.facts.cause = CauseClass::Damaged.as_str();
            self.facts.detail = format!(
                "The message could not be read from the spool until its age limit was reached: {error}."
            )
            .into();
        }
    }
}

impl Lookups {
    /// Messages that events wait for.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Vec<Found>> {
        match self.running.join_next().await? {
            Ok(found) => Some(found),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn start(&mut self, spool: &Arc<Spool>, places: &Arc<Places>) {
        while self.running.len() < LOOKUPS && !self.asked.is_empty() {
            let count = self.asked.len().min(limits::COLD_BATCH);
            let positions: Vec<u64> = self.asked.drain(..count).collect();
            let (spool, places) = (Arc::clone(spool), Arc::clone(places));
            self.running
                .spawn_blocking(move || look_up(&spool, &places, positions));
        }
    }
}

fn look_up(spool: &Spool, places: &Places, positions: Vec<u64>) -> Vec<Found> {
    let found = positions.into_iter().map(|position| Found {
        position,
        subject: read_subject(&spool.mail, position),
        of_events: None,
    });
    let mut found: Vec<Found> = found.collect();
    let mut wanted: Vec<&mut Found> = found.iter_mut().filter(|f| f.subject.is_err()).collect();
    if !wanted.is_empty() {
        search_events(&spool.events, places, &mut wanted);
    }
    found
}

fn read_subject(log: &Log, position: u64) -> Result<Arc<Subject>, String> {
    let read = log.read_aside(position);
    let payload = read.map_err(|error| error.to_string())?.payload;
    let record = MessageRecord::decode(&payload).map_err(|error| error.to_string())?;
    let all = 0..record.recipients.len() as u16;
    Ok(Arc::new(Subject::of(&record, all)))
}

/// Reads the whole event log: damage is rare.
fn search_events(events: &Log, places: &Places, wanted: &mut [&mut Found]) {
    let ids: Vec<_> = wanted.iter().map(|f| places.id_at(f.position)).collect();
    let mut payloads: Vec<Vec<Bytes>> = vec![Vec::new(); wanted.len()];
    for (record, _) in events.records_from(0).flatten() {
        let Ok(Some(event)) = Event::decode(&record.payload) else {
            continue;
        };
        if event.kind != EventKind::Accepted {
            continue;
        }
        let is_it = |(index, found): (usize, &&mut Found)| match ids[index] {
            // Compaction moved it: events know only where it was accepted.
            Some(id) => *event.message_id.as_bytes() == id,
            None => event.mail_position == Some(found.position),
        };
        let index = wanted.iter().enumerate().position(|(i, f)| is_it((i, f)));
        if let Some(index) = index {
            payloads[index].push(Bytes::copy_from_slice(&record.payload));
        }
    }
    for (found, payloads) in wanted.iter_mut().zip(payloads) {
        let events = payloads.iter().filter_map(|p| Event::decode(p).ok()?);
        let events: Vec<Event<'_>> = events.collect();
        let subject = Subject::of_events(&events, places.parts_of(found.position));
        found.of_events = subject.map(Arc::new);
    }
}

impl Dispatcher {
    /// Writes an event, at once where it is known what it says about the message and nothing about it waits.
    pub(super) async fn record(
        &mut self,
        kind: EventKind,
        position: u64,
        subject: Option<&Arc<Subject>>,
        number: u16,
        facts: Facts<'_>,
    ) -> Result<(), AppendError> {
        let waits = self.lookups.waiting.get_mut(&position);
        if let (None, Some(subject)) = (&waits, subject) {
            return self.write_of(kind, position, subject, number, facts).await;
        }
        let at = facts.at.unwrap_or_else(|| self.parts.clock.unix_ms());
        let waiting = Waiting {
            kind,
            number,
            facts: Facts {
                at: Some(at),
                ..facts.into_owned()
            },
            subject: subject.cloned(),
        };
        match waits {
            Some(others) => others.push(waiting),
            None => {
                self.lookups.waiting.insert(position, vec![waiting]);
                self.lookups.asked.push_back(position);
            }
        }
        self.lookups.start(&self.parts.spool, &self.parts.places);
        Ok(())
    }

    pub(super) async fn looked_up(&mut self, found: &mut Vec<Found>) -> Result<(), AppendError> {
        for Found {
            position,
            subject,
            of_events,
        } in found.drain(..)
        {
            let waiting = self.lookups.waiting.remove(&position).unwrap_or_default();
            if let Err(error) = &subject {
                metrics::SPOOL_DAMAGE.add_to("mail", 1);
                tracing::error!(position, %error, "message record cannot be read; see `posthaste spool verify`");
            }
            for mut fact in waiting {
                if let Err(error) = &subject {
                    fact.explain(error);
                }
                let Waiting {
                    kind,
                    number,
                    facts,
                    subject: known,
                } = fact;
                let read = subject.as_ref().ok();
                match known.as_ref().or(read).or(of_events.as_ref()) {
                    Some(subject) => {
                        self.write_of(kind, position, subject, number, facts)
                            .await?;
                    }
                    None => self.forget(kind, position, number),
                }
            }
        }
        self.lookups.start(&self.parts.spool, &self.parts.places);
        Ok(())
    }

    /// Neither the record nor an event says which message this was. Its claim goes, so that the damaged segment can be put
    /// aside.
    fn forget(&mut self, kind: EventKind, position: u64, number: u16) {
        tracing::error!(
            position,
            number,
            ?kind,
            "nothing is known of a recipient but that this became of it"
        );
        if kind.is_terminal() {
            self.parts.schedule.lost(position);
        }
        if kind.is_terminal() && self.parts.spool.mail.is_retained(position) {
            self.parts.spool.mail.release(position, 1);
        }
    }

    async fn write_of(
        &mut self,
        kind: EventKind,
        position: u64,
        subject: &Subject,
        number: u16,
        facts: Facts<'_>,
    ) -> Result<(), AppendError> {
        if kind.is_terminal() {
            self.end(kind, position, subject, number, facts).await
        } else {
            self.write(kind, subject, number, facts).await.map(drop)
        }
    }
}

/// Threads that look up at one time.
const LOOKUPS: usize = 2;
