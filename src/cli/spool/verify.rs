//! `posthaste spool verify`: every record of both logs, of the archives and of the checkpoints.
//!
//! Promises: every broken byte is found and named, with the messages that it may have hit; a torn tail, void ranges, erased
//! records and copies that compaction made are not damage; the daemon may run meanwhile. Segments are read side by side, in
//! any order: what holds between them is kept as small tables and judged at the end.
//!
//! Between records: whoever was accepted and has no outcome must have a message record that is in use, with its content; what
//! is only archived is history.

use std::path::Path;
use std::sync::Mutex;

use clap::Args;
use serde::Serialize;
use spool_format::scan::{self, Item};
use spool_format::{LogKind, VoidRecord, kind};

use super::Listed;
use super::quarantined::QuarantinedRow;
use super::references::{self, Facts, References};
use crate::cli::logs::{self, Damage, Files, Gaps, SegmentFile, check_checkpoints};
use crate::cli::output::{Listing, Progress, Row};
use crate::cli::queue::or_dash;
use crate::cli::{Failure, Found, output};
use crate::clock::Clock;
use crate::config;

#[derive(Args)]
#[command(after_help = "Examples:
  posthaste spool verify
  posthaste spool verify --max-rate 100MiB --jobs 1        beside a busy daemon
  posthaste spool verify --json | jq 'select(.acknowledged)'

Exit code 1: acknowledged bytes are damaged or missing. A write that a crash cut short is told as `in doubt` and is no damage. \
With --json: one object per finding, then one with \"section\":\"summary\".")]
pub(in crate::cli) struct Verify {
    #[command(flatten)]
    listed: Listed,
    /// Segments that are read at the same time [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Read no more than this in a second, such as 100MiB.
    #[arg(long, value_name = "SIZE", value_parser = config::parse_size)]
    max_rate: Option<u64>,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FindingRow {
    pub(super) section: &'static str,
    /// `mail`, `event` or `checkpoint`.
    pub(super) log: &'static str,
    pub(super) segment: Option<u64>,
    pub(super) file: Option<String>,
    /// In the segment for damage, in the log for a record.
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) finding: String,
    pub(super) acknowledged: bool,
    /// That it has hit, as far as can be told.
    pub(super) message_ids: Vec<String>,
}

impl Row for FindingRow {
    const COLUMNS: &'static [&'static str] = &[
        "LOG",
        ">SEGMENT",
        ">OFFSET",
        ">LENGTH",
        "FINDING",
        "ACKNOWLEDGED",
        "MESSAGES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.log.into(),
            or_dash(self.segment.as_ref()),
            self.offset.to_string(),
            self.length.to_string(),
            self.finding.clone(),
            if self.acknowledged { "yes" } else { "in doubt" }.into(),
            match self.message_ids.is_empty() {
                true => "-".into(),
                false => self.message_ids.join(" "),
            },
        ]
    }
}

/// The last object of `--json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    section: &'static str,
    records: u64,
    bytes: u64,
    segments: usize,
    archives: usize,
    checkpoints: usize,
    /// In acknowledged bytes.
    findings: usize,
    pub(super) in_doubt: usize,
    pub(super) sound: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.listed.place.data_dir()?;
        let (findings, summary) = self.check(&data_dir)?;
        for row in QuarantinedRow::all(&data_dir)? {
            match self.listed.json {
                true => output::json(&row)?,
                false => output::line(row.text())?,
            }
        }
        self.report(&findings, &summary)
    }

    pub(super) fn check(&self, data_dir: &Path) -> anyhow::Result<(Vec<FindingRow>, Summary)> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let jobs = self.jobs.unwrap_or(cores).max(1);
        let pace = Pace::new(self.max_rate);
        let mut references = References::default();
        let mut findings = Vec::new();
        let mut summary = Summary {
            section: "summary",
            ..Summary::default()
        };
        // Events first: a message was there before its events were.
        for log in [LogKind::Event, LogKind::Mail] {
            let read = Reading::of(data_dir, log, &references)?.run(jobs, &pace)?;
            summary.records += read.records;
            summary.bytes += read.bytes;
            summary.archives += read.segments.iter().filter(|s| s.archive.is_some()).count();
            summary.segments += read.segments.iter().filter(|s| s.archive.is_none()).count();
            findings.extend(read.findings());
            references.take(log, read.facts);
        }
        findings.extend(references.judge(data_dir)?);
        for (path, wrong) in check_checkpoints(data_dir) {
            summary.checkpoints += 1;
            findings.extend(wrong.map(|wrong| checkpoint_row(&path, wrong)));
        }
        findings.sort_by_key(|f| (std::cmp::Reverse(f.log), f.segment, f.offset));
        summary.in_doubt = findings.iter().filter(|f| !f.acknowledged).count();
        summary.findings = findings.len() - summary.in_doubt;
        summary.sound = summary.findings == 0;
        Ok((findings, summary))
    }

    fn report(&self, findings: &[FindingRow], summary: &Summary) -> Result<Found, Failure> {
        let mut listing = Listing::new(self.listed.json);
        findings.iter().try_for_each(|row| listing.push(row))?;
        listing.flush()?;
        drop(listing);
        match self.listed.json {
            true => output::json(summary)?,
            false => output::line(format!(
                "{} records read in {} segments, {} archives and {} checkpoints, {} findings{}",
                summary.records,
                summary.segments,
                summary.archives,
                summary.checkpoints,
                summary.findings,
                match summary.in_doubt {
                    0 => String::new(),
                    count => format!(", {count} in doubt"),
                }
            ))?,
        }
        Ok(match summary.sound {
            true => Found::All,
            false => Found::Finding,
        })
    }
}

fn checkpoint_row(path: &Path, wrong: String) -> FindingRow {
    FindingRow {
        section: "finding",
        log: "checkpoint",
        segment: None,
        file: Some(path.display().to_string()),
        offset: 0,
        length: path.metadata().map_or(0, |m| m.len()),
        finding: format!("does not verify: {wrong}; the node uses the one before, or the logs"),
        acknowledged: true,
        message_ids: Vec::new(),
    }
}

/// One log, to be read segment by segment.
struct Reading<'a> {
    log: LogKind,
    segments: Vec<SegmentFile>,
    /// Files that do not say what they are.
    unknown: Vec<Damage>,
    /// Number of the last segment that was written to.
    last: Option<u64>,
    references: &'a References,
}

/// What came of it.
struct Verified {
    log: LogKind,
    segments: Vec<SegmentFile>,
    last: Option<u64>,
    records: u64,
    bytes: u64,
    /// With the message that the bytes seem to be of.
    damages: Vec<(Damage, Option<[u8; 16]>)>,
    voids: Vec<(u64, u64)>,
    facts: Facts,
}

impl<'a> Reading<'a> {
    fn of(data_dir: &Path, log: LogKind, references: &'a References) -> anyhow::Result<Self> {
        let listed = Files::open(data_dir, log, true)?.look()?;
        let last = listed.segments.iter().rev().find(|s| s.has_batch());
        Ok(Self {
            log,
            last: last.map(|s| s.header.number),
            segments: listed.segments,
            unknown: listed.damages,
            references,
        })
    }

    fn run(self, jobs: usize, pace: &Pace) -> anyhow::Result<Verified> {
        let used = |s: &&SegmentFile| self.last.is_some_and(|last| s.header.number <= last);
        let todo: Vec<&SegmentFile> = self.segments.iter().filter(used).collect();
        let total: u64 = todo.iter().map(|s| s.len).sum();
        let next = Mutex::new(todo.into_iter());
        let found = Mutex::new(Verified {
            log: self.log,
            segments: Vec::new(),
            last: self.last,
            records: 0,
            bytes: 0,
            damages: self.unknown.iter().map(|d| (d.clone(), None)).collect(),
            voids: Vec::new(),
            facts: Facts::default(),
        });
        let progress = Mutex::new(Progress::new(format!(
            "verifying the {} log, MiB",
            logs::name(self.log)
        )));
        std::thread::scope(|scope| {
            let work = || -> anyhow::Result<()> {
                loop {
                    let Some(segment) = locked(&next).next() else {
                        return Ok(());
                    };
                    let part = self.verify(segment, pace)?;
                    let mut found = locked(&found);
                    found.add(part);
                    found.bytes += segment.len;
                    let done = |bytes: u64| (bytes >> 20) as usize;
                    locked(&progress).at(done(found.bytes), done(total));
                }
            };
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                // A panic in a worker is one here.
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        let mut found = found
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        found.segments = self.segments;
        Ok(found)
    }

    /// Everything in one segment. Nothing, where it was taken back meanwhile.
    fn verify(&self, segment: &SegmentFile, pace: &Pace) -> anyhow::Result<Part> {
        let gaps = Gaps {
            kind: self.log,
            segments: &self.segments,
            voids: &[],
        };
        let is_tail = self.last == Some(segment.header.number) && segment.archive.is_none();
        let end = gaps.end_of(segment);
        let items = |bytes: &'_ [u8]| -> bool {
            match is_tail {
                true => scan::tail(bytes, &segment.header)
                    .items()
                    .any(|i| logs::is_damage(&i)),
                false => scan::sealed(bytes, &segment.header, end).any(|i| logs::is_damage(&i)),
            }
        };
        let mut part = Part::default();
        let Some(bytes) = logs::read_settled(segment, &|bytes| pace.before(bytes), items)? else {
            return Ok(part);
        };
        match is_tail {
            true => {
                let tail = scan::tail(&bytes, &segment.header);
                self.take_all(segment, &bytes, tail.items(), &mut part);
            }
            false => {
                let sealed = scan::sealed(&bytes, &segment.header, end);
                self.take_all(segment, &bytes, sealed, &mut part);
            }
        }
        Ok(part)
    }

    fn take_all<'b>(
        &self,
        segment: &SegmentFile,
        bytes: &[u8],
        items: impl Iterator<Item = Item<'b>>,
        part: &mut Part,
    ) {
        for item in items {
            match item {
                Item::Record(frame) => {
                    let position = segment.header.first_position + frame.offset;
                    if frame.kind == kind::VOID {
                        let void = VoidRecord::decode(frame.payload);
                        part.voids.extend(void.map(|v| (v.from, v.to)));
                    }
                    if !matches!(frame.kind, kind::VOID | kind::PADDING | kind::COMMIT) {
                        part.records += 1;
                        let in_use = segment.archive.is_none();
                        part.facts.record(self.references, position, in_use, &frame);
                    }
                }
                Item::Damage(damage) if part.damages.len() < DAMAGES_MAX => {
                    let id = references::id_in(bytes, damage.offset, self.log);
                    part.damages.push((Damage::of(segment, &damage), id));
                }
                Item::Damage(_) => {}
            }
        }
    }
}

/// What came of one segment.
#[derive(Default)]
struct Part {
    records: u64,
    damages: Vec<(Damage, Option<[u8; 16]>)>,
    voids: Vec<(u64, u64)>,
    facts: Facts,
}

impl Verified {
    fn add(&mut self, part: Part) {
        self.records += part.records;
        self.damages.extend(part.damages);
        self.voids.extend(part.voids);
        self.facts.extend(part.facts);
    }

    fn findings(&self) -> Vec<FindingRow> {
        let gaps = Gaps {
            kind: self.log,
            segments: &self.segments,
            voids: &self.voids,
        };
        let known: Vec<Damage> = self.damages.iter().map(|(d, _)| d.clone()).collect();
        let missing = gaps.missing(0, self.last.unwrap_or(0), &known);
        let there = self.damages.iter().filter(|(d, _)| !gaps.excuse(d));
        let mut there: Vec<_> = there.cloned().collect();
        logs::settle(&self.segments, there.iter_mut().map(|(d, _)| d));
        let all = there
            .into_iter()
            .chain(missing.into_iter().map(|d| (d, None)));
        let row = |(damage, id): (Damage, Option<[u8; 16]>)| {
            let segment = self
                .segments
                .iter()
                .find(|s| s.header.number == damage.segment);
            FindingRow {
                section: "finding",
                log: logs::name(self.log),
                segment: Some(damage.segment),
                file: segment.map(|s| s.path.display().to_string()),
                offset: damage.offset,
                length: damage.len,
                finding: format!("does not verify: {}", damage.reason),
                acknowledged: damage.acknowledged,
                message_ids: id.into_iter().map(references::text).collect(),
            }
        };
        all.map(row).chain(self.facts.findings(self.log)).collect()
    }
}

/// Keeps the reading under a rate.
struct Pace {
    bytes_per_second: Option<u64>,
    clock: Clock,
    started: std::time::Instant,
    taken: Mutex<u64>,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        let clock = Clock::start();
        Self {
            bytes_per_second: bytes_per_second.filter(|rate| *rate > 0),
            started: clock.instant(),
            clock,
            taken: Mutex::new(0),
        }
    }

    fn before(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let taken = {
            let mut taken = locked(&self.taken);
            *taken += bytes;
            *taken
        };
        let due = std::time::Duration::from_secs_f64(taken as f64 / rate as f64);
        let wait = due.saturating_sub(self.clock.instant() - self.started);
        std::thread::sleep(wait);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Of one segment, told one by one.
const DAMAGES_MAX: usize = 10_000;
