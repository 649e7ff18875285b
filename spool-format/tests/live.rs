//! The fold over both logs: who lives, who has ended, and where a message that was moved is.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use spool_format::event::{event_field, event_kind};
use spool_format::layout::{event, record_flag};
use spool_format::{
    Content, ErasedRecord, EventRecord, Field, Fold, LiveMessage, LiveRecipient, MessageRecord,
    Names, Recipient, StreamKind, field_tag, kind,
};

const REFUSED: Field<'static> = Field {
    tag: field_tag::REFUSED,
    bytes: b"no such sender",
};

fn message(id: u8, domains: &[&str]) -> Vec<u8> {
    message_with(id, domains, &[])
}

fn message_with(id: u8, domains: &[&str], fields: &[Field<'_>]) -> Vec<u8> {
    let refused = [REFUSED];
    let recipients: Vec<_> = domains
        .iter()
        .map(|domain| Recipient {
            forward_path: "someone",
            domain: domain.trim_start_matches('!'),
            fields: if domain.starts_with('!') {
                (&refused).into()
            } else {
                Default::default()
            },
        })
        .collect();
    let record = MessageRecord {
        id: [id; 16],
        accepted_unix_ms: 1_000 + u64::from(id),
        server_id: 7,
        server_name: "shop",
        stream_id: "receipts",
        stream_kind: StreamKind::Transactional,
        pool: "tx",
        reverse_path: "",
        recipients: (&recipients).into(),
        tag: None,
        metadata: Default::default(),
        flags: 0,
        header_len: 0,
        fields: fields.into(),
        content: Content::Inline(b"body"),
    };
    let mut payload = Vec::new();
    record.encode_head(&mut payload).unwrap();
    payload.extend_from_slice(b"body");
    payload
}

fn event_of(kind: u16, id: u8, number: u16, attempts: u32, next_attempt: u64) -> Vec<u8> {
    let (attempts, next) = (attempts.to_le_bytes(), next_attempt.to_le_bytes());
    let fields = [
        Field::new(event_field::ATTEMPTS, &attempts),
        Field::new(event_field::NEXT_ATTEMPT_MS, &next),
    ];
    let record = EventRecord {
        kind,
        at_unix_ms: 5_000,
        message_id: [id; 16],
        recipient_number: number,
        fields: (&fields).into(),
    };
    let mut payload = Vec::new();
    record.encode(&mut payload).unwrap();
    payload
}

/// One message after another through a fold; what is left of each: position, and (number, attempts, next attempt,
/// announced, refused) of who lives.
struct Logs {
    fold: Fold,
    names: Names,
}

type Left = (u64, Vec<(u16, u16, u64, bool, bool)>);

impl Logs {
    fn new(fold: Fold) -> Self {
        let names = Names::default();
        Self { fold, names }
    }

    fn event(&mut self, kind: u16, id: u8, number: u16, attempts: u32, next_attempt: u64) {
        let payload = event_of(kind, id, number, attempts, next_attempt);
        self.fold.event(kind::EVENT, &payload).unwrap();
    }

    fn read(&mut self, position: u64, flags: u8, payload: &[u8]) -> LiveMessage {
        let mut live = LiveMessage::default();
        live.read(position, flags, payload, &mut self.names)
            .unwrap();
        live
    }

    fn copy(&mut self, position: u64, id: u8, domains: &[&str]) {
        let live = self.read(position, record_flag::MOVED, &message(id, domains));
        self.fold.copy(&live);
    }

    fn settle(&mut self, position: u64, flags: u8, id: u8, domains: &[&str]) -> Option<Left> {
        let mut live = self.read(position, flags, &message(id, domains));
        let lives = self.fold.settle(&mut live);
        assert_eq!(lives, lives && !live.recipients.is_empty());
        lives.then(|| {
            let left = live.recipients.iter().map(|r| {
                let LiveRecipient {
                    number,
                    attempts,
                    next_attempt,
                    announced,
                    refused,
                    ..
                } = *r;
                (number, attempts, next_attempt, announced, refused)
            });
            (live.position, left.collect())
        })
    }
}

#[test]
fn a_recipient_lives_until_an_event_ends_it() {
    let mut logs = Logs::new(Fold::from_start());
    logs.event(event_kind::ACCEPTED, 1, 0, 0, 0);
    logs.event(event_kind::DEFERRED, 1, 0, 1, 7_000);
    logs.event(event_kind::DELIVERED, 1, 0, 2, 0);
    // Late words about who has ended change nothing.
    logs.event(event_kind::DEFERRED, 1, 0, 3, 9_000);
    logs.event(event_kind::ACCEPTED, 1, 1, 0, 0);
    logs.event(event_kind::DEFERRED, 1, 1, 1, 7_000);
    logs.event(event_kind::AMBIGUOUS, 1, 1, 2, 8_000);
    logs.event(event_kind::OPENED, 1, 2, 0, 0);
    logs.event(4_711, 1, 2, 0, 0);
    let left = logs.settle(4_096, 0, 1, &["a.example", "b.example", "!c.example"]);
    let expected = vec![(1, 2, 8_000, true, false), (2, 0, 0, false, true)];
    assert_eq!(left, Some((4_096, expected)));
    for kind in [
        event_kind::BOUNCED,
        event_kind::EXPIRED,
        event_kind::CANCELLED,
    ] {
        let mut logs = Logs::new(Fold::from_start());
        logs.event(kind, 2, 0, 1, 0);
        assert_eq!(logs.settle(4_096, 0, 2, &["a.example"]), None, "{kind}");
    }
}

#[test]
fn who_was_accepted_and_has_neither_outcome_nor_message_is_lost() {
    for fold in [Fold::from_start(), Fold::from_checkpoint()] {
        let mut logs = Logs::new(fold);
        for (id, number) in [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0)] {
            logs.event(event_kind::ACCEPTED, id, number, 0, 0);
            logs.event(event_kind::DEFERRED, id, number, 1, 7_000);
        }
        logs.event(event_kind::DELIVERED, 1, 0, 2, 0);
        logs.event(event_kind::BOUNCED, 3, 1, 2, 0);
        logs.event(event_kind::CANCELLED, 4, 0, 2, 0);
        // Its beginning is in an older part of the log.
        logs.event(event_kind::EXPIRED, 5, 0, 9, 0);
        assert!(
            logs.settle(4_096, 0, 1, &["a.example", "b.example"])
                .is_some()
        );
        assert!(
            logs.settle(8_192, 0, 6, &["not.announced.example"])
                .is_some()
        );
        assert_eq!(logs.fold.lost(), 2, "2/0 and 3/0");
    }
}

#[test]
fn an_erased_event_still_ends_its_recipient() {
    let written = event_of(event_kind::DELIVERED, 1, 0, 1, 0);
    let erased = ErasedRecord {
        crc: 1,
        kind: kind::EVENT,
        digest: [0; 32],
        fixed: &written[..event::FIELDS],
    };
    let mut payload = vec![0x41; 300];
    erased.write(&mut payload).unwrap();
    let mut logs = Logs::new(Fold::from_start());
    logs.fold.event(kind::ERASED, &payload).unwrap();
    assert_eq!(logs.settle(4_096, 0, 1, &["a.example"]), None);
    // Of other kinds nothing is needed.
    ErasedRecord {
        kind: kind::MESSAGE,
        fixed: &[],
        ..erased
    }
    .write(&mut payload)
    .unwrap();
    logs.fold.event(kind::ERASED, &payload).unwrap();
    assert_eq!(logs.fold.tail().len(), 1);
}

#[test]
fn the_copy_with_the_highest_position_counts_and_only_once() {
    let mut logs = Logs::new(Fold::from_start());
    logs.copy(50_000, 1, &["a.example"]);
    logs.copy(90_000, 1, &["a.example"]);
    logs.copy(70_000, 1, &["a.example"]);
    let moved = record_flag::MOVED;
    let first = logs.settle(4_096, 0, 1, &["a.example"]);
    assert_eq!(first, Some((90_000, vec![(0, 0, 0, false, false)])));
    for position in [50_000, 70_000, 90_000] {
        assert_eq!(logs.settle(position, moved, 1, &["a.example"]), None);
    }
}

#[test]
fn a_copy_whose_original_is_gone_stands_for_itself() {
    let moved = record_flag::MOVED;
    let mut logs = Logs::new(Fold::from_start());
    logs.copy(50_000, 1, &["a.example", "b.example"]);
    logs.copy(70_000, 1, &["a.example", "b.example"]);
    logs.event(event_kind::DELIVERED, 1, 0, 1, 0);
    assert_eq!(
        logs.settle(50_000, moved, 1, &["a.example", "b.example"]),
        None
    );
    let left = logs.settle(70_000, moved, 1, &["a.example", "b.example"]);
    assert_eq!(left, Some((70_000, vec![(1, 0, 0, false, false)])));
}

#[test]
fn behind_a_checkpoint_a_copy_does_not_bring_back_who_ended_before_it() {
    let moved = record_flag::MOVED;
    let mut logs = Logs::new(Fold::from_checkpoint());
    logs.copy(50_000, 1, &["a.example", "b.example"]);
    logs.copy(60_000, 2, &["a.example"]);
    // Accepted behind the checkpoint, as its event shows.
    logs.event(event_kind::ACCEPTED, 1, 0, 0, 0);
    let left = logs.settle(50_000, moved, 1, &["a.example", "b.example"]);
    assert_eq!(left, Some((50_000, vec![(0, 0, 0, true, false)])));
    assert_eq!(logs.settle(60_000, moved, 2, &["a.example"]), None);
    // Who is in the checkpoint lives, at its new place.
    logs.copy(80_000, 3, &["a.example"]);
    let left = logs.settle(4_096, 0, 3, &["a.example"]);
    assert_eq!(left, Some((80_000, vec![(0, 0, 0, false, false)])));
}

#[test]
fn where_an_event_was_lost_a_copy_is_kept_rather_than_dropped() {
    let mut logs = Logs::new(Fold::from_checkpoint());
    logs.copy(60_000, 2, &["a.example"]);
    logs.fold.event_lost();
    let left = logs.settle(60_000, record_flag::MOVED, 2, &["a.example"]);
    assert_eq!(left, Some((60_000, vec![(0, 0, 0, false, false)])));
}

#[test]
fn equal_names_are_kept_once() {
    let mut logs = Logs::new(Fold::from_start());
    for id in 1..100 {
        logs.settle(4_096 * u64::from(id), 0, id, &["a.example", "b.example"]);
    }
    assert_eq!(logs.names.domains.len(), 2);
    assert_eq!(logs.names.origins.all().len(), 1);
    assert_eq!(&*logs.names.origins.get(0).unwrap().server_name, "shop");
}

#[test]
fn what_is_scheduled_waits_for_its_release_until_there_was_an_attempt_and_ambiguous_ones_are_counted()
 {
    let (release, deadline) = (9_000_u64.to_le_bytes(), 20_000_u64.to_le_bytes());
    let fields = [
        Field::new(field_tag::SCHEDULE, &release),
        Field::new(field_tag::DEADLINE, &deadline),
    ];
    let payload = message_with(1, &["a.example", "b.example"], &fields);
    let mut logs = Logs::new(Fold::from_start());
    logs.event(event_kind::ACCEPTED, 1, 0, 0, 9_000);
    for (kind, attempts) in [
        (event_kind::AMBIGUOUS, 1),
        (event_kind::DEFERRED, 2),
        (event_kind::AMBIGUOUS, 3),
    ] {
        logs.event(kind, 1, 0, attempts, 9_000 + u64::from(attempts));
    }
    let mut live = logs.read(4_096, 0, &payload);
    assert!(logs.fold.settle(&mut live));
    assert_eq!((live.release_at, live.deadline), (9_000, 20_000));
    let [tried, untried] = live.recipients[..] else {
        panic!("{live:?}");
    };
    assert_eq!((tried.attempts, tried.ambiguous), (3, 2));
    assert_eq!((tried.next_attempt, untried.next_attempt), (9_003, 9_000));
    assert_eq!((untried.attempts, untried.ambiguous), (0, 0));
    // What was counted before a checkpoint is added to.
    let mut later = Logs::new(Fold::from_checkpoint());
    later.event(event_kind::AMBIGUOUS, 1, 0, 4, 11_000);
    assert!(later.fold.settle(&mut live));
    assert_eq!(
        (live.recipients[0].attempts, live.recipients[0].ambiguous),
        (4, 3)
    );
}
