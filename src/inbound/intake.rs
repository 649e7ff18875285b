//! A report on its way in, and what it becomes: one event for each recipient that it is about.

use spool_format::layout::kind;

use super::about::{Fact, facts};
use super::people::Letter;
use super::{Inbound, Refused, Reserved, Target, reading};
use crate::event::Event;
use crate::limits;
use crate::mail::MessageId;
use crate::metrics;
use crate::spool::{AppendError, Receipt};

/// Dropped unfinished, it leaves nothing.
pub struct Intake {
    inbound: Inbound,
    to: Addressed,
    reserved: Reserved,
    kept: Vec<u8>,
    /// There is more than is kept.
    is_cut: bool,
}

/// What its recipients are.
pub(super) struct Addressed {
    pub(super) targets: Vec<Target>,
    /// It came to the address of feedback loops too.
    pub(super) complaints: bool,
    /// For people.
    pub(super) letter: Option<Letter>,
}

/// The events are durable.
pub struct Taken {
    about: Option<MessageId>,
    kept_as: Option<u64>,
    is_forwarded: bool,
    _receipts: Vec<Receipt>,
}

impl Taken {
    /// The message that came back. `None`: the complaint is about none that is known.
    pub fn about(&self) -> Option<MessageId> {
        self.about
    }
}

impl Taken {
    /// The event that has the mail, where it is for people and was not forwarded.
    pub fn kept_as(&self) -> Option<u64> {
        self.kept_as
    }

    /// It is for people, and on its way to them.
    pub fn is_forwarded(&self) -> bool {
        self.is_forwarded
    }
}

/// They are not; the sender has to come again.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    #[error("the event log: {0}")]
    Log(#[from] AppendError),
    #[error("which message it is about cannot be found now: {}", .0.as_str())]
    Refused(Refused),
    #[error("reading the report failed in the program")]
    Program,
    #[error("{0}")]
    NotNow(String),
    /// Mail for people is not cut.
    #[error("the mail is longer than {} octets", limits::PEOPLE_MAIL_MAX)]
    TooLong,
}

impl From<Refused> for NotKept {
    fn from(refused: Refused) -> Self {
        metrics::INBOUND_REFUSED.add_to(refused.as_str(), 1);
        Self::Refused(refused)
    }
}

impl Intake {
    pub(super) fn new(inbound: Inbound, to: Addressed, reserved: Reserved) -> Self {
        Self {
            inbound,
            to,
            reserved,
            kept: Vec::new(),
            is_cut: false,
        }
    }

    /// The next octets. Only the beginning is kept: what a report says stands in front of the message that it returns.
    pub fn push(&mut self, content: &[u8]) {
        let most = match &self.to.letter {
            None => limits::REPORT_KEPT,
            Some(_) => limits::PEOPLE_MAIL_MAX,
        };
        let room = most - self.kept.len();
        self.is_cut |= content.len() > room;
        self.kept
            .extend_from_slice(&content[..room.min(content.len())]);
    }

    /// Returns when the events are durable.
    /// # Cancel safety
    /// Events that were appended stay: the sender was not told, and its next try says the same once more.
    pub async fn finish(self) -> Result<Taken, NotKept> {
        let Self {
            inbound,
            to,
            reserved,
            mut kept,
            is_cut,
        } = self;
        let Addressed {
            targets,
            complaints,
            letter,
        } = to;
        if letter.is_some() && is_cut {
            return Err(NotKept::TooLong);
        }
        let beginning = match letter {
            Some(_) => kept[..kept.len().min(limits::REPORT_KEPT)].to_vec(),
            None => std::mem::take(&mut kept),
        };
        // What the report says is decided first: whatever puts it off has its sender come again, with the letter too.
        let report = match targets.is_empty() && !complaints {
            true => None,
            false => Some(
                inbound
                    .judge(targets, complaints, reserved, beginning)
                    .await?,
            ),
        };
        // The letter is last: where its sender comes again, a report that says the same once more does no harm, a second letter does.
        let (about, receipts) = match report {
            Some(report) => (report.about(), inbound.record(report).await?),
            None => (None, Vec::new()),
        };
        let (mut kept_as, mut is_forwarded) = (None, false);
        if let Some(letter) = letter {
            kept_as = inbound.take_letter(&letter, &kept).await?;
            inbound.counts().count_letter(inbound.0.clock.unix_ms());
            is_forwarded = kept_as.is_none();
        }
        Ok(Taken {
            about,
            kept_as,
            is_forwarded,
            _receipts: receipts,
        })
    }
}

/// A report that was understood.
struct Report {
    targets: Vec<Target>,
    /// Of each target.
    facts: Vec<Vec<Fact>>,
    /// Its beginning.
    kept: Vec<u8>,
    reserved: Reserved,
}

impl Report {
    fn about(&self) -> Option<MessageId> {
        self.targets.first().map(|target| target.subject.id)
    }
}

impl Inbound {
    /// What a report says of whom. Nothing is written yet.
    async fn judge(
        &self,
        mut targets: Vec<Target>,
        complaints: bool,
        mut reserved: Reserved,
        kept: Vec<u8>,
    ) -> Result<Report, NotKept> {
        // Parsing what strangers wrote has no place on the reactor.
        let read = tokio::task::spawn_blocking(move || (reading::read(&kept), kept));
        let (reading, kept) = read.await.map_err(|_| NotKept::Program)?;
        metrics::INBOUND_REPORTS.add_to(reading.kind.as_str(), 1);
        if complaints {
            let found = self.complaint(&reading).await?;
            let is_new = |found: &Target| targets.iter().all(|t| t.address != found.address);
            if let Some(found) = found.filter(is_new) {
                reserved.take(found.address.message)?;
                targets.push(found);
            }
        }
        let rules = self.0.rules.load_full();
        let judge = move || {
            let of = |target| facts(target, &reading, Some(&rules));
            let facts: Vec<_> = targets.iter().map(of).collect();
            (targets, facts)
        };
        let judged = tokio::task::spawn_blocking(judge).await;
        let (targets, facts) = judged.map_err(|_| NotKept::Program)?;
        Ok(Report {
            targets,
            facts,
            kept,
            reserved,
        })
    }

    /// Makes it durable, as events.
    async fn record(&self, report: Report) -> Result<Vec<Receipt>, NotKept> {
        let now = self.0.clock.unix_ms();
        let mut tickets = Vec::new();
        let mut notice_at = None;
        let mut payload = Vec::new();
        for (target, facts) in report.targets.iter().zip(&report.facts) {
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
                    mail_position: target.mail_position,
                    // One copy for all events of a report.
                    notice: if notice_at.is_none() {
                        &report.kept
                    } else {
                        &[]
                    },
                    notice_at,
                    dsn: fact.number.map(|n| subject.dsn(n)).unwrap_or_default(),
                    ..Event::nothing()
                }
                .encode(&mut payload);
                let log = &self.0.spool.events;
                let ticket = log.append(kind::EVENT, 0, &[&payload], None).await?;
                notice_at = notice_at.or(Some(ticket.position()));
                tickets.push(ticket);
            }
        }
        let mut receipts = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            receipts.push(ticket.await?);
        }
        report.reserved.keep();
        Ok(receipts)
    }
}
