//! The same actions on a log of segments and on a list of records: appends, commits, rolls, and stops at which any sector
//! of what was not synced is on the disk or is not. What was acknowledged is read back, in order and unchanged; nothing is
//! read that was not written; no torn write is taken for damage to acknowledged bytes, then or later.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::collections::BTreeMap;

use common::*;
use proptest::prelude::*;
use spool_format::layout::*;
use spool_format::scan::{Item, Scan};
use spool_format::*;

const SIZE: u64 = 6 * PAGE_OFFSET;
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Action {
    Append {
        kind: u8,
        len: usize,
    },
    GiveUp {
        words: usize,
    },
    Commit,
    /// Power fails; if `committing`, between the write of a batch and the return of its sync. The sectors of unsynced
    /// pages are kept as the bits say.
    Stop {
        committing: bool,
        sectors: u64,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (3..30u8, 0..3000usize).prop_map(|(kind, len)| Action::Append { kind, len }),
        1 => (1..20usize).prop_map(|words| Action::GiveUp { words }),
        4 => Just(Action::Commit),
        1 => (any::<bool>(), any::<u64>())
            .prop_map(|(committing, sectors)| Action::Stop { committing, sectors }),
    ]
}

type Records = Vec<(u64, u8, Vec<u8>)>;

/// A log: segments that are left, and the one in use as it is in memory and on the disk.
struct Log {
    left: Vec<Vec<u8>>,
    image: SegmentImage,
    disk: Vec<u8>,
    written: BTreeMap<u64, (u8, Vec<u8>)>,
    /// Records of batches whose sync returned, or that a recovery has taken.
    acknowledged: Records,
    pending: Records,
    number: u8,
}

impl Log {
    fn new() -> Self {
        let image = SegmentImage::new(header(LogKind::Mail, 1, SIZE));
        Self {
            left: Vec::new(),
            disk: image.bytes().to_vec(),
            image,
            written: BTreeMap::new(),
            acknowledged: Vec::new(),
            pending: Vec::new(),
            number: 0,
        }
    }

    fn first_position(&self) -> u64 {
        self.image.header().first_position
    }

    fn append(&mut self, kind: u8, len: usize) {
        self.number = self.number.wrapping_add(1);
        // Not the kinds that mean something.
        let kind = if matches!(kind, kind::ERASED | kind::VOID) {
            99
        } else {
            kind
        };
        self.append_payload(kind, vec![self.number; len]);
    }

    fn append_payload(&mut self, kind: u8, payload: Vec<u8>) {
        let offset = self.image.append(kind, 0, &payload).unwrap_or_else(|| {
            self.roll();
            self.image.append(kind, 0, &payload).unwrap()
        });
        let position = self.first_position() + offset;
        self.written.insert(position, (kind, payload.clone()));
        self.pending.push((position, kind, payload));
    }

    fn give_up(&mut self, words: usize) {
        // Where it does not fit, the segment's last padding takes its place.
        self.image.pad(words * ALIGNMENT);
    }

    fn commit(&mut self) {
        if self.image.commit().is_some() {
            self.synced();
        }
    }

    fn synced(&mut self) {
        self.disk.copy_from_slice(self.image.bytes());
        self.acknowledged.append(&mut self.pending);
    }

    fn roll(&mut self) {
        if self.image.seal().is_some() {
            self.synced();
        }
        let next = self.first_position() + SIZE;
        self.next_segment(next);
    }

    /// The file of the segment before is used again, in a new life.
    fn next_segment(&mut self, previous_end: u64) {
        let number = self.image.header().number + 1;
        let next = SegmentHeader {
            previous_end,
            ..header(LogKind::Mail, number, SIZE)
        };
        self.left.push(self.disk.clone());
        self.image = SegmentImage::over(next, self.disk.clone());
        self.disk = self.image.bytes().to_vec();
    }

    fn stop(&mut self, committing: bool, sectors: u64) {
        if committing {
            self.image.commit();
        }
        for (number, range) in
            (0..self.disk.len() / SECTOR).map(|n| (n, n * SECTOR..(n + 1) * SECTOR))
        {
            if sectors.rotate_left(number as u32) & 1 == 1 {
                self.disk[range.clone()].copy_from_slice(&self.image.bytes()[range]);
            }
        }
        self.pending.clear();
        let header = self.image.header().clone();
        let tail = scan::tail(&self.disk, &header);
        let in_doubt = damages(tail.items());
        for damage in &in_doubt {
            assert!(
                !damage.acknowledged,
                "a torn write was taken for {damage:?}"
            );
        }
        // What a recovery takes is there from then on.
        let found = owned(tail.items(), &header);
        self.acknowledged
            .retain(|&(position, ..)| position < header.first_position);
        let kept = self.acknowledged.len();
        self.acknowledged.extend(found);
        assert!(self.acknowledged.len() >= kept);
        let end = header.first_position + tail.durable_end;
        self.next_segment(end);
        for damage in in_doubt {
            let from = header.first_position + damage.offset;
            let void = VoidRecord {
                from,
                to: from + damage.len,
            };
            self.append_payload(kind::VOID, void.encode().to_vec());
        }
        self.commit();
    }

    /// Everything that is read from the log as it is on the disk.
    fn read(&self) -> Records {
        let (mut found, mut broken) = (Records::new(), Vec::new());
        let mut files: Vec<_> = self.left.iter().collect();
        files.push(&self.disk);
        let headers: Vec<_> = files
            .iter()
            .map(|file| SegmentHeader::decode(file).unwrap())
            .collect();
        for (number, (file, header)) in files.iter().zip(&headers).enumerate() {
            let scan = match headers.get(number + 1) {
                Some(next) => scan::sealed(file, header, next.previous_end - header.first_position),
                None => scan::tail(file, header).items(),
            };
            for damage in damages(scan.clone()) {
                broken.push((header.first_position + damage.offset, damage.len));
            }
            found.extend(owned(scan, header));
        }
        let voids: Vec<_> = found
            .iter()
            .filter(|(_, kind, _)| *kind == kind::VOID)
            .map(|(_, _, payload)| VoidRecord::decode(payload).unwrap())
            .collect();
        for (from, len) in broken {
            let is_void = voids
                .iter()
                .any(|void| void.from <= from && from + len <= void.to);
            assert!(is_void, "{len} bytes at {from} are taken for damage");
        }
        found
    }

    fn check(&self) {
        assert!(self.read() == self.acknowledged);
        for (position, kind, payload) in &self.acknowledged {
            assert!(
                self.written.get(position) == Some(&(*kind, payload.clone())),
                "{position} was not written"
            );
        }
    }
}

fn owned(scan: Scan<'_>, header: &SegmentHeader) -> Records {
    scan.filter_map(|item| match item {
        Item::Record(frame) if frame.kind > kind::COMMIT => Some((
            header.first_position + frame.offset,
            frame.kind,
            frame.payload.to_vec(),
        )),
        _ => None,
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_read_back_whatever_happens(actions in prop::collection::vec(action(), 1..120)) {
        let mut log = Log::new();
        for action in actions {
            match action {
                Action::Append { kind, len } => log.append(kind, len),
                Action::GiveUp { words } => log.give_up(words),
                Action::Commit => log.commit(),
                Action::Stop { committing, sectors } => {
                    let before = log.acknowledged.clone();
                    log.stop(committing, sectors);
                    for record in &before {
                        assert!(log.acknowledged.contains(record), "lost {}", record.0);
                    }
                }
            }
            log.check();
        }
    }

    #[test]
    fn a_message_is_read_back_as_it_was_written(
        texts in prop::collection::vec("\\PC{0,40}", 5..=5),
        recipients in prop::collection::vec(("\\PC{0,30}", "\\PC{0,20}", prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..20)), 0..3)), 0..20),
        metadata in prop::collection::vec(("\\PC{0,10}", "\\PC{0,10}"), 0..4),
        numbers in any::<(u64, u32, u32)>(),
        content in prop::collection::vec(any::<u8>(), 0..300),
        parts in prop::option::of(prop::collection::vec(any::<(u32, u32)>(), 0..5)),
    ) {
        let recipient_fields: Vec<Vec<Field<'_>>> = recipients
            .iter()
            .map(|(_, _, fields)| fields.iter().map(|(tag, bytes)| Field::new(*tag, bytes)).collect())
            .collect();
        let recipients: Vec<_> = recipients
            .iter()
            .zip(&recipient_fields)
            .map(|((path, domain, _), fields)| Recipient { forward_path: path, domain, fields: fields.into() })
            .collect();
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let parts: Option<Vec<_>> = parts.map(|parts| {
            parts.iter().map(|&(position, len)| ContentPart { position: position.into(), len }).collect()
        });
        let record = MessageRecord {
            id: [9; 16],
            accepted_unix_ms: numbers.0,
            server_id: numbers.1,
            server_name: &texts[0],
            stream_id: &texts[1],
            stream_kind: StreamKind::Inbound,
            pool: &texts[2],
            reverse_path: &texts[3],
            recipients: List::new(&recipients),
            tag: Some(texts[4].as_str()).filter(|tag| !tag.is_empty()),
            metadata: List::new(&metadata),
            flags: numbers.2,
            header_len: 0,
            fields: recipient_fields.first().map_or(Fields::default(), |fields| fields.into()),
            content: match &parts {
                Some(parts) => Content::Records(parts.into()),
                None => Content::Inline(&content),
            },
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        prop_assert_eq!(payload.len(), record.head_len());
        if parts.is_none() {
            payload.extend_from_slice(&content);
            let range = MessageRecord::inline_range(&payload).unwrap().unwrap();
            prop_assert_eq!(&payload[range], &content[..]);
        }
        prop_assert_eq!(MessageRecord::decode(&payload), Ok(record));
    }
}
