//! The one door into the spool, whatever the protocol.
//!
//! Promises: nothing is acknowledged before its record is durable ([`Accepted`] can be made only from a [`Receipt`]), what is
//! acknowledged reaches the scheduler (its place in the channel is taken before the record is written, and the committer
//! itself sends it on), and an intake that is dropped leaves nothing that a recovery would deliver.
//!
//! It deliberately does not know which protocol knocked: the caller brings a [`Context`] and the content as it arrives, and
//! turns a [`Refusal`] into its protocol's words.
//!
//! How: content is gathered up to 1 MiB and then becomes part of the message record, copied once into the spool's tail.
//! Longer content is written as content records while it arrives; the message record comes last and alone makes the message
//! exist (DESIGN §3.2).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use spool_format::StreamKind;
use tokio::sync::{mpsc, watch};

use crate::account::model::TrackLinks;
use crate::account::{Accounts, Sender};
use crate::clock::{Clock, UnixMs};
use crate::config::PoolId;
use crate::event::Subject;
use crate::idempotency::{Claim, Conflict, Keys, Reservation, Taken};
use crate::limits;
use crate::mail::header::section_end;
use crate::mail::{
    Domain, DsnRecipient, DsnReturn, ForwardPath, Hold, Mailbox, MessageId, ReversePath,
};
use crate::spool::{AppendError, Receipt, Spool};
use crate::suppression;

pub mod compose;
mod import;
mod intake;
mod policy;
mod stamp;
mod times;

pub use import::Import;
pub use intake::Intake;
use policy::Assignment;
pub use policy::{DEFAULT_STREAM, FromRefused, Pools, check_mailbox, inactive, sending_stream};
pub use times::send_at;

/// Takes messages. One for the node; cheap to clone.
#[derive(Clone)]
pub struct Accept {
    shared: Arc<Shared>,
}

struct Shared {
    spool: Arc<Spool>,
    failed: watch::Receiver<Option<String>>,
    clock: Clock,
    hostname: String,
    accounts: Arc<Accounts>,
    suppressions: Arc<suppression::Set>,
    keys: Arc<Keys>,
    pools: Pools,
    enqueue: mpsc::Sender<Enqueued>,
    /// Octets in all intakes' buffers.
    buffered: AtomicUsize,
    /// Live recipients, told by the owner of the scheduler.
    queued: Arc<AtomicUsize>,
}

/// What is known of a message before its content.
#[derive(Debug)]
pub struct Context {
    pub sender: Sender,
    pub client_ip: IpAddr,
    /// What the client calls itself.
    pub helo: String,
    /// Its name as a trusted proxy has found it; we look none up.
    pub client_name: Option<String>,
    /// TLS version and cipher suite.
    pub tls: Option<String>,
    /// The protocol name for `Received` (RFC 3848, RFC 6531 §4.3).
    pub protocol: &'static str,
    pub reverse_path: ReversePath,
    pub recipients: Vec<AcceptedRecipient>,
    pub smtputf8: bool,
    /// RFC 3461 §4.4, in xtext as given.
    pub envelope_id: Option<String>,
    pub dsn_return: Option<DsnReturn>,
    /// RFC 4865.
    pub hold: Option<Hold>,
    /// RFC 2852, mode R.
    pub deliver_by: Option<Duration>,
    /// Another node has accepted it before.
    pub import: Option<Import>,
    /// Of a protocol that says it beside the content.
    pub given: Option<Given>,
}

/// What a protocol says of a message beside its envelope and content. Where it says nothing, and over SMTP, the `X-PM-*` fields
/// of the header section count. Such a client hears at once what is wrong, so nothing is taken only to be bounced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub stream: Option<String>,
    pub tag: Option<String>,
    pub metadata: Vec<(String, String)>,
    pub tracking: Tracking,
    pub claim: Option<Claim>,
    /// Of the node's own notices: positions of the events that they tell of.
    pub notice_of: Vec<u64>,
}

/// What a message itself says of tracking; the server's setting counts where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    pub opens: Option<bool>,
    pub links: Option<TrackLinks>,
}

/// One RCPT.
#[derive(Clone, Debug)]
pub struct AcceptedRecipient {
    pub path: ForwardPath,
    pub dsn: DsnRecipient,
}

/// A durable message on its way to the scheduler.
#[derive(Debug)]
pub struct Enqueued {
    /// Of the message record.
    pub position: u64,
    pub pool: PoolId,
    /// The recipients' domains, in order of RCPT.
    pub domains: Vec<Domain>,
    /// Octets.
    pub content_len: u64,
    pub tag: Option<Box<str>>,
    /// Taken only to be bounced, and why; the record says it too.
    pub refused: Refused,
    /// All recipients are in it.
    pub subject: Arc<Subject>,
}

/// Whom of a message's recipients the node bounces as soon as it has taken the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Refused {
    #[default]
    Nobody,
    /// All of them, for this reason.
    All(String),
    /// Some, or all, each for a reason of its own: their numbers in order of RCPT.
    Some(Vec<(u16, String)>),
}

impl Refused {
    /// Why this recipient is.
    pub fn reason(&self, number: u16) -> Option<&str> {
        match self {
            Self::Nobody => None,
            Self::All(reason) => Some(reason),
            Self::Some(some) => {
                let place = some.binary_search_by_key(&number, |(number, _)| *number);
                place.ok().map(|place| some[place].1.as_str())
            }
        }
    }
}

/// Proof that a message is durable: the only value from which a positive reply may be made.
#[derive(Debug)]
pub struct Accepted {
    taken: Taken,
    /// `None`: it was before, under the same idempotency key.
    _receipt: Option<Receipt>,
}

impl Accepted {
    pub fn id(&self) -> MessageId {
        self.taken.id
    }

    /// The message, as it was taken the first time.
    pub fn taken(&self) -> &Taken {
        &self.taken
    }
}

/// What a message would be stored as, and where it would go: see [`Accept::rehearse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    pub id: MessageId,
    pub at: UnixMs,
    pub content: Vec<u8>,
    pub stream: Arc<str>,
    pub stream_kind: StreamKind,
}

/// Why a message is not taken. Nothing of it will be delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the disk is nearly full")]
    DiskFull,
    #[error("the spool has failed and takes nothing more")]
    SpoolFailed,
    #[error("the scheduler has ended, so nothing would be delivered")]
    NotDelivering,
    #[error("the queue holds its maximum of recipients")]
    QueueFull,
    #[error("too many messages are being received at once")]
    Busy,
    #[error("the message is too large for the spool's segments")]
    TooLarge,
    #[error("the header section is larger than {0} octets")]
    HeaderTooLarge(usize),
    #[error("the header section has more than {0} fields")]
    TooManyFields(usize),
    #[error("the header field {0} occurs more than once")]
    RepeatedField(&'static str),
    #[error("the header field {field} cannot be kept: {reason}")]
    BadField { field: &'static str, reason: String },
    #[error("the message has passed {0} hosts: mail loop")]
    Loop(usize),
    #[error("message stream '{0}' does not exist on this server")]
    UnknownStream(String),
    #[error("message stream '{0}' does not send")]
    NotSending(String),
    #[error("message stream '{0}' has no egress pool")]
    NoPool(String),
    #[error(transparent)]
    Key(#[from] Conflict),
    #[error("the node has just started and does not know yet which idempotency keys were used")]
    Recovering,
    /// A strict server's message that any other would take and bounce.
    #[error("{0}")]
    NotAllowed(String),
}

impl Refusal {
    /// The same may be taken later.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::DiskFull
                | Self::SpoolFailed
                | Self::NotDelivering
                | Self::QueueFull
                | Self::Busy
                | Self::Recovering
        )
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full => Self::DiskFull,
            AppendError::Stopped => Self::SpoolFailed,
            AppendError::TooLarge { .. } => Self::TooLarge,
        }
    }
}

/// What acceptance works with.
pub struct Parts {
    pub spool: Arc<Spool>,
    pub clock: Clock,
    pub hostname: String,
    pub accounts: Arc<Accounts>,
    pub suppressions: Arc<suppression::Set>,
    pub keys: Arc<Keys>,
    pub pools: Pools,
    pub enqueue: mpsc::Sender<Enqueued>,
    /// Kept by the owner of the scheduler: recipients that are live.
    pub queued: Arc<AtomicUsize>,
}

impl Accept {
    pub fn new(parts: Parts) -> Self {
        let failed = parts.spool.failed();
        Self {
            shared: Arc::new(Shared {
                spool: parts.spool,
                failed,
                clock: parts.clock,
                hostname: parts.hostname,
                accounts: parts.accounts,
                suppressions: parts.suppressions,
                keys: parts.keys,
                pools: parts.pools,
                enqueue: parts.enqueue,
                buffered: AtomicUsize::new(0),
                queued: parts.queued,
            }),
        }
    }

    /// Which of these are suppressed in the stream, in their order: for a protocol that tells the client before the message
    /// is taken. What is not left out then is taken, and bounced.
    pub fn suppressed<'a>(
        &self,
        server: u32,
        stream: &str,
        recipients: impl IntoIterator<Item = &'a Mailbox>,
    ) -> Vec<bool> {
        let set = &self.shared.suppressions;
        let recipients = recipients.into_iter();
        recipients
            .map(|recipient| set.of(server, stream, recipient).is_some())
            .collect()
    }

    /// What became of an idempotency key so far; `None`: nothing. [`Intake::finish`] asks again.
    pub fn find(&self, claim: &Claim) -> Option<Result<Taken, Refusal>> {
        let now = self.shared.clock.unix_ms();
        let found = self.shared.keys.find(claim, now)?;
        Some(found.map_err(Refusal::from))
    }

    /// Whether a message would be taken now; the same checks run again in [`Accept::begin`].
    pub fn ready(&self) -> Result<(), Refusal> {
        let shared = &self.shared;
        if shared.failed.borrow().is_some() {
            return Err(Refusal::SpoolFailed);
        }
        if shared.enqueue.is_closed() {
            return Err(Refusal::NotDelivering);
        }
        if shared.spool.full() {
            return Err(Refusal::DiskFull);
        }
        if shared.queued.load(Ordering::Relaxed) >= limits::QUEUE_RECIPIENTS_MAX {
            return Err(Refusal::QueueFull);
        }
        Ok(())
    }

    /// Memory that holds content of messages in progress.
    pub fn buffered_bytes(&self) -> usize {
        self.shared.buffered.load(Ordering::Relaxed)
    }

    /// What a message would become, without taking it: nothing is written and no key is used up. Its id is nobody's.
    pub fn rehearse(&self, context: &Context, content: &[u8]) -> Result<Rehearsal, Refusal> {
        let (id, at) = self.new_id()?;
        let header_len = section_end(content, 0).unwrap_or(content.len());
        if header_len > limits::HEADER_SECTION_MAX {
            return Err(Refusal::HeaderTooLarge(limits::HEADER_SECTION_MAX));
        }
        let (stamp, assignment) = stamp::stamp(content, context, &self.shared, id, at)?;
        Ok(Rehearsal {
            id,
            at,
            content: stamp.pieces(content).concat(),
            stream: assignment.stream,
            stream_kind: assignment.kind,
        })
    }

    /// Starts to take one message.
    pub fn begin(&self, context: Context) -> Result<Intake, Refusal> {
        self.ready()?;
        let (new_id, now) = self.new_id()?;
        let (id, accepted_at) = match &context.import {
            None => (new_id, now),
            Some(import) => (
                import.id.unwrap_or(new_id),
                import.accepted_at.unwrap_or(now).min(now),
            ),
        };
        let shared = Arc::clone(&self.shared);
        Ok(Intake::new(shared, id, accepted_at, context))
    }

    fn new_id(&self) -> Result<(MessageId, UnixMs), Refusal> {
        let now = self.shared.clock.unix_ms();
        let mut random = [0; 10];
        // A failing kernel generator is a broken machine: refuse rather than hand out guessable ids.
        getrandom::fill(&mut random).map_err(|_| Refusal::Busy)?;
        Ok((MessageId::new(now, &random), now))
    }
}

impl Shared {
    /// Holds the claim's key, or tells which message has it.
    fn reserve(&self, claim: &Claim) -> Result<Result<Reservation, Taken>, Refusal> {
        // Messages that a crash left without their events are told by recovery.
        if !self.keys.is_complete() {
            return Err(Refusal::Recovering);
        }
        match self.keys.reserve(claim, self.clock.unix_ms()) {
            Ok(reservation) => Ok(Ok(reservation)),
            Err(Ok(taken)) => Ok(Err(taken)),
            Err(Err(conflict)) => Err(conflict.into()),
        }
    }
}
