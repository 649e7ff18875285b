//! Verbs on many queues or recipients, a bounded step at a time, so that delivery goes on between two steps.
//!
//! The owner keeps the [`Walk`] and asks for step after step. Only queues that may be meant are looked at (`index.rs`), O(1) each
//! and whatever they hold; a domain that is named is found by its name, at once. What comes while a walk goes on may be
//! reached by it or not; a standing directive reaches it in any case.
//!
//! Ids of messages are not in memory, and of tags eleven bits ([`tag_mark`]): [`Scheduler::walk_recipients`] tells where the
//! records are of those who may be meant, with a tag one in two thousand too many; the owner reads them, and [`Scheduler::apply`] acts on those who are. A recipient that has moved in memory
//! meanwhile is passed over; the owner walks again until nothing new is found.

use std::sync::Arc;

use spool_format::{TAG_UNKNOWN, tag_mark};

use super::PoolId;
use super::control::{Affected, Withdrawal};
use super::filter::{Filter, Match};
use super::index::{Cursor, Group};
use super::schedule::{End, Scheduler};
use super::store::State;
use crate::clock::UnixMs;
use crate::limits;

/// How far a verb is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Over recipients: the chunk of the store.
    next: u32,
    /// Over queues: what is looked through, once that is known, which of it, and how far in that.
    groups: Option<Arc<[Group]>>,
    group: usize,
    cursor: Cursor,
}

impl Walk {
    pub(super) fn step(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Only counts.
    Count,
    Retry,
    Withdraw {
        how: Withdrawal,
        why: Option<Arc<str>>,
    },
    /// As the directive of this id says, which was given before.
    Obey(u32),
    /// Likewise, by those who are set aside for another one, which is about to end.
    ObeyInstead(u32),
}

/// A recipient that may be meant: who it is shall be read from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub position: u64,
    pub number: u16,
    index: u32,
}

impl Scheduler {
    /// The next step of a verb on whole queues; `true`: it was the last.
    pub fn walk_queues(
        &mut self,
        now: UnixMs,
        filter: &Filter,
        act: &Act,
        walk: &mut Walk,
    ) -> (Affected, bool) {
        self.observe(now);
        let mut affected = Affected::default();
        let (queues, done) = self.next_queues(filter, walk);
        for q in queues {
            self.act_on_queue(q, act, &mut affected);
        }
        (affected, done)
    }

    fn next_queues(&self, filter: &Filter, walk: &mut Walk) -> (Vec<u32>, bool) {
        let is_meant = |&q: &u32| self.is_in_service(q) && self.is_meant(q, filter);
        if let Some(domain) = &filter.domain {
            let pools = (0..self.pools.len() as u16).map(PoolId);
            let named = pools.flat_map(|pool| self.queues_for(pool, domain));
            let moving = self.directives.moving.iter().copied();
            return (named.chain(moving).filter(is_meant).collect(), true);
        }
        let groups = walk.groups.take();
        let groups = groups.unwrap_or_else(|| self.groups_of(filter).into());
        let mut found = Vec::new();
        // Groups of which nothing waits cost a little too.
        for _ in 0..limits::WALK_QUEUES_STEP {
            let Some(&group) = groups.get(walk.group) else {
                break;
            };
            let most = limits::WALK_QUEUES_STEP - found.len();
            let (here, ended) = self.next_in(group, &mut walk.cursor, most);
            found.extend(here);
            if ended {
                (walk.group, walk.cursor) = (walk.group + 1, Cursor::default());
            }
            if found.len() >= limits::WALK_QUEUES_STEP || !ended {
                break;
            }
        }
        let done = walk.group >= groups.len();
        walk.groups = Some(groups);
        found.retain(is_meant);
        (found, done)
    }

    /// Not on its way out.
    fn is_in_service(&self, q: u32) -> bool {
        matches!(self.queues[q].end, None | Some(End::Moved { .. }))
    }

    fn is_meant(&self, q: u32, filter: &Filter) -> bool {
        filter.matches(&self.traits(q)) == Match::Yes
    }

    fn act_on_queue(&mut self, q: u32, act: &Act, affected: &mut Affected) {
        let counts = self.queues[q].counts;
        if counts.total() == 0 {
            return;
        }
        match act {
            Act::Count => {}
            Act::Retry => return self.retry_queue(q, affected),
            Act::Withdraw { how, why } => self.withdraw_queue(q, *how, why.as_ref()),
            &Act::Obey(id) | &Act::ObeyInstead(id) => {
                let home = self.queues[q].home.pool;
                let directive = self.directives.get(id);
                if !directive.is_some_and(|directive| self.may_send(directive, home)) {
                    return;
                }
                self.review(q);
                self.activate(q);
            }
        }
        affected.ready += counts.ready as usize;
        affected.deferred += counts.deferred as usize;
        affected.in_flight += counts.in_flight as usize;
    }

    /// The next step of a verb on recipients one by one: who may be meant. `true`: there are no more.
    pub fn walk_recipients(&self, filter: &Filter, walk: &mut Walk) -> (Vec<Candidate>, bool) {
        let (mut found, mut last) = (Vec::new(), None);
        let mark = filter.tag.as_deref().map(|tag| tag_mark(Some(tag)));
        if let Some(mark) = mark {
            // Chunks without it cost next to nothing.
            let last = self.store.chunks().saturating_sub(1);
            let until = last.min(walk.next.saturating_add(limits::WALK_CHUNKS_STEP));
            while walk.next < until && !self.store.may_hold(walk.next, mark) {
                walk.next += 1;
            }
        }
        let (entries, done) = self.store.chunk(walk.step());
        for (index, entry) in entries {
            let q = entry.queue;
            let is_other = mark.is_some_and(|mark| ![mark, TAG_UNKNOWN].contains(&entry.mark()));
            if is_other || matches!(entry.state(), State::Free | State::Dead) {
                continue;
            }
            // Neighbours in memory came together.
            let meant = match last {
                Some((of, meant)) if of == q => meant,
                _ => self.is_in_service(q) && self.is_meant(q, filter),
            };
            last = Some((q, meant));
            if meant && filter.number.is_none_or(|number| number == entry.number) {
                found.push(Candidate {
                    position: entry.position(),
                    number: entry.number,
                    index,
                });
            }
        }
        (found, done)
    }

    /// The recipients of the message at `position`, which the filter names. Searches (see `store.rs`).
    pub fn candidates_at(&self, position: u64, filter: &Filter) -> Vec<Candidate> {
        let found = self.store.at_position(position).into_iter();
        let is_meant = |q: u32| self.is_in_service(q) && self.is_meant(q, filter);
        let found = found.filter(|&index| is_meant(self.store[index].queue));
        let candidates = found.map(|index| Candidate {
            position,
            number: self.store[index].number,
            index,
        });
        candidates
            .filter(|c| filter.number.is_none_or(|number| number == c.number))
            .collect()
    }

    /// Does it to a recipient that is meant. `false`: it is not there any more.
    pub fn apply(
        &mut self,
        now: UnixMs,
        who: Candidate,
        act: &Act,
        affected: &mut Affected,
    ) -> bool {
        self.observe(now);
        let Some(entry) = self.store.get(who.index) else {
            return false;
        };
        let state = entry.state();
        let is_it = (entry.position(), entry.number) == (who.position, who.number);
        let lives = matches!(state, State::Ready | State::Deferred | State::InFlight);
        if !is_it || !lives || !self.is_in_service(entry.queue) {
            return false;
        }
        match act {
            Act::Count => affected.add(state),
            Act::Retry => self.retry_one(who.index, affected),
            Act::Withdraw { how, why } => {
                self.withdraw_one(who.index, *how, why.as_ref(), affected);
            }
            &Act::Obey(id) | &Act::ObeyInstead(id) => {
                let again = matches!(act, Act::ObeyInstead(_));
                if self.set_aside(who.index, id, again) {
                    affected.add(state);
                }
            }
        }
        true
    }
}
