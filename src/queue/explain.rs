//! Why something waits, as data: what `queue ls` and `queue explain` show. Every number comes from the state that the
//! scheduler itself decides by, none is reconstructed.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use super::flow::{Home, Key, Named};
use super::key::{PoolId, SessionId, SourceId};
use super::pacing::Backoff;
use super::rates::{Pace, Used};
use super::schedule::{End, Queue, QueueCounts, Route, Scheduler};
use super::sources::Stop;
use super::store::{Entry, State};
use crate::clock::UnixMs;
use crate::config::{PathLimits, Set};
use crate::limits;
use crate::outcome::Cause;

/// All that waits for a domain in a pool, as a row.
#[derive(Clone, Debug)]
pub struct QueueRow {
    pub pool: PoolId,
    pub domain: Arc<str>,
    pub ready: usize,
    pub deferred: usize,
    /// Of the deferred: not attempted yet, because their time has not come.
    pub scheduled: usize,
    pub in_flight: usize,
    /// Of those that wait, the one that was accepted first.
    pub oldest_accepted: Option<UnixMs>,
    /// The key of the site that the route leads to, while it is known.
    pub site: Option<Arc<str>>,
    /// When the scheduler looks at it next, if nothing happens before: next attempt, expiry, route, or clean-up.
    pub next_wake: Option<UnixMs>,
    /// What its ready recipients wait for. Empty: nothing is ready.
    pub reasons: Vec<Reason>,
    /// The first few that differ.
    pub ways: Vec<Way>,
}

/// Which way a queue's mail takes, and what holds there.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// Of its pool, with their weights.
    pub sources: Vec<(SourceId, u32)>,
    pub sticks_to: Option<SourceId>,
    /// At its site, once that is known.
    pub takes: Option<SourceId>,
    pub server: Arc<str>,
    pub stream: Arc<str>,
    /// Recipients in a round of turns.
    pub share: u32,
    pub limits: Option<Arc<PathLimits>>,
}

/// One recipient: where it is and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub position: u64,
    pub number: u16,
    pub pool: PoolId,
    pub domain: Arc<str>,
    pub attempts: u16,
    pub expires_at: UnixMs,
    pub place: Place,
    pub site: Option<Arc<str>>,
    /// What a ready recipient waits for; what will bind a deferred one if nothing changes.
    pub reasons: Vec<Reason>,
    pub way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `ahead`: ready recipients of its site, itself among them.
    Ready {
        ahead: usize,
    },
    Deferred {
        next_attempt: UnixMs,
    },
    InFlight {
        session: SessionId,
        since: UnixMs,
    },
    /// Handed out as ended by one of the next polls.
    Leaving,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// A directive holds it.
    Suspended {
        directive: u32,
        until: Option<UnixMs>,
    },
    /// A directive sends it through this pool instead of its own.
    Rerouted { directive: u32, home: PoolId },
    /// Its sender has named the time of its first attempt.
    Scheduled { until: UnixMs },
    /// Waits for a look-up of its route; `since` when it was asked, `None` while it stands in line.
    AwaitsRoute { since: Option<UnixMs> },
    /// The look-up failed.
    RouteDeferred {
        until: UnixMs,
        failures: u32,
        cause: Arc<Cause>,
    },
    /// No new connection to the site (from `source`, or from any) before `until`. While `probing`, a connection tries
    /// whether the failure has passed. With no `failures`: connections ended before an attempt and gave no reason.
    SiteBacksOff {
        source: Option<SourceId>,
        until: UnixMs,
        failures: u32,
        probing: bool,
    },
    /// The source has as many connections to the site as it may.
    ConnectionLimit {
        source: SourceId,
        connections: usize,
        limit: usize,
        /// That set it.
        rule: Arc<str>,
        /// Counted over all sites of this provider.
        whole: Option<Arc<str>>,
    },
    /// The path has used up a rate or volume.
    Paced {
        source: SourceId,
        pace: Pace,
        limit: String,
        /// That set it.
        rule: Arc<str>,
        /// Counted over all sites of this provider.
        whole: Option<Arc<str>>,
        until: UnixMs,
    },
    /// The source opens nothing; without a stop: it has weight 0.
    SourceStops {
        source: SourceId,
        stop: Option<Stop>,
    },
    /// The mail sticks to `source`, which opens nothing, or nothing here; it goes by `by` meanwhile.
    GoesBy {
        source: SourceId,
        by: SourceId,
        stop: Option<Stop>,
    },
    /// The node has as many connections as it may, or as many as this class of pools may.
    NodeConnections { connections: usize, limit: usize },
    /// Connections that are being opened will do; after `until` one more is opened.
    ConnectionsOpening { connections: usize, until: UnixMs },
    /// Nothing is in the way but the turns of others: of so many ready recipients, and streams, that go the same way.
    Turn {
        ready: usize,
        flows: usize,
        idle: usize,
    },
    /// Its pool has no source.
    NoSource,
}

impl Scheduler {
    /// Destinations in the order of pool and domain, from behind `after`: each row is all queues of a domain in a pool.
    pub fn list(&self, after: Option<(PoolId, &str)>, count_max: usize) -> Vec<QueueRow> {
        let first = after.map_or(0, |(pool, _)| usize::from(pool.0));
        let pools = self.pools.iter().enumerate().skip(first);
        let queues = pools.flat_map(|(index, pool)| {
            let last: Key<'_>;
            let from: Bound<&dyn Named> = match after {
                Some((start, domain)) if usize::from(start.0) == index => {
                    last = (domain, u32::MAX, u16::MAX, Home::LAST);
                    Bound::Excluded(&last)
                }
                _ => Bound::Unbounded,
            };
            pool.queues.range::<dyn Named, _>((from, Bound::Unbounded))
        });
        let mut rows: Vec<SmallVec<[u32; 4]>> = Vec::new();
        for (_, &q) in queues {
            let here = |&last: &u32| {
                let (last, queue) = (&self.queues[last], &self.queues[q]);
                (last.pool, &last.domain) == (queue.pool, &queue.domain)
            };
            let full = rows.len() == count_max;
            match rows.last_mut() {
                Some(row) if row.last().is_some_and(here) => row.push(q),
                _ if full => break,
                _ => rows.push(SmallVec::from_elem(q, 1)),
            }
        }
        rows.iter().filter_map(|queues| self.row(queues)).collect()
    }

    /// A domain's row in each pool that has mail for it.
    pub fn explain_domain(&self, domain: &str) -> Vec<QueueRow> {
        let pools = (0..self.pools.len() as u16).map(PoolId);
        let rows = pools.filter_map(|pool| {
            let queues: Vec<u32> = self.queues_for(pool, domain).collect();
            self.row(&queues)
        });
        rows.collect()
    }

    /// A domain's row in a pool, without the age of its oldest and what is scheduled: O(its queues).
    pub fn destination(&self, pool: PoolId, domain: &str) -> Option<QueueRow> {
        let queues: Vec<u32> = self.queues_for(pool, domain).collect();
        self.row_without_ages(&queues)
    }

    /// The live recipients of a message, in the order of their numbers.
    pub fn explain_message(&self, position: u64) -> Vec<Explanation> {
        let found = self.store.at_position(position);
        let mut found: Vec<_> = found.into_iter().map(|index| self.explain(index)).collect();
        found.sort_by_key(|explanation| explanation.number);
        found
    }

    /// Of all queues of a domain in a pool together.
    fn row(&self, queues: &[u32]) -> Option<QueueRow> {
        let old = queues.iter().map(|&q| self.oldest(q));
        let (oldest, scheduled): (Vec<_>, Vec<_>) = old.unzip();
        Some(QueueRow {
            scheduled: scheduled.into_iter().sum(),
            oldest_accepted: oldest.into_iter().flatten().min(),
            ..self.row_without_ages(queues)?
        })
    }

    fn row_without_ages(&self, queues: &[u32]) -> Option<QueueRow> {
        let first = &self.queues[*queues.first()?];
        let all = || queues.iter().map(|&q| &self.queues[q]);
        let sum = |count: fn(QueueCounts) -> u32| all().map(|q| count(q.counts) as usize).sum();
        let timers = all().map(|queue| queue.timer);
        Some(QueueRow {
            pool: first.pool,
            domain: Arc::clone(&first.domain),
            ready: sum(|counts| counts.ready),
            deferred: sum(|counts| counts.deferred),
            scheduled: 0,
            in_flight: sum(|counts| counts.in_flight),
            oldest_accepted: None,
            site: all().find_map(|queue| self.site_key(queue)),
            next_wake: timers.min().filter(|&timer| timer != UnixMs::MAX),
            reasons: self.reasons_of(queues),
            ways: self.ways(queues),
        })
    }

    fn ways(&self, queues: &[u32]) -> Vec<Way> {
        let mut ways = Vec::new();
        for &q in queues {
            let way = self.way(q);
            if self.queues[q].counts.total() > 0 && !ways.contains(&way) {
                ways.push(way);
            }
            if ways.len() == limits::REASONS_SHOWN {
                break;
            }
        }
        ways
    }

    fn way(&self, q: u32) -> Way {
        let queue = &self.queues[q];
        let [sticks_to, takes] = self.traits(q).sources;
        let lanes = self.pool(queue.pool).lanes.iter();
        let flow = self.flows.get(queue.flow);
        Way {
            sources: lanes.map(|lane| (lane.source, lane.weight)).collect(),
            sticks_to,
            takes,
            server: Arc::clone(&flow.server_name),
            stream: Arc::clone(&flow.stream),
            share: flow.weight,
            limits: match queue.route {
                Route::At { path, .. } => Some(Arc::clone(&self.paths[path].limits)),
                _ => None,
            },
        }
    }

    /// What some queue waits for, each reason once.
    fn reasons_of(&self, queues: &[u32]) -> Vec<Reason> {
        let (mut reasons, mut seen) = (Vec::new(), BTreeSet::new());
        for &q in queues {
            let queue = &self.queues[q];
            let verdict = self.verdict(q);
            let at = match queue.route {
                _ if queue.counts.ready + queue.counts.deferred == 0 => continue,
                _ if verdict.held != 0 => (4, verdict.held, 0),
                _ if queue.counts.ready == 0 => continue,
                Route::At { path, .. } => (0, path, queue.lane),
                Route::Unknown | Route::Wanted { .. } => (1, 0, 0),
                Route::Asked { .. } => (2, 0, 0),
                Route::Deferred { .. } => (3, 0, 0),
            };
            if reasons.len() < limits::REASONS_SHOWN && seen.insert((at, verdict.moved)) {
                for reason in self.reasons(q) {
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
            }
        }
        reasons
    }

    fn explain(&self, index: u32) -> Explanation {
        let entry = &self.store[index];
        let queue = &self.queues[entry.queue];
        let state = entry.state();
        let place = match state {
            State::InFlight => self.place_in_flight(index),
            _ if !matches!(queue.end, None | Some(End::Moved { .. })) => Place::Leaving,
            State::Deferred => Place::Deferred {
                next_attempt: self.ticks.ms(entry.due),
            },
            _ => Place::Ready {
                ahead: match queue.route {
                    Route::At { path, .. } => self.paths[path].ready,
                    _ => queue.counts.ready as usize,
                },
            },
        };
        Explanation {
            position: entry.position(),
            number: entry.number,
            pool: queue.pool,
            domain: Arc::clone(&queue.domain),
            attempts: entry.attempts.into(),
            expires_at: self.ticks.ms(entry.expires),
            place,
            site: self.site_key(queue),
            way: self.way(entry.queue),
            reasons: match place {
                Place::Deferred { next_attempt } if entry.attempts == 0 => {
                    let mut reasons = self.directed_reasons(entry.queue).0;
                    reasons.push(Reason::Scheduled {
                        until: next_attempt,
                    });
                    reasons
                }
                Place::Ready { .. } | Place::Deferred { .. } => self.reasons(entry.queue),
                Place::InFlight { .. } | Place::Leaving => Vec::new(),
            },
        }
    }

    fn place_in_flight(&self, index: u32) -> Place {
        let mut sessions = self.sessions.iter();
        let holder = sessions
            .find(|(_, session)| session.batch.contains(&index) || session.next.contains(&index));
        let Some((&session, _)) = holder else {
            panic!("recipient {index} is in flight in no session");
        };
        let since = self.in_flight_since(index);
        Place::InFlight { session, since }
    }

    pub(super) fn site_key(&self, queue: &Queue) -> Option<Arc<str>> {
        match queue.route {
            Route::At { path, .. } => {
                let site = self.paths[path].site;
                Some(Arc::clone(&self.sites[site].key))
            }
            _ => None,
        }
    }

    /// What directives do to the queue, and whether one holds it.
    fn directed_reasons(&self, q: u32) -> (Vec<Reason>, bool) {
        let verdict = self.verdict(q);
        let mut reasons = Vec::new();
        if verdict.moved != 0 {
            reasons.push(Reason::Rerouted {
                directive: verdict.moved,
                home: self.queues[q].home.pool,
            });
        }
        if verdict.held != 0 {
            let directive = self.directives.get(verdict.held);
            reasons.push(Reason::Suspended {
                directive: verdict.held,
                until: directive.and_then(|directive| directive.until),
            });
        }
        (reasons, verdict.held != 0)
    }

    fn reasons(&self, q: u32) -> Vec<Reason> {
        let (mut reasons, held) = self.directed_reasons(q);
        if held {
            return reasons;
        }
        match &self.queues[q].route {
            Route::Unknown | Route::Wanted { .. } => {
                reasons.push(Reason::AwaitsRoute { since: None });
            }
            Route::Asked { since, .. } => reasons.push(Reason::AwaitsRoute {
                since: Some(*since),
            }),
            Route::Deferred {
                until,
                failures,
                cause,
            } => reasons.push(Reason::RouteDeferred {
                until: *until,
                failures: *failures,
                cause: Arc::clone(cause),
            }),
            Route::At { path, .. } => reasons.extend(self.way_reasons(&self.queues[q], *path)),
        }
        reasons
    }

    /// What keeps a queue at the path that it takes now or with its next turn.
    fn way_reasons(&self, queue: &Queue, p: u32) -> Vec<Reason> {
        let (s, lanes) = (self.paths[p].site, &self.pool(queue.pool).lanes);
        let lane = self.lane_for(queue, s);
        let (Some(own), Some(by)) = (
            lanes.get(usize::from(queue.lane)),
            lanes.get(usize::from(lane)),
        ) else {
            return self.path_reasons(p);
        };
        let mut reasons = Vec::new();
        // With its next turn it goes there.
        if lane == self.paths[p].lane {
            reasons = self.path_reasons(p);
        }
        if lane != queue.lane {
            reasons.push(Reason::GoesBy {
                source: own.source,
                by: by.source,
                stop: own.stop().cloned(),
            });
        }
        reasons
    }

    /// What keeps the path from taking one more batch now: the conditions of `Scheduler::choose`, in its order.
    fn path_reasons(&self, p: u32) -> Vec<Reason> {
        let path = &self.paths[p];
        let site = &self.sites[path.site];
        let turn = Reason::Turn {
            ready: path.ready,
            flows: self.rings.range((p, 0)..(p + 1, 0)).count(),
            idle: path.idle.len(),
        };
        let source = self.pool(path.pool).lanes.get(usize::from(path.lane));
        if let Some(source) = source.map(|lane| lane.source) {
            let own = path.used.as_ref().map(|used| (&**used, &path.limits, None));
            let budget = path.budget.map(|b| &self.budgets[b as usize]);
            let whole = budget.map(|budget| {
                let provider = self.shaping.provider_name(budget.provider);
                (&budget.used, &budget.limits, Some(Arc::clone(provider)))
            });
            let mut paced = own
                .into_iter()
                .chain(whole)
                .filter_map(|(used, limits, whole)| self.paced(used, limits, whole, source));
            if let Some(paced) = paced.next() {
                return vec![paced];
            }
        }
        if !path.idle.is_empty() {
            return vec![turn];
        }
        let mut reasons: Vec<Reason> = self.backs_off(None, &site.backoff).into_iter().collect();
        let Some(lane) = self.pool(path.pool).lanes.get(usize::from(path.lane)) else {
            reasons.push(Reason::NoSource);
            return reasons;
        };
        let source = lane.source;
        if !lane.is_usable() {
            let stop = lane.stop().cloned();
            reasons.push(Reason::SourceStops { source, stop });
        }
        let limit = &path.limits.connections;
        if path.sessions >= limit.value {
            reasons.push(Reason::ConnectionLimit {
                source,
                connections: path.sessions as usize,
                limit: limit.value as usize,
                rule: Arc::clone(&limit.rule),
                whole: None,
            });
        }
        if let Some(used) = &path.used {
            reasons.extend(self.connects_later(used, &path.limits, None, source));
        }
        if let Some(budget) = path.budget.map(|b| &self.budgets[b as usize]) {
            let whole = Some(Arc::clone(self.shaping.provider_name(budget.provider)));
            let limit = &budget.limits.connections;
            if budget.is_full() {
                reasons.push(Reason::ConnectionLimit {
                    source,
                    connections: budget.sessions as usize,
                    limit: limit.value as usize,
                    rule: Arc::clone(&limit.rule),
                    whole: whole.clone(),
                });
            }
            reasons.extend(self.connects_later(&budget.used, &budget.limits, whole, source));
        }
        reasons.extend(self.backs_off(Some(source), &path.backoff));
        if path.ready <= path.opening as usize && path.grace_until > self.now {
            reasons.push(Reason::ConnectionsOpening {
                connections: path.opening as usize,
                until: path.grace_until,
            });
        }
        if reasons.is_empty() && !self.may_open(self.class_of(path.pool)) {
            reasons.push(Reason::NodeConnections {
                connections: self.sessions.len(),
                limit: self.limits.connections,
            });
        }
        if reasons.is_empty() {
            reasons.push(turn);
        }
        reasons
    }

    fn connects_later(
        &self,
        used: &Used,
        limits: &PathLimits,
        whole: Option<Arc<str>>,
        source: SourceId,
    ) -> Option<Reason> {
        let rate = limits.connection_rate.as_ref()?;
        let until = used.connection_at();
        (until > self.now).then(|| Reason::Paced {
            source,
            pace: Pace::ConnectionRate,
            limit: rate.value.to_string(),
            rule: Arc::clone(&rate.rule),
            whole,
            until,
        })
    }

    /// The rate or volume that messages wait for.
    fn paced(
        &self,
        used: &Used,
        limits: &PathLimits,
        whole: Option<Arc<str>>,
        source: SourceId,
    ) -> Option<Reason> {
        let (until, pace) = used.message_at(limits);
        let volume = |set: &Option<Set<u32>>| {
            let set = set.as_ref()?;
            Some((set.value.to_string(), Arc::clone(&set.rule)))
        };
        let (limit, rule) = match pace {
            Pace::MessagesPerHour => volume(&limits.messages_per_hour)?,
            Pace::MessagesPerDay => volume(&limits.messages_per_day)?,
            Pace::MessageRate | Pace::ConnectionRate => {
                let rate = limits.message_rate.as_ref()?;
                (rate.value.to_string(), Arc::clone(&rate.rule))
            }
        };
        (until > self.now).then_some(Reason::Paced {
            source,
            pace,
            limit,
            rule,
            whole,
            until,
        })
    }

    fn backs_off(&self, source: Option<SourceId>, backoff: &Backoff) -> Option<Reason> {
        (backoff.opens_at() > self.now).then_some(Reason::SiteBacksOff {
            source,
            until: backoff.until,
            failures: backoff.failures,
            probing: backoff.probing,
        })
    }

    /// The acceptance of the oldest that waits, and how many are scheduled. An expiry that comes from a deadline, a schedule or
    /// an age limit of its own is odd and tells nothing of the acceptance. Deferred lists are searched, or else the store is
    /// read in order of memory, which is faster for the queue that holds most of it.
    fn oldest(&self, q: u32) -> (Option<UnixMs>, usize) {
        let queue = &self.queues[q];
        let is_usual = |entry: &&Entry| entry.expires & 1 == 0;
        let ready = [&queue.fresh, &queue.again].into_iter().filter_map(|list| {
            let first = &self.store[list.peek(&self.store)?];
            if is_usual(&first) {
                return Some(first.expires);
            }
            let all = list.indexes(&self.store).into_iter();
            let all = all.map(|index| &self.store[index]);
            let live = all.filter(|entry| entry.state() == State::Ready);
            live.filter(is_usual).map(|entry| entry.expires).min()
        });
        let mut expires = ready.min();
        let mut scheduled = 0;
        let mut deferred = |entry: &Entry| {
            scheduled += usize::from(entry.attempts == 0);
            if is_usual(&entry) {
                expires = Some(expires.map_or(entry.expires, |least| least.min(entry.expires)));
            }
        };
        if queue.counts.deferred as usize > self.store.len() / 16 {
            let all = self.store.iter().map(|(_, entry)| entry);
            let here = all.filter(|entry| entry.queue == q && entry.state() == State::Deferred);
            here.for_each(&mut deferred);
        } else {
            let here = queue.deferred.indexes(&self.store).into_iter();
            let here = here.map(|index| &self.store[index]);
            here.filter(|entry| entry.state() == State::Deferred)
                .for_each(&mut deferred);
        }
        let max_age = self.pool(queue.pool).config.retry.max_age.as_millis() as u64;
        let accepted = expires.map(|tick| self.ticks.ms(tick).saturating_sub(max_age));
        (accepted, scheduled)
    }
}
