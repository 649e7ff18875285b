//! `posthaste spool ls`: the messages that are kept.

use std::collections::HashMap;

use serde::Serialize;
use spool_format::{EventRecord, LogKind, MessageRecord, kind};

use super::Listed;
use crate::cli::logs::Flow;
use crate::cli::output::{Listing, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found};
use crate::clock::rfc3339;
use crate::event::EventKind;
use crate::mail::MessageId;

/// One message in `spool ls` and `spool tail`.
#[derive(Serialize)]
pub(super) struct MessageRow {
    pub(super) message_id: String,
    pub(super) at: String,
    pub(super) server: String,
    pub(super) stream: String,
    pub(super) stream_type: &'static str,
    pub(super) pool: String,
    pub(super) reverse_path: String,
    pub(super) recipients: usize,
    /// Recipients without an outcome; `null` where outcomes are not looked at.
    pub(super) live: Option<usize>,
    pub(super) content_bytes: u64,
    pub(super) tag: Option<String>,
    pub(super) position: u64,
}

impl MessageRow {
    pub(super) fn new(position: u64, record: &MessageRecord<'_>, live: Option<usize>) -> Self {
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

pub(super) fn ls(listed: &Listed, live_only: bool) -> Result<Found, Failure> {
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
