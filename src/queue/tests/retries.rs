//! A recipient over time: waits, times named by a reply, the age limit.

use super::*;

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
fn a_clock_that_was_set_between_two_lives_neither_expires_nor_delays_in_bulk() {
    const AGE: u64 = 172_800 * SECOND;
    const HOUR: u64 = 3600 * SECOND;
    let mut bench = Bench::new();
    bench.site_of = |_| None;
    // Accepted, and next attempt, by the clock of the earlier life.
    let lives = [
        (START - 30 * DAY, START - 30 * DAY),
        (START - AGE + HOUR / 2, START + HOUR / 4),
        (START + 30 * DAY, START + 31 * DAY),
    ];
    for (position, (accepted_at, next_attempt)) in (0..).zip(lives) {
        let new = NewRecipient {
            position,
            number: 0,
            pool: TX,
            domain: "example.net",
            flow: FLOW,
            message: position,
            accepted_at,
            attempts: 1,
            next_attempt,
        };
        bench.scheduler.take_over(START, new);
    }
    let place = |bench: &Bench, position| bench.scheduler.explain_message(position)[0].place;
    assert!(matches!(place(&bench, 0), Place::Ready { .. }));
    let wait = |place| match place {
        Place::Deferred { next_attempt } => next_attempt - START,
        other => panic!("{other:?}"),
    };
    assert!((HOUR / 4..HOUR / 4 + SECOND).contains(&wait(place(&bench, 1))));
    assert!((HOUR..HOUR + SECOND).contains(&wait(place(&bench, 2))));
    // Who has half an hour left keeps that; who is far too old has an hour for an attempt.
    let mut expired_at = |time: u64| {
        bench.now = START + time;
        let position = |work: Work| match work {
            Work::Expire { position, .. } => position,
            other => panic!("{other:?}"),
        };
        bench.work().into_iter().map(position).collect::<Vec<u64>>()
    };
    assert_eq!(expired_at(HOUR / 2 - SECOND), [0; 0]);
    assert_eq!(expired_at(HOUR / 2 + SECOND), [1]);
    assert_eq!(expired_at(HOUR - SECOND), [0; 0]);
    assert_eq!(expired_at(HOUR + SECOND), [0]);
    assert_eq!(expired_at(AGE - SECOND), [0; 0]);
    assert_eq!(expired_at(AGE + SECOND), [2]);
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
            flow: FLOW,
            message: position,
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
