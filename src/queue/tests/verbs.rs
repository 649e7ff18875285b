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

fn suspend(id: u32, filter: Filter, until: Option<UnixMs>) -> Directive {
    Directive {
        id,
        filter,
        what: Standing::Suspend,
        until,
    }
}

#[test]
fn a_suspension_stops_what_waits_and_what_comes_but_nobody_else_and_no_age_limit() {
    let mut bench = Bench::new();
    bench.insert(TX, "held.test", 8, 0);
    let filter = Filter {
        domain: Some("held.test".into()),
        ..Filter::default()
    };
    bench
        .scheduler
        .direct(bench.now, suspend(1, filter, Some(bench.now + 3 * DAY)));
    bench.insert(TX, "held.test", 16, 0);
    bench.insert(TX, "free.test", 24, 0);
    assert_eq!(only_given(&bench.work()).recipients, [(24, 0)]);
    let row = &bench.scheduler.explain_domain("held.test")[0];
    let until = Some(bench.now + 3 * DAY);
    let directive = 1;
    assert_eq!(row.reasons, [Reason::Suspended { directive, until }]);
    // The pool's age limit is two days.
    bench.now += 2 * DAY + SECOND;
    let mut expired = Vec::new();
    for work in bench.work() {
        if let Work::Expire { position, .. } = work {
            expired.push(position);
        }
    }
    assert_eq!(expired, [8, 16]);
    bench.insert(TX, "held.test", 32, 0);
    assert!(bench.work().is_empty());
    bench.now += DAY;
    assert_eq!(only_given(&bench.work()).recipients, [(32, 0)]);
}

#[test]
fn a_site_that_is_suspended_keeps_its_mail_from_bouncing_and_lets_it_go_when_it_moves() {
    let mut bench = Bench::new();
    bench.site_of = |_| None;
    let filter = Filter {
        site: Some("mx.test".into()),
        ..Filter::default()
    };
    bench.scheduler.direct(bench.now, suspend(1, filter, None));
    bench.insert(TX, "a.test", 8, 0);
    assert!(bench.work().is_empty());
    let queue = bench.unanswered.pop().unwrap();
    bench.route(queue, "mx.test", 60 * SECOND);
    assert!(bench.work().is_empty());
    // The route is asked for again; no answer leads elsewhere, and nothing bounces.
    bench.now += 61 * SECOND;
    assert!(bench.work().is_empty());
    let queue = bench.unanswered.pop().unwrap();
    let cause = cause("null MX");
    let answer = RouteAnswer::Refused { cause };
    bench.scheduler.routed(bench.now, queue, answer);
    assert!(bench.work().is_empty());
    bench.now += DAY / 24;
    assert!(bench.work().is_empty());
    let queue = bench.unanswered.pop().unwrap();
    bench.route(queue, "other.test", DAY);
    assert_eq!(only_given(&bench.work()).recipients, [(8, 0)]);
}

#[test]
fn a_reroute_takes_what_waits_and_what_comes_and_gives_it_back_at_its_end() {
    let mut all = pools();
    all.push(all[1].clone());
    all[2].sources = vec![(SourceId(7), 1)];
    let mut bench = Bench::new();
    bench.scheduler = Scheduler::new(all, Limits::default(), 1);
    bench.site_of = |_| None;
    for position in [8, 16] {
        bench.insert(BULK, "a.test", position, 0);
    }
    bench.insert(TX, "a.test", 24, 0);
    let to = PoolId(2);
    let filter = Filter {
        domain: Some("a.test".into()),
        ..Filter::default()
    };
    let directive = Directive {
        id: 4,
        filter: filter.clone(),
        what: Standing::Reroute { to },
        until: None,
    };
    bench.scheduler.direct(bench.now, directive);
    let (affected, done) =
        bench
            .scheduler
            .walk_queues(bench.now, &filter, &Act::Obey(4), &mut Walk::default());
    assert!(done);
    assert_eq!(affected.ready, 2, "the transactional one is not meant");
    bench.insert(BULK, "a.test", 32, 0);
    bench.work();
    assert_eq!(bench.scheduler.pool_counts(to).ready, 3);
    assert_eq!(bench.scheduler.pool_counts(TX).ready, 1);
    let rows = bench.scheduler.explain_domain("a.test");
    let home = BULK;
    let reason = Reason::Rerouted { directive: 4, home };
    assert!(rows.last().unwrap().reasons.contains(&reason));
    assert!(bench.scheduler.end_directive(bench.now, 4));
    bench.work();
    assert_eq!(bench.scheduler.pool_counts(to).ready, 0);
    assert_eq!(bench.scheduler.pool_counts(BULK).ready, 3);
}

#[test]
fn a_reroute_of_a_site_waits_for_the_route_and_keeps_its_mail_until_another_route_leads_elsewhere()
{
    let mut all = pools();
    all.push(all[1].clone());
    all[2].sources = vec![(SourceId(7), 1)];
    let mut bench = Bench::new();
    bench.scheduler = Scheduler::new(all, Limits::default(), 1);
    let to = PoolId(2);
    let filter = Filter {
        site: Some("mx.test".into()),
        ..Filter::default()
    };
    let directive = Directive {
        id: 1,
        filter,
        what: Standing::Reroute { to },
        until: None,
    };
    bench.scheduler.direct(bench.now, directive);
    bench.site_of = |domain| Some(domain.replace("a.test", "mx.test"));
    bench.insert(BULK, "a.test", 8, 0);
    bench.insert(BULK, "b.test", 16, 0);
    let mut pools = Vec::new();
    for work in bench.work() {
        if let Work::Open { pool, first, .. } = work {
            pools.push((pool, first.position));
        }
    }
    pools.sort_unstable();
    assert_eq!(pools, [(BULK, 16), (to, 8)]);
}

#[test]
fn mail_that_two_directives_set_aside_is_held_until_both_have_ended() {
    let mut bench = Bench::new();
    bench.insert(TX, "a.test", 8, 0);
    let by_message = Filter {
        message: Some(8),
        ..Filter::default()
    };
    let by_tag = Filter {
        tag: Some("news".into()),
        ..Filter::default()
    };
    let now = bench.now;
    let scheduler = &mut bench.scheduler;
    scheduler.direct(now, suspend(1, by_message.clone(), None));
    let mut affected = Affected::default();
    let who = scheduler.candidates_at(8, &by_message)[0];
    assert!(scheduler.apply(now, who, &Act::Obey(1), &mut affected));
    scheduler.direct(now, suspend(2, by_tag.clone(), None));
    let freed = Filter {
        set_aside: Some(1),
        ..by_tag
    };
    let (all, _) = scheduler.walk_recipients(&freed, &mut Walk::default());
    assert!(
        !scheduler.apply(now, who, &Act::Obey(2), &mut affected),
        "it has moved in memory"
    );
    assert!(scheduler.apply(now, all[0], &Act::Obey(2), &mut affected));
    assert_eq!(affected.ready, 1, "the first one has it");
    assert!(scheduler.apply(now, all[0], &Act::ObeyInstead(2), &mut affected));
    assert!(scheduler.end_directive(now, 1));
    assert!(bench.work().is_empty());
    assert!(bench.scheduler.end_directive(now, 2));
    assert_eq!(only_given(&bench.work()).recipients, [(8, 0)]);
}
