//! A world: what there is in it, and how time goes on.

use super::directives::Given;
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
    site_keys: BTreeMap<Arc<str>, usize>,
    /// Messages accepted.
    pub(super) messages: u64,
    pub(super) recipients: BTreeMap<(u64, u16), Recipient>,
    pub(super) outcomes: BTreeMap<End, usize>,
    pub(super) agents: BTreeMap<SessionId, Agent>,
    pub(super) lines: BTreeMap<u64, Line>,
    pub(super) lines_made: u64,
    /// Open at both ends.
    pub(super) lines_held: usize,
    pub(super) reports_until: UnixMs,
    pub(super) watch: Watch,
    /// What happened, and how often: a world in which nothing happens proves nothing.
    pub(super) seen: BTreeMap<&'static str, usize>,
    /// Of transactional mail for sites without troubles.
    pub(super) first_attempts: Times,
    events: BTreeMap<(UnixMs, u64), Event>,
    events_made: u64,
    steps: u64,
    pub(super) operated: bool,
    /// Sources that the operator empties, until when.
    pub(super) drains: BTreeMap<SourceId, UnixMs>,
    pub(super) drained_ever: bool,
    /// A source went out of service.
    pub(super) stopped_ever: bool,
    pub(super) directives: Vec<Given>,
    pub(super) directives_made: u32,
    /// Dials from a source whose address was not there.
    pub(super) failed_dials: BTreeMap<IpAddr, u64>,
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
    pub(super) deadline: Option<UnixMs>,
    pub(super) release_at: Option<UnixMs>,
    pub(super) outcome: Option<(UnixMs, End)>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Place {
    Queued,
    With(SessionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    Accept,
    Resolved(u64, QueueId, usize),
    NotConnected(u64, bool),
    ToHost(u64, Wire),
    ToUs(u64, Wire),
    HostIdle(u64, UnixMs),
    Timer(SessionId, UnixMs),
    Report(u64, Box<Report>),
    Operator,
    /// The end of a directive.
    Resume(u32),
    Kill,
    Start,
}

/// How a world ended.
#[derive(Debug)]
pub(super) struct Story {
    #[expect(dead_code, reason = "shown when one seed is run")]
    pub(super) seed: u64,
    pub(super) trace: u64,
    pub(super) outcomes: BTreeMap<End, usize>,
    pub(super) seen: BTreeMap<&'static str, usize>,
    pub(super) first_attempts: Times,
    #[expect(dead_code, reason = "shown when one seed is run")]
    pub(super) sites: Vec<Site>,
    pub(super) ended_after_s: u64,
}

/// Of the message that was accepted as the n-th.
pub(super) fn position_of(number: u64) -> u64 {
    number * 4096
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::of(seed, Plan::new(seed))
    }

    pub(super) fn of(seed: u64, mut plan: Plan) -> Self {
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
            site_keys: BTreeMap::new(),
            messages: 0,
            recipients: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            agents: BTreeMap::new(),
            lines: BTreeMap::new(),
            lines_made: 0,
            lines_held: 0,
            reports_until: 0,
            watch: Watch::default(),
            seen: BTreeMap::new(),
            first_attempts: Times::default(),
            events: BTreeMap::new(),
            events_made: 0,
            steps: 0,
            operated: false,
            drains: BTreeMap::new(),
            drained_ever: false,
            stopped_ever: false,
            directives: Vec::new(),
            directives_made: 0,
            failed_dials: BTreeMap::new(),
            tells: number("SIM_DIALOGUE").is_some(),
            trace: 0,
            plan,
        };
        let keys = world.sites.iter().enumerate();
        world.site_keys = keys.map(|(n, site)| (Arc::clone(&site.key), n)).collect();
        world.start();
        world.expect_mail();
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

    pub(super) fn note(&mut self, what: &[u64]) {
        for part in what {
            self.trace = (self.trace.rotate_left(5) ^ part).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    pub(super) fn run(mut self) -> Story {
        let end = START + 4 * 24 * HOUR;
        let steps_max = 3_000_000 + 100 * self.plan.left();
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
            assert!(self.steps < steps_max, "it does not come to an end");
            if self.steps.is_multiple_of(self.plan.check_every)
                && let Some(scheduler) = &self.scheduler
            {
                scheduler.check();
            }
        }
        self.judge()
    }

    pub(super) fn site_with(&self, key: &str) -> usize {
        self.site_keys[key]
    }

    fn work(&mut self) {
        // A bounded number of rounds: nothing may spin without time going on.
        for _ in 0..100_000 {
            let Some(scheduler) = &mut self.scheduler else {
                return;
            };
            match scheduler.poll(self.now) {
                Some(work) => {
                    self.note_sources();
                    self.execute(work);
                }
                None if scheduler.poll_timeout().is_none_or(|at| at > self.now) => {
                    return self.note_sources();
                }
                None => {}
            }
        }
        panic!("the scheduler spins at {}", self.now - START);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Accept => self.accept(),
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
            Event::Resume(id) => self.resume(id),
            Event::Kill => self.kill(),
            Event::Start => self.restart(),
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
