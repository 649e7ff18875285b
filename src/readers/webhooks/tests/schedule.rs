//! The times of retries, and what is kept, without a second of waiting.

use std::collections::{BTreeMap, BTreeSet};
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
fn skipping_ends_a_replay_and_the_next_one_passes_nothing_over() {
    let mut schedule = machine(&Webhooks::default());
    let replay = |next, until| Replay {
        next,
        from: 0,
        to: 10,
        until,
    };
    assert!(schedule.begin_replay(replay(50, 100)));
    for position in [50, 60, 70] {
        schedule.take(Lane::Replay, position, Class::Event, position + 10);
    }
    let under_way = schedule.poll(0).unwrap();
    schedule.resume(Some(100));
    assert_eq!((schedule.poll(0), schedule.replay()), (None, None));
    assert_eq!(schedule.changes().replay, None);
    assert!(schedule.begin_replay(replay(0, 20)));
    assert_eq!(schedule.changes().replay.unwrap().next, 0);
    schedule.take(Lane::Replay, 0, Class::Event, 20);
    assert_eq!(schedule.poll(0).map(|a| a.position), Some(0));
    schedule.answered(0, 0, &Answer::Status(200));
    schedule.answered(0, under_way.position, &Answer::Status(200));
    assert_eq!((schedule.poll(0), schedule.replay()), (None, None));
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
    /// Attempts of each event: made, those of them whose answers the ledger knows, and those that a crash made void.
    made: BTreeMap<u64, u32>,
    answered: BTreeMap<u64, u32>,
    known: BTreeMap<u64, u32>,
    void: BTreeMap<u64, u32>,
    /// How often it was ordered again, and which of these orders are open.
    ordered: BTreeMap<u64, u32>,
    owed: BTreeSet<u64>,
}

const EVENTS: u64 = 40;

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
        self.known = self.answered.clone();
    }

    fn made(&mut self, attempt: &Attempt) {
        *self.made.entry(attempt.position).or_default() += 1;
    }

    fn answer(&mut self, schedule: &mut Schedule, now: UnixMs, position: u64, status: u16) {
        *self.answered.entry(position).or_default() += 1;
        if schedule.answered(now, position, &Answer::Status(status)) != Became::Waits {
            *self.settled.entry(position).or_default() += 1;
            self.owed.remove(&position);
        }
    }

    /// Of the node; what it knew and had not written down is gone.
    fn crash(&mut self, webhooks: &Webhooks) -> Schedule {
        for (position, made) in &self.made {
            let known = self.known.get(position).copied().unwrap_or_default();
            *self.void.entry(*position).or_default() += made - known;
        }
        (self.answered, self.known) = (self.made.clone(), self.made.clone());
        let kept = self.retries.iter().map(|(p, r)| (*p, *r));
        let (plan, health) = (Plan::new(webhooks), self.health.clone());
        Schedule::new(plan, self.cursor, health, self.replay, kept)
    }

    /// An operator is answered when the order is written down.
    fn order(&mut self, schedule: &mut Schedule, first: u64) {
        let replay = Replay {
            next: first * 10,
            from: 0,
            to: UnixMs::MAX,
            until: EVENTS * 10,
        };
        if schedule.begin_replay(replay) {
            self.write(schedule.changes());
            for event in first..EVENTS {
                *self.ordered.entry(event * 10).or_default() += 1;
                self.owed.insert(event * 10);
            }
        }
    }
}

fn read(schedule: &mut Schedule, lane: Lane) {
    let until = match lane {
        Lane::Live => EVENTS * 10,
        Lane::Replay => schedule.replay().map_or(0, |replay| replay.until),
    };
    let next = schedule.next(lane);
    if next < until && schedule.room(lane, 0) > 0 {
        schedule.take(lane, next, Class::Event, next + 10);
    }
}

proptest! {
    /// The node dies at any moment, again and again, with whatever it had written down until then, while operators have ranges
    /// sent again: every event is settled in the end, and once more after each order; none is tried oftener than its plan says
    /// for what happened and for each order, but for attempts whose answers a crash made unknown; and memory is bounded.
    #[test]
    fn no_crash_between_any_two_steps_loses_an_event(
        steps in proptest::collection::vec((0u8..104, 0u64..20_000), 1..400),
    ) {
        let webhooks = Webhooks { concurrency: 3, ..Webhooks::default() };
        let mut world = World::default();
        let mut schedule = machine(&webhooks);
        let mut flying: Vec<Attempt> = Vec::new();
        let mut now = 0;
        for (action, amount) in steps {
            match action {
                0..20 => read(&mut schedule, Lane::Live),
                20..30 => read(&mut schedule, Lane::Replay),
                30..60 => {
                    let attempt = schedule.poll(now);
                    attempt.iter().for_each(|attempt| world.made(attempt));
                    flying.extend(attempt);
                }
                60..80 if !flying.is_empty() => {
                    let attempt = flying.swap_remove(amount as usize % flying.len());
                    let status = [200, 500, 500, 403][amount as usize % 4];
                    world.answer(&mut schedule, now, attempt.position, status);
                }
                80..90 => world.write(schedule.changes()),
                90..94 => {
                    flying.clear();
                    schedule = world.crash(&webhooks);
                }
                100..104 => world.order(&mut schedule, amount % EVENTS),
                _ => now += amount * 100,
            }
            prop_assert!(flying.len() <= 3);
            prop_assert!(schedule.pending().0 <= limits::WEBHOOK_RETRIES);
        }
        for attempt in flying.drain(..) {
            world.answer(&mut schedule, now, attempt.position, 200);
        }
        loop {
            read(&mut schedule, Lane::Live);
            read(&mut schedule, Lane::Replay);
            match (schedule.poll(now), schedule.poll_timeout()) {
                (Some(attempt), _) => {
                    world.made(&attempt);
                    world.answer(&mut schedule, now, attempt.position, 200);
                }
                (None, Some(at)) => now = now.max(at),
                (None, None) if schedule.next(Lane::Live) < EVENTS * 10 => {}
                (None, None) if schedule.replay().is_some() => {}
                (None, None) => break,
            }
        }
        world.write(schedule.changes());
        prop_assert_eq!(world.settled.len() as u64, EVENTS);
        prop_assert_eq!(world.cursor, EVENTS * 10);
        prop_assert!(world.retries.is_empty() && world.replay.is_none());
        prop_assert_eq!(&world.owed, &BTreeSet::new());
        let planned = webhooks.event_retries.len() as u32 + 1;
        for (position, made) in &world.made {
            let times = 1 + world.ordered.get(position).copied().unwrap_or_default();
            let void = world.void.get(position).copied().unwrap_or_default();
            prop_assert!(*made <= planned * times + void, "{}: {} attempts", position, made);
        }
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

/// 403 to everything: each event is tried once, and the hook shows what it is until it takes something.
#[test]
fn a_hook_that_refuses_everything_fails_and_is_stopped_in_the_end_as_any_other() {
    let webhooks = Webhooks {
        stop_after: Duration::from_secs(3_600),
        ..Webhooks::default()
    };
    let mut schedule = machine(&webhooks);
    let minute = 60_000;
    let mut at = 0;
    while schedule.health().stopped.is_none() {
        schedule.take(Lane::Live, at, Class::Bounce, at + 1);
        let attempt = schedule.poll(at).unwrap();
        let became = schedule.answered(at, attempt.position, &Answer::Status(403));
        assert_eq!((became, schedule.pending()), (Became::Refused, (0, 0)));
        assert_eq!(schedule.health().failing_since, Some(0));
        // It answers, so it does not rest.
        assert_eq!((schedule.poll(at), schedule.poll_timeout()), (None, None));
        at += minute;
    }
    assert_eq!(at, 61 * minute);
    let why = &schedule.health().stopped.as_ref().unwrap().1;
    assert!(why.contains("it answered 403"), "{why}");
    assert!(!schedule.health().is_well(at));
    // What comes now waits instead of being refused.
    schedule.take(Lane::Live, at, Class::Bounce, at + 1);
    assert_eq!((schedule.poll(at), schedule.cursor()), (None, at));
    schedule.resume(None);
    let attempt = schedule.poll(at).unwrap();
    schedule.answered(at, attempt.position, &Answer::Status(200));
    assert_eq!(schedule.health().failing_since, None);
    assert!(schedule.health().is_well(at));
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
