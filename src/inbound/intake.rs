//! A report on its way in, and what it becomes: one event for each recipient that it is about.

use spool_format::layout::kind;

use super::about::facts;
use super::{Inbound, Target, reading};
use crate::event::Event;
use crate::limits;
use crate::mail::MessageId;
use crate::metrics;
use crate::spool::{AppendError, Receipt};

/// Dropped unfinished, it leaves nothing.
pub struct Intake {
    inbound: Inbound,
    targets: Vec<Target>,
    kept: Vec<u8>,
}

/// The events are durable.
pub struct Taken {
    about: MessageId,
    _receipts: Vec<Receipt>,
}

impl Taken {
    /// The message that came back.
    pub fn about(&self) -> MessageId {
        self.about
    }
}

/// They are not; the sender has to come again.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    #[error("the event log: {0}")]
    Log(#[from] AppendError),
    #[error("reading the report failed in the program")]
    Program,
}

impl Intake {
    pub(super) fn new(inbound: Inbound, targets: Vec<Target>) -> Self {
        Self {
            inbound,
            targets,
            kept: Vec::new(),
        }
    }

    /// The next octets. Only the beginning is kept: what a report says stands in front of the message that it returns.
    pub fn push(&mut self, content: &[u8]) {
        let room = limits::REPORT_KEPT - self.kept.len();
        self.kept
            .extend_from_slice(&content[..room.min(content.len())]);
    }

    /// Returns when the events are durable.
    /// # Cancel safety
    /// Events that were appended stay: the sender was not told, and its next try says the same once more.
    pub async fn finish(self) -> Result<Taken, NotKept> {
        let Self {
            inbound,
            targets,
            kept,
        } = self;
        // Parsing what strangers wrote has no place on the reactor.
        let rules = inbound.0.rules.load_full();
        let judge = move || {
            let reading = reading::read(&kept);
            let of = |target| facts(target, &reading, Some(&rules));
            let facts: Vec<_> = targets.iter().map(of).collect();
            (targets, facts, reading.kind, kept)
        };
        // Parsing what strangers wrote has no place on the reactor.
        let judged = tokio::task::spawn_blocking(judge).await;
        let (targets, facts, kind_of_report, kept) = judged.map_err(|_| NotKept::Program)?;
        metrics::INBOUND_REPORTS.add_to(kind_of_report.as_str(), 1);
        let now = inbound.0.clock.unix_ms();
        let mut tickets = Vec::new();
        let mut notice_at = None;
        let mut payload = Vec::new();
        for (target, facts) in targets.iter().zip(&facts) {
            inbound.counts().count(target.address.message, now);
            for fact in facts {
                let subject = &target.subject;
                payload.clear();
                Event {
                    kind: fact.kind,
                    at: now,
                    message_id: subject.id,
                    recipient_number: fact.number.unwrap_or(0),
                    recipient: fact.number.map_or("", |n| subject.forward_path(n)),
                    server_id: subject.server_id,
                    server: subject.server(),
                    stream: subject.stream(),
                    tag: subject.tag(),
                    remote_host: &fact.reporter,
                    reply: &fact.reply,
                    cause: fact.class().as_str(),
                    judged: fact.judged(),
                    detail: &fact.sentence,
                    // One copy for all events of a report.
                    notice: if notice_at.is_none() { &kept } else { &[] },
                    notice_at,
                    ..Event::nothing()
                }
                .encode(&mut payload);
                let log = &inbound.0.spool.events;
                let ticket = log.append(kind::EVENT, 0, &[&payload], None).await?;
                notice_at = notice_at.or(Some(ticket.position()));
                tickets.push(ticket);
            }
        }
        let mut receipts = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            receipts.push(ticket.await?);
        }
        let about = targets.first().map(|target| target.subject.id);
        Ok(Taken {
            about: about.ok_or(NotKept::Program)?,
            _receipts: receipts,
        })
    }
}
