//! The scheduler itself: insertion, routes, timers, and the poll that says what to do next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::budgets::Budget;
use super::control::Withdrawal;
use super::directives::Directives;
use super::flow::{Flows, Home, Name, Named};
use super::index::Index;
use super::key::{Arena, PoolId, QueueId, SessionId, SourceId};
use super::order::Ordered;
use super::pacing::{NEVER, Path, Session, Site};
use super::retry::{Tick, Ticks, draw, path_ms};
use super::sources::{Lane, SourceChange};
use super::store::{State, Store};
use super::timers::{Timed, Timers};
use super::turns::Ring;
use super::{Counts, Limits, PoolConfig, RouteAnswer, Work};
use crate::clock::UnixMs;
use crate::config::{PathLimits, ProviderId, Shaping, Share, StreamKind};
use crate::limits;
use crate::outcome::Cause;

/// Call `poll` until it returns `None` after every other call and at the time that `poll_timeout` names.
pub struct Scheduler {
    pub(super) pools: Vec<Pool>,
    pub(super) limits: Limits,
    pub(super) shaping: Arc<Shaping>,
    pub(super) path_limits: BTreeMap<(PoolId, u16, Option<ProviderId>), Arc<PathLimits>>,
    pub(super) seed: u64,
    pub(super) ticks: Ticks,
    /// The latest time heard; it never goes back.
    pub(super) now: UnixMs,
    pub(super) store: Store,
    pub(super) flows: Flows,
    pub(super) queues: Arena<Queue>,
    pub(super) index: Index,
    pub(super) sites: Arena<Site>,
    pub(super) paths: Arena<Path>,
    /// Never forgotten.
    pub(super) budgets: Vec<Budget>,
    pub(super) budgets_by_name: BTreeMap<(PoolId, u16, ProviderId), u32>,
    /// By path and flow.
    pub(super) rings: BTreeMap<(u32, u32), Ring>,
    /// Path, round, flow: whose turn it is at a path is the first of it.
    pub(super) turns: BTreeSet<(u32, u64, u32)>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) sessions_opened: u64,
    pub(super) timers: Timers,
    pub(super) classes: [Class; CLASSES],
    /// Look-ups under way.
    pub(super) resolving: usize,
    /// Deferred recipients that an operator wants ready, moved a step at a time.
    pub(super) releasing: VecDeque<(u32, Ordered)>,
    /// Queues of which every recipient is handed out as ended.
    pub(super) leaving: VecDeque<u32>,
    pub(super) directives: Directives,
    /// The operator's reasons, of recipients in flight that are to be withdrawn.
    pub(super) withdrawn_for: BTreeMap<u32, Arc<str>>,
    /// Recipients that are in no queue any more.
    pub(super) outbox: VecDeque<Work>,
    /// Pools whose paths are looked through, and how far.
    pub(super) sweeps: VecDeque<(PoolId, u32)>,
    /// When the first source changes by itself.
    pub(super) sources_wake: UnixMs,
    /// Not told yet.
    pub(super) source_changes: Vec<SourceChange>,
}

/// A pool's configuration, its queues and sites by name, and its recipients by state.
pub(super) struct Pool {
    pub(super) config: PoolConfig,
    pub(super) lanes: Vec<Lane>,
    pub(super) class: usize,
    /// Ordered maps: no table that is copied when it grows, no collisions that an enemy could choose, and an order for
    /// listings.
    pub(super) queues: BTreeMap<Name, u32>,
    pub(super) sites: BTreeMap<Arc<str>, u32>,
    pub(super) counts: Counts,
}

/// Transactional pools, or all others: what they have to do, and what they use.
#[derive(Default)]
pub(super) struct Class {
    pub(super) asking: VecDeque<u32>,
    pub(super) runnable: VecDeque<u32>,
    pub(super) waiting: VecDeque<u32>,
    pub(super) idle: BTreeSet<(UnixMs, SessionId)>,
    pub(super) connections: usize,
    /// Sessions told to close that have not reported it.
    pub(super) closing: usize,
}

/// What waits of one flow for one domain in a pool, and sticks to one source.
pub(super) struct Queue {
    pub(super) pool: PoolId,
    pub(super) lane: u16,
    pub(super) flow: u32,
    pub(super) home: Home,
    /// By which directives it is held, and moved from home; 0: none. Decided at that count of changes.
    pub(super) held: u32,
    pub(super) moved: u32,
    pub(super) seen: u32,
    /// Recipients that have ended after an attempt.
    pub(super) outcomes: u32,
    pub(super) domain: Arc<str>,
    /// Ready, never attempted.
    pub(super) fresh: Ordered,
    /// Ready, attempted before.
    pub(super) again: Ordered,
    pub(super) deferred: Ordered,
    pub(super) counts: QueueCounts,
    /// Whose turn it is: new recipients and old ones alternate, so that neither starves.
    pub(super) again_next: bool,
    pub(super) route: Route,
    /// In the ring of its flow at the path: neighbours.
    pub(super) linked: bool,
    pub(super) previous: u32,
    pub(super) next: u32,
    pub(super) timer: UnixMs,
    pub(super) end: Option<End>,
    /// In the line of queues out of service.
    pub(super) leaving: bool,
}

#[derive(Clone, Copy, Default)]
pub(super) struct QueueCounts {
    pub(super) ready: u32,
    pub(super) deferred: u32,
    pub(super) in_flight: u32,
}

impl QueueCounts {
    pub(super) fn total(self) -> u32 {
        self.ready + self.deferred + self.in_flight
    }
}

#[derive(Clone)]
pub(super) enum Route {
    Unknown,
    /// In line for a look-up.
    Wanted {
        failures: u32,
    },
    /// Looked up by the owner of the scheduler.
    Asked {
        since: UnixMs,
        failures: u32,
    },
    At {
        path: u32,
        valid_until: UnixMs,
    },
    Deferred {
        until: UnixMs,
        failures: u32,
        cause: Arc<Cause>,
    },
}

/// Why a queue is taken out of service; its name is free for a new one.
#[derive(Clone)]
pub(super) enum End {
    /// And the operator's reason.
    Withdrawn(Withdrawal, Option<Arc<str>>),
    Refused(Arc<Cause>),
    /// By a directive, or since one has ended: its recipients go to a queue of that pool.
    Moved {
        to: PoolId,
        by: u32,
    },
    /// Only dead entries are left in its lists.
    Empty,
}

impl Scheduler {
    pub fn new(pools: Vec<PoolConfig>, limits: Limits, seed: u64) -> Self {
        let pools = pools.into_iter().map(|config| Pool {
            class: usize::from(config.kind != StreamKind::Transactional),
            lanes: config.sources.iter().map(lane).collect(),
            config,
            queues: BTreeMap::new(),
            sites: BTreeMap::new(),
            counts: Counts::default(),
        });
        Self {
            pools: pools.collect(),
            shaping: Arc::new(Shaping::plain(PathLimits::plain(
                limits.connections_per_source_site as u32,
                limits.messages_per_connection,
                limits.recipients_per_transaction as u32,
            ))),
            path_limits: BTreeMap::new(),
            limits,
            seed,
            ticks: Ticks::default(),
            now: 0,
            store: Store::new(),
            flows: Flows::new(Vec::new()),
            queues: Arena::new(),
            index: Index::default(),
            sites: Arena::new(),
            paths: Arena::new(),
            budgets: Vec::new(),
            budgets_by_name: BTreeMap::new(),
            rings: BTreeMap::new(),
            turns: BTreeSet::new(),
            sessions: BTreeMap::new(),
            sessions_opened: 0,
            timers: Timers::default(),
            classes: Default::default(),
            resolving: 0,
            releasing: VecDeque::new(),
            leaving: VecDeque::new(),
            directives: Directives::default(),
            withdrawn_for: BTreeMap::new(),
            outbox: VecDeque::new(),
            sweeps: VecDeque::new(),
            sources_wake: NEVER,
            source_changes: Vec::new(),
        }
    }

    /// Limits of paths other than those of [`Limits`]. Before anything is inserted.
    pub fn with_shaping(mut self, shaping: Arc<Shaping>) -> Self {
        self.shaping = shaping;
        self
    }

    /// Shares of turns other than 1. Before anything is inserted.
    pub fn with_shares(mut self, shares: Vec<Share>) -> Self {
        self.flows = Flows::new(shares);
        self
    }

    /// The answer to [`Work::Resolve`]. An answer that nobody waits for is ignored.
    pub fn routed(&mut self, now: UnixMs, queue: QueueId, answer: RouteAnswer) {
        self.observe(now);
        let QueueId(q) = queue;
        let Some(queue) = self.queues.get_mut(q) else {
            return;
        };
        let Route::Asked { failures, .. } = queue.route else {
            return;
        };
        queue.route = Route::Unknown;
        self.resolving -= 1;
        if queue.end.is_some() {
            self.forget_if_done(q);
            return;
        }
        let held = !self.may_go(q);
        if self.queues[q].end.is_some() {
            return;
        }
        match answer {
            RouteAnswer::Site {
                key,
                valid_until,
                provider,
            } => {
                let site = self.site_of(self.queues[q].pool, key, provider);
                let valid_until = valid_until.max(self.now + ROUTE_VALID_MIN_MS);
                self.lead(q, site, valid_until);
            }
            // Nothing bounces that is held.
            RouteAnswer::Refused { cause } if !held => {
                return self.end_queue(q, End::Refused(cause));
            }
            RouteAnswer::Refused { cause } | RouteAnswer::Defer { cause } => {
                let failures = failures + 1;
                let draw = draw(self.seed, [u64::from(q), self.now]);
                let retry = &self.pool(self.queues[q].pool).config.retry;
                let until = self.now + path_ms(retry, failures, draw).max(1);
                self.queues[q].route = Route::Deferred {
                    until,
                    failures,
                    cause,
                };
                self.arm_queue(q, until);
            }
        }
        self.activate(q);
        self.linger_if_empty(q);
    }

    /// Recipients of all pools.
    pub fn counts(&self) -> Counts {
        let mut all = Counts {
            leaving: self.outbox.len(),
            ..Counts::default()
        };
        for pool in &self.pools {
            all.ready += pool.counts.ready;
            all.deferred += pool.counts.deferred;
            all.in_flight += pool.counts.in_flight;
        }
        all
    }

    /// Recipients of one pool; those that leave are counted for all pools together.
    pub fn pool_counts(&self, pool: PoolId) -> Counts {
        self.pool(pool).counts
    }

    /// Connections from their opening to their report of being closed.
    pub fn connections(&self) -> usize {
        self.sessions.len()
    }

    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    pub fn paths(&self) -> usize {
        self.paths.len()
    }

    /// Flows ever seen.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// What the structures take, their spare room included.
    pub fn memory_bytes(&self) -> usize {
        // A B-tree node holds 5 to 11 entries: count two thirds of full, and its header.
        const TREE: usize = 2;
        let names: usize = self.pools.iter().map(|pool| pool.queues.len()).sum();
        let asking = |class: &Class| {
            class.asking.capacity() + class.runnable.capacity() + class.waiting.capacity()
        };
        let lines: usize = self.classes.iter().map(asking).sum();
        self.store.memory_bytes()
            + self.queues.memory_bytes()
            + self.index.memory_bytes()
            + self.sites.memory_bytes()
            + self.paths.memory_bytes()
            + self.flows.memory_bytes()
            + self.rings.len() * TREE * size_of::<((u32, u32), Ring)>()
            + self.turns.len() * TREE * size_of::<(u32, u64, u32)>()
            + self
                .queues
                .iter()
                .map(|(_, queue)| queue.domain.len() + 16)
                .sum::<usize>()
            + names * TREE * size_of::<(Name, u32)>()
            + self.timers.len() * TREE * size_of::<(UnixMs, Timed)>()
            + self.sessions.len() * TREE * size_of::<(SessionId, Session)>()
            + lines * size_of::<u32>()
            + self.outbox.capacity() * size_of::<Work>()
    }
}

// Steps that the other files build on.
impl Scheduler {
    pub(super) fn observe(&mut self, now: UnixMs) {
        self.now = self.now.max(now);
        self.ticks.start(now);
        self.end_overdue();
    }

    pub(super) fn pool(&self, pool: PoolId) -> &Pool {
        let Some(found) = self.pools.get(usize::from(pool.0)) else {
            panic!("there is no pool {}", pool.0);
        };
        found
    }

    pub(super) fn class_of(&self, pool: PoolId) -> usize {
        self.pool(pool).class
    }

    /// A tick that has come entirely.
    pub(super) fn has_come(&self, tick: Tick) -> bool {
        self.ticks.ms(tick) <= self.now
    }

    pub(super) fn arm_queue(&mut self, q: u32, at: UnixMs) {
        let queue = &mut self.queues[q];
        if queue.end.is_none() {
            self.timers.arm(&mut queue.timer, at, Timed::Queue(q));
        }
    }

    pub(super) fn arm_path(&mut self, p: u32, at: UnixMs) {
        self.timers
            .arm(&mut self.paths[p].timer, at, Timed::Path(p));
    }

    /// Moves a recipient's weight between states; the only place that counts.
    pub(super) fn count(&mut self, q: u32, from: Option<State>, to: Option<State>) {
        let queue = &mut self.queues[q];
        let pool = &mut self.pools[usize::from(queue.pool.0)].counts;
        let linked = match queue.route {
            Route::At { path, .. } if queue.linked => Some(path),
            _ => None,
        };
        for (state, add) in [(from, false), (to, true)] {
            let Some(state) = state else { continue };
            let (of_queue, of_pool) = match state {
                State::Ready => (&mut queue.counts.ready, &mut pool.ready),
                State::Deferred => (&mut queue.counts.deferred, &mut pool.deferred),
                State::InFlight => (&mut queue.counts.in_flight, &mut pool.in_flight),
                State::Free | State::Dead => continue,
            };
            let step = |n: usize| if add { n + 1 } else { n - 1 };
            *of_queue = step(*of_queue as usize) as u32;
            *of_pool = step(*of_pool);
            if let (State::Ready, Some(path)) = (state, linked) {
                self.paths[path].ready = step(self.paths[path].ready);
            }
        }
    }

    /// From no list and counted nowhere into the ready lists.
    pub(super) fn make_ready(&mut self, index: u32) {
        let entry = &mut self.store[index];
        entry.set_state(State::Ready);
        let (q, expires, attempted) = (entry.queue, entry.expires, entry.attempts > 0);
        let queue = &mut self.queues[q];
        let list = if attempted {
            &mut queue.again
        } else {
            &mut queue.fresh
        };
        list.push(&mut self.store, index);
        self.count(q, None, Some(State::Ready));
        self.arm_queue(q, self.ticks.ms(expires));
        self.activate(q);
    }

    /// From no list and counted nowhere into the deferred list, at the latest until it expires.
    pub(super) fn defer(&mut self, index: u32, until: UnixMs) {
        let due = self.ticks.at(until);
        let entry = &mut self.store[index];
        entry.set_state(State::Deferred);
        entry.due = due.min(entry.expires);
        let (q, due) = (entry.queue, entry.due);
        self.queues[q].deferred.push(&mut self.store, index);
        self.count(q, None, Some(State::Deferred));
        self.arm_queue(q, self.ticks.ms(due));
    }

    /// Gives a queue with ready recipients to whoever moves it on: the line for look-ups or a ring of its path.
    pub(super) fn activate(&mut self, q: u32) {
        let queue = &self.queues[q];
        if queue.counts.ready == 0 || queue.end.is_some() {
            return;
        }
        if !self.may_go(q) {
            return self.hold(q);
        }
        match self.queues[q].route {
            Route::Unknown => self.want_route(q),
            Route::At { valid_until, .. } if valid_until <= self.now => self.want_route(q),
            Route::At { path, .. } => self.link(q, path),
            Route::Wanted { .. } | Route::Asked { .. } => {}
            Route::Deferred { until, .. } => self.arm_queue(q, until),
        }
    }

    pub(super) fn want_route(&mut self, q: u32) {
        self.detach(q);
        let failures = match self.queues[q].route {
            Route::Deferred { failures, .. } => failures,
            _ => 0,
        };
        self.queues[q].route = Route::Wanted { failures };
        let class = self.class_of(self.queues[q].pool);
        self.classes[class].asking.push_back(q);
    }

    /// Pool, source and path that the queue leads to.
    pub(super) fn way_of(&self, q: u32) -> Option<(PoolId, u16, u32)> {
        match self.queues[q].route {
            Route::At { path, .. } => {
                let at = &self.paths[path];
                Some((at.pool, at.lane, path))
            }
            _ => None,
        }
    }

    /// Takes the queue from its path, which may then be forgotten.
    pub(super) fn detach(&mut self, q: u32) {
        self.unlink(q);
        if let Some(way) = self.way_of(q) {
            self.index.detach(q, way);
            let path = way.2;
            self.queues[q].route = Route::Unknown;
            self.paths[path].queues -= 1;
            if self.paths[path].queues == 0 {
                // Forgotten by its timer: the caller may be looking at it.
                self.arm_path(path, self.now);
            }
        }
    }

    /// Takes the queue out of service: its recipients leave one by one, those in flight after their attempt.
    pub(super) fn end_queue(&mut self, q: u32, end: End) {
        self.detach(q);
        let queue = &mut self.queues[q];
        if matches!(queue.route, Route::Wanted { .. } | Route::Deferred { .. }) {
            queue.route = Route::Unknown;
        }
        let moved = matches!(end, End::Moved { .. });
        queue.end = Some(end);
        queue.leaving = true;
        self.timers.disarm(&mut queue.timer, Timed::Queue(q));
        let key = (&*queue.domain, queue.flow, queue.lane, queue.home);
        self.pools[usize::from(queue.pool.0)]
            .queues
            .remove(&key as &dyn Named);
        if moved {
            self.directives.moving.push_back(q);
        } else {
            self.leaving.push_back(q);
        }
    }

    pub(super) fn linger_if_empty(&mut self, q: u32) {
        if self.queues[q].counts.total() == 0 {
            self.arm_queue(q, self.now + limits::QUEUE_LINGER.as_millis() as u64);
        }
    }

    /// Frees a queue that is out of service, once nothing refers to it.
    pub(super) fn forget_if_done(&mut self, q: u32) {
        let queue = &self.queues[q];
        let lists = [&queue.fresh, &queue.again, &queue.deferred];
        if queue.end.is_some()
            && !queue.leaving
            && queue.counts.total() == 0
            && lists.iter().all(|list| list.is_empty())
            && !matches!(queue.route, Route::Asked { .. })
        {
            let (pool, lane, flow) = (queue.pool, queue.lane, queue.flow);
            self.index.remove(q, pool, lane, flow);
            self.strike_queue(q);
            self.queues.remove(q);
        }
    }
}

fn lane(&(source, weight): &(SourceId, u32)) -> Lane {
    Lane::new(source, weight)
}

/// Transactional first.
pub(super) const CLASSES: usize = 2;

/// A route that is no longer valid when it arrives would be asked for in a circle.
const ROUTE_VALID_MIN_MS: u64 = 1_000;
