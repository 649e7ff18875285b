//! The invariants, as a check over the whole state: for tests and the simulation. O(n).

use std::collections::BTreeMap;

use super::Counts;
use super::flow::Named;
use super::pacing::{NEVER, SessionIs};
use super::schedule::{Queue, QueueCounts, Route, Scheduler};
use super::store::{NONE, State};
use super::timers::Timed;

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
        self.check_index();
        self.check_pools();
        self.check_paths();
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
        let key = (&**domain, queue.flow, queue.lane, queue.home);
        let named = self.pool(queue.pool).queues.get(&key as &dyn Named) == Some(&q);
        assert_eq!(named, queue.end.is_none(), "{domain}: named and in service");
        if queue.end.is_some() {
            assert!(
                !queue.linked && queue.timer == NEVER,
                "{domain} is out of service"
            );
            let moving = self.directives.moving.contains(&q);
            assert_eq!(queue.leaving, self.leaving.contains(&q) || moving);
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
        if queue.held != 0 {
            assert!(!queue.linked, "{domain} is held and in a ring");
            let held = self.directives.remembers(queue.held, q);
            assert!(held, "nobody lets {domain} go");
            return;
        }
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

    fn check_paths(&self) {
        for (s, site) in self.sites.iter() {
            let lanes: Vec<u16> = site.paths.iter().map(|&p| self.paths[p].lane).collect();
            assert!(lanes.is_sorted_by(|a, b| a < b), "paths of {}", site.key);
            assert!(site.paths.iter().all(|&p| self.paths[p].site == s));
            assert_eq!(self.pool(site.pool).sites.get(&site.key), Some(&s));
        }
        let held: usize = self.sites.iter().map(|(_, site)| site.paths.len()).sum();
        assert_eq!(held, self.paths.len(), "paths of no site");
        self.check_budgets();
        for (p, path) in self.paths.iter() {
            let key = &self.sites[path.site].key;
            let routed = self
                .queues
                .iter()
                .filter(|(_, queue)| matches!(queue.route, Route::At { path, .. } if path == p));
            assert_eq!(routed.count(), path.queues as usize, "queues at {key}");
            self.check_rings(p);
            let sessions = self.sessions.values().filter(|session| session.path == p);
            assert_eq!(sessions.clone().count(), path.sessions as usize, "{key}");
            assert!(path.sessions <= path.limits.connections.value);
            let opening = sessions.filter(|session| session.state == SessionIs::Opening);
            assert_eq!(opening.count(), path.opening as usize, "opening at {key}");
            for id in &path.eager {
                let eager = &self.sessions[id];
                assert_eq!(eager.path, p, "eager at {key}");
                assert!(eager.state == SessionIs::Busy && eager.runs_ahead);
                assert!(eager.next.is_empty(), "a third batch for {id:?}");
            }
            let lines = &self.classes[self.class_of(path.pool)];
            assert_eq!(path.runnable, lines.runnable.contains(&p), "line of {key}");
            assert_eq!(path.waiting, lines.waiting.contains(&p), "line of {key}");
            self.check_owner(p);
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
        assert_eq!(self.rings.len(), self.turns.len(), "rings and their turns");
    }

    /// What stands in a line is called at a time, or when a session closes.
    fn check_budgets(&self) {
        for (b, budget) in self.budgets.iter().enumerate() {
            let mine = |p: u32| self.paths[p].budget == Some(b as u32);
            let sessions = self.sessions.values();
            let sessions = sessions.filter(|session| mine(session.path));
            assert_eq!(sessions.count(), budget.sessions as usize, "budget {b}");
            assert!(budget.sessions <= budget.limits.connections.value);
            let lined = self.paths.iter().filter(|(p, path)| mine(*p) && path.lined);
            assert_eq!(lined.count(), budget.waiting(), "lines of budget {b}");
            let next = budget.next_at();
            assert!(budget.timer <= next, "budget {b} calls too late");
            if budget.timer != NEVER {
                let timed = Timed::Budget(b as u32);
                assert!(self.timers.holds(budget.timer, timed), "budget {b}");
            }
            assert!(budget.waiting() == 0 || next != NEVER || budget.sessions > 0);
        }
    }

    fn check_rings(&self, p: u32) {
        let path = &self.paths[p];
        let key = &self.sites[path.site].key;
        let (mut ready, mut linked) = (0, 0);
        for (&(_, flow), ring) in self.rings.range((p, 0)..(p + 1, 0)) {
            let (mut q, mut before) = (ring.head, NONE);
            while q != NONE {
                let queue = &self.queues[q];
                assert!(queue.linked && queue.previous == before, "ring at {key}");
                assert_eq!(queue.flow, flow, "ring at {key}");
                ready += queue.counts.ready as usize;
                linked += 1;
                (before, q) = (q, queue.next);
            }
            assert_eq!(before, ring.tail, "ring at {key}");
            assert!(self.turns.contains(&(p, ring.round, flow)), "turn at {key}");
            let credit = 1..=u64::from(self.flows.get(flow).weight);
            assert!(credit.contains(&ring.credit), "credit at {key}");
            assert!(
                ring.head != NONE || ring.round >= path.round,
                "ring at {key}"
            );
        }
        assert_eq!((ready, linked), (path.ready, path.linked), "rings at {key}");
    }

    /// A path with something ready is looked at now, at a time, or when a session of its site reports.
    fn check_owner(&self, p: u32) {
        let path = &self.paths[p];
        let site = &self.sites[path.site];
        let later = self.timers.holds(path.timer, Timed::Path(p));
        let lane = self.pool(path.pool).lanes.get(usize::from(path.lane));
        let unusable = lane.is_none_or(|lane| !lane.is_usable());
        assert!(
            path.linked == 0
                || path.runnable
                || path.waiting
                || later
                || path.lined
                || path.sessions > 0
                || site.backoff.probing
                || unusable
                || self.sweeps.iter().any(|(pool, _)| *pool == path.pool),
            "{} has {} ready and nobody looks at it",
            site.key,
            path.ready
        );
    }
}
