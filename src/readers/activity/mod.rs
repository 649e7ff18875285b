//! The reader behind the messages API: what was sent, and where the event log speaks of it.
//!
//! Promises: each message that was accepted is one entry, found by what its record said of it, a second after its acceptance; an
//! entry is kept as long as its stream's content, and its events as long as the event log. Made again from the log it is the
//! same, as far as the records of its messages are still there; of others it says what their events say. Does not know: the API.
//!
//! Events are not copied: an entry names their positions, and [`Activity::events`] reads them. So a row is written once per
//! message, a few octets per event, and what is erased in the log is not shown from here.
//!
//! Rows come in the order of time, since the key is made of the message's id; what a message is found by is one full-text index
//! ([`words`]) and not an index of the table for each field: such an index writes to another page for every row, which costs a
//! disk more than all the rest, while FTS5 writes what a batch brings side by side and merges it later.

mod about;
mod search;
mod words;
mod write;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spool_format::{ErasedRecord, EventRecord, MessageRecord, kind};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::{Clock, UnixMs};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::MessageId;
use crate::readers::tables::{TableReader, Tables, Turns};
use crate::spool::{Log, Record, Retention, Spool};

pub use crate::readers::tables::Trouble;
pub use about::{About, Field, Recipient};
pub use search::{Entry, Search};

/// The reader at work.
pub type Reader = TableReader<ActivityTables>;

/// What was sent, to be asked. Cheap to clone.
#[derive(Clone)]
pub struct Activity {
    reader: Arc<Reader>,
    mail: Log,
    events: Log,
    /// Of those who read in the log: each server's, and all together.
    turns_of: Arc<Turns>,
    turns: Arc<Semaphore>,
}

pub struct ActivityTables {
    mail: Log,
    events: Log,
    retention: Arc<dyn Retention>,
    /// Of the event log.
    kept: Duration,
    clock: Clock,
    /// The message whose record was read last in this batch: its other recipients say nothing new.
    last: Mutex<Option<MessageId>>,
}

/// What one event makes.
pub enum Fact {
    Message(Box<New>),
    Event { id: MessageId, position: u64 },
}

/// A message that was accepted.
pub struct New {
    pub id: MessageId,
    pub server: u32,
    pub stream: String,
    /// Of its record; `None`: that is gone, and this says what one event says.
    pub position: Option<u64>,
    pub about: About,
}

impl Activity {
    pub fn new(
        spool: &Spool,
        retention: Arc<dyn Retention>,
        data_dir: &Path,
        kept: Duration,
        clock: Clock,
    ) -> Self {
        let tables = ActivityTables {
            mail: spool.mail.clone(),
            events: spool.events.clone(),
            retention,
            kept,
            clock,
            last: Mutex::default(),
        };
        let reader = TableReader::new(tables, &spool.events, data_dir, kept, clock);
        Self {
            reader: Arc::new(reader),
            mail: spool.mail.clone(),
            events: spool.events.clone(),
            turns_of: Arc::default(),
            turns: Arc::new(Semaphore::new(limits::ACTIVITY_LOOKS)),
        }
    }

    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// A turn to read in the log; kept as long as that takes.
    pub async fn turn(&self, server: u32) -> Result<[OwnedSemaphorePermit; 2], Trouble> {
        let of_server = self.turns_of.take(server).await?;
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = tokio::time::timeout(limits::READER_QUESTION_WAIT, turn).await;
        // Nobody closes it.
        let turn = turn.ok().and_then(Result::ok).ok_or(Trouble::Busy)?;
        Ok([of_server, turn])
    }

    /// The records of events about a message: those at `positions`, and those that the log has behind `from`, in order. Blocks.
    pub fn events(&self, id: MessageId, positions: &[u64], from: u64) -> Vec<Record> {
        let is_it = |record: &Record| {
            let event = (record.kind == kind::EVENT).then(|| EventRecord::decode(&record.payload));
            event.is_some_and(|event| event.is_ok_and(|event| event.message_id == *id.as_bytes()))
        };
        let known = positions.iter().take(limits::ACTIVITY_EVENTS);
        let mut found: Vec<Record> = known
            .filter_map(|position| self.events.read(*position).ok())
            .filter(is_it)
            .collect();
        let from = from.max(
            self.events
                .position_before(id.unix_ms().saturating_sub(SLACK_MS)),
        );
        let rest = self.events.records_from(from).take(limits::ACTIVITY_LOG);
        let behind = found.last().map_or(0, |record| record.position + 1);
        found.extend(
            rest.flatten()
                .map(|(record, _)| record)
                .filter(|record| record.position >= behind && is_it(record)),
        );
        found.truncate(limits::ACTIVITY_EVENTS);
        found
    }

    /// The message whose record is at `position`; whoever asks has found it there. May block.
    pub fn read(&self, server: u32, id: MessageId, position: u64) -> Option<Entry> {
        let record = self.mail.read(position).ok()?;
        let message = message_of(&record, id)?;
        (message.server_id == server).then_some(())?;
        Some(Entry {
            id,
            stream: message.stream_id.to_owned(),
            is_queued: true,
            position: Some(position),
            about: About::of(&message, &self.mail)?,
        })
    }

    /// Whether the record of the message is still there; octets of its content. May block.
    pub fn content_at(&self, id: MessageId, position: u64) -> Option<u64> {
        let record = self.mail.read(position).ok()?;
        message_of(&record, id).map(|message| message.content.len())
    }
}

fn message_of(record: &Record, id: MessageId) -> Option<MessageRecord<'_>> {
    if record.kind != kind::MESSAGE {
        return None;
    }
    let message = MessageRecord::decode(&record.payload).ok()?;
    (message.id == *id.as_bytes()).then_some(message)
}

impl Tables for ActivityTables {
    const NAME: &'static str = "activity";
    const VERSION: i64 = 2;
    const SCHEMA: &'static str = include_str!("schema.sql");
    const FACTS: usize = limits::ACTIVITY_FACTS;
    type Fact = Fact;

    fn wants(&self, kind: EventKind) -> bool {
        kind == EventKind::Accepted || tells(kind)
    }

    fn begin_batch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fact(&self, position: u64, event: &Event<'_>) -> Option<Fact> {
        let id = event.message_id;
        // Of a suppression that no message was the reason for.
        if *id.as_bytes() == [0; 16] || self.is_over(id, event.server_id, event.stream) {
            return None;
        }
        if event.kind != EventKind::Accepted {
            return Some(Fact::Event { id, position });
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == Some(id) {
            return None;
        }
        let read = event.mail_position.and_then(|position| {
            let record = self.mail.read(position).ok()?;
            let about = About::of(&message_of(&record, id)?, &self.mail)?;
            Some((position, about))
        });
        let (position, about) = match read {
            Some((position, about)) => {
                *last = Some(id);
                (Some(position), about)
            }
            None => {
                let mut about = About::default();
                about.add(event.recipient_number, event.recipient);
                (None, about)
            }
        };
        Some(Fact::Message(Box::new(New {
            id,
            server: event.server_id,
            stream: event.stream.to_owned(),
            position,
            about,
        })))
    }

    async fn apply(
        &self,
        tables: &mut SqliteConnection,
        facts: Vec<Fact>,
    ) -> Result<(), sqlx::Error> {
        // Whoever comes makes room: expiry of each stream keeps pace with its acceptance, whatever that is.
        for (scope, fresh) in write::apply(tables, facts).await? {
            let before = self.cutoff(self.retention.of(scope.server, &scope.stream));
            write::expire(tables, scope.id, before, 2 * fresh).await?;
        }
        Ok(())
    }

    async fn expire(
        &self,
        tables: &mut SqliteConnection,
        _before: UnixMs,
    ) -> Result<(), sqlx::Error> {
        let longest = self.cutoff(self.retention.longest());
        write::purge(tables, longest, limits::READER_EXPIRED).await?;
        let mut left = limits::READER_EXPIRED;
        for scope in write::scopes(tables).await? {
            let before = self.cutoff(self.retention.of(scope.server, &scope.stream));
            left -= write::expire(tables, scope.id, before, left).await?;
            if left <= 0 {
                break;
            }
        }
        Ok(())
    }

    async fn forget(
        &self,
        tables: &mut SqliteConnection,
        positions: &[u64],
    ) -> Result<(), sqlx::Error> {
        let (events, positions) = (self.events.clone(), positions.to_vec());
        let about = tokio::task::spawn_blocking(move || who(&events, &positions)).await;
        let about = about.map_err(|_| sqlx::Error::WorkerCrashed)?;
        for events in about.chunk_by(|a, b| a.id == b.id) {
            write::forget(tables, events).await?;
        }
        Ok(())
    }
}

/// Whether an event of this kind says what became of a message.
pub fn tells(kind: EventKind) -> bool {
    use EventKind::*;
    matches!(
        kind,
        Deferred
            | Ambiguous
            | Delivered
            | Bounced
            | Expired
            | Cancelled
            | BouncedLater
            | Complained
            | Opened
            | Clicked
            | Suppressed
            | Unsuppressed
    )
}

/// An event that is erased, or about to be.
struct Erased {
    id: MessageId,
    recipient_number: u16,
    position: u64,
}

/// Whom events are about; an erased one still says it. By message.
fn who(events: &Log, positions: &[u64]) -> Vec<Erased> {
    let about = |position: &u64| {
        let record = events.read(*position).ok()?;
        let event = match record.kind {
            kind::EVENT => EventRecord::decode(&record.payload).ok()?,
            kind::ERASED => ErasedRecord::decode(&record.payload).ok()?.event()?,
            _ => return None,
        };
        Some(Erased {
            id: MessageId::from_bytes(event.message_id),
            recipient_number: event.recipient_number,
            position: *position,
        })
    };
    let mut all: Vec<_> = positions.iter().filter_map(about).collect();
    all.sort_unstable_by_key(|erased| (erased.id, erased.position));
    all
}

impl ActivityTables {
    fn cutoff(&self, kept: Duration) -> UnixMs {
        let kept = kept.min(self.kept).as_millis() as u64;
        self.clock.unix_ms().saturating_sub(kept)
    }

    fn is_over(&self, id: MessageId, server: u32, stream: &str) -> bool {
        id.unix_ms() < self.cutoff(self.retention.of(server, stream))
    }
}

/// Rows are in this order. Two messages of one millisecond have the same key once in two million times; the second then gets one of the
/// next ([`KEYS_TRIED`]).
fn key_of(id: MessageId) -> i64 {
    let random = id.random() & ((1 << KEY_RANDOM) - 1);
    key_at(id.unix_ms()) | random as i64
}

/// The first key of this time.
fn key_at(at: UnixMs) -> i64 {
    (at.min((1 << KEY_TIME) - 1) << KEY_RANDOM) as i64
}

fn minute_of(key: i64) -> i64 {
    (key >> KEY_RANDOM) / 60_000
}

/// Bits of a key.
const KEY_TIME: u32 = 42;
const KEY_RANDOM: u32 = 21;
const _: () = assert!(KEY_TIME + KEY_RANDOM == 63);
const KEYS_TRIED: i64 = 8;
/// A clock that was set back between two starts.
const SLACK_MS: UnixMs = 3_600_000;
