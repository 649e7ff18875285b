//! Mail that a test submits: everything about it follows from its number, so what a disk holds can be judged without
//! remembering what was written.
//!
//! Message `n` has one to three recipients; each fifth has its content in two content records. A recipient's events are a
//! fixed sequence: accepted, up to two deferrals, and its end. How far the sequence has come is the recipient's state. Of
//! a batch that nobody was told of some records may be missing, so an event may.

use std::collections::{BTreeMap, BTreeSet};

use spool_format::layout::{event, event_field, event_kind};
use spool_format::{
    Content, ContentPart, ContentRecord, ErasedRecord, EventRecord, Field, Fields, List,
    MessageRecord, Recipient, StreamKind,
};

use super::*;

/// A message or one of its recipients, as the operations of a recording note it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    /// The message was acknowledged.
    Accepted { message: u64 },
    /// The event was acknowledged.
    Happened {
        message: u64,
        recipient: u16,
        step: u8,
    },
    /// The recipient was let go of: its segment may go.
    Released { message: u64, recipient: u16 },
    /// What there is of the message may be erased from now on.
    Erasing { message: u64 },
}

impl Note {
    pub(super) fn id(self) -> u64 {
        match self {
            Self::Accepted { message } => message << 24,
            Self::Happened {
                message,
                recipient,
                step,
            } => message << 24 | u64::from(recipient) << 16 | u64::from(step) << 8 | 1,
            Self::Released { message, recipient } => message << 24 | u64::from(recipient) << 16 | 2,
            Self::Erasing { message } => message << 24 | 3,
        }
    }

    pub(super) fn of(id: u64) -> Self {
        let (message, recipient, step) = (id >> 24, (id >> 16) as u8, (id >> 8) as u8);
        let recipient = recipient.into();
        match id as u8 {
            0 => Self::Accepted { message },
            1 => Self::Happened {
                message,
                recipient,
                step,
            },
            2 => Self::Released { message, recipient },
            _ => Self::Erasing { message },
        }
    }
}

fn random(message: u64, what: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(message.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ what)
}

pub(super) fn message_id(message: u64) -> [u8; 16] {
    let mut id = *b"message ........";
    id[8..].copy_from_slice(&message.to_le_bytes());
    id
}

fn message_of(id: &[u8; 16]) -> u64 {
    assert_eq!(&id[..8], b"message ", "an id that nobody gave");
    u64::from_le_bytes(id[8..].try_into().unwrap())
}

pub(super) fn recipients(message: u64) -> u16 {
    1 + (message % 3) as u16
}

/// Whether the content of this message is in content records.
pub(super) fn is_long(message: u64) -> bool {
    message % 5 == 3
}

/// The last step of a recipient: its end. Before that come acceptance and deferrals.
pub(super) fn last_step(message: u64, recipient: u16) -> u8 {
    random(message, 1000 + u64::from(recipient)).u8(1..4)
}

fn bytes(message: u64, what: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random(message, what).fill(&mut bytes);
    bytes
}

/// The octets of a content record.
pub(super) fn part_payload(message: u64, number: u32) -> Vec<u8> {
    let len = random(message, 20 + u64::from(number)).usize(1..3000);
    let mut payload = ContentRecord::head(message_id(message), number).to_vec();
    payload.extend(bytes(message, 10 + u64::from(number), len));
    payload
}

/// The message record, given where its content records are (none: it is inline).
pub(super) fn message_payload(message: u64, parts: &[ContentPart]) -> Vec<u8> {
    let paths: Vec<String> = (0..recipients(message))
        .map(|n| format!("r{n}@example.net"))
        .collect();
    let recipients: Vec<Recipient<'_>> = paths
        .iter()
        .map(|path| Recipient {
            forward_path: path,
            domain: "example.net",
            fields: Fields::default(),
        })
        .collect();
    let octets = bytes(message, 2, random(message, 3).usize(..5000));
    let record = MessageRecord {
        id: message_id(message),
        accepted_unix_ms: 1_785_000_000_000 + message,
        server_id: 1,
        server_name: "app",
        stream_id: "outbound",
        stream_kind: StreamKind::Transactional,
        pool: "tx",
        reverse_path: "",
        recipients: List::new(&recipients),
        tag: None,
        metadata: List::default(),
        flags: 0,
        header_len: 0,
        fields: Fields::default(),
        content: match parts {
            [] => Content::Inline(&octets),
            parts => Content::Records(List::new(parts)),
        },
    };
    let mut payload = Vec::new();
    record.encode_head(&mut payload).unwrap();
    if parts.is_empty() {
        payload.extend_from_slice(&octets);
    }
    payload
}

pub(super) fn event_payload(message: u64, recipient: u16, step: u8) -> Vec<u8> {
    let kind = match step {
        0 => event_kind::ACCEPTED,
        _ if step < last_step(message, recipient) => event_kind::DEFERRED,
        _ if message.is_multiple_of(2) => event_kind::DELIVERED,
        _ => event_kind::BOUNCED,
    };
    let mut payload = Vec::new();
    // Long enough to be erased.
    let address = format!("a.recipient.with.a.long.name.{recipient}@some.example.net");
    let fields = [Field::text(event_field::RECIPIENT, &address)];
    let record = EventRecord {
        kind,
        at_unix_ms: u64::from(step),
        message_id: message_id(message),
        recipient_number: recipient,
        fields: Fields::new(&fields),
    };
    record.encode(&mut payload).unwrap();
    payload
}

/// Whose an erased record is: its message id stands at `at` of what it kept.
fn erased_message(payload: &[u8], at: usize) -> u64 {
    let kept = ErasedRecord::decode(payload).unwrap().fixed;
    message_of(kept[at..at + 16].try_into().unwrap())
}

/// What recovery found, in terms of mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mail {
    /// Position of the message record, and of its content records.
    pub(super) messages: BTreeMap<u64, (u64, Vec<u64>)>,
    /// By message and recipient: which steps of its sequence.
    steps: BTreeMap<(u64, u16), BTreeSet<u8>>,
    /// Of which records are erased.
    erased: BTreeSet<u64>,
}

impl Mail {
    /// Every record must be one that was submitted, with the same bytes, and every recipient in a legal state.
    pub(super) fn of(found: &Found, first_unused: u64) -> Self {
        let mut mail = Self::default();
        let mut parts = BTreeMap::new();
        let mut incomplete = BTreeSet::new();
        for (position, payload) in &found.mail {
            if found.erased.contains(&(LogKind::Mail as u8, *position)) {
                mail.erased.insert(erased_message(payload, 0));
                continue;
            }
            if let Ok(part) = ContentRecord::decode(payload)
                && payload == &part_payload(message_of(&part.message_id), part.number)
            {
                parts.insert(*position, part.octets.len() as u32);
                continue;
            }
            let record = MessageRecord::decode(payload).unwrap();
            let message = message_of(&record.id);
            assert!(message < first_unused, "never submitted: {message}");
            let named: Vec<ContentPart> = match record.content {
                Content::Inline(_) => Vec::new(),
                Content::Records(parts) => parts.iter().collect(),
            };
            assert_eq!(payload, &message_payload(message, &named), "other bytes");
            let is_there = |part: &ContentPart| parts.get(&part.position) == Some(&part.len);
            match named.iter().all(is_there) {
                true => incomplete.remove(&message),
                false => incomplete.insert(message),
            };
            let named = named.iter().map(|part| part.position).collect();
            // The copy counts; it lies behind.
            let twice = mail.messages.insert(message, (*position, named));
            let is_copy = found.moved.contains(position);
            assert!(
                twice.is_none() || is_copy,
                "message {message} is there twice"
            );
        }
        for (position, payload) in &found.events {
            if found.erased.contains(&(LogKind::Event as u8, *position)) {
                let message = erased_message(payload, event::MESSAGE_ID);
                mail.erased.insert(message);
                let kept = ErasedRecord::decode(payload).unwrap().fixed;
                let kept = EventRecord::decode(kept).unwrap();
                let step = kept.at_unix_ms as u8;
                let steps = mail.steps.entry((message, kept.recipient_number));
                steps.or_default().insert(step);
                continue;
            }
            let event = EventRecord::decode(payload).unwrap();
            let (message, recipient) = (message_of(&event.message_id), event.recipient_number);
            assert!(message < first_unused, "an event of nobody: {message}");
            let step = event.at_unix_ms as u8;
            assert_eq!(
                payload,
                &event_payload(message, recipient, step),
                "other bytes"
            );
            let steps = mail.steps.entry((message, recipient)).or_default();
            assert!(
                steps.last() < Some(&step) && step <= last_step(message, recipient),
                "step {step} of recipient {recipient} of message {message} after {steps:?}"
            );
            steps.insert(step);
        }
        // Content of what has ended may go before its message record.
        incomplete.retain(|message| !mail.live(*message).is_empty());
        assert!(
            incomplete.is_empty(),
            "{incomplete:?} without their content"
        );
        mail
    }

    /// The step that a recipient takes next.
    pub(super) fn next_step(&self, message: u64, recipient: u16) -> u8 {
        let steps = self.steps.get(&(message, recipient));
        steps
            .and_then(|steps| steps.last())
            .map_or(0, |step| step + 1)
    }

    pub(super) fn has_ended(&self, message: u64, recipient: u16) -> bool {
        self.next_step(message, recipient) > last_step(message, recipient)
    }

    pub(super) fn live(&self, message: u64) -> Vec<u16> {
        let all = 0..recipients(message);
        all.filter(|r| !self.has_ended(message, *r)).collect()
    }

    /// `notes`: what had been acknowledged and released when power failed.
    pub(super) fn check(&self, notes: &BTreeSet<Note>) {
        for note in notes {
            match *note {
                Note::Accepted { message } => {
                    let gone = (0..recipients(message)).all(|recipient| {
                        // An end that was committed counts, whether or not anybody was told of it.
                        self.has_ended(message, recipient)
                            || notes.contains(&Note::Released { message, recipient })
                    });
                    assert!(
                        gone || self.messages.contains_key(&message)
                            || self.erased.contains(&message),
                        "acknowledged and lost: message {message}"
                    );
                }
                Note::Happened {
                    message,
                    recipient,
                    step,
                } => assert!(
                    self.steps
                        .get(&(message, recipient))
                        .is_some_and(|steps| steps.contains(&step)),
                    "acknowledged and lost: step {step} of recipient {recipient} of message {message}"
                ),
                Note::Released { .. } | Note::Erasing { .. } => {}
            }
        }
        for &message in &self.erased {
            let told = notes.contains(&Note::Erasing { message });
            assert!(told, "message {message} was erased, and nobody said so");
        }
        for &(message, recipient) in self.steps.keys() {
            assert!(
                self.messages.contains_key(&message)
                    || self.erased.contains(&message)
                    || self.live(message).is_empty(),
                "recipient {recipient} of message {message} lives without its message"
            );
        }
    }
}
