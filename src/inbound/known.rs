//! Which message an address is about: what the event log says of its acceptance.
//!
//! The id of a message is the time at which it was taken, so only the events behind that are looked at: one segment, some tens
//! of milliseconds, on a thread of the blocking pool and one search at a time. What was found, or not, is remembered: a report
//! asks at RCPT and a mail loop for ever.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
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
    searching: Arc<Semaphore>,
}

/// The newest answers.
#[derive(Default)]
struct Found {
    answers: HashMap<MessageId, Option<Arc<Subject>>>,
    /// Oldest first.
    order: VecDeque<MessageId>,
}

impl Known {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            found: Arc::default(),
            searching: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) async fn find(&self, id: MessageId) -> Result<Arc<Subject>, Refused> {
        if let Some(answer) = self.remembered(id) {
            return answer.ok_or(Refused::Unknown);
        }
        let turn = Arc::clone(&self.searching).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(limits::REPORT_SEARCH_WAIT, turn).await else {
            return Err(Refused::Busy);
        };
        // Somebody else may have asked the same.
        if let Some(answer) = self.remembered(id) {
            return answer.ok_or(Refused::Unknown);
        }
        let (log, found) = (self.log.clone(), Arc::clone(&self.found));
        let search = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let answer = search(&log, id).map(Arc::new);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.remember(id, answer.clone());
            answer
        });
        search.await.ok().flatten().ok_or(Refused::Unknown)
    }

    pub(super) fn remembered(&self, id: MessageId) -> Option<Option<Arc<Subject>>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.answers.get(&id).cloned()
    }
}

impl Found {
    fn remember(&mut self, id: MessageId, answer: Option<Arc<Subject>>) {
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

/// From the message's *accepted* events, which stand together.
fn search(log: &Log, id: MessageId) -> Option<Subject> {
    let from = log.position_before(id.unix_ms().saturating_sub(SLACK_MS));
    let until = id.unix_ms() + limits::REPORT_SEARCH_TIME.as_millis() as u64;
    let mut payloads = Vec::new();
    for (record, _) in log.records_from(from).flatten() {
        let Ok(Some(event)) = Event::decode(&record.payload) else {
            continue;
        };
        if event.kind != EventKind::Accepted {
            continue;
        }
        if event.message_id == id {
            // Not a slice of what was read, which would be kept whole.
            payloads.push(Bytes::copy_from_slice(&record.payload));
        } else if !payloads.is_empty() || event.at > until {
            break;
        }
    }
    let events = payloads.iter().filter_map(|p| Event::decode(p).ok()?);
    let events: Vec<Event<'_>> = events.collect();
    Subject::of_events(&events, Box::default())
}

/// A clock that was set back between two starts.
const SLACK_MS: UnixMs = 3_600_000;
