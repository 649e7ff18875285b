//! The admin API's routes of accounts: servers, streams, tokens, backup.
//!
//! They need nothing of the running node, so that a command can serve them to itself while no daemon holds the data
//! directory: then and otherwise the same code answers.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use serde::de::DeserializeOwned;

use super::AdminError;
use crate::account::{
    ChangeError, Class, NewToken, Refused, ServerInfo, ServerPatch, Settings, StoreError,
    StreamPatch,
};
use crate::clock::Clock;
use crate::http::wire;

/// What these routes work with. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub settings: Arc<Settings>,
    pub clock: Clock,
}

/// The routes, without any check of who asks.
pub fn routes<S: Clone + Send + Sync + 'static>(desk: Desk) -> Router<S> {
    Router::new()
        .route("/admin/v1/servers", get(servers).post(create_server))
        .route(
            "/admin/v1/servers/{name}",
            get(server).patch(edit_server).delete(delete_server),
        )
        .route(
            "/admin/v1/servers/{name}/streams",
            get(streams).post(create_stream),
        )
        .route("/admin/v1/servers/{name}/streams/{id}", patch(edit_stream))
        .route(
            "/admin/v1/servers/{name}/streams/{id}/archive",
            post(archive_stream),
        )
        .route(
            "/admin/v1/servers/{name}/streams/{id}/unarchive",
            post(unarchive_stream),
        )
        .route(
            "/admin/v1/servers/{name}/tokens",
            get(tokens).post(create_token),
        )
        .route("/admin/v1/servers/{name}/tokens/{id}", delete(revoke_token))
        .route(
            "/admin/v1/account/tokens",
            get(account_tokens).post(create_account_token),
        )
        .route(
            "/admin/v1/account/tokens/{id}",
            delete(revoke_account_token),
        )
        .route("/admin/v1/account/backup", post(backup))
        .with_state(desk)
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Answer<T> = Result<Json<T>, AdminError>;

impl Desk {
    /// By name; else by id, which no name may shadow.
    pub(super) fn find(&self, name: &str) -> Result<Arc<ServerInfo>, AdminError> {
        let snapshot = self.settings.accounts().load();
        let by_id = || snapshot.server(name.parse().ok()?);
        let found = snapshot.server_named(name).or_else(by_id);
        found.cloned().ok_or_else(|| {
            AdminError::NotFound(format!(
                "there is no server `{name}`; `posthaste server ls` lists those there are"
            ))
        })
    }
}

async fn servers(State(desk): State<Desk>) -> Json<wire::Servers> {
    let snapshot = desk.settings.accounts().load();
    let servers = snapshot.servers().map(|s| wire::Server::from(&**s));
    Json(wire::Servers {
        servers: servers.collect(),
    })
}

async fn server(State(desk): State<Desk>, Path(name): Path<String>) -> Answer<wire::Server> {
    Ok(Json(wire::Server::from(&*desk.find(&name)?)))
}

async fn create_server(
    State(desk): State<Desk>,
    body: Body<ServerPatch>,
) -> Result<Response, AdminError> {
    let Json(new) = body?;
    let made = desk
        .settings
        .create_server(&new, desk.clock.unix_ms())
        .await?;
    Ok((StatusCode::CREATED, Json(wire::Server::from(&*made))).into_response())
}

async fn edit_server(
    State(desk): State<Desk>,
    Path(name): Path<String>,
    body: Body<ServerPatch>,
) -> Answer<wire::Server> {
    let Json(patch) = body?;
    let id = desk.find(&name)?.id;
    let edited = desk
        .settings
        .edit_server(id, &patch, desk.clock.unix_ms())
        .await?;
    Ok(Json(wire::Server::from(&*edited)))
}

async fn delete_server(
    State(desk): State<Desk>,
    Path(name): Path<String>,
) -> Result<StatusCode, AdminError> {
    desk.settings.delete_server(desk.find(&name)?.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn streams(State(desk): State<Desk>, Path(name): Path<String>) -> Answer<wire::Streams> {
    let server = desk.find(&name)?;
    let streams = server.streams.iter();
    Ok(Json(wire::Streams {
        streams: streams.map(|s| wire::Stream::of(&server.name, s)).collect(),
    }))
}

async fn create_stream(
    State(desk): State<Desk>,
    Path(name): Path<String>,
    body: Body<wire::NewStream>,
) -> Result<Response, AdminError> {
    let Json(new) = body?;
    let server = desk.find(&name)?;
    let (id, kind, now) = (new.id.as_deref(), new.kind.as_deref(), desk.clock.unix_ms());
    let made = desk
        .settings
        .create_stream(server.id, id, kind, &new.rest, now)
        .await?;
    let made = Json(wire::Stream::of(&server.name, &made));
    Ok((StatusCode::CREATED, made).into_response())
}

async fn edit_stream(
    State(desk): State<Desk>,
    Path((name, id)): Path<(String, String)>,
    body: Body<StreamPatch>,
) -> Answer<wire::Stream> {
    let Json(patch) = body?;
    let (server, now) = (desk.find(&name)?, desk.clock.unix_ms());
    let edited = desk
        .settings
        .edit_stream(server.id, &id, &patch, now)
        .await?;
    Ok(Json(wire::Stream::of(&server.name, &edited)))
}

async fn archive_stream(
    State(desk): State<Desk>,
    Path((name, id)): Path<(String, String)>,
) -> Answer<wire::Stream> {
    let (server, now) = (desk.find(&name)?, desk.clock.unix_ms());
    let archived = desk.settings.archive_stream(server.id, &id, now).await?;
    Ok(Json(wire::Stream::of(&server.name, &archived)))
}

async fn unarchive_stream(
    State(desk): State<Desk>,
    Path((name, id)): Path<(String, String)>,
) -> Answer<wire::Stream> {
    let (server, now) = (desk.find(&name)?, desk.clock.unix_ms());
    let stream = desk.settings.unarchive_stream(server.id, &id, now).await?;
    Ok(Json(wire::Stream::of(&server.name, &stream)))
}

async fn tokens(State(desk): State<Desk>, Path(name): Path<String>) -> Answer<wire::Tokens> {
    let server = desk.find(&name)?;
    listed(&desk, Some(&server))
}

async fn account_tokens(State(desk): State<Desk>) -> Answer<wire::Tokens> {
    listed(&desk, None)
}

fn listed(desk: &Desk, server: Option<&ServerInfo>) -> Answer<wire::Tokens> {
    let tokens = desk.settings.tokens(server.map(|s| s.id))?;
    let name = server.map(|s| &*s.name);
    let listed = tokens.iter().filter_map(|t| wire::Token::of(name, t));
    Ok(Json(wire::Tokens {
        tokens: listed.collect(),
    }))
}

async fn create_token(
    State(desk): State<Desk>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, AdminError> {
    let server = desk.find(&name)?;
    make(&desk, Some(&server), &body).await
}

async fn create_account_token(
    State(desk): State<Desk>,
    body: Bytes,
) -> Result<Response, AdminError> {
    make(&desk, None, &body).await
}

async fn make(
    desk: &Desk,
    server: Option<&ServerInfo>,
    body: &[u8],
) -> Result<Response, AdminError> {
    let new: NewToken = optional(body)?;
    let now = desk.clock.unix_ms();
    let made = desk
        .settings
        .create_token(server.map(|s| s.id), &new, now)
        .await?;
    let token = wire::Token::made(server.map(|s| &*s.name), &made);
    Ok((StatusCode::CREATED, Json(token)).into_response())
}

async fn revoke_token(
    State(desk): State<Desk>,
    Path((name, id)): Path<(String, u32)>,
) -> Result<StatusCode, AdminError> {
    let server = desk.find(&name)?;
    revoke(&desk, Some(server.id), id).await
}

async fn revoke_account_token(
    State(desk): State<Desk>,
    Path(id): Path<u32>,
) -> Result<StatusCode, AdminError> {
    revoke(&desk, None, id).await
}

async fn revoke(desk: &Desk, server: Option<u32>, id: u32) -> Result<StatusCode, AdminError> {
    desk.settings
        .revoke_token(server, id, desk.clock.unix_ms())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn backup(
    State(desk): State<Desk>,
    body: Body<wire::Backup>,
) -> Result<StatusCode, AdminError> {
    let Json(wire::Backup { file }) = body?;
    let file = PathBuf::from(file);
    if !file.is_absolute() {
        return Err(AdminError::Invalid(
            "file is an absolute path, as the daemon sees it".into(),
        ));
    }
    desk.settings.backup(&file).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn optional<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, AdminError> {
    match body.is_empty() {
        true => Ok(T::default()),
        false => serde_json::from_slice(body).map_err(|e| AdminError::Invalid(e.to_string())),
    }
}

impl From<Refused> for AdminError {
    fn from(refused: Refused) -> Self {
        match refused.rule.class() {
            Class::NotFound => Self::NotFound(refused.message),
            Class::Conflict => Self::Conflict(refused.message),
            Class::Invalid => Self::Invalid(refused.message),
            Class::Unavailable => Self::Unavailable(refused.message),
        }
    }
}

impl From<ChangeError> for AdminError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(message) => Self::Conflict(message),
            StoreError::Sql { .. } => Self::Unavailable(error.to_string()),
            StoreError::Unusable { .. }
            | StoreError::Key(_)
            | StoreError::NoKey(_)
            | StoreError::KeyFile(_) => Self::Failed(error.to_string()),
        }
    }
}
