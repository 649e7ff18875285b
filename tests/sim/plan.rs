//! What a world is made of: configuration, tenants, remote sites with their natures, and mail. All of it from its seed.

use super::*;

/// The scheduler's part of a configuration, and the same limits as the judge knows them.
pub(super) struct Setup {
    pub(super) config: Config,
    /// By provider; the last is of sites of none.
    pub(super) rules: Vec<Rules>,
    pub(super) connections: usize,
}

/// Limits of one source at one site, as written into the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) connections: usize,
    pub(super) messages_per_connection: u64,
    pub(super) recipients_per_message: usize,
    /// So many in so many milliseconds.
    pub(super) message_rate: Option<(u64, u64)>,
    pub(super) connection_rate: Option<(u64, u64)>,
    pub(super) messages_per_hour: Option<u64>,
    pub(super) messages_per_day: Option<u64>,
    /// They count over all sites of the provider.
    pub(super) whole: bool,
}

/// A source whose address is not on this host, or that no site lets in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent {
    source: IpAddr,
    from: UnixMs,
    pub(super) until: UnixMs,
    /// The sites refuse it.
    pub(super) blocked: bool,
}

impl Absent {
    pub(super) fn is(&self, now: UnixMs, source: IpAddr, blocked: bool) -> bool {
        let holds = self.from <= now && now < self.until;
        holds && (self.source, self.blocked) == (source, blocked)
    }

    pub(super) fn holds(&self, now: UnixMs, source: IpAddr) -> bool {
        self.is(now, source, false)
    }
}

/// A stream of a tenant.
pub(super) struct Flow {
    pub(super) server: u32,
    pub(super) server_name: String,
    pub(super) stream: String,
    pub(super) pool: PoolId,
    pub(super) retry: Retry,
    pub(super) ambiguous: Ambiguous,
}

pub(super) struct Mail {
    pub(super) flow: usize,
    pub(super) domains: Vec<usize>,
    pub(super) deadline: Option<UnixMs>,
    pub(super) release_at: Option<UnixMs>,
}

pub(super) struct Plan {
    pub(super) setup: &'static Setup,
    pub(super) pools: Vec<PoolConfig>,
    pub(super) flows: Vec<Flow>,
    pub(super) shares: Vec<Share>,
    pub(super) sites: Vec<Site>,
    pub(super) dns: Vec<Dns>,
    /// With the time of acceptance, in its order.
    mail: VecDeque<(UnixMs, Mail)>,
    /// More of it is made when its hour comes.
    pub(super) more: Option<Day>,
    /// Recipients are judged when they end, and forgotten.
    pub(super) forgets: bool,
    /// Messages of which one is followed closely.
    pub(super) sample: u64,
    /// Steps from one check of all invariants to the next.
    pub(super) check_every: u64,
    pub(super) operator: bool,
    pub(super) absent: Option<Absent>,
    /// The node is killed then, and started again.
    pub(super) outage: Option<(UnixMs, UnixMs)>,
}

/// What a domain's look-up says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dns {
    Answers,
    /// No answer before then.
    FailsUntil(UnixMs),
    /// Null MX.
    TakesNoMail,
}

const PROVIDERS: u64 = 3;

/// Configurations are few, because reading them is slow beside running a world.
const SETUPS: usize = 32;

impl Setup {
    fn of(seed: u64) -> &'static Self {
        static ALL: [OnceLock<Setup>; SETUPS] = [const { OnceLock::new() }; SETUPS];
        let number = seed as usize % SETUPS;
        ALL[number].get_or_init(|| Self::new(number as u64))
    }

    fn new(number: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(number);
        // Some have hardly any connections, some one for each site, so that mail queues up behind them.
        let (all, each, messages) = match number % 4 {
            0 => (4..8, 3..8, 2..60),
            1 => (6..40, 1..2, 2..6),
            _ => (6..40, 1..6, 2..60),
        };
        let connections = rng.usize(all);
        let base = Rules {
            whole: false,
            connections: rng.usize(each),
            messages_per_connection: rng.u64(messages),
            recipients_per_message: 100,
            message_rate: None,
            connection_rate: None,
            messages_per_hour: None,
            messages_per_day: None,
        };
        let rules: Vec<Rules> = (0..PROVIDERS).map(|_| base.varied(&mut rng)).collect();
        let sources = [rng.usize(1..4), rng.usize(1..4)];
        Self::with(connections, base, &rules, sources, &mut rng)
    }

    /// With rules for so many providers, and so many sources of the transactional and the broadcast pool.
    pub(super) fn with(
        connections: usize,
        base: Rules,
        providers: &[Rules],
        sources: [usize; 2],
        rng: &mut fastrand::Rng,
    ) -> Self {
        let mut text = format!(
            "[node]\nhostname = \"mta.example.com\"\ndata_dir = \"/data\"\n[delivery]\nconnections_per_site = {}\n\
             connections_max = {connections}\nmessages_per_connection = {}\n",
            base.connections, base.messages_per_connection
        );
        let mut address = 0;
        let pools = [
            ("transactional", "transactional", sources[0]),
            ("broadcast", "broadcast", sources[1]),
            ("spare", "broadcast", 1),
        ];
        for (name, kind, count) in pools {
            text += &format!("[[pool]]\nname = \"{name}\"\nkind = \"{kind}\"\nsources = [\n");
            for _ in 0..count {
                address += 1;
                let weight = rng.u32(1..5);
                text += &format!(
                    "{{ name = \"s{address}\", ip = \"192.0.2.{address}\", weight = {weight} }},\n"
                );
            }
            text += "]\n";
        }
        for (provider, rules) in providers.iter().enumerate() {
            text += &format!(
                "[[shaping]]\nprovider = \"p{provider}\"\nmx = [\"p{provider}.test\"]\n{}",
                rules.as_toml(false)
            );
            if rules.whole {
                let rules = rules.as_toml(true);
                text += &format!("[[shaping]]\nprovider = \"p{provider}\"\n{rules}");
            }
        }
        let file = std::path::Path::new("/etc/posthaste.toml");
        let config = Config::parse(&text, file, None, &|_| None);
        Self {
            config: config.unwrap_or_else(|error| panic!("{error}\n{text}")),
            rules: [providers, &[base]].concat(),
            connections,
        }
    }
}

impl Rules {
    fn varied(self, rng: &mut fastrand::Rng) -> Self {
        let mut some = |low: u64, high: u64| rng.bool().then(|| rng.u64(low..high));
        Self {
            connections: some(1, 8).map_or(self.connections, |n| n as usize),
            messages_per_connection: some(1, 30).unwrap_or(self.messages_per_connection),
            recipients_per_message: some(1, 8).map_or(self.recipients_per_message, |n| n as usize),
            message_rate: some(1, 90).map(|n| (n, MINUTE)),
            connection_rate: some(4, 60).map(|n| (n, MINUTE)),
            messages_per_hour: some(20, 200),
            messages_per_day: some(60, 600),
            whole: some(0, 3) == Some(0),
        }
    }

    /// What counts over all sites of the provider, or what counts at each.
    fn as_toml(&self, whole: bool) -> String {
        let rate = |rate: (u64, u64)| format!("\"{}/m\"", rate.0);
        let keys = [
            ("connections", Some(self.connections.to_string())),
            (
                "messages_per_connection",
                Some(self.messages_per_connection.to_string()),
            ),
            (
                "recipients_per_message",
                Some(self.recipients_per_message.to_string()),
            ),
            ("message_rate", self.message_rate.map(rate)),
            ("connection_rate", self.connection_rate.map(rate)),
            (
                "messages_per_hour",
                self.messages_per_hour.map(|n| n.to_string()),
            ),
            (
                "messages_per_day",
                self.messages_per_day.map(|n| n.to_string()),
            ),
            ("whole_provider", whole.then(|| "true".to_owned())),
        ];
        let adds_up =
            |key: &str| !matches!(key, "messages_per_connection" | "recipients_per_message");
        let lines = keys
            .into_iter()
            .filter(|(key, _)| *key == "whole_provider" || (adds_up(key) && self.whole) == whole)
            .filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)));
        lines.collect()
    }

    /// How long so many messages may take because of these limits.
    pub(super) fn time_for(&self, messages: u64) -> u64 {
        let rate = |(count, period): (u64, u64)| messages * period.div_ceil(count);
        let volume = |max: Option<u64>, period: u64| max.map_or(0, |max| messages / max * period);
        self.message_rate.map_or(0, rate)
            + self.connection_rate.map_or(0, rate)
            + volume(self.messages_per_hour, HOUR)
            + volume(self.messages_per_day, 24 * HOUR)
    }
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let setup = Setup::of(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (sites, domains, messages) = (rng.usize(1..8), rng.usize(2..12), rng.usize(8..50));
        let mut plan = Self::empty(setup);
        plan.operator = rng.u8(..) < 60;
        if rng.u8(..) < 40 {
            let killed = START + rng.u64(MINUTE..4 * HOUR);
            plan.outage = Some((killed, killed + rng.u64(SECOND..HOUR)));
        }
        if rng.u8(..) < 60 {
            let (source, from) = (rng.u8(1..7), START + rng.u64(0..HOUR));
            plan.absent = Some(Absent {
                source: IpAddr::from([192, 0, 2, source]),
                from,
                until: from + rng.u64(MINUTE..3 * HOUR),
                blocked: rng.bool(),
            });
        }
        let flows = rng.usize(2..6);
        plan.add_flows(&mut rng, flows);
        plan.sites = (0..sites)
            .map(|index| Site::new(index, setup, &mut rng))
            .collect();
        plan.dns = (0..domains).map(|_| Dns::new(&mut rng)).collect();
        // Some worlds get all of it at once.
        let hours = if rng.bool() { 2 * HOUR } else { MINUTE };
        let mut times: Vec<_> = (0..messages).map(|_| START + rng.u64(0..hours)).collect();
        times.sort_unstable();
        for at in times {
            let mail = plan.message(&mut rng, at);
            plan.mail.push_back((at, mail));
        }
        plan
    }

    pub(super) fn empty(setup: &'static Setup) -> Self {
        Self {
            setup,
            pools: pools(&setup.config),
            flows: Vec::new(),
            shares: Vec::new(),
            sites: Vec::new(),
            dns: Vec::new(),
            mail: VecDeque::new(),
            more: None,
            forgets: false,
            sample: 1,
            check_every: 997,
            operator: false,
            absent: None,
            outage: None,
        }
    }

    /// Messages that have not come yet, as far as they are known.
    pub(super) fn left(&self) -> u64 {
        self.mail.len() as u64 + self.more.as_ref().map_or(0, Day::left)
    }

    pub(super) fn next_mail_at(&mut self) -> Option<UnixMs> {
        while self.mail.is_empty()
            && let Some(day) = &mut self.more
            && let Some(mail) = day.next_minute()
        {
            self.mail.extend(mail);
        }
        self.mail.front().map(|&(at, _)| at)
    }

    pub(super) fn mail_until(&mut self, now: UnixMs) -> Option<Mail> {
        let due = self.mail.pop_front_if(|&mut (at, _)| at <= now);
        due.map(|(_, mail)| mail)
    }

    pub(super) fn add_flows(&mut self, rng: &mut fastrand::Rng, count: usize) {
        for number in 0..count {
            let server = rng.u32(1..4);
            let first = rng.u64(10..300);
            let flow = Flow {
                server,
                server_name: format!("server{server}"),
                stream: format!("stream{number}"),
                // Each pool has a flow.
                pool: PoolId(if number < 2 {
                    number as u16
                } else {
                    rng.u16(0..2)
                }),
                retry: Retry {
                    first: Duration::from_secs(first),
                    max: Duration::from_secs(rng.u64(first.max(600)..7_200)),
                    max_age: Duration::from_secs(rng.u64(4..30) * 3_600),
                },
                ambiguous: if rng.bool() {
                    Ambiguous::Retry
                } else {
                    Ambiguous::Stop
                },
            };
            if rng.bool() {
                self.shares.push(Share {
                    server: flow.server_name.as_str().into(),
                    stream: Some(flow.stream.as_str().into()),
                    weight: rng.u32(1..10),
                });
            }
            self.flows.push(flow);
        }
    }

    fn message(&self, rng: &mut fastrand::Rng, at: UnixMs) -> Mail {
        let count = if rng.u8(0..4) > 0 {
            1
        } else {
            rng.usize(2..20)
        };
        let release_at = (rng.u8(0..10) == 0).then(|| at + rng.u64(1..6 * HOUR));
        let deadline =
            (rng.u8(0..8) == 0).then(|| release_at.unwrap_or(at) + rng.u64(10 * SECOND..2 * HOUR));
        Mail {
            flow: rng.usize(0..self.flows.len()),
            domains: (0..count).map(|_| rng.usize(0..self.dns.len())).collect(),
            deadline,
            release_at,
        }
    }
}

impl Dns {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(0..20) {
            0 => Self::TakesNoMail,
            1 => Self::FailsUntil(START + rng.u64(0..4 * HOUR)),
            _ => Self::Answers,
        }
    }
}

fn pools(config: &Config) -> Vec<PoolConfig> {
    let pools = config.pools.iter().map(|pool| PoolConfig {
        kind: pool.kind,
        name: pool.name.as_str().into(),
        sources: pool.sources.iter().map(|s| (s.id, s.weight)).collect(),
        source_names: pool.sources.iter().map(|s| Arc::clone(&s.name)).collect(),
        retry: *config.retry.of(pool.kind),
    });
    pools.collect()
}
