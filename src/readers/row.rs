//! An event as scripts, sinks and people read it: the fields of `events tail --json`.

use serde::Serialize;
use spool_format::EventRecord;
use spool_format::layout::event_field;

use crate::classify::BounceType;
use crate::clock::{UnixMs, rfc3339};
use crate::event::EventKind;
use crate::mail::MessageId;
use crate::outcome::CauseClass;

/// DESIGN §5: the fields of `events tail`, and a few more.
#[derive(Serialize)]
pub struct EventRow {
    pub id: u64,
    #[serde(skip)]
    pub at_unix_ms: UnixMs,
    pub at: String,
    pub kind: &'static str,
    pub message_id: Option<String>,
    pub recipient: Option<String>,
    pub recipient_number: u16,
    pub server: Option<String>,
    pub stream: Option<String>,
    /// The message's.
    pub tag: Option<String>,
    pub source: Option<String>,
    pub remote_host: Option<String>,
    pub reply: Option<String>,
    pub cause: Option<String>,
    pub detail: Option<String>,
    /// What was concluded from the reply, and by which rule.
    pub rule: Option<String>,
    pub confidence: Option<u64>,
    pub stage: Option<String>,
    pub scope: Option<String>,
    pub reaction: Option<String>,
    /// In Postmark's words; of what ended, or came back.
    pub bounce_type: Option<&'static str>,
    /// Of a suppression: the event that it rests on.
    pub evidence: Option<u64>,
    /// Who suppressed the recipient, or lifted that.
    pub origin: Option<String>,
    /// Of events about a domain of From; of one of its DKIM keys.
    pub domain: Option<String>,
    pub selector: Option<String>,
    /// Of an attempt: where bounces were to go, where that is not what was submitted.
    pub reverse_path: Option<String>,
    pub attempts: Option<u64>,
    pub next_attempt_at: Option<String>,
}

impl EventRow {
    /// `None`: a kind that this version does not know, or a record that is none.
    pub fn decode(position: u64, payload: &[u8]) -> Option<Self> {
        Self::new(position, &EventRecord::decode(payload).ok()?)
    }

    /// Of an erased event, what is left.
    pub fn new(position: u64, record: &EventRecord<'_>) -> Option<Self> {
        let kind = EventKind::from_code(record.kind)?;
        let text = |tag| {
            record
                .fields
                .find_text(tag)
                .filter(|t| !t.is_empty())
                .map(str::to_owned)
        };
        let number = |tag| record.fields.find_number(tag);
        let id = (record.message_id != [0; 16])
            .then(|| MessageId::from_bytes(record.message_id).to_string());
        Some(Self {
            id: position,
            at_unix_ms: record.at_unix_ms,
            at: rfc3339(record.at_unix_ms),
            kind: kind.as_str(),
            message_id: id,
            recipient: text(event_field::RECIPIENT),
            recipient_number: record.recipient_number,
            server: text(event_field::SERVER),
            stream: text(event_field::STREAM),
            tag: text(event_field::TAG),
            source: text(event_field::SOURCE),
            remote_host: text(event_field::REMOTE_HOST),
            reply: text(event_field::REPLY),
            cause: text(event_field::CAUSE),
            detail: text(event_field::DETAIL),
            rule: text(event_field::RULE),
            confidence: number(event_field::CONFIDENCE),
            stage: text(event_field::STAGE),
            scope: text(event_field::SCOPE),
            reaction: text(event_field::REACTION),
            bounce_type: bounce_type(kind, record.fields.find_text(event_field::CAUSE)),
            evidence: number(event_field::EVIDENCE),
            origin: text(event_field::ORIGIN),
            domain: text(event_field::DOMAIN),
            selector: text(event_field::SELECTOR),
            reverse_path: text(event_field::REVERSE_PATH),
            attempts: number(event_field::ATTEMPTS),
            next_attempt_at: number(event_field::NEXT_ATTEMPT_MS).map(rfc3339),
        })
    }
}

fn bounce_type(kind: EventKind, cause: Option<&str>) -> Option<&'static str> {
    let cause = CauseClass::parse(cause?)?;
    match kind {
        EventKind::Bounced
        | EventKind::Expired
        | EventKind::BouncedLater
        | EventKind::Complained => Some(BounceType::of(cause, false).as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use spool_format::{Field, List};

    use super::*;

    fn payload(kind: u16) -> Vec<u8> {
        let fields = [
            Field::text(event_field::RECIPIENT, "a@example.com"),
            Field::text(event_field::REPLY, ""),
        ];
        let record = EventRecord {
            kind,
            at_unix_ms: 1_772_460_912_907,
            message_id: [5; 16],
            recipient_number: 3,
            fields: List::new(&fields),
        };
        let mut payload = Vec::new();
        record.encode(&mut payload).unwrap();
        payload
    }

    #[test]
    fn an_event_has_the_fields_that_scripts_rely_on_and_null_where_nothing_applies() {
        let row = EventRow::decode(4096, &payload(EventKind::Delivered.code())).unwrap();
        let json = serde_json::to_value(&row).unwrap();
        for key in [
            "id",
            "at",
            "kind",
            "message_id",
            "recipient",
            "recipient_number",
            "server",
            "stream",
            "source",
            "remote_host",
            "reply",
            "cause",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["id"], 4096);
        assert_eq!(json["kind"], "delivered");
        assert_eq!(json["recipient"], "a@example.com");
        assert!(json["reply"].is_null() && json["server"].is_null());
    }

    #[test]
    fn kinds_of_later_versions_are_skipped() {
        assert!(EventRow::decode(4096, &payload(60_000)).is_none());
        assert!(EventRow::decode(4096, b"short").is_none());
    }
}
