//! What was read of the event log and is still to be told: outcomes that gather for a moment, and recipients that wait.
//!
//! Pure: events go in, notices come out. Of recipients that wait it keeps where their events are, not what these say.

use std::collections::{BTreeMap, HashSet};

use super::notice::{Notice, Person, What};
use crate::clock::UnixMs;
use crate::event::{Dsn, Event, EventKind};
use crate::limits;
use crate::mail::MessageId;
use crate::outcome::CauseClass;

#[derive(Default)]
pub(super) struct Waiting {
    /// Outcomes, by message and kind of notice.
    gathering: BTreeMap<(MessageId, What), Notice>,
    /// Those that were gathered to the full.
    full: Vec<Notice>,
    /// Recipients in all of them.
    outcomes: usize,
    /// Recipients that have no outcome: those that may be delayed, and those that were deferred.
    live: BTreeMap<(MessageId, u16), Live>,
    /// No delay is to be told before.
    delay_at: Option<UnixMs>,
    /// Positions of events that earlier lives have told.
    told: HashSet<u64>,
}

/// Positions of a recipient's events; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Of its acceptance, if a delay is to be told.
    pub(super) accepted: u64,
    /// Of its last deferral.
    pub(super) deferred: u64,
    /// When a delay is to be told; 0: never, or it was.
    due: UnixMs,
}

impl Waiting {
    /// Takes an event. Others than these change nothing.
    pub(super) fn take(&mut self, position: u64, event: &Event<'_>) {
        let key = (event.message_id, event.recipient_number);
        match event.kind {
            EventKind::Accepted if asks(&event.dsn, "DELAY") && !self.told.contains(&position) => {
                let from = event.next_attempt.unwrap_or(event.message_id.unix_ms());
                let live = Live {
                    accepted: position,
                    due: from + DELAY_MS,
                    ..Live::default()
                };
                self.note(key, live);
            }
            EventKind::Deferred if !event.dsn.to.is_empty() => match self.live.get_mut(&key) {
                Some(live) => live.deferred = position,
                None => self.note(
                    key,
                    Live {
                        deferred: position,
                        ..Live::default()
                    },
                ),
            },
            // For the whole message.
            EventKind::Rescheduled => {
                let from = event.next_attempt.unwrap_or(event.at);
                let all = (event.message_id, 0)..=(event.message_id, u16::MAX);
                let live = self.live.range_mut(all);
                for (_, live) in live.filter(|(_, live)| live.due > 0) {
                    live.due = from + DELAY_MS;
                    self.delay_at = sooner(self.delay_at, live.due);
                }
            }
            kind if kind.is_terminal() || kind == EventKind::BouncedLater => {
                let live = self.live.remove(&key).unwrap_or_default();
                if let Some(what) = what(event)
                    && !self.told.contains(&position)
                {
                    self.gather(what, event, Person::of(position, event, live.deferred));
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, key: (MessageId, u16), live: Live) {
        if self.live.len() < limits::NOTICE_LIVE_MAX {
            self.delay_at = sooner(self.delay_at, live.due);
            self.live.insert(key, live);
        }
    }

    /// Earlier lives have told of these events, as recovery found.
    pub(super) fn were_told(&mut self, positions: impl IntoIterator<Item = u64>) {
        self.told.extend(positions);
        for live in self.live.values_mut() {
            if self.told.contains(&live.accepted) {
                live.due = 0;
            }
        }
    }

    /// Nothing from before a new base is read again.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
    }

    fn gather(&mut self, what: What, event: &Event<'_>, person: Person) {
        let key = (event.message_id, what);
        let notice = self
            .gathering
            .entry(key)
            .or_insert_with(|| Notice::of(what, event));
        notice.people.push(person);
        self.outcomes += 1;
        if notice.people.len() >= limits::NOTICE_RECIPIENTS_MAX
            && let Some(notice) = self.gathering.remove(&key)
        {
            self.full.push(notice);
        }
    }

    /// Recipients that have no outcome and are known: their end matters, whatever it is.
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.outcomes >= limits::NOTICE_OUTCOMES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outcomes == 0
    }

    /// When there is something to tell next, outcome or delay.
    pub(super) fn due(&self) -> Option<UnixMs> {
        let gathered = self.gathering.values().map(|n| n.since + GATHER_MS).min();
        let full = self.full.first().map(|_| 0);
        gathered.into_iter().chain(full).chain(self.delay_at).min()
    }

    /// Notices of outcomes whose time has come; `all`: whose has not, too.
    pub(super) fn ready(&mut self, now: UnixMs, all: bool) -> Vec<Notice> {
        let mut ready = std::mem::take(&mut self.full);
        let due = self
            .gathering
            .extract_if(.., |_, notice| all || notice.since + GATHER_MS <= now);
        ready.extend(due.map(|(_, notice)| notice));
        self.outcomes = self.gathering.values().map(|n| n.people.len()).sum();
        for notice in &mut ready {
            notice.people.sort_by_key(|person| person.number);
        }
        ready
    }

    /// Recipients of whom a delay is to be told, each once: those of one message together, and some of them for now.
    pub(super) fn delayed(&mut self, now: UnixMs) -> Vec<Live> {
        if self.delay_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let due = self
            .live
            .values_mut()
            .filter(|live| live.due > 0 && live.due <= now);
        let due = due.take(limits::NOTICE_OUTCOMES_MAX).map(|live| {
            live.due = 0;
            *live
        });
        let due = due.collect();
        let left = self.live.values().map(|live| live.due);
        self.delay_at = left.filter(|&due| due > 0).min();
        due
    }

    /// Recipients that wait, for a base.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.live.len() * ENTRY);
        for ((message, number), live) in &self.live {
            bytes.extend_from_slice(message.as_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&live.accepted.to_le_bytes());
            bytes.extend_from_slice(&live.deferred.to_le_bytes());
            bytes.extend_from_slice(&live.due.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let entries = bytes.chunks_exact(ENTRY).filter_map(|entry| {
            let (message, rest) = entry.split_first_chunk::<16>()?;
            let (number, rest) = rest.split_first_chunk::<2>()?;
            let (accepted, rest) = rest.split_first_chunk::<8>()?;
            let (deferred, rest) = rest.split_first_chunk::<8>()?;
            let live = Live {
                accepted: u64::from_le_bytes(*accepted),
                deferred: u64::from_le_bytes(*deferred),
                due: u64::from_le_bytes(rest.try_into().ok()?),
            };
            let key = (MessageId::from_bytes(*message), u16::from_le_bytes(*number));
            Some((key, live))
        });
        let live: BTreeMap<_, Live> = entries.take(limits::NOTICE_LIVE_MAX).collect();
        Self {
            delay_at: live.values().fold(None, |at, live| sooner(at, live.due)),
            live,
            ..Self::default()
        }
    }
}

/// What is to be told of an outcome, if anything is.
fn what(event: &Event<'_>) -> Option<What> {
    let asks = |word| asks(&event.dsn, word);
    match event.kind {
        EventKind::Bounced | EventKind::Expired => asks("FAILURE").then_some(What::Failed),
        // It is there only where the remote host does not tell.
        EventKind::Delivered => asks("SUCCESS").then_some(What::Relayed),
        EventKind::BouncedLater => {
            let failed = asks("FAILURE") && !event.recipient.is_empty() && is_failure(event);
            failed.then_some(What::Failed)
        }
        // Whoever recalled it knows (RFC 3461 has no word for it).
        _ => None,
    }
}

/// Whether a report says that the message did not arrive, and was understood: an automatic answer does not, nor does a letter.
fn is_failure(event: &Event<'_>) -> bool {
    let cause = CauseClass::parse(event.cause).unwrap_or(CauseClass::Unknown);
    let is_of_delivery = !matches!(
        cause,
        CauseClass::AutoReply
            | CauseClass::Challenge
            | CauseClass::AddressChange
            | CauseClass::Complaint
            | CauseClass::Unsubscribe
    );
    is_of_delivery && !event.judged.reaction.is_empty()
}

/// `due` may be 0: never.
fn sooner(at: Option<UnixMs>, due: UnixMs) -> Option<UnixMs> {
    let due = Some(due).filter(|&due| due > 0);
    at.into_iter().chain(due).min()
}

/// RFC 3461 §4.1: without NOTIFY failures are told. (Delays may be, at our discretion: they are not.)
fn asks(dsn: &Dsn<'_>, word: &str) -> bool {
    let asked = match dsn.notify {
        "" => word == "FAILURE",
        notify => notify.split(',').any(|asked| asked == word),
    };
    asked && !dsn.to.is_empty()
}

const GATHER_MS: UnixMs = limits::NOTICE_GATHER.as_millis() as UnixMs;
const DELAY_MS: UnixMs = limits::NOTICE_DELAY.as_millis() as UnixMs;
/// Octets of a recipient in a base.
const ENTRY: usize = 16 + 2 + 3 * 8;
