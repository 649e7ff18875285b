//! The admin API's routes for taking messages over from another node.
//!
//! A message comes as one line of JSON and, behind it, its content as it is: nothing has to be decoded as a whole, so that
//! a long message takes no more memory here than over SMTP.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt;

use super::{AdminBackend, AdminError};
use crate::http::{App, wire};
use crate::limits;

pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new()
        .route("/admin/v1/imports", post(begin))
        .route("/admin/v1/imports/{id}", get(look).delete(end))
        .route("/admin/v1/imports/{id}/messages", post(message))
}

async fn begin<B: AdminBackend>(State(app): State<App<B>>) -> Result<Response, AdminError> {
    let import = app.backend.begin_import()?;
    Ok((StatusCode::ACCEPTED, Json(import)).into_response())
}

async fn look<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(id): Path<u64>,
) -> Result<Json<wire::Import>, AdminError> {
    app.backend.look_at_import(id).map(Json)
}

async fn end<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(id): Path<u64>,
) -> Result<StatusCode, AdminError> {
    app.backend.end_import(id)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn message<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(id): Path<u64>,
    body: Body,
) -> Result<Json<wire::Imported>, AdminError> {
    let mut upload = Upload {
        body,
        rest: Bytes::new(),
    };
    let line = upload.line(limits::IMPORT_ENVELOPE_MAX).await?;
    let message = serde_json::from_slice(&line).map_err(|e| AdminError::Invalid(e.to_string()))?;
    app.backend.import(id, message, upload).await.map(Json)
}

/// What follows the line of a message, as it comes in.
pub struct Upload {
    body: Body,
    rest: Bytes,
}

impl Upload {
    /// The next octets; `None`: that was all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AdminError> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame =
                frame.map_err(|e| AdminError::Invalid(format!("the body breaks off: {e}")))?;
            match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                // Trailers mean nothing here.
                _ => {}
            }
        }
    }

    async fn line(&mut self, len_max: usize) -> Result<Vec<u8>, AdminError> {
        let mut line = Vec::new();
        while let Some(octets) = self.next().await? {
            let end = memchr::memchr(b'\n', &octets);
            line.extend_from_slice(&octets[..end.unwrap_or(octets.len())]);
            if line.len() > len_max {
                return Err(AdminError::Invalid(format!(
                    "the envelope is longer than {len_max} octets"
                )));
            }
            if let Some(end) = end {
                self.rest = octets.slice(end + 1..);
                return Ok(line);
            }
        }
        Err(AdminError::Invalid(
            "the body has no line with an envelope".to_owned(),
        ))
    }
}
