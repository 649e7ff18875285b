//! Every released version of the format stays readable: `testdata/vN` holds segments and what is in them.
//!
//! The files are never rewritten. A missing one is made here, so that a new version begins with a new
//! directory; while a version is current, what the code writes is compared with its files byte by byte.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use common::listing::listing;
use common::*;
use spool_format::layout::*;
use spool_format::*;

const SIZE: u64 = 5 * PAGE_OFFSET;

/// Each kind of record that belongs in a mail log, sealed.
fn mail() -> Vec<u8> {
    let mut image = SegmentImage::new(header(LogKind::Mail, 1, SIZE));
    image
        .append(kind::MESSAGE, 0, &message(1, 3, CONTENT))
        .unwrap();
    let first_part = image
        .append(kind::CONTENT, 0, &part(2, 0, b"Subject: long\r\n\r\n"))
        .unwrap();
    let second_part = image
        .append(kind::CONTENT, 0, &part(2, 1, b"Hello.\r\n"))
        .unwrap();
    image.commit().unwrap();

    let parts = [
        ContentPart {
            position: first_part,
            len: 17,
        },
        ContentPart {
            position: second_part,
            len: 8,
        },
    ];
    let inline = message(2, 1, CONTENT);
    let mut long = Vec::new();
    let record = MessageRecord {
        header_len: 17,
        reverse_path: "",
        tag: None,
        stream_kind: StreamKind::Broadcast,
        content: Content::Records(List::new(&parts)),
        ..MessageRecord::decode(&inline).unwrap()
    };
    record.encode_head(&mut long).unwrap();
    image.append(kind::MESSAGE, 0, &long).unwrap();
    let erased = image
        .append(kind::MESSAGE, 0, &message(3, 1, CONTENT))
        .unwrap();
    image.pad(104).unwrap();
    image.pad(8).unwrap();
    let void = VoidRecord {
        from: 4096,
        to: 4096,
    };
    image.append(kind::VOID, 0, &void.encode()).unwrap();
    image.append(200, 9, b"a kind of a later version").unwrap();
    image.seal().unwrap();

    let header = image.header().clone();
    let mut bytes = image.into_bytes();
    let old = frame::read(&bytes, erased, header.seed()).unwrap();
    let (len, marker) = (
        old.record_len,
        ErasedRecord {
            crc: old.crc,
            kind: old.kind,
            digest: [0; 32],
            // As an early writer did: nothing kept.
            fixed: &[],
        },
    );
    let at = usize::try_from(erased).unwrap();
    let record = &mut bytes[at..at + frame::padded_len(len)];
    marker.write(&mut record[record::PAYLOAD..len]).unwrap();
    frame::seal(record, len, kind::ERASED, 0, header.seed(), erased);
    bytes
}

fn part(id: u8, number: u32, octets: &[u8]) -> Vec<u8> {
    [&ContentRecord::head([id; 16], number), octets].concat()
}

/// Events of every kind, over the bytes of an earlier life; the log was stopped with two of them uncommitted.
fn events() -> Vec<u8> {
    let mut old = header(LogKind::Event, 2, SIZE);
    old.salt = [0xEE; 16];
    let mut earlier = SegmentImage::new(old);
    for id in 0..30 {
        earlier
            .append(kind::EVENT, 0, &event(id, 0, event_kind::DELIVERED))
            .unwrap();
    }
    earlier.seal().unwrap();

    let mut new = header(LogKind::Event, 2, SIZE);
    new.previous_end = 2 * PAGE_OFFSET;
    new.epoch = 4;
    let mut image = SegmentImage::over(new, earlier.into_bytes());
    for number in 0..7 {
        image
            .append(kind::EVENT, 0, &event(9, number, number + 1))
            .unwrap();
    }
    image.commit().unwrap();
    for number in 7..14 {
        image
            .append(kind::EVENT, 0, &event(9, number, number + 1))
            .unwrap();
    }
    image.commit().unwrap();
    image
        .append(kind::EVENT, 0, &event(10, 0, event_kind::DEFERRED))
        .unwrap();
    image
        .append(kind::EVENT, 0, &event(10, 1, event_kind::DEFERRED))
        .unwrap();
    image.into_bytes()
}

/// A flipped bit in the header and in an early batch, a sector lost in the last one.
fn damaged() -> Vec<u8> {
    let mut image = SegmentImage::new(header(LogKind::Mail, 7, SIZE));
    for id in [1, 2] {
        image
            .append(kind::MESSAGE, 0, &message(id, 1, CONTENT))
            .unwrap();
        image
            .append(kind::MESSAGE, 0, &message(id + 10, 1, CONTENT))
            .unwrap();
        image
            .append(kind::MESSAGE, 0, &message(id + 20, 2, CONTENT))
            .unwrap();
        image.commit().unwrap();
    }
    let mut bytes = image.into_bytes();
    bytes[30] ^= 4;
    bytes[PAGE + 400] ^= 1;
    bytes[2 * PAGE..2 * PAGE + 512].fill(0);
    bytes
}

/// Erased as before digests were kept.
fn erased() -> Vec<u8> {
    erased_by(erase_without_digest)
}

/// Erased as this version does it.
fn erased_with_digest() -> Vec<u8> {
    erased_by(erase)
}

/// A message, a piece of content, an event, and one between records that stay.
fn erased_by(erase: fn(&mut [u8], u64, Seed)) -> Vec<u8> {
    let mut image = SegmentImage::new(header(LogKind::Mail, 9, SIZE));
    let mut offsets = Vec::new();
    let octets = [b'x'; 300];
    let event = event(2, 1, event_kind::DELIVERED);
    for (kind, payload) in [
        (kind::MESSAGE, message(1, 2, CONTENT)),
        (kind::CONTENT, part(2, 5, &octets)),
        // Events belong into the other log; what an erased one keeps does not depend on that.
        (kind::EVENT, event),
        (kind::MESSAGE, message(3, 1, CONTENT)),
        (kind::MESSAGE, message(4, 1, CONTENT)),
    ] {
        offsets.push(image.append(kind, 2, &payload).unwrap());
    }
    image.seal().unwrap();
    offsets.pop();
    offsets.remove(3);
    let header = image.header().clone();
    let mut bytes = image.into_bytes();
    for offset in offsets {
        erase(&mut bytes, offset, header.seed());
    }
    bytes
}

type Sample = (&'static str, fn() -> Vec<u8>);

const SAMPLES: [Sample; 5] = [
    ("mail", mail),
    ("events", events),
    ("damaged", damaged),
    ("erased", erased),
    ("erased-with-digest", erased_with_digest),
];

fn path(name: &str, extension: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/v{VERSION}"));
    dir.join(name).with_extension(extension)
}

/// Writes the files that are missing.
static MADE: LazyLock<()> = LazyLock::new(|| {
    for (name, make) in SAMPLES {
        let bytes = make();
        if !path(name, "seg").exists() {
            fs::create_dir_all(path(name, "seg").parent().unwrap()).unwrap();
            fs::write(path(name, "seg"), &bytes).unwrap();
            fs::write(path(name, "txt"), listing(&bytes)).unwrap();
        }
    }
});

#[test]
fn the_files_of_this_version_are_written_as_ever() {
    LazyLock::force(&MADE);
    for (name, make) in SAMPLES {
        let bytes = make();
        assert!(
            fs::read(path(name, "seg")).unwrap() == bytes,
            "{name} is written differently"
        );
    }
}

#[test]
fn every_file_of_every_version_holds_what_its_text_says() {
    LazyLock::force(&MADE);
    let versions = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut checked = 0;
    for version in fs::read_dir(versions).unwrap() {
        for file in fs::read_dir(version.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "seg") {
                let text = fs::read_to_string(file.with_extension("txt")).unwrap();
                assert_eq!(
                    listing(&fs::read(&file).unwrap()),
                    text,
                    "{}",
                    file.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= SAMPLES.len());
}

/// `read_spool.py` was written from FORMAT.md: where both readers agree, the page says enough.
#[test]
fn a_reader_written_from_the_page_alone_finds_the_same() {
    LazyLock::force(&MADE);
    let Ok(version) = Command::new("python3").arg("--version").output() else {
        eprintln!("no python3: the independent reader was not run");
        return;
    };
    assert!(version.status.success());
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_spool.py");
    for (name, _) in SAMPLES {
        let output = Command::new("python3")
            .arg(&reader)
            .arg("list")
            .arg(path(name, "seg"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.is_empty(), "{name}: {error}");
        let text = fs::read_to_string(path(name, "txt")).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{name}");
        let expected = if name == "damaged" { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{name}");
    }
}
