//! What senders ask of their messages over HTTP: what is scheduled, at another time or not at all; and the content.
//!
//! Promises: a server reaches its own messages only; a change is answered when it is durable, and holds from before its answer on.
//! A new time is told to the scheduler first and then written: a crash between the two leaves the old one, and nobody was told
//! otherwise. Work is bounded: a page by what it looks at, a search for content by the time that the message's id names.

use mail_parser::MessageParser;
use spool_format::layout::{content, kind};
use spool_format::{Content, MessageRecord, field_tag};

use super::Backend;
use crate::clock::{UnixMs, rfc3339};
use crate::event::{Event, EventKind, Judged};
use crate::http::AdminError;
use crate::http::outbox::{Asking, Outbox, Page, Rescheduled, Scheduled, Stored};
use crate::limits;
use crate::mail::MessageId;
use crate::outcome::CauseClass;
use crate::queue::Release;
use crate::spool::ReadError;

impl Outbox for Backend {
    fn scheduled(&self, server: u32, after: Option<MessageId>, count: usize) -> Asking<'_, Page> {
        Box::pin(self.page(server, after, count))
    }

    fn scheduled_one(&self, server: u32, id: MessageId) -> Asking<'_, Option<Scheduled>> {
        Box::pin(async move {
            self.up_to_date().await?;
            let Some(position) = self.schedule.position(server, id) else {
                return Ok(None);
            };
            let told = self.waiting(vec![(id, position)]).await?;
            match told.into_iter().next() {
                Some(waiting) => self.told(&waiting).await,
                None => Ok(None),
            }
        })
    }

    fn reschedule(&self, server: u32, id: MessageId, at: UnixMs) -> Asking<'_, Rescheduled> {
        let backend = self.clone();
        Box::pin(async move {
            // Goes on although whoever asked has gone: what the scheduler was told has to be written.
            let work = tokio::spawn(async move { backend.reschedule_now(server, id, at).await });
            work.await
                .map_err(|error| AdminError::Failed(error.to_string()))?
        })
    }

    fn recall(&self, server: u32, id: MessageId) -> Asking<'_, bool> {
        Box::pin(self.recall_now(server, id))
    }

    fn stored(&self, server: u32, id: MessageId) -> Asking<'_, Option<Stored>> {
        Box::pin(self.stored_of(server, id))
    }

    fn read(&self, stored: Stored) -> Asking<'_, Vec<u8>> {
        Box::pin(self.read_all(stored))
    }
}

/// A message with recipients that are scheduled.
struct Waiting {
    id: MessageId,
    /// Where they are now.
    position: u64,
    recipients: Vec<(u16, UnixMs)>,
}

impl Backend {
    async fn page(
        &self,
        server: u32,
        after: Option<MessageId>,
        count: usize,
    ) -> Result<Page, AdminError> {
        self.up_to_date().await?;
        let (mut page, mut after, mut looked_at) = (Page::default(), after, 0);
        while page.messages.len() < count && looked_at < limits::SCHEDULED_LOOKED_AT_MAX {
            let wanted = (count - page.messages.len()).min(ASK_FOR);
            let next = self.schedule.behind(server, after, wanted);
            let Some((last, _)) = next.last() else {
                return Ok(page);
            };
            (after, looked_at) = (Some(*last), looked_at + next.len());
            for waiting in self.waiting(next).await? {
                page.messages.extend(self.told(&waiting).await?);
            }
        }
        page.next = after;
        Ok(page)
    }

    /// Resolves when everything that was acknowledged by now is in the schedule.
    async fn up_to_date(&self) -> Result<(), AdminError> {
        self.recovered()?;
        self.ask(|_, _| ()).await
    }

    /// Before, nobody knows all of it, and the scheduler takes no orders.
    fn recovered(&self) -> Result<(), AdminError> {
        match self.progress.word() {
            Some(word) => Err(AdminError::Unavailable(word)),
            None => Ok(()),
        }
    }

    /// Those of the messages that are scheduled, by the scheduler's word.
    async fn waiting(&self, messages: Vec<(MessageId, u64)>) -> Result<Vec<Waiting>, AdminError> {
        self.recovered()?;
        let places = self.places.clone();
        self.ask(move |s, _| {
            let mut found = Vec::new();
            for (id, position) in messages {
                let mut positions = places.of(id.as_bytes());
                if !positions.contains(&position) {
                    positions.push(position);
                }
                for position in positions {
                    let recipients = s.scheduled(position);
                    if !recipients.is_empty() {
                        found.push(Waiting {
                            id,
                            position,
                            recipients,
                        });
                    }
                }
            }
            found
        })
        .await
    }

    /// What its record says. `None`: it was released meanwhile, and its segment is gone.
    async fn told(&self, waiting: &Waiting) -> Result<Option<Scheduled>, AdminError> {
        let Ok(record) = self.spool.mail.fetch(waiting.position).await else {
            return Ok(None);
        };
        let Ok(message) = MessageRecord::decode(&record.payload) else {
            return Ok(None);
        };
        let header = self.beginning(&message).await;
        let header_len = header.len().min(message.header_len as usize);
        let fields = MessageParser::default().parse_headers(&header[..header_len]);
        let from = fields
            .as_ref()
            .and_then(|fields| fields.from()?.first().cloned());
        let address = from.as_ref().and_then(|from| from.address.as_deref());
        let address = address.unwrap_or_default();
        let numbers = waiting
            .recipients
            .iter()
            .map(|(number, _)| usize::from(*number));
        let paths = numbers.filter_map(|number| message.recipients.get(number));
        let send_at = waiting.recipients.iter().map(|(_, at)| *at).min();
        Ok(Some(Scheduled {
            id: waiting.id.to_string(),
            send_at: send_at.unwrap_or_default(),
            accepted_at: message.accepted_unix_ms,
            deadline: message.fields.find_number(field_tag::DEADLINE),
            stream: message.stream_id.to_owned(),
            from: match from.as_ref().and_then(|from| from.name.as_deref()) {
                Some(name) => format!("{name} <{address}>"),
                None => address.to_owned(),
            },
            subject: fields
                .as_ref()
                .and_then(|f| f.subject())
                .unwrap_or_default()
                .to_owned(),
            recipients: paths.map(|r| r.forward_path.to_owned()).collect(),
            tag: message.tag.map(str::to_owned),
            metadata: message
                .metadata
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }))
    }

    /// The first octets of the content, its header section among them unless it is longer than a content record.
    async fn beginning(&self, message: &MessageRecord<'_>) -> Vec<u8> {
        let wanted = message.header_len as usize;
        match &message.content {
            Content::Inline(octets) => octets[..wanted.min(octets.len())].to_vec(),
            Content::Records(parts) => {
                let Some(first) = parts.iter().next() else {
                    return Vec::new();
                };
                let part = self.spool.mail.fetch(first.position).await;
                let part = part.map(|record| record.payload).unwrap_or_default();
                let octets = part.get(content::OCTETS..).unwrap_or_default();
                octets[..wanted.min(octets.len())].to_vec()
            }
        }
    }

    async fn reschedule_now(
        &self,
        server: u32,
        id: MessageId,
        at: UnixMs,
    ) -> Result<Rescheduled, AdminError> {
        self.up_to_date().await?;
        let _alone = self.rescheduling.lock().await;
        let Some(position) = self.schedule.position(server, id) else {
            return Ok(Rescheduled::NotScheduled);
        };
        let told = self.waiting(vec![(id, position)]).await?;
        let Some(waiting) = told.into_iter().next() else {
            return Ok(Rescheduled::NotScheduled);
        };
        let record = self.spool.mail.fetch(waiting.position).await;
        let record = record.map_err(|error| AdminError::Failed(error.to_string()))?;
        let message = MessageRecord::decode(&record.payload);
        let message = message.map_err(|error| AdminError::Failed(error.to_string()))?;
        let deadline = message.fields.find_number(field_tag::DEADLINE);
        let now = self.clock.unix_ms();
        if let Some(deadline) = deadline.filter(|&deadline| deadline <= at.max(now)) {
            return Ok(Rescheduled::Deadline(deadline));
        }
        if !self.schedule.may_change(server, id) {
            return Ok(Rescheduled::TooOften);
        }
        let policy = self
            .policies
            .of(server, message.stream_id, message.stream_kind);
        let release = Release {
            at,
            max_age: policy.retry.max_age,
            deadline,
        };
        let places = self.places.clone();
        let numbers = self.ask(move |s, now| {
            // Compaction may have moved it since.
            let mut positions = places.of(id.as_bytes());
            if !positions.contains(&position) {
                positions.push(position);
            }
            let numbers = positions.into_iter().map(|p| s.reschedule(now, p, release));
            numbers.collect::<Option<Vec<Vec<u16>>>>()
        });
        let numbers = numbers.await?.ok_or_else(crowded)?.concat();
        if numbers.is_empty() {
            return Ok(Rescheduled::NotScheduled);
        }
        let before = waiting.recipients.iter().map(|(_, at)| *at).min();
        let detail = format!(
            "Its sender moved it from {} to {}.",
            rfc3339(before.unwrap_or_default()),
            rfc3339(at)
        );
        self.write_reschedule(&message, id, &numbers, at, &detail)
            .await?;
        let recipients = numbers.into_iter().map(|number| (number, at)).collect();
        let moved = Waiting {
            recipients,
            ..waiting
        };
        let told = self.told(&moved).await?;
        Ok(told.map_or(Rescheduled::NotScheduled, Rescheduled::Done))
    }

    /// One event for each recipient. `Ok`: they are durable.
    async fn write_reschedule(
        &self,
        message: &MessageRecord<'_>,
        id: MessageId,
        numbers: &[u16],
        at: UnixMs,
        detail: &str,
    ) -> Result<(), AdminError> {
        let mut last = 0;
        for &number in numbers {
            let recipient = message.recipients.get(usize::from(number));
            let event = Event {
                kind: EventKind::Rescheduled,
                at: self.clock.unix_ms(),
                message_id: id,
                recipient_number: number,
                recipient: recipient.map_or("", |recipient| recipient.forward_path),
                server_id: message.server_id,
                server: message.server_name,
                stream: message.stream_id,
                source: "",
                tag: message.tag.unwrap_or_default(),
                remote_host: "",
                reply: "",
                judged: Judged::default(),
                cause: CauseClass::Sender.as_str(),
                detail,
                attempts: 0,
                // 0 would be none at all.
                next_attempt: Some(at.max(1)),
                origin: "",
                since: None,
                idempotency: &[],
                mail_position: None,
                ..Event::nothing()
            };
            let mut buffer = Vec::new();
            event.encode(&mut buffer);
            let parts: [&[u8]; 1] = [&buffer];
            let written = self.spool.events.append_lazy(kind::EVENT, 0, &parts).await;
            last = written.map_err(|error| AdminError::Failed(error.to_string()))?;
        }
        self.durable(last).await
    }

    /// Waits until an event is.
    async fn durable(&self, event: u64) -> Result<(), AdminError> {
        let mut durable = self.spool.events.watch();
        let waited = durable.wait_for(|durable| *durable > event);
        match tokio::time::timeout(limits::RECALL_WAIT, waited).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(AdminError::Unavailable(
                "it is under way, but not written to the disk yet".to_owned(),
            )),
        }
    }

    async fn recall_now(&self, server: u32, id: MessageId) -> Result<bool, AdminError> {
        self.up_to_date().await?;
        let Some(position) = self.schedule.position(server, id) else {
            return Ok(false);
        };
        let (places, schedule) = (self.places.clone(), self.schedule.clone());
        let ended = self.ask(move |s, now| {
            let mut positions = places.of(id.as_bytes());
            if !positions.contains(&position) {
                positions.push(position);
            }
            let numbers = positions.into_iter().map(|p| s.recall(now, p));
            let numbers: Vec<u16> = numbers.flatten().collect();
            // Before the owner of the scheduler writes their events.
            (!numbers.is_empty()).then(|| schedule.watch(id, numbers))
        });
        let Some(ended) = ended.await? else {
            return Ok(false);
        };
        match tokio::time::timeout(limits::RECALL_WAIT, ended).await {
            Ok(Ok(event)) => self.durable(event).await.map(|()| true),
            _ => Err(AdminError::Unavailable(
                "the message is cancelled, but that is not written to the disk yet".to_owned(),
            )),
        }
    }

    async fn stored_of(&self, server: u32, id: MessageId) -> Result<Option<Stored>, AdminError> {
        let moved = self.places.of(id.as_bytes()).last().copied();
        let known = moved.or_else(|| self.schedule.position(server, id));
        let spool = self.spool.clone();
        let found = move || {
            let is_it = |message: &MessageRecord<'_>| {
                message.id == *id.as_bytes() && message.server_id == server
            };
            if let Some(position) = known
                && let Ok(record) = spool.mail.read_aside(position)
                && let Ok(message) = MessageRecord::decode(&record.payload)
            {
                let octets = message.content.len();
                return is_it(&message).then_some(Stored { position, octets });
            }
            // The record is behind the moment that its id names, as long as its transaction took.
            let start = spool.mail.position_before(id.unix_ms());
            for (record, _) in spool.mail.records_from(start).flatten() {
                if record.kind != kind::MESSAGE {
                    continue;
                }
                let Ok(message) = MessageRecord::decode(&record.payload) else {
                    continue;
                };
                if is_it(&message) {
                    let octets = message.content.len();
                    return Some(Stored {
                        position: record.position,
                        octets,
                    });
                }
                if message.accepted_unix_ms > id.unix_ms() + SEARCH_MS {
                    break;
                }
            }
            None
        };
        let permit = self.searches.clone().acquire_owned();
        let permit = tokio::time::timeout(limits::RECALL_WAIT, permit).await;
        let Ok(Ok(permit)) = permit else {
            let busy = "others look for their messages".to_owned();
            return Err(AdminError::Unavailable(busy));
        };
        let searched = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            found()
        });
        searched
            .await
            .map_err(|e| AdminError::Failed(e.to_string()))
    }

    async fn read_all(&self, stored: Stored) -> Result<Vec<u8>, AdminError> {
        let spool = self.spool.clone();
        // Reading on while its segment goes is no fault: Postmark's answer is then empty.
        let gone = |error: ReadError| match error {
            ReadError::NotRetained(_) => Ok(Vec::new()),
            error => Err(error.to_string()),
        };
        let read = move || {
            let log = &spool.mail;
            let record = match log.read_aside(stored.position) {
                Ok(record) => record,
                Err(error) => return gone(error),
            };
            let message = MessageRecord::decode(&record.payload).map_err(|e| e.to_string())?;
            match &message.content {
                Content::Inline(octets) => Ok(octets.to_vec()),
                Content::Records(parts) => {
                    let mut whole = Vec::with_capacity(message.content.len() as usize);
                    for part in parts.iter() {
                        match log.read_aside(part.position) {
                            Ok(part) => whole.extend_from_slice(
                                part.payload.get(content::OCTETS..).unwrap_or_default(),
                            ),
                            Err(error) => return gone(error),
                        }
                    }
                    Ok(whole)
                }
            }
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|e| AdminError::Failed(e.to_string()))?;
        read.map_err(AdminError::Failed)
    }
}

fn crowded() -> AdminError {
    AdminError::Unavailable("too many messages were moved and wait for their old times".to_owned())
}

/// Messages that the scheduler is asked for between two of its rounds.
const ASK_FOR: usize = 50;
/// A message that took longer to hand in is found by the operator's commands only.
const SEARCH_MS: UnixMs = 600_000;
