//! HTTP: the Postmark-compatible API, health, metrics and the admin API, on the `[http]` listener and on the admin socket.
//!
//! Promises: a request costs bounded time and memory whoever sends it (limits below and in `listener.rs`); metrics and
//! admin routes answer only to whom the configuration names. Deliberately does not know the other protocol, and nothing
//! of queues: it asks [`AdminBackend`].

pub mod admin;
mod api;
mod confirm;
mod head;
pub mod listener;
pub mod wire;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use subtle::ConstantTimeEq;

use crate::account::{Outside, Settings};
use crate::clock::Clock;
use crate::config::{Admin, Cidr};
use crate::limits;
use crate::metrics::{self, Exposition};
use crate::readers::activity::Activity;
use crate::readers::bounces::Bounces;
use crate::readers::statistics::Statistics;
use crate::readers::suppressions::Suppressions;
use crate::readers::webhooks::Webhooks;

use api::Api;

pub use admin::accounts::{self, Desk};
pub use admin::census::{CensusBy, CensusPage, CensusSort};
pub use admin::control::{Command, NewDirective, RecipientRef, Selection, Verb};
pub use admin::imports::Upload;
pub use admin::trace::{Hearing, TraceFilter};
pub use admin::{AdminBackend, AdminError};
use admin::{identities, suppressions};
pub use api::email::outbox::{self, Outbox};
pub use api::email::{Door, Taking};
pub use api::removals::{Removal, Removals, Requesting};
pub use listener::{ListenError, Listener};

/// What the routes share. Cheap to clone.
pub struct App<B> {
    backend: Arc<B>,
    settings: Arc<Settings>,
    outside: Arc<dyn Outside>,
    door: Arc<dyn Door>,
    outbox: Arc<dyn Outbox>,
    removals: Arc<dyn Removals>,
    suppressions: Arc<Suppressions>,
    bounces: Bounces,
    statistics: Statistics,
    activity: Activity,
    webhooks: Arc<Webhooks>,
    exposition: Exposition,
    access: Arc<ArcSwap<Access>>,
    works: Arc<admin::work::Works>,
    clock: Clock,
}

impl<B> Clone for App<B> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            settings: self.settings.clone(),
            outside: self.outside.clone(),
            door: self.door.clone(),
            outbox: self.outbox.clone(),
            removals: self.removals.clone(),
            suppressions: self.suppressions.clone(),
            bounces: self.bounces.clone(),
            statistics: self.statistics.clone(),
            activity: self.activity.clone(),
            webhooks: self.webhooks.clone(),
            exposition: self.exposition.clone(),
            access: self.access.clone(),
            works: self.works.clone(),
            clock: self.clock,
        }
    }
}

/// What an [`App`] is made of.
pub struct Parts<B> {
    pub backend: Arc<B>,
    pub settings: Arc<Settings>,
    pub outside: Arc<dyn Outside>,
    pub door: Arc<dyn Door>,
    pub outbox: Arc<dyn Outbox>,
    pub removals: Arc<dyn Removals>,
    pub suppressions: Arc<Suppressions>,
    pub bounces: Bounces,
    pub statistics: Statistics,
    pub activity: Activity,
    pub webhooks: Arc<Webhooks>,
    pub exposition: Exposition,
    pub clock: Clock,
}

impl<B: AdminBackend> App<B> {
    pub fn new(parts: Parts<B>, admin: &Admin) -> Self {
        Self {
            backend: parts.backend,
            settings: parts.settings,
            outside: parts.outside,
            door: parts.door,
            outbox: parts.outbox,
            removals: parts.removals,
            suppressions: parts.suppressions,
            bounces: parts.bounces,
            statistics: parts.statistics,
            activity: parts.activity,
            webhooks: parts.webhooks,
            exposition: parts.exposition,
            access: Arc::new(ArcSwap::from_pointee(Access::new(admin))),
            works: Arc::new(admin::work::Works::new(limits::WORK_WAIT)),
            clock: parts.clock,
        }
    }

    /// SIGHUP: tokens and networks of a new configuration.
    pub fn reload(&self, admin: &Admin) {
        self.access.store(Arc::new(Access::new(admin)));
    }

    /// What the `[http]` listener serves.
    pub fn http_routes(&self) -> Router {
        let admin = self.admin_routes();
        let admin = admin.route_layer(from_fn_with_state(self.clone(), admin_only));
        let metrics = Router::new()
            .route("/metrics", get(exposition))
            .route_layer(from_fn_with_state(self.clone(), metrics_only));
        let confirm = confirm::routes(self.desk());
        let routes = self.health_routes().merge(admin).merge(metrics);
        let routes = routes.merge(confirm);
        let api = Api::new(
            self.settings.clone(),
            self.outside.clone(),
            (
                self.door.clone(),
                self.outbox.clone(),
                self.removals.clone(),
            ),
            self.suppressions.clone(),
            (
                self.bounces.clone(),
                self.statistics.clone(),
                self.webhooks.clone(),
            ),
            self.activity.clone(),
            self.clock,
        );
        let routes =
            routes.fallback(
                async move |request: Request| match api::knows(request.uri().path()) {
                    true => api::handle(api, request).await,
                    false => nothing_here().into_response(),
                },
            );
        bounded(routes).with_state(self.clone())
    }

    /// What the admin socket serves: who may open it may do everything.
    pub fn admin_socket_routes(&self) -> Router {
        let metrics = Router::new().route("/metrics", get(exposition));
        let admin = self.admin_routes();
        let routes = self.health_routes().merge(admin).merge(metrics);
        bounded(routes.fallback(async || nothing_here())).with_state(self.clone())
    }

    fn admin_routes(&self) -> Router<Self> {
        let identities = identities::routes(self.desk(), self.outside.clone());
        let accounts = accounts::routes(self.desk());
        let suppressions = suppressions::routes(self.settings.clone(), self.suppressions.clone());
        let webhooks = admin::webhooks::routes(self.desk(), self.webhooks.clone());
        admin::routes()
            .merge(accounts)
            .merge(webhooks)
            .merge(identities)
            .merge(suppressions)
    }

    fn desk(&self) -> Desk {
        Desk {
            settings: self.settings.clone(),
            clock: self.clock,
        }
    }

    fn health_routes(&self) -> Router<Self> {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readiness))
    }
}

fn bounded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .layer(DefaultBodyLimit::max(limits::HTTP_ADMIN_BODY_MAX))
        .layer(from_fn(counted))
}

fn nothing_here() -> AdminError {
    AdminError::NotFound("there is nothing here".into())
}

/// Where a request came from. Put into each by the listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// Who may do what over HTTP.
struct Access {
    tokens: Vec<String>,
    metrics_from: Vec<Cidr>,
}

impl Access {
    fn new(admin: &Admin) -> Self {
        Self {
            tokens: admin.tokens.iter().map(|t| t.expose().to_owned()).collect(),
            metrics_from: admin.metrics_from.clone(),
        }
    }

    /// Compares with every token, so that the time does not tell which one was near.
    fn has_token(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let bytes = value.as_bytes();
        let Some((scheme, given)) = bytes.split_at_checked(BEARER.len()) else {
            return false;
        };
        let given = given.trim_ascii();
        let same = |token: &String| token.as_bytes().ct_eq(given);
        let found = self
            .tokens
            .iter()
            .map(same)
            .fold(0u8, |found, same| found | same.unwrap_u8());
        scheme.eq_ignore_ascii_case(BEARER) && found == 1
    }

    fn may_read_metrics(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| {
            self.metrics_from
                .iter()
                .any(|network| network.contains(peer))
        })
    }
}

async fn admin_only<B: AdminBackend>(
    State(app): State<App<B>>,
    request: Request,
    next: Next,
) -> Response {
    if app.access.load().has_token(request.headers()) {
        return next.run(request).await;
    }
    let message = "this needs a token of [admin] tokens: Authorization: Bearer TOKEN";
    let failure = failure(StatusCode::UNAUTHORIZED, "unauthorized", message);
    ([(header::WWW_AUTHENTICATE, "Bearer")], failure).into_response()
}

async fn metrics_only<B: AdminBackend>(
    State(app): State<App<B>>,
    request: Request,
    next: Next,
) -> Response {
    let access = app.access.load();
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0);
    if access.may_read_metrics(peer) || access.has_token(request.headers()) {
        drop(access);
        return next.run(request).await;
    }
    let message = "metrics are for the networks in [admin] metrics_from and for admin tokens";
    failure(StatusCode::FORBIDDEN, "unauthorized", message)
}

async fn exposition<B: AdminBackend>(State(app): State<App<B>>) -> Response {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], app.exposition.render()).into_response()
}

async fn readiness<B: AdminBackend>(State(app): State<App<B>>) -> Response {
    match app.backend.readiness() {
        Ok(()) => {
            // Mail goes on: that is what readiness tells.
            let trouble = app.settings.trouble();
            let trouble = trouble.map(|t| format!("settings cannot be changed: {t}"));
            let but = trouble.into_iter().chain(app.backend.warnings());
            let but: String = but.map(|warning| format!("but {warning}\n")).collect();
            format!("ready\n{but}").into_response()
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Counts the answer; gives up on a request that takes too long, its body included; takes no part in smuggling.
async fn counted(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let uri = request.uri().clone();
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let mut response = if chunked && headers.contains_key(header::CONTENT_LENGTH) {
        // RFC 9112 §6.1: both at once are an attempt to smuggle, or a client so broken that nothing can be believed.
        let message = "Content-Length and Transfer-Encoding exclude each other";
        failure(StatusCode::BAD_REQUEST, "invalid", message)
    } else {
        let answer = tokio::time::timeout(limits::HTTP_REQUEST, next.run(request)).await;
        answer.unwrap_or_else(|_| match api::knows(uri.path()) {
            true => api::too_slow(),
            false => failure(StatusCode::REQUEST_TIMEOUT, "timeout", TOO_SLOW),
        })
    };
    // hyper drops a length that comes behind the coding, so chunks end the connection: nothing can hide behind them. Nor is
    // one used again whose body was not read to its end.
    let unread = matches!(
        response.status(),
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT
    );
    if chunked || unread {
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let class = match response.status().as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    metrics::HTTP_REQUESTS.add_to(class, 1);
    response
}

fn failure(status: StatusCode, error: &str, message: &str) -> Response {
    let body = wire::Failure {
        error: error.into(),
        message: message.into(),
    };
    (status, axum::Json(body)).into_response()
}

/// To a client whose header section did not end in time. What it asked for is not known.
fn too_slow_head() -> String {
    let body = api::envelope(402, TOO_SLOW_HEAD);
    metrics::HTTP_REQUESTS.add_to("4xx", 1);
    format!(
        "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\nx-pm-apierrorcode: 402\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const TOO_SLOW_HEAD: &str = "The request's header section was not complete within 10 seconds.";
const _: () = assert!(limits::HTTP_HEADER.as_secs() == 10);
const BEARER: &[u8] = b"Bearer ";
const TOO_SLOW: &str = "The request was not complete, or its answer not ready, within 30 seconds.";
const _: () = assert!(limits::HTTP_REQUEST.as_secs() == 30);

#[cfg(test)]
mod tests;
