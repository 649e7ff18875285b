//! When to try again: of one recipient, and of a path (site or route) that fails. And the clock of the entries.
//!
//! Jitter is a hash of what it is for, not a stream of random numbers: two runs with one seed agree whatever else they
//! did, and the recipients of one message that were deferred together come back together, so that they share a
//! transaction again.

use std::time::Duration;

use crate::clock::UnixMs;
use crate::config::Retry;
use crate::limits;

/// Units of [`TICK_MS`] since the scheduler's base: a time in four bytes, good for eight years without a restart.
pub(super) type Tick = u32;

/// Converts between the caller's milliseconds and ticks. Never early: a time between two ticks is the later one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ticks {
    base: Option<UnixMs>,
}

impl Ticks {
    /// The first time that is heard sets the base, far enough back for anything that recovery may bring.
    pub(super) fn start(&mut self, now: UnixMs) {
        self.base
            .get_or_insert_with(|| now.saturating_sub(HISTORY_MS) / TICK_MS * TICK_MS);
    }

    pub(super) fn at(&self, time: UnixMs) -> Tick {
        let since = time.saturating_sub(self.base.unwrap_or(0));
        u32::try_from(since.div_ceil(TICK_MS)).unwrap_or(Tick::MAX - 1)
    }

    pub(super) fn ms(&self, tick: Tick) -> UnixMs {
        self.base.unwrap_or(0) + u64::from(tick) * TICK_MS
    }
}

/// Wait after attempt number `attempts` (from 1) of a message: `first * 2^(attempts - 1)`, at most `max`, each ±20 % but
/// never above `max`.
pub(super) fn retry_ms(retry: &Retry, attempts: u32, draw: u64) -> u64 {
    backoff_ms(retry.first, retry.max, attempts, draw)
}

/// Wait after the `failures`-th failure in a row of a site or route: as a recipient's, but soon enough that a host that
/// comes back does not stand idle.
pub(super) fn path_ms(retry: &Retry, failures: u32, draw: u64) -> u64 {
    let first = retry.first.min(limits::SITE_BACKOFF_FIRST_MAX);
    let max = retry.max.min(limits::SITE_BACKOFF_MAX).max(first);
    backoff_ms(first, max, failures, draw)
}

fn backoff_ms(first: Duration, max: Duration, times: u32, draw: u64) -> u64 {
    let (first, max) = (first.as_millis() as u64, max.as_millis() as u64);
    let doublings = times.saturating_sub(1).min(32);
    let base = first.saturating_mul(1 << doublings).min(max);
    let low = base - base / 5;
    let high = (base + base / 5).min(max).max(low);
    low + draw % (high - low + 1)
}

/// A number that depends on all of `parts` and looks random: SplitMix64 over each.
pub(super) fn draw(seed: u64, parts: [u64; 2]) -> u64 {
    parts.into_iter().fold(seed, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A test's retries of 100 ms shall not wait a second; eight years of uptime shall fit.
pub(super) const TICK_MS: u64 = 64;

/// More than the longest life of a message (7 days) and its schedule.
const HISTORY_MS: u64 = 400 * 24 * 3600 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_scatter_by_a_fifth() {
        let retry = Retry {
            first: Duration::from_secs(30),
            max: Duration::from_secs(3600),
            max_age: Duration::from_secs(172_800),
        };
        let check = |attempts, low: u64, high: u64| {
            let waits: Vec<u64> = (0..1000)
                .map(|n| retry_ms(&retry, attempts, draw(7, [n, 0])))
                .collect();
            let (least, most) = (*waits.iter().min().unwrap(), *waits.iter().max().unwrap());
            let slack = (high - low) / 20;
            assert!((low..=low + slack).contains(&least), "{attempts}: {least}");
            assert!((high - slack..=high).contains(&most), "{attempts}: {most}");
        };
        check(1, 24_000, 36_000);
        check(2, 48_000, 72_000);
        check(4, 192_000, 288_000);
        check(8, 2_880_000, 3_600_000);
        check(200, 2_880_000, 3_600_000);
    }

    #[test]
    fn a_time_between_two_ticks_is_the_later_one() {
        let mut ticks = Ticks::default();
        ticks.start(1_800_000_000_000);
        for time in [1_800_000_000_000, 1_800_000_000_001, 1_800_000_000_777] {
            let shown = ticks.ms(ticks.at(time));
            assert!((time..time + TICK_MS).contains(&shown), "{time} {shown}");
        }
        let far = ticks.ms(ticks.at(1_800_000_000_000 + 7 * 365 * 86_400_000));
        assert!(far >= 1_800_000_000_000 + 7 * 365 * 86_400_000);
    }
}
