//! The reader that tells senders by mail what became of their mail: notices by RFC 3464, as RFC 3461 has them ask for.
//!
//! Promises: each outcome that was asked about is told in exactly one notice, over crashes too, and of one recipient one failure,
//! however often remote hosts repeat their reports ([`limits::NOTICE_FAILED_MAX`] recipients are remembered); a notice has the null
//! reverse-path, so nothing is ever told of a notice. Outcomes of one message that come together are told together. Mail does not
//! wait for it: between an outcome and its notice lies [`limits::NOTICE_GATHER`], more while no new mail is taken.
//! Deliberately does not know how mail is sent ([`Post`]), nor whose mail is told about: events say that ([`crate::event::Dsn`]),
//! as it was decided when the message was taken.
//!
//! How: it follows the event log from where its base stands. A notice names, in its record and in its *accepted* event, the events
//! that it tells of. So a life reads first what notices there are behind the base, is told by recovery of those whose events a
//! crash cut off ([`Told`]), and tells of the others. What gathers has no place in the base: one is written when nothing does.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spool_format::kind;
use spool_format::layout::{event::KIND, event_field};
use spool_format::{Content, EventRecord, MessageRecord};
use tokio::sync::watch;

use super::written_at;
use crate::clock::{Clock, UnixMs};
use crate::event::{Event, EventKind};
use crate::idempotency::Keys;
use crate::limits;
use crate::mail::MessageId;
use crate::metrics;
use crate::spool::Spool;

mod compose;
mod notice;
mod standing;
mod waiting;

use compose::{Returned, compose};
use notice::{Notice, Person, What};
use standing::Seen;
pub use standing::Watch;
use waiting::{Live, Waiting};

/// Sends what the reader writes.
pub trait Post: Send + Sync + 'static {
    /// Returns when the mail is durable.
    /// # Cancel safety
    /// It may be on its way all the same.
    fn post(&self, letter: Letter) -> impl Future<Output = Result<(), NotPosted>> + Send;

    /// When a message of this server's stream is given up that was taken at a time; `None`: there is no such stream any more.
    fn given_up_at(&self, server: u32, stream: &str, accepted_at: UnixMs) -> Option<UnixMs>;
}

/// Mail to a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Whose mail it is about.
    pub server: u32,
    pub to: String,
    pub content: Vec<u8>,
    /// Positions of the events that it tells of.
    pub about: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPosted {
    /// To be tried again.
    #[error("{0}")]
    Now(String),
    /// There is no use in it.
    #[error("{0}")]
    Never(String),
    /// Whom it would go to is suppressed.
    #[error("the reverse-path is suppressed")]
    Suppressed,
}

/// Notices whose *accepted* events a crash cut off, told by recovery.
#[derive(Debug, Default)]
pub struct Told(Mutex<Vec<u64>>);

impl Told {
    /// `notice_of` as a message record has it.
    pub fn insert(&self, notice_of: &[u8]) {
        let positions = notice_of
            .chunks_exact(8)
            .filter_map(|at| at.try_into().ok());
        self.lock().extend(positions.map(u64::from_le_bytes));
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        // It is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reader at work.
pub struct Notices<P> {
    spool: Arc<Spool>,
    post: P,
    keys: Arc<Keys>,
    told: Arc<Told>,
    hostname: String,
    clock: Clock,
    waiting: Waiting,
    /// How far the log was read, and when the last event there was written.
    position: u64,
    at: UnixMs,
    /// Where its base stands.
    based: u64,
    seen: watch::Sender<Seen>,
}

/// What a [`Notices`] is made of.
pub struct Parts<P> {
    pub spool: Arc<Spool>,
    pub post: P,
    /// Complete when recovery is through.
    pub keys: Arc<Keys>,
    pub told: Arc<Told>,
    pub hostname: String,
    pub clock: Clock,
}

/// Where a life begins.
pub struct Begin {
    position: u64,
    waiting: Waiting,
}

impl Begin {
    /// Finds its place in the log. Blocks.
    pub fn open(spool: &Spool, now: UnixMs) -> io::Result<Self> {
        let readers = spool.readers();
        let base = match readers.register(NAME) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = readers.put_aside(NAME)?;
                tracing::error!(%error, aside = %aside.display(), "the base of notices by mail is damaged: outcomes from now on are told");
                None
            }
            registered => registered?,
        };
        let base = match base {
            Some(base) => base,
            // What happened before anybody asked is the past.
            None => readers.store(NAME, spool.events.durable(), &[], now)?,
        };
        let mut state = vec![0; usize::try_from(base.state_len()).map_err(io::Error::other)?];
        base.read_at(&mut state, 0)?;
        Ok(Self {
            position: base.position,
            waiting: Waiting::from_bytes(&state),
        })
    }
}

impl<P: Post> Notices<P> {
    pub fn new(parts: Parts<P>, begin: Begin) -> Self {
        let Parts {
            spool,
            post,
            keys,
            told,
            hostname,
            clock,
        } = parts;
        let (seen, _) = watch::channel(Seen {
            position: begin.position,
            at: 0,
            based: begin.position,
            live: begin.waiting.live(),
            told: begin.position,
        });
        Self {
            seen,
            spool,
            post,
            keys,
            told,
            hostname,
            clock,
            waiting: begin.waiting,
            position: begin.position,
            at: 0,
            based: begin.position,
        }
    }

    pub fn watch(&self) -> Watch {
        Watch::new(self.spool.events.clone(), self.seen.subscribe())
    }

    /// Follows the log until `stopping`.
    /// # Cancel safety
    /// What was posted stays posted, and the next life knows of it.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        // Notices of an earlier life may be among what recovery has not told yet.
        while !self.keys.is_complete() {
            tokio::time::sleep(RECOVERY_LOOK).await;
        }
        self.recall().await;
        let mut durable = self.spool.events.watch();
        loop {
            let caught_up = self.step().await;
            self.tell().await;
            self.keep_up().await;
            // Outcomes that keep coming do not hold back what is told of those before them.
            let untold = self.waiting.first_untold(self.clock.unix_ms());
            self.seen.send_replace(Seen {
                position: self.position,
                at: self.at,
                based: self.based,
                live: self.waiting.live(),
                told: untold.unwrap_or(self.position),
            });
            if !caught_up {
                continue;
            }
            let now = self.clock.unix_ms();
            let due = self.waiting.due().map_or(limits::NOTICE_RETRY, |at| {
                Duration::from_millis(at.saturating_sub(now).max(1))
            });
            tokio::select! {
                moved = durable.changed() => if moved.is_err() {
                    return;
                },
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    /// Which events earlier lives have told, from the base on.
    async fn recall(&mut self) {
        let (spool, from) = (Arc::clone(&self.spool), self.position);
        let search = tokio::task::spawn_blocking(move || {
            let mut told = Vec::new();
            for (record, _) in spool.events.records_from(from).flatten() {
                if record.kind == kind::EVENT
                    && kind_of(&record.payload) == Some(EventKind::Accepted)
                    && let Ok(event) = EventRecord::decode(&record.payload)
                    && let Some(notice_of) = event.fields.find(event_field::NOTICE_OF)
                {
                    let positions = notice_of
                        .chunks_exact(8)
                        .filter_map(|at| at.try_into().ok());
                    told.extend(positions.map(u64::from_le_bytes));
                }
            }
            told
        });
        match search.await {
            Ok(told) => self.waiting.were_told(told),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        self.waiting.were_told(self.told.take());
    }

    /// One piece of the log. Says whether there is no more for now.
    async fn step(&mut self) -> bool {
        let (spool, begin) = (Arc::clone(&self.spool), self.position);
        let mut waiting = std::mem::take(&mut self.waiting);
        // It may come from an archive: not on the reactor.
        let looked = tokio::task::spawn_blocking(move || {
            let piece = look(&spool, begin, &mut waiting);
            (waiting, piece)
        });
        let piece = match looked.await {
            Ok((waiting, piece)) => {
                self.waiting = waiting;
                piece
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.position = piece.end;
        self.at = piece.at.max(self.at);
        self.tell_lag();
        if piece.later {
            tokio::time::sleep(limits::READER_RETRY).await;
            return false;
        }
        piece.end >= self.spool.events.durable() || piece.end == begin
    }

    fn tell_lag(&self) {
        let lag = self.spool.events.durable().saturating_sub(self.position);
        super::tell_lag(NAME, lag, self.at, self.clock.unix_ms());
    }

    /// Posts what is to be told by now.
    async fn tell(&mut self) {
        let now = self.clock.unix_ms();
        // A base is due, or there is no room for more: what has gathered goes.
        let all = self.waiting.is_full() || self.is_base_due();
        for mut notice in self.waiting.ready(now, all) {
            for person in notice.people.iter_mut().filter(|p| p.reply.is_empty()) {
                if let Some(payload) = self.event_at(person.deferred).await
                    && let Ok(Some(event)) = Event::decode(&payload)
                {
                    person.met(&event);
                }
            }
            self.post(notice).await;
        }
        let delayed = self.waiting.delayed(now);
        if !delayed.is_empty() {
            for notice in self.delays(delayed).await {
                self.post(notice).await;
            }
        }
    }

    /// Their events, which may be gone.
    async fn delays(&self, delayed: Vec<Live>) -> Vec<Notice> {
        let mut notices: BTreeMap<MessageId, Notice> = BTreeMap::new();
        let mut full = Vec::new();
        for live in delayed {
            let Some(payload) = self.event_at(live.accepted).await else {
                continue;
            };
            let Ok(Some(accepted)) = Event::decode(&payload) else {
                continue;
            };
            let mut person = Person::of(live.accepted, &accepted, live.deferred);
            person.detail.clear();
            let until = (self.post).given_up_at(accepted.server_id, accepted.stream, accepted.at);
            person.retry_until = until;
            if let Some(payload) = self.event_at(live.deferred).await
                && let Ok(Some(deferral)) = Event::decode(&payload)
            {
                person.met(&deferral);
            } else {
                NOT_TRIED.clone_into(&mut person.detail);
            }
            let id = accepted.message_id;
            let notice = notices
                .entry(id)
                .or_insert_with(|| Notice::of(What::Delayed, &accepted));
            notice.people.push(person);
            if notice.people.len() >= limits::NOTICE_RECIPIENTS_MAX {
                full.extend(notices.remove(&id));
            }
        }
        full.extend(notices.into_values());
        full
    }

    async fn event_at(&self, position: u64) -> Option<bytes::Bytes> {
        if position == 0 {
            return None;
        }
        let record = self.spool.events.fetch(position).await.ok()?;
        (record.kind == kind::EVENT).then_some(record.payload)
    }

    /// Until it is done: the next ones wait.
    async fn post(&self, notice: Notice) {
        let what = notice.what.as_str();
        let about: Vec<u64> = notice.people.iter().map(|person| person.event).collect();
        let content = self.content(&notice).await;
        let letter = Letter {
            server: notice.server,
            to: notice.to,
            content,
            about,
        };
        loop {
            let result = match self.post.post(letter.clone()).await {
                Ok(()) => what,
                Err(NotPosted::Suppressed) => "suppressed",
                Err(NotPosted::Never(reason)) => {
                    tracing::warn!(message_id = %notice.message, reason, "nobody is told by mail what became of a message");
                    "refused"
                }
                Err(NotPosted::Now(reason)) => {
                    tracing::warn!(reason, "no notice can be sent now; it is tried again");
                    self.tell_lag();
                    tokio::time::sleep(limits::NOTICE_RETRY).await;
                    continue;
                }
            };
            metrics::NOTICES.add_to(result, 1);
            return;
        }
    }

    /// With what can still be read of the message.
    async fn content(&self, notice: &Notice) -> Vec<u8> {
        let payload = match notice.record_at {
            Some(at) => self.spool.mail.fetch(at).await.ok().map(|r| r.payload),
            None => None,
        };
        let record = payload.as_ref().and_then(|p| MessageRecord::decode(p).ok());
        // It may have moved, and another be there.
        let record = record.filter(|record| record.id == *notice.message.as_bytes());
        let Some(record) = record else {
            return compose(notice, &self.hostname, None);
        };
        let header_len = record.header_len as usize;
        let (beginning, whole) = match &record.content {
            Content::Inline(octets) => (bytes::Bytes::copy_from_slice(octets), true),
            Content::Records(parts) => {
                let first = parts.get(0).map_or(0, |part| part.position);
                let read = self.spool.mail.fetch(first).await;
                let octets = spool_format::layout::content::OCTETS;
                let part = read
                    .ok()
                    .filter(|r| r.kind == kind::CONTENT && r.payload.len() > octets);
                (
                    part.map_or_else(bytes::Bytes::new, |r| r.payload.slice(octets..)),
                    false,
                )
            }
        };
        let Some((header, body)) = beginning.split_at_checked(header_len) else {
            return compose(notice, &self.hostname, None);
        };
        let is_short = whole && beginning.len() <= limits::NOTICE_CONTENT_MAX;
        let returned = Returned {
            header,
            body: (is_short && notice.wants_all).then_some(body),
        };
        compose(notice, &self.hostname, Some(returned))
    }

    fn is_base_due(&self) -> bool {
        self.position.saturating_sub(self.based) >= limits::NOTICE_LOG
    }

    /// Writes a base when the log behind the last one has grown and nothing gathers.
    async fn keep_up(&mut self) {
        if !self.is_base_due() || !self.waiting.is_empty() {
            return;
        }
        let (position, now) = (self.position, self.clock.unix_ms());
        let (spool, waiting) = (Arc::clone(&self.spool), std::mem::take(&mut self.waiting));
        // A state of some megabytes: neither made nor written on the reactor.
        let written = tokio::task::spawn_blocking(move || {
            let stored = spool
                .readers()
                .store(NAME, position, &waiting.to_bytes(), now);
            (waiting, stored)
        });
        match written.await {
            Ok((waiting, stored)) => {
                self.waiting = waiting;
                match stored {
                    Ok(_) => {
                        self.based = position;
                        self.waiting.forget_told();
                    }
                    Err(error) => {
                        tracing::error!(%error, "the base of notices by mail cannot be written; it is tried again");
                    }
                }
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// A piece of the log, looked through.
struct Piece {
    end: u64,
    /// When its last event was written; 0: there was none.
    at: UnixMs,
    /// What follows cannot be read now.
    later: bool,
}

/// Reads on from `begin`.
fn look(spool: &Spool, begin: u64, waiting: &mut Waiting) -> Piece {
    let mut piece = Piece {
        end: begin,
        at: 0,
        later: false,
    };
    // All that is below will have been read, the log's own records too.
    let durable = spool.events.durable();
    for item in spool.events.records_from(begin) {
        match item {
            Ok((record, next)) => {
                piece.end = next;
                if record.kind == kind::EVENT {
                    piece.at = written_at(&record.payload).unwrap_or(piece.at);
                    take(record.position, &record.payload, waiting);
                }
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the event log cannot be read now; notices by mail wait");
                piece.later = true;
                return piece;
            }
            // The place is passed over when something behind it is read.
            Err(error) => {
                tracing::error!(%error, "part of the event log cannot be read: nobody is told by mail of an outcome in it");
                continue;
            }
        }
        if waiting.is_full() || piece.end - begin >= PIECE_BYTES {
            return piece;
        }
    }
    piece.end = piece.end.max(durable);
    piece
}

fn take(position: u64, payload: &[u8], waiting: &mut Waiting) {
    // Nearly all mail is of servers without notices: a look at the fields shows that.
    let matters = match kind_of(payload) {
        Some(EventKind::Rescheduled) => true,
        Some(kind) if kind.is_terminal() && waiting.live() > 0 => true,
        Some(
            EventKind::Accepted
            | EventKind::Deferred
            | EventKind::Delivered
            | EventKind::Bounced
            | EventKind::Expired
            | EventKind::BouncedLater,
        ) => {
            EventRecord::decode(payload).is_ok_and(|e| e.fields.find(event_field::DSN_TO).is_some())
        }
        _ => false,
    };
    if matters && let Ok(Some(event)) = Event::decode(payload) {
        waiting.take(position, &event);
    }
}

fn kind_of(payload: &[u8]) -> Option<EventKind> {
    let code = payload.get(KIND..KIND + 2)?.try_into().ok()?;
    EventKind::from_code(u16::from_le_bytes(code))
}

/// Of its base, and in metrics.
const NAME: &str = "notices";
const NOT_TRIED: &str = "It was not tried yet.";
/// Between two looks whether recovery is through.
const RECOVERY_LOOK: Duration = Duration::from_millis(50);
/// Looked at in one go.
const PIECE_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests;
