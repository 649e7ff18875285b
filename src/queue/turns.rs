//! Whose turn it is: paths in line, flows of a path by deficit round robin, queues of a flow in a ring, recipients of a
//! queue by age.
//!
//! The deficit round robin is the one with debts: a flow that still has credit gives its next message, whatever that
//! costs (one per recipient), and sits out as many rounds as it then owes. Rounds that nobody takes part in are skipped:
//! flows stand in order of their next round, so a step is O(log n) whatever weights and debts are. A flow that comes
//! joins the next round; one that has nothing left takes no credit with it, but its debt is remembered until it is paid.

use smallvec::SmallVec;

use super::key::{SessionId, SiteId};
use super::order::Ordered;
use super::pacing::{Choice, NEVER, Session, SessionIs};
use super::schedule::{Route, Scheduler};
use super::store::{NONE, State};
use super::{Batch, BatchRecipient, Work};
use crate::clock::UnixMs;
use crate::limits;

/// One flow's queues at a path.
pub(super) struct Ring {
    /// The round that it takes part in next.
    pub(super) round: u64,
    /// Recipients that it may hand over in that round, from 1 to its weight.
    pub(super) credit: u64,
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl Scheduler {
    /// The first path of the class that has something to do. Paths that have not are left out until an event or their
    /// timer brings them back, so a blocked path costs nothing.
    pub(super) fn next_of_paths(&mut self, class: usize) -> Option<Work> {
        for _ in 0..limits::SCHEDULER_STEP {
            let p = self.next_in_line(class)?;
            if let Some(work) = self.work_at(p) {
                self.enlist(p);
                return Some(work);
            }
            self.forget_path_if_done(p);
        }
        None
    }

    fn next_in_line(&mut self, class: usize) -> Option<u32> {
        if let Some(p) = self.classes[class].runnable.pop_front() {
            self.paths[p].runnable = false;
            return Some(p);
        }
        if !self.may_open(class) {
            return None;
        }
        let p = self.classes[class].waiting.pop_front()?;
        self.paths[p].waiting = false;
        Some(p)
    }

    /// Something may be possible on this path.
    pub(super) fn enlist(&mut self, p: u32) {
        let class = self.class_of(self.paths[p].pool);
        let path = &mut self.paths[p];
        if !path.runnable && path.linked > 0 {
            path.runnable = true;
            self.classes[class].runnable.push_back(p);
        }
    }

    /// Something may be possible at this site.
    pub(super) fn enlist_site(&mut self, s: u32) {
        for index in 0..self.sites[s].paths.len() {
            self.enlist(self.sites[s].paths[index]);
        }
    }

    /// One batch on one session, if both can be had now.
    fn work_at(&mut self, p: u32) -> Option<Work> {
        let q = self.front_queue(p)?;
        let class = self.class_of(self.paths[p].pool);
        match self.choose(p) {
            Choice::Reuse(session) => Some(self.deliver(p, q, session)),
            Choice::Ahead(session) => Some(self.deliver_ahead(p, q, session)),
            Choice::Open => Some(self.open(p, q)),
            Choice::NodeFull => {
                if !std::mem::replace(&mut self.paths[p].waiting, true) {
                    self.classes[class].waiting.push_back(p);
                }
                None
            }
            Choice::Budget => {
                self.stand_in_line(p);
                None
            }
            Choice::Wait(NEVER) => None,
            Choice::Wait(until) => {
                self.arm_path(p, until);
                None
            }
        }
    }

    /// Which session takes the next batch. Idle ones first; a new one only while more recipients are ready than
    /// connections are being opened, or those take longer than [`limits::OPENING_GRACE`].
    fn choose(&mut self, p: u32) -> Choice {
        let message_at = self.paths[p].message_at();
        if message_at > self.now {
            return Choice::Wait(message_at);
        }
        if self.lacks_message(p) {
            return Choice::Budget;
        }
        // The one used last: the surplus grows old and is closed.
        if let Some(session) = self.paths[p].idle.pop() {
            return Choice::Reuse(session);
        }
        let path = &self.paths[p];
        let grace = if path.ready <= path.opening as usize {
            path.grace_until
        } else {
            0
        };
        let wait = grace
            .max(self.sites[path.site].backoff.opens_at())
            .max(self.path_opens_at(p));
        let may_open = self.may_open(self.class_of(path.pool));
        let no_budget = self.lacks_connection(p);
        if wait <= self.now && may_open && !no_budget {
            return Choice::Open;
        }
        // A batch that waits behind another shares its fate for a while: only while more wait than all sessions could take
        // next, so that who would be next is not held up by a slow host's answer to somebody else's message.
        let path = &mut self.paths[p];
        if path.ready > path.sessions as usize && !path.eager.is_empty() {
            // The one that has waited longest.
            return Choice::Ahead(path.eager.remove(0));
        }
        if wait > self.now {
            Choice::Wait(wait)
        } else if no_budget {
            Choice::Budget
        } else {
            Choice::NodeFull
        }
    }

    fn path_opens_at(&self, p: u32) -> UnixMs {
        let path = &self.paths[p];
        let lane = self.pool(path.pool).lanes.get(usize::from(path.lane));
        let full = path.sessions >= path.limits.connections.value;
        if full || !lane.is_some_and(|lane| lane.is_usable()) {
            NEVER
        } else {
            let used = path.used.as_ref();
            let rate = used.map_or(0, |used| used.connection_at());
            path.backoff.opens_at().max(rate)
        }
    }

    /// The queue whose turn it is, with a live recipient in front. Others are taken from their rings.
    fn front_queue(&mut self, p: u32) -> Option<u32> {
        for _ in 0..limits::SCHEDULER_QUEUES_STEP {
            let turn = (p, 0, 0)..(p + 1, 0, 0);
            let &(_, round, flow) = self.turns.range(turn).next()?;
            let q = self.rings[&(p, flow)].head;
            if q == NONE {
                // Its debt is paid.
                self.drop_ring(p, flow);
                continue;
            }
            self.paths[p].round = round;
            if !self.may_go(q) {
                // It is out of the ring.
                continue;
            }
            if let Route::At { valid_until, .. } = self.queues[q].route {
                if valid_until <= self.now {
                    self.unlink(q);
                    self.activate(q);
                    continue;
                }
                let site = self.paths[p].site;
                if self.lane_for(&self.queues[q], site) != self.paths[p].lane {
                    // It takes another source, or its own again.
                    self.detach(q);
                    self.lead(q, site, valid_until);
                    self.activate(q);
                    continue;
                }
            }
            self.drop_dead(q);
            if self.queues[q].counts.ready == 0 {
                // They expired or were withdrawn.
                self.unlink(q);
                continue;
            }
            let fronts = [false, true].map(|again| self.ready_list(q, again).peek(&self.store));
            if !fronts.into_iter().flatten().any(|index| self.is_old(index)) {
                return Some(q);
            }
            // The queue's timer expires them, within its bounds, and then activates the queue.
            self.unlink(q);
            self.arm_queue(q, self.now);
        }
        // More of them later, when others had their step.
        self.enlist(p);
        None
    }

    fn is_old(&self, index: u32) -> bool {
        self.has_come(self.store[index].expires)
    }

    fn drop_dead(&mut self, q: u32) {
        for again in [false, true] {
            while let Some(index) = self.ready_list(q, again).peek(&self.store) {
                if self.store[index].state() != State::Dead {
                    break;
                }
                self.pop_front(q, again);
                self.store.remove(index);
            }
        }
    }

    fn deliver(&mut self, p: u32, q: u32, id: SessionId) -> Work {
        let class = self.class_of(self.paths[p].pool);
        let (batch, indexes) = self.take_batch(p, q);
        let now = self.now;
        let session = self.session(id);
        let idle_since = session.since;
        session.state = SessionIs::Busy;
        session.batch = indexes;
        session.since = now;
        session.messages += 1;
        self.classes[class].idle.remove(&(idle_since, id));
        self.note_not_idle(p, idle_since, id);
        self.be_eager(id);
        Work::Deliver { session: id, batch }
    }

    /// Behind the batch that the session has.
    fn deliver_ahead(&mut self, p: u32, q: u32, id: SessionId) -> Work {
        let (batch, indexes) = self.take_batch(p, q);
        let session = self.session(id);
        session.next = indexes;
        session.messages += 1;
        Work::Deliver { session: id, batch }
    }

    /// The session has one batch: lists it where the next one can be given to it, if it takes one.
    pub(super) fn be_eager(&mut self, id: SessionId) {
        let path = self.session(id).path;
        let messages_max = self.paths[path].limits.messages_per_connection.value;
        if self.is_draining(path) {
            return;
        }
        let session = self.session(id);
        if session.state == SessionIs::Busy
            && session.runs_ahead
            && session.next.is_empty()
            && session.messages < messages_max
        {
            let eager = &mut self.paths[path].eager;
            if !eager.contains(&id) {
                eager.push(id);
            }
        }
    }

    fn open(&mut self, p: u32, q: u32) -> Work {
        let (first, indexes) = self.take_batch(p, q);
        self.sessions_opened += 1;
        let id = SessionId(self.sessions_opened);
        let class = self.class_of(first.pool);
        self.classes[class].connections += 1;
        let path = &mut self.paths[p];
        path.sessions += 1;
        path.opening += 1;
        if let Some(used) = &mut path.used {
            used.connection(self.now, &path.limits);
        }
        let now = self.now;
        if let Some(budget) = self.budget(p) {
            budget.sessions += 1;
            budget.used.connection(now, &budget.limits);
        }
        let path = &mut self.paths[p];
        path.grace_until = self.now + limits::OPENING_GRACE.as_millis() as u64;
        let site = &mut self.sites[path.site];
        let session = Session {
            path: p,
            state: SessionIs::Opening,
            batch: indexes,
            next: SmallVec::new(),
            runs_ahead: false,
            since: self.now,
            messages: 1,
            proven: false,
            probes_site: site.backoff.opened(),
            probes_path: path.backoff.opened(),
            returned: 0,
            shunned: false,
        };
        self.sessions.insert(id, session);
        let (pool, lane) = (first.pool, self.paths[p].lane);
        self.begin_trial(pool, lane, id);
        let path = &self.paths[p];
        let source = self.pool(first.pool).lanes[usize::from(path.lane)].source;
        Work::Open {
            session: id,
            source,
            pool: first.pool,
            site: SiteId(path.site),
            site_key: self.sites[path.site].key.clone(),
            first,
        }
    }

    /// Tells an idle session to close. It counts as a connection until it is reported closed.
    pub(super) fn close(&mut self, id: SessionId) -> Work {
        let session = self.session(id);
        let (p, since) = (session.path, session.since);
        session.state = SessionIs::Closing;
        let path = &mut self.paths[p];
        path.idle.retain(|&idle| idle != id);
        self.note_not_idle(p, since, id);
        let class = self.class_of(self.paths[p].pool);
        self.classes[class].idle.remove(&(since, id));
        self.classes[class].closing += 1;
        Work::Close { session: id }
    }

    pub(super) fn session(&mut self, id: SessionId) -> &mut Session {
        let Some(session) = self.sessions.get_mut(&id) else {
            panic!("session {} is listed and unknown", id.0);
        };
        session
    }

    /// The oldest ready message of the queue with all its ready recipients here that are in reach: those in front of the
    /// same queue, and in front of the next queues of its flow.
    fn take_batch(&mut self, p: u32, q: u32) -> (Batch, SmallVec<[u32; 4]>) {
        self.paths[p].message(self.now);
        let now = self.now;
        if let Some(budget) = self.budget(p) {
            budget.used.message(now, &budget.limits);
            self.arm_budget_of(p);
        }
        let (pool, lane, now) = (self.paths[p].pool, self.paths[p].lane, self.now);
        self.lane_mut(pool, lane).message(now);
        let recipients_max = self.paths[p].limits.recipients_per_message.value as usize;
        let mut indexes = SmallVec::new();
        let again = self.next_list(q);
        let Some(front) = self.ready_list(q, again).peek(&self.store) else {
            panic!("queue {q} is in a ring of its path with nothing ready");
        };
        let position = self.store[front].position();
        self.queues[q].again_next = !again;
        self.take_companions(q, position, recipients_max, &mut indexes);
        let mut other = self.queues[q].next;
        for _ in 0..limits::COMPANION_QUEUES {
            if other == NONE || indexes.len() == recipients_max {
                break;
            }
            let next = self.queues[other].next;
            self.take_companions(other, position, recipients_max, &mut indexes);
            if self.queues[other].counts.ready == 0 {
                self.unlink(other);
            }
            other = next;
        }
        self.charge(p, self.queues[q].flow, indexes.len() as u64);
        self.rotate(p, q);
        let recipients = indexes.iter().map(|&index| BatchRecipient {
            number: self.store[index].number,
            attempts: self.store[index].attempts.into(),
        });
        let batch = Batch {
            position,
            pool: self.paths[p].pool,
            recipients: recipients.collect(),
        };
        (batch, indexes)
    }

    /// New recipients and those deferred before take turns.
    fn next_list(&self, q: u32) -> bool {
        let queue = &self.queues[q];
        !queue.again.is_empty() && (queue.again_next || queue.fresh.is_empty())
    }

    fn take_companions(
        &mut self,
        q: u32,
        position: u64,
        recipients_max: usize,
        indexes: &mut SmallVec<[u32; 4]>,
    ) {
        self.drop_dead(q);
        if !self.goes(q) {
            return;
        }
        if matches!(self.queues[q].route, Route::At { valid_until, .. } if valid_until <= self.now)
        {
            return;
        }
        for again in [false, true] {
            while indexes.len() < recipients_max {
                let front = self.ready_list(q, again).peek(&self.store);
                let Some(index) = front.filter(|&index| {
                    self.store[index].position() == position && !self.is_old(index)
                }) else {
                    break;
                };
                self.pop_front(q, again);
                self.count(q, Some(State::Ready), Some(State::InFlight));
                let since = self.ticks.at(self.now);
                let entry = &mut self.store[index];
                entry.set_state(State::InFlight);
                entry.due = since;
                indexes.push(index);
                self.drop_dead(q);
            }
        }
    }

    pub(super) fn ready_list(&self, q: u32, again: bool) -> &Ordered {
        let queue = &self.queues[q];
        if again { &queue.again } else { &queue.fresh }
    }

    pub(super) fn pop_front(&mut self, q: u32, again: bool) {
        let queue = &mut self.queues[q];
        let list = if again {
            &mut queue.again
        } else {
            &mut queue.fresh
        };
        list.pop(&mut self.store);
    }
}

// The rings of a path.
impl Scheduler {
    /// Puts the queue at the end of its flow's ring and the path in line.
    pub(super) fn link(&mut self, q: u32, p: u32) {
        if !self.queues[q].linked {
            let flow = self.queues[q].flow;
            let path = &mut self.paths[p];
            path.linked += 1;
            path.ready += self.queues[q].counts.ready as usize;
            let round = path.round + 1;
            let turns = &mut self.turns;
            let credit = u64::from(self.flows.get(flow).weight);
            let ring = self.rings.entry((p, flow)).or_insert_with(|| {
                turns.insert((p, round, flow));
                Ring {
                    round,
                    credit,
                    head: NONE,
                    tail: NONE,
                }
            });
            let queue = &mut self.queues[q];
            queue.linked = true;
            (queue.previous, queue.next) = (ring.tail, NONE);
            let last = std::mem::replace(&mut ring.tail, q);
            if last == NONE {
                ring.head = q;
            } else {
                self.queues[last].next = q;
            }
        }
        self.enlist(p);
    }

    pub(super) fn unlink(&mut self, q: u32) {
        let queue = &mut self.queues[q];
        let Route::At { path: p, .. } = queue.route else {
            return;
        };
        if !std::mem::take(&mut queue.linked) {
            return;
        }
        let path = &mut self.paths[p];
        path.linked -= 1;
        path.ready -= queue.counts.ready as usize;
        let (previous, next, flow) = (queue.previous, queue.next, queue.flow);
        (queue.previous, queue.next) = (NONE, NONE);
        let Some(ring) = self.rings.get_mut(&(p, flow)) else {
            panic!("queue {q} is linked in no ring");
        };
        match previous {
            NONE => ring.head = next,
            _ => self.queues[previous].next = next,
        }
        match next {
            NONE => ring.tail = previous,
            _ => self.queues[next].previous = previous,
        }
        if ring.head == NONE && ring.round <= path.round + 1 {
            self.drop_ring(p, flow);
        }
    }

    /// The flow has handed over so many recipients.
    fn charge(&mut self, p: u32, flow: u32, cost: u64) {
        let Some(ring) = self.rings.get_mut(&(p, flow)) else {
            panic!("flow {flow} has a turn and no ring");
        };
        if cost < ring.credit {
            ring.credit -= cost;
            return;
        }
        let weight = u64::from(self.flows.get(flow).weight);
        let debt = cost - ring.credit;
        let rounds = debt / weight + 1;
        self.turns.remove(&(p, ring.round, flow));
        ring.round += rounds;
        ring.credit = rounds * weight - debt;
        self.turns.insert((p, ring.round, flow));
    }

    fn drop_ring(&mut self, p: u32, flow: u32) {
        if let Some(ring) = self.rings.remove(&(p, flow)) {
            self.turns.remove(&(p, ring.round, flow));
        }
    }

    /// Of a path without queues: debts are forgotten with it.
    pub(super) fn drop_rings(&mut self, p: u32) {
        while let Some(&(_, _, flow)) = self.turns.range((p, 0, 0)..(p + 1, 0, 0)).next() {
            self.drop_ring(p, flow);
        }
    }

    /// The queue had its turn: to the end of the ring, or out of it when nothing is ready.
    fn rotate(&mut self, p: u32, q: u32) {
        if self.queues[q].counts.ready == 0 || self.queues[q].next != NONE {
            self.unlink(q);
        }
        if self.queues[q].counts.ready > 0 {
            self.link(q, p);
        }
    }

    /// Since when a recipient is in flight.
    pub(super) fn in_flight_since(&self, index: u32) -> UnixMs {
        self.ticks.ms(self.store[index].due).min(self.now)
    }
}
