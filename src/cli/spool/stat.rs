//! `posthaste spool stat`: both logs in figures, and what waits, by destination and age as Postfix's qshape shows it.
//!
//! From the newest checkpoint and the ends of the logs: nothing that has left is read.

use std::collections::HashMap;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde::Serialize;
use spool_format::{LiveMessage, LogKind, Names};

use super::message::State;
use super::quarantined::QuarantinedRow;
use super::{Listed, progress};
use crate::cli::logs::{self, Chain, Files, Flow, Live, LogReader};
use crate::cli::output::{self, Listing, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found};
use crate::clock::{self, UnixMs, rfc3339};
use crate::config::{text_of_duration, text_of_size};

#[derive(Args)]
#[command(after_help = "Examples:
  posthaste spool stat                 the 20 destinations with most recipients waiting
  posthaste spool stat --by stream
  posthaste spool stat --top 100 --json

The columns 5 to 1280+ count recipients by the minutes since they were accepted. Exit code 1: there is damage, see spool verify.")]
pub(in crate::cli) struct Stat {
    #[command(flatten)]
    listed: Listed,
    /// Rows of the table of what waits.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// What the rows stand for.
    #[arg(long, value_enum, default_value_t = By::Domain)]
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum By {
    /// The recipient's domain.
    Domain,
    /// Server and message stream.
    Stream,
    Server,
    /// Egress pool.
    Pool,
}

impl Stat {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.listed.place.data_dir()?;
        let mut live = Live::gather(&data_dir, progress)?;
        let mut waiting = Waiting::new(self.by, clock::wall_unix_ms());
        live.each(&mut |message, names| {
            waiting.count(message, names);
            Ok(Flow::Continue(()))
        })?;
        let logs = [
            log_row(&data_dir, LogKind::Mail, &live.mail, &live, &waiting)?,
            log_row(&data_dir, LogKind::Event, &live.events, &live, &waiting)?,
        ];
        let checkpoint = live
            .checkpoint
            .as_ref()
            .map(|c| CheckpointRow::new(c, waiting.now));
        let disk = disk_row(&data_dir)?;
        let sound = logs.iter().all(|log| log.damages == 0);
        let quarantined = QuarantinedRow::all(&data_dir)?;
        self.print(&logs, checkpoint.as_ref(), &disk, &quarantined, waiting)?;
        Ok(if sound { Found::All } else { Found::Finding })
    }

    fn print(
        &self,
        logs: &[LogRow],
        checkpoint: Option<&CheckpointRow>,
        disk: &DiskRow,
        quarantined: &[QuarantinedRow],
        waiting: Waiting,
    ) -> Result<(), Failure> {
        let json = self.listed.json;
        let mut listing = Listing::new(json);
        logs.iter().try_for_each(|row| listing.push(row))?;
        listing.flush()?;
        drop(listing);
        if json {
            if let Some(checkpoint) = checkpoint {
                output::json(checkpoint)?;
            }
            output::json(disk)?;
            quarantined.iter().try_for_each(output::json)?;
        } else {
            output::line("")?;
            output::line(checkpoint.map_or_else(
                || "checkpoint    none: both logs were read".to_owned(),
                CheckpointRow::text,
            ))?;
            output::line(disk.text())?;
            quarantined
                .iter()
                .try_for_each(|row| output::line(row.text()))?;
        }
        let messages = waiting.messages;
        waiting.print(messages, self.top, json)
    }
}

/// One log.
#[derive(Serialize)]
struct LogRow {
    section: &'static str,
    log: &'static str,
    /// In use, the one being written included.
    segments: usize,
    /// Prepared for what comes.
    spares: usize,
    /// Of both.
    size_bytes: u64,
    /// Octets of content of messages that somebody waits for.
    live_bytes: Option<u64>,
    /// The rest of what was written to segments in use.
    dead_bytes: Option<u64>,
    archives: usize,
    /// As they lie on disk.
    archive_bytes: u64,
    /// Positions of the first record that is kept and of the end.
    start: u64,
    end: u64,
    first_at: Option<String>,
    last_at: Option<String>,
    /// In the part that was read.
    damages: usize,
}

fn log_row(
    data_dir: &Path,
    log: LogKind,
    reader: &LogReader,
    live: &Live,
    waiting: &Waiting,
) -> Result<LogRow, Failure> {
    let all = Files::open(data_dir, log, true)?.segments()?;
    let (archives, segments): (Vec<_>, Vec<_>) = all.iter().partition(|s| s.archive.is_some());
    let end = reader.end();
    let is_used = |s: &&&logs::SegmentFile| s.header.first_position < end;
    let used: u64 = segments
        .iter()
        .filter(is_used)
        .map(|s| s.header.size.min(end - s.header.first_position))
        .sum();
    let in_use = segments.iter().filter(is_used).count();
    let live_bytes = (log == LogKind::Mail).then_some(waiting.content_bytes);
    let last = match log {
        LogKind::Event => live.last_event_at,
        LogKind::Mail => live.last_message_at,
    };
    Ok(LogRow {
        section: "log",
        log: logs::name(log),
        segments: in_use,
        spares: segments.len() - in_use,
        size_bytes: segments.iter().map(|s| s.header.size).sum(),
        live_bytes,
        dead_bytes: live_bytes.map(|live| used.saturating_sub(live)),
        archives: archives.len(),
        archive_bytes: archives.iter().map(|s| s.len).sum(),
        start: all.first().map_or(0, |s| s.header.first_position),
        end,
        first_at: all
            .first()
            .filter(|_| end > 0)
            .map(|s| rfc3339(s.began_at())),
        last_at: last.map(rfc3339),
        damages: reader.damages().len(),
    })
}

impl Row for LogRow {
    const COLUMNS: &'static [&'static str] = &[
        "LOG",
        ">SEGMENTS",
        ">SPARES",
        ">SIZE",
        ">LIVE",
        ">DEAD",
        ">ARCHIVES",
        ">ARCHIVED",
        ">START",
        ">END",
        ">DAMAGES",
        "FIRST",
        "LAST",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.log.into(),
            self.segments.to_string(),
            self.spares.to_string(),
            rounded(self.size_bytes),
            or_dash(self.live_bytes.map(rounded).as_ref()),
            or_dash(self.dead_bytes.map(rounded).as_ref()),
            self.archives.to_string(),
            rounded(self.archive_bytes),
            self.start.to_string(),
            self.end.to_string(),
            self.damages.to_string(),
            or_dash(self.first_at.as_ref()),
            or_dash(self.last_at.as_ref()),
        ]
    }
}

#[derive(Serialize)]
struct CheckpointRow {
    section: &'static str,
    at: String,
    age_ms: u64,
    files: usize,
    mail_position: u64,
    event_position: u64,
    messages: u64,
    recipients: u64,
}

impl CheckpointRow {
    fn new(chain: &Chain, now: UnixMs) -> Self {
        let counts = chain.files().iter().map(|(_, _, counts)| counts);
        Self {
            section: "checkpoint",
            at: rfc3339(chain.created_unix_ms()),
            age_ms: now.saturating_sub(chain.created_unix_ms()),
            files: chain.files().len(),
            mail_position: chain.mail_to(),
            event_position: chain.event_to(),
            messages: counts.clone().map(|c| c.messages).sum(),
            recipients: counts.map(|c| c.recipients).sum(),
        }
    }

    fn text(&self) -> String {
        format!(
            "checkpoint    {} ({} ago), up to mail {} and event {}, {} recipients in {} files",
            self.at,
            ago(self.age_ms),
            self.mail_position,
            self.event_position,
            self.recipients,
            self.files
        )
    }
}

#[derive(Serialize)]
struct DiskRow {
    section: &'static str,
    free_bytes: u64,
    size_bytes: u64,
}

fn disk_row(data_dir: &Path) -> Result<DiskRow, Failure> {
    let stat = rustix::fs::statvfs(data_dir)
        .map_err(|error| Failure::disk(format!("{}: {error}", data_dir.display())))?;
    Ok(DiskRow {
        section: "disk",
        free_bytes: stat.f_bavail * stat.f_frsize,
        size_bytes: stat.f_blocks * stat.f_frsize,
    })
}

impl DiskRow {
    fn text(&self) -> String {
        format!(
            "disk          {} free of {}",
            rounded(self.free_bytes),
            rounded(self.size_bytes)
        )
    }
}

/// All that waits.
#[derive(Serialize)]
struct QueueRow {
    section: &'static str,
    messages: u64,
    recipients: u64,
    ready: u64,
    deferred: u64,
    oldest_at: Option<String>,
    oldest_age_ms: Option<u64>,
    next_attempt_at: Option<String>,
}

impl QueueRow {
    fn text(&self) -> String {
        let oldest = self
            .oldest_age_ms
            .map(|age| format!("; the oldest is {} old", ago(age)));
        let next = self
            .next_attempt_at
            .as_ref()
            .map(|at| format!("; next attempt {at}"));
        format!(
            "waiting       {} recipients of {} messages: {} ready, {} deferred{}{}",
            self.recipients,
            self.messages,
            self.ready,
            self.deferred,
            oldest.unwrap_or_default(),
            next.unwrap_or_default()
        )
    }
}

/// Recipients of one destination by age.
#[derive(Serialize)]
pub(super) struct AgeRow {
    section: &'static str,
    by: By,
    pub(super) name: String,
    pub(super) total: u64,
    /// By [`MINUTES`], and what is older.
    pub(super) ages: [u64; BUCKETS],
}

impl Row for AgeRow {
    const COLUMNS: &'static [&'static str] = &[
        "WAITING FOR",
        ">T",
        ">5",
        ">10",
        ">20",
        ">40",
        ">80",
        ">160",
        ">320",
        ">640",
        ">1280",
        ">1280+",
    ];

    fn cells(&self) -> Vec<String> {
        let figures = self.ages.iter().map(u64::to_string);
        [self.name.clone(), self.total.to_string()]
            .into_iter()
            .chain(figures)
            .collect()
    }
}

/// What waits, added up.
pub(super) struct Waiting {
    by: By,
    now: UnixMs,
    /// By number of the name, or of the names' origin.
    rows: HashMap<u32, [u64; BUCKETS]>,
    /// Names of the numbers in `rows`.
    names: HashMap<u32, String>,
    total: [u64; BUCKETS],
    messages: u64,
    deferred: u64,
    content_bytes: u64,
    oldest: Option<UnixMs>,
    next_attempt: Option<UnixMs>,
}

impl Waiting {
    fn new(by: By, now: UnixMs) -> Self {
        Self {
            by,
            now,
            rows: HashMap::new(),
            names: HashMap::new(),
            total: [0; BUCKETS],
            messages: 0,
            deferred: 0,
            content_bytes: 0,
            oldest: None,
            next_attempt: None,
        }
    }

    pub(super) fn by_domain(now: UnixMs) -> Self {
        Self::new(By::Domain, now)
    }

    pub(super) fn count(&mut self, message: &LiveMessage, names: &Names) {
        self.messages += 1;
        self.content_bytes += message.content_len;
        for recipient in &message.recipients {
            let number = match self.by {
                By::Domain => recipient.domain,
                _ => message.origin,
            };
            let by = self.by;
            self.recipient(
                number,
                message.accepted_at,
                recipient.next_attempt,
                || match by {
                    By::Domain => names
                        .domains
                        .get(number)
                        .map_or_else(String::new, |d| d.to_string()),
                    by => names
                        .origins
                        .get(number)
                        .map_or_else(String::new, |origin| match by {
                            By::Stream => format!("{}/{}", origin.server_name, origin.stream_id),
                            By::Pool => origin.pool.to_string(),
                            _ => origin.server_name.to_string(),
                        }),
                },
            );
        }
    }

    /// One recipient of the destination with this number.
    pub(super) fn recipient(
        &mut self,
        number: u32,
        accepted_at: UnixMs,
        next_attempt: UnixMs,
        name: impl FnOnce() -> String,
    ) {
        self.names.entry(number).or_insert_with(name);
        self.oldest = Some(
            self.oldest
                .map_or(accepted_at, |oldest| oldest.min(accepted_at)),
        );
        let minutes = self.now.saturating_sub(accepted_at) / 60_000;
        let bucket = MINUTES.partition_point(|limit| *limit <= minutes);
        self.rows.entry(number).or_default()[bucket] += 1;
        self.total[bucket] += 1;
        if State::live(next_attempt, self.now) == State::Deferred {
            self.deferred += 1;
            self.next_attempt = Some(
                self.next_attempt
                    .map_or(next_attempt, |n| n.min(next_attempt)),
            );
        }
    }

    /// What waits in all, and the table.
    pub(super) fn print(mut self, messages: u64, top: usize, json: bool) -> Result<(), Failure> {
        self.messages = messages;
        let queue = self.queue_row();
        match json {
            true => output::json(&queue)?,
            false => output::line(format!("{}\n", queue.text()))?,
        }
        let mut listing = Listing::new(json);
        self.into_rows(top)
            .iter()
            .try_for_each(|row| listing.push(row))?;
        listing.flush()?;
        Ok(())
    }

    fn recipients(&self) -> u64 {
        self.total.iter().sum()
    }

    fn queue_row(&self) -> QueueRow {
        QueueRow {
            section: "queue",
            messages: self.messages,
            recipients: self.recipients(),
            ready: self.recipients() - self.deferred,
            deferred: self.deferred,
            oldest_at: self.oldest.map(rfc3339),
            oldest_age_ms: self.oldest.map(|at| self.now.saturating_sub(at)),
            next_attempt_at: self.next_attempt.map(rfc3339),
        }
    }

    /// The total, then the destinations with most recipients.
    pub(super) fn into_rows(self, top: usize) -> Vec<AgeRow> {
        let row = |name: String, ages: [u64; BUCKETS]| AgeRow {
            section: "age",
            by: self.by,
            name,
            total: ages.iter().sum(),
            ages,
        };
        // Several origins may have one name: streams of one server, say.
        let mut named: HashMap<&str, [u64; BUCKETS]> = HashMap::new();
        for (number, ages) in &self.rows {
            let name = self.names.get(number).map_or("", String::as_str);
            let sums = named.entry(name).or_default();
            sums.iter_mut().zip(ages).for_each(|(sum, age)| *sum += age);
        }
        let mut rows: Vec<AgeRow> = named
            .into_iter()
            .map(|(name, ages)| row(name.to_owned(), ages))
            .collect();
        rows.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
        rows.truncate(top);
        rows.insert(0, row("TOTAL".into(), self.total));
        rows
    }
}

/// To three digits or so; JSON has the octets.
fn rounded(octets: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    match UNITS.iter().find(|(_, unit)| octets >= 10 * unit) {
        Some((name, unit)) => format!("{}{name}", octets / unit),
        None => text_of_size(octets),
    }
}

/// In seconds.
fn ago(ms: u64) -> String {
    text_of_duration(std::time::Duration::from_secs(ms / 1_000))
}

/// Upper ends of the columns; as Postfix's qshape.
const MINUTES: [u64; BUCKETS - 1] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];
const BUCKETS: usize = 10;
