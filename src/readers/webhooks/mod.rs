//! Webhooks: tells applications over HTTP what became of their mail, in the words of Postmark.
//!
//! Promises: each event that a hook wants is sent until it is taken, refused, or its retries are used up, whatever crashes
//! (a duplicate carries the same ids); a hook that is slow, dead or hostile delays no other hook and no mail; memory is bounded,
//! what waits is in the event log. Does not know who may set hooks (`account` does), nor the API.
//!
//! How: one task for each hook ([`hook`]), which is a pure [`schedule`] with a place in the event log and a set of retries,
//! kept in [`ledger`]; the log's end is read once for all of them ([`feed`]). Payloads are built when they are sent
//! ([`payload`]) and never kept. [`client`] decides which addresses may be connected to.
//!
//! Not one of [`super::tables`]: what a remote host has taken cannot be made again from the log.

mod client;
mod feed;
mod hook;
mod hours;
mod ledger;
mod messages;
mod payload;
pub mod schedule;
mod target;
mod tasks;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::account::{Accounts, ServerInfo, WebhookInfo};
use crate::clock::{Clock, UnixMs};
use crate::config;
use crate::limits;
use crate::metrics;
use crate::readers::bounces::Bounces;
use crate::readers::{self, NotRebuilt, Reader, Standing};
use crate::route::Records;
use crate::spool::{Log, Spool};
use crate::suppression;

use client::{Client, Lines};
use feed::Feed;
use hook::Order;
pub use hours::Counts;
use ledger::Ledger;
pub use ledger::OpenError;
use messages::Messages;
pub use payload::Trigger;
use payload::{Payloads, specimen};
use schedule::{Health, Replay};
use target::Target;
use view::View;

/// What webhooks are made of.
pub struct Parts<'a> {
    pub spool: &'a Spool,
    pub config: &'a config::Config,
    pub accounts: Arc<Accounts>,
    pub suppressions: Arc<suppression::Set>,
    pub bounces: Bounces,
    pub records: Arc<Records>,
    pub clock: Clock,
}

/// The webhooks of a node. Shared; dropping it stops nothing.
pub struct Webhooks {
    shared: Arc<Shared>,
    accounts: Arc<Accounts>,
    running: Mutex<BTreeMap<String, Running>>,
}

/// What all hooks share.
struct Shared {
    client: Client,
    payloads: Payloads,
    feed: Arc<Feed>,
    ledger: Ledger,
    events: Log,
    clock: Clock,
    /// Events that wait for a retry, of all hooks.
    retries: AtomicUsize,
    /// Requests under way, likewise.
    requests: Arc<AtomicUsize>,
}

struct Running {
    targets: watch::Sender<Arc<Target>>,
    orders: mpsc::Sender<Order>,
    view: Arc<View>,
}

/// A hook as it is doing.
#[derive(Clone, Debug)]
pub struct State {
    /// A webhook's id, or `s`, the server's id, and which of its own hook URLs.
    pub key: String,
    pub server: Arc<str>,
    pub stream: Option<Arc<str>>,
    pub url: String,
    pub triggers: Vec<Trigger>,
    pub health: Health,
    /// Events since then wait to be tried for the first time, in octets of the event log.
    pub lag: u64,
    pub retries: usize,
    pub in_flight: usize,
    pub next_retry: Option<UnixMs>,
    pub replay: Option<Replay>,
    /// Since the start of the node.
    pub taken: u64,
    pub refused: u64,
    pub failed: u64,
    pub given_up: u64,
}

/// What came of a specimen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub trigger: Trigger,
    pub status: Option<u16>,
    pub message: String,
}

impl Verified {
    pub fn is_success(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }
}

/// Why an order was not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disobeyed {
    #[error("there is no such webhook")]
    Unknown,
    #[error("events are being sent to it again already")]
    Busy,
    #[error("webhooks are not at work")]
    Stopping,
}

impl Webhooks {
    pub async fn open(parts: Parts<'_>) -> Result<Self, OpenError> {
        let ledger = Ledger::open(&parts.config.node.data_dir).await?;
        let (mail, events) = (parts.spool.mail.clone(), parts.spool.events.clone());
        let extra_roots: Option<PathBuf> = parts.config.tls.ca_file.clone();
        let shared = Shared {
            client: Client::new(
                parts.config.webhooks.clone(),
                parts.records,
                extra_roots,
                parts.clock,
            ),
            payloads: Payloads {
                messages: Messages::new(mail, events.clone()),
                events: events.clone(),
                suppressions: parts.suppressions,
                bounces: parts.bounces,
            },
            feed: Arc::new(Feed::new(events.durable())),
            ledger,
            events,
            clock: parts.clock,
            retries: AtomicUsize::new(0),
            requests: Arc::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            accounts: parts.accounts,
            running: Mutex::default(),
        })
    }

    /// How each hook is doing, in the order of their keys.
    pub fn states(&self) -> Vec<State> {
        let durable = self.shared.events.durable();
        let running = self.running();
        let states = running.values().map(|running| {
            let (target, shown) = (running.targets.borrow(), running.view.shown());
            let [taken, refused, failed, given_up] = running.view.counts();
            State {
                key: target.key.clone(),
                server: Arc::clone(&target.server),
                stream: target.wish.stream.clone(),
                url: shown_url(&target.url),
                triggers: Trigger::all_of(&target.wish.triggers).collect(),
                lag: match shown.is_idle || !shown.has_looked {
                    true => 0,
                    false => durable.saturating_sub(shown.cursor),
                },
                health: shown.health.clone(),
                retries: shown.retries,
                in_flight: shown.in_flight,
                next_retry: shown.next_retry,
                replay: shown.replay,
                taken,
                refused,
                failed,
                given_up,
            }
        });
        states.collect()
    }

    /// What its requests of the last 24 hours came to, by trigger; empty where there were none.
    pub fn counts(&self, key: &str) -> BTreeMap<Trigger, Counts> {
        let running = self.running();
        let found = running.get(key).map(|running| running.view.hours());
        found.as_deref().cloned().unwrap_or_default()
    }

    /// What an operator should look at.
    pub fn warnings(&self) -> Vec<String> {
        let stopped = self.states().into_iter().filter_map(|state| {
            let (_, why) = state.health.stopped?;
            Some(format!(
                "webhook {} of server {} is stopped: {why}; see `posthaste webhook ls`",
                state.key, state.server
            ))
        });
        stopped.take(limits::WEBHOOK_WARNINGS).collect()
    }

    fn is_stopped(&self, key: &str) -> bool {
        let running = self.running();
        let found = running.get(key).map(|running| running.view.shown());
        found.is_some_and(|shown| shown.health.stopped.is_some())
    }

    /// Lets a hook go on if it was stopped.
    pub async fn restart(&self, key: &str) -> Result<(), Disobeyed> {
        match self.is_stopped(key) {
            true => self.resume(key, false).await,
            false => Ok(()),
        }
    }

    /// Lets a hook go on that was stopped, or that rests; with `skip`, without what waits.
    pub async fn resume(&self, key: &str, skip: bool) -> Result<(), Disobeyed> {
        let (done, answer) = oneshot::channel();
        self.order(key, Order::Resume(skip, done)).await?;
        answer.await.map_err(|_| Disobeyed::Stopping)
    }

    /// Sends a hook again what happened between these times and is still in the event log.
    pub async fn replay(&self, key: &str, from: UnixMs, to: UnixMs) -> Result<(), Disobeyed> {
        let (done, answer) = oneshot::channel();
        self.order(key, Order::Replay(from, to, done)).await?;
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Disobeyed::Busy),
            Err(_) => Err(Disobeyed::Stopping),
        }
    }

    async fn order(&self, key: &str, order: Order) -> Result<(), Disobeyed> {
        let orders = {
            let running = self.running();
            running.get(key).map(|running| running.orders.clone())
        };
        let orders = orders.ok_or(Disobeyed::Unknown)?;
        orders.send(order).await.map_err(|_| Disobeyed::Stopping)
    }

    /// Sends a specimen of each trigger to where a webhook leads, or would.
    pub async fn verify(&self, server: &ServerInfo, webhook: &Arc<WebhookInfo>) -> Vec<Verified> {
        let verified = match Target::of(server, webhook) {
            Some(target) => self.prove(Arc::new(target)).await,
            None => Vec::new(),
        };
        self.note_proof(&webhook.id.to_string(), &verified);
        verified
    }

    fn note_proof(&self, key: &str, verified: &[Verified]) {
        let failed = verified.iter().filter(|verified| !verified.is_success());
        let failed = failed.map(|verified| verified.trigger).collect();
        if let Some(running) = self.running().get(key) {
            running.view.unproven.store(Some(Arc::new(failed)));
        }
    }

    /// As its last verification says; where there was none since the start, whether the hook takes what it is sent.
    pub fn is_proven(&self, key: &str, trigger: Trigger) -> bool {
        let running = self.running();
        let Some(view) = running.get(key).map(|running| &running.view) else {
            return true;
        };
        let shown = view.shown();
        let is_good = match &*view.unproven.load() {
            Some(unproven) => !unproven.contains(&trigger),
            None => shown.health.failing_since.is_none(),
        };
        is_good && shown.health.stopped.is_none()
    }

    /// The same of a hook at work, whatever it is.
    pub async fn verify_at_work(&self, key: &str) -> Result<Vec<Verified>, Disobeyed> {
        let target = {
            let running = self.running();
            let found = running.get(key).ok_or(Disobeyed::Unknown)?;
            Arc::clone(&found.targets.borrow())
        };
        let verified = self.prove(target).await;
        self.note_proof(key, &verified);
        Ok(verified)
    }

    async fn prove(&self, target: Arc<Target>) -> Vec<Verified> {
        let stream = target.wish.stream.clone();
        let stream = stream.unwrap_or_else(|| "outbound".into());
        let mut calls = JoinSet::new();
        for trigger in Trigger::all_of(&target.wish.triggers) {
            let (shared, target) = (Arc::clone(&self.shared), Arc::clone(&target));
            let now = shared.clock.unix_ms();
            let body = Bytes::from(specimen(trigger, &stream, now));
            calls.spawn(async move {
                let headers = target.headers(0, 0, now, &body);
                let lines = Lines::default();
                let posted = shared.client.post(&lines, &target.url, &headers, &body);
                let answer = tokio::time::timeout(limits::WEBHOOK_VERIFY, posted).await;
                let (status, message) = match answer {
                    Ok(Ok(status)) => (
                        Some(status.as_u16()),
                        format!("It answered {}.", status.as_u16()),
                    ),
                    Ok(Err(why)) => (None, format!("No answer: {why}.")),
                    Err(_) => (None, "No answer in time.".to_owned()),
                };
                Verified {
                    trigger,
                    status,
                    message,
                }
            });
        }
        let mut verified: Vec<Verified> = Vec::new();
        while let Some(call) = calls.join_next().await {
            verified.extend(call.ok());
        }
        verified.sort_by_key(|verified| verified.trigger);
        verified
    }

    async fn gauge(&self) {
        let states = self.states();
        let (mut ok, mut failing, mut stopped) = (0, 0, 0);
        for state in &states {
            match (&state.health.stopped, state.health.failing_since) {
                (Some(_), _) => stopped += 1,
                (None, Some(_)) => failing += 1,
                (None, None) => ok += 1,
            }
        }
        for (state, count) in [("ok", ok), ("failing", failing), ("stopped", stopped)] {
            metrics::WEBHOOK_HOOKS.set_of(state, f64::from(count));
        }
        let retries: usize = states.iter().map(|state| state.retries).sum();
        let in_flight: usize = states.iter().map(|state| state.in_flight).sum();
        metrics::WEBHOOK_RETRIES.set(retries as f64);
        metrics::WEBHOOK_IN_FLIGHT.set(in_flight as f64);
        let now = self.shared.clock.unix_ms();
        let (behind, events) = (self.behind(), self.shared.events.clone());
        let lag = behind.map_or(0, |place| events.durable().saturating_sub(place));
        metrics::READER_LAG.set_of(NAME, lag as f64);
        let at = match behind {
            Some(place) => {
                let read = tokio::task::spawn_blocking(move || feed::time_at(&events, place));
                // A panic in it is logged by the runtime.
                read.await.ok().flatten()
            }
            None => None,
        };
        let seconds = at.map_or(0.0, |at| now.saturating_sub(at) as f64 / 1_000.0);
        metrics::READER_LAG_SECONDS.set_of(NAME, seconds);
    }

    /// The place of the hook that is furthest behind. One that takes nothing at all is left out: its receiver is to blame, and
    /// it has a state that says so.
    fn behind(&self) -> Option<u64> {
        let (now, durable) = (self.shared.clock.unix_ms(), self.shared.events.durable());
        let running = self.running();
        let shown = running.values().map(|running| running.view.shown());
        shown
            .filter(|shown| shown.has_looked && !shown.is_idle && shown.health.is_well(now))
            .map(|shown| shown.cursor)
            .filter(|cursor| *cursor < durable)
            .min()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader for Webhooks {
    /// Of the hook that is furthest behind of those that take anything.
    fn standing(&self) -> Standing {
        let (states, behind) = (self.states(), self.behind());
        let durable = self.shared.events.durable();
        let position = behind.unwrap_or(durable);
        let retries: usize = states.iter().map(|state| state.retries).sum();
        Standing {
            name: NAME,
            state: readers::State::Following,
            position,
            lag_bytes: durable.saturating_sub(position),
            at: behind.and_then(|place| feed::time_at(&self.shared.events, place)),
            bytes: None,
            entries: Some(retries as u64),
            base: None,
            generation: 0,
            trouble: None,
        }
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        Err(NotRebuilt::Never(
            "what remote hosts have taken is not in the log; `posthaste webhook replay` sends a range of time again",
        ))
    }
}

/// A URL without its password.
pub fn shown_url(url: &url::Url) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // Of a URL that has a host it can be set.
        let _ = shown.set_password(Some("***"));
    }
    shown.into()
}

/// In metrics.
const NAME: &str = "webhooks";
