//! What its sender does to mail that is not released yet.

use super::retries::expired;
use super::*;
use crate::limits;

const HOUR: u64 = 3_600 * SECOND;

fn scheduled(bench: &mut Bench, position: u64, number: u16) {
    let new = NewRecipient {
        position,
        number,
        pool: TX,
        domain: "example.com",
        flow: FLOW,
        message: position,
        tag: None,
        accepted_at: bench.now,
        life: Life {
            max_age: Some(Duration::from_secs(3_600)),
            release_at: Some(START + 2 * HOUR),
            ..Life::default()
        },
        attempts: 0,
        next_attempt: bench.now,
    };
    bench.scheduler.insert(bench.now, new);
}

fn at(at: UnixMs) -> Release {
    Release {
        at,
        max_age: Duration::from_secs(3_600),
        deadline: None,
    }
}

fn released(work: &[Work]) -> Vec<(u64, u16)> {
    let given = all_given(work);
    given
        .into_iter()
        .flat_map(|given| given.recipients)
        .collect()
}

#[test]
fn a_message_that_is_moved_goes_at_its_new_time_and_its_age_counts_from_then() {
    let mut bench = Bench::new();
    for (position, number) in [(0, 0), (0, 1), (8, 0)] {
        scheduled(&mut bench, position, number);
    }
    assert_eq!(
        bench
            .scheduler
            .scheduled(0)
            .iter()
            .map(|(n, _)| *n)
            .collect::<Vec<_>>(),
        [0, 1]
    );
    let later = at(START + 10 * HOUR);
    assert_eq!(
        bench.scheduler.reschedule(bench.now, 0, later),
        Some(vec![0, 1])
    );
    assert_eq!(bench.counts(), (0, 3, 0));
    bench.now = START + 2 * HOUR + 64;
    let given = all_given(&bench.work());
    assert_eq!(
        given
            .iter()
            .flat_map(|g| g.recipients.clone())
            .collect::<Vec<_>>(),
        [(8, 0)]
    );
    bench.delivered(&given[0]);
    // What was attempted, or is under way, has been released.
    assert_eq!(
        bench.scheduler.reschedule(bench.now, 8, later),
        Some(vec![])
    );
    bench.now = START + 10 * HOUR - 1;
    assert!(released(&bench.work()).is_empty());
    bench.now = START + 10 * HOUR + 64;
    let given = all_given(&bench.work());
    assert_eq!(given[0].recipients, [(0, 0), (0, 1)]);
    assert!(bench.scheduler.scheduled(0).is_empty());
    bench.deferred(&given[0]);
    bench.now = START + 11 * HOUR + 128;
    let mut over = expired(&bench.work());
    over.sort_unstable();
    assert_eq!(over, [0, 0]);
}

#[test]
fn a_message_is_moved_forward_again_and_again_and_goes_once() {
    let mut bench = Bench::new();
    scheduled(&mut bench, 0, 0);
    for minutes in (1..100).rev() {
        let to = at(START + minutes * 60 * SECOND);
        assert_eq!(bench.scheduler.reschedule(bench.now, 0, to), Some(vec![0]));
    }
    assert_eq!(bench.counts(), (0, 1, 0));
    bench.now = START + 60 * SECOND + 64;
    let given = all_given(&bench.work());
    assert_eq!(given[0].recipients, [(0, 0)]);
    bench.delivered(&given[0]);
    bench.now = START + 3 * HOUR;
    assert!(
        bench
            .work()
            .iter()
            .all(|work| matches!(work, Work::Close { .. }))
    );
    // At once.
    scheduled(&mut bench, 8, 0);
    let now = at(bench.now);
    assert_eq!(
        bench.scheduler.reschedule(bench.now, 8, now),
        Some(vec![]),
        "its time has come"
    );
    assert_eq!(released(&bench.work()), [(8, 0)]);
}

#[test]
fn a_message_that_is_recalled_ends_as_its_senders_and_a_deadline_holds_for_a_new_time() {
    let mut bench = Bench::new();
    for (position, number) in [(0, 0), (0, 1), (8, 0)] {
        scheduled(&mut bench, position, number);
    }
    assert_eq!(bench.scheduler.recall(bench.now, 0), [0, 1]);
    assert_eq!(bench.scheduler.recall(bench.now, 0), [0u16; 0]);
    let work = bench.work();
    assert_eq!(work.len(), 2);
    for work in work {
        assert!(
            matches!(
                work,
                Work::Withdrawn {
                    position: 0,
                    how: Withdrawal::Recall,
                    ..
                }
            ),
            "{work:?}"
        );
    }
    let release = Release {
        deadline: Some(START + 5 * HOUR),
        ..at(START + 4 * HOUR + HOUR / 2)
    };
    assert_eq!(
        bench.scheduler.reschedule(bench.now, 8, release),
        Some(vec![0])
    );
    bench.now = START + 4 * HOUR + HOUR / 2 + 64;
    let given = all_given(&bench.work());
    bench.deferred(&given[0]);
    bench.now = START + 5 * HOUR + 128;
    assert_eq!(expired(&bench.work()), [8]);
}

#[test]
fn what_waits_dead_for_its_old_time_is_bounded_and_gone_with_that() {
    const MANY: u16 = 20_000;
    let mut bench = Bench::new();
    for number in 0..MANY {
        scheduled(&mut bench, 0, number);
    }
    let moved = |bench: &mut Bench, minute: u64| {
        let to = at(START + HOUR + minute * 60 * SECOND);
        let moved = bench.scheduler.reschedule(bench.now, 0, to);
        moved.map(|numbers| numbers.len())
    };
    let times = (limits::QUEUE_DEAD_MAX / usize::from(MANY)) as u64;
    for minute in 0..times {
        assert_eq!(moved(&mut bench, minute), Some(MANY.into()), "{minute}");
    }
    assert_eq!(moved(&mut bench, times), None);
    assert_eq!(bench.counts(), (0, MANY.into(), 0));
}
