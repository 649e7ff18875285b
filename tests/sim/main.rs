//! The scheduler under virtual time against modelled remote hosts: refusals, greylisting, tarpits, outages, lost answers,
//! connection limits, idle closes, dead DNS. Same code as in production, no clock, no sleeps, no threads.
//!
//! Each seed is a world: domains, hosts with their moods, mail over some hours, an operator. A world runs until nothing is
//! live and must hold: no recipient lost, one outcome each, none starved at a healthy host, no limit exceeded, no host
//! hammered, and the same trace, bit for bit, when the seed runs again.
//! `SIM_SEED=n` runs one world and prints what became of it; `SIM_SEEDS=n` runs so many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::UnixMs;
use posthaste::config::{Retry, StreamKind};
use posthaste::outcome::{Cause, CauseClass, Scope};
use posthaste::queue::{
    Batch, Disposition, Limits, NewRecipient, PoolConfig, PoolId, QueueId, RouteAnswer, Scheduler,
    Selection, SessionId, SessionState, SourceId, Withdrawal, Work,
};

#[test]
fn two_hundred_worlds_lose_nothing_and_replay_bit_for_bit() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let (first, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SIM_SEEDS").unwrap_or(200)),
    };
    for seed in first..first + count {
        let told = SeedOnPanic(seed);
        let story = World::new(seed, Size::Small).run();
        // Every tenth is enough to find a clock, an address or a hash order that leaked in.
        if seed % 10 == 0 || count == 1 {
            assert_eq!(
                World::new(seed, Size::Small).run().trace,
                story.trace,
                "not replayable"
            );
        }
        drop(told);
        if count == 1 {
            eprintln!("{story:#?}");
        }
    }
}

#[test]
fn a_busy_day_is_delivered_within_the_limits() {
    let told = SeedOnPanic(1);
    let story = World::new(1, Size::Busy).run();
    drop(told);
    assert!(story.delivered > 10_000, "{story:?}");
}

/// Names the seed of the world that failed.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of SIM_SEED={} failed", self.0);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Size {
    Small,
    Busy,
}

/// What a remote host is like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Healthy,
    /// A recipient is taken from this time after its first attempt on.
    Greylisting {
        delay_ms: u64,
    },
    /// Connections are refused until then.
    Down {
        until: UnixMs,
    },
    /// Takes its time for each transaction.
    Tarpit,
    /// Every n-th answer after the final dot is lost; the mail was taken.
    LosesAnswers,
    /// More connections than this get 421.
    FewConnections {
        count: usize,
    },
    /// Sessions without work are closed early, without a word.
    ClosesIdle,
    /// Closes each connection before the first command until then, giving no reason.
    DropsEarly {
        until: UnixMs,
    },
    /// One of our sources is not welcome.
    DislikesSource {
        source: SourceId,
    },
    /// Half of all recipients do not exist, every third is over quota for now.
    Picky,
    /// Closes the session after each message.
    OneMessage,
    /// Never takes anything.
    Never,
}

#[derive(Debug)]
struct Host {
    mood: Mood,
    rtt_ms: u64,
    open: usize,
    connects: u64,
    transactions: u64,
    /// First attempts, for greylisting.
    seen: BTreeMap<(u64, u16), UnixMs>,
}

/// What a domain's look-up says.
#[derive(Clone, Copy, Debug)]
enum Dns {
    Answers,
    /// No answer before then.
    FailsUntil(UnixMs),
    /// Null MX.
    TakesNoMail,
}

#[derive(Debug)]
struct Recipient {
    accepted: UnixMs,
    pool: PoolId,
    domain: usize,
    place: Place,
    outcome: Option<(UnixMs, Outcome)>,
    attempts: u32,
}

#[derive(Debug, PartialEq)]
enum Place {
    Queued,
    With(SessionId),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Delivered,
    Bounced,
    Expired,
    Unroutable,
    Withdrawn,
}

#[derive(Debug)]
struct Agent {
    host: usize,
    source: SourceId,
    pool: PoolId,
    batch: Option<Batch>,
    /// Counted among the host's connections.
    connected: bool,
    told_to_close: bool,
    idle_since: Option<UnixMs>,
}

#[derive(Debug)]
enum Event {
    Accept {
        message: usize,
    },
    Answer {
        queue: QueueId,
        domain: usize,
    },
    Connected {
        session: SessionId,
    },
    Answered {
        session: SessionId,
    },
    RemoteClose {
        session: SessionId,
        idle_since: UnixMs,
    },
    Closed {
        session: SessionId,
    },
    Operator,
}

#[derive(Debug)]
struct Message {
    pool: PoolId,
    domains: Vec<usize>,
}

/// How a world ended.
#[derive(Debug)]
struct Story {
    #[expect(dead_code, reason = "shown when one seed is run")]
    seed: u64,
    trace: u64,
    delivered: usize,
    #[expect(dead_code, reason = "shown when one seed is run")]
    outcomes: BTreeMap<String, usize>,
    #[expect(dead_code, reason = "shown when one seed is run")]
    hosts: Vec<Host>,
    #[expect(dead_code, reason = "shown when one seed is run")]
    ended_after_s: u64,
}

struct World {
    seed: u64,
    rng: fastrand::Rng,
    now: UnixMs,
    scheduler: Scheduler,
    hosts: Vec<Host>,
    dns: Vec<Dns>,
    messages: Vec<Message>,
    recipients: BTreeMap<(u64, u16), Recipient>,
    agents: BTreeMap<SessionId, Agent>,
    events: BTreeMap<(UnixMs, u64), Event>,
    events_made: u64,
    steps: u64,
    operated: bool,
    trace: u64,
}

const START: UnixMs = 1_800_000_000_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const TX: PoolId = PoolId(0);
const CONNECTIONS_PER_SOURCE_SITE: usize = 5;
const CONNECTIONS: usize = 24;

fn pools() -> Vec<PoolConfig> {
    let pool = |kind, sources: &[(u16, u32)], first, max, max_age| PoolConfig {
        kind,
        sources: sources
            .iter()
            .map(|&(id, weight)| (SourceId(id), weight))
            .collect(),
        retry: Retry {
            first: Duration::from_secs(first),
            max: Duration::from_secs(max),
            max_age: Duration::from_secs(max_age),
        },
    };
    vec![
        pool(
            StreamKind::Transactional,
            &[(0, 1), (1, 1)],
            30,
            3_600,
            2 * 86_400,
        ),
        pool(
            StreamKind::Broadcast,
            &[(2, 1), (3, 4)],
            300,
            14_400,
            3 * 86_400,
        ),
    ]
}

impl World {
    fn new(seed: u64, size: Size) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (hosts, domains, messages, hours) = match size {
            Size::Small => (rng.usize(2..8), rng.usize(3..20), rng.usize(20..150), 3),
            Size::Busy => (40, 2_000, 8_000, 12),
        };
        let limits = Limits {
            connections_per_source_site: CONNECTIONS_PER_SOURCE_SITE,
            connections: if size == Size::Busy { 400 } else { CONNECTIONS },
            messages_per_connection: 50,
            recipients_per_transaction: 10,
            resolves: 8,
            ..Limits::default()
        };
        let mut world = Self {
            seed,
            now: START,
            scheduler: Scheduler::new(pools(), limits, seed),
            hosts: Vec::new(),
            dns: Vec::new(),
            messages: Vec::new(),
            recipients: BTreeMap::new(),
            agents: BTreeMap::new(),
            events: BTreeMap::new(),
            events_made: 0,
            steps: 0,
            operated: false,
            trace: 0xcbf2_9ce4_8422_2325,
            rng: rng.fork(),
        };
        world.hosts = (0..hosts).map(|index| world.host(index)).collect();
        world.dns = (0..domains).map(|_| world.dns()).collect();
        for message in 0..messages {
            let at = START + world.rng.u64(0..hours * HOUR);
            let message_has = world.message(domains);
            world.messages.push(message_has);
            world.at(at, Event::Accept { message });
        }
        if size == Size::Small && world.rng.u8(..) < 60 {
            world.at(START + HOUR, Event::Operator);
        }
        world
    }

    fn host(&mut self, index: usize) -> Host {
        let until = START + self.rng.u64(0..6 * HOUR);
        let mood = match self.rng.usize(0..13) {
            // The first is always healthy, so that starvation shows.
            _ if index == 0 => Mood::Healthy,
            0 => Mood::Healthy,
            1 => Mood::Greylisting {
                delay_ms: self.rng.u64(1..20) * MINUTE,
            },
            2 | 3 => Mood::Down { until },
            4 => Mood::Tarpit,
            5 => Mood::LosesAnswers,
            6 => Mood::FewConnections {
                count: self.rng.usize(1..4),
            },
            7 => Mood::ClosesIdle,
            8 => Mood::DropsEarly { until },
            9 => Mood::DislikesSource {
                source: SourceId(self.rng.u16(0..4)),
            },
            10 => Mood::Picky,
            11 => Mood::OneMessage,
            _ => Mood::Never,
        };
        Host {
            mood,
            rtt_ms: self.rng.u64(1..200),
            open: 0,
            connects: 0,
            transactions: 0,
            seen: BTreeMap::new(),
        }
    }

    fn dns(&mut self) -> Dns {
        match self.rng.u8(0..20) {
            0 => Dns::TakesNoMail,
            1 => Dns::FailsUntil(START + self.rng.u64(0..4 * HOUR)),
            _ => Dns::Answers,
        }
    }

    fn message(&mut self, domains: usize) -> Message {
        let count = if self.rng.u8(0..4) > 0 {
            1
        } else {
            self.rng.usize(2..30)
        };
        Message {
            pool: PoolId(self.rng.u16(0..2)),
            domains: (0..count).map(|_| self.rng.usize(0..domains)).collect(),
        }
    }

    /// Domains are spread over the hosts; several share one.
    fn host_of(&self, domain: usize) -> usize {
        domain % self.hosts.len()
    }

    fn at(&mut self, time: UnixMs, event: Event) {
        self.events_made += 1;
        self.events.insert((time, self.events_made), event);
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        for byte in format!("{} {what}", self.now - START).bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn run(mut self) -> Story {
        let end = START + 4 * 24 * HOUR;
        loop {
            self.work();
            let event = self.events.first_key_value().map(|(&(at, _), _)| at);
            let wake = self.scheduler.poll_timeout();
            let Some(next) = event.into_iter().chain(wake).min() else {
                break;
            };
            assert!(
                next <= end,
                "something waits beyond every age limit: {wake:?}"
            );
            self.now = self.now.max(next);
            while let Some(entry) = self.events.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let event = entry.remove();
                self.note(format_args!("{event:?}"));
                self.happen(event);
            }
            self.steps += 1;
            assert!(self.steps < 3_000_000, "it does not come to an end");
            if self.steps.is_multiple_of(997) {
                self.scheduler.check();
            }
        }
        self.judge()
    }

    fn work(&mut self) {
        // A bounded number of rounds: nothing may spin without time going on.
        for _ in 0..100_000 {
            match self.scheduler.poll(self.now) {
                Some(work) => {
                    self.note(format_args!("{work:?}"));
                    self.execute(work);
                }
                None if self.scheduler.poll_timeout().is_none_or(|at| at > self.now) => return,
                None => {}
            }
        }
        panic!("the scheduler spins at {}", self.now - START);
    }

    fn execute(&mut self, work: Work) {
        match work {
            Work::Resolve { queue, domain, .. } => {
                let domain: usize = domain
                    .trim_start_matches('d')
                    .trim_end_matches(".test")
                    .parse()
                    .expect("a domain of ours");
                let at = self.now + self.rng.u64(0..300);
                self.at(at, Event::Answer { queue, domain });
            }
            Work::Open {
                session,
                source,
                pool,
                site_key,
                first,
                ..
            } => {
                let host: usize = site_key
                    .trim_start_matches('h')
                    .parse()
                    .expect("a site of ours");
                self.hand_out(session, pool, host, &first);
                let agent = Agent {
                    host,
                    source,
                    pool,
                    batch: Some(first),
                    connected: false,
                    told_to_close: false,
                    idle_since: None,
                };
                assert_eq!(pool == TX, source.0 < 2, "a source of another pool");
                self.agents.insert(session, agent);
                self.check_limits(host, source);
                let at = self.now + 2 * self.hosts[host].rtt_ms;
                self.at(at, Event::Connected { session });
            }
            Work::Deliver { session, batch } => {
                let agent = self.agents.get_mut(&session).expect("a session that lives");
                assert!(agent.batch.is_none() && !agent.told_to_close);
                let (host, pool) = (agent.host, agent.pool);
                agent.batch = Some(batch.clone());
                agent.idle_since = None;
                self.hand_out(session, pool, host, &batch);
                self.transact(session);
            }
            Work::Close { session } => {
                let agent = self.agents.get_mut(&session).expect("a session that lives");
                assert!(agent.batch.is_none() && !agent.told_to_close);
                agent.told_to_close = true;
                let at = self.now + self.hosts[agent.host].rtt_ms;
                self.at(at, Event::Closed { session });
            }
            Work::Expire {
                position,
                number,
                attempts,
            } => {
                self.ends((position, number), attempts, Outcome::Expired);
            }
            Work::Unroutable {
                position,
                number,
                attempts,
                ..
            } => {
                self.ends((position, number), attempts, Outcome::Unroutable);
            }
            Work::Withdrawn {
                position,
                number,
                attempts,
                ..
            } => {
                assert!(self.operated);
                self.ends((position, number), attempts, Outcome::Withdrawn);
            }
        }
    }

    fn hand_out(&mut self, session: SessionId, pool: PoolId, host: usize, batch: &Batch) {
        assert!((1..=10).contains(&batch.recipients.len()));
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            let at = self.host_of(self.recipients[&key].domain);
            let recipient = self
                .recipients
                .get_mut(&key)
                .expect("a recipient that was accepted");
            assert_eq!(
                (recipient.outcome, &recipient.place),
                (None, &Place::Queued),
                "{key:?}"
            );
            assert_eq!(
                (recipient.pool, at),
                (pool, host),
                "{key:?} goes to another host or pool"
            );
            assert_eq!(recipient.attempts, u32::from(given.attempts));
            recipient.place = Place::With(session);
        }
    }

    fn check_limits(&self, host: usize, source: SourceId) {
        let sessions = || self.agents.values();
        let here = sessions().filter(|agent| (agent.host, agent.source) == (host, source));
        assert!(here.count() <= CONNECTIONS_PER_SOURCE_SITE);
        let limit = if self.hosts.len() == 40 {
            400
        } else {
            CONNECTIONS
        };
        let broadcast = sessions().filter(|agent| agent.pool != TX).count();
        assert!(sessions().count() <= limit && broadcast <= limit - limit / 4);
    }

    fn ends(&mut self, key: (u64, u16), attempts: u16, outcome: Outcome) {
        let recipient = self
            .recipients
            .get_mut(&key)
            .expect("a recipient that was accepted");
        assert_eq!(
            recipient.place,
            Place::Queued,
            "{key:?} ended twice or in flight"
        );
        assert_eq!(
            (recipient.outcome, recipient.attempts),
            (None, u32::from(attempts)),
            "{key:?}"
        );
        recipient.outcome = Some((self.now, outcome));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Accept { message } => self.accept(message),
            Event::Answer { queue, domain } => {
                let answer = self.answer(domain);
                self.scheduler.routed(self.now, queue, answer);
            }
            Event::Connected { session } => self.connected(session),
            Event::Answered { session } => self.answered(session),
            Event::RemoteClose {
                session,
                idle_since,
            } => {
                // The agent notices at once if it is still idle; otherwise it finds out when it writes.
                let agent = self.agents.get(&session);
                if agent.is_some_and(|agent| {
                    agent.idle_since == Some(idle_since) && !agent.told_to_close
                }) {
                    self.close(session, &[], None);
                }
            }
            Event::Closed { session } => {
                if self.agents.contains_key(&session) {
                    self.close(session, &[], None);
                }
            }
            Event::Operator => self.operate(),
        }
    }

    fn accept(&mut self, message: usize) {
        let position = (message as u64 + 1) * 4096;
        let (pool, domains) = (
            self.messages[message].pool,
            self.messages[message].domains.clone(),
        );
        for (number, domain) in domains.into_iter().enumerate() {
            let new = NewRecipient {
                position,
                number: number as u16,
                pool,
                domain: &format!("d{domain}.test"),
                server: 1,
                accepted_at: self.now,
                attempts: 0,
                next_attempt: self.now,
            };
            self.scheduler.insert(self.now, new);
            let recipient = Recipient {
                accepted: self.now,
                pool,
                domain,
                place: Place::Queued,
                outcome: None,
                attempts: 0,
            };
            self.recipients.insert((position, number as u16), recipient);
        }
    }

    fn answer(&mut self, domain: usize) -> RouteAnswer {
        let cause = |detail: &str| Arc::new(Cause::new(CauseClass::Dns, detail));
        match self.dns[domain] {
            Dns::TakesNoMail => RouteAnswer::Refused {
                cause: cause("null MX"),
            },
            Dns::FailsUntil(until) if self.now < until => RouteAnswer::Defer {
                cause: cause("SERVFAIL"),
            },
            _ => RouteAnswer::Site {
                key: format!("h{}", self.host_of(domain)).into(),
                valid_until: self.now + self.rng.u64(1..60) * MINUTE,
            },
        }
    }

    fn connected(&mut self, session: SessionId) {
        let agent = self.agents.get_mut(&session).expect("a session that lives");
        let host = &mut self.hosts[agent.host];
        host.connects += 1;
        let failure = match host.mood {
            Mood::Down { until } if self.now < until => Some(Some(Scope::Site)),
            Mood::Never => Some(Some(Scope::Site)),
            Mood::DropsEarly { until } if self.now < until => Some(None),
            Mood::FewConnections { count } if host.open >= count => {
                Some(Some(Scope::SiteFromSource))
            }
            Mood::DislikesSource { source } if source == agent.source => {
                Some(Some(Scope::SiteFromSource))
            }
            _ => None,
        };
        match failure {
            None => {
                agent.connected = true;
                host.open += 1;
                if self.rng.bool() {
                    self.scheduler.opened(self.now, session);
                }
                self.transact(session);
            }
            Some(scope) => self.close(session, &[], scope),
        }
    }

    /// The batch's transaction takes place; its answer comes later.
    fn transact(&mut self, session: SessionId) {
        let agent = &self.agents[&session];
        let host = &self.hosts[agent.host];
        let think = match host.mood {
            Mood::Tarpit => self.rng.u64(20..300) * SECOND,
            _ => self.rng.u64(1..50),
        };
        let at = self.now + 2 * host.rtt_ms + think;
        self.at(at, Event::Answered { session });
    }

    fn answered(&mut self, session: SessionId) {
        let Some(agent) = self.agents.get_mut(&session) else {
            return;
        };
        let batch = agent.batch.clone().expect("a transaction under way");
        let host = &mut self.hosts[agent.host];
        host.transactions += 1;
        let lost = host.mood == Mood::LosesAnswers && host.transactions.is_multiple_of(3);
        let gone = host.mood == Mood::ClosesIdle && host.transactions.is_multiple_of(5);
        let one = host.mood == Mood::OneMessage;
        if gone {
            // The host had closed before it saw the batch.
            return self.close(session, &[], None);
        }
        let mut results = Vec::new();
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            let first = *host.seen.entry(key).or_insert(self.now);
            let disposition = match host.mood {
                Mood::Greylisting { delay_ms } if self.now < first + delay_ms => {
                    Disposition::Retry { not_before: None }
                }
                Mood::Picky if (key.0 / 4096 + u64::from(key.1)) % 3 == 0 && first == self.now => {
                    Disposition::Retry {
                        not_before: Some(self.now + 10 * MINUTE),
                    }
                }
                _ if lost => Disposition::Retry { not_before: None },
                _ => Disposition::Terminal,
            };
            results.push((key.0, key.1, disposition));
        }
        if lost {
            return self.close(session, &results, Some(Scope::SiteFromSource));
        }
        if one {
            return self.close(session, &results, None);
        }
        self.settle(&results);
        let agent = self.agents.get_mut(&session).expect("it was there above");
        agent.batch = None;
        agent.idle_since = Some(self.now);
        if self.hosts[agent.host].mood == Mood::ClosesIdle {
            let close = Event::RemoteClose {
                session,
                idle_since: self.now,
            };
            self.at(self.now + 2 * SECOND, close);
        }
        self.scheduler
            .report(self.now, session, &results, SessionState::Idle);
    }

    fn settle(&mut self, results: &[(u64, u16, Disposition)]) {
        for &(position, number, disposition) in results {
            let recipient = self
                .recipients
                .get_mut(&(position, number))
                .expect("it was handed out");
            assert!(matches!(recipient.place, Place::With(_)));
            recipient.place = Place::Queued;
            if disposition != Disposition::NotAttempted {
                recipient.attempts += 1;
            }
            if disposition == Disposition::Terminal {
                let bounces = self.hosts[recipient.domain % self.hosts.len()].mood == Mood::Picky
                    && number % 2 == 1;
                let outcome = if bounces {
                    Outcome::Bounced
                } else {
                    Outcome::Delivered
                };
                assert_eq!(recipient.outcome, None, "a second outcome");
                recipient.outcome = Some((self.now, outcome));
            }
        }
    }

    /// The connection is gone. Recipients that `results` leaves out were not attempted.
    fn close(
        &mut self,
        session: SessionId,
        results: &[(u64, u16, Disposition)],
        failure: Option<Scope>,
    ) {
        self.settle(results);
        let agent = self.agents.remove(&session).expect("a session that lives");
        if agent.connected {
            self.hosts[agent.host].open -= 1;
        }
        if results.is_empty() {
            for given in agent.batch.iter().flat_map(|batch| &batch.recipients) {
                let key = (
                    agent.batch.as_ref().map_or(0, |batch| batch.position),
                    given.number,
                );
                self.recipients
                    .get_mut(&key)
                    .expect("it was handed out")
                    .place = Place::Queued;
            }
        }
        let state = SessionState::Closed {
            site_failure: failure,
        };
        self.scheduler.report(self.now, session, results, state);
    }

    fn operate(&mut self) {
        self.operated = true;
        let domain = format!("d{}.test", self.rng.usize(0..self.dns.len()));
        let position = (self.rng.u64(0..self.messages.len() as u64) + 1) * 4096;
        let selection = match self.rng.u8(0..4) {
            0 => Selection::All,
            1 => Selection::Message { position },
            _ => Selection::Domain(&domain),
        };
        match self.rng.u8(0..3) {
            0 if selection != Selection::All => {
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Cancel);
            }
            1 if selection != Selection::All => {
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Bounce);
            }
            _ => {
                self.scheduler.retry_now(self.now, selection);
            }
        }
        if self.rng.u8(0..5) > 0 {
            let again = self.now + self.rng.u64(0..HOUR);
            self.at(again, Event::Operator);
        }
    }

    /// Nothing is left to happen: was everything as it must be?
    fn judge(self) -> Story {
        self.scheduler.check();
        assert_eq!(
            self.scheduler.counts().total(),
            0,
            "recipients without an owner"
        );
        assert!(self.agents.is_empty(), "sessions left open");
        assert_eq!((self.scheduler.queues(), self.scheduler.sites()), (0, 0));
        let mut outcomes = BTreeMap::new();
        for (key, recipient) in &self.recipients {
            let Some((at, outcome)) = recipient.outcome else {
                panic!("{key:?} has no outcome: {recipient:?}");
            };
            self.judge_one(*key, recipient, at, outcome);
            *outcomes.entry(format!("{outcome:?}")).or_insert(0) += 1;
        }
        for host in &self.hosts {
            self.judge_host(host);
        }
        Story {
            seed: self.seed,
            trace: self.trace,
            delivered: outcomes.get("Delivered").copied().unwrap_or(0),
            outcomes,
            hosts: self.hosts,
            ended_after_s: (self.now - START) / SECOND,
        }
    }

    fn judge_one(&self, key: (u64, u16), recipient: &Recipient, at: UnixMs, outcome: Outcome) {
        let (waited, tx) = (at - recipient.accepted, recipient.pool == TX);
        let max_age = if tx { 48 } else { 72 } * HOUR;
        let mood = self.hosts[self.host_of(recipient.domain)].mood;
        let told = || format!("{key:?} {recipient:?} at {mood:?} after {waited} ms");
        match (self.dns[recipient.domain], outcome) {
            (Dns::TakesNoMail, Outcome::Unroutable | Outcome::Withdrawn) => return,
            (Dns::TakesNoMail, _) => panic!("{}", told()),
            (_, Outcome::Unroutable) => panic!("{}", told()),
            (_, Outcome::Withdrawn) => return,
            (_, Outcome::Expired) => {
                let source_out = matches!(mood, Mood::Never);
                assert!(source_out, "given up though the host took mail: {}", told());
                assert!((max_age..max_age + MINUTE).contains(&waited), "{}", told());
                return;
            }
            (_, Outcome::Delivered | Outcome::Bounced) => assert!(waited <= max_age, "{}", told()),
        }
        // How late may it be? The host's own trouble, then the longest wait of ours.
        let dns = match self.dns[recipient.domain] {
            Dns::FailsUntil(until) => until.saturating_sub(recipient.accepted) + 20 * MINUTE,
            _ => 0,
        };
        let trouble = match mood {
            Mood::Healthy => 0,
            Mood::ClosesIdle | Mood::OneMessage => 5 * MINUTE,
            Mood::Down { until } | Mood::DropsEarly { until } => {
                until.saturating_sub(recipient.accepted) + 20 * MINUTE
            }
            // Not bounded by the scheduler: capacity, or chance, decides.
            _ => max_age,
        };
        let bound = 2 * MINUTE + dns + trouble;
        assert!(waited <= bound, "starved, {bound} ms would do: {}", told());
    }

    /// Nobody is hammered: a host that refuses sees the back-off, not our mail.
    fn judge_host(&self, host: &Host) {
        if self.operated || self.hosts.len() == 40 {
            return;
        }
        let bound = match host.mood {
            // Two pools, two or three days, a probe at least every 12 minutes once backed off.
            Mood::Never => 2 * 72 * 5 + 2 * 10 + 20,
            Mood::Down { until } => 2 * ((until - START) / (12 * MINUTE) + 10) + 500,
            Mood::DropsEarly { until } => 4 * ((until - START) / MINUTE + 20) + 500,
            _ => return,
        };
        assert!(
            host.connects <= bound,
            "{} connections, at most {bound}: {:?}",
            host.connects,
            host.mood
        );
    }
}
