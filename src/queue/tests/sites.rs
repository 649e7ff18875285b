//! Trouble that belongs to a site, a source or a look-up, and wakes nobody one by one.

use super::*;

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
    for position in 0..200 {
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
