//! The admin API's routes of webhooks: setting them, how they are doing, and what an operator does about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::AdminError;
use super::accounts::Desk;
use crate::account::{ServerInfo, WebhookInfo, WebhookPatch};
use crate::clock::parse_rfc3339;
use crate::http::wire;
use crate::readers::webhooks::{Disobeyed, Webhooks};

/// What these routes work with. Cheap to clone.
#[derive(Clone)]
struct Office {
    desk: Desk,
    webhooks: Arc<Webhooks>,
}

/// The routes, without any check of who asks.
pub(in crate::http) fn routes<S: Clone + Send + Sync + 'static>(
    desk: Desk,
    webhooks: Arc<Webhooks>,
) -> Router<S> {
    Router::new()
        .route("/admin/v1/webhooks", get(list))
        .route("/admin/v1/servers/{name}/webhooks", post(create))
        .route(
            "/admin/v1/webhooks/{key}",
            get(one).patch(edit).delete(remove),
        )
        .route("/admin/v1/webhooks/{key}/verify", post(verify))
        .route("/admin/v1/webhooks/{key}/replay", post(replay))
        .route("/admin/v1/webhooks/{key}/resume", post(resume))
        .with_state(Office { desk, webhooks })
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Answer<T> = Result<Json<T>, AdminError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    server: Option<String>,
}

impl Office {
    /// Every hook there is, at work or not yet, in the order of servers and keys.
    fn all(&self) -> Vec<wire::Webhook> {
        let snapshot = self.desk.settings.accounts().load();
        let mut known: BTreeMap<String, (&Arc<ServerInfo>, &Arc<WebhookInfo>)> = BTreeMap::new();
        for server in snapshot.servers() {
            for webhook in &server.webhooks {
                known.insert(webhook.id.to_string(), (server, webhook));
            }
        }
        let mut rows: Vec<wire::Webhook> = Vec::new();
        for state in self.webhooks.states() {
            let webhook = known.remove(&state.key).map(|(_, webhook)| &**webhook);
            rows.push(wire::Webhook::of(&state, webhook));
        }
        let idle = known.into_values();
        rows.extend(idle.map(|(server, webhook)| wire::Webhook::starting(&server.name, webhook)));
        let id = |key: &str| key.parse::<u64>().unwrap_or(u64::MAX);
        rows.sort_by(|a, b| {
            let order = |w: &wire::Webhook| (w.server.clone(), id(&w.key), w.key.clone());
            order(a).cmp(&order(b))
        });
        rows
    }

    fn row(&self, key: &str) -> Result<wire::Webhook, AdminError> {
        let found = self.all().into_iter().find(|row| row.key == key);
        found.ok_or_else(|| unknown(key))
    }

    /// One that can be changed here.
    fn webhook(&self, key: &str) -> Result<(Arc<ServerInfo>, Arc<WebhookInfo>), AdminError> {
        match key.parse() {
            Ok(id) => Ok(self.desk.settings.webhook(id).map_err(|_| unknown(key))?),
            Err(_) => {
                self.row(key)?;
                Err(AdminError::Conflict(format!(
                    "`{key}` is a hook URL of a server: change it there (posthaste server edit SERVER --set bounce_hook_url=…)"
                )))
            }
        }
    }
}

async fn list(
    State(office): State<Office>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<wire::Webhooks> {
    let Query(query) = query?;
    let mut webhooks = office.all();
    if let Some(name) = &query.server {
        let server = office.desk.find(name)?;
        webhooks.retain(|webhook| webhook.server == *server.name);
    }
    Ok(Json(wire::Webhooks { webhooks }))
}

async fn one(State(office): State<Office>, Path(key): Path<String>) -> Answer<wire::Webhook> {
    office.row(&key).map(Json)
}

async fn create(
    State(office): State<Office>,
    Path(name): Path<String>,
    body: Body<WebhookPatch>,
) -> Result<Response, AdminError> {
    let Json(new) = body?;
    let server = office.desk.find(&name)?;
    let now = office.desk.clock.unix_ms();
    let made = office
        .desk
        .settings
        .create_webhook(server.id, &new, now)
        .await?;
    let row = wire::Webhook {
        signing_secret: made.call.signing_secret.clone(),
        ..wire::Webhook::starting(&server.name, &made)
    };
    Ok((StatusCode::CREATED, Json(row)).into_response())
}

async fn edit(
    State(office): State<Office>,
    Path(key): Path<String>,
    body: Body<WebhookPatch>,
) -> Answer<wire::Webhook> {
    let Json(patch) = body?;
    let (server, webhook) = office.webhook(&key)?;
    let edited = office
        .desk
        .settings
        .edit_webhook(server.id, webhook.id, &patch)
        .await?;
    let is_told = patch.signing_secret.is_some();
    let secret = edited.call.signing_secret.clone().filter(|_| is_told);
    Ok(Json(wire::Webhook {
        signing_secret: secret,
        ..office.row(&key)?
    }))
}

async fn remove(
    State(office): State<Office>,
    Path(key): Path<String>,
) -> Result<StatusCode, AdminError> {
    let (server, webhook) = office.webhook(&key)?;
    office
        .desk
        .settings
        .delete_webhook(server.id, webhook.id)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn verify(
    State(office): State<Office>,
    Path(key): Path<String>,
) -> Answer<wire::WebhookVerified> {
    let verified = match key.parse::<u32>() {
        Ok(_) => {
            let (server, webhook) = office.webhook(&key)?;
            office.webhooks.verify(&server, &webhook).await
        }
        Err(_) => {
            let verified = office.webhooks.verify_at_work(&key).await;
            verified.map_err(|why| disobeyed(why, &key))?
        }
    };
    if !verified.is_empty() && verified.iter().all(|verified| verified.is_success()) {
        // One that is not at work yet has nothing to resume.
        let _ = office.webhooks.restart(&key).await;
    }
    Ok(Json(wire::WebhookVerified {
        results: verified.iter().map(Into::into).collect(),
    }))
}

async fn replay(
    State(office): State<Office>,
    Path(key): Path<String>,
    body: Body<wire::WebhookReplay>,
) -> Answer<wire::Webhook> {
    let Json(range) = body?;
    let time = |text: &str| {
        parse_rfc3339(text).ok_or_else(|| {
            AdminError::Invalid(format!("`{text}` is no time; write 2026-03-02T09:15:00Z"))
        })
    };
    let from = time(&range.from)?;
    let to = match &range.to {
        Some(to) => time(to)?,
        None => office.desk.clock.unix_ms(),
    };
    if to < from {
        return Err(AdminError::Invalid("`to` lies before `from`".into()));
    }
    let replayed = office.webhooks.replay(&key, from, to).await;
    replayed.map_err(|why| disobeyed(why, &key))?;
    office.row(&key).map(Json)
}

async fn resume(
    State(office): State<Office>,
    Path(key): Path<String>,
    body: Body<wire::WebhookResume>,
) -> Answer<wire::Webhook> {
    let Json(wire::WebhookResume { skip }) = body?;
    let resumed = office.webhooks.resume(&key, skip).await;
    resumed.map_err(|why| disobeyed(why, &key))?;
    office.row(&key).map(Json)
}

fn unknown(key: &str) -> AdminError {
    AdminError::NotFound(format!(
        "there is no webhook `{key}`; `posthaste webhook ls` lists those there are"
    ))
}

fn disobeyed(why: Disobeyed, key: &str) -> AdminError {
    match why {
        Disobeyed::Unknown => unknown(key),
        Disobeyed::Busy => AdminError::Conflict(format!(
            "events are being sent to webhook {key} again already; `posthaste webhook show {key}` says which"
        )),
        Disobeyed::Stopping => AdminError::Unavailable(why.to_string()),
    }
}
