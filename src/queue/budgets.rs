//! Limits of a source that count over all sites of a provider together.
//!
//! A *budget* belongs to a source and a provider, and is kept for as long as the scheduler lives: there are no more of them than
//! sources times providers. Paths that it holds up stand in one of its two lines, for their next message or for a connection, and it
//! has one timer: what waits is not looked at again before it is somebody's turn, so a million sites of one provider cost a
//! step what one does. Who is called and cannot go (its site backs off) has left the line, and the next one is called.
//!
//! While others wait for a connection, idle ones are closed, and busy ones after [`limits::BUDGET_TURN`] messages: a site with
//! much mail does not keep the connections from one with little.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::key::{PoolId, SessionId};
use super::pacing::{NEVER, SessionIs};
use super::rates::Used;
use super::schedule::Scheduler;
use super::timers::Timed;
use crate::clock::UnixMs;
use crate::config::{PathLimits, ProviderId};
use crate::limits;

pub(super) struct Budget {
    pub(super) provider: ProviderId,
    /// Of these, connections, rates and volumes.
    pub(super) limits: Arc<PathLimits>,
    pub(super) used: Used,
    pub(super) sessions: u32,
    /// Of all its paths, longest idle first.
    idle: BTreeSet<(UnixMs, SessionId)>,
    /// Paths that could hand over a message but for this.
    for_message: VecDeque<u32>,
    /// Paths that could open a connection but for this.
    for_connection: VecDeque<u32>,
    pub(super) timer: UnixMs,
}

impl Budget {
    fn message_at(&self) -> UnixMs {
        self.used.message_at(&self.limits).0
    }

    pub(super) fn is_full(&self) -> bool {
        self.sessions >= self.limits.connections.value
    }

    /// [`NEVER`]: not before a session closes.
    fn connection_at(&self) -> UnixMs {
        if self.is_full() {
            return NEVER;
        }
        self.used.connection_at().max(self.message_at())
    }

    pub(super) fn waiting(&self) -> usize {
        self.for_message.len() + self.for_connection.len()
    }

    /// Somebody who may be called, at this time.
    pub(super) fn next_at(&self) -> UnixMs {
        let at = |line: &VecDeque<u32>, at| if line.is_empty() { NEVER } else { at };
        let message = at(&self.for_message, self.message_at());
        message.min(at(&self.for_connection, self.connection_at()))
    }
}

impl Scheduler {
    /// The budget of a source at a site of the provider, if a rule gives it one.
    pub(super) fn budget_of(
        &mut self,
        (pool, lane): (PoolId, u16),
        provider: Option<ProviderId>,
        limits: &PathLimits,
    ) -> Option<u32> {
        let limits = Arc::clone(limits.whole.as_ref()?);
        let provider = provider?;
        let key = (pool, lane, provider);
        if let Some(&known) = self.budgets_by_name.get(&key) {
            return Some(known);
        }
        let budget = self.budgets.len() as u32;
        self.budgets.push(Budget {
            provider,
            limits,
            used: Used::default(),
            sessions: 0,
            idle: BTreeSet::new(),
            for_message: VecDeque::new(),
            for_connection: VecDeque::new(),
            timer: NEVER,
        });
        self.budgets_by_name.insert(key, budget);
        Some(budget)
    }

    pub(super) fn budget(&mut self, p: u32) -> Option<&mut Budget> {
        let budget = self.paths[p].budget?;
        Some(&mut self.budgets[budget as usize])
    }

    /// The path may not hand over a message now for the sake of its budget.
    pub(super) fn lacks_message(&self, p: u32) -> bool {
        let budget = self.paths[p].budget;
        budget.is_some_and(|b| self.budgets[b as usize].message_at() > self.now)
    }

    /// The path may not open a connection now for the sake of its budget.
    pub(super) fn lacks_connection(&self, p: u32) -> bool {
        let budget = self.paths[p].budget;
        budget.is_some_and(|b| self.budgets[b as usize].connection_at() > self.now)
    }

    /// The path waits in a line of its budget.
    pub(super) fn stand_in_line(&mut self, p: u32) {
        let (lacks_message, Some(b)) = (self.lacks_message(p), self.paths[p].budget) else {
            return;
        };
        if std::mem::replace(&mut self.paths[p].lined, true) {
            return;
        }
        let budget = &mut self.budgets[b as usize];
        if lacks_message {
            budget.for_message.push_back(p);
        } else {
            budget.for_connection.push_back(p);
            if budget.is_full()
                && let Some((_, idle)) = budget.idle.first().copied()
            {
                self.retire(idle);
            }
        }
        self.arm_budget(b);
    }

    /// Something of the budget has changed.
    pub(super) fn arm_budget(&mut self, b: u32) {
        let budget = &mut self.budgets[b as usize];
        let at = budget.next_at();
        if at == NEVER {
            return;
        }
        self.timers.arm(&mut budget.timer, at, Timed::Budget(b));
    }

    pub(super) fn arm_budget_of(&mut self, p: u32) {
        if let Some(b) = self.paths[p].budget {
            self.arm_budget(b);
        }
    }

    /// Its timer has fired: the first of each line is called, if it may go now.
    pub(super) fn fire_budget(&mut self, b: u32) {
        let now = self.now;
        let budget = &mut self.budgets[b as usize];
        let mut called = [None, None];
        if budget.message_at() <= now {
            called[0] = budget.for_message.pop_front();
        }
        if budget.connection_at() <= now {
            called[1] = budget.for_connection.pop_front();
        }
        for p in called.into_iter().flatten() {
            self.paths[p].lined = false;
            if self.paths[p].linked > 0 {
                self.enlist(p);
            } else {
                self.forget_path_if_done(p);
            }
        }
        self.arm_budget(b);
    }

    /// Others of its budget wait for a connection: the session, which has nothing under way, goes.
    pub(super) fn is_crowded_out(&self, p: u32, messages: u32) -> bool {
        let path = &self.paths[p];
        let waits = |b: u32| !self.budgets[b as usize].for_connection.is_empty();
        path.budget.is_some_and(waits) && (path.ready == 0 || messages >= limits::BUDGET_TURN)
    }

    pub(super) fn note_idle(&mut self, p: u32, since: UnixMs, session: SessionId) {
        if let Some(budget) = self.budget(p) {
            budget.idle.insert((since, session));
        }
    }

    pub(super) fn note_not_idle(&mut self, p: u32, since: UnixMs, session: SessionId) {
        if let Some(budget) = self.budget(p) {
            budget.idle.remove(&(since, session));
        }
    }

    /// An idle session is closed by the next poll, a busy one takes nothing more behind what it has.
    pub(super) fn retire(&mut self, id: SessionId) {
        let session = self.session(id);
        let (p, since) = (session.path, session.since);
        let is_idle = session.state == SessionIs::Idle;
        self.paths[p].eager.retain(|&eager| eager != id);
        if !is_idle {
            return;
        }
        self.session(id).since = 0;
        self.note_not_idle(p, since, id);
        let path = &mut self.paths[p];
        path.idle.retain(|&idle| idle != id);
        let class = self.class_of(self.paths[p].pool);
        self.classes[class].idle.remove(&(since, id));
        self.classes[class].idle.insert((0, id));
    }
}
