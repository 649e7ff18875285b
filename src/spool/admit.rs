//! How many bytes may gather in a log's ring: a writer pays for what it will reserve before it reserves it, and the
//! committer gives back what it has taken into a batch.
//!
//! Promises: a batch holds at most [`Credits::total`] bytes of records, so a sync takes a bounded time; the ring is never
//! overrun; whoever found too little is woken when there is more; nobody holds credits while waiting for anything.
//! Does not know: records, and who writes them.
//!
//! # Why the ring cannot be overrun
//! In it are at most one batch that is being written and what gathers behind it, since the committer closes no batch
//! before the one before is cleared. Each of the two is paid for with at most `total` bytes. Not paid for are commit
//! records with their padding, and header pages: two pages where the batch ends, and two for every segment behind it,
//! which has at least two pages that are paid for. Hence `total` is at most a third of the ring less [`SLACK`].
//!
//! # Why nobody waits in vain
//! Who finds too little gives back what he took for a moment, and has enlisted before he looked for the last time. He
//! found too little because of somebody who holds credits, or who found too little himself just then, and so on up to
//! one who holds. That one reserves, and the next batch's close wakes all; or gives back, which wakes all.

use tokio::sync::Notify;

use super::sync::{AtomicI64, Ordering};

/// What may still be reserved.
pub(crate) struct Credits {
    /// Below zero for moments, when several take more than there is.
    left: AtomicI64,
    total: u64,
    more: Notify,
}

/// Bytes that were paid for. What is not spent goes back.
pub(crate) struct Credit<'a> {
    credits: &'a Credits,
    bytes: u64,
}

impl Credits {
    /// For a ring of this many bytes: at most `at_most`.
    pub(crate) fn new(ring: u64, at_most: u64) -> Self {
        assert!(ring >= RING_MIN, "a ring of {ring} bytes");
        let total = ((ring - SLACK) / 3).min(at_most) / 8 * 8;
        Self {
            left: AtomicI64::new(total as i64),
            total,
            more: Notify::new(),
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// `bytes` is at most the total.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Credit<'_>> {
        // Acquire: partner of the release in `give_back`; what was closed before is seen closed.
        let left = self.left.fetch_sub(bytes as i64, Ordering::Acquire);
        if left >= bytes as i64 {
            let credits = self;
            return Some(Credit { credits, bytes });
        }
        self.left.fetch_add(bytes as i64, Ordering::Release);
        None
    }

    /// Waits until there is enough, calling `before_waiting` each time. `None`: `stopped` says so.
    /// # Cancel safety
    /// Dropping the future takes nothing.
    pub(crate) async fn take(
        &self,
        bytes: u64,
        stopped: impl Fn() -> bool,
        before_waiting: impl Fn(),
    ) -> Option<Credit<'_>> {
        assert!(bytes <= self.total, "{bytes} of {}", self.total);
        loop {
            if let Some(credit) = self.try_take(bytes) {
                return Some(credit);
            }
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if let Some(credit) = self.try_take(bytes) {
                return Some(credit);
            }
            if stopped() {
                return None;
            }
            before_waiting();
            more.await;
        }
    }

    /// Whoever waits looks again.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes as i64, Ordering::Release);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.more.notify_waiters();
    }
}

impl Credit<'_> {
    /// So many bytes were reserved: the committer gives them back.
    pub(crate) fn spend(mut self, bytes: u64) {
        assert!(bytes <= self.bytes, "{bytes} of {}", self.bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.credits.give_back(self.bytes);
        }
    }
}

const PAGE: u64 = 4096;
/// Pages around two batches that nobody pays for.
const SLACK: u64 = 8 * PAGE;
/// Leaves room for a record of a kilobyte.
const RING_MIN: u64 = SLACK + PAGE;

#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_spent_comes_back() {
        let credits = Credits::new(SLACK + 3 * PAGE, 1000);
        assert_eq!(credits.total(), 1000);
        credits.try_take(600).unwrap().spend(200);
        assert!(credits.try_take(808).is_none());
        drop(credits.try_take(800).unwrap());
        credits.give_back(200);
        assert!(credits.try_take(1000).is_some());
    }

    #[tokio::test]
    async fn a_large_record_waits_for_the_small_ones_and_is_woken() {
        let credits = Credits::new(SLACK + 3 * PAGE, 1000);
        credits.try_take(104).unwrap().spend(104);
        let waited = std::cell::Cell::new(0);
        let large = credits.take(1000, || false, || waited.set(waited.get() + 1));
        let give_back = async { credits.give_back(104) };
        let (credit, ()) = tokio::join!(large, give_back);
        assert_eq!((credit.unwrap().bytes, waited.get()), (1000, 1));
    }

    #[tokio::test]
    async fn a_stopped_log_lets_nobody_wait() {
        let credits = Credits::new(SLACK + 3 * PAGE, 1000);
        credits.try_take(1000).unwrap().spend(1000);
        assert!(credits.take(8, || true, || {}).await.is_none());
    }
}
