//! `posthaste spool`: the data directory as it is on disk, read-only, daemon up or down.

use std::collections::HashMap;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use spool_format::layout::{field_tag, message_flag};
use spool_format::{Content, ContentRecord, EventRecord, LogKind, MessageRecord, kind};

use super::events::{EventRow, Tail};
use super::logs::{Damage, Flow, LogReader};
use super::output::{Listing, Progress, Row};
use super::queue::or_dash;
use super::{Failure, Found, Place, logs, output};
use crate::clock::rfc3339;
use crate::config::text_of_size;
use crate::event::EventKind;
use crate::mail::MessageId;

#[derive(Subcommand)]
pub(super) enum SpoolCommand {
    /// Sum up both logs.
    Stat(Listed),
    /// List the messages that are kept.
    Ls {
        #[command(flatten)]
        listed: Listed,
        /// Only messages with recipients that still wait.
        #[arg(long)]
        live: bool,
    },
    /// Show a message: its envelope, and what became of each recipient.
    Show {
        #[command(flatten)]
        listed: Listed,
        id: MessageId,
    },
    /// Write a message's content to standard output, byte for byte.
    Cat {
        #[command(flatten)]
        place: Place,
        id: MessageId,
    },
    /// Read everything and check every checksum and reference. Exit code 1 on damage.
    Verify(Listed),
    /// Print messages as they are accepted.
    Tail(Tail),
}

#[derive(Args)]
pub(super) struct Listed {
    #[command(flatten)]
    place: Place,
    #[arg(long)]
    json: bool,
}

impl Listed {
    fn open(&self, kind: LogKind) -> Result<LogReader, Failure> {
        open(&self.place, kind)
    }
}

fn open(place: &Place, kind: LogKind) -> Result<LogReader, Failure> {
    let mut progress = Progress::new(format!("reading the {} log, segment", logs::name(kind)));
    let reader = LogReader::open(&place.data_dir()?, kind, 0)?;
    Ok(reader.with_progress(move |done, of| progress.at(done, of)))
}

impl SpoolCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Stat(listed) => stat(&listed),
            Self::Ls { listed, live } => ls(&listed, live),
            Self::Show { listed, id } => show(&listed, id),
            Self::Cat { place, id } => cat(&place, id),
            Self::Verify(listed) => verify(&listed),
            Self::Tail(tail) => tail.run(LogKind::Mail, kind::MESSAGE, |position, payload| {
                let record = MessageRecord::decode(payload).ok()?;
                Some(MessageRow::new(position, &record, None))
            }),
        }
    }
}

/// One log in `spool stat`.
#[derive(Default, Serialize)]
struct LogRow {
    log: &'static str,
    segments: usize,
    size_bytes: u64,
    /// Positions of the first record that is kept and of the end.
    start: u64,
    end: u64,
    records: u64,
    messages: u64,
    recipients: u64,
    events: u64,
    damages: usize,
    first_at: Option<String>,
    last_at: Option<String>,
}

impl Row for LogRow {
    const COLUMNS: &'static [&'static str] = &[
        "LOG",
        ">SEGMENTS",
        ">SIZE",
        ">START",
        ">END",
        ">RECORDS",
        ">MESSAGES",
        ">RECIPIENTS",
        ">EVENTS",
        ">DAMAGES",
        "FIRST",
        "LAST",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.log.into(),
            self.segments.to_string(),
            text_of_size(self.size_bytes),
            self.start.to_string(),
            self.end.to_string(),
            self.records.to_string(),
            self.messages.to_string(),
            self.recipients.to_string(),
            self.events.to_string(),
            self.damages.to_string(),
            or_dash(self.first_at.as_ref()),
            or_dash(self.last_at.as_ref()),
        ]
    }
}

fn stat(listed: &Listed) -> Result<Found, Failure> {
    let mut rows = Vec::new();
    for kind in [LogKind::Mail, LogKind::Event] {
        rows.push(stat_log(listed, kind)?);
    }
    let mut listing = Listing::new(listed.json);
    rows.iter().try_for_each(|row| listing.push(row))?;
    listing.flush()?;
    Ok(if rows.iter().all(|row| row.damages == 0) {
        Found::All
    } else {
        Found::Finding
    })
}

fn stat_log(listed: &Listed, log: LogKind) -> Result<LogRow, Failure> {
    let mut reader = listed.open(log)?;
    let mut row = LogRow::default();
    let _ = reader.read(&mut |_, frame| {
        row.records += 1;
        let at = match frame.kind {
            kind::MESSAGE => MessageRecord::decode(frame.payload).ok().map(|record| {
                row.messages += 1;
                row.recipients += record.recipients.len() as u64;
                record.accepted_unix_ms
            }),
            kind::EVENT => EventRecord::decode(frame.payload).ok().map(|record| {
                row.events += 1;
                record.at_unix_ms
            }),
            _ => None,
        };
        if let Some(at) = at.map(rfc3339) {
            row.first_at.get_or_insert_with(|| at.clone());
            row.last_at = Some(at);
        }
        Flow::Continue(())
    })?;
    row.log = logs::name(log);
    row.segments = reader.segments().len();
    row.size_bytes = reader.segments().iter().map(|s| s.header.size).sum();
    row.start = reader
        .segments()
        .first()
        .map_or(0, |s| s.header.first_position);
    row.end = reader.end();
    row.damages = reader.damages().len();
    Ok(row)
}

/// One message in `spool ls` and `spool tail`.
#[derive(Serialize)]
struct MessageRow {
    message_id: String,
    at: String,
    server: String,
    stream: String,
    stream_type: &'static str,
    pool: String,
    reverse_path: String,
    recipients: usize,
    /// Recipients without an outcome; `null` where outcomes are not looked at.
    live: Option<usize>,
    content_bytes: u64,
    tag: Option<String>,
    position: u64,
}

impl MessageRow {
    fn new(position: u64, record: &MessageRecord<'_>, live: Option<usize>) -> Self {
        Self {
            message_id: MessageId::from_bytes(record.id).to_string(),
            at: rfc3339(record.accepted_unix_ms),
            server: record.server_name.into(),
            stream: record.stream_id.into(),
            stream_type: record.stream_kind.as_str(),
            pool: record.pool.into(),
            reverse_path: record.reverse_path.into(),
            recipients: record.recipients.len(),
            live,
            content_bytes: record.content.len(),
            tag: record.tag.map(str::to_owned),
            position,
        }
    }
}

impl Row for MessageRow {
    const COLUMNS: &'static [&'static str] = &[
        "MESSAGE",
        "AT",
        "SERVER",
        "STREAM",
        "POOL",
        "REVERSE-PATH",
        ">RECIPIENTS",
        ">LIVE",
        ">SIZE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.message_id.clone(),
            self.at.clone(),
            self.server.clone(),
            self.stream.clone(),
            self.pool.clone(),
            format!("<{}>", self.reverse_path),
            self.recipients.to_string(),
            or_dash(self.live.as_ref()),
            self.content_bytes.to_string(),
        ]
    }
}

fn ls(listed: &Listed, live_only: bool) -> Result<Found, Failure> {
    // Events first: what ends while we read then shows as live, which it was.
    let mut ended: HashMap<[u8; 16], usize> = HashMap::new();
    let _ = listed.open(LogKind::Event)?.read(&mut |_, frame| {
        if frame.kind == kind::EVENT
            && let Ok(event) = EventRecord::decode(frame.payload)
            && EventKind::from_code(event.kind).is_some_and(EventKind::is_terminal)
        {
            *ended.entry(event.message_id).or_default() += 1;
        }
        Flow::Continue(())
    })?;
    let mut listing = Listing::new(listed.json);
    let mut written = Ok(());
    let _ = listed.open(LogKind::Mail)?.read(&mut |position, frame| {
        if frame.kind != kind::MESSAGE {
            return Flow::Continue(());
        }
        let Ok(record) = MessageRecord::decode(frame.payload) else {
            return Flow::Continue(());
        };
        let ended = ended.get(&record.id).copied().unwrap_or(0);
        let live = record.recipients.len().saturating_sub(ended);
        if live > 0 || !live_only {
            written = listing.push(&MessageRow::new(position, &record, Some(live)));
        }
        match written {
            Ok(()) => Flow::Continue(()),
            Err(_) => Flow::Break(()),
        }
    })?;
    written?;
    listing.flush()?;
    Ok(Found::All)
}

/// `spool show`.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    message: MessageRow,
    metadata: HashMap<String, String>,
    eight_bit: bool,
    smtputf8: bool,
    /// Octets of the header section.
    header_bytes: u32,
    client_ip: Option<String>,
    helo: Option<String>,
    protocol: Option<String>,
    credential: Option<String>,
    envelope_recipients: Vec<ShownRecipient>,
}

#[derive(Serialize)]
struct ShownRecipient {
    recipient_number: u16,
    recipient: String,
    domain: String,
    /// `live` or the terminal outcome.
    state: String,
    /// The newest event.
    last_event: Option<EventRow>,
}

impl Row for ShownRecipient {
    const COLUMNS: &'static [&'static str] = &[
        ">NO",
        "RECIPIENT",
        "STATE",
        "AT",
        ">ATTEMPTS",
        "REMOTE HOST",
        "CAUSE",
        "REPLY",
    ];

    fn cells(&self) -> Vec<String> {
        let event = self.last_event.as_ref();
        let of = |part: fn(&EventRow) -> Option<&String>| or_dash(event.and_then(part));
        vec![
            self.recipient_number.to_string(),
            self.recipient.clone(),
            self.state.clone(),
            of(|e| Some(&e.at)),
            or_dash(event.and_then(|e| e.attempts).as_ref()),
            of(|e| e.remote_host.as_ref()),
            of(|e| e.cause.as_ref()),
            of(|e| e.reply.as_ref().or(e.detail.as_ref())),
        ]
    }
}

fn show(listed: &Listed, id: MessageId) -> Result<Found, Failure> {
    let mut shown = None;
    let _ = listed
        .open(LogKind::Mail)?
        .read(
            &mut |position, frame| match message_with(id, frame.kind, frame.payload) {
                Some(record) => {
                    shown = Some(shown_message(position, &record));
                    Flow::Break(())
                }
                None => Flow::Continue(()),
            },
        )?;
    let mut shown: Shown = shown.ok_or_else(|| not_found(id))?;
    let _ = listed.open(LogKind::Event)?.read(&mut |position, frame| {
        if frame.kind == kind::EVENT
            && let Ok(event) = EventRecord::decode(frame.payload)
            && event.message_id == *id.as_bytes()
            && let Some(recipient) = shown
                .envelope_recipients
                .get_mut(usize::from(event.recipient_number))
        {
            if let Some(kind) = EventKind::from_code(event.kind).filter(|kind| kind.is_terminal()) {
                recipient.state = kind.as_str().into();
            }
            recipient.last_event =
                EventRow::decode(position, frame.payload).or(recipient.last_event.take());
        }
        Flow::Continue(())
    })?;
    let live = shown
        .envelope_recipients
        .iter()
        .filter(|r| r.state == LIVE)
        .count();
    shown.message.live = Some(live);
    if listed.json {
        output::json(&shown)?;
        return Ok(Found::All);
    }
    output::line(shown_text(&shown))?;
    let mut listing = Listing::new(false);
    shown
        .envelope_recipients
        .iter()
        .try_for_each(|row| listing.push(row))?;
    listing.flush()?;
    Ok(Found::All)
}

fn message_with(id: MessageId, record_kind: u8, payload: &[u8]) -> Option<MessageRecord<'_>> {
    let record = (record_kind == kind::MESSAGE).then(|| MessageRecord::decode(payload).ok())??;
    (record.id == *id.as_bytes()).then_some(record)
}

fn not_found(id: MessageId) -> Failure {
    Failure::finding(format!(
        "the mail log holds no message {id} (any more); its events: posthaste events tail --no-follow"
    ))
}

fn shown_message(position: u64, record: &MessageRecord<'_>) -> Shown {
    let text = |tag| record.fields.find_text(tag).map(str::to_owned);
    let recipients = record.recipients.iter().enumerate();
    Shown {
        message: MessageRow::new(position, record, None),
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
        envelope_recipients: recipients
            .map(|(number, recipient)| ShownRecipient {
                recipient_number: number as u16,
                recipient: recipient.forward_path.into(),
                domain: recipient.domain.into(),
                state: LIVE.into(),
                last_event: None,
            })
            .collect(),
    }
}

fn shown_text(shown: &Shown) -> String {
    let message = &shown.message;
    let mut text = format!("message {}\n", message.message_id);
    let mut add = |label: &str, value: &str| {
        let clean: String = value
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        text += &format!("  {label:<13} {clean}\n");
    };
    add("accepted", &message.at);
    add("server", &message.server);
    add(
        "stream",
        &format!("{} ({})", message.stream, message.stream_type),
    );
    add("pool", &message.pool);
    add("reverse-path", &format!("<{}>", message.reverse_path));
    add(
        "content",
        &format!(
            "{} octets, {} of them header",
            message.content_bytes, shown.header_bytes
        ),
    );
    for (label, value) in [
        ("tag", &message.tag),
        ("client", &shown.client_ip),
        ("helo", &shown.helo),
        ("protocol", &shown.protocol),
        ("credential", &shown.credential),
    ] {
        if let Some(value) = value {
            add(label, value);
        }
    }
    for (key, value) in &shown.metadata {
        add("metadata", &format!("{key} = {value}"));
    }
    text
}

fn cat(place: &Place, id: MessageId) -> Result<Found, Failure> {
    // Content records come before their message: their positions are known only at the end.
    let mut inline = None;
    let mut parts = Vec::new();
    let _ = open(place, LogKind::Mail)?.read(&mut |_, frame| {
        let Some(record) = message_with(id, frame.kind, frame.payload) else {
            return Flow::Continue(());
        };
        match record.content {
            Content::Inline(bytes) => inline = Some(bytes.to_vec()),
            Content::Records(list) => parts = list.iter().collect(),
        }
        Flow::Break(())
    })?;
    if let Some(bytes) = inline {
        output::write_all(&bytes)?;
        return Ok(Found::All);
    }
    let Some(first) = parts.first() else {
        return Err(not_found(id));
    };
    let data_dir = place.data_dir()?;
    let mut reader = LogReader::open(&data_dir, LogKind::Mail, first.position)?;
    let mut next = 0;
    let mut written = Ok(());
    let _ = reader.read(&mut |position, frame| {
        if parts
            .get(next)
            .is_some_and(|part| part.position == position)
            && let Ok(content) = ContentRecord::decode(frame.payload)
        {
            written = output::write_all(content.octets);
            next += 1;
        }
        match (&written, next == parts.len()) {
            (Ok(()), false) => Flow::Continue(()),
            _ => Flow::Break(()),
        }
    })?;
    written?;
    if next < parts.len() {
        return Err(Failure::finding(format!(
            "the content of {id} is not whole: part {next} of {} is damaged or gone",
            parts.len()
        )));
    }
    Ok(Found::All)
}

/// One finding of `spool verify`.
#[derive(Serialize)]
struct FindingRow {
    log: &'static str,
    segment: Option<u64>,
    /// In the segment for damage, in the log for a record.
    offset: u64,
    length: u64,
    finding: String,
    acknowledged: bool,
}

impl Row for FindingRow {
    const COLUMNS: &'static [&'static str] = &[
        "LOG",
        ">SEGMENT",
        ">OFFSET",
        ">LENGTH",
        "FINDING",
        "ACKNOWLEDGED",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.log.into(),
            or_dash(self.segment.as_ref()),
            self.offset.to_string(),
            self.length.to_string(),
            self.finding.clone(),
            if self.acknowledged { "yes" } else { "in doubt" }.into(),
        ]
    }
}

fn verify(listed: &Listed) -> Result<Found, Failure> {
    let mut findings = Vec::new();
    let mut records = 0u64;
    for log in [LogKind::Mail, LogKind::Event] {
        let mut checks = Checks {
            log: logs::name(log),
            ..Checks::default()
        };
        let mut reader = listed.open(log)?;
        let _ = reader.read(&mut |position, frame| {
            records += 1;
            checks.record(position, frame.kind, frame.payload);
            Flow::Continue(())
        })?;
        findings.extend(
            reader
                .damages()
                .iter()
                .map(|damage| damage_row(log, damage)),
        );
        findings.extend(checks.findings);
    }
    let mut listing = Listing::new(listed.json);
    findings.iter().try_for_each(|row| listing.push(row))?;
    listing.flush()?;
    let bad = findings
        .iter()
        .filter(|finding| finding.acknowledged)
        .count();
    if !listed.json {
        output::line(format!("{records} records read, {bad} findings"))?;
    }
    Ok(if bad == 0 { Found::All } else { Found::Finding })
}

fn damage_row(log: LogKind, damage: &Damage) -> FindingRow {
    FindingRow {
        log: logs::name(log),
        segment: Some(damage.segment),
        offset: damage.offset,
        length: damage.len,
        finding: format!("does not verify: {}", damage.reason),
        acknowledged: damage.acknowledged,
    }
}

/// What can be wrong with records whose bytes are as they were written.
#[derive(Default)]
struct Checks {
    log: &'static str,
    contents: HashMap<u64, ([u8; 16], u32)>,
    findings: Vec<FindingRow>,
}

impl Checks {
    fn record(&mut self, position: u64, record_kind: u8, payload: &[u8]) {
        let checked = match record_kind {
            kind::MESSAGE => self.message(payload),
            kind::EVENT => EventRecord::decode(payload)
                .map(drop)
                .context("event record"),
            kind::CONTENT => ContentRecord::decode(payload)
                .context("content record")
                .map(|content| {
                    let octets = content.octets.len() as u32;
                    self.contents.insert(position, (content.message_id, octets));
                }),
            // Of a later version, or erased: kept and not judged.
            _ => Ok(()),
        };
        if let Err(error) = checked {
            self.findings.push(FindingRow {
                log: self.log,
                segment: None,
                offset: position,
                length: payload.len() as u64,
                finding: format!("{error:#}"),
                acknowledged: true,
            });
        }
    }

    fn message(&self, payload: &[u8]) -> anyhow::Result<()> {
        let record = MessageRecord::decode(payload).context("message record")?;
        if let Content::Records(parts) = record.content {
            for part in parts.iter() {
                let there = self.contents.get(&part.position);
                anyhow::ensure!(
                    there == Some(&(record.id, part.len)),
                    "message {}: its content at position {} is gone or another's",
                    MessageId::from_bytes(record.id),
                    part.position
                );
            }
        }
        Ok(())
    }
}

const LIVE: &str = "live";

#[cfg(test)]
mod tests;
