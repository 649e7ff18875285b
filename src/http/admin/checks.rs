//! The admin API's checks: what a domain or a source needs in the DNS, and what is there. Asked anew each time.

use axum::Router;
use axum::extract::{Json, Path, State};
use axum::routing::post;

use super::{AdminBackend, AdminError};
use crate::http::{App, wire};

pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new()
        .route("/admin/v1/domains/{name}/check", post(domain))
        .route("/admin/v1/sources/{name}/check", post(source))
}

async fn domain<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
) -> Result<Json<wire::Check>, AdminError> {
    // By name, else by id: no domain's name is a number.
    let found = match name.parse() {
        Ok(id) => app.settings.domain(id),
        Err(_) => app.settings.domain_named(&name),
    };
    let found = found.map_err(|_| AdminError::NotFound(format!("there is no domain `{name}`")))?;
    app.backend.check_domain(found.id).await.map(Json)
}

async fn source<B: AdminBackend>(
    State(app): State<App<B>>,
    Path(name): Path<String>,
) -> Result<Json<wire::Check>, AdminError> {
    app.backend.check_source(name).await.map(Json)
}
