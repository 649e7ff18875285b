//! When a segment's file is free for another use.
//!
//! Promises: never while anybody holds a record of it, never before all who waited for one were answered, never while a
//! reader has its map; the log remembers that it is gone on purpose before it goes, so that recovery does not report a
//! loss. Running it twice does no harm: a segment that a power cut brings back has no live recipients. A segment in which
//! acknowledged bytes were found damaged is not used again but kept, under another name, for the operator to look at.
//! Does not know: who the holders are (the node tells, by `hold` and `release`), nor what is kept of a segment that nobody
//! holds: that is the keeper's ([`super::archive`]), who settles it first.
//!
//! What is gone is kept as a set of position ranges ([`Gaps`]). Whenever it grows, all of it behind the first segment that
//! may still be there is written into the tail as void records, so the newest copy can never be in the segment that goes.

use std::path::PathBuf;
use std::sync::Arc;

use spool_format::VoidRecord;
use spool_format::layout::kind;

use super::commit::Ticket;
use super::log::Shared;
use super::reserve::Appended;
use super::roll;
use super::segment::Segment;
use super::sync::{Ordering, lock};
use crate::metrics;

/// Ranges of positions at which nothing is expected; sorted, not touching each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps(Vec<(u64, u64)>);

impl Gaps {
    pub(crate) fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let start = self.0.partition_point(|range| range.1 < from);
        let end = self.0.partition_point(|range| range.0 <= to);
        let merged = self.0[start..end].iter().fold((from, to), |all, range| {
            (all.0.min(range.0), all.1.max(range.1))
        });
        self.0.splice(start..end, [merged]);
    }

    pub(crate) fn covers(&self, from: u64, to: u64) -> bool {
        let index = self.0.partition_point(|range| range.1 < to);
        from >= to || self.0.get(index).is_some_and(|range| range.0 <= from)
    }

    /// Nothing below is of interest any more.
    fn forget_below(&mut self, position: u64) {
        self.0.retain(|range| range.1 > position);
    }

    pub(crate) fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }
}

/// What became of dead segments.
pub(crate) struct Gone {
    /// Out of the log, still looked at by somebody who found them before.
    leaving: Vec<Arc<Segment>>,
    /// Files that can be used again.
    pub(crate) files: Vec<PathBuf>,
}

impl Gone {
    pub(crate) fn of(files: Vec<PathBuf>) -> Self {
        let leaving = Vec::new();
        Self { leaving, files }
    }
}

/// Takes every dead segment out of the log, and its file when nobody looks at it any more. With `keeps`, only those of which
/// the keeper of archives has said that they may go. `true`: some wait for that.
pub(crate) fn collect(log: &Arc<Shared>, gone: &mut Gone, keeps: bool) -> bool {
    if log.is_stopped() {
        return false;
    }
    let mut waits = false;
    let dead: Vec<Arc<Segment>> = {
        let segments = log.segments.load();
        let dead = segments.iter().filter(|s| s.is_dead());
        let dead = dead.filter(|s| {
            let may_go = !keeps || s.is_settled();
            waits |= !may_go;
            may_go
        });
        let dead = dead.filter(|s| !is_needed_for_an_end(s, &segments));
        dead.map(Arc::clone).collect()
    };
    if !dead.is_empty() && settle_names(log) && remember(log, &dead) {
        log.segments.rcu(|segments| {
            let mut kept = Vec::clone(segments);
            kept.retain(|segment| !dead.iter().any(|gone| Arc::ptr_eq(gone, segment)));
            kept
        });
        gone.leaving.extend(dead);
    }
    for segment in std::mem::take(&mut gone.leaving) {
        match Arc::try_unwrap(segment) {
            Ok(segment) => free(log, segment, &mut gone.files),
            Err(segment) => gone.leaving.push(segment),
        }
    }
    settle_names(log);
    waits
}

fn free(log: &Shared, segment: Segment, files: &mut Vec<PathBuf>) {
    log.counters.reclaimed.fetch_add(1, Ordering::Relaxed);
    log.names_unsettled.store(true, Ordering::Relaxed);
    let path = segment.path.clone();
    let free = roll::free_path(&path);
    let result = if segment.is_quarantined() {
        metrics::SPOOL_QUARANTINED.add_to(log.name(), 1);
        let bad = roll::bad_path(&path);
        tracing::error!(path = %bad.display(), "a damaged segment is kept; remove it when you have looked at it");
        log.disk.rename(&path, &bad)
    // Who keeps a payload keeps the map, and what it shows must not change.
    } else if segment.end_of_life() {
        let renamed = log.disk.rename(&path, &free);
        renamed.map(|()| files.push(free))
    } else {
        log.disk.unlink(&path)
    };
    if let Err(error) = result {
        // The next start finds it, without a live recipient.
        tracing::warn!(path = %path.display(), %error, "a dead segment stays behind");
    }
}

/// Makes earlier removals durable: until then any of the segments may come back, so all gaps are still needed.
fn settle_names(log: &Shared) -> bool {
    if !log.names_unsettled.load(Ordering::Relaxed) {
        return true;
    }
    match log.disk.sync_dir(&log.dir) {
        Ok(()) => {
            log.names_unsettled.store(false, Ordering::Relaxed);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "removal of dead segments is not durable yet");
            false
        }
    }
}

/// The header of a segment that recovery opened is what says where an earlier one ends, as long as that one is there.
fn is_needed_for_an_end(segment: &Segment, all: &[Arc<Segment>]) -> bool {
    let header = &segment.header;
    let ends = |earlier: &Arc<Segment>| {
        earlier.header.next_position() > header.previous_end
            && earlier.first_position() < header.first_position
    };
    header.previous_end < header.first_position && all.iter().any(ends)
}

/// Makes it durable that these segments are not missing. Of any of them that goes, those before it may come back.
fn remember(log: &Arc<Shared>, dead: &[Arc<Segment>]) -> bool {
    // Held until they are durable: who sees a position behind the void records sees the gaps too.
    let mut known = lock(&log.gaps);
    let mut gaps = known.clone();
    for segment in dead {
        gaps.add(segment.header.previous_end, segment.header.next_position());
    }
    let segments = log.segments.load();
    let first = segments.first().map(|segment| segment.first_position());
    gaps.forget_below(first.unwrap_or_default());
    if !write_voids(log, gaps.ranges()) {
        return false;
    }
    *known = gaps;
    true
}

/// Writes void records and waits until they are durable. `false`: not now.
fn write_voids(log: &Shared, ranges: &[(u64, u64)]) -> bool {
    publish_voids(log, ranges).is_some_and(|last| last.is_none_or(|ticket| ticket.wait().is_ok()))
}

/// Writes void records: the ticket of the last, if there is any, is good for all, since records become durable in order.
/// `None`: not now. Nobody is woken before the last: without a committer yet, all get into its first batch.
pub(crate) fn publish_voids(log: &Shared, ranges: &[(u64, u64)]) -> Option<Option<Ticket>> {
    if ranges.is_empty() {
        return Some(None);
    }
    let mut last = Some(None);
    for &(from, to) in ranges {
        let payload = VoidRecord { from, to }.encode();
        last = append_now(log, &payload).map(Some);
        if last.is_none() {
            break;
        }
    }
    log.urgent.store(true, Ordering::Relaxed);
    log.doorbell.ring();
    log.refuse_if_ended();
    last
}

/// An append for the preparing thread, which must not wait for a segment that it has to make itself.
fn append_now(log: &Shared, payload: &[u8]) -> Option<Ticket> {
    let len = log.len_of(&[payload]).ok()?;
    let credit = log.credits.try_take(len)?;
    let tail = log.current.load_full();
    let mut ticket = None;
    let appended = tail
        .region
        .append(kind::VOID, 0, &[payload], |offset, end| {
            ticket = Some(log.push_waiter(&tail, offset, end, None).0);
        });
    log.pay(credit, len, appended);
    if matches!(appended, Appended::Crossed { .. }) {
        log.roll(&tail);
    }
    ticket
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(ranges: &[(u64, u64)]) -> Gaps {
        let mut gaps = Gaps::default();
        for &(from, to) in ranges {
            gaps.add(from, to);
        }
        gaps
    }

    #[test]
    fn ranges_that_touch_become_one() {
        assert_eq!(gaps(&[(10, 20), (30, 40), (20, 30)]).ranges(), [(10, 40)]);
        assert_eq!(gaps(&[(10, 20), (12, 15)]).ranges(), [(10, 20)]);
        assert_eq!(gaps(&[(30, 40), (10, 20)]).ranges(), [(10, 20), (30, 40)]);
        assert_eq!(gaps(&[(1, 2), (3, 4), (5, 6), (0, 9)]).ranges(), [(0, 9)]);
        assert_eq!(gaps(&[(5, 5)]).ranges(), []);
    }

    #[test]
    fn only_what_one_range_holds_whole_is_covered() {
        let gaps = gaps(&[(10, 20), (30, 40)]);
        for (from, to, covered) in [
            (10, 20, true),
            (12, 18, true),
            (9, 20, false),
            (10, 21, false),
            (10, 40, false),
            (30, 40, true),
            (25, 25, true),
        ] {
            assert_eq!(gaps.covers(from, to), covered, "{from}..{to}");
        }
    }
}
