//! What archiving costs: processor time for 1,000 messages of 10 KB, and what is left of their bytes.
//!
//! `cargo bench -p spool-format --bench archive`. A segment of 64 MiB is settled (scanned twice, its streams told) and compressed as
//! the keeper of archives does it, on one thread, without a disk; then every record is read back through its frames.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a measurement prints, and may panic"
)]

use std::collections::BTreeSet;

use spool_format::archive::{self, Archive, Owners, ledger};
use spool_format::{
    Content, Fields, List, LogKind, MessageRecord, Recipient, SegmentHeader, SegmentImage,
    StreamKind, frame, kind, scan,
};

const CONTENT: usize = 10_000;
const SEGMENT: u64 = 64 << 20;
const LEVELS: [i32; 4] = [3, 1, -1, -5];

/// Processor time of this thread in nanoseconds: other jobs do not count.
fn worked() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }
}

/// Words of a vocabulary, the frequent ones more often: compresses about as running text does.
fn text(random: &mut Random) -> Vec<u8> {
    let mut out = b"From: shop@example.com\r\nTo: ann@example.net\r\nSubject: Your order\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n".to_vec();
    let mut line = 0;
    while out.len() < CONTENT {
        let rank = (random.next() % 64) * (random.next() % 64);
        let mut word = rank.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..2 + rank % 9 {
            out.push(b'a' + (word % 26) as u8);
            word /= 26;
        }
        line += 1;
        out.extend_from_slice(if line % 12 == 0 { b"\r\n" } else { b" " });
    }
    out.truncate(CONTENT);
    out
}

/// What an encoded attachment looks like: random bytes in base64.
fn base64(random: &mut Random) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..CONTENT)
        .map(|n| match n % 78 {
            76 => b'\r',
            77 => b'\n',
            _ => ALPHABET[(random.next() % 64) as usize],
        })
        .collect()
}

fn bytes(random: &mut Random) -> Vec<u8> {
    (0..CONTENT).map(|_| random.next() as u8).collect()
}

fn segment(content: fn(&mut Random) -> Vec<u8>) -> (SegmentHeader, Vec<u8>, u32) {
    let header = SegmentHeader {
        kind: LogKind::Mail,
        number: 1,
        first_position: 0,
        size: SEGMENT,
        epoch: 0,
        created_unix_ms: 0,
        previous_end: 0,
        salt: *b"sixteen bytes of",
    };
    let mut image = SegmentImage::new(header.clone());
    let mut random = Random(7);
    let mut count = 0u32;
    loop {
        let octets = content(&mut random);
        let path = format!("user{count}@example.net");
        let recipients = [Recipient {
            forward_path: &path,
            domain: "example.net",
            fields: Fields::default(),
        }];
        let record = MessageRecord {
            id: [count as u8; 16],
            accepted_unix_ms: 1_785_000_000_000 + u64::from(count),
            server_id: 1,
            server_name: "shop",
            stream_id: "outbound",
            stream_kind: StreamKind::Transactional,
            pool: "tx",
            reverse_path: "bounce@example.com",
            recipients: List::new(&recipients),
            tag: None,
            metadata: List::default(),
            flags: 0,
            header_len: 0,
            fields: Fields::default(),
            content: Content::Inline(&octets),
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        payload.extend_from_slice(&octets);
        if image.append(kind::MESSAGE, 0, &payload).is_none() {
            break;
        }
        count += 1;
        if count.is_multiple_of(16) {
            image.commit();
        }
    }
    image.commit();
    let end = scan::tail(image.bytes(), &header).durable_end;
    let mut raw = image.into_bytes();
    raw.truncate(end as usize);
    (header, raw, count)
}

fn main() {
    println!(
        "content  level  ms/1,000 messages: settle  compress  read back one   size left   MB/s"
    );
    for (name, content) in [
        ("text", text as fn(&mut Random) -> Vec<u8>),
        ("base64", base64),
        ("random", bytes),
    ] {
        let (header, mut raw, count) = segment(content);
        let per_thousand = |from: u64| (worked() - from) as f64 / 1e3 / f64::from(count);
        let end = raw.len() as u64;
        for level in LEVELS {
            let started = worked();
            let survey = ledger::survey(&raw, &header, end);
            assert!(survey.missing.is_empty());
            let dead = BTreeSet::new();
            let contents = ledger::settle(
                &mut raw,
                &header,
                end,
                &Owners::new(),
                &dead,
                0,
                &mut |_, _, _| false,
            );
            let settle = per_thousand(started);
            let started = worked();
            let mut file = Vec::new();
            archive::encode(&header, &raw, &contents, 0, level, |bytes| {
                file.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
            let compress = per_thousand(started);
            let seconds = (worked() - started) as f64 / 1e9;
            let parsed = Archive::parse(&file).unwrap();
            let started = worked();
            let frames = parsed.footer.frames.min(64);
            for number in 0..frames {
                parsed.frame(number).unwrap();
            }
            let one = (worked() - started) as f64 / 1e6 / f64::from(frames);
            let read = frame::read(&raw, 4096, header.seed()).unwrap();
            assert!(read.payload.len() > CONTENT);
            println!(
                "{name:8} {level:5} {settle:26.2} {compress:9.1} {one:10.3} ms {:10.1} % {:6.0}",
                100.0 * file.len() as f64 / raw.len() as f64,
                raw.len() as f64 / 1e6 / seconds
            );
        }
    }
}
