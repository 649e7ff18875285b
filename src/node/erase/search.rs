//! Which records speak of somebody: a pass over the mail log, then one over the event log; where that finds notices by mail that
//! tell of what was found (RFC 3464: they have its recipients and its header section in them), one more over the mail log.
//!
//! Besides messages and their events it finds mail to postmaster and abuse in which the address stands, kept as an event or
//! forwarded, and, of a message that matches, every report that came back about it, whichever of its recipients it is of.
//!
//! The event log's end is taken before the mail log's: an event below the one is about a message below the other, or about
//! one whose record is gone.

use std::borrow::Cow;
use std::ops::Range;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use spool_format::layout::{event_field, field_tag};
use spool_format::{Content, ContentRecord, ErasedRecord, EventRecord, MessageRecord, kind};

use super::matching::{Address, Who};
use crate::clock::UnixMs;
use crate::event::{Event, EventKind};
use crate::inbound::reading;
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
    events: Wanted,
    ended: SmallVec<[u16; 2]>,
}

/// Which of a message's events are to go.
#[derive(Default)]
enum Wanted {
    #[default]
    All,
    /// Those of these recipients, and all that have a report in them.
    Of(SmallVec<[u16; 2]>),
    /// None: it is a notice about others. What its events say is about whom it went to, and its reader knows by them what was told.
    None,
}

impl Match {
    fn lives(&self) -> bool {
        self.in_use && self.ended.len() < usize::from(self.recipients)
    }

    fn wants(&self, event: &EventRecord<'_>) -> bool {
        match &self.events {
            Wanted::All => true,
            Wanted::Of(numbers) => {
                let has_report = || event.fields.find(event_field::NOTICE).is_some();
                numbers.contains(&event.recipient_number) || has_report()
            }
            Wanted::None => false,
        }
    }

    fn is_notice(&self) -> bool {
        matches!(self.events, Wanted::None)
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
    /// Of notices about them.
    notice_parts: Vec<u64>,
    /// Where the first record of such a notice may be; `None`: there is none.
    notices_from: Option<u64>,
    pub(super) events: Vec<u64>,
    /// All events about what matches, erased or not, in their order: notices name those that they tell of.
    told_of: Vec<u64>,
    /// Where the pass over the mail log goes on, and where it ends.
    mail: Range<u64>,
    /// Where the pass over its archives goes on; behind the log, so that a segment that is archived meanwhile is not missed.
    archives: u64,
    in_archives: bool,
    events_end: u64,
}

/// Why a search ended early.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Whoever started it wants it.
    Asked,
    /// Something cannot be read that may be read later: what it says of whom is meant would be missed.
    Unread(ReadError),
}

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
            notice_parts: Vec::new(),
            notices_from: None,
            events: Vec::new(),
            told_of: Vec::new(),
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
        self.notice_parts.clear();
        self.notices_from = None;
        self.events.clear();
        self.told_of.clear();
        let mail = &self.spool.mail;
        let mut more = false;
        if !self.in_archives {
            let range = self.mail.start.max(mail.start())..self.mail.end;
            let records = mail.records_from(range.start);
            more = self.pass(records, range, |search, record, next| {
                search.mail.start = next;
                search.mail_record(record)?;
                Ok(search.matches.len() < limits::ERASE_MESSAGES_AT_ONCE)
            })?;
            self.in_archives = !more;
        }
        if !more {
            let records = mail.archived_from(self.archives);
            more = self.pass(records, self.archives..u64::MAX, |search, record, next| {
                search.archives = next;
                search.mail_record(record)?;
                Ok(search.matches.len() < limits::ERASE_MESSAGES_AT_ONCE)
            })?;
        }
        self.events_from(0, !more)?;
        self.find_notices()?;
        Ok(more)
    }

    /// Finds notices that tell of the events that were found, wherever their records were moved. They may be younger than the
    /// search.
    fn find_notices(&mut self) -> Result<(), Stopped> {
        let (Some(from), Some(&first)) = (self.notices_from, self.told_of.first()) else {
            return Ok(());
        };
        let mail = &self.spool.mail;
        let range = from.max(mail.start())..mail.durable();
        self.pass(
            mail.records_from(range.start),
            range,
            |search, record, _| {
                search.notice_record(record, true);
                Ok(true)
            },
        )?;
        let archived = mail.archived_from(from);
        self.pass(archived, from..u64::MAX, |search, record, _| {
            search.notice_record(record, false);
            Ok(true)
        })?;
        match self.matches.values().any(Match::is_notice) {
            // Whether they have ended.
            true => self.events_from(first, false),
            false => Ok(()),
        }
    }

    fn notice_record(&mut self, record: &Record, in_use: bool) {
        if record.kind != kind::MESSAGE {
            return;
        }
        let Ok(message) = MessageRecord::decode(&record.payload) else {
            return;
        };
        let Some(notice_of) = message.fields.find(field_tag::NOTICE_OF) else {
            return;
        };
        let told = notice_of.chunks_exact(8);
        let mut told = told.filter_map(|at| Some(u64::from_le_bytes(at.try_into().ok()?)));
        if !told.any(|at| self.told_of.binary_search(&at).is_ok()) {
            return;
        }
        let found = self.matches.entry(message.id);
        let found = found.or_insert_with(|| Match {
            events: Wanted::None,
            ..Match::default()
        });
        // One to whom is meant is found already.
        if found.is_notice() && !found.positions.contains(&record.position) {
            found.positions.push(record.position);
            found.in_use |= in_use;
            found.recipients = message.recipients.len() as u16;
            if let Content::Records(parts) = message.content {
                let parts = parts.iter().map(|part| part.position);
                self.notice_parts.extend(parts);
            }
        }
    }

    /// Events of what was found, at or behind `from`; with `others`, also those that only name the recipient.
    fn events_from(&mut self, from: u64, others: bool) -> Result<(), Stopped> {
        let events = &self.spool.events;
        let range = from.max(events.start())..self.events_end;
        let records = events.records_from(range.start);
        self.pass(records, range, |search, record, _| {
            search.event_record(record, others);
            Ok(true)
        })?;
        for positions in [&mut self.events, &mut self.told_of] {
            positions.sort_unstable();
            positions.dedup();
        }
        Ok(())
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
        mut each: impl FnMut(&mut Self, &Record, u64) -> Result<bool, ReadError>,
    ) -> Result<bool, Stopped> {
        let (mut told, mut at) = (range.start, range.start);
        for found in records {
            let (record, next) = match found {
                Ok(found) => found,
                Err(error) if error.may_pass() => return Err(Stopped::Unread(error)),
                // Damage was reported when it was met; what it hid cannot be erased, only overwritten by reuse.
                Err(_) => continue,
            };
            if record.position >= range.end {
                break;
            }
            at = next;
            if at > told + STEP {
                if !(self.on)(at - told) {
                    return Err(Stopped::Asked);
                }
                told = at;
            }
            if !each(self, &record, next).map_err(Stopped::Unread)? {
                return Ok(true);
            }
        }
        match (self.on)(at - told) {
            true => Ok(false),
            false => Err(Stopped::Asked),
        }
    }

    fn mail_record(&mut self, record: &Record) -> Result<(), ReadError> {
        match record.kind {
            kind::MESSAGE => {
                if let Ok(message) = MessageRecord::decode(&record.payload) {
                    self.message(record.position, &message)?;
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
        Ok(())
    }

    fn message(&mut self, position: u64, message: &MessageRecord<'_>) -> Result<(), ReadError> {
        let query = self.query;
        let is_of = |server: &String| server == message.server_name;
        let is_before = |before: UnixMs| message.accepted_unix_ms < before;
        if !(query.server.as_ref().is_none_or(is_of) && query.before.is_none_or(is_before)) {
            return Ok(());
        }
        let mut numbers = SmallVec::new();
        let matches = match &query.who {
            Who::Message(id) => message.id == *id.as_bytes(),
            Who::Sender(address) => {
                address.is(message.reverse_path) || self.is_letter_about(message, address)?
            }
            Who::Recipient(address) => {
                let all = (0..=u16::MAX).zip(message.recipients.iter());
                let named = all.filter(|(_, r)| address.is(r.forward_path));
                numbers.extend(named.map(|(number, _)| number));
                !numbers.is_empty() || self.is_letter_about(message, address)?
            }
        };
        if !matches {
            return Ok(());
        }
        let in_use = !self.in_archives;
        let found = self.matches.entry(message.id).or_default();
        found.positions.push(position);
        found.in_use |= in_use;
        found.recipients = message.recipients.len() as u16;
        found.events = match numbers.is_empty() {
            true => Wanted::All,
            false => Wanted::Of(numbers),
        };
        if let Content::Records(parts) = message.content {
            self.parts.extend(parts.iter().map(|part| part.position));
        }
        Ok(())
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
        let (is_about, is_wanted) = match found {
            Some(found) => {
                let ends = event_kind.is_some_and(EventKind::is_terminal);
                if ends && !found.ended.contains(&number) {
                    found.ended.push(number);
                }
                (!found.is_notice(), found.wants(&event))
            }
            // Erased ones say nothing of the kind.
            None => {
                let named = others && self.names(&record.payload);
                (named, named)
            }
        };
        if is_about {
            self.told_of.push(record.position);
            // Only where notices are wanted; an erased event does not say.
            if erased.is_some() || event.fields.find(event_field::DSN_TO).is_some() {
                // No notice stands before the message that it is about.
                let accepted = event_kind == Some(EventKind::Accepted) && erased.is_none();
                let at = match accepted {
                    true => event.fields.find_number(event_field::MAIL_POSITION),
                    false if erased.is_none() => self.notices_from,
                    false => None,
                };
                let at = at.unwrap_or(0);
                self.notices_from = Some(self.notices_from.map_or(at, |from| from.min(at)));
            }
        }
        // What suppresses mail to somebody is needed to go on doing so; it is the account's to delete.
        let keeps = matches!(
            event_kind,
            Some(EventKind::Suppressed | EventKind::Unsuppressed)
        );
        if is_wanted && !keeps && erased.is_none() {
            self.events.push(record.position);
            // The report that it rests on is in another event, if it is about several.
            self.events
                .extend(event.fields.find_number(event_field::NOTICE_AT));
        }
    }

    /// Whether an event about a message whose record is gone is about this recipient or message.
    fn names(&self, payload: &[u8]) -> bool {
        let Ok(Some(event)) = Event::decode(payload) else {
            return false;
        };
        let is_of = |server: &String| server == event.server;
        let is_before = |before: UnixMs| event.message_id.unix_ms() < before;
        if event.kind == EventKind::PeopleMail {
            // The node's own, whoever's mail it may be about.
            return self.query.server.is_none()
                && self.query.before.is_none_or(|before| event.at < before)
                && self.is_letter(&event);
        }
        let who = match &self.query.who {
            Who::Recipient(address) => address.is(event.recipient),
            Who::Message(id) => event.message_id == *id,
            // An event does not name the sender.
            Who::Sender(_) => false,
        };
        who && self.query.server.as_ref().is_none_or(is_of)
            && self.query.before.is_none_or(is_before)
    }

    /// Whether mail for people that was kept is of or about whom is meant, or shows the message.
    fn is_letter(&self, event: &Event<'_>) -> bool {
        match &self.query.who {
            Who::Recipient(address) | Who::Sender(address) => {
                let is = |text: &str| address.is(text);
                is(event.recipient)
                    || reading::mentions(event.detail.as_bytes(), &is)
                    || reading::mentions(event.notice, &is)
            }
            Who::Message(id) => {
                let id = id.to_string();
                memchr::memmem::find(event.notice, id.as_bytes()).is_some()
            }
        }
    }

    /// The same of mail for people that was forwarded: a letter of the node's own, without a reverse-path.
    fn is_letter_about(
        &self,
        message: &MessageRecord<'_>,
        address: &Address,
    ) -> Result<bool, ReadError> {
        let is_own = message.server_id == 0 && message.reverse_path.is_empty();
        if !is_own {
            return Ok(false);
        }
        let content = content_of(message.content, |position| self.spool.mail.read(position))?;
        Ok(reading::mentions(&content, &|text| address.is(text)))
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

    /// Notices about what was found, content records first: they are found by events, so they go before those.
    pub(super) fn notices(&self) -> [Vec<u64>; 2] {
        [self.notice_parts.clone(), self.positions(true)]
    }

    /// Content records first, so that a message is found again as long as anything of it is left.
    pub(super) fn mail(&self) -> [Vec<u64>; 2] {
        [self.parts.clone(), self.positions(false)]
    }

    fn positions(&self, of_notices: bool) -> Vec<u64> {
        let found = self.matches.values();
        let found = found.filter(|found| found.is_notice() == of_notices);
        found
            .flat_map(|found| found.positions.iter().copied())
            .collect()
    }
}

/// Without what is damaged or gone. Fails where a part may be read later.
fn content_of<'m>(
    content: Content<'m>,
    read: impl Fn(u64) -> Result<Record, ReadError>,
) -> Result<Cow<'m, [u8]>, ReadError> {
    let parts = match content {
        Content::Inline(octets) => return Ok(octets.into()),
        Content::Records(parts) => parts,
    };
    let mut content = Vec::new();
    for part in parts.iter() {
        match read(part.position) {
            Ok(record) => {
                if let Ok(part) = ContentRecord::decode(&record.payload) {
                    content.extend_from_slice(part.octets);
                }
            }
            Err(error) if error.may_pass() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(content.into())
}

/// Bytes between two looks at whether to go on.
const STEP: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use spool_format::{ContentPart, List};

    use super::*;

    #[test]
    fn a_letter_that_may_be_read_later_is_not_passed_over() {
        let part = [ContentPart {
            position: 8,
            len: 5,
        }];
        let content = || Content::Records(List::new(&part));
        let busy = content_of(content(), |_| Err(ReadError::Busy));
        assert!(busy.is_err_and(|error| error.may_pass()));
        let gone = content_of(content(), |at| Err(ReadError::NotRetained(at)));
        assert_eq!(gone.unwrap(), b"".as_slice());
    }
}
