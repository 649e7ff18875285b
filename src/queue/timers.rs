//! One time per queue and path. Armed only for earlier times; a timer that fires early is set anew.

use std::collections::BTreeSet;

use crate::clock::UnixMs;

#[derive(Default)]
pub(super) struct Timers {
    set: BTreeSet<(UnixMs, Timed)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timed {
    Queue(u32),
    Path(u32),
    Budget(u32),
}

impl Timers {
    /// `slot` is where the owner remembers its time.
    pub(super) fn arm(&mut self, slot: &mut UnixMs, at: UnixMs, timed: Timed) {
        if at < *slot {
            self.disarm(slot, timed);
            *slot = at;
            self.set.insert((at, timed));
        }
    }

    pub(super) fn disarm(&mut self, slot: &mut UnixMs, timed: Timed) {
        if *slot != NEVER {
            self.set.remove(&(*slot, timed));
            *slot = NEVER;
        }
    }

    pub(super) fn first(&self) -> Option<(UnixMs, Timed)> {
        self.set.first().copied()
    }

    pub(super) fn holds(&self, at: UnixMs, timed: Timed) -> bool {
        self.set.contains(&(at, timed))
    }

    pub(super) fn len(&self) -> usize {
        self.set.len()
    }
}

pub(super) const NEVER: UnixMs = UnixMs::MAX;
