//! A world: how time goes on in it, and what the owner of the scheduler does (`node::dispatch`, without disks and sockets).

use super::*;

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) rng: fastrand::Rng,
    pub(super) now: UnixMs,
    /// The instant that is [`START`].
    pub(super) origin: Instant,
    pub(super) timeouts: Arc<Timeouts>,
    /// `None` while the node is down.
    pub(super) scheduler: Option<Scheduler>,
    pub(super) habits: Habits,
    pub(super) life: u64,
    pub(super) started: UnixMs,
    pub(super) sites: Vec<Site>,
    pub(super) recipients: BTreeMap<(u64, u16), Recipient>,
    pub(super) agents: BTreeMap<SessionId, Agent>,
    pub(super) lines: BTreeMap<u64, Line>,
    pub(super) lines_made: u64,
    pub(super) reports_until: UnixMs,
    pub(super) watch: Watch,
    /// What happened, and how often: a world in which nothing happens proves nothing.
    pub(super) seen: BTreeMap<&'static str, usize>,
    events: BTreeMap<(UnixMs, u64), Event>,
    events_made: u64,
    steps: u64,
    pub(super) operated: bool,
    pub(super) tells: bool,
    pub(super) trace: u64,
}

/// A recipient, as the world knows it.
#[derive(Debug)]
pub(super) struct Recipient {
    pub(super) flow: usize,
    pub(super) pool: PoolId,
    pub(super) domain: usize,
    pub(super) accepted: UnixMs,
    /// From when it may be tried: acceptance, or its release.
    pub(super) begin: UnixMs,
    /// It expires then.
    pub(super) end: UnixMs,
    pub(super) place: Place,
    pub(super) attempts: u32,
    pub(super) not_before: UnixMs,
    /// Attempts that ended without an answer to the content.
    pub(super) ambiguous: u8,
    /// Contents that a host may have taken though we do not know it.
    pub(super) doubts: u32,
    pub(super) reported: UnixMs,
    pub(super) outcome: Option<(UnixMs, End)>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Place {
    Queued,
    With(SessionId),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Delivered,
    Refused,
    /// By the stream's policy.
    Ambiguous,
    Expired,
    Unroutable,
    Withdrawn,
}

pub(super) enum Event {
    Accept(usize),
    Resolved(u64, QueueId, usize),
    NotConnected(u64, bool),
    ToHost(u64, Wire),
    ToUs(u64, Wire),
    HostIdle(u64, UnixMs),
    Timer(SessionId, UnixMs),
    Report(u64, Box<Report>),
    Operator,
    Kill,
    Start,
}

/// How a world ended.
#[derive(Debug)]
pub(super) struct Story {
    #[expect(dead_code, reason = "shown when one seed is run")]
    pub(super) seed: u64,
    pub(super) trace: u64,
    pub(super) outcomes: BTreeMap<String, usize>,
    pub(super) seen: BTreeMap<&'static str, usize>,
    #[expect(dead_code, reason = "shown when one seed is run")]
    pub(super) sites: Vec<Site>,
    #[expect(dead_code, reason = "shown when one seed is run")]
    pub(super) ended_after_s: u64,
}

/// Of the message with this index in the plan.
pub(super) fn position_of(index: usize) -> u64 {
    (index as u64 + 1) * 4096
}

pub(super) fn index_of(position: u64) -> usize {
    (position / 4096 - 1) as usize
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut plan = Plan::new(seed);
        let mut world = Self {
            seed,
            rng: fastrand::Rng::with_seed(!seed),
            now: START,
            origin: some_instant(),
            timeouts: Arc::new(plan.setup.config.timeouts.clone()),
            scheduler: None,
            habits: Habits::default(),
            life: 0,
            started: START,
            sites: std::mem::take(&mut plan.sites),
            recipients: BTreeMap::new(),
            agents: BTreeMap::new(),
            lines: BTreeMap::new(),
            lines_made: 0,
            reports_until: 0,
            watch: Watch::default(),
            seen: BTreeMap::new(),
            events: BTreeMap::new(),
            events_made: 0,
            steps: 0,
            operated: false,
            tells: number("SIM_DIALOGUE").is_some(),
            trace: 0,
            plan,
        };
        world.start();
        for index in 0..world.plan.mail.len() {
            world.at(world.plan.mail[index].0, Event::Accept(index));
        }
        if world.plan.operator {
            let first = START + world.rng.u64(0..2 * HOUR);
            world.at(first, Event::Operator);
        }
        if let Some((killed, started)) = world.plan.outage {
            world.at(killed, Event::Kill);
            world.at(started, Event::Start);
        }
        world
    }

    pub(super) fn instant(&self) -> Instant {
        self.origin + Duration::from_millis(self.now - START)
    }

    pub(super) fn scheduler(&mut self) -> &mut Scheduler {
        self.scheduler.as_mut().expect("the node is up")
    }

    pub(super) fn site_of(&self, domain: usize) -> usize {
        domain % self.sites.len()
    }

    pub(super) fn at(&mut self, time: UnixMs, event: Event) {
        self.events_made += 1;
        self.events.insert((time, self.events_made), event);
    }

    pub(super) fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn note(&mut self, what: &[u64]) {
        for part in what {
            self.trace = (self.trace.rotate_left(5) ^ part).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    pub(super) fn run(mut self) -> Story {
        let end = START + 4 * 24 * HOUR;
        loop {
            self.work();
            let event = self.events.first_key_value().map(|(&(at, _), _)| at);
            let wake = self.scheduler.as_ref().and_then(Scheduler::poll_timeout);
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
                self.happen(event);
            }
            self.steps += 1;
            assert!(self.steps < 3_000_000, "it does not come to an end");
            if self.steps.is_multiple_of(997)
                && let Some(scheduler) = &self.scheduler
            {
                scheduler.check();
            }
        }
        self.judge()
    }

    fn work(&mut self) {
        // A bounded number of rounds: nothing may spin without time going on.
        for _ in 0..100_000 {
            let Some(scheduler) = &mut self.scheduler else {
                return;
            };
            match scheduler.poll(self.now) {
                Some(work) => self.execute(work),
                None if scheduler.poll_timeout().is_none_or(|at| at > self.now) => return,
                None => {}
            }
        }
        panic!("the scheduler spins at {}", self.now - START);
    }

    fn execute(&mut self, work: Work) {
        match work {
            Work::Resolve { queue, domain, .. } => {
                let digits = domain.trim_start_matches('d').trim_end_matches(".test");
                let domain: usize = digits.parse().expect("a domain of ours");
                self.note(&[self.now, 1, domain as u64]);
                let at = self.now + self.rng.u64(0..300);
                self.at(at, Event::Resolved(self.life, queue, domain));
            }
            Work::Open {
                session,
                source,
                pool,
                site_key,
                first,
                ..
            } => {
                let mut sites = self.sites.iter();
                let site = sites
                    .position(|site| site.key == site_key)
                    .expect("a site of ours");
                self.note(&[self.now, 2, session.0, source.0.into(), first.position]);
                self.watch_open(session, source, pool, site);
                self.hand_out(session, pool, &first);
                self.open(session, source, site, first);
            }
            Work::Deliver { session, batch } => {
                self.note(&[self.now, 3, session.0, batch.position]);
                let pool = batch.pool;
                self.hand_out(session, pool, &batch);
                if !self.hand_over(session, batch.clone()) {
                    self.see("batch for a session that has just ended");
                    self.take_back(&batch);
                    let now = self.now;
                    self.scheduler().not_delivered(now, session);
                }
            }
            Work::Close { session } => {
                self.note(&[self.now, 4, session.0]);
                self.tell_to_close(session);
            }
            Work::Expire {
                position,
                number,
                attempts,
            } => self.ends((position, number), attempts, End::Expired),
            Work::Unroutable {
                position,
                number,
                attempts,
                ..
            } => self.ends((position, number), attempts, End::Unroutable),
            Work::Withdrawn {
                position,
                number,
                attempts,
                ..
            } => {
                assert!(self.operated);
                self.ends((position, number), attempts, End::Withdrawn);
            }
        }
    }

    fn hand_out(&mut self, session: SessionId, pool: PoolId, batch: &Batch) {
        self.watch_batch(session, batch);
        let site = self.watch.site_of(session);
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            let at = self.site_of(self.recipients[&key].domain);
            let recipient = self.recipients.get_mut(&key).expect("it was accepted");
            let is_right = recipient.outcome.is_none()
                && recipient.place == Place::Queued
                && (recipient.pool, at) == (pool, site)
                && recipient.attempts == u32::from(given.attempts)
                // Neither too early nor after its end.
                && recipient.not_before <= self.now
                && self.now < recipient.end + EXACT;
            assert!(
                is_right,
                "{given:?} of {key:?} handed out to {pool:?} at site {at} at {}: {recipient:?}",
                self.now
            );
            recipient.place = Place::With(session);
        }
    }

    fn take_back(&mut self, batch: &Batch) {
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            self.recipients
                .get_mut(&key)
                .expect("it was accepted")
                .place = Place::Queued;
        }
    }

    fn ends(&mut self, key: (u64, u16), attempts: u16, end: End) {
        self.note(&[self.now, 5, key.0, key.1.into()]);
        let recipient = self.recipients.get_mut(&key).expect("it was accepted");
        assert_eq!(recipient.place, Place::Queued, "{key:?} ended in flight");
        assert_eq!(
            (recipient.outcome, recipient.attempts),
            (None, u32::from(attempts)),
            "{key:?}"
        );
        recipient.outcome = Some((self.now, end));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Accept(index) => self.accept(index),
            Event::Resolved(life, queue, domain) if life == self.life => {
                let answer = self.answer(domain);
                let now = self.now;
                if let Some(scheduler) = &mut self.scheduler {
                    scheduler.routed(now, queue, answer);
                }
            }
            Event::Resolved(..) => {}
            Event::NotConnected(line, timed_out) => self.not_connected(line, timed_out),
            Event::ToHost(line, what) => self.arrive_there(line, what),
            Event::ToUs(line, what) => self.arrive(line, what),
            Event::HostIdle(line, since) => self.host_idle(line, since),
            Event::Timer(session, at) => self.timer(session, at),
            Event::Report(life, report) if life == self.life => self.reported(*report),
            Event::Report(..) => {}
            Event::Operator => self.operate(),
            Event::Kill => self.kill(),
            Event::Start => self.restart(),
        }
    }

    fn accept(&mut self, index: usize) {
        if self.scheduler.is_none() {
            // The client tries again.
            return self.at(self.now + MINUTE, Event::Accept(index));
        }
        let position = position_of(index);
        let (_, mail) = &self.plan.mail[index];
        let flow = &self.plan.flows[mail.flow];
        let begin = self.now.max(mail.release_at.unwrap_or(0));
        let of_age = begin + flow.retry.max_age.as_millis() as u64;
        let end = mail
            .deadline
            .map_or(of_age, |deadline| deadline.min(of_age));
        let new: Vec<Recipient> = mail
            .domains
            .iter()
            .map(|&domain| Recipient {
                flow: mail.flow,
                pool: flow.pool,
                domain,
                accepted: self.now,
                begin,
                end,
                place: Place::Queued,
                attempts: 0,
                not_before: begin,
                ambiguous: 0,
                doubts: 0,
                reported: 0,
                outcome: None,
            })
            .collect();
        for (number, recipient) in new.into_iter().enumerate() {
            let key = (position, number as u16);
            self.recipients.insert(key, recipient);
            self.insert(key, false);
        }
    }

    /// Gives a recipient to the scheduler.
    fn insert(&mut self, key: (u64, u16), again: bool) {
        let recipient = &self.recipients[&key];
        let (_, mail) = &self.plan.mail[index_of(key.0)];
        let flow = &self.plan.flows[mail.flow];
        let new = NewRecipient {
            position: key.0,
            number: key.1,
            pool: flow.pool,
            domain: &format!("d{}.test", recipient.domain),
            flow: FlowName {
                server: flow.server,
                server_name: &flow.server_name,
                stream: &flow.stream,
            },
            message: key.0,
            tag: None,
            accepted_at: recipient.accepted,
            life: Life {
                max_age: Some(flow.retry.max_age),
                max_wait: Some(flow.retry.max),
                deadline: mail.deadline,
                release_at: mail.release_at,
            },
            attempts: recipient.attempts as u16,
            next_attempt: recipient.not_before,
        };
        let scheduler = self.scheduler.as_mut().expect("the node is up");
        match again {
            false => scheduler.insert(self.now, new),
            true => scheduler.take_over(self.now, new),
        }
    }

    fn answer(&mut self, domain: usize) -> RouteAnswer {
        let cause = |detail: &str| Arc::new(Cause::new(CauseClass::Dns, detail));
        match self.plan.dns[domain] {
            Dns::TakesNoMail => RouteAnswer::Refused {
                cause: cause("null MX"),
            },
            Dns::FailsUntil(until) if self.now < until => RouteAnswer::Defer {
                cause: cause("SERVFAIL"),
            },
            _ => {
                let site = &self.sites[self.site_of(domain)];
                let names = site.hosts.iter().map(|host| &*host.name);
                RouteAnswer::Site {
                    key: Arc::clone(&site.key),
                    valid_until: self.now + self.rng.u64(1..60) * MINUTE,
                    provider: self.plan.setup.config.shaping.provider_of(names),
                }
            }
        }
    }

    /// As the dispatcher takes a report.
    fn reported(&mut self, report: Report) {
        let now = self.now;
        let mut dispositions = Vec::new();
        for mut result in report.results {
            let key = (result.position, result.number);
            dispositions.push((key.0, key.1, self.decided(key, &mut result.outcome)));
        }
        self.note(&[now, 6, report.session.0, dispositions.len() as u64]);
        if let SessionState::Closed { .. } = report.state {
            self.watch_closed(report.session);
        }
        let next = self
            .scheduler()
            .report(now, report.session, &dispositions, report.state);
        for (position, number, at) in next {
            self.deferred((position, number), at);
        }
        if report.runs_ahead {
            self.scheduler().runs_ahead(now, report.session);
        }
        if let Some((address, sign)) = report.sign
            && self.habits.note(now, address, sign)
        {
            self.see(match sign.habit {
                Habit::Ahead => "host that mishandles what comes ahead",
                Habit::Pipelining => "host that mishandles PIPELINING",
                Habit::Chunking => "host that mishandles CHUNKING",
            });
        }
        if let Some(position) = report.broken_by {
            self.see("message that goes to one recipient at a time");
            self.habits.isolate(now, position);
        }
    }

    fn decided(&mut self, key: (u64, u16), outcome: &mut Outcome) -> Disposition {
        let recipient = self.recipients.get_mut(&key).expect("it was handed out");
        let flow = &self.plan.flows[recipient.flow];
        assert!(
            matches!(recipient.place, Place::With(_)),
            "{key:?} {recipient:?}"
        );
        recipient.place = Place::Queued;
        recipient.reported = self.now;
        if let Outcome::Ambiguous { .. } = outcome {
            *self.seen.entry("answer to a content lost").or_default() += 1;
            recipient.ambiguous += 1;
            recipient.doubts += 1;
            judge_ambiguous(outcome, flow.ambiguous, recipient.ambiguous);
        }
        let end = match outcome {
            Outcome::Delivered { .. } => Some(End::Delivered),
            Outcome::Bounced { cause, .. } if cause.class == CauseClass::Ambiguous => {
                Some(End::Ambiguous)
            }
            Outcome::Bounced { .. } => Some(End::Refused),
            _ => None,
        };
        if let Some(end) = end {
            assert_eq!(recipient.outcome, None, "{key:?} has a second outcome");
            recipient.outcome = Some((self.now, end));
        }
        if *outcome != Outcome::NotAttempted {
            recipient.attempts += 1;
        }
        disposition(outcome, self.now, Some(flow.retry))
    }

    /// The scheduler says when it comes next.
    fn deferred(&mut self, key: (u64, u16), at: UnixMs) {
        let recipient = self.recipients.get_mut(&key).expect("it was handed out");
        let retry = &self.plan.flows[recipient.flow].retry;
        let (first, max) = (retry.first.as_millis() as u64, retry.max.as_millis() as u64);
        let doublings = (recipient.attempts - 1).min(20);
        let base = (first << doublings).min(max);
        let wait = at - self.now;
        let least = base - base / 5;
        assert!(
            wait >= least,
            "{key:?} comes again after {wait} ms: {recipient:?}"
        );
        let most = (base + base / 5).max(10 * MINUTE);
        assert!(
            wait <= most,
            "{key:?} comes again after {wait} ms: {recipient:?}"
        );
        recipient.not_before = at;
    }

    pub(super) fn start(&mut self) {
        let setup = self.plan.setup;
        let delivery = &setup.config.delivery;
        let limits = Limits {
            connections_per_source_site: delivery.connections_per_site,
            connections: delivery.connections_max,
            connection_idle: delivery.idle,
            messages_per_connection: delivery.messages_per_connection,
            resolves: 8,
            ..Limits::default()
        };
        let scheduler = Scheduler::new(self.plan.pools.clone(), limits, self.seed ^ self.life)
            .with_shaping(Arc::clone(&setup.config.shaping))
            .with_shares(self.plan.shares.clone());
        self.scheduler = Some(scheduler);
    }

    /// Everything that is not on disk is gone: what was handed out may have been taken.
    fn kill(&mut self) {
        self.scheduler = None;
        self.life += 1;
        self.see("crash");
        self.let_go_of_all();
        self.watch = Watch::default();
        self.habits = Habits::default();
        for recipient in self.recipients.values_mut() {
            if recipient.place != Place::Queued {
                recipient.place = Place::Queued;
                recipient.doubts += 1;
            }
        }
    }

    fn restart(&mut self) {
        self.started = self.now;
        self.start();
        let waits = |(_, recipient): &(_, &Recipient)| recipient.outcome.is_none();
        let keys = self.recipients.iter().filter(waits).map(|(&key, _)| key);
        for key in keys.collect::<Vec<_>>() {
            let recipient = self.recipients.get_mut(&key).expect("it was accepted");
            let retry = &self.plan.flows[recipient.flow].retry;
            let (age, wait) = (
                retry.max_age.as_millis() as u64,
                retry.max.as_millis() as u64,
            );
            let (_, mail) = &self.plan.mail[index_of(key.0)];
            if recipient.begin + age <= self.now {
                let grace = self.now + HOUR.min(age / 4);
                recipient.end = mail.deadline.map_or(grace, |deadline| deadline.min(grace));
            }
            recipient.not_before = recipient.not_before.min(self.now + wait).max(
                // What is scheduled stays so.
                if recipient.attempts == 0 {
                    recipient.begin
                } else {
                    0
                },
            );
            self.insert(key, true);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do: only differences count"
)]
fn some_instant() -> Instant {
    Instant::now()
}

/// A time is a multiple of 64 ms in the scheduler, and one that is not the usual one is odd.
pub(super) const EXACT: u64 = 192;
