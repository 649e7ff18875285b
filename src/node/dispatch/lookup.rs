//! Events about messages that are not at hand: expired, withdrawn and unroutable recipients, and attempts that were cut off.
//!
//! Promises: the dispatcher's task never reads the mail log; events about one message are written in the order in which
//! things happened; no more than [`limits::COLD_BACKLOG_MAX`] messages wait, since the scheduler is not asked for more
//! endings meanwhile.
//! How: the scheduler has let go of such a recipient, its claim on the segment stands until its event is durable. So
//! the event can wait for what it says about the message, and a crash before it is written means that it happens again.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use spool_format::MessageRecord;
use tokio::task::JoinSet;

use super::{Dispatcher, Facts};
use crate::event::{EventKind, Subject};
use crate::limits;
use crate::metrics;
use crate::spool::{AppendError, Log};

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

    fn start(&mut self, log: &Log) {
        while self.running.len() < LOOKUPS && !self.asked.is_empty() {
            let count = self.asked.len().min(limits::COLD_BATCH);
            let positions: Vec<u64> = self.asked.drain(..count).collect();
            let log = log.clone();
            self.running
                .spawn_blocking(move || positions.into_iter().map(|p| look_up(&log, p)).collect());
        }
    }
}

fn look_up(log: &Log, position: u64) -> Found {
    let read = log.read_aside(position).map_err(|error| error.to_string());
    let subject = read.and_then(|found| {
        let record = MessageRecord::decode(&found.payload).map_err(|error| error.to_string())?;
        let all = 0..record.recipients.len() as u16;
        Ok(Arc::new(Subject::of(&record, all)))
    });
    Found { position, subject }
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
        self.lookups.start(&self.parts.spool.mail);
        Ok(())
    }

    pub(super) async fn looked_up(&mut self, found: &mut Vec<Found>) -> Result<(), AppendError> {
        for Found { position, subject } in found.drain(..) {
            let waiting = self.lookups.waiting.remove(&position).unwrap_or_default();
            if let Err(error) = &subject {
                metrics::SPOOL_DAMAGE.add_to("mail", 1);
                tracing::error!(position, %error, "message record cannot be read; see `posthaste spool verify`");
            }
            for Waiting {
                kind,
                number,
                facts,
                subject: known,
            } in waiting
            {
                if let Some(subject) = known.as_ref().or(subject.as_ref().ok()) {
                    self.write_of(kind, position, subject, number, facts)
                        .await?;
                }
            }
        }
        self.lookups.start(&self.parts.spool.mail);
        Ok(())
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
