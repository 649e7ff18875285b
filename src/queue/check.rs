//! The invariants, as a check over the whole state: for tests and the simulation. O(n).

use std::collections::{BTreeMap, BTreeSet};

use super::Counts;
use super::pacing::{NEVER, SessionIs};
use super::schedule::{Queue, QueueCounts, Route, Scheduler, Timed};
use super::store::{NONE, State};

impl Scheduler {
    /// Every recipient is in exactly one place that fits its state, is counted once, and has an owner or a wake-up time.
    /// # Panics
    /// With the values, when that does not hold.
    pub fn check(&self) {
        let held = self.check_places();
        assert_eq!(
            held,
            self.store.len(),
            "slots that no list and no session holds"
        );
        let mut counted: BTreeMap<u32, QueueCounts> = BTreeMap::new();
        for (_, entry) in self.store.iter() {
            let counts = counted.entry(entry.queue).or_default();
            match entry.state() {
                State::Ready => counts.ready += 1,
                State::Deferred => counts.deferred += 1,
                State::InFlight => counts.in_flight += 1,
                State::Dead | State::Free => {}
            }
        }
        for (q, queue) in self.queues.iter() {
            self.check_queue(q, queue, counted.get(&q).copied().unwrap_or_default());
        }
        self.check_pools();
        self.check_sites();
    }

    /// Returns how many slots are held.
    fn check_places(&self) -> usize {
        let mut place: BTreeMap<u32, State> = BTreeMap::new();
        let mut put = |index: u32, state: State| {
            let before = place.insert(index, state);
            assert_eq!(before, None, "slot {index} is in two places");
        };
        for (q, queue) in self.queues.iter() {
            let lists = [
                (&queue.fresh, State::Ready),
                (&queue.again, State::Ready),
                (&queue.deferred, State::Deferred),
            ];
            for (list, state) in lists {
                for index in list.indexes(&self.store) {
                    assert_eq!(self.store[index].queue, q);
                    put(index, state);
                }
            }
        }
        for (_, list) in &self.releasing {
            let indexes = list.indexes(&self.store);
            indexes
                .into_iter()
                .for_each(|index| put(index, State::Deferred));
        }
        for session in self.sessions.values() {
            let batch = session.batch.iter().chain(&session.next);
            batch.for_each(|&index| put(index, State::InFlight));
        }
        for (&index, &state) in &place {
            let is = self.store[index].state();
            let dead = is == State::Dead && state != State::InFlight;
            assert!(
                is == state || dead,
                "slot {index} is {is:?} in a place for {state:?}"
            );
        }
        place.len()
    }

    fn check_queue(&self, q: u32, queue: &Queue, counts: QueueCounts) {
        let domain = &queue.domain;
        let as_array = |c: QueueCounts| [c.ready, c.deferred, c.in_flight];
        assert_eq!(
            as_array(counts),
            as_array(queue.counts),
            "counts of {domain}"
        );
        let named = self.pool(queue.pool).queues.get(domain) == Some(&q);
        assert_eq!(named, queue.end.is_none(), "{domain}: named and in service");
        if queue.end.is_some() {
            assert!(
                !queue.linked && queue.timer == NEVER,
                "{domain} is out of service"
            );
            assert_eq!(queue.leaving, self.leaving.contains(&q));
            let waiting = counts.ready + counts.deferred > 0;
            assert!(
                queue.leaving || !waiting,
                "{domain}: nobody hands its recipients out"
            );
            return;
        }
        if counts.total() == 0 || queue.timer != NEVER {
            assert!(
                self.timers.holds(queue.timer, Timed::Queue(q)),
                "{domain}: {}",
                queue.timer
            );
        }
        assert!(queue.timer <= self.next_time(q), "{domain} wakes too late");
        if counts.ready > 0 {
            self.check_ready(q, queue);
        }
    }

    /// Somebody moves the queue's ready recipients on.
    fn check_ready(&self, q: u32, queue: &Queue) {
        let domain = &queue.domain;
        match queue.route {
            Route::Unknown => panic!("{domain} has ready recipients and asks for no route"),
            Route::Wanted { .. } => {
                let class = &self.classes[self.class_of(queue.pool)];
                assert!(
                    class.asking.contains(&q),
                    "{domain} is in no line for a route"
                );
            }
            Route::Asked { .. } => assert!(self.resolving > 0),
            Route::Deferred { until, .. } => assert!(queue.timer <= until, "{domain}"),
            Route::At { .. } => {
                let expiring = queue.timer <= self.now;
                assert!(queue.linked || expiring, "{domain} is in no ring");
            }
        }
    }

    fn check_pools(&self) {
        for pool in &self.pools {
            let mut counts = Counts::default();
            let queues = self.queues.iter().map(|(_, queue)| queue);
            let mine = |queue: &&Queue| std::ptr::eq(self.pool(queue.pool), pool);
            for queue in queues.filter(mine) {
                counts.ready += queue.counts.ready as usize;
                counts.deferred += queue.counts.deferred as usize;
                counts.in_flight += queue.counts.in_flight as usize;
            }
            assert_eq!(counts, pool.counts);
        }
        let asked = |queue: &&Queue| matches!(queue.route, Route::Asked { .. });
        let queues = self.queues.iter().map(|(_, queue)| queue);
        assert_eq!(
            queues.filter(asked).count(),
            self.resolving,
            "look-ups under way"
        );
    }

    fn check_sites(&self) {
        for (s, site) in self.sites.iter() {
            let key = &site.key;
            let (mut ready, mut q, mut before) = (0, site.head, NONE);
            while q != NONE {
                let queue = &self.queues[q];
                assert!(queue.linked && queue.previous == before, "ring of {key}");
                ready += queue.counts.ready as usize;
                (before, q) = (q, queue.next);
            }
            assert_eq!((ready, before), (site.ready, site.tail), "ring of {key}");
            for (index, source) in site.sources.iter().enumerate() {
                let sessions = self.sessions.values();
                let mine = sessions.filter(|session| (session.site, session.source) == (s, index));
                assert_eq!(mine.count(), source.sessions, "sessions at {key}");
                assert!(source.sessions <= self.limits.connections_per_source_site);
                for id in &source.eager {
                    let eager = &self.sessions[id];
                    assert_eq!((eager.site, eager.source), (s, index), "eager at {key}");
                    assert!(eager.state == SessionIs::Busy && eager.runs_ahead);
                    assert!(eager.next.is_empty(), "a third batch for {id:?}");
                }
            }
            let sessions = self.sessions.values().filter(|session| session.site == s);
            let opening = sessions.filter(|session| session.state == SessionIs::Opening);
            assert_eq!(opening.count(), site.opening, "opening at {key}");
            let lines = &self.classes[self.class_of(site.pool)];
            assert_eq!(site.runnable, lines.runnable.contains(&s), "line of {key}");
            assert_eq!(site.waiting, lines.waiting.contains(&s), "line of {key}");
            self.check_owner(s);
        }
        assert!(self.sessions.len() <= self.limits.connections);
        for session in self.sessions.values() {
            let behind_nothing = session.batch.is_empty() && !session.next.is_empty();
            assert!(!behind_nothing, "a batch behind none");
        }
        let closing = self.sessions.values();
        let closing = closing.filter(|session| session.state == SessionIs::Closing);
        let counted: usize = self.classes.iter().map(|class| class.closing).sum();
        assert_eq!(closing.count(), counted);
    }

    /// A site with something ready is looked at now, at a time, or when one of its sessions reports.
    fn check_owner(&self, s: u32) {
        let site = &self.sites[s];
        let later = self.timers.holds(site.timer, Timed::Site(s));
        let drained = site.sources.iter().all(|source| source.weight == 0);
        assert!(
            site.head == NONE
                || site.runnable
                || site.waiting
                || later
                || site.sessions() > 0
                || drained,
            "{} has {} ready and nobody looks at it",
            site.key,
            site.ready
        );
        let sources: BTreeSet<_> = site.sources.iter().map(|source| source.source).collect();
        assert_eq!(
            sources.len(),
            site.sources.len(),
            "a source twice in a pool"
        );
    }
}
