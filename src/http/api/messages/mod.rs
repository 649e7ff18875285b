//! `/messages/outbound` (reference §9): what was sent, searched and in detail. A server token reaches the messages of its server
//! and no others; its dump is beside the other things that are asked of the spool (`email::outbox`).
//!
//! A search is answered from the activity reader's tables, which have a message within a second. Details are of what the log
//! and the spool say now: a message is found as soon as it is accepted. Tracking is not there yet: opens and clicks are none.

pub(super) mod details;
mod events;

use axum::http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::dates::date;
use super::error::{ApiError, Code};
use super::json::{Field, Kind};
use super::query::Query;
use super::{Access, Api, Ask, Route, call, field, reply, specimen};
use crate::account::{ServerInfo, StreamInfo};
use crate::clock::rfc3339;
use crate::http::AdminError;
use crate::limits;
use crate::mail::MessageId;
use crate::readers::activity::{self, Entry, Search};

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/messages/outbound",
        access: Access::Server,
        about: "Messages of a message stream, newest first. metadata_<name> looks for a value of metadata.",
        query: FILTERS,
        body: &[],
        specimen: || {
            specimen(&Page {
                total_count: 1,
                messages: vec![example()],
            })
        },
        call: call!(list),
    },
    Route {
        method: Method::GET,
        path: "/messages/outbound/opens",
        access: Access::Server,
        about: "Opens of messages; none, as long as messages are not tracked.",
        query: PLACE,
        body: &[],
        specimen: || specimen(&Opens::default()),
        call: call!(opens),
    },
    Route {
        method: Method::GET,
        path: "/messages/outbound/opens/{id}",
        access: Access::Server,
        about: "Opens of a message; none, as long as messages are not tracked.",
        query: PLACE,
        body: &[],
        specimen: || specimen(&Opens::default()),
        call: call!(opens_of),
    },
    Route {
        method: Method::GET,
        path: "/messages/outbound/clicks",
        access: Access::Server,
        about: "Clicks on links in messages; none, as long as messages are not tracked.",
        query: PLACE,
        body: &[],
        specimen: || specimen(&Clicks::default()),
        call: call!(clicks),
    },
    Route {
        method: Method::GET,
        path: "/messages/outbound/clicks/{id}",
        access: Access::Server,
        about: "Clicks on links in a message; none, as long as messages are not tracked.",
        query: PLACE,
        body: &[],
        specimen: || specimen(&Clicks::default()),
        call: call!(clicks_of),
    },
    Route {
        method: Method::GET,
        path: "/messages/outbound/{id}/details",
        access: Access::Server,
        about: "A message with its content, and all that became of it.",
        query: &[],
        body: &[],
        specimen: details::example,
        call: call!(details::details),
    },
];

const COUNT: Field = field("count", Kind::Number, "1 to 500; 50 if not given.");
const OFFSET: Field = field("offset", Kind::Number, "From 0; with count at most 10,000.");
const STREAM: Field = field("messagestream", Kind::Text, "outbound if not given.");
const PLACE: &[Field] = &[COUNT, OFFSET, STREAM];
const FILTERS: &[Field] = &[
    COUNT,
    OFFSET,
    field("recipient", Kind::Text, "An address, in any case."),
    field("fromemail", Kind::Text, "An address, in any case."),
    field("tag", Kind::Text, ""),
    field(
        "status",
        Kind::Text,
        "queued: nothing is known but that it was accepted; sent, or processed: something is.",
    ),
    field(
        "subject",
        Kind::Text,
        "A part of the subject, in any case; among more than 10,000 messages, whole words of it.",
    ),
    field(
        "fromdate",
        Kind::Text,
        "Inclusive: 2026-03-02, 2026-03-02T09:15:00.",
    ),
    field("todate", Kind::Text, "Inclusive."),
    STREAM,
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    total_count: u64,
    messages: Vec<Message>,
}

/// In the order of the reference.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    tag: Option<String>,
    #[serde(rename = "MessageID")]
    message_id: String,
    message_stream: String,
    to: Vec<Addressee>,
    cc: Vec<Addressee>,
    bcc: Vec<Addressee>,
    recipients: Vec<String>,
    received_at: String,
    from: String,
    subject: String,
    attachments: Vec<String>,
    status: &'static str,
    track_opens: bool,
    track_links: String,
    metadata: Map<String, Value>,
    sandboxed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Addressee {
    email: String,
    name: String,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Opens {
    total_count: u64,
    opens: [Value; 0],
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Clicks {
    total_count: u64,
    clicks: [Value; 0],
}

async fn list(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?;
    let search = search(&api, server, &ask.query)?;
    let found = api.activity.search(&search).await;
    let (total_count, messages) = found?;
    reply(&Page {
        total_count,
        messages: messages.into_iter().map(Message::new).collect(),
    })
}

async fn opens(api: Api, ask: Ask) -> Result<String, ApiError> {
    place(&api, &ask)?;
    reply(&Opens::default())
}

async fn opens_of(api: Api, ask: Ask) -> Result<String, ApiError> {
    place(&api, &ask)?;
    details::find(&api, &ask).await?;
    reply(&Opens::default())
}

async fn clicks(api: Api, ask: Ask) -> Result<String, ApiError> {
    place(&api, &ask)?;
    reply(&Clicks::default())
}

async fn clicks_of(api: Api, ask: Ask) -> Result<String, ApiError> {
    place(&api, &ask)?;
    details::find(&api, &ask).await?;
    reply(&Clicks::default())
}

/// Checks where a listing is to begin, and of which stream.
fn place(api: &Api, ask: &Ask) -> Result<(), ApiError> {
    page(&ask.query)?;
    stream(api, ask.server()?, &ask.query).map(drop)
}

fn page(query: &Query) -> Result<super::Page, ApiError> {
    let page = query.page(FAMILY)?;
    match page.count + page.offset > limits::API_SEARCH_DEPTH {
        false => Ok(page),
        true => Err(wrong(&format!(
            "Parameters 'count' and 'offset' may be {} together.",
            limits::API_SEARCH_DEPTH
        ))),
    }
}

fn stream(api: &Api, server: &ServerInfo, query: &Query) -> Result<StreamInfo, ApiError> {
    let stream = query.text("messagestream").unwrap_or("outbound");
    let known = api.settings.known_stream(server.id, &stream.to_lowercase());
    Ok(known?)
}

fn search(api: &Api, server: &ServerInfo, query: &Query) -> Result<Search, ApiError> {
    let page = page(query)?;
    let is_queued = query
        .text("status")
        .map(|text| match text.to_ascii_lowercase().as_str() {
            "queued" => Ok(true),
            "sent" | "processed" => Ok(false),
            _ => Err(wrong(
                "Parameter 'status' must be queued, sent or processed.",
            )),
        });
    let text = |key| query.text(key).map(str::to_owned);
    let metadata = query.behind("metadata_");
    let metadata: Vec<_> = metadata
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if metadata.len() > METADATA_MAX {
        return Err(wrong("There are too many parameters 'metadata_…'."));
    }
    Ok(Search {
        server: server.id,
        stream: stream(api, server, query)?.id.to_string(),
        recipient: text("recipient"),
        from: text("fromemail"),
        tag: text("tag"),
        subject: text("subject"),
        metadata,
        is_queued: is_queued.transpose()?,
        since: date(query, "fromdate", FAMILY)?.map(|(first, _)| first),
        until: date(query, "todate", FAMILY)?.map(|(_, behind)| behind),
        count: page.count,
        offset: page.offset,
    })
}

impl Message {
    fn new(entry: Entry) -> Self {
        let about = entry.about;
        let recipients: Vec<_> = about.recipients.into_iter().flatten().collect();
        let of = |field| {
            let named = recipients.iter().filter(|r| r.field == field);
            let shown = named.map(|recipient| Addressee {
                email: recipient.email.clone(),
                name: recipient.name.clone(),
            });
            shown.collect()
        };
        Self {
            tag: Some(about.tag).filter(|tag| !tag.is_empty()),
            message_id: entry.id.to_string(),
            message_stream: entry.stream,
            to: of(activity::Field::To),
            cc: of(activity::Field::Cc),
            bcc: of(activity::Field::Bcc),
            recipients: recipients.into_iter().map(|r| r.email).collect(),
            received_at: rfc3339(entry.id.unix_ms()),
            from: about.from,
            subject: about.subject,
            attachments: about.attachments,
            status: if entry.is_queued { "Queued" } else { "Sent" },
            track_opens: about.track_opens,
            track_links: about.track_links.unwrap_or_else(|| "None".to_owned()),
            metadata: about
                .metadata
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect(),
            sandboxed: about.sandboxed,
        }
    }
}

fn wrong(text: &str) -> ApiError {
    ApiError::new(FAMILY, text)
}

/// Of whatever is asked about a message that is not there, or another server's.
fn unknown() -> ApiError {
    ApiError::new(Code(701), "This message was not found.")
}

/// The spool, or what leads to it, does not answer.
fn unavailable(error: AdminError) -> ApiError {
    ApiError {
        retry_after: Some(RETRY_AFTER_SECONDS),
        ..ApiError::with(
            StatusCode::SERVICE_UNAVAILABLE,
            Code(100),
            format!("Messages cannot be looked up now: {error}. Please try again."),
        )
    }
}

fn id_of(ask: &Ask) -> Option<MessageId> {
    ask.parameter().parse().ok()
}

fn example() -> Message {
    Message {
        tag: Some("shipping".into()),
        message_id: "21895802-5d50-442b-b039-27cf5b462c54".into(),
        message_stream: "outbound".into(),
        to: vec![Addressee {
            email: "ada@example.com".into(),
            name: "Ada".into(),
        }],
        cc: vec![],
        bcc: vec![],
        recipients: vec!["ada@example.com".into()],
        received_at: rfc3339(1_772_460_912_000),
        from: "Orders <orders@shop.example>".into(),
        subject: "Your parcel left us".into(),
        attachments: vec!["slip.txt".into()],
        status: "Sent",
        track_opens: true,
        track_links: "HtmlOnly".into(),
        metadata: Map::from_iter([("order".to_owned(), "881".into())]),
        sandboxed: false,
    }
}

/// Of parameters.
const FAMILY: Code = Code(700);
const RETRY_AFTER_SECONDS: u64 = 2;
const METADATA_MAX: usize = 10;
