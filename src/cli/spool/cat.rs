//! `posthaste spool cat`: the exact content of a message, as it left or would leave but for its DKIM signature, from the log or an archive.

use std::path::Path;

use clap::Args;
use spool_format::{Content, ContentRecord, MessageRecord, kind};

use super::progress;
use crate::cli::logs::{Finder, FoundRecord, IdPrefix, Records};
use crate::cli::{Failure, Found, Place, output};
use crate::mail::MessageId;

#[derive(Args)]
pub(in crate::cli) struct Cat {
    #[command(flatten)]
    place: Place,
    /// A message id, or its first digits.
    #[arg(value_name = "ID")]
    id: IdPrefix,
    /// Only the header section.
    #[arg(long, conflicts_with = "envelope")]
    headers: bool,
    /// Only the envelope, as the commands MAIL and RCPT.
    #[arg(long)]
    envelope: bool,
}

impl Cat {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.place.data_dir()?;
        let finder = Finder::new(&data_dir, progress);
        let found = finder.records(&finder.whole(&self.id)?, false)?;
        let first = found.first().ok_or_else(|| self.not_found())?;
        if let Some(other) = found.iter().find(|record| record.id != first.id) {
            return Err(Failure::finding(format!(
                "several messages have ids that begin with {}; give more of it: {} {}",
                self.id,
                MessageId::from_bytes(first.id),
                MessageId::from_bytes(other.id)
            )));
        }
        let id = MessageId::from_bytes(first.id);
        let failure = match self.write_newest(&data_dir, &found) {
            Err(failure) if !failure.closed_pipe => failure,
            done => return done,
        };
        // Its content may have been moved by compaction: the copy names where it lies now.
        let copies = finder.records(&IdPrefix::of(*id.as_bytes()), true)?;
        match copies.len() > found.len() {
            true => self.write_newest(&data_dir, &copies),
            false => Err(failure),
        }
    }

    fn not_found(&self) -> Failure {
        Failure::finding(format!(
            "the mail log holds no message {} (any more); its events, if they are kept: posthaste spool show {0}",
            self.id
        ))
    }

    fn write_newest(&self, data_dir: &Path, found: &[FoundRecord]) -> Result<Found, Failure> {
        let Some(newest) = found.iter().rev().find(|record| !record.place.erased) else {
            return Err(Failure::finding(format!(
                "the content of {} was erased; posthaste spool show has what is left",
                self.id
            )));
        };
        // A record that was found was decoded then.
        let record = MessageRecord::decode(&newest.payload)
            .map_err(|error| Failure::finding(format!("{}: {error}", self.id)))?;
        if self.envelope {
            return envelope(&record);
        }
        let mut records = Records::open(data_dir)?;
        // All of it, or nothing.
        if let Content::Records(parts) = record.content {
            for (number, part) in parts.iter().enumerate() {
                if octets(&mut records, &record.id, part.position)?.is_none() {
                    return Err(Failure::finding(format!(
                        "the content of {} is not whole: part {} of {} is damaged, erased or gone; posthaste spool verify tells which",
                        self.id,
                        number + 1,
                        parts.len()
                    )));
                }
            }
        }
        let mut left = match self.headers {
            true => u64::from(record.header_len),
            false => record.content.len(),
        };
        match record.content {
            Content::Inline(bytes) => write(bytes, &mut left)?,
            Content::Records(parts) => {
                for part in parts.iter() {
                    let octets = octets(&mut records, &record.id, part.position)?;
                    write(&octets.unwrap_or_default(), &mut left)?;
                }
            }
        }
        Ok(Found::All)
    }
}

/// Of the content record there, if it is one of this message.
fn octets(
    records: &mut Records,
    message_id: &[u8; 16],
    position: u64,
) -> Result<Option<Vec<u8>>, Failure> {
    let octets = records.at(position, |_, frame| {
        let content = ContentRecord::decode(frame.payload).ok()?;
        let is_part = frame.kind == kind::CONTENT && content.message_id == *message_id;
        is_part.then(|| content.octets.to_vec())
    })?;
    Ok(octets.flatten())
}

/// Writes as much as is left to be written.
fn write(octets: &[u8], left: &mut u64) -> Result<(), Failure> {
    let count = usize::try_from(*left).map_or(octets.len(), |left| left.min(octets.len()));
    *left -= count as u64;
    output::write_all(&octets[..count])?;
    Ok(())
}

fn envelope(record: &MessageRecord<'_>) -> Result<Found, Failure> {
    output::line(format!("MAIL FROM:<{}>", record.reverse_path))?;
    for recipient in record.recipients.iter() {
        output::line(format!("RCPT TO:<{}>", recipient.forward_path))?;
    }
    Ok(Found::All)
}
