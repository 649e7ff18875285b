//! Recipients that come: new ones and those of an earlier life, each into the queue of its name.

use std::ops::Bound;
use std::sync::Arc;

use super::flow::{Home, Key, Name, Named};
use super::key::PoolId;
use super::order::{By, Ordered};
use super::pacing::NEVER;
use super::retry::Tick;
use super::schedule::{Queue, QueueCounts, Route, Scheduler};
use super::store::{Entry, NONE};
use super::{NewRecipient, Tag};
use crate::clock::UnixMs;
use crate::limits;

/// Where the queue for a domain was the last time.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    queue: u32,
}

impl Default for Known {
    fn default() -> Self {
        Self { queue: NONE }
    }
}

impl Scheduler {
    pub fn insert(&mut self, now: UnixMs, new: NewRecipient<'_>) {
        self.insert_near(now, new, &mut Known::default());
    }

    fn insert_near(&mut self, now: UnixMs, new: NewRecipient<'_>, known: &mut Known) {
        self.observe(now);
        let (pool, lane, home, by) = self.place_of(&new);
        let near = self.queues.get(known.queue).is_some_and(|queue| {
            (queue.pool, queue.lane, queue.home) == (pool, lane, home)
                && queue.end.is_none()
                && *queue.domain == *new.domain
                && self.flows.get(queue.flow).is(&new.flow)
        });
        if !near {
            let flow = self.flows.number(&new.flow);
            known.queue = self.queue_of(pool, (new.domain, flow, lane, home));
            self.moved_by(known.queue, by);
        }
        let queue = known.queue;
        let expires = self.end_of(&new, pool);
        let attempts = u8::try_from(new.attempts).unwrap_or(u8::MAX);
        let entry = Entry::new(new.position, new.number, queue, attempts, expires);
        let entry = entry.tagged(Tag::mark(new.tag));
        let index = self.store.insert(entry);
        let scheduled = new.life.release_at.filter(|_| new.attempts == 0);
        let due = scheduled.unwrap_or(new.next_attempt);
        if due <= now {
            self.make_ready(index);
        } else {
            self.defer(index, due);
        }
    }

    /// When it expires. Even where that tells its acceptance, odd where it does not: see [`Scheduler::oldest`].
    fn end_of(&self, new: &NewRecipient<'_>, pool: PoolId) -> Tick {
        let usual = self.pool(new.pool).config.retry.max_age;
        let life = new.life;
        let max_age = life.max_age.unwrap_or(usual);
        let begin = new.accepted_at.max(life.release_at.unwrap_or(0));
        let of_age = begin.saturating_add(max_age.as_millis() as u64);
        let end = life
            .deadline
            .map_or(of_age, |deadline| deadline.min(of_age));
        let here = self.pool(pool).config.retry.max_age;
        let is_usual = end == of_age && begin == new.accepted_at && max_age == here;
        let tick = self.ticks.at(end);
        tick + (tick & 1 ^ u32::from(!is_usual))
    }

    /// [`Self::insert`] of a recipient that an earlier life of the node left. Its times are of a clock that may have been set
    /// since, or the node was down for long: who is too old has a while for an attempt, and nobody waits longer than a
    /// deferral may. A deadline and a release are points in time that somebody has named, and stay what they are.
    pub fn take_over(&mut self, now: UnixMs, new: NewRecipient<'_>) {
        self.take_over_near(now, new, &mut Known::default());
    }

    /// [`Self::take_over`] of many: `known` is kept by the caller for each domain and saves the search for its queue.
    pub fn take_over_near(&mut self, now: UnixMs, mut new: NewRecipient<'_>, known: &mut Known) {
        let ms = |time: std::time::Duration| time.as_millis() as u64;
        let retry = &self.pool(new.pool).config.retry;
        let max_wait = new.life.max_wait.unwrap_or(retry.max);
        let max_age = new.life.max_age.unwrap_or(retry.max_age);
        let begin = new.accepted_at.max(new.life.release_at.unwrap_or(0));
        if begin.saturating_add(ms(max_age)) <= now {
            let grace = limits::EXPIRY_GRACE.min(max_age / 4);
            new.accepted_at = (now + ms(grace)).saturating_sub(ms(max_age));
        }
        new.accepted_at = new.accepted_at.min(now);
        new.next_attempt = new.next_attempt.min(now + ms(max_wait));
        self.insert_near(now, new, known);
    }

    pub(super) fn queue_of(&mut self, pool: PoolId, key: Key<'_>) -> u32 {
        if let Some(&q) = self.pool(pool).queues.get(&key as &dyn Named) {
            return q;
        }
        let (domain, flow, lane, home) = key;
        let domain = self.known_domain(pool, domain);
        let name = Name {
            domain: Arc::clone(&domain),
            flow,
            lane,
            home,
        };
        let q = self.queues.insert(Queue {
            pool,
            lane,
            flow,
            home,
            held: 0,
            moved: 0,
            outcomes: 0,
            seen: self.directives.changes.wrapping_sub(1),
            domain,
            fresh: Ordered::new(By::Expiry),
            again: Ordered::new(By::Expiry),
            deferred: Ordered::new(By::Due),
            counts: QueueCounts::default(),
            again_next: false,
            route: Route::Unknown,
            linked: false,
            previous: NONE,
            next: NONE,
            timer: NEVER,
            end: None,
            leaving: false,
        });
        self.pools[usize::from(pool.0)].queues.insert(name, q);
        self.index.insert(q, pool, lane, flow);
        self.note(home.aside, q);
        q
    }

    /// The text of the domain's other queues, if it has any.
    fn known_domain(&self, pool: PoolId, domain: &str) -> Arc<str> {
        let first = self.queues_for(pool, domain).next();
        first.map_or_else(|| domain.into(), |q| Arc::clone(&self.queues[q].domain))
    }

    /// All queues of a domain in a pool, in order of flow and source.
    pub(super) fn queues_for(&self, pool: PoolId, domain: &str) -> impl Iterator<Item = u32> {
        let from: Bound<&dyn Named> = Bound::Included(&(domain, 0, 0, Home::FIRST));
        let queues = &self.pool(pool).queues;
        let mine = queues.range::<dyn Named, _>((from, Bound::Unbounded));
        mine.take_while(move |(name, _)| *name.domain == *domain)
            .map(|(_, &q)| q)
    }
}
