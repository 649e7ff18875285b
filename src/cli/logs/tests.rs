//! Segments written by hand, read as the commands read them.

use spool_format::SegmentImage;

use super::*;

const SIZE: u64 = 16 * PAGE_OFFSET;

pub(in crate::cli) fn header(kind: LogKind, number: u64) -> SegmentHeader {
    let first_position = (number - 1) * SIZE;
    SegmentHeader {
        kind,
        number,
        first_position,
        size: SIZE,
        epoch: 0,
        created_unix_ms: 1_000,
        previous_end: first_position,
        salt: [number as u8; 16],
    }
}

fn store(dir: &Path, image: &SegmentImage) {
    let header = image.header();
    let dir = dir.join("spool").join(name(header.kind));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join(format!("{:016x}.seg", header.number)),
        image.bytes(),
    )
    .unwrap();
}

fn payloads(reader: &mut LogReader) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let flow = reader.read(&mut |_, frame| {
        found.push(frame.payload.to_vec());
        Flow::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    found
}

fn append(image: &mut SegmentImage, texts: &[&[u8]], commit: bool) {
    for text in texts {
        assert!(image.append(kind::EVENT, 0, text).is_some());
    }
    if commit {
        image.commit();
    }
}

#[test]
fn a_log_is_followed_from_commit_to_commit_and_over_the_end_of_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = SegmentImage::new(header(LogKind::Event, 1));
    append(&mut first, &[b"one", b"two"], true);
    append(&mut first, &[b"not yet"], false);
    store(dir.path(), &first);
    // Prepared ahead of need, as the engine does.
    let mut second = SegmentImage::new(header(LogKind::Event, 2));
    store(dir.path(), &second);

    let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
    assert_eq!(payloads(&mut reader), [b"one", b"two"]);
    assert_eq!(payloads(&mut reader), Vec::<Vec<u8>>::new());
    append(&mut first, &[b"three"], true);
    store(dir.path(), &first);
    assert_eq!(
        payloads(&mut reader),
        [b"not yet".to_vec(), b"three".to_vec()]
    );
    first.seal();
    store(dir.path(), &first);
    append(&mut second, &[b"four"], true);
    store(dir.path(), &second);
    assert_eq!(payloads(&mut reader), [b"four"]);
    assert_eq!(reader.damages(), []);
}

#[test]
fn reading_begins_at_a_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = SegmentImage::new(header(LogKind::Event, 1));
    append(&mut image, &[b"one", b"two", b"three"], true);
    store(dir.path(), &image);
    let mut positions = Vec::new();
    let mut all = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
    let _ = all.read(&mut |position, _| {
        positions.push(position);
        Flow::Continue(())
    });
    let mut reader = LogReader::open(dir.path(), LogKind::Event, positions[1]).unwrap();
    assert_eq!(payloads(&mut reader), [b"two".to_vec(), b"three".to_vec()]);
}

#[test]
fn a_broken_byte_costs_its_record_and_is_reported_in_followed_and_last_segments() {
    for followed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut image = SegmentImage::new(header(LogKind::Event, 1));
        append(&mut image, &[b"one"], true);
        append(&mut image, &[b"two"], true);
        append(&mut image, &[b"three"], true);
        store(dir.path(), &image);
        let path = dir.path().join("spool/event/0000000000000001.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = memchr::memmem::find(&bytes, b"two").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        if followed {
            let mut next = SegmentImage::new(header(LogKind::Event, 2));
            append(&mut next, &[b"four"], true);
            store(dir.path(), &next);
        }
        let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
        let expected: &[&[u8]] = if followed {
            &[b"one", b"three", b"four"]
        } else {
            &[b"one", b"three"]
        };
        assert_eq!(payloads(&mut reader), expected);
        let damages = reader.damages();
        let covering =
            |d: &Damage| d.segment == 1 && d.offset <= at as u64 && at as u64 <= d.offset + d.len;
        assert!(
            damages.iter().any(|d| covering(d) && d.acknowledged),
            "{damages:?}"
        );
        assert_eq!(payloads(&mut reader), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn damage_at_the_beginning_of_the_last_segment_hides_nothing_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = SegmentImage::new(header(LogKind::Event, 1));
    append(&mut first, &[b"zero"], true);
    first.seal();
    store(dir.path(), &first);
    let mut image = SegmentImage::new(header(LogKind::Event, 2));
    append(&mut image, &[b"one"], true);
    append(&mut image, &[b"two"], true);
    store(dir.path(), &image);
    store(dir.path(), &SegmentImage::new(header(LogKind::Event, 3)));
    let path = dir.path().join("spool/event/0000000000000002.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[PAGE_OFFSET as usize] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
    assert_eq!(payloads(&mut reader), [b"zero".to_vec(), b"two".to_vec()]);
    let damages = reader.damages();
    assert!(
        damages.iter().any(|d| d.segment == 2 && d.acknowledged),
        "{damages:?}"
    );
}

#[test]
fn what_a_restart_cut_off_is_neither_shown_nor_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = SegmentImage::new(header(LogKind::Event, 1));
    append(&mut first, &[b"one"], true);
    let end = first.header().first_position + 2 * PAGE_OFFSET;
    append(&mut first, &[b"never committed"], false);
    store(dir.path(), &first);
    let mut second = SegmentImage::new(SegmentHeader {
        previous_end: end,
        ..header(LogKind::Event, 2)
    });
    append(&mut second, &[b"two"], true);
    store(dir.path(), &second);
    let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
    assert_eq!(payloads(&mut reader), [b"one", b"two"]);
    assert_eq!(reader.damages(), []);
}

#[test]
fn a_missing_or_headless_segment_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    for number in [1, 3] {
        let mut image = SegmentImage::new(header(LogKind::Event, number));
        append(&mut image, &[b"x"], true);
        image.seal();
        store(dir.path(), &image);
    }
    let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
    assert_eq!(payloads(&mut reader).len(), 2);
    assert_eq!(reader.damages()[0].reason, "missing segment");
    std::fs::write(
        dir.path().join("spool/event/0000000000000002.seg"),
        vec![0; 8192],
    )
    .unwrap();
    let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
    assert_eq!(payloads(&mut reader).len(), 2);
    assert_eq!(
        reader
            .damages()
            .iter()
            .map(|d| d.reason.as_str())
            .collect::<Vec<_>>(),
        ["header"]
    );
}

#[test]
fn a_mail_segment_that_was_reclaimed_is_not_missing() {
    for reclaimed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut before = SegmentImage::new(header(LogKind::Mail, 1));
        append(&mut before, &[b"x"], true);
        before.seal();
        let mut after = SegmentImage::new(header(LogKind::Mail, 3));
        if reclaimed {
            let (from, to) = (
                before.header().next_position(),
                after.header().first_position,
            );
            let void = VoidRecord { from, to }.encode();
            assert!(after.append(kind::VOID, 0, &void).is_some());
        }
        append(&mut after, &[b"y"], true);
        store(dir.path(), &before);
        store(dir.path(), &after);
        let mut reader = LogReader::open(dir.path(), LogKind::Mail, 0).unwrap();
        assert_eq!(payloads(&mut reader).len(), 2);
        let missing = usize::from(!reclaimed);
        assert_eq!(reader.damages().len(), missing, "{:?}", reader.damages());
    }
}

#[test]
fn a_directory_without_a_spool_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let error = LogReader::open(dir.path(), LogKind::Mail, 0)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("holds no spool") && error.contains("--data-dir"),
        "{error}"
    );
}

#[test]
fn a_record_that_a_power_cut_left_half_erased_is_erased_and_no_damage() {
    for followed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut image = SegmentImage::new(header(LogKind::Event, 1));
        let named = [b'x'; 100];
        append(&mut image, &[b"one", &named, b"three"], true);
        append(&mut image, &[b"four"], true);
        if followed {
            image.seal();
            let mut second = SegmentImage::new(header(LogKind::Event, 2));
            append(&mut second, &[b"five"], true);
            store(dir.path(), &second);
        }
        store(dir.path(), &image);
        let path = dir.path().join("spool/event/0000000000000001.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = memchr::memmem::find(&bytes, &named).unwrap();
        let offset = (at - spool_format::layout::RECORD_HEADER) as u64;
        let header = image.header();
        let frame = frame::read(&bytes, offset, header.seed()).unwrap();
        let entry = spool_format::RedoEntry::of(header, &frame).unwrap();
        bytes[at + 50..at + 70].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
        let _ = payloads(&mut reader);
        assert_eq!(reader.damages().len(), 1);

        let journals = dir.path().join("spool/erase");
        std::fs::create_dir(&journals).unwrap();
        let journal = spool_format::redo::encode(&[entry], 1);
        std::fs::write(journals.join("0000000000000001.redo"), journal).unwrap();
        let mut reader = LogReader::open(dir.path(), LogKind::Event, 0).unwrap();
        let found = payloads(&mut reader);
        assert_eq!(reader.damages(), []);
        assert_eq!(found.len(), 4 + usize::from(followed));
        assert_eq!(found[1].len(), named.len());
        assert!(!found[1].windows(40).any(|bytes| bytes == &named[..40]));
    }
}
