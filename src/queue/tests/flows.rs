//! Servers and streams that wait for the same site, and the source that a message sticks to.

use super::*;
use crate::config::Share;

/// One connection at a time, so that the order of turns is the order of batches.
fn bench(shares: &[(&str, Option<&str>, u32)]) -> Bench {
    let limits = Limits {
        connections_per_source_site: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits.clone());
    let share = |&(server, stream, weight): &(&str, Option<&str>, u32)| Share {
        server: server.into(),
        stream: stream.map(Into::into),
        weight,
    };
    let shares = shares.iter().map(share).collect();
    bench.scheduler = Scheduler::new(pools(), limits, 1).with_shares(shares);
    bench
}

impl Bench {
    fn insert_of(&mut self, flow: FlowName<'_>, domain: &str, position: u64, recipients: u16) {
        for number in 0..recipients {
            let new = NewRecipient {
                position,
                number,
                pool: TX,
                domain,
                flow,
                message: position,
                tag: None,
                accepted_at: self.now,
                life: Default::default(),
                attempts: 0,
                next_attempt: self.now,
            };
            self.scheduler.insert(self.now, new);
        }
    }

    /// Positions in the order of delivery.
    fn turns(&mut self, count: usize) -> Vec<u64> {
        let mut positions = Vec::new();
        for _ in 0..count {
            let given = only_given(&self.work());
            positions.push(given.recipients[0].0);
            self.delivered(&given);
        }
        positions
    }
}

fn of(server: u32, server_name: &'static str, stream: &'static str) -> FlowName<'static> {
    FlowName {
        server,
        server_name,
        stream,
    }
}

#[test]
fn ten_messages_of_one_tenant_do_not_wait_behind_thousands_of_another() {
    let mut bench = bench(&[]);
    for position in 0..5_000 {
        bench.insert_of(of(1, "big", "outbound"), "example.com", position, 1);
    }
    for position in 0..10 {
        bench.insert_of(
            of(2, "small", "outbound"),
            "example.com",
            1 << 40 | position,
            1,
        );
    }
    let turns = bench.turns(21);
    assert_eq!(
        turns.iter().filter(|&&p| p >= 1 << 40).count(),
        10,
        "{turns:?}"
    );
    let row = &bench.scheduler.list(None, 10)[0];
    assert_eq!(row.ready, 5_000 - 11, "one row for all flows of a domain");
}

#[test]
fn turns_are_by_recipients_and_by_share() {
    let mut bench = bench(&[("big", None, 2), ("big", Some("otp"), 3)]);
    for position in 0..400 {
        bench.insert_of(of(1, "big", "otp"), "example.com", position, 1);
        bench.insert_of(of(1, "big", "outbound"), "example.com", 1_000 + position, 1);
        // Ten recipients a message: a message of this stream waits for ten of one.
        bench.insert_of(
            of(2, "lists", "outbound"),
            "example.com",
            2_000 + position,
            10,
        );
    }
    let turns = bench.turns(200);
    let count = |low: u64| {
        turns
            .iter()
            .filter(|&&p| (low..low + 1_000).contains(&p))
            .count()
    };
    let [otp, outbound, lists] = [count(0), count(1_000), count(2_000)];
    // Shares of recipients 6 : 2 : 1, so of messages 60 : 20 : 1.
    assert!(
        (145..=151).contains(&otp) && (46..=51).contains(&outbound),
        "{otp} {outbound}"
    );
    assert!((2..=4).contains(&lists), "{lists}");
}

#[test]
fn a_debt_is_remembered_while_the_stream_has_nothing_to_send() {
    let mut bench = bench(&[]);
    for position in 0..1_000 {
        bench.insert_of(of(1, "steady", "outbound"), "example.com", position, 1);
    }
    let mut lists = 0;
    for round in 0..100 {
        // Each time it has something only just before its turn.
        bench.insert_of(
            of(2, "lists", "outbound"),
            "example.com",
            10_000 + round,
            50,
        );
        lists += bench.turns(2).iter().filter(|&&p| p >= 10_000).count();
    }
    assert!(
        (3..=6).contains(&lists),
        "{lists} messages of fifty among 200"
    );
}

#[test]
fn a_message_leaves_from_the_same_source_each_time_also_after_a_restart() {
    let mut first = BTreeMap::new();
    for seed in 0..3 {
        let mut bench = Bench::new();
        bench.scheduler = Scheduler::new(pools(), Limits::default(), seed);
        for message in 0..40u64 {
            let new = NewRecipient {
                // Compaction moved it meanwhile.
                position: message * 8 + seed,
                number: 0,
                pool: BULK,
                domain: &format!("d{message}.test"),
                flow: FLOW,
                message: message.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                tag: None,
                accepted_at: START,
                life: Default::default(),
                attempts: 0,
                next_attempt: START,
            };
            bench.scheduler.insert(START, new);
        }
        for given in all_given(&bench.work()) {
            let source = given.opened_from.unwrap();
            let message = given.recipients[0].0 / 8;
            assert_eq!(*first.entry(message).or_insert(source), source);
        }
    }
    let of_one = first.values().filter(|&&source| source == SourceId(1));
    assert!((24..=36).contains(&of_one.count()), "three of four");
}

#[test]
fn mail_of_a_source_that_a_site_refuses_takes_another_one_there() {
    let mut bench = Bench::new();
    let message = (0..).find(|&m| source_of(m) == SourceId(1)).unwrap();
    bench.insert(BULK, "example.com", message, 0);
    let mut refusals = 0;
    loop {
        let given = only_given(&bench.work_until(bench.now + DAY));
        if given.opened_from == Some(SourceId(2)) {
            bench.delivered(&given);
            break;
        }
        refusals += 1;
        bench.failed(&given, Scope::SiteFromSource);
    }
    assert_eq!(refusals, limits::PATH_FAILURES_MAX);
}

/// Where a message alone in the broadcast pool goes.
fn source_of(message: u64) -> SourceId {
    let mut bench = Bench::new();
    bench.insert(BULK, "example.com", message, 0);
    only_given(&bench.work()).opened_from.unwrap()
}
