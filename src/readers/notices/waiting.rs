//! What was read of the event log and is still to be told: outcomes that gather for a moment, and recipients that wait; and of
//! whom a failure was told, since remote hosts repeat their reports.
//!
//! Pure: events go in, notices come out. Of recipients that wait it keeps where their events are, not what these say. Every step
//! costs by what it finds, never by how many wait.

use std::collections::{BTreeMap, BTreeSet, HashSet};

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
    /// Those of them whose delay is to be told, in the order of time.
    delays: BTreeSet<(UnixMs, MessageId, u16)>,
    /// Recipients of whom a failure was told, or gathers; those of the oldest messages are forgotten first.
    failed: BTreeSet<(MessageId, u16)>,
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
                for (&(message, number), live) in live.filter(|(_, live)| live.due > 0) {
                    self.delays.remove(&(live.due, message, number));
                    live.due = from + DELAY_MS;
                    self.delays.insert((live.due, message, number));
                }
            }
            kind if kind.is_terminal() || kind == EventKind::BouncedLater => {
                let live = self.end(key);
                let Some(what) = what(event) else { return };
                // Whoever reports once more, or what becomes of a recipient whose failure a report told already, is no news.
                let is_news = what != What::Failed || self.fails(key);
                if is_news && !self.told.contains(&position) {
                    self.gather(what, event, Person::of(position, event, live.deferred));
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, key: (MessageId, u16), live: Live) {
        let known = self.live.remove(&key);
        if let Some(known) = known {
            self.delays.remove(&(known.due, key.0, key.1));
        }
        if self.live.len() < limits::NOTICE_LIVE_MAX {
            if live.due > 0 {
                self.delays.insert((live.due, key.0, key.1));
            }
            self.live.insert(key, live);
        }
    }

    /// Nothing is to be told of its delay any more.
    fn end(&mut self, key: (MessageId, u16)) -> Live {
        let live = self.live.remove(&key).unwrap_or_default();
        self.delays.remove(&(live.due, key.0, key.1));
        live
    }

    /// Notes the failure of a recipient. `false`: one was known.
    fn fails(&mut self, key: (MessageId, u16)) -> bool {
        let is_new = self.failed.insert(key);
        if self.failed.len() > limits::NOTICE_FAILED_MAX {
            self.failed.pop_first();
        }
        is_new
    }

    /// Earlier lives have told of these events, as recovery found.
    pub(super) fn were_told(&mut self, positions: impl IntoIterator<Item = u64>) {
        self.told.extend(positions);
        for (&(message, number), live) in &mut self.live {
            if live.due > 0 && self.told.contains(&live.accepted) {
                self.delays.remove(&(live.due, message, number));
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

    /// The first event that is still to be told: of outcomes that gather, or of delays that are due.
    pub(super) fn first_untold(&self, now: UnixMs) -> Option<u64> {
        let gathered = self.gathering.values().chain(&self.full);
        let outcomes = gathered.flat_map(|notice| notice.people.iter().map(|person| person.event));
        let due = self.delays.iter().take_while(|(due, ..)| *due <= now);
        let delayed = due.filter_map(|&(_, message, number)| self.live.get(&(message, number)));
        outcomes.chain(delayed.map(|live| live.accepted)).min()
    }

    /// When there is something to tell next, outcome or delay.
    pub(super) fn due(&self) -> Option<UnixMs> {
        let gathered = self.gathering.values().map(|n| n.since + GATHER_MS).min();
        let full = self.full.first().map(|_| 0);
        let delay = self.delays.first().map(|(due, ..)| *due);
        gathered.into_iter().chain(full).chain(delay).min()
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
        let mut delayed = Vec::new();
        while delayed.len() < limits::NOTICE_OUTCOMES_MAX
            && let Some(&(due, message, number)) = self.delays.first()
            && due <= now
        {
            self.delays.pop_first();
            if let Some(live) = self.live.get_mut(&(message, number)) {
                live.due = 0;
                delayed.push(*live);
            }
        }
        delayed
    }

    /// Recipients that wait, and those that failed, for a base.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(
            FORM.len() + 8 + self.live.len() * ENTRY + self.failed.len() * FAILED,
        );
        bytes.extend_from_slice(&FORM);
        bytes.extend_from_slice(&(self.live.len() as u64).to_le_bytes());
        for ((message, number), live) in &self.live {
            bytes.extend_from_slice(message.as_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&live.accepted.to_le_bytes());
            bytes.extend_from_slice(&live.deferred.to_le_bytes());
            bytes.extend_from_slice(&live.due.to_le_bytes());
        }
        for (message, number) in &self.failed {
            bytes.extend_from_slice(message.as_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let counted = bytes.strip_prefix(&FORM);
        let counted = counted.and_then(|rest| rest.split_first_chunk::<8>());
        let (live, failed) = match counted {
            Some((count, rest)) => {
                let octets = u64::from_le_bytes(*count).saturating_mul(ENTRY as u64);
                let octets = usize::try_from(octets).unwrap_or(usize::MAX);
                rest.split_at(octets.min(rest.len()))
            }
            // Of an earlier version, which knew of no failures; its first octets are a time.
            None => (bytes, &[][..]),
        };
        let entries = live.chunks_exact(ENTRY).filter_map(|entry| {
            let (key, rest) = key_of(entry)?;
            let (accepted, rest) = rest.split_first_chunk::<8>()?;
            let (deferred, rest) = rest.split_first_chunk::<8>()?;
            let live = Live {
                accepted: u64::from_le_bytes(*accepted),
                deferred: u64::from_le_bytes(*deferred),
                due: u64::from_le_bytes(rest.try_into().ok()?),
            };
            Some((key, live))
        });
        let live: BTreeMap<_, Live> = entries.take(limits::NOTICE_LIVE_MAX).collect();
        let failed = failed.chunks_exact(FAILED).rev();
        let failed = failed.filter_map(|entry| Some(key_of(entry)?.0));
        let due = live.iter().filter(|(_, live)| live.due > 0);
        Self {
            delays: due
                .map(|(&(message, number), live)| (live.due, message, number))
                .collect(),
            failed: failed.take(limits::NOTICE_FAILED_MAX).collect(),
            live,
            ..Self::default()
        }
    }
}

fn key_of(entry: &[u8]) -> Option<((MessageId, u16), &[u8])> {
    let (message, rest) = entry.split_first_chunk::<16>()?;
    let (number, rest) = rest.split_first_chunk::<2>()?;
    let key = (MessageId::from_bytes(*message), u16::from_le_bytes(*number));
    Some((key, rest))
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
/// At the beginning of a base: what has no such mark is of an earlier version.
const FORM: [u8; 8] = *b"notice\0\x02";
/// Octets of a recipient in a base: one that waits, one that failed.
const ENTRY: usize = FAILED + 3 * 8;
const FAILED: usize = 16 + 2;
