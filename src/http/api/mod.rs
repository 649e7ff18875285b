//! The Postmark-compatible API. What a client sees here is decided by Postmark's wire, not by taste: always HTTP 200 with a
//! JSON body on success, 422 with an envelope for nearly everything else, paths and keys without regard to case.
//!
//! One table of routes ([`routes`]) says for each its method, path, token, fields and what it does; the same table is served
//! as an OpenAPI document. The order of every request: limits, token, rate, body, then the handler, on a task of its own, so
//! that a change once begun is finished whether the client waits or not, and a panic is an answer (500, 101).
//!
//! A token is checked before a body is read; a server's token reaches that server only, since ids are looked up within it.

mod bounces;
mod dates;
mod domains;
pub(super) mod email;
mod error;
mod json;
mod messages;
mod openapi;
mod query;
pub(super) mod removals;
mod said;
mod senders;
mod servers;
mod smtp_tokens;
mod stats;
mod streams;
mod suppressions;
mod webhooks;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::account::{Outside, Sender, ServerInfo, Settings};
use crate::clock::Clock;
use crate::limits;
use crate::readers::activity::Activity;
use crate::readers::bounces::Bounces;
use crate::readers::statistics::Statistics;
use crate::readers::suppressions::Suppressions;
use crate::readers::webhooks::Webhooks;

use email::Door;
use email::outbox::Outbox;
use error::{ApiError, Code, Envelope};
use json::{Body, Field, Kind};
use query::{Page, Query};
use removals::Removals;
use said::Said;
pub(super) use said::written_by;

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) settings: Arc<Settings>,
    pub(super) outside: Arc<dyn Outside>,
    pub(super) door: Arc<dyn Door>,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) removals: Arc<dyn Removals>,
    pub(super) suppressions: Arc<Suppressions>,
    pub(super) bounces: Bounces,
    pub(super) statistics: Statistics,
    pub(super) activity: Activity,
    pub(super) webhooks: Arc<Webhooks>,
    pub(super) clock: Clock,
    /// KiB of large bodies that may still come.
    pub(super) bodies: Arc<Semaphore>,
    /// In each, a body must come on by [`limits::HTTP_BODY_WINDOW_MIN`].
    pub(super) body_window: Duration,
}

impl Api {
    pub(super) fn new(
        settings: Arc<Settings>,
        outside: Arc<dyn Outside>,
        (door, outbox, removals): (Arc<dyn Door>, Arc<dyn Outbox>, Arc<dyn Removals>),
        suppressions: Arc<Suppressions>,
        (bounces, statistics, webhooks): (Bounces, Statistics, Arc<Webhooks>),
        activity: Activity,
        clock: Clock,
    ) -> Self {
        let bodies = Arc::new(Semaphore::new(limits::HTTP_BODIES_MAX / KIB));
        Self {
            settings,
            outside,
            door,
            outbox,
            removals,
            suppressions,
            bounces,
            statistics,
            activity,
            webhooks,
            clock,
            bodies,
            body_window: limits::HTTP_BODY_WINDOW,
        }
    }
}

/// Whose token a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Server,
    Account,
    Nobody,
    /// A server token, or the one that tests with.
    Send(&'static Sending),
}

/// Of a route that takes mail: it reads its body itself.
#[derive(Debug, PartialEq, Eq)]
struct Sending {
    octets_max: usize,
    /// The body is a list of what the fields describe.
    list: bool,
}

/// One call of the API.
struct Route {
    method: Method,
    /// In lower case; `{…}` stands for one segment. Earlier routes match first.
    path: &'static str,
    access: Access,
    about: &'static str,
    query: &'static [Field],
    body: &'static [Field],
    /// A specimen of the answer, made by the code that answers.
    specimen: fn() -> String,
    call: fn(Api, Ask) -> Answer,
}

type Answer = Pin<Box<dyn Future<Output = Result<Said, ApiError>> + Send>>;

/// A request, understood.
struct Ask {
    server: Option<Arc<ServerInfo>>,
    /// Of a route with [`Access::Send`]; `None` there: a test, nothing is to be sent.
    sender: Option<Sender>,
    peer: Option<IpAddr>,
    /// What stands for the `{…}` of the path.
    parameters: Vec<String>,
    query: Query,
    body: Body,
    /// The body of a route with [`Access::Send`].
    octets: Bytes,
    idempotency_key: Option<String>,
    /// Of the header; an error where it says neither yes nor no.
    dry_run: Result<bool, ApiError>,
    /// Kept as long as a large body is.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Ask {
    /// Of a route with [`Access::Server`].
    fn server(&self) -> Result<&Arc<ServerInfo>, ApiError> {
        let missing = || ApiError::fault("A server route was called without a server.");
        self.server.as_ref().ok_or_else(missing)
    }

    /// A number in the path. What is none is nobody's id.
    fn id(&self) -> u32 {
        let text = self.parameters.first().map_or("", String::as_str);
        text.parse().unwrap_or(0)
    }

    fn parameter(&self) -> &str {
        self.parameters.first().map_or("", String::as_str)
    }
}

fn routes() -> impl Iterator<Item = &'static Route> {
    [
        servers::ROUTES,
        suppressions::ROUTES,
        bounces::ROUTES,
        stats::ROUTES,
        messages::ROUTES,
        removals::ROUTES,
        webhooks::ROUTES,
        streams::ROUTES,
        smtp_tokens::ROUTES,
        domains::ROUTES,
        senders::ROUTES,
        email::outbox::ROUTES,
        email::ROUTES,
        openapi::ROUTES,
    ]
    .into_iter()
    .flatten()
}

/// Whether the API has this path, so that another fallback need not answer.
pub(super) fn knows(path: &str) -> bool {
    let segments = segments(path);
    routes().any(|route| matches(route, &segments).is_some())
}

/// Answers one request.
pub(super) async fn handle(api: Api, request: Request) -> Response {
    match answer(api, request).await {
        Ok(Said::Text(text)) => with_json(text),
        Ok(Said::Written(body)) => with_json(body),
        Err(error) => error.into_response(),
    }
}

/// The answer to a request that was given up.
pub(super) fn too_slow() -> Response {
    ApiError::with(StatusCode::REQUEST_TIMEOUT, Code(402), super::TOO_SLOW).into_response()
}

/// The text of an error, for where no route is known.
pub(super) fn envelope(code: u16, message: &str) -> String {
    let error = ApiError::new(Code(code), message);
    specimen(&Envelope::failed(error))
}

async fn answer(api: Api, request: Request) -> Result<Said, ApiError> {
    let (head, body) = request.into_parts();
    let segments = segments(head.uri.path());
    let (route, parameters) = find(&head.method, &segments)?;
    let admitted = admit(&api, route.access, &head.headers)?;
    let has_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let octets_max = match route.access {
        Access::Send(sending) => sending.octets_max,
        _ => limits::HTTP_API_BODY_MAX,
    };
    let (octets, permit) = match has_body {
        true => collect(&api, &head.headers, body, octets_max).await?,
        // Some clients send one with every call.
        false => (Bytes::new(), None),
    };
    let body = match route.access {
        Access::Send(_) => Body::default(),
        _ => Body::read(&octets, route.body)?,
    };
    acceptable(&head.headers)?;
    let peer = head.extensions.get::<super::Peer>();
    let zone = api.statistics.zone().clone();
    let ask = Ask {
        server: admitted.server,
        sender: admitted.sender,
        peer: peer.and_then(|peer| peer.0),
        parameters,
        query: Query::read(head.uri.query().unwrap_or_default(), &zone),
        body,
        octets,
        idempotency_key: head.headers.get(IDEMPOTENCY_KEY).map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.trim().to_owned()
        }),
        dry_run: dry_run(&head.headers),
        _permit: permit,
    };
    let answered = tokio::spawn((route.call)(api, ask)).await;
    answered.unwrap_or_else(|error| {
        tracing::error!(path = route.path, %error, "an API request failed by a fault in the program");
        Err(ApiError::fault("An unexpected fault; it is in the node's log."))
    })
}

/// A word that is mistaken for no would send what was not meant to go.
fn dry_run(headers: &HeaderMap) -> Result<bool, ApiError> {
    let mut given = headers.get_all(DRY_RUN).iter();
    match (given.next().map(|value| value.as_bytes()), given.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"true") => Ok(true),
        (Some(value), None) if value.eq_ignore_ascii_case(b"false") => Ok(false),
        _ => Err(ApiError::new(
            Code(300),
            "Invalid 'X-Posthaste-Dry-Run' header: it is true or false.",
        )),
    }
}

/// Without regard to case, without one slash at the end.
fn segments(path: &str) -> Vec<String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let decode = |segment: &str| {
        percent_decode_str(segment)
            .decode_utf8_lossy()
            .to_lowercase()
    };
    path.split('/').map(decode).collect()
}

fn matches(route: &Route, segments: &[String]) -> Option<Vec<String>> {
    let mut wanted = route.path.split('/').skip(1);
    let mut parameters = Vec::new();
    for segment in segments {
        match wanted.next()? {
            parameter if parameter.starts_with('{') => parameters.push(segment.clone()),
            literal if literal == segment => {}
            _ => return None,
        }
    }
    wanted.next().is_none().then_some(parameters)
}

fn find(method: &Method, segments: &[String]) -> Result<(&'static Route, Vec<String>), ApiError> {
    let mut found_path = false;
    for route in routes() {
        let Some(parameters) = matches(route, segments) else {
            continue;
        };
        found_path = true;
        if route.method == method {
            return Ok((route, parameters));
        }
    }
    Err(match found_path {
        true => ApiError::with(
            StatusCode::METHOD_NOT_ALLOWED,
            Code(615),
            "This method is not supported here.",
        ),
        false => ApiError::with(StatusCode::NOT_FOUND, Code(404), "There is nothing here."),
    })
}

/// Whom a token stands for.
#[derive(Default)]
struct Admitted {
    server: Option<Arc<ServerInfo>>,
    sender: Option<Sender>,
}

/// Checks the token, and counts the request against its limit.
fn admit(api: &Api, access: Access, headers: &HeaderMap) -> Result<Admitted, ApiError> {
    let (name, refusal) = match access {
        Access::Nobody => return Ok(Admitted::default()),
        Access::Server | Access::Send(_) => (
            SERVER_TOKEN,
            "Request does not contain a valid Server token.",
        ),
        Access::Account => (
            ACCOUNT_TOKEN,
            "Request does not contain a valid Account token.",
        ),
    };
    let refused = |text: &str| ApiError::with(StatusCode::UNAUTHORIZED, Code(10), text);
    if !headers.contains_key(SERVER_TOKEN) && !headers.contains_key(ACCOUNT_TOKEN) {
        return Err(refused(NO_TOKEN));
    }
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refused(refusal));
    };
    let token = value.to_str().map_or("", str::trim);
    if token.is_empty() || token.len() > TOKEN_LEN_MAX {
        return Err(refused(refusal));
    }
    let (accounts, now) = (api.settings.accounts(), api.clock.unix_ms());
    match access {
        Access::Server => {
            let server = accounts.http_server(token, now);
            Ok(Admitted {
                server: Some(server.ok_or_else(|| refused(refusal))??),
                sender: None,
            })
        }
        Access::Send(_) if token.eq_ignore_ascii_case(TEST_TOKEN) => Ok(Admitted::default()),
        Access::Send(_) => {
            let sender = accounts.http_sender(token, now);
            Ok(Admitted {
                sender: Some(sender.ok_or_else(|| refused(refusal))??),
                server: None,
            })
        }
        Access::Account | Access::Nobody => {
            let known = accounts.http_account(token, now);
            known.ok_or_else(|| refused(refusal))??;
            Ok(Admitted::default())
        }
    }
}

/// A body of JSON, as it came.
async fn collect(
    api: &Api,
    headers: &HeaderMap,
    body: HttpBody,
    octets_max: usize,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let too_large = || {
        ApiError::with(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code(403),
            format!("The request's body is larger than {octets_max} octets."),
        )
    };
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > octets_max as u64) {
        return Err(too_large());
    }
    let coded = headers.get(header::CONTENT_ENCODING);
    if coded.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::with(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code(409),
            "Compressed bodies are not taken.",
        ));
    }
    let expected = length.map_or(octets_max, |length| length as usize);
    let mut body = Limited::new(body, octets_max);
    let (mut octets, mut permit) = (BytesMut::new(), None);
    let window = tokio::time::sleep(api.body_window);
    tokio::pin!(window);
    let mut seen = 0;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = &mut window => {
                if octets.len() - seen < limits::HTTP_BODY_WINDOW_MIN {
                    return Err(ApiError::with(
                        StatusCode::REQUEST_TIMEOUT,
                        Code(402),
                        TOO_SLOW_BODY,
                    ));
                }
                seen = octets.len();
                window.set(tokio::time::sleep(api.body_window));
                continue;
            }
        };
        let Some(frame) = frame else { break };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
            Err(_) => {
                return Err(ApiError::with(
                    StatusCode::BAD_REQUEST,
                    Code(402),
                    "The request's body breaks off.",
                ));
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if permit.is_none() && octets.len() + data.len() > limits::HTTP_BODY_SMALL {
            permit = Some(room_for(api, expected).await?);
            octets.reserve(expected - octets.len());
        }
        octets.extend_from_slice(&data);
    }
    let octets = octets.freeze();
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(is_json);
    let says_nothing = matches!(octets.trim_ascii(), b"" | b"{}" | b"null" | b"\"\"");
    if !is_json && !says_nothing {
        return Err(not_json());
    }
    Ok((octets, permit))
}

/// Waits until a large body may come. Whoever states no length is expected to send the most.
async fn room_for(api: &Api, octets: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    let kib = octets.div_ceil(KIB).min(limits::HTTP_BODIES_MAX / KIB);
    let room = Arc::clone(&api.bodies).acquire_many_owned(kib as u32);
    let room = tokio::time::timeout(limits::HTTP_BODY_WAIT, room).await;
    room.ok().and_then(Result::ok).ok_or_else(|| ApiError {
        retry_after: Some(limits::HTTP_BODY_WAIT.as_secs()),
        ..ApiError::with(
            StatusCode::SERVICE_UNAVAILABLE,
            Code(100),
            format!(
                "Too many large requests are under way: together they may have {} octets. Please try again later.",
                limits::HTTP_BODIES_MAX
            ),
        )
    })
}

/// Postmark takes three names for JSON, with or without parameters.
fn is_json(value: &str) -> bool {
    let essence = value.split(';').next().unwrap_or_default().trim();
    JSON_TYPES
        .iter()
        .any(|json| essence.eq_ignore_ascii_case(json))
}

/// Whether the client can take what we answer with.
fn acceptable(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut given = headers.get_all(header::ACCEPT).iter().peekable();
    if given.peek().is_none() {
        return Ok(());
    }
    let suits = |range: &str| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        is_json(essence) || ["*/*", "application/*", "text/*", ""].contains(&essence)
    };
    match given.any(|value| value.to_str().is_ok_and(|v| v.split(',').any(suits))) {
        true => Ok(()),
        false => Err(not_json()),
    }
}

fn not_json() -> ApiError {
    ApiError::with(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code(409),
        "Content-Type and Accept headers must be set to application/json, text/json, or text/x-json.",
    )
}

fn with_json(said: impl IntoResponse) -> Response {
    let mut response = said.into_response();
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn reply(body: &impl Serialize) -> Result<String, ApiError> {
    serde_json::to_string(body).map_err(|e| ApiError::fault(format!("No answer: {e}.")))
}

/// Answer of an action: the envelope with code 0.
fn done(message: String) -> Result<String, ApiError> {
    reply(&Envelope::done(message))
}

/// A specimen for the description of the API.
fn specimen(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

fn specimen_done() -> String {
    specimen(&Envelope::done("Server Staging removed.".into()))
}

const fn field(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field {
        name,
        kind,
        required: false,
        about,
    }
}

const fn required(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field {
        name,
        kind,
        required: true,
        about,
    }
}

/// Lets an `async fn` be a route's call.
macro_rules! call {
    ($handler:path) => {
        |api, ask| Box::pin(async move { $handler(api, ask).await.map(Into::into) })
    };
}
use call;

const SERVER_TOKEN: HeaderName = HeaderName::from_static("x-postmark-server-token");
const ACCOUNT_TOKEN: HeaderName = HeaderName::from_static("x-postmark-account-token");
const NO_TOKEN: &str = "No Account or Server API tokens were supplied in the HTTP headers. Please add a header for either X-Postmark-Server-Token or X-Postmark-Account-Token.";
const JSON_TYPES: [&str; 3] = ["application/json", "text/json", "text/x-json"];
const TOO_SLOW_BODY: &str = "The request's body came too slowly: less than 1,024 octets a second.";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const DRY_RUN: HeaderName = HeaderName::from_static("x-posthaste-dry-run");
/// Reference §1.3.
const TEST_TOKEN: &str = "POSTMARK_API_TEST";
const KIB: usize = 1024;
/// Ours have 36 characters, configured ones at most this many.
const TOKEN_LEN_MAX: usize = 256;
const PAGE: &[Field] = &[
    field("count", Kind::Number, "1 to 500; 50 if not given."),
    field("offset", Kind::Number, "From 0; 0 if not given."),
];

#[cfg(test)]
pub(super) mod tests;
