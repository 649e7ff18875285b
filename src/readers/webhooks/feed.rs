//! Reads the event log's end once for all hooks, so that a thousand of them cost one reader.
//!
//! A hook that has caught up subscribes and gets the positions of events that it wants as they become durable. One that does
//! not keep up loses its place here, silently and at once: it reads the log itself from where it is, and subscribes again when
//! it has caught up. So nobody waits for anybody, and what waits is in the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use spool_format::kind;
use spool_format::layout::event::KIND;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::payload::{Trigger, Wish};
use super::schedule::Class;
use crate::clock::UnixMs;
use crate::event::{Event, EventKind};
use crate::limits;
use crate::spool::Log;

/// An event for a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) position: u64,
    /// Behind it.
    pub(super) next: u64,
    pub(super) class: Class,
}

pub(super) struct Feed {
    places: Mutex<Places>,
}

struct Places {
    /// All below was handed out.
    at: u64,
    /// By server.
    subscribers: HashMap<u32, Vec<Subscriber>>,
}

struct Subscriber {
    wish: Arc<Wish>,
    since: Since,
    inbox: mpsc::Sender<Found>,
}

/// When a hook begins. Times tell only of what the log held already: a node that starts again may find its clock set back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    pub(super) at: UnixMs,
    /// The log's end then.
    pub(super) end: u64,
}

impl Since {
    pub(super) fn includes(&self, position: u64, at: UnixMs) -> bool {
        position >= self.end || at >= self.at
    }
}

/// What a subscriber was handed.
pub(super) struct Subscription {
    pub(super) inbox: mpsc::Receiver<Found>,
    /// What lies below has to be read from the log.
    pub(super) from: u64,
}

impl Feed {
    /// What lies below `at` its subscribers read themselves.
    pub(super) fn new(at: u64) -> Self {
        Self {
            places: Mutex::new(Places {
                at,
                subscribers: HashMap::new(),
            }),
        }
    }

    pub(super) fn subscribe(&self, wish: &Arc<Wish>, since: Since) -> Subscription {
        let (sender, inbox) = mpsc::channel(limits::WEBHOOK_AHEAD);
        let mut places = self.lock();
        let subscriber = Subscriber {
            wish: Arc::clone(wish),
            since,
            inbox: sender,
        };
        places
            .subscribers
            .entry(wish.server)
            .or_default()
            .push(subscriber);
        Subscription {
            inbox,
            from: places.at,
        }
    }

    /// All below was handed out.
    pub(super) fn at(&self) -> u64 {
        self.lock().at
    }

    /// Reads on for ever.
    /// # Cancel safety
    /// Dropping it costs nothing: hooks read the log themselves.
    pub(super) async fn run(self: Arc<Self>, log: Log) {
        let mut durable = log.watch();
        loop {
            let (this, events) = (Arc::clone(&self), log.clone());
            let read = tokio::task::spawn_blocking(move || this.advance(&events));
            match read.await {
                Ok(End::More) => continue,
                Ok(End::All) => {}
                Ok(End::Later) => {
                    tokio::time::sleep(limits::READER_RETRY).await;
                    continue;
                }
                Err(error) => tracing::error!(%error, "the feed of webhooks failed"),
            }
            if durable.changed().await.is_err() {
                return;
            }
        }
    }

    /// One piece of the log; why it ends. Blocks.
    fn advance(&self, log: &Log) -> End {
        let (from, has_subscribers) = {
            let mut places = self.lock();
            places.subscribers.retain(|_, list| {
                list.retain(|subscriber| !subscriber.inbox.is_closed());
                !list.is_empty()
            });
            (places.at, !places.subscribers.is_empty())
        };
        if !has_subscribers {
            // Whoever subscribes reads what lies below.
            let mut places = self.lock();
            if places.subscribers.is_empty() {
                places.at = log.durable().max(from);
            }
            return End::All;
        }
        let mut found = Vec::new();
        let (next, end) = scan(log, from, u64::MAX, |found_at, event| {
            let trigger = Trigger::of(event);
            if trigger.is_some() {
                found.push((found_at, Owned::of(event)));
            }
            found.len() < limits::READER_FACTS
        });
        let mut places = self.lock();
        for ((position, next), event) in &found {
            let Some(list) = places.subscribers.get_mut(&event.server) else {
                continue;
            };
            event.with(|event| {
                list.retain(|subscriber| {
                    let wanted = subscriber.wish.wants(event);
                    let is_in = subscriber.since.includes(*position, event.at);
                    let Some(trigger) = wanted.filter(|_| is_in) else {
                        return true;
                    };
                    let found = Found {
                        position: *position,
                        next: *next,
                        class: trigger.class(),
                    };
                    // Full: it reads the log itself from here on.
                    !matches!(
                        subscriber.inbox.try_send(found),
                        Err(TrySendError::Full(_) | TrySendError::Closed(_))
                    )
                });
            });
        }
        places.at = next;
        end
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a wish looks at, for as long as the record is not.
struct Owned {
    kind: EventKind,
    at: u64,
    server: u32,
    stream: String,
    cause: String,
}

impl Owned {
    fn of(event: &Event<'_>) -> Self {
        Self {
            kind: event.kind,
            at: event.at,
            server: event.server_id,
            stream: event.stream.to_owned(),
            cause: event.cause.to_owned(),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&Event<'_>) -> T) -> T {
        look(&Event {
            kind: self.kind,
            at: self.at,
            server_id: self.server,
            stream: &self.stream,
            cause: &self.cause,
            ..Event::nothing()
        })
    }
}

/// Reads for one hook from `from` to `until`; at most `count` events. Blocks.
pub(super) fn read(
    log: &Log,
    from: u64,
    until: u64,
    count: usize,
    wants: impl Fn(u64, &Event<'_>) -> Option<Trigger>,
) -> (Vec<Found>, u64, End) {
    let mut found = Vec::new();
    let (next, end) = scan(log, from, until, |(position, next), event| {
        if let Some(trigger) = wants(position, event) {
            found.push(Found {
                position,
                next,
                class: trigger.class(),
            });
        }
        found.len() < count
    });
    (found, next, end)
}

/// Why a piece of the log ends where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was enough.
    More,
    /// That was all.
    All,
    /// What follows cannot be read now.
    Later,
}

/// Shows events that may matter, with their positions and those behind them, until `take` says no or a batch is full. Returns
/// where to go on, and why there.
fn scan(
    log: &Log,
    from: u64,
    until: u64,
    mut take: impl FnMut((u64, u64), &Event<'_>) -> bool,
) -> (u64, End) {
    // All that is below will have been read, the log's own records too.
    let durable = log.durable();
    let mut at = from;
    for (count, item) in log.records_from(from).enumerate() {
        match item {
            Ok((record, _)) if record.position >= until => return (until, End::All),
            Ok((record, next)) => {
                at = next;
                if record.kind == kind::EVENT
                    && let Some(event) = matters(&record.payload)
                    && !take((record.position, next), &event)
                {
                    return (at, End::More);
                }
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the event log cannot be read now; webhooks wait");
                return (at, End::Later);
            }
            // The place is passed over when something behind it is read.
            Err(error) => {
                tracing::error!(%error, "part of the event log cannot be read: webhooks of its events are not sent");
            }
        }
        if count >= limits::READER_BATCH {
            return (at, End::More);
        }
    }
    (at.max(durable.min(until)), End::All)
}

/// When the first event was written that lies there or behind. Blocks.
pub(super) fn time_at(log: &Log, position: u64) -> Option<UnixMs> {
    let records = log.records_from(position).take(limits::READER_BATCH);
    let mut events = records
        .filter_map(Result::ok)
        .filter(|(r, _)| r.kind == kind::EVENT);
    events.find_map(|(record, _)| Some(Event::decode(&record.payload).ok()??.at))
}

/// Nearly all events are of other kinds: they cost a look at two octets.
fn matters(payload: &[u8]) -> Option<Event<'_>> {
    let code = payload.get(KIND..KIND + 2)?.try_into().ok()?;
    let kind = EventKind::from_code(u16::from_le_bytes(code))?;
    if !Trigger::may_be_of(kind) {
        return None;
    }
    Event::decode(payload).ok()?
}
