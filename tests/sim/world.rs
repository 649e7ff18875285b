//! A world: how it is made from its seed, and how time goes on in it.

use super::*;

fn pools() -> Vec<PoolConfig> {
    let pool = |kind, sources: &[(u16, u32)], first, max, max_age| PoolConfig {
        kind,
        name: "pool".into(),
        source_names: sources
            .iter()
            .map(|(id, _)| format!("s{id}").into())
            .collect(),
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
    pub(super) fn new(seed: u64, size: Size) -> Self {
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
        let mood = match self.rng.usize(0..15) {
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
            12 | 13 => Mood::Pipelines {
                breaks: self.rng.bool(),
            },
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
    pub(super) fn host_of(&self, domain: usize) -> usize {
        domain % self.hosts.len()
    }

    pub(super) fn at(&mut self, time: UnixMs, event: Event) {
        self.events_made += 1;
        self.events.insert((time, self.events_made), event);
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        for byte in format!("{} {what}", self.now - START).bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn run(mut self) -> Story {
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
                    next: None,
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
                assert!(agent.next.is_none() && !agent.told_to_close);
                let (host, pool) = (agent.host, agent.pool);
                let ahead = agent.batch.is_some();
                let place = if ahead {
                    assert!(matches!(self.hosts[host].mood, Mood::Pipelines { .. }));
                    &mut agent.next
                } else {
                    &mut agent.batch
                };
                *place = Some(batch.clone());
                agent.idle_since = None;
                self.hand_out(session, pool, host, &batch);
                if !ahead {
                    self.transact(session);
                }
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
}
