//! Mailboxes that were full at the last messages to them, counted.
//!
//! Promises: nobody is told of unless [`limits::FULL_BOUNCES`] messages in a row over [`limits::FULL_TIME`] met a full mailbox, and
//! nothing in between arrived; memory is bounded by [`limits::FULL_MAILBOXES_MAX`] and [`limits::FULL_OPEN`].
//!
//! A 250 is no arrival yet where hosts take everything and report the full mailbox by mail (RFC 5321 §6.1): a delivery stays
//! *open* for [`limits::FULL_OPEN_TIME`], as long as a host may try to hand a message to the mailbox (RFC 5321 §4.5.4.1). A report
//! about it closes it as one more full mailbox; without one it stands, and the count begins anew. While one is open that came
//! before the message that was just refused, it may still stand: nobody is suppressed.
//!
//! Many hosts never refuse for good: they say 4.2.2 until the message is too old. Such a message met a full mailbox too. So it is
//! noted of recipients that wait whether that is what their host said last; more than [`limits::FULL_WAITING_MAX`] are not noted.

use std::collections::{BTreeSet, HashMap};

use crate::clock::UnixMs;
use crate::limits;
use crate::mail::MessageId;
use crate::suppression::Tag;

/// By address in its stream.
#[derive(Default)]
pub(super) struct Full {
    mailboxes: HashMap<Tag, Mailbox>,
    /// Recipients that wait for a mailbox that was full at the last attempt.
    waiting: BTreeSet<(MessageId, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mailbox {
    /// Messages in a row.
    pub(super) count: u16,
    first: UnixMs,
    last: UnixMs,
    /// The last one.
    message: MessageId,
    /// Deliveries about which a report may still come, oldest first.
    open: Vec<(MessageId, UnixMs)>,
}

impl Mailbox {
    pub(super) fn days(&self) -> u64 {
        (self.last - self.first) / 86_400_000
    }

    /// A delivery that nobody took back in time.
    fn arrived(&self, now: UnixMs) -> bool {
        let stands = limits::FULL_OPEN_TIME.as_millis() as u64;
        let mut open = self.open.iter();
        open.any(|(_, at)| at.saturating_add(stands) <= now)
    }
}

impl Full {
    pub(super) fn len(&self) -> usize {
        self.mailboxes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mailboxes.is_empty()
    }

    /// What a recipient's host said, who waits now: that his mailbox is full, or something else.
    pub(super) fn deferred(&mut self, message: MessageId, number: u16, is_full: bool) {
        match is_full {
            true if self.waiting.len() < limits::FULL_WAITING_MAX => {
                self.waiting.insert((message, number));
            }
            true => {}
            false => drop(self.waiting.remove(&(message, number))),
        }
    }

    /// A recipient waits no more. Says whether it was for a full mailbox.
    pub(super) fn ended(&mut self, message: MessageId, number: u16) -> bool {
        self.waiting.remove(&(message, number))
    }

    /// Whether anybody waits for a full mailbox.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A message to this address was delivered.
    pub(super) fn delivered(&mut self, tag: Tag, message: MessageId, at: UnixMs) {
        let Some(mailbox) = self.mailboxes.get_mut(&tag) else {
            return;
        };
        if mailbox.arrived(at) {
            self.mailboxes.remove(&tag);
        } else if mailbox.open.len() < limits::FULL_OPEN {
            mailbox.open.push((message, at));
        }
    }

    /// A message met a full mailbox. Tells of it when its recipient is to be suppressed for it.
    pub(super) fn count(&mut self, tag: Tag, message: MessageId, at: UnixMs) -> Option<Mailbox> {
        if self
            .mailboxes
            .get(&tag)
            .is_some_and(|mailbox| mailbox.arrived(at))
        {
            self.mailboxes.remove(&tag);
        }
        if !self.mailboxes.contains_key(&tag) && self.mailboxes.len() >= limits::FULL_MAILBOXES_MAX
        {
            return None;
        }
        let mailbox = self.mailboxes.entry(tag).or_insert_with(|| Mailbox {
            count: 0,
            first: at,
            last: at,
            message: MessageId::from_bytes([0; 16]),
            open: Vec::new(),
        });
        if mailbox.message == message {
            return None;
        }
        let taken_back = mailbox.open.iter().position(|(open, _)| *open == message);
        // When it was refused, or taken by a host that refused it afterwards.
        let met = taken_back.map_or(at, |place| mailbox.open.remove(place).1);
        mailbox.message = message;
        mailbox.count = mailbox.count.saturating_add(1);
        mailbox.last = mailbox.last.max(at);
        let time = mailbox.last.saturating_sub(mailbox.first);
        let enough =
            mailbox.count >= limits::FULL_BOUNCES && time >= limits::FULL_TIME.as_millis() as u64;
        let in_a_row = mailbox.open.iter().all(|(_, open)| *open >= met);
        if enough && in_a_row {
            return self.mailboxes.remove(&tag);
        }
        None
    }

    /// Those to whom nothing was sent for long, or something arrived: a new count begins.
    pub(super) fn forget(&mut self, now: UnixMs) {
        let kept = limits::FULL_MEMORY.as_millis() as u64;
        self.mailboxes
            .retain(|_, full| full.last.saturating_add(kept) > now && !full.arrived(now));
    }

    /// As a base holds it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = FORM.to_vec();
        bytes.extend_from_slice(&(self.waiting.len() as u64).to_le_bytes());
        for (message, number) in &self.waiting {
            bytes.extend_from_slice(message.as_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (tag, full) in &self.mailboxes {
            bytes.extend_from_slice(&tag.to_bytes());
            bytes.extend_from_slice(&full.count.to_le_bytes());
            bytes.extend_from_slice(&full.first.to_le_bytes());
            bytes.extend_from_slice(&full.last.to_le_bytes());
            bytes.extend_from_slice(full.message.as_bytes());
            // There are FULL_OPEN at most.
            bytes.push(full.open.len() as u8);
            for (message, at) in &full.open {
                bytes.extend_from_slice(message.as_bytes());
                bytes.extend_from_slice(&at.to_le_bytes());
            }
        }
        bytes
    }

    /// What cannot be read is not counted.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut waiting = BTreeSet::new();
        let mut rest = match (bytes.strip_prefix(&FORM), bytes.strip_prefix(&FORM_2)) {
            (Some(mut rest), _) => {
                let count = array(&mut rest).map_or(0, u64::from_le_bytes);
                for _ in 0..count {
                    let Some(message) = array(&mut rest).map(MessageId::from_bytes) else {
                        break;
                    };
                    let Some(number) = array(&mut rest).map(u16::from_le_bytes) else {
                        break;
                    };
                    if waiting.len() < limits::FULL_WAITING_MAX {
                        waiting.insert((message, number));
                    }
                }
                rest
            }
            (None, Some(rest)) => rest,
            (None, None) => &[],
        };
        let entries = std::iter::from_fn(|| entry(&mut rest));
        Self {
            mailboxes: entries.take(limits::FULL_MAILBOXES_MAX).collect(),
            waiting,
        }
    }
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

fn entry(rest: &mut &[u8]) -> Option<(Tag, Mailbox)> {
    let tag = Tag::from_bytes(array(rest)?);
    let count = u16::from_le_bytes(array(rest)?);
    let first = u64::from_le_bytes(array(rest)?);
    let last = u64::from_le_bytes(array(rest)?);
    let message = MessageId::from_bytes(array(rest)?);
    let [opens] = array(rest)?;
    let mut open = Vec::new();
    for _ in 0..opens {
        let message = MessageId::from_bytes(array(rest)?);
        open.push((message, u64::from_le_bytes(array(rest)?)));
    }
    let mailbox = Mailbox {
        count,
        first,
        last,
        message,
        open,
    };
    Some((tag, mailbox))
}

/// Of the state: what has neither is of an earlier version.
const FORM: [u8; 8] = *b"full\0\0\0\x03";
/// Without those that wait.
const FORM_2: [u8; 8] = *b"full\0\0\0\x02";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppression::TagKey;

    const DAY: UnixMs = 86_400_000;

    fn id(n: u8) -> MessageId {
        MessageId::new(1, &[n; 10])
    }

    fn tag() -> Tag {
        TagKey::new([1; 16]).check()
    }

    /// `+n`: message n is delivered, `-n`: it met a full mailbox; each with its day. Whether the last one suppresses, and no
    /// other does.
    fn check(history: &[(i8, UnixMs)], expected: bool) {
        let mut full = Full::default();
        let mut told = Vec::new();
        for &(message, day) in history {
            let number = id(message.unsigned_abs());
            match message > 0 {
                true => full.delivered(tag(), number, day * DAY),
                false => told.push(full.count(tag(), number, day * DAY).is_some()),
            }
        }
        let last = told.pop();
        assert_eq!(
            (told.contains(&true), last),
            (false, Some(expected)),
            "{history:?}"
        );
    }

    #[test]
    fn what_a_report_takes_back_did_not_arrive_and_what_nobody_takes_back_did() {
        // A host that takes everything and reports afterwards.
        let later = [
            (1, 0),
            (-1, 0),
            (2, 4),
            (-2, 4),
            (3, 8),
            (-3, 9),
            (4, 12),
            (-4, 12),
            (5, 15),
            (-5, 16),
        ];
        check(&later, true);
        // The third arrived: nobody took it back.
        let without: Vec<_> = later.iter().copied().filter(|(n, _)| *n != -3).collect();
        check(&without, false);
        // Reports that overtake each other.
        check(
            &[
                (-1, 0),
                (2, 1),
                (3, 2),
                (-3, 3),
                (-2, 3),
                (4, 12),
                (5, 14),
                (-4, 15),
                (-5, 15),
            ],
            true,
        );
        // One that was taken before the last refusal may still stand.
        check(
            &[(-1, 0), (-2, 5), (-3, 10), (6, 14), (-4, 15), (-5, 16)],
            false,
        );
        // One that was taken behind it changes nothing for those before.
        check(
            &[
                (-1, 0),
                (-2, 5),
                (-3, 10),
                (-4, 12),
                (5, 15),
                (6, 16),
                (-5, 16),
            ],
            true,
        );
    }

    #[test]
    fn what_is_kept_of_full_mailboxes_is_read_back() {
        let mut full = Full::default();
        full.count(tag(), id(1), 77);
        full.delivered(tag(), id(2), 78);
        full.deferred(id(3), 7, true);
        let bytes = full.to_bytes();
        let mut read = Full::from_bytes(&bytes);
        assert_eq!(read.mailboxes.get(&tag()), full.mailboxes.get(&tag()));
        assert!(read.ended(id(3), 7) && !read.ended(id(3), 7));
        for len in 0..bytes.len() {
            assert!(Full::from_bytes(&bytes[..len]).is_empty(), "{len}");
        }
        // As it was written before anybody was noted that waits.
        full.ended(id(3), 7);
        let old = [&FORM_2[..], &full.to_bytes()[16..]].concat();
        let read = Full::from_bytes(&old);
        assert_eq!(read.mailboxes.get(&tag()), full.mailboxes.get(&tag()));
    }

    #[test]
    fn deliveries_that_are_open_are_bounded() {
        let mut full = Full::default();
        full.count(tag(), id(1), 0);
        for n in 2..100 {
            full.delivered(tag(), id(n), u64::from(n));
        }
        assert_eq!(full.mailboxes[&tag()].open.len(), limits::FULL_OPEN);
        full.forget(6 * DAY);
        assert!(full.is_empty());
    }
}
