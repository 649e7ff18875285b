//! Why something waits, as data: what `queue ls` and `queue explain` show. Every number comes from the state that the
//! scheduler itself decides by, none is reconstructed.

use std::ops::Bound;
use std::sync::Arc;

use super::key::{PoolId, QueueId, SessionId, SourceId};
use super::pacing::Backoff;
use super::schedule::{Queue, Route, Scheduler};
use super::store::State;
use crate::clock::UnixMs;
use crate::outcome::Cause;

/// One queue, as a row.
#[derive(Clone, Debug)]
pub struct QueueRow {
    pub queue: QueueId,
    pub pool: PoolId,
    pub domain: Arc<str>,
    pub ready: usize,
    pub deferred: usize,
    pub in_flight: usize,
    /// Of those that wait, the one that was accepted first.
    pub oldest_accepted: Option<UnixMs>,
    /// The key of the site that the route leads to, while it is known.
    pub site: Option<Arc<str>>,
    /// When the scheduler looks at it next, if nothing happens before: next attempt, expiry, route, or clean-up.
    pub next_wake: Option<UnixMs>,
    /// What its ready recipients wait for. Empty: nothing is ready.
    pub reasons: Vec<Reason>,
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

#[derive(Clone, Debug)]
pub enum Reason {
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
    },
    /// The source has weight 0.
    SourceDrained { source: SourceId },
    /// The node has as many connections as it may, or as many as this class of pools may.
    NodeConnections { connections: usize, limit: usize },
    /// Connections that are being opened will do; after `until` one more is opened.
    ConnectionsOpening { connections: usize, until: UnixMs },
    /// Nothing is in the way but the turns of others.
    Turn { ready_at_site: usize, idle: usize },
}

impl Scheduler {
    /// Queues in the order of pool and domain, from behind `after`.
    pub fn list(&self, after: Option<(PoolId, &str)>, count_max: usize) -> Vec<QueueRow> {
        let first = after.map_or(0, |(pool, _)| usize::from(pool.0));
        let pools = self.pools.iter().enumerate().skip(first);
        let ids = pools.flat_map(|(index, pool)| {
            let from = match after {
                Some((start, domain)) if usize::from(start.0) == index => Bound::Excluded(domain),
                _ => Bound::Unbounded,
            };
            pool.queues.range::<str, _>((from, Bound::Unbounded))
        });
        ids.take(count_max).map(|(_, &q)| self.row(q)).collect()
    }

    /// The queues of a domain: one per pool that has mail for it.
    pub fn explain_domain(&self, domain: &str) -> Vec<QueueRow> {
        let pools = self.pools.iter();
        let ids = pools.filter_map(|pool| pool.queues.get(domain));
        ids.map(|&q| self.row(q)).collect()
    }

    /// The live recipients of a message, in the order of their numbers.
    pub fn explain_message(&self, position: u64) -> Vec<Explanation> {
        let found = self.store.at_position(position);
        let mut found: Vec<_> = found.into_iter().map(|index| self.explain(index)).collect();
        found.sort_by_key(|explanation| explanation.number);
        found
    }

    fn row(&self, q: u32) -> QueueRow {
        let queue = &self.queues[q];
        let timed = queue.timer != UnixMs::MAX;
        QueueRow {
            queue: QueueId(q),
            pool: queue.pool,
            domain: Arc::clone(&queue.domain),
            ready: queue.counts.ready as usize,
            deferred: queue.counts.deferred as usize,
            in_flight: queue.counts.in_flight as usize,
            oldest_accepted: self.oldest(q),
            site: self.site_key(queue),
            next_wake: timed.then_some(queue.timer),
            reasons: if queue.counts.ready > 0 {
                self.reasons(queue)
            } else {
                Vec::new()
            },
        }
    }

    fn explain(&self, index: u32) -> Explanation {
        let entry = &self.store[index];
        let queue = &self.queues[entry.queue];
        let state = entry.state();
        let place = match state {
            State::InFlight => self.place_in_flight(index),
            _ if queue.end.is_some() => Place::Leaving,
            State::Deferred => Place::Deferred {
                next_attempt: self.ticks.ms(entry.due),
            },
            _ => Place::Ready {
                ahead: match queue.route {
                    Route::At { site, .. } => self.sites[site].ready,
                    _ => queue.counts.ready as usize,
                },
            },
        };
        Explanation {
            position: entry.position,
            number: entry.number,
            pool: queue.pool,
            domain: Arc::clone(&queue.domain),
            attempts: entry.attempts.into(),
            expires_at: self.ticks.ms(entry.expires),
            place,
            site: self.site_key(queue),
            reasons: match place {
                Place::Ready { .. } | Place::Deferred { .. } => self.reasons(queue),
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

    fn site_key(&self, queue: &Queue) -> Option<Arc<str>> {
        match queue.route {
            Route::At { site, .. } => Some(Arc::clone(&self.sites[site].key)),
            _ => None,
        }
    }

    fn reasons(&self, queue: &Queue) -> Vec<Reason> {
        match &queue.route {
            Route::Unknown | Route::Wanted { .. } => vec![Reason::AwaitsRoute { since: None }],
            Route::Asked { since, .. } => vec![Reason::AwaitsRoute {
                since: Some(*since),
            }],
            Route::Deferred {
                until,
                failures,
                cause,
            } => vec![Reason::RouteDeferred {
                until: *until,
                failures: *failures,
                cause: Arc::clone(cause),
            }],
            Route::At { site, .. } => self.site_reasons(*site, self.class_of(queue.pool)),
        }
    }

    /// What keeps the site from taking one more batch now: the conditions of `pacing::Site::choose`, in its order.
    fn site_reasons(&self, s: u32, class: usize) -> Vec<Reason> {
        let site = &self.sites[s];
        let turn = Reason::Turn {
            ready_at_site: site.ready,
            idle: site.idle(),
        };
        if site.idle() > 0 {
            return vec![turn];
        }
        let mut reasons: Vec<Reason> = self.backs_off(None, &site.backoff).into_iter().collect();
        let limit = self.limits.connections_per_source_site;
        let mut open_sources = 0;
        for source in &site.sources {
            let id = source.source;
            if source.weight == 0 {
                reasons.push(Reason::SourceDrained { source: id });
            } else if source.sessions >= limit {
                reasons.push(Reason::ConnectionLimit {
                    source: id,
                    connections: source.sessions,
                    limit,
                });
            } else if let Some(backs_off) = self.backs_off(Some(id), &source.backoff) {
                reasons.push(backs_off);
            } else {
                open_sources += 1;
            }
        }
        let site_opens = site.backoff.opens_at() <= self.now;
        if open_sources > 0 && site_opens {
            // What single sources wait for is not what this waits for.
            reasons.clear();
            if site.ready <= site.opening && site.grace_until > self.now {
                reasons.push(Reason::ConnectionsOpening {
                    connections: site.opening,
                    until: site.grace_until,
                });
            } else if !self.may_open(class) {
                reasons.push(Reason::NodeConnections {
                    connections: self.sessions.len(),
                    limit: self.limits.connections,
                });
            } else {
                reasons.push(turn);
            }
        }
        reasons
    }

    fn backs_off(&self, source: Option<SourceId>, backoff: &Backoff) -> Option<Reason> {
        (backoff.opens_at() > self.now).then_some(Reason::SiteBacksOff {
            source,
            until: backoff.until,
            failures: backoff.failures,
            probing: backoff.probing,
        })
    }

    /// Ready lists are ordered by age, deferred ones are not: those are searched, or else the store is read in order of
    /// memory, which is faster for the queue that holds most of it.
    fn oldest(&self, q: u32) -> Option<UnixMs> {
        let queue = &self.queues[q];
        let ready = [&queue.fresh, &queue.again];
        let ready = ready.into_iter().filter_map(|list| list.peek(&self.store));
        let ready = ready.map(|index| self.store[index].expires).min();
        let deferred = if queue.counts.deferred as usize > self.store.len() / 16 {
            let all = self.store.iter().map(|(_, entry)| entry);
            let here = all.filter(|entry| entry.queue == q && entry.state() == State::Deferred);
            here.map(|entry| entry.expires).min()
        } else {
            let here = queue.deferred.indexes(&self.store).into_iter();
            here.map(|index| self.store[index].expires).min()
        };
        let max_age = self.pool(queue.pool).config.retry.max_age.as_millis() as u64;
        let expires = ready.into_iter().chain(deferred).min()?;
        Some(self.ticks.ms(expires).saturating_sub(max_age))
    }
}
