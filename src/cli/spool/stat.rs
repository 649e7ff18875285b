//! `posthaste spool stat`: what both logs hold.

use serde::Serialize;
use spool_format::{EventRecord, LogKind, MessageRecord, kind};

use super::Listed;
use crate::cli::logs::{self, Flow};
use crate::cli::output::{Listing, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found};
use crate::clock::rfc3339;
use crate::config::text_of_size;

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

pub(super) fn stat(listed: &Listed) -> Result<Found, Failure> {
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
