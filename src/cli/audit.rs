//! `posthaste audit`: proves from both logs that `accepted = delivered + bounced + expired + cancelled + live`, and that
//! nobody has two outcomes, none that was lost, none that was invented (DESIGN §1.2).
//!
//! A running daemon goes on writing, so the event log is read, then the mail log, then the rest of the event log for the
//! messages known by then: what ended in between counts as ended, what came in between does not count.
//!
//! Held in memory are recipients that live, and those of the last minutes: see [`ledger`].

mod ledger;

use std::path::Path;

use clap::Args;
use serde::Serialize;
use spool_format::{ErasedRecord, Frame, LogKind, MessageRecord, RecipientKey, kind};

use super::logs::{Flow, LogReader, Step, event_of};
use super::output::{Listing, Row};
use super::{Failure, Found, Place, output};
use crate::cli::spool::progress;
use crate::event::EventKind;
use ledger::{Ledger, Suspects};

#[derive(Args)]
#[command(after_help = "Examples:
  posthaste audit
  posthaste audit --json --data-dir /backup/posthaste

Reads both logs, daemon up or down, archives where they are needed. Exit code 1: a recipient breaks the promise, or there is damage \
(posthaste spool verify tells where).")]
pub(super) struct Audit {
    #[command(flatten)]
    place: Place,
    /// One JSON object: the sums; then one for each offender.
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.place.data_dir()?;
        let (verdict, offenders) = audit(&data_dir)?;
        self.report(&verdict, &offenders)
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

/// Both logs, once; what cannot be judged then, once more.
pub(super) fn audit(data_dir: &Path) -> anyhow::Result<(Verdict, Vec<Offender>)> {
    let mut ledger = Ledger::default();
    let mut events = LogReader::open(data_dir, LogKind::Event, 0)?.with_progress(progress("event"));
    let mut mail =
        LogReader::open_in_use(data_dir, LogKind::Mail, 0)?.with_progress(progress("mail"));
    loop {
        // A message is taken in before what became of it.
        let next = events
            .following()
            .filter(|s| s.has_batch())
            .map(|s| s.began_at());
        while let Some(segment) = mail.next_segment()
            && next.is_none_or(|next| segment.began_at() <= next)
        {
            if mail.step(&mut |_, frame| messages(frame, &mut |key| ledger.message(key)))?
                != Step::Segment
            {
                break;
            }
        }
        let step = events
            .step(&mut |_, frame| event(frame, &mut |key, kind, at| ledger.event(key, kind, at)))?;
        ledger.sweep();
        if step != Step::Segment {
            break;
        }
    }
    let _ = mail.read(&mut |_, frame| messages(frame, &mut |key| ledger.message(key)))?;
    let _ = events
        .read(&mut |_, frame| event(frame, &mut |key, kind, _| ledger.event_of_known(key, kind)))?;
    let damages = events.damages().into_iter().chain(mail.damages());
    let damages = damages.filter(|d| d.acknowledged).count();
    drop((events, mail));
    let (mut verdict, suspects) = ledger.close();
    let offenders = match suspects.is_empty() {
        true => Vec::new(),
        false => look_again(data_dir, suspects, &mut verdict)?,
    };
    verdict.damages = damages;
    verdict.offenders = offenders.len();
    Ok((verdict, offenders))
}

/// The whole story of the few that the first reading could not judge, archives included.
fn look_again(
    data_dir: &Path,
    mut suspects: Suspects,
    verdict: &mut Verdict,
) -> anyhow::Result<Vec<Offender>> {
    let mut events = LogReader::open(data_dir, LogKind::Event, 0)?.with_progress(progress("event"));
    suspects.log_begins = events.next_segment().map_or(0, |s| s.header.first_position);
    let _ = events
        .read(&mut |_, frame| event(frame, &mut |key, kind, at| suspects.event(key, kind, at)))?;
    let mut mail = LogReader::open(data_dir, LogKind::Mail, 0)?.with_progress(progress("mail"));
    let _ = mail.read(&mut |_, frame| messages(frame, &mut |key| suspects.message(key)))?;
    Ok(suspects.judge(verdict))
}

/// Calls `take` for each recipient of a message record, erased or not.
fn messages(frame: &Frame<'_>, take: &mut dyn FnMut(RecipientKey)) -> Flow {
    let (message, count) = match frame.kind {
        kind::MESSAGE => match MessageRecord::decode(frame.payload) {
            Ok(record) => (record.id, record.recipients.len()),
            Err(_) => return Flow::Continue(()),
        },
        kind::ERASED => match ErasedRecord::decode(frame.payload)
            .ok()
            .and_then(|e| e.message())
        {
            Some(message) => (message.id, usize::from(message.recipients)),
            None => return Flow::Continue(()),
        },
        _ => return Flow::Continue(()),
    };
    for number in 0..u16::try_from(count).unwrap_or(u16::MAX) {
        take(RecipientKey { message, number });
    }
    Flow::Continue(())
}

/// Calls `take` for an event that begins or ends a recipient's life, with its time.
fn event(frame: &Frame<'_>, take: &mut dyn FnMut(RecipientKey, EventKind, u64)) -> Flow {
    if let Some(event) = event_of(frame)
        && let Some(kind) = EventKind::from_code(event.kind)
        && (kind == EventKind::Accepted || kind.is_terminal())
    {
        let key = RecipientKey {
            message: event.message_id,
            number: event.recipient_number,
        };
        take(key, kind, event.at_unix_ms);
    }
    Flow::Continue(())
}

/// Recipients by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) bounced: u64,
    pub(super) expired: u64,
    pub(super) cancelled: u64,
    pub(super) live: u64,
    pub(super) offenders: usize,
    pub(super) damages: usize,
}

impl Verdict {
    /// The figure of this outcome.
    fn of(&mut self, kind: EventKind) -> &mut u64 {
        match kind {
            EventKind::Delivered => &mut self.delivered,
            EventKind::Bounced => &mut self.bounced,
            EventKind::Expired => &mut self.expired,
            _ => &mut self.cancelled,
        }
    }
}

/// A recipient that breaks the promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Offender {
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
