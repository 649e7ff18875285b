//! The reader that suppresses recipients for what came back: hard bounces, complaints, and mailboxes that stay full.
//!
//! Promises: nobody is suppressed but for an event about himself whose reaction is `hard`, for a complaint, or for
//! [`limits::FULL_BOUNCES`] messages in a row over [`limits::FULL_TIME`] that met a full mailbox, whether they bounced for it or were
//! given up while it was full; each suppression names its event
//! and its rule. One event suppresses once: what was said of an address after it (lifted, suppressed otherwise) stands, over
//! crashes too. Deliberately does not know what a reply means (`classify` does), nor what a suppression is (`suppressions`).
//!
//! How: `full.rs` counts full mailboxes. It follows the event log from where its base stands. After a start it first looks at what suppressions were changed
//! behind that place, so that an old event does not undo a newer decision. Mail does not wait for it: between a bounce and its
//! suppression lie milliseconds, more while the log has no room.

mod full;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use spool_format::layout::event::KIND;
use spool_format::layout::event_field;
use spool_format::{EventRecord, kind};
use tokio::sync::watch;

use super::suppressions::{Address, Evidence, List, New, Place, Suppressions, settles};
use super::{NotRebuilt, Reader, Standing, State, written_at};
use crate::clock::{Clock, UnixMs};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::outcome::{CauseClass, Reach, Reaction};
use crate::spool::{Base, Log, Spool};
use crate::suppression::{Origin, Reason, Suppression, Tag, TagKey};
use full::Full;

pub struct Automatic {
    spool: Arc<Spool>,
    suppressions: Arc<Suppressions>,
    clock: Clock,
    progress: Progress,
    /// Where its base stands.
    based: u64,
    seen: watch::Sender<Seen>,
}

/// How far it is, for others.
#[derive(Clone, Copy)]
struct Seen {
    position: u64,
    at: UnixMs,
    based: u64,
    full: usize,
}

/// What can be asked of it while it works.
pub struct Watch {
    log: Log,
    seen: watch::Receiver<Seen>,
}

/// What was made of the log up to a position.
#[derive(Default)]
struct Progress {
    position: u64,
    /// When the last event before it was written; 0: none was read since the start.
    at: UnixMs,
    full: Full,
    /// Up to where what was said of an address is settled ([`settles`]), by what was in the log at the start.
    changed: HashMap<Tag, u64>,
}

/// Somebody to be suppressed.
struct Candidate {
    /// Of the event that says so.
    position: u64,
    tag: Tag,
    place: Place,
    new: New,
    evidence: Evidence,
}

/// A piece of the log, looked through.
struct Piece {
    found: Vec<Candidate>,
    end: u64,
    /// What follows cannot be read now.
    later: bool,
}

impl Automatic {
    /// Finds its place in the log. Blocks.
    pub fn open(
        spool: Arc<Spool>,
        suppressions: Arc<Suppressions>,
        clock: Clock,
    ) -> io::Result<Self> {
        let readers = spool.readers();
        let base = match readers.register(NAME) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = readers.put_aside(NAME)?;
                tracing::error!(%error, aside = %aside.display(), "the base of automatic suppressions is damaged: bounces from now on count");
                None
            }
            registered => registered?,
        };
        let base = match base {
            Some(base) => base,
            // What bounced before anybody was suppressed for it is the past.
            None => readers.store(NAME, spool.events.durable(), &[], clock.unix_ms())?,
        };
        let progress = Progress {
            position: base.position,
            at: 0,
            full: read_base(&base)?,
            changed: settled_behind(&spool, base.position, suppressions.set().key()),
        };
        let seen = Seen {
            position: base.position,
            at: 0,
            based: base.position,
            full: progress.full.len(),
        };
        Ok(Self {
            based: base.position,
            seen: watch::Sender::new(seen),
            spool,
            suppressions,
            clock,
            progress,
        })
    }

    pub fn watch(&self) -> Watch {
        Watch {
            log: self.spool.events.clone(),
            seen: self.seen.subscribe(),
        }
    }

    /// Follows the log until `stopping`.
    /// # Cancel safety
    /// What was suppressed stays; the rest is found again.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut durable = self.spool.events.watch();
        loop {
            let caught_up = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                caught_up = self.step() => caught_up,
            };
            self.tell();
            if !caught_up {
                continue;
            }
            self.keep_up().await;
            self.tell();
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                moved = durable.changed() => if moved.is_err() {
                    return;
                },
            }
        }
    }

    fn tell(&self) {
        let Progress { position, at, .. } = self.progress;
        let lag = self.spool.events.durable().saturating_sub(position);
        super::tell_lag(NAME, lag, at, self.clock.unix_ms());
        self.seen.send_replace(Seen {
            position,
            at,
            based: self.based,
            full: self.progress.full.len(),
        });
    }

    /// One piece of the log. Says whether there is no more for now.
    async fn step(&mut self) -> bool {
        let (spool, progress) = (Arc::clone(&self.spool), std::mem::take(&mut self.progress));
        let key = self.suppressions.set().key().clone();
        let begin = progress.position;
        // It may come from an archive: not on the reactor.
        let looked = tokio::task::spawn_blocking(move || {
            let mut progress = progress;
            let piece = progress.look(&spool, &key);
            (progress, piece)
        });
        let (progress, piece) = match looked.await {
            Ok(looked) => looked,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.progress = progress;
        for candidate in piece.found {
            self.suppress(candidate).await;
        }
        self.progress.position = piece.end;
        if piece.later {
            self.tell();
            tokio::time::sleep(limits::READER_RETRY).await;
            return false;
        }
        piece.end >= self.spool.events.durable() || piece.end == begin
    }

    /// Until it is done: the next ones wait.
    async fn suppress(&self, candidate: Candidate) {
        let Candidate {
            position,
            tag,
            place,
            new,
            evidence,
        } = candidate;
        loop {
            if self.suppressions.is_settled(&place.list, tag, position) {
                return;
            }
            let made =
                self.suppressions
                    .suppress(place.clone(), vec![new.clone()], evidence.clone());
            let Err(error) = made.await else {
                return;
            };
            tracing::warn!(%error, "a recipient cannot be suppressed; it is tried again, and mail to him goes on until then");
            self.tell();
            tokio::time::sleep(limits::AUTOMATIC_RETRY).await;
        }
    }

    /// Writes a base when the log behind the last one has grown.
    async fn keep_up(&mut self) {
        let behind = self.progress.position.saturating_sub(self.based);
        if behind >= limits::AUTOMATIC_LOG {
            self.write_base().await;
        }
    }

    async fn write_base(&mut self) {
        let position = self.progress.position;
        let now = self.clock.unix_ms();
        self.progress.full.forget(now);
        let (spool, state) = (Arc::clone(&self.spool), self.progress.full.to_bytes());
        let written =
            tokio::task::spawn_blocking(move || spool.readers().store(NAME, position, &state, now));
        match written.await {
            Ok(Ok(_)) => self.based = position,
            Ok(Err(error)) => {
                tracing::error!(%error, "the base of automatic suppressions cannot be written; it is tried again");
            }
            Err(error) => {
                tracing::error!(%error, "the base of automatic suppressions was not written")
            }
        }
    }
}

impl Reader for Watch {
    fn standing(&self) -> Standing {
        let seen = *self.seen.borrow();
        Standing {
            name: NAME,
            state: State::Following,
            position: seen.position,
            lag_bytes: self.log.durable().saturating_sub(seen.position),
            at: Some(seen.at).filter(|at| *at > 0),
            bytes: None,
            entries: Some(seen.full as u64),
            base: Some(seen.based),
            generation: 0,
            trouble: None,
        }
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        Err(NotRebuilt::Never(
            "what this reader made are suppressions, which are events of the log themselves; to judge old bounces again would undo what was decided since",
        ))
    }
}

impl Progress {
    /// Reads on from its position, and says how far; the position stays until the caller has done what follows.
    fn look(&mut self, spool: &Spool, key: &TagKey) -> Piece {
        let mut piece = Piece {
            found: Vec::new(),
            end: self.position,
            later: false,
        };
        // All that is below will have been read, the log's own records too.
        let durable = spool.events.durable();
        for item in spool.events.records_from(self.position) {
            match item {
                Ok((record, next)) => {
                    piece.end = next;
                    if record.kind == kind::EVENT {
                        self.at = written_at(&record.payload).unwrap_or(self.at);
                        piece
                            .found
                            .extend(self.take(record.position, &record.payload, key));
                    }
                }
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, "the event log cannot be read now; nobody is suppressed for what it says until it can");
                    piece.later = true;
                    return piece;
                }
                // The place is passed over when something behind it is read.
                Err(error) => {
                    tracing::error!(%error, "part of the event log cannot be read: a bounce in it suppresses nobody");
                    continue;
                }
            }
            if piece.found.len() >= PIECE_FOUND || piece.end - self.position >= PIECE_BYTES {
                return piece;
            }
        }
        piece.end = piece.end.max(durable);
        piece
    }

    fn take(&mut self, position: u64, payload: &[u8], key: &TagKey) -> Option<Candidate> {
        // Nearly all events are of other kinds: they cost a look at two octets.
        let code = payload.get(KIND..KIND + 2).and_then(|b| b.try_into().ok());
        let waited_for = self.full.is_waited_for();
        match EventKind::from_code(code.map_or(0, u16::from_le_bytes))? {
            EventKind::Bounced | EventKind::BouncedLater | EventKind::Complained => {}
            EventKind::Delivered if !self.full.is_empty() || waited_for => {}
            EventKind::Expired | EventKind::Cancelled if waited_for => {}
            EventKind::Deferred if waited_for || says_full(payload) => {}
            _ => return None,
        }
        let event = Event::decode(payload).ok()??;
        let (message, number) = (event.message_id, event.recipient_number);
        if event.kind == EventKind::Deferred {
            let is_full = judge(&event) == Judged::Full;
            // An attempt that reached nobody changes nothing of what was said last.
            if is_full || !event.reply.is_empty() {
                self.full.deferred(message, number, is_full);
            }
            return None;
        }
        let met_full = event.kind.is_terminal() && self.full.ended(message, number);
        let judged = match judge(&event) {
            Judged::Nothing if event.kind == EventKind::Expired && met_full => Judged::Full,
            judged => judged,
        };
        let list = List {
            server: event.server_id,
            stream: event.stream.into(),
        };
        let address = Address::parse(event.recipient)?;
        let tag = address.tag(key, &list);
        let (reason, why) = match judged {
            Judged::Delivered => {
                self.full.delivered(tag, event.message_id, event.at);
                return None;
            }
            Judged::Nothing => return None,
            Judged::Full => {
                let full = self.full.count(tag, event.message_id, event.at)?;
                let (count, days) = (full.count, full.days());
                let why = format!("{count} messages in {days} days met a full mailbox");
                (Reason::HardBounce, why)
            }
            Judged::Hard => {
                let why = match event.judged.rule {
                    "" => "it bounced for good".to_owned(),
                    rule => format!("it bounced for good, by rule {rule}"),
                };
                (Reason::HardBounce, why)
            }
            Judged::Complained => (Reason::SpamComplaint, "the recipient complained".to_owned()),
        };
        if self.changed.get(&tag).is_some_and(|&at| at >= position) {
            return None;
        }
        Some(Candidate {
            position,
            tag,
            place: Place {
                list,
                server: event.server.into(),
            },
            new: New {
                address,
                suppression: Suppression {
                    reason,
                    origin: Origin::Recipient,
                },
                since: None,
            },
            evidence: Evidence {
                recipient: Some((event.message_id, event.recipient_number)),
                reply: event.reply.to_owned(),
                detail: format!("Event {position}: {why}."),
                event: Some(position),
                rule: event.judged.rule.to_owned(),
            },
        })
    }
}

/// What an event says of its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Nothing,
    Delivered,
    Full,
    Hard,
    Complained,
}

/// Whether its recipient will be suppressed for this event alone.
pub(super) fn suppresses(event: &Event<'_>) -> bool {
    matches!(judge(event), Judged::Hard | Judged::Complained)
}

fn judge(event: &Event<'_>) -> Judged {
    let Some(cause) = CauseClass::parse(event.cause) else {
        return match event.kind {
            EventKind::Delivered => Judged::Delivered,
            _ => Judged::Nothing,
        };
    };
    let hard = event.judged.reaction == Reaction::Hard.as_str();
    match event.kind {
        EventKind::Delivered => Judged::Delivered,
        EventKind::Complained if cause == CauseClass::Complaint => Judged::Complained,
        EventKind::Deferred => match cause {
            CauseClass::RecipientFull if event.judged.scope == Reach::Recipient.as_str() => {
                Judged::Full
            }
            _ => Judged::Nothing,
        },
        EventKind::Bounced | EventKind::BouncedLater => match cause {
            // Said of somebody else in the transaction, or of a whole host, it says nothing of his mailbox.
            CauseClass::RecipientFull => match event.judged.scope == Reach::Recipient.as_str() {
                true => Judged::Full,
                false => Judged::Nothing,
            },
            cause if hard && cause.is_the_recipients() => Judged::Hard,
            // No host said it: the DNS did (RFC 7505).
            CauseClass::DomainNoMail if event.judged.rule.is_empty() => Judged::Hard,
            _ => Judged::Nothing,
        },
        _ => Judged::Nothing,
    }
}

/// Of a deferral, without decoding all of it: nearly all are for other reasons.
fn says_full(payload: &[u8]) -> bool {
    let cause = CauseClass::RecipientFull.as_str().as_bytes();
    EventRecord::decode(payload).is_ok_and(|e| e.fields.find(event_field::CAUSE) == Some(cause))
}

fn read_base(base: &Base) -> io::Result<Full> {
    let mut state = vec![0; usize::try_from(base.state_len()).map_err(io::Error::other)?];
    base.read_at(&mut state, 0)?;
    Ok(Full::from_bytes(&state))
}

fn settled_behind(spool: &Spool, position: u64, key: &TagKey) -> HashMap<Tag, u64> {
    let mut changed = HashMap::new();
    for (record, _) in spool.events.records_from(position).flatten() {
        let payload = &record.payload;
        let code = payload.get(KIND..KIND + 2).and_then(|b| b.try_into().ok());
        let of = EventKind::from_code(code.map_or(0, u16::from_le_bytes));
        if record.kind != kind::EVENT
            || !matches!(of, Some(EventKind::Suppressed | EventKind::Unsuppressed))
        {
            continue;
        }
        if let Ok(Some(event)) = Event::decode(payload)
            && let Some(address) = Address::parse(event.recipient)
        {
            let list = List {
                server: event.server_id,
                stream: event.stream.into(),
            };
            let settled: &mut u64 = changed.entry(address.tag(key, &list)).or_default();
            *settled = (*settled).max(settles(&event, record.position));
        }
    }
    changed
}

/// Of its base.
const NAME: &str = "automatic-suppressions";
/// Looked at in one go.
const PIECE_BYTES: u64 = 4 << 20;
const PIECE_FOUND: usize = 256;

#[cfg(test)]
mod tests;
