//! Messages whose sender has named the time of their release, until it comes: told, moved to another time, recalled.
//!
//! A recipient is *scheduled* while it is deferred and was never attempted; nothing else defers one before its first attempt. All
//! of it searches by position (see `store.rs`). One that gets another time leaves its place in the deferred list to a dead entry
//! until the old time: the owner bounds how often ([`limits::RESCHEDULES_MAX`]), and [`limits::QUEUE_DEAD_MAX`] how many there are.

use std::time::Duration;

use super::Affected;
use super::control::{Selection, Withdrawal};
use super::schedule::Scheduler;
use super::store::State;
use crate::clock::UnixMs;
use crate::limits;

/// Another time for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Not after now: at once.
    pub at: UnixMs,
    /// Its age counts from then.
    pub max_age: Duration,
    pub deadline: Option<UnixMs>,
}

impl Scheduler {
    /// Recipients of the message at `position` that are scheduled, in order of RCPT, with the time of their release.
    pub fn scheduled(&self, position: u64) -> Vec<(u16, UnixMs)> {
        let found = self.scheduled_of(position).into_iter();
        let told = found.map(|index| {
            let entry = &self.store[index];
            (entry.number, self.ticks.ms(entry.due))
        });
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        told
    }

    /// Gives those that are scheduled another time. Who they are; `None`: too many entries wait for their old times.
    pub fn reschedule(&mut self, now: UnixMs, position: u64, release: Release) -> Option<Vec<u16>> {
        self.observe(now);
        let dead = self.store.len().saturating_sub(self.counts().total());
        if dead >= limits::QUEUE_DEAD_MAX {
            return None;
        }
        let of_age = release
            .at
            .max(now)
            .saturating_add(release.max_age.as_millis() as u64);
        let end = release
            .deadline
            .map_or(of_age, |deadline| deadline.min(of_age));
        // Odd: it does not tell when the message was accepted (see `end_of`).
        let expires = self.ticks.at(end) | 1;
        let mut numbers = Vec::new();
        for index in self.scheduled_of(position) {
            let mut entry = self.store[index];
            numbers.push(entry.number);
            self.store[index].die();
            self.count(entry.queue, Some(State::Deferred), None);
            entry.expires = expires;
            let moved = self.store.insert(entry);
            match release.at <= now {
                true => self.make_ready(moved),
                false => self.defer(moved, release.at),
            }
        }
        numbers.sort_unstable();
        Some(numbers)
    }

    /// Ends those that are scheduled, as their sender wants. Who they are.
    pub fn recall(&mut self, now: UnixMs, position: u64) -> Vec<u16> {
        self.observe(now);
        let (mut numbers, mut affected) = (Vec::new(), Affected::default());
        for index in self.scheduled_of(position) {
            numbers.push(self.store[index].number);
            self.withdraw_one(index, Withdrawal::Recall, None, &mut affected);
        }
        numbers.sort_unstable();
        numbers
    }

    fn scheduled_of(&self, position: u64) -> Vec<u32> {
        let mut found = self.recipients_of(Selection::Message { position });
        found.retain(|&index| {
            let entry = &self.store[index];
            entry.state() == State::Deferred && entry.attempts == 0
        });
        found
    }
}
