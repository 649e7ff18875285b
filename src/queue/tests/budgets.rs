//! What a source may do at all sites of a provider together.

use super::rates::shaping;
use super::*;
use crate::config::ProviderId;

const PROVIDER: &str = "[[shaping]]\nprovider = \"big\"\nmx = [\"big.test\"]\nconnections = 20\n";

/// Every domain is a site of its own, and all are the provider's.
struct Sites {
    bench: Bench,
    provider: ProviderId,
    busy: Vec<(UnixMs, Given)>,
    handed: Vec<(UnixMs, u64)>,
    open: BTreeSet<SessionId>,
    most_open: usize,
}

impl Sites {
    fn new(rule: &str) -> Self {
        let rules =
            format!("{PROVIDER}[[shaping]]\nprovider = \"big\"\nwhole_provider = true\n{rule}");
        let shaping = shaping(&rules);
        let mut bench = Bench::new();
        bench.site_of = |_| None;
        let provider = shaping.provider_of(std::iter::once("mx.big.test")).unwrap();
        let scheduler = Scheduler::new(pools(), Limits::default(), 1);
        bench.scheduler = scheduler.with_shaping(shaping);
        Self {
            bench,
            provider,
            busy: Vec::new(),
            handed: Vec::new(),
            open: BTreeSet::new(),
            most_open: 0,
        }
    }

    /// All that there is to do now.
    fn work(&mut self) {
        loop {
            let now = self.bench.now;
            match self.bench.scheduler.poll(now) {
                Some(Work::Resolve { queue, domain, .. }) => {
                    let answer = RouteAnswer::Site {
                        key: domain,
                        valid_until: now + DAY,
                        provider: Some(self.provider),
                    };
                    self.bench.scheduler.routed(now, queue, answer);
                }
                Some(Work::Close { session }) => {
                    self.open.remove(&session);
                    let closed = SessionState::Closed { site_failure: None };
                    self.bench.scheduler.report(now, session, &[], closed);
                }
                Some(work) => {
                    let given = given(&work).unwrap();
                    self.open.insert(given.session);
                    self.most_open = self.most_open.max(self.open.len());
                    self.handed.push((now, given.recipients[0].0));
                    self.busy.push((now, given));
                }
                None => {
                    let next = self.bench.scheduler.poll_timeout();
                    if next.is_none_or(|at| at > now) {
                        break;
                    }
                }
            }
        }
        self.bench.scheduler.check();
    }

    /// Until `until`; each message takes so long.
    fn run(&mut self, until: UnixMs, takes: u64) {
        loop {
            self.work();
            let done = self.busy.first().map(|(at, _)| at + takes);
            let wake = self.bench.scheduler.poll_timeout();
            let next = done.into_iter().chain(wake).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                return;
            };
            self.bench.now = self.bench.now.max(next);
            let now = self.bench.now;
            while self.busy.first().is_some_and(|(at, _)| at + takes <= now) {
                let (_, given) = self.busy.remove(0);
                self.bench.delivered(&given);
            }
        }
    }
}

#[test]
fn connections_of_all_sites_together_stay_within_the_budget_and_every_site_gets_its_turn() {
    let mut sites = Sites::new("connections = 3");
    // One site has much more than the others.
    for n in 0..500 {
        sites.bench.insert(TX, "much.test", n * 8, 0);
    }
    for n in 500..540 {
        sites.bench.insert(TX, &format!("d{n}.test"), n * 8, 0);
    }
    sites.run(START + 30 * SECOND, 100);
    assert_eq!(sites.most_open, 3);
    let little = sites
        .handed
        .iter()
        .filter(|(_, position)| *position >= 4_000);
    assert!(little.count() >= 39, "{:?}", sites.handed.len());
    sites.run(START + 300 * SECOND, 100);
    assert_eq!(sites.bench.counts(), (0, 0, 0), "and none starves");
}

#[test]
fn rates_and_volumes_count_over_all_sites_and_are_explained() {
    let mut sites = Sites::new("message_rate = \"1/s\"\nmessages_per_hour = 100");
    for n in 0..400 {
        sites
            .bench
            .insert(TX, &format!("d{}.test", n % 50), n * 8, 0);
    }
    sites.run(START + 60 * SECOND, 10);
    assert_eq!(sites.handed.len(), 61);
    let even = |pair: &[(UnixMs, u64)]| pair[1].0 - pair[0].0 >= SECOND;
    assert!(sites.handed.windows(2).all(even));
    sites.run(START + 3_599 * SECOND, 10);
    assert_eq!(sites.handed.len(), 100);
    let rows = sites.bench.scheduler.list(None, 100);
    let row = rows.iter().find(|row| row.ready > 0).unwrap();
    let [
        Reason::Paced {
            pace: Pace::MessagesPerHour,
            whole: Some(provider),
            ..
        },
    ] = &row.reasons[..]
    else {
        panic!("{:?}", row.reasons);
    };
    assert_eq!(&**provider, "big");
    sites.run(START + 5 * 3_600 * SECOND, 10);
    assert_eq!(sites.handed.len(), 400);
}

#[test]
fn ten_thousand_sites_behind_one_budget_cost_no_more_than_one() {
    let mut sites = Sites::new("message_rate = \"1/s\"");
    for n in 0..10_000 {
        sites.bench.insert(TX, &format!("d{n}.test"), n * 8, 0);
    }
    sites.work();
    let mut steps = 0;
    let until = START + 100 * SECOND;
    while let Some(at) = sites
        .bench
        .scheduler
        .poll_timeout()
        .filter(|at| *at <= until)
    {
        sites.bench.now = at;
        let now = at;
        loop {
            steps += 1;
            match sites.bench.scheduler.poll(now) {
                Some(Work::Close { session }) => {
                    let closed = SessionState::Closed { site_failure: None };
                    sites.bench.scheduler.report(now, session, &[], closed);
                }
                Some(work) => {
                    let given = given(&work).unwrap();
                    sites.handed.push((now, given.recipients[0].0));
                    let results = [(given.recipients[0].0, 0, Disposition::Terminal)];
                    let state = SessionState::Idle;
                    sites
                        .bench
                        .scheduler
                        .report(now, given.session, &results, state);
                }
                None => break,
            }
        }
    }
    assert_eq!(sites.handed.len(), 101);
    assert!(steps < 1_000, "{steps} steps for a hundred messages");
    sites.bench.scheduler.check();
}

#[test]
fn a_connection_rate_of_a_provider_spaces_those_of_all_its_sites() {
    let mut sites = Sites::new("connection_rate = \"6/m\"");
    for n in 0..30 {
        sites.bench.insert(TX, &format!("d{n}.test"), n * 8, 0);
    }
    sites.run(START + 60 * SECOND, 10);
    assert_eq!(sites.handed.len(), 7);
    sites.run(START + 600 * SECOND, 10);
    assert_eq!(sites.bench.counts(), (0, 0, 0));
}
