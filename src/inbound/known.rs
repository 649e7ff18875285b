//! Which message an address is about: what the event log says of its acceptance.
//!
//! The id of a message is the time at which it was taken, so only the events behind that are looked at: one segment, some tens
//! of milliseconds, on a thread of the blocking pool and one search at a time. What was found, or is certainly not there, is
//! remembered: a report asks at RCPT and a mail loop for ever. What could not be read, or may still come, is neither known nor
//! unknown: whoever asks shall ask again.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::Refused;
use crate::clock::UnixMs;
use crate::event::{Event, EventKind, Subject};
use crate::limits;
use crate::mail::MessageId;
use crate::spool::Log;

pub(super) struct Known {
    log: Log,
    found: Arc<Mutex<Found>>,
    /// By how much is known of who asks, each has its turns.
    searching: [Arc<Semaphore>; 2],
}

/// What is known of a message.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) subject: Arc<Subject>,
    /// Where its record was written.
    pub(super) mail_position: Option<u64>,
    /// All of its recipients are known.
    pub(super) whole: bool,
}

/// Who asks about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// It has our own proof that there is such a message.
    Proof,
    /// It says so: a search costs no more than [`limits::COMPLAINT_SEARCH`].
    Word,
}

/// The newest answers.
#[derive(Default)]
struct Found {
    answers: HashMap<MessageId, Option<Accepted>>,
    /// Oldest first.
    order: VecDeque<MessageId>,
}

/// Why nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// It is in no log.
    Certainly,
    /// Part of the log could not be read, or its acceptance may not be durable yet.
    Perhaps,
}

impl Known {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            found: Arc::default(),
            searching: [(); 2].map(|()| Arc::new(Semaphore::new(1))),
        }
    }

    /// # Cancel safety
    /// A search that has begun goes on, for whoever asks next.
    pub(super) async fn find(
        &self,
        id: MessageId,
        asker: Asker,
        now: UnixMs,
    ) -> Result<Accepted, Refused> {
        if let Some(answer) = self.settled(id) {
            return answer.ok_or(Refused::Unknown);
        }
        let turn = Arc::clone(&self.searching[asker as usize]).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(limits::REPORT_SEARCH_WAIT, turn).await else {
            return Err(Refused::Busy);
        };
        // Somebody else may have asked the same.
        if let Some(answer) = self.settled(id) {
            return answer.ok_or(Refused::Unknown);
        }
        let (log, found) = (self.log.clone(), Arc::clone(&self.found));
        let search = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let slack = match asker {
                Asker::Proof => SLACK_MS,
                Asker::Word => SLACK_OF_WORD_MS,
            };
            let from = log.position_before(id.unix_ms().saturating_sub(slack));
            let records = log.records_from(from);
            let payloads = records.map(|item| item.map(|(record, _)| record.payload));
            let answer = match asker {
                Asker::Proof => search(payloads, id, now),
                Asker::Word => search(payloads.take(limits::COMPLAINT_SEARCH), id, now),
            };
            // Who has no proof was not looked for everywhere.
            if answer.is_ok() || asker == Asker::Proof && answer == Err(Missing::Certainly) {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.remember(id, answer.as_ref().ok().cloned());
            }
            answer
        });
        match search.await {
            Ok(Ok(accepted)) => Ok(accepted),
            Ok(Err(Missing::Certainly)) => Err(Refused::Unknown),
            Ok(Err(Missing::Perhaps)) => Err(Refused::Unsure),
            Err(_) => Err(Refused::Busy),
        }
    }

    /// What no further search can change.
    fn settled(&self, id: MessageId) -> Option<Option<Accepted>> {
        let is_whole = |answer: &Option<Accepted>| answer.as_ref().is_none_or(|found| found.whole);
        self.remembered(id).filter(is_whole)
    }

    /// The inner `None`: there is no such message.
    pub(super) fn remembered(&self, id: MessageId) -> Option<Option<Accepted>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.answers.get(&id).cloned()
    }
}

impl Found {
    fn remember(&mut self, id: MessageId, answer: Option<Accepted>) {
        if self.answers.insert(id, answer).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > limits::REPORTS_KNOWN {
            if let Some(oldest) = self.order.pop_front() {
                self.answers.remove(&oldest);
            }
        }
    }
}

impl PartialEq for Accepted {
    fn eq(&self, other: &Self) -> bool {
        self.subject.id == other.subject.id
    }
}

/// From the message's *accepted* events, which stand together, among the payloads of events.
fn search<P: Deref<Target = [u8]>, E>(
    payloads: impl Iterator<Item = Result<P, E>>,
    id: MessageId,
    now: UnixMs,
) -> Result<Accepted, Missing> {
    let until = id.unix_ms() + limits::REPORT_SEARCH_TIME.as_millis() as u64;
    // Not slices of what was read, which would be kept whole.
    let mut found: Vec<Box<[u8]>> = Vec::new();
    let (mut whole, mut ended) = (true, false);
    for payload in payloads {
        let Ok(payload) = payload else {
            whole = false;
            continue;
        };
        let Ok(Some(event)) = Event::decode(&payload) else {
            continue;
        };
        if event.kind != EventKind::Accepted {
            continue;
        }
        if event.message_id == id {
            if found.is_empty() {
                // What was lost before it was of others: its events stand in the order of its recipients.
                whole = event.recipient_number == 0;
            }
            found.push((*payload).into());
        } else if !found.is_empty() || event.at > until {
            ended = true;
            break;
        }
    }
    let events = found.iter().filter_map(|p| Event::decode(p).ok()?);
    let events: Vec<Event<'_>> = events.collect();
    let Some(subject) = Subject::of_events(&events, Box::default()) else {
        // A crash may lie between a message and its acceptance, which recovery then writes.
        return Err(match whole && (ended || now > until) {
            true => Missing::Certainly,
            false => Missing::Perhaps,
        });
    };
    Ok(Accepted {
        subject: Arc::new(subject),
        mail_position: events.first().and_then(|event| event.mail_position),
        whole: whole && ended,
    })
}

/// A clock that was set back between two starts.
const SLACK_MS: UnixMs = 3_600_000;
/// Where only so many events are looked at, those of an hour of a busy node would be all of them.
const SLACK_OF_WORD_MS: UnixMs = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: UnixMs = 86_400_000;

    fn id(n: u8) -> MessageId {
        MessageId::new(DAY, &[n; 10])
    }

    fn accepted(message_id: MessageId, number: u16, at: UnixMs) -> Result<Vec<u8>, ()> {
        let mut payload = Vec::new();
        Event {
            at,
            message_id,
            recipient_number: number,
            recipient: "a@a.test",
            server: "app",
            stream: "outbound",
            mail_position: Some(4_096),
            ..Event::nothing()
        }
        .encode(&mut payload);
        Ok(payload)
    }

    /// How many recipients of message 1 are found, and whether that is all of them.
    fn check(
        log: impl IntoIterator<Item = Result<Vec<u8>, ()>>,
        now: UnixMs,
        expected: Result<(usize, bool), Missing>,
    ) {
        let found = search(log.into_iter(), id(1), now);
        let found = found.map(|found| {
            assert_eq!(found.mail_position, Some(4_096));
            (found.subject.numbers().count(), found.whole)
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn nobody_is_called_unknown_who_may_be_where_the_log_cannot_be_read_or_not_be_written_yet() {
        let own = |number| accepted(id(1), number, DAY);
        let other = |at| accepted(id(2), 0, at);
        check([own(0), own(1), other(DAY)], DAY, Ok((2, true)));
        // What was lost before is not its own.
        check([Err(()), own(0), own(1), other(DAY)], DAY, Ok((2, true)));
        for lost in [0, 1, 2] {
            let mut log = vec![own(0), own(1), own(2), other(DAY)];
            log[lost] = Err(());
            check(log, DAY, Ok((2, false)));
        }
        // More may come.
        check([own(0)], DAY, Ok((1, false)));
        check([other(DAY)], DAY, Err(Missing::Perhaps));
        check([], 2 * DAY, Err(Missing::Perhaps));
        // It would have come by now.
        check([other(3 * DAY)], DAY, Err(Missing::Certainly));
        check([other(DAY)], 3 * DAY, Err(Missing::Certainly));
        check([Err(()), other(3 * DAY)], 3 * DAY, Err(Missing::Perhaps));
    }
}
