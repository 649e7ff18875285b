//! The engine beside a map: any actions in any order.

mod directed;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use self::directed::{TAGS, judge};
use super::*;

/// What the model knows of one recipient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    /// Waits; not to be handed out before.
    Waiting {
        from: UnixMs,
    },
    InFlight {
        session: SessionId,
    },
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Recipient {
    is: Is,
    expires: UnixMs,
    attempts: u16,
    /// Its own.
    pool: PoolId,
    domain: u8,
    message: u64,
    tag: Option<&'static str>,
    /// By a directive that names its message or its tag.
    aside: u32,
}

#[derive(Clone, Debug)]
enum Action {
    Insert {
        bulk: bool,
        domain: u8,
        recipients: u8,
        age_s: u64,
        wait_s: u64,
        /// From its beginning, if it has a deadline.
        deadline_s: u64,
    },
    Advance {
        ms: u64,
    },
    /// Takes so much work at most.
    Poll {
        count: u8,
    },
    Route {
        which: u8,
        answer: u8,
    },
    Report {
        which: u8,
        dispositions: u8,
        state: u8,
        named: bool,
    },
    Verb {
        verb: u8,
        selection: u8,
        which: u8,
    },
    /// A directive: it stands from now on, for a while or until it is ended.
    Direct {
        reroute: bool,
        selection: u8,
        which: u8,
        for_s: u64,
    },
    EndDirective {
        which: u8,
    },
    /// Compaction.
    Move {
        which: u8,
    },
    Source {
        source: u8,
        order: u8,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let deadline = prop_oneof![2 => Just(0), 1 => 1..500u64];
    let insert = (any::<bool>(), 0..6u8, 1..5u8, 0..300u64, 0..60u64, deadline).prop_map(
        |(bulk, domain, recipients, age_s, wait_s, deadline_s)| Action::Insert {
            bulk,
            domain,
            recipients,
            age_s,
            wait_s: wait_s.saturating_sub(40),
            deadline_s,
        },
    );
    let report = (any::<u8>(), any::<u8>(), 0..6u8, any::<bool>()).prop_map(
        |(which, dispositions, state, named)| Action::Report {
            which,
            dispositions,
            state,
            named,
        },
    );
    prop_oneof![
        4 => insert,
        2 => (0..40_000u64).prop_map(|ms| Action::Advance { ms }),
        6 => (1..40u8).prop_map(|count| Action::Poll { count }),
        3 => (any::<u8>(), 0..8u8).prop_map(|(which, answer)| Action::Route { which, answer }),
        8 => report,
        1 => (0..4u8, 0..5u8, any::<u8>())
            .prop_map(|(verb, selection, which)| Action::Verb { verb, selection, which }),
        2 => any::<u8>().prop_map(|which| Action::Move { which }),
        2 => (any::<bool>(), 0..7u8, any::<u8>(), 0..200u64)
            .prop_map(|(reroute, selection, which, for_s)| Action::Direct { reroute, selection, which, for_s }),
        1 => any::<u8>().prop_map(|which| Action::EndDirective { which }),
        1 => (0..3u8, 0..3u8).prop_map(|(source, order)| Action::Source { source, order }),
    ]
}

/// The engine beside a map of what each recipient must be.
struct Model {
    scheduler: Scheduler,
    /// Of two of the three sites: what they have together is limited.
    provider: Option<ProviderId>,
    now: UnixMs,
    recipients: BTreeMap<(u64, u16), Recipient>,
    positions: u64,
    /// The batches of each, two at most.
    sessions: BTreeMap<SessionId, VecDeque<Vec<(u64, u16)>>>,
    idle: BTreeMap<SessionId, bool>,
    /// Those that take a batch behind another.
    ahead: BTreeSet<SessionId>,
    /// Of sessions.
    sources: BTreeMap<SessionId, SourceId>,
    /// And until when.
    drained: BTreeMap<SourceId, UnixMs>,
    asked: Vec<QueueId>,
    /// In the order of their ids.
    directives: Vec<Directive>,
    directed: u32,
}

const MODEL_AGE_S: u64 = 400;
const MODEL_CONNECTIONS: usize = 6;

impl Model {
    fn new() -> Self {
        let mut pools = pools();
        pools.push(pools[1].clone());
        pools[2].sources = vec![(SourceId(3), 1)];
        for pool in &mut pools {
            pool.retry.first = Duration::from_secs(10);
            pool.retry.max_age = Duration::from_secs(MODEL_AGE_S);
        }
        let limits = Limits {
            connections_per_source_site: 2,
            connections: MODEL_CONNECTIONS,
            messages_per_connection: 5,
            recipients_per_transaction: 3,
            resolves: 4,
            ..Limits::default()
        };
        let shaping = rates::shaping(
            "[[shaping]]\nconnections = 2\nmessages_per_connection = 5\nrecipients_per_message = 3\n\
             [[shaping]]\nprovider = \"big\"\nmx = [\"big.test\"]\nwhole_provider = true\nconnections = 2\nmessage_rate = \"2/s\"\n",
        );
        let provider = shaping.provider_of(std::iter::once("big.test"));
        Self {
            scheduler: Scheduler::new(pools, limits, 3).with_shaping(shaping),
            provider,
            now: START,
            recipients: BTreeMap::new(),
            positions: 0,
            sessions: BTreeMap::new(),
            idle: BTreeMap::new(),
            ahead: BTreeSet::new(),
            sources: BTreeMap::new(),
            drained: BTreeMap::new(),
            asked: Vec::new(),
            directives: Vec::new(),
            directed: 0,
        }
    }

    fn apply(&mut self, action: &Action) {
        match *action {
            Action::Insert {
                bulk,
                domain,
                recipients,
                age_s,
                wait_s,
                deadline_s,
            } => {
                let times = (age_s, wait_s, deadline_s);
                self.insert(PoolId(bulk.into()), domain, recipients, times);
            }
            Action::Advance { ms } => self.now += ms,
            Action::Poll { count } => {
                for _ in 0..count {
                    if let Some(work) = self.scheduler.poll(self.now) {
                        self.take(work);
                    }
                }
            }
            Action::Route { which, answer } => self.route(which, answer),
            Action::Report {
                which,
                dispositions,
                state,
                named,
            } => self.report(which, dispositions, state, named),
            Action::Verb {
                verb,
                selection,
                which,
            } => self.verb(verb, selection, which),
            Action::Move { which } => self.compact(which),
            Action::Direct {
                reroute,
                selection,
                which,
                for_s,
            } => self.direct(reroute, selection, which, for_s),
            Action::EndDirective { which } => self.end_directive(which),
            Action::Source { source, order } => self.steer(SourceId(source.into()), order),
        }
        self.scheduler.check();
        let live = self.recipients.values().filter(|r| r.is != Is::Ended);
        assert_eq!(live.count(), self.left(), "live recipients");
    }

    /// Live recipients by the engine's account: those of ended queues are counted by state until they are handed out.
    fn left(&self) -> usize {
        self.scheduler.counts().total()
    }

    fn insert(
        &mut self,
        pool: PoolId,
        domain: u8,
        recipients: u8,
        (age_s, wait_s, deadline_s): (u64, u64, u64),
    ) {
        self.positions += 8;
        let accepted_at = self.now - age_s * SECOND;
        let from = self.now + wait_s * SECOND;
        // What waits is scheduled, and its life begins then.
        let release_at = (wait_s > 0).then_some(from);
        let begin = release_at.unwrap_or(accepted_at);
        let deadline = (deadline_s > 0).then_some(begin + deadline_s * SECOND);
        let life = Life {
            max_age: None,
            max_wait: None,
            deadline,
            release_at,
        };
        let of_age = begin + MODEL_AGE_S * SECOND;
        for number in 0..u16::from(recipients) {
            let new = NewRecipient {
                position: self.positions,
                number,
                pool,
                domain: &format!("d{domain}.test"),
                flow: FlowName {
                    server: domain.into(),
                    stream: ["one", "two"][usize::from(number % 2)],
                    ..FLOW
                },
                message: self.positions,
                tag: TAGS[usize::from(domain % 3)].map(Tag::Text),
                accepted_at,
                life,
                attempts: 0,
                next_attempt: self.now,
            };
            self.scheduler.insert(self.now, new);
            let recipient = Recipient {
                is: Is::Waiting { from },
                expires: deadline.map_or(of_age, |deadline| deadline.min(of_age)),
                attempts: 0,
                pool,
                domain,
                message: self.positions,
                tag: TAGS[usize::from(domain % 3)],
                aside: 0,
            };
            let aside = self.set_aside_by(&recipient, number);
            let recipient = Recipient { aside, ..recipient };
            self.recipients.insert((self.positions, number), recipient);
        }
    }

    fn steer(&mut self, source: SourceId, order: u8) {
        let now = self.now;
        let until = (order == 1).then_some(now + 60 * SECOND);
        if order == 0 {
            self.drained.remove(&source);
            assert!(self.scheduler.resume_source(now, source));
        } else {
            self.drained.insert(source, until.unwrap_or(UnixMs::MAX));
            let drained = self.scheduler.drain_source(now, source, "".into(), until);
            assert!(drained);
        }
    }

    fn is_drained(&self, source: SourceId) -> bool {
        self.drained
            .get(&source)
            .is_some_and(|until| *until > self.now)
    }

    /// A message moves to the end, but for its recipients that are in flight.
    fn compact(&mut self, which: u8) {
        let from = u64::from(which) * 8 % (self.positions + 8);
        self.positions += 8;
        let to = self.positions;
        let mut expected = Moved::default();
        let numbers = self.recipients.range((from, 0)..=(from, u16::MAX));
        let live: Vec<_> = numbers.filter(|(_, r)| r.is != Is::Ended).collect();
        let live: Vec<_> = live.into_iter().map(|(key, r)| (*key, *r)).collect();
        for (key, recipient) in live {
            if matches!(recipient.is, Is::InFlight { .. }) {
                expected.in_flight += 1;
            } else if !self.handed_out(key) {
                expected.recipients += 1;
                self.recipients.remove(&key);
                self.recipients.insert((to, key.1), recipient);
            }
        }
        assert_eq!(self.scheduler.moved(from, to), expected);
    }

    /// Ended for the scheduler, but its work was not polled yet.
    fn handed_out(&self, key: (u64, u16)) -> bool {
        self.scheduler.outbox.iter().any(|work| match work {
            Work::Expire {
                position, number, ..
            }
            | Work::Unroutable {
                position, number, ..
            }
            | Work::Withdrawn {
                position, number, ..
            } => (*position, *number) == key,
            _ => false,
        })
    }

    fn end(&mut self, key: (u64, u16), attempts: u16) -> Recipient {
        let recipient = self.recipients.get_mut(&key).unwrap();
        assert!(
            matches!(recipient.is, Is::Waiting { .. }),
            "{key:?} {recipient:?}"
        );
        assert_eq!(recipient.attempts, attempts);
        recipient.is = Is::Ended;
        *recipient
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Resolve { queue, .. } => {
                assert!(!self.asked.contains(&queue));
                self.asked.push(queue);
                assert!(self.asked.len() <= 4);
            }
            Work::Open {
                session,
                pool,
                source,
                first,
                ..
            } => {
                let of_pool: &[u16] = [&[0][..], &[1, 2], &[3]][usize::from(pool.0)];
                assert!(of_pool.contains(&source.0), "a source of another pool");
                assert!(!self.sessions.contains_key(&session));
                assert!(!self.is_drained(source), "{source:?} is drained");
                self.sources.insert(session, source);
                self.begin(session, first);
                assert!(self.sessions.len() <= MODEL_CONNECTIONS);
            }
            Work::Deliver { session, batch } => {
                let source = self.sources[&session];
                assert!(!self.is_drained(source), "{source:?} is drained");
                let batches = self.sessions[&session].len();
                match self.idle[&session] {
                    true => assert_eq!(batches, 0),
                    false => assert!(batches == 1 && self.ahead.contains(&session)),
                }
                self.begin(session, batch);
                if self.positions.is_multiple_of(5) {
                    self.missed(session);
                }
            }
            Work::Close { session } => {
                assert_eq!(self.idle.insert(session, false), Some(true));
            }
            Work::Expire {
                position,
                number,
                attempts,
            } => {
                let ended = self.end((position, number), attempts);
                assert!(ended.expires <= self.now, "expired too early");
            }
            Work::Unroutable {
                position,
                number,
                attempts,
                ..
            }
            | Work::Withdrawn {
                position,
                number,
                attempts,
                ..
            } => {
                self.end((position, number), attempts);
            }
        }
    }

    fn begin(&mut self, session: SessionId, batch: Batch) {
        assert!((1..=3).contains(&batch.recipients.len()));
        let mut keys = Vec::new();
        for given in &batch.recipients {
            let key = (batch.position, given.number);
            let recipient = self.recipients.get_mut(&key).unwrap();
            assert!(
                matches!(recipient.is, Is::Waiting { from } if from <= self.now),
                "{recipient:?}"
            );
            assert!(recipient.expires + 128 > self.now, "{key:?} is too old");
            assert_eq!(recipient.attempts, given.attempts);
            let (pool, held) = judge(&self.directives, self.now, recipient, key.1);
            assert!(!held, "{key:?} is suspended");
            assert_eq!(pool, batch.pool, "{key:?} belongs elsewhere");
            recipient.is = Is::InFlight { session };
            keys.push(key);
        }
        self.idle.insert(session, false);
        self.sessions.entry(session).or_default().push_back(keys);
    }

    /// The session had just closed, and then says so.
    fn missed(&mut self, session: SessionId) {
        self.scheduler.not_delivered(self.now, session);
        self.scheduler.check();
        for keys in self.sessions.remove(&session).unwrap() {
            for key in keys {
                self.recipients.get_mut(&key).unwrap().is = Is::Waiting { from: self.now };
            }
        }
        self.idle.remove(&session);
        let state = SessionState::Closed { site_failure: None };
        self.scheduler.report(self.now, session, &[], state);
    }

    fn route(&mut self, which: u8, answer: u8) {
        if self.asked.is_empty() {
            return;
        }
        let queue = self.asked.remove(which as usize % self.asked.len());
        let answer = match answer {
            0 => RouteAnswer::Refused { cause: cause("no") },
            1 => RouteAnswer::Defer {
                cause: cause("later"),
            },
            key => RouteAnswer::Site {
                key: format!("s{}", key % 3).into(),
                valid_until: self.now + 30 * SECOND,
                provider: self.provider.filter(|_| key % 3 > 0),
            },
        };
        self.scheduler.routed(self.now, queue, answer);
    }

    fn report(&mut self, which: u8, dispositions: u8, state: u8, named: bool) {
        let Some(session) = self
            .sessions
            .keys()
            .copied()
            .nth(which as usize % self.sessions.len().max(1))
        else {
            return;
        };
        let batches = self.sessions.get_mut(&session).unwrap();
        let keys = match state {
            0..=2 => std::mem::take(batches).into_iter().flatten().collect(),
            _ => batches.pop_front().unwrap_or_default(),
        };
        let left = !batches.is_empty();
        let mut results = Vec::new();
        for (place, &key) in keys.iter().enumerate() {
            let recipient = self.recipients.get_mut(&key).unwrap();
            assert_eq!(recipient.is, Is::InFlight { session });
            let disposition = match dispositions >> (2 * (place % 4)) & 3 {
                0 => Disposition::NotAttempted,
                1 => Disposition::Retry {
                    not_before: None,
                    retry: None,
                },
                2 => Disposition::Retry {
                    not_before: Some(self.now + 50 * SECOND),
                    retry: None,
                },
                _ => Disposition::Terminal,
            };
            if disposition == Disposition::NotAttempted && !named {
                // Left out: means the same.
            } else {
                results.push((key.0, key.1, disposition));
            }
            recipient.is = match disposition {
                Disposition::Terminal => Is::Ended,
                Disposition::NotAttempted => Is::Waiting { from: self.now },
                Disposition::Retry { not_before, .. } => {
                    recipient.attempts += 1;
                    let wait = (8 * SECOND) << (recipient.attempts - 1).min(8);
                    let from = (self.now + wait.min(2880 * SECOND)).max(not_before.unwrap_or(0));
                    Is::Waiting { from }
                }
            };
        }
        let state = match state {
            0 => SessionState::Closed {
                site_failure: Some(Scope::Site),
            },
            1 => SessionState::Closed {
                site_failure: Some(Scope::SiteFromSource),
            },
            2 => SessionState::Closed {
                site_failure: named.then_some(Scope::Source),
            },
            _ => SessionState::Idle,
        };
        // A session that was told to close says that it did; one without work may close or say nothing new.
        if state == SessionState::Idle && !keys.is_empty() {
            self.idle.insert(session, !left);
        }
        if state != SessionState::Idle {
            self.sessions.remove(&session);
            self.idle.remove(&session);
        }
        if dispositions & 128 != 0 {
            let trouble = [
                Trouble::Missing,
                Trouble::Proxy,
                Trouble::Refused,
                Trouble::Unanswered,
            ];
            let trouble = trouble[usize::from(dispositions) % 4];
            self.scheduler
                .source_trouble(self.now, session, trouble, "in words");
        }
        self.scheduler.report(self.now, session, &results, state);
        if state == SessionState::Idle && dispositions & 64 != 0 {
            self.ahead.insert(session);
            self.scheduler.runs_ahead(self.now, session);
        }
    }

    fn verb(&mut self, verb: u8, selection: u8, which: u8) {
        let domain = format!("d{}.test", which % 6);
        let position = u64::from(which) * 8 % (self.positions + 8);
        let selection = match selection {
            0 => Selection::All,
            1 => Selection::Pool(BULK),
            2 => Selection::Domain(&domain),
            3 => Selection::Message { position },
            _ => Selection::Recipient {
                position,
                number: 1,
            },
        };
        match verb {
            0 => drop(
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Cancel),
            ),
            1 => drop(
                self.scheduler
                    .withdraw(self.now, selection, Withdrawal::Bounce),
            ),
            _ => {
                self.scheduler.retry_now(self.now, selection);
                for (key, recipient) in &mut self.recipients {
                    let meant = match selection {
                        Selection::All => true,
                        // Where it is now, which the model does not follow: it may be tried early.
                        Selection::Pool(_) => recipient.pool != TX,
                        Selection::Domain(_) => recipient.domain == which % 6,
                        Selection::Message { position } => key.0 == position,
                        Selection::Recipient { position, number } => *key == (position, number),
                    };
                    let is_named = matches!(
                        selection,
                        Selection::Message { .. } | Selection::Recipient { .. }
                    );
                    if let (true, Is::Waiting { from }) = (meant, &mut recipient.is) {
                        // The schedule of a message ends by its own name only.
                        if is_named || recipient.attempts > 0 || *from <= self.now {
                            *from = 0;
                        }
                    }
                }
            }
        }
    }

    /// From here on everything answers, and all mail is delivered or ends.
    fn drain(&mut self) {
        while !self.directives.is_empty() {
            self.end_directive(0);
        }
        // The longest memory is that of a site's failures.
        for source in 0..3 {
            self.steer(SourceId(source), 0);
        }
        let end = self.now + 2 * MODEL_AGE_S * SECOND + DAY / 12;
        for _ in 0..100_000 {
            while let Some(work) = self.scheduler.poll(self.now) {
                self.take(work);
            }
            for queue in std::mem::take(&mut self.asked) {
                let answer = RouteAnswer::Site {
                    key: "s".into(),
                    valid_until: self.now + DAY,
                    provider: None,
                };
                self.scheduler.routed(self.now, queue, answer);
            }
            for (session, batches) in self.sessions.clone() {
                let keys: Vec<_> = batches.into_iter().flatten().collect();
                let results: Vec<_> = keys
                    .iter()
                    .map(|key| (key.0, key.1, Disposition::Terminal))
                    .collect();
                for key in &keys {
                    self.recipients.get_mut(key).unwrap().is = Is::Ended;
                }
                self.sessions.remove(&session);
                self.idle.remove(&session);
                let state = SessionState::Closed { site_failure: None };
                self.scheduler.report(self.now, session, &results, state);
            }
            match self.scheduler.poll_timeout() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.scheduler.check();
        assert_eq!(self.left(), 0, "recipients left behind");
        assert!(self.recipients.values().all(|r| r.is == Is::Ended));
        assert_eq!(
            (self.scheduler.queues(), self.scheduler.sites()),
            (0, 0),
            "forgotten when done"
        );
        assert_eq!(
            self.scheduler.poll_timeout(),
            None,
            "nothing is left to wake for"
        );
    }
}

/// Few enough for each build; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: each recipient is where the model says, is handed out only when it may be,
    /// and ends exactly once.
    #[test]
    fn every_recipient_is_in_one_state_and_ends_once(actions in prop::collection::vec(action(), 1..200)) {
        let mut model = Model::new();
        for action in &actions {
            model.apply(action);
        }
        model.drain();
    }
}
