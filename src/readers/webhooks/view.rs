//! What a hook shows of itself: written by its task, read by whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::hours::Counts;
use super::payload::Trigger;
use super::schedule::{Health, Replay};
use crate::clock::UnixMs;

/// What everybody may see of a hook.
pub(super) struct View {
    pub(super) shown: ArcSwap<Shown>,
    pub(super) hours: ArcSwap<BTreeMap<Trigger, Counts>>,
    /// What its last verification did not take, if there was one since the start.
    pub(super) unproven: ArcSwapOption<BTreeSet<Trigger>>,
    pub(super) taken: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) given_up: AtomicU64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) cursor: u64,
    /// It has begun to read; before that its cursor says nothing.
    pub(super) has_looked: bool,
    /// There is nothing that it waits for: what comes is brought to it.
    pub(super) is_idle: bool,
    pub(super) health: Health,
    pub(super) retries: usize,
    pub(super) in_flight: usize,
    pub(super) next_retry: Option<UnixMs>,
    pub(super) replay: Option<Replay>,
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            shown: ArcSwap::default(),
            hours: ArcSwap::default(),
            unproven: ArcSwapOption::empty(),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    pub(super) fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    /// Of the last 24 hours.
    pub(super) fn hours(&self) -> Arc<BTreeMap<Trigger, Counts>> {
        self.hours.load_full()
    }

    /// Since the start: taken, refused, failed attempts, given up.
    pub(super) fn counts(&self) -> [u64; 4] {
        // Relaxed: counters that nothing depends on.
        [&self.taken, &self.refused, &self.failed, &self.given_up]
            .map(|count| count.load(Ordering::Relaxed))
    }
}
