//! What is in a segment, and until when it is wanted.
//!
//! How long the content of a message is kept is a matter of its stream, which its message record names. Content records do
//! not: their stream is looked up by the message's id, in the segment ([`survey`]) and by the caller in what follows it.
//! Content of which no message is found is of the unknown stream: the caller decides about that as well.

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::{self, Frame};
use crate::layout::kind;
use crate::scan::{self, Item};
use crate::{Content, ContentRecord, ErasedRecord, EventRecord, MessageRecord, SegmentHeader};

/// A stream of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// 0 where it is not known, as in the default.
    pub server_id: u32,
    pub stream_id: String,
}

/// Streams by message id.
pub type Owners = BTreeMap<[u8; 16], StreamKey>;

/// How much of a stream is in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpan {
    pub key: StreamKey,
    pub records: u32,
    /// Times of acceptance.
    pub oldest_unix_ms: u64,
    pub youngest_unix_ms: u64,
}

/// What a segment holds that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Of the mail log: in the order in which they are met.
    pub streams: Vec<StreamSpan>,
    /// Of messages of which the segment holds content records only.
    pub owners: Owners,
    /// Records that hold what their writer wrote.
    pub records: u32,
    pub oldest_unix_ms: u64,
    pub youngest_unix_ms: u64,
    /// Records that were erased just now.
    pub erased: u32,
}

/// Messages with content records, as far as a segment tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Streams of those whose message record is in it.
    pub owners: Owners,
    /// Those whose message record is not.
    pub missing: BTreeSet<[u8; 16]>,
    /// Messages whose record was erased.
    pub erased: BTreeSet<[u8; 16]>,
}

/// Who the content records of a segment of the mail log belong to. `end`: up to where the segment was acknowledged.
pub fn survey(segment: &[u8], header: &SegmentHeader, end: u64) -> Survey {
    let mut survey = Survey::default();
    for frame in records(segment, header, end) {
        match frame.kind {
            kind::CONTENT => {
                if let Ok(record) = ContentRecord::decode(frame.payload) {
                    survey.missing.insert(record.message_id);
                }
            }
            kind::MESSAGE => {
                if let Some((id, key)) = owner(&frame) {
                    survey.owners.insert(id, key);
                }
            }
            kind::ERASED => {
                let old = ErasedRecord::decode(frame.payload).ok();
                let old = old.filter(|old| old.kind == kind::MESSAGE);
                survey.erased.extend(old.and_then(|old| old.message_id()));
            }
            _ => {}
        }
    }
    survey.missing.retain(|id| !survey.owners.contains_key(id));
    survey
}

/// The message and stream of a message record whose content is in content records.
pub fn owner(frame: &Frame<'_>) -> Option<([u8; 16], StreamKey)> {
    if frame.kind != kind::MESSAGE {
        return None;
    }
    let record = MessageRecord::decode(frame.payload).ok()?;
    matches!(record.content, Content::Records(_)).then(|| (record.id, key_of(&record)))
}

/// Erases every record of the mail log of which `is_over` says so, given its position in the segment, its stream and its time
/// of acceptance, and every content record of the messages in `dead`; tells what is left. The running hash of the segment still holds. `now` counts as the time of records
/// that tell none.
pub fn settle(
    segment: &mut [u8],
    header: &SegmentHeader,
    end: u64,
    owners: &Owners,
    dead: &BTreeSet<[u8; 16]>,
    now_unix_ms: u64,
    is_over: &mut dyn FnMut(u64, &StreamKey, u64) -> bool,
) -> Contents {
    let mut contents = Contents::default();
    let mut over = Vec::new();
    let mut numbers = BTreeMap::new();
    for frame in records(segment, header, end) {
        let Some((key, at, id)) = wanted(&frame, owners, now_unix_ms) else {
            continue;
        };
        let is_dead = id.is_some_and(|id| dead.contains(&id));
        if (is_dead || is_over(frame.offset, &key, at)) && ErasedRecord::can_be(&frame) {
            over.push(frame.offset);
            continue;
        }
        contents.count(at);
        let number = *numbers.entry(key.clone()).or_insert_with(|| {
            contents.streams.push(StreamSpan {
                key: key.clone(),
                records: 0,
                oldest_unix_ms: at,
                youngest_unix_ms: at,
            });
            contents.streams.len() - 1
        });
        if let Some(span) = contents.streams.get_mut(number) {
            span.records = span.records.saturating_add(1);
            span.oldest_unix_ms = span.oldest_unix_ms.min(at);
            span.youngest_unix_ms = span.youngest_unix_ms.max(at);
        }
        if let Some(id) = id {
            contents.owners.insert(id, key);
        }
    }
    contents.erased = erase(segment, header, &over);
    contents
}

/// Erases the records at these offsets of a segment of either log. Returns how many: what is no record, of a kind that is not
/// erased, or erased already, is passed over.
pub fn erase(segment: &mut [u8], header: &SegmentHeader, offsets: &[u64]) -> u32 {
    let mut erased = 0;
    for &offset in offsets {
        erased += u32::from(erase_record(segment, header, offset));
    }
    erased
}

/// What a segment of the event log holds.
pub fn events(segment: &[u8], header: &SegmentHeader, end: u64) -> Contents {
    let mut contents = Contents::default();
    for frame in records(segment, header, end) {
        if let (kind::EVENT, Ok(event)) = (frame.kind, EventRecord::decode(frame.payload)) {
            contents.count(event.at_unix_ms);
        }
    }
    contents
}

impl Contents {
    fn count(&mut self, at: u64) {
        let first = self.records == 0;
        self.records = self.records.saturating_add(1);
        self.youngest_unix_ms = self.youngest_unix_ms.max(at);
        self.oldest_unix_ms = match first {
            true => at,
            false => self.oldest_unix_ms.min(at),
        };
    }
}

/// Stream and time of a record that retention is about; the id where only others may know the stream.
fn wanted(
    frame: &Frame<'_>,
    owners: &Owners,
    now_unix_ms: u64,
) -> Option<(StreamKey, u64, Option<[u8; 16]>)> {
    match frame.kind {
        kind::PADDING | kind::COMMIT | kind::ERASED | kind::VOID | kind::DIGEST => None,
        kind::MESSAGE => Some(match MessageRecord::decode(frame.payload) {
            Ok(record) => (key_of(&record), record.accepted_unix_ms, None),
            Err(_) => (StreamKey::default(), now_unix_ms, None),
        }),
        kind::CONTENT => Some(match ContentRecord::decode(frame.payload) {
            Ok(record) => {
                let id = record.message_id;
                let key = owners.get(&id).cloned().unwrap_or_default();
                (key, uuid_unix_ms(&id), Some(id))
            }
            Err(_) => (StreamKey::default(), now_unix_ms, None),
        }),
        _ => Some((StreamKey::default(), now_unix_ms, None)),
    }
}

fn key_of(record: &MessageRecord<'_>) -> StreamKey {
    StreamKey {
        server_id: record.server_id,
        stream_id: record.stream_id.into(),
    }
}

/// RFC 9562 §5.7: a UUIDv7 begins with its time, 48 bits, big-endian.
fn uuid_unix_ms(id: &[u8; 16]) -> u64 {
    id.iter()
        .take(6)
        .fold(0, |ms, &byte| ms << 8 | u64::from(byte))
}

fn erase_record(segment: &mut [u8], header: &SegmentHeader, offset: u64) -> bool {
    let seed = header.seed();
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let Ok(frame) = frame::read(segment, offset, seed) else {
        return false;
    };
    let erased = ErasedRecord::of(&frame)
        .and_then(|erased| erased.encode(frame.record_len, frame.flags, seed, offset));
    let Some(erased) = erased else {
        return false;
    };
    match segment.get_mut(start..start + erased.len()) {
        Some(place) => {
            place.copy_from_slice(&erased);
            true
        }
        None => false,
    }
}

fn records<'a>(
    segment: &'a [u8],
    header: &SegmentHeader,
    end: u64,
) -> impl Iterator<Item = Frame<'a>> {
    scan::sealed(segment, header, end).filter_map(|item| match item {
        Item::Record(frame) => Some(frame),
        Item::Damage(_) => None,
    })
}
