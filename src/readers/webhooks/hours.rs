//! What requests came to in the last 24 hours, by hour and trigger (reference §15): bounded, whatever is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::payload::Trigger;
use super::schedule::Became;
use crate::clock::UnixMs;

/// Of one hour and trigger, or of more together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub requests: u64,
    pub taken: u64,
    /// Refused, failed, or given up.
    pub failed: u64,
    /// Requests that were not the first of their event.
    pub retries: u64,
    pub slow: u64,
    pub very_slow: u64,
    /// Of answers that ended an event, and of those that led to a retry: their time together, and how many.
    pub ending_ms: u64,
    pub endings: u64,
    pub passing_ms: u64,
    pub passings: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.taken += other.taken;
        self.failed += other.failed;
        self.retries += other.retries;
        self.slow += other.slow;
        self.very_slow += other.very_slow;
        self.ending_ms += other.ending_ms;
        self.endings += other.endings;
        self.passing_ms += other.passing_ms;
        self.passings += other.passings;
    }
}

/// Hours since 1970.
type Hour = u64;

/// As it is kept.
pub(super) type Kept = ((Hour, Trigger), Counts);

#[derive(Clone, Debug, Default)]
pub(super) struct Hours {
    counts: BTreeMap<(Hour, Trigger), Counts>,
    changed: BTreeSet<(Hour, Trigger)>,
}

impl Hours {
    pub(super) fn new(kept: impl IntoIterator<Item = Kept>) -> Self {
        Self {
            counts: kept.into_iter().collect(),
            changed: BTreeSet::new(),
        }
    }

    pub(super) fn count(
        &mut self,
        now: UnixMs,
        trigger: Trigger,
        became: Became,
        is_retry: bool,
        took: Duration,
    ) {
        let key = (now / HOUR_MS, trigger);
        let ms = took.as_millis() as u64;
        let is_passing = became == Became::Waits;
        let one = Counts {
            requests: 1,
            taken: u64::from(became == Became::Taken),
            failed: u64::from(became != Became::Taken),
            retries: u64::from(is_retry),
            slow: u64::from(took >= SLOW),
            very_slow: u64::from(took >= VERY_SLOW),
            ending_ms: if is_passing { 0 } else { ms },
            endings: u64::from(!is_passing),
            passing_ms: if is_passing { ms } else { 0 },
            passings: u64::from(is_passing),
        };
        self.counts.entry(key).or_default().add(&one);
        self.changed.insert(key);
        let oldest = oldest(now);
        self.counts.retain(|(hour, _), _| *hour >= oldest);
    }

    /// What is to be written down, since the last time.
    pub(super) fn changes(&mut self) -> Vec<Kept> {
        let changed = std::mem::take(&mut self.changed);
        let known = changed
            .into_iter()
            .filter_map(|key| Some((key, *self.counts.get(&key)?)));
        known.collect()
    }

    /// By trigger: those that there was a request for.
    pub(super) fn sums(&self, now: UnixMs) -> BTreeMap<Trigger, Counts> {
        let mut sums = BTreeMap::<Trigger, Counts>::new();
        for ((hour, trigger), counts) in &self.counts {
            if *hour >= oldest(now) {
                sums.entry(*trigger).or_default().add(counts);
            }
        }
        sums
    }
}

/// The first hour that counts: 24 with the one that has begun.
pub(super) fn oldest(now: UnixMs) -> Hour {
    (now / HOUR_MS).saturating_sub(23)
}

pub(super) const HOUR_MS: u64 = 3_600_000;
/// Postmark does not say from when on an answer is slow.
const SLOW: Duration = Duration::from_secs(2);
const VERY_SLOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_for_a_day_and_what_changed_is_told_once() {
        let mut hours = Hours::default();
        let begin = 1_000 * HOUR_MS;
        for hour in 0..48 {
            let now = begin + hour * HOUR_MS;
            let (became, is_retry) = match hour % 2 {
                0 => (Became::Taken, false),
                _ => (Became::Waits, true),
            };
            hours.count(
                now,
                Trigger::Bounce,
                became,
                is_retry,
                Duration::from_secs(3),
            );
            assert_eq!(hours.changes().len(), 1);
            assert!(hours.changes().is_empty());
        }
        let now = begin + 47 * HOUR_MS;
        let sums = hours.sums(now);
        let counts = sums[&Trigger::Bounce];
        assert_eq!((counts.requests, counts.taken, counts.failed), (24, 12, 12));
        assert_eq!((counts.retries, counts.slow, counts.very_slow), (12, 24, 0));
        assert_eq!((counts.ending_ms, counts.passings), (36_000, 12));
        assert!(hours.sums(now + 24 * HOUR_MS).is_empty());
        assert_eq!(Hours::new(hours.counts.clone()).sums(now), sums);
    }
}
