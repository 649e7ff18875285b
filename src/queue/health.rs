//! Whether a source works at all: taken out by what its sessions meet, and back by a trial.
//!
//! What is a source's own (its address is not on this host, its proxy does not serve) takes it out at once. That it is refused
//! everywhere is concluded with care: so many distinct sites in a row let it in nowhere, and none did in between; and
//! either they all answered, so that the network is there, or another source of the pool was let in somewhere meanwhile. One dead
//! site, a dead network, a node offline or without DNS thus take nothing out. Out means what drained means, except that open
//! sessions go on. After a wait, which doubles, one connection tries; whatever mail sticks to the source begins it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::key::{PoolId, SessionId, SourceId};
use super::schedule::Scheduler;
use super::sources::{Lane, Stop, StopCause};
use crate::clock::UnixMs;
use crate::limits;

/// What a session says of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its address is not on this host.
    Missing,
    /// Its proxy does not serve us.
    Proxy,
    /// The site answered, and would not have it.
    Refused,
    /// The site did not answer.
    Unanswered,
}

#[derive(Default)]
pub(super) struct Health {
    pub(super) out: Option<Out>,
    /// Sites that did not let it in, since one did.
    refusals: SmallVec<[Refusal; 1]>,
    worked_at: UnixMs,
    pub(super) last_trouble: Option<(UnixMs, Arc<str>)>,
}

pub(super) struct Out {
    /// Until the next trial.
    pub(super) stop: Stop,
    failures: u32,
    pub(super) trial: Trial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    Waits,
    /// The next connection is it.
    Due,
    UnderWay(SessionId),
}

struct Refusal {
    site: Arc<str>,
    at: UnixMs,
    answered: bool,
}

impl Health {
    pub(super) fn is_usable(&self) -> bool {
        let tries = |out: &Out| out.trial == Trial::Due;
        self.out.as_ref().is_none_or(tries)
    }

    fn refused(&mut self, now: UnixMs, site: Arc<str>, answered: bool) {
        let window = limits::SOURCE_REFUSAL_WINDOW.as_millis() as u64;
        self.refusals
            .retain(|r| r.at + window > now && *r.site != *site);
        if self.refusals.len() >= 2 * limits::SOURCE_REFUSED_SITES {
            self.refusals.remove(0);
        }
        let at = now;
        self.refusals.push(Refusal { site, at, answered });
    }

    /// `mate_worked`: when another source of the pool did last.
    fn is_refused_everywhere(&self, mate_worked: UnixMs) -> bool {
        let enough = |count: usize| count >= limits::SOURCE_REFUSED_SITES;
        let answered = self.refusals.iter().filter(|r| r.answered).count();
        let since = self.refusals.iter().map(|r| r.at).min();
        enough(answered)
            || enough(self.refusals.len()) && since.is_some_and(|since| mate_worked > since)
    }
}

impl Out {
    fn wait(&self) -> u64 {
        let (first, max) = match self.stop.why {
            StopCause::Refused => (limits::SOURCE_REFUSED_TRIAL, limits::SITE_BACKOFF_MAX),
            _ => (limits::SOURCE_TRIAL, limits::SOURCE_TRIAL_MAX),
        };
        let doubled = (first.as_millis() as u64) << (self.failures - 1).min(16);
        doubled.min(max.as_millis() as u64)
    }
}

impl Scheduler {
    /// What the session's end, or all of its last transaction, says of its source. Before the report of it.
    pub fn source_trouble(
        &mut self,
        now: UnixMs,
        session: SessionId,
        trouble: Trouble,
        text: &str,
    ) {
        self.observe(now);
        let Some(found) = self.sessions.get_mut(&session) else {
            return;
        };
        found.shunned = true;
        let path = &self.paths[found.path];
        let (pool, lane) = (path.pool, path.lane);
        let site = Arc::clone(&self.sites[path.site].key);
        let text: Arc<str> = text.into();
        let health = &mut self.lane_mut(pool, lane).health;
        health.last_trouble = Some((now, Arc::clone(&text)));
        match trouble {
            Trouble::Missing => self.take_out(pool, lane, StopCause::Missing, text),
            Trouble::Proxy => self.take_out(pool, lane, StopCause::Proxy, text),
            Trouble::Refused | Trouble::Unanswered => {
                health.refused(now, site, trouble == Trouble::Refused);
                let others = self.pool(pool).lanes.iter().enumerate();
                let mates = others.filter(|(index, _)| *index != usize::from(lane));
                let worked = mates.map(|(_, mate)| mate.health.worked_at).max();
                let health = &self.lane_mut(pool, lane).health;
                if health.is_refused_everywhere(worked.unwrap_or(0)) {
                    let count = health.refusals.len();
                    let text = format!(
                        "{count} sites in a row did not let it in, and none did; the last: {text}"
                    );
                    self.take_out(pool, lane, StopCause::Refused, text.into());
                }
            }
        }
    }

    /// Its address was found missing otherwise than by a session.
    pub fn source_missing(&mut self, now: UnixMs, source: SourceId, text: &str) {
        self.observe(now);
        for (pool, lane) in self.lanes_of(source) {
            let text: Arc<str> = text.into();
            self.lane_mut(pool, lane).health.last_trouble = Some((now, Arc::clone(&text)));
            self.take_out(pool, lane, StopCause::Missing, text);
        }
    }

    /// Its address is there again.
    pub fn source_found(&mut self, now: UnixMs, source: SourceId) {
        self.observe(now);
        for (pool, lane) in self.lanes_of(source) {
            let out = self.lane_mut(pool, lane).health.out.as_ref();
            if out.is_some_and(|out| out.stop.why == StopCause::Missing) {
                self.put_back(pool, lane);
            }
        }
    }

    fn take_out(&mut self, pool: PoolId, lane: u16, why: StopCause, reason: Arc<str>) {
        let now = self.now;
        let of_lane = self.lane_mut(pool, lane);
        // Sessions opened before say nothing new, and a trial's end is judged when it closes.
        if of_lane.health.out.is_some() {
            return;
        }
        let mut out = Out {
            stop: Stop {
                why,
                reason,
                since: now,
                until: None,
            },
            failures: 1,
            trial: Trial::Waits,
        };
        out.stop.until = Some(now + out.wait());
        let (source, stop) = (of_lane.source, out.stop.clone());
        of_lane.health.out = Some(out);
        self.tell(source, Some(stop), None);
        self.set_sources_wake();
        self.sweep(pool);
    }

    fn put_back(&mut self, pool: PoolId, lane: u16) {
        let of_lane = self.lane_mut(pool, lane);
        of_lane.health.refusals.clear();
        if let Some(out) = of_lane.health.out.take() {
            let source = of_lane.source;
            self.tell(source, None, Some(out.stop));
            self.set_sources_wake();
            self.sweep(pool);
        }
    }

    /// A host of some site took part in a transaction from this source. `fresh`: on a connection that had not proved it yet.
    pub(super) fn source_worked(&mut self, pool: PoolId, lane: u16, fresh: bool) {
        let now = self.now;
        let health = &mut self.lane_mut(pool, lane).health;
        health.worked_at = now;
        health.refusals.clear();
        let proves = |out: &Out| fresh || out.stop.why == StopCause::Refused;
        if health.out.as_ref().is_some_and(proves) {
            self.put_back(pool, lane);
        }
    }

    /// A connection is opened from it; if one is to try whether it works, this does.
    pub(super) fn begin_trial(&mut self, pool: PoolId, lane: u16, session: SessionId) {
        if let Some(out) = &mut self.lane_mut(pool, lane).health.out {
            out.trial = Trial::UnderWay(session);
        }
    }

    /// The session is gone. If it was the trial, that has failed or come to nothing.
    pub(super) fn end_trial(&mut self, pool: PoolId, lane: u16, session: SessionId, failed: bool) {
        let now = self.now;
        let Some(out) = &mut self.lane_mut(pool, lane).health.out else {
            return;
        };
        if out.trial != Trial::UnderWay(session) {
            return;
        }
        out.trial = Trial::Waits;
        out.failures = out.failures.saturating_add(u32::from(failed));
        out.stop.until = Some(now + out.wait());
        self.set_sources_wake();
    }

    /// An operator wants it tried now.
    pub(super) fn try_soon(&mut self, pool: PoolId, lane: u16) {
        let now = self.now;
        if let Some(out) = &mut self.lane_mut(pool, lane).health.out
            && out.trial == Trial::Waits
        {
            out.stop.until = Some(now);
        }
    }
}

impl Lane {
    /// When a trial may begin: `None` if it is not waited for.
    pub(super) fn trial_at(&self) -> Option<UnixMs> {
        let out = self.health.out.as_ref()?;
        (out.trial == Trial::Waits).then_some(out.stop.until?)
    }
}
