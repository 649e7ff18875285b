//! The journal of an erasure: what is named is erased, whatever became of it; nothing else is touched.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::*;
use spool_format::layout::*;
use spool_format::*;

fn sample() -> (SegmentImage, Vec<RedoEntry>) {
    let image = small_sealed();
    let header = image.header().clone();
    let entries = scan::sealed(image.bytes(), &header, header.size)
        .filter_map(|item| match item {
            scan::Item::Record(frame) => RedoEntry::of(&header, &frame),
            scan::Item::Damage(damage) => panic!("{damage:?}"),
        })
        .collect::<Vec<_>>();
    assert_eq!(entries.len(), 5, "every message, nothing else");
    (image, entries)
}

#[test]
fn what_a_journal_names_is_erased_whatever_bytes_are_there() {
    let (image, entries) = sample();
    let header = image.header().clone();
    let expected = {
        let mut bytes = image.bytes().to_vec();
        for entry in &entries {
            erase(&mut bytes, entry.offset, header.seed());
        }
        bytes
    };
    let journal = redo::encode(&entries, 5);
    for fill in [None, Some(0), Some(0xA5)] {
        let mut bytes = image.bytes().to_vec();
        for entry in redo::decode(&journal).unwrap() {
            let start = usize::try_from(entry.offset).unwrap();
            let len = usize::try_from(entry.record_len).unwrap();
            if let Some(fill) = fill {
                bytes[start..start + len / 2].fill(fill);
            }
            entry.apply(&header, &mut bytes);
            entry.apply(&header, &mut bytes);
        }
        assert!(bytes == expected, "{fill:?}");
    }
    assert_eq!(damages(scan::sealed(&expected, &header, header.size)), []);
}

#[test]
fn every_flipped_bit_of_a_journal_and_every_cut_is_found() {
    let (_, entries) = sample();
    let mut journal = redo::encode(&entries, 5);
    assert_eq!(redo::decode(&journal).as_ref(), Ok(&entries));
    for at in 0..journal.len() {
        for bit in 0..8 {
            journal[at] ^= 1 << bit;
            assert!(redo::decode(&journal).is_err(), "byte {at} bit {bit}");
            journal[at] ^= 1 << bit;
        }
        assert!(redo::decode(&journal[..at]).is_err(), "length {at}");
    }
    assert_eq!(redo::decode(&redo::encode(&[], 0)), Ok(Vec::new()));
}

#[test]
fn an_entry_is_not_for_another_life_of_the_file() {
    let (image, entries) = sample();
    let entry = entries[0];
    let header = image.header().clone();
    assert!(entry.is_in(&header));
    for other in [
        SegmentHeader {
            salt: [9; 16],
            ..header.clone()
        },
        SegmentHeader {
            number: 4,
            ..header.clone()
        },
        SegmentHeader {
            kind: LogKind::Event,
            ..header.clone()
        },
    ] {
        assert!(!entry.is_in(&other), "{other:?}");
    }
    let behind = RedoEntry {
        offset: header.size - 8,
        ..entry
    };
    assert!(!behind.is_in(&header));
}

#[test]
fn entries_that_could_not_be_are_refused_even_with_a_matching_checksum() {
    let (_, entries) = sample();
    let entry = entries[0];
    for wrong in [
        RedoEntry { offset: 0, ..entry },
        RedoEntry {
            offset: entry.offset + 4,
            ..entry
        },
        RedoEntry {
            record_len: 16 + 111,
            ..entry
        },
        RedoEntry {
            kind: kind::VOID,
            ..entry
        },
        RedoEntry {
            kind: kind::COMMIT,
            ..entry
        },
    ] {
        assert!(
            redo::decode(&redo::encode(&[wrong], 0)).is_err(),
            "{wrong:?}"
        );
    }
}
