//! The admin API's routes of egress sources.

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, Path, State};
use axum::routing::{get, post};

use super::{AdminBackend, AdminError};
use crate::http::{App, wire};
use crate::limits;

pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new()
        .route("/admin/v1/sources", get(list))
        .route("/admin/v1/sources/{name}/drain", post(drain))
        .route("/admin/v1/sources/{name}/resume", post(resume))
}

async fn list<B: AdminBackend>(
    State(app): State<App<B>>,
) -> Result<Json<wire::Sources>, AdminError> {
    let sources = app.backend.sources().await?;
    Ok(Json(wire::Sources { sources }))
}

async fn drain<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
    body: Result<Json<wire::NewDrain>, JsonRejection>,
) -> Result<Json<wire::Source>, AdminError> {
    let Json(drain) = body?;
    if drain.reason.len() > limits::ORDER_REASON_MAX || drain.reason.contains(char::is_control) {
        return Err(AdminError::Invalid(format!(
            "a reason is one line of at most {} octets",
            limits::ORDER_REASON_MAX
        )));
    }
    if drain.seconds == Some(0) {
        return Err(AdminError::Invalid(
            "a drain that ends at once is none; leave the time out to drain until resumed".into(),
        ));
    }
    tracing::info!(source = name, reason = drain.reason, seconds = ?drain.seconds, "an operator drains a source");
    app.backend.drain_source(name, drain).await.map(Json)
}

async fn resume<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
) -> Result<Json<wire::Source>, AdminError> {
    tracing::info!(source = name, "an operator resumes a source");
    app.backend.resume_source(name).await.map(Json)
}
