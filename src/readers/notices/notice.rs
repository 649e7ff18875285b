//! What is told, before it is words.

use crate::clock::UnixMs;
use crate::event::Event;
use crate::mail::MessageId;
use crate::outcome::CauseClass;

/// What is told. In the order of a bounce's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Delayed,
    Failed,
    /// To a host that does not tell what becomes of it (RFC 3461 §5.2.2).
    Relayed,
}

impl What {
    /// As metrics name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delay",
            Self::Failed => "failure",
            Self::Relayed => "success",
        }
    }
}

/// What is told of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) what: What,
    /// When the first of it happened.
    pub(super) since: UnixMs,
    pub(super) message: MessageId,
    pub(super) server: u32,
    pub(super) to: String,
    pub(super) envelope_id: String,
    /// The whole message was asked for.
    pub(super) wants_all: bool,
    pub(super) arrival: UnixMs,
    /// Where the message record was, as far as that is known.
    pub(super) record_at: Option<u64>,
    pub(super) people: Vec<Person>,
}

/// What is told of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    /// Position of the event.
    pub(super) event: u64,
    /// In order of RCPT.
    pub(super) number: u16,
    pub(super) recipient: String,
    /// RFC 3461 §4.2, in xtext.
    pub(super) original: String,
    pub(super) cause: &'static str,
    pub(super) remote: String,
    /// Code, status and text.
    pub(super) reply: String,
    pub(super) detail: String,
    pub(super) attempted_at: Option<UnixMs>,
    pub(super) retry_until: Option<UnixMs>,
    /// Position of the last deferral before it; 0: there was none.
    pub(super) deferred: u64,
}

impl Notice {
    pub(super) fn of(what: What, event: &Event<'_>) -> Self {
        Self {
            what,
            since: event.at,
            message: event.message_id,
            server: event.server_id,
            to: event.dsn.to.to_owned(),
            envelope_id: event.dsn.envelope_id.to_owned(),
            // RFC 3461 §4.3: RET is for failures only.
            wants_all: what == What::Failed && event.dsn.ret == "FULL",
            arrival: event.message_id.unix_ms(),
            record_at: event.mail_position,
            people: Vec::new(),
        }
    }
}

impl Person {
    pub(super) fn of(position: u64, event: &Event<'_>, deferred: u64) -> Self {
        let cause = CauseClass::parse(event.cause);
        Self {
            event: position,
            number: event.recipient_number,
            recipient: event.recipient.to_owned(),
            original: event.dsn.original_recipient.to_owned(),
            cause: cause.map_or("", |cause| cause.as_str()),
            remote: event.remote_host.to_owned(),
            reply: event.reply.to_owned(),
            detail: event.detail.to_owned(),
            attempted_at: (!event.remote_host.is_empty()).then_some(event.at),
            retry_until: None,
            deferred,
        }
    }

    /// What its last attempt met.
    pub(super) fn met(&mut self, deferral: &Event<'_>) {
        self.remote = deferral.remote_host.to_owned();
        self.reply = deferral.reply.to_owned();
        if self.detail.is_empty() {
            self.detail = deferral.detail.to_owned();
        }
        self.attempted_at = Some(deferral.at);
    }
}
