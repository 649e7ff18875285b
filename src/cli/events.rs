//! `posthaste events tail`: the event log as lines, from the data directory, daemon up or down.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use spool_format::layout::event_field;
use spool_format::{EventRecord, Frame, LogKind, kind};

use super::filter::{EventFilter, Moment};
use super::logs::{Flow, LogReader, SLACK_MS, event_of};
use super::output::{self, Listing, Row};
use super::queue::or_dash;
use super::{Failure, Found, Place};
use crate::readers::row::EventRow;

#[derive(Subcommand)]
pub(super) enum EventsCommand {
    /// Print events in order, then wait for more.
    #[command(after_long_help = "Examples:
  posthaste events tail                          all that is kept, then what comes
  posthaste events tail -n 20 --no-follow        the last 20
  posthaste events tail --since -1h --kind bounced --json
  posthaste events tail --after 8392704 --json   go on behind an id that was seen

Goes on through restarts of the daemon. On an error it says what to do; exit code 1: the log is damaged, see spool verify.")]
    Tail {
        #[command(flatten)]
        tail: Tail,
        #[command(flatten)]
        filter: EventFilter,
    },
    /// Write the mail that an event has: a bounce that came by mail, or mail for postmaster.
    #[command(after_long_help = "Examples:
  posthaste events tail --kind people_mail --no-follow
  posthaste events cat 8392704 | less

The first 128 KiB of it are kept. Exit code 1: there is no such event (any more), or it has no mail.")]
    Cat {
        #[command(flatten)]
        place: Place,
        /// The event's id, as `events tail --json` shows it.
        #[arg(value_name = "ID")]
        id: u64,
    },
}

/// Where to begin in a log, and whether to wait.
#[derive(Args)]
#[group(skip)]
pub(super) struct Tail {
    #[command(flatten)]
    pub(super) place: Place,
    /// One JSON object per line.
    #[arg(long)]
    pub(super) json: bool,
    /// Wait for more at the end of the log; the default.
    #[arg(short = 'f', long, conflicts_with = "no_follow")]
    pub(super) follow: bool,
    /// End at the end of the log.
    #[arg(long)]
    pub(super) no_follow: bool,
    /// Begin behind the entry with this id, to go on where an earlier run stopped.
    #[arg(long, value_name = "ID", conflicts_with_all = ["last", "since"])]
    pub(super) after: Option<u64>,
    /// Begin with what happened at this time: RFC 3339, or -2h.
    #[arg(
        long,
        value_name = "TIME",
        allow_hyphen_values = true,
        conflicts_with = "last"
    )]
    pub(super) since: Option<Moment>,
    /// Begin with the last N entries instead of the first that is kept.
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) last: Option<usize>,
}

impl EventsCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Cat { place, id } => match mail_of(&place.data_dir()?, id)? {
                Some(mail) => {
                    output::write_all(&mail)?;
                    Ok(Found::All)
                }
                None => Err(Failure::finding(format!(
                    "there is no event {id} (any more), or no mail came with it; those with mail: posthaste events tail --no-follow --kind people_mail, or bounced_later"
                ))),
            },
            Self::Tail { tail, filter } => {
                let since = tail.since;
                tail.run(LogKind::Event, |position, frame| {
                    let row = match frame.kind {
                        kind::EVENT => EventRow::decode(position, frame.payload)?,
                        _ => EventRow::new(position, &event_of(frame)?)?,
                    };
                    let late = since.is_none_or(|since| row.at_unix_ms >= since.0);
                    (late && filter.takes(&row)).then_some(row)
                })
            }
        }
    }
}

/// The mail that came with an event; `None`: there is no such event, or none came with it. Further events of one mail name the
/// one that has it.
fn mail_of(data_dir: &Path, id: u64) -> Result<Option<Vec<u8>>, Failure> {
    let mut at = id;
    for _ in 0..2 {
        let mut found = (None, None);
        let mut reader = LogReader::open(data_dir, LogKind::Event, at)?;
        let _ = reader.read(&mut |position, frame| {
            if position == at
                && frame.kind == kind::EVENT
                && let Ok(event) = EventRecord::decode(frame.payload)
            {
                let mail = event.fields.find(event_field::NOTICE).map(<[u8]>::to_vec);
                found = (mail, event.fields.find_number(event_field::NOTICE_AT));
            }
            Flow::Break(())
        })?;
        match found {
            (Some(mail), _) => return Ok(Some(mail)),
            (None, Some(other)) => at = other,
            (None, None) => break,
        }
    }
    Ok(None)
}

impl Tail {
    /// Prints what `decode` makes of the log's records.
    pub(super) fn run<R: Row>(
        self,
        log: LogKind,
        decode: impl Fn(u64, &Frame<'_>) -> Option<R>,
    ) -> Result<Found, Failure> {
        let data_dir = self.place.data_dir()?;
        let from = self.after.map_or(0, |id| id + 1);
        let mut reader = LogReader::open(&data_dir, log, from)?;
        let mut listing = Listing::new(self.json);
        if let Some(since) = self.since {
            reader.begin_at_time(since.0.saturating_sub(SLACK_MS));
        }
        if let Some(last) = self.last {
            let rows;
            (reader, rows) = the_last(&data_dir, log, last, &decode)?;
            rows.iter().try_for_each(|row| listing.push(row))?;
        }
        let mut told = 0;
        loop {
            let mut written = Ok(());
            let _ = reader.read(&mut |position, frame| {
                if let Some(row) = decode(position, frame) {
                    written = listing.push(&row);
                }
                match written {
                    Ok(()) => Flow::Continue(()),
                    Err(_) => Flow::Break(()),
                }
            })?;
            written?;
            listing.flush()?;
            let damages = reader.damages();
            for damage in damages.iter().skip(told) {
                eprintln!(
                    "segment {} of the log is damaged at {} ({} bytes, {}); see posthaste spool verify",
                    damage.segment, damage.offset, damage.len, damage.reason
                );
            }
            told = told.max(damages.len());
            if self.no_follow {
                return Ok(match damages.is_empty() {
                    true => Found::All,
                    false => Found::Finding,
                });
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The last entries, and a reader that goes on behind them. Only as many segments are read as they take.
fn the_last<R>(
    data_dir: &Path,
    log: LogKind,
    count: usize,
    decode: &impl Fn(u64, &Frame<'_>) -> Option<R>,
) -> Result<(LogReader, VecDeque<R>), Failure> {
    let mut segments = 2;
    loop {
        let mut reader = LogReader::open(data_dir, log, 0)?;
        let whole = reader.begin_near_end(segments);
        let mut kept = VecDeque::new();
        let _ = reader.read(&mut |position, frame| {
            kept.extend(decode(position, frame));
            if kept.len() > count {
                kept.pop_front();
            }
            Flow::Continue(())
        })?;
        if whole || kept.len() >= count {
            return Ok((reader, kept));
        }
        segments *= 4;
    }
}

impl Row for EventRow {
    const COLUMNS: &'static [&'static str] = &[
        "AT",
        "KIND",
        "MESSAGE",
        "RECIPIENT",
        "SERVER",
        "STREAM",
        "SOURCE",
        "REMOTE HOST",
        "CAUSE",
        "RULE",
        "REPLY",
    ];

    fn cells(&self) -> Vec<String> {
        let said = self.reply.as_ref().or(self.detail.as_ref());
        vec![
            self.at.clone(),
            self.kind.into(),
            or_dash(self.message_id.as_ref()),
            or_dash(self.recipient.as_ref().or(self.domain.as_ref())),
            or_dash(self.server.as_ref()),
            or_dash(self.stream.as_ref()),
            or_dash(self.source.as_ref()),
            or_dash(self.remote_host.as_ref()),
            or_dash(self.cause.as_ref()),
            or_dash(self.rule.as_ref()),
            or_dash(said),
        ]
    }
}

/// Between two looks for new records.
const POLL: Duration = Duration::from_millis(100);

#[cfg(test)]
pub(super) fn last_rows<R>(
    data_dir: &Path,
    log: LogKind,
    count: usize,
    decode: impl Fn(u64, &Frame<'_>) -> Option<R>,
) -> Vec<R> {
    the_last(data_dir, log, count, &decode).unwrap().1.into()
}
