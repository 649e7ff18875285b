//! Messages for agents, from the spool: envelope decoded, content as slices of the mapped segments, without a copy.

use std::sync::Arc;

use bytes::Bytes;
use spool_format::layout::content;
use spool_format::message::flags;
use spool_format::{Content, MessageRecord, field_tag};

use crate::deliver::{LoadError, MessageSource, Outbound, OutboundRecipient};
use crate::mail::{DsnNotify, DsnRecipient, DsnReturn};
use crate::queue::BatchRecipient;
use crate::spool::Spool;

pub(super) struct SpoolMessages(pub(super) Arc<Spool>);

impl MessageSource for SpoolMessages {
    fn load(&self, position: u64, recipients: &[BatchRecipient]) -> Result<Outbound, LoadError> {
        let unreadable = |detail: String| LoadError { position, detail };
        let payload = self
            .0
            .mail
            .read(position)
            .map_err(|e| unreadable(e.to_string()))?
            .payload;
        let record = MessageRecord::decode(&payload).map_err(|e| unreadable(e.to_string()))?;
        let missing = |number: u16| unreadable(format!("it has no recipient {number}"));
        let wanted = recipients.iter().map(|wanted| {
            let found = record
                .recipients
                .get(usize::from(wanted.number))
                .ok_or_else(|| missing(wanted.number))?;
            let notify = found.fields.find_text(field_tag::DSN_NOTIFY);
            let original = found.fields.find_text(field_tag::DSN_ORCPT);
            Ok(OutboundRecipient {
                number: wanted.number,
                forward_path: found.forward_path.to_owned(),
                dsn: DsnRecipient {
                    notify: notify.map(notify_of),
                    original_recipient: original.map(str::to_owned),
                },
            })
        });
        Ok(Outbound {
            reverse_path: record.reverse_path.to_owned(),
            recipients: wanted.collect::<Result<_, LoadError>>()?,
            content: self.content(&payload, &record).map_err(unreadable)?,
            eight_bit: record.flags & flags::EIGHT_BIT != 0,
            smtputf8: record.flags & flags::SMTPUTF8 != 0,
            envelope_id: record
                .fields
                .find_text(field_tag::DSN_ENVID)
                .map(str::to_owned),
            ret: record
                .fields
                .find_text(field_tag::DSN_RET)
                .and_then(return_of),
        })
    }
}

impl SpoolMessages {
    fn content(&self, payload: &Bytes, record: &MessageRecord<'_>) -> Result<Vec<Bytes>, String> {
        match record.content {
            Content::Inline(octets) => Ok(vec![payload.slice_ref(octets)]),
            Content::Records(parts) => parts
                .iter()
                .map(|part| {
                    let record = self.0.mail.read(part.position).map_err(|e| e.to_string())?;
                    let octets = record
                        .payload
                        .slice(content::OCTETS.min(record.payload.len())..);
                    let whole = octets.len() == part.len as usize;
                    whole.then_some(octets).ok_or_else(|| {
                        format!("its content at {} has another length", part.position)
                    })
                })
                .collect(),
        }
    }
}

/// RFC 3461 §4.1, as acceptance wrote it.
fn notify_of(text: &str) -> DsnNotify {
    let has = |word| text.split(',').any(|w| w == word);
    DsnNotify {
        success: has("SUCCESS"),
        failure: has("FAILURE"),
        delay: has("DELAY"),
    }
}

/// RFC 3461 §4.3.
fn return_of(text: &str) -> Option<DsnReturn> {
    match text {
        "FULL" => Some(DsnReturn::Full),
        "HDRS" => Some(DsnReturn::Headers),
        _ => None,
    }
}
