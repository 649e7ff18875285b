//! Sites, paths and sessions: how many connections, from where, and when again after a failure.
//!
//! A *path* is one source at one site: limits hold for it, and it has one timer. A back-off (of the path, or of the whole
//! site) governs the opening of connections only. Sessions that are open carry on: a host that takes ten
//! connections and refuses the eleventh shall not idle ten. After a back-off one connection probes; its success ends the
//! back-off, its failure doubles it. Failures of sessions opened before do not double it: twenty connections that a
//! restarting host drops at once are one failure.

use std::sync::Arc;

use smallvec::SmallVec;

use super::key::{PoolId, SessionId};
use super::rates::Used;
use super::retry::{draw, path_ms};
use super::sources::Lane;
use crate::clock::UnixMs;
use crate::config::{PathLimits, ProviderId, Retry};
use crate::limits;

pub(super) use super::timers::NEVER;

/// (pool, site key): what all its paths share.
pub(super) struct Site {
    pub(super) pool: PoolId,
    pub(super) key: Arc<str>,
    pub(super) provider: Option<ProviderId>,
    /// Of the sources that something goes through, in order of their lanes.
    pub(super) paths: SmallVec<[u32; 2]>,
    pub(super) backoff: Backoff,
}

/// One source at one site: connections, back-off, and the rings of queues whose turn comes.
pub(super) struct Path {
    pub(super) site: u32,
    pub(super) pool: PoolId,
    /// Into the pool's sources.
    pub(super) lane: u16,
    pub(super) sessions: u32,
    /// Sessions that have not reported yet; each will be free soon.
    pub(super) opening: u32,
    pub(super) grace_until: UnixMs,
    pub(super) idle: Vec<SessionId>,
    /// Busy with one batch, and able to take the next behind it.
    pub(super) eager: Vec<SessionId>,
    pub(super) backoff: Backoff,
    /// Queues whose route leads here.
    pub(super) queues: u32,
    /// Of these, in a ring.
    pub(super) linked: u32,
    /// Ready recipients of the queues in rings.
    pub(super) ready: usize,
    /// Of the turns of flows: the one that is going on.
    pub(super) round: u64,
    /// In the line of paths that may have something to do.
    pub(super) runnable: bool,
    /// In the line of paths for which the node has no connection left.
    pub(super) waiting: bool,
    pub(super) timer: UnixMs,
    pub(super) limits: Arc<PathLimits>,
    /// Where it has a rate or volume.
    pub(super) used: Option<Box<Used>>,
    /// Which it shares with other sites of the provider.
    pub(super) budget: Option<u32>,
    /// In a line of that.
    pub(super) lined: bool,
}

pub(super) enum Choice {
    Reuse(SessionId),
    /// Behind the batch that this one has.
    Ahead(SessionId),
    Open,
    /// Its provider's budget is used up, for now.
    Budget,
    /// Only the node's limit stands in the way.
    NodeFull,
    /// Nothing before this time ([`NEVER`]: before a session reports).
    Wait(UnixMs),
}

impl Path {
    pub(super) fn new(site: u32, pool: PoolId, lane: u16, limits: Arc<PathLimits>) -> Self {
        Self {
            site,
            pool,
            lane,
            sessions: 0,
            opening: 0,
            grace_until: 0,
            idle: Vec::new(),
            eager: Vec::new(),
            backoff: Backoff::default(),
            queues: 0,
            linked: 0,
            ready: 0,
            round: 0,
            runnable: false,
            waiting: false,
            timer: NEVER,
            used: limits.is_paced().then(Box::default),
            budget: None,
            lined: false,
            limits,
        }
    }

    /// A message is handed over.
    pub(super) fn message(&mut self, now: UnixMs) {
        if let Some(used) = &mut self.used {
            used.message(now, &self.limits);
        }
    }

    /// When the next message may go, whatever the connections.
    pub(super) fn message_at(&self) -> UnixMs {
        let used = self.used.as_ref();
        used.map_or(0, |used| used.message_at(&self.limits).0)
    }

    /// Refuses this source though others may be welcome: mail that sticks to it goes another way meanwhile.
    pub(super) fn is_refused(&self) -> bool {
        self.backoff.failures >= limits::PATH_FAILURES_MAX
    }
}

/// One of the lanes that may be taken, by weight: the same for the same `draw` and the same lanes.
pub(super) fn pick(lanes: &[Lane], may: impl Fn(u16) -> bool, draw: u64) -> Option<u16> {
    let weight = |index: u16| u64::from(lanes[usize::from(index)].weight);
    let may = |&index: &u16| weight(index) > 0 && may(index);
    let total: u64 = (0..lanes.len() as u16).filter(may).map(weight).sum();
    let mut left = draw.checked_rem(total)?;
    (0..lanes.len() as u16).filter(may).find(|&index| {
        let here = left < weight(index);
        left = left.wrapping_sub(weight(index));
        here
    })
}

/// Of a site, or of one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    /// In a row.
    pub(super) failures: u32,
    /// New sessions in a row that ended before an attempt and did not say why.
    futile: u8,
    pub(super) until: UnixMs,
    /// A session that tries whether the failure has passed is under way.
    pub(super) probing: bool,
}

impl Backoff {
    /// When a connection may be opened.
    pub(super) fn opens_at(&self) -> UnixMs {
        if self.probing { NEVER } else { self.until }
    }

    /// A site in doubt is remembered beyond its back-off: when its queues look up their route again it would otherwise be
    /// forgotten between two probes, and be knocked at like a new one.
    pub(super) fn remembered_until(&self) -> UnixMs {
        if self.is_doubtful() {
            self.until + limits::SITE_BACKOFF_MAX.as_millis() as u64
        } else {
            self.until
        }
    }

    /// A session is opened; returns whether it is the probe.
    pub(super) fn opened(&mut self) -> bool {
        self.probing = self.is_doubtful();
        self.probing
    }

    /// One connection at a time, until one succeeds.
    fn is_doubtful(&self) -> bool {
        self.failures > 0 || self.futile >= limits::FUTILE_CONNECTIONS
    }

    /// The probe came to nothing: neither success nor failure.
    pub(super) fn abandoned(&mut self, probe: bool) {
        self.probing &= !probe;
    }

    pub(super) fn failed(&mut self, now: UnixMs, probe: bool, retry: &Retry, seed: u64) {
        if self.failures > 0 && !probe {
            return;
        }
        self.failures += 1;
        self.probing = false;
        let draw = draw(seed, [now, u64::from(self.failures)]);
        self.until = now + path_ms(retry, self.failures, draw).max(1);
    }

    pub(super) fn succeeded(&mut self, probe: bool) {
        if probe || !self.is_doubtful() {
            *self = Self::default();
        }
    }

    /// A new session ended before its first attempt, without a failure. A few in a row are chance, more are a loop.
    pub(super) fn futile(&mut self, now: UnixMs, probe: bool) {
        if self.is_doubtful() && !probe {
            return;
        }
        self.futile = self.futile.saturating_add(1);
        let surplus = self.futile.saturating_sub(limits::FUTILE_CONNECTIONS);
        if self.futile >= limits::FUTILE_CONNECTIONS {
            let longest = limits::FUTILE_BACKOFF_MAX.as_millis() as u64;
            let wait = (1000u64 << surplus.min(16)).min(longest);
            self.until = self.until.max(now + wait);
        }
    }

    /// An operator wants it tried now.
    pub(super) fn lift(&mut self, now: UnixMs) {
        self.until = self.until.min(now);
    }
}

/// A connection, from `Open` until it is reported closed.
pub(super) struct Session {
    pub(super) path: u32,
    pub(super) state: SessionIs,
    /// In flight here, all of one message.
    pub(super) batch: SmallVec<[u32; 4]>,
    /// In flight behind it, all of one message.
    pub(super) next: SmallVec<[u32; 4]>,
    /// It can take a batch behind another.
    pub(super) runs_ahead: bool,
    /// Since it was given the batch, or idle.
    pub(super) since: UnixMs,
    pub(super) messages: u32,
    /// Has come to an attempt.
    pub(super) proven: bool,
    pub(super) probes_site: bool,
    pub(super) probes_path: bool,
    /// Batches in a row that it gave back untouched.
    pub(super) returned: u8,
    /// What is about to be reported of it says that its source is not wanted, or does not work.
    pub(super) shunned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionIs {
    /// With its first batch, which has not reached the dialogue yet.
    Opening,
    Busy,
    Idle,
    Closing,
}
