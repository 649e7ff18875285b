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
