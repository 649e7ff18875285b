//! The admin API's route for following dialogues: an answer that goes on until one of both sides goes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Frame;
use serde::Deserialize;

use super::{AdminBackend, AdminError, parse_domain, parse_message};
use crate::http::{App, wire};
use crate::mail::{Domain, MessageId};

/// Which dialogues; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    pub domain: Option<Domain>,
    /// A remote host's name, a domain above it, or its address.
    pub host: Option<String>,
    pub source: Option<String>,
    pub message: Option<MessageId>,
}

/// Polled for the next line; `None`: the node stops. Dropped when nobody listens any more.
pub type Hearing = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<wire::TraceLine>> + Send>;

pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new().route("/admin/v1/trace", get(follow))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceQuery {
    domain: Option<String>,
    host: Option<String>,
    source: Option<String>,
    message: Option<String>,
}

async fn follow<B: AdminBackend>(
    State(app): State<App<B>>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Result<Response, AdminError> {
    let Query(query) = query?;
    let filter = TraceFilter {
        domain: query.domain.as_deref().map(parse_domain).transpose()?,
        host: query.host,
        source: query.source,
        message: query.message.as_deref().map(parse_message).transpose()?,
    };
    let hearing = app.backend.trace(filter)?;
    let format = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((format, Body::new(Lines(hearing))).into_response())
}

/// Made line by line as the client takes them: what it does not take waits, and gets lost, at the follower's place.
struct Lines(Hearing);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(line) = ready!((self.0)(cx)) else {
            return Poll::Ready(None);
        };
        // It has no map with keys that are not strings: the only thing that cannot be written.
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
