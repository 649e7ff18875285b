//! Counts the attempts of each recipient whose answer to the final dot was lost: `deliver` decides by it.
//!
//! Counted for recipients that live; a start brings the counts back from the events, checkpoints included.

use rustc_hash::FxHashMap;

use super::Dispatcher;
use crate::deliver::{self, RecipientResult};
use crate::limits;
use crate::mail::MessageId;
use crate::outcome::Outcome;

/// By recipient: how many attempts ended so.
#[derive(Default)]
pub(super) struct Ambiguities(FxHashMap<(MessageId, u16), u8>);

impl Ambiguities {
    /// Of an earlier life.
    pub(super) fn restore(&mut self, id: MessageId, number: u16, count: u8) {
        self.put(id, number, count);
    }

    /// One more; how many there are now. Beyond the bound it is always the first: then the age limit ends it.
    fn count(&mut self, id: MessageId, number: u16) -> u8 {
        let count = self.0.get(&(id, number)).map_or(1, |n| n.saturating_add(1));
        self.put(id, number, count);
        count
    }

    fn put(&mut self, id: MessageId, number: u16, count: u8) {
        if self.0.len() < limits::AMBIGUOUS_KNOWN_MAX || self.0.contains_key(&(id, number)) {
            self.0.insert((id, number), count);
        }
    }

    /// The recipient has ended.
    pub(super) fn forget(&mut self, id: MessageId, number: u16) {
        if !self.0.is_empty() {
            self.0.remove(&(id, number));
        }
    }
}

impl Dispatcher {
    /// Ends a recipient whose attempt was ambiguous, if it is not to be tried again.
    pub(super) fn judge_ambiguous(&mut self, result: &mut RecipientResult) {
        let (Outcome::Ambiguous { .. }, Some(subject)) = (&result.outcome, &result.subject) else {
            return;
        };
        let count = self.ambiguities.count(subject.id, result.number);
        let policy =
            self.parts
                .policies
                .of(subject.server_id, subject.stream(), subject.stream_kind);
        deliver::judge_ambiguous(&mut result.outcome, policy.ambiguous, count);
    }
}
