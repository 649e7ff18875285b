//! Which records speak of somebody: a pass over the mail log, then one over the event log.
//!
//! The event log's end is taken before the mail log's: an event below the one is about a message below the other, or about
//! one whose record is gone.

use std::ops::Range;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use spool_format::{Content, ContentRecord, ErasedRecord, EventRecord, MessageRecord, kind};

use super::matching::Who;
use crate::clock::UnixMs;
use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::MessageId;
use crate::spool::{ReadError, Record, Spool};

/// What is looked for.
#[derive(Clone, PartialEq, Eq)]
pub struct Query {
    pub who: Who,
    /// Only messages of this server.
    pub server: Option<String>,
    /// Only messages accepted before.
    pub before: Option<UnixMs>,
}

/// A message that matches.
#[derive(Default)]
struct Match {
    /// Of its record and its copies; empty where it is erased.
    positions: SmallVec<[u64; 1]>,
    /// Its record lies in the log, not just in an archive: it may live.
    in_use: bool,
    recipients: u16,
    /// Recipients whose events are to go; empty: all.
    numbers: SmallVec<[u16; 2]>,
    ended: SmallVec<[u16; 2]>,
}

impl Match {
    fn lives(&self) -> bool {
        self.in_use && self.ended.len() < usize::from(self.recipients)
    }

    fn wants(&self, number: u16) -> bool {
        self.numbers.is_empty() || self.numbers.contains(&number)
    }
}

/// What was found so far.
pub(super) struct Search<'a> {
    spool: &'a Spool,
    query: &'a Query,
    /// Told how many bytes were read; `false` to stop.
    on: &'a dyn Fn(u64) -> bool,
    matches: FxHashMap<[u8; 16], Match>,
    /// Content records of matching messages.
    parts: Vec<u64>,
    pub(super) events: Vec<u64>,
    /// Where the pass over the mail log goes on, and where it ends.
    mail: Range<u64>,
    /// Where the pass over its archives goes on; behind the log, so that a segment that is archived meanwhile is not missed.
    archives: u64,
    in_archives: bool,
    events_end: u64,
}

/// Whoever started it wants it stopped.
#[derive(Debug)]
pub(super) struct Stopped;

impl<'a> Search<'a> {
    pub(super) fn new(spool: &'a Spool, query: &'a Query, on: &'a dyn Fn(u64) -> bool) -> Self {
        // The order matters: see above.
        let events_end = spool.events.durable();
        Self {
            spool,
            query,
            on,
            matches: FxHashMap::default(),
            parts: Vec::new(),
            events: Vec::new(),
            mail: 0..spool.mail.durable(),
            archives: 0,
            in_archives: false,
            events_end,
        }
    }

    /// Bytes that one pass over both logs reads.
    pub(super) fn total(&self) -> u64 {
        let mail = self.mail.end.saturating_sub(self.spool.mail.start());
        mail + self.events_end.saturating_sub(self.spool.events.start())
    }

    /// Finds the next portion of messages and all events about them. `false`: it was the last one.
    pub(super) fn next(&mut self) -> Result<bool, Stopped> {
        self.matches.clear();
        self.parts.clear();
        self.events.clear();
        let mail = &self.spool.mail;
        let mut more = false;
        if !self.in_archives {
            let range = self.mail.start.max(mail.start())..self.mail.end;
            let records = mail.records_from(range.start);
            more = self.pass(records, range, |search, record, next| {
                search.mail.start = next;
                search.mail_record(record);
                search.matches.len() < limits::ERASE_MESSAGES_AT_ONCE
            })?;
            self.in_archives = !more;
        }
        if !more {
            let records = mail.archived_from(self.archives);
            more = self.pass(records, self.archives..u64::MAX, |search, record, next| {
                search.archives = next;
                search.mail_record(record);
                search.matches.len() < limits::ERASE_MESSAGES_AT_ONCE
            })?;
        }
        self.events_from(0, !more)?;
        Ok(more)
    }

    /// Events of what was found, at or behind `from`; with `others`, also those that only name the recipient.
    fn events_from(&mut self, from: u64, others: bool) -> Result<(), Stopped> {
        let events = &self.spool.events;
        let range = from.max(events.start())..self.events_end;
        let records = events.records_from(range.start);
        self.pass(records, range, |search, record, _| {
            search.event_record(record, others);
            true
        })
        .map(drop)
    }

    /// Looks at events that came since, because recipients were cancelled.
    pub(super) fn catch_up(&mut self) -> Result<(), Stopped> {
        let from = self.events_end;
        self.events_end = self.spool.events.durable();
        self.events_from(from, false)
    }

    /// Whether `each` ended it.
    fn pass(
        &mut self,
        records: impl Iterator<Item = Result<(Record, u64), ReadError>>,
        range: Range<u64>,
        mut each: impl FnMut(&mut Self, &Record, u64) -> bool,
    ) -> Result<bool, Stopped> {
        let (mut told, mut at) = (range.start, range.start);
        for found in records {
            // Damage was reported when it was met; what it hid cannot be erased, only overwritten by reuse.
            let Ok((record, next)) = found else { continue };
            if record.position >= range.end {
                break;
            }
            at = next;
            if at > told + STEP {
                if !(self.on)(at - told) {
                    return Err(Stopped);
                }
                told = at;
            }
            if !each(self, &record, next) {
                return Ok(true);
            }
        }
        match (self.on)(at - told) {
            true => Ok(false),
            false => Err(Stopped),
        }
    }

    fn mail_record(&mut self, record: &Record) {
        match record.kind {
            kind::MESSAGE => {
                if let Ok(message) = MessageRecord::decode(&record.payload) {
                    self.message(record.position, &message);
                }
            }
            kind::CONTENT => {
                // Otherwise the message record names its content.
                if let Who::Message(id) = &self.query.who
                    && ContentRecord::decode(&record.payload)
                        .is_ok_and(|content| content.message_id == *id.as_bytes())
                {
                    self.parts.push(record.position);
                }
            }
            kind::ERASED => {
                if let Who::Message(id) = &self.query.who
                    && let Ok(erased) = ErasedRecord::decode(&record.payload)
                    && let Some(message) = erased.message()
                    && message.id == *id.as_bytes()
                {
                    self.matches.entry(message.id).or_default().recipients = message.recipients;
                }
            }
            _ => {}
        }
    }

    fn message(&mut self, position: u64, message: &MessageRecord<'_>) {
        let query = self.query;
        let is_of = |server: &String| server == message.server_name;
        let is_before = |before: UnixMs| message.accepted_unix_ms < before;
        if !(query.server.as_ref().is_none_or(is_of) && query.before.is_none_or(is_before)) {
            return;
        }
        let mut numbers = SmallVec::new();
        let matches = match &query.who {
            Who::Message(id) => message.id == *id.as_bytes(),
            Who::Sender(address) => address.is(message.reverse_path),
            Who::Recipient(address) => {
                let all = (0..=u16::MAX).zip(message.recipients.iter());
                let named = all.filter(|(_, r)| address.is(r.forward_path));
                numbers.extend(named.map(|(number, _)| number));
                !numbers.is_empty()
            }
        };
        if !matches {
            return;
        }
        let in_use = !self.in_archives;
        let found = self.matches.entry(message.id).or_default();
        found.positions.push(position);
        found.in_use |= in_use;
        found.recipients = message.recipients.len() as u16;
        found.numbers = numbers;
        if let Content::Records(parts) = message.content {
            self.parts.extend(parts.iter().map(|part| part.position));
        }
    }

    fn event_record(&mut self, record: &Record, others: bool) {
        let erased = (record.kind == kind::ERASED)
            .then(|| ErasedRecord::decode(&record.payload).ok())
            .flatten();
        let event = match &erased {
            Some(erased) => erased.event(),
            None if record.kind == kind::EVENT => EventRecord::decode(&record.payload).ok(),
            None => None,
        };
        let Some(event) = event else { return };
        let (number, event_kind) = (event.recipient_number, EventKind::from_code(event.kind));
        let found = self.matches.get_mut(&event.message_id);
        let is_wanted = match found {
            Some(found) => {
                let ends = event_kind.is_some_and(EventKind::is_terminal);
                if ends && !found.ended.contains(&number) {
                    found.ended.push(number);
                }
                found.wants(number)
            }
            // Erased ones say nothing of the kind.
            None => others && self.names(&record.payload),
        };
        // What suppresses mail to somebody is needed to go on doing so; it is the account's to delete.
        let keeps = matches!(
            event_kind,
            Some(EventKind::Suppressed | EventKind::Unsuppressed)
        );
        if is_wanted && !keeps && erased.is_none() {
            self.events.push(record.position);
        }
    }

    /// Whether an event about a message whose record is gone is about this recipient or message.
    fn names(&self, payload: &[u8]) -> bool {
        let Ok(Some(event)) = Event::decode(payload) else {
            return false;
        };
        let is_of = |server: &String| server == event.server;
        let is_before = |before: UnixMs| event.message_id.unix_ms() < before;
        let who = match &self.query.who {
            Who::Recipient(address) => address.is(event.recipient),
            Who::Message(id) => event.message_id == *id,
            // An event does not name the sender.
            Who::Sender(_) => false,
        };
        who && self.query.server.as_ref().is_none_or(is_of)
            && self.query.before.is_none_or(is_before)
    }

    /// Messages with recipients that no event has ended, with the position of their newest copy.
    pub(super) fn live(&self) -> Vec<MessageId> {
        let live = self.matches.iter().filter(|(_, found)| found.lives());
        let mut live: Vec<_> = live.map(|(id, _)| MessageId::from_bytes(*id)).collect();
        live.sort_unstable();
        live
    }

    /// Messages whose records are there.
    pub(super) fn messages(&self) -> u64 {
        let there = self.matches.values().filter(|m| !m.positions.is_empty());
        there.count() as u64
    }

    /// Content records first, so that a message is found again as long as anything of it is left.
    pub(super) fn mail(&self) -> [Vec<u64>; 2] {
        let messages = self.matches.values().flat_map(|m| m.positions.iter());
        [self.parts.clone(), messages.copied().collect()]
    }
}

/// Bytes between two looks at whether to go on.
const STEP: u64 = 1 << 20;
