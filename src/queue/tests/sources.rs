//! Sources that operators drain.

use super::*;

const FIRST: SourceId = SourceId(1);
const SECOND_SOURCE: SourceId = SourceId(2);

fn opened_from(work: &[Work]) -> BTreeSet<SourceId> {
    let all = all_given(work);
    all.iter().filter_map(|given| given.opened_from).collect()
}

#[test]
fn a_drained_source_opens_nothing_and_its_mail_goes_by_the_other_until_it_is_back() {
    let mut bench = Bench::new();
    for position in 0..200 {
        bench.insert(BULK, "example.com", position * 8, 0);
    }
    let first = bench.work();
    assert_eq!(opened_from(&first), [FIRST, SECOND_SOURCE].into());
    // One is idle when the order comes, the others are busy.
    let mine = |given: &&Given| given.opened_from == Some(FIRST);
    let all = all_given(&first);
    let busy: Vec<&Given> = all.iter().filter(mine).collect();
    assert!(
        bench
            .scheduler
            .drain_source(START, FIRST, "moving".into(), None)
    );
    bench.scheduler.check();
    for given in &busy {
        bench.delivered(given);
    }
    let work = bench.work();
    let closed = work.iter().filter(|w| matches!(w, Work::Close { .. }));
    assert_eq!(closed.count(), busy.len(), "each ends with what it had");
    assert!(
        all_given(&work)
            .iter()
            .all(|g| g.opened_from != Some(FIRST))
    );
    for given in &busy {
        let closed = SessionState::Closed { site_failure: None };
        bench.scheduler.report(START, given.session, &[], closed);
    }
    // Everything that is left goes by the second one.
    let mut waiting = all_given(&first);
    waiting.retain(|given| given.opened_from == Some(SECOND_SOURCE));
    let mut rounds = 0;
    while bench.counts() != (0, 0, 0) {
        for given in std::mem::take(&mut waiting) {
            bench.delivered(&given);
        }
        let work = bench.work();
        assert!(opened_from(&work).iter().all(|s| *s == SECOND_SOURCE));
        waiting.extend(all_given(&work));
        rounds += 1;
        assert!(rounds < 100);
    }
    assert!(bench.scheduler.resume_source(bench.now, FIRST));
    for position in 200..260 {
        bench.insert(BULK, "example.com", position * 8, 0);
    }
    assert!(opened_from(&bench.work()).contains(&FIRST));
    let changes = bench.scheduler.take_source_changes();
    let told: Vec<_> = changes
        .iter()
        .map(|c| (c.source, c.stop.is_some()))
        .collect();
    assert_eq!(told, [(FIRST, true), (FIRST, false)]);
    assert!(!bench.scheduler.resume_source(bench.now, SourceId(77)));
}

#[test]
fn mail_of_a_pool_whose_only_source_is_drained_waits_and_leaves_when_the_drain_ends_by_itself() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let until = START + 3_600 * SECOND;
    let drained = bench
        .scheduler
        .drain_source(START, SourceId(0), "listed".into(), Some(until));
    assert!(drained);
    assert!(bench.work().is_empty());
    assert_eq!(bench.counts(), (1, 0, 0));
    let row = &bench.scheduler.explain_domain("example.com")[0];
    let [
        Reason::SourceStops {
            stop: Some(stop), ..
        },
    ] = &row.reasons[..]
    else {
        panic!("{:?}", row.reasons);
    };
    assert_eq!((&*stop.reason, stop.until), ("listed", Some(until)));
    let given = only_given(&bench.work_until(START + DAY));
    assert_eq!((bench.now, given.recipients), (until, vec![(8, 0)]));
}

#[test]
fn idle_sessions_of_a_drained_source_are_closed_at_once() {
    let mut bench = Bench::new();
    bench.insert(TX, "example.com", 8, 0);
    let given = only_given(&bench.work());
    bench.delivered(&given);
    assert!(bench.work().is_empty());
    bench
        .scheduler
        .drain_source(bench.now, SourceId(0), "".into(), None);
    let work = bench.work();
    assert!(
        matches!(work[..], [Work::Close { session }] if session == given.session),
        "{work:?}"
    );
}

#[test]
fn a_drain_moves_the_mail_of_ten_thousand_sites_in_bounded_steps() {
    let mut bench = Bench::new();
    for position in 0..10_000 {
        bench.insert(BULK, &format!("d{position}.test"), position * 8, 0);
    }
    // The node has connections for some; the others stand in line.
    let opened = all_given(&bench.work());
    assert!(opened.len() > 1_000);
    bench
        .scheduler
        .drain_source(bench.now, FIRST, "".into(), None);
    let mut waiting = opened;
    let mut rounds = 0;
    while bench.counts() != (0, 0, 0) {
        for given in std::mem::take(&mut waiting) {
            let results: Vec<_> = given
                .recipients
                .iter()
                .map(|&(p, n)| (p, n, Disposition::Terminal))
                .collect();
            let closed = SessionState::Closed { site_failure: None };
            bench
                .scheduler
                .report(bench.now, given.session, &results, closed);
        }
        let work = bench.work();
        assert!(!opened_from(&work).contains(&FIRST));
        waiting = all_given(&work);
        rounds += 1;
        assert!(rounds < 100, "{:?}", bench.counts());
    }
}
