//! Poll: the timers that have come, then the first thing to do, in the order of who may not wait.

use std::sync::Arc;

use super::Work;
use super::key::QueueId;
use super::pacing::NEVER;
use super::schedule::{CLASSES, Class, End, Route, Scheduler};
use super::store::State;
use super::timers::Timed;
use crate::clock::UnixMs;
use crate::limits;

impl Scheduler {
    /// The next thing to do. `None` after a bounded number of moves: when `poll_timeout` then names a time that has come,
    /// call again after looking at other inputs.
    pub fn poll(&mut self, now: UnixMs) -> Option<Work> {
        let work = self.poll_living(now);
        work.or_else(|| self.outbox.pop_front())
            .or_else(|| self.next_leaving())
    }

    /// As `poll`, but no recipient that has ended or was withdrawn: for an owner that is still busy with others of them.
    pub fn poll_living(&mut self, now: UnixMs) -> Option<Work> {
        self.observe(now);
        self.run_timers();
        self.wake_sources();
        self.sweep_some();
        self.release_some();
        self.run_directives();
        for class in 0..CLASSES {
            let work = self
                .close_idle(class)
                .or_else(|| self.ask_next(class))
                .or_else(|| self.next_of_paths(class));
            if work.is_some() {
                return work;
            }
        }
        None
    }

    /// As `poll`, but only recipients that have ended or were withdrawn: for an owner that starts nothing new.
    pub fn poll_ended(&mut self, now: UnixMs) -> Option<Work> {
        self.observe(now);
        self.release_some();
        self.outbox.pop_front().or_else(|| self.next_leaving())
    }

    /// When to call `poll` next if nothing else happens.
    pub fn poll_timeout(&self) -> Option<UnixMs> {
        if self.has_backlog() {
            return Some(self.now);
        }
        let ends = self.directives.first_end();
        let idle = self.classes.iter().filter_map(|class| class.idle.first());
        let idle = idle.map(|(since, _)| since + self.limits.connection_idle.as_millis() as u64);
        let timers = self.timers.first().map(|(at, _)| at);
        let sources = (self.sources_wake != NEVER).then_some(self.sources_wake);
        idle.chain(timers).chain(ends).chain(sources).min()
    }

    fn has_backlog(&self) -> bool {
        let class_has = |(index, class): (usize, &Class)| {
            !class.runnable.is_empty()
                || !class.waiting.is_empty() && self.may_open(index)
                || !class.asking.is_empty() && self.may_ask(index)
        };
        !self.outbox.is_empty()
            || !self.leaving.is_empty()
            || !self.releasing.is_empty()
            || self.directives.has_steps()
            || !self.sweeps.is_empty()
            || self.classes.iter().enumerate().any(class_has)
    }
}

// The parts of a poll, in their order.
impl Scheduler {
    /// Fires timers whose time has come, within [`limits::SCHEDULER_STEP`] moves.
    fn run_timers(&mut self) {
        let mut moves = limits::SCHEDULER_STEP;
        while let Some((at, timed)) = self.timers.first() {
            if at > self.now || moves == 0 {
                return;
            }
            moves -= 1;
            match timed {
                Timed::Queue(q) => {
                    self.timers.disarm(&mut self.queues[q].timer, timed);
                    self.fire_queue(q, &mut moves);
                }
                Timed::Budget(b) => {
                    let budget = &mut self.budgets[b as usize];
                    self.timers.disarm(&mut budget.timer, timed);
                    self.fire_budget(b);
                }
                Timed::Path(p) => {
                    self.timers.disarm(&mut self.paths[p].timer, timed);
                    if self.paths[p].linked == 0 {
                        self.forget_path_if_done(p);
                    } else {
                        self.enlist(p);
                    }
                }
            }
        }
    }

    /// Wakes what is due, expires what is old, asks for a route again, or forgets the queue if it stayed empty.
    fn fire_queue(&mut self, q: u32, moves: &mut usize) {
        let awaited = matches!(self.queues[q].route, Route::Asked { .. });
        if self.queues[q].counts.total() == 0 && !awaited {
            // Dead entries may be left: they go in steps.
            return self.end_queue(q, End::Empty);
        }
        let paused = !self.wake_due(q, moves) || !self.expire_old(q, moves);
        if let Route::Deferred { until, .. } = self.queues[q].route
            && until <= self.now
            && self.queues[q].counts.ready > 0
        {
            self.want_route(q);
        }
        self.activate(q);
        self.linger_if_empty(q);
        let next = self.next_time(q);
        // Not done: behind the timers of others, and after the dispatcher had a chance to take what was handed out.
        let next = if paused && self.outbox.len() >= limits::HANDOUTS_MAX {
            self.now + HANDOUT_PAUSE_MS
        } else {
            next.max(self.now)
        };
        self.arm_queue(q, next);
    }

    /// False: the bound was reached first.
    fn wake_due(&mut self, q: u32, moves: &mut usize) -> bool {
        while let Some(index) = self.queues[q].deferred.peek(&self.store) {
            if !self.has_come(self.store[index].due) {
                return true;
            }
            if *moves == 0 || self.outbox.len() >= limits::HANDOUTS_MAX {
                return false;
            }
            *moves -= 1;
            self.queues[q].deferred.pop(&mut self.store);
            if self.store[index].state() == State::Dead {
                self.store.remove(index);
            } else {
                self.count(q, Some(State::Deferred), None);
                self.ready_or_expired(index);
            }
        }
        true
    }

    /// False: the bound was reached first.
    fn expire_old(&mut self, q: u32, moves: &mut usize) -> bool {
        for again in [false, true] {
            while let Some(index) = self.ready_list(q, again).peek(&self.store) {
                let entry = self.store[index];
                let dead = entry.state() == State::Dead;
                if !dead && !self.has_come(entry.expires) {
                    break;
                }
                if *moves == 0 || self.outbox.len() >= limits::HANDOUTS_MAX {
                    return false;
                }
                *moves -= 1;
                self.pop_front(q, again);
                if dead {
                    self.store.remove(index);
                } else {
                    self.count(q, Some(State::Ready), None);
                    self.expire(index);
                }
            }
        }
        true
    }

    /// For an entry in no list.
    pub(super) fn ready_or_expired(&mut self, index: u32) {
        let entry = self.store[index];
        if self.queues[entry.queue].end.is_none() && self.has_come(entry.expires) {
            self.expire(index);
        } else {
            self.make_ready(index);
        }
    }

    pub(super) fn expire(&mut self, index: u32) {
        let entry = self.store[index];
        self.store.remove(index);
        self.outbox.push_back(Work::Expire {
            position: entry.position(),
            number: entry.number,
            attempts: entry.attempts.into(),
        });
        self.linger_if_empty(entry.queue);
    }

    /// When the queue's timer has to fire next, for what it holds.
    pub(super) fn next_time(&self, q: u32) -> UnixMs {
        let queue = &self.queues[q];
        let due = queue.deferred.peek(&self.store);
        let due = due.map(|index| self.store[index].due);
        let ready = [&queue.fresh, &queue.again];
        let ready = ready.into_iter().filter_map(|list| list.peek(&self.store));
        let first = ready
            .map(|index| self.store[index].expires)
            .chain(due)
            .min();
        let mut next = first.map_or(NEVER, |tick| self.ticks.ms(tick));
        if let Route::Deferred { until, .. } = queue.route
            && queue.counts.ready > 0
            && until > self.now
        {
            next = next.min(until);
        }
        if let Route::At { valid_until, .. } = queue.route
            && queue.held != 0
            && queue.counts.ready > 0
            && self.is_held_on_way(q)
        {
            next = next.min(valid_until);
        }
        next
    }

    fn close_idle(&mut self, class: usize) -> Option<Work> {
        let &(since, session) = self.classes[class].idle.first()?;
        let unused = since + self.limits.connection_idle.as_millis() as u64 <= self.now;
        // A path that waits for a connection gets that of the session that is idle longest.
        let here = &self.classes[class];
        let in_the_way = self
            .classes
            .iter()
            .enumerate()
            .take(class + 1)
            .any(|(index, waiting)| {
                waiting.waiting.len() > here.closing
                    && waiting.runnable.is_empty()
                    && !self.may_open(index)
            });
        (unused || in_the_way).then(|| self.close(session))
    }

    /// One look-up more, within the bound; broadcast leaves a part to transactional pools.
    fn ask_next(&mut self, class: usize) -> Option<Work> {
        while self.may_ask(class) {
            let q = self.classes[class].asking.pop_front()?;
            let Some(queue) = self.queues.get_mut(q) else {
                continue;
            };
            // Otherwise it was in line twice, or under a number used again.
            let Route::Wanted { failures } = queue.route else {
                continue;
            };
            queue.route = Route::Asked {
                since: self.now,
                failures,
            };
            self.resolving += 1;
            return Some(Work::Resolve {
                queue: QueueId(q),
                pool: queue.pool,
                domain: Arc::clone(&queue.domain),
            });
        }
        None
    }

    fn may_ask(&self, class: usize) -> bool {
        self.resolving < share(self.limits.resolves, class)
    }

    /// Whether a session of the class may be opened within the node's limit.
    pub(super) fn may_open(&self, class: usize) -> bool {
        let limit = self.limits.connections;
        self.sessions.len() < limit && self.classes[class].connections < share(limit, class)
    }

    /// Moves deferred recipients that an operator wants tried now.
    fn release_some(&mut self) {
        for _ in 0..limits::SCHEDULER_STEP {
            let Some((q, list)) = self.releasing.front_mut() else {
                return;
            };
            let q = *q;
            let Some(index) = list.pop(&mut self.store) else {
                self.releasing.pop_front();
                continue;
            };
            if self.store[index].state() == State::Dead {
                self.store.remove(index);
            } else {
                self.count(q, Some(State::Deferred), None);
                let entry = self.store[index];
                // What is scheduled is released before its time by its own name only.
                if entry.attempts == 0 && !self.has_come(entry.due) {
                    self.defer(index, self.ticks.ms(entry.due));
                } else {
                    self.ready_or_expired(index);
                }
            }
        }
    }

    /// The next recipient of a queue out of service.
    fn next_leaving(&mut self) -> Option<Work> {
        for _ in 0..limits::SCHEDULER_STEP {
            let q = *self.leaving.front()?;
            let queue = &mut self.queues[q];
            let lists = [&mut queue.fresh, &mut queue.again, &mut queue.deferred];
            let next = lists.into_iter().find_map(|list| list.pop(&mut self.store));
            let Some(index) = next else {
                self.leaving.pop_front();
                if queue.counts.ready + queue.counts.deferred > 0 {
                    // Some are still being released.
                    self.leaving.push_back(q);
                    return None;
                }
                queue.leaving = false;
                self.forget_if_done(q);
                continue;
            };
            let state = self.store[index].state();
            if state == State::Dead {
                self.store.remove(index);
                continue;
            }
            self.count(q, Some(state), None);
            return Some(self.ended(index));
        }
        None
    }

    /// Forgets a recipient of a queue out of service, counted nowhere, and says how it ended.
    pub(super) fn ended(&mut self, index: u32) -> Work {
        let entry = self.store[index];
        self.store.remove(index);
        let (position, number, attempts) = (entry.position(), entry.number, entry.attempts.into());
        match &self.queues[entry.queue].end {
            Some(End::Refused(cause)) => Work::Unroutable {
                position,
                number,
                attempts,
                cause: Arc::clone(cause),
            },
            Some(End::Withdrawn(how, why)) => Work::Withdrawn {
                position,
                number,
                attempts,
                how: *how,
                why: why.clone(),
            },
            Some(End::Empty | End::Moved { .. }) | None => {
                panic!("recipient {position}/{number} is live in a queue without an end")
            }
        }
    }
}

/// Of a node-wide bound: everything for transactional pools, for broadcast what leaves them a part.
fn share(limit: usize, class: usize) -> usize {
    if class == 0 {
        limit
    } else {
        limit - limit / limits::CONNECTIONS_KEPT_FROM_BROADCAST
    }
}

/// Between two looks at expired recipients while the hand-out list is full.
const HANDOUT_PAUSE_MS: u64 = 100;
