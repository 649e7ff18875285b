//! Rates and volumes: never exceeded, told as they are, and cheap to wait for.

use super::*;
use crate::config::{Config, Shaping};

/// The rules of a configuration with the pools of these tests.
pub(super) fn shaping(rules: &str) -> Arc<Shaping> {
    let text = format!(
        r#"
[node]
hostname = "mta.example.com"
data_dir = "/data"
[[pool]]
name = "tx"
kind = "transactional"
sources = [{{ name = "one", ip = "192.0.2.1" }}]
{rules}"#
    );
    let file = std::path::Path::new("/etc/posthaste.toml");
    let config = Config::parse(&text, file, None, &|_| None);
    Arc::clone(&config.unwrap().shaping)
}

fn bench(rules: &str) -> Bench {
    let mut bench = Bench::new();
    let scheduler = Scheduler::new(pools(), Limits::default(), 1);
    bench.scheduler = scheduler.with_shaping(shaping(rules));
    bench
}

/// Times of hand-outs until `until`, each delivered within `takes` milliseconds.
fn hand_outs(bench: &mut Bench, until: UnixMs, takes: u64) -> Vec<UnixMs> {
    let mut times = Vec::new();
    while bench.now < until {
        for work in bench.work_until(until) {
            match (given(&work), work) {
                (Some(given), _) => {
                    times.push(bench.now);
                    bench.now += takes;
                    bench.delivered(&given);
                }
                (None, Work::Close { session }) => {
                    let state = SessionState::Closed { site_failure: None };
                    bench.scheduler.report(bench.now, session, &[], state);
                }
                (None, other) => panic!("{other:?}"),
            }
        }
    }
    times
}

#[test]
fn a_message_rate_is_even_and_never_exceeded_and_explained() {
    let mut bench = bench("[[shaping]]\nmessage_rate = \"1/s\"");
    for position in 0..1_000 {
        bench.insert(TX, "example.com", position, 0);
    }
    let times = hand_outs(&mut bench, START + 60 * SECOND, 3);
    assert_eq!(times.len(), 61, "not slower either, the first at once");
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] >= SECOND),
        "{times:?}"
    );
    let row = &bench.scheduler.list(None, 1)[0];
    let [
        Reason::Paced {
            pace: Pace::MessageRate,
            limit,
            rule,
            until,
            ..
        },
    ] = &row.reasons[..]
    else {
        panic!("{:?}", row.reasons);
    };
    assert_eq!((&**limit, &**rule), ("1/s", "[[shaping]] on line 9"));
    assert_eq!(*until, times.last().unwrap() + SECOND);
}

#[test]
fn a_volume_is_used_up_once_in_its_hour() {
    let mut bench = bench("[[shaping]]\nsource = \"one\"\nmessages_per_hour = 5");
    for position in 0..12 {
        bench.insert(TX, "example.com", position, 0);
    }
    let times = hand_outs(&mut bench, START + 3 * 3600 * SECOND, 10);
    let hours: Vec<u64> = times
        .iter()
        .map(|at| (at - START) / (3600 * SECOND))
        .collect();
    assert_eq!(hours, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]);
}

#[test]
fn new_connections_are_spaced_and_messages_per_connection_counted() {
    let rules = "[[shaping]]\nconnection_rate = \"6/m\"\nmessages_per_connection = 2\nrecipients_per_message = 3";
    let mut bench = bench(rules);
    for position in 0..6 {
        for number in 0..4 {
            bench.insert(TX, "example.com", position, number);
        }
    }
    let (mut opened, mut handed) = (Vec::new(), 0);
    while bench.counts().0 > 0 {
        for work in bench.work_until(START + DAY) {
            if let Work::Close { session } = work {
                let state = SessionState::Closed { site_failure: None };
                bench.scheduler.report(bench.now, session, &[], state);
            } else if let Some(given) = given(&work) {
                assert!(given.recipients.len() <= 3);
                handed += 1;
                opened.extend(given.opened_from.map(|_| bench.now));
                bench.delivered(&given);
            }
        }
    }
    assert_eq!((handed, opened.len()), (12, 6));
    assert!(
        opened
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= 10 * SECOND),
        "{opened:?}"
    );
}

/// A step is a poll that finds work, or one that finds none: three of them each second for whatever waits.
#[test]
fn a_million_messages_behind_one_per_second_cost_three_steps_a_second() {
    let mut scheduler = Scheduler::new(pools(), Limits::default(), 1)
        .with_shaping(shaping("[[shaping]]\nmessage_rate = \"1/s\""));
    for position in 0..1_000_000 {
        let new = NewRecipient {
            position,
            number: 0,
            pool: TX,
            domain: "example.com",
            flow: FLOW,
            message: position,
            tag: None,
            accepted_at: START,
            life: Default::default(),
            attempts: 0,
            next_attempt: START,
        };
        scheduler.insert(START, new);
    }
    let (mut now, mut steps, mut handed) = (START, 0, 0);
    while now < START + 3_600 * SECOND {
        let work = scheduler.poll(now);
        steps += 1;
        match work {
            Some(Work::Resolve { queue, .. }) => {
                let answer = RouteAnswer::Site {
                    key: "site".into(),
                    valid_until: now + DAY,
                    provider: None,
                };
                scheduler.routed(now, queue, answer);
            }
            Some(Work::Close { session }) => {
                let state = SessionState::Closed { site_failure: None };
                scheduler.report(now, session, &[], state);
            }
            Some(work) => {
                let given = given(&work).unwrap();
                let results = [(given.recipients[0].0, 0, Disposition::Terminal)];
                scheduler.report(now, given.session, &results, SessionState::Idle);
                handed += 1;
            }
            None => now = now.max(scheduler.poll_timeout().unwrap()),
        }
    }
    assert_eq!(handed, 3_600);
    assert!(steps <= 3 * 3_600 + 10, "{steps} steps in an hour");
}
