//! An operator's verbs on a million recipients: how long they take, and how long a step holds up everybody else.
//!
//! Prints its figures with `--nocapture`; the assertions are about counts, which do not depend on the machine. With
//! `BULK_DOMAINS=1000000` also for as many domains.

use std::time::Duration;

use super::*;
use crate::clock::Clock;

const MILLION: u64 = 1_000_000;
const WARM: PoolId = PoolId(2);

struct Bulk {
    scheduler: Scheduler,
    clock: Clock,
    directives: u32,
    domains: u64,
}

impl Bulk {
    fn new(domains: u64) -> Self {
        let mut all = pools();
        all.push(all[1].clone());
        let mut scheduler = Scheduler::new(all, Limits::default(), 1);
        for position in 0..MILLION {
            let new = NewRecipient {
                position: position * 8,
                number: 0,
                pool: BULK,
                domain: &format!("d{}.test", position % domains),
                flow: FLOW,
                message: position * 8,
                tag: None,
                accepted_at: START,
                life: Default::default(),
                attempts: u16::from(position % 2 == 0),
                next_attempt: START + DAY / 2 * u64::from(position % 2 == 0),
            };
            scheduler.insert(START, new);
        }
        Self {
            scheduler,
            clock: Clock::start(),
            directives: 0,
            domains,
        }
    }

    /// The walk, then polls until nothing is left to be done; look-ups stay unanswered. Returns who ended.
    fn run(&mut self, name: &str, filter: &Filter, act: Option<Act>) -> u64 {
        let begun = self.clock.instant();
        let (mut steps, mut longest_step) = (0, Duration::ZERO);
        let mut affected = 0;
        if let Some(act) = act {
            let mut walk = Walk::default();
            loop {
                let step = self.clock.instant();
                let (found, done) = self.scheduler.walk_queues(START, filter, &act, &mut walk);
                longest_step = longest_step.max(self.clock.instant().duration_since(step));
                affected += found.total() as u64;
                steps += 1;
                if done {
                    break;
                }
            }
            assert_eq!(affected, MILLION, "{name}");
            let slots = self.scheduler.queues.slots() as usize;
            assert!(
                steps <= 1 + slots / limits::WALK_QUEUES_STEP,
                "{steps} steps"
            );
        }
        let (mut ended, mut polls, mut longest_poll) = (0, 0u64, Duration::ZERO);
        loop {
            let poll = self.clock.instant();
            let work = self.scheduler.poll(START);
            longest_poll = longest_poll.max(self.clock.instant().duration_since(poll));
            polls += 1;
            match work {
                Some(Work::Withdrawn { .. }) => ended += 1,
                Some(_) => {}
                None if self.scheduler.poll_timeout().is_some_and(|at| at <= START) => {}
                None => break,
            }
        }
        let took = self.clock.instant().duration_since(begun);
        println!(
            "{:>9} domains  {name:<15} {:>8.1} ms, {steps} steps, longest {:>6} us, {polls} polls, longest {:>6} us",
            self.domains,
            took.as_secs_f64() * 1e3,
            longest_step.as_micros(),
            longest_poll.as_micros()
        );
        ended
    }

    fn direct(&mut self, what: Standing) -> (Filter, Act) {
        self.directives += 1;
        let filter = Filter {
            server: Some(FLOW.server),
            ..Filter::default()
        };
        let directive = Directive {
            id: self.directives,
            filter: filter.clone(),
            what,
            until: None,
        };
        self.scheduler.direct(START, directive);
        (filter, Act::Obey(self.directives))
    }

    fn end(&mut self, name: &str) {
        assert!(self.scheduler.end_directive(START, self.directives));
        self.run(name, &Filter::default(), None);
    }
}

/// A few of a million, in queues and chunks that are mostly others': what is looked at is theirs.
#[test]
fn a_verb_on_a_few_of_a_million_looks_at_few() {
    let mut bulk = Bulk::new(10_000);
    let few = FlowName {
        stream: "codes",
        ..FLOW
    };
    for position in MILLION..MILLION + 100 {
        let new = NewRecipient {
            position: position * 8,
            number: 0,
            pool: BULK,
            domain: &format!("d{}.test", position % 10),
            flow: few,
            message: position * 8,
            tag: Some(Tag::Text("code")),
            accepted_at: START,
            life: Default::default(),
            attempts: 0,
            next_attempt: START,
        };
        bulk.scheduler.insert(START, new);
    }
    let of_stream = Filter {
        stream: Some("codes".into()),
        ..Filter::default()
    };
    let mut walk = Walk::default();
    let (found, done) = bulk
        .scheduler
        .walk_queues(START, &of_stream, &Act::Count, &mut walk);
    assert_eq!((found.total(), done), (100, true), "in one step");
    for tag in ["code", "nobody's"] {
        let by_tag = Filter {
            tag: Some(tag.into()),
            ..Filter::default()
        };
        let begun = bulk.clock.instant();
        let (mut walk, mut steps, mut read) = (Walk::default(), 0, 0);
        loop {
            let (candidates, done) = bulk.scheduler.walk_recipients(&by_tag, &mut walk);
            (steps, read) = (steps + 1, read + candidates.len());
            if done {
                break;
            }
        }
        let took = bulk.clock.instant().duration_since(begun);
        println!("tag {tag}: {read} records to read, {steps} steps, {took:?}");
        assert!(steps <= 3, "{steps} steps");
        assert_eq!(read, if tag == "code" { 100 } else { 0 });
    }
}

#[test]
fn a_million_recipients_obey_in_bounded_steps() {
    let more = std::env::var("BULK_DOMAINS").ok();
    let more = more.and_then(|text| text.parse().ok());
    for domains in [1, 10_000].into_iter().chain(more) {
        let mut bulk = Bulk::new(domains);
        let (filter, act) = bulk.direct(Standing::Suspend);
        bulk.run("suspend", &filter, Some(act));
        let held = bulk.scheduler.directed(bulk.directives) as u64;
        assert!(held >= domains, "{held} of {domains}");
        bulk.end("resume");
        let (filter, act) = bulk.direct(Standing::Reroute { to: WARM });
        bulk.run("reroute", &filter, Some(act));
        let there = bulk.scheduler.pool_counts(WARM).total() as u64;
        assert_eq!(there, MILLION);
        bulk.end("back");
        assert_eq!(bulk.scheduler.pool_counts(WARM).total(), 0);
        let mut census = Census::new(By::Stream);
        let mut steps = 0;
        while !bulk.scheduler.census(&mut census) {
            steps += 1;
        }
        assert!(steps <= 2 * MILLION / 4_096, "{steps} steps");
        let rows = census.rows();
        assert_eq!((rows.len(), rows[0].1.total()), (1, MILLION));
        bulk.run("retry", &filter, Some(Act::Retry));
        let (how, why) = (Withdrawal::Bounce, Some("over".into()));
        let ended = bulk.run("bounce", &filter, Some(Act::Withdraw { how, why }));
        assert_eq!(ended, MILLION);
        assert_eq!(bulk.scheduler.counts().total(), 0);
    }
}
