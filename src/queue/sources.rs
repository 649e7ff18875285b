//! Sources as they stand: in service, stopped by an operator who drains them, or out because they do not work (`health.rs`).
//!
//! A source that is stopped opens nothing, and queues that stick to it go by another source of their pool at every step (see
//! `Scheduler::lane_for`), for as long as it is. What waits on its paths is told so in bounded steps: a *sweep* goes through
//! the paths and puts those with something ready in line, where their queues find their way.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::health::{Health, Trial};
use super::key::{PoolId, SessionId, SourceId};
use super::pacing::NEVER;
use super::schedule::Scheduler;
use crate::clock::UnixMs;
use crate::limits;

/// A source of a pool, as mail is assigned to it.
pub(super) struct Lane {
    pub(super) source: SourceId,
    /// 0: it opens nothing, and no mail is assigned to it.
    pub(super) weight: u32,
    pub(super) drain: Option<Stop>,
    pub(super) health: Health,
    handed: Handed,
}

/// Why a source opens nothing, in whose words, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub why: StopCause,
    pub reason: Arc<str>,
    pub since: UnixMs,
    /// When it comes back by itself, or is tried again.
    pub until: Option<UnixMs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// An operator empties it.
    Drained,
    /// Its address is not on this host.
    Missing,
    /// Its proxy does not serve us.
    Proxy,
    /// No site lets it in.
    Refused,
}

/// A source has stopped, or come back: to be told and recorded by the scheduler's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChange {
    pub source: SourceId,
    pub at: UnixMs,
    /// `None`: it is in service again, after `was`.
    pub stop: Option<Stop>,
    pub was: Option<Stop>,
}

/// One source of one pool.
#[derive(Clone, Debug)]
pub struct SourceRow {
    pub source: SourceId,
    pub pool: PoolId,
    pub weight: u32,
    pub stop: Option<Stop>,
    pub connections: usize,
    /// The last thing that went wrong with it as a whole, or at a site that did not let it in.
    pub last_trouble: Option<(UnixMs, Arc<str>)>,
    /// Handed over in the last hour.
    pub messages: u32,
    /// Since the scheduler began.
    pub messages_ever: u64,
}

/// Messages of the last hour, by minute.
struct Handed {
    minutes: Box<[u32; 60]>,
    /// The minute that is being counted.
    minute: u64,
    ever: u64,
}

impl StopCause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Missing => "address",
            Self::Proxy => "proxy",
            Self::Refused => "refused",
        }
    }
}

impl Lane {
    pub(super) fn new(source: SourceId, weight: u32) -> Self {
        Self {
            source,
            weight,
            drain: None,
            health: Health::default(),
            handed: Handed {
                minutes: Box::new([0; 60]),
                minute: 0,
                ever: 0,
            },
        }
    }

    /// It may open connections, as far as it is concerned.
    pub(super) fn is_usable(&self) -> bool {
        self.weight > 0 && self.drain.is_none() && self.health.is_usable()
    }

    /// What stops it, but for a weight of 0.
    pub(super) fn stop(&self) -> Option<&Stop> {
        let out = self.health.out.as_ref();
        self.drain.as_ref().or(out.map(|out| &out.stop))
    }

    pub(super) fn message(&mut self, now: UnixMs) {
        self.handed.pass(now);
        self.handed.ever += 1;
        self.handed.minutes[(self.handed.minute % 60) as usize] += 1;
    }
}

impl Handed {
    fn pass(&mut self, now: UnixMs) {
        let minute = now / 60_000;
        let passed = minute.saturating_sub(self.minute).min(60);
        for gone in 1..=passed {
            self.minutes[((minute + 60 - passed + gone) % 60) as usize] = 0;
        }
        self.minute = self.minute.max(minute);
    }

    fn sum(&self, now: UnixMs) -> u32 {
        let passed = (now / 60_000).saturating_sub(self.minute).min(60);
        // Oldest first, from the minute behind the current one.
        let places = (1..=60).map(|back| ((self.minute + back) % 60) as usize);
        places.skip(passed as usize).map(|m| self.minutes[m]).sum()
    }
}

impl Scheduler {
    /// An operator empties a source: no new connections, sessions end with what they have. `false`: there is no such source.
    pub fn drain_source(
        &mut self,
        now: UnixMs,
        source: SourceId,
        reason: Arc<str>,
        until: Option<UnixMs>,
    ) -> bool {
        self.observe(now);
        let stop = Stop {
            why: StopCause::Drained,
            reason,
            since: now,
            until,
        };
        self.put_drain(source, Some(stop), true)
    }

    /// As [`Self::drain_source`], of an earlier life: no news.
    pub fn restore_drain(&mut self, now: UnixMs, source: SourceId, stop: Stop) {
        self.observe(now);
        self.put_drain(source, Some(stop), false);
    }

    /// The operator takes it back; if it is out by itself, it is tried now. `false`: there is no such source.
    pub fn resume_source(&mut self, now: UnixMs, source: SourceId) -> bool {
        self.observe(now);
        for (pool, lane) in self.lanes_of(source) {
            self.try_soon(pool, lane);
        }
        self.put_drain(source, None, true)
    }

    /// What has happened to sources since the last call, in order.
    pub fn take_source_changes(&mut self) -> Vec<SourceChange> {
        std::mem::take(&mut self.source_changes)
    }

    pub fn sources(&self, now: UnixMs) -> Vec<SourceRow> {
        let mut connections: BTreeMap<(PoolId, u16), usize> = BTreeMap::new();
        for session in self.sessions.values() {
            let path = &self.paths[session.path];
            *connections.entry((path.pool, path.lane)).or_default() += 1;
        }
        let mut rows = Vec::new();
        for (pool, of_pool) in self.pools.iter().enumerate() {
            let pool = PoolId(pool as u16);
            for (index, lane) in of_pool.lanes.iter().enumerate() {
                let mine = connections.get(&(pool, index as u16));
                rows.push(SourceRow {
                    source: lane.source,
                    pool,
                    weight: lane.weight,
                    stop: lane.stop().cloned(),
                    connections: mine.copied().unwrap_or(0),
                    last_trouble: lane.health.last_trouble.clone(),
                    messages: lane.handed.sum(now),
                    messages_ever: lane.handed.ever,
                });
            }
        }
        rows
    }

    pub(super) fn lanes_of(&self, source: SourceId) -> Vec<(PoolId, u16)> {
        let mut found = Vec::new();
        for (pool, of_pool) in self.pools.iter().enumerate() {
            for (lane, of_lane) in of_pool.lanes.iter().enumerate() {
                if of_lane.source == source {
                    found.push((PoolId(pool as u16), lane as u16));
                }
            }
        }
        found
    }

    pub(super) fn lane_mut(&mut self, pool: PoolId, lane: u16) -> &mut Lane {
        &mut self.pools[usize::from(pool.0)].lanes[usize::from(lane)]
    }

    fn put_drain(&mut self, source: SourceId, drain: Option<Stop>, told: bool) -> bool {
        let lanes = self.lanes_of(source);
        for &(pool, lane) in &lanes {
            let of_lane = self.lane_mut(pool, lane);
            let was = std::mem::replace(&mut of_lane.drain, drain.clone());
            if was.is_none() && drain.is_none() {
                continue;
            }
            if drain.is_some() {
                self.retire_sessions(pool, lane);
            }
            if told {
                self.tell(source, drain.clone(), was);
            }
            self.sweep(pool);
        }
        self.set_sources_wake();
        !lanes.is_empty()
    }

    pub(super) fn tell(&mut self, source: SourceId, stop: Option<Stop>, was: Option<Stop>) {
        // Whoever does not listen loses the oldest.
        if self.source_changes.len() >= limits::SOURCE_CHANGES_MAX {
            self.source_changes.remove(0);
        }
        let at = self.now;
        self.source_changes.push(SourceChange {
            source,
            at,
            stop,
            was,
        });
    }

    /// Sessions of a source that is being emptied: idle ones are closed by the next polls, busy ones after what they have.
    fn retire_sessions(&mut self, pool: PoolId, lane: u16) {
        let sessions = self.sessions.iter();
        let mine: Vec<SessionId> = sessions
            .filter(|(_, session)| {
                let path = &self.paths[session.path];
                (path.pool, path.lane) == (pool, lane)
            })
            .map(|(&id, _)| id)
            .collect();
        for id in mine {
            self.retire(id);
        }
    }

    /// The path's source is being emptied: its sessions take nothing more.
    pub(super) fn is_draining(&self, p: u32) -> bool {
        let path = &self.paths[p];
        let lane = self.pool(path.pool).lanes.get(usize::from(path.lane));
        lane.is_some_and(|lane| lane.drain.is_some())
    }

    /// Drains that end by themselves, and trials that are due.
    pub(super) fn wake_sources(&mut self) {
        if self.sources_wake > self.now {
            return;
        }
        for pool in 0..self.pools.len() as u16 {
            for lane in 0..self.pools[usize::from(pool)].lanes.len() as u16 {
                let now = self.now;
                let of_lane = self.lane_mut(PoolId(pool), lane);
                let due = of_lane.trial_at().is_some_and(|at| at <= now);
                if let (true, Some(out)) = (due, &mut of_lane.health.out) {
                    out.trial = Trial::Due;
                }
                let ended = of_lane
                    .drain
                    .take_if(|drain| drain.until.is_some_and(|until| until <= now));
                let source = of_lane.source;
                if due || ended.is_some() {
                    self.sweep(PoolId(pool));
                }
                if ended.is_some() {
                    self.tell(source, None, ended);
                }
            }
        }
        self.set_sources_wake();
    }

    pub(super) fn set_sources_wake(&mut self) {
        let lanes = self.pools.iter().flat_map(|pool| &pool.lanes);
        let times = lanes.flat_map(|lane| {
            let drained = lane.drain.as_ref().and_then(|drain| drain.until);
            drained.into_iter().chain(lane.trial_at())
        });
        self.sources_wake = times.min().unwrap_or(NEVER);
    }

    /// Queues of the pool look for their way again, in bounded steps.
    pub(super) fn sweep(&mut self, pool: PoolId) {
        self.sweeps.retain(|(of, _)| *of != pool);
        self.sweeps.push_back((pool, 0));
    }

    /// One step of the first sweep.
    pub(super) fn sweep_some(&mut self) {
        let Some(&(pool, from)) = self.sweeps.front() else {
            return;
        };
        let all = self.paths.slots();
        let to = from.saturating_add(limits::SCHEDULER_STEP as u32).min(all);
        for p in from..to {
            if self.paths.get(p).is_some_and(|path| path.pool == pool) {
                self.enlist(p);
            }
        }
        match self.sweeps.front_mut() {
            Some(front) if to < all => front.1 = to,
            _ => drop(self.sweeps.pop_front()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_count_for_an_hour() {
        const MINUTE: u64 = 60_000;
        let mut lane = Lane::new(SourceId(0), 1);
        let start = 29_000_000 * MINUTE;
        for minute in 0..30 {
            lane.message(start + minute * MINUTE);
        }
        assert_eq!(lane.handed.sum(start + 29 * MINUTE), 30);
        lane.message(start + 59 * MINUTE);
        assert_eq!(lane.handed.sum(start + 59 * MINUTE), 31);
        assert_eq!(lane.handed.sum(start + 60 * MINUTE), 30);
        assert_eq!(lane.handed.sum(start + 118 * MINUTE), 1);
        lane.message(start + 500 * MINUTE);
        assert_eq!(lane.handed.sum(start + 500 * MINUTE), 1);
    }
}
