//! `posthaste events tail`: the event log as lines, from the data directory, daemon up or down.

use std::ops::ControlFlow;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use spool_format::layout::event_field;
use spool_format::{EventRecord, LogKind, kind};

use super::logs::{Flow, LogReader};
use super::output::{Listing, Row};
use super::queue::or_dash;
use super::{Failure, Found, Place};
use crate::clock::rfc3339;
use crate::event::EventKind;
use crate::mail::MessageId;

#[derive(Subcommand)]
pub(super) enum EventsCommand {
    /// Print events in order, then wait for more.
    Tail(Tail),
}

/// What to print of a log, and whether to wait.
#[derive(Args)]
pub(super) struct Tail {
    #[command(flatten)]
    pub(super) place: Place,
    #[arg(long)]
    pub(super) json: bool,
    /// End at the end of the log.
    #[arg(long)]
    pub(super) no_follow: bool,
    /// Begin behind the entry with this id, to go on where an earlier run stopped.
    #[arg(long, value_name = "ID", conflicts_with = "last")]
    pub(super) after: Option<u64>,
    /// Begin with the last N entries instead of the first that is kept.
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) last: Option<usize>,
}

impl EventsCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Tail(tail) => tail.run(LogKind::Event, kind::EVENT, |position, payload| {
                EventRow::decode(position, payload)
            }),
        }
    }
}

impl Tail {
    /// Prints what `decode` makes of the records of `record_kind`.
    pub(super) fn run<R: Row>(
        self,
        log: LogKind,
        record_kind: u8,
        decode: impl Fn(u64, &[u8]) -> Option<R>,
    ) -> Result<Found, Failure> {
        let from = self.after.map_or(0, |id| id + 1);
        let mut reader = LogReader::open(&self.place.data_dir()?, log, from)?;
        let mut listing = Listing::new(self.json);
        if let Some(last) = self.last {
            let mut kept = std::collections::VecDeque::new();
            let _ = reader.read(&mut |position, frame| {
                if frame.kind == record_kind {
                    kept.extend(decode(position, frame.payload));
                    if kept.len() > last {
                        kept.pop_front();
                    }
                }
                Flow::Continue(())
            })?;
            kept.iter().try_for_each(|row| listing.push(row))?;
        }
        loop {
            let mut written = Ok(());
            let flow = reader.read(&mut |position, frame| {
                if frame.kind == record_kind
                    && let Some(row) = decode(position, frame.payload)
                {
                    written = listing.push(&row);
                }
                match written {
                    Ok(()) => Flow::Continue(()),
                    Err(_) => Flow::Break(()),
                }
            })?;
            written?;
            listing.flush()?;
            if self.no_follow || flow == ControlFlow::Break(()) {
                break;
            }
            std::thread::sleep(POLL);
        }
        let damages = reader.damages();
        for damage in &damages {
            eprintln!(
                "segment {} of the log is damaged at {} ({} bytes, {}); see posthaste spool verify",
                damage.segment, damage.offset, damage.len, damage.reason
            );
        }
        Ok(if damages.is_empty() {
            Found::All
        } else {
            Found::Finding
        })
    }
}

/// DESIGN §5: the fields of `events tail`, and a few more.
#[derive(Serialize)]
pub(super) struct EventRow {
    pub(super) id: u64,
    pub(super) at: String,
    pub(super) kind: &'static str,
    pub(super) message_id: Option<String>,
    pub(super) recipient: Option<String>,
    pub(super) recipient_number: u16,
    pub(super) server: Option<String>,
    pub(super) stream: Option<String>,
    pub(super) source: Option<String>,
    pub(super) remote_host: Option<String>,
    pub(super) reply: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) attempts: Option<u64>,
    pub(super) next_attempt_at: Option<String>,
}

impl EventRow {
    /// `None`: a kind that this version does not know, or a record that is none.
    pub(super) fn decode(position: u64, payload: &[u8]) -> Option<Self> {
        let record = EventRecord::decode(payload).ok()?;
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
            at: rfc3339(record.at_unix_ms),
            kind: kind.as_str(),
            message_id: id,
            recipient: text(event_field::RECIPIENT),
            recipient_number: record.recipient_number,
            server: text(event_field::SERVER),
            stream: text(event_field::STREAM),
            source: text(event_field::SOURCE),
            remote_host: text(event_field::REMOTE_HOST),
            reply: text(event_field::REPLY),
            cause: text(event_field::CAUSE),
            detail: text(event_field::DETAIL),
            attempts: number(event_field::ATTEMPTS),
            next_attempt_at: number(event_field::NEXT_ATTEMPT_MS).map(rfc3339),
        })
    }
}

impl Row for EventRow {
    const COLUMNS: &'static [&'static str] = &[
        "AT",
        "KIND",
        "MESSAGE",
        "RECIPIENT",
        "SERVER",
        "STREAM",
        "SOURCE",
        "REMOTE HOST",
        "CAUSE",
        "REPLY",
    ];

    fn cells(&self) -> Vec<String> {
        let said = self.reply.as_ref().or(self.detail.as_ref());
        vec![
            self.at.clone(),
            self.kind.into(),
            or_dash(self.message_id.as_ref()),
            or_dash(self.recipient.as_ref()),
            or_dash(self.server.as_ref()),
            or_dash(self.stream.as_ref()),
            or_dash(self.source.as_ref()),
            or_dash(self.remote_host.as_ref()),
            or_dash(self.cause.as_ref()),
            or_dash(said),
        ]
    }
}

/// Between two looks for new records.
const POLL: Duration = Duration::from_millis(100);

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
        assert_eq!(row.cells().len(), EventRow::COLUMNS.len());
    }

    #[test]
    fn kinds_of_later_versions_are_skipped() {
        assert!(EventRow::decode(4096, &payload(60_000)).is_none());
        assert!(EventRow::decode(4096, b"short").is_none());
    }
}
