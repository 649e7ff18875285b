//! `posthaste audit`: proves from both logs that `accepted = delivered + bounced + expired + cancelled + live`, in every stream and
//! hour, and that nobody has two outcomes, none that was lost, none that was invented (DESIGN §1.2); and from the digests of
//! sealed segments that history was not changed.
//!
//! A running daemon goes on writing, so the event log is read, then the mail log, then the rest of the event log for the
//! messages known by then: what ended in between counts as ended, what came in between does not count.
//!
//! [`ledger`] brings together what is said of each recipient, in bounded memory; [`scratch`] holds what does not fit in it;
//! [`history`] compares digests.

mod history;
mod ledger;
mod scratch;

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use spool_format::{ErasedRecord, EventRecord, Frame, LogKind, MessageRecord, RecipientKey, kind};

use super::filter::Moment;
use super::logs::{Flow, LogReader, SLACK_MS, Step, event_of};
use super::output::{Listing, Row};
use super::{Failure, Found, Place, output};
use crate::cli::spool::progress;
use crate::clock::{self, UnixMs};
use crate::event::EventKind;
use crate::mail::MessageId;
use history::{Anchor, History, Proof};
use ledger::{Judged, Ledger, Stream};

#[derive(Args)]
#[command(after_help = "Examples:
  posthaste audit
  posthaste audit --since -24h --hours
  posthaste audit --json --data-dir /backup/posthaste
  posthaste audit --content --chain 5f0c…    # the chain that an earlier audit printed

Reads both logs, daemon up or down, archived events included. Each segment that is complete is compared with the digest that was \
written down when it was sealed. Note the chain of the last digest elsewhere: with --chain a later audit shows that everything \
before it is as it was. Exit code 1: a recipient breaks the promise, history was changed, or there is damage (posthaste spool \
verify tells where).")]
pub(super) struct Audit {
    #[command(flatten)]
    place: Place,
    /// Only messages that came at this time or later: RFC 3339, or -2h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<Moment>,
    /// Also the sums of each stream for each hour of acceptance.
    #[arg(long)]
    hours: bool,
    /// Also compares archived content with its digests: reads all of it.
    #[arg(long)]
    content: bool,
    /// A chain that an earlier audit printed, which must be among the digests.
    #[arg(long, value_name = "HASH")]
    chain: Option<Anchor>,
    /// Where sorted lists go that do not fit in memory [default: the system's directory for temporary files].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// JSON: an object for each hour, if asked for; one with the sums; one for each offender.
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.place.data_dir()?;
        let wanted = Wanted {
            since: self.since.map_or(0, |since| since.0),
            content: self.content,
            chain: self.chain,
            scratch: self.scratch.clone().unwrap_or_else(std::env::temp_dir),
        };
        let mut hours = Listing::new(self.json);
        let result = audit(&data_dir, wanted, &mut |row| match self.hours {
            true => hours.push(&row),
            false => Ok(()),
        })?;
        hours.flush()?;
        drop(hours);
        self.report(&result)
    }

    fn report(&self, result: &Audited) -> Result<Found, Failure> {
        let Audited { verdict, offences } = result;
        if self.json {
            output::json(verdict)?;
        } else {
            output::line(format!("{}", verdict.sums))?;
            if verdict.damages > 0 {
                output::line(format!(
                    "{} damaged places; see posthaste spool verify",
                    verdict.damages
                ))?;
            }
            output::line(&verdict.digests)?;
            let mut listing = Listing::new(false);
            for row in &verdict.streams {
                listing.push(row)?;
            }
            listing.flush()?;
        }
        let mut listing = Listing::new(self.json);
        for offence in offences {
            listing.push(offence)?;
        }
        listing.flush()?;
        drop(listing);
        let more = verdict.offenders - offences.len() as u64;
        if more > 0 {
            eprintln!("and {more} more");
        }
        let proven = verdict.is_proof();
        if proven && !self.json {
            output::line("every recipient has one outcome or lives")?;
        }
        Ok(if proven { Found::All } else { Found::Finding })
    }
}

/// What is to be looked at.
pub(super) struct Wanted {
    pub(super) since: UnixMs,
    pub(super) content: bool,
    pub(super) chain: Option<Anchor>,
    pub(super) scratch: PathBuf,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            since: 0,
            content: false,
            chain: None,
            scratch: std::env::temp_dir(),
        }
    }
}

/// Reads both logs once.
pub(super) fn audit(
    data_dir: &Path,
    wanted: Wanted,
    hour: &mut dyn FnMut(HourRow) -> io::Result<()>,
) -> anyhow::Result<Audited> {
    let mut ledger = Ledger::new(&wanted.scratch, wanted.since);
    let events = LogReader::open(data_dir, LogKind::Event, 0)?;
    let history = History::read(data_dir)?;
    let mut events = events
        .with_progress(progress("event"))
        .with_sealed(history.compare());
    let mail = match wanted.content {
        true => LogReader::open(data_dir, LogKind::Mail, 0)?,
        false => LogReader::open_in_use(data_dir, LogKind::Mail, 0)?,
    };
    let mut mail = mail
        .with_progress(progress("mail"))
        .with_sealed(history.compare());
    if wanted.since > 0 {
        let from = wanted.since.saturating_sub(SLACK_MS);
        events.begin_at_time(from);
        mail.begin_at_time(from);
    }
    let log_begins = events.next_segment().map_or(0, |s| s.header.first_position);
    let mut failed = Ok(());
    let mut keep = |done: io::Result<()>| match done {
        Ok(()) => Flow::Continue(()),
        Err(error) => {
            failed = Err(error);
            Flow::Break(())
        }
    };
    loop {
        // A message is taken in before what became of it, so that both meet in memory.
        let next = events
            .following()
            .filter(|s| s.has_batch())
            .map(|s| s.began_at());
        while let Some(segment) = mail.next_segment()
            && next.is_none_or(|next| segment.began_at() <= next)
        {
            if mail.step(&mut |_, frame| keep(message(&mut ledger, frame)))? != Step::Segment {
                break;
            }
        }
        if events.step(&mut |_, frame| keep(event(&mut ledger, frame)))? != Step::Segment {
            break;
        }
    }
    let _ = mail.read(&mut |_, frame| keep(message(&mut ledger, frame)))?;
    ledger.only_known();
    let _ = events.read(&mut |_, frame| keep(event(&mut ledger, frame)))?;
    failed?;
    let damages = events.damages().into_iter().chain(mail.damages());
    let damages = damages.filter(|d| d.acknowledged).count();
    drop((events, mail));
    let mut offences = Vec::new();
    let mut tell_hour = |at: UnixMs, stream: &Stream, sums: &Sums| {
        hour(HourRow {
            hour: clock::rfc3339_seconds(at),
            stream: stream.clone(),
            sums: *sums,
        })
    };
    let Judged {
        streams,
        offences: count,
    } = ledger.close(log_begins, &mut tell_hour, &mut |offence| {
        offences.push(offence);
        Ok(())
    })?;
    let mut sums = Sums::default();
    for of_stream in streams.values() {
        sums.add(of_stream);
    }
    let streams = streams
        .into_iter()
        .map(|(stream, sums)| StreamRow { stream, sums });
    let verdict = Verdict {
        sums,
        offenders: count,
        damages,
        digests: history.judge(wanted.chain),
        streams: streams.collect(),
    };
    Ok(Audited { verdict, offences })
}

/// Takes a message record, erased or not.
fn message(ledger: &mut Ledger, frame: &Frame<'_>) -> io::Result<()> {
    match frame.kind {
        kind::MESSAGE => match MessageRecord::decode(frame.payload) {
            Ok(record) => {
                let count = u16::try_from(record.recipients.len()).unwrap_or(u16::MAX);
                let stream = (record.server_name, record.stream_id);
                ledger.message(record.id, count, Some(stream))
            }
            Err(_) => Ok(()),
        },
        kind::ERASED => {
            let erased = ErasedRecord::decode(frame.payload).ok();
            match erased.and_then(|erased| erased.message()) {
                Some(message) => ledger.message(message.id, message.recipients, None),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Takes an event of a recipient's life, erased or not.
fn event(ledger: &mut Ledger, frame: &Frame<'_>) -> io::Result<()> {
    let Some(event) = event_of(frame) else {
        return Ok(());
    };
    let Some(kind) = EventKind::from_code(event.kind).filter(|kind| is_of_a_life(*kind)) else {
        return Ok(());
    };
    if event.message_id == [0; 16] {
        return Ok(());
    }
    let key = RecipientKey {
        message: event.message_id,
        number: event.recipient_number,
    };
    ledger.event(key, kind, event.at_unix_ms, stream_of(&event))
}

fn is_of_a_life(kind: EventKind) -> bool {
    use EventKind::*;
    kind.is_terminal()
        || matches!(
            kind,
            Accepted | Deferred | Ambiguous | BouncedLater | Complained | Opened | Clicked
        )
}

fn stream_of<'a>(event: &EventRecord<'a>) -> (&'a str, &'a str) {
    use spool_format::layout::event_field::{SERVER, STREAM};
    let text = |tag| event.fields.find_text(tag).unwrap_or_default();
    (text(SERVER), text(STREAM))
}

/// For tests that leave data directories behind: whether an audit of one proves anything.
#[cfg(test)]
pub(crate) fn prove(data_dir: &Path) -> Result<(), String> {
    let found = audit(data_dir, Wanted::default(), &mut |_| Ok(()));
    let found = found.map_err(|error| format!("{error:#}"))?;
    match found.verdict.is_proof() {
        true => Ok(()),
        false => Err(format!("{:?} {:?}", found.verdict, found.offences)),
    }
}

/// What an audit finds.
pub(super) struct Audited {
    pub(super) verdict: Verdict,
    /// The first of them.
    pub(super) offences: Vec<Offence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    #[serde(flatten)]
    pub(super) sums: Sums,
    pub(super) offenders: u64,
    pub(super) damages: usize,
    pub(super) digests: Proof,
    streams: Vec<StreamRow>,
}

impl Verdict {
    pub(super) fn is_proof(&self) -> bool {
        self.offenders == 0 && self.damages == 0 && self.digests.holds() && self.sums.add_up()
    }
}

/// Recipients by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sums {
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) bounced: u64,
    pub(super) expired: u64,
    pub(super) cancelled: u64,
    pub(super) live: u64,
}

impl Sums {
    /// The figure of this outcome.
    fn of(&mut self, kind: EventKind) -> &mut u64 {
        match kind {
            EventKind::Delivered => &mut self.delivered,
            EventKind::Bounced => &mut self.bounced,
            EventKind::Expired => &mut self.expired,
            _ => &mut self.cancelled,
        }
    }

    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.bounced += other.bounced;
        self.expired += other.expired;
        self.cancelled += other.cancelled;
        self.live += other.live;
    }

    fn add_up(&self) -> bool {
        let ended = self.delivered + self.bounced + self.expired + self.cancelled;
        self.accepted == ended + self.live
    }

    fn cells(&self) -> [String; 6] {
        let Self {
            accepted,
            delivered,
            bounced,
            expired,
            cancelled,
            live,
        } = self;
        [accepted, delivered, bounced, expired, cancelled, live].map(u64::to_string)
    }
}

impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            accepted,
            delivered,
            bounced,
            expired,
            cancelled,
            live,
        } = self;
        write!(
            f,
            "accepted {accepted} = delivered {delivered} + bounced {bounced} + expired {expired} + cancelled {cancelled} + live {live}"
        )
    }
}

/// A stream in an hour of acceptance.
#[derive(Serialize)]
pub(super) struct HourRow {
    hour: String,
    #[serde(flatten)]
    stream: Stream,
    #[serde(flatten)]
    sums: Sums,
}

impl Row for HourRow {
    const COLUMNS: &'static [&'static str] = &[
        "HOUR",
        "SERVER",
        "STREAM",
        ">ACCEPTED",
        ">DELIVERED",
        ">BOUNCED",
        ">EXPIRED",
        ">CANCELLED",
        ">LIVE",
    ];

    fn cells(&self) -> Vec<String> {
        let front = [self.hour.clone()];
        let stream = self.stream.cells();
        [&front[..], &stream, &self.sums.cells()].concat()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct StreamRow {
    #[serde(flatten)]
    stream: Stream,
    #[serde(flatten)]
    sums: Sums,
}

impl Row for StreamRow {
    const COLUMNS: &'static [&'static str] = HourRow::COLUMNS.split_at(1).1;

    fn cells(&self) -> Vec<String> {
        [&self.stream.cells()[..], &self.sums.cells()].concat()
    }
}

/// What breaks the promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Offence {
    message_id: String,
    recipient_number: u16,
    /// `two_outcomes`, `lost`, `invented`, `out_of_order`.
    pub(super) offence: &'static str,
    detail: String,
}

impl Offence {
    fn new(key: RecipientKey, offence: &'static str, detail: String) -> Self {
        Self {
            message_id: MessageId::from_bytes(key.message).to_string(),
            recipient_number: key.number,
            offence,
            detail,
        }
    }
}

impl Row for Offence {
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
