//! Sites, sources and sessions: how many connections, from where, and when again after a failure.
//!
//! A back-off governs the opening of connections only. Sessions that are open carry on: a host that takes ten
//! connections and refuses the eleventh shall not idle ten. After a back-off one connection probes; its success ends the
//! back-off, its failure doubles it. Failures of sessions opened before do not double it: twenty connections that a
//! restarting host drops at once are one failure.

use std::sync::Arc;

use smallvec::SmallVec;

use super::key::{PoolId, SessionId, SourceId};
use super::retry::{draw, path_ms};
use super::store::NONE;
use super::{Limits, PoolConfig};
use crate::clock::UnixMs;
use crate::config::Retry;
use crate::limits;

/// (pool, site key): connections, back-off, and the ring of queues whose turn comes.
pub(super) struct Site {
    pub(super) pool: PoolId,
    pub(super) key: Arc<str>,
    pub(super) sources: SmallVec<[SiteSource; 2]>,
    pub(super) backoff: Backoff,
    /// Queues in turn; links are in the queues.
    pub(super) head: u32,
    pub(super) tail: u32,
    /// Ready recipients of the queues in the ring.
    pub(super) ready: usize,
    /// Queues whose route leads here.
    pub(super) queues: usize,
    /// Sessions that have not reported yet; each will be free soon.
    pub(super) opening: usize,
    pub(super) grace_until: UnixMs,
    /// In the line of sites that may have something to do.
    pub(super) runnable: bool,
    /// In the line of sites for which the node has no connection left.
    pub(super) waiting: bool,
    pub(super) timer: UnixMs,
}

/// One source at one site.
pub(super) struct SiteSource {
    pub(super) source: SourceId,
    pub(super) weight: u32,
    /// Smooth weighted round robin: what it is owed.
    credit: i64,
    pub(super) sessions: usize,
    pub(super) idle: Vec<SessionId>,
    /// Busy with one batch, and able to take the next behind it.
    pub(super) eager: Vec<SessionId>,
    pub(super) backoff: Backoff,
}

pub(super) enum Choice {
    Reuse(SessionId),
    /// Behind the batch that this one has.
    Ahead(SessionId),
    /// From the source with this index.
    Open(usize),
    /// Only the node's limit stands in the way.
    NodeFull,
    /// Nothing before this time ([`NEVER`]: before a session reports).
    Wait(UnixMs),
}

impl Site {
    pub(super) fn new(pool: PoolId, key: Arc<str>, config: &PoolConfig) -> Self {
        let sources = config.sources.iter().map(|&(source, weight)| SiteSource {
            source,
            weight,
            credit: 0,
            sessions: 0,
            idle: Vec::new(),
            eager: Vec::new(),
            backoff: Backoff::default(),
        });
        Self {
            pool,
            key,
            sources: sources.collect(),
            backoff: Backoff::default(),
            head: NONE,
            tail: NONE,
            ready: 0,
            queues: 0,
            opening: 0,
            grace_until: 0,
            runnable: false,
            waiting: false,
            timer: NEVER,
        }
    }

    pub(super) fn sessions(&self) -> usize {
        self.sources.iter().map(|source| source.sessions).sum()
    }

    pub(super) fn idle(&self) -> usize {
        self.sources.iter().map(|source| source.idle.len()).sum()
    }

    /// Which session takes the next batch. Idle ones first; a new one only while more recipients are ready than
    /// connections are being opened, or those take longer than [`limits::OPENING_GRACE`].
    pub(super) fn choose(&mut self, now: UnixMs, limits: &Limits, may_open: bool) -> Choice {
        if let Some(index) = self.next_by_weight(|source| !source.idle.is_empty()) {
            // The one used last: the surplus grows old and is closed.
            if let Some(session) = self.sources[index].idle.pop() {
                return Choice::Reuse(session);
            }
        }
        let wait = self.opens_at(limits);
        if wait <= now
            && may_open
            && let Some(index) = self.next_by_weight(|source| source.opens_at(limits) <= now)
        {
            return Choice::Open(index);
        }
        if let Some(session) = self.eager() {
            return Choice::Ahead(session);
        }
        match (wait > now, may_open) {
            (true, _) => Choice::Wait(wait),
            (false, false) => Choice::NodeFull,
            (false, true) => Choice::Wait(NEVER),
        }
    }

    /// A batch that waits behind another shares its fate for a while: only while more wait than all sessions could take
    /// next, so that who would be next is not held up by a slow host's answer to somebody else's message.
    fn eager(&mut self) -> Option<SessionId> {
        if self.ready <= self.sessions() {
            return None;
        }
        let index = self.next_by_weight(|source| !source.eager.is_empty())?;
        // The one that has waited longest.
        Some(self.sources[index].eager.remove(0))
    }

    /// When this site may open a connection, as far as it can be known now.
    fn opens_at(&self, limits: &Limits) -> UnixMs {
        let sources = self.sources.iter();
        let source = sources.map(|source| source.opens_at(limits)).min();
        let grace = if self.ready <= self.opening {
            self.grace_until
        } else {
            0
        };
        grace
            .max(self.backoff.opens_at())
            .max(source.unwrap_or(NEVER))
    }

    /// Smooth weighted round robin: over time each eligible source gets its share, evenly spread.
    fn next_by_weight(&mut self, eligible: impl Fn(&SiteSource) -> bool) -> Option<usize> {
        let (mut best, mut total): (Option<usize>, i64) = (None, 0);
        for index in 0..self.sources.len() {
            if !eligible(&self.sources[index]) {
                continue;
            }
            let weight = i64::from(self.sources[index].weight);
            self.sources[index].credit += weight;
            total += weight;
            if best.is_none_or(|best| self.sources[best].credit < self.sources[index].credit) {
                best = Some(index);
            }
        }
        self.sources[best?].credit -= total;
        best
    }
}

impl SiteSource {
    pub(super) fn opens_at(&self, limits: &Limits) -> UnixMs {
        if self.weight == 0 || self.sessions >= limits.connections_per_source_site {
            NEVER
        } else {
            self.backoff.opens_at()
        }
    }
}

/// Of a site, or of one source at a site.
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
    pub(super) site: u32,
    /// Into [`Site::sources`].
    pub(super) source: usize,
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
    pub(super) probes_source: bool,
    /// Batches in a row that it gave back untouched.
    pub(super) returned: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionIs {
    /// With its first batch, which has not reached the dialogue yet.
    Opening,
    Busy,
    Idle,
    Closing,
}

pub(super) const NEVER: UnixMs = UnixMs::MAX;
