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
            retry: None,
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
            tag: None,
            accepted_at,
            life: Default::default(),
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
            tag: None,
            accepted_at: old,
            life: Default::default(),
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

/// Inserts a recipient with bounds of its own.
fn insert_with(bench: &mut Bench, domain: &str, position: u64, life: Life) {
    let new = NewRecipient {
        position,
        number: 0,
        pool: TX,
        domain,
        flow: FLOW,
        message: position,
        tag: None,
        accepted_at: bench.now,
        life,
        attempts: 0,
        next_attempt: bench.now,
    };
    bench.scheduler.insert(bench.now, new);
}

pub(super) fn expired(work: &[Work]) -> Vec<u64> {
    let position = |work: &Work| match work {
        Work::Expire { position, .. } => Some(*position),
        _ => None,
    };
    let mut positions: Vec<u64> = work.iter().filter_map(position).collect();
    positions.sort_unstable();
    positions
}

#[test]
fn a_deadline_ends_a_recipient_in_every_state_and_in_flight_as_soon_as_its_attempt_fails() {
    let mut bench = Bench::new();
    bench.site_of = |domain| (domain != "unanswered.test").then(|| domain.to_owned());
    let life = Life {
        deadline: Some(START + 20 * SECOND),
        ..Life::default()
    };
    for (position, domain) in [
        (0, "deferred.test"),
        (8, "unanswered.test"),
        (16, "refusing.test"),
        (24, "in-flight.test"),
        (32, "free.test"),
    ] {
        let life = if position == 32 {
            Life::default()
        } else {
            life
        };
        insert_with(&mut bench, domain, position, life);
    }
    let given = all_given(&bench.work());
    let of = |position: u64| {
        let is_it = |g: &&Given| g.recipients[0].0 == position;
        given.iter().find(is_it).unwrap()
    };
    // Not before in an hour, were there no deadline.
    let later = Disposition::Retry {
        not_before: Some(START + 3600 * SECOND),
        retry: None,
    };
    bench.report(of(0), later, SessionState::Idle);
    bench.failed(of(16), Scope::Site);
    bench.now = START + 20 * SECOND - 1;
    assert_eq!(expired(&bench.work()), [0_u64; 0]);
    bench.now = START + 20 * SECOND + 128;
    assert_eq!(expired(&bench.work()), [0, 8, 16]);
    bench.report(of(24), later, SessionState::Idle);
    bench.report(of(32), later, SessionState::Idle);
    assert_eq!(expired(&bench.work()), [24]);
    assert_eq!(bench.counts(), (0, 1, 0));
}

#[test]
fn what_is_scheduled_waits_for_its_time_unless_it_is_named_and_its_age_counts_from_then() {
    const DAYS: u64 = 10 * DAY;
    let mut bench = Bench::new();
    let life = Life {
        max_age: Some(Duration::from_secs(3600)),
        release_at: Some(START + DAYS),
        ..Life::default()
    };
    for position in [0, 8, 16] {
        insert_with(&mut bench, "example.com", position, life);
    }
    let row = |bench: &Bench| bench.scheduler.explain_domain("example.com").remove(0);
    assert_eq!((row(&bench).deferred, row(&bench).scheduled), (3, 3));
    assert_eq!(
        row(&bench).oldest_accepted,
        None,
        "what is not known is not made up"
    );
    let explained = bench.scheduler.explain_message(8).remove(0);
    assert!(
        matches!(explained.reasons[..], [Reason::Scheduled { until }] if (START + DAYS..START + DAYS + 64).contains(&until)),
        "{explained:?}"
    );
    // Everything at once is not this; its own name is.
    bench.scheduler.retry_now(bench.now, Selection::All);
    assert!(bench.work().is_empty());
    bench
        .scheduler
        .retry_now(bench.now, Selection::Message { position: 8 });
    let given = only_given(&bench.work());
    assert_eq!(given.recipients, [(8, 0)]);
    bench.delivered(&given);
    bench.scheduler.withdraw(
        bench.now,
        Selection::Message { position: 16 },
        Withdrawal::Cancel,
    );
    assert!(matches!(
        bench.work()[..],
        [Work::Withdrawn { position: 16, .. }]
    ));
    // Ten days later its life begins.
    bench.now = START + DAYS - 1;
    assert!(all_given(&bench.work()).is_empty());
    bench.now = START + DAYS + 64;
    let given = all_given(&bench.work());
    assert_eq!(given[0].recipients, [(0, 0)]);
    bench.deferred(&given[0]);
    bench.now = START + DAYS + 3600 * SECOND - 1;
    for given in all_given(&bench.work()) {
        bench.deferred(&given);
    }
    assert_eq!(bench.counts().1, 1);
    bench.now = START + DAYS + 3600 * SECOND + 128;
    assert_eq!(expired(&bench.work()), [0]);
}

#[test]
fn a_restart_keeps_deadline_and_release_to_the_moment() {
    let mut bench = Bench::new();
    let take_over = |bench: &mut Bench, position, accepted_at, attempts, life| {
        let new = NewRecipient {
            position,
            number: 0,
            pool: TX,
            domain: &format!("d{position}.test"),
            flow: FLOW,
            message: position,
            tag: None,
            accepted_at,
            life,
            attempts,
            next_attempt: START + 5 * SECOND,
        };
        bench.scheduler.take_over(START, new);
    };
    let deadline = |at| Life {
        deadline: Some(at),
        ..Life::default()
    };
    // Its deadline passed while the node was down: no grace, though its age would have some.
    take_over(&mut bench, 0, START - 30 * DAY, 1, deadline(START - SECOND));
    take_over(
        &mut bench,
        8,
        START - 30 * DAY,
        1,
        deadline(START + 20 * SECOND),
    );
    // Released in three days, longer than any deferral.
    let scheduled = Life {
        release_at: Some(START + 3 * DAY),
        ..Life::default()
    };
    take_over(&mut bench, 16, START - 30 * DAY, 0, scheduled);
    // Released long ago, and deferred since: what the event said counts.
    let released = Life {
        release_at: Some(START - SECOND),
        ..Life::default()
    };
    take_over(&mut bench, 24, START - 30 * DAY, 2, released);
    assert_eq!(expired(&bench.work()), [0]);
    bench.now = START + 5 * SECOND + 64;
    let given = all_given(&bench.work());
    let mut positions: Vec<u64> = given.iter().map(|g| g.recipients[0].0).collect();
    positions.sort_unstable();
    assert_eq!(positions, [8, 24]);
    let held = Disposition::Retry {
        not_before: Some(START + 2 * DAY),
        retry: None,
    };
    for given in &given {
        bench.report(given, held, SessionState::Idle);
    }
    bench.now = START + 20 * SECOND + 128;
    assert_eq!(expired(&bench.work()), [8]);
    let place = bench.scheduler.explain_message(16)[0].place;
    assert!(
        matches!(place, Place::Deferred { next_attempt } if (START + 3 * DAY..START + 3 * DAY + 64).contains(&next_attempt)),
        "{place:?}"
    );
}

#[test]
fn a_stream_has_waits_of_its_own() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let given = only_given(&bench.work());
    let retry = Retry {
        first: Duration::from_secs(2),
        max: Duration::from_secs(4),
        max_age: Duration::from_secs(60),
    };
    let own = Disposition::Retry {
        not_before: None,
        retry: Some(retry),
    };
    bench.report(&given, own, SessionState::Idle);
    let place = bench.scheduler.explain_message(8)[0].place;
    let Place::Deferred { next_attempt } = place else {
        panic!("{place:?}")
    };
    assert!((START + 1_600..START + 2_500).contains(&next_attempt));
}
