//! Messages for agents, from the spool: envelope decoded, content as slices of the mapped segments where they are in memory.
//!
//! Content in its own records is shown to the check one record after the other, and read once more when it leaves: no more
//! than one of them is held for a transaction, however long the message and however slow the remote host.

use std::sync::Arc;

use spool_format::layout::content;
use spool_format::message::flags;
use spool_format::{Content as Stored, MessageRecord, field_tag};

use crate::deliver::{
    Content, Fetching, LoadError, Loaded, Loading, MessageSource, Outbound, OutboundRecipient,
    Pieces,
};
use crate::event::Subject;
use crate::mail::{DsnNotify, DsnRecipient, DsnReturn};
use crate::queue::BatchRecipient;
use crate::spool::{Log, Record, Spool};

pub(super) struct SpoolMessages(pub(super) Arc<Spool>);

impl MessageSource for SpoolMessages {
    fn load<'a>(&'a self, position: u64, recipients: &'a [BatchRecipient]) -> Loading<'a, Loaded> {
        Box::pin(async move {
            let unreadable = |detail: String| LoadError { position, detail };
            let log = &self.0.mail;
            let read = log.fetch(position).await;
            let payload = read.map_err(|e| unreadable(e.to_string()))?.payload;
            let record = MessageRecord::decode(&payload).map_err(|e| unreadable(e.to_string()))?;
            let content = match record.content {
                Stored::Inline(octets) => vec![payload.slice_ref(octets)].into(),
                Stored::Records(parts) => {
                    let mut content = Content::of(Arc::new(Parts(log.clone())));
                    for part in parts {
                        let octets = part_of(log, part.position).await.map_err(unreadable)?;
                        if octets.len() != part.len as usize {
                            let detail =
                                format!("its content at {} has another length", part.position);
                            return Err(unreadable(detail));
                        }
                        content.push_later(part.position, &octets);
                        // A megabyte was looked at: others first.
                        tokio::task::yield_now().await;
                    }
                    content
                }
            };
            let subject = Subject::of(&record, recipients.iter().map(|r| r.number));
            Ok(Loaded {
                mail: outbound(&record, recipients, content).map_err(unreadable)?,
                subject: Arc::new(subject),
            })
        })
    }

    fn subject<'a>(
        &'a self,
        position: u64,
        recipients: &'a [BatchRecipient],
    ) -> Loading<'a, Arc<Subject>> {
        Box::pin(async move {
            let unreadable = |detail: String| LoadError { position, detail };
            let read = self.0.mail.fetch(position).await;
            let payload = read.map_err(|e| unreadable(e.to_string()))?.payload;
            let record = MessageRecord::decode(&payload).map_err(|e| unreadable(e.to_string()))?;
            let numbers = recipients.iter().map(|r| r.number);
            Ok(Arc::new(Subject::of(&record, numbers)))
        })
    }
}

/// Content records, by position.
struct Parts(Log);

impl Pieces for Parts {
    fn fetch(&self, name: u64) -> Fetching {
        let log = self.0.clone();
        Box::pin(async move { part_of(&log, name).await })
    }
}

async fn part_of(log: &Log, position: u64) -> Result<bytes::Bytes, String> {
    let Record { payload, .. } = log.fetch(position).await.map_err(|e| e.to_string())?;
    Ok(payload.slice(content::OCTETS.min(payload.len())..))
}

fn outbound(
    record: &MessageRecord<'_>,
    recipients: &[BatchRecipient],
    content: Content,
) -> Result<Outbound, String> {
    let wanted = recipients.iter().map(|wanted| {
        let found = record.recipients.get(usize::from(wanted.number));
        let found = found.ok_or_else(|| format!("it has no recipient {}", wanted.number))?;
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
    let field = |tag| record.fields.find_text(tag);
    Ok(Outbound {
        reverse_path: record.reverse_path.to_owned(),
        recipients: wanted.collect::<Result<_, String>>()?,
        content,
        eight_bit: record.flags & flags::EIGHT_BIT != 0,
        smtputf8: record.flags & flags::SMTPUTF8 != 0,
        envelope_id: field(field_tag::DSN_ENVID).map(str::to_owned),
        ret: field(field_tag::DSN_RET).and_then(return_of),
    })
}

/// RFC 3461 §4.1, as acceptance wrote it.
pub(super) fn notify_of(text: &str) -> DsnNotify {
    let has = |word| text.split(',').any(|w| w == word);
    DsnNotify {
        success: has("SUCCESS"),
        failure: has("FAILURE"),
        delay: has("DELAY"),
    }
}

/// RFC 3461 §4.3.
pub(super) fn return_of(text: &str) -> Option<DsnReturn> {
    match text {
        "FULL" => Some(DsnReturn::Full),
        "HDRS" => Some(DsnReturn::Headers),
        _ => None,
    }
}
