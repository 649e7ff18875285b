//! Standing directives of an operator: mail that is suspended, and mail that takes another pool, now and when it comes.
//!
//! Promises: from the moment a directive is given, nothing that it holds is handed out, and nothing that it sends elsewhere
//! is handed out from the pool that it left; giving and ending one is O(1), what follows is done in bounded steps; what is
//! held still expires in time. Does not know who gave it, why, or where it is kept: the node writes them down.
//!
//! How. Every queue remembers what was decided about it and at which count of changes (`seen`). Whoever is about to move a
//! queue on (`activate`, its turn on its path) has it reviewed if that is not of now; so a directive needs no walk over the
//! queues to be obeyed. A queue that is held is in no ring. A queue that belongs elsewhere is taken out of service
//! ([`End::Moved`]) and its recipients go to the other one a step at a time. When a directive ends, the queues that it
//! concerned, which it lists, are reviewed in steps.
//!
//! A directive that names a message or a tag concerns recipients: they are set aside in queues of their own, named by
//! its id ([`Home::aside`]). A recipient's 32 bytes have no room for it, and a list of recipients would have to follow their moves.
//! When such a directive ends, the others that name messages or tags do not see who is freed: who ends it has them obeyed first.
//!
//! Recipients that come to another pool stick to a source of it by the place of their message's record, since their memory
//! has no room for the message's id. So a restart changes it only of those whose record has moved meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::filter::{Filter, Match, Traits};
use super::flow::Home;
use super::key::PoolId;
use super::retry::draw;
use super::schedule::{End, Route, Scheduler};
use super::store::State;
use super::{NewRecipient, Tag};
use crate::clock::UnixMs;
use crate::limits;

/// What stands until it is ended or its time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// From 1, in the order they were given, never used again. Where several apply, the first does.
    pub id: u32,
    pub filter: Filter,
    pub what: Standing,
    pub until: Option<UnixMs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No attempt is made.
    Suspend,
    /// Attempts are made from this pool, of the same kind. The filter's pool and source are those of before.
    Reroute { to: PoolId },
}

/// What directives say about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The one that holds it; 0: none.
    pub(super) held: u32,
    /// The one that it takes this pool for; 0: none, it is at home.
    pub(super) moved: u32,
    pub(super) pool: PoolId,
    /// The directive that it is set aside for is over.
    pub(super) freed: bool,
}

#[derive(Default)]
pub(super) struct Directives {
    all: BTreeMap<u32, Known>,
    /// Grows with each change; a queue that was seen at another count is reviewed.
    pub(super) changes: u32,
    first_end: Option<UnixMs>,
    /// Concern whole queues, by the domain that they name.
    of_domains: BTreeMap<Arc<str>, Vec<u32>>,
    /// Concern whole queues, of any domain.
    general: Vec<u32>,
    /// Concern recipients.
    single: Vec<u32>,
    /// Some name a site or a source.
    ways: bool,
    /// Queues whose recipients go to other ones.
    pub(super) moving: VecDeque<u32>,
    /// Queues that ended directives concerned.
    ended: VecDeque<BTreeSet<u32>>,
}

struct Known {
    directive: Directive,
    /// That it holds or has moved, as far as they were reviewed. Some may be gone.
    queues: BTreeSet<u32>,
}

impl Directives {
    fn index(&mut self) {
        self.changes = self.changes.wrapping_add(1);
        self.of_domains.clear();
        (self.general, self.single) = (Vec::new(), Vec::new());
        for (&id, known) in &self.all {
            let filter = &known.directive.filter;
            match &filter.domain {
                _ if filter.is_single() => self.single.push(id),
                Some(domain) => self.of_domains.entry(domain.clone()).or_default().push(id),
                None => self.general.push(id),
            }
        }
        let all = || self.all.values().map(|known| &known.directive);
        self.ways = all().any(|d| d.filter.site.is_some() || d.filter.source.is_some());
        self.first_end = all().filter_map(|d| d.until).min();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn first_end(&self) -> Option<UnixMs> {
        self.first_end
    }

    /// Something is to be done in steps.
    pub(super) fn has_steps(&self) -> bool {
        !self.moving.is_empty() || !self.ended.is_empty()
    }

    /// The queue is looked at again when the directive ends, or since it has.
    pub(super) fn remembers(&self, id: u32, q: u32) -> bool {
        let stands = self.all.get(&id).is_some_and(|k| k.queues.contains(&q));
        stands || self.ended.iter().any(|queues| queues.contains(&q))
    }

    pub(super) fn get(&self, id: u32) -> Option<&Directive> {
        self.all.get(&id).map(|known| &known.directive)
    }

    /// Those that concern whole queues of a domain.
    fn of_queues(&self, domain: &str) -> impl Iterator<Item = &Directive> {
        let named = self.of_domains.get(domain).into_iter().flatten();
        named.chain(&self.general).map(|id| &self.all[id].directive)
    }
}

impl Scheduler {
    /// Gives a directive. What is in flight ends as its attempt says, and is concerned from then on.
    /// # Panics
    /// If the id is in use or 0, or a reroute is to a pool of another kind than one that the filter names.
    pub fn direct(&mut self, now: UnixMs, directive: Directive) {
        self.observe(now);
        let queues = BTreeSet::new();
        assert_ne!(directive.id, 0, "0 stands for none");
        let id = directive.id;
        let before = self.directives.all.insert(id, Known { directive, queues });
        assert!(before.is_none(), "directive {id} is given twice");
        self.directives.index();
    }

    /// Ends a directive: what it held goes on, what it moved comes back. `false`: there is none of the id.
    pub fn end_directive(&mut self, now: UnixMs, id: u32) -> bool {
        self.observe(now);
        self.drop_directive(id)
    }

    /// Those whose time is over.
    pub(super) fn end_overdue(&mut self) {
        while self.directives.first_end.is_some_and(|at| at <= self.now) {
            let all = self.directives.all.values().map(|known| &known.directive);
            let over = |d: &&Directive| d.until.is_some_and(|until| until <= self.now);
            let over: Vec<u32> = all.filter(over).map(|d| d.id).collect();
            for id in over {
                self.drop_directive(id);
            }
        }
    }

    fn drop_directive(&mut self, id: u32) -> bool {
        let Some(known) = self.directives.all.remove(&id) else {
            return false;
        };
        self.directives.ended.push_back(known.queues);
        self.directives.index();
        true
    }

    /// Queues that it holds or has moved, as far as they were reviewed.
    pub fn directed(&self, id: u32) -> usize {
        self.directives.all.get(&id).map_or(0, |k| k.queues.len())
    }
}

// Deciding.
impl Scheduler {
    pub(super) fn traits(&self, q: u32) -> Traits<'_> {
        let queue = &self.queues[q];
        let source = |lane: u16| {
            let lanes = &self.pool(queue.pool).lanes;
            lanes.get(usize::from(lane)).map(|lane| lane.source)
        };
        let (site, now) = match queue.route {
            Route::At { path, .. } => {
                let path = &self.paths[path];
                (Some(&*self.sites[path.site].key), source(path.lane))
            }
            _ => (None, None),
        };
        let flow = self.flows.get(queue.flow);
        Traits {
            pool: queue.pool,
            domain: &queue.domain,
            site,
            server: flow.server,
            stream: &flow.stream,
            sources: [source(queue.lane), now],
            aside: queue.home.aside,
        }
    }

    /// Of a queue, as it was before it was moved.
    fn traits_at_home(&self, q: u32) -> Traits<'_> {
        let home = self.queues[q].home;
        let lane = self.pool(home.pool).lanes.get(usize::from(home.lane));
        Traits {
            pool: home.pool,
            sources: [lane.map(|lane| lane.source), None],
            ..self.traits(q)
        }
    }

    /// What directives say about the queue now.
    pub(super) fn verdict(&self, q: u32) -> Verdict {
        let queue = &self.queues[q];
        let mut verdict = Verdict {
            held: 0,
            moved: 0,
            pool: queue.home.pool,
            freed: false,
        };
        if self.directives.is_empty() && queue.home.aside == 0 {
            return verdict;
        }
        let aside = self.directives.get(queue.home.aside);
        match aside.map(|directive| directive.what) {
            Some(Standing::Suspend) => verdict.held = queue.home.aside,
            Some(Standing::Reroute { to }) => {
                (verdict.moved, verdict.pool) = (queue.home.aside, to)
            }
            None => verdict.freed = queue.home.aside != 0,
        }
        if verdict.moved == 0 {
            let traits = self.traits_at_home(q);
            if let Some((by, to)) = self.detour(&traits, queue.moved) {
                (verdict.moved, verdict.pool) = (by, to);
            }
        }
        if verdict.held == 0 {
            let traits = self.traits(q);
            // One that waits for its route to be asked again is still held.
            let holds = |d: &&Directive| match d.filter.matches(&traits) {
                Match::Yes => true,
                Match::Open => d.id == queue.held,
                Match::No => false,
            };
            let suspends = |d: &&Directive| d.what == Standing::Suspend;
            let all = self.directives.of_queues(&queue.domain);
            verdict.held = all
                .filter(suspends)
                .filter(holds)
                .map(|d| d.id)
                .min()
                .unwrap_or(0);
        }
        verdict
    }

    /// The directive that sends mail like this elsewhere, and where. `before`: the one that did.
    fn detour(&self, home: &Traits<'_>, before: u32) -> Option<(u32, PoolId)> {
        let all = self.directives.of_queues(home.domain);
        let detours = all.filter_map(|d| match (d.what, d.filter.matches(home)) {
            (Standing::Reroute { to }, Match::Yes) => Some((d.id, to)),
            (Standing::Reroute { to }, Match::Open) if d.id == before => Some((d.id, to)),
            _ => None,
        });
        let allowed = detours.filter(|&(_, to)| self.class_of(to) == self.class_of(home.pool));
        allowed.min()
    }

    /// Whether the queue may be moved on. Decides anew if a directive has come or gone since the last time; a queue that
    /// belongs elsewhere is then out of service.
    pub(super) fn may_go(&mut self, q: u32) -> bool {
        if self.queues[q].seen != self.directives.changes {
            self.review(q);
        }
        let queue = &self.queues[q];
        queue.held == 0 && queue.end.is_none()
    }

    /// The same without deciding: not if that were needed.
    pub(super) fn goes(&self, q: u32) -> bool {
        let queue = &self.queues[q];
        queue.held == 0 && queue.seen == self.directives.changes
    }

    pub(super) fn review(&mut self, q: u32) {
        if self.queues[q].end.is_some() {
            return;
        }
        let verdict = self.verdict(q);
        let queue = &mut self.queues[q];
        queue.seen = self.directives.changes;
        let (held, moved) = (queue.held, queue.moved);
        (queue.held, queue.moved) = (verdict.held, verdict.moved);
        for id in [held, moved] {
            if id != verdict.held && id != verdict.moved {
                self.strike(id, q);
            }
        }
        self.note(verdict.held, q);
        self.note(verdict.moved, q);
        if verdict.pool != self.queues[q].pool || verdict.freed {
            let (to, by) = (verdict.pool, verdict.moved);
            return self.move_queue(q, to, by);
        }
        if verdict.held != 0 {
            self.unlink(q);
            let next = self.next_time(q);
            self.arm_queue(q, next.max(self.now));
        }
    }

    fn strike(&mut self, id: u32, q: u32) {
        if let Some(known) = self.directives.all.get_mut(&id) {
            known.queues.remove(&q);
        }
    }

    /// The queue is forgotten.
    pub(super) fn strike_queue(&mut self, q: u32) {
        let (held, moved) = (self.queues[q].held, self.queues[q].moved);
        self.strike(held, q);
        self.strike(moved, q);
    }

    /// A new route may bring the queue where a directive names the site, or away from there.
    pub(super) fn route_changed(&mut self, q: u32) {
        if self.directives.ways {
            self.queues[q].seen = self.directives.changes.wrapping_sub(1);
        }
    }

    /// Held because of its way, which may be another one when the route is asked for again.
    pub(super) fn is_held_on_way(&self, q: u32) -> bool {
        let held = self.directives.get(self.queues[q].held);
        held.is_some_and(|d| d.filter.site.is_some() || d.filter.source.is_some())
    }

    /// Nobody moves the queue on, but its way is looked after.
    pub(super) fn hold(&mut self, q: u32) {
        if self.queues[q].end.is_some() || !self.is_held_on_way(q) {
            return;
        }
        match self.queues[q].route {
            Route::At { valid_until, .. } if valid_until > self.now => {
                self.arm_queue(q, valid_until);
            }
            Route::At { .. } | Route::Unknown => self.want_route(q),
            _ => {}
        }
    }
}

// Moving.
impl Scheduler {
    fn move_queue(&mut self, q: u32, to: PoolId, by: u32) {
        self.strike_queue(q);
        self.end_queue(q, End::Moved { to, by });
    }

    /// Where a new recipient goes: pool, source, and the name of its queue's home.
    pub(super) fn place_of(&self, new: &NewRecipient<'_>) -> (PoolId, u16, Home, u32) {
        let lane = self.lane_of(new.pool, draw(0, [new.message, 0]));
        let mut home = Home {
            pool: new.pool,
            lane,
            aside: 0,
        };
        if self.directives.is_empty() {
            return (new.pool, lane, home, 0);
        }
        let source = self.pool(new.pool).lanes.get(usize::from(lane));
        let traits = Traits {
            pool: new.pool,
            domain: new.domain,
            site: None,
            server: new.flow.server,
            stream: new.flow.stream,
            sources: [source.map(|lane| lane.source), None],
            aside: 0,
        };
        let single = self.directives.single.iter();
        let meant = single
            .map(|id| &self.directives.all[id].directive)
            .find(|d| {
                d.filter.matches(&traits) == Match::Yes
                    && d.filter
                        .names(new.message, new.number, new.tag.and_then(Tag::text))
                    && self.may_send(d, new.pool)
            });
        home.aside = meant.map_or(0, |d| d.id);
        let detour = match meant.map(|d| (d.id, d.what)) {
            Some((id, Standing::Reroute { to })) => Some((id, to)),
            _ => self.detour(&traits, 0),
        };
        let Some((by, pool)) = detour else {
            return (new.pool, lane, home, 0);
        };
        let lane = self.lane_of(pool, draw(0, [new.position, 0]));
        (pool, lane, home, by)
    }

    /// Never from a transactional pool to a broadcast one, or back.
    pub(super) fn may_send(&self, directive: &Directive, from: PoolId) -> bool {
        match directive.what {
            Standing::Suspend => true,
            Standing::Reroute { to } => self.class_of(to) == self.class_of(from),
        }
    }

    /// A recipient comes to the queue because of this directive; 0: of none.
    pub(super) fn moved_by(&mut self, q: u32, by: u32) {
        let changes = self.directives.changes;
        let queue = &mut self.queues[q];
        if queue.moved != by {
            (queue.moved, queue.seen) = (by, changes.wrapping_sub(1));
        }
        self.note(by, q);
    }

    /// The directive concerns the queue, which has not been reviewed yet.
    pub(super) fn note(&mut self, id: u32, q: u32) {
        if let Some(known) = self.directives.all.get_mut(&id) {
            known.queues.insert(q);
        }
    }

    /// The queue for a recipient of a queue that is moved, or for one that is set aside.
    fn refuge(&mut self, index: u32, to: PoolId, by: u32, aside: u32) -> u32 {
        let entry = self.store[index];
        let queue = &self.queues[entry.queue];
        let home = Home {
            aside,
            ..queue.home
        };
        let (domain, flow) = (Arc::clone(&queue.domain), queue.flow);
        let (here, lane) = (queue.pool, queue.lane);
        let lane = match to {
            _ if to == home.pool => home.lane,
            _ if to == here => lane,
            _ => self.lane_of(to, draw(0, [entry.position(), 0])),
        };
        let q = self.queue_of(to, (&domain, flow, lane, home));
        self.moved_by(q, by);
        let max_age = |pool| self.pool(pool).config.retry.max_age;
        if max_age(to) != max_age(here) {
            // Tells its acceptance no more: see `Scheduler::end_of`.
            self.store[index].expires |= 1;
        }
        q
    }

    /// Where a recipient in flight belongs now: its queue may have been moved meanwhile.
    pub(super) fn settle_in(&mut self, index: u32) -> u32 {
        let q = self.store[index].queue;
        let Some(End::Moved { to, by }) = self.queues[q].end else {
            return q;
        };
        let aside = self.aside_of(q);
        let refuge = self.refuge(index, to, by, aside);
        self.store[index].queue = refuge;
        refuge
    }

    /// For whom the queue's recipients are set aside, if that still stands.
    fn aside_of(&self, q: u32) -> u32 {
        let aside = self.queues[q].home.aside;
        self.directives.get(aside).map_or(0, |d| d.id)
    }

    /// Sets a recipient aside for a directive that names its message or its tag, `again` if it is for an earlier one. `false`:
    /// it is already, or may not be.
    pub(super) fn set_aside(&mut self, index: u32, id: u32, again: bool) -> bool {
        let q = self.store[index].queue;
        let Some(directive) = self.directives.get(id) else {
            return false;
        };
        let standing = self.aside_of(q);
        let home = self.queues[q].home.pool;
        if standing == id
            || (standing != 0 && standing < id && !again)
            || !self.may_send(directive, home)
        {
            return false;
        }
        let (to, by) = match directive.what {
            Standing::Reroute { to } => (to, id),
            Standing::Suspend => match self.queues[q].end {
                Some(End::Moved { to, by }) => (to, by),
                _ => (self.queues[q].pool, self.queues[q].moved),
            },
        };
        let state = self.store[index].state();
        let refuge = self.refuge(index, to, by, id);
        let mut entry = self.store[index];
        entry.queue = refuge;
        self.count(q, Some(state), None);
        if state == State::InFlight {
            self.store[index].queue = refuge;
            self.count(refuge, None, Some(state));
        } else {
            // Its list keeps the old slot until that comes to the front.
            self.store[index].die();
            let index = self.store.insert(entry);
            self.put(index, state);
        }
        self.linger_if_empty(q);
        self.forget_if_done(q);
        true
    }

    /// In no list and counted nowhere, into the lists of its queue.
    fn put(&mut self, index: u32, state: State) {
        match state {
            State::Deferred => {
                let due = self.ticks.ms(self.store[index].due);
                self.defer(index, due);
            }
            _ => self.ready_or_expired(index),
        }
    }

    /// Moves recipients on and reviews queues, within [`limits::SCHEDULER_STEP`] moves.
    pub(super) fn run_directives(&mut self) {
        if !self.directives.has_steps() {
            return;
        }
        for _ in 0..limits::SCHEDULER_STEP {
            if !self.review_next() && !self.move_next() {
                return;
            }
        }
    }

    /// One queue of a directive that has ended.
    fn review_next(&mut self) -> bool {
        let Some(queues) = self.directives.ended.front_mut() else {
            return false;
        };
        match queues.pop_first() {
            None => drop(self.directives.ended.pop_front()),
            Some(q) if self.queues.get(q).is_some() => {
                self.review(q);
                self.activate(q);
            }
            Some(_) => {}
        }
        true
    }

    /// One recipient of a queue whose recipients belong elsewhere.
    fn move_next(&mut self) -> bool {
        let Some(&q) = self.directives.moving.front() else {
            return false;
        };
        let queue = &mut self.queues[q];
        let Some(End::Moved { to, by }) = queue.end else {
            // Withdrawn meanwhile: who is left leaves.
            self.directives.moving.pop_front();
            self.leaving.push_back(q);
            return true;
        };
        let lists = [&mut queue.fresh, &mut queue.again, &mut queue.deferred];
        let next = lists.into_iter().find_map(|list| list.pop(&mut self.store));
        let Some(index) = next else {
            self.directives.moving.pop_front();
            if queue.counts.ready + queue.counts.deferred > 0 {
                // Some are still being released.
                self.directives.moving.push_back(q);
                return false;
            }
            queue.leaving = false;
            self.forget_if_done(q);
            return true;
        };
        let state = self.store[index].state();
        if state == State::Dead {
            self.store.remove(index);
            return true;
        }
        self.count(q, Some(state), None);
        let aside = self.aside_of(q);
        let refuge = self.refuge(index, to, by, aside);
        self.store[index].queue = refuge;
        self.put(index, state);
        true
    }
}
