//! `posthaste spool at`: the queue, or one message, as of a past moment, from the event log alone.
//!
//! The event log keeps what was accepted and what became of it for longer than mail is kept, so this works for mail that has
//! left. Only recipients that lived at that moment are held in memory, some 60 bytes each; a listing reads the log again for
//! their names.

use std::collections::HashMap;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde::Serialize;
use spool_format::layout::event_field;
use spool_format::{EventRecord, LogKind, RecipientKey, Texts};

use super::message::State;
use super::show::{SCHEDULED, Shown, state_text};
use super::stat::Waiting;
use super::{Listed, find_one, progress};
use crate::cli::filter::{Moment, domain_of};
use crate::cli::logs::{Flow, IdPrefix, LogReader, SLACK_MS, Step, event_of};
use crate::cli::output::{Listing, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found};
use crate::clock::{UnixMs, rfc3339};
use crate::event::EventKind;
use crate::mail::MessageId;

#[derive(Args)]
#[command(after_help = "Examples:
  posthaste spool at -2h                                    what waited two hours ago, by destination and age
  posthaste spool at \"2026-03-02 14:00\" --ls --limit 20     the recipients that waited
  posthaste spool at 2026-03-02T14:00:00Z 019a1f0e7b1       one message as it was then

The moment is RFC 3339 (UTC where no zone is given) or a time before now (-2h, -3d12h). It must lie within what the event log \
keeps; exit code 1: nothing waited, there was no such message, or the event log is damaged.")]
pub(in crate::cli) struct At {
    #[command(flatten)]
    listed: Listed,
    /// RFC 3339, or -2h.
    #[arg(value_name = "TIME", allow_hyphen_values = true)]
    time: Moment,
    /// One message: its id, or the first digits.
    #[arg(value_name = "ID", conflicts_with_all = ["ls", "by", "domain"])]
    id: Option<IdPrefix>,
    /// List the recipients that waited instead of adding them up.
    #[arg(long)]
    ls: bool,
    /// End after N recipients.
    #[arg(long, value_name = "N", requires = "ls")]
    limit: Option<u64>,
    /// Only recipients in this domain.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// What the rows of the table stand for.
    #[arg(long, value_enum, default_value_t = AtBy::Domain)]
    by: AtBy,
    /// Rows of the table.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AtBy {
    /// The recipient's domain.
    Domain,
    /// Server and message stream.
    Stream,
    Server,
}

impl At {
    pub(super) fn run(self) -> Result<Found, Failure> {
        if let Some(id) = &self.id {
            return self.show(id);
        }
        let data_dir = self.listed.place.data_dir()?;
        let past = Past::read(&data_dir, self.time.0, self.by)?;
        if past.waiting.is_empty() && !past.reaches_back {
            return Err(Failure::finding(format!(
                "the event log does not go back to {}",
                rfc3339(self.time.0)
            )));
        }
        let found = match past.waiting.is_empty() || past.damaged {
            true => Found::Finding,
            false => Found::All,
        };
        match self.ls {
            true => past.list(&data_dir, &self)?,
            false => past.sum_up(&self)?,
        }
        Ok(found)
    }

    fn show(&self, id: &IdPrefix) -> Result<Found, Failure> {
        let message = find_one(&self.listed.place, id, self.time.0)?;
        let id = MessageId::from_bytes(message.id);
        if message.events.is_empty() && id.unix_ms() > self.time.0 {
            return Err(Failure::finding(format!(
                "{id} came later, at {}",
                rfc3339(id.unix_ms())
            )));
        }
        Shown::new(&message, self.time.0).print(self.listed.json)?;
        Ok(Found::All)
    }
}

/// A recipient that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waited {
    pub(super) accepted_at: UnixMs,
    pub(super) next_attempt: UnixMs,
    pub(super) attempts: u16,
    /// In the names of the past.
    name: u32,
}

/// Who lived at a moment.
pub(super) struct Past {
    time: UnixMs,
    pub(super) waiting: HashMap<RecipientKey, Waited>,
    names: Texts,
    /// The log has something from before.
    reaches_back: bool,
    /// Something of it could not be read.
    damaged: bool,
}

impl Past {
    fn read(data_dir: &Path, time: UnixMs, by: AtBy) -> anyhow::Result<Self> {
        let mut past = Self {
            time,
            waiting: HashMap::new(),
            names: Texts::default(),
            reaches_back: false,
            damaged: false,
        };
        let reader = past.each_event(data_dir, |past, _, event| past.take(event, by))?;
        past.damaged = reader.tell_damages();
        Ok(past)
    }

    #[cfg(test)]
    pub(super) fn by_domain(data_dir: &Path, time: UnixMs) -> anyhow::Result<Self> {
        Self::read(data_dir, time, AtBy::Domain)
    }

    /// Calls `take` with the events that may concern the moment, in order.
    fn each_event(
        &mut self,
        data_dir: &Path,
        mut take: impl FnMut(&mut Self, u64, &EventRecord<'_>),
    ) -> anyhow::Result<LogReader> {
        let mut reader =
            LogReader::open(data_dir, LogKind::Event, 0)?.with_progress(progress("event"));
        let beyond = self.time.saturating_add(SLACK_MS);
        // Before a log that is there from its first segment on, nothing waited.
        self.reaches_back |= reader.next_segment().is_none_or(|s| s.header.number <= 1);
        while reader
            .next_segment()
            .is_some_and(|s| s.began_at() <= beyond)
        {
            let step = reader.step(&mut |position, frame| {
                if let Some(event) = event_of(frame) {
                    self.reaches_back |= event.at_unix_ms <= self.time;
                    take(self, position, &event);
                }
                Flow::Continue(())
            })?;
            if step != Step::Segment {
                break;
            }
        }
        Ok(reader)
    }

    fn take(&mut self, event: &EventRecord<'_>, by: AtBy) {
        let Some(kind) = EventKind::from_code(event.kind) else {
            return;
        };
        let key = key_of(event);
        if kind == EventKind::Accepted {
            let accepted_at = accepted_at(event);
            if accepted_at <= self.time {
                let release = event.fields.find_number(event_field::NEXT_ATTEMPT_MS);
                let waited = self.enter(key, event, accepted_at, by);
                if waited.attempts == 0 {
                    waited.next_attempt = release.unwrap_or(0);
                }
            }
        } else if event.at_unix_ms > self.time {
        } else if kind.is_terminal() {
            self.waiting.remove(&key);
        } else if matches!(
            kind,
            EventKind::Deferred | EventKind::Ambiguous | EventKind::Rescheduled
        ) {
            let begun = MessageId::from_bytes(event.message_id).unix_ms();
            let number = |tag| event.fields.find_number(tag).unwrap_or_default();
            let waited = self.enter(key, event, begun, by);
            waited.attempts = u16::try_from(number(event_field::ATTEMPTS)).unwrap_or(u16::MAX);
            waited.next_attempt = number(event_field::NEXT_ATTEMPT_MS);
        }
    }

    fn enter(
        &mut self,
        key: RecipientKey,
        event: &EventRecord<'_>,
        accepted_at: UnixMs,
        by: AtBy,
    ) -> &mut Waited {
        let names = &mut self.names;
        self.waiting.entry(key).or_insert_with(|| {
            let text = |tag| event.fields.find_text(tag).unwrap_or_default();
            let name = match by {
                AtBy::Domain => {
                    let domain = domain_of(text(event_field::RECIPIENT));
                    match domain.bytes().any(|b| b.is_ascii_uppercase()) {
                        true => names.number(&domain.to_ascii_lowercase()),
                        false => names.number(domain),
                    }
                }
                AtBy::Server => names.number(text(event_field::SERVER)),
                AtBy::Stream => {
                    let (server, stream) = (text(event_field::SERVER), text(event_field::STREAM));
                    names.number(&format!("{server}/{stream}"))
                }
            };
            Waited {
                accepted_at,
                next_attempt: 0,
                attempts: 0,
                name,
            }
        })
    }

    fn sum_up(&self, at: &At) -> Result<(), Failure> {
        let mut table = Waiting::by_domain(self.time);
        let wanted = |name: &str| {
            let domain = at.domain.as_deref().filter(|_| at.by == AtBy::Domain);
            domain.is_none_or(|domain| domain.eq_ignore_ascii_case(name))
        };
        let mut messages = std::collections::HashSet::new();
        for (key, waited) in &self.waiting {
            let name = self.names.get(waited.name).map_or("", |name| name);
            if wanted(name) {
                messages.insert(key.message);
                table.recipient(waited.name, waited.accepted_at, waited.next_attempt, || {
                    name.to_owned()
                });
            }
        }
        table.print(messages.len() as u64, at.top, at.listed.json)
    }

    fn list(mut self, data_dir: &Path, at: &At) -> Result<(), Failure> {
        let mut listing = Listing::new(at.listed.json);
        let mut written = Ok(());
        let mut waiting = std::mem::take(&mut self.waiting);
        let _ = self.each_event(data_dir, |past, position, event| {
            if written.is_err() || at.limit.is_some_and(|limit| listing.count() >= limit) {
                return;
            }
            // The first event of a recipient: mostly that it was accepted.
            let Some(waited) = waiting.remove(&key_of(event)) else {
                return;
            };
            let row = WaitedRow::new(position, event, &waited, past.time);
            let domain = row.recipient.as_deref().map_or("", domain_of);
            if at
                .domain
                .as_deref()
                .is_none_or(|d| d.eq_ignore_ascii_case(domain))
            {
                written = listing.push(&row);
            }
        })?;
        written?;
        listing.flush()?;
        Ok(())
    }
}

fn key_of(event: &EventRecord<'_>) -> RecipientKey {
    RecipientKey {
        message: event.message_id,
        number: event.recipient_number,
    }
}

/// An *accepted* event that a crash kept from being written is made up for at the next start: then the id knows better.
fn accepted_at(event: &EventRecord<'_>) -> UnixMs {
    let begun = MessageId::from_bytes(event.message_id).unix_ms();
    match event.at_unix_ms.abs_diff(begun) > SLACK_MS {
        true => begun,
        false => event.at_unix_ms,
    }
}

/// One recipient in `spool at --ls`.
#[derive(Serialize)]
struct WaitedRow {
    message_id: String,
    recipient_number: u16,
    recipient: Option<String>,
    server: Option<String>,
    stream: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    accepted_at: String,
    attempts: u16,
    next_attempt_at: Option<String>,
    /// Of its first event.
    id: u64,
}

impl WaitedRow {
    fn new(position: u64, event: &EventRecord<'_>, waited: &Waited, time: UnixMs) -> Self {
        let text = |tag| {
            let text = event.fields.find_text(tag).filter(|t| !t.is_empty());
            text.map(str::to_owned)
        };
        let state = State::live(waited.next_attempt, time);
        Self {
            message_id: MessageId::from_bytes(event.message_id).to_string(),
            recipient_number: event.recipient_number,
            recipient: text(event_field::RECIPIENT),
            server: text(event_field::SERVER),
            stream: text(event_field::STREAM),
            state: state.as_str(),
            reason: (state == State::Deferred && waited.attempts == 0).then_some(SCHEDULED),
            accepted_at: rfc3339(waited.accepted_at),
            attempts: waited.attempts,
            next_attempt_at: (state == State::Deferred).then(|| rfc3339(waited.next_attempt)),
            id: position,
        }
    }
}

impl Row for WaitedRow {
    const COLUMNS: &'static [&'static str] = &[
        "MESSAGE",
        ">NO",
        "RECIPIENT",
        "SERVER",
        "STREAM",
        "STATE",
        "ACCEPTED",
        ">ATTEMPTS",
        "NEXT ATTEMPT",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.message_id.clone(),
            self.recipient_number.to_string(),
            or_dash(self.recipient.as_ref()),
            or_dash(self.server.as_ref()),
            or_dash(self.stream.as_ref()),
            state_text(self.state, self.reason),
            self.accepted_at.clone(),
            self.attempts.to_string(),
            or_dash(self.next_attempt_at.as_ref()),
        ]
    }
}
