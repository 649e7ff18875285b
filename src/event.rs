//! The facts of the event log, typed: one [`Event`] is one record of kind `EVENT` (FORMAT.md).
//!
//! Append-only vocabulary: kinds and fields are added, never changed. Kinds that this version does not know are skipped by
//! [`Event::decode`], so that an older reader can follow a newer log.

use spool_format::event::{event_field, event_kind};
use spool_format::field_tag;
use spool_format::{
    Content, EventRecord, Field, List, MessageRecord, RecordError, StreamKind, layout,
};

use smallvec::SmallVec;

use crate::clock::UnixMs;
use crate::mail::MessageId;
use crate::outcome::Ruling;

mod dsn;

pub use dsn::{Dsn, Notices};

macro_rules! kinds {
    ($($variant:ident $code:ident $text:literal,)*) => {
        /// What happened to a recipient, to a source, or what an operator did with a selection of mail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EventKind { $($variant,)* }

        impl EventKind {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub fn code(self) -> u16 {
                match self { $(Self::$variant => event_kind::$code,)* }
            }

            pub fn from_code(code: u16) -> Option<Self> {
                match code { $(event_kind::$code => Some(Self::$variant),)* _ => None }
            }

            /// As `events tail` shows it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

kinds! {
    Accepted ACCEPTED "accepted",
    Deferred DEFERRED "deferred",
    Ambiguous AMBIGUOUS "ambiguous",
    Delivered DELIVERED "delivered",
    Bounced BOUNCED "bounced",
    Expired EXPIRED "expired",
    Cancelled CANCELLED "cancelled",
    Suppressed SUPPRESSED "suppressed",
    Unsuppressed UNSUPPRESSED "unsuppressed",
    BouncedLater BOUNCED_LATER "bounced_later",
    Complained COMPLAINED "complained",
    Opened OPENED "opened",
    Clicked CLICKED "clicked",
    SourceStopped SOURCE_STOPPED "source_stopped",
    SourceResumed SOURCE_RESUMED "source_resumed",
    Suspended SUSPENDED "suspended",
    Rerouted REROUTED "rerouted",
    Resumed RESUMED "resumed",
    Retried RETRIED "retried",
    Rescheduled RESCHEDULED "rescheduled",
    DkimActivated DKIM_ACTIVATED "dkim_activated",
    DkimPaused DKIM_PAUSED "dkim_paused",
    DkimResumed DKIM_RESUMED "dkim_resumed",
    DomainChanged DOMAIN_CHANGED "domain_changed",
    SourceChanged SOURCE_CHANGED "source_changed",
    PeopleMail PEOPLE_MAIL "people_mail",
}

impl EventKind {
    /// Exactly one event of these kinds ends a recipient's life (DESIGN §1.2).
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Delivered | Self::Bounced | Self::Expired | Self::Cancelled
        )
    }
}

/// One fact about one recipient, or about a source: then the message id is all zeros. Texts are empty where nothing applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub kind: EventKind,
    pub at: UnixMs,
    pub message_id: MessageId,
    /// In order of RCPT.
    pub recipient_number: u16,
    pub recipient: &'a str,
    pub server_id: u32,
    pub server: &'a str,
    pub stream: &'a str,
    /// The egress source's name.
    pub source: &'a str,
    /// `name [address]:port`.
    pub remote_host: &'a str,
    /// The remote host's words: code, status and text, lines separated by LF.
    pub reply: &'a str,
    /// [`crate::outcome::CauseClass`] as text.
    pub cause: &'a str,
    /// A sentence for people.
    pub detail: &'a str,
    /// What was concluded from the reply.
    pub judged: Judged<'a>,
    /// Attempts so far, this one included.
    pub attempts: u16,
    /// For a deferral: when the recipient is ready again.
    pub next_attempt: Option<UnixMs>,
    /// Of an acceptance, of what ends a recipient and of what came later: where the message record lay then; of what came by mail,
    /// where it was written.
    pub mail_position: Option<u64>,
    /// Of a suppression, and of one that was lifted: [`crate::suppression::Origin`] as text; `cause` then holds its reason.
    pub origin: &'a str,
    /// Of a suppression that was made elsewhere: when.
    pub since: Option<UnixMs>,
    /// Of the first recipient's acceptance: what the message claims ([`crate::idempotency::Claim`]).
    pub idempotency: &'a [u8],
    /// Of an attempt: where bounces were to go, where that is not what was submitted.
    pub reverse_path: &'a str,
    /// The message's, of all that is about a message but deferrals.
    pub tag: &'a str,
    /// Of a report that came by mail: its beginning, as it came.
    pub notice: &'a [u8],
    /// Of the further events of such a report: the position of the one that has it.
    pub notice_at: Option<u64>,
    /// If it may have to be told by mail.
    pub dsn: Dsn<'a>,
    /// Of the first recipient's acceptance: positions of the events that the message tells of, eight octets each.
    pub notice_of: &'a [u8],
}

/// A fact about a DKIM key, of no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent<'a> {
    pub kind: EventKind,
    pub at: UnixMs,
    pub domain: &'a str,
    pub selector: &'a str,
    /// A sentence for people.
    pub detail: &'a str,
}

impl KeyEvent<'_> {
    /// Appends the payload of the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let fields = [
            Field::text(event_field::DOMAIN, self.domain),
            Field::text(event_field::SELECTOR, self.selector),
            Field::text(event_field::DETAIL, self.detail),
        ];
        encode_of_no_message(self.kind, self.at, &fields, out);
    }
}

/// How a reply was judged ([`crate::outcome::Ruling`]), as text; empty where none was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged<'a> {
    pub stage: &'a str,
    pub scope: &'a str,
    pub reaction: &'a str,
    pub rule: &'a str,
    /// Of 100.
    pub confidence: u8,
    /// Of a suppression: the event that it rests on.
    pub evidence: Option<u64>,
}

impl<'a> Judged<'a> {
    pub fn of(ruling: &'a Ruling) -> Self {
        Self {
            stage: ruling.stage,
            scope: ruling.reach.as_str(),
            reaction: ruling.reaction.as_str(),
            rule: &ruling.rule,
            confidence: ruling.confidence,
            evidence: None,
        }
    }
}

/// A check found something else than the one before; of no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckEvent<'a> {
    pub kind: EventKind,
    pub at: UnixMs,
    /// Empty: it is about a source.
    pub domain: &'a str,
    pub source: &'a str,
    /// A sentence for people.
    pub detail: &'a str,
}

impl CheckEvent<'_> {
    /// Appends the payload of the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let fields = [
            Field::text(event_field::DOMAIN, self.domain),
            Field::text(event_field::SOURCE, self.source),
            Field::text(event_field::DETAIL, self.detail),
        ];
        encode_of_no_message(self.kind, self.at, &fields, out);
    }
}

/// Without the fields that are empty; long enough to be erased.
fn encode_of_no_message(kind: EventKind, at: UnixMs, fields: &[Field<'_>], out: &mut Vec<u8>) {
    let given = fields.iter().filter(|field| !field.bytes.is_empty());
    let mut given: SmallVec<[Field<'_>; 4]> = given.cloned().collect();
    let lens = given.iter().map(|f| layout::field::BYTES + f.bytes.len());
    let missing = PAYLOAD_MIN.saturating_sub(layout::event::FIELDS + lens.sum::<usize>());
    if missing > 0 {
        let bytes = &PADDING[..missing.saturating_sub(layout::field::BYTES)];
        given.push(Field::new(event_field::PADDING, bytes));
    }
    let record = EventRecord {
        kind: kind.code(),
        at_unix_ms: at,
        message_id: [0; 16],
        recipient_number: 0,
        fields: List::new(&given),
    };
    // Names and sentences are far below what the format's lengths hold.
    record.encode(out).expect("an event fits its record");
}

/// What events say about a message, in two small allocations: copied while the record is at hand, so that writing an event
/// never reads the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub id: MessageId,
    pub accepted_at: UnixMs,
    pub server_id: u32,
    pub stream_kind: StreamKind,
    /// Taken over from another node.
    pub imported: bool,
    pub deadline: Option<UnixMs>,
    /// Scheduled.
    pub release_at: Option<UnixMs>,
    /// What it claims for its idempotency key; empty: nothing.
    pub idempotency: Box<[u8]>,
    /// What recipients at test addresses shall become.
    pub bounce_type: Option<Box<str>>,
    /// Where bounces are to go, where that is not what was submitted; else empty.
    pub reverse_path: Box<str>,
    /// What becomes of it is told by mail.
    pub notices: Option<Box<Notices>>,
    /// Positions of the events that it tells of itself, eight octets each.
    pub notice_of: Box<[u8]>,
    /// Positions of its content records.
    pub parts: Box<[u64]>,
    /// Server, stream, tag, then forward-paths.
    texts: Box<str>,
    server_end: u32,
    stream_end: u32,
    tag_end: u32,
    /// Numbers of recipients, each with the end of its forward-path in `texts`.
    recipients: SmallVec<[(u16, u32); 2]>,
}

impl Subject {
    /// Of those recipients of the record that `wanted` names; numbers that it does not have are left out.
    pub fn of(record: &MessageRecord<'_>, wanted: impl Iterator<Item = u16> + Clone) -> Self {
        let parts = match record.content {
            Content::Inline(_) => Box::default(),
            Content::Records(parts) => parts.iter().map(|part| part.position).collect(),
        };
        let paths = wanted.clone().filter_map(|number| {
            let recipient = record.recipients.get(usize::from(number))?;
            Some((number, recipient.forward_path))
        });
        let mut subject = Self {
            id: MessageId::from_bytes(record.id),
            accepted_at: record.accepted_unix_ms,
            server_id: record.server_id,
            stream_kind: record.stream_kind,
            imported: record.fields.find(field_tag::IMPORTED).is_some(),
            deadline: record.fields.find_number(field_tag::DEADLINE),
            release_at: record.fields.find_number(field_tag::SCHEDULE),
            idempotency: record
                .fields
                .find(field_tag::IDEMPOTENCY_KEY)
                .map(Into::into)
                .unwrap_or_default(),
            bounce_type: record
                .fields
                .find_text(field_tag::BOUNCE_TYPE)
                .map(Into::into),
            reverse_path: Box::default(),
            notices: Notices::of(record, wanted),
            notice_of: record
                .fields
                .find(field_tag::NOTICE_OF)
                .map(Into::into)
                .unwrap_or_default(),
            parts,
            texts: Box::default(),
            server_end: 0,
            stream_end: 0,
            tag_end: 0,
            recipients: SmallVec::new(),
        };
        let tag = record.tag.unwrap_or_default();
        subject.set_texts([record.server_name, record.stream_id, tag], paths);
        subject
    }

    /// As far as the message's *accepted* events say it, one per recipient: for a message that cannot be read. `None`: there
    /// are none.
    pub fn of_events(events: &[Event<'_>], parts: Box<[u64]>) -> Option<Self> {
        let first = events.first()?;
        let paths = events.iter().map(|e| (e.recipient_number, e.recipient));
        let mut subject = Self {
            id: first.message_id,
            accepted_at: first.message_id.unix_ms(),
            server_id: first.server_id,
            // No event says it; only deliveries are counted by it, and this message is not delivered.
            stream_kind: StreamKind::Transactional,
            imported: false,
            deadline: None,
            // An acceptance is deferred for nothing else.
            release_at: first.next_attempt,
            idempotency: Box::default(),
            bounce_type: None,
            reverse_path: Box::default(),
            notices: Notices::of_events(events),
            notice_of: Box::default(),
            parts,
            texts: Box::default(),
            server_end: 0,
            stream_end: 0,
            tag_end: 0,
            recipients: SmallVec::new(),
        };
        subject.set_texts([first.server, first.stream, first.tag], paths);
        Some(subject)
    }

    /// What a notice of this recipient has to know; nothing where none is wanted.
    pub fn dsn(&self, number: u16) -> Dsn<'_> {
        let notices = self.notices.as_deref();
        notices.map_or_else(Dsn::default, |notices| notices.dsn(number))
    }

    fn set_texts<'a>(
        &mut self,
        [server, stream, tag]: [&str; 3],
        paths: impl Iterator<Item = (u16, &'a str)>,
    ) {
        let mut texts = String::with_capacity(server.len() + stream.len() + tag.len() + 32);
        texts.push_str(server);
        self.server_end = texts.len() as u32;
        texts.push_str(stream);
        self.stream_end = texts.len() as u32;
        texts.push_str(tag);
        self.tag_end = texts.len() as u32;
        for (number, path) in paths {
            texts.push_str(path);
            self.recipients.push((number, texts.len() as u32));
        }
        self.texts = texts.into_boxed_str();
    }

    pub fn server(&self) -> &str {
        &self.texts[..self.server_end as usize]
    }

    pub fn stream(&self) -> &str {
        &self.texts[self.server_end as usize..self.stream_end as usize]
    }

    /// Milliseconds since it could be sent: since its acceptance, or release.
    pub fn waited_ms(&self, now: UnixMs) -> u64 {
        let since = self.release_at.unwrap_or(0).max(self.accepted_at);
        now.saturating_sub(since)
    }

    /// Empty where it has none.
    pub fn tag(&self) -> &str {
        &self.texts[self.stream_end as usize..self.tag_end as usize]
    }

    /// Empty where the recipient is none of those that were copied.
    pub fn forward_path(&self, number: u16) -> &str {
        let index = self.recipients.iter().position(|(n, _)| *n == number);
        let Some(index) = index else {
            return "";
        };
        let start = match index.checked_sub(1) {
            Some(before) => self.recipients[before].1,
            None => self.tag_end,
        };
        &self.texts[start as usize..self.recipients[index].1 as usize]
    }

    /// Numbers of those recipients that were copied.
    pub fn numbers(&self) -> impl Iterator<Item = u16> {
        self.recipients.iter().map(|&(number, _)| number)
    }

    /// Of those recipients that were copied.
    pub fn forward_paths(&self) -> impl Iterator<Item = &str> {
        let mut start = self.tag_end as usize;
        self.recipients.iter().map(move |&(_, end)| {
            let path = &self.texts[start..end as usize];
            start = end as usize;
            path
        })
    }
}

impl<'a> Event<'a> {
    /// About nobody and nothing, to be filled in.
    pub fn nothing() -> Self {
        Self {
            kind: EventKind::Accepted,
            at: 0,
            message_id: MessageId::from_bytes([0; 16]),
            recipient_number: 0,
            recipient: "",
            server_id: 0,
            server: "",
            stream: "",
            source: "",
            remote_host: "",
            reply: "",
            cause: "",
            detail: "",
            judged: Judged::default(),
            attempts: 0,
            next_attempt: None,
            mail_position: None,
            origin: "",
            since: None,
            idempotency: &[],
            reverse_path: "",
            tag: "",
            notice: &[],
            notice_at: None,
            dsn: Dsn::default(),
            notice_of: &[],
        }
    }

    /// Appends the payload of the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let judged = &self.judged;
        let (server_id, attempts, confidence) = (
            self.server_id.to_le_bytes(),
            u32::from(self.attempts).to_le_bytes(),
            u32::from(judged.confidence).to_le_bytes(),
        );
        let next_attempt = self.next_attempt.map(u64::to_le_bytes);
        let mail_position = self.mail_position.map(u64::to_le_bytes);
        let since = self.since.map(u64::to_le_bytes);
        let notice_at = self.notice_at.map(u64::to_le_bytes);
        let evidence = judged.evidence.map(u64::to_le_bytes);
        let texts = [
            (event_field::RECIPIENT, self.recipient.as_bytes()),
            (event_field::SERVER_ID, server_id.as_slice()),
            (event_field::SERVER, self.server.as_bytes()),
            (event_field::STREAM, self.stream.as_bytes()),
            (event_field::SOURCE, self.source.as_bytes()),
            (event_field::REMOTE_HOST, self.remote_host.as_bytes()),
            (event_field::REPLY, self.reply.as_bytes()),
            (event_field::CAUSE, self.cause.as_bytes()),
            (event_field::DETAIL, self.detail.as_bytes()),
            (event_field::ATTEMPTS, attempts.as_slice()),
            (
                event_field::NEXT_ATTEMPT_MS,
                next_attempt.as_ref().map_or(&[][..], |b| b.as_slice()),
            ),
            (
                event_field::MAIL_POSITION,
                mail_position.as_ref().map_or(&[][..], |b| b.as_slice()),
            ),
            (event_field::ORIGIN, self.origin.as_bytes()),
            (
                event_field::SINCE_MS,
                since.as_ref().map_or(&[][..], |b| b.as_slice()),
            ),
            (event_field::IDEMPOTENCY, self.idempotency),
            (event_field::SCOPE, judged.scope.as_bytes()),
            (event_field::STAGE, judged.stage.as_bytes()),
            (event_field::REACTION, judged.reaction.as_bytes()),
            (event_field::RULE, judged.rule.as_bytes()),
            (
                event_field::CONFIDENCE,
                match judged.confidence {
                    0 => &[],
                    _ => confidence.as_slice(),
                },
            ),
            (
                event_field::EVIDENCE,
                evidence.as_ref().map_or(&[][..], |b| b.as_slice()),
            ),
            (event_field::REVERSE_PATH, self.reverse_path.as_bytes()),
            (event_field::TAG, self.tag.as_bytes()),
            (event_field::NOTICE, self.notice),
            (
                event_field::NOTICE_AT,
                notice_at.as_ref().map_or(&[][..], |b| b.as_slice()),
            ),
            (event_field::DSN_TO, self.dsn.to.as_bytes()),
            (event_field::DSN_NOTIFY, self.dsn.notify.as_bytes()),
            (event_field::DSN_RET, self.dsn.ret.as_bytes()),
            (event_field::DSN_ENVID, self.dsn.envelope_id.as_bytes()),
            (
                event_field::DSN_ORCPT,
                self.dsn.original_recipient.as_bytes(),
            ),
            (event_field::NOTICE_OF, self.notice_of),
        ];
        let given = texts.iter().filter(|(_, bytes)| !bytes.is_empty());
        let mut fields: SmallVec<[Field<'_>; 20]> =
            given.map(|&(tag, bytes)| Field { tag, bytes }).collect();
        let lens = fields.iter().map(|f| layout::field::BYTES + f.bytes.len());
        let missing = PAYLOAD_MIN.saturating_sub(layout::event::FIELDS + lens.sum::<usize>());
        if missing > 0 {
            let bytes = &PADDING[..missing.saturating_sub(layout::field::BYTES)];
            fields.push(Field::new(event_field::PADDING, bytes));
        }
        let record = EventRecord {
            kind: self.kind.code(),
            at_unix_ms: self.at,
            message_id: *self.message_id.as_bytes(),
            recipient_number: self.recipient_number,
            fields: List::new(&fields),
        };
        // The callers' texts are bounded by limits.rs, far below what the format's lengths hold.
        record.encode(out).expect("an event fits its record");
    }

    /// Reads a record's payload. `Ok(None)`: a kind that this version does not know.
    pub fn decode(payload: &'a [u8]) -> Result<Option<Self>, RecordError> {
        let record = EventRecord::decode(payload)?;
        let Some(kind) = EventKind::from_code(record.kind) else {
            return Ok(None);
        };
        let text = |tag| record.fields.find_text(tag).unwrap_or_default();
        let number = |tag| record.fields.find_number(tag);
        Ok(Some(Self {
            kind,
            at: record.at_unix_ms,
            message_id: MessageId::from_bytes(record.message_id),
            recipient_number: record.recipient_number,
            recipient: text(event_field::RECIPIENT),
            server_id: number(event_field::SERVER_ID)
                .and_then(|n| n.try_into().ok())
                .unwrap_or(0),
            server: text(event_field::SERVER),
            stream: text(event_field::STREAM),
            source: text(event_field::SOURCE),
            remote_host: text(event_field::REMOTE_HOST),
            reply: text(event_field::REPLY),
            cause: text(event_field::CAUSE),
            detail: text(event_field::DETAIL),
            judged: Judged {
                stage: text(event_field::STAGE),
                scope: text(event_field::SCOPE),
                reaction: text(event_field::REACTION),
                rule: text(event_field::RULE),
                confidence: number(event_field::CONFIDENCE)
                    .and_then(|n| n.try_into().ok())
                    .unwrap_or(0),
                evidence: number(event_field::EVIDENCE),
            },
            attempts: number(event_field::ATTEMPTS)
                .and_then(|n| n.try_into().ok())
                .unwrap_or(0),
            next_attempt: number(event_field::NEXT_ATTEMPT_MS),
            mail_position: number(event_field::MAIL_POSITION),
            origin: text(event_field::ORIGIN),
            since: number(event_field::SINCE_MS),
            idempotency: record
                .fields
                .find(event_field::IDEMPOTENCY)
                .unwrap_or_default(),
            reverse_path: text(event_field::REVERSE_PATH),
            tag: text(event_field::TAG),
            notice: record.fields.find(event_field::NOTICE).unwrap_or_default(),
            notice_at: number(event_field::NOTICE_AT),
            dsn: Dsn {
                to: text(event_field::DSN_TO),
                notify: text(event_field::DSN_NOTIFY),
                ret: text(event_field::DSN_RET),
                envelope_id: text(event_field::DSN_ENVID),
                original_recipient: text(event_field::DSN_ORCPT),
            },
            notice_of: record
                .fields
                .find(event_field::NOTICE_OF)
                .unwrap_or_default(),
        }))
    }
}

/// FORMAT.md §5.6: what is shorter could not be erased.
const PAYLOAD_MIN: usize = layout::erased::FIXED + layout::event::FIELDS;
const PADDING: [u8; PAYLOAD_MIN] = [0; PAYLOAD_MIN];

#[cfg(test)]
mod tests;
