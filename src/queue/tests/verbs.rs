//! What an operator's verbs do.

use super::*;

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
