//! `posthaste spool verify`: every record of both logs.

use std::collections::HashMap;

use anyhow::Context;
use serde::Serialize;
use spool_format::{Content, ContentRecord, EventRecord, LogKind, MessageRecord, kind};

use super::Listed;
use crate::cli::logs::{self, Damage, Flow};
use crate::cli::output::{Listing, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found, output};
use crate::mail::MessageId;

/// One finding of `spool verify`.
#[derive(Serialize)]
pub(super) struct FindingRow {
    log: &'static str,
    segment: Option<u64>,
    /// In the segment for damage, in the log for a record.
    offset: u64,
    length: u64,
    finding: String,
    pub(super) acknowledged: bool,
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

pub(super) fn verify(listed: &Listed) -> Result<Found, Failure> {
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
pub(super) struct Checks {
    log: &'static str,
    contents: HashMap<u64, ([u8; 16], u32)>,
    pub(super) findings: Vec<FindingRow>,
}

impl Checks {
    pub(super) fn record(&mut self, position: u64, record_kind: u8, payload: &[u8]) {
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
