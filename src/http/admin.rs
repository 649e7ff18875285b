//! The admin API: operating a running node. The same routes serve the admin socket (`DATA_DIR/admin.sock`, whose mode is
//! the permission) and the HTTP listener (with an `[admin]` token as `Authorization: Bearer TOKEN`).
//!
//! | Route | Body | Answer |
//! |---|---|---|
//! | `GET /admin/v1/status` | | 200 `Status` |
//! | `GET /admin/v1/queues?after_pool=P&after_domain=D&limit=N` | | 200 `Queues`: a page, N at most 1000 |
//! | `GET /admin/v1/explain?domain=D` or `?message=ID` | | 200 `Explanations` |
//! | `POST /admin/v1/queue/retry` `bounce` `cancel` | `Selector` | 200 `Affected`: ready, deferred, in_flight |
//! | `GET /admin/v1/servers` | | 200 `Servers` |
//! | `POST /admin/v1/servers` | `NewServer` | 201 `Server` |
//! | `GET /admin/v1/servers/{name}/tokens` | | 200 `Tokens` |
//! | `POST /admin/v1/servers/{name}/tokens` | `NewToken` or none | 201 `Token`, with its text, this once |
//! | `DELETE /admin/v1/servers/{name}/tokens/{id}` | | 204 |
//!
//! The types are those of `wire.rs`. Every other answer is a `Failure`: 400 `invalid`, 401 `unauthorized`, 404
//! `not_found`, 409 `conflict`, 503 `unavailable`, 500 `failed`. A selection that matches nothing is no failure: the answer
//! then counts zero.
//!
//! What concerns the queue is asked of [`AdminBackend`], which the node implements; servers and tokens are the account
//! store's.

use std::future::Future;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Deserialize;

use super::{App, wire};
use crate::account::store::{message_id_text, senders_text};
use crate::account::{NewServer, ServerRow, StoreError, TokenRow};
use crate::clock::rfc3339;
use crate::config::{MessageIdPolicy, SendersPolicy};
use crate::mail::{Domain, MessageId};

/// The running node, as the admin API needs it.
pub trait AdminBackend: Send + Sync + 'static {
    /// `Err`: why no mail is accepted now, in a sentence.
    fn readiness(&self) -> Result<(), String>;

    fn status(&self) -> impl Future<Output = Result<wire::Status, AdminError>> + Send;

    /// Queues in the order of pool (as configured) and domain, from behind `after`.
    fn queues(
        &self,
        after: Option<wire::QueueKey>,
        count_max: usize,
    ) -> impl Future<Output = Result<Vec<wire::Queue>, AdminError>> + Send;

    /// The queues of a domain, one per pool.
    fn explain_domain(
        &self,
        domain: Domain,
    ) -> impl Future<Output = Result<Vec<wire::Queue>, AdminError>> + Send;

    /// The live recipients of a message; empty when there is none.
    fn explain_message(
        &self,
        message: MessageId,
    ) -> impl Future<Output = Result<Vec<wire::Explanation>, AdminError>> + Send;

    fn operate(
        &self,
        verb: Verb,
        selection: Selection,
    ) -> impl Future<Output = Result<wire::Affected, AdminError>> + Send;
}

/// What an operator does to waiting recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Ready now.
    Retry,
    /// *Bounced*, cause `admin`.
    Bounce,
    /// *Cancelled*.
    Cancel,
}

/// Which recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    All,
    Domain(Domain),
    Message(MessageId),
    Recipient(MessageId, RecipientRef),
}

/// One recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientRef {
    Number(u16),
    /// As in the envelope.
    Address(String),
}

/// Why an admin request was not done. Each variant is a status code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// Not now: starting, stopping, or too busy.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Failed(String),
}

/// The routes, without any check of who asks.
pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new()
        .route("/admin/v1/status", get(status))
        .route("/admin/v1/queues", get(queues))
        .route("/admin/v1/explain", get(explain))
        .route("/admin/v1/queue/retry", post(retry))
        .route("/admin/v1/queue/bounce", post(bounce))
        .route("/admin/v1/queue/cancel", post(cancel))
        .route("/admin/v1/servers", get(servers).post(create_server))
        .route(
            "/admin/v1/servers/{name}/tokens",
            get(tokens).post(create_token),
        )
        .route("/admin/v1/servers/{name}/tokens/{id}", delete(revoke_token))
}

async fn status<B: AdminBackend>(
    State(app): State<App<B>>,
) -> Result<Json<wire::Status>, AdminError> {
    app.backend.status().await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueuesQuery {
    after_pool: Option<String>,
    after_domain: Option<String>,
    limit: Option<usize>,
}

async fn queues<B: AdminBackend>(
    State(app): State<App<B>>,
    query: Result<Query<QueuesQuery>, QueryRejection>,
) -> Result<Json<wire::Queues>, AdminError> {
    let Query(query) = query?;
    let after = match (query.after_pool, query.after_domain) {
        (None, None) => None,
        (Some(pool), Some(domain)) => Some(wire::QueueKey { pool, domain }),
        _ => {
            return Err(AdminError::Invalid(
                "give both after_pool and after_domain, or neither".into(),
            ));
        }
    };
    let limit = query
        .limit
        .unwrap_or(QUEUES_PAGE_MAX)
        .clamp(1, QUEUES_PAGE_MAX);
    let queues = app.backend.queues(after, limit).await?;
    let full = queues.len() >= limit;
    let last = queues.last().filter(|_| full);
    let next = last.map(|queue| wire::QueueKey {
        pool: queue.pool.clone(),
        domain: queue.domain.clone(),
    });
    Ok(Json(wire::Queues { queues, next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    domain: Option<String>,
    message: Option<String>,
}

async fn explain<B: AdminBackend>(
    State(app): State<App<B>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<wire::Explanations>, AdminError> {
    let Query(query) = query?;
    let mut explanations = wire::Explanations::default();
    match (query.domain, query.message) {
        (Some(domain), None) => {
            explanations.queues = app.backend.explain_domain(parse_domain(&domain)?).await?;
        }
        (None, Some(message)) => {
            explanations.recipients = app
                .backend
                .explain_message(parse_message(&message)?)
                .await?;
        }
        _ => return Err(AdminError::Invalid("give either domain or message".into())),
    }
    Ok(Json(explanations))
}

type SelectorBody = Result<Json<wire::Selector>, JsonRejection>;
type OperateResult = Result<Json<wire::Affected>, AdminError>;

async fn retry<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    operate(&app, Verb::Retry, body).await
}

async fn bounce<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    operate(&app, Verb::Bounce, body).await
}

async fn cancel<B: AdminBackend>(State(app): State<App<B>>, body: SelectorBody) -> OperateResult {
    operate(&app, Verb::Cancel, body).await
}

async fn operate<B: AdminBackend>(app: &App<B>, verb: Verb, body: SelectorBody) -> OperateResult {
    let Json(selector) = body?;
    let selection = Selection::try_from(selector)?;
    tracing::info!(?verb, ?selection, "an operator acts on the queue");
    app.backend.operate(verb, selection).await.map(Json)
}

impl TryFrom<wire::Selector> for Selection {
    type Error = AdminError;

    fn try_from(selector: wire::Selector) -> Result<Self, AdminError> {
        let wire::Selector {
            all,
            domain,
            message,
            recipient,
        } = selector;
        match (all, domain, message, recipient) {
            (true, None, None, None) => Ok(Self::All),
            (false, Some(domain), None, None) => parse_domain(&domain).map(Self::Domain),
            (false, None, Some(message), None) => parse_message(&message).map(Self::Message),
            (false, None, Some(message), Some(recipient)) => {
                let recipient = match recipient.parse() {
                    Ok(number) => RecipientRef::Number(number),
                    Err(_) => RecipientRef::Address(recipient),
                };
                Ok(Self::Recipient(parse_message(&message)?, recipient))
            }
            _ => Err(AdminError::Invalid(
                "give exactly one of all, domain, message; recipient goes with message".into(),
            )),
        }
    }
}

fn parse_domain(text: &str) -> Result<Domain, AdminError> {
    Domain::parse(text).map_err(|_| AdminError::Invalid(format!("`{text}` is no domain")))
}

fn parse_message(text: &str) -> Result<MessageId, AdminError> {
    let wrong =
        |_| AdminError::Invalid(format!("`{text}` is no message id (a UUID, as in the 250)"));
    text.parse().map_err(wrong)
}

async fn servers<B: AdminBackend>(
    State(app): State<App<B>>,
) -> Result<Json<wire::Servers>, AdminError> {
    let rows = app.settings.servers().await?;
    let servers = rows.iter().map(wire::Server::from).collect();
    Ok(Json(wire::Servers { servers }))
}

async fn create_server<B: AdminBackend>(
    State(app): State<App<B>>,
    body: Result<Json<wire::NewServer>, JsonRejection>,
) -> Result<Response, AdminError> {
    let Json(new) = body?;
    let row = app
        .settings
        .create_server(&NewServer::try_from(new)?, app.clock.unix_ms())
        .await?;
    Ok((StatusCode::CREATED, Json(wire::Server::from(&row))).into_response())
}

async fn tokens<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
) -> Result<Json<wire::Tokens>, AdminError> {
    let rows = app.settings.tokens(Some(&name)).await?;
    let tokens = rows.iter().map(|row| token(row, &name, None)).collect();
    Ok(Json(wire::Tokens { tokens }))
}

async fn create_token<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, AdminError> {
    let new: wire::NewToken = match body.is_empty() {
        true => wire::NewToken::default(),
        false => serde_json::from_slice(&body).map_err(|e| AdminError::Invalid(e.to_string()))?,
    };
    let now = app.clock.unix_ms();
    let (row, text) = app
        .settings
        .create_token(Some(&name), new.stream.as_deref(), now)
        .await?;
    Ok((StatusCode::CREATED, Json(token(&row, &name, Some(text)))).into_response())
}

async fn revoke_token<B: AdminBackend>(
    State(app): State<App<B>>,
    Path((name, id)): Path<(String, u32)>,
) -> Result<StatusCode, AdminError> {
    // A token is named together with its owner: the wrong owner and an unknown id look the same.
    let rows = app.settings.tokens(Some(&name)).await?;
    if !rows
        .iter()
        .any(|row| row.id == id && row.revoked_unix_ms.is_none())
    {
        return Err(AdminError::NotFound(format!(
            "server `{name}` has no token {id} that could be revoked"
        )));
    }
    app.settings.revoke_token(id, app.clock.unix_ms()).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<&ServerRow> for wire::Server {
    fn from(row: &ServerRow) -> Self {
        Self {
            id: row.id,
            name: row.name.clone(),
            declared: row.declared,
            senders: senders_text(row.senders).into(),
            message_id: message_id_text(row.message_id).into(),
            delivery_type: if row.sandbox { "sandbox" } else { "live" }.into(),
            created_at: rfc3339(row.created_unix_ms),
        }
    }
}

/// `text` only for the answer that made it.
pub fn token(row: &TokenRow, server: &str, text: Option<String>) -> wire::Token {
    wire::Token {
        id: row.id,
        server: server.into(),
        stream: row.stream.clone(),
        created_at: rfc3339(row.created_unix_ms),
        revoked_at: row.revoked_unix_ms.map(rfc3339),
        token: text,
    }
}

impl TryFrom<wire::NewServer> for NewServer {
    type Error = AdminError;

    fn try_from(new: wire::NewServer) -> Result<Self, AdminError> {
        let wrong =
            |key: &str, words: &str| Err(AdminError::Invalid(format!("{key} is one of {words}")));
        if new.name.is_empty()
            || new.name.len() > SERVER_NAME_MAX
            || new.name.chars().any(char::is_control)
        {
            return wrong("name", "1 to 100 octets without control characters");
        }
        Ok(Self {
            senders: match new.senders.as_deref() {
                None | Some("verified") => SendersPolicy::Verified,
                Some("any") => SendersPolicy::Any,
                Some(_) => return wrong("senders", "verified, any"),
            },
            message_id: match new.message_id.as_deref() {
                None | Some("keep") => MessageIdPolicy::Keep,
                Some("replace") => MessageIdPolicy::Replace,
                Some(_) => return wrong("message_id", "keep, replace"),
            },
            sandbox: match new.delivery_type.as_deref() {
                None | Some("live") => false,
                Some("sandbox") => true,
                Some(_) => return wrong("delivery_type", "live, sandbox"),
            },
            name: new.name,
        })
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let (status, error) = match &self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        let message = self.to_string();
        let error = error.into();
        (status, Json(wire::Failure { error, message })).into_response()
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(message) => Self::Conflict(message),
            StoreError::NotFound(message) => Self::NotFound(message),
            StoreError::Unusable { .. } | StoreError::Key(_) | StoreError::Sql(_) => {
                Self::Failed(error.to_string())
            }
        }
    }
}

impl From<JsonRejection> for AdminError {
    fn from(rejection: JsonRejection) -> Self {
        Self::Invalid(rejection.body_text())
    }
}

impl From<QueryRejection> for AdminError {
    fn from(rejection: QueryRejection) -> Self {
        Self::Invalid(rejection.body_text())
    }
}

const QUEUES_PAGE_MAX: usize = 1_000;
const SERVER_NAME_MAX: usize = 100;
