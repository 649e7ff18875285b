//! What becomes of each recipient, while both logs are read: exact, in memory for those that live.
//!
//! The time in a message's id says when it came. Its first event follows within moments, so an entry that ended and whose message
//! came some minutes ago, by the log's own time, is added up and forgotten. A recipient that turns up again after that, with an
//! event or a record, is a *suspect*: it was forgotten, or is late, or breaks the promise. Suspects are few; their whole story
//! is read from the logs a second time ([`Suspects`]). So nothing depends on clocks: one that was wrong makes suspects.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use spool_format::RecipientKey;

use super::{Offender, Verdict};
use crate::clock::UnixMs;
use crate::event::EventKind;
use crate::mail::MessageId;

/// A recipient that lives, or ended a short time ago.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Its *accepted* event was seen.
    accepted: bool,
    /// A message record names it.
    recorded: bool,
    ended: Option<EventKind>,
}

/// The first reading.
#[derive(Default)]
pub(super) struct Ledger {
    open: HashMap<RecipientKey, Entry>,
    /// Whether it had an entry until it became one: then it was not added up.
    suspects: HashMap<RecipientKey, bool>,
    verdict: Verdict,
    now: LogTime,
    /// Entries at which it is worth while to look for those that can be forgotten.
    sweep_at: usize,
}

/// The newest time seen in the event log.
#[derive(Clone, Copy, Debug, Default)]
struct LogTime(UnixMs);

impl LogTime {
    fn take(&mut self, at: UnixMs) {
        self.0 = self.0.max(at);
    }

    /// A message that came so long ago may have been forgotten.
    fn is_late(self, key: &RecipientKey) -> bool {
        let came = MessageId::from_bytes(key.message).unix_ms();
        self.0 > came.saturating_add(SETTLED_MS)
    }
}

impl Ledger {
    /// A message record names this recipient.
    pub(super) fn message(&mut self, key: RecipientKey) {
        if let Some(entry) = self.entry(key) {
            entry.recorded = true;
        }
    }

    pub(super) fn event(&mut self, key: RecipientKey, kind: EventKind, at: UnixMs) {
        self.now.take(at);
        if let Some(entry) = self.entry(key) {
            Self::apply(entry, kind).unwrap_or_else(|()| self.suspect(key));
        }
    }

    /// What came since the mail log was read, of recipients that were known then.
    pub(super) fn event_of_known(&mut self, key: RecipientKey, kind: EventKind) {
        if let Some(entry) = self.open.get_mut(&key) {
            Self::apply(entry, kind).unwrap_or_else(|()| self.suspect(key));
        }
    }

    /// `Err`: a second outcome.
    fn apply(entry: &mut Entry, kind: EventKind) -> Result<(), ()> {
        match (kind, entry.ended) {
            (EventKind::Accepted, _) => entry.accepted = true,
            (_, None) => entry.ended = Some(kind),
            (_, Some(_)) => return Err(()),
        }
        Ok(())
    }

    /// `None`: a suspect.
    fn entry(&mut self, key: RecipientKey) -> Option<&mut Entry> {
        if self.suspects.contains_key(&key) {
            return None;
        }
        match self.open.entry(key) {
            Place::Occupied(entry) => Some(entry.into_mut()),
            Place::Vacant(_) if self.now.is_late(&key) => {
                self.suspects.insert(key, false);
                None
            }
            Place::Vacant(place) => Some(place.insert(Entry::default())),
        }
    }

    fn suspect(&mut self, key: RecipientKey) {
        self.open.remove(&key);
        self.suspects.insert(key, true);
    }

    /// Adds up and forgets what has ended long enough ago.
    pub(super) fn sweep(&mut self) {
        if self.open.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        let now = self.now;
        let (verdict, suspects) = (&mut self.verdict, &mut self.suspects);
        self.open.retain(|key, entry| {
            let Some(kind) = entry.ended.filter(|_| now.is_late(key)) else {
                return true;
            };
            match entry.accepted || entry.recorded {
                true => {
                    verdict.accepted += 1;
                    *verdict.of(kind) += 1;
                }
                false => {
                    suspects.insert(*key, true);
                }
            }
            false
        });
        self.sweep_at = 2 * self.open.len();
    }

    /// The sums, and who is to be looked at again.
    pub(super) fn close(mut self) -> (Verdict, Suspects) {
        for (key, entry) in &self.open {
            let known = entry.accepted || entry.recorded;
            match entry.ended {
                Some(kind) if known => *self.verdict.of(kind) += 1,
                None if entry.recorded => self.verdict.live += 1,
                _ => {
                    self.suspects.insert(*key, true);
                    continue;
                }
            }
            self.verdict.accepted += 1;
        }
        let story = |(key, had_entry)| {
            let story = Story {
                had_entry,
                ..Story::default()
            };
            (key, story)
        };
        let suspects = Suspects {
            stories: self.suspects.into_iter().map(story).collect(),
            now: LogTime::default(),
            first_event_at: None,
            log_begins: 0,
        };
        (self.verdict, suspects)
    }
}

/// The second reading: of a few recipients everything.
pub(super) struct Suspects {
    stories: HashMap<RecipientKey, Story>,
    now: LogTime,
    first_event_at: Option<UnixMs>,
    /// Position of the first event that is kept.
    pub(super) log_begins: u64,
}

/// Of one recipient.
#[derive(Default)]
struct Story {
    had_entry: bool,
    accepted: bool,
    recorded: bool,
    ended: Vec<EventKind>,
    /// Its first event came when it could not have been forgotten yet.
    began_in_time: Option<bool>,
}

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.stories.is_empty()
    }

    pub(super) fn message(&mut self, key: RecipientKey) {
        if let Some(story) = self.stories.get_mut(&key) {
            story.recorded = true;
        }
    }

    pub(super) fn event(&mut self, key: RecipientKey, kind: EventKind, at: UnixMs) {
        self.now.take(at);
        self.first_event_at.get_or_insert(at);
        let in_time = !self.now.is_late(&key);
        if let Some(story) = self.stories.get_mut(&key) {
            story.began_in_time.get_or_insert(in_time);
            match kind {
                EventKind::Accepted => story.accepted = true,
                kind => story.ended.push(kind),
            }
        }
    }

    /// Adds the suspects to the sums and names those that break the promise.
    pub(super) fn judge(self, verdict: &mut Verdict) -> Vec<Offender> {
        let mut offenders = Vec::new();
        for (key, story) in &self.stories {
            // It had an entry, which was added up and forgotten.
            if !story.had_entry && story.began_in_time == Some(true) {
                verdict.accepted -= 1;
                if let Some(&kind) = story.ended.first() {
                    *verdict.of(kind) -= 1;
                }
            }
            self.judge_one(key, story, verdict, &mut offenders);
        }
        offenders.sort_by(|a, b| {
            (&a.message_id, a.recipient_number).cmp(&(&b.message_id, b.recipient_number))
        });
        offenders
    }

    fn judge_one(
        &self,
        key: &RecipientKey,
        story: &Story,
        verdict: &mut Verdict,
        offenders: &mut Vec<Offender>,
    ) {
        let id = MessageId::from_bytes(key.message);
        let mut offence = |offence, detail: String| {
            offenders.push(Offender {
                message_id: id.to_string(),
                recipient_number: key.number,
                offence,
                detail,
            });
        };
        verdict.accepted += 1;
        match story.ended.first() {
            Some(&kind) => *verdict.of(kind) += 1,
            None if story.recorded => verdict.live += 1,
            None => offence(
                "lost",
                "accepted, without an outcome, and its message record is gone".into(),
            ),
        }
        if story.ended.len() > 1 {
            let words: Vec<&str> = story.ended.iter().map(|kind| kind.as_str()).collect();
            offence("two_outcomes", words.join(", "));
        }
        // The events of its beginning may have gone with the oldest segments of the log.
        let came_before_the_log = self.log_begins > 0
            && self
                .first_event_at
                .is_none_or(|first| id.unix_ms() <= first);
        if !story.recorded && !story.accepted && !came_before_the_log {
            offence(
                "invented",
                "an outcome for a recipient that neither log says was accepted".into(),
            );
        }
    }
}

/// By the log's time, since a message came: long enough for its record, and mostly its events, to be there.
const SETTLED_MS: u64 = 600_000;
const SWEEP_MIN: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;
    use EventKind::*;

    const T: UnixMs = 1_772_460_912_907;

    fn key(number: u16) -> RecipientKey {
        let message = *MessageId::new(T, &[9; 10]).as_bytes();
        RecipientKey { message, number }
    }

    /// One thing that the logs say.
    #[derive(Clone, Copy)]
    enum Said {
        Record(u16),
        Event(EventKind, u16, UnixMs),
        /// All that can be forgotten is.
        Sweep,
    }
    use Said::*;

    fn judge(story: &[Said]) -> (Verdict, Vec<&'static str>) {
        judge_from(story, 0)
    }

    fn judge_from(story: &[Said], log_begins: u64) -> (Verdict, Vec<&'static str>) {
        let mut ledger = Ledger::default();
        for said in story {
            match *said {
                Record(number) => ledger.message(key(number)),
                Event(kind, number, after) => ledger.event(key(number), kind, T + after),
                Sweep => {
                    // Others fill the ledger up.
                    let before = ledger.open.len();
                    for number in 0..SWEEP_MIN {
                        let message = (number as u128).to_le_bytes();
                        let (number, ended) = (0, None);
                        let entry = Entry {
                            ended,
                            ..Entry::default()
                        };
                        ledger.open.insert(RecipientKey { message, number }, entry);
                    }
                    ledger.sweep();
                    ledger
                        .open
                        .retain(|other, _| other.message == key(0).message);
                    assert!(ledger.open.len() <= before);
                }
            }
        }
        let (mut verdict, mut suspects) = ledger.close();
        suspects.log_begins = log_begins;
        for said in story {
            match *said {
                Record(number) => suspects.message(key(number)),
                Event(kind, number, after) => suspects.event(key(number), kind, T + after),
                Sweep => {}
            }
        }
        let offenders = suspects.judge(&mut verdict);
        (verdict, offenders.iter().map(|o| o.offence).collect())
    }

    fn sums(delivered: u64, bounced: u64, live: u64) -> Verdict {
        Verdict {
            accepted: delivered + bounced + live,
            delivered,
            bounced,
            live,
            ..Verdict::default()
        }
    }

    #[test]
    fn every_recipient_is_counted_once_by_its_outcome_or_as_live() {
        let story = [
            Record(0),
            Record(1),
            Record(2),
            Event(Accepted, 0, 1),
            Event(Delivered, 0, 2),
            Event(Accepted, 1, 1),
            Event(Bounced, 3, 4),
            Event(Accepted, 3, 5),
        ];
        assert_eq!(judge(&story), (sums(1, 1, 2), vec![]));
    }

    #[test]
    fn two_outcomes_lost_and_invented_recipients_are_named() {
        let twice = [Record(0), Event(Delivered, 0, 1), Event(Bounced, 0, 2)];
        assert_eq!(judge(&twice), (sums(1, 0, 0), vec!["two_outcomes"]));
        assert_eq!(judge(&[Event(Accepted, 0, 1)]).1, ["lost"]);
        assert_eq!(judge(&[Event(Delivered, 0, 1)]).1, ["invented"]);
        let other = [Record(0), Event(Delivered, 7, 1)];
        assert_eq!(judge(&other).1, ["invented"]);
        let gone = [Event(Accepted, 0, 1), Event(Delivered, 0, 2)];
        assert_eq!(judge(&gone), (sums(1, 0, 0), vec![]));
    }

    #[test]
    fn what_was_forgotten_is_remembered_when_it_turns_up_again() {
        const LATER: UnixMs = SETTLED_MS + 1_000;
        let ended = [
            Event(Accepted, 0, 1),
            Event(Delivered, 0, 2),
            Event(Accepted, 1, LATER),
        ];
        let begun = |more: &[Said]| [&ended[..], &[Sweep], more].concat();
        let other_is_late = |found: Vec<&'static str>| {
            // Recipient 1 was accepted late and has no record.
            let mut all = vec!["lost"];
            all.extend(found);
            all.sort_unstable();
            all
        };
        for (more, offences) in [
            (vec![], vec![]),
            (vec![Event(Bounced, 0, LATER)], vec!["two_outcomes"]),
            (vec![Event(Accepted, 0, LATER)], vec![]),
            (
                vec![Event(Accepted, 0, LATER), Event(Delivered, 0, LATER)],
                vec!["two_outcomes"],
            ),
            (vec![Record(0)], vec![]),
        ] {
            let (verdict, mut found) = judge(&begun(&more));
            found.sort_unstable();
            assert_eq!(found, other_is_late(offences));
            assert_eq!((verdict.accepted, verdict.delivered), (2, 1));
        }
    }

    #[test]
    fn a_late_record_of_a_recipient_without_events_lives() {
        let story = [Event(Accepted, 1, SETTLED_MS + 1_000), Record(1), Record(0)];
        assert_eq!(judge(&story), (sums(0, 0, 2), vec![]));
    }

    #[test]
    fn an_outcome_whose_beginning_went_with_the_oldest_events_is_not_invented() {
        let story = [Event(Delivered, 0, SETTLED_MS + 1_000)];
        assert_eq!(judge(&story).1, ["invented"]);
        assert_eq!(judge_from(&story, 1 << 20), (sums(1, 0, 0), vec![]));
    }

    #[test]
    fn what_came_while_the_audit_ran_does_not_count() {
        let mut ledger = Ledger::default();
        ledger.event_of_known(key(0), Accepted);
        let (verdict, suspects) = ledger.close();
        assert_eq!(verdict, Verdict::default());
        assert!(suspects.is_empty());
    }
}
