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

use smallvec::SmallVec;
use spool_format::message::flags;
use spool_format::{
    Content, ContentPart, ContentRecord, Field, List, MessageRecord, Recipient, field_tag, kind,
    layout,
};
use tokio::sync::{mpsc, watch};

use crate::account::model::TrackLinks;
use crate::account::{Accounts, Sender};
use crate::clock::{Clock, UnixMs};
use crate::config::PoolId;
use crate::event::Subject;
use crate::limits;
use crate::mail::header::section_end;
use crate::mail::{
    Domain, DsnRecipient, DsnReturn, ForwardPath, Hold, Mailbox, MessageId, ReversePath,
};
use crate::spool::{AppendError, OnDurable, Receipt, Spool, Ticket};
use crate::suppression;

pub mod compose;
mod import;
mod policy;
mod stamp;
mod times;

pub use import::Import;
use policy::Assignment;
pub use policy::{DEFAULT_STREAM, FromRefused, Pools, inactive};
use stamp::Stamp;

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
    id: MessageId,
    _receipt: Receipt,
}

impl Accepted {
    pub fn id(&self) -> MessageId {
        self.id
    }
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
    /// A strict server's message that any other would take and bounce.
    #[error("{0}")]
    NotAllowed(String),
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

    /// Starts to take one message.
    pub fn begin(&self, context: Context) -> Result<Intake, Refusal> {
        self.ready()?;
        let accepted_at = self.shared.clock.unix_ms();
        let mut random = [0; 10];
        // A failing kernel generator is a broken machine: refuse rather than hand out guessable ids.
        getrandom::fill(&mut random).map_err(|_| Refusal::Busy)?;
        let (id, accepted_at) = match &context.import {
            None => (MessageId::new(accepted_at, &random), accepted_at),
            Some(import) => (
                import.id.unwrap_or(MessageId::new(accepted_at, &random)),
                import.accepted_at.unwrap_or(accepted_at).min(accepted_at),
            ),
        };
        Ok(Intake {
            shared: Arc::clone(&self.shared),
            id,
            accepted_at,
            context,
            buffer: Buffer {
                octets: Vec::new(),
                charged: 0,
                shared: Arc::clone(&self.shared),
            },
            header_end: None,
            eight_bit: false,
            spilled: None,
        })
    }
}

/// One message on its way in. Dropped before [`Intake::finish`] returns `Ok`, the message does not exist.
pub struct Intake {
    shared: Arc<Shared>,
    id: MessageId,
    accepted_at: UnixMs,
    context: Context,
    buffer: Buffer,
    header_end: Option<usize>,
    eight_bit: bool,
    spilled: Option<Spilled>,
}

/// What is left of a long message in memory.
struct Spilled {
    stamp: Stamp,
    assignment: Assignment,
    header_len: usize,
    parts: Vec<ContentPart>,
    /// Of the last of them: they become durable in order.
    last: Option<Ticket>,
    holds: Holds,
}

/// The claims on the segments of content records, given back when the message never comes to be.
struct Holds {
    spool: Arc<Spool>,
    recipients: u32,
    positions: Vec<u64>,
}

impl Drop for Holds {
    fn drop(&mut self) {
        for &position in &self.positions {
            self.spool.mail.release(position, self.recipients);
        }
    }
}

impl Intake {
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Takes the next octets of the content, already free of the protocol's transparency.
    ///
    /// # Cancel safety
    /// Not cancel safe: drop the intake afterwards.
    pub async fn push(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        self.eight_bit |= !chunk.is_ascii();
        let searched = self.buffer.octets.len();
        self.buffer.extend(chunk)?;
        if self.spilled.is_none() && self.header_end.is_none() {
            self.header_end = section_end(&self.buffer.octets, searched);
            if self.header_end.unwrap_or(self.buffer.octets.len()) > limits::HEADER_SECTION_MAX {
                // Without an empty line the section may still have ended at a line that is no field.
                let section = stamp::read_section(&self.buffer.octets)?;
                if section.end() > limits::HEADER_SECTION_MAX
                    || section.end() == self.buffer.octets.len()
                {
                    return Err(Refusal::HeaderTooLarge(limits::HEADER_SECTION_MAX));
                }
                self.header_end = Some(section.end());
            }
        }
        if self.buffer.octets.len() > layout::CONTENT_INLINE_MAX {
            self.spill().await?;
        }
        Ok(())
    }

    /// Makes the message durable and hands it to the scheduler.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the message accepted: whoever never hears so sends it again.
    pub async fn finish(mut self) -> Result<Accepted, Refusal> {
        // The place in the channel comes first, so that the committer never has to wait for the scheduler.
        let enqueue = self.shared.enqueue.clone();
        let place = enqueue
            .reserve_owned()
            .await
            .map_err(|_| Refusal::NotDelivering)?;
        if self.spilled.is_some() {
            self.spill().await?;
            self.write_parts(true).await?;
            // A batch that a power cut tears may keep any of its records: a message whose content is in the same one could be
            // there without it.
            if let Some(last) = self
                .spilled
                .as_mut()
                .and_then(|spilled| spilled.last.take())
            {
                last.await?;
            }
        }
        let spilled = self.spilled.take();
        let inline = match &spilled {
            None => Some(stamp::stamp(
                &self.buffer.octets,
                &self.context,
                &self.shared,
                self.id,
                self.accepted_at,
            )?),
            Some(_) => None,
        };
        let (stamp, assignment) = match (&inline, &spilled) {
            (Some((stamp, assignment)), _) => (stamp, assignment),
            (None, Some(spilled)) => (&spilled.stamp, &spilled.assignment),
            (None, None) => unreachable!("a message is inline or spilled"),
        };
        let pieces = match &spilled {
            None => stamp.pieces(&self.buffer.octets),
            Some(_) => Vec::new(),
        };
        let (content, header_len, content_len) = match &spilled {
            // The head states the length only; the pieces follow it as further parts of the payload.
            None => (
                Content::Inline(&[]),
                stamp.header_len(),
                pieces.iter().map(|p| p.len() as u64).sum(),
            ),
            Some(spilled) => {
                let content = Content::Records(List::new(&spilled.parts));
                (content, spilled.header_len, content.len())
            }
        };
        let (head, subject) = self.head(stamp, assignment, content, header_len, content_len)?;
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + pieces.len());
        parts.push(&head);
        parts.extend(&pieces);

        let mut message = Enqueued {
            position: 0,
            pool: assignment.pool,
            domains: self
                .context
                .recipients
                .iter()
                .map(|r| r.path.domain().clone())
                .collect(),
            content_len,
            refused: assignment.refused.clone(),
            subject: Arc::new(subject),
        };
        let on_durable: OnDurable = Box::new(move |result| {
            if let Ok(receipt) = result {
                message.position = receipt.position();
                place.send(message);
            }
        });
        let recipients = self.context.recipients.len() as u32;
        let log = &self.shared.spool.mail;
        let ticket = log
            .append_held(kind::MESSAGE, 0, &parts, recipients, Some(on_durable))
            .await?;
        // From here on the message may become durable whatever happens to this future, so its content keeps its claims;
        // when the commit fails the log takes nothing more, and its claims do not matter.
        if let Some(mut spilled) = spilled {
            spilled.holds.positions.clear();
        }
        let receipt = ticket.await?;
        Ok(Accepted {
            id: self.id,
            _receipt: receipt,
        })
    }

    /// Moves whole parts from the buffer to the spool; first brings the header section into its final form.
    async fn spill(&mut self) -> Result<(), Refusal> {
        if self.spilled.is_none() {
            let (stamp, assignment) = stamp::stamp(
                &self.buffer.octets,
                &self.context,
                &self.shared,
                self.id,
                self.accepted_at,
            )?;
            let stamped = stamp.pieces(&self.buffer.octets).concat();
            let header_len = stamp.header_len();
            self.buffer.replace(stamped)?;
            let holds = Holds {
                spool: Arc::clone(&self.shared.spool),
                recipients: self.context.recipients.len() as u32,
                positions: Vec::new(),
            };
            self.spilled = Some(Spilled {
                stamp,
                assignment,
                header_len,
                parts: Vec::new(),
                last: None,
                holds,
            });
        }
        self.write_parts(false).await
    }

    /// Writes whole parts as content records, and with `last` the rest too. Every part is long enough to be erased
    /// (FORMAT.md §5.6): so much is held back for the last one.
    async fn write_parts(&mut self, last: bool) -> Result<(), Refusal> {
        let Some(spilled) = &mut self.spilled else {
            return Ok(());
        };
        let log = &self.shared.spool.mail;
        let part_len = layout::CONTENT_PART_MAX.min(log.payload_max() - layout::content::OCTETS);
        let mut written = 0;
        while let Some(len) = next_part(self.buffer.octets.len() - written, part_len, last) {
            let part = &self.buffer.octets[written..written + len];
            let head = ContentRecord::head(*self.id.as_bytes(), spilled.parts.len() as u32);
            let ticket = log
                .append_held(
                    kind::CONTENT,
                    0,
                    &[&head, part],
                    spilled.holds.recipients,
                    None,
                )
                .await?;
            let position = ticket.position();
            spilled.last = Some(ticket);
            spilled.holds.positions.push(position);
            spilled.parts.push(ContentPart {
                position,
                len: part.len() as u32,
            });
            written += part.len();
        }
        self.buffer.consume(written);
        Ok(())
    }

    /// The message record's payload up to the inline content, and what events say of the message.
    fn head(
        &self,
        stamp: &Stamp,
        assignment: &Assignment,
        content: Content<'_>,
        header_len: usize,
        content_len: u64,
    ) -> Result<(Vec<u8>, Subject), Refusal> {
        let context = &self.context;
        let mut record_flags = 0;
        // By what is there, not by what was declared: many clients declare 8BITMIME and SMTPUTF8 for plain ASCII, and a host
        // without the extension can take that.
        if self.eight_bit {
            record_flags |= flags::EIGHT_BIT;
        }
        let paths = context.recipients.iter().map(|r| r.path.as_str());
        let ascii_paths = paths
            .chain([context.reverse_path.as_str()])
            .all(str::is_ascii);
        if context.smtputf8 && !(ascii_paths && stamp.ascii_header) {
            record_flags |= flags::SMTPUTF8;
        }
        let client_ip = context.client_ip.to_string();
        let imported = self.shared.clock.unix_ms().to_le_bytes();
        let times = [
            (field_tag::DEADLINE, stamp.times.deadline),
            (field_tag::SCHEDULE, stamp.times.release_at),
        ]
        .map(|(tag, at)| (tag, at.map(u64::to_le_bytes)));
        let opens = stamp.tracking.opens.map(|opens| [u8::from(opens)]);
        let mut fields = message_fields(context, &client_ip, &imported, &times);
        let tracked = opens.as_ref();
        fields.extend(tracked.map(|opens| Field::new(field_tag::TRACK_OPENS, opens)));
        let links = stamp.tracking.links.map(TrackLinks::as_str);
        fields.extend(links.map(|links| Field::text(field_tag::TRACK_LINKS, links)));
        let recipient_fields: Vec<_> = context
            .recipients
            .iter()
            .zip(0..)
            .map(|(r, number)| recipient_fields(r, assignment.refused.reason(number)))
            .collect();
        let recipients: Vec<_> = context
            .recipients
            .iter()
            .zip(&recipient_fields)
            .map(|(recipient, fields)| Recipient {
                forward_path: recipient.path.as_str(),
                domain: recipient.path.domain().as_str(),
                fields: List::new(fields),
            })
            .collect();
        let metadata: Vec<_> = stamp
            .metadata
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let record = MessageRecord {
            id: *self.id.as_bytes(),
            accepted_unix_ms: self.accepted_at,
            server_id: context.sender.server.id,
            server_name: &context.sender.server.name,
            stream_id: &assignment.stream,
            stream_kind: assignment.kind,
            pool: &assignment.pool_name,
            reverse_path: context.reverse_path.as_str(),
            recipients: List::new(&recipients),
            tag: stamp.tag.as_deref(),
            metadata: List::new(&metadata),
            flags: record_flags,
            header_len: header_len as u32,
            fields: List::new(&fields),
            content,
        };
        let mut head = Vec::with_capacity(record.head_len());
        // Every text is bounded before it comes here (limits.rs); a record that cannot be written is refused all the same.
        record
            .encode_head_for(content_len, &mut head)
            .map_err(|_| Refusal::TooLarge)?;
        Ok((head, Subject::of(&record, 0..recipients.len() as u16)))
    }
}

fn message_fields<'a>(
    context: &'a Context,
    client_ip: &'a str,
    imported: &'a [u8],
    times: &'a [(u16, Option<[u8; 8]>)],
) -> SmallVec<[Field<'a>; 6]> {
    let mut fields = smallvec::smallvec![
        Field::text(field_tag::CLIENT_IP, client_ip),
        Field::text(field_tag::HELO, &context.helo),
        Field::text(field_tag::PROTOCOL, context.protocol),
        Field::text(field_tag::CREDENTIAL, &context.sender.credential),
    ];
    if let Some(envelope_id) = &context.envelope_id {
        fields.push(Field::text(field_tag::DSN_ENVID, envelope_id));
    }
    match context.dsn_return {
        Some(DsnReturn::Full) => fields.push(Field::text(field_tag::DSN_RET, "FULL")),
        Some(DsnReturn::Headers) => fields.push(Field::text(field_tag::DSN_RET, "HDRS")),
        None => {}
    }
    if context.import.is_some() {
        fields.push(Field::new(field_tag::IMPORTED, imported));
    }
    for (tag, at) in times {
        fields.extend(at.as_ref().map(|at| Field::new(*tag, at)));
    }
    fields
}

fn recipient_fields<'a>(
    recipient: &'a AcceptedRecipient,
    refused: Option<&'a str>,
) -> SmallVec<[Field<'a>; 1]> {
    let mut fields = SmallVec::new();
    if let Some(notify) = recipient.dsn.notify {
        fields.push(Field::new(
            field_tag::DSN_NOTIFY,
            policy::notify_bytes(notify),
        ));
    }
    if let Some(original) = &recipient.dsn.original_recipient {
        fields.push(Field::text(field_tag::DSN_ORCPT, original));
    }
    if let Some(reason) = refused {
        fields.push(Field::text(field_tag::REFUSED, reason));
    }
    fields
}

/// How many of `rest` octets go into the next content record; with `last` they all go, by and by.
fn next_part(rest: usize, part_max: usize, last: bool) -> Option<usize> {
    match rest.checked_sub(PART_MIN) {
        Some(spare) if spare >= part_max => Some(part_max),
        _ if !last || rest == 0 => None,
        _ if rest <= part_max => Some(rest),
        spare => spare,
    }
}

/// Octets of the shortest content record that can be erased.
const PART_MIN: usize = layout::erased::FIXED;

/// An intake's octets, counted against [`limits::SUBMISSION_BUFFERS_MAX`].
struct Buffer {
    octets: Vec<u8>,
    charged: usize,
    shared: Arc<Shared>,
}

impl Buffer {
    fn extend(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        self.octets.extend_from_slice(chunk);
        self.charge()
    }

    fn replace(&mut self, octets: Vec<u8>) -> Result<(), Refusal> {
        self.octets = octets;
        self.charge()
    }

    fn consume(&mut self, count: usize) {
        self.octets.drain(..count);
    }

    fn charge(&mut self) -> Result<(), Refusal> {
        let held = self.octets.capacity();
        if held > self.charged {
            let more = held - self.charged;
            self.charged = held;
            // Relaxed: the sum is a bound on memory, nothing is published by it.
            if self.shared.buffered.fetch_add(more, Ordering::Relaxed) + more
                > limits::SUBMISSION_BUFFERS_MAX
            {
                return Err(Refusal::Busy);
            }
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.shared
            .buffered
            .fetch_sub(self.charged, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_long_content_is_long_enough_to_be_erased() {
        let part_max = 1000;
        for len in part_max + PART_MIN..4 * part_max {
            for chunk in [1, 39, 999, 5000] {
                let (mut parts, mut held, mut given) = (Vec::new(), 0, 0);
                while given < len || held > 0 {
                    held += chunk.min(len - given);
                    given = len.min(given + chunk);
                    while let Some(part) = next_part(held, part_max, given == len) {
                        parts.push(part);
                        held -= part;
                    }
                }
                assert_eq!(parts.iter().sum::<usize>(), len);
                let bounds = PART_MIN..=part_max;
                assert!(parts.iter().all(|part| bounds.contains(part)), "{parts:?}");
            }
        }
    }
}
