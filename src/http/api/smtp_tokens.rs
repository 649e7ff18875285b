//! `/smtp-tokens`: our own resource. Postmark documents the error codes of SMTP tokens (reference §2.3) and no endpoints.

use axum::http::Method;
use serde::Serialize;

use super::error::{ApiError, Code};
use super::json::{Body, Field, Kind};
use super::query::Query;
use super::{Access, Api, Ask, Route, call, done, field, reply, required, specimen, specimen_done};
use crate::account::{NewToken, TokenInfo, TokenKind};
use crate::clock::rfc3339;

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/smtp-tokens",
        access: Access::Account,
        about: "The SMTP tokens of a server. Not paged.",
        query: &[
            required("serverId", Kind::Number, "The server."),
            field(
                "messageStream",
                Kind::Text,
                "Only those of this message stream.",
            ),
        ],
        body: &[],
        specimen: many,
        call: call!(list),
    },
    Route {
        method: Method::POST,
        path: "/smtp-tokens",
        access: Access::Account,
        about: "A new SMTP token. Its secret key is shown this once.",
        query: &[],
        body: NEW_FIELDS,
        specimen: made,
        call: call!(create),
    },
    Route {
        method: Method::DELETE,
        path: "/smtp-tokens/{id}",
        access: Access::Account,
        about: "Revokes an SMTP token: from the next message on.",
        query: &[required("serverId", Kind::Number, "The server.")],
        body: &[],
        specimen: specimen_done,
        call: call!(delete),
    },
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    #[serde(rename = "ID")]
    id: u32,
    #[serde(rename = "ServerID")]
    server_id: u32,
    message_stream: String,
    name: String,
    access_key: String,
    created_at: Option<String>,
    last_used_at: Option<String>,
    /// Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_key: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    total_count: usize,
    smtp_tokens: Vec<Object>,
}

impl Object {
    /// `None`: it is no active SMTP token.
    fn new(server_id: u32, token: &TokenInfo) -> Option<Self> {
        let active = token.kind == TokenKind::Smtp && token.revoked.is_none();
        Some(Self {
            id: token.id.filter(|_| active)?,
            server_id,
            message_stream: token.stream.as_deref().unwrap_or_default().to_owned(),
            name: token.name.clone(),
            access_key: token.access_key.as_deref().unwrap_or_default().to_owned(),
            created_at: token.created.map(rfc3339),
            last_used_at: token.usage.last_used().map(rfc3339),
            secret_key: None,
        })
    }
}

async fn list(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = server_of(&api, &ask.query)?;
    let stream = ask.query.text("messageStream");
    let tokens = api.settings.tokens(Some(server))?;
    let objects = tokens.iter().filter_map(|t| Object::new(server, t));
    let smtp_tokens: Vec<Object> = objects
        .filter(|o| stream.is_none_or(|id| o.message_stream == id))
        .collect();
    reply(&List {
        total_count: smtp_tokens.len(),
        smtp_tokens,
    })
}

async fn create(api: Api, ask: Ask) -> Result<String, ApiError> {
    if ask.body.is_empty() {
        return Err(ApiError::new(Code(1452), "No SMTP token data received."));
    }
    let server = server_in(&api, &ask.body)?;
    let new = NewToken {
        kind: Some(TokenKind::Smtp),
        stream: ask.body.word("MessageStream"),
        name: ask.body.text("Name"),
        rate: None,
    };
    let now = api.clock.unix_ms();
    let made = api.settings.create_token(Some(server), &new, now).await?;
    let object = Object::new(server, &made.info);
    let object = object.map(|object| Object {
        secret_key: Some(made.secret),
        ..object
    });
    reply(&object)
}

async fn delete(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = server_of(&api, &ask.query)?;
    let token = api.settings.token(Some(server), ask.id());
    let found = token.ok().and_then(|t| Object::new(server, &t));
    let Some(token) = found else {
        return Err(ApiError::new(Code(1451), "The SMTP token was not found."));
    };
    let now = api.clock.unix_ms();
    api.settings
        .revoke_token(Some(server), token.id, now)
        .await?;
    done(format!("SMTP token {} removed.", token.access_key))
}

fn server_of(api: &Api, query: &Query) -> Result<u32, ApiError> {
    let Some(text) = query.text("serverId") else {
        return Err(ApiError::new(Code(1450), "The 'serverId' is required."));
    };
    known(api, text.parse().ok())
}

fn server_in(api: &Api, body: &Body) -> Result<u32, ApiError> {
    match body.number("ServerID") {
        None => Err(ApiError::new(Code(1455), "The 'ServerID' is required.")),
        Some(id) => known(api, u32::try_from(id).ok()),
    }
}

fn known(api: &Api, id: Option<u32>) -> Result<u32, ApiError> {
    let found = id.filter(|id| api.settings.known(*id).is_ok());
    found.ok_or_else(|| ApiError::new(Code(1453), "The server was not found."))
}

fn specimen_object(secret_key: Option<String>) -> Object {
    Object {
        id: 7,
        server_id: 61,
        message_stream: "outbound".into(),
        name: "web shop".into(),
        access_key: "PH-Zr4u7x9BEdGJmNcQfTjWn".into(),
        created_at: Some(rfc3339(1_772_460_912_000)),
        last_used_at: None,
        secret_key,
    }
}

fn many() -> String {
    specimen(&List {
        total_count: 1,
        smtp_tokens: vec![specimen_object(None)],
    })
}

fn made() -> String {
    let secret = "kXp2s5v8yBEHMbQeThWmZq4t7w9zCFJN";
    specimen(&specimen_object(Some(secret.into())))
}

const NEW_FIELDS: &[Field] = &[
    required("ServerID", Kind::Number, "The server."),
    required("MessageStream", Kind::Text, "The stream that it sends on."),
    field(
        "Name",
        Kind::Text,
        "What it is for; at most 100 characters.",
    ),
];
