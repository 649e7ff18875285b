//! One message in a large spool: its records are looked for where the time in its id says, and everywhere else only when they
//! are not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use spool_format::layout::{RECORD_HEADER, record, record_flag};
use spool_format::{ErasedRecord, EventRecord, Frame, LogKind, MessageRecord, kind};

use super::files::{Files, SegmentFile};
use super::{Flow, LogReader, NewProgress, SLACK_MS, Step};
use crate::mail::MessageId;

/// A message id, or how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct IdPrefix {
    bytes: [u8; 16],
    /// Hexadecimal digits given.
    digits: usize,
}

impl FromStr for IdPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
        let hexadecimal = digits.iter().all(u8::is_ascii_hexdigit);
        if !hexadecimal || !(DIGITS_MIN..=32).contains(&digits.len()) {
            return Err(format!(
                "`{text}` is no message id, nor the first {DIGITS_MIN} or more digits of one"
            ));
        }
        let mut bytes = [0; 16];
        for (index, digit) in digits.iter().enumerate() {
            let value = char::from(*digit).to_digit(16).unwrap_or_default() as u8;
            bytes[index / 2] |= value << (4 * (1 - index % 2));
        }
        Ok(Self {
            bytes,
            digits: digits.len(),
        })
    }
}

impl std::fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = MessageId::from_bytes(self.bytes).to_string();
        let hyphens = [8, 12, 16, 20]
            .iter()
            .filter(|at| **at < self.digits)
            .count();
        f.write_str(&text[..self.digits + hyphens])
    }
}

impl IdPrefix {
    pub(in crate::cli) fn of(id: [u8; 16]) -> Self {
        let digits = 32;
        Self { bytes: id, digits }
    }

    pub(in crate::cli) fn is_whole(&self) -> bool {
        self.digits == 32
    }

    pub(in crate::cli) fn matches(&self, id: &[u8; 16]) -> bool {
        let whole = self.digits / 2;
        let half = self.digits.is_multiple_of(2) || id[whole] >> 4 == self.bytes[whole] >> 4;
        id[..whole] == self.bytes[..whole] && half
    }

    /// The times that ids with this beginning may have, as milliseconds.
    pub(in crate::cli) fn times(&self) -> (u64, u64) {
        let first = MessageId::from_bytes(self.bytes).unix_ms();
        let free = 48usize.saturating_sub(4 * self.digits);
        (first, first | ((1 << free) - 1))
    }
}

/// Where a record lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Place {
    pub(in crate::cli) position: u64,
    pub(in crate::cli) segment: u64,
    pub(in crate::cli) path: PathBuf,
    /// In the segment.
    pub(in crate::cli) offset: u64,
    /// Of the record, header included.
    pub(in crate::cli) len: u64,
    pub(in crate::cli) archived: bool,
    /// Written by compaction.
    pub(in crate::cli) moved: bool,
    pub(in crate::cli) erased: bool,
}

/// A record of a message that was found.
#[derive(Clone, Debug)]
pub(in crate::cli) struct FoundRecord {
    pub(in crate::cli) id: [u8; 16],
    pub(in crate::cli) place: Place,
    /// Of the record as it is now; of an erased one, its remains.
    pub(in crate::cli) payload: Vec<u8>,
}

/// What the logs hold of one message.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct FoundMessage {
    pub(in crate::cli) id: [u8; 16],
    /// In order of position; empty where only events are left.
    pub(in crate::cli) records: Vec<FoundRecord>,
    /// Position, payload, and whether it is erased; in order.
    pub(in crate::cli) events: Vec<(u64, Vec<u8>, bool)>,
}

impl FoundMessage {
    /// The newest record that was not erased.
    pub(in crate::cli) fn record(&self) -> Option<&FoundRecord> {
        self.records.iter().rev().find(|r| !r.place.erased)
    }

    pub(in crate::cli) fn is_erased(&self) -> bool {
        self.record().is_none() && self.records.iter().any(|r| r.place.erased)
    }
}

/// Looks up messages in a data directory.
pub(in crate::cli) struct Finder<'a> {
    data_dir: &'a Path,
    progress: NewProgress,
}

impl<'a> Finder<'a> {
    /// `progress` makes what is told how far the reading of a log is.
    pub(in crate::cli) fn new(data_dir: &'a Path, progress: NewProgress) -> Self {
        Self { data_dir, progress }
    }

    /// Every message whose id begins so, up to a few. Events are those of `until_ms` at the latest.
    pub(in crate::cli) fn find(
        &self,
        prefix: &IdPrefix,
        until_ms: u64,
    ) -> anyhow::Result<Vec<FoundMessage>> {
        let mut found = BTreeMap::<[u8; 16], FoundMessage>::new();
        // Events first: what is read later of the mail log is not older.
        self.events(prefix, until_ms, &mut found)?;
        // With the whole id the search ends at its record.
        let only = found.keys().next().filter(|_| found.len() == 1);
        let records = match only.map(|id| IdPrefix::of(*id)) {
            Some(whole) => self.records(&whole, false)?,
            None => self.records(prefix, false)?,
        };
        for record in records {
            found.entry(record.id).or_default().records.push(record);
        }
        for (id, message) in &mut found {
            message.id = *id;
        }
        Ok(found.into_values().collect())
    }

    /// The whole id, if the events know of exactly one with this beginning; else the beginning as it is.
    pub(in crate::cli) fn whole(&self, prefix: &IdPrefix) -> anyhow::Result<IdPrefix> {
        let mut found = BTreeMap::new();
        if !prefix.is_whole() {
            let (_, latest) = prefix.times();
            self.events(prefix, latest.saturating_add(SLACK_MS), &mut found)?;
        }
        let only = found.keys().next().filter(|_| found.len() == 1);
        Ok(only.map_or_else(|| prefix.clone(), |id| IdPrefix::of(*id)))
    }

    fn events(
        &self,
        prefix: &IdPrefix,
        until_ms: u64,
        found: &mut BTreeMap<[u8; 16], FoundMessage>,
    ) -> anyhow::Result<()> {
        let mut reader = self.reader(LogKind::Event, prefix)?;
        loop {
            let beyond = |s: &SegmentFile| s.began_at() > until_ms.saturating_add(SLACK_MS);
            if until_ms < u64::MAX && reader.next_segment().is_some_and(beyond) {
                return Ok(());
            }
            let step = reader.step(&mut |position, frame| {
                let event = event_of(frame);
                if let Some(event) = event
                    && prefix.matches(&event.message_id)
                    && event.at_unix_ms <= until_ms
                    && (found.contains_key(&event.message_id) || found.len() < FOUND_MAX)
                {
                    let message = found.entry(event.message_id).or_default();
                    let erased = frame.kind == kind::ERASED;
                    let payload = match erased {
                        false => frame.payload.to_vec(),
                        true => remains(frame),
                    };
                    message.events.push((position, payload, erased));
                }
                Flow::Continue(())
            })?;
            if step != Step::Segment {
                return Ok(());
            }
        }
    }

    /// The records of messages with this prefix: those near the time in the id; where there are none, or `copies` are asked
    /// for, in the rest of the log too.
    pub(in crate::cli) fn records(
        &self,
        prefix: &IdPrefix,
        copies: bool,
    ) -> anyhow::Result<Vec<FoundRecord>> {
        let mut reader = self.reader(LogKind::Mail, prefix)?;
        let begun_with = reader.next_segment().map_or(0, |s| s.header.number);
        let (_, latest) = prefix.times();
        let mut found = Vec::new();
        loop {
            let near = |s: &SegmentFile| s.began_at() <= latest.saturating_add(SLACK_MS);
            let enough = !copies && !found.is_empty();
            if enough && (prefix.is_whole() || !reader.next_segment().is_some_and(near)) {
                break;
            }
            if self.step(&mut reader, prefix, &mut found)? != Step::Segment {
                break;
            }
        }
        if found.is_empty() || copies {
            // A clock that was set back: before the place where it should be.
            let mut reader = LogReader::open(self.data_dir, LogKind::Mail, 0)?
                .with_progress((self.progress)("mail"));
            while reader
                .next_segment()
                .is_some_and(|s| s.header.number < begun_with)
            {
                if self.step(&mut reader, prefix, &mut found)? != Step::Segment {
                    break;
                }
            }
        }
        found.sort_by_key(|record| record.place.position);
        found.dedup_by_key(|record| record.place.position);
        Ok(found)
    }

    fn step(
        &self,
        reader: &mut LogReader,
        prefix: &IdPrefix,
        found: &mut Vec<FoundRecord>,
    ) -> anyhow::Result<Step> {
        let Some(segment) = reader.next_segment().cloned() else {
            return Ok(Step::End);
        };
        reader.step(&mut |position, frame| {
            if let Some(id) = message_id_of(frame)
                && prefix.matches(&id)
                && found.len() < FOUND_MAX
            {
                let place = segment.place(position, frame);
                let payload = frame.payload.to_vec();
                found.push(FoundRecord { id, place, payload });
            }
            Flow::Continue(())
        })
    }

    fn reader(&self, log: LogKind, prefix: &IdPrefix) -> anyhow::Result<LogReader> {
        let mut reader = LogReader::open(self.data_dir, log, 0)?
            .with_progress((self.progress)(super::name(log)));
        reader.begin_at_time(prefix.times().0);
        Ok(reader)
    }
}

impl SegmentFile {
    pub(in crate::cli) fn place(&self, position: u64, frame: &Frame<'_>) -> Place {
        Place {
            position,
            segment: self.header.number,
            path: self.path.clone(),
            offset: frame.offset,
            len: frame.record_len as u64,
            archived: self.archive.is_some(),
            moved: frame.flags & record_flag::MOVED != 0,
            erased: frame.kind == kind::ERASED,
        }
    }
}

/// The event in a record, erased or not.
pub(in crate::cli) fn event_of<'a>(frame: &Frame<'a>) -> Option<EventRecord<'a>> {
    match frame.kind {
        kind::EVENT => EventRecord::decode(frame.payload).ok(),
        kind::ERASED => ErasedRecord::decode(frame.payload).ok()?.event(),
        _ => None,
    }
}

/// An erased event as the payload of one without fields.
fn remains(frame: &Frame<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(event) = event_of(frame) {
        // It has no fields: nothing in it can be too long.
        let _ = event.encode(&mut payload);
    }
    payload
}

/// Of a message record, erased or not.
fn message_id_of(frame: &Frame<'_>) -> Option<[u8; 16]> {
    match frame.kind {
        kind::MESSAGE => MessageRecord::decode(frame.payload).ok().map(|r| r.id),
        kind::ERASED => ErasedRecord::decode(frame.payload)
            .ok()?
            .message()
            .map(|message| message.id),
        _ => None,
    }
}

/// Index of the first segment that may hold what was written at `unix_ms`.
pub(super) fn segment_at(segments: &[SegmentFile], unix_ms: u64) -> usize {
    // The one before it as well: writers are not in the order of their clocks.
    segments
        .partition_point(|segment| segment.began_at() <= unix_ms)
        .saturating_sub(2)
}

/// Single records by position. Where many are asked for that lie close, their segment is read as a whole.
pub(in crate::cli) struct Records {
    files: Files,
    segments: Vec<SegmentFile>,
    /// Number of a segment, how many records of it were asked for, and its bytes once they are many.
    near: (u64, usize, Option<Vec<u8>>),
}

impl Records {
    pub(in crate::cli) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let files = Files::open(data_dir, LogKind::Mail, true)?;
        let segments = files.list(&[])?.segments;
        Ok(Self {
            files,
            segments,
            near: (0, 0, None),
        })
    }

    /// Calls `read` with the record at this position; `None` where there is none that verifies.
    pub(in crate::cli) fn at<T>(
        &mut self,
        position: u64,
        read: impl Fn(&SegmentFile, &Frame<'_>) -> T,
    ) -> anyhow::Result<Option<T>> {
        for attempt in 0..2 {
            if attempt > 0 {
                // Taken back, or archived, since it was listed.
                self.segments = self.files.list(&self.segments)?.segments;
                self.near = (0, 0, None);
            }
            let behind = self
                .segments
                .partition_point(|s| s.header.first_position <= position);
            let Some(segment) = behind.checked_sub(1).and_then(|i| self.segments.get(i)) else {
                continue;
            };
            let offset = position - segment.header.first_position;
            if self.near.0 != segment.header.number {
                self.near = (segment.header.number, 0, None);
            }
            self.near.1 += 1;
            if self.near.1 == MANY {
                self.near.2 = segment.read(&|_| {})?;
            }
            let seed = segment.header.seed();
            let whole = self.near.2.as_deref();
            if let Some(frame) = whole.and_then(|b| spool_format::frame::read(b, offset, seed).ok())
            {
                return Ok(Some(read(segment, &frame)));
            }
            if let Some(bytes) = segment.record(offset)
                && let Ok(frame) = spool_format::frame::read_record(&bytes, offset, seed)
            {
                return Ok(Some(read(segment, &frame)));
            }
        }
        Ok(None)
    }
}

const _: () = assert!(record::PAYLOAD == RECORD_HEADER);
/// 24 bits of time: a prefix that names hours, not months.
const DIGITS_MIN: usize = 6;
/// Messages that a prefix may match before it is enough to say that there are many.
const FOUND_MAX: usize = 100;
/// Records of one segment from which on it is read as a whole.
const MANY: usize = 32;
