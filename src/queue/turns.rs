//! Whose turn it is: sites in line, queues of a site in a ring, recipients of a queue by age.
//!
//! Round robin at each level now. Deficit round robin by server and stream replaces [`Scheduler::rotate`] and keeps the rest.

use smallvec::SmallVec;

use super::key::{SessionId, SiteId};
use super::order::Ordered;
use super::pacing::{Choice, NEVER, Session, SessionIs};
use super::schedule::{Route, Scheduler};
use super::store::{NONE, State};
use super::{Batch, BatchRecipient, Work};
use crate::clock::UnixMs;
use crate::limits;

impl Scheduler {
    /// The first site of the class that has something to do. Sites that have not are left out until an event or their
    /// timer brings them back, so a blocked site costs nothing.
    pub(super) fn next_of_sites(&mut self, class: usize) -> Option<Work> {
        for _ in 0..limits::SCHEDULER_STEP {
            let s = self.next_in_line(class)?;
            if let Some(work) = self.work_at(s) {
                self.enlist(s);
                return Some(work);
            }
            self.forget_site_if_done(s);
        }
        None
    }

    fn next_in_line(&mut self, class: usize) -> Option<u32> {
        if let Some(s) = self.classes[class].runnable.pop_front() {
            self.sites[s].runnable = false;
            return Some(s);
        }
        if !self.may_open(class) {
            return None;
        }
        let s = self.classes[class].waiting.pop_front()?;
        self.sites[s].waiting = false;
        Some(s)
    }

    /// Something may be possible at this site.
    pub(super) fn enlist(&mut self, s: u32) {
        let class = self.class_of(self.sites[s].pool);
        let site = &mut self.sites[s];
        if !site.runnable && site.head != NONE {
            site.runnable = true;
            self.classes[class].runnable.push_back(s);
        }
    }

    /// One batch on one session, if both can be had now.
    fn work_at(&mut self, s: u32) -> Option<Work> {
        let q = self.front_queue(s)?;
        let class = self.class_of(self.sites[s].pool);
        let may_open = self.may_open(class);
        match self.sites[s].choose(self.now, &self.limits, may_open) {
            Choice::Reuse(session) => Some(self.deliver(s, q, session)),
            Choice::Ahead(session) => Some(self.deliver_ahead(s, q, session)),
            Choice::Open(source) => Some(self.open(s, q, source)),
            Choice::NodeFull => {
                if !std::mem::replace(&mut self.sites[s].waiting, true) {
                    self.classes[class].waiting.push_back(s);
                }
                None
            }
            Choice::Wait(NEVER) => None,
            Choice::Wait(until) => {
                self.arm_site(s, until);
                None
            }
        }
    }

    /// The queue whose turn it is, with a live recipient in front. Others are taken from the ring.
    fn front_queue(&mut self, s: u32) -> Option<u32> {
        loop {
            let q = self.sites[s].head;
            if q == NONE {
                return None;
            }
            if let Route::At { valid_until, .. } = self.queues[q].route
                && valid_until <= self.now
            {
                self.unlink(q);
                self.activate(q);
                continue;
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

    fn deliver(&mut self, s: u32, q: u32, id: SessionId) -> Work {
        let class = self.class_of(self.sites[s].pool);
        let (batch, indexes) = self.take_batch(s, q);
        let now = self.now;
        let session = self.session(id);
        let idle_since = session.since;
        session.state = SessionIs::Busy;
        session.batch = indexes;
        session.since = now;
        session.messages += 1;
        self.classes[class].idle.remove(&(idle_since, id));
        self.be_eager(id);
        Work::Deliver { session: id, batch }
    }

    /// Behind the batch that the session has.
    fn deliver_ahead(&mut self, s: u32, q: u32, id: SessionId) -> Work {
        let (batch, indexes) = self.take_batch(s, q);
        let session = self.session(id);
        session.next = indexes;
        session.messages += 1;
        Work::Deliver { session: id, batch }
    }

    /// The session has one batch: lists it where the next one can be given to it, if it takes one.
    pub(super) fn be_eager(&mut self, id: SessionId) {
        let messages_max = self.limits.messages_per_connection;
        let session = self.session(id);
        if session.state == SessionIs::Busy
            && session.runs_ahead
            && session.next.is_empty()
            && session.messages < messages_max
        {
            let (s, source) = (session.site, session.source);
            let eager = &mut self.sites[s].sources[source].eager;
            if !eager.contains(&id) {
                eager.push(id);
            }
        }
    }

    fn open(&mut self, s: u32, q: u32, source: usize) -> Work {
        let (first, indexes) = self.take_batch(s, q);
        self.sessions_opened += 1;
        let id = SessionId(self.sessions_opened);
        let class = self.class_of(first.pool);
        self.classes[class].connections += 1;
        let site = &mut self.sites[s];
        let at = &mut site.sources[source];
        at.sessions += 1;
        site.opening += 1;
        site.grace_until = self.now + limits::OPENING_GRACE.as_millis() as u64;
        let session = Session {
            site: s,
            source,
            state: SessionIs::Opening,
            batch: indexes,
            next: SmallVec::new(),
            runs_ahead: false,
            since: self.now,
            messages: 1,
            proven: false,
            probes_site: site.backoff.opened(),
            probes_source: at.backoff.opened(),
            returned: 0,
        };
        self.sessions.insert(id, session);
        Work::Open {
            session: id,
            source: at.source,
            pool: first.pool,
            site: SiteId(s),
            site_key: site.key.clone(),
            first,
        }
    }

    /// Tells an idle session to close. It counts as a connection until it is reported closed.
    pub(super) fn close(&mut self, id: SessionId) -> Work {
        let session = self.session(id);
        let (s, source, since) = (session.site, session.source, session.since);
        session.state = SessionIs::Closing;
        let site = &mut self.sites[s];
        site.sources[source].idle.retain(|&idle| idle != id);
        let class = self.class_of(self.sites[s].pool);
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
    /// same queue, and in front of the site's next queues.
    fn take_batch(&mut self, s: u32, q: u32) -> (Batch, SmallVec<[u32; 4]>) {
        let mut indexes = SmallVec::new();
        let again = self.next_list(q);
        let Some(front) = self.ready_list(q, again).peek(&self.store) else {
            panic!("queue {q} is in its site's ring with nothing ready");
        };
        let position = self.store[front].position;
        self.queues[q].again_next = !again;
        self.take_companions(q, position, &mut indexes);
        let mut other = self.queues[q].next;
        self.rotate(s, q);
        for _ in 0..limits::COMPANION_QUEUES {
            if other == NONE
                || other == q
                || indexes.len() == self.limits.recipients_per_transaction
            {
                break;
            }
            let next = self.queues[other].next;
            self.take_companions(other, position, &mut indexes);
            if self.queues[other].counts.ready == 0 {
                self.unlink(other);
            }
            other = next;
        }
        let recipients = indexes.iter().map(|&index| BatchRecipient {
            number: self.store[index].number,
            attempts: self.store[index].attempts.into(),
        });
        let batch = Batch {
            position,
            pool: self.sites[s].pool,
            recipients: recipients.collect(),
        };
        (batch, indexes)
    }

    /// New recipients and those deferred before take turns.
    fn next_list(&self, q: u32) -> bool {
        let queue = &self.queues[q];
        !queue.again.is_empty() && (queue.again_next || queue.fresh.is_empty())
    }

    fn take_companions(&mut self, q: u32, position: u64, indexes: &mut SmallVec<[u32; 4]>) {
        self.drop_dead(q);
        if matches!(self.queues[q].route, Route::At { valid_until, .. } if valid_until <= self.now)
        {
            return;
        }
        for again in [false, true] {
            while indexes.len() < self.limits.recipients_per_transaction {
                let front = self.ready_list(q, again).peek(&self.store);
                let Some(index) = front
                    .filter(|&index| self.store[index].position == position && !self.is_old(index))
                else {
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

// The ring of a site.
impl Scheduler {
    /// Puts the queue at the end of its site's ring and the site in line.
    pub(super) fn link(&mut self, q: u32, s: u32) {
        if !self.queues[q].linked {
            let site = &mut self.sites[s];
            let queue = &mut self.queues[q];
            queue.linked = true;
            (queue.previous, queue.next) = (site.tail, NONE);
            site.ready += queue.counts.ready as usize;
            let last = std::mem::replace(&mut site.tail, q);
            if last == NONE {
                site.head = q;
            } else {
                self.queues[last].next = q;
            }
        }
        self.enlist(s);
    }

    pub(super) fn unlink(&mut self, q: u32) {
        let queue = &mut self.queues[q];
        let Route::At { site, .. } = queue.route else {
            return;
        };
        if !std::mem::take(&mut queue.linked) {
            return;
        }
        let site = &mut self.sites[site];
        site.ready -= queue.counts.ready as usize;
        let (previous, next) = (queue.previous, queue.next);
        (queue.previous, queue.next) = (NONE, NONE);
        match previous {
            NONE => site.head = next,
            _ => self.queues[previous].next = next,
        }
        match next {
            NONE => site.tail = previous,
            _ => self.queues[next].previous = previous,
        }
    }

    /// The queue had its turn: to the end of the ring, or out of it when nothing is ready.
    fn rotate(&mut self, s: u32, q: u32) {
        self.unlink(q);
        if self.queues[q].counts.ready > 0 {
            self.link(q, s);
        }
    }

    /// Since when a recipient is in flight.
    pub(super) fn in_flight_since(&self, index: u32) -> UnixMs {
        self.ticks.ms(self.store[index].due).min(self.now)
    }
}
