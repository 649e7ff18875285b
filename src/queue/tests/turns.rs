//! Who goes first: kinds of mail, pools, sources, queues, new and deferred recipients.

use super::*;

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
            flow: FLOW,
            message: position * 8,
            tag: None,
            accepted_at: START - 3600 * SECOND,
            life: Default::default(),
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
