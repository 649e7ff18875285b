//! Sizes: what a million recipients and a million domains cost.

use super::*;

#[test]
fn a_million_recipients_of_one_queue_take_32_bytes_each_and_little_more() {
    const MILLION: usize = 1_000_000;
    let check = |next_attempt: UnixMs, counts: (usize, usize, usize)| {
        let mut scheduler = Scheduler::new(pools(), Limits::default(), 1);
        for position in 0..MILLION as u64 {
            let new = NewRecipient {
                position: position * 8,
                number: 0,
                pool: BULK,
                domain: "example.com",
                flow: FLOW,
                message: position * 8,
                tag: None,
                accepted_at: START,
                life: Default::default(),
                attempts: u16::from(next_attempt > START),
                next_attempt: next_attempt.max(START)
                    + position * 7919 % 60_000 * u64::from(next_attempt > START),
            };
            scheduler.insert(START, new);
        }
        let is = scheduler.counts();
        assert_eq!((is.ready, is.deferred, is.in_flight), counts);
        let each = scheduler.memory_bytes() as f64 / MILLION as f64;
        assert!(each <= 40.0, "{each} bytes");
        let found = scheduler.explain_message(777_777 * 8);
        assert_eq!(found.len(), 1);
        scheduler
    };
    check(START, (MILLION, 0, 0));
    let mut scheduler = check(START + DAY, (0, MILLION, 0));
    let affected = scheduler.withdraw(START, Selection::All, Withdrawal::Cancel);
    assert_eq!(affected.deferred, MILLION);
    let mut left = 0;
    while scheduler.poll(START).is_some() {
        left += 1;
    }
    assert_eq!(left, MILLION);
    assert!(scheduler.memory_bytes() < 1_000_000, "memory is given back");
}

#[test]
fn a_million_domains_are_asked_for_a_few_at_a_time_and_forgotten_when_done() {
    let mut bench = Bench::new();
    for position in 0..1_000_000u64 {
        bench.insert(BULK, &format!("d{position}.test"), position * 8, 0);
    }
    let mut asked = 0;
    while let Some(Work::Resolve { .. }) = bench.scheduler.poll(START) {
        asked += 1;
    }
    assert_eq!(
        asked, 192,
        "a quarter of the look-ups is kept for transactional pools"
    );
    let each = bench.scheduler.memory_bytes() / 1_000_000;
    assert!(each < 450, "{each} bytes per domain");
    bench
        .scheduler
        .withdraw(START, Selection::Pool(BULK), Withdrawal::Cancel);
    let mut left = 0;
    while bench.scheduler.poll(START).is_some() {
        left += 1;
    }
    assert_eq!(left, 1_000_000);
    assert_eq!(
        bench.scheduler.queues(),
        192,
        "those whose answer is awaited"
    );
}
