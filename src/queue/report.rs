//! What a batch came to: each recipient's next state, and what the session's end says about the site.

use std::sync::Arc;

use smallvec::SmallVec;

use super::control::Withdrawal;
use super::key::SessionId;
use super::pacing::{Session, SessionIs};
use super::retry::{draw, retry_ms};
use super::schedule::{End, Scheduler};
use super::store::State;
use super::{Disposition, SessionState, Work};
use crate::clock::UnixMs;
use crate::outcome::Scope;

impl Scheduler {
    /// The connection stands and its first transaction has begun. Optional: the first report says it too.
    pub fn opened(&mut self, now: UnixMs, session: SessionId) {
        self.observe(now);
        if let Some(opened) = self.sessions.get_mut(&session) {
            let path = opened.path;
            if opened.state == SessionIs::Opening {
                opened.state = SessionIs::Busy;
                self.paths[path].opening -= 1;
                self.enlist(path);
            }
        }
    }

    /// The session takes a batch behind another from now on: [`Work::Deliver`] may come before the report of the first.
    pub fn runs_ahead(&mut self, now: UnixMs, session: SessionId) {
        self.observe(now);
        if let Some(able) = self.sessions.get_mut(&session)
            && !std::mem::replace(&mut able.runs_ahead, true)
        {
            let path = able.path;
            self.be_eager(session);
            self.enlist(path);
        }
    }

    /// The batch that was handed out last did not reach the session, whose report is on its way.
    pub fn not_delivered(&mut self, now: UnixMs, session: SessionId) {
        let behind = self.sessions.get_mut(&session);
        match behind.map(|session| std::mem::take(&mut session.next)) {
            Some(next) if !next.is_empty() => {
                self.observe(now);
                for index in next {
                    self.settle(index, Disposition::NotAttempted);
                }
            }
            _ => {
                self.report(now, session, &[], SessionState::Idle);
            }
        }
    }

    /// The first batch of a session has ended, or a session with all that it has. Recipients of the batch that `results`
    /// does not name were not attempted; results for recipients that are not in flight there are ignored, and so are
    /// unknown sessions. Returns when each recipient that was deferred comes next, by its position and number.
    pub fn report(
        &mut self,
        now: UnixMs,
        session: SessionId,
        results: &[(u64, u16, Disposition)],
        state: SessionState,
    ) -> SmallVec<[(u64, u16, UnixMs); 4]> {
        self.observe(now);
        let mut next_attempts = SmallVec::new();
        let Some(reported) = self.sessions.get_mut(&session) else {
            return next_attempts;
        };
        let mut batch = std::mem::take(&mut reported.batch);
        if let SessionState::Closed { .. } = state {
            batch.append(&mut reported.next);
        }
        let mut attempted = false;
        for (place, &index) in batch.iter().enumerate() {
            let disposition = self.disposition_of(index, place, results);
            attempted |= disposition != Disposition::NotAttempted;
            let (position, number) = (self.store[index].position(), self.store[index].number);
            if let Some(at) = self.settle(index, disposition) {
                next_attempts.push((position, number, at));
            }
        }
        self.note_source(session, attempted);
        match state {
            SessionState::Idle => self.session_idle(session, attempted, !batch.is_empty()),
            SessionState::Closed { site_failure } => {
                self.session_closed(session, attempted, site_failure);
            }
        }
        next_attempts
    }

    /// What the report says of the session's source.
    fn note_source(&mut self, id: SessionId, attempted: bool) {
        let session = self.session(id);
        let worked = attempted && !std::mem::take(&mut session.shunned);
        let (p, fresh) = (session.path, !session.proven);
        if worked {
            let path = &self.paths[p];
            self.source_worked(path.pool, path.lane, fresh);
        }
    }

    /// Results come in the order of the batch; if not, they are searched.
    fn disposition_of(
        &self,
        index: u32,
        place: usize,
        results: &[(u64, u16, Disposition)],
    ) -> Disposition {
        let entry = &self.store[index];
        let is_it = |result: &&(u64, u16, Disposition)| {
            result.0 == entry.position() && result.1 == entry.number
        };
        let here = results.get(place).filter(is_it);
        let found = here.or_else(|| results.iter().find(is_it));
        found.map_or(Disposition::NotAttempted, |result| result.2)
    }

    /// From in flight to the next state; the time of the next attempt where it was deferred.
    fn settle(&mut self, index: u32, disposition: Disposition) -> Option<UnixMs> {
        let entry = self.store[index];
        let q = entry.queue;
        self.count(q, Some(State::InFlight), None);
        let end = &self.queues[q].end;
        let ended = end
            .as_ref()
            .is_some_and(|end| !matches!(end, End::Moved { .. }));
        let withdrawn = Withdrawal::from_mark(entry.rank());
        let why = match withdrawn {
            Some(_) => self.withdrawn_for.remove(&index),
            None => None,
        };
        let mut next_attempt = None;
        match disposition {
            Disposition::Terminal => {
                let outcomes = &mut self.queues[q].outcomes;
                *outcomes = outcomes.saturating_add(1);
                self.store.remove(index);
            }
            _ if ended || withdrawn.is_some() => {
                self.leave(index, disposition, withdrawn, why);
            }
            Disposition::NotAttempted => {
                self.settle_in(index);
                self.ready_or_expired(index);
            }
            Disposition::Retry { not_before, retry } => {
                let attempts = entry.attempts.saturating_add(1);
                self.store[index].attempts = attempts;
                let home = self.settle_in(index);
                let retry = retry.unwrap_or(self.pool(self.queues[home].pool).config.retry);
                let draw = draw(self.seed, [entry.position(), attempts.into()]);
                let wait = retry_ms(&retry, attempts.into(), draw);
                // Not beyond its age limit: one that is too old by now expires with the next poll.
                let at = (self.now + wait).max(not_before.unwrap_or(0));
                self.defer(index, at);
                next_attempt = Some(at);
            }
        }
        self.linger_if_empty(q);
        self.forget_if_done(q);
        next_attempt
    }

    /// A recipient that an operator withdrew, or whose queue ended, while it was in flight.
    fn leave(
        &mut self,
        index: u32,
        disposition: Disposition,
        withdrawn: Option<Withdrawal>,
        why: Option<Arc<str>>,
    ) {
        if disposition != Disposition::NotAttempted {
            let entry = &mut self.store[index];
            entry.attempts = entry.attempts.saturating_add(1);
        }
        let work = match withdrawn {
            Some(how) => self.withdrawn(index, how, why),
            None => self.ended(index),
        };
        self.outbox.push_back(work);
    }

    pub(super) fn withdrawn(&mut self, index: u32, how: Withdrawal, why: Option<Arc<str>>) -> Work {
        let entry = self.store[index];
        self.store.remove(index);
        Work::Withdrawn {
            position: entry.position(),
            number: entry.number,
            attempts: entry.attempts.into(),
            how,
            why,
        }
    }

    fn session_idle(&mut self, id: SessionId, attempted: bool, had_batch: bool) {
        let now = self.now;
        let path = self.session(id).path;
        let messages_max = self.paths[path].limits.messages_per_connection.value;
        let draining = self.is_draining(path);
        let messages = self.session(id).messages;
        let crowded = self.is_crowded_out(path, messages);
        let session = self.session(id);
        let was = session.state;
        if !had_batch && matches!(was, SessionIs::Idle | SessionIs::Closing) {
            return;
        }
        session.proven |= attempted;
        session.returned = if attempted { 0 } else { session.returned + 1 };
        session.batch = std::mem::take(&mut session.next);
        let goes_on = !session.batch.is_empty();
        session.state = if goes_on {
            SessionIs::Busy
        } else {
            SessionIs::Idle
        };
        // One that gives back what it is given would be asked for ever.
        let used_up = session.messages >= messages_max
            || session.returned >= RETURNED_MAX
            || draining
            || crowded;
        // Idle for ever, and in no source's list: the next poll closes it.
        let since = if used_up && !goes_on { 0 } else { now };
        session.since = since;
        let p = session.path;
        let probes = (session.probes_site, session.probes_path);
        if attempted {
            (session.probes_site, session.probes_path) = (false, false);
        }
        let path = &mut self.paths[p];
        if was == SessionIs::Opening {
            path.opening -= 1;
        }
        path.eager.retain(|&eager| eager != id);
        if !used_up && !goes_on {
            path.idle.push(id);
            self.note_idle(p, since, id);
        }
        let path = &mut self.paths[p];
        if attempted {
            let site = path.site;
            path.backoff.succeeded(probes.1);
            self.sites[site].backoff.succeeded(probes.0);
            if probes.0 {
                self.enlist_site(site);
            }
        }
        if goes_on {
            if !used_up {
                self.be_eager(id);
            }
            return self.enlist(p);
        }
        let class = self.class_of(self.paths[p].pool);
        self.classes[class].idle.insert((since, id));
        self.enlist(p);
    }

    fn session_closed(&mut self, id: SessionId, attempted: bool, site_failure: Option<Scope>) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let p = session.path;
        let class = self.class_of(self.paths[p].pool);
        self.classes[class].connections -= 1;
        let path = &mut self.paths[p];
        path.sessions -= 1;
        path.eager.retain(|&eager| eager != id);
        match session.state {
            SessionIs::Opening => path.opening -= 1,
            SessionIs::Busy => {}
            SessionIs::Idle => {
                path.idle.retain(|&idle| idle != id);
                self.note_not_idle(p, session.since, id);
                self.classes[class].idle.remove(&(session.since, id));
            }
            SessionIs::Closing => self.classes[class].closing -= 1,
        }
        if let Some(budget) = self.budget(p) {
            budget.sessions -= 1;
            self.arm_budget_of(p);
        }
        self.judge(&session, attempted, site_failure);
        let (pool, lane) = (self.paths[p].pool, self.paths[p].lane);
        self.end_trial(pool, lane, id, site_failure.is_some());
        if session.probes_site {
            // Whoever waited for it.
            self.enlist_site(self.paths[p].site);
        }
        self.enlist(p);
        self.forget_path_if_done(p);
    }

    /// What a closed session says about its site and path.
    fn judge(&mut self, session: &Session, attempted: bool, site_failure: Option<Scope>) {
        let (now, seed) = (self.now, self.seed);
        let path = &mut self.paths[session.path];
        let retry = &self.pools[usize::from(path.pool.0)].config.retry;
        let site = &mut self.sites[path.site];
        let path = &mut path.backoff;
        let (probes_site, probes_path) = (session.probes_site, session.probes_path);
        match site_failure {
            Some(Scope::Site) => {
                site.backoff.failed(now, probes_site, retry, seed);
                path.abandoned(probes_path);
            }
            Some(Scope::SiteFromSource) => {
                path.failed(now, probes_path, retry, seed);
                site.backoff.abandoned(probes_site);
            }
            Some(Scope::Source) => {
                site.backoff.abandoned(probes_site);
                path.abandoned(probes_path);
            }
            Some(Scope::Recipient | Scope::Message) | None if attempted => {
                site.backoff.succeeded(probes_site);
                path.succeeded(probes_path);
            }
            Some(Scope::Recipient | Scope::Message) | None => {
                site.backoff.abandoned(probes_site);
                path.abandoned(probes_path);
                if !session.proven {
                    path.futile(now, probes_path);
                }
            }
        }
    }
}

/// Batches in a row that a session may give back untouched.
const RETURNED_MAX: u8 = 2;
