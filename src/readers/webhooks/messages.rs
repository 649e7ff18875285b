//! What events do not say of their message: tag, metadata, From, subject. Looked up in the mail log, and remembered for a while,
//! since the recipients of a message mostly end together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use spool_format::{Content, ContentRecord, MessageRecord, kind};

use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::MessageId;
use crate::spool::Log;

/// What webhooks tell of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) tag: Option<String>,
    pub(super) metadata: Vec<(String, String)>,
    /// In order of RCPT.
    pub(super) recipients: Vec<String>,
    /// Read only where somebody asks for it.
    pub(super) head: Option<Head>,
}

/// Of its header section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) from: String,
    pub(super) subject: String,
}

/// The mail log, to be asked. May block.
pub(super) struct Messages {
    mail: Log,
    events: Log,
    /// Two generations: when the younger is full, the older goes.
    known: Mutex<[HashMap<MessageId, Arc<Message>>; 2]>,
}

impl Messages {
    pub(super) fn new(mail: Log, events: Log) -> Self {
        Self {
            mail,
            events,
            known: Mutex::default(),
        }
    }

    /// Of an event's message; `None`: it is there no more, or there is none.
    pub(super) fn of(&self, event: &Event<'_>, with_head: bool) -> Option<Arc<Message>> {
        if event.message_id.as_bytes() == &[0; 16] {
            return None;
        }
        let known = self.known(event.message_id);
        if let Some(known) = known.filter(|known| !with_head || known.head.is_some()) {
            return Some(known);
        }
        let read = Arc::new(self.read(event, with_head)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known[0].len() >= limits::WEBHOOK_MESSAGES / 2 {
            known.swap(0, 1);
            known[0].clear();
        }
        known[0].insert(event.message_id, Arc::clone(&read));
        Some(read)
    }

    fn known(&self, id: MessageId) -> Option<Arc<Message>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find_map(|some| some.get(&id)).cloned()
    }

    fn read(&self, event: &Event<'_>, with_head: bool) -> Option<Message> {
        let position = self.position_of(event)?;
        let record = self.mail.read(position).ok()?;
        if record.kind != kind::MESSAGE {
            return None;
        }
        let message = MessageRecord::decode(&record.payload).ok()?;
        if MessageId::from_bytes(message.id) != event.message_id {
            return None;
        }
        let (metadata, recipients) = (message.metadata.iter(), message.recipients.iter());
        Some(Message {
            tag: message.tag.map(str::to_owned),
            metadata: metadata
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
            recipients: recipients.map(|r| r.forward_path.to_owned()).collect(),
            head: match with_head {
                true => Some(self.head(&message)?),
                false => None,
            },
        })
    }

    fn head(&self, message: &MessageRecord<'_>) -> Option<Head> {
        let len = usize::try_from(message.header_len).ok()?;
        let header = match message.content {
            Content::Inline(octets) => octets.get(..len)?.to_vec(),
            Content::Records(parts) => {
                let part = self.mail.read(parts.iter().next()?.position).ok()?;
                let part = ContentRecord::decode(&part.payload).ok()?;
                part.octets[..len.min(part.octets.len())].to_vec()
            }
        };
        let parsed = mail_parser::MessageParser::default().parse_headers(&header);
        let from = parsed.as_ref().and_then(|parsed| parsed.from()?.first());
        let subject = parsed.as_ref().and_then(|parsed| parsed.subject());
        Some(Head {
            from: from
                .and_then(|from| from.address())
                .unwrap_or_default()
                .to_owned(),
            subject: subject.unwrap_or_default().to_owned(),
        })
    }

    fn position_of(&self, event: &Event<'_>) -> Option<u64> {
        if let Some(position) = event.mail_position {
            return Some(position);
        }
        // A suppression names the event that it rests on, which mostly knows.
        if let Some(evidence) = event.judged.evidence
            && let Ok(record) = self.events.read(evidence)
            && let Ok(Some(found)) = Event::decode(&record.payload)
            && found.message_id == event.message_id
            && found.mail_position.is_some()
        {
            return found.mail_position;
        }
        self.accepted_at(event.message_id)
    }

    /// As the message's *accepted* event says: the id tells when that was.
    fn accepted_at(&self, id: MessageId) -> Option<u64> {
        let from = self.events.position_before(id.unix_ms());
        let records = self.events.records_from(from).flatten();
        for (record, _) in records.take(limits::WEBHOOK_SEARCH) {
            if record.kind != kind::EVENT {
                continue;
            }
            let Ok(Some(event)) = Event::decode(&record.payload) else {
                continue;
            };
            if event.kind == EventKind::Accepted && event.message_id == id {
                return event.mail_position;
            }
        }
        None
    }
}
