//! What was written is read back.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::*;
use spool_format::layout::*;
use spool_format::*;

#[test]
fn a_sealed_segment_is_read_back_whole() {
    let image = small_sealed();
    let header = SegmentHeader::decode(image.bytes()).unwrap();
    assert_eq!(&header, image.header());
    let scan = || scan::sealed(image.bytes(), &header, header.size);
    assert_eq!(damages(scan()), []);
    let found = records(scan());
    assert_eq!(found.len(), 6);
    assert_eq!(found[4].1, 200);
    let message = MessageRecord::decode(found[3].2).unwrap();
    assert_eq!(message.content, Content::Inline(CONTENT));
    assert_eq!(
        message.recipients.get(0).unwrap().forward_path,
        "user0@example.net"
    );
    let tail = scan::tail(image.bytes(), &header);
    assert!(tail.sealed);
    assert_eq!(tail.durable_end, header.size);
    assert!(records(tail.items()) == found);
}

#[test]
fn what_was_not_committed_is_not_there() {
    let mut image = SegmentImage::new(header(LogKind::Event, 1, SEGMENT_SIZE_MIN));
    let empty = scan::tail(image.bytes(), image.header());
    assert_eq!((empty.durable_end, empty.uncommitted), (PAGE_OFFSET, 0));
    assert_eq!(empty.items().next(), None);
    image
        .append(kind::EVENT, 0, &event(1, 0, event_kind::DELIVERED))
        .unwrap();
    image.commit().unwrap();
    let second = image
        .append(kind::EVENT, 0, &event(2, 0, event_kind::BOUNCED))
        .unwrap();
    let tail = scan::tail(image.bytes(), image.header());
    assert_eq!(tail.durable_end, 2 * PAGE_OFFSET);
    assert_eq!((tail.uncommitted, tail.uncommitted_end), (1, image.tail()));
    assert!(!tail.sealed);
    assert_eq!(second, tail.durable_end);
    assert_eq!(records(tail.items()).len(), 1);
    assert_eq!(damages(tail.items()), []);
}

#[test]
fn bytes_of_the_files_earlier_life_do_not_verify() {
    let old = small_sealed();
    let mut header = old.header().clone();
    header.salt[0] ^= 1;
    let new = SegmentImage::over(header, old.into_bytes());
    let tail = scan::tail(new.bytes(), new.header());
    assert_eq!((tail.durable_end, tail.uncommitted), (PAGE_OFFSET, 0));
    // Read as if it were full, it is damage and nothing else.
    let scan = scan::sealed(new.bytes(), new.header(), new.header().size);
    assert_eq!(records(scan), []);
}

#[test]
fn padding_fills_every_gap_even_one_of_eight_bytes() {
    for spare in (0..=64).step_by(8) {
        let mut image = SegmentImage::new(header(LogKind::Mail, 1, SEGMENT_SIZE_MIN));
        let payload = vec![7; PAGE - COMMIT_RECORD_LEN - RECORD_HEADER - spare];
        image.append(kind::MESSAGE, 0, &payload).unwrap();
        image.commit().unwrap();
        assert_eq!(image.tail(), 2 * PAGE_OFFSET, "{spare} to spare");
        image
            .append(kind::MESSAGE, 0, &vec![8; PAGE - RECORD_HEADER - spare])
            .unwrap();
        image.seal().unwrap();
        assert_eq!(image.tail(), image.header().size);
        let scan = scan::sealed(image.bytes(), image.header(), image.header().size);
        assert_eq!(damages(scan.clone()), []);
        assert_eq!(records(scan).len(), 2);
    }
}

#[test]
fn long_content_is_found_by_its_parts() {
    let parts = [
        ContentPart {
            position: 4096,
            len: 1_000_000,
        },
        ContentPart {
            position: 1_100_000,
            len: 5,
        },
    ];
    let payload = message(1, 2, CONTENT);
    let inline = MessageRecord::decode(&payload).unwrap();
    let record = MessageRecord {
        content: Content::Records(List::new(&parts)),
        ..inline
    };
    let mut out = Vec::new();
    record.encode_head(&mut out).unwrap();
    assert_eq!(out.len(), record.head_len());
    let decoded = MessageRecord::decode(&out).unwrap();
    assert_eq!(decoded, record);
    assert_eq!(decoded.content.len(), 1_000_005);
    assert_eq!(MessageRecord::inline_range(&out), Ok(None));

    let range = MessageRecord::inline_range(&payload).unwrap().unwrap();
    assert_eq!(&payload[range], CONTENT);

    let mut piece = ContentRecord::head([1; 16], 1).to_vec();
    piece.extend_from_slice(b"12345");
    let decoded = ContentRecord::decode(&piece).unwrap();
    assert_eq!((decoded.number, decoded.octets), (1, &b"12345"[..]));
}

#[test]
fn a_record_that_cannot_be_expressed_is_refused_on_writing() {
    let payload = message(1, 1, CONTENT);
    let record = MessageRecord::decode(&payload).unwrap();
    let long = "x".repeat(65_536);
    let mut out = Vec::new();
    let too_long = MessageRecord {
        pool: &long,
        ..record
    };
    assert_eq!(
        too_long.encode_head(&mut out),
        Err(RecordError::TooLong("pool"))
    );
    let lying = MessageRecord {
        header_len: 10_000,
        ..record
    };
    assert_eq!(
        lying.encode_head(&mut out),
        Err(RecordError::Mismatch("header length"))
    );
}

#[test]
fn a_page_lost_before_a_later_commit_is_damage_and_one_in_the_last_batch_may_be_torn() {
    let mut image = SegmentImage::new(header(LogKind::Mail, 1, 16 * 4096));
    for id in 1..=3 {
        image
            .append(kind::MESSAGE, 0, &message(id, 1, &[b'x'; 6000]))
            .unwrap();
        image
            .append(kind::MESSAGE, 0, &message(id + 10, 1, CONTENT))
            .unwrap();
        image.commit().unwrap();
    }
    let header = image.header().clone();
    let commits: Vec<_> = scan::tail(image.bytes(), &header).items().collect();
    assert!(!commits.is_empty());
    for (page, acknowledged) in [(1, true), (3, true), (5, false)] {
        let mut bytes = image.bytes().to_vec();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        let tail = scan::tail(&bytes, &header);
        assert_eq!(tail.durable_end, image.tail());
        let found = damages(tail.items());
        assert_eq!(found.len(), 1, "page {page}");
        assert_eq!(found[0].acknowledged, acknowledged, "page {page}");
        assert_eq!(records(tail.items()).len(), 5, "page {page}");
    }
}
