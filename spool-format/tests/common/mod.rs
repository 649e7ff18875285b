//! What the tests of the format share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "each test file uses its part, and a test may panic"
)]

pub mod listing;

use spool_format::layout::{message_flag, record_flag};
use spool_format::*;

pub fn header(kind: LogKind, number: u64, size: u64) -> SegmentHeader {
    let mut salt = [0; 16];
    for (place, byte) in salt.iter_mut().zip(0u8..) {
        *place = byte.wrapping_mul(37).wrapping_add(number as u8);
    }
    SegmentHeader {
        kind,
        number,
        first_position: (number - 1) * size,
        size,
        epoch: 0,
        created_unix_ms: 1_785_000_000_000,
        previous_end: (number - 1) * size,
        salt,
    }
}

pub const SEAL: u8 = record_flag::SEAL;

pub const CONTENT: &[u8] =
    b"From: app@example.com\r\nTo: ann@example.net\r\nSubject: hello\r\n\r\nHow are you?\r\n";

/// A message record with something in every place, in the two parts in which a writer appends it.
pub fn message(id: u8, recipients: usize, content: &[u8]) -> Vec<u8> {
    let notify = [Field::text(field_tag::DSN_NOTIFY, "FAILURE,DELAY")];
    let paths: Vec<_> = (0..recipients)
        .map(|n| format!("user{n}@example.net"))
        .collect();
    let recipients: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(n, path)| Recipient {
            forward_path: path,
            domain: "example.net",
            fields: if n % 2 == 0 {
                Fields::default()
            } else {
                Fields::new(&notify)
            },
        })
        .collect();
    let fields = [
        Field::text(field_tag::HELO, "app.example.com"),
        Field::new(65_000, b"a tag of a later version"),
    ];
    let metadata = [("color", "blue"), ("größe", "XL")];
    let record = MessageRecord {
        id: [id; 16],
        accepted_unix_ms: 1_785_000_000_123,
        server_id: 7,
        server_name: "shop",
        stream_id: "outbound",
        stream_kind: StreamKind::Transactional,
        pool: "tx",
        reverse_path: "bounce@example.com",
        recipients: List::new(&recipients),
        tag: Some("welcome"),
        metadata: List::new(&metadata),
        flags: message_flag::EIGHT_BIT,
        header_len: content.len().min(65) as u32,
        fields: List::new(&fields),
        content: Content::Inline(content),
    };
    let mut payload = Vec::new();
    record.encode_head(&mut payload).unwrap();
    assert_eq!(payload.len(), record.head_len());
    payload.extend_from_slice(content);
    assert_eq!(MessageRecord::decode(&payload).unwrap(), record);
    payload
}

pub fn event(id: u8, number: u16, kind: u16) -> Vec<u8> {
    let attempts = 3u32.to_le_bytes();
    let fields = [
        Field::text(event::event_field::RECIPIENT, "user0@example.net"),
        Field::text(event::event_field::REPLY, "250 2.0.0 OK\nqueued"),
        Field::new(event::event_field::ATTEMPTS, &attempts),
    ];
    let record = EventRecord {
        kind,
        at_unix_ms: 1_785_000_001_000,
        message_id: [id; 16],
        recipient_number: number,
        fields: Fields::new(&fields),
    };
    let mut payload = Vec::new();
    record.encode(&mut payload).unwrap();
    assert_eq!(EventRecord::decode(&payload).unwrap(), record);
    payload
}

/// A sealed mail segment of the smallest size: three batches, messages of different lengths, a writer that gave up.
pub fn small_sealed() -> SegmentImage {
    let mut image = SegmentImage::new(header(LogKind::Mail, 3, 6 * 4096));
    for (id, content_len) in [(1, 78), (2, 300), (3, 0)] {
        let content = vec![b'x'; content_len];
        image
            .append(kind::MESSAGE, 0, &message(id, usize::from(id), &content))
            .unwrap();
    }
    image.commit().unwrap();
    image
        .append(kind::MESSAGE, 0, &message(4, 1, CONTENT))
        .unwrap();
    image.pad(72).unwrap();
    image.append(200, 9, b"a kind of a later version").unwrap();
    image.commit().unwrap();
    image
        .append(kind::MESSAGE, 0, &message(5, 2, CONTENT))
        .unwrap();
    image.seal().unwrap();
    image
}

/// Erases the record at `offset` as an engine does.
pub fn erase(bytes: &mut [u8], offset: u64, seed: Seed) {
    let old = bytes.to_vec();
    let old = frame::read(&old, offset, seed).unwrap();
    let erased = ErasedRecord::of(&old).unwrap();
    put_erased(bytes, &old, erased, seed);
}

/// As an engine did before digests were kept.
pub fn erase_without_digest(bytes: &mut [u8], offset: u64, seed: Seed) {
    let old = bytes.to_vec();
    let old = frame::read(&old, offset, seed).unwrap();
    let erased = ErasedRecord::of(&old).unwrap();
    let digest = [0; 32];
    put_erased(bytes, &old, ErasedRecord { digest, ..erased }, seed);
}

fn put_erased(bytes: &mut [u8], old: &Frame<'_>, erased: ErasedRecord<'_>, seed: Seed) {
    let offset = old.offset;
    let record = erased
        .encode(old.record_len, old.flags, seed, offset)
        .unwrap();
    bytes[offset as usize..][..record.len()].copy_from_slice(&record);
}

/// (offset, kind, payload) of records that carry something.
pub fn records<'a>(items: impl Iterator<Item = scan::Item<'a>>) -> Vec<(u64, u8, &'a [u8])> {
    items
        .filter_map(|item| match item {
            scan::Item::Record(frame) => Some(frame),
            scan::Item::Damage(_) => None,
        })
        .filter(|frame| frame.kind != kind::PADDING && frame.kind != kind::COMMIT)
        .map(|frame| (frame.offset, frame.kind, frame.payload))
        .collect()
}

pub fn damages<'a>(items: impl Iterator<Item = scan::Item<'a>>) -> Vec<scan::Damage> {
    items
        .filter_map(|item| match item {
            scan::Item::Record(_) => None,
            scan::Item::Damage(damage) => Some(damage),
        })
        .collect()
}
