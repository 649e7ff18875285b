//! A message whose sender gave it another time: the fold says the new one, from the log and from a checkpoint alike.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use spool_format::event::{event_field, event_kind};
use spool_format::{
    Content, EntryReader, EntryWriter, EventRecord, Field, Fold, List, LiveMessage, MessageRecord,
    Names, Recipient, StreamKind, field_tag, kind,
};

const FIRST: u64 = 1_800_000_000_000;
const LATER: u64 = FIRST + 86_400_000;

fn record() -> Vec<u8> {
    let recipient = |forward_path| Recipient {
        forward_path,
        domain: "example.com",
        fields: List::new(&[]),
    };
    let release = FIRST.to_le_bytes();
    let fields = [Field::new(field_tag::SCHEDULE, &release)];
    let recipients = ["a@example.com", "b@example.com", "c@example.com"].map(recipient);
    let mut payload = Vec::new();
    let record = MessageRecord {
        id: [7; 16],
        accepted_unix_ms: FIRST - 60_000,
        server_id: 1,
        server_name: "shop",
        stream_id: "outbound",
        stream_kind: StreamKind::Transactional,
        pool: "tx",
        reverse_path: "s@example.net",
        recipients: List::new(&recipients),
        tag: None,
        metadata: List::new(&[]),
        flags: 0,
        header_len: 0,
        fields: List::new(&fields),
        content: Content::Inline(b""),
    };
    record.encode_head(&mut payload).unwrap();
    payload
}

fn event(kind: u16, number: u16, attempts: u32, next: u64) -> Vec<u8> {
    let (attempts, next) = (attempts.to_le_bytes(), next.to_le_bytes());
    let fields = [
        Field::new(event_field::ATTEMPTS, &attempts),
        Field::new(event_field::NEXT_ATTEMPT_MS, &next),
    ];
    let mut payload = Vec::new();
    let record = EventRecord {
        kind,
        at_unix_ms: FIRST,
        message_id: [7; 16],
        recipient_number: number,
        fields: List::new(&fields),
    };
    record.encode(&mut payload).unwrap();
    payload
}

#[test]
fn the_new_time_takes_the_place_of_the_old_one_from_the_log_and_from_a_checkpoint() {
    let (mut names, mut message, mut fold) =
        (Names::default(), LiveMessage::default(), Fold::from_start());
    message.read(4_096, 0, &record(), &mut names).unwrap();
    for payload in [
        event(event_kind::ACCEPTED, 0, 0, FIRST),
        event(event_kind::RESCHEDULED, 0, 0, LATER),
        event(event_kind::RESCHEDULED, 1, 0, LATER),
        // An operator had it tried before its time.
        event(event_kind::DEFERRED, 2, 1, FIRST + 5_000),
    ] {
        fold.event(kind::EVENT, &payload).unwrap();
    }
    assert!(fold.settle(&mut message));
    let check = |message: &LiveMessage| {
        assert_eq!(message.release_at, LATER);
        let next: Vec<_> = message
            .recipients
            .iter()
            .map(|r| (r.attempts, r.next_attempt))
            .collect();
        assert_eq!(next, [(0, LATER), (0, LATER), (1, FIRST + 5_000)]);
    };
    check(&message);
    let mut entries = EntryWriter::default();
    entries.push(&message, &names).unwrap();
    let block = entries.take();
    let (mut reader, mut names, mut read) = (
        EntryReader::default(),
        Names::default(),
        LiveMessage::default(),
    );
    let mut rest = block.as_slice();
    assert!(reader.next(&mut rest, &mut names, &mut read).unwrap());
    assert!(Fold::from_checkpoint().settle(&mut read));
    check(&read);
}

/// What became of one recipient, and when the message is released by now, from the events in this order: read at once, or with
/// a checkpoint before event `cut`.
fn told(events: &[Vec<u8>], cut: usize) -> (u16, u64, u64) {
    let (mut names, mut message) = (Names::default(), LiveMessage::default());
    message.read(4_096, 0, &record(), &mut names).unwrap();
    message.recipients.truncate(1);
    let (before, behind) = events.split_at(cut);
    for (part, mut fold) in [
        (before, Fold::from_start()),
        (behind, Fold::from_checkpoint()),
    ] {
        for payload in part {
            fold.event(kind::EVENT, payload).unwrap();
        }
        assert!(fold.settle(&mut message));
    }
    let recipient = message.recipients.first().unwrap();
    (
        recipient.attempts,
        recipient.next_attempt,
        message.release_at,
    )
}

/// Whoever moves a message writes about it beside whoever tries it: an attempt's event that came first was undone once.
#[test]
fn an_attempt_is_not_undone_and_a_time_not_forgotten_whatever_was_written_first_and_wherever_a_checkpoint_lies()
 {
    let accepted = event(event_kind::ACCEPTED, 0, 0, FIRST);
    let moved = event(event_kind::RESCHEDULED, 0, 0, LATER);
    let tried = event(event_kind::DEFERRED, 0, 3, LATER + 5_000);
    for order in [[&accepted, &moved, &tried], [&accepted, &tried, &moved]] {
        let events = order.map(Clone::clone);
        for cut in 0..=events.len() {
            assert_eq!(told(&events, cut), (3, LATER + 5_000, LATER), "{cut}");
        }
    }
    let events = [accepted, moved, event(event_kind::RESCHEDULED, 0, 0, FIRST)];
    for cut in 0..=events.len() {
        assert_eq!(told(&events, cut), (0, FIRST, FIRST), "{cut}");
    }
}
