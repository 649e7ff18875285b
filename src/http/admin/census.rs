//! The table of what waits: by what, in which order, which page.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Json, Query, State};
use axum::routing::get;
use serde::Deserialize;

use super::{AdminBackend, AdminError, App, wire};
use crate::limits;

/// What is added up, and what of it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CensusPage {
    pub by: CensusBy,
    pub sort: CensusSort,
    /// By name: from behind this pool and name.
    pub after: Option<(String, String)>,
    pub count_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CensusBy {
    Domain,
    Site,
    Stream,
    Server,
    Source,
    Pool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CensusSort {
    /// Pools as configured, then names.
    Name,
    /// Most recipients first.
    Size,
    /// Oldest first.
    Age,
    /// Most outcomes first.
    Outcomes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CensusQuery {
    by: Option<CensusBy>,
    sort: Option<CensusSort>,
    after_pool: Option<String>,
    after_name: Option<String>,
    limit: Option<usize>,
}

pub(super) fn routes<B: AdminBackend>() -> Router<App<B>> {
    Router::new().route("/admin/v1/queue/census", get(census))
}

async fn census<B: AdminBackend>(
    State(app): State<App<B>>,
    query: Result<Query<CensusQuery>, QueryRejection>,
) -> Result<Json<wire::Census>, AdminError> {
    let Query(query) = query?;
    let sort = query.sort.unwrap_or(CensusSort::Name);
    let after = query
        .after_name
        .map(|name| (query.after_pool.unwrap_or_default(), name));
    if after.is_some() && sort != CensusSort::Name {
        return Err(AdminError::Invalid(
            "after_name goes with sort=name only".to_owned(),
        ));
    }
    let limit = query.limit.unwrap_or(limits::CENSUS_ROWS_MAX);
    let page = CensusPage {
        by: query.by.unwrap_or(CensusBy::Domain),
        sort,
        after,
        count_max: limit.clamp(1, limits::CENSUS_ROWS_MAX),
    };
    app.backend.census(page).await.map(Json)
}
