//! Which recipients live, from the records of both logs: a pure fold, the same for recovery, checkpoints and inspection.
//!
//! The order makes it cheap. What the event log says is gathered first ([`Fold::event`]): one small entry for each recipient
//! that has an event in the part that is read. So are the copies that compaction made ([`Fold::copy`]). Then every message is
//! looked at once, from a checkpoint or its record, and what is left of it is final ([`Fold::settle`]). Nothing holds all
//! recipients at any time.
//!
//! Promises: a recipient lives exactly if it was accepted and no event ended it; a message that compaction moved is counted
//! once, where its newest copy lies; the result does not depend on where a checkpoint was taken.
//! Does not know the clock: when an attempt is due is the caller's to compare.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::RecordError;
use crate::event::{EventRecord, event_field, event_kind};
use crate::layout::{field_tag, kind, record_flag};
use crate::marker::ErasedRecord;
use crate::message::{Content, MessageRecord};
use crate::names::Names;

/// A recipient in all logs, wherever the message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecipientKey {
    pub message: [u8; 16],
    /// In order of RCPT.
    pub number: u16,
}

/// What events say of one recipient. That it is known at all means that its *accepted* event, or a later one, was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub ended: bool,
    /// Judged so far.
    pub attempts: u16,
    /// Of them: the answer to the final dot was lost. Stays at 255.
    pub ambiguous: u8,
    /// 0: at once, or when the message is released.
    pub next_attempt: u64,
}

/// [`Fate`] in ten bytes: there may be a million of them while a node starts.
#[derive(Clone, Copy)]
struct Packed {
    attempts: u16,
    /// Little-endian: 48 bits of the time, eight that count ambiguous attempts; all ones: ended.
    rest: [u8; 8],
}

const ENDED: u64 = u64::MAX;
const TIME_BITS: u32 = 48;
const TIME_MAX: u64 = (1 << TIME_BITS) - 1;

impl Packed {
    fn of(fate: Fate) -> Self {
        let rest = if fate.ended {
            ENDED
        } else {
            u64::from(fate.ambiguous) << TIME_BITS | fate.next_attempt.min(TIME_MAX)
        };
        Self {
            attempts: fate.attempts,
            rest: rest.to_le_bytes(),
        }
    }

    fn fate(self) -> Fate {
        let [.., ambiguous, _] = self.rest;
        let rest = u64::from_le_bytes(self.rest);
        Fate {
            ended: rest == ENDED,
            attempts: self.attempts,
            ambiguous,
            next_attempt: rest & TIME_MAX,
        }
    }
}

/// What a part of the event log says, by recipient.
#[derive(Clone, Default)]
pub struct Tail {
    fates: HashMap<RecipientKey, Packed, IdHashing>,
    /// Of them, those that did not end.
    waiting: usize,
    /// Messages whose sender gave them another time, with the last one.
    releases: HashMap<[u8; 16], u64, IdHashing>,
}

impl Tail {
    /// Takes an event record, or an erased one: it keeps what is needed to know that a recipient has ended. Other kinds, and
    /// events that change nothing here, are passed over.
    pub fn record(&mut self, record_kind: u8, payload: &[u8]) -> Result<(), RecordError> {
        match record_kind {
            kind::EVENT => self.event(&EventRecord::decode(payload)?),
            kind::ERASED => {
                if let Some(event) = ErasedRecord::decode(payload)?.event() {
                    self.event(&event);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, record: &EventRecord<'_>) {
        let key = RecipientKey {
            message: record.message_id,
            number: record.recipient_number,
        };
        match record.kind {
            event_kind::ACCEPTED => {
                let waiting = &mut self.waiting;
                self.fates.entry(key).or_insert_with(|| {
                    *waiting += 1;
                    Packed::of(Fate::default())
                });
            }
            event_kind::DEFERRED | event_kind::AMBIGUOUS | event_kind::RESCHEDULED => {
                let number = |tag| record.fields.find_number(tag).unwrap_or_default();
                let is_release = record.kind == event_kind::RESCHEDULED;
                let next_attempt = number(event_field::NEXT_ATTEMPT_MS);
                // Erased, it does not say when.
                if is_release && next_attempt > 0 {
                    self.releases.insert(record.message_id, next_attempt);
                }
                let waiting = &mut self.waiting;
                let known = self.fates.entry(key).or_insert_with(|| {
                    *waiting += 1;
                    Packed::of(Fate::default())
                });
                let before = known.fate();
                // Nothing brings an ended recipient back; and one that was tried meanwhile is not put back before that.
                let is_late = is_release && before.attempts > 0;
                if !before.ended && !is_late {
                    let one = u8::from(record.kind == event_kind::AMBIGUOUS);
                    *known = Packed::of(Fate {
                        ended: false,
                        attempts: u16::try_from(number(event_field::ATTEMPTS)).unwrap_or(u16::MAX),
                        ambiguous: before.ambiguous.saturating_add(one),
                        next_attempt,
                    });
                }
            }
            event_kind::DELIVERED
            | event_kind::BOUNCED
            | event_kind::EXPIRED
            | event_kind::CANCELLED => {
                let ended = Fate {
                    ended: true,
                    ..Fate::default()
                };
                let before = self.fates.insert(key, Packed::of(ended));
                self.waiting -= usize::from(before.is_some_and(|before| !before.fate().ended));
            }
            _ => {}
        }
    }

    pub fn fate(&self, key: &RecipientKey) -> Option<Fate> {
        self.fates.get(key).map(|packed| packed.fate())
    }

    /// The time that its sender gave a message instead of the first one.
    fn release(&self, message: &[u8; 16]) -> Option<u64> {
        self.releases.get(message).copied()
    }

    /// Recipients of which something is known.
    pub fn len(&self) -> usize {
        self.fates.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fates.is_empty()
    }
}

/// One that may have to be delivered yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveRecipient {
    /// In order of RCPT.
    pub number: u16,
    /// In [`Names::domains`].
    pub domain: u32,
    pub attempts: u16,
    /// Of them: the answer to the final dot was lost. Stays at 255.
    pub ambiguous: u8,
    /// 0: at once. Of a message that is scheduled and was not tried: when it is released.
    pub next_attempt: u64,
    /// Its *accepted* event is in the log.
    pub announced: bool,
    /// Taken only to be bounced; the reason is in the record.
    pub refused: bool,
}

/// A tag in eleven bits (FORMAT.md §10.4): who is looked for by a tag is found without its record being read, but for one in
/// two thousand others.
pub fn tag_mark(tag: Option<&str>) -> u16 {
    let Some(tag) = tag else {
        return TAG_NONE;
    };
    let place = crc32c::crc32c(tag.as_bytes()) % u32::from(TAG_MARKS - TAG_FIRST);
    u16::try_from(place).map_or(TAG_UNKNOWN, |place| TAG_FIRST + place)
}

/// Only the message's record tells.
pub const TAG_UNKNOWN: u16 = 0;
/// The message has no tag.
pub const TAG_NONE: u16 = 1;
const TAG_FIRST: u16 = 2;
/// Marks are below.
pub const TAG_MARKS: u16 = 1 << 11;

/// A message and those of its recipients that live. One value is used for message after message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveMessage {
    /// Of its record, or of the newest copy.
    pub position: u64,
    pub id: [u8; 16],
    pub accepted_at: u64,
    /// When waiting recipients expire, if not before; 0: by their age only.
    pub deadline: u64,
    /// Before it there is no attempt, and age counts from it; 0: at once.
    pub release_at: u64,
    /// In [`Names::origins`].
    pub origin: u32,
    /// [`tag_mark`] of its tag, or [`TAG_UNKNOWN`].
    pub tag: u16,
    /// Octets of the content.
    pub content_len: u64,
    /// Read from a record that compaction wrote: see [`Fold::settle`].
    pub is_copy: bool,
    pub recipients: Vec<LiveRecipient>,
    /// Positions of its content records.
    pub parts: Vec<u64>,
}

impl LiveMessage {
    /// Takes what a message record says, as of its acceptance. `flags` are those of the record's header.
    pub fn read(
        &mut self,
        position: u64,
        flags: u8,
        payload: &[u8],
        names: &mut Names,
    ) -> Result<(), RecordError> {
        let record = MessageRecord::decode(payload)?;
        self.position = position;
        self.id = record.id;
        self.accepted_at = record.accepted_unix_ms;
        let time = |tag| record.fields.find_number(tag).unwrap_or_default();
        self.deadline = time(field_tag::DEADLINE);
        self.release_at = time(field_tag::SCHEDULE);
        self.origin = names.origins.number_of(&record);
        self.tag = tag_mark(record.tag);
        self.content_len = record.content.len();
        self.is_copy = flags & record_flag::MOVED != 0;
        self.recipients.clear();
        for (number, recipient) in (0..=u16::MAX).zip(record.recipients.iter()) {
            self.recipients.push(LiveRecipient {
                number,
                domain: names.domains.number(recipient.domain),
                next_attempt: self.release_at,
                refused: recipient.fields.find(field_tag::REFUSED).is_some(),
                ..LiveRecipient::default()
            });
        }
        self.parts.clear();
        if let Content::Records(parts) = record.content {
            self.parts.extend(parts.iter().map(|part| part.position));
        }
        Ok(())
    }

    /// Takes in what events say: who ended is not among the recipients any more. How many of the others they name.
    pub fn apply(&mut self, tail: &Tail) -> usize {
        let message = self.id;
        let mut named = 0;
        self.recipients.retain_mut(|recipient| {
            let number = recipient.number;
            let Some(fate) = tail.fate(&RecipientKey { message, number }) else {
                return true;
            };
            recipient.announced = true;
            // A new time alone is for those that were not tried, as the checkpoint may say.
            let is_tried = fate.attempts > 0;
            if is_tried || fate.next_attempt > 0 && recipient.attempts == 0 {
                recipient.attempts = fate.attempts;
                recipient.ambiguous = recipient.ambiguous.saturating_add(fate.ambiguous);
                recipient.next_attempt = fate.next_attempt;
            }
            named += usize::from(!fate.ended);
            !fate.ended
        });
        self.release_at = tail.release(&message).unwrap_or(self.release_at);
        named
    }
}

/// Where the newest copy of a message lies.
#[derive(Clone, Debug)]
struct Copy {
    position: u64,
    parts: Box<[u64]>,
    /// The message that it is a copy of was settled.
    settled: bool,
}

/// The fold itself: see the module's comment for the order of calls.
#[derive(Default)]
pub struct Fold {
    tail: Tail,
    copies: HashMap<[u8; 16], Copy, IdHashing>,
    /// A checkpoint says what was before the events; see [`Self::settle`].
    has_base: bool,
    events_lost: bool,
    /// Recipients that events name as waiting, of messages that were settled.
    told: usize,
}

impl Fold {
    /// From the beginning of the logs.
    pub fn from_start() -> Self {
        Self::default()
    }

    /// From a checkpoint on: its messages go through [`Self::settle`] before those of the mail log behind it.
    pub fn from_checkpoint() -> Self {
        Self {
            has_base: true,
            ..Self::default()
        }
    }

    /// The next record of the event log, of any kind.
    pub fn event(&mut self, record_kind: u8, payload: &[u8]) -> Result<(), RecordError> {
        self.tail.record(record_kind, payload)
    }

    /// A part of the event log could not be read: where it would have decided, mail is kept rather than dropped.
    pub fn event_lost(&mut self) {
        self.events_lost = true;
    }

    /// What the events said so far.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Notes a message record that is a copy. All are noted before anything is settled.
    pub fn copy(&mut self, message: &LiveMessage) {
        let known = self.copies.get(&message.id);
        if message.is_copy && known.is_none_or(|known| known.position < message.position) {
            let copy = Copy {
                position: message.position,
                parts: message.parts.as_slice().into(),
                settled: false,
            };
            self.copies.insert(message.id, copy);
        }
    }

    /// Says what is left of a message, in the order: checkpoint, then the mail log. Whether anybody lives; `message` is then
    /// as the logs leave it.
    ///
    /// A copy replaces an earlier record of the message, which is asked first: from the checkpoint, where recipients that
    /// ended before it are not in it any more, or from the log. Where no earlier record is left, because its segment was
    /// reclaimed, the copy stands for itself. Behind a checkpoint that is so only if the message was accepted behind it too, and
    /// then its *accepted* event is among the events read; without that event, its recipients ended before the checkpoint.
    pub fn settle(&mut self, message: &mut LiveMessage) -> bool {
        if let Some(copy) = self.copies.get_mut(&message.id) {
            if copy.settled || (message.is_copy && copy.position != message.position) {
                return false;
            }
            copy.settled = true;
            if message.is_copy {
                if self.has_base && !self.events_lost {
                    let message_id = message.id;
                    message.recipients.retain(|recipient| {
                        let key = RecipientKey {
                            message: message_id,
                            number: recipient.number,
                        };
                        self.tail.fate(&key).is_some()
                    });
                }
            } else {
                message.position = copy.position;
                message.parts.clear();
                message.parts.extend_from_slice(&copy.parts);
            }
        }
        self.told += message.apply(&self.tail);
        !message.recipients.is_empty()
    }

    /// Once everything was settled: recipients that events name as waiting, of messages that are not there.
    pub fn lost(&self) -> usize {
        self.tail.waiting.saturating_sub(self.told)
    }
}

/// Ids are drawn by this node and mostly random: mixing is enough, and a collision costs time only.
type IdHashing = BuildHasherDefault<IdHasher>;

#[derive(Clone, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.mix(number.into());
    }

    fn write_usize(&mut self, length: usize) {
        self.mix(length as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

impl IdHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
