//! Which messages have a time of their own, by server: so that a sender's question costs what it answers.
//!
//! Promises: every live message that was accepted with a time of release is here until its last recipient has ended; at most
//! some 60 bytes for each, so no more than the queue itself holds ([`limits::QUEUE_RECIPIENTS_MAX`]). It may hold messages that
//! are released already: whether one still waits only the scheduler says.
//!
//! Kept by the dispatcher and by recovery, read by whoever answers senders. Plain data behind a lock that is held for a few
//! look-ups: no channel, since an answer must not wait for a round.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::limits;
use crate::mail::MessageId;

#[derive(Default)]
pub(super) struct Schedule(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    messages: BTreeMap<(u32, MessageId), Slot>,
    /// Whoever waits for the events of recipients that end.
    watched: HashMap<MessageId, Watched>,
}

struct Slot {
    /// Of its record when it came; compaction may have moved it.
    position: u64,
    /// Recipients without an outcome.
    live: u16,
    rescheduled: u16,
}

struct Watched {
    numbers: Vec<u16>,
    last_event: u64,
    tell: oneshot::Sender<u64>,
}

impl Schedule {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Plain data: what a panicking thread leaves behind is still true.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message came, or was found alive.
    pub(super) fn note(&self, server: u32, id: MessageId, position: u64, live: usize) {
        let slot = Slot {
            position,
            live: u16::try_from(live).unwrap_or(u16::MAX),
            rescheduled: 0,
        };
        self.inner().messages.insert((server, id), slot);
    }

    /// A recipient has ended; the event that says so is at this position.
    pub(super) fn ended(&self, server: u32, id: MessageId, number: u16, event: u64) {
        let mut inner = self.inner();
        if let Some(slot) = inner.messages.get_mut(&(server, id)) {
            slot.live = slot.live.saturating_sub(1);
            if slot.live == 0 {
                inner.messages.remove(&(server, id));
            }
        }
        let Some(watched) = inner.watched.get_mut(&id) else {
            return;
        };
        watched.numbers.retain(|other| *other != number);
        watched.last_event = watched.last_event.max(event);
        if watched.numbers.is_empty()
            && let Some(watched) = inner.watched.remove(&id)
        {
            // Whoever asked may have gone.
            let _ = watched.tell.send(watched.last_event);
        }
    }

    /// A recipient of the message at this position has ended, and nothing else is known of it. Rare: all are looked at.
    pub(super) fn lost(&self, position: u64) {
        let mut inner = self.inner();
        let found = inner.messages.iter_mut();
        let Some((key, slot)) = found
            .map(|(key, slot)| (*key, slot))
            .find(|(_, slot)| slot.position == position)
        else {
            return;
        };
        slot.live = slot.live.saturating_sub(1);
        if slot.live == 0 {
            inner.messages.remove(&key);
        }
    }

    /// Where its record was.
    pub(super) fn position(&self, server: u32, id: MessageId) -> Option<u64> {
        Some(self.inner().messages.get(&(server, id))?.position)
    }

    /// Up to `count` messages of a server behind `after`, in the order of their acceptance.
    pub(super) fn behind(
        &self,
        server: u32,
        after: Option<MessageId>,
        count: usize,
    ) -> Vec<(MessageId, u64)> {
        let first = match after {
            Some(id) => Bound::Excluded((server, id)),
            None => Bound::Included((server, MessageId::from_bytes([0; 16]))),
        };
        let inner = self.inner();
        let mine = inner.messages.range((first, Bound::Unbounded));
        let mine = mine.take_while(|((of, _), _)| *of == server).take(count);
        mine.map(|((_, id), slot)| (*id, slot.position)).collect()
    }

    /// Counts one more change of a message's time. `false`: there were too many.
    pub(super) fn may_change(&self, server: u32, id: MessageId) -> bool {
        let mut inner = self.inner();
        let Some(slot) = inner.messages.get_mut(&(server, id)) else {
            return false;
        };
        slot.rescheduled += u16::from(slot.rescheduled < limits::RESCHEDULES_MAX);
        slot.rescheduled < limits::RESCHEDULES_MAX
    }

    /// Tells when all of these recipients have ended: the position of the last of their events. Called before they do.
    pub(super) fn watch(&self, id: MessageId, numbers: Vec<u16>) -> oneshot::Receiver<u64> {
        let (tell, told) = oneshot::channel();
        let watched = Watched {
            numbers,
            last_event: 0,
            tell,
        };
        let mut inner = self.inner();
        // Those whose asker gave up.
        inner.watched.retain(|_, watched| !watched.tell.is_closed());
        inner.watched.insert(id, watched);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> MessageId {
        MessageId::from_bytes([n; 16])
    }

    #[test]
    fn a_server_sees_its_own_messages_page_by_page_until_their_last_recipient_ends() {
        let schedule = Schedule::default();
        for n in 1..=5 {
            schedule.note(1, id(n), u64::from(n), 2);
            schedule.note(2, id(10 + n), 0, 1);
        }
        let page = |after, count| schedule.behind(1, after, count);
        assert_eq!(page(None, 2), [(id(1), 1), (id(2), 2)]);
        assert_eq!(page(Some(id(2)), 9).len(), 3);
        assert_eq!(page(Some(id(5)), 9), []);
        assert_eq!(
            (schedule.position(1, id(3)), schedule.position(2, id(3))),
            (Some(3), None)
        );
        let mut told = schedule.watch(id(3), vec![0, 1]);
        schedule.ended(1, id(3), 1, 70);
        assert_eq!(schedule.position(1, id(3)), Some(3));
        assert!(told.try_recv().is_err());
        schedule.ended(1, id(3), 0, 60);
        assert_eq!(
            (told.try_recv(), schedule.position(1, id(3))),
            (Ok(70), None)
        );
        schedule.lost(1);
        assert_eq!(schedule.position(1, id(1)), Some(1));
        schedule.lost(1);
        schedule.lost(1);
        assert_eq!(schedule.position(1, id(1)), None);
        for _ in 1..limits::RESCHEDULES_MAX {
            assert!(schedule.may_change(1, id(4)));
        }
        assert!(!schedule.may_change(1, id(4)) && !schedule.may_change(2, id(4)));
    }
}
