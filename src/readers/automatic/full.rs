//! Mailboxes that were full at the last messages to them, counted.
//!
//! Promises: nobody is told of unless [`limits::FULL_BOUNCES`] messages in a row over [`limits::FULL_TIME`] met a full mailbox, and
//! nothing in between arrived; memory is bounded by [`limits::FULL_MAILBOXES_MAX`] and [`limits::FULL_OPEN`].
//!
//! A 250 is no arrival yet where hosts take everything and report the full mailbox by mail (RFC 5321 §6.1): a delivery stays
//! *open* for [`limits::FULL_OPEN_TIME`], as long as a host may try to hand a message to the mailbox (RFC 5321 §4.5.4.1). A report
//! about it closes it as one more full mailbox; without one it stands, and the count begins anew. While one is open that came
//! before the message that was just refused, it may still stand: nobody is suppressed.

use std::collections::HashMap;

use crate::clock::UnixMs;
use crate::limits;
use crate::mail::MessageId;
use crate::suppression::Tag;

/// By address in its stream.
#[derive(Default)]
pub(super) struct Full(HashMap<Tag, Mailbox>);

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
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A message to this address was delivered.
    pub(super) fn delivered(&mut self, tag: Tag, message: MessageId, at: UnixMs) {
        let Some(mailbox) = self.0.get_mut(&tag) else {
            return;
        };
        if mailbox.arrived(at) {
            self.0.remove(&tag);
        } else if mailbox.open.len() < limits::FULL_OPEN {
            mailbox.open.push((message, at));
        }
    }

    /// A message met a full mailbox. Tells of it when its recipient is to be suppressed for it.
    pub(super) fn count(&mut self, tag: Tag, message: MessageId, at: UnixMs) -> Option<Mailbox> {
        if self.0.get(&tag).is_some_and(|mailbox| mailbox.arrived(at)) {
            self.0.remove(&tag);
        }
        if !self.0.contains_key(&tag) && self.0.len() >= limits::FULL_MAILBOXES_MAX {
            return None;
        }
        let mailbox = self.0.entry(tag).or_insert_with(|| Mailbox {
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
            return self.0.remove(&tag);
        }
        None
    }

    /// Those to whom nothing was sent for long, or something arrived: a new count begins.
    pub(super) fn forget(&mut self, now: UnixMs) {
        let kept = limits::FULL_MEMORY.as_millis() as u64;
        self.0
            .retain(|_, full| full.last.saturating_add(kept) > now && !full.arrived(now));
    }

    /// As a base holds it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = FORM.to_vec();
        for (tag, full) in &self.0 {
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
        let mut rest = bytes.strip_prefix(&FORM).unwrap_or_default();
        let entries = std::iter::from_fn(|| entry(&mut rest));
        Self(entries.take(limits::FULL_MAILBOXES_MAX).collect())
    }
}

fn entry(rest: &mut &[u8]) -> Option<(Tag, Mailbox)> {
    fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (taken, behind) = rest.split_first_chunk::<N>()?;
        *rest = behind;
        Some(*taken)
    }
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

/// Of the state: what has another is of an earlier version.
const FORM: [u8; 8] = *b"full\0\0\0\x02";

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
        let read = Full::from_bytes(&full.to_bytes());
        assert_eq!(read.0.get(&tag()), full.0.get(&tag()));
        let bytes = full.to_bytes();
        for len in 0..bytes.len() {
            assert!(Full::from_bytes(&bytes[..len]).is_empty(), "{len}");
        }
    }

    #[test]
    fn deliveries_that_are_open_are_bounded() {
        let mut full = Full::default();
        full.count(tag(), id(1), 0);
        for n in 2..100 {
            full.delivered(tag(), id(n), u64::from(n));
        }
        assert_eq!(full.0[&tag()].open.len(), limits::FULL_OPEN);
        full.forget(6 * DAY);
        assert!(full.is_empty());
    }
}
