//! Messages that change their place in the mail log, because their segment is compacted.
//!
//! Promises: a recipient in flight keeps the position that its agent was given, whatever happens to the others of its
//! message; all others, in whatever list they stand and whatever an operator wants of them, are at the new one from then on.
//!
//! Positions are changed where the entries are. The lists are ordered by time and only then by position, so nothing comes
//! early or late by it; recipients of a message stay neighbours as far as they move together.

use std::collections::BTreeMap;
use std::ops::Range;

use super::schedule::Scheduler;
use super::store::State;

/// A message with live recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageAt {
    pub position: u64,
    pub recipients: u32,
    /// Of these.
    pub in_flight: u32,
}

/// What [`Scheduler::moved`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub recipients: u32,
    /// Still at the old position.
    pub in_flight: u32,
}

impl Scheduler {
    /// The messages at these positions, in their order. Searches (see `store.rs`).
    pub fn messages_in(&self, positions: Range<u64>) -> Vec<MessageAt> {
        let mut found: BTreeMap<u64, MessageAt> = BTreeMap::new();
        self.store.in_range(positions, |entry| {
            let message = found.entry(entry.position()).or_insert(MessageAt {
                position: entry.position(),
                recipients: 0,
                in_flight: 0,
            });
            message.recipients += 1;
            message.in_flight += u32::from(entry.state() == State::InFlight);
        });
        found.into_values().collect()
    }

    /// The record at `from` has a copy at `to`: whoever is not in flight is at the copy from now on.
    pub fn moved(&mut self, from: u64, to: u64) -> Moved {
        let mut moved = Moved::default();
        for index in self.store.at_position(from) {
            if self.store[index].state() == State::InFlight {
                moved.in_flight += 1;
            } else {
                self.store.reposition(index, to);
                moved.recipients += 1;
            }
        }
        moved
    }
}
