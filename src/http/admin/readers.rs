//! The admin API's routes of the event log's readers.

use axum::Router;
use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::{AdminBackend, AdminError};
use crate::http::{App, wire};

pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new()
        .route("/admin/v1/readers", get(list))
        .route("/admin/v1/readers/{name}/rebuild", post(rebuild))
}

async fn list<B: AdminBackend>(
    State(app): State<App<B>>,
) -> Result<Json<wire::Readers>, AdminError> {
    let readers = app.backend.readers();
    Ok(Json(wire::Readers { readers }))
}

async fn rebuild<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
) -> Result<Response, AdminError> {
    tracing::info!(reader = name, "an operator has a reader made again");
    let reader = app.backend.rebuild_reader(&name)?;
    Ok((StatusCode::ACCEPTED, Json(reader)).into_response())
}
