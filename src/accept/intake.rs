//! One message on its way in: content as it comes, then the record that makes it exist.
//!
//! Promises: dropped before [`Intake::finish`] has returned, the message does not exist, or nobody was told that it does; its
//! octets are counted against one budget, and what is long waits in the spool, not in memory.
//! Does not know: who may send, and where to (`policy.rs`, `stamp.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use spool_format::message::flags;
use spool_format::{
    Content, ContentPart, ContentRecord, Field, List, MessageRecord, Recipient, field_tag, kind,
    layout,
};

use super::policy::{self, Assignment};
use super::stamp::{self, Stamp};
use super::{Accepted, AcceptedRecipient, Context, Enqueued, Refusal, Shared};
use crate::account::model::TrackLinks;
use crate::clock::UnixMs;
use crate::event::Subject;
use crate::idempotency::{Claim, Taken};
use crate::limits;
use crate::mail::header::section_end;
use crate::mail::{DsnReturn, MessageId};
use crate::spool::{OnDurable, Spool, Ticket};

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
    pub(super) fn new(
        shared: Arc<Shared>,
        id: MessageId,
        accepted_at: UnixMs,
        context: Context,
    ) -> Self {
        Self {
            buffer: Buffer {
                octets: Vec::new(),
                charged: 0,
                shared: Arc::clone(&shared),
            },
            shared,
            id,
            accepted_at,
            context,
            header_end: None,
            eight_bit: false,
            spilled: None,
        }
    }

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
        let reservation = match &stamp.claim {
            None => None,
            Some(claim) => match self.shared.reserve(claim)? {
                Ok(reservation) => Some(reservation),
                Err(taken) => {
                    return Ok(Accepted {
                        taken,
                        _receipt: None,
                    });
                }
            },
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
            tag: stamp.tag.as_deref().map(Into::into),
            refused: assignment.refused.clone(),
            subject: Arc::new(subject),
        };
        let (id, accepted_at) = (self.id, self.accepted_at);
        let on_durable: OnDurable = Box::new(move |result| {
            if let Ok(receipt) = result {
                // Before its event, which the keys' reader relies on.
                if let Some(reservation) = reservation {
                    reservation.taken(id, accepted_at);
                }
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
            taken: Taken {
                id: self.id,
                at: self.accepted_at,
                said: None,
            },
            _receipt: Some(receipt),
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
        let claim = stamp.claim.as_ref().map(Claim::to_bytes);
        // What holds of it is settled now, whatever becomes of the server's settings.
        let attributes = &context.sender.server.attributes;
        let opens = stamp.tracking.opens;
        let opens = opens.or(attributes.track_opens.then_some(true));
        let opens = opens.map(|opens| [u8::from(opens)]);
        let given = context.given.as_ref();
        let notice_of = given.map(|given| given.notice_of.iter().flat_map(|at| at.to_le_bytes()));
        let notice_of: Vec<u8> = notice_of.into_iter().flatten().collect();
        let mut fields = message_fields(context, &client_ip, &imported, &times);
        let tracked = opens.as_ref();
        fields.extend(tracked.map(|opens| Field::new(field_tag::TRACK_OPENS, opens)));
        let claim = claim.as_deref();
        fields.extend(claim.map(|claim| Field::new(field_tag::IDEMPOTENCY_KEY, claim)));
        let bounce_type = stamp.bounce_type.as_deref();
        fields.extend(bounce_type.map(|word| Field::text(field_tag::BOUNCE_TYPE, word)));
        let of_server = Some(attributes.track_links).filter(|links| *links != TrackLinks::None);
        let links = stamp.tracking.links.or(of_server).map(TrackLinks::as_str);
        fields.extend(links.map(|links| Field::text(field_tag::TRACK_LINKS, links)));
        if stamp.notices {
            fields.push(Field::new(field_tag::NOTICES, &[1]));
        }
        if !notice_of.is_empty() {
            fields.push(Field::new(field_tag::NOTICE_OF, &notice_of));
        }
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
