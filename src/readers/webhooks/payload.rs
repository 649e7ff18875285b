//! Exactly the JSON of Postmark's webhooks (reference, webhooks page §5), one function from an event.
//!
//! A further trigger is a variant of [`Trigger`], its events in [`Trigger::of`] and its payload in [`Payloads::build`].

use std::sync::Arc;

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use spool_format::kind;

use super::messages::{Message, Messages, kept};
use super::schedule::Class;
use crate::account::Triggers;
use crate::classify::BounceType;
use crate::clock::{UnixMs, rfc3339};
use crate::event::{Event, EventKind};
use crate::limits;
use crate::mail::{Mailbox, MessageId};
use crate::readers::automatic;
use crate::readers::bounces::{Bounces, details, type_of};
use crate::spool::{Log, ReadError};
use crate::suppression::{self, Tag};

/// What a webhook may be set off by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trigger {
    Delivery,
    Bounce,
    SpamComplaint,
    SubscriptionChange,
}

impl Trigger {
    pub const ALL: [Self; 4] = [
        Self::Delivery,
        Self::Bounce,
        Self::SpamComplaint,
        Self::SubscriptionChange,
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|trigger| trigger.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivery => "Delivery",
            Self::Bounce => "Bounce",
            Self::SpamComplaint => "SpamComplaint",
            Self::SubscriptionChange => "SubscriptionChange",
        }
    }

    /// What an event sets off, if anything.
    pub fn of(event: &Event<'_>) -> Option<Self> {
        match event.kind {
            EventKind::Delivered => Some(Self::Delivery),
            EventKind::Bounced | EventKind::Expired | EventKind::BouncedLater => {
                match type_of(event.kind, event.cause) {
                    BounceType::SpamComplaint => Some(Self::SpamComplaint),
                    // It becomes a suppression, which tells.
                    BounceType::Unsubscribe => None,
                    _ => Some(Self::Bounce),
                }
            }
            EventKind::Complained => Some(Self::SpamComplaint),
            EventKind::Suppressed | EventKind::Unsuppressed => Some(Self::SubscriptionChange),
            _ => None,
        }
    }

    /// Before an event is decoded.
    pub fn may_be_of(kind: EventKind) -> bool {
        matches!(
            kind,
            EventKind::Delivered
                | EventKind::Bounced
                | EventKind::Expired
                | EventKind::BouncedLater
                | EventKind::Complained
                | EventKind::Suppressed
                | EventKind::Unsuppressed
        )
    }

    pub fn class(self) -> Class {
        match self {
            Self::Bounce | Self::SpamComplaint => Class::Bounce,
            Self::Delivery | Self::SubscriptionChange => Class::Event,
        }
    }

    pub fn is_in(self, triggers: &Triggers) -> bool {
        match self {
            Self::Delivery => triggers.delivery,
            Self::Bounce => triggers.bounce,
            Self::SpamComplaint => triggers.spam_complaint,
            Self::SubscriptionChange => triggers.subscription_change,
        }
    }

    /// Those of its triggers that there are events for.
    pub fn all_of(triggers: &Triggers) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|trigger| trigger.is_in(triggers))
    }
}

/// Which events a hook wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) server: u32,
    /// `None`: of all its streams.
    pub(super) stream: Option<Arc<str>>,
    pub(super) triggers: Triggers,
    /// Whether it is told of mail that was taken over SMTP and then refused.
    pub(super) smtp_api_errors: bool,
}

impl Wish {
    pub(super) fn wants(&self, event: &Event<'_>) -> Option<Trigger> {
        let is_here = event.server_id == self.server
            && self
                .stream
                .as_deref()
                .is_none_or(|stream| stream == event.stream);
        let trigger =
            Trigger::of(event).filter(|trigger| is_here && trigger.is_in(&self.triggers))?;
        let is_api_error = trigger == Trigger::Bounce
            && type_of(event.kind, event.cause) == BounceType::SMTPApiError;
        (self.smtp_api_errors || !is_api_error).then_some(trigger)
    }
}

/// Builds payloads. May block.
pub(super) struct Payloads {
    pub(super) events: Log,
    pub(super) messages: Messages,
    pub(super) suppressions: Arc<suppression::Set>,
    pub(super) bounces: Bounces,
}

impl Payloads {
    /// What a hook is sent of an event; `None`: nothing any more. `Err`: later it may be known.
    pub(super) fn build(
        &self,
        position: u64,
        wish: &Wish,
    ) -> Result<Option<(Trigger, Bytes)>, ReadError> {
        let record = kept(&self.events, position)?;
        let record = record.filter(|record| record.kind == kind::EVENT);
        let event = record.as_ref().map(|record| Event::decode(&record.payload));
        let Some(Ok(Some(event))) = event else {
            return Ok(None);
        };
        let Some(trigger) = wish.wants(&event) else {
            return Ok(None);
        };
        let text = match trigger {
            Trigger::Delivery => text(&delivery(
                &event,
                self.messages.of(&event, false)?.as_deref(),
            )),
            Trigger::Bounce => {
                text(&self.bounce(position, &event, wish.triggers.bounce_content)?)
            }
            Trigger::SpamComplaint => {
                text(&self.bounce(position, &event, wish.triggers.spam_complaint_content)?)
            }
            Trigger::SubscriptionChange => match self.change(&event)? {
                Some(change) => text(&change),
                None => return Ok(None),
            },
        };
        Ok(Some((trigger, text.into())))
    }

    fn bounce(
        &self,
        position: u64,
        event: &Event<'_>,
        with_content: bool,
    ) -> Result<BounceBody, ReadError> {
        let message = self.messages.of(event, true)?.unwrap_or_default();
        let head = message.head.clone().unwrap_or_default();
        let mailbox = Mailbox::parse(event.recipient, true).ok();
        let suppressed = mailbox.and_then(|mailbox| {
            self.suppressions
                .of(event.server_id, event.stream, &mailbox)
        });
        let kind = type_of(event.kind, event.cause);
        let is_complaint = kind == BounceType::SpamComplaint;
        let has_notice =
            !event.reply.is_empty() || !event.notice.is_empty() || event.notice_at.is_some();
        let content = with_content.then(|| {
            let mut content = self.bounces.notice(position).unwrap_or_default();
            content.truncate(content.floor_char_boundary(limits::WEBHOOK_CONTENT_MAX));
            content
        });
        Ok(BounceBody {
            record_type: match is_complaint {
                true => "SpamComplaint",
                false => "Bounce",
            },
            message_stream: event.stream.to_owned(),
            id: position,
            r#type: kind.as_str(),
            type_code: kind.code(),
            name: kind.name(),
            tag: tag(event, Some(&message)).unwrap_or_default(),
            message_id: event.message_id.to_string(),
            metadata: Metadata(message.metadata.clone()),
            server_id: event.server_id,
            description: kind.description(),
            details: details(event),
            email: event.recipient.to_owned(),
            from: head.from,
            bounced_at: seven_digits(event.at),
            dump_available: has_notice,
            // The suppression follows its event by some milliseconds.
            inactive: suppressed.is_some() || automatic::suppresses(event),
            can_activate: !is_complaint && suppressed.is_none_or(|s| s.is_the_customers()),
            subject: head.subject,
            content,
        })
    }

    /// `None`: nobody knows whom it is about.
    fn change(&self, event: &Event<'_>) -> Result<Option<ChangeBody>, ReadError> {
        let is_suppressed = event.kind == EventKind::Suppressed;
        let message = match is_suppressed {
            true => self.messages.of(event, false)?,
            false => None,
        };
        let recipient = match event.recipient.parse::<Tag>() {
            Err(_) => event.recipient.to_owned(),
            // Addresses are not kept; the message may still be.
            Ok(_) => {
                let number = usize::from(event.recipient_number);
                let recipients = message.as_ref().map(|message| &message.recipients);
                match recipients.and_then(|recipients| recipients.get(number)) {
                    Some(recipient) => recipient.clone(),
                    None => return Ok(None),
                }
            }
        };
        let is_known = event.message_id.as_bytes() != &[0; 16];
        Ok(Some(ChangeBody {
            record_type: "SubscriptionChange",
            message_id: (is_suppressed && is_known).then(|| event.message_id.to_string()),
            server_id: event.server_id,
            message_stream: event.stream.to_owned(),
            changed_at: seven_digits(event.at),
            recipient,
            origin: event.origin.to_owned(),
            suppress_sending: is_suppressed,
            suppression_reason: is_suppressed.then(|| event.cause.to_owned()),
            tag: tag(event, message.as_deref()),
            metadata: Metadata(message.map(|m| m.metadata.clone()).unwrap_or_default()),
        }))
    }
}

/// The message's, or what its event says of it, which is kept for longer.
fn tag(event: &Event<'_>, message: Option<&Message>) -> Option<String> {
    let said = Some(event.tag).filter(|tag| !tag.is_empty());
    let tag = message.and_then(|message| message.tag.as_deref()).or(said);
    tag.map(str::to_owned)
}

fn delivery(event: &Event<'_>, message: Option<&Message>) -> DeliveryBody {
    DeliveryBody {
        record_type: "Delivery",
        message_stream: event.stream.to_owned(),
        server_id: event.server_id,
        message_id: event.message_id.to_string(),
        recipient: event.recipient.to_owned(),
        tag: tag(event, message).unwrap_or_default(),
        delivered_at: seven_digits(event.at),
        details: details(event),
        metadata: Metadata(message.map(|m| m.metadata.clone()).unwrap_or_default()),
    }
}

/// What a verification sends, with values that no server has (reference §15).
pub(super) fn specimen(trigger: Trigger, stream: &str, now: UnixMs) -> String {
    let message_id =
        MessageId::from_bytes(*b"\x88\x3d\xc9\x53\x6c\x0f\x4b\xd5\xa3\x1b\x0d\x5f\x31\x4b\x7d\x01");
    let metadata = Metadata(vec![("example".into(), "value".into())]);
    let bounce = |kind: BounceType, record_type| BounceBody {
        record_type,
        message_stream: stream.to_owned(),
        id: 42,
        r#type: kind.as_str(),
        type_code: kind.code(),
        name: kind.name(),
        tag: "Test".into(),
        message_id: message_id.to_string(),
        metadata: Metadata(vec![("example".into(), "value".into())]),
        server_id: 1234,
        description: kind.description(),
        details: "Test details".into(),
        email: "john@example.com".into(),
        from: "sender@example.com".into(),
        bounced_at: seven_digits(now),
        dump_available: true,
        inactive: true,
        can_activate: kind != BounceType::SpamComplaint,
        subject: "Test subject".into(),
        content: None,
    };
    match trigger {
        Trigger::Delivery => text(&DeliveryBody {
            record_type: "Delivery",
            message_stream: stream.to_owned(),
            server_id: 23,
            message_id: message_id.to_string(),
            recipient: "john@example.com".into(),
            tag: "Test".into(),
            delivered_at: seven_digits(now),
            details: "Test delivery webhook details".into(),
            metadata,
        }),
        Trigger::Bounce => text(&bounce(BounceType::HardBounce, "Bounce")),
        Trigger::SpamComplaint => text(&bounce(BounceType::SpamComplaint, "SpamComplaint")),
        Trigger::SubscriptionChange => text(&ChangeBody {
            record_type: "SubscriptionChange",
            message_id: Some(message_id.to_string()),
            server_id: 23,
            message_stream: stream.to_owned(),
            changed_at: seven_digits(now),
            recipient: "john@example.com".into(),
            origin: "Recipient".into(),
            suppress_sending: true,
            suppression_reason: Some("ManualSuppression".into()),
            tag: Some("Test".into()),
            metadata,
        }),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeliveryBody {
    record_type: &'static str,
    message_stream: String,
    #[serde(rename = "ServerID")]
    server_id: u32,
    #[serde(rename = "MessageID")]
    message_id: String,
    recipient: String,
    tag: String,
    delivered_at: String,
    details: String,
    metadata: Metadata,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BounceBody {
    record_type: &'static str,
    message_stream: String,
    #[serde(rename = "ID")]
    id: u64,
    r#type: &'static str,
    type_code: u32,
    name: &'static str,
    tag: String,
    #[serde(rename = "MessageID")]
    message_id: String,
    metadata: Metadata,
    #[serde(rename = "ServerID")]
    server_id: u32,
    description: &'static str,
    details: String,
    email: String,
    from: String,
    bounced_at: String,
    dump_available: bool,
    inactive: bool,
    can_activate: bool,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeBody {
    record_type: &'static str,
    #[serde(rename = "MessageID")]
    message_id: Option<String>,
    #[serde(rename = "ServerID")]
    server_id: u32,
    message_stream: String,
    changed_at: String,
    recipient: String,
    origin: String,
    suppress_sending: bool,
    suppression_reason: Option<String>,
    tag: Option<String>,
    metadata: Metadata,
}

/// An object of texts, in the order of the message.
struct Metadata(Vec<(String, String)>);

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

fn text(body: &impl Serialize) -> String {
    // Plain structures of text and numbers: writing them cannot fail.
    serde_json::to_string(body).unwrap_or_default()
}

/// `2026-03-02T14:15:12.9070000Z`: as the reference has times in webhooks.
fn seven_digits(at: UnixMs) -> String {
    let text = rfc3339(at);
    format!("{}0000Z", text.trim_end_matches('Z'))
}
