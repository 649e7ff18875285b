//! What one hook is sent next, and when: a machine without clock, disk or network.
//!
//! Promises: every position that was handed in is sent until it is taken, refused, or its retries are used up, at exactly the
//! times of its plan; what is kept of it on disk ([`Changes`]) never passes over one that is not settled. Memory is bounded:
//! [`Schedule::room`] says how many more may come, the rest waits in the event log. Does not know what is sent, nor to whom.
//!
//! A hook that fails several times in a row is tried with one new event at a time, after rests that grow: the others wait in
//! the log instead of using up their retries. Retries keep their times. What failed for [`Plan::stop_after`] without anything
//! taken in between stops altogether.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::UnixMs;
use crate::config::{RetryOn, Webhooks};
use crate::limits;

/// Which plan of retries an event has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Bounce,
    Event,
}

impl Class {
    pub fn code(self) -> u8 {
        match self {
            Self::Bounce => 1,
            Self::Event => 2,
        }
    }

    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Bounce,
            _ => Self::Event,
        }
    }
}

/// Where a position comes from: what happens, or what is to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Live,
    Replay,
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// None came; why, in a sentence.
    None(String),
    /// There is nothing to be sent: the event is erased, or not wanted any more.
    Void,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    Refused,
    Failed,
    Void,
}

impl Answer {
    /// Reference §4.2.
    pub fn verdict(&self, retry_on: RetryOn) -> Verdict {
        match (self, retry_on) {
            (Self::Void, _) => Verdict::Void,
            (Self::None(_), _) => Verdict::Failed,
            (Self::Status(200..=299), _) => Verdict::Taken,
            (Self::Status(403 | 410), _) => Verdict::Refused,
            (Self::Status(400..=499), RetryOn::ServerErrors)
                if !matches!(self, Self::Status(408 | 429)) =>
            {
                Verdict::Refused
            }
            (Self::Status(_), _) => Verdict::Failed,
        }
    }
}

/// What holds for all events of a hook.
#[derive(Clone, Debug)]
pub struct Plan {
    bounce: Arc<[Duration]>,
    event: Arc<[Duration]>,
    retry_on: RetryOn,
    slots: usize,
    stop_after: Duration,
}

impl Plan {
    pub fn new(webhooks: &Webhooks) -> Self {
        Self {
            bounce: Arc::clone(&webhooks.bounce_retries),
            event: Arc::clone(&webhooks.event_retries),
            retry_on: webhooks.retry_on,
            slots: webhooks.concurrency,
            stop_after: webhooks.stop_after,
        }
    }

    fn waits(&self, class: Class) -> &[Duration] {
        match class {
            Class::Bounce => &self.bounce,
            Class::Event => &self.event,
        }
    }
}

/// One request to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub position: u64,
    pub class: Class,
    /// After this one.
    pub retries_left: usize,
    pub is_retry: bool,
}

/// What became of an event with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    Taken,
    Refused,
    /// It is tried again.
    Waits,
    /// Its retries are used up.
    GivenUp,
    Void,
}

/// A retry as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub class: Class,
    /// Made so far.
    pub attempts: u8,
    pub due: UnixMs,
}

/// How a hook is doing, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub succeeded: Option<UnixMs>,
    pub failed: Option<UnixMs>,
    /// The last failure in words.
    pub failure: String,
    /// When failing began that nothing has ended since.
    pub failing_since: Option<UnixMs>,
    /// When it was stopped, and why.
    pub stopped: Option<(UnixMs, String)>,
}

impl Health {
    /// Whether what it is behind is the node's concern. What takes nothing for a while is its receiver's.
    pub fn is_well(&self, now: UnixMs) -> bool {
        let long = limits::WEBHOOK_UNWELL.as_millis() as u64;
        self.stopped.is_none() && self.failing_since.is_none_or(|since| now < since + long)
    }
}

/// A range of the log that is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// As far as it is settled.
    pub next: u64,
    pub from: UnixMs,
    pub to: UnixMs,
    /// The log's end when it was asked for: what comes behind is sent anyhow.
    pub until: u64,
}

/// What is to be written down, all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// All below is settled, or among the retries.
    pub cursor: u64,
    pub replay: Option<Replay>,
    pub health: Health,
    /// `None`: gone.
    pub retries: Vec<(u64, Option<Retry>)>,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<(u64, Class)>,
    /// Not settled and not yet among the retries.
    fresh: BTreeSet<u64>,
    /// All below was handed in.
    read_to: u64,
}

impl Line {
    fn cursor(&self) -> u64 {
        let first = self.fresh.first().copied();
        // What is under way of a range that was skipped may lie behind the next one.
        first.map_or(self.read_to, |first| first.min(self.read_to))
    }

    /// What has not been tried is not to be.
    fn skip(&mut self) {
        for (position, _) in std::mem::take(&mut self.waiting) {
            self.fresh.remove(&position);
        }
    }
}

struct Flight {
    class: Class,
    /// Before it.
    attempts: u8,
    lane: Lane,
}

pub struct Schedule {
    plan: Plan,
    live: Line,
    again: Line,
    replay: Option<Replay>,
    retries: BTreeMap<(UnixMs, u64), Retry>,
    /// Of what waits for its retry: where it is found.
    due: HashMap<u64, UnixMs>,
    flying: HashMap<u64, Flight>,
    health: Health,
    failures_in_a_row: u32,
    quiet_until: UnixMs,
    changed: BTreeMap<u64, Option<Retry>>,
    /// Something besides `changed` is to be written down.
    dirty: bool,
    stored: u64,
}

impl Schedule {
    /// As it was kept.
    pub fn new(
        plan: Plan,
        cursor: u64,
        health: Health,
        replay: Option<Replay>,
        retries: impl IntoIterator<Item = (u64, Retry)>,
    ) -> Self {
        let retries: BTreeMap<_, _> = retries.into_iter().map(|(p, r)| ((r.due, p), r)).collect();
        let due = retries
            .keys()
            .map(|&(due, position)| (position, due))
            .collect();
        let line = |read_to| Line {
            read_to,
            ..Line::default()
        };
        Self {
            plan,
            live: line(cursor),
            again: line(replay.map_or(0, |replay| replay.next)),
            replay,
            retries,
            due,
            flying: HashMap::new(),
            health,
            failures_in_a_row: 0,
            quiet_until: 0,
            changed: BTreeMap::new(),
            dirty: false,
            stored: cursor,
        }
    }

    /// How many more may be handed in to a lane; `retries_elsewhere` are those of all hooks.
    pub fn room(&self, lane: Lane, retries_elsewhere: usize) -> usize {
        let pending = self.retries.len();
        let is_full = pending >= limits::WEBHOOK_RETRIES_ALWAYS
            && (pending >= limits::WEBHOOK_RETRIES
                || retries_elsewhere >= limits::WEBHOOK_RETRIES_ALL);
        if is_full || self.health.stopped.is_some() {
            return 0;
        }
        limits::WEBHOOK_AHEAD.saturating_sub(self.line(lane).waiting.len())
    }

    /// Takes over an event; everything below `next` is thereby handed in.
    pub fn take(&mut self, lane: Lane, position: u64, class: Class, next: u64) {
        let is_known = self.due.contains_key(&position)
            || self.flying.contains_key(&position)
            || match lane {
                Lane::Live => self.again.fresh.contains(&position),
                Lane::Replay => self.live.fresh.contains(&position),
            };
        let line = self.line_mut(lane);
        if !is_known {
            line.waiting.push_back((position, class));
            line.fresh.insert(position);
        }
        line.read_to = next;
    }

    /// Nothing below `next` is missing.
    pub fn read_to(&mut self, lane: Lane, next: u64) {
        let line = self.line_mut(lane);
        line.read_to = line.read_to.max(next);
    }

    /// From where a lane is to be read on.
    pub fn next(&self, lane: Lane) -> u64 {
        self.line(lane).read_to
    }

    pub fn replay(&self) -> Option<Replay> {
        self.replay
    }

    /// Begins to send again what lies from `from` on. `false`: another such order is under way.
    pub fn begin_replay(&mut self, replay: Replay) -> bool {
        if self.replay.is_some() {
            return false;
        }
        self.again.read_to = replay.next;
        self.replay = Some(replay);
        self.dirty = true;
        true
    }

    /// The range was read to its end. It is over when the last of it is settled.
    fn end_replay_if_over(&mut self) {
        let is_over =
            |replay: &Replay| self.again.read_to >= replay.until && self.again.fresh.is_empty();
        if self.replay.as_ref().is_some_and(is_over) {
            self.replay = None;
            self.dirty = true;
        }
    }

    /// The next request, if one may be made now.
    pub fn poll(&mut self, now: UnixMs) -> Option<Attempt> {
        self.end_replay_if_over();
        if self.health.stopped.is_some() || self.flying.len() >= self.plan.slots {
            return None;
        }
        let first = self.retries.first_key_value();
        if let Some((&(due, position), &retry)) = first.filter(|((due, _), _)| *due <= now) {
            self.retries.remove(&(due, position));
            self.due.remove(&position);
            return Some(self.fly(position, retry.class, retry.attempts, Lane::Live));
        }
        let resting = self.rests();
        if resting && (now < self.quiet_until || !self.flying.is_empty()) {
            return None;
        }
        for lane in [Lane::Live, Lane::Replay] {
            if let Some((position, class)) = self.line_mut(lane).waiting.pop_front() {
                return Some(self.fly(position, class, 0, lane));
            }
        }
        None
    }

    /// When [`Self::poll`] may have something although nothing else happens.
    pub fn poll_timeout(&self) -> Option<UnixMs> {
        if self.health.stopped.is_some() || self.flying.len() >= self.plan.slots {
            return None;
        }
        let retry = self.retries.keys().next().map(|(due, _)| *due);
        let waits = !self.live.waiting.is_empty() || !self.again.waiting.is_empty();
        let rest = (waits && self.rests() && self.flying.is_empty()).then_some(self.quiet_until);
        [retry, rest].into_iter().flatten().min()
    }

    fn fly(&mut self, position: u64, class: Class, attempts: u8, lane: Lane) -> Attempt {
        let flight = Flight {
            class,
            attempts,
            lane,
        };
        self.flying.insert(position, flight);
        let waits = self.plan.waits(class).len();
        Attempt {
            position,
            class,
            retries_left: waits.saturating_sub(usize::from(attempts)),
            is_retry: attempts > 0,
        }
    }

    /// The answer to an attempt.
    pub fn answered(&mut self, now: UnixMs, position: u64, answer: &Answer) -> Became {
        let Some(flight) = self.flying.remove(&position) else {
            return Became::Void;
        };
        let became = match answer.verdict(self.plan.retry_on) {
            Verdict::Taken => {
                self.succeeded(now);
                Became::Taken
            }
            Verdict::Void => Became::Void,
            Verdict::Refused => {
                self.failed(now, answer);
                // Somebody is there and answers.
                self.failures_in_a_row = 0;
                Became::Refused
            }
            Verdict::Failed => {
                self.failed(now, answer);
                let waits = self.plan.waits(flight.class);
                match waits.get(usize::from(flight.attempts)) {
                    None => Became::GivenUp,
                    Some(wait) => {
                        let retry = Retry {
                            class: flight.class,
                            attempts: flight.attempts + 1,
                            due: now + wait.as_millis() as u64,
                        };
                        self.retries.insert((retry.due, position), retry);
                        self.due.insert(position, retry.due);
                        self.changed.insert(position, Some(retry));
                        Became::Waits
                    }
                }
            }
        };
        if became != Became::Waits && flight.attempts > 0 {
            self.changed.insert(position, None);
        }
        if flight.attempts == 0 {
            self.line_mut(flight.lane).fresh.remove(&position);
        }
        self.dirty = true;
        became
    }

    /// An attempt was not made: it comes again.
    pub fn not_made(&mut self, attempt: Attempt) {
        let Some(flight) = self.flying.remove(&attempt.position) else {
            return;
        };
        match flight.attempts {
            0 => {
                let entry = (attempt.position, flight.class);
                self.line_mut(flight.lane).waiting.push_front(entry);
            }
            attempts => {
                let retry = Retry {
                    class: flight.class,
                    attempts,
                    due: 0,
                };
                self.retries.insert((0, attempt.position), retry);
                self.due.insert(attempt.position, 0);
            }
        }
    }

    fn succeeded(&mut self, now: UnixMs) {
        self.health.succeeded = Some(now);
        self.health.failing_since = None;
        self.failures_in_a_row = 0;
    }

    fn failed(&mut self, now: UnixMs, answer: &Answer) {
        // A failure of long ago, with nothing tried since, is no sign.
        let gap = limits::WEBHOOK_FAILING_GAP.as_millis() as u64;
        if self.health.failed.is_some_and(|last| now > last + gap) {
            self.health.failing_since = None;
        }
        self.health.failed = Some(now);
        self.health.failure = match answer {
            Answer::Status(status) => format!("it answered {status}"),
            Answer::None(why) => why.clone(),
            Answer::Void => String::new(),
        };
        let since = *self.health.failing_since.get_or_insert(now);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if self.rests() {
            let doublings = (self.failures_in_a_row - limits::WEBHOOK_FAILURES).min(16);
            let rest = Duration::from_secs(1 << doublings).min(limits::WEBHOOK_REST_MAX);
            self.quiet_until = now + rest.as_millis() as u64;
        }
        if now >= since + self.plan.stop_after.as_millis() as u64 && self.health.stopped.is_none() {
            let why = format!(
                "nothing was taken any more, and at last {}",
                self.health.failure
            );
            self.health.stopped = Some((now, why));
        }
    }

    fn rests(&self) -> bool {
        self.failures_in_a_row >= limits::WEBHOOK_FAILURES
    }

    /// Goes on, whatever was before. With `skip`, from there, without what waits for its retry, and without what is sent again.
    pub fn resume(&mut self, skip: Option<u64>) {
        self.health.stopped = None;
        self.health.failing_since = None;
        self.failures_in_a_row = 0;
        self.quiet_until = 0;
        self.dirty = true;
        if let Some(position) = skip {
            for ((_, position), _) in std::mem::take(&mut self.retries) {
                self.changed.insert(position, None);
            }
            self.due.clear();
            self.live.skip();
            self.live.read_to = self.live.read_to.max(position);
            self.again.skip();
            self.replay = None;
        }
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Events that wait for a retry, and requests under way.
    pub fn pending(&self) -> (usize, usize) {
        (self.retries.len(), self.flying.len())
    }

    pub fn next_retry(&self) -> Option<UnixMs> {
        self.retries.keys().next().map(|(due, _)| *due)
    }

    /// All below is settled, or among the retries.
    pub fn cursor(&self) -> u64 {
        self.live.cursor()
    }

    /// Whether there is something that should be written down soon.
    pub fn is_dirty(&self) -> bool {
        self.dirty
            || !self.changed.is_empty()
            || self.cursor() > self.stored + limits::READER_CURSOR
    }

    /// What is to be written down. It is then taken for written: whoever cannot write keeps it and writes it first.
    pub fn changes(&mut self) -> Changes {
        self.end_replay_if_over();
        self.dirty = false;
        self.stored = self.cursor();
        Changes {
            cursor: self.stored,
            replay: self.replay.map(|replay| Replay {
                next: self.again.cursor(),
                ..replay
            }),
            health: self.health.clone(),
            retries: std::mem::take(&mut self.changed).into_iter().collect(),
        }
    }

    fn line(&self, lane: Lane) -> &Line {
        match lane {
            Lane::Live => &self.live,
            Lane::Replay => &self.again,
        }
    }

    fn line_mut(&mut self, lane: Lane) -> &mut Line {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Replay => &mut self.again,
        }
    }
}
