//! Use of a credential: when it was last used, and whether it may be used now.
//!
//! One value per credential, shared by all snapshots that hold it, so that a change of settings neither forgets nor resets.
//! The limit is a token bucket in the form of GCRA: one number, the time at which the bucket would be full again. By hand
//! and not by a crate, because the bucket's clock is ours and its size changes with the settings.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::UnixMs;
use crate::config::Rate;

/// What is counted of one credential. All orderings are relaxed: each number stands alone.
#[derive(Debug, Default)]
pub struct Usage {
    last_used_unix_ms: AtomicU64,
    /// What the store knows of it.
    stored_unix_ms: AtomicU64,
    /// Microseconds since 1970 at which nothing is used up any more.
    full_at_us: AtomicU64,
}

/// The limit that was met, and when to come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {credential}, {rate}, is reached; come back in {seconds} s")]
pub struct TooFast {
    pub credential: String,
    pub rate: Rate,
    /// At least 1.
    pub seconds: u64,
}

impl Usage {
    pub fn stored(at: Option<UnixMs>) -> Self {
        let at = at.unwrap_or(0);
        Self {
            last_used_unix_ms: AtomicU64::new(at),
            stored_unix_ms: AtomicU64::new(at),
            full_at_us: AtomicU64::new(0),
        }
    }

    pub fn last_used(&self) -> Option<UnixMs> {
        match self.last_used_unix_ms.load(Ordering::Relaxed) {
            0 => None,
            at => Some(at),
        }
    }

    pub fn note(&self, now: UnixMs) {
        self.last_used_unix_ms.fetch_max(now, Ordering::Relaxed);
    }

    /// The time of use that the store does not have yet.
    pub(super) fn unstored(&self) -> Option<UnixMs> {
        let last = self.last_used_unix_ms.load(Ordering::Relaxed);
        (last > self.stored_unix_ms.load(Ordering::Relaxed)).then_some(last)
    }

    pub(super) fn note_stored(&self, at: UnixMs) {
        self.stored_unix_ms.fetch_max(at, Ordering::Relaxed);
    }

    /// Whether nothing is used up.
    pub(super) fn is_full(&self, now: UnixMs) -> bool {
        self.full_at_us.load(Ordering::Relaxed) <= now * 1_000
    }

    /// Takes one of the bucket, or says how long until there is one. An unused bucket holds one period's worth.
    pub(super) fn take(&self, rate: Rate, now: UnixMs) -> Result<(), Duration> {
        let now = now * 1_000;
        let period = rate.period().as_micros() as u64;
        let step = period / u64::from(rate.count);
        let taken = self
            .full_at_us
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let next = full_at.max(now) + step;
                (next <= now + period).then_some(next)
            });
        match taken {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Duration::from_micros(full_at + step - period - now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_s_worth_may_come_at_once_and_then_one_at_a_time() {
        let rate: Rate = "10/s".parse().unwrap();
        let usage = Usage::default();
        let start = 1_000_000;
        for _ in 0..10 {
            usage.take(rate, start).unwrap();
        }
        assert_eq!(usage.take(rate, start), Err(Duration::from_millis(100)));
        assert_eq!(usage.take(rate, start + 99), Err(Duration::from_millis(1)));
        usage.take(rate, start + 100).unwrap();
        assert!(usage.take(rate, start + 100).is_err());
        // Long unused it holds a period's worth and no more.
        let later = start + 3_600_000;
        let taken = (0..100).filter(|_| usage.take(rate, later).is_ok());
        assert_eq!(taken.count(), 10);
    }

    #[test]
    fn a_limit_that_was_lowered_counts_at_once() {
        let usage = Usage::default();
        for _ in 0..100 {
            usage.take("100/h".parse().unwrap(), 1_000).unwrap();
        }
        assert!(usage.take("100/h".parse().unwrap(), 1_000).is_err());
        assert!(usage.take("1/h".parse().unwrap(), 1_000).is_err());
    }

    #[test]
    fn only_a_use_that_the_store_lacks_is_to_be_stored() {
        let usage = Usage::stored(Some(5));
        assert_eq!((usage.last_used(), usage.unstored()), (Some(5), None));
        usage.note(9);
        usage.note(7);
        assert_eq!(usage.unstored(), Some(9));
        usage.note_stored(9);
        assert_eq!(usage.unstored(), None);
    }
}
