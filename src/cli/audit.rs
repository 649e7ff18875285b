//! `posthaste audit`: proves from both logs that `accepted = delivered + bounced + expired + cancelled + live`, and that
//! nobody has two outcomes, none that was lost, none that was invented (DESIGN §1.2).
//!
//! A running daemon goes on writing, so the event log is read, then the mail log, then the rest of the event log for the
//! messages known by then: what ended in between counts as ended, what came in between does not count.

use std::collections::HashMap;

use clap::Args;
use serde::Serialize;
use spool_format::{EventRecord, LogKind, MessageRecord, kind};

use super::logs::{Flow, LogReader};
use super::output::{Listing, Progress, Row};
use super::{Failure, Found, Place, logs, output};
use crate::event::EventKind;
use crate::mail::MessageId;

#[derive(Args)]
pub(super) struct Audit {
    #[command(flatten)]
    place: Place,
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.place.data_dir()?;
        let mut ledger = Ledger::default();
        let mut damages = 0;
        let reader = |kind| {
            let mut progress =
                Progress::new(format!("reading the {} log, segment", logs::name(kind)));
            LogReader::open(&data_dir, kind, 0)
                .map(|r| r.with_progress(move |done, of| progress.at(done, of)))
        };
        let (mut events, mut mail) = (reader(LogKind::Event)?, reader(LogKind::Mail)?);
        let _ = events.read(&mut |_, frame| {
            if frame.kind == kind::EVENT {
                ledger.event(frame.payload, true);
            }
            Flow::Continue(())
        })?;
        let _ = mail.read(&mut |_, frame| {
            if frame.kind == kind::MESSAGE {
                ledger.message(frame.payload);
            }
            Flow::Continue(())
        })?;
        let _ = events.read(&mut |_, frame| {
            if frame.kind == kind::EVENT {
                ledger.event(frame.payload, false);
            }
            Flow::Continue(())
        })?;
        damages += events
            .damages()
            .iter()
            .chain(&mail.damages())
            .filter(|d| d.acknowledged)
            .count();
        drop((events, mail));
        let (sum, offenders) = ledger.judge();
        self.report(
            &Verdict {
                damages,
                offenders: offenders.len(),
                ..sum
            },
            &offenders,
        )
    }

    fn report(&self, verdict: &Verdict, offenders: &[Offender]) -> Result<Found, Failure> {
        if self.json {
            output::json(verdict)?;
        } else {
            let Verdict {
                accepted,
                delivered,
                bounced,
                expired,
                cancelled,
                live,
                ..
            } = verdict;
            output::line(format!(
                "accepted {accepted} = delivered {delivered} + bounced {bounced} + expired {expired} + cancelled {cancelled} + live {live}"
            ))?;
            if verdict.damages > 0 {
                output::line(format!(
                    "{} damaged places; see posthaste spool verify",
                    verdict.damages
                ))?;
            }
        }
        let mut listing = Listing::new(self.json);
        for offender in offenders {
            listing.push(offender)?;
        }
        listing.flush()?;
        let sum = verdict.delivered
            + verdict.bounced
            + verdict.expired
            + verdict.cancelled
            + verdict.live;
        let proven = offenders.is_empty() && verdict.damages == 0 && sum == verdict.accepted;
        if proven && !self.json {
            output::line("every recipient has one outcome or lives")?;
        }
        Ok(if proven { Found::All } else { Found::Finding })
    }
}

/// Recipients by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Verdict {
    accepted: u64,
    delivered: u64,
    bounced: u64,
    expired: u64,
    cancelled: u64,
    live: u64,
    offenders: usize,
    damages: usize,
}

/// A recipient that breaks the promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Offender {
    message_id: String,
    recipient_number: u16,
    /// `two_outcomes`, `lost`, `invented`.
    offence: &'static str,
    detail: String,
}

impl Row for Offender {
    const COLUMNS: &'static [&'static str] = &["MESSAGE", ">RECIPIENT", "OFFENCE", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.message_id.clone(),
            self.recipient_number.to_string(),
            self.offence.into(),
            self.detail.clone(),
        ]
    }
}

/// What both logs say of each message.
#[derive(Default)]
struct Ledger {
    messages: HashMap<[u8; 16], Account>,
}

#[derive(Default)]
struct Account {
    /// Recipients in the message record; `None`: no record (reclaimed, or never there).
    recipients: Option<u16>,
    /// Recipients with an *accepted* event, and terminal events, in order.
    accepted: Vec<u16>,
    ended: Vec<(u16, EventKind)>,
}

impl Ledger {
    fn message(&mut self, payload: &[u8]) {
        let Ok(record) = MessageRecord::decode(payload) else {
            return;
        };
        let account = self.messages.entry(record.id).or_default();
        account.recipients = Some(record.recipients.len() as u16);
    }

    /// `open`: also for messages that are not known yet.
    fn event(&mut self, payload: &[u8], open: bool) {
        let Ok(record) = EventRecord::decode(payload) else {
            return;
        };
        let Some(kind) = EventKind::from_code(record.kind) else {
            return;
        };
        if kind != EventKind::Accepted && !kind.is_terminal() {
            return;
        }
        let account = match (open, self.messages.contains_key(&record.message_id)) {
            (false, false) => return,
            _ => self.messages.entry(record.message_id).or_default(),
        };
        match kind {
            EventKind::Accepted => account.accepted.push(record.recipient_number),
            _ => account.ended.push((record.recipient_number, kind)),
        }
    }

    fn judge(&self) -> (Verdict, Vec<Offender>) {
        let (mut verdict, mut offenders) = (Verdict::default(), Vec::new());
        for (id, account) in &self.messages {
            account.judge(*id, &mut verdict, &mut offenders);
        }
        offenders.sort_by(|a, b| {
            (&a.message_id, a.recipient_number).cmp(&(&b.message_id, b.recipient_number))
        });
        (verdict, offenders)
    }
}

impl Account {
    fn judge(&self, id: [u8; 16], verdict: &mut Verdict, offenders: &mut Vec<Offender>) {
        let mut numbers: Vec<u16> = (0..self.recipients.unwrap_or(0)).collect();
        numbers.extend(&self.accepted);
        numbers.extend(self.ended.iter().map(|(number, _)| number));
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let mut offence = |offence, detail: String| {
                let message_id = MessageId::from_bytes(id).to_string();
                let recipient_number = number;
                offenders.push(Offender {
                    message_id,
                    recipient_number,
                    offence,
                    detail,
                });
            };
            let in_record = self.recipients.is_some_and(|count| number < count);
            let announced = self.accepted.contains(&number);
            let ended: Vec<EventKind> = self
                .ended
                .iter()
                .filter(|(n, _)| *n == number)
                .map(|(_, kind)| *kind)
                .collect();
            verdict.accepted += 1;
            match ended.first() {
                Some(EventKind::Delivered) => verdict.delivered += 1,
                Some(EventKind::Bounced) => verdict.bounced += 1,
                Some(EventKind::Expired) => verdict.expired += 1,
                Some(_) => verdict.cancelled += 1,
                None if in_record => verdict.live += 1,
                None => offence(
                    "lost",
                    "accepted, without an outcome, and its message record is gone".into(),
                ),
            }
            if ended.len() > 1 {
                let words: Vec<&str> = ended.iter().map(|kind| kind.as_str()).collect();
                offence("two_outcomes", words.join(", "));
            }
            if !in_record && !announced {
                offence(
                    "invented",
                    "an outcome for a recipient that neither log says was accepted".into(),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spool_format::{Content, List, Recipient, StreamKind};

    use super::*;

    const ID: [u8; 16] = [9; 16];

    fn event(kind: EventKind, number: u16) -> Vec<u8> {
        let mut payload = Vec::new();
        let record = EventRecord {
            kind: kind.code(),
            at_unix_ms: 1,
            message_id: ID,
            recipient_number: number,
            fields: List::new(&[]),
        };
        record.encode(&mut payload).unwrap();
        payload
    }

    fn message(count: usize) -> Vec<u8> {
        let recipient = Recipient {
            forward_path: "a@example.com",
            domain: "example.com",
            fields: List::new(&[]),
        };
        let recipients = vec![recipient; count];
        let mut payload = Vec::new();
        let record = MessageRecord {
            id: ID,
            accepted_unix_ms: 1,
            server_id: 1,
            server_name: "app",
            stream_id: "outbound",
            stream_kind: StreamKind::Transactional,
            pool: "tx",
            reverse_path: "",
            recipients: List::new(&recipients),
            tag: None,
            metadata: List::new(&[]),
            flags: 0,
            header_len: 2,
            fields: List::new(&[]),
            content: Content::Inline(b"\r\n"),
        };
        record.encode_head(&mut payload).unwrap();
        payload.extend_from_slice(b"\r\n");
        payload
    }

    fn judge(
        recipients: Option<usize>,
        events: &[(EventKind, u16)],
    ) -> (Verdict, Vec<&'static str>) {
        let mut ledger = Ledger::default();
        for (kind, number) in events {
            ledger.event(&event(*kind, *number), true);
        }
        if let Some(count) = recipients {
            ledger.message(&message(count));
        }
        let (verdict, offenders) = ledger.judge();
        (verdict, offenders.iter().map(|o| o.offence).collect())
    }

    #[test]
    fn every_recipient_is_counted_once_by_its_outcome_or_as_live() {
        use EventKind::*;
        let events = [
            (Accepted, 0),
            (Delivered, 0),
            (Accepted, 1),
            (Deferred, 1),
            (Bounced, 2),
            (Expired, 3),
            (Cancelled, 4),
            (BouncedLater, 0),
        ];
        let (verdict, offences) = judge(Some(6), &events);
        let expected = Verdict {
            accepted: 6,
            delivered: 1,
            bounced: 1,
            expired: 1,
            cancelled: 1,
            live: 2,
            ..Verdict::default()
        };
        assert_eq!((verdict, offences), (expected, vec![]));
    }

    #[test]
    fn two_outcomes_lost_and_invented_recipients_are_named() {
        use EventKind::*;
        assert_eq!(
            judge(Some(1), &[(Delivered, 0), (Bounced, 0)]).1,
            ["two_outcomes"]
        );
        assert_eq!(judge(None, &[(Accepted, 0)]).1, ["lost"]);
        assert_eq!(judge(None, &[(Delivered, 0)]).1, ["invented"]);
        assert_eq!(judge(Some(1), &[(Delivered, 7)]).1, ["invented"]);
        assert_eq!(
            judge(None, &[(Accepted, 0), (Delivered, 0)]).1,
            Vec::<&str>::new()
        );
    }

    #[test]
    fn what_came_while_the_audit_ran_does_not_count() {
        let mut ledger = Ledger::default();
        ledger.event(&event(EventKind::Accepted, 0), false);
        assert_eq!(ledger.judge().0, Verdict::default());
    }
}
