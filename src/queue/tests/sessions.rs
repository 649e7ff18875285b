//! How recipients reach sessions: batches, reuse, limits, idle time.

use super::*;

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

/// Three sessions are at their limit; one of them has shown that it takes a batch behind another.
#[test]
fn a_second_batch_goes_ahead_only_where_a_session_takes_it_and_more_wait_than_sessions() {
    let limits = Limits {
        connections_per_source_site: 3,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits);
    for position in 0..10 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    let first = all_given(&bench.work());
    assert_eq!(first.len(), 3);
    let (able, now) = (first[0].session, bench.now);
    bench.scheduler.runs_ahead(now, able);
    assert!(
        all_given(&bench.work()).is_empty(),
        "it has answered nothing yet"
    );
    bench.delivered(&first[0]);
    let given = all_given(&bench.work());
    assert_eq!(given.len(), 2);
    assert!(
        given
            .iter()
            .all(|g| g.session == able && g.opened_from.is_none())
    );
    assert_eq!(bench.counts(), (5, 0, 4));

    // Its batches end in their order.
    bench.delivered(&given[0]);
    let third = only_given(&bench.work());
    assert_eq!(third.session, able);
    // Of what is left, each session can take one next: nothing is bound to the slowest of them.
    bench.delivered(&given[1]);
    let fourth = only_given(&bench.work());
    assert_eq!((fourth.session, bench.counts()), (able, (3, 0, 4)));
    bench.delivered(&third);
    assert!(all_given(&bench.work()).is_empty());

    // Gone with two batches: both are ready again, whatever the report names.
    bench.insert(TX, "example.com", 88, 0);
    let last = only_given(&bench.work());
    assert_eq!(last.session, able);
    let before = bench.counts();
    let closed = SessionState::Closed { site_failure: None };
    bench.scheduler.report(bench.now, able, &[], closed);
    bench.scheduler.check();
    assert_eq!(bench.counts(), (before.0 + 2, 0, before.2 - 2));
}

#[test]
fn a_batch_that_did_not_reach_its_session_comes_back_and_the_one_before_it_stays() {
    let limits = Limits {
        connections_per_source_site: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits);
    for position in 0..9 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    let first = only_given(&bench.work());
    bench.delivered(&first);
    bench.scheduler.runs_ahead(bench.now, first.session);
    let given = all_given(&bench.work());
    assert_eq!(given.len(), 2);
    bench.scheduler.not_delivered(bench.now, first.session);
    bench.scheduler.check();
    assert_eq!(bench.counts(), (7, 0, 1));
    bench.report(
        &given[0],
        Disposition::Terminal,
        SessionState::Closed { site_failure: None },
    );
    assert_eq!(bench.counts(), (7, 0, 0));
}
