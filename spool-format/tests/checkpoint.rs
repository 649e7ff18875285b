//! Checkpoints as bytes: what goes in comes out, and every byte that is not as it was written is found.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

use std::path::Path;

use proptest::prelude::*;
use spool_format::checkpoint::{Block, Counts, Form, Reading, Summary, Writing};
use spool_format::layout::{checkpoint as layout, checkpoint_block};
use spool_format::{
    CheckpointError, CheckpointGaps, CheckpointHeader, EntryReader, LiveMessage, LiveRecipient,
    Names, Origin, StreamKind,
};

fn header(form: Form) -> CheckpointHeader {
    let is_base = form == Form::Base;
    CheckpointHeader {
        form,
        number: 9,
        base: if is_base { 9 } else { 7 },
        mail_from: if is_base { 0 } else { 4_096 },
        mail_to: 1 << 40,
        event_to: 123_456,
        created_unix_ms: 1_800_000_000_000,
        salt: [0xA5; 16],
    }
}

fn gaps() -> CheckpointGaps {
    CheckpointGaps {
        mail: vec![(4_096, 70_000_000), (1 << 41, 1 << 42)],
        events: vec![(0, 4_096)],
    }
}

/// Names that messages below refer to.
fn names() -> Names {
    let mut names = Names::default();
    for number in 0..5 {
        names.domains.number(&format!("d{number}.example"));
        names.origins.number(Origin {
            server_id: number,
            stream_kind: [StreamKind::Transactional, StreamKind::Broadcast][number as usize % 2],
            server_name: "shop".into(),
            stream_id: format!("stream {number}").as_str().into(),
            pool: "tx".into(),
        });
    }
    names
}

fn write(form: Form, messages: &[LiveMessage], names: &Names) -> (Vec<u8>, Summary) {
    let (mut writing, mut bytes) = Writing::start(&header(form), &gaps()).unwrap();
    for message in messages {
        writing.push(message, names).unwrap();
        writing.take_full(&mut bytes).unwrap();
    }
    let summary = writing.finish(&mut bytes).unwrap();
    (bytes, summary)
}

type Read = (CheckpointHeader, CheckpointGaps, Vec<LiveMessage>, Summary);

fn read(bytes: &[u8], names: &mut Names) -> Result<Read, CheckpointError> {
    let header = CheckpointHeader::decode(bytes)?;
    let mut reading = Reading::start(&header);
    let next = |reading: &Reading| -> Result<&[u8], CheckpointError> {
        let rest = &bytes[reading.offset() as usize..];
        let len = Reading::block_len(rest)?;
        rest.get(..len).ok_or(CheckpointError::Cut)
    };
    let first = next(&reading)?;
    let gaps = reading.gaps(first)?;
    let mut entries = EntryReader::default();
    let mut messages = Vec::new();
    loop {
        let block = next(&reading)?;
        match reading.block(block)? {
            Block::Entries(mut rest) => {
                entries.block();
                let mut message = LiveMessage::default();
                while entries.next(&mut rest, names, &mut message)? {
                    messages.push(message.clone());
                }
            }
            Block::End(summary) => {
                if reading.offset() != bytes.len() as u64 {
                    return Err(CheckpointError::Field("end"));
                }
                return Ok((header, gaps, messages, summary));
            }
        }
    }
}

fn a_recipient() -> impl Strategy<Value = LiveRecipient> {
    let tried = prop_oneof![
        Just((0, 0, 0)),
        (1u16.., any::<u8>(), any::<u64>()),
        (0u16..3, Just(0), 1_000_000u64..2_000_000)
    ];
    (any::<u16>(), 0u32..5, tried, any::<bool>(), any::<bool>()).prop_map(
        |(number, domain, (attempts, ambiguous, next_attempt), announced, refused)| LiveRecipient {
            number,
            domain,
            attempts,
            ambiguous,
            next_attempt,
            announced,
            refused,
        },
    )
}

fn any_or_none() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => any::<u64>()]
}

fn a_message() -> impl Strategy<Value = LiveMessage> {
    let recipients = prop_oneof![
        3 => a_recipient().prop_map(|r| vec![LiveRecipient { number: 0, ..r }]),
        1 => prop::collection::vec(a_recipient(), 1..6),
    ];
    let recipients = recipients.prop_map(|mut recipients| {
        recipients.sort_by_key(|r| r.number);
        recipients.dedup_by_key(|r| r.number);
        recipients
    });
    (
        0..1u64 << 53,
        any::<[u8; 16]>(),
        (any::<u64>(), any_or_none(), any_or_none()),
        0u32..5,
        any::<u64>(),
        (any::<bool>(), 0..spool_format::TAG_MARKS),
        recipients,
        prop::collection::vec(0..1u64 << 53, 0..3),
    )
        .prop_map(
            |(position, id, times, origin, content_len, (is_copy, tag), recipients, parts)| {
                let (accepted_at, deadline, release_at) = times;
                LiveMessage {
                    position,
                    id,
                    accepted_at,
                    deadline,
                    release_at,
                    origin,
                    tag,
                    content_len,
                    is_copy,
                    recipients,
                    parts,
                }
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_is_read(messages in prop::collection::vec(a_message(), 0..40), base in any::<bool>()) {
        let form = if base { Form::Base } else { Form::Delta };
        let names = names();
        let (bytes, summary) = write(form, &messages, &names);
        // With other numbers: a reader's names are its own.
        let mut own = Names::default();
        let read = read(&bytes, &mut own).unwrap();
        prop_assert_eq!(&read.0, &header(form));
        prop_assert_eq!(&read.1, &gaps());
        prop_assert_eq!(&read.3, &summary);
        let counts = Counts {
            messages: messages.len() as u64,
            recipients: messages.iter().map(|m| m.recipients.len() as u64).sum(),
            copies: messages.iter().filter(|m| m.is_copy).count() as u64,
        };
        prop_assert_eq!(summary.counts, counts);
        let named = |messages: &[LiveMessage], names: &Names| -> Vec<_> {
            let texts = |m: &LiveMessage| m.recipients.iter().map(|r| names.domains.get(r.domain).cloned()).collect::<Vec<_>>();
            messages.iter().map(|m| {
                let mut plain = m.clone();
                plain.origin = 0;
                plain.recipients.iter_mut().for_each(|r| r.domain = 0);
                (plain, texts(m), names.origins.get(m.origin).cloned())
            }).collect()
        };
        prop_assert_eq!(named(&read.2, &own), named(&messages, &names));
        for message in &messages {
            let origin = names.origins.get(message.origin).unwrap();
            prop_assert!(summary.pools.contains(&(Box::from(&*origin.pool), origin.stream_kind)));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut rest = &bytes[..];
        let (mut names, mut message) = (Names::default(), LiveMessage::default());
        let mut entries = EntryReader::default();
        while let Ok(true) = entries.next(&mut rest, &mut names, &mut message) {}
        prop_assert!(read(&bytes, &mut names).is_err());
    }
}

fn some() -> Vec<LiveMessage> {
    (0..30)
        .map(|number| LiveMessage {
            position: 4_096 + 1_024 * number,
            id: [number as u8; 16],
            accepted_at: 1_800_000_000_000 + 3 * number,
            deadline: 0,
            release_at: 0,
            origin: (number % 5) as u32,
            tag: 0,
            content_len: 700,
            is_copy: false,
            recipients: (0..1 + number as u16 % 3)
                .map(|n| LiveRecipient {
                    number: n,
                    domain: u32::from(n),
                    attempts: (number % 2) as u16,
                    ambiguous: 0,
                    next_attempt: 1_800_000_500_000 * (number % 2),
                    announced: true,
                    refused: number == 7,
                })
                .collect(),
            parts: (0..number % 4).map(|n| 4_096 + 512 * n).collect(),
        })
        .collect()
}

/// With what entries have only where it is needed.
fn some_with_times() -> Vec<LiveMessage> {
    let mut messages = some();
    for (number, message) in (0..).zip(&mut messages) {
        message.deadline = 1_800_009_000_000 * (number % 2);
        message.release_at = 1_800_000_900_000 * (number % 3 % 2);
        for recipient in message.recipients.iter_mut().filter(|r| r.attempts > 0) {
            recipient.ambiguous = number as u8;
        }
    }
    messages
}

#[test]
fn every_flipped_bit_every_cut_and_every_added_byte_is_found() {
    let names = names();
    let (bytes, _) = write(Form::Base, &some_with_times(), &names);
    assert!(read(&bytes, &mut names.clone()).is_ok());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(read(&damaged, &mut names.clone()).is_err(), "{at}.{bit}");
        }
        assert!(
            read(&bytes[..at], &mut names.clone()).is_err(),
            "cut at {at}"
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(read(&longer, &mut names.clone()).is_err());
}

#[test]
fn a_block_of_another_file_or_another_place_is_not_believed() {
    let names = names();
    let (bytes, _) = write(Form::Base, &some_with_times(), &names);
    let other = CheckpointHeader {
        number: 10,
        base: 10,
        ..header(Form::Base)
    };
    let mut moved = other.encode().to_vec();
    moved.extend_from_slice(&bytes[layout::LEN..]);
    assert_eq!(
        read(&moved, &mut names.clone()).unwrap_err(),
        CheckpointError::Checksum
    );
    let gaps = layout::LEN + Reading::block_len(&bytes[layout::LEN..]).unwrap();
    let mut doubled = bytes[..gaps].to_vec();
    doubled.extend_from_slice(&bytes[layout::LEN..]);
    assert_eq!(
        read(&doubled, &mut names.clone()).unwrap_err(),
        CheckpointError::Checksum
    );
    assert!(bytes.len() > gaps + checkpoint_block::PAYLOAD);
}

#[test]
fn a_queued_message_with_one_recipient_takes_some_twenty_five_bytes() {
    let mut names = Names::default();
    let origin = names.origins.number(Origin {
        server_id: 1,
        stream_kind: StreamKind::Transactional,
        server_name: "shop".into(),
        stream_id: "receipts".into(),
        pool: "tx".into(),
    });
    let messages: Vec<_> = (0..20_000u64)
        .map(|number| {
            let accepted_at = 1_800_000_000_000 + number;
            let mut id = [0x5A; 16];
            for (at, byte) in (0usize..6).zip(accepted_at.to_le_bytes()[..6].iter().rev()) {
                id[at] = *byte;
            }
            LiveMessage {
                position: 4_096 + 1_064 * number,
                id,
                accepted_at,
                origin,
                content_len: 750,
                recipients: vec![LiveRecipient {
                    domain: names
                        .domains
                        .number(&format!("d{}.example", number % 1_000)),
                    announced: true,
                    ..LiveRecipient::default()
                }],
                ..LiveMessage::default()
            }
        })
        .collect();
    let (bytes, summary) = write(Form::Base, &messages, &names);
    let each = bytes.len() as u64 / summary.counts.recipients;
    assert!((15..=25).contains(&each), "{each} bytes");
}

#[test]
fn checkpoints_of_released_versions_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/base.ckp");
    let (bytes, _) = write(Form::Base, &some(), &names());
    if !path.exists() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    // While version 1 is current it is also written so.
    assert_eq!(kept, bytes);
    assert_eq!(read(&kept, &mut names()).unwrap().2, some());
}
