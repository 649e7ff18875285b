//! The times of retries, and what is kept, without a second of waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::clock::UnixMs;
use crate::config::{RetryOn, Webhooks};
use crate::limits;
use crate::readers::webhooks::schedule::*;

fn machine(webhooks: &Webhooks) -> Schedule {
    Schedule::new(Plan::new(webhooks), 0, Health::default(), None, [])
}

/// Runs one event to its end; when each attempt was made, and what its header said.
fn attempts(class: Class, answers: impl Fn(usize) -> Answer) -> (Vec<(u64, usize)>, Became) {
    let mut schedule = machine(&Webhooks::default());
    schedule.take(Lane::Live, 100, class, 200);
    let (begin, mut now) = (1_000_000, 1_000_000);
    let mut made = Vec::new();
    loop {
        let Some(attempt) = schedule.poll(now) else {
            now = schedule
                .poll_timeout()
                .expect("an event that waits has a time");
            continue;
        };
        assert_eq!(attempt.is_retry, !made.is_empty());
        made.push(((now - begin) / 60_000, attempt.retries_left));
        let became = schedule.answered(now, attempt.position, &answers(made.len() - 1));
        if became != Became::Waits {
            assert_eq!(schedule.pending(), (0, 0));
            assert_eq!(schedule.cursor(), 200);
            return (made, became);
        }
    }
}

const BOUNCE: [(u64, usize); 11] = [
    (0, 10),
    (1, 9),
    (6, 8),
    (16, 7),
    (26, 6),
    (36, 5),
    (51, 4),
    (81, 3),
    (141, 2),
    (261, 1),
    (621, 0),
];
const EVENT: [(u64, usize); 10] = [
    (0, 9),
    (1, 8),
    (6, 7),
    (21, 6),
    (22, 5),
    (27, 4),
    (37, 3),
    (47, 2),
    (57, 1),
    (72, 0),
];

#[test]
fn a_receiver_that_never_takes_it_sees_the_documented_attempts_and_no_more() {
    let hangs = || Answer::None("it did not answer within 30 seconds".into());
    let kinds: [&dyn Fn(usize) -> Answer; 5] = [
        &|_| Answer::Status(500),
        &|_| hangs(),
        // A redirect that leads nowhere.
        &|_| Answer::Status(302),
        &|_| Answer::None("the connection ended before its answer".into()),
        &|n| match n % 3 {
            0 => Answer::Status(404),
            1 => Answer::Status(429),
            _ => hangs(),
        },
    ];
    for answer in kinds {
        assert_eq!(
            attempts(Class::Bounce, answer),
            (BOUNCE.to_vec(), Became::GivenUp)
        );
        assert_eq!(
            attempts(Class::Event, answer),
            (EVENT.to_vec(), Became::GivenUp)
        );
    }
}

#[test]
fn a_2xx_ends_it_and_so_do_403_and_410() {
    for (status, became) in [
        (200, Became::Taken),
        (204, Became::Taken),
        (403, Became::Refused),
        (410, Became::Refused),
    ] {
        let at_once = attempts(Class::Event, |_| Answer::Status(status));
        assert_eq!(at_once, (vec![(0, 9)], became), "{status}");
        let third = attempts(Class::Bounce, |n| {
            Answer::Status(if n < 2 { 503 } else { status })
        });
        assert_eq!(third, (vec![(0, 10), (1, 9), (6, 8)], became), "{status}");
    }
}

#[test]
fn by_the_other_rule_only_what_a_server_fails_at_is_tried_again() {
    for (status, all, server_errors) in [
        (200, Verdict::Taken, Verdict::Taken),
        (301, Verdict::Failed, Verdict::Failed),
        (400, Verdict::Failed, Verdict::Refused),
        (401, Verdict::Failed, Verdict::Refused),
        (403, Verdict::Refused, Verdict::Refused),
        (408, Verdict::Failed, Verdict::Failed),
        (410, Verdict::Refused, Verdict::Refused),
        (429, Verdict::Failed, Verdict::Failed),
        (500, Verdict::Failed, Verdict::Failed),
    ] {
        let answer = Answer::Status(status);
        assert_eq!(answer.verdict(RetryOn::All), all, "{status}");
        assert_eq!(
            answer.verdict(RetryOn::ServerErrors),
            server_errors,
            "{status}"
        );
    }
}

/// A receiver that is down for ten hours: what came meanwhile is tried now and then and waits in the log, so that nearly
/// nothing has used up its retries when it is back.
#[test]
fn a_receiver_that_is_down_is_spared_and_gets_everything_when_it_is_back() {
    let mut schedule = machine(&Webhooks::default());
    let (mut handed, mut taken, mut tried) = (0u64, 0u64, 0u64);
    let back: UnixMs = 5 * 3_600_000;
    let mut now = 0;
    while taken < 10_000 {
        while handed < 10_000 && schedule.room(Lane::Live, 0) > 0 {
            schedule.take(Lane::Live, handed * 10, Class::Bounce, handed * 10 + 10);
            handed += 1;
        }
        match schedule.poll(now) {
            None => now = schedule.poll_timeout().unwrap().max(now),
            Some(attempt) => {
                let is_back = now >= back;
                tried += u64::from(!is_back);
                let answer = Answer::Status(if is_back { 200 } else { 503 });
                taken +=
                    u64::from(schedule.answered(now, attempt.position, &answer) == Became::Taken);
                let (waiting, _) = schedule.pending();
                assert!(waiting < 400, "{waiting} retries of a dead receiver");
            }
        }
    }
    // One a minute, and the retries of each.
    assert!((300..4_000).contains(&tried), "{tried}");
    assert_eq!(schedule.cursor(), 100_000);
}

#[test]
fn what_takes_nothing_for_days_is_stopped_and_goes_on_where_it_was() {
    let webhooks = Webhooks {
        stop_after: Duration::from_secs(3_600),
        ..Webhooks::default()
    };
    let mut schedule = machine(&webhooks);
    let mut now = 0;
    for n in 0..100 {
        schedule.take(Lane::Live, n * 10, Class::Event, n * 10 + 10);
    }
    while schedule.health().stopped.is_none() {
        match schedule.poll(now) {
            Some(attempt) => {
                schedule.answered(now, attempt.position, &Answer::Status(500));
            }
            None => now = schedule.poll_timeout().unwrap().max(now),
        }
    }
    assert!((3_600_000..3_700_000).contains(&now), "{now}");
    assert_eq!(
        (schedule.poll(now), schedule.room(Lane::Live, 0)),
        (None, 0)
    );
    let why = &schedule.health().stopped.as_ref().unwrap().1;
    assert!(why.contains("it answered 500"), "{why}");
    schedule.resume(None);
    let mut rest = 0;
    now += 100 * 3_600_000;
    while let Some(attempt) = schedule.poll(now) {
        rest += 1;
        schedule.answered(now, attempt.position, &Answer::Status(200));
    }
    // Some have used up their retries within the hour: nine in 72 minutes are not among them.
    assert_eq!(rest, 100);
    assert_eq!(schedule.cursor(), 1_000);
}

#[test]
fn what_is_skipped_is_not_sent_and_what_comes_later_is() {
    let mut schedule = machine(&Webhooks::default());
    for n in 0..10 {
        schedule.take(Lane::Live, n * 10, Class::Event, n * 10 + 10);
    }
    let attempt = schedule.poll(0).unwrap();
    schedule.answered(0, attempt.position, &Answer::Status(500));
    let _ = schedule.changes();
    schedule.resume(Some(500));
    let changes = schedule.changes();
    assert_eq!((changes.cursor, changes.retries), (500, vec![(0, None)]));
    schedule.take(Lane::Live, 500, Class::Event, 510);
    assert_eq!(schedule.poll(1 << 40).map(|a| a.position), Some(500));
    assert_eq!(schedule.poll(1 << 40), None);
}

#[test]
fn a_replay_sends_its_range_again_beside_what_happens_and_ends() {
    let mut schedule = machine(&Webhooks::default());
    let replay = Replay {
        next: 0,
        from: 0,
        to: 10,
        until: 100,
    };
    assert!(schedule.begin_replay(replay));
    assert!(!schedule.begin_replay(replay));
    schedule.take(Lane::Replay, 10, Class::Event, 20);
    schedule.take(Lane::Live, 100, Class::Event, 110);
    schedule.read_to(Lane::Replay, 100);
    let first = schedule.poll(0).unwrap();
    assert_eq!(first.position, 100);
    schedule.answered(0, 100, &Answer::Status(200));
    let again = schedule.poll(0).unwrap();
    assert_eq!(again.position, 10);
    assert_eq!(schedule.changes().replay.unwrap().next, 10);
    schedule.answered(0, 10, &Answer::Status(200));
    assert_eq!(schedule.changes().replay, None);
    assert_eq!(schedule.replay(), None);
}

/// What a ledger holds, and what a receiver has seen.
#[derive(Default)]
struct World {
    cursor: u64,
    replay: Option<Replay>,
    health: Health,
    retries: BTreeMap<u64, Retry>,
    settled: BTreeMap<u64, u32>,
}

impl World {
    fn write(&mut self, changes: Changes) {
        assert!(changes.cursor >= self.cursor, "a place never goes back");
        (self.cursor, self.replay, self.health) = (changes.cursor, changes.replay, changes.health);
        for (position, retry) in changes.retries {
            match retry {
                Some(retry) => self.retries.insert(position, retry),
                None => self.retries.remove(&position),
            };
        }
    }
}

proptest! {
    /// The node dies at any moment, again and again, with whatever it had written down until then: every event is settled in
    /// the end, none is tried more often than its plan says by more than the lives it was under way in, and memory is bounded.
    #[test]
    fn no_crash_between_any_two_steps_loses_an_event(
        steps in proptest::collection::vec((0u8..100, 0u64..20_000), 1..400),
    ) {
        const EVENTS: u64 = 40;
        let webhooks = Webhooks { concurrency: 3, ..Webhooks::default() };
        let mut world = World::default();
        let mut schedule = machine(&webhooks);
        let mut flying = Vec::new();
        let mut now = 0;
        let settle = |world: &mut World, became, position| {
            if became != Became::Waits {
                *world.settled.entry(position).or_default() += 1;
            }
        };
        let read = |schedule: &mut Schedule| {
            let next = schedule.next(Lane::Live);
            if next < EVENTS * 10 && schedule.room(Lane::Live, 0) > 0 {
                schedule.take(Lane::Live, next, Class::Event, next + 10);
            }
        };
        for (action, amount) in steps {
            match action {
                0..30 => read(&mut schedule),
                30..60 => flying.extend(schedule.poll(now)),
                60..80 if !flying.is_empty() => {
                    let attempt: Attempt = flying.swap_remove(amount as usize % flying.len());
                    let status = [200, 500, 500, 403][amount as usize % 4];
                    let became = schedule.answered(now, attempt.position, &Answer::Status(status));
                    settle(&mut world, became, attempt.position);
                }
                80..90 => world.write(schedule.changes()),
                90..94 => {
                    flying.clear();
                    let kept = world.retries.iter().map(|(p, r)| (*p, *r));
                    schedule = Schedule::new(
                        Plan::new(&webhooks),
                        world.cursor,
                        world.health.clone(),
                        world.replay,
                        kept,
                    );
                }
                _ => now += amount * 100,
            }
            prop_assert!(flying.len() <= 3);
            prop_assert!(schedule.pending().0 <= limits::WEBHOOK_RETRIES);
        }
        for attempt in flying.drain(..) {
            let became = schedule.answered(now, attempt.position, &Answer::Status(200));
            settle(&mut world, became, attempt.position);
        }
        loop {
            read(&mut schedule);
            match (schedule.poll(now), schedule.poll_timeout()) {
                (Some(attempt), _) => {
                    let became = schedule.answered(now, attempt.position, &Answer::Status(200));
                    settle(&mut world, became, attempt.position);
                }
                (None, Some(at)) => now = now.max(at),
                (None, None) if schedule.next(Lane::Live) < EVENTS * 10 => {}
                (None, None) => break,
            }
        }
        world.write(schedule.changes());
        prop_assert_eq!(world.settled.len() as u64, EVENTS);
        prop_assert_eq!(world.cursor, EVENTS * 10);
        prop_assert!(world.retries.is_empty());
    }
}

#[test]
fn what_a_replay_reads_before_its_turn_comes_once_and_holds_nobody_up() {
    let mut schedule = machine(&Webhooks::default());
    assert!(schedule.begin_replay(Replay {
        next: 0,
        from: 0,
        to: 20,
        until: 20,
    }));
    schedule.take(Lane::Replay, 10, Class::Event, 20);
    // The hook was behind, and reads the same place now.
    schedule.take(Lane::Live, 10, Class::Event, 20);
    let attempt = schedule.poll(0).unwrap();
    assert_eq!(schedule.poll(0), None);
    let became = schedule.answered(0, attempt.position, &Answer::Status(200));
    assert_eq!(became, Became::Taken);
    assert_eq!((schedule.poll(0), schedule.replay()), (None, None));
    assert_eq!(schedule.cursor(), 20);
}

#[test]
fn one_event_that_is_refused_and_a_failure_days_later_stop_no_hook() {
    let webhooks = Webhooks::default();
    let mut schedule = machine(&webhooks);
    let day = 86_400_000;
    for (at, status) in [(0, 403), (day, 503), (8 * day, 503)] {
        schedule.take(Lane::Live, at, Class::Event, at + 1);
        while let Some(attempt) = schedule.poll(at) {
            schedule.answered(at, attempt.position, &Answer::Status(status));
        }
    }
    assert!(schedule.health().stopped.is_none());
}

#[test]
fn an_attempt_that_was_not_made_comes_again_and_its_event_is_not_passed() {
    let mut schedule = machine(&Webhooks::default());
    schedule.take(Lane::Live, 10, Class::Event, 20);
    let attempt = schedule.poll(0).unwrap();
    schedule.not_made(attempt);
    assert_eq!(schedule.cursor(), 10);
    assert_eq!(schedule.poll(0), Some(attempt));
    schedule.answered(0, attempt.position, &Answer::Status(503));
    let due = schedule.poll_timeout().unwrap();
    let retry = schedule.poll(due).unwrap();
    schedule.not_made(retry);
    assert_eq!(schedule.poll(due), Some(retry));
}
