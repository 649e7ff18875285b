//! What the service manager is told: readiness, stopping, and signs of life.
//!
//! The watchdog is fed by the work itself: a beat is sent only when the scheduler has made a round and the spool's
//! committers are not stuck, so that a node that lives but does nothing is restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use spool_format::layout::PAGE_OFFSET;

use crate::clock::Clock;
use crate::spool::{Log, LogStat, Spool};

pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

pub(super) fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Feeds the watchdog, if the service manager wants one, for as long as the node works.
pub(super) async fn watchdog(clock: Clock, scheduler_beat: Arc<AtomicU64>, spool: Arc<Spool>) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut tick = tokio::time::interval(limit / 3);
    let mut before = [&spool.mail, &spool.events].map(Log::stat);
    loop {
        tick.tick().await;
        let age = clock
            .unix_ms()
            .saturating_sub(scheduler_beat.load(Ordering::Relaxed));
        let scheduler_lives = Duration::from_millis(age) < limit.max(SCHEDULER_SLEEP * 2);
        let now = [&spool.mail, &spool.events].map(Log::stat);
        let committers_live = before
            .iter()
            .zip(&now)
            .all(|(before, now)| !is_stuck(before, now, limit));
        before = now;
        if scheduler_lives && committers_live {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                scheduler_lives,
                committers_live,
                "no sign of life for the watchdog"
            );
        }
    }
}

/// A batch is being synced for longer than the limit; or what was appended a third of it ago is still not durable, and
/// nothing else became so either: then the thread is not there to sync it.
fn is_stuck(before: &LogStat, now: &LogStat, limit: Duration) -> bool {
    let stands = now.durable == before.durable && now.committing.is_zero();
    let waits = before.tail > before.durable + PAGE_OFFSET;
    now.committing >= limit || (waits && stands && !now.failed)
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}

/// The scheduler's longest sleep without input.
const SCHEDULER_SLEEP: Duration = Duration::from_secs(1);
