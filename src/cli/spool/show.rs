//! `posthaste spool show`: one message, its envelope and what became of each recipient.

use std::collections::HashMap;

use serde::Serialize;
use spool_format::layout::{field_tag, message_flag};
use spool_format::{EventRecord, LogKind, MessageRecord, kind};

use super::ls::MessageRow;
use super::{Listed, message_with, not_found};
use crate::cli::events::EventRow;
use crate::cli::logs::Flow;
use crate::cli::output::{Listing, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found, output};
use crate::event::EventKind;
use crate::mail::MessageId;

/// `spool show`.
#[derive(Serialize)]
pub(super) struct Shown {
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

pub(super) fn show(listed: &Listed, id: MessageId) -> Result<Found, Failure> {
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

pub(super) fn shown_message(position: u64, record: &MessageRecord<'_>) -> Shown {
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

const LIVE: &str = "live";
