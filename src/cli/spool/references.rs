//! What must hold between records, for `spool verify`: whoever was accepted and has no outcome has a message record in use,
//! and that has its content.
//!
//! Segments are read in any order, so facts are gathered as small tables and judged at the end: one entry for each recipient
//! without an outcome, one for each content record.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::Context;
use spool_format::layout::{RECORD_HEADER, record};
use spool_format::{
    Content, ContentRecord, ErasedRecord, EventRecord, Frame, LogKind, MessageRecord, RecipientKey,
    kind,
};

use super::verify::FindingRow;
use crate::cli::logs::{Flow, LogReader, event_of, name};
use crate::event::EventKind;
use crate::mail::MessageId;

/// Positions and octets of a message's content records.
type Parts = Vec<(u64, u32)>;

/// What is known of a recipient that is not known to have both come and ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    accepted: bool,
    ended: bool,
    /// A message record in use names it.
    recorded: bool,
}

/// Gathered over both logs: the event log first.
#[derive(Default)]
pub(super) struct References {
    open: HashMap<RecipientKey, Seen>,
    /// Messages of `open`.
    messages: HashSet<[u8; 16]>,
    /// Content records in use.
    contents: HashMap<u64, ([u8; 16], u32)>,
    /// What the records of waiting messages need of them; a message that was moved has several.
    needed: HashMap<[u8; 16], Vec<Parts>>,
    /// Where the event log had been read to.
    events_end: u64,
}

/// What one or more segments say.
#[derive(Default)]
pub(super) struct Facts {
    /// Of one segment: recipient, and whether it ended; else it was accepted.
    events: Vec<(RecipientKey, bool)>,
    /// Of the segments that were put together.
    open: HashMap<RecipientKey, Seen>,
    /// Message records in use of messages that wait, with how many recipients each has.
    messages: Vec<([u8; 16], u16)>,
    contents: Vec<(u64, [u8; 16], u32)>,
    needed: Vec<([u8; 16], Parts)>,
    /// Records whose bytes are as they were written and make no sense: position, length, why.
    senseless: Vec<(u64, u64, String)>,
    /// Behind the last event.
    events_end: u64,
}

impl Facts {
    pub(super) fn record(
        &mut self,
        known: &References,
        position: u64,
        in_use: bool,
        frame: &Frame<'_>,
    ) {
        if let Err(error) = self.take(known, position, in_use, frame) {
            let length = frame.record_len as u64;
            self.senseless
                .push((position, length, format!("{error:#}")));
        }
    }

    fn take(
        &mut self,
        known: &References,
        position: u64,
        in_use: bool,
        frame: &Frame<'_>,
    ) -> anyhow::Result<()> {
        match frame.kind {
            kind::EVENT => EventRecord::decode(frame.payload)
                .map(drop)
                .context("event record")?,
            kind::ERASED => ErasedRecord::decode(frame.payload)
                .map(drop)
                .context("erased record")?,
            kind::MESSAGE => {
                let record = MessageRecord::decode(frame.payload).context("message record")?;
                if in_use && known.messages.contains(&record.id) {
                    let count = u16::try_from(record.recipients.len()).unwrap_or(u16::MAX);
                    self.messages.push((record.id, count));
                    if let Content::Records(parts) = record.content {
                        let parts = parts.iter().map(|part| (part.position, part.len));
                        self.needed.push((record.id, parts.collect()));
                    }
                }
            }
            kind::CONTENT => {
                let content = ContentRecord::decode(frame.payload).context("content record")?;
                if in_use && known.messages.contains(&content.message_id) {
                    let octets = content.octets.len() as u32;
                    self.contents.push((position, content.message_id, octets));
                }
            }
            // Of a later version: kept and not judged.
            _ => {}
        }
        if let Some(event) = event_of(frame) {
            self.events_end = self.events_end.max(position + 1);
            let kind = EventKind::from_code(event.kind);
            let ended = kind.is_some_and(EventKind::is_terminal);
            if ended || kind == Some(EventKind::Accepted) {
                let key = RecipientKey {
                    message: event.message_id,
                    number: event.recipient_number,
                };
                self.events.push((key, ended));
            }
        }
        Ok(())
    }

    pub(super) fn extend(&mut self, other: Self) {
        for (key, ended) in other.events {
            let seen = self.open.entry(key).or_default();
            seen.ended |= ended;
            seen.accepted |= !ended;
            if seen.ended && seen.accepted {
                self.open.remove(&key);
            }
        }
        self.messages.extend(other.messages);
        self.contents.extend(other.contents);
        self.needed.extend(other.needed);
        self.senseless.extend(other.senseless);
        self.events_end = self.events_end.max(other.events_end);
    }

    pub(super) fn findings(&self, log: LogKind) -> Vec<FindingRow> {
        let row = |(position, length, why): &(u64, u64, String)| FindingRow {
            length: *length,
            ..finding(log, *position, why.clone())
        };
        self.senseless.iter().map(row).collect()
    }
}

fn finding(log: LogKind, position: u64, finding: String) -> FindingRow {
    FindingRow {
        section: "finding",
        log: name(log),
        segment: None,
        file: None,
        offset: position,
        length: 0,
        finding,
        acknowledged: true,
        message_ids: Vec::new(),
    }
}

impl References {
    /// Takes in what the segments of a log say.
    pub(super) fn take(&mut self, log: LogKind, facts: Facts) {
        if log == LogKind::Event {
            self.open = facts.open;
            self.events_end = facts.events_end;
            self.messages = self.open.keys().map(|key| key.message).collect();
        }
        for (message, count) in facts.messages {
            for number in 0..count {
                if let Some(seen) = self.open.get_mut(&RecipientKey { message, number }) {
                    seen.recorded = true;
                }
            }
        }
        let contents = facts.contents.into_iter();
        self.contents
            .extend(contents.map(|(position, id, len)| (position, (id, len))));
        for (id, parts) in facts.needed {
            self.needed.entry(id).or_default().push(parts);
        }
    }

    /// Messages that wait and cannot be delivered.
    pub(super) fn judge(mut self, data_dir: &Path) -> anyhow::Result<Vec<FindingRow>> {
        self.open.retain(|_, seen| seen.accepted && !seen.ended);
        let suspect = |seen: &Seen| !seen.recorded;
        if self.open.values().any(suspect) || !self.needed.is_empty() {
            // What has ended while the mail log was read may have been taken back since.
            let mut reader = LogReader::open(data_dir, LogKind::Event, self.events_end)?;
            let open = &mut self.open;
            let _ = reader.read(&mut |_, frame| {
                if let Some(event) = event_of(frame)
                    && EventKind::from_code(event.kind).is_some_and(EventKind::is_terminal)
                {
                    open.remove(&RecipientKey {
                        message: event.message_id,
                        number: event.recipient_number,
                    });
                }
                Flow::Continue(())
            })?;
        }
        if self.open.values().any(suspect) || self.has_incomplete() {
            self.look_again(data_dir)?;
        }
        let mut lost: BTreeMap<[u8; 16], Vec<u16>> = BTreeMap::new();
        for (key, seen) in &self.open {
            if !seen.recorded {
                lost.entry(key.message).or_default().push(key.number);
            }
        }
        let mut findings = Vec::new();
        for (id, mut numbers) in lost {
            numbers.sort_unstable();
            let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
            findings.push(FindingRow {
                message_ids: vec![text(id)],
                ..finding(
                    LogKind::Mail,
                    0,
                    format!(
                        "lost: recipients {} of this message were accepted and have no outcome, and its record is gone",
                        numbers.join(", ")
                    ),
                )
            });
        }
        let waiting: HashSet<[u8; 16]> = self.open.keys().map(|key| key.message).collect();
        for (id, records) in &self.needed {
            if waiting.contains(id) && !records.iter().any(|parts| self.has_all(id, parts)) {
                let newest = records.iter().flatten().map(|part| part.0);
                findings.push(FindingRow {
                    message_ids: vec![text(*id)],
                    ..finding(
                        LogKind::Mail,
                        newest.max().unwrap_or(0),
                        "its content is gone, damaged or another's".into(),
                    )
                });
            }
        }
        Ok(findings)
    }

    /// Compaction may have moved what was looked for out of the segments that were listed: the mail log again, to its end now.
    fn look_again(&mut self, data_dir: &Path) -> anyhow::Result<()> {
        let mut facts = Facts::default();
        let known = &*self;
        let mut mail = LogReader::open_in_use(data_dir, LogKind::Mail, 0)?;
        let _ = mail.read(&mut |position, frame| {
            facts.record(known, position, true, frame);
            Flow::Continue(())
        })?;
        self.take(LogKind::Mail, facts);
        Ok(())
    }

    /// Whether a record of a message lacks some of its content.
    fn has_incomplete(&self) -> bool {
        let lacks = |(id, records): (&[u8; 16], &Vec<Parts>)| {
            !records.iter().any(|parts| self.has_all(id, parts))
        };
        self.needed.iter().any(lacks)
    }

    fn has_all(&self, id: &[u8; 16], parts: &[(u64, u32)]) -> bool {
        let there =
            |(position, len): &(u64, u32)| self.contents.get(position) == Some(&(*id, *len));
        parts.iter().all(there)
    }
}

pub(super) fn text(id: [u8; 16]) -> String {
    MessageId::from_bytes(id).to_string()
}

/// The message that a damaged record seems to be of: its id is where it should be and looks like one (RFC 9562 §5.7).
pub(super) fn id_in(segment: &[u8], offset: u64, log: LogKind) -> Option<[u8; 16]> {
    let start = usize::try_from(offset).ok()?;
    let bytes = segment.get(start..)?;
    let at = match (log, *bytes.get(record::KIND)?) {
        (LogKind::Mail, kind::MESSAGE | kind::CONTENT) => RECORD_HEADER,
        (LogKind::Event, kind::EVENT) => RECORD_HEADER + spool_format::layout::event::MESSAGE_ID,
        _ => return None,
    };
    let id: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    let is_version_7 = id[6] >> 4 == 7 && id[8] >> 6 == 2;
    is_version_7.then_some(id)
}
