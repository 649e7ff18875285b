//! A day: providers that have half of all mail, many small sites with their troubles, single messages around the clock
//! and campaigns that come at once, forty streams, a crash at noon. The same world as the small ones, dialogues included;
//! recipients are judged when they end, and forgotten.

use super::*;

/// `SIM_DAY=10000000`: so many recipients (`scripts/sim-day`).
#[test]
fn a_day_is_delivered_within_the_limits() {
    let recipients = number("SIM_DAY").unwrap_or(10_000);
    let _told = SeedOnPanic(1);
    let story = World::of(1, Plan::day(1, recipients)).run();
    let ended: usize = story.outcomes.values().sum();
    let first = story.first_attempts;
    eprintln!(
        "{ended} recipients in {} virtual hours: {:?}\n{:?}",
        story.ended_after_s / 3_600,
        story.outcomes,
        story.seen,
    );
    eprintln!(
        "transactional mail was tried after {} ms (median), {} ms (99 %), {} ms (99.9 %)",
        first.at(0.5),
        first.at(0.99),
        first.at(0.999)
    );
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find(|line| line.starts_with("VmHWM"));
        eprintln!("{}", peak.unwrap_or("no peak of memory"));
    }
    let delivered = story.outcomes.get(&End::Delivered).copied().unwrap_or(0);
    assert!(
        delivered * 10 > ended * 8,
        "{delivered} of {ended} delivered"
    );
}

pub(super) struct Day {
    rng: fastrand::Rng,
    minute: u64,
    /// Recipients that come in each minute, and of which campaign.
    minutes: Vec<(u64, Option<usize>)>,
    flows: usize,
    domains: usize,
}

const SITES: usize = 500;
const DOMAINS: usize = 20_000;
const FLOWS: usize = 40;
const CAMPAIGNS: usize = 20;

impl Day {
    fn new(mut rng: fastrand::Rng, recipients: u64) -> Self {
        let around_the_clock = recipients * 2 / 5;
        let mut minutes = vec![(around_the_clock / 1_440, None); 1_440];
        let campaign = (recipients - around_the_clock) / CAMPAIGNS as u64;
        for _ in 0..CAMPAIGNS {
            let from = rng.usize(0..1_430);
            // A broadcast stream, whichever.
            let flow = rng.usize(FLOWS / 5..FLOWS);
            for minute in &mut minutes[from..from + 3] {
                *minute = (minute.0 + campaign / 3, Some(flow));
            }
        }
        Self {
            rng,
            minute: 0,
            minutes,
            flows: FLOWS,
            domains: DOMAINS,
        }
    }

    /// Recipients that are still to come.
    pub(super) fn left(&self) -> u64 {
        let minutes = self.minutes.get(self.minute as usize..).unwrap_or_default();
        minutes.iter().map(|(count, _)| count).sum()
    }

    pub(super) fn next_minute(&mut self) -> Option<Vec<(UnixMs, Mail)>> {
        let &(recipients, campaign) = self.minutes.get(self.minute as usize)?;
        let from = START + self.minute * MINUTE;
        self.minute += 1;
        let mut mail = Vec::new();
        let mut made = 0;
        while made < recipients {
            let at = from + made * MINUTE / recipients;
            let message = self.message(at, campaign);
            made += message.domains.len() as u64;
            mail.push((at, message));
        }
        Some(mail)
    }

    fn message(&mut self, at: UnixMs, campaign: Option<usize>) -> Mail {
        let count = match self.rng.u8(0..20) {
            0 => self.rng.usize(2..10),
            _ => 1,
        };
        // As many in the first ten domains as in the next ninety, and so on.
        let mut domain = || (self.domains as f64).powf(self.rng.f64()) as usize - 1;
        let domains = (0..count).map(|_| domain()).collect();
        let release_at = (self.rng.u8(0..50) == 0).then(|| at + self.rng.u64(1..2 * HOUR));
        let soon = release_at.unwrap_or(at) + self.rng.u64(MINUTE..HOUR);
        Mail {
            flow: match campaign {
                Some(flow) if self.rng.u8(0..20) > 0 => flow,
                _ => self.rng.usize(0..self.flows),
            },
            domains,
            deadline: (self.rng.u8(0..20) == 0).then_some(soon),
            release_at,
        }
    }
}

impl Setup {
    fn day() -> &'static Self {
        static DAY: OnceLock<Setup> = OnceLock::new();
        DAY.get_or_init(|| {
            let base = Rules {
                connections: 10,
                messages_per_connection: 100,
                recipients_per_message: 100,
                message_rate: None,
                connection_rate: None,
                messages_per_hour: None,
                messages_per_day: None,
                whole: false,
            };
            let large = Rules {
                connections: 20,
                messages_per_connection: 50,
                ..base
            };
            let even = Rules {
                message_rate: Some((1_200, MINUTE)),
                connection_rate: Some((120, MINUTE)),
                ..base
            };
            let counted = Rules {
                recipients_per_message: 5,
                messages_per_hour: Some(20_000),
                messages_per_day: Some(200_000),
                ..base
            };
            Self::with(
                2_000,
                base,
                &[large, even, counted],
                [2, 8],
                &mut fastrand::Rng::with_seed(1),
            )
        })
    }
}

impl Plan {
    fn day(seed: u64, recipients: u64) -> Self {
        let setup = Setup::day();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plan = Self::empty(setup);
        let noon = START + 12 * HOUR;
        plan.outage = Some((noon, noon + 5 * MINUTE));
        plan.forgets = true;
        plan.sample = 64;
        plan.check_every = recipients.max(997);
        plan.add_flows(&mut rng, FLOWS);
        // A fifth of the streams is transactional.
        for (number, flow) in plan.flows.iter_mut().enumerate() {
            flow.pool = PoolId(u16::from(number >= FLOWS / 5));
        }
        let sites = (0..SITES).map(|index| Site::new(index, setup, &mut rng));
        plan.sites = sites.collect();
        for (index, site) in plan.sites.iter_mut().enumerate().take(8) {
            site.troubles = match index {
                1 => vec![Trouble::Greylists {
                    delay_ms: 5 * MINUTE,
                }],
                3 => vec![Trouble::Throttles { per_minute: 2_000 }],
                4 => vec![Trouble::Picky],
                5 => vec![Trouble::FewConnections { count: 8 }],
                6 => vec![Trouble::LosesAnswers],
                _ => Vec::new(),
            };
            site.outages.fill(None);
        }
        plan.dns = (0..DOMAINS).map(|_| Dns::new(&mut rng)).collect();
        plan.dns[..20].fill(Dns::Answers);
        plan.more = Some(Day::new(rng, recipients));
        plan
    }
}

/// Times, in classes of a quarter of a power of two.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<u64, u64>);

impl Times {
    pub(super) fn add(&mut self, ms: u64) {
        let width = (1 << (ms | 1).ilog2()) / 4;
        let class = ms.checked_div(width).map_or(ms, |n| n * width);
        *self.0.entry(class).or_default() += 1;
    }

    pub(super) fn at(&self, share: f64) -> u64 {
        let all: u64 = self.0.values().sum();
        let mut left = (all as f64 * share) as u64;
        for (&ms, &count) in &self.0 {
            if left < count {
                return ms;
            }
            left -= count;
        }
        self.0.keys().last().copied().unwrap_or(0)
    }
}
