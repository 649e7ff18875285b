//! Ways of mail: which source a message sticks to, which one its queue takes at a site now, and the life of paths.
//!
//! A message sticks to one source of its pool, by weight and for as long as it lives, because a host that greylists knows
//! the source, and a reputation is built from steady use. The choice depends on the message alone, so it survives restarts,
//! needs no memory, and recipients of one message share a transaction at a site. Where that source cannot be used, the
//! queue as a whole takes another one, by weight again, and comes back when its own can be used: O(1) a queue.

use std::sync::Arc;

use smallvec::SmallVec;

use super::key::PoolId;
use super::pacing::{Backoff, Path, Site, pick};
use super::retry::draw;
use super::schedule::{Queue, Route, Scheduler};
use super::sources::Lane;
use super::timers::Timed;
use crate::clock::UnixMs;
use crate::config::{PathLimits, ProviderId};

impl Scheduler {
    /// The queue's mail goes to the site from now on, through the source that it sticks to as long as that can be used.
    pub(super) fn lead(&mut self, q: u32, site: u32, valid_until: UnixMs) {
        let path = self.path_of(site, self.lane_for(&self.queues[q], site));
        self.paths[path].queues += 1;
        self.queues[q].route = Route::At { path, valid_until };
        if let Some(way) = self.way_of(q) {
            self.index.lead(q, way);
        }
        self.route_changed(q);
    }

    pub(super) fn forget_path_if_done(&mut self, p: u32) {
        let path = &self.paths[p];
        let in_line = path.runnable || path.waiting || path.lined;
        if path.queues > 0 || in_line || path.sessions > 0 {
            return;
        }
        let s = path.site;
        let site = &self.sites[s].backoff;
        let used = path.used.as_ref();
        let until = site
            .remembered_until()
            .max(path.backoff.remembered_until())
            .max(used.map_or(0, |used| used.remembered_until(&path.limits)));
        if until > self.now {
            return self.arm_path(p, until);
        }
        self.drop_rings(p);
        if let Some(mut path) = self.paths.remove(p) {
            self.timers.disarm(&mut path.timer, Timed::Path(p));
        }
        let site = &mut self.sites[s];
        site.paths.retain(|path| *path != p);
        if site.paths.is_empty()
            && let Some(site) = self.sites.remove(s)
        {
            self.pools[usize::from(site.pool.0)].sites.remove(&site.key);
        }
    }

    pub(super) fn site_of(
        &mut self,
        pool: PoolId,
        key: Arc<str>,
        provider: Option<ProviderId>,
    ) -> u32 {
        let found = &mut self.pools[usize::from(pool.0)];
        if let Some(&s) = found.sites.get(&key) {
            return s;
        }
        let s = self.sites.insert(Site {
            pool,
            key: Arc::clone(&key),
            provider,
            paths: SmallVec::new(),
            backoff: Backoff::default(),
        });
        found.sites.insert(key, s);
        s
    }

    /// The path of one source at a site.
    fn path_of(&mut self, s: u32, lane: u16) -> u32 {
        let paths = &self.sites[s].paths;
        let place = paths.binary_search_by_key(&lane, |&p| self.paths[p].lane);
        match place {
            Ok(place) => paths[place],
            Err(place) => {
                let limits = self.limits_of(s, lane);
                let (pool, provider) = (self.sites[s].pool, self.sites[s].provider);
                let budget = self.budget_of((pool, lane), provider, &limits);
                let mut path = Path::new(s, pool, lane, limits);
                path.budget = budget;
                let p = self.paths.insert(path);
                self.sites[s].paths.insert(place, p);
                p
            }
        }
    }

    /// The limits of a source at sites of a provider are the same: each is made once.
    fn limits_of(&mut self, s: u32, lane: u16) -> Arc<PathLimits> {
        let site = &self.sites[s];
        let key = (site.pool, lane, site.provider);
        if let Some(known) = self.path_limits.get(&key) {
            return Arc::clone(known);
        }
        let config = &self.pool(site.pool).config;
        let source = config.source_names.get(usize::from(lane));
        let source = source.map_or("", |name| name);
        let limits = self.shaping.limits(site.provider, &config.name, source);
        let limits = Arc::new(limits);
        self.path_limits.insert(key, Arc::clone(&limits));
        limits
    }

    /// Which source a new recipient's message sticks to. By the message alone: recipients of one message at one site share
    /// a transaction, whatever their domains. `draw` is made without the seed: the choice outlives the node's life.
    pub(super) fn lane_of(&self, pool: PoolId, draw: u64) -> u16 {
        let lanes = &self.pool(pool).lanes;
        match lanes.len() {
            0 | 1 => 0,
            _ => pick(lanes, |_| true, draw).unwrap_or(0),
        }
    }

    /// Through which source a queue's mail goes to a site now.
    pub(super) fn lane_for(&self, queue: &Queue, s: u32) -> u16 {
        let lanes = &self.pool(queue.pool).lanes;
        let is_up = |lane: u16| lanes.get(usize::from(lane)).is_some_and(Lane::is_usable);
        let refused = |lane: u16| {
            let paths = &self.sites[s].paths;
            let place = paths.binary_search_by_key(&lane, |&p| self.paths[p].lane);
            place.is_ok_and(|place| self.paths[paths[place]].is_refused())
        };
        if is_up(queue.lane) && !refused(queue.lane) {
            return queue.lane;
        }
        let name = queue
            .domain
            .bytes()
            .fold(u64::from(queue.flow), |hash, byte| {
                hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
            });
        let draw = draw(0, [name, u64::from(queue.lane)]);
        let other = pick(lanes, |lane| is_up(lane) && !refused(lane), draw);
        // All of them refused: its own, which probes.
        other
            .or_else(|| is_up(queue.lane).then_some(queue.lane))
            .or_else(|| pick(lanes, is_up, draw))
            .unwrap_or(queue.lane)
    }
}
