//! Every kind of broken byte: found, limited to the records that it hit, never a panic.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::collections::BTreeSet;

use common::*;
use spool_format::event::event_field;
use spool_format::layout::*;
use spool_format::scan::{Damage, DamageReason, Item};
use spool_format::*;

/// Offset, kind and extent of every record of an undamaged segment.
fn frames(bytes: &[u8], header: &SegmentHeader) -> Vec<(u64, u64, u8)> {
    scan::sealed(bytes, header, header.size)
        .map(|item| match item {
            Item::Record(frame) => (frame.offset, frame.end(), frame.kind),
            Item::Damage(damage) => panic!("{damage:?}"),
        })
        .collect()
}

/// Items cover the segment from the first page to the end, without a gap or an overlap.
fn assert_contiguous(items: &[Item<'_>], end: u64) {
    let mut offset = PAGE_OFFSET;
    for item in items {
        let (from, to) = match item {
            Item::Record(frame) => (frame.offset, frame.end()),
            Item::Damage(damage) if damage.reason == DamageReason::Header => continue,
            Item::Damage(damage) => (damage.offset, damage.offset + damage.len),
        };
        assert_eq!(from, offset);
        assert!(to > from);
        offset = to;
    }
    assert_eq!(offset, end);
}

#[test]
fn every_flipped_bit_is_found_and_costs_only_the_record_that_holds_it() {
    let image = small_sealed();
    let header = image.header().clone();
    let whole = frames(image.bytes(), &header);
    let before = records(scan::sealed(image.bytes(), &header, header.size));
    let mut bytes = image.bytes().to_vec();
    for at in 0..bytes.len() {
        // The sealing padding is long and alike: every bit of its ends, one bit of each byte between.
        for bit in 0..8 {
            if bit != at % 8 && at > 3 * PAGE + 1000 && at < bytes.len() - 100 {
                continue;
            }
            bytes[at] ^= 1 << bit;
            let found = SegmentHeader::decode(&bytes).unwrap();
            assert_eq!(found, header, "byte {at}");
            let items: Vec<_> = scan::sealed(&bytes, &header, header.size).collect();
            assert_contiguous(&items, header.size);
            let damage = damages(items.iter().copied());
            assert_eq!(damage.len(), 1, "byte {at} bit {bit}: {damage:?}");
            assert!(damage[0].acknowledged);
            if at < PAGE {
                assert_eq!(damage[0].reason, DamageReason::Header);
                assert!(records(items.into_iter()) == before, "byte {at}");
            } else {
                let hit = whole
                    .iter()
                    .find(|&&(from, to, _)| (from..to).contains(&(at as u64)));
                let &(from, to, _) = hit.unwrap();
                // A record of eight bytes behind the one that was hit cannot be found again; it is only padding.
                let end = damage[0].offset + damage[0].len;
                assert_eq!(damage[0].offset, from, "byte {at} bit {bit}");
                assert!(
                    end == to || end == to + 8,
                    "byte {at} bit {bit}: {damage:?}"
                );
                let expected: Vec<_> = before
                    .iter()
                    .copied()
                    .filter(|&(offset, ..)| offset != from)
                    .collect();
                assert!(
                    records(items.into_iter()) == expected,
                    "byte {at} bit {bit}"
                );
            }
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_segment_cut_at_any_length_keeps_the_records_before_the_cut() {
    let image = small_sealed();
    let header = image.header().clone();
    let before = records(scan::sealed(image.bytes(), &header, header.size));
    let ends: Vec<_> = frames(image.bytes(), &header);
    for len in PAGE..image.bytes().len() {
        let cut = &image.bytes()[..len];
        let items: Vec<_> = scan::sealed(cut, &header, header.size).collect();
        assert_contiguous(&items, header.size);
        assert_eq!(damages(items.iter().copied()).len(), 1, "length {len}");
        let kept = before.iter().filter(|&&(offset, ..)| {
            ends.iter()
                .any(|&(from, to, _)| from == offset && to <= len as u64)
        });
        assert_eq!(
            records(items.into_iter()).len(),
            kept.count(),
            "length {len}"
        );

        // As the last segment too: what is gone may have been acknowledged.
        let tail = scan::tail(cut, &header);
        assert_eq!((tail.durable_end, tail.sealed), (header.size, true));
        let damage = damages(tail.items());
        assert_eq!(damage.len(), 1, "length {len}");
        assert!(damage[0].acknowledged, "length {len}");
        assert!(
            records(tail.items())
                .iter()
                .all(|record| before.contains(record))
        );
    }
    for len in 0..PAGE {
        assert_eq!(
            SegmentHeader::decode(&image.bytes()[..len]),
            Err(HeaderError::Short)
        );
    }
}

#[test]
fn a_broken_sector_anywhere_costs_only_the_records_in_it() {
    let mut image = SegmentImage::new(header(LogKind::Mail, 1, 64 * 4096));
    for id in 0..60 {
        let content = vec![id ^ 0x55; usize::from(id) * 97 % 5000];
        image
            .append(kind::MESSAGE, 0, &message(id, 1, &content))
            .unwrap();
        if id % 7 == 6 {
            image.commit().unwrap();
        }
    }
    image.seal().unwrap();
    let header = image.header().clone();
    let whole = frames(image.bytes(), &header);
    let before = records(scan::sealed(image.bytes(), &header, header.size));
    for (fill, sector) in (0..image.bytes().len() / 512).map(|n| ([0, 0xFF, 8, b'x'][n % 4], n)) {
        let range = sector * 512..(sector + 1) * 512;
        let mut bytes = image.bytes().to_vec();
        bytes[range].fill(fill);
        let Ok(found) = SegmentHeader::decode(&bytes) else {
            panic!("sector {sector}: the other copy of the header serves");
        };
        let items: Vec<_> = scan::sealed(&bytes, &found, found.size).collect();
        assert_contiguous(&items, found.size);
        let hit: BTreeSet<u64> = whole
            .iter()
            .filter(|&&(from, to, _)| {
                let extent = from as usize..to as usize;
                bytes[extent.clone()] != image.bytes()[extent]
            })
            .map(|&(from, ..)| from)
            .collect();
        let expected: Vec<_> = before
            .iter()
            .copied()
            .filter(|(offset, ..)| !hit.contains(offset))
            .collect();
        assert!(
            !damages(items.iter().copied()).is_empty() || bytes == image.bytes(),
            "sector {sector}"
        );
        assert!(records(items.into_iter()) == expected, "sector {sector}");
    }
}

/// Builds a segment of three batches, lets `break_it` at it, and returns what a scan to the end finds.
fn broken(break_it: impl Fn(&mut [u8], &SegmentHeader)) -> Vec<Damage> {
    let image = small_sealed();
    let header = image.header().clone();
    let mut bytes = image.into_bytes();
    break_it(&mut bytes, &header);
    damages(scan::sealed(&bytes, &header, header.size))
}

fn reasons(damage: &[Damage]) -> Vec<DamageReason> {
    damage.iter().map(|damage| damage.reason).collect()
}

#[test]
fn each_kind_of_damage_has_its_reason() {
    assert_eq!(reasons(&broken(|_, _| {})), []);
    let length = |len: u32| {
        reasons(&broken(move |bytes, _| {
            bytes[4096..4100].copy_from_slice(&len.to_le_bytes())
        }))
    };
    assert_eq!(length(0), [DamageReason::Length]);
    assert_eq!(length(7), [DamageReason::Length]);
    assert_eq!(length(15), [DamageReason::Length]);
    assert_eq!(length(8), [DamageReason::Checksum]);
    assert_eq!(length(20_000), [DamageReason::Checksum]);
    assert_eq!(length(30_000), [DamageReason::Cut]);
    assert_eq!(length(u32::MAX), [DamageReason::Cut]);
    assert_eq!(
        reasons(&broken(|bytes, _| bytes[3000] = 1)),
        [DamageReason::Header]
    );
}

/// Writes the commit record of the first batch anew with other values.
fn forge_commit(change: impl Fn(&mut CommitRecord)) -> Vec<DamageReason> {
    reasons(&broken(|bytes, header| {
        let at = scan::sealed(bytes, header, header.size)
            .find_map(|item| match item {
                Item::Record(frame) if frame.kind == kind::COMMIT => Some(frame.offset),
                _ => None,
            })
            .unwrap();
        let frame = frame::read(bytes, at, header.seed()).unwrap();
        let mut commit = CommitRecord::decode(frame.payload, at, header.seed()).unwrap();
        change(&mut commit);
        let payload = commit.encode(header.seed());
        let at = at as usize;
        let record = &mut bytes[at..at + COMMIT_RECORD_LEN];
        record[record::PAYLOAD..].copy_from_slice(&payload);
        frame::seal(
            record,
            COMMIT_RECORD_LEN,
            kind::COMMIT,
            0,
            header.seed(),
            at as u64,
        );
    }))
}

#[test]
fn a_commit_record_that_does_not_describe_its_batch_is_damage() {
    assert_eq!(forge_commit(|_| {}), []);
    assert_eq!(
        forge_commit(|commit| commit.count += 1),
        [DamageReason::Commit]
    );
    assert_eq!(
        forge_commit(|commit| commit.to += 8),
        [DamageReason::Commit]
    );
    assert_eq!(
        forge_commit(|commit| commit.from += 4096),
        [DamageReason::Commit]
    );
    // The hash goes on with what the record says, so the next batch's does not match either.
    let both = [DamageReason::Commit, DamageReason::Commit];
    assert_eq!(forge_commit(|commit| commit.running_hash ^= 1), both);
}

#[test]
fn a_record_moved_within_its_segment_or_to_another_does_not_verify() {
    let image = small_sealed();
    let header = image.header().clone();
    let first = frame::read(image.bytes(), PAGE_OFFSET, header.seed()).unwrap();
    let len = frame::padded_len(first.record_len);
    let mut bytes = image.bytes().to_vec();
    bytes.copy_within(4096..4096 + len, 8192);
    assert_eq!(
        frame::read(&bytes, 8192, header.seed()),
        Err(FrameError::Checksum)
    );
    let mut other = header.clone();
    other.number += 1;
    assert_eq!(
        frame::read(image.bytes(), 4096, other.seed()),
        Err(FrameError::Checksum)
    );
}

#[test]
fn content_that_imitates_records_is_not_taken_for_them() {
    // The sender guesses everything but the salt: a whole segment as content, its offsets right.
    let size = 16 * PAGE_OFFSET;
    let mut forger = header(LogKind::Mail, 1, size);
    forger.salt = [0; 16];
    let mut forged = SegmentImage::new(forger);
    for id in 100..110 {
        forged
            .append(kind::MESSAGE, 0, &message(id, 1, CONTENT))
            .unwrap();
        forged.commit().unwrap();
    }
    let mut image = SegmentImage::new(header(LogKind::Mail, 1, size));
    let head = message(1, 1, b"").len() + RECORD_HEADER;
    let content = &forged.bytes()[PAGE + head..12 * PAGE];
    image
        .append(kind::MESSAGE, 0, &message(1, 1, content))
        .unwrap();
    image
        .append(kind::MESSAGE, 0, &message(2, 1, CONTENT))
        .unwrap();
    image.seal().unwrap();
    let header = image.header().clone();
    let mut bytes = image.into_bytes();
    bytes[PAGE + 20] ^= 1;
    let scan = scan::sealed(&bytes, &header, header.size);
    assert_eq!(damages(scan.clone()).len(), 1);
    let found = records(scan);
    assert_eq!(found.len(), 1);
    assert_eq!(MessageRecord::decode(found[0].2).unwrap().id, [2; 16]);
}

#[test]
fn an_erased_record_leaves_the_running_hash_as_it_was() {
    let image = small_sealed();
    let header = image.header().clone();
    let mut bytes = image.into_bytes();
    let old = frame::read(&bytes, PAGE_OFFSET, header.seed()).unwrap();
    let (len, crc) = (old.record_len, old.crc);
    let fixed = old.payload[..72].to_vec();
    let count = records(scan::sealed(&bytes, &header, header.size)).len();
    erase(&mut bytes, PAGE_OFFSET, header.seed());
    let scan = scan::sealed(&bytes, &header, header.size);
    assert_eq!(damages(scan.clone()), []);
    assert_eq!(records(scan.clone()).len(), count);
    let (_, kind, payload) = records(scan)[0];
    assert_eq!((kind, payload.len()), (kind::ERASED, len - RECORD_HEADER));
    let marker = ErasedRecord::decode(payload).unwrap();
    assert_eq!(
        (marker.crc, marker.kind, marker.fixed),
        (crc, kind::MESSAGE, &fixed[..])
    );
    assert!(payload[erased::FIXED + 72..].iter().all(|&byte| byte == 0));
    let message = marker.message().unwrap();
    assert_eq!((message.id, message.recipients), ([1; 16], 1));
    assert_eq!((marker.event(), marker.message_id()), (None, Some([1; 16])));
}

#[test]
fn every_flipped_bit_of_an_erased_record_is_found_and_costs_only_it() {
    let mut image = SegmentImage::new(header(LogKind::Mail, 1, SEGMENT_SIZE_MIN));
    let kinds = [
        (kind::MESSAGE, message(1, 2, CONTENT)),
        (kind::EVENT, event(2, 1, event_kind::BOUNCED)),
        (
            kind::CONTENT,
            [&ContentRecord::head([3; 16], 0)[..], CONTENT].concat(),
        ),
    ];
    let offsets = kinds.map(|(kind, payload)| image.append(kind, 0, &payload).unwrap());
    image.seal().unwrap();
    let header = image.header().clone();
    let mut bytes = image.into_bytes();
    for offset in offsets {
        erase(&mut bytes, offset, header.seed());
    }
    let whole = records(scan::sealed(&bytes.clone(), &header, header.size))
        .into_iter()
        .map(|(offset, kind, payload)| (offset, kind, payload.to_vec()))
        .collect::<Vec<_>>();
    let ends = frames(&bytes, &header);
    for offset in offsets {
        let (from, to, _) = *ends.iter().find(|frame| frame.0 == offset).unwrap();
        for at in from as usize..to as usize {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let scan = scan::sealed(&bytes, &header, header.size);
                let damage = damages(scan.clone());
                assert_eq!(damage.len(), 1, "byte {at} bit {bit}: {damage:?}");
                assert_eq!(
                    (damage[0].offset, damage[0].offset + damage[0].len),
                    (from, to)
                );
                let found = records(scan);
                let mut expected = whole.iter().filter(|record| record.0 != offset);
                assert_eq!(found.len(), 2, "byte {at} bit {bit}");
                assert!(found.iter().all(|f| {
                    expected
                        .next()
                        .is_some_and(|e| (f.0, f.1, f.2) == (e.0, e.1, &e.2[..]))
                }));
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn a_payload_without_room_for_what_is_kept_is_not_erased() {
    let mut image = SegmentImage::new(header(LogKind::Event, 1, SEGMENT_SIZE_MIN));
    let padding = [Field::new(event_field::PADDING, &[0; 33])];
    let record = EventRecord {
        kind: event_kind::DELIVERED,
        at_unix_ms: 1,
        message_id: [1; 16],
        recipient_number: 0,
        fields: Fields::new(&padding),
    };
    let mut payload = Vec::new();
    record.encode(&mut payload).unwrap();
    let seed = image.header().seed();
    for (len, erasable) in [(payload.len(), false), (payload.len() + 1, true)] {
        payload.resize(len, 0);
        let offset = image.append(kind::EVENT, 0, &payload).unwrap();
        let frame = frame::read(image.bytes(), offset, seed).unwrap();
        assert_eq!(ErasedRecord::of(&frame).is_some(), erasable, "{len}");
    }
    for kind in [kind::PADDING, kind::COMMIT, kind::ERASED, kind::VOID, 200] {
        let offset = image.append(kind, 0, &[9; 200]).unwrap();
        let frame = frame::read(image.bytes(), offset, seed).unwrap();
        assert_eq!(ErasedRecord::of(&frame), None, "kind {kind}");
    }
}

#[test]
fn an_erased_record_that_kept_nothing_or_lies_says_nothing() {
    let write = |kind, fixed: &[u8]| {
        let mut payload = vec![0; 200];
        let record = ErasedRecord {
            crc: 1,
            kind,
            digest: [2; 32],
            fixed,
        };
        record.write(&mut payload).unwrap();
        payload
    };
    for kind in [kind::MESSAGE, kind::CONTENT, kind::EVENT, kind::VOID, 200] {
        let payload = write(kind, &[]);
        let decoded = ErasedRecord::decode(&payload).unwrap();
        assert_eq!(decoded.fixed, &[][..]);
        assert_eq!(decoded.message_id(), None);
        assert!(decoded.event().is_none() && decoded.message().is_none());
    }
    let mut fixed = message(1, 2, CONTENT)[..72].to_vec();
    assert!(
        ErasedRecord::decode(&write(kind::MESSAGE, &fixed))
            .unwrap()
            .message()
            .is_some()
    );
    fixed[46] = 9;
    assert!(
        ErasedRecord::decode(&write(kind::MESSAGE, &fixed))
            .unwrap()
            .message()
            .is_none()
    );
    for len in 0..erased::FIXED {
        assert!(
            ErasedRecord::decode(&write(kind::EVENT, &[1; 32])[..len]).is_err(),
            "{len}"
        );
    }
}

#[test]
fn what_lies_behind_the_end_of_a_segment_that_was_left_means_nothing() {
    let mut image = SegmentImage::new(header(LogKind::Mail, 1, 16 * 4096));
    image
        .append(kind::MESSAGE, 0, &message(1, 1, CONTENT))
        .unwrap();
    image.commit().unwrap();
    let end = image.tail();
    image
        .append(kind::MESSAGE, 0, &message(2, 1, CONTENT))
        .unwrap();
    let header = image.header().clone();
    let mut bytes = image.into_bytes();
    for fill in [None, Some(0), Some(0xAA)] {
        if let Some(fill) = fill {
            bytes[end as usize..].fill(fill);
        }
        let scan = scan::sealed(&bytes, &header, end);
        assert_eq!(damages(scan.clone()), []);
        assert_eq!(records(scan).len(), 1);
    }
}

#[test]
fn payloads_that_lie_about_their_lengths_are_refused() {
    let payload = message(1, 3, CONTENT);
    for at in 0..payload.len() - CONTENT.len() {
        for value in [0, 1, 0x7F, 0xFF] {
            let mut bytes = payload.clone();
            bytes[at] = value;
            if let Ok(record) = MessageRecord::decode(&bytes) {
                assert_eq!(record.content.len(), CONTENT.len() as u64);
                assert_eq!(record.recipients.iter().count(), 3);
                assert_eq!(
                    MessageRecord::inline_range(&bytes).unwrap().unwrap().len(),
                    CONTENT.len()
                );
            }
        }
    }
    for len in 0..payload.len() {
        assert!(
            MessageRecord::decode(&payload[..len]).is_err(),
            "length {len}"
        );
        assert!(
            MessageRecord::inline_range(&payload[..len]).is_err(),
            "length {len}"
        );
    }
    let event = event(1, 2, event_kind::DEFERRED);
    for len in 0..event.len() {
        let decoded = EventRecord::decode(&event[..len]);
        // Cut between two fields it is an event with fewer fields.
        assert!(
            decoded.is_err() || decoded.unwrap().fields.len() < 3,
            "length {len}"
        );
    }
}

#[test]
fn a_header_that_this_version_cannot_read_says_so() {
    let whole = header(LogKind::Mail, 1, SEGMENT_SIZE_MIN).encode();
    let with = |at: usize, value: &[u8]| {
        let mut page = whole;
        for copy in [0, header::COPY] {
            page[copy + at..copy + at + value.len()].copy_from_slice(value);
            let mut covered = page[copy..copy + header::CRC].to_vec();
            covered.extend_from_slice(&page[copy + header::NUMBER..copy + header::COPY]);
            let crc = crc32c::crc32c(&covered).to_le_bytes();
            page[copy + header::CRC..copy + header::NUMBER].copy_from_slice(&crc);
        }
        SegmentHeader::decode(&page)
    };
    assert!(with(header::EPOCH, &[9]).is_ok_and(|header| header.epoch == 9));
    assert_eq!(with(header::VERSION, &[2]), Err(HeaderError::Newer(2)));
    assert_eq!(
        with(header::VERSION, &[0]),
        Err(HeaderError::Field("version"))
    );
    assert_eq!(
        with(header::LOG_KIND, &[3]),
        Err(HeaderError::Field("log kind"))
    );
    assert_eq!(
        with(header::FEATURES, &[1]),
        Err(HeaderError::Field("features"))
    );
    assert_eq!(with(header::SIZE, &[1]), Err(HeaderError::Field("size")));
    assert_eq!(
        with(header::SIZE + 1, &[0x10]),
        Err(HeaderError::Field("size"))
    );
    assert_eq!(
        with(header::FIRST_POSITION + 6, &[0x20]),
        Err(HeaderError::Field("first position"))
    );
    assert_eq!(
        with(header::PREVIOUS_END + 1, &[0x10]),
        Err(HeaderError::Field("previous end"))
    );
    assert_eq!(with(header::MAGIC, b"x"), Err(HeaderError::Magic));
    let mut page = whole;
    page[100] = 1;
    page[header::COPY + 100] = 1;
    assert_eq!(SegmentHeader::decode(&page), Err(HeaderError::Checksum));
}
