//! The admin API: operating a running node. The same routes serve the admin socket (`DATA_DIR/admin.sock`, whose mode is
//! the permission) and the HTTP listener (with an `[admin]` token as `Authorization: Bearer TOKEN`).
//!
//! | Route | Body | Answer |
//! |---|---|---|
//! | `GET /admin/v1/status` | | 200 `Status` |
//! | `GET /admin/v1/queues?after_pool=P&after_domain=D&limit=N` | | 200 `Queues`: a page, N at most 1000 |
//! | `GET /admin/v1/queue/census?by=B&sort=S&after_pool=P&after_name=N&limit=L` | | 200 `Census`: a page, L at most 10,000; B `domain`, `site`, `stream`, `server`, `source` or `pool`, S `name`, `size`, `age` or `outcomes` |
//! | `GET /admin/v1/explain?domain=D` or `?message=ID` | | 200 `Explanations` |
//! | `POST /admin/v1/queue/retry` `bounce` `cancel` | `Selector` | 200 `Affected`: ready, deferred, in_flight |
//! | `POST /admin/v1/queue/suspend` `reroute` | `Selector` | 200 `Directed`: it stands, and what it found |
//! | `POST /admin/v1/queue/resume` | `Selector` | 200 `Resumed`: the directives that have ended |
//! | `GET /admin/v1/queue/directives` | | 200 `Directives` |
//! | `GET /admin/v1/queue/running/{id}` | | as the verb that was answered 202 `Work` because it takes longer than 20 s; or 202 again |
//! | `GET /admin/v1/trace?domain=D&host=H&source=S&message=ID` | | 200, `TraceLine`s as they come, one a line, until the client goes |
//! | `GET /admin/v1/sources` | | 200 `Sources` |
//! | `POST /admin/v1/sources/{name}/check` | | 200 `Check`: the DNS is asked anew |
//! | `POST /admin/v1/sources/{name}/drain` | `NewDrain` | 200 `Source`, durably drained |
//! | `POST /admin/v1/sources/{name}/resume` | | 200 `Source` |
//! | `POST /admin/v1/erasures` | `NewErasure` | 202 `Erasure`: it goes on by itself, one at a time |
//! | `GET /admin/v1/erasures/{id}` | | 200 `Erasure` |
//! | `POST /admin/v1/imports` | | 202 `Import`: a session, one at a time |
//! | `GET` `DELETE /admin/v1/imports/{id}` | | 200 `Import`; `DELETE`: 204 |
//! | `POST /admin/v1/imports/{id}/messages` | a line `ImportedMessage`, then content | 200 `Imported` |
//! | `POST /admin/v1/spool/compact` | | 200 `Begun` |
//! | `GET /admin/v1/readers` | | 200 `Readers` |
//! | `POST /admin/v1/readers/{name}/rebuild` | | 202 `Reader`: it goes on by itself; `GET /admin/v1/readers` tells how far it is |
//! | `GET /admin/v1/servers` | | 200 `Servers` |
//! | `POST /admin/v1/servers` | `ServerPatch` | 201 `Server` |
//! | `GET` `PATCH` `DELETE /admin/v1/servers/{name}` | `PATCH`: `ServerPatch` | 200 `Server`; `DELETE`: 204 |
//! | `GET` `POST /admin/v1/servers/{name}/streams` | `POST`: `NewStream` | 200 `Streams`; 201 `Stream` |
//! | `PATCH /admin/v1/servers/{name}/streams/{id}` | `StreamPatch` | 200 `Stream` |
//! | `POST /admin/v1/servers/{name}/streams/{id}/archive` `unarchive` | | 200 `Stream` |
//! | `GET /admin/v1/servers/{name}/tokens` | | 200 `Tokens` |
//! | `POST /admin/v1/servers/{name}/tokens` | `NewToken` or none | 201 `Token`, with its text, this once |
//! | `DELETE /admin/v1/servers/{name}/tokens/{id}` | | 204 |
//! | `GET` `POST /admin/v1/account/tokens`, `DELETE …/{id}` | as for servers | as for servers |
//! | `GET` `POST /admin/v1/domains` | `POST`: `DomainPatch` | 200 `Domains`; 201 `Domain` |
//! | `GET` `PATCH` `DELETE /admin/v1/domains/{name}` | `PATCH`: `DomainPatch` | 200 `Domain`; `DELETE`: 204 |
//! | `POST /admin/v1/domains/{name}/verify` `rotate-dkim` | | 200 `Domain` |
//! | `POST /admin/v1/domains/{name}/check` | | 200 `Check`: the DNS is asked anew |
//! | `GET` `POST /admin/v1/senders` | `POST`: `SignaturePatch` | 200 `Senders`; 201 `SenderSignature` |
//! | `GET` `PATCH` `DELETE /admin/v1/senders/{address}` | `PATCH`: `SignaturePatch` | 200 `SenderSignature`; `DELETE`: 204 |
//! | `POST /admin/v1/senders/{address}/resend` | | 200 `SenderSignature` |
//! | `GET /admin/v1/suppressions?server=S&stream=T&reason=R&origin=O&address=A` | | 200, `Suppression`s, one a line |
//! | `POST /admin/v1/suppressions` `suppressions/delete` | `SuppressionsChange` | 200 `SuppressionsChanged` |
//! | `GET /admin/v1/webhooks?server=S` | | 200 `Webhooks` |
//! | `POST /admin/v1/servers/{name}/webhooks` | `WebhookPatch` | 201 `Webhook`, with its signing secret, this once |
//! | `GET` `PATCH` `DELETE /admin/v1/webhooks/{key}` | `PATCH`: `WebhookPatch` | 200 `Webhook`; `DELETE`: 204 |
//! | `POST /admin/v1/webhooks/{key}/verify` | | 200 `WebhookVerified` |
//! | `POST /admin/v1/webhooks/{key}/replay` | `WebhookReplay` | 200 `Webhook`: it is durably under way |
//! | `POST /admin/v1/webhooks/{key}/resume` | `WebhookResume` | 200 `Webhook` |
//! | `POST /admin/v1/account/backup` | `Backup` | 204, the copy is on disk |
//!
//! The types are those of `wire.rs`. Every other answer is a `Failure`: 400 `invalid`, 401 `unauthorized`, 404
//! `not_found`, 409 `conflict`, 503 `unavailable`, 500 `failed`. A selection that matches nothing is no failure: the answer
//! then counts zero.
//!
//! What concerns the queue is asked of [`AdminBackend`], which the node implements; accounts (`accounts.rs`) are the account
//! store's.

pub mod accounts;
pub mod census;
mod checks;
pub mod control;
pub(super) mod identities;
pub mod imports;
mod readers;
mod sources;
pub(super) mod suppressions;
pub mod trace;
pub(super) mod webhooks;
pub(super) mod work;

use std::future::Future;

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::{App, wire};
use crate::mail::{Domain, MessageId};
use census::CensusPage;
use control::{Command, NewDirective, Selection};
use imports::Upload;
use trace::{Hearing, TraceFilter};

/// The running node, as the admin API needs it.
pub trait AdminBackend: Send + Sync + 'static {
    /// `Err`: why no mail is accepted now, in a sentence.
    fn readiness(&self) -> Result<(), String>;

    /// What an operator should look at although mail goes on.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
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

    /// What the last attempts for a domain came to, oldest first.
    fn attempts_for(
        &self,
        domain: Domain,
    ) -> impl Future<Output = Result<Vec<wire::Reason>, AdminError>> + Send;

    /// The live recipients of a message; empty when there is none.
    fn explain_message(
        &self,
        message: MessageId,
    ) -> impl Future<Output = Result<Vec<wire::Explanation>, AdminError>> + Send;

    /// Who waits, added up.
    fn census(
        &self,
        page: CensusPage,
    ) -> impl Future<Output = Result<wire::Census, AdminError>> + Send;

    /// Retries, bounces or cancels.
    fn operate(
        &self,
        command: Command,
        selection: Selection,
    ) -> impl Future<Output = Result<wire::Affected, AdminError>> + Send;

    /// Suspends or reroutes. `Ok`: it is durable, and obeyed.
    fn direct(
        &self,
        directive: NewDirective,
    ) -> impl Future<Output = Result<wire::Directed, AdminError>> + Send;

    /// Ends directives: the one of the id, or each whose selection names all that this one names.
    fn resume(
        &self,
        which: Result<u32, Selection>,
        reason: Option<String>,
    ) -> impl Future<Output = Result<wire::Resumed, AdminError>> + Send;

    fn directives(&self) -> impl Future<Output = Result<Vec<wire::Directive>, AdminError>> + Send;

    /// Follows the dialogues of delivery from now on.
    fn trace(&self, filter: TraceFilter) -> Result<Hearing, AdminError>;

    /// Begins to erase what the spool holds of somebody.
    fn erase(&self, what: &wire::NewErasure) -> Result<wire::Erasure, AdminError>;

    /// How it goes.
    fn erasure(&self, id: u64) -> Result<wire::Erasure, AdminError>;

    /// Begins to take messages over from another node.
    fn begin_import(&self) -> Result<wire::Import, AdminError>;

    fn look_at_import(&self, id: u64) -> Result<wire::Import, AdminError>;

    fn end_import(&self, id: u64) -> Result<(), AdminError>;

    /// Takes one message. `Ok`: it is durable, if it was not just to be checked.
    fn import(
        &self,
        id: u64,
        message: wire::ImportedMessage,
        content: Upload,
    ) -> impl Future<Output = Result<wire::Imported, AdminError>> + Send;

    /// The egress sources, in the order of the configuration.
    fn sources(&self) -> impl Future<Output = Result<Vec<wire::Source>, AdminError>> + Send;

    /// Empties a source. `Ok`: it stays so over restarts.
    fn drain_source(
        &self,
        name: String,
        drain: wire::NewDrain,
    ) -> impl Future<Output = Result<wire::Source, AdminError>> + Send;

    /// Takes that back.
    fn resume_source(
        &self,
        name: String,
    ) -> impl Future<Output = Result<wire::Source, AdminError>> + Send;

    /// What a domain needs in the DNS, and what is there.
    fn check_domain(&self, id: u32)
    -> impl Future<Output = Result<wire::Check, AdminError>> + Send;

    /// The same of an egress source.
    fn check_source(
        &self,
        name: String,
    ) -> impl Future<Output = Result<wire::Check, AdminError>> + Send;

    /// A round of compaction at once. `false`: one was asked for already.
    fn compact(&self) -> Result<bool, AdminError>;

    /// The readers of the event log.
    fn readers(&self) -> Vec<wire::Reader>;

    /// Begins to make one again from base and log.
    fn rebuild_reader(&self, name: &str) -> Result<wire::Reader, AdminError>;
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
        .merge(control::routes())
        .merge(census::routes())
        .merge(imports::routes())
        .merge(trace::routes())
        .merge(sources::routes())
        .merge(checks::routes())
        .merge(readers::routes())
        .route("/admin/v1/erasures", post(erase))
        .route("/admin/v1/erasures/{id}", get(erasure))
        .route("/admin/v1/spool/compact", post(compact))
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
            let domain = parse_domain(&domain)?;
            explanations.queues = app.backend.explain_domain(domain.clone()).await?;
            explanations.attempts_told = app.backend.attempts_for(domain).await?;
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

async fn compact<B: AdminBackend>(
    State(app): State<App<B>>,
) -> Result<Json<wire::Begun>, AdminError> {
    let begun = app.backend.compact()?;
    Ok(Json(wire::Begun { begun }))
}

async fn erase<B: AdminBackend>(
    State(app): State<App<B>>,
    body: Result<Json<wire::NewErasure>, JsonRejection>,
) -> Result<Response, AdminError> {
    let Json(what) = body?;
    // Not logged: it names somebody who is to be forgotten.
    let erasure = app.backend.erase(&what)?;
    Ok((StatusCode::ACCEPTED, Json(erasure)).into_response())
}

async fn erasure<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(id): Path<u64>,
) -> Result<Json<wire::Erasure>, AdminError> {
    app.backend.erasure(id).map(Json)
}

fn parse_domain(text: &str) -> Result<Domain, AdminError> {
    Domain::parse(text).map_err(|_| AdminError::Invalid(format!("`{text}` is no domain")))
}

fn parse_message(text: &str) -> Result<MessageId, AdminError> {
    let wrong =
        |_| AdminError::Invalid(format!("`{text}` is no message id (a UUID, as in the 250)"));
    text.parse().map_err(wrong)
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
