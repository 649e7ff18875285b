//! What events do not say of their message: tag, metadata, From, subject. Looked up in the mail log, and remembered for a while,
//! since the recipients of a message mostly end together.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use spool_format::{Content, ContentRecord, MessageRecord, kind};

use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::MessageId;
use crate::spool::{Log, ReadError, Record};

/// What webhooks tell of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) tag: Option<String>,
    pub(super) metadata: Vec<(String, String)>,
    /// In order of RCPT.
    pub(super) recipients: Vec<String>,
    /// Read only where somebody asks for it. Empty: its content is there no more.
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
    /// Those that a search did not find, likewise: it costs too much to be made for every attempt.
    unfound: Mutex<[HashSet<MessageId>; 2]>,
}

impl Messages {
    pub(super) fn new(mail: Log, events: Log) -> Self {
        Self {
            mail,
            events,
            known: Mutex::default(),
            unfound: Mutex::default(),
        }
    }

    /// Of an event's message; `None`: it is there no more, or there is none. `Err`: later it may be known.
    pub(super) fn of(
        &self,
        event: &Event<'_>,
        with_head: bool,
    ) -> Result<Option<Arc<Message>>, ReadError> {
        if event.message_id.as_bytes() == &[0; 16] {
            return Ok(None);
        }
        let known = self.known(event.message_id);
        if let Some(known) = known.filter(|known| !with_head || known.head.is_some()) {
            return Ok(Some(known));
        }
        let Some(read) = self.read(event, with_head)?.map(Arc::new) else {
            return Ok(None);
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known[0].len() >= limits::WEBHOOK_MESSAGES / 2 {
            known.swap(0, 1);
            known[0].clear();
        }
        known[0].insert(event.message_id, Arc::clone(&read));
        Ok(Some(read))
    }

    fn known(&self, id: MessageId) -> Option<Arc<Message>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find_map(|some| some.get(&id)).cloned()
    }

    fn read(&self, event: &Event<'_>, with_head: bool) -> Result<Option<Message>, ReadError> {
        let Some(position) = self.position_of(event)? else {
            return Ok(None);
        };
        let record = kept(&self.mail, position)?;
        let record = record.filter(|record| record.kind == kind::MESSAGE);
        let message = record.as_ref().map(|r| MessageRecord::decode(&r.payload));
        let Some(Ok(message)) = message else {
            return Ok(None);
        };
        if MessageId::from_bytes(message.id) != event.message_id {
            return Ok(None);
        }
        let head = match with_head {
            true => Some(self.head(&message)?.unwrap_or_default()),
            false => None,
        };
        let (metadata, recipients) = (message.metadata.iter(), message.recipients.iter());
        Ok(Some(Message {
            tag: message.tag.map(str::to_owned),
            metadata: metadata
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
            recipients: recipients.map(|r| r.forward_path.to_owned()).collect(),
            head,
        }))
    }

    /// `None`: its content is gone.
    fn head(&self, message: &MessageRecord<'_>) -> Result<Option<Head>, ReadError> {
        let len = usize::try_from(message.header_len).unwrap_or(usize::MAX);
        let header = match message.content {
            Content::Inline(octets) => octets.get(..len).map(<[u8]>::to_vec),
            Content::Records(parts) => {
                let part = match parts.iter().next() {
                    Some(part) => kept(&self.mail, part.position)?,
                    None => None,
                };
                let part = part
                    .as_ref()
                    .map(|part| ContentRecord::decode(&part.payload));
                let part = part.and_then(Result::ok);
                part.map(|part| part.octets[..len.min(part.octets.len())].to_vec())
            }
        };
        let Some(header) = header else {
            return Ok(None);
        };
        let parsed = mail_parser::MessageParser::default().parse_headers(&header);
        let from = parsed.as_ref().and_then(|parsed| parsed.from()?.first());
        let subject = parsed.as_ref().and_then(|parsed| parsed.subject());
        Ok(Some(Head {
            from: from
                .and_then(|from| from.address())
                .unwrap_or_default()
                .to_owned(),
            subject: subject.unwrap_or_default().to_owned(),
        }))
    }

    fn position_of(&self, event: &Event<'_>) -> Result<Option<u64>, ReadError> {
        if let Some(position) = event.mail_position {
            return Ok(Some(position));
        }
        // A suppression names the event that it rests on, which mostly knows.
        if let Some(evidence) = event.judged.evidence
            && let Some(record) = kept(&self.events, evidence)?
            && let Ok(Some(found)) = Event::decode(&record.payload)
            && found.message_id == event.message_id
            && found.mail_position.is_some()
        {
            return Ok(found.mail_position);
        }
        self.searched(event.message_id)
    }

    /// [`Self::accepted_at`], once.
    fn searched(&self, id: MessageId) -> Result<Option<u64>, ReadError> {
        if self.is_unfound(id) {
            return Ok(None);
        }
        let found = self.accepted_at(id)?;
        if found.is_none() {
            let mut unfound = self.unfound.lock().unwrap_or_else(PoisonError::into_inner);
            if unfound[0].len() >= limits::WEBHOOK_UNFOUND / 2 {
                unfound.swap(0, 1);
                unfound[0].clear();
            }
            unfound[0].insert(id);
        }
        Ok(found)
    }

    pub(super) fn is_unfound(&self, id: MessageId) -> bool {
        let unfound = self.unfound.lock().unwrap_or_else(PoisonError::into_inner);
        unfound.iter().any(|some| some.contains(&id))
    }

    /// As the message's *accepted* event says: the id tells when that was.
    fn accepted_at(&self, id: MessageId) -> Result<Option<u64>, ReadError> {
        let from = self.events.position_before(id.unix_ms());
        let records = self.events.records_from(from);
        for found in records.take(limits::WEBHOOK_SEARCH) {
            let record = match found {
                Ok((record, _)) => record,
                Err(error) if error.may_pass() => return Err(error),
                Err(_) => continue,
            };
            if record.kind != kind::EVENT {
                continue;
            }
            let Ok(Some(event)) = Event::decode(&record.payload) else {
                continue;
            };
            if event.kind == EventKind::Accepted && event.message_id == id {
                return Ok(event.mail_position);
            }
        }
        Ok(None)
    }
}

/// `None`: it is there no more.
pub(super) fn kept(log: &Log, position: u64) -> Result<Option<Record>, ReadError> {
    match log.read(position) {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.may_pass() => Err(error),
        Err(_) => Ok(None),
    }
}
