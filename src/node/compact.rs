//! Compaction: live mail leaves segments that are mostly dead, so that a few deferred messages do not keep gigabytes.
//!
//! Promises: a hold on a record is given back only when its copy is durable and the scheduler points there; a recipient in
//! flight keeps the position that its agent was given; not more than [`limits::COMPACT_BYTES_PER_SECOND`] is copied, little
//! at a time, so that ingest never waits for more than that; without space nothing is copied. Does not know
//! outcomes: recipients that end while their message moves end where they were.
//!
//! How a message moves: its content records, then its message record, are appended again with the flag MOVED, held for
//! every live recipient; once they are durable, an [`Order`] has the scheduler change its positions; what moved gives its
//! holds on the old records back, what ended meanwhile those on the new ones. Recipients in flight are asked for again a
//! few times, then at each further round.
//!
//! A crash: recovery takes the copy with the highest position, for all recipients. Before the order it is as good as the
//! old one, after it nothing refers to the old one. Events name messages by id, so what ended stays ended. So a copy that was
//! appended is held until no recipient is left at the old place, however long that takes, and for the rest of the
//! process's life where it ends early: if the copy went first, a start would look for the message where it is no more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use spool_format::layout::{content_part, record_flag};
use spool_format::{Content, MessageRecord, kind};
use tokio::sync::{mpsc, oneshot};

use super::dispatch::Order;
use crate::clock::Clock;
use crate::limits;
use crate::metrics;
use crate::queue::{MessageAt, Moved, Scheduler};
use crate::spool::{AppendError, Log, Record, Sealed, Spool, Ticket};

/// When a segment is worth it.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// Since the segment was begun.
    pub(super) age_min: Duration,
    /// Live bytes of a segment that is mostly dead, in percent.
    pub(super) live_max_percent: u64,
    /// So many of them, unless space is short.
    pub(super) segments_min: usize,
    pub(super) pause: Duration,
    /// Between two looks at recipients in flight.
    pub(super) second_look: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            age_min: limits::COMPACT_AGE,
            live_max_percent: limits::COMPACT_LIVE_PERCENT,
            segments_min: limits::COMPACT_SEGMENTS_MIN,
            pause: limits::COMPACT_PAUSE,
            second_look: limits::COMPACT_SECOND_LOOK_PAUSE,
        }
    }
}

/// What a round of compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Compacted {
    pub(super) segments: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

pub(super) struct Compactor {
    spool: Arc<Spool>,
    clock: Clock,
    orders: mpsc::Sender<Order>,
    places: Arc<Places>,
    policy: Policy,
    /// Segments that were not mostly dead, with what held them then.
    judged: FxHashMap<u64, u64>,
    /// Copies whose message had recipients in flight for longer than a round.
    unfinished: Vec<Pending>,
    /// For recipients that ended while their message moved: held until their events are durable for sure.
    ended: Vec<Claim>,
}

/// Why a round ends early.
#[derive(Debug)]
enum Halt {
    /// No space for copies.
    Full,
    /// The node stops.
    Stopped,
}

/// A mostly dead segment and the messages that hold it.
struct Candidate {
    number: u64,
    messages: Vec<MessageAt>,
}

/// A copy that is not durable yet.
struct Copied {
    ticket: Ticket,
    copy: Pending,
}

/// A copy that some recipients have not moved to yet.
struct Pending {
    from: u64,
    to: u64,
    old_parts: Vec<u64>,
    /// On the copy, one for each of these recipients.
    claim: Claim,
}

impl Compactor {
    pub(super) fn new(
        spool: &Arc<Spool>,
        clock: Clock,
        orders: mpsc::Sender<Order>,
        places: &Arc<Places>,
    ) -> Self {
        Self {
            spool: Arc::clone(spool),
            clock,
            orders,
            places: Arc::clone(places),
            policy: Policy::default(),
            judged: FxHashMap::default(),
            unfinished: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Until the node stops. Each demand is for a round at once, whatever the policy says.
    pub(super) async fn run(mut self, mut demands: mpsc::Receiver<()>) {
        loop {
            let demanded = tokio::select! {
                () = tokio::time::sleep(self.policy.pause) => false,
                demand = demands.recv() => match demand {
                    Some(()) => true,
                    None => return,
                },
            };
            match self.round(demanded).await {
                Ok(compacted) if demanded => tracing::info!(?compacted, "compacted on demand"),
                Ok(_) => {}
                Err(Halt::Full) => tracing::warn!("no space to compact the spool"),
                Err(Halt::Stopped) => return,
            }
        }
    }

    /// Empties segments that are mostly dead; on demand those too that policy leaves alone.
    async fn round(&mut self, demanded: bool) -> Result<Compacted, Halt> {
        self.places.forget_gone(&self.spool.mail);
        self.give_back().await?;
        self.look_again().await?;
        let candidates = self.candidates(demanded).await?;
        let mut compacted = Compacted::default();
        let enough = candidates.len() >= self.policy.segments_min || self.spool.full();
        if candidates.is_empty() || !(enough || demanded) {
            return Ok(compacted);
        }
        for candidate in candidates {
            let (messages, bytes) = (compacted.messages, compacted.bytes);
            self.empty(&candidate, &mut compacted).await?;
            compacted.segments += 1;
            metrics::SPOOL_COMPACTED.add(1);
            tracing::info!(
                segment = candidate.number,
                messages = compacted.messages - messages,
                bytes = compacted.bytes - bytes,
                "live mail was copied out of a mostly dead segment"
            );
        }
        Ok(compacted)
    }

    async fn candidates(&mut self, demanded: bool) -> Result<Vec<Candidate>, Halt> {
        let oldest = self.policy.age_min.as_millis() as u64;
        let now = self.clock.unix_ms();
        let sealed = self.spool.mail.sealed();
        self.judged
            .retain(|number, _| sealed.iter().any(|segment| segment.number == *number));
        let mut found = Vec::new();
        for segment in sealed {
            let judged = self.judged.get(&segment.number);
            // It can have become mostly dead only if much of it has died since.
            let hopeless = judged.is_some_and(|&before| segment.live * 4 > before * 3);
            if !demanded && (segment.created + oldest > now || hopeless) {
                continue;
            }
            let messages = self.messages_of(segment.positions.clone()).await?;
            if !messages.iter().any(|m| m.recipients > m.in_flight) {
                continue;
            }
            let live = self.live_bytes(&segment, &messages).await?;
            if demanded || live * 100 <= segment.bytes * self.policy.live_max_percent {
                let number = segment.number;
                found.push(Candidate { number, messages });
            } else {
                self.judged.insert(segment.number, segment.live);
            }
        }
        Ok(found)
    }

    /// Live messages of which something lies in the range.
    async fn messages_of(&self, range: Range<u64>) -> Result<Vec<MessageAt>, Halt> {
        let with_parts = self.places.with_parts_in(&range);
        let messages = self.ask(move |scheduler| {
            let mut messages = scheduler.messages_in(range.clone());
            for position in with_parts {
                if !range.contains(&position) {
                    messages.extend(scheduler.messages_in(position..position + 1));
                }
            }
            messages
        });
        let mut messages = messages.await?;
        // One copy at a time: a start takes the newest for all recipients, so all must be on their way to it.
        messages.retain(|m| {
            let half_moved = |copy: &Pending| copy.from == m.position || copy.to == m.position;
            !self.unfinished.iter().any(half_moved)
        });
        Ok(messages)
    }

    /// Of these messages, in this segment.
    async fn live_bytes(&self, segment: &Sealed, messages: &[MessageAt]) -> Result<u64, Halt> {
        let range = segment.positions.clone();
        let records = messages.iter().map(|message| message.position);
        let mut positions: Vec<u64> = records.filter(|p| range.contains(p)).collect();
        for message in messages {
            let parts = self.places.parts_of(message.position);
            positions.extend(parts.into_iter().filter(|p| range.contains(p)));
        }
        let log = self.spool.mail.clone();
        let sum = move || {
            // What cannot be read is not copied.
            let lengths = positions.iter().map(|p| log.record_bytes(*p).unwrap_or(0));
            lengths.sum()
        };
        blocking(sum).await
    }

    /// Moves these messages. What is in flight then waits for the next round.
    async fn empty(&mut self, candidate: &Candidate, done: &mut Compacted) -> Result<(), Halt> {
        let (mut copies, mut gathered) = (Vec::new(), 0);
        let mut halted = Ok(());
        let places = Arc::clone(&self.places);
        let mut moving = places.moving.lock().await;
        for message in &candidate.messages {
            if message.recipients == message.in_flight {
                continue;
            }
            match self.copy(message).await {
                Ok(None) => {}
                Ok(Some((copy, bytes))) => {
                    copies.push(copy);
                    gathered += bytes;
                    done.messages += 1;
                    done.bytes += bytes;
                }
                Err(halt) => {
                    halted = Err(halt);
                    break;
                }
            }
            // Together, so that they share commits and pages.
            if gathered >= GATHERED_MAX {
                let bytes = std::mem::take(&mut gathered);
                self.settle(&mut copies).await?;
                drop(moving);
                pace(bytes).await;
                moving = places.moving.lock().await;
            }
        }
        // Also where no space is left for more: what was copied is finished.
        self.settle(&mut copies).await?;
        drop(moving);
        halted?;
        pace(gathered).await;
        for _ in 0..limits::COMPACT_SECOND_LOOKS {
            if self.unfinished.is_empty() {
                break;
            }
            tokio::time::sleep(self.policy.second_look).await;
            self.look_again().await?;
        }
        Ok(())
    }

    /// A pause ago these recipients had ended. Their owner has written the events since, or it would not answer; and what was
    /// written then is durable, or the log has failed and no segment goes any more.
    async fn give_back(&mut self) -> Result<(), Halt> {
        if !self.ended.is_empty() {
            self.ask(|_| ()).await?;
            self.ended
                .drain(..)
                .for_each(|mut claim| claim.shrink_to(0));
        }
        Ok(())
    }

    /// Moves recipients that were in flight when their message was copied, if they are not any more.
    async fn look_again(&mut self) -> Result<(), Halt> {
        for copy in std::mem::take(&mut self.unfinished) {
            let rest = self.switch(copy).await?;
            self.unfinished.extend(rest);
        }
        Ok(())
    }

    /// Once these copies are durable, has the scheduler point to them.
    async fn settle(&mut self, copies: &mut Vec<Copied>) -> Result<(), Halt> {
        for Copied { ticket, copy } in copies.drain(..) {
            // What is not durable now never will be.
            ticket.await.map_err(|_| Halt::Stopped)?;
            let rest = self.switch(copy).await?;
            self.unfinished.extend(rest);
        }
        Ok(())
    }

    /// Copies one message. `None`: it stays where it is.
    async fn copy(&self, message: &MessageAt) -> Result<Option<(Copied, u64)>, Halt> {
        let from = message.position;
        let Some(record) = self.read(from).await? else {
            return Ok(None);
        };
        let mut payload = record.payload.to_vec();
        let Ok(decoded) = MessageRecord::decode(&record.payload) else {
            return Ok(None);
        };
        let id = decoded.id;
        let parts: Vec<u64> = match decoded.content {
            Content::Inline(_) => Vec::new(),
            Content::Records(parts) => parts.iter().map(|part| part.position).collect(),
        };
        let mut claim = Claim {
            log: self.spool.mail.clone(),
            count: message.recipients,
            positions: Vec::new(),
            bound: false,
        };
        let mut bytes = payload.len() as u64;
        let table = payload.len() - parts.len() * content_part::SIZE;
        for (index, part) in parts.iter().enumerate() {
            let Some(record) = self.read(*part).await? else {
                return Ok(None);
            };
            bytes += record.payload.len() as u64;
            let appended = self.append(kind::CONTENT, &record.payload, &mut claim);
            let Some(ticket) = appended.await? else {
                return Ok(None);
            };
            let position = ticket.position();
            ticket.await.map_err(|_| Halt::Stopped)?;
            let entry = table + index * content_part::SIZE + content_part::POSITION;
            payload[entry..entry + size_of::<u64>()].copy_from_slice(&position.to_le_bytes());
        }
        let new_parts: Box<[u64]> = claim.positions.as_slice().into();
        let Some(ticket) = self.append(kind::MESSAGE, &payload, &mut claim).await? else {
            return Ok(None);
        };
        claim.bound = true;
        let to = ticket.position();
        self.places.note_parts(to, &new_parts);
        self.places.note_move(id, from, to);
        let copy = Pending {
            from,
            to,
            old_parts: parts,
            claim,
        };
        Ok(Some((Copied { ticket, copy }, bytes)))
    }

    /// A copy, held by the claim. `None`: segments are smaller than they were.
    async fn append(
        &self,
        record_kind: u8,
        payload: &[u8],
        claim: &mut Claim,
    ) -> Result<Option<Ticket>, Halt> {
        let (log, parts) = (&self.spool.mail, [payload]);
        let appended = log.append_held(record_kind, record_flag::MOVED, &parts, claim.count, None);
        let ticket = match appended.await {
            Ok(ticket) => ticket,
            Err(AppendError::TooLarge { .. }) => return Ok(None),
            Err(AppendError::Full) => return Err(Halt::Full),
            Err(AppendError::Stopped) => return Err(Halt::Stopped),
        };
        claim.positions.push(ticket.position());
        Ok(Some(ticket))
    }

    /// Moves whoever is not in flight, and gives back what nobody needs: on the old records for those who moved, in the next
    /// round on the copy for those who are no more.
    async fn switch(&mut self, mut copy: Pending) -> Result<Option<Pending>, Halt> {
        let (from, to) = (copy.from, copy.to);
        let Moved {
            recipients,
            in_flight,
        } = self.ask(move |s| s.moved(from, to)).await?;
        // The holds of those who moved are theirs from here on.
        copy.claim.count -= recipients;
        let log = &self.spool.mail;
        if recipients > 0 {
            log.release(from, recipients);
            // A part in a segment that was lost was never claimed.
            let held = copy.old_parts.iter().filter(|part| log.is_retained(**part));
            held.for_each(|&part| log.release(part, recipients));
        }
        self.ended.extend(copy.claim.surplus_over(in_flight));
        Ok((in_flight > 0).then_some(copy))
    }

    /// `None`: it cannot be read, so it stays where it is.
    async fn read(&self, position: u64) -> Result<Option<Record>, Halt> {
        let log = self.spool.mail.clone();
        let read = blocking(move || log.read_aside(position)).await?;
        if let Err(error) = &read {
            metrics::SPOOL_DAMAGE.add_to("mail", 1);
            tracing::error!(position, %error, "a live record cannot be copied; see `posthaste spool verify`");
        }
        Ok(read.ok())
    }

    /// Runs `question` on the scheduler, between two rounds of its owner.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Scheduler) -> T + Send + 'static,
    ) -> Result<T, Halt> {
        let (tell, answer) = oneshot::channel();
        let order: Order = Box::new(move |scheduler, _| {
            // A compactor that is being stopped does not listen any more.
            let _ = tell.send(question(scheduler));
        });
        self.orders.send(order).await.map_err(|_| Halt::Stopped)?;
        answer.await.map_err(|_| Halt::Stopped)
    }
}

/// After so many bytes were copied.
async fn pace(bytes: u64) {
    metrics::SPOOL_COMPACTED_BYTES.add(bytes);
    let seconds = bytes as f64 / limits::COMPACT_BYTES_PER_SECOND as f64;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Halt> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Halt::Stopped),
    }
}

/// Holds on copies that no recipient of the scheduler has taken over.
struct Claim {
    log: Log,
    count: u32,
    positions: Vec<u64>,
    /// A start would look for the message here: dropping gives nothing back.
    bound: bool,
}

impl Claim {
    /// What is held for more than `count` recipients.
    fn surplus_over(&mut self, count: u32) -> Option<Self> {
        let surplus = self.count.saturating_sub(count);
        self.count -= surplus;
        (surplus > 0).then(|| Self {
            log: self.log.clone(),
            count: surplus,
            positions: self.positions.clone(),
            bound: true,
        })
    }

    fn shrink_to(&mut self, count: u32) {
        let surplus = self.count.saturating_sub(count);
        if surplus > 0 {
            for &position in &self.positions {
                self.log.release(position, surplus);
            }
            self.count = count;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.bound {
            self.shrink_to(0);
        }
    }
}

/// Where messages are that are not only where they were accepted, or not in one record. Few: long ones and moved ones.
#[derive(Default)]
pub(super) struct Places {
    inner: Mutex<Inner>,
    moving: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Inner {
    /// Positions of content records, by that of the message record.
    parts: BTreeMap<u64, Box<[u64]>>,
    /// Positions at which recipients of a moved message may be.
    moved: FxHashMap<[u8; 16], SmallVec<[u64; 2]>>,
}

impl Places {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Plain data: what a panicking thread leaves behind is still true.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No message is being copied while this is held: what is found is all there is.
    pub(super) fn hold_still(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.moving.blocking_lock()
    }

    pub(super) fn note_parts(&self, position: u64, parts: &[u64]) {
        if !parts.is_empty() {
            self.inner().parts.insert(position, parts.into());
        }
    }

    pub(super) fn note_move(&self, id: [u8; 16], from: u64, to: u64) {
        let mut inner = self.inner();
        let places = inner.moved.entry(id).or_insert_with(|| smallvec![from]);
        places.push(to);
    }

    /// Where recipients of the message may be besides the place where it was accepted; the newest last.
    pub(super) fn of(&self, id: &[u8; 16]) -> SmallVec<[u64; 2]> {
        self.inner().moved.get(id).cloned().unwrap_or_default()
    }

    pub(super) fn parts_of(&self, position: u64) -> Box<[u64]> {
        self.inner()
            .parts
            .get(&position)
            .cloned()
            .unwrap_or_default()
    }

    /// Of a moved message.
    pub(super) fn id_at(&self, position: u64) -> Option<[u8; 16]> {
        let inner = self.inner();
        let mut moved = inner.moved.iter();
        let found = moved.find(|(_, places)| places.contains(&position))?;
        Some(*found.0)
    }

    fn with_parts_in(&self, range: &Range<u64>) -> Vec<u64> {
        let inner = self.inner();
        // The message record comes behind its parts.
        let later = inner.parts.range(range.start..);
        let touching = later.filter(|(_, parts)| parts.iter().any(|part| range.contains(part)));
        touching.map(|(position, _)| *position).collect()
    }

    fn forget_gone(&self, log: &Log) {
        let mut inner = self.inner();
        inner.parts.retain(|position, _| log.is_retained(*position));
        inner.moved.retain(|_, places| {
            places.retain(|position| log.is_retained(*position));
            !places.is_empty()
        });
    }
}

/// Copied before the scheduler is told, if it is more than one message.
const GATHERED_MAX: u64 = 256 << 10;

#[cfg(test)]
mod tests;
