//! `posthaste spool show`: one message: its envelope, every event of it in order, and where its bytes lie.

use std::collections::BTreeMap;

use serde::Serialize;
use spool_format::layout::{event_field, field_tag, message_flag};
use spool_format::{Content, ErasedRecord, EventRecord, MessageRecord};

use super::message::{MessageRow, State};
use super::{Listed, find_one, progress};
use crate::cli::filter::domain_of;
use crate::cli::logs::{self, Finder, FoundMessage, IdPrefix, Records};
use crate::cli::output::{Listing, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found, output};
use crate::clock::{self, UnixMs, rfc3339};
use crate::event::EventKind;
use crate::mail::MessageId;
use crate::readers::row::EventRow;

/// A message with all that is known of it.
#[derive(Serialize)]
pub(super) struct Shown {
    /// As `spool ls` lists it; its names are this object's.
    #[serde(flatten)]
    message: Option<MessageRow>,
    #[serde(flatten)]
    gone: Option<Gone>,
    /// Its content and addresses were erased.
    erased: bool,
    #[serde(flatten)]
    envelope: Option<Envelope>,
    pub(super) envelope_recipients: Vec<ShownRecipient>,
    pub(super) events: Vec<EventRow>,
    /// Where its message records lie; the last is the one that counts.
    records: Vec<PlaceRow>,
    content_records: Vec<PlaceRow>,
}

/// What events say of a message whose record is not kept any more.
#[derive(Serialize)]
struct Gone {
    message_id: String,
    server: Option<String>,
    stream: Option<String>,
}

#[derive(Serialize)]
struct Envelope {
    metadata: BTreeMap<String, String>,
    eight_bit: bool,
    smtputf8: bool,
    /// Octets of the header section.
    header_bytes: u32,
    client_ip: Option<String>,
    helo: Option<String>,
    protocol: Option<String>,
    credential: Option<String>,
    deadline_at: Option<String>,
}

#[derive(Serialize)]
pub(super) struct ShownRecipient {
    recipient_number: u16,
    recipient: Option<String>,
    domain: Option<String>,
    pub(super) state: &'static str,
    /// What one that is deferred waits for, if not for the next attempt after another: `scheduled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    attempts: u64,
    /// Of one that waits.
    next_attempt_at: Option<String>,
    /// The newest event.
    last_event: Option<EventRow>,
}

/// Where a record lies.
#[derive(Clone, Debug, Serialize)]
struct PlaceRow {
    position: u64,
    segment: u64,
    file: String,
    /// In the segment; in an archive, of what is decompressed.
    offset: u64,
    length: u64,
    archived: bool,
    moved: bool,
    erased: bool,
}

impl From<&logs::Place> for PlaceRow {
    fn from(place: &logs::Place) -> Self {
        Self {
            position: place.position,
            segment: place.segment,
            file: place.path.display().to_string(),
            offset: place.offset,
            length: place.len,
            archived: place.archived,
            moved: place.moved,
            erased: place.erased,
        }
    }
}

impl Row for PlaceRow {
    const COLUMNS: &'static [&'static str] = &[">POSITION", ">OFFSET", ">LENGTH", "FORM", "FILE"];

    fn cells(&self) -> Vec<String> {
        let forms = [
            (self.archived, "archived"),
            (self.moved, "moved"),
            (self.erased, "erased"),
        ];
        let forms: Vec<&str> = forms.iter().filter(|f| f.0).map(|f| f.1).collect();
        vec![
            self.position.to_string(),
            self.offset.to_string(),
            self.length.to_string(),
            if forms.is_empty() {
                "in use".into()
            } else {
                forms.join(", ")
            },
            self.file.clone(),
        ]
    }
}

pub(super) fn show(listed: &Listed, id: &IdPrefix) -> Result<Found, Failure> {
    let data_dir = listed.place.data_dir()?;
    let mut message = find_one(&listed.place, id, u64::MAX)?;
    let now = clock::wall_unix_ms();
    let mut shown = Shown::new(&message, now);
    let in_use = message.record().is_some_and(|r| !r.place.archived);
    if !in_use && !message.is_erased() && shown.is_live() {
        // Compaction has moved it.
        let finder = Finder::new(&data_dir, progress);
        message.records = finder.records(&IdPrefix::of(message.id), true)?;
        shown = Shown::new(&message, now);
    }
    shown.content_records = content_places(&data_dir, &message)?;
    shown.print(listed.json)?;
    Ok(Found::All)
}

/// Where the content records lie that the message record names.
fn content_places(
    data_dir: &std::path::Path,
    message: &FoundMessage,
) -> Result<Vec<PlaceRow>, Failure> {
    let record = message
        .record()
        .and_then(|r| MessageRecord::decode(&r.payload).ok());
    let Some(Content::Records(parts)) = record.map(|record| record.content) else {
        return Ok(Vec::new());
    };
    let mut records = Records::open(data_dir)?;
    let mut places = Vec::new();
    for part in parts.iter() {
        let place = records.at(part.position, |segment, frame| {
            PlaceRow::from(&segment.place(part.position, frame))
        })?;
        places.extend(place);
    }
    Ok(places)
}

impl Shown {
    pub(super) fn new(message: &FoundMessage, now: UnixMs) -> Self {
        let record = message.record();
        let decoded = record.and_then(|r| Some((r, MessageRecord::decode(&r.payload).ok()?)));
        let events: Vec<EventRow> = message
            .events
            .iter()
            .filter_map(|(position, payload, _)| EventRow::decode(*position, payload))
            .collect();
        let mut shown = Self {
            message: decoded.as_ref().map(|(found, record)| {
                let mut row = MessageRow::new(found.place.position, record);
                row.moved = found.place.moved;
                row.archived = found.place.archived;
                row
            }),
            gone: decoded.is_none().then(|| Gone {
                message_id: MessageId::from_bytes(message.id).to_string(),
                server: events.iter().find_map(|e| e.server.clone()),
                stream: events.iter().find_map(|e| e.stream.clone()),
            }),
            erased: message.is_erased(),
            envelope: decoded.as_ref().map(|(_, record)| Envelope::new(record)),
            envelope_recipients: Vec::new(),
            events,
            records: message
                .records
                .iter()
                .map(|r| PlaceRow::from(&r.place))
                .collect(),
            content_records: Vec::new(),
        };
        let numbers = recipients_of(message, decoded.as_ref().map(|(_, record)| record));
        let schedule = decoded
            .as_ref()
            .and_then(|(_, record)| record.fields.find_number(field_tag::SCHEDULE))
            .unwrap_or(0);
        let mut states = Vec::new();
        for number in 0..numbers {
            let named = decoded
                .as_ref()
                .and_then(|(_, record)| record.recipients.get(usize::from(number)))
                .map(|r| (r.forward_path.to_owned(), r.domain.to_owned()));
            let is_archived = record.is_some_and(|r| r.place.archived) || record.is_none();
            let (recipient, state, next) =
                ShownRecipient::new(message, number, named, is_archived, schedule, now);
            states.push((state, next));
            shown.envelope_recipients.push(recipient);
        }
        if let Some(row) = &mut shown.message {
            row.set_states(states.into_iter());
        }
        shown
    }

    fn is_live(&self) -> bool {
        let ended = |state: &str| ["delivered", "bounced", "expired", "cancelled"].contains(&state);
        self.envelope_recipients.iter().any(|r| !ended(r.state))
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            output::json(self)?;
            return Ok(());
        }
        output::line(self.text())?;
        list(&self.envelope_recipients)?;
        output::line("\nevents")?;
        list(&self.events)?;
        output::line("\nwhere it lies")?;
        let places: Vec<PlaceRow> = self
            .records
            .iter()
            .chain(&self.content_records)
            .cloned()
            .collect();
        match places.is_empty() {
            true => output::line("nowhere any more: only its events are left")?,
            false => list(&places)?,
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |label: &str, value: &str| {
            let clean: String = value
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            text += &match label {
                "message" => format!("message {clean}\n"),
                _ => format!("  {label:<13} {clean}\n"),
            };
        };
        if let Some(gone) = &self.gone {
            add("message", &gone.message_id);
            add(
                "record",
                if self.erased {
                    "erased"
                } else {
                    "not kept any more"
                },
            );
            add("server", &or_dash(gone.server.as_ref()));
            add("stream", &or_dash(gone.stream.as_ref()));
        }
        let (Some(message), Some(envelope)) = (&self.message, &self.envelope) else {
            return text;
        };
        add("message", &message.message_id);
        add("accepted", &message.at);
        add("server", &message.server);
        add(
            "stream",
            &format!("{} ({})", message.stream, message.stream_type),
        );
        add("pool", &message.pool);
        add("reverse-path", &format!("<{}>", message.reverse_path));
        let mut used = self.events.iter().rev();
        if let Some(used) = used.find_map(|event| event.reverse_path.as_ref()) {
            add("bounces to", &format!("<{used}>"));
        }
        let (octets, header) = (message.content_bytes, envelope.header_bytes);
        add(
            "content",
            &format!("{octets} octets, {header} of them header"),
        );
        for (label, value) in [
            ("tag", &message.tag),
            ("client", &envelope.client_ip),
            ("helo", &envelope.helo),
            ("protocol", &envelope.protocol),
            ("credential", &envelope.credential),
            ("scheduled", &message.scheduled_at),
            ("deadline", &envelope.deadline_at),
            ("next attempt", &message.next_attempt_at),
        ] {
            if let Some(value) = value {
                add(label, value);
            }
        }
        for (key, value) in &envelope.metadata {
            add("metadata", &format!("{key} = {value}"));
        }
        text
    }
}

/// The state, and why where it is not what the word says.
pub(super) fn state_text(state: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| state.to_owned(), |reason| format!("{state} ({reason})"))
}

/// Why one is deferred that was not attempted.
pub(super) const SCHEDULED: &str = "scheduled";

fn list<R: Row>(rows: &[R]) -> Result<(), Failure> {
    let mut listing = Listing::new(false);
    rows.iter().try_for_each(|row| listing.push(row))?;
    listing.flush()?;
    Ok(())
}

/// How many recipients there are, as far as is known.
fn recipients_of(message: &FoundMessage, record: Option<&MessageRecord<'_>>) -> u16 {
    if let Some(record) = record {
        return u16::try_from(record.recipients.len()).unwrap_or(u16::MAX);
    }
    let erased = message.records.iter().filter_map(|r| {
        let erased = ErasedRecord::decode(&r.payload)
            .ok()
            .filter(|_| r.place.erased)?;
        erased.message().map(|m| m.recipients)
    });
    let told = message.events.iter().filter_map(|(_, payload, _)| {
        EventRecord::decode(payload)
            .ok()
            .map(|e| e.recipient_number.saturating_add(1))
    });
    erased.chain(told).max().unwrap_or(0)
}

impl Envelope {
    fn new(record: &MessageRecord<'_>) -> Self {
        let text = |tag| record.fields.find_text(tag).map(str::to_owned);
        Self {
            metadata: record
                .metadata
                .iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            eight_bit: record.flags & message_flag::EIGHT_BIT != 0,
            smtputf8: record.flags & message_flag::SMTPUTF8 != 0,
            header_bytes: record.header_len,
            client_ip: text(field_tag::CLIENT_IP),
            helo: text(field_tag::HELO),
            protocol: text(field_tag::PROTOCOL),
            credential: text(field_tag::CREDENTIAL),
            deadline_at: record.fields.find_number(field_tag::DEADLINE).map(rfc3339),
        }
    }
}

impl ShownRecipient {
    fn new(
        message: &FoundMessage,
        number: u16,
        named: Option<(String, String)>,
        has_ended: bool,
        schedule: UnixMs,
        now: UnixMs,
    ) -> (Self, State, UnixMs) {
        let (mut ended, mut attempts, mut next, mut last) = (None, 0, schedule, None);
        for (position, payload, _) in &message.events {
            let Ok(event) = EventRecord::decode(payload) else {
                continue;
            };
            if event.recipient_number != number {
                continue;
            }
            let kind = EventKind::from_code(event.kind);
            ended = ended.or(kind.and_then(State::ended_by));
            attempts = event
                .fields
                .find_number(event_field::ATTEMPTS)
                .unwrap_or(attempts);
            next = event
                .fields
                .find_number(event_field::NEXT_ATTEMPT_MS)
                .unwrap_or(next);
            last = EventRow::new(*position, &event).or(last);
        }
        let told = ended.is_none() && has_ended && last.is_none();
        let state = ended.unwrap_or(match told {
            true => State::Ended,
            false => State::live(next, now),
        });
        let (recipient, domain) = named.map_or_else(
            || {
                let recipient = last.as_ref().and_then(|e: &EventRow| e.recipient.clone());
                let domain = recipient.as_deref().map(|r| domain_of(r).to_owned());
                (recipient, domain)
            },
            |(recipient, domain)| (Some(recipient), Some(domain)),
        );
        let shown = Self {
            recipient_number: number,
            recipient,
            domain,
            state: state.as_str(),
            reason: (state == State::Deferred && attempts == 0).then_some(SCHEDULED),
            attempts,
            next_attempt_at: (state == State::Deferred).then(|| rfc3339(next)),
            last_event: last,
        };
        (shown, state, next)
    }
}

impl Row for ShownRecipient {
    const COLUMNS: &'static [&'static str] = &[
        ">NO",
        "RECIPIENT",
        "STATE",
        ">ATTEMPTS",
        "NEXT ATTEMPT",
        "LAST EVENT",
        "CAUSE",
        "REPLY",
    ];

    fn cells(&self) -> Vec<String> {
        let event = self.last_event.as_ref();
        let of = |part: fn(&EventRow) -> Option<&String>| or_dash(event.and_then(part));
        vec![
            self.recipient_number.to_string(),
            or_dash(self.recipient.as_ref()),
            state_text(self.state, self.reason),
            self.attempts.to_string(),
            or_dash(self.next_attempt_at.as_ref()),
            of(|e| Some(&e.at)),
            of(|e| e.cause.as_ref()),
            of(|e| e.reply.as_ref().or(e.detail.as_ref())),
        ]
    }
}
