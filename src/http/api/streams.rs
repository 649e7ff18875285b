//! `/message-streams` (reference §8). A server token sees the streams of its server and no others.

use axum::http::Method;
use serde::Serialize;

use super::error::ApiError;
use super::json::{Body, Field, Kind};
use super::{Access, Api, Ask, Route, call, field, reply, required, specimen};
use crate::account::model::{StreamText, Unsubscribe};
use crate::account::{Refused, Rule, StreamInfo, StreamPatch};
use crate::clock::rfc3339;
use crate::config::StreamKind;

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/message-streams",
        access: Access::Server,
        about: "The server's message streams; archived ones on demand. Not paged.",
        query: &[
            field(
                "MessageStreamType",
                Kind::Text,
                "All, Transactional, Broadcasts, Inbound.",
            ),
            field("IncludeArchivedStreams", Kind::Flag, ""),
        ],
        body: &[],
        specimen: many,
        call: call!(list),
    },
    Route {
        method: Method::POST,
        path: "/message-streams",
        access: Access::Server,
        about: "A new message stream.",
        query: &[],
        body: NEW_FIELDS,
        specimen: one,
        call: call!(create),
    },
    Route {
        method: Method::GET,
        path: "/message-streams/{id}",
        access: Access::Server,
        about: "One message stream.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(get),
    },
    Route {
        method: Method::PATCH,
        path: "/message-streams/{id}",
        access: Access::Server,
        about: "Changes a message stream. What is not given stays.",
        query: &[],
        body: FIELDS,
        specimen: one,
        call: call!(edit),
    },
    Route {
        method: Method::POST,
        path: "/message-streams/{id}/archive",
        access: Access::Server,
        about: "Archives a message stream: it takes no more mail.",
        query: &[],
        body: &[],
        specimen: archived,
        call: call!(archive),
    },
    Route {
        method: Method::POST,
        path: "/message-streams/{id}/unarchive",
        access: Access::Server,
        about: "Takes an archived message stream back, within 45 days.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(unarchive),
    },
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "ServerID")]
    server_id: u32,
    name: String,
    description: String,
    message_stream_type: &'static str,
    created_at: String,
    updated_at: Option<String>,
    archived_at: Option<String>,
    expected_purge_date: Option<String>,
    subscription_management_configuration: Subscription,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Subscription {
    unsubscribe_handling_type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    message_streams: Vec<Object>,
    total_count: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Archived {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "ServerID")]
    server_id: u32,
    expected_purge_date: Option<String>,
}

impl Object {
    fn new(server_id: u32, stream: &StreamInfo) -> Self {
        Self {
            id: stream.id.to_string(),
            server_id,
            name: stream.text.name.clone(),
            description: stream.text.description.clone(),
            message_stream_type: type_text(stream.kind),
            created_at: rfc3339(stream.created),
            updated_at: stream.updated.map(rfc3339),
            archived_at: stream.archived_at.map(rfc3339),
            expected_purge_date: stream.purged_at().map(rfc3339),
            subscription_management_configuration: Subscription {
                unsubscribe_handling_type: stream.text.unsubscribe.as_str(),
            },
        }
    }
}

async fn list(_: Api, ask: Ask) -> Result<String, ApiError> {
    let wanted = match ask.query.text("MessageStreamType") {
        None => None,
        Some(all) if all.eq_ignore_ascii_case("all") => None,
        Some(text) => Some(kind_of(text)?),
    };
    let archived = ask.query.flag("IncludeArchivedStreams");
    let server = ask.server()?;
    let suits = |stream: &&StreamInfo| {
        wanted.is_none_or(|kind| stream.kind == kind) && (archived || !stream.archived())
    };
    let streams = server.streams.iter().filter(suits);
    let message_streams: Vec<Object> = streams.map(|s| Object::new(server.id, s)).collect();
    reply(&List {
        total_count: message_streams.len(),
        message_streams,
    })
}

async fn create(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?.id;
    let (id, kind) = (ask.body.text("ID"), ask.body.text("MessageStreamType"));
    let patch = patch(&ask.body)?;
    let made = api
        .settings
        .create_stream(
            server,
            id.as_deref(),
            kind.as_deref(),
            &patch,
            api.clock.unix_ms(),
        )
        .await?;
    reply(&Object::new(server, &made))
}

async fn get(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?.id;
    let stream = api.settings.known_stream(server, ask.parameter())?;
    reply(&Object::new(server, &stream))
}

async fn edit(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?.id;
    let patch = patch(&ask.body)?;
    let edited = api
        .settings
        .edit_stream(server, ask.parameter(), &patch, api.clock.unix_ms())
        .await?;
    reply(&Object::new(server, &edited))
}

async fn archive(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?.id;
    let stream = api
        .settings
        .archive_stream(server, ask.parameter(), api.clock.unix_ms())
        .await?;
    reply(&Archived {
        id: stream.id.to_string(),
        server_id: server,
        expected_purge_date: stream.purged_at().map(rfc3339),
    })
}

async fn unarchive(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?.id;
    let stream = api
        .settings
        .unarchive_stream(server, ask.parameter(), api.clock.unix_ms())
        .await?;
    reply(&Object::new(server, &stream))
}

fn patch(body: &Body) -> Result<StreamPatch, ApiError> {
    let subscription = body.object("SubscriptionManagementConfiguration")?;
    Ok(StreamPatch {
        name: body.text("Name"),
        description: body.text("Description"),
        unsubscribe: subscription.and_then(|s| s.word("UnsubscribeHandlingType")),
        pool: None,
    })
}

fn type_text(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Transactional => "Transactional",
        StreamKind::Broadcast => "Broadcasts",
        StreamKind::Inbound => "Inbound",
    }
}

fn kind_of(text: &str) -> Result<StreamKind, Refused> {
    let kinds = [
        StreamKind::Transactional,
        StreamKind::Broadcast,
        StreamKind::Inbound,
    ];
    let found = kinds
        .into_iter()
        .find(|kind| type_text(*kind).eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        Refused::new(
            Rule::StreamType,
            "'MessageStreamType' is one of All, Transactional, Broadcasts, Inbound.",
        )
    })
}

fn one() -> String {
    specimen(&specimen_object())
}

fn many() -> String {
    specimen(&List {
        message_streams: vec![specimen_object()],
        total_count: 1,
    })
}

fn archived() -> String {
    specimen(&Archived {
        id: "news".into(),
        server_id: 61,
        expected_purge_date: Some(rfc3339(1_776_348_000_000)),
    })
}

fn specimen_object() -> Object {
    let stream = StreamInfo {
        id: "news".into(),
        kind: StreamKind::Broadcast,
        text: StreamText {
            name: "Newsletter".into(),
            description: "Every Monday.".into(),
            unsubscribe: Unsubscribe::Postmark,
        },
        pool_name: None,
        pool: None,
        retention: None,
        retry: Default::default(),
        ambiguous: Default::default(),
        created: 1_772_460_912_000,
        updated: None,
        archived_at: None,
    };
    Object::new(61, &stream)
}

const NAME: Field = field("Name", Kind::Text, "At most 100 characters.");
const DESCRIPTION: Field = field(
    "Description",
    Kind::Text,
    "At most 1000 characters, without < and >.",
);
const SUBSCRIPTION: Field = field(
    "SubscriptionManagementConfiguration",
    Kind::Object,
    "UnsubscribeHandlingType: None, Postmark, Custom.",
);
const FIELDS: &[Field] = &[NAME, DESCRIPTION, SUBSCRIPTION];
const NEW_FIELDS: &[Field] = &[
    required(
        "ID",
        Kind::Text,
        "At most 30 of a-z 0-9 - _, the first a letter.",
    ),
    required("Name", Kind::Text, "At most 100 characters."),
    required(
        "MessageStreamType",
        Kind::Text,
        "Transactional, Broadcasts; a server has its one Inbound stream already.",
    ),
    DESCRIPTION,
    SUBSCRIPTION,
];
