//! Files that are no segments, read by `read_spool.py` (written from FORMAT.md alone) and by this crate: both must find the
//! same. Segments are compared in `golden.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use spool_format::archive::Archive;
use spool_format::layout::*;
use spool_format::scan::Item;
use spool_format::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Exit code and output of the other reader; `None` where there is no Python.
fn read_by_the_other(command: &str, file: &Path) -> Option<(i32, String)> {
    let reader = root().join("tests/read_spool.py");
    let output = Command::new("python3")
        .args([reader.as_path(), Path::new(command), file])
        .output();
    let Ok(output) = output else {
        eprintln!("no python3: the independent reader was not run");
        return None;
    };
    let code = output.status.code().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((code, String::from_utf8(text).unwrap()))
}

/// A file that is gone with the value.
struct Temporary(PathBuf);

impl Temporary {
    fn with(name: &str, bytes: &[u8]) -> Self {
        let name = format!("posthaste-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_archive_says_the_same_to_both() {
    let path = root().join("testdata/v1/mail.arc");
    let bytes = std::fs::read(&path).unwrap();
    let archive = Archive::parse(&bytes).unwrap();
    let (header, footer) = (&archive.header, &archive.footer);
    let mut text = String::new();
    writeln!(
        text,
        "archive log=mail number={} first_position={} raw_len={} records={} oldest={} youngest={} archived={}",
        header.number,
        header.first_position,
        footer.raw_len,
        footer.records,
        footer.oldest_unix_ms,
        footer.youngest_unix_ms,
        footer.archived_unix_ms
    )
    .unwrap();
    for (number, frame) in archive.tables.frames.iter().enumerate() {
        let (offset, len, crc) = (frame.offset, frame.len, frame.crc);
        writeln!(
            text,
            "frame {number} offset={offset} len={len} crc={crc:08x}"
        )
        .unwrap();
    }
    for (number, stream) in archive.tables.streams.iter().enumerate() {
        writeln!(
            text,
            "stream {number} server={} \"{}\" records={} oldest={} youngest={}",
            stream.key.server_id,
            stream.key.stream_id,
            stream.records,
            stream.oldest_unix_ms,
            stream.youngest_unix_ms
        )
        .unwrap();
    }
    for (message, key) in &archive.tables.owners {
        let streams = &archive.tables.streams;
        let stream = streams.iter().position(|s| s.key == *key).unwrap();
        writeln!(text, "owner message={} stream={stream}", hex(message)).unwrap();
    }
    // Where Python can decompress, the records follow.
    if let Some((code, found)) = read_by_the_other("list", &path) {
        assert!(found.starts_with(&text), "{found}\n{text}");
        assert_eq!(code, 0);
    }
}

#[test]
fn a_broken_archive_is_refused_by_both_or_its_frame_is_named() {
    let whole = std::fs::read(root().join("testdata/v1/mail.arc")).unwrap();
    let frame = Archive::parse(&whole).unwrap().tables.frames[0];
    for at in (0..whole.len()).step_by(89) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        let file = Temporary::with("broken.arc", &bytes);
        let Some((code, found)) = read_by_the_other("verify", &file.0) else {
            return;
        };
        assert_ne!(code, 0, "byte {at}: {found}");
        let in_frame = (frame.offset..frame.offset + u64::from(frame.len)).contains(&(at as u64));
        let ours = Archive::parse(&bytes);
        match ours {
            // The header's copy in the first frame serves us, and the other reader says that this one is broken.
            Ok(archive) if in_frame => assert!(archive.frame(0).is_err(), "byte {at}"),
            Ok(_) => assert!(at < 2064, "byte {at}"),
            Err(_) => assert!(!in_frame, "byte {at}"),
        }
    }
}

#[test]
fn a_redo_journal_says_the_same_to_both() {
    let image = small_sealed();
    let header = image.header();
    let frames = scan::sealed(image.bytes(), header, header.size).filter_map(|item| match item {
        Item::Record(frame) if frame.kind == kind::MESSAGE => Some(frame),
        _ => None,
    });
    let entries: Vec<_> = frames
        .filter_map(|frame| RedoEntry::of(header, &frame))
        .collect();
    assert!(entries.len() > 2);
    let mut text = String::new();
    writeln!(text, "journal entries={} created=77", entries.len()).unwrap();
    for entry in &entries {
        writeln!(
            text,
            "erase log=mail segment={} offset={} kind={} flags={} len={} crc={:08x} salt={} digest={}",
            entry.segment,
            entry.offset,
            entry.kind,
            entry.flags,
            entry.record_len,
            entry.crc,
            hex(&entry.salt),
            hex(&entry.digest)
        )
        .unwrap();
    }
    let mut bytes = redo::encode(&entries, 77);
    let file = Temporary::with("whole.redo", &bytes);
    if let Some(found) = read_by_the_other("list", &file.0) {
        assert_eq!(found, (0, text));
    }
    for at in (8..bytes.len()).step_by(31) {
        bytes[at] ^= 1;
        let file = Temporary::with("broken.redo", &bytes);
        assert!(redo::decode(&bytes).is_err(), "byte {at}");
        if let Some((code, _)) = read_by_the_other("list", &file.0) {
            assert_eq!(code, 2, "byte {at}");
        }
        bytes[at] ^= 1;
    }
}

/// A base of two messages with everything that an entry can have, and what the page says that it holds.
fn a_checkpoint() -> (Vec<u8>, String) {
    let header = CheckpointHeader {
        form: spool_format::checkpoint::Form::Base,
        number: 9,
        base: 9,
        mail_from: 0,
        mail_to: 1 << 40,
        event_to: 123_456,
        created_unix_ms: 1_800_000_000_000,
        salt: [0xA5; 16],
    };
    let gaps = CheckpointGaps {
        mail: vec![(4_096, 70_000_000), (1 << 41, 1 << 42)],
        events: vec![(0, 4_096)],
    };
    let mut names = Names::default();
    let (mut writing, mut bytes) =
        spool_format::checkpoint::Writing::start(&header, &gaps).unwrap();
    let mut text = String::from(
        "checkpoint form=1 number=9 base=9 mail=0..1099511627776 event=123456 created=1800000000000\n\
         gap mail 4096..70000000\ngap mail 2199023255552..4398046511104\ngap event 0..4096\n",
    );
    for (id, recipients, position) in [(1_u8, 3, 8_192_u64), (2, 1, 4_096)] {
        let mut message = LiveMessage::default();
        let payload = common::message(id, recipients, CONTENT);
        message.read(position, 0, &payload, &mut names).unwrap();
        (message.deadline, message.release_at) = match id {
            1 => (0, 0),
            _ => (1_900_000_000_000, 1_850_000_000_000),
        };
        message.tag = u16::from(id) * 700 - 700;
        message.parts = (0..u64::from(id) - 1).map(|n| 4_200 + 600 * n).collect();
        for (number, recipient) in message.recipients.iter_mut().enumerate() {
            recipient.announced = number % 2 == 0;
            recipient.refused = number == 1;
            recipient.attempts = number as u16 * 300;
            recipient.ambiguous = number as u8 * 2;
            recipient.next_attempt = number as u64 * 2_000_000_000_000;
        }
        writing.push(&message, &names).unwrap();
        let record = MessageRecord::decode(&payload).unwrap();
        writeln!(
            text,
            "message id={} position={position} accepted={} content={} flags=0 deadline={} release={} tag={} server=7 \"shop\" stream=\"outbound\" kind=1 pool=\"tx\"",
            hex(&record.id),
            record.accepted_unix_ms,
            CONTENT.len(),
            message.deadline,
            message.release_at,
            message.tag
        )
        .unwrap();
        for recipient in &message.recipients {
            writeln!(
                text,
                "  recipient {} \"example.net\" announced={} refused={} attempts={} ambiguous={} next_attempt={}",
                recipient.number,
                u8::from(recipient.announced),
                u8::from(recipient.refused),
                recipient.attempts,
                recipient.ambiguous,
                recipient.next_attempt
            )
            .unwrap();
        }
        for part in &message.parts {
            writeln!(text, "  part position={part}").unwrap();
        }
    }
    writing.finish(&mut bytes).unwrap();
    text += "pool kind=1 \"tx\"\nend messages=2 recipients=4 copies=0\n";
    (bytes, text)
}

#[test]
fn a_checkpoint_says_the_same_to_both() {
    let (mut bytes, text) = a_checkpoint();
    let file = Temporary::with("whole.ckp", &bytes);
    if let Some(found) = read_by_the_other("list", &file.0) {
        assert_eq!(found, (0, text));
    }
    for at in (8..bytes.len()).step_by(17) {
        bytes[at] ^= 4;
        let file = Temporary::with("broken.ckp", &bytes);
        if let Some((code, found)) = read_by_the_other("list", &file.0) {
            assert_eq!(code, 2, "byte {at}: {found}");
        }
        bytes[at] ^= 4;
    }
}

#[test]
fn digests_are_what_the_page_says() {
    let mut before = [0; 32];
    let mut file = digest::Digests::header().to_vec();
    let mut expected = String::new();
    for name in ["mail", "events", "erased", "erased-with-digest"] {
        let path = root().join(format!("testdata/v1/{name}.seg"));
        let segment = std::fs::read(&path).unwrap();
        let header = SegmentHeader::decode(&segment).unwrap();
        let entry = digest::Entry::of(&segment, &header, header.size, 7);
        let digest = hex(&entry.sum.digest);
        let Some(said) = read_by_the_other("digest", &path) else {
            return;
        };
        assert_eq!(
            said,
            (0, format!("{digest} {}\n", entry.sum.records)),
            "{name}"
        );
        let (bytes, chain) = entry.encode(&before);
        file.extend_from_slice(&bytes);
        before = chain;
        writeln!(
            expected,
            "digest log={} segment={} first_position={} end={} salt={} written=7 records={} digest={digest} follows=1",
            log(&header),
            header.number,
            header.first_position,
            header.size,
            hex(&header.salt),
            entry.sum.records,
        )
        .unwrap();
    }
    file.extend_from_slice(b"a torn entry");
    let whole = Temporary::with("digests", &file);
    assert_eq!(read_by_the_other("list", &whole.0), Some((0, expected)));
    // One that was left out: the next does not follow.
    file.drain(16..16 + digest_entry::SIZE);
    let without = Temporary::with("digests-without", &file);
    assert_eq!(read_by_the_other("verify", &without.0).unwrap().0, 1);
}

fn log(header: &SegmentHeader) -> &'static str {
    match header.kind {
        LogKind::Mail => "mail",
        LogKind::Event => "event",
    }
}
