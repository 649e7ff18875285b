//! What the node holds of a server's messages: those that are scheduled, to be listed, moved and recalled, and the content of each.
//!
//! `/email/scheduled` is ours; `/messages/outbound/{id}/dump` is Postmark's (reference §9.1). A message of another server is as
//! unknown as one that never was. An answer to a change is given when the change is durable.

use std::future::Future;
use std::pin::Pin;

use axum::http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::letter::invalid;
use crate::accept::send_at;
use crate::clock::{UnixMs, rfc3339, rfc3339_seconds};
use crate::http::AdminError;
use crate::http::api::error::{ApiError, Code, Envelope};
use crate::http::api::json::Kind;
use crate::http::api::messages::details;
use crate::http::api::{Access, Api, Ask, Route, call, field, reply, required, room_for, specimen};
use crate::limits;
use crate::mail::MessageId;

pub(in crate::http::api) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/email/scheduled",
        access: Access::Server,
        about: "Posthaste: messages that wait for their SendAt, in the order of their acceptance.",
        query: &[
            field("count", Kind::Number, "1 to 500; 50 if not given."),
            field(
                "paginationKey",
                Kind::Text,
                "Of the page before; absent on the last page.",
            ),
        ],
        body: &[],
        specimen: || {
            specimen(&Listed {
                messages: vec![Shown::of(specimen_message())],
                pagination_key: None,
            })
        },
        call: call!(list),
    },
    Route {
        method: Method::GET,
        path: "/email/scheduled/{id}",
        access: Access::Server,
        about: "Posthaste: a message that waits for its SendAt.",
        query: &[],
        body: &[],
        specimen: shown,
        call: call!(one),
    },
    Route {
        method: Method::PUT,
        path: "/email/scheduled/{id}",
        access: Access::Server,
        about: "Posthaste: gives a message that waits for its SendAt another one. Its Deadline stays.",
        query: &[],
        body: &[required(
            "SendAt",
            Kind::Text,
            "A time (RFC 3339) or a span from now (90s, 2h); one that has passed: at once.",
        )],
        specimen: shown,
        call: call!(reschedule),
    },
    Route {
        method: Method::DELETE,
        path: "/email/scheduled/{id}",
        access: Access::Server,
        about: "Posthaste: cancels a message that waits for its SendAt.",
        query: &[],
        body: &[],
        specimen: || specimen(&Envelope::done("Message cancelled.".into())),
        call: call!(recall),
    },
    Route {
        method: Method::GET,
        path: "/messages/outbound/{id}/dump",
        access: Access::Server,
        about: "The content of a message, as it is stored.",
        query: &[],
        body: &[],
        specimen: || {
            specimen(&Dump {
                body: "From: …".into(),
            })
        },
        call: call!(dump),
    },
];

/// What knows the messages that the node holds.
pub trait Outbox: Send + Sync {
    /// A page of a server's scheduled messages, behind `after`.
    fn scheduled(&self, server: u32, after: Option<MessageId>, count: usize) -> Asking<'_, Page>;

    fn scheduled_one(&self, server: u32, id: MessageId) -> Asking<'_, Option<Scheduled>>;

    /// `Ok`: it is durable.
    fn reschedule(&self, server: u32, id: MessageId, at: UnixMs) -> Asking<'_, Rescheduled>;

    /// Cancels. `Ok(true)`: it is durable; `Ok(false)`: no such message is scheduled.
    fn recall(&self, server: u32, id: MessageId) -> Asking<'_, bool>;

    /// Where the content of a message is.
    fn stored(&self, server: u32, id: MessageId) -> Asking<'_, Option<Stored>>;

    /// Reads it.
    fn read(&self, stored: Stored) -> Asking<'_, Vec<u8>>;
}

pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, AdminError>> + Send + 'a>>;

/// A message that waits for the time that its sender has named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    pub id: String,
    pub send_at: UnixMs,
    pub accepted_at: UnixMs,
    pub deadline: Option<UnixMs>,
    pub stream: String,
    pub from: String,
    pub subject: String,
    /// Of them: who waits.
    pub recipients: Vec<String>,
    pub tag: Option<String>,
    pub metadata: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub messages: Vec<Scheduled>,
    /// There may be more behind it.
    pub next: Option<MessageId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rescheduled {
    Done(Scheduled),
    NotScheduled,
    TooOften,
    /// That it keeps, and the new time is not before it.
    Deadline(UnixMs),
}

/// Content in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub position: u64,
    pub octets: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    messages: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination_key: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(rename = "MessageID")]
    message_id: String,
    send_at: String,
    submitted_at: String,
    deadline: Option<String>,
    message_stream: String,
    from: String,
    subject: String,
    recipients: Vec<String>,
    tag: Option<String>,
    metadata: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Dump {
    body: String,
}

impl Shown {
    fn of(message: Scheduled) -> Self {
        let metadata = message.metadata.into_iter();
        Self {
            message_id: message.id,
            send_at: rfc3339_seconds(message.send_at),
            submitted_at: rfc3339(message.accepted_at),
            deadline: message.deadline.map(rfc3339),
            message_stream: message.stream,
            from: message.from,
            subject: message.subject,
            recipients: message.recipients,
            tag: message.tag,
            metadata: metadata.map(|(key, value)| (key, value.into())).collect(),
        }
    }
}

async fn list(api: Api, ask: Ask) -> Result<String, ApiError> {
    let paging = |text: &str| ApiError::new(Code(700), text);
    let count = match ask.query.text("count") {
        None => 50,
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| (1..=limits::SCHEDULED_PAGE_MAX).contains(count))
            .ok_or_else(|| paging("The 'count' is a number from 1 to 500."))?,
    };
    let after = match ask.query.text("paginationKey") {
        None => None,
        // As Postmark's lists with such keys (reference §2.3).
        Some(key) => Some(key.parse().map_err(|_| {
            ApiError::new(Code(13), "The 'paginationKey' is not one that a page told.")
        })?),
    };
    let page = api.outbox.scheduled(ask.server()?.id, after, count).await;
    let page = page.map_err(unavailable)?;
    reply(&Listed {
        messages: page.messages.into_iter().map(Shown::of).collect(),
        pagination_key: page.next.map(|id| id.to_string()),
    })
}

async fn one(api: Api, ask: Ask) -> Result<String, ApiError> {
    let id = id_of(&ask).ok_or_else(not_scheduled)?;
    let found = api.outbox.scheduled_one(ask.server()?.id, id).await;
    let found = found.map_err(unavailable)?;
    reply(&Shown::of(found.ok_or_else(not_scheduled)?))
}

async fn reschedule(api: Api, ask: Ask) -> Result<String, ApiError> {
    let id = id_of(&ask).ok_or_else(not_scheduled)?;
    let bad = |why: String| invalid(format!("Invalid 'SendAt' value: {why}."));
    let text = ask.body.word("SendAt");
    let text = text.ok_or_else(|| bad("it is missing".into()))?;
    // Whole seconds, as it is told: the scheduler counts a little coarser than milliseconds.
    let at = send_at(&text, api.clock.unix_ms()).map_err(bad)? / 1_000 * 1_000;
    let done = api.outbox.reschedule(ask.server()?.id, id, at).await;
    match done.map_err(unavailable)? {
        Rescheduled::Done(message) => reply(&Shown::of(message)),
        Rescheduled::NotScheduled => Err(not_scheduled()),
        Rescheduled::TooOften => Err(invalid(format!(
            "The message was rescheduled {} times; cancel it and send it again.",
            limits::RESCHEDULES_MAX
        ))),
        Rescheduled::Deadline(deadline) => Err(bad(format!(
            "{} is not before the message's deadline, {}",
            rfc3339(at),
            rfc3339(deadline)
        ))),
    }
}

async fn recall(api: Api, ask: Ask) -> Result<String, ApiError> {
    let id = id_of(&ask).ok_or_else(not_scheduled)?;
    let recalled = api.outbox.recall(ask.server()?.id, id).await;
    match recalled.map_err(unavailable)? {
        true => reply(&Envelope::done("Message cancelled.".into())),
        false => Err(not_scheduled()),
    }
}

/// What is no UTF-8 is shown as replacement characters: the answer is JSON.
async fn dump(api: Api, ask: Ask) -> Result<String, ApiError> {
    let Some(stored) = details::stored(&api, &ask).await? else {
        return reply(&Dump {
            body: String::new(),
        });
    };
    let octets = usize::try_from(stored.octets).unwrap_or(usize::MAX);
    let _room = match octets > limits::HTTP_BODY_SMALL {
        true => Some(room_for(&api, octets.saturating_mul(2)).await?),
        false => None,
    };
    let content = api.outbox.read(stored).await.map_err(unavailable)?;
    let body = match String::from_utf8(content) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    reply(&Dump { body })
}

fn id_of(ask: &Ask) -> Option<MessageId> {
    ask.parameter().parse().ok()
}

fn not_scheduled() -> ApiError {
    let text = "This message was not found, or it is not scheduled any more.";
    ApiError::new(Code(701), text)
}

fn unavailable(error: AdminError) -> ApiError {
    ApiError {
        retry_after: Some(2),
        ..ApiError::with(
            StatusCode::SERVICE_UNAVAILABLE,
            Code(100),
            format!("This cannot be done now: {error}. Please try again later."),
        )
    }
}

fn specimen_message() -> Scheduled {
    Scheduled {
        id: "0a129aee-e1cd-480d-b08d-4f48548ff48d".into(),
        stream: "outbound".into(),
        from: "ada@example.com".into(),
        recipients: vec!["bo@example.org".into()],
        ..Scheduled::default()
    }
}

fn shown() -> String {
    specimen(&Shown::of(specimen_message()))
}
