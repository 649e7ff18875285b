//! What the logs say at start: which recipients still live, and when each may be tried again.
//!
//! The mail log gives the recipients, the event log what became of them. Both are read once, in order; the result is what
//! the scheduler is filled with. Nothing is written here.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use spool_format::{Content, MessageRecord, StreamKind, field_tag, kind};

use crate::clock::UnixMs;
use crate::event::{Event, EventKind};
use crate::metrics;
use crate::spool::{Damage, Frame, LogKind, Replay};

/// One recipient as the logs leave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RecipientState {
    pub(super) domain: u32,
    pub(super) attempts: u16,
    pub(super) ended: bool,
    /// Its *accepted* event is in the log.
    pub(super) announced: bool,
    /// Taken only to be bounced; the reason is in the record.
    pub(super) refused: bool,
    pub(super) next_attempt: UnixMs,
}

/// A message with at least one live recipient.
#[derive(Debug)]
pub(super) struct LiveMessage {
    pub(super) position: u64,
    pub(super) accepted_at: UnixMs,
    pub(super) server_id: u32,
    /// In [`Recovered::pools`].
    pub(super) pool: u32,
    /// In order of RCPT.
    pub(super) recipients: SmallVec<[RecipientState; 1]>,
    /// Positions of its content records.
    pub(super) parts: Vec<u64>,
}

/// Gathers the state while the logs are replayed.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) messages: FxHashMap<[u8; 16], LiveMessage>,
    pub(super) domains: Interner,
    /// Pools of messages, each with the kind of stream that used it: few.
    pub(super) pools: Vec<(Box<str>, StreamKind)>,
    /// Places of the mail and of the event log that could not be read; each was reported when it was met.
    pub(super) damaged: [u64; 2],
}

/// Gives equal texts equal small numbers.
#[derive(Default)]
pub(super) struct Interner {
    numbers: FxHashMap<Box<str>, u32>,
    pub(super) texts: Vec<Box<str>>,
}

impl Interner {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }
}

impl Recovered {
    fn message(&mut self, position: u64, payload: &[u8]) {
        let record = match MessageRecord::decode(payload) {
            Ok(record) => record,
            Err(error) => {
                self.damaged[0] += 1;
                tracing::error!(position, %error, "message record cannot be read; it is kept and not delivered");
                return;
            }
        };
        let recipients = record.recipients.iter().map(|r| RecipientState {
            domain: self.domains.number(r.domain),
            refused: r.fields.find(field_tag::REFUSED).is_some(),
            ..Default::default()
        });
        let message = LiveMessage {
            position,
            accepted_at: record.accepted_unix_ms,
            server_id: record.server_id,
            recipients: recipients.collect(),
            pool: self.pool(record.pool, record.stream_kind),
            parts: match record.content {
                Content::Inline(_) => Vec::new(),
                Content::Records(parts) => parts.iter().map(|p| p.position).collect(),
            },
        };
        self.messages.insert(record.id, message);
    }

    fn pool(&mut self, name: &str, kind: StreamKind) -> u32 {
        let known = self
            .pools
            .iter()
            .position(|(n, k)| **n == *name && *k == kind);
        let index = known.unwrap_or_else(|| {
            self.pools.push((name.into(), kind));
            self.pools.len() - 1
        });
        index as u32
    }

    fn event(&mut self, position: u64, payload: &[u8]) {
        let event = match Event::decode(payload) {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                self.damaged[1] += 1;
                tracing::error!(position, %error, "event record cannot be read");
                return;
            }
        };
        let id = event.message_id.as_bytes();
        // The message may be gone: its segment was reclaimed after its last recipient ended.
        let Some(message) = self.messages.get_mut(id) else {
            return;
        };
        let Some(recipient) = message
            .recipients
            .get_mut(usize::from(event.recipient_number))
        else {
            return;
        };
        recipient.announced = true;
        match event.kind {
            EventKind::Deferred | EventKind::Ambiguous => {
                recipient.attempts = event.attempts;
                recipient.next_attempt = event.next_attempt.unwrap_or(0);
            }
            kind if kind.is_terminal() => recipient.ended = true,
            _ => {}
        }
        if recipient.ended && message.recipients.iter().all(|r| r.ended) {
            self.messages.remove(id);
        }
    }

    /// The live messages in order of acceptance.
    pub(super) fn into_sorted(self) -> (Vec<LiveMessage>, Interner) {
        let mut messages: Vec<_> = self.messages.into_values().collect();
        messages.sort_unstable_by_key(|message| message.position);
        (messages, self.domains)
    }
}

impl Replay for Recovered {
    fn record(&mut self, log: LogKind, position: u64, frame: &Frame<'_>) {
        match (log, frame.kind) {
            (LogKind::Mail, kind::MESSAGE) => self.message(position, frame.payload),
            (LogKind::Event, kind::EVENT) => self.event(position, frame.payload),
            _ => {}
        }
    }

    fn damage(&mut self, log: LogKind, damage: &Damage) {
        let Damage {
            segment,
            offset,
            len,
            reason,
            acknowledged,
        } = damage;
        if *acknowledged {
            self.damaged[usize::from(log == LogKind::Event)] += 1;
            metrics::SPOOL_DAMAGE.add_to(log_name(log), 1);
            tracing::error!(
                ?log,
                segment,
                offset,
                len,
                reason,
                "damaged spool: these bytes are skipped, the rest goes on; see `posthaste spool verify`"
            );
        } else {
            tracing::info!(
                ?log,
                segment,
                offset,
                len,
                reason,
                "a write that a crash cut short; it was never acknowledged"
            );
        }
    }

    fn progress(&mut self, log: LogKind, segments: usize, of: usize) {
        tracing::debug!(?log, segments, of, "recovery");
        super::systemd::status(&format!(
            "recovering the {} log: {segments} of {of} segments",
            log_name(log)
        ));
    }
}

fn log_name(log: LogKind) -> &'static str {
    match log {
        LogKind::Mail => "mail",
        LogKind::Event => "event",
    }
}
