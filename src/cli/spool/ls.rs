//! `posthaste spool ls`: the messages that are kept, in order of position, page by page.
//!
//! What lives comes from the newest checkpoint and the ends of the logs, so that a listing of the queue does not read the
//! mail that has left. A listing of everything reads the mail log a part at a time and, for each part, the events since: memory
//! is bounded by the part, however long the logs are.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use clap::Args;
use spool_format::layout::{event_field, record_flag};
use spool_format::{Frame, LiveMessage, LogKind, MessageRecord, Names, field_tag, kind};

use super::message::{MessageRow, State, StateFilter};
use super::{Listed, progress};
use crate::cli::filter::{MessageFilter, check_times};
use crate::cli::logs::{Flow, Live, LogReader, Records, SLACK_MS, SegmentFile, Step, event_of};
use crate::cli::output::{Listing, Unwritten};
use crate::cli::{Failure, Found};
use crate::clock::{self, UnixMs, rfc3339};
use crate::event::EventKind;

#[derive(Args)]
#[command(after_help = "Examples:
  posthaste spool ls --state deferred --domain example.com
  posthaste spool ls --state live --age '>2h' --limit 50
  posthaste spool ls --state live --limit 50 --after 8392704    the next page
  posthaste spool ls --sender @shop.example --since -1d --json

A message is listed when one of its recipients has the domain, the mailbox and the state that are asked for. Exit code 1: \
nothing matched.")]
pub(in crate::cli) struct Ls {
    #[command(flatten)]
    listed: Listed,
    #[command(flatten)]
    filter: MessageFilter,
    /// Only messages with a recipient in this state: live (or queued), ready, deferred, delivered, bounced, expired, cancelled.
    #[arg(long, value_name = "STATE", value_parser = StateFilter::parse)]
    state: Option<StateFilter>,
    /// The same as --state live.
    #[arg(long, conflicts_with = "state")]
    live: bool,
    /// End after N messages.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Begin behind this position: that of the last message of the page before.
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
}

impl Ls {
    pub(super) fn run(self) -> Result<Found, Failure> {
        check_times(self.filter.since, self.filter.until)?;
        let data_dir = self.listed.place.data_dir()?;
        let mut listing = Listing::new(self.listed.json);
        let last = self.each(&data_dir, clock::wall_unix_ms(), &mut |row| {
            Ok(listing.push(row).map_err(Unwritten)?)
        })?;
        listing.flush()?;
        if let Some(last) = last {
            eprintln!("there is more: --after {last}");
        }
        Ok(match listing.count() {
            0 => Found::Finding,
            _ => Found::All,
        })
    }

    /// Calls `show` with each row of the page. The position of the last one, if there are more.
    pub(super) fn each(
        &self,
        data_dir: &Path,
        now: UnixMs,
        show: &mut dyn FnMut(&MessageRow) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<u64>> {
        let state = self.state.or(self.live.then_some(StateFilter::LIVE));
        let mut page = Page {
            ls: self,
            data_dir,
            state,
            now,
            show,
            count: 0,
            last: None,
            more: false,
            told: false,
        };
        match state {
            Some(state) if state.is_live() => page.list_live()?,
            _ => page.list_all()?,
        }
        Ok(page.last.filter(|_| page.more))
    }
}

/// A listing under way.
struct Page<'a> {
    ls: &'a Ls,
    data_dir: &'a Path,
    state: Option<StateFilter>,
    now: UnixMs,
    show: &'a mut dyn FnMut(&MessageRow) -> anyhow::Result<()>,
    count: u64,
    /// Position of the last row.
    last: Option<u64>,
    /// The page is full, and there is another match.
    more: bool,
    /// That something could not be read was said.
    told: bool,
}

/// A recipient while it is found out what became of it.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// The domain and mailbox are those asked for.
    is_asked_for: bool,
    next_attempt: UnixMs,
    ended: Option<State>,
}

/// A message that fits as far as its record tells.
struct Candidate {
    id: [u8; 16],
    row: MessageRow,
    lives: Vec<Life>,
}

impl Page<'_> {
    fn take(&mut self, row: &MessageRow) -> anyhow::Result<Flow> {
        if self.ls.limit.is_some_and(|limit| self.count >= limit) {
            self.more = true;
            return Ok(Flow::Break(()));
        }
        (self.show)(row)?;
        self.count += 1;
        self.last = Some(row.position);
        Ok(Flow::Continue(()))
    }

    fn tell_damages(&mut self, reader: &LogReader) {
        self.told = self.told || reader.tell_damages();
    }

    fn list_live(&mut self) -> anyhow::Result<()> {
        let mut missed = HashSet::new();
        self.list_those_that(&mut |_| true, &mut missed)?;
        if !self.more && !missed.is_empty() {
            // Moved by compaction since: they lie at the end of the log now.
            let moved = std::mem::take(&mut missed);
            self.list_those_that(&mut |id| moved.contains(id), &mut missed)?;
        }
        Ok(())
    }

    /// Lists live messages that `wanted` names; in `missed` are those that do not lie where they were.
    fn list_those_that(
        &mut self,
        wanted: &mut dyn FnMut(&[u8; 16]) -> bool,
        missed: &mut HashSet<[u8; 16]>,
    ) -> anyhow::Result<()> {
        let mut live = Live::gather(self.data_dir, progress)?;
        self.tell_damages(&live.mail);
        self.tell_damages(&live.events);
        let mut records = Records::open(self.data_dir)?;
        live.each(&mut |message, names| {
            let is_before = |after| message.position <= after;
            if self.ls.after.is_some_and(is_before)
                || !wanted(&message.id)
                || !self.may_show(message, names)
            {
                return Ok(Flow::Continue(()));
            }
            let row = records.at(message.position, |segment, frame| {
                self.live_row(segment, frame, message)
            })?;
            match row {
                Some(Some(row)) => self.take(&row),
                Some(None) => Ok(Flow::Continue(())),
                // Or damaged, which verify tells.
                None => {
                    missed.insert(message.id);
                    Ok(Flow::Continue(()))
                }
            }
        })
    }

    /// What can be told before the record is read.
    fn may_show(&self, message: &LiveMessage, names: &Names) -> bool {
        let Some(origin) = names.origins.get(message.origin) else {
            return false;
        };
        let (server, stream) = (&origin.server_name, &origin.stream_id);
        let (at, size) = (message.accepted_at, message.content_len);
        let filter = &self.ls.filter;
        filter.takes_message(server, stream, at, size, self.now)
            && message.recipients.iter().any(|recipient| {
                let domain = names.domains.get(recipient.domain).map_or("", |d| d);
                let state = State::live(recipient.next_attempt, self.now);
                filter.takes_domain(domain) && self.state.is_none_or(|wanted| wanted.takes(state))
            })
    }

    fn live_row(
        &self,
        segment: &SegmentFile,
        frame: &Frame<'_>,
        message: &LiveMessage,
    ) -> Option<MessageRow> {
        let record =
            (frame.kind == kind::MESSAGE).then(|| MessageRecord::decode(frame.payload).ok())??;
        let mut candidate = self.candidate(segment, message.position, frame, &record)?;
        for (number, life) in candidate.lives.iter_mut().enumerate() {
            let alive = message
                .recipients
                .iter()
                .find(|r| usize::from(r.number) == number);
            match alive {
                Some(recipient) if recipient.next_attempt > 0 => {
                    life.next_attempt = recipient.next_attempt;
                }
                Some(_) => {}
                None => life.ended = Some(State::Ended),
            }
        }
        if message.release_at > 0 {
            candidate.row.scheduled_at = Some(rfc3339(message.release_at));
        }
        candidate.finish(self.state, self.now)
    }

    fn candidate(
        &self,
        segment: &SegmentFile,
        position: u64,
        frame: &Frame<'_>,
        record: &MessageRecord<'_>,
    ) -> Option<Candidate> {
        if !self.ls.filter.takes_record(record, self.now) {
            return None;
        }
        let schedule = record.fields.find_number(field_tag::SCHEDULE);
        let lives = record.recipients.iter().map(|recipient| Life {
            is_asked_for: self
                .ls
                .filter
                .takes_recipient(recipient.domain, recipient.forward_path),
            next_attempt: schedule.unwrap_or(0),
            ended: segment.archive.as_ref().map(|_| State::Ended),
        });
        let mut row = MessageRow::new(position, record);
        row.moved = frame.flags & record_flag::MOVED != 0;
        row.archived = segment.archive.is_some();
        Some(Candidate {
            id: record.id,
            lives: lives.collect(),
            row,
        })
    }

    fn list_all(&mut self) -> anyhow::Result<()> {
        let data_dir = self.data_dir;
        let from = self.ls.after.map_or(0, |after| after + 1);
        let mut mail =
            LogReader::open(data_dir, LogKind::Mail, from)?.with_progress(progress("mail"));
        if let Some(since) = self.ls.filter.since {
            mail.begin_at_time(since.0.saturating_sub(SLACK_MS));
        }
        // A page needs few messages, unless few of them are in the state asked for.
        let mut part = match (self.ls.limit, self.state) {
            (Some(limit), None) => (limit as usize + 1).min(PART_MAX),
            (Some(_), Some(_)) => PART_FIRST,
            _ => PART_MAX,
        };
        loop {
            let (candidates, at_end) = self.gather(&mut mail, part)?;
            let shown = self.show_part(candidates)?;
            if at_end || shown.is_break() {
                self.tell_damages(&mail);
                return Ok(());
            }
            part = (part * 4).min(PART_MAX);
        }
    }

    /// The next messages that fit, `count` at most; whether these were the last.
    fn gather(&self, mail: &mut LogReader, count: usize) -> anyhow::Result<(Vec<Candidate>, bool)> {
        let mut candidates = Vec::new();
        loop {
            let Some(segment) = mail.next_segment().cloned() else {
                return Ok((candidates, true));
            };
            let until = self
                .ls
                .filter
                .until
                .map(|until| until.0.saturating_add(SLACK_MS));
            if until.is_some_and(|until| segment.began_at() > until) {
                return Ok((candidates, true));
            }
            let step = mail.step(&mut |position, frame| {
                if frame.kind == kind::MESSAGE
                    && let Ok(record) = MessageRecord::decode(frame.payload)
                {
                    candidates.extend(self.candidate(&segment, position, frame, &record));
                }
                match candidates.len() < count {
                    true => Flow::Continue(()),
                    false => Flow::Break(()),
                }
            })?;
            match step {
                Step::Segment => {}
                Step::End => return Ok((candidates, true)),
                Step::Stopped => return Ok((candidates, false)),
            }
        }
    }

    /// Asks the events what became of the recipients, and shows those in the state asked for.
    fn show_part(&mut self, mut candidates: Vec<Candidate>) -> anyhow::Result<Flow> {
        let mut index: HashMap<[u8; 16], Vec<u32>> = HashMap::with_capacity(candidates.len());
        for (number, candidate) in candidates.iter().enumerate() {
            index.entry(candidate.id).or_default().push(number as u32);
        }
        let ids = candidates.iter().map(|c| c.id);
        let Some(first) = ids
            .map(|id| crate::mail::MessageId::from_bytes(id).unix_ms())
            .min()
        else {
            return Ok(Flow::Continue(()));
        };
        let mut waiting: usize = candidates.iter().map(|c| c.lives.len()).sum();
        let mut events =
            LogReader::open(self.data_dir, LogKind::Event, 0)?.with_progress(progress("event"));
        events.begin_at_time(first.saturating_sub(SLACK_MS));
        let _ = events.read(&mut |_, frame| {
            let Some(event) = event_of(frame) else {
                return Flow::Continue(());
            };
            for &number in index.get(&event.message_id).into_iter().flatten() {
                let lives = &mut candidates[number as usize].lives;
                let Some(life) = lives.get_mut(usize::from(event.recipient_number)) else {
                    continue;
                };
                let kind = EventKind::from_code(event.kind);
                if let Some(state) = kind.and_then(State::ended_by) {
                    waiting -= usize::from(life.ended.is_none_or(|s| s == State::Ended));
                    life.ended = Some(state);
                } else if let Some(next) = event.fields.find_number(event_field::NEXT_ATTEMPT_MS) {
                    life.next_attempt = next;
                    if kind == Some(EventKind::Rescheduled) {
                        candidates[number as usize].row.scheduled_at = Some(rfc3339(next));
                    }
                }
            }
            match waiting {
                0 => Flow::Break(()),
                _ => Flow::Continue(()),
            }
        })?;
        self.tell_damages(&events);
        for candidate in candidates {
            if let Some(row) = candidate.finish(self.state, self.now)
                && self.take(&row)?.is_break()
            {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }
}

impl Candidate {
    /// The row, if a recipient that is asked for is in the state that is asked for.
    fn finish(mut self, wanted: Option<StateFilter>, now: UnixMs) -> Option<MessageRow> {
        let state = |life: &Life| life.ended.unwrap_or(State::live(life.next_attempt, now));
        let fits = |life: &Life| {
            life.is_asked_for && wanted.is_none_or(|wanted| wanted.takes(state(life)))
        };
        if !self.lives.iter().any(fits) {
            return None;
        }
        let states = self
            .lives
            .iter()
            .map(|life| (state(life), life.next_attempt));
        self.row.set_states(states);
        Some(self.row)
    }
}

/// Messages whose recipients are looked up together: some 1 KB each in memory.
const PART_MAX: usize = 100_000;
const PART_FIRST: usize = 4_096;
