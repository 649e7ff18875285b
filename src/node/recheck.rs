//! Looks for the records of domains again and again, so that nothing signs with a key whose record is gone, and what was
//! published is noticed without anybody asking.
//!
//! Promises: every domain, with keys or without, is looked at every hour while something waits or has changed lately, every
//! day otherwise; a record that is not there is looked for once more before its key is paused; name servers get few questions at
//! a time, and never all at once. Deliberately does not know what a look means: `account::keying` judges.
//!
//! How: [`Rounds`] is the timetable, without clock or DNS; the task beside it sleeps until the next domain is due. What else
//! is to be looked at of a domain goes into [`Recheck::look`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::account::keying::Belief;
use crate::account::{
    ChangeError, DkimKey, DkimKeys, DomainInfo, KeyState, Outside, Settings, Snapshot,
};
use crate::clock::{Clock, UnixMs};
use crate::config::Config;
use crate::limits;
use crate::metrics;

use super::check::{Checker, worst_of};

/// What is looked at: a domain by its id, the platform's own, or an egress source by its place among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Subject {
    Domain(u32),
    Platform,
    Source(usize),
}

/// When whose records are looked for next.
pub(super) struct Rounds {
    random: fastrand::Rng,
    planned: HashMap<Subject, Plan>,
    /// In the order of time.
    due: BTreeMap<(UnixMs, Subject), ()>,
}

#[derive(Clone, Copy)]
struct Plan {
    at: UnixMs,
    /// The next look believes what it sees.
    doubted: bool,
    /// Of its keys, when it was planned: a change makes a new plan.
    keys: u64,
}

/// What the timetable has to know of somebody's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    /// When something became what it is now.
    changed: UnixMs,
    /// Nobody has looked for one of them since this; `None`: never.
    checked: Option<UnixMs>,
    /// Tells keys and their states apart.
    mark: u64,
    /// What was proved once holds no more: [`DomainAttributes::is_alias_of_another`].
    stale: bool,
}

impl Keys {
    /// `None`: there is nothing to look for.
    fn of(keys: &DkimKeys) -> Option<Self> {
        let live: Vec<&DkimKey> = keys.iter().filter(|key| !is_revoked(key)).collect();
        let looked = |key: &&DkimKey| key.look.as_ref().map(|look| look.checked);
        let changed = |key: &&DkimKey| {
            let look = key.look.as_ref().map_or(0, |look| look.since);
            key.since.max(look)
        };
        let checked: Option<Vec<UnixMs>> = live.iter().map(looked).collect();
        (!live.is_empty()).then(|| Self {
            changed: live.iter().map(changed).max().unwrap_or(0),
            checked: checked.and_then(|checked| checked.into_iter().min()),
            mark: mark(&live),
            stale: false,
        })
    }

    /// Of a domain: what else is looked at counts too. `ours`: what Return-Path domains are aliases of. `None`: it is nobody's.
    fn of_domain(domain: &DomainInfo, ours: &str) -> Option<Self> {
        let attributes = &domain.attributes;
        let of_keys = Self::of(&domain.keys);
        let keys = match (of_keys, domain.listed || domain.declared) {
            (Some(keys), _) => keys,
            (None, true) => Self {
                changed: domain.created,
                checked: attributes.findings.as_ref().map(|_| domain.created),
                ..Self::default()
            },
            (None, false) => return None,
        };
        let stale = attributes.is_alias_of_another(ours);
        Some(Self {
            changed: keys.changed.max(attributes.findings_since),
            mark: keys.mark ^ u64::from(stale),
            stale,
            ..keys
        })
    }

    /// Until the next look, without its spread. Who has not published a record for days will ask when it is there.
    fn pause(&self, now: UnixMs) -> Duration {
        match self.stale || now.saturating_sub(self.changed) < ms(limits::RECHECK_EAGER) {
            true => limits::RECHECK_SOON,
            false => limits::RECHECK_LATER,
        }
    }
}

fn is_revoked(key: &DkimKey) -> bool {
    key.state == KeyState::Revoked
}

fn mark(keys: &[&DkimKey]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for key in keys {
        (&key.public, &key.selector, key.state_text()).hash(&mut hasher);
    }
    hasher.finish()
}

impl Rounds {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            planned: HashMap::new(),
            due: BTreeMap::new(),
        }
    }

    /// Plans for who is new or changed, forgets who is gone.
    pub(super) fn learn(&mut self, now: UnixMs, all: &[(Subject, Keys)]) {
        let there: HashMap<Subject, Keys> = all.iter().copied().collect();
        let gone = self.planned.keys().filter(|who| !there.contains_key(who));
        for who in gone.copied().collect::<Vec<_>>() {
            self.forget(who);
        }
        for (who, keys) in all {
            let known = self.planned.get(who);
            if known.is_some_and(|plan| plan.keys == keys.mark) {
                continue;
            }
            let is_new = known.is_none();
            let at = match keys.checked {
                // Whatever waited while the node was down is spread over some time.
                Some(checked) if is_new && !keys.stale => self
                    .after(checked, keys.pause(now))
                    .max(now + self.spread()),
                // A key of the configuration signs before anybody has looked.
                None if is_new => now + self.spread() / 8,
                _ if keys.stale => now + self.spread() / 8,
                _ => self.after(now, keys.pause(now)),
            };
            self.plan(*who, at, false, keys.mark);
        }
    }

    /// Who is due. [`Rounds::looked`] plans them anew; should it never be called, they are due again later.
    pub(super) fn take(&mut self, now: UnixMs) -> Option<(Subject, Belief)> {
        let (&(at, who), ()) = self.due.first_key_value()?;
        if at > now {
            return None;
        }
        let plan = self.planned.get(&who).copied();
        let (doubted, keys) = plan.map_or((false, 0), |plan| (plan.doubted, plan.keys));
        self.plan(who, now + ms(limits::RECHECK_SOON), doubted, keys);
        Some((
            who,
            if doubted {
                Belief::AtOnce
            } else {
                Belief::LookAgain
            },
        ))
    }

    /// What came of a look. `keys`: as they are now.
    pub(super) fn looked(&mut self, now: UnixMs, who: Subject, keys: Option<Keys>, doubted: bool) {
        let Some(keys) = keys else {
            return self.forget(who);
        };
        let pause = match doubted {
            true => limits::RECHECK_DOUBT,
            false => keys.pause(now),
        };
        let at = self.after(now, pause);
        self.plan(who, at, doubted, keys.mark);
    }

    pub(super) fn next(&self) -> Option<UnixMs> {
        self.due.first_key_value().map(|(&(at, _), ())| at)
    }

    fn plan(&mut self, who: Subject, at: UnixMs, doubted: bool, keys: u64) {
        self.forget(who);
        self.planned.insert(who, Plan { at, doubted, keys });
        self.due.insert((at, who), ());
    }

    fn forget(&mut self, who: Subject) {
        if let Some(plan) = self.planned.remove(&who) {
            self.due.remove(&(plan.at, who));
        }
    }

    /// ±10 %: looks that began together do not stay together.
    fn after(&mut self, from: UnixMs, pause: Duration) -> UnixMs {
        let pause = ms(pause);
        from + pause - pause / 10 + self.random.u64(..=pause / 5)
    }

    fn spread(&mut self) -> u64 {
        self.random.u64(..ms(limits::RECHECK_SPREAD))
    }
}

fn ms(time: Duration) -> UnixMs {
    time.as_millis() as UnixMs
}

/// The task that keeps the timetable.
pub(super) struct Recheck {
    pub(super) settings: Arc<Settings>,
    pub(super) outside: Arc<dyn Outside>,
    /// Judges the rest of a domain's records; tests do without.
    pub(super) checker: Option<Arc<Checker>>,
    pub(super) clock: Clock,
}

impl Recheck {
    /// # Cancel safety
    /// A look that is dropped has changed nothing, or all that it found.
    pub(super) async fn run(self) {
        let this = Arc::new(self);
        let mut rounds = Rounds::new(fastrand::u64(..));
        let mut looking: JoinSet<(Subject, bool)> = JoinSet::new();
        let mut learn_at = 0;
        loop {
            let now = this.clock.unix_ms();
            if now >= learn_at {
                learn_at = now + ms(LEARN);
                let snapshot = this.settings.accounts().load();
                let mut all = subjects(&snapshot, &this.settings.config());
                all.extend(this.sources());
                rounds.learn(now, &all);
                gauge(&snapshot);
            }
            while looking.len() < limits::RECHECKS_AT_ONCE
                && let Some((who, belief)) = rounds.take(now)
            {
                let this = Arc::clone(&this);
                looking.spawn(async move { (who, this.look(who, belief, now).await) });
            }
            let due = rounds.next().unwrap_or(u64::MAX);
            let wake = match looking.len() < limits::RECHECKS_AT_ONCE {
                true => due.min(learn_at),
                false => learn_at,
            };
            let idle = Duration::from_millis(wake.saturating_sub(now));
            tokio::select! {
                Some(done) = looking.join_next() => {
                    if let Ok((who, doubted)) = done {
                        let snapshot = this.settings.accounts().load();
                        rounds.looked(this.clock.unix_ms(), who, this.plan_of(&snapshot, who), doubted);
                    }
                }
                () = tokio::time::sleep(idle) => {}
            }
        }
    }

    fn sources(&self) -> impl Iterator<Item = (Subject, Keys)> + '_ {
        let count = self.checker.as_ref().map_or(0, |c| c.source_names().len());
        (0..count).filter_map(|place| {
            let who = Subject::Source(place);
            Some((who, self.plan_of_source(place)?))
        })
    }

    fn plan_of(&self, snapshot: &Snapshot, who: Subject) -> Option<Keys> {
        match who {
            Subject::Source(place) => self.plan_of_source(place),
            _ => keys_of(snapshot, &self.settings.config(), who),
        }
    }

    /// A source has no keys: only the time of its last change counts.
    fn plan_of_source(&self, place: usize) -> Option<Keys> {
        Some(Keys {
            changed: self.checker.as_ref()?.source_changed(place)?,
            ..Keys::default()
        })
    }

    /// Everything that is looked at of a domain, one thing after the other. `true`: once more, soon.
    async fn look(&self, who: Subject, belief: Belief, now: UnixMs) -> bool {
        let (settings, outside) = (&self.settings, &*self.outside);
        let looked = match who {
            Subject::Source(place) => {
                if let Some(checker) = &self.checker {
                    checker.look_at_place(place).await;
                }
                return false;
            }
            Subject::Domain(id) => settings.look_at_keys(id, outside, now, belief).await,
            Subject::Platform => settings.look_at_platform_keys(outside, now, belief).await,
        };
        if let Subject::Domain(id) = who {
            told(settings.verify_return_path(id, outside).await.map(drop));
            if let (Some(checker), Ok(domain)) = (&self.checker, settings.domain(id)) {
                checker.look_at_domain(&domain).await;
            }
        }
        let looked = looked.map(|looked| {
            if let Some(why) = &looked.undecided {
                tracing::debug!(?who, why, "a DKIM record could not be looked up");
            }
            looked.doubted
        });
        told(looked).unwrap_or(false)
    }
}

/// A failure is told; the next look tries again.
fn told<T>(done: Result<T, ChangeError>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        // Gone meanwhile, or no answer: nothing has changed.
        Err(ChangeError::Refused(refused)) => {
            tracing::debug!(%refused, "a look for a domain's records has no result");
            None
        }
        Err(ChangeError::Store(error)) => {
            tracing::warn!(%error, "what was found of a domain's records cannot be stored");
            None
        }
    }
}

fn subjects(snapshot: &Snapshot, config: &Config) -> Vec<(Subject, Keys)> {
    let domains = snapshot.domains().map(|domain| Subject::Domain(domain.id));
    let all = domains.chain([Subject::Platform]);
    all.filter_map(|who| Some((who, keys_of(snapshot, config, who)?)))
        .collect()
}

fn keys_of(snapshot: &Snapshot, config: &Config, who: Subject) -> Option<Keys> {
    match who {
        Subject::Domain(id) => Keys::of_domain(snapshot.domain(id)?, config.return_path_host()),
        Subject::Platform => Keys::of(&snapshot.platform()?.keys),
        Subject::Source(_) => None,
    }
}

fn gauge(snapshot: &Snapshot) {
    let mut checked = BTreeMap::from(["ok", "warn", "error", "never"].map(|level| (level, 0)));
    for domain in snapshot.domains() {
        let findings = domain.attributes.findings.as_deref();
        *checked
            .entry(findings.map_or("never", worst_of))
            .or_default() += 1;
    }
    for (level, count) in checked {
        metrics::DOMAINS_CHECKED.set_of(level, f64::from(count));
    }
    let platform = snapshot.platform().map(|platform| &platform.keys);
    let all = snapshot
        .domains()
        .map(|domain| &domain.keys)
        .chain(platform);
    let (mut active, mut pending, mut paused) = (0, 0, 0);
    for key in all.flat_map(DkimKeys::iter) {
        match key.state_text() {
            "active" => active += 1,
            "pending" => pending += 1,
            "paused" => paused += 1,
            _ => {}
        }
    }
    for (state, count) in [("active", active), ("pending", pending), ("paused", paused)] {
        metrics::DKIM_KEYS.set_of(state, f64::from(count));
    }
}

/// How late a change of settings is noticed.
const LEARN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
