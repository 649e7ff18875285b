//! Tests of the scheduler as a whole: sentences about what an operator sees, then a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::outcome::CauseClass;

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
            server: 1,
            accepted_at: self.now,
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
            Disposition::Retry { not_before: None },
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

#[test]
fn a_recipient_is_routed_then_handed_out_and_forgotten_when_it_is_delivered() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let first = only_given(&bench.work());
    assert_eq!(
        (first.opened_from, &first.recipients[..]),
        (Some(SourceId(0)), &[(8, 0)][..])
    );
    assert_eq!(bench.counts(), (0, 0, 1));
    bench.delivered(&first);
    assert_eq!(bench.counts(), (0, 0, 0));
    assert!(bench.work().is_empty());
}

#[test]
fn an_idle_session_is_used_again_before_a_new_one_is_opened() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let first = only_given(&bench.work());
    bench.delivered(&first);
    bench.insert(TX, "example.com", 16, 0);
    let second = only_given(&bench.work());
    assert_eq!((second.session, second.opened_from), (first.session, None));
}

#[test]
fn recipients_of_one_message_at_one_site_go_together_also_across_domains() {
    let mut bench = Bench::new();
    bench.site_of = |_| Some("mx.provider.test".to_owned());
    for number in 0..5 {
        bench.insert(TX, "a.test", 8, number);
    }
    bench.insert(TX, "b.test", 8, 5);
    bench.insert(TX, "c.test", 8, 6);
    bench.insert(TX, "a.test", 16, 0);
    let work = all_given(&bench.work());
    assert_eq!(
        work[0].recipients,
        (0..7).map(|n| (8, n)).collect::<Vec<_>>()
    );
}

#[test]
fn a_transaction_has_a_hundred_recipients_at_most() {
    let mut bench = Bench::new();
    for number in 0..250 {
        bench.insert(TX, "example.com", 8, number);
    }
    let sizes: Vec<_> = all_given(&bench.work())
        .iter()
        .map(|g| g.recipients.len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn one_message_opens_one_connection_and_many_reach_the_limit_at_once() {
    let mut bench = Bench::new();
    for position in 0..100 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    let first = all_given(&bench.work());
    assert_eq!(first.len(), 20, "the limit of one source at one site");
    let reasons = &bench.scheduler.explain_domain("example.com")[0].reasons;
    assert!(
        matches!(
            reasons[..],
            [Reason::ConnectionLimit {
                connections: 20,
                limit: 20,
                ..
            }]
        ),
        "{reasons:?}"
    );
    bench.delivered(&first[0]);
    let next = only_given(&bench.work());
    assert_eq!((next.session, next.opened_from), (first[0].session, None));
}

#[test]
fn connections_being_opened_count_as_capacity_for_a_second() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 0, 0);
    assert_eq!(all_given(&bench.work()).len(), 1);
    bench.insert(TX, "example.com", 8, 0);
    assert_eq!(
        all_given(&bench.work()).len(),
        0,
        "the first connection will do"
    );
    let opened = only_given(&bench.work_until(START + 10 * SECOND));
    assert!(opened.opened_from.is_some() && bench.now == START + SECOND);
}

#[test]
fn a_session_is_closed_when_idle_too_long_and_when_used_up() {
    let limits = Limits {
        messages_per_connection: 2,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits);
    bench.insert(TX, "example.com", 0, 0);
    let first = only_given(&bench.work());
    bench.delivered(&first);
    let work = bench.work_until(START + DAY);
    assert!(matches!(work[..], [Work::Close { session }] if session == first.session));
    assert_eq!(bench.now, START + 10 * SECOND);
    bench.scheduler.report(
        bench.now,
        first.session,
        &[],
        SessionState::Closed { site_failure: None },
    );

    bench.insert(TX, "example.com", 8, 0);
    let second = only_given(&bench.work());
    bench.delivered(&second);
    bench.insert(TX, "example.com", 16, 0);
    let again = only_given(&bench.work());
    assert_eq!(again.session, second.session);
    bench.delivered(&again);
    assert!(matches!(bench.work()[..], [Work::Close { session }] if session == second.session));
}

#[test]
fn a_deferred_recipient_comes_back_after_its_wait_with_its_message() {
    let mut bench = Bench::new();
    for number in 0..3 {
        bench.insert(TX, "example.com", 8, number);
    }
    let first = only_given(&bench.work());
    bench.deferred(&first);
    assert_eq!(bench.counts(), (0, 3, 0));
    let place = bench.scheduler.explain_message(8)[0].place;
    let Place::Deferred { next_attempt } = place else {
        panic!("{place:?}")
    };
    assert!((START + 24 * SECOND..=START + 37 * SECOND).contains(&next_attempt));
    bench.now = next_attempt;
    let work = bench.work();
    let second = all_given(&work);
    assert_eq!(
        second[0].recipients.len(),
        3,
        "they share a transaction again"
    );
    assert!(work.iter().any(
        |w| matches!(w, Work::Open { first, .. } if first.recipients[0].attempts == 1)
            || matches!(w, Work::Deliver { batch, .. } if batch.recipients[0].attempts == 1)
    ));
}

#[test]
fn a_reply_that_names_a_later_time_is_respected() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let first = only_given(&bench.work());
    let later = START + 600 * SECOND;
    bench.report(
        &first,
        Disposition::Retry {
            not_before: Some(later),
        },
        SessionState::Idle,
    );
    loop {
        let work = bench.work_until(START + DAY);
        if !all_given(&work).is_empty() {
            break;
        }
        for close in work {
            let Work::Close { session } = close else {
                panic!("{close:?}")
            };
            bench.scheduler.report(
                bench.now,
                session,
                &[],
                SessionState::Closed { site_failure: None },
            );
        }
    }
    assert!((later..later + 100).contains(&bench.now));
}

#[test]
fn the_age_limit_ends_a_recipient_in_every_state_but_not_in_flight() {
    let mut bench = Bench::new();
    bench.site_of = |domain| (domain != "unanswered.test").then(|| domain.to_owned());
    let old = START - 172_800 * SECOND + 5 * SECOND;
    let mut insert = |domain, position, next_attempt| {
        let new = NewRecipient {
            position,
            number: 0,
            pool: TX,
            domain,
            server: 1,
            accepted_at: old,
            attempts: 1,
            next_attempt,
        };
        bench.scheduler.insert(START, new);
    };
    insert("deferred.test", 0, START + 3600 * SECOND);
    insert("unanswered.test", 8, START);
    insert("refusing.test", 16, START);
    insert("in-flight.test", 24, START);
    let work = all_given(&bench.work());
    assert_eq!(work.len(), 2);
    bench.failed(&work[0], Scope::Site);
    bench.now = START + 6 * SECOND;
    let mut expired: Vec<u64> = bench
        .work()
        .iter()
        .map(|work| match work {
            Work::Expire {
                position,
                attempts: 1,
                ..
            } => *position,
            other => panic!("{other:?}"),
        })
        .collect();
    expired.sort_unstable();
    assert_eq!(expired, [0, 8, 16]);
    bench.deferred(&work[1]);
    assert!(matches!(
        bench.work()[..],
        [Work::Expire {
            position: 24,
            attempts: 2,
            ..
        }]
    ));
    assert_eq!(bench.scheduler.counts().total(), 0);
}

#[test]
fn more_expired_recipients_than_a_step_takes_are_still_not_attempted() {
    let limits = Limits {
        connections_per_source_site: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits);
    for position in 0..2_000 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    let first = only_given(&bench.work());
    bench.now += 2 * DAY + SECOND;
    bench.insert(TX, "example.com", 2_000 * 8, 0);
    bench.delivered(&first);
    let work = bench.work();
    let expired = work
        .iter()
        .filter(|work| matches!(work, Work::Expire { .. }));
    assert_eq!(expired.count(), 1_999);
    let given = all_given(&work);
    assert_eq!(
        (given.len(), &given[0].recipients[..]),
        (1, &[(16_000, 0)][..])
    );
}

#[test]
fn a_site_that_fails_sleeps_once_and_its_recipients_do_not_wake() {
    let mut bench = Bench::new();
    for position in 0..10_000 {
        bench.insert(BULK, "refusing.test", position * 8, 0);
    }
    for given in all_given(&bench.work()) {
        bench.failed(&given, Scope::Site);
    }
    assert!(bench.work().is_empty());
    assert_eq!(bench.counts(), (10_000, 0, 0));
    let row = &bench.scheduler.list(None, 10)[0];
    let [
        Reason::SiteBacksOff {
            source: None,
            until,
            failures: 1,
            probing: false,
        },
    ] = row.reasons[..]
    else {
        panic!("{:?}", row.reasons)
    };
    assert!(
        (START + 240 * SECOND..=START + 360 * SECOND).contains(&until),
        "one failure, not twenty"
    );
    assert_eq!(
        bench.scheduler.poll_timeout(),
        Some(until),
        "nothing else wakes"
    );
    // One connection probes; while it does, nobody else knocks.
    let probe = only_given(&bench.work_until(START + DAY));
    assert_eq!(bench.now, until);
    bench.failed(&probe, Scope::Site);
    let probe = only_given(&bench.work_until(START + DAY));
    assert!(
        bench.now - until >= 480 * SECOND,
        "the second wait is twice the first"
    );
    bench.delivered(&probe);
    assert!(
        all_given(&bench.work()).len() > 30,
        "success ends the back-off"
    );
}

#[test]
fn a_failure_from_one_source_leaves_the_site_to_the_others() {
    let mut bench = Bench::new();
    for position in 0..100 {
        bench.insert(BULK, "example.com", position * 8, 0);
    }
    let first = all_given(&bench.work());
    let from = |source, all: &[Given]| all.iter().filter(|g| g.opened_from == Some(source)).count();
    assert_eq!(
        (from(SourceId(1), &first), from(SourceId(2), &first)),
        (20, 20)
    );
    for given in first.iter().filter(|g| g.opened_from == Some(SourceId(1))) {
        bench.failed(given, Scope::SiteFromSource);
    }
    for given in first.iter().filter(|g| g.opened_from == Some(SourceId(2))) {
        bench.delivered(given);
    }
    let next = all_given(&bench.work());
    assert_eq!(next.len(), 20);
    assert!(
        next.iter().all(|given| given.opened_from.is_none()),
        "only the second source's sessions"
    );
}

#[test]
fn sources_are_used_by_weight() {
    let mut bench = Bench::new();
    for position in 0..17 {
        bench.insert(BULK, "example.com", position * 8, 0);
    }
    let work = all_given(&bench.work());
    let first = work
        .iter()
        .take(8)
        .filter(|g| g.opened_from == Some(SourceId(1)))
        .count();
    assert_eq!(first, 6, "three of four");
}

#[test]
fn a_host_that_drops_every_connection_before_an_attempt_is_not_hammered() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let mut opened = 0;
    while bench.now < START + 60 * SECOND {
        for given in all_given(&bench.work_until(START + 60 * SECOND)) {
            opened += 1;
            let closed = SessionState::Closed { site_failure: None };
            bench.report(&given, Disposition::NotAttempted, closed);
        }
    }
    assert!(
        (5..12).contains(&opened),
        "{opened} connections in a minute"
    );
    assert_eq!(bench.counts(), (1, 0, 0));
}

#[test]
fn a_session_that_gives_back_every_batch_is_closed() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let first = only_given(&bench.work());
    bench.report(&first, Disposition::NotAttempted, SessionState::Idle);
    let second = only_given(&bench.work());
    bench.report(&second, Disposition::NotAttempted, SessionState::Idle);
    let work = bench.work();
    assert!(
        work.iter()
            .any(|w| matches!(w, Work::Close { session } if *session == first.session)),
        "{work:?}"
    );
}

#[test]
fn an_idle_session_that_vanishes_costs_neither_a_wait_nor_an_attempt() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let first = only_given(&bench.work());
    bench.delivered(&first);
    bench.insert(TX, "example.com", 16, 0);
    let second = only_given(&bench.work());
    // The remote host had closed meanwhile; the report names no recipient.
    bench.scheduler.report(
        bench.now,
        second.session,
        &[],
        SessionState::Closed { site_failure: None },
    );
    let third = only_given(&bench.work());
    assert_eq!(
        (third.recipients, third.opened_from),
        (vec![(16, 0)], Some(SourceId(0)))
    );
}

#[test]
fn a_failed_look_up_sleeps_longer_each_time_and_a_final_one_ends_every_recipient_once() {
    let mut bench = Bench::new();
    bench.site_of = |_| None;
    for position in 0..3 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    assert!(bench.work().is_empty());
    let mut waits = Vec::new();
    for _ in 0..3 {
        let queue = bench.unanswered.pop().unwrap();
        let answer = RouteAnswer::Defer {
            cause: cause("SERVFAIL"),
        };
        bench.scheduler.routed(bench.now, queue, answer);
        let asked = bench.now;
        assert!(matches!(
            &bench.scheduler.explain_domain("example.com")[0].reasons[..],
            [Reason::RouteDeferred { cause, .. }] if cause.detail == "SERVFAIL"
        ));
        while bench.unanswered.is_empty() {
            bench.now = bench.scheduler.poll_timeout().unwrap();
            assert!(bench.work().is_empty());
        }
        waits.push((bench.now - asked) / SECOND);
    }
    assert!(
        (24..=37).contains(&waits[0]) && (48..=73).contains(&waits[1]),
        "{waits:?}"
    );
    assert!(waits[2] >= 96, "{waits:?}");
    let queue = bench.unanswered.pop().unwrap();
    bench.scheduler.routed(
        bench.now,
        queue,
        RouteAnswer::Refused {
            cause: cause("null MX"),
        },
    );
    bench.insert(TX, "example.com", 24, 0);
    let ended: Vec<u64> = bench
        .work()
        .iter()
        .map(|work| match work {
            Work::Unroutable {
                position, cause, ..
            } if cause.detail == "null MX" => *position,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ended, [0, 8, 16]);
    assert_eq!(bench.counts(), (1, 0, 0), "later mail asks again");
    assert_eq!(bench.unanswered.len(), 1);
}

#[test]
fn a_route_is_asked_for_again_when_it_is_no_longer_valid() {
    let mut bench = Bench::new();
    bench.site_of = |_| None;
    bench.insert(TX, "example.com", 8, 0);
    bench.work();
    let queue = bench.unanswered.pop().unwrap();
    bench.route(queue, "old.test", 20 * SECOND);
    let first = only_given(&bench.work());
    bench.delivered(&first);
    bench.now += 5 * SECOND;
    bench.insert(TX, "example.com", 16, 0);
    let second = only_given(&bench.work());
    assert_eq!(second.session, first.session);
    bench.delivered(&second);
    bench.now += 20 * SECOND;
    bench.insert(TX, "example.com", 24, 0);
    bench.work();
    let queue = bench.unanswered.pop().unwrap();
    bench.route(queue, "new.test", 20 * SECOND);
    let work = bench.work();
    assert!(
        work.iter()
            .any(|w| matches!(w, Work::Open { site_key, .. } if &**site_key == "new.test")),
        "{work:?}"
    );
}

#[test]
fn transactional_mail_goes_first_and_finds_connections_left_by_broadcast() {
    let limits = Limits {
        connections: 40,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits);
    for position in 0..1_000 {
        bench.insert(BULK, &format!("d{position}.test"), position * 8, 0);
    }
    let bulk = all_given(&bench.work());
    assert_eq!(bulk.len(), 30, "a quarter is left");
    bench.insert(TX, "urgent.test", 8_000, 0);
    assert_eq!(only_given(&bench.work()).recipients, [(8_000, 0)]);
    // An idle session of a finished domain makes room for a waiting one.
    bench.delivered(&bulk[0]);
    assert!(matches!(bench.work()[..], [Work::Close { session }] if session == bulk[0].session));
    bench.scheduler.report(
        bench.now,
        bulk[0].session,
        &[],
        SessionState::Closed { site_failure: None },
    );
    assert!(only_given(&bench.work()).opened_from.is_some());
}

#[test]
fn pools_share_neither_sessions_nor_back_off() {
    let mut bench = Bench::new();
    bench.insert(BULK, "example.com", 8, 0);
    let bulk = only_given(&bench.work());
    bench.failed(&bulk, Scope::Site);
    bench.insert(TX, "example.com", 16, 0);
    let tx = only_given(&bench.work());
    assert_eq!(
        (tx.opened_from, tx.recipients),
        (Some(SourceId(0)), vec![(16, 0)])
    );
}

#[test]
fn queues_of_one_site_take_turns() {
    let mut bench = Bench::with(Limits {
        connections_per_source_site: 1,
        ..Limits::default()
    });
    bench.site_of = |_| Some("mx.provider.test".to_owned());
    for position in 0..100 {
        bench.insert(TX, "many.test", position * 8, 0);
    }
    bench.insert(TX, "few.test", 1_000 * 8, 0);
    let mut order = Vec::new();
    for _ in 0..3 {
        let given = only_given(&bench.work());
        order.push(given.recipients[0].0 / 8);
        bench.delivered(&given);
    }
    assert!(order.contains(&1_000), "{order:?}");
}

#[test]
fn new_and_deferred_recipients_of_a_queue_take_turns() {
    let mut bench = Bench::with(Limits {
        connections_per_source_site: 1,
        ..Limits::default()
    });
    for position in 0..100 {
        let new = NewRecipient {
            position: position * 8,
            number: 0,
            pool: TX,
            domain: "example.com",
            server: 1,
            accepted_at: START - 3600 * SECOND,
            attempts: 3,
            next_attempt: START,
        };
        bench.scheduler.insert(START, new);
    }
    for position in 100..110 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    let mut fresh = 0;
    for _ in 0..10 {
        let given = only_given(&bench.work());
        fresh += usize::from(given.recipients[0].0 >= 800);
        bench.delivered(&given);
    }
    assert_eq!(fresh, 5);
}

#[test]
fn retry_now_wakes_what_is_deferred_once() {
    let mut bench = Bench::new();
    for position in 0..5 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    let mut deferred = 0;
    while deferred < 5 {
        for given in all_given(&bench.work_until(bench.now + SECOND)) {
            bench.deferred(&given);
            deferred += given.recipients.len();
        }
    }
    let affected = bench.scheduler.retry_now(
        bench.now,
        Selection::Recipient {
            position: 8,
            number: 0,
        },
    );
    assert_eq!(
        affected,
        Affected {
            deferred: 1,
            ..Affected::default()
        }
    );
    let one = only_given(&bench.work());
    assert_eq!(one.recipients, [(8, 0)]);
    bench.deferred(&one);
    let affected = bench
        .scheduler
        .retry_now(bench.now, Selection::Domain("example.com"));
    assert_eq!(affected.deferred, 5);
    let mut again = Vec::new();
    for _ in 0..5 {
        for given in all_given(&bench.work()) {
            bench.deferred(&given);
            again.extend(given.recipients);
        }
    }
    again.sort_unstable();
    assert_eq!(again, [0, 8, 16, 24, 32].map(|position| (position, 0)));
}

#[test]
fn a_retry_now_ends_the_back_off_of_the_site() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let first = only_given(&bench.work());
    bench.failed(&first, Scope::Site);
    assert!(bench.work().is_empty());
    bench.scheduler.retry_now(bench.now, Selection::All);
    assert_eq!(only_given(&bench.work()).recipients, [(8, 0)]);
}

#[test]
fn what_an_operator_withdraws_leaves_once_and_what_is_in_flight_ends_as_its_attempt_says() {
    let mut bench = Bench::with(Limits {
        connections_per_source_site: 2,
        ..Limits::default()
    });
    for position in 0..6 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    let in_flight = all_given(&bench.work());
    assert_eq!(in_flight.len(), 2);
    let verb = Selection::Message { position: 16 };
    assert_eq!(
        bench
            .scheduler
            .withdraw(bench.now, verb, Withdrawal::Bounce)
            .ready,
        1
    );
    assert_eq!(
        bench
            .scheduler
            .withdraw(bench.now, verb, Withdrawal::Bounce)
            .total(),
        0
    );
    assert!(matches!(
        bench.work()[..],
        [Work::Withdrawn {
            position: 16,
            how: Withdrawal::Bounce,
            ..
        }]
    ));
    let affected = bench.scheduler.withdraw(
        bench.now,
        Selection::Domain("example.com"),
        Withdrawal::Cancel,
    );
    assert_eq!(
        affected,
        Affected {
            ready: 3,
            deferred: 0,
            in_flight: 2
        }
    );
    assert_eq!(bench.work().len(), 3);
    bench.delivered(&in_flight[0]);
    bench.deferred(&in_flight[1]);
    let work = bench.work();
    assert!(
        matches!(
            work[..],
            [Work::Withdrawn {
                attempts: 1,
                how: Withdrawal::Cancel,
                ..
            }]
        ),
        "{work:?}"
    );
    assert_eq!(bench.scheduler.counts().total(), 0);
}

#[test]
fn a_message_cancelled_in_flight_is_not_tried_again() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let given = only_given(&bench.work());
    let verb = Selection::Recipient {
        position: 8,
        number: 0,
    };
    assert_eq!(
        bench
            .scheduler
            .withdraw(bench.now, verb, Withdrawal::Cancel)
            .in_flight,
        1
    );
    let place = bench.scheduler.explain_message(8)[0].place;
    assert!(matches!(place, Place::InFlight { session, .. } if session == given.session));
    bench.deferred(&given);
    assert!(matches!(
        bench.work()[..],
        [Work::Withdrawn { position: 8, .. }]
    ));
}

#[test]
fn a_million_recipients_of_one_queue_take_32_bytes_each_and_little_more() {
    const MILLION: usize = 1_000_000;
    let check = |next_attempt: UnixMs, counts: (usize, usize, usize)| {
        let mut scheduler = Scheduler::new(pools(), Limits::default(), 1);
        for position in 0..MILLION as u64 {
            let new = NewRecipient {
                position: position * 8,
                number: 0,
                pool: BULK,
                domain: "example.com",
                server: 1,
                accepted_at: START,
                attempts: u16::from(next_attempt > START),
                next_attempt: next_attempt.max(START)
                    + position * 7919 % 60_000 * u64::from(next_attempt > START),
            };
            scheduler.insert(START, new);
        }
        let is = scheduler.counts();
        assert_eq!((is.ready, is.deferred, is.in_flight), counts);
        let each = scheduler.memory_bytes() as f64 / MILLION as f64;
        assert!(each <= 40.0, "{each} bytes");
        let found = scheduler.explain_message(777_777 * 8);
        assert_eq!(found.len(), 1);
        scheduler
    };
    check(START, (MILLION, 0, 0));
    let mut scheduler = check(START + DAY, (0, MILLION, 0));
    let affected = scheduler.withdraw(START, Selection::All, Withdrawal::Cancel);
    assert_eq!(affected.deferred, MILLION);
    let mut left = 0;
    while scheduler.poll(START).is_some() {
        left += 1;
    }
    assert_eq!(left, MILLION);
    assert!(scheduler.memory_bytes() < 1_000_000, "memory is given back");
}

#[test]
fn a_hundred_thousand_domains_are_asked_for_a_few_at_a_time_and_forgotten_when_done() {
    let mut bench = Bench::new();
    for position in 0..100_000u64 {
        bench.insert(BULK, &format!("d{position}.test"), position * 8, 0);
    }
    let mut asked = 0;
    while let Some(Work::Resolve { .. }) = bench.scheduler.poll(START) {
        asked += 1;
    }
    assert_eq!(
        asked, 192,
        "a quarter of the look-ups is kept for transactional pools"
    );
    let each = bench.scheduler.memory_bytes() / 100_000;
    assert!(each < 400, "{each} bytes per domain");
    bench
        .scheduler
        .withdraw(START, Selection::Pool(BULK), Withdrawal::Cancel);
    let mut left = 0;
    while bench.scheduler.poll(START).is_some() {
        left += 1;
    }
    assert_eq!(left, 100_000);
    assert_eq!(
        bench.scheduler.queues(),
        192,
        "those whose answer is awaited"
    );
}

/// What the model knows of one recipient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    /// Waits; not to be handed out before.
    Waiting {
        from: UnixMs,
    },
    InFlight {
        session: SessionId,
    },
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Recipient {
    is: Is,
    expires: UnixMs,
    attempts: u16,
    pool: PoolId,
    domain: u8,
}

#[derive(Clone, Debug)]
enum Action {
    Insert {
        bulk: bool,
        domain: u8,
        recipients: u8,
        age_s: u64,
        wait_s: u64,
    },
    Advance {
        ms: u64,
    },
    /// Takes so much work at most.
    Poll {
        count: u8,
    },
    Route {
        which: u8,
        answer: u8,
    },
    Report {
        which: u8,
        dispositions: u8,
        state: u8,
        named: bool,
    },
    Verb {
        verb: u8,
        selection: u8,
        which: u8,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let insert = (any::<bool>(), 0..6u8, 1..5u8, 0..300u64, 0..60u64).prop_map(
        |(bulk, domain, recipients, age_s, wait_s)| Action::Insert {
            bulk,
            domain,
            recipients,
            age_s,
            wait_s: wait_s.saturating_sub(40),
        },
    );
    let report = (any::<u8>(), any::<u8>(), 0..6u8, any::<bool>()).prop_map(
        |(which, dispositions, state, named)| Action::Report {
            which,
            dispositions,
            state,
            named,
        },
    );
    prop_oneof![
        4 => insert,
        2 => (0..40_000u64).prop_map(|ms| Action::Advance { ms }),
        6 => (1..40u8).prop_map(|count| Action::Poll { count }),
        3 => (any::<u8>(), 0..8u8).prop_map(|(which, answer)| Action::Route { which, answer }),
        8 => report,
        1 => (0..4u8, 0..5u8, any::<u8>())
            .prop_map(|(verb, selection, which)| Action::Verb { verb, selection, which }),
    ]
}

/// The engine beside a map of what each recipient must be.
struct Model {
    scheduler: Scheduler,
    now: UnixMs,
    recipients: BTreeMap<(u64, u16), Recipient>,
    positions: u64,
    sessions: BTreeMap<SessionId, Vec<(u64, u16)>>,
    idle: BTreeMap<SessionId, bool>,
    asked: Vec<QueueId>,
}

const MODEL_AGE_S: u64 = 400;
const MODEL_CONNECTIONS: usize = 6;

impl Model {
    fn new() -> Self {
        let mut pools = pools();
        for pool in &mut pools {
            pool.retry.first = Duration::from_secs(10);
            pool.retry.max_age = Duration::from_secs(MODEL_AGE_S);
        }
        let limits = Limits {
            connections_per_source_site: 2,
            connections: MODEL_CONNECTIONS,
            messages_per_connection: 5,
            recipients_per_transaction: 3,
            resolves: 4,
            ..Limits::default()
        };
        Self {
            scheduler: Scheduler::new(pools, limits, 3),
            now: START,
            recipients: BTreeMap::new(),
            positions: 0,
            sessions: BTreeMap::new(),
            idle: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn apply(&mut self, action: &Action) {
        match *action {
            Action::Insert {
                bulk,
                domain,
                recipients,
                age_s,
                wait_s,
            } => self.insert(PoolId(bulk.into()), domain, recipients, age_s, wait_s),
            Action::Advance { ms } => self.now += ms,
            Action::Poll { count } => {
                for _ in 0..count {
                    if let Some(work) = self.scheduler.poll(self.now) {
                        self.take(work);
                    }
                }
            }
            Action::Route { which, answer } => self.route(which, answer),
            Action::Report {
                which,
                dispositions,
                state,
                named,
            } => self.report(which, dispositions, state, named),
            Action::Verb {
                verb,
                selection,
                which,
            } => self.verb(verb, selection, which),
        }
        self.scheduler.check();
        let live = self.recipients.values().filter(|r| r.is != Is::Ended);
        assert_eq!(live.count(), self.left(), "live recipients");
    }

    /// Live recipients by the engine's account: those of ended queues are counted by state until they are handed out.
    fn left(&self) -> usize {
        self.scheduler.counts().total()
    }

    fn insert(&mut self, pool: PoolId, domain: u8, recipients: u8, age_s: u64, wait_s: u64) {
        self.positions += 8;
        let accepted_at = self.now - age_s * SECOND;
        let from = self.now + wait_s * SECOND;
        for number in 0..u16::from(recipients) {
            let new = NewRecipient {
                position: self.positions,
                number,
                pool,
                domain: &format!("d{domain}.test"),
                server: 1,
                accepted_at,
                attempts: 0,
                next_attempt: from,
            };
            self.scheduler.insert(self.now, new);
            let recipient = Recipient {
                is: Is::Waiting { from },
                expires: accepted_at + MODEL_AGE_S * SECOND,
                attempts: 0,
                pool,
                domain,
            };
            self.recipients.insert((self.positions, number), recipient);
        }
    }

    fn end(&mut self, key: (u64, u16), attempts: u16) -> Recipient {
        let recipient = self.recipients.get_mut(&key).unwrap();
        assert!(
            matches!(recipient.is, Is::Waiting { .. }),
            "{key:?} {recipient:?}"
        );
        assert_eq!(recipient.attempts, attempts);
        recipient.is = Is::Ended;
        *recipient
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Resolve { queue, .. } => {
                assert!(!self.asked.contains(&queue));
                self.asked.push(queue);
                assert!(self.asked.len() <= 4);
            }
            Work::Open {
                session,
                pool,
                source,
                first,
                ..
            } => {
                assert_eq!(
                    pool == TX,
                    source == SourceId(0),
                    "a source of another pool"
                );
                assert!(!self.sessions.contains_key(&session));
                self.begin(session, first);
                assert!(self.sessions.len() <= MODEL_CONNECTIONS);
            }
            Work::Deliver { session, batch } => {
                assert_eq!(self.idle.get(&session), Some(&true));
                self.begin(session, batch);
            }
            Work::Close { session } => {
                assert_eq!(self.idle.insert(session, false), Some(true));
            }
            Work::Expire {
                position,
                number,
                attempts,
            } => {
                let ended = self.end((position, number), attempts);
                assert!(ended.expires <= self.now, "expired too early");
            }
            Work::Unroutable {
                position,
                number,
                attempts,
                ..
            }
            | Work::Withdrawn {
                position,
                number,
                attempts,
                ..
            } => {
                self.end((position, number), attempts);
            }
        }
    }

    fn begin(&mut self, session: SessionId, batch: Batch) {
        assert!((1..=3).contains(&batch.recipients.len()));
        let mut keys = Vec::new();
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            let recipient = self.recipients.get_mut(&key).unwrap();
            assert!(
                matches!(recipient.is, Is::Waiting { from } if from <= self.now),
                "{recipient:?}"
            );
            assert!(recipient.expires + 64 > self.now, "{key:?} is too old");
            assert_eq!(
                (recipient.attempts, recipient.pool),
                (given.attempts, batch.pool)
            );
            recipient.is = Is::InFlight { session };
            keys.push(key);
        }
        self.idle.insert(session, false);
        self.sessions.insert(session, keys);
    }

    fn route(&mut self, which: u8, answer: u8) {
        if self.asked.is_empty() {
            return;
        }
        let queue = self.asked.remove(which as usize % self.asked.len());
        let answer = match answer {
            0 => RouteAnswer::Refused { cause: cause("no") },
            1 => RouteAnswer::Defer {
                cause: cause("later"),
            },
            key => RouteAnswer::Site {
                key: format!("s{}", key % 3).into(),
                valid_until: self.now + 30 * SECOND,
            },
        };
        self.scheduler.routed(self.now, queue, answer);
    }

    fn report(&mut self, which: u8, dispositions: u8, state: u8, named: bool) {
        let Some(session) = self
            .sessions
            .keys()
            .copied()
            .nth(which as usize % self.sessions.len().max(1))
        else {
            return;
        };
        let keys = std::mem::take(self.sessions.get_mut(&session).unwrap());
        let mut results = Vec::new();
        for (place, &key) in keys.iter().enumerate() {
            let recipient = self.recipients.get_mut(&key).unwrap();
            assert_eq!(recipient.is, Is::InFlight { session });
            let disposition = match dispositions >> (2 * place) & 3 {
                0 => Disposition::NotAttempted,
                1 => Disposition::Retry { not_before: None },
                2 => Disposition::Retry {
                    not_before: Some(self.now + 50 * SECOND),
                },
                _ => Disposition::Terminal,
            };
            if disposition == Disposition::NotAttempted && !named {
                // Left out: means the same.
            } else {
                results.push((key.0, key.1, disposition));
            }
            recipient.is = match disposition {
                Disposition::Terminal => Is::Ended,
                Disposition::NotAttempted => Is::Waiting { from: self.now },
                Disposition::Retry { not_before } => {
                    recipient.attempts += 1;
                    let wait = (8 * SECOND) << (recipient.attempts - 1).min(8);
                    let from = (self.now + wait.min(2880 * SECOND)).max(not_before.unwrap_or(0));
                    Is::Waiting { from }
                }
            };
        }
        let state = match state {
            0 => SessionState::Closed {
                site_failure: Some(Scope::Site),
            },
            1 => SessionState::Closed {
                site_failure: Some(Scope::SiteFromSource),
            },
            2 => SessionState::Closed { site_failure: None },
            _ => SessionState::Idle,
        };
        // A session that was told to close says that it did; one without work may close or say nothing new.
        if state == SessionState::Idle && !keys.is_empty() {
            self.idle.insert(session, true);
        }
        if state != SessionState::Idle {
            self.sessions.remove(&session);
            self.idle.remove(&session);
        }
        self.scheduler.report(self.now, session, &results, state);
    }

    fn verb(&mut self, verb: u8, selection: u8, which: u8) {
        let domain = format!("d{}.test", which % 6);
        let position = u64::from(which) * 8 % (self.positions + 8);
        let selection = match selection {
            0 => Selection::All,
            1 => Selection::Pool(BULK),
            2 => Selection::Domain(&domain),
            3 => Selection::Message { position },
            _ => Selection::Recipient {
                position,
                number: 1,
            },
        };
        match verb {
            0 => drop(
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Cancel),
            ),
            1 => drop(
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Bounce),
            ),
            _ => {
                self.scheduler.retry_now(self.now, selection);
                for (key, recipient) in &mut self.recipients {
                    let meant = match selection {
                        Selection::All => true,
                        Selection::Pool(pool) => recipient.pool == pool,
                        Selection::Domain(_) => recipient.domain == which % 6,
                        Selection::Message { position } => key.0 == position,
                        Selection::Recipient { position, number } => *key == (position, number),
                    };
                    if let (true, Is::Waiting { from }) = (meant, &mut recipient.is) {
                        *from = 0;
                    }
                }
            }
        }
    }

    /// From here on everything answers, and all mail is delivered or ends.
    fn drain(&mut self) {
        // The longest memory is that of a site's failures.
        let end = self.now + 2 * MODEL_AGE_S * SECOND + DAY / 12;
        for _ in 0..100_000 {
            while let Some(work) = self.scheduler.poll(self.now) {
                self.take(work);
            }
            for queue in std::mem::take(&mut self.asked) {
                let answer = RouteAnswer::Site {
                    key: "s".into(),
                    valid_until: self.now + DAY,
                };
                self.scheduler.routed(self.now, queue, answer);
            }
            for (session, keys) in self.sessions.clone() {
                let results: Vec<_> = keys
                    .iter()
                    .map(|key| (key.0, key.1, Disposition::Terminal))
                    .collect();
                for key in &keys {
                    self.recipients.get_mut(key).unwrap().is = Is::Ended;
                }
                self.sessions.remove(&session);
                self.idle.remove(&session);
                let state = SessionState::Closed { site_failure: None };
                self.scheduler.report(self.now, session, &results, state);
            }
            match self.scheduler.poll_timeout() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.scheduler.check();
        assert_eq!(self.left(), 0, "recipients left behind");
        assert!(self.recipients.values().all(|r| r.is == Is::Ended));
        assert_eq!(
            (self.scheduler.queues(), self.scheduler.sites()),
            (0, 0),
            "forgotten when done"
        );
        assert_eq!(
            self.scheduler.poll_timeout(),
            None,
            "nothing is left to wake for"
        );
    }
}

/// Few enough for each build; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: each recipient is where the model says, is handed out only when it may be,
    /// and ends exactly once.
    #[test]
    fn every_recipient_is_in_one_state_and_ends_once(actions in prop::collection::vec(action(), 1..200)) {
        let mut model = Model::new();
        for action in &actions {
            model.apply(action);
        }
        model.drain();
    }
}
