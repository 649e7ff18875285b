//! Archives give back what was put in, and find every broken byte.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{CONTENT, event, header, message};
use spool_format::archive::{
    self, Archive, ArchiveError, Contents, Footer, Owners, StreamKey, ledger,
};
use spool_format::layout::{
    self, ARCHIVE_FRAME, PAGE_OFFSET, VERSION, archive_footer, archive_header, event_kind, kind,
};
use spool_format::scan::{self, Item};
use spool_format::{
    Content, ContentPart, ContentRecord, ErasedRecord, List, LogKind, MessageRecord, SegmentHeader,
    SegmentImage,
};

const NOW: u64 = 1_785_000_999_999;
/// Of the messages that `common::message` makes.
const ACCEPTED: u64 = 1_785_000_000_123;

fn stream(server_id: u32, stream_id: &str) -> StreamKey {
    let stream_id = stream_id.to_owned();
    StreamKey {
        server_id,
        stream_id,
    }
}

/// A sealed segment of the mail log with `count` messages, and content of message 200, whose message record is elsewhere.
fn segment(count: u8, len: usize) -> (SegmentHeader, Vec<u8>) {
    let size =
        (u64::from(count) * (len as u64 + 600) + 4 * PAGE_OFFSET).next_multiple_of(PAGE_OFFSET);
    let header = header(LogKind::Mail, 3, size);
    let mut image = SegmentImage::new(header.clone());
    for id in 0..count {
        let content: Vec<u8> = (0..len).map(|n| (n / 7) as u8 ^ id).collect();
        image
            .append(kind::MESSAGE, 0, &message(id, 2, &content))
            .unwrap();
        if id % 3 == 2 {
            image.commit().unwrap();
        }
    }
    let octets = [&ContentRecord::head([200; 16], 0)[..], &[b'x'; 500]].concat();
    image.append(kind::CONTENT, 0, &octets).unwrap();
    image.commit().unwrap();
    let end = scan::tail(image.bytes(), &header).durable_end;
    let mut bytes = image.into_bytes();
    bytes.truncate(end as usize);
    (header, bytes)
}

fn settle(header: &SegmentHeader, raw: &mut [u8], owners: &Owners) -> Contents {
    let end = raw.len() as u64;
    ledger::settle(
        raw,
        header,
        end,
        owners,
        &BTreeSet::new(),
        NOW,
        &mut |_, _, _| false,
    )
}

fn pack(header: &SegmentHeader, raw: &[u8], contents: &Contents) -> Vec<u8> {
    let mut file = Vec::new();
    let len = archive::encode(header, raw, contents, NOW, 1, |bytes| {
        file.extend_from_slice(bytes);
        Ok(())
    });
    assert_eq!(len.unwrap(), file.len() as u64);
    file
}

fn sample() -> (SegmentHeader, Vec<u8>, Vec<u8>) {
    let (header, mut raw) = segment(30, 20_000);
    let owners = Owners::from([([200; 16], stream(9, "news"))]);
    let contents = settle(&header, &mut raw, &owners);
    let file = pack(&header, &raw, &contents);
    (header, raw, file)
}

#[test]
fn what_is_decompressed_is_the_segment_byte_for_byte() {
    let (header, raw, file) = sample();
    assert!(raw.len() > 2 * ARCHIVE_FRAME && file.len() < raw.len() / 4);
    let archive = Archive::parse(&file).unwrap();
    assert_eq!(archive.header, header);
    assert!(archive.segment() == (raw.clone(), vec![]));
    assert_eq!(archive.footer.raw_len, raw.len() as u64);
    assert_eq!(archive.footer.archived_unix_ms, NOW);
    assert_eq!(archive.footer.records, 31);
    assert_eq!(archive.footer.frames_of(0, 1), 0..1);
    let frame = ARCHIVE_FRAME as u64;
    assert_eq!(archive.footer.frames_of(frame - 1, frame + 1), 0..2);
    assert_eq!(archive.footer.frames_of(frame, 2 * frame), 1..2);
}

#[test]
fn an_archive_knows_the_streams_that_are_in_it_and_their_times() {
    let (_, _, file) = sample();
    let tables = Archive::parse(&file).unwrap().tables;
    let spans: Vec<_> = tables
        .streams
        .iter()
        .map(|s| (s.key.clone(), s.records))
        .collect();
    assert_eq!(spans, [(stream(7, "outbound"), 30), (stream(9, "news"), 1)]);
    assert_eq!(tables.streams[0].oldest_unix_ms, ACCEPTED);
    assert_eq!(tables.streams[0].youngest_unix_ms, ACCEPTED);
    // The time in the id of the message.
    assert_eq!(tables.streams[1].oldest_unix_ms, 0xC8C8_C8C8_C8C8);
    assert_eq!(
        tables.owners,
        Owners::from([([200; 16], stream(9, "news"))])
    );
}

#[test]
fn content_finds_its_message_in_the_segment_or_is_said_to_be_missing_one() {
    let header = header(LogKind::Mail, 1, 16 * PAGE_OFFSET);
    let mut image = SegmentImage::new(header.clone());
    let mut parts = Vec::new();
    for id in [1u8, 2] {
        let octets = [&ContentRecord::head([id; 16], 0)[..], &[b'y'; 100]].concat();
        let position = image.append(kind::CONTENT, 0, &octets).unwrap();
        parts.push(ContentPart { position, len: 100 });
    }
    let inline = message(2, 1, CONTENT);
    let record = MessageRecord {
        header_len: 65,
        content: Content::Records(List::new(&parts[1..])),
        ..MessageRecord::decode(&inline).unwrap()
    };
    let mut payload = Vec::new();
    record.encode_head(&mut payload).unwrap();
    image.append(kind::MESSAGE, 0, &payload).unwrap();
    image
        .append(kind::MESSAGE, 0, &message(3, 1, CONTENT))
        .unwrap();
    image.commit().unwrap();
    let survey = ledger::survey(image.bytes(), &header, header.size);
    assert_eq!(
        survey.owners,
        Owners::from([([2; 16], stream(7, "outbound"))])
    );
    assert_eq!(survey.missing.into_iter().collect::<Vec<_>>(), [[1; 16]]);
}

#[test]
fn what_is_over_is_gone_and_the_segment_still_adds_up() {
    let (header, mut raw) = segment(9, 900);
    let end = raw.len() as u64;
    let mut number = 0;
    let mut is_over = |_: u64, key: &StreamKey, at: u64| {
        number += 1;
        assert!(*key == StreamKey::default() || at == ACCEPTED);
        number % 2 == 0
    };
    let contents = ledger::settle(
        &mut raw,
        &header,
        end,
        &Owners::new(),
        &BTreeSet::new(),
        NOW,
        &mut is_over,
    );
    assert_eq!((contents.records, contents.erased), (5, 5));
    let (mut kept, mut erased) = (0, 0);
    for item in scan::sealed(&raw, &header, end) {
        match item {
            Item::Record(frame) => match frame.kind {
                kind::MESSAGE | kind::CONTENT => kept += 1,
                kind::ERASED => {
                    erased += 1;
                    let old = ErasedRecord::decode(frame.payload).unwrap();
                    assert!(matches!(old.kind, kind::MESSAGE | kind::CONTENT));
                    let text = b"user0@example.net";
                    assert!(!frame.payload.windows(text.len()).any(|w| w == text));
                }
                _ => {}
            },
            Item::Damage(damage) => panic!("{damage:?}"),
        }
    }
    assert_eq!((kept, erased), (5, 5));
    // Once more, for all of them: what was erased stays as it is.
    let contents = ledger::settle(
        &mut raw,
        &header,
        end,
        &Owners::new(),
        &BTreeSet::new(),
        NOW,
        &mut |_, _, _| true,
    );
    assert_eq!((contents.records, contents.erased), (0, 5));
    assert_eq!(contents.streams, []);
    let survey = ledger::survey(&raw, &header, end);
    assert_eq!(survey.erased.len(), 9);
}

#[test]
fn content_of_a_message_that_is_no_more_goes_whatever_its_time() {
    let (header, mut raw) = segment(3, 900);
    let end = raw.len() as u64;
    let dead = BTreeSet::from([[200; 16], [1; 16]]);
    let mut is_over = |_: u64, _: &StreamKey, _: u64| false;
    let owners = Owners::new();
    let contents = ledger::settle(&mut raw, &header, end, &owners, &dead, NOW, &mut is_over);
    // The message record of [1; 16] says itself how long it is wanted.
    assert_eq!((contents.records, contents.erased), (3, 1));
}

#[test]
fn an_event_segment_tells_when_its_events_happened() {
    let header = header(LogKind::Event, 2, 8 * PAGE_OFFSET);
    let mut image = SegmentImage::new(header.clone());
    for number in 0..4 {
        let mut payload = event(9, number, event_kind::DEFERRED);
        let at = 1_000 - u64::from(number);
        payload[layout::event::AT_UNIX_MS..][..8].copy_from_slice(&at.to_le_bytes());
        image.append(kind::EVENT, 0, &payload).unwrap();
    }
    image.commit().unwrap();
    let contents = ledger::events(image.bytes(), &header, header.size);
    assert_eq!(
        (
            contents.records,
            contents.oldest_unix_ms,
            contents.youngest_unix_ms
        ),
        (4, 997, 1_000)
    );
}

/// What a reader makes of the file: the segment, or nothing where it cannot be told.
fn check_broken(file: &[u8], header: &SegmentHeader, raw: &[u8], at: usize) {
    let Ok(archive) = Archive::parse(file) else {
        return;
    };
    assert_eq!(archive.header, *header, "byte {at}");
    let (found, broken) = archive.segment();
    assert_eq!(found.len(), raw.len(), "byte {at}");
    for (number, (found, written)) in found
        .chunks(ARCHIVE_FRAME)
        .zip(raw.chunks(ARCHIVE_FRAME))
        .enumerate()
    {
        let start = (number * ARCHIVE_FRAME) as u64;
        let is_broken = broken.iter().any(|range| range.start == start);
        assert!(is_broken || found == written, "byte {at}, frame {number}");
    }
    // Only the beginning of the file is there twice.
    assert!(
        !broken.is_empty() || at < archive_header::FRAMES,
        "byte {at} is not missed"
    );
}

#[test]
fn every_flipped_bit_is_found_and_costs_its_frame_at_most() {
    let (header, mut raw) = segment(6, 3_000);
    let contents = settle(&header, &mut raw, &Owners::new());
    let file = pack(&header, &raw, &contents);
    for at in 0..file.len() {
        let mut broken = file.clone();
        broken[at] ^= 1 << (at % 8);
        check_broken(&broken, &header, &raw, at);
    }
}

#[test]
fn an_archive_that_was_cut_anywhere_is_none() {
    let (header, mut raw) = segment(4, 3_000);
    let contents = settle(&header, &mut raw, &Owners::new());
    let file = pack(&header, &raw, &contents);
    for len in 0..file.len() {
        assert!(Archive::parse(&file[..len]).is_err(), "{len}");
    }
}

#[test]
fn a_broken_frame_leaves_the_others_readable() {
    let (_, raw, mut file) = sample();
    let entry = Archive::parse(&file).unwrap().tables.frames[1];
    file[entry.offset as usize + 5] ^= 1;
    let archive = Archive::parse(&file).unwrap();
    assert_eq!(archive.frame(1), Err(ArchiveError::Frame(1)));
    let (found, broken) = archive.segment();
    let frame = ARCHIVE_FRAME;
    let lost = frame as u64..2 * frame as u64;
    assert_eq!(broken, std::slice::from_ref(&lost));
    assert!(found[..frame] == raw[..frame] && found[2 * frame..] == raw[2 * frame..]);
    assert!(found[frame..2 * frame].iter().all(|&byte| byte == 0));
}

/// A frame of a few bytes that would fill the memory: its length is not believed.
#[test]
fn a_frame_that_would_grow_beyond_its_size_is_refused() {
    let (_, _, file) = sample();
    let archive = Archive::parse(&file).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    assert!(bomb.len() < 10_000);
    let entry = archive::FrameEntry {
        offset: 0,
        len: bomb.len() as u32,
        crc: crc32c::crc32c(&bomb),
    };
    let refused = archive::decode_frame(&bomb, 0, &entry, &archive.footer);
    assert_eq!(refused, Err(ArchiveError::Frame(0)));
}

#[test]
fn an_archive_of_a_later_version_is_named_as_such() {
    let (_, _, mut file) = sample();
    file[archive_header::VERSION] = 9;
    assert_eq!(Archive::parse(&file).unwrap_err(), ArchiveError::Newer(9));
    let (_, _, mut file) = sample();
    let start = file.len() - archive_footer::LEN;
    file[start + archive_footer::VERSION] = 9;
    let crc = crc32c::crc32c(&file[start..start + archive_footer::CRC]);
    file[start + archive_footer::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    let refused = Footer::decode(&file, file.len() as u64);
    assert_eq!(refused, Err(ArchiveError::Newer(9)));
}

#[test]
fn an_archives_name_tells_its_segment() {
    let (header, _) = segment(1, 10);
    let name = archive::file_name_of(header.number, header.first_position);
    let expected = (header.number, header.first_position);
    assert_eq!(archive::parse_file_name(&name), Some(expected));
    for other in [
        "0000000000000001.seg",
        "0000000000000001.arc",
        "0000000000000001-00000000000000.arc",
        "000000000000000g-0000000000000000.arc",
        "0000000000000001-0000000000000000.arc.tmp",
    ] {
        assert_eq!(archive::parse_file_name(other), None, "{other}");
    }
}

/// `testdata/v1/mail.arc` is never rewritten: a later compressor makes other bytes of the same segment.
#[test]
fn the_archives_of_every_version_hold_their_segments() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let path = dir.join(format!("v{VERSION}/mail.arc"));
    if !path.exists() {
        let mut raw = fs::read(path.with_extension("seg")).unwrap();
        let header = SegmentHeader::decode(&raw).unwrap();
        let contents = settle(&header, &mut raw, &Owners::new());
        fs::write(&path, pack(&header, &raw, &contents)).unwrap();
    }
    let mut checked = 0;
    for version in fs::read_dir(dir).unwrap() {
        for file in fs::read_dir(version.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "arc") {
                let bytes = fs::read(&file).unwrap();
                let archive = Archive::parse(&bytes).unwrap();
                let raw = fs::read(file.with_extension("seg")).unwrap();
                assert!(archive.segment() == (raw, vec![]), "{}", file.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 0);
}
