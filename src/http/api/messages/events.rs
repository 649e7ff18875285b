//! `MessageEvents`: what became of each recipient, in Postmark's words. All details are texts (reference §9.3).
//!
//! Of what Postmark has no word for: an attempt whose answer was lost is *Transient*; a recipient that was given up, and a
//! complaint, are *Bounced* as in the bounce API; what was withdrawn is not told, since clients take no other words.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::classify::BounceType;
use crate::clock::rfc3339;
use crate::event::{Event, EventKind};
use crate::limits;
use crate::readers::activity::{self, About};
use crate::spool::Record;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MessageEvent {
    recipient: String,
    r#type: &'static str,
    received_at: String,
    details: Map<String, Value>,
}

/// `None`: there is nothing to tell.
pub(super) fn shown(record: &Record, about: &About) -> Option<MessageEvent> {
    let event = Event::decode(&record.payload).ok()??;
    let (kind, details) = said(record.position, &event)?;
    let details = details.into_iter().map(|(key, value)| {
        let text = value[..value.floor_char_boundary(limits::ACTIVITY_EVENT_TEXT)].to_owned();
        (key.to_owned(), text.into())
    });
    // A suppression may name its address by a hash.
    let number = usize::from(event.recipient_number);
    let recipient = about.recipients.get(number).and_then(Option::as_ref);
    let recipient = recipient.map_or(event.recipient, |recipient| &recipient.email);
    Some(MessageEvent {
        recipient: recipient.to_owned(),
        r#type: kind,
        received_at: rfc3339(event.at),
        details: details.collect(),
    })
}

/// Whether it says what became of the message.
pub(super) fn tells(record: &Record) -> bool {
    let event = Event::decode(&record.payload);
    event.is_ok_and(|event| event.is_some_and(|event| activity::tells(event.kind)))
}

type Details = Vec<(&'static str, String)>;

fn said(position: u64, event: &Event<'_>) -> Option<(&'static str, Details)> {
    Some(match event.kind {
        EventKind::Delivered => ("Delivered", attempt(event)),
        EventKind::Deferred | EventKind::Ambiguous => ("Transient", attempt(event)),
        EventKind::Bounced | EventKind::Expired | EventKind::BouncedLater => {
            ("Bounced", bounce(position, words(event)))
        }
        EventKind::Complained => {
            let about = BounceType::SpamComplaint.description();
            ("Bounced", bounce(position, about.to_owned()))
        }
        EventKind::Suppressed => ("SubscriptionChanged", subscription(event, "True")),
        EventKind::Unsuppressed => ("SubscriptionChanged", subscription(event, "False")),
        _ => return None,
    })
}

fn attempt(event: &Event<'_>) -> Details {
    let (name, address) = host(event.remote_host);
    vec![
        ("DeliveryMessage", words(event)),
        ("DestinationServer", name.to_owned()),
        ("DestinationIP", address.to_owned()),
    ]
}

/// Its id is the bounce API's.
fn bounce(position: u64, summary: String) -> Details {
    vec![("Summary", summary), ("BounceID", position.to_string())]
}

fn subscription(event: &Event<'_>, suppressed: &str) -> Details {
    vec![
        ("Origin", event.origin.to_owned()),
        ("SuppressSending", suppressed.to_owned()),
    ]
}

/// `smtp;250 2.0.0 OK`, as a DSN's diagnostic code has it (RFC 3464 §2.3.6); our own words where nobody said any.
fn words(event: &Event<'_>) -> String {
    match event.reply {
        "" => event.detail.to_owned(),
        reply => format!("smtp;{}", reply.replace('\n', " ")),
    }
}

/// Of `name [address]:port`.
fn host(text: &str) -> (&str, &str) {
    match text.split_once(" [") {
        Some((name, rest)) => (name, rest.split(']').next().unwrap_or_default()),
        None => (text, ""),
    }
}

pub(super) fn example() -> MessageEvent {
    let details = [
        ("DeliveryMessage", "smtp;250 2.0.0 OK"),
        ("DestinationServer", "mx.example.com"),
        ("DestinationIP", "192.0.2.1"),
    ];
    MessageEvent {
        recipient: "ada@example.com".into(),
        r#type: "Delivered",
        received_at: rfc3339(1_772_460_913_000),
        details: Map::from_iter(details.map(|(key, value)| (key.to_owned(), value.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_host_is_its_name_and_its_address() {
        for (text, expected) in [
            (
                "mx.example.com [192.0.2.1]:25",
                ("mx.example.com", "192.0.2.1"),
            ),
            (
                "mx.example.com [2001:db8::1]:25",
                ("mx.example.com", "2001:db8::1"),
            ),
            ("mx.example.com", ("mx.example.com", "")),
            ("", ("", "")),
        ] {
            assert_eq!(host(text), expected, "{text}");
        }
    }
}
