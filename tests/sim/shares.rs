//! Shares: streams that wait for one busy site get their turns by weight, at every moment.
//!
//! A path (a source at the site) is judged by what it was handed: while two streams both have mail there, what each has
//! got since, divided by its weight, differs by no more than two rounds and a message each.

use super::*;

/// Given over a path: stream and recipients, in order.
type Given = Vec<(usize, u64)>;
type Results = Vec<(u64, u16, Disposition)>;

struct Busy {
    rng: fastrand::Rng,
    scheduler: Scheduler,
    now: UnixMs,
    weights: Vec<u32>,
    /// When each stream's mail comes, all at once.
    arrivals: VecDeque<(UnixMs, usize)>,
    recipients_max: usize,
    /// Ends of transactions.
    ends: BTreeMap<(UnixMs, SessionId), Results>,
    flow_of: BTreeMap<u64, usize>,
    sources: BTreeMap<SessionId, SourceId>,
    given: BTreeMap<SourceId, Given>,
    /// Places in `given` at which a stream's mail came.
    came: BTreeMap<(SourceId, usize), usize>,
}

#[test]
fn streams_share_a_busy_site_by_weight_at_every_moment() {
    for seed in 0..number("SIM_SHARES").unwrap_or(300) {
        let _told = SeedOnPanic(seed);
        let mut busy = Busy::new(seed);
        busy.run();
        busy.judge();
    }
}

impl Busy {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weights: Vec<u32> = (0..rng.usize(2..6)).map(|_| rng.u32(1..10)).collect();
        let sources = (0..rng.u16(1..4)).map(|n| (SourceId(n), rng.u32(1..4)));
        let sources: Vec<_> = sources.collect();
        let pool = PoolConfig {
            kind: StreamKind::Broadcast,
            name: "pool".into(),
            source_names: sources
                .iter()
                .map(|(n, _)| format!("s{}", n.0).into())
                .collect(),
            sources,
            retry: Retry {
                first: Duration::from_secs(60),
                max: Duration::from_secs(600),
                max_age: Duration::from_secs(86_400),
            },
        };
        let recipients_max = rng.usize(1..9);
        let limits = Limits {
            connections_per_source_site: rng.usize(1..5),
            recipients_per_transaction: recipients_max,
            ..Limits::default()
        };
        // Half of the weight on the server, half on the stream.
        let shares = weights.iter().enumerate().map(|(flow, &weight)| Share {
            server: format!("server{flow}").as_str().into(),
            stream: (flow % 2 == 0).then(|| "outbound".into()),
            weight,
        });
        let arrivals = (0..weights.len()).map(|flow| (START + rng.u64(0..2_000), flow));
        let mut arrivals: Vec<_> = arrivals.collect();
        arrivals.sort_unstable();
        Self {
            scheduler: Scheduler::new(vec![pool], limits, seed).with_shares(shares.collect()),
            now: START,
            arrivals: arrivals.into(),
            recipients_max,
            ends: BTreeMap::new(),
            flow_of: BTreeMap::new(),
            sources: BTreeMap::new(),
            given: BTreeMap::new(),
            came: BTreeMap::new(),
            weights,
            rng,
        }
    }

    fn arrive(&mut self, flow: usize) {
        for (source, given) in &self.given {
            self.came.insert((*source, flow), given.len());
        }
        for _ in 0..self.rng.u64(200..600) {
            let position = (self.flow_of.len() as u64 + 1) * 4096;
            self.flow_of.insert(position, flow);
            for number in 0..self.rng.u16(1..=self.recipients_max as u16) {
                let new = NewRecipient {
                    position,
                    number,
                    pool: PoolId(0),
                    domain: &format!("d{}.test", self.rng.u8(0..4)),
                    flow: FlowName {
                        server: flow as u32,
                        server_name: &format!("server{flow}"),
                        stream: "outbound",
                    },
                    message: position,
                    tag: None,
                    accepted_at: self.now,
                    life: Life::default(),
                    attempts: 0,
                    next_attempt: self.now,
                };
                self.scheduler.insert(self.now, new);
            }
        }
    }

    fn run(&mut self) {
        loop {
            while let Some(work) = self.scheduler.poll(self.now) {
                self.execute(work);
            }
            let arrival = self.arrivals.front().map(|&(at, _)| at);
            let end = self.ends.first_key_value().map(|(&(at, _), _)| at);
            let wake = self.scheduler.poll_timeout();
            let Some(next) = arrival.into_iter().chain(end).chain(wake).min() else {
                return assert_eq!(self.scheduler.counts().total(), 0);
            };
            self.now = self.now.max(next);
            if let Some((_, flow)) = self.arrivals.pop_front_if(|&mut (at, _)| at <= self.now) {
                self.arrive(flow);
            }
            while let Some(entry) = self.ends.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let ((_, session), results) = entry.remove_entry();
                self.scheduler
                    .report(self.now, session, &results, SessionState::Idle);
            }
        }
    }

    fn execute(&mut self, work: Work) {
        match work {
            Work::Resolve { queue, .. } => {
                let answer = RouteAnswer::Site {
                    key: "site".into(),
                    valid_until: self.now + 24 * HOUR,
                    provider: None,
                };
                self.scheduler.routed(self.now, queue, answer);
            }
            Work::Open {
                session,
                source,
                first,
                ..
            } => {
                self.sources.insert(session, source);
                self.give(session, &first);
            }
            Work::Deliver { session, batch } => self.give(session, &batch),
            Work::Close { session } => {
                let state = SessionState::Closed { site_failure: None };
                self.scheduler.report(self.now, session, &[], state);
            }
            other => panic!("{other:?}"),
        }
    }

    fn give(&mut self, session: SessionId, batch: &Batch) {
        let source = self.sources[&session];
        let flow = self.flow_of[&batch.position];
        let given = self.given.entry(source).or_default();
        given.push((flow, batch.recipients.len() as u64));
        let results = batch.recipients.iter();
        let results = results.map(|r| (batch.position, r.number, Disposition::Terminal));
        let at = self.now + self.rng.u64(1..40);
        self.ends.insert((at, session), results.collect());
    }

    fn judge(&self) {
        let flows = 0..self.weights.len();
        for (&source, given) in &self.given {
            for (f, g) in flows.clone().flat_map(|f| (0..f).map(move |g| (f, g))) {
                let came = |flow| self.came.get(&(source, flow)).copied().unwrap_or(0);
                let last = |flow| given.iter().rposition(|&(of, _)| of == flow).unwrap_or(0);
                let (from, to) = (came(f).max(came(g)), last(f).min(last(g)));
                let (mut of_f, mut of_g) = (0.0, 0.0);
                let weight = |flow: usize| f64::from(self.weights[flow]);
                let message = self.recipients_max as f64;
                let bound = 2.0 + message / weight(f) + message / weight(g);
                for &(flow, recipients) in given.get(from..to).unwrap_or_default() {
                    let share = recipients as f64 / weight(flow);
                    of_f += if flow == f { share } else { 0.0 };
                    of_g += if flow == g { share } else { 0.0 };
                    assert!(
                        (of_f - of_g).abs() <= bound,
                        "{of_f} rounds of {f}, {of_g} of {g} over {source:?}: {:?}",
                        self.weights
                    );
                }
            }
        }
    }
}
