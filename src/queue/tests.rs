//! Tests of the scheduler as a whole: sentences about what an operator sees, one file per story, then a model.

mod budgets;
mod bulk;
mod flows;
mod health;
mod many;
mod model;
mod moving;
mod rates;
mod retries;
mod scheduled;
mod sessions;
mod sites;
mod sources;
mod turns;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::outcome::CauseClass;

const FLOW: FlowName<'static> = FlowName {
    server: 1,
    server_name: "shop",
    stream: "outbound",
};
const START: UnixMs = 1_800_000_000_000;
const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;
const TX: PoolId = PoolId(0);
const BULK: PoolId = PoolId(1);

/// A scheduler, the time, and the answers to look-ups: every domain is its own site unless a rule says otherwise.
struct Bench {
    scheduler: Scheduler,
    now: UnixMs,
    /// Domain to site key; `None`: look-ups stay unanswered until `answer`.
    site_of: fn(&str) -> Option<String>,
    unanswered: Vec<QueueId>,
}

fn pools() -> Vec<PoolConfig> {
    let pool = |kind, sources, first, max_age| PoolConfig {
        kind,
        name: ["tx", "bulk"][usize::from(kind == StreamKind::Broadcast)].into(),
        source_names: vec!["one".into(), "two".into()],
        sources,
        retry: Retry {
            first: Duration::from_secs(first),
            max: Duration::from_secs(3600),
            max_age: Duration::from_secs(max_age),
        },
    };
    vec![
        pool(
            StreamKind::Transactional,
            vec![(SourceId(0), 1)],
            30,
            172_800,
        ),
        pool(
            StreamKind::Broadcast,
            vec![(SourceId(1), 3), (SourceId(2), 1)],
            300,
            259_200,
        ),
    ]
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(pools(), limits, 1),
            now: START,
            site_of: |domain| Some(domain.to_owned()),
            unanswered: Vec::new(),
        }
    }

    fn insert(&mut self, pool: PoolId, domain: &str, position: u64, number: u16) {
        let new = NewRecipient {
            position,
            number,
            pool,
            domain,
            flow: FLOW,
            message: position,
            // Its record would tell.
            tag: Some(Tag::Mark(spool_format::TAG_UNKNOWN)),
            accepted_at: self.now,
            life: Default::default(),
            attempts: 0,
            next_attempt: self.now,
        };
        self.scheduler.insert(self.now, new);
    }

    /// All work there is now. Look-ups are answered on the way.
    fn work(&mut self) -> Vec<Work> {
        let mut all = Vec::new();
        loop {
            let work = self.scheduler.poll(self.now);
            match work {
                Some(Work::Resolve { queue, domain, .. }) => match (self.site_of)(&domain) {
                    Some(key) => self.route(queue, &key, DAY),
                    None => self.unanswered.push(queue),
                },
                Some(work) => all.push(work),
                None if self
                    .scheduler
                    .poll_timeout()
                    .is_some_and(|at| at <= self.now) => {}
                None => break,
            }
        }
        self.scheduler.check();
        all
    }

    fn route(&mut self, queue: QueueId, key: &str, valid_ms: u64) {
        let valid_until = self.now + valid_ms;
        let answer = RouteAnswer::Site {
            key: key.into(),
            valid_until,
            provider: None,
        };
        self.scheduler.routed(self.now, queue, answer);
    }

    /// Goes from wake-up to wake-up until there is work, at most to `until`.
    fn work_until(&mut self, until: UnixMs) -> Vec<Work> {
        loop {
            let work = self.work();
            if !work.is_empty() {
                return work;
            }
            match self.scheduler.poll_timeout() {
                Some(at) if at <= until => self.now = at,
                _ => {
                    self.now = until;
                    return self.work();
                }
            }
        }
    }

    fn report(&mut self, given: &Given, disposition: Disposition, state: SessionState) {
        let results: Vec<_> = given
            .recipients
            .iter()
            .map(|&(p, n)| (p, n, disposition))
            .collect();
        self.scheduler
            .report(self.now, given.session, &results, state);
        self.scheduler.check();
    }

    fn delivered(&mut self, given: &Given) {
        self.report(given, Disposition::Terminal, SessionState::Idle);
    }

    fn deferred(&mut self, given: &Given) {
        self.report(
            given,
            Disposition::Retry {
                not_before: None,
                retry: None,
            },
            SessionState::Idle,
        );
    }

    fn failed(&mut self, given: &Given, scope: Scope) {
        let state = SessionState::Closed {
            site_failure: Some(scope),
        };
        self.report(given, Disposition::NotAttempted, state);
    }

    fn counts(&self) -> (usize, usize, usize) {
        let counts = self.scheduler.counts();
        (counts.ready, counts.deferred, counts.in_flight)
    }
}

/// A batch that went to a session.
#[derive(Clone, Debug)]
struct Given {
    session: SessionId,
    /// `Some`: the session was opened for it, from this source.
    opened_from: Option<SourceId>,
    recipients: Vec<(u64, u16)>,
}

fn given(work: &Work) -> Option<Given> {
    let (session, batch, opened_from) = match work {
        Work::Open {
            session,
            first,
            source,
            ..
        } => (*session, first, Some(*source)),
        Work::Deliver { session, batch } => (*session, batch, None),
        _ => return None,
    };
    let recipients = batch
        .recipients
        .iter()
        .map(|r| (batch.position, r.number))
        .collect();
    Some(Given {
        session,
        opened_from,
        recipients,
    })
}

fn all_given(work: &[Work]) -> Vec<Given> {
    work.iter().filter_map(given).collect()
}

fn only_given(work: &[Work]) -> Given {
    let all = all_given(work);
    assert_eq!((all.len(), work.len()), (1, 1), "{work:?}");
    all[0].clone()
}

fn cause(detail: &str) -> Arc<Cause> {
    Arc::new(Cause::new(CauseClass::Dns, detail))
}
