//! `posthaste spool cat`: the exact content of a message.

use spool_format::{Content, ContentRecord, LogKind};

use super::{message_with, not_found, open};
use crate::cli::logs::{Flow, LogReader};
use crate::cli::{Failure, Found, Place, output};
use crate::mail::MessageId;

pub(super) fn cat(place: &Place, id: MessageId) -> Result<Found, Failure> {
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
