//! One hook at work: a task that feeds its [`Schedule`], makes the requests that it asks for, and writes down what became of
//! them. Nothing it waits for keeps another hook waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

use super::Shared;
use super::client::{Counted, Lines};
use super::feed::{self, Since, Subscription};
use super::hours::{self, Hours};
use super::payload::Trigger;
use super::schedule::{Answer, Attempt, Became, Changes, Health, Lane, Plan, Replay, Schedule};
use super::target::Target;
use super::view::{Shown, View};
use crate::clock::UnixMs;
use crate::limits;
use crate::metrics;

/// What an operator asks of a hook.
pub(super) enum Order {
    /// Go on; with `true`, from now.
    Resume(bool, oneshot::Sender<()>),
    /// `false`: another replay is under way.
    Replay(UnixMs, UnixMs, oneshot::Sender<bool>),
}

pub(super) struct Hook {
    pub(super) shared: Arc<Shared>,
    pub(super) target: Arc<Target>,
    pub(super) targets: watch::Receiver<Arc<Target>>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) view: Arc<View>,
    schedule: Schedule,
    lines: Arc<Lines>,
    flights: JoinSet<(Answer, Duration)>,
    /// What each of them was sent off with.
    flying: HashMap<Id, (Attempt, Trigger)>,
    subscription: Option<Subscription>,
    since: Since,
    /// What could not be written down: nothing is sent before it is.
    unwritten: Option<(Changes, Vec<hours::Kept>)>,
    hours: Hours,
    written_at: UnixMs,
    /// The logs could not be read: not again before.
    later_at: UnixMs,
    /// Of [`Shared::retries`], ours.
    counted: usize,
    /// All hooks together have as many requests under way as they may.
    is_held: bool,
    thinned_at: UnixMs,
}

impl Hook {
    /// Where it left off, or from its beginning. `None`: nothing can be kept of it now.
    pub(super) async fn begin(
        shared: Arc<Shared>,
        targets: watch::Receiver<Arc<Target>>,
        orders: mpsc::Receiver<Order>,
        view: Arc<View>,
    ) -> Result<Self, sqlx::Error> {
        let target = Arc::clone(&targets.borrow());
        let plan = Plan::new(&shared.client.rules);
        let mut hours = Hours::default();
        let (schedule, end) = match shared.ledger.take_up(&target.key, target.created).await? {
            Some(kept) => {
                hours = kept.hours;
                let cursor = kept.cursor.max(shared.events.start());
                if cursor > kept.cursor {
                    tracing::warn!(hook = target.key, server = %target.server, "events that a webhook has not been sent are kept no more");
                }
                // A log that was put back from a backup ends before.
                let durable = shared.events.durable();
                let (cursor, end) = (cursor.min(durable), kept.began.min(durable));
                let schedule = Schedule::new(plan, cursor, kept.health, kept.replay, kept.retries);
                (schedule, end)
            }
            None => {
                let (now, end) = (shared.clock.unix_ms(), shared.events.durable());
                let lost = now.saturating_sub(limits::WEBHOOK_LOST.as_millis() as u64);
                let cursor = match target.created {
                    Some(created) => shared.events.position_before(created.max(lost)),
                    None => end,
                };
                let mut schedule = Schedule::new(plan, cursor, Health::default(), None, []);
                let (key, changes) = (&target.key, schedule.changes());
                let begun = shared.ledger.begin(key, target.created, end, &changes);
                begun.await?;
                (schedule, end)
            }
        };
        let since = Since {
            at: target.created.unwrap_or(0),
            end,
        };
        Ok(Self {
            shared,
            target,
            targets,
            orders,
            view,
            schedule,
            lines: Arc::default(),
            flights: JoinSet::new(),
            flying: HashMap::new(),
            subscription: None,
            since,
            unwritten: None,
            hours,
            written_at: 0,
            later_at: 0,
            counted: 0,
            is_held: false,
            thinned_at: 0,
        })
    }

    /// Until `stopping`, or until its target is gone: what it knows is then written down.
    /// # Cancel safety
    /// What is under way, and what was not written down yet, is sent again.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        self.count();
        loop {
            self.read().await;
            self.launch().await;
            self.write().await;
            self.show();
            self.thin();
            let wake = self.wake();
            let may_read = self.is_caught_up() && self.room(Lane::Live) > 0;
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                Some(landed) = self.flights.join_next_with_id() => {
                    self.landed(landed);
                    while let Some(landed) = self.flights.try_join_next_with_id() {
                        self.landed(landed);
                    }
                }
                changed = self.targets.changed() => match changed {
                    Ok(()) => self.retarget(),
                    Err(_) => break,
                },
                Some(order) = self.orders.recv() => self.obey(order).await,
                () = inbox(&mut self.subscription, &mut self.schedule), if may_read => {}
                () = tokio::time::sleep(wake) => {}
            }
        }
        // The requests under way are not waited for: they are made again.
        self.flights.abort_all();
        self.written_at = 0;
        self.write().await;
    }

    /// With the feed: what comes next is what it brings.
    fn is_caught_up(&self) -> bool {
        let next = self.schedule.next(Lane::Live);
        self.subscription
            .as_ref()
            .is_some_and(|subscription| next >= subscription.from)
    }

    fn room(&self, lane: Lane) -> usize {
        // Relaxed: a bound of memory, not of correctness.
        let all = self.shared.retries.load(Ordering::Relaxed);
        self.schedule.room(lane, all)
    }

    /// Takes over what there is room for.
    async fn read(&mut self) {
        if self.shared.clock.unix_ms() < self.later_at {
            return;
        }
        let since = self.since;
        // Twice at most: once when the place at the feed was lost.
        for _ in 0..2 {
            let from = match &self.subscription {
                Some(subscription) => subscription.from,
                None => {
                    let subscription = self.shared.feed.subscribe(&self.target.wish, since);
                    let from = subscription.from;
                    self.subscription = Some(subscription);
                    from
                }
            };
            let room = self.room(Lane::Live);
            if self.schedule.next(Lane::Live) < from && room > 0 {
                // One batch: what is found in it is sent before more is read.
                self.read_lane(Lane::Live, from, room, move |p, at| since.includes(p, at))
                    .await;
            }
            if self.schedule.next(Lane::Live) < from || self.drain_inbox() {
                break;
            }
        }
        let Some(replay) = self.schedule.replay() else {
            return;
        };
        let room = self.room(Lane::Replay);
        if room > limits::WEBHOOK_AHEAD / 2 && self.schedule.next(Lane::Replay) < replay.until {
            let times = replay.from..=replay.to;
            self.read_lane(Lane::Replay, replay.until, room, move |_, at| {
                times.contains(&at)
            })
            .await;
        }
    }

    /// Takes what has come; `false`: the place at the feed is lost.
    fn drain_inbox(&mut self) -> bool {
        let room = self.room(Lane::Live);
        // What was handed out below this place is in the inbox by now.
        let at = self.shared.feed.at();
        let Some(subscription) = &mut self.subscription else {
            return false;
        };
        for _ in 0..room {
            match subscription.inbox.try_recv() {
                Ok(found) if found.next <= self.schedule.next(Lane::Live) => {}
                Ok(found) => {
                    self.schedule
                        .take(Lane::Live, found.position, found.class, found.next);
                }
                Err(TryRecvError::Empty) => {
                    self.schedule.read_to(Lane::Live, at);
                    return true;
                }
                Err(TryRecvError::Disconnected) => {
                    self.subscription = None;
                    return false;
                }
            }
        }
        true
    }

    async fn read_lane(
        &mut self,
        lane: Lane,
        until: u64,
        room: usize,
        is_in: impl Fn(u64, UnixMs) -> bool + Send + 'static,
    ) {
        let (log, wish) = (self.shared.events.clone(), Arc::clone(&self.target.wish));
        let from = self.schedule.next(lane);
        let read = tokio::task::spawn_blocking(move || {
            feed::read(&log, from, until, room, |position, event| {
                wish.wants(event).filter(|_| is_in(position, event.at))
            })
        });
        // A panic in it is logged by the runtime; it is read again.
        let Ok((found, next, end)) = read.await else {
            return;
        };
        if end == feed::End::Later {
            self.put_off();
        }
        for found in found {
            self.schedule
                .take(lane, found.position, found.class, found.next);
        }
        self.schedule.read_to(lane, next);
    }

    /// Makes the requests that are due.
    async fn launch(&mut self) {
        let now = self.shared.clock.unix_ms();
        if self.unwritten.is_some() || now < self.later_at {
            return;
        }
        let mut attempts = Vec::new();
        self.is_held = false;
        loop {
            let Some(permit) = self.permit() else {
                self.is_held = true;
                break;
            };
            match self.schedule.poll(now) {
                Some(attempt) => attempts.push((attempt, permit)),
                None => break,
            }
        }
        if attempts.is_empty() {
            return;
        }
        let (shared, target) = (Arc::clone(&self.shared), Arc::clone(&self.target));
        let wanted: Vec<u64> = attempts.iter().map(|(a, _)| a.position).collect();
        let built = tokio::task::spawn_blocking(move || {
            let build = |&position: &u64| shared.payloads.build(position, &target.wish);
            wanted.iter().map(build).collect::<Vec<_>>()
        });
        let Ok(built) = built.await else {
            for (attempt, _) in attempts {
                let fault = Answer::None("its payload could not be built".into());
                self.answered(attempt, None, fault, Duration::ZERO);
            }
            return;
        };
        for ((attempt, permit), body) in attempts.into_iter().zip(built) {
            match body {
                Ok(None) => self.answered(attempt, None, Answer::Void, Duration::ZERO),
                Ok(Some((trigger, body))) => self.fly(attempt, permit, trigger, body),
                Err(error) => {
                    tracing::warn!(hook = self.target.key, event = attempt.position, %error, "what a webhook tells cannot be read now; it waits");
                    self.schedule.not_made(attempt);
                    self.put_off();
                }
            }
        }
    }

    fn put_off(&mut self) {
        self.later_at = self.shared.clock.unix_ms() + limits::READER_RETRY.as_millis() as u64;
    }

    /// To make one more request.
    fn permit(&self) -> Option<Counted> {
        let (_, ours) = self.schedule.pending();
        // Relaxed: a bound of memory and descriptors, not of correctness.
        let all = self.shared.requests.load(Ordering::Relaxed);
        let may = ours < limits::WEBHOOK_REQUESTS_ALWAYS || all < limits::WEBHOOK_REQUESTS_ALL;
        may.then(|| Counted::new(&self.shared.requests))
    }

    /// Closes connections that are not needed.
    fn thin(&mut self) {
        let now = self.shared.clock.unix_ms();
        if now >= self.thinned_at + limits::READER_UPKEEP.as_millis() as u64 {
            self.thinned_at = now;
            self.lines.thin(self.shared.clock.instant());
        }
    }

    fn fly(&mut self, attempt: Attempt, permit: Counted, trigger: Trigger, body: Bytes) {
        let (shared, target) = (Arc::clone(&self.shared), Arc::clone(&self.target));
        let lines = Arc::clone(&self.lines);
        let flight = self.flights.spawn(async move {
            let began = shared.clock.instant();
            let now = shared.clock.unix_ms();
            let headers = target.headers(attempt.position, attempt.retries_left, now, &body);
            let posted = shared.client.post(&lines, &target.url, &headers, &body);
            let answer = match posted.await {
                Ok(status) => Answer::Status(status.as_u16()),
                Err(why) => Answer::None(why),
            };
            let took = shared.clock.instant().duration_since(began);
            drop(permit);
            (answer, took)
        });
        self.flying.insert(flight.id(), (attempt, trigger));
    }

    fn landed(&mut self, landed: Result<(Id, (Answer, Duration)), JoinError>) {
        let (id, (answer, took)) = landed.unwrap_or_else(|error| {
            tracing::error!(hook = self.target.key, %error, "a webhook request failed by a fault in the program");
            let fault = Answer::None("a fault in the program; it is in the node's log".into());
            (error.id(), (fault, Duration::ZERO))
        });
        if let Some((attempt, trigger)) = self.flying.remove(&id) {
            self.answered(attempt, Some(trigger), answer, took);
        }
    }

    fn answered(
        &mut self,
        attempt: Attempt,
        trigger: Option<Trigger>,
        answer: Answer,
        took: Duration,
    ) {
        let now = self.shared.clock.unix_ms();
        let was_well = self.schedule.health().failing_since.is_none();
        let was_going = self.schedule.health().stopped.is_none();
        let became = self.schedule.answered(now, attempt.position, &answer);
        let (count, result) = match became {
            Became::Taken => (&self.view.taken, "taken"),
            Became::Refused => (&self.view.refused, "refused"),
            Became::Waits => (&self.view.failed, "failed"),
            Became::GivenUp => (&self.view.given_up, "given_up"),
            Became::Void => return,
        };
        // Relaxed: counters that nothing depends on.
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(trigger) = trigger {
            self.hours
                .count(now, trigger, became, attempt.is_retry, took);
        }
        metrics::WEBHOOKS.add_to(result, 1);
        metrics::WEBHOOK_SECONDS.record(&[result], took.as_secs_f64());
        self.count();
        let health = self.schedule.health();
        let (hook, server) = (&self.target.key, &self.target.server);
        match (&health.stopped, became) {
            (Some((_, why)), _) if was_going => {
                tracing::warn!(hook, %server, why, "a webhook is stopped: its events wait; `posthaste webhook resume` starts it again");
            }
            // There may be thousands; the metric and `webhook ls` count them.
            (_, Became::GivenUp) => {
                tracing::debug!(hook, %server, event = attempt.position, why = health.failure, "a webhook's event is given up");
            }
            _ if was_well && health.failing_since.is_some() => {
                tracing::info!(hook, %server, why = health.failure, "a webhook fails");
            }
            _ => {}
        }
    }

    /// Writes down what has changed, when it is time.
    async fn write(&mut self) {
        let now = self.shared.clock.unix_ms();
        let wait = match self.unwritten {
            Some(_) => limits::READER_RETRY,
            None => limits::WEBHOOK_FLUSH,
        };
        let is_due = now >= self.written_at + wait.as_millis() as u64;
        if !is_due || (self.unwritten.is_none() && !self.schedule.is_dirty()) {
            return;
        }
        self.written_at = now;
        let changes = match self.unwritten.take() {
            Some(changes) => changes,
            None => (self.schedule.changes(), self.hours.changes()),
        };
        let (key, (plan, hours)) = (&self.target.key, &changes);
        if let Err(error) = self.shared.ledger.write(key, plan, hours).await {
            metrics::READER_FAILURES.add_to(super::NAME, 1);
            tracing::error!(hook = self.target.key, %error, "it cannot be written down what a webhook has taken: it waits, and it is tried again");
            self.unwritten = Some(changes);
        }
    }

    fn wake(&self) -> Duration {
        let now = self.shared.clock.unix_ms();
        let write = match (&self.unwritten, self.schedule.is_dirty()) {
            (Some(_), _) => Some(self.written_at + limits::READER_RETRY.as_millis() as u64),
            (None, true) => Some(self.written_at + limits::WEBHOOK_FLUSH.as_millis() as u64),
            (None, false) => None,
        };
        let retry = self
            .schedule
            .poll_timeout()
            .filter(|_| self.unwritten.is_none() && !self.is_held);
        let held = self
            .is_held
            .then_some(now + limits::WEBHOOK_FLUSH.as_millis() as u64);
        // A replay reads on when there is room.
        let replay = self
            .schedule
            .replay()
            .filter(|replay| self.schedule.next(Lane::Replay) < replay.until)
            .map(|_| now + limits::WEBHOOK_FLUSH.as_millis() as u64);
        let behind = (!self.is_caught_up() && self.room(Lane::Live) > 0).then_some(now);
        let reading = [retry, held, replay, behind].into_iter().flatten().min();
        let reading = reading.map(|at| at.max(self.later_at));
        let next = [write, reading].into_iter().flatten().min();
        next.map_or(limits::READER_UPKEEP, |at| {
            Duration::from_millis(at.saturating_sub(now).max(1)).min(limits::READER_UPKEEP)
        })
    }

    fn retarget(&mut self) {
        self.target = Arc::clone(&self.targets.borrow_and_update());
        self.subscription = None;
        self.lines.clear();
        // Whoever edits it wants it to go.
        if self.schedule.health().stopped.is_some() {
            self.schedule.resume(None);
        }
    }

    async fn obey(&mut self, order: Order) {
        // Whoever asked may have gone.
        match order {
            Order::Resume(skip, done) => {
                self.schedule
                    .resume(skip.then(|| self.shared.events.durable()));
                self.count();
                self.show();
                let _ = done.send(());
            }
            Order::Replay(from, to, done) => {
                let replay = Replay {
                    next: self.shared.events.position_before(from),
                    until: self.shared.events.durable(),
                    from,
                    to,
                };
                let is_begun = self.schedule.begin_replay(replay);
                self.written_at = 0;
                self.write().await;
                self.show();
                let _ = done.send(is_begun);
            }
        }
    }

    /// Keeps the sum of all hooks' retries.
    fn count(&mut self) {
        let (retries, _) = self.schedule.pending();
        // Relaxed: a bound of memory, not of correctness.
        self.shared.retries.fetch_add(retries, Ordering::Relaxed);
        self.shared
            .retries
            .fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = retries;
    }

    fn show(&self) {
        let (retries, in_flight) = self.schedule.pending();
        self.view.shown.store(Arc::new(Shown {
            cursor: self.schedule.cursor(),
            has_looked: true,
            is_idle: self.is_caught_up()
                && self.room(Lane::Live) > 0
                && self.schedule.cursor() == self.schedule.next(Lane::Live),
            health: self.schedule.health().clone(),
            retries,
            in_flight,
            next_retry: self.schedule.next_retry(),
            replay: self.schedule.replay(),
        }));
        let sums = self.hours.sums(self.shared.clock.unix_ms());
        self.view.hours.store(Arc::new(sums));
    }
}

impl Drop for Hook {
    /// Its share of the bound goes back, however it ends.
    fn drop(&mut self) {
        // Relaxed: as in `count`.
        self.shared
            .retries
            .fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// Waits for the feed, and takes over what it brings first.
/// # Cancel safety
/// Nothing is lost: what was received is taken over without a wait in between.
async fn inbox(subscription: &mut Option<Subscription>, schedule: &mut Schedule) {
    let Some(open) = subscription else {
        return;
    };
    match open.inbox.recv().await {
        Some(found) if found.next > schedule.next(Lane::Live) => {
            schedule.take(Lane::Live, found.position, found.class, found.next);
        }
        Some(_) => {}
        None => *subscription = None,
    }
}

pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Whoever could say so may be gone: that is the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}
