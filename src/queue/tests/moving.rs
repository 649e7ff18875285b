//! What compaction does to recipients: nothing that anybody sees.

use super::super::moving::{MessageAt, Moved};
use super::*;

#[test]
fn a_moved_message_is_handed_out_at_its_new_position_in_every_state() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    bench.insert(TX, "example.org", 8, 1);
    bench.insert(TX, "example.com", 16, 0);
    let given = bench.work_until(bench.now);
    let first = all_given(&given);
    bench.deferred(&first[0]);
    let at = |position, recipients, in_flight| MessageAt {
        position,
        recipients,
        in_flight,
    };
    let messages = bench.scheduler.messages_in(0..100);
    assert_eq!(messages.iter().map(|m| m.recipients).sum::<u32>(), 3);
    let in_flight = messages[0].in_flight;
    let moved = bench.scheduler.moved(8, 1_000);
    assert_eq!(
        (moved.recipients + moved.in_flight, moved.in_flight),
        (2, in_flight)
    );
    bench.scheduler.check();
    // What is in flight is reported where it was taken.
    for given in &first[1..] {
        bench.deferred(given);
    }
    let moved = bench.scheduler.moved(8, 1_000);
    assert_eq!(moved.in_flight, 0);
    assert_eq!(bench.scheduler.moved(8, 1_000), Moved::default());
    assert_eq!(bench.scheduler.messages_in(0..10), []);
    assert_eq!(bench.scheduler.messages_in(1_000..1_001), [at(1_000, 2, 0)]);
    let mut ended = Vec::new();
    while bench.scheduler.counts().total() > 0 {
        for given in all_given(&bench.work_until(bench.now + DAY)) {
            ended.extend(given.recipients.clone());
            bench.delivered(&given);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [(16, 0), (1_000, 0), (1_000, 1)]);
}

#[test]
fn verbs_reach_a_message_where_it_is_now() {
    let mut bench = Bench::new();
    bench.site_of = |_| None;
    bench.insert(TX, "example.com", 8, 0);
    bench.scheduler.moved(8, 1_000);
    let verb = |bench: &mut Bench, position| {
        let selection = Selection::Message { position };
        let how = Withdrawal::Cancel;
        bench.scheduler.withdraw(bench.now, selection, how).total()
    };
    assert_eq!((verb(&mut bench, 8), verb(&mut bench, 1_000)), (0, 1));
    let work = bench.work();
    assert!(
        matches!(
            work[..],
            [Work::Withdrawn {
                position: 1_000,
                ..
            }]
        ),
        "{work:?}"
    );
}

#[test]
fn what_an_operator_ended_before_it_moved_ends() {
    let mut bench = Bench::new();
    bench.site_of = |_| None;
    for position in 1..=3 {
        bench.insert(TX, "example.com", position * 8, 0);
    }
    bench
        .scheduler
        .withdraw(bench.now, Selection::All, Withdrawal::Bounce);
    bench.scheduler.moved(16, 1_000);
    let work = bench.work();
    let ended = work.iter().map(|work| match work {
        Work::Withdrawn { position, .. } => *position,
        other => panic!("{other:?}"),
    });
    assert_eq!(ended.collect::<BTreeSet<_>>(), [8, 24, 1_000].into());
}
