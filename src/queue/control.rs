//! The operator's verbs: retry now, bounce, cancel.
//!
//! A verb on whole queues takes their lists in O(1) each, whatever they hold; the recipients then leave or wake in
//! bounded steps of `poll`, so that a million do not stall delivery. A verb on one message searches (see `store.rs`).

use std::sync::Arc;

use super::schedule::{End, Route, Scheduler};
use super::store::State;
use super::{PoolId, Work};
use crate::clock::UnixMs;

/// Which recipients a verb means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection<'a> {
    All,
    Pool(PoolId),
    /// In every pool.
    Domain(&'a str),
    Message {
        position: u64,
    },
    Recipient {
        position: u64,
        number: u16,
    },
}

/// How an operator ends a recipient's life. It is handed out as [`Work::Withdrawn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// *Bounced*, cause `admin`.
    Bounce,
    /// *Cancelled*.
    Cancel,
    /// *Cancelled*, by its sender.
    Recall,
}

impl Withdrawal {
    fn mark(self) -> u8 {
        match self {
            Self::Bounce => 1,
            Self::Cancel => 2,
            Self::Recall => 3,
        }
    }

    /// The mark of an entry in flight.
    pub(super) fn from_mark(mark: u8) -> Option<Self> {
        match mark {
            1 => Some(Self::Bounce),
            2 => Some(Self::Cancel),
            3 => Some(Self::Recall),
            _ => None,
        }
    }
}

/// How many recipients a verb found, by the state it found them in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    pub ready: usize,
    pub deferred: usize,
    /// Cannot be called back: they end as their attempt decides, or else as the verb says when it is over.
    pub in_flight: usize,
}

impl Affected {
    pub(super) fn add(&mut self, state: State) {
        match state {
            State::Ready => self.ready += 1,
            State::Deferred => self.deferred += 1,
            State::InFlight => self.in_flight += 1,
            State::Free | State::Dead => {}
        }
    }

    pub fn total(&self) -> usize {
        self.ready + self.deferred + self.in_flight
    }
}

impl std::ops::AddAssign for Affected {
    fn add_assign(&mut self, other: Self) {
        self.ready += other.ready;
        self.deferred += other.deferred;
        self.in_flight += other.in_flight;
    }
}

impl Scheduler {
    /// Ends recipients: those that wait with the next polls, those in flight unless their attempt ends them.
    pub fn withdraw(&mut self, now: UnixMs, selection: Selection<'_>, how: Withdrawal) -> Affected {
        self.observe(now);
        let mut affected = Affected::default();
        for q in self.queues_of(selection) {
            let counts = self.queues[q].counts;
            affected.ready += counts.ready as usize;
            affected.deferred += counts.deferred as usize;
            affected.in_flight += counts.in_flight as usize;
            if counts.total() > 0 {
                self.withdraw_queue(q, how, None);
            }
        }
        for index in self.recipients_of(selection) {
            self.withdraw_one(index, how, None, &mut affected);
        }
        affected
    }

    pub(super) fn withdraw_queue(&mut self, q: u32, how: Withdrawal, why: Option<&Arc<str>>) {
        let end = End::Withdrawn(how, why.cloned());
        if self.queues[q].end.is_none() {
            return self.end_queue(q, end);
        }
        // Its recipients were on their way to another queue.
        self.queues[q].end = Some(end);
    }

    pub(super) fn withdraw_one(
        &mut self,
        index: u32,
        how: Withdrawal,
        why: Option<&Arc<str>>,
        affected: &mut Affected,
    ) {
        let entry = self.store[index];
        let state = entry.state();
        if state == State::InFlight {
            affected.in_flight += 1;
            if Withdrawal::from_mark(entry.rank()).is_none() {
                self.store[index].set_rank(how.mark());
                if let Some(why) = why {
                    self.withdrawn_for.insert(index, Arc::clone(why));
                }
            }
            return;
        }
        if state == State::Ready {
            affected.ready += 1;
        } else {
            affected.deferred += 1;
        }
        self.store[index].die();
        self.count(entry.queue, Some(state), None);
        self.outbox.push_back(Work::Withdrawn {
            position: entry.position(),
            number: entry.number,
            attempts: entry.attempts.into(),
            how,
            why: why.cloned(),
        });
        self.linger_if_empty(entry.queue);
    }

    /// Makes deferred recipients ready, and ends the back-offs in their way. Scheduled ones only where the message is named.
    pub fn retry_now(&mut self, now: UnixMs, selection: Selection<'_>) -> Affected {
        self.observe(now);
        let mut affected = Affected::default();
        for q in self.queues_of(selection) {
            self.retry_queue(q, &mut affected);
        }
        for index in self.recipients_of(selection) {
            self.retry_one(index, &mut affected);
        }
        affected
    }

    pub(super) fn retry_queue(&mut self, q: u32, affected: &mut Affected) {
        let queue = &mut self.queues[q];
        affected.ready += queue.counts.ready as usize;
        affected.deferred += queue.counts.deferred as usize;
        if !queue.deferred.is_empty() {
            let deferred = queue.deferred.take();
            self.releasing.push_back((q, deferred));
        }
        self.lift(q);
    }

    pub(super) fn retry_one(&mut self, index: u32, affected: &mut Affected) {
        let entry = self.store[index];
        match entry.state() {
            State::Ready => affected.ready += 1,
            State::Deferred => {
                affected.deferred += 1;
                // The deferred list keeps the old slot until it comes to the front.
                self.store[index].die();
                self.count(entry.queue, Some(State::Deferred), None);
                let moved = self.store.insert(entry);
                self.ready_or_expired(moved);
            }
            State::InFlight | State::Free | State::Dead => return,
        }
        self.lift(entry.queue);
    }

    /// Ends the back-off of the queue's route, or of its site and the paths there.
    fn lift(&mut self, q: u32) {
        match self.queues[q].route {
            Route::Deferred { .. }
                if self.queues[q].counts.total() > 0 && self.queues[q].end.is_none() =>
            {
                self.want_route(q);
            }
            Route::At { path, .. } => {
                let (now, site) = (self.now, self.paths[path].site);
                self.sites[site].backoff.lift(now);
                for index in 0..self.sites[site].paths.len() {
                    let path = self.sites[site].paths[index];
                    self.paths[path].backoff.lift(now);
                }
                self.enlist_site(site);
            }
            _ => {}
        }
    }

    /// Queues that are meant as a whole.
    fn queues_of(&self, selection: Selection<'_>) -> Vec<u32> {
        let is_meant = |q: &u32| match selection {
            Selection::All => true,
            Selection::Pool(pool) => self.queues[*q].pool == pool,
            Selection::Domain(domain) => *self.queues[*q].domain == *domain,
            Selection::Message { .. } | Selection::Recipient { .. } => false,
        };
        // Those on their way to another queue have no name.
        let moving = self.directives.moving.iter().copied();
        let moving = moving.filter(|&q| matches!(self.queues[q].end, Some(End::Moved { .. })));
        let mut queues = self.named_queues_of(selection);
        queues.extend(moving.filter(is_meant));
        queues
    }

    fn named_queues_of(&self, selection: Selection<'_>) -> Vec<u32> {
        match selection {
            Selection::All => {
                let pools = self.pools.iter();
                pools
                    .flat_map(|pool| pool.queues.values())
                    .copied()
                    .collect()
            }
            Selection::Pool(pool) => self.pool(pool).queues.values().copied().collect(),
            Selection::Domain(domain) => {
                let pools = (0..self.pools.len() as u16).map(PoolId);
                pools
                    .flat_map(|pool| self.queues_for(pool, domain))
                    .collect()
            }
            Selection::Message { .. } | Selection::Recipient { .. } => Vec::new(),
        }
    }

    /// Recipients that are meant one by one, without those that leave already.
    pub(super) fn recipients_of(&self, selection: Selection<'_>) -> Vec<u32> {
        let (position, only) = match selection {
            Selection::Message { position } => (position, None),
            Selection::Recipient { position, number } => (position, Some(number)),
            Selection::All | Selection::Pool(_) | Selection::Domain(_) => return Vec::new(),
        };
        let mut found = self.store.at_position(position);
        found.retain(|&index| {
            let entry = &self.store[index];
            only.is_none_or(|number| number == entry.number)
                && matches!(self.queues[entry.queue].end, None | Some(End::Moved { .. }))
        });
        found
    }
}
