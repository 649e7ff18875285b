//! The admin API's routes of suppressions: whoever operates the node may see, make and lift any.

use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Json, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::AdminError;
use crate::account::{ServerInfo, Settings};
use crate::clock::{parse_rfc3339, rfc3339};
use crate::http::api::written_by;
use crate::http::wire::{self, SuppressionOutcome as Outcome};
use crate::limits;
use crate::mail::Mailbox;
use crate::readers::suppressions::{
    Address, Evidence, Filter, List, Listed, Made, New, Place, Suppressions, Trouble,
};
use crate::suppression::{Origin, Reason, Suppression};

/// What these routes work with. Cheap to clone.
#[derive(Clone)]
struct Office {
    settings: Arc<Settings>,
    suppressions: Arc<Suppressions>,
}

/// The routes, without any check of who asks.
pub(in crate::http) fn routes<S: Clone + Send + Sync + 'static>(
    settings: Arc<Settings>,
    suppressions: Arc<Suppressions>,
) -> Router<S> {
    Router::new()
        .route("/admin/v1/suppressions", get(list).post(add))
        .route("/admin/v1/suppressions/delete", post(remove))
        .with_state(Office {
            settings,
            suppressions,
        })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    server: Option<String>,
    stream: Option<String>,
    reason: Option<String>,
    origin: Option<String>,
    address: Option<String>,
}

async fn list(
    State(office): State<Office>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, AdminError> {
    let Query(query) = query?;
    let server = query.server.as_deref().map(|name| office.server(name));
    let server = server.transpose()?;
    let address = query.address.as_deref().map(|text| {
        Mailbox::parse(text, true)
            .map_err(|_| AdminError::Invalid(format!("`{text}` is no address")))
    });
    let address = address.transpose()?;
    let filter = Filter {
        reason: word(
            "reason",
            query.reason.as_deref(),
            &Reason::ALL.map(Reason::as_str),
        )?,
        origin: word(
            "origin",
            query.origin.as_deref(),
            &Origin::ALL.map(Origin::as_str),
        )?,
        ..Filter::default()
    };
    let listing = office.suppressions.list(None, filter)?;
    let only = move |list: &List| {
        let is_his = server
            .as_ref()
            .is_none_or(|server| server.id == list.server);
        let stream = query.stream.as_deref();
        is_his && stream.is_none_or(|stream| stream.eq_ignore_ascii_case(&list.stream))
    };
    let listing = listing.of(&only);
    let settings = office.settings;
    let body = written_by(move |out| {
        let mut line = |listed: &Listed| {
            let shown = shown(&settings, listed, address.as_ref());
            // Plain texts: writing them cannot fail.
            let mut line = serde_json::to_vec(&shown).unwrap_or_default();
            line.push(b'\n');
            out.write(&line)
        };
        match &address {
            None => listing.run(&mut |listed| line(&listed)),
            Some(address) => listing.find_each(address, &mut |listed| line(&listed)),
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn shown(settings: &Settings, listed: &Listed, known: Option<&Mailbox>) -> wire::Suppression {
    let server = settings.accounts().server_with_id(listed.list.server);
    let kept = listed.kept.address.as_deref();
    let address = kept.or(known.map(Mailbox::as_str));
    wire::Suppression {
        // Of one that was deleted, what is left.
        server: server.map_or_else(
            || listed.list.server.to_string(),
            |server| server.name.to_string(),
        ),
        stream: listed.list.stream.to_string(),
        address: address.map_or_else(|| listed.tag.to_string(), str::to_owned),
        reason: listed.kept.suppression.reason.as_str().into(),
        origin: listed.kept.suppression.origin.as_str().into(),
        created_at: rfc3339(listed.kept.since),
        event: listed.kept.event,
    }
}

async fn add(
    State(office): State<Office>,
    body: Result<Json<wire::SuppressionsChange>, JsonRejection>,
) -> Result<Json<wire::SuppressionsChanged>, AdminError> {
    let Json(change) = body?;
    let place = office.place(&change)?;
    let rows = change.suppressions.into_iter().map(new).collect();
    let evidence = Evidence {
        detail: change.note,
        ..Evidence::default()
    };
    let (news, made) = apart(rows);
    let done = match change.dry_run {
        true => office.suppressions.would(&place, news),
        false => office.suppressions.suppress(place, news, evidence).await?,
    };
    Ok(Json(together(made, done)))
}

async fn remove(
    State(office): State<Office>,
    body: Result<Json<wire::SuppressionsChange>, JsonRejection>,
) -> Result<Json<wire::SuppressionsChanged>, AdminError> {
    let Json(change) = body?;
    let place = office.place(&change)?;
    let rows = change.suppressions.into_iter();
    let rows = rows.map(|row| Address::parse(&row.address).ok_or(Outcome::InvalidAddress));
    let (addresses, made) = apart(rows.collect());
    let lifting = office.suppressions.lift(place, addresses, Origin::Admin);
    Ok(Json(together(made, lifting.await?)))
}

impl Office {
    /// By name, else by id.
    fn server(&self, name: &str) -> Result<Arc<ServerInfo>, AdminError> {
        let accounts = self.settings.accounts();
        let by_id = || accounts.server_with_id(name.parse().ok()?);
        let found = accounts.server(name).or_else(by_id);
        found.ok_or_else(|| AdminError::NotFound(format!("there is no server `{name}`")))
    }

    fn place(&self, change: &wire::SuppressionsChange) -> Result<Place, AdminError> {
        if change.suppressions.len() > limits::SUPPRESSION_ROWS {
            return Err(AdminError::Invalid(format!(
                "at most {} suppressions in one request",
                limits::SUPPRESSION_ROWS
            )));
        }
        let server = self.server(&change.server)?;
        let stream = server.stream(&change.stream).ok_or_else(|| {
            AdminError::NotFound(format!(
                "server {} has no stream `{}`",
                server.name, change.stream
            ))
        })?;
        Ok(Place {
            list: List {
                server: server.id,
                stream: stream.id.clone(),
            },
            server: server.name.clone(),
        })
    }
}

fn new(row: wire::NewSuppression) -> Result<New, Outcome> {
    let reason = row.reason.as_deref().map(str::parse).transpose();
    let origin = row.origin.as_deref().map(str::parse).transpose();
    let since = row
        .created_at
        .as_deref()
        .map(|text| parse_rfc3339(text).ok_or(Outcome::InvalidTime));
    Ok(New {
        address: Address::parse(&row.address).ok_or(Outcome::InvalidAddress)?,
        suppression: Suppression {
            reason: reason
                .map_err(|_| Outcome::InvalidReason)?
                .unwrap_or(Reason::ManualSuppression),
            origin: origin
                .map_err(|_| Outcome::InvalidOrigin)?
                .unwrap_or(Origin::Admin),
        },
        since: since.transpose()?,
    })
}

/// Those that can be tried, and of all in order why not.
fn apart<T>(rows: Vec<Result<T, Outcome>>) -> (Vec<T>, Vec<Option<Outcome>>) {
    let (mut sound, mut why) = (
        Vec::with_capacity(rows.len()),
        Vec::with_capacity(rows.len()),
    );
    for row in rows {
        match row {
            Ok(row) => {
                sound.push(row);
                why.push(None);
            }
            Err(outcome) => why.push(Some(outcome)),
        }
    }
    (sound, why)
}

fn together(why: Vec<Option<Outcome>>, done: Vec<Made>) -> wire::SuppressionsChanged {
    let mut done = done.into_iter();
    let of = |made: Made| match made {
        Made::Suppressed => Outcome::Suppressed,
        // The operator may do anything: this does not come.
        Made::Kept(_) | Made::NotAllowed(_) => Outcome::Kept,
        Made::Lifted => Outcome::Lifted,
        Made::NotSuppressed => Outcome::NotSuppressed,
    };
    let outcomes = why.into_iter();
    wire::SuppressionsChanged {
        outcomes: outcomes
            .filter_map(|why| why.or_else(|| done.next().map(of)))
            .collect(),
    }
}

fn word<T: FromStr>(
    key: &str,
    given: Option<&str>,
    known: &[&str],
) -> Result<Option<T>, AdminError> {
    let parsed = given.map(|text| {
        let wrong =
            |_| AdminError::Invalid(format!("{key} `{text}` is none of {}", known.join(", ")));
        text.parse().map_err(wrong)
    });
    parsed.transpose()
}

impl From<Trouble> for AdminError {
    fn from(trouble: Trouble) -> Self {
        Self::Unavailable(format!("suppressions: {trouble}; try again"))
    }
}
