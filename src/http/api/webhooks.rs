//! `/webhooks` (reference §15). A server token reaches the webhooks of its server and no others.
//!
//! `SigningSecret` is ours: with it requests carry the signature of Standard Webhooks. It is only in the answer to the call that
//! sets it: whoever can read webhooks must not be able to forge them, and clients with strict models see Postmark's object.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::error::{ApiError, Code};
use super::json::{Body, Field, Kind, wrong_fields};
use super::{Access, Api, Ask, Route, call, done, field, reply, required, specimen};
use crate::account::{
    BasicAuth, Call, HeaderField, Refused, Rule, ServerInfo, Triggers, WebhookInfo, WebhookPatch,
};
use crate::clock::{UnixMs, rfc3339};
use crate::readers::webhooks::{Counts, Trigger, Verified};

pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/webhooks",
        access: Access::Server,
        about: "The server's webhooks, or those of a message stream. Not paged.",
        query: &[field("MessageStream", Kind::Text, "All if not given.")],
        body: &[],
        specimen: || {
            specimen(&List {
                webhooks: vec![Object::of(&example())],
            })
        },
        call: call!(list),
    },
    Route {
        method: Method::POST,
        path: "/webhooks",
        access: Access::Server,
        about: "A new webhook. It gets what happens from now on.",
        query: &[],
        body: NEW_FIELDS,
        specimen: one,
        call: call!(create),
    },
    Route {
        method: Method::GET,
        path: "/webhooks/{id}",
        access: Access::Server,
        about: "One webhook.",
        query: &[],
        body: &[],
        specimen: one,
        call: call!(get),
    },
    Route {
        method: Method::PUT,
        path: "/webhooks/{id}",
        access: Access::Server,
        about: "Changes a webhook. What is not given stays, of Triggers too. One that was stopped goes on.",
        query: &[],
        body: FIELDS,
        specimen: one,
        call: call!(edit),
    },
    Route {
        method: Method::DELETE,
        path: "/webhooks/{id}",
        access: Access::Server,
        about: "Deletes a webhook. What it has not been sent yet it is not sent.",
        query: &[],
        body: &[],
        specimen: super::specimen_done,
        call: call!(delete),
    },
    Route {
        method: Method::POST,
        path: "/webhooks/{id}/verify",
        access: Access::Server,
        about: "Sends a specimen for each trigger. One that was stopped goes on if all are taken.",
        query: &[],
        body: &[],
        specimen: || specimen(&Verification::of(&example(), &[])),
        call: call!(verify),
    },
    Route {
        method: Method::GET,
        path: "/webhooks/{id}/statistics",
        access: Access::Server,
        about: "What its requests of the last 24 hours came to.",
        query: &[],
        body: &[],
        specimen: || {
            specimen(&Statistics::of(
                &example(),
                &BTreeMap::new(),
                |_| true,
                86_400_000,
            ))
        },
        call: call!(statistics),
    },
];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    webhooks: Vec<Object>,
}

/// Exactly Postmark's object, every key always there.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    #[serde(rename = "ID")]
    id: u32,
    url: String,
    message_stream: String,
    http_auth: Option<Auth>,
    http_headers: Vec<Header>,
    triggers: AllTriggers,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Auth {
    username: String,
    password: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Header {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AllTriggers {
    open: Open,
    click: Enabled,
    delivery: Enabled,
    bounce: WithContent,
    spam_complaint: WithContent,
    subscription_change: Enabled,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Open {
    enabled: bool,
    post_first_open_only: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Enabled {
    enabled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WithContent {
    enabled: bool,
    include_content: bool,
}

impl Object {
    fn of(webhook: &WebhookInfo) -> Self {
        let (call, triggers) = (&webhook.call, &webhook.triggers);
        let enabled = |enabled| Enabled { enabled };
        Self {
            id: webhook.id,
            url: call.url.clone(),
            message_stream: webhook.stream.to_string(),
            http_auth: call.auth.as_ref().map(|auth| Auth {
                username: auth.username.clone(),
                password: auth.password.clone(),
            }),
            http_headers: {
                let header = |field: &HeaderField| Header {
                    name: field.name.clone(),
                    value: field.value.clone(),
                };
                call.headers.iter().map(header).collect()
            },
            triggers: AllTriggers {
                open: Open {
                    enabled: triggers.open,
                    post_first_open_only: triggers.post_first_open_only,
                },
                click: enabled(triggers.click),
                delivery: enabled(triggers.delivery),
                bounce: WithContent {
                    enabled: triggers.bounce,
                    include_content: triggers.bounce_content,
                },
                spam_complaint: WithContent {
                    enabled: triggers.spam_complaint,
                    include_content: triggers.spam_complaint_content,
                },
                subscription_change: enabled(triggers.subscription_change),
            },
            signing_secret: None,
        }
    }

    /// The answer to a call that set a secret, if it did.
    fn with_secret(webhook: &WebhookInfo, is_told: bool) -> Self {
        let secret = webhook.call.signing_secret.clone();
        Self {
            signing_secret: secret.filter(|_| is_told),
            ..Self::of(webhook)
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Verification {
    id: u32,
    url: String,
    success: bool,
    results: Vec<OneResult>,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OneResult {
    trigger_type: &'static str,
    success: bool,
    status_code: Option<u16>,
    message: String,
}

impl Verification {
    fn of(webhook: &WebhookInfo, verified: &[Verified]) -> Self {
        let good = verified.iter().filter(|v| v.is_success()).count();
        let all = verified.len();
        Self {
            id: webhook.id,
            url: webhook.call.url.clone(),
            success: good == all,
            results: {
                let result = |verified: &Verified| OneResult {
                    trigger_type: verified.trigger.as_str(),
                    success: verified.is_success(),
                    status_code: verified.status,
                    message: verified.message.clone(),
                };
                verified.iter().map(result).collect()
            },
            message: match good == all {
                true => format!("All {all} triggers verified successfully"),
                false => format!("{good}/{all} triggers verified successfully"),
            },
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statistics {
    webhook_id: u32,
    url: String,
    statuses: BTreeMap<&'static str, &'static str>,
    time_range: TimeRange,
    metrics: Metrics,
    metrics_by_trigger: BTreeMap<&'static str, Metrics>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TimeRange {
    start_time: String,
    end_time: String,
    hours: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metrics {
    total_requests: u64,
    success_count: u64,
    failure_count: u64,
    retry_count: u64,
    success_rate: f64,
    slow_count: u64,
    very_slow_count: u64,
    average_terminal_response_time_ms: u64,
    average_retry_response_time_ms: Option<u64>,
}

impl From<&Counts> for Metrics {
    fn from(counts: &Counts) -> Self {
        let percent = match counts.requests {
            0 => 0.0,
            requests => counts.taken as f64 * 100.0 / requests as f64,
        };
        Self {
            total_requests: counts.requests,
            success_count: counts.taken,
            failure_count: counts.failed,
            retry_count: counts.retries,
            success_rate: (percent * 100.0).round() / 100.0,
            slow_count: counts.slow,
            very_slow_count: counts.very_slow,
            average_terminal_response_time_ms: counts
                .ending_ms
                .checked_div(counts.endings)
                .unwrap_or(0),
            average_retry_response_time_ms: counts.passing_ms.checked_div(counts.passings),
        }
    }
}

impl Statistics {
    fn of(
        webhook: &WebhookInfo,
        counts: &BTreeMap<Trigger, Counts>,
        is_proven: impl Fn(Trigger) -> bool,
        now: UnixMs,
    ) -> Self {
        let status = |trigger| match is_proven(trigger) {
            true => "verified",
            false => "unverified",
        };
        let triggers = Trigger::all_of(&webhook.triggers);
        let mut all = Counts::default();
        counts.values().for_each(|counts| all.add(counts));
        Self {
            webhook_id: webhook.id,
            url: webhook.call.url.clone(),
            statuses: triggers
                .map(|trigger| (trigger.as_str(), status(trigger)))
                .collect(),
            time_range: TimeRange {
                start_time: rfc3339(now.saturating_sub(86_400_000)),
                end_time: rfc3339(now),
                hours: 24,
            },
            metrics: Metrics::from(&all),
            metrics_by_trigger: {
                let counts = counts.iter();
                counts
                    .map(|(t, counts)| (t.as_str(), counts.into()))
                    .collect()
            },
        }
    }
}

async fn statistics(api: Api, ask: Ask) -> Result<String, ApiError> {
    let webhook = api.settings.webhook_of(ask.server()?.id, ask.id())?;
    let key = webhook.id.to_string();
    let (counts, now) = (api.webhooks.counts(&key), api.clock.unix_ms());
    let is_proven = |trigger| api.webhooks.is_proven(&key, trigger);
    reply(&Statistics::of(&webhook, &counts, is_proven, now))
}

async fn list(_: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?;
    let wanted = ask.query.text("MessageStream");
    if wanted.is_some_and(|stream| server.stream(stream).is_none()) {
        return Err(Refused::new(
            Rule::StreamUnknown,
            "The message stream for the provided 'ID' was not found.",
        )
        .into());
    }
    let suits = |webhook: &&Arc<WebhookInfo>| wanted.is_none_or(|s| *s == *webhook.stream);
    let webhooks = server.webhooks.iter().filter(suits);
    reply(&List {
        webhooks: webhooks.map(|webhook| Object::of(webhook)).collect(),
    })
}

async fn create(api: Api, mut ask: Ask) -> Result<String, ApiError> {
    let server = Arc::clone(ask.server()?);
    if ask.body.is_empty() {
        return Err(ApiError::new(Code(1355), "The request has no body."));
    }
    if ask.body.number("ID").is_some() {
        let why = "A new webhook is given its 'ID'; leave it out.";
        return Err(Refused::new(Rule::WebhookNew, why).into());
    }
    let wants_proof = ask.body.flag("Verify");
    let new = WebhookPatch {
        stream: ask.body.word("MessageStream"),
        ..patch(&mut ask.body, None)?
    };
    let now = api.clock.unix_ms();
    let draft = api.settings.draft_webhook(server.id, &new, now)?;
    prove(&api, &server, draft, wants_proof).await?;
    let made = api.settings.create_webhook(server.id, &new, now).await?;
    reply(&Object::with_secret(&made, new.signing_secret.is_some()))
}

async fn get(api: Api, ask: Ask) -> Result<String, ApiError> {
    let webhook = api.settings.webhook_of(ask.server()?.id, ask.id())?;
    reply(&Object::of(&webhook))
}

async fn edit(api: Api, mut ask: Ask) -> Result<String, ApiError> {
    let (server, id) = (Arc::clone(ask.server()?), ask.id());
    let known = api.settings.webhook_of(server.id, id)?;
    // Some clients send the object back that they were given.
    if ask
        .body
        .number("ID")
        .is_some_and(|given| given != i64::from(known.id))
    {
        let why = "The 'ID' of a webhook cannot be changed.";
        return Err(Refused::new(Rule::WebhookFixed, why).into());
    }
    let wants_proof = ask.body.flag("Verify");
    let patch = WebhookPatch {
        stream: ask.body.word("MessageStream"),
        ..patch(&mut ask.body, known.call.auth.as_ref())?
    };
    let draft = api.settings.redraft_webhook(server.id, id, &patch)?;
    prove(&api, &server, draft, wants_proof).await?;
    let edited = api.settings.edit_webhook(server.id, id, &patch).await?;
    reply(&Object::with_secret(
        &edited,
        patch.signing_secret.is_some(),
    ))
}

async fn delete(api: Api, ask: Ask) -> Result<String, ApiError> {
    let gone = api
        .settings
        .delete_webhook(ask.server()?.id, ask.id())
        .await?;
    done(format!("Webhook {} removed.", gone.id))
}

async fn verify(api: Api, ask: Ask) -> Result<String, ApiError> {
    let server = ask.server()?;
    let webhook = api.settings.webhook_of(server.id, ask.id())?;
    let verified = api.webhooks.verify(server, &webhook).await;
    let verification = Verification::of(&webhook, &verified);
    if verification.success && !verified.is_empty() {
        // It may just have been made, and not be at work yet: then there is nothing to resume.
        let _ = api.webhooks.restart(&webhook.id.to_string()).await;
    }
    reply(&verification)
}

/// Has a webhook taken a specimen of each trigger before it is set, where that is wanted.
async fn prove(
    api: &Api,
    server: &ServerInfo,
    draft: WebhookInfo,
    wanted: Option<bool>,
) -> Result<(), ApiError> {
    if !wanted.unwrap_or(api.settings.config().webhooks.verify) {
        return Ok(());
    }
    let draft = Arc::new(draft);
    let verified = api.webhooks.verify(server, &draft).await;
    let verification = Verification::of(&draft, &verified);
    if verification.success {
        return Ok(());
    }
    let message = verification.message.clone();
    let more = serde_json::to_value(&verification).unwrap_or_default();
    Err(ApiError {
        more: match more {
            Value::Object(mut more) => {
                // The envelope has one.
                more.remove("Message");
                Some(Box::new(more))
            }
            _ => None,
        },
        ..ApiError::with(StatusCode::UNPROCESSABLE_ENTITY, Code(1364), message)
    })
}

/// `auth` is what there is: its parts stay where others are not given.
fn patch(body: &mut Body, auth: Option<&BasicAuth>) -> Result<WebhookPatch, ApiError> {
    if body.text("Status").is_some() {
        let why = "The 'Status' of a webhook is read-only.";
        return Err(ApiError::new(Code(1363), why));
    }
    let given = body.object("HttpAuth")?.unwrap_or_default();
    let auth = match (given.text("Username"), given.text("Password")) {
        (None, None) => None,
        (username, password) => {
            let there = auth.cloned().unwrap_or_default();
            Some(BasicAuth {
                username: username.unwrap_or(there.username),
                password: password.unwrap_or(there.password),
            })
        }
    };
    let triggers = body.object("Triggers")?.unwrap_or_default();
    let part =
        |name: &str| -> Result<Body, ApiError> { Ok(triggers.object(name)?.unwrap_or_default()) };
    let (open, bounce, complaint) = (part("Open")?, part("Bounce")?, part("SpamComplaint")?);
    Ok(WebhookPatch {
        url: body.text("Url"),
        stream: None,
        auth,
        headers: headers(body)?,
        signing_secret: body.text("SigningSecret"),
        open: open.flag("Enabled"),
        post_first_open_only: open.flag("PostFirstOpenOnly"),
        click: part("Click")?.flag("Enabled"),
        delivery: part("Delivery")?.flag("Enabled"),
        bounce: bounce.flag("Enabled"),
        bounce_content: bounce.flag("IncludeContent"),
        spam_complaint: complaint.flag("Enabled"),
        spam_complaint_content: complaint.flag("IncludeContent"),
        subscription_change: part("SubscriptionChange")?.flag("Enabled"),
    })
}

fn headers(body: &mut Body) -> Result<Option<Vec<HeaderField>>, ApiError> {
    let Some(given) = body.take("HttpHeaders") else {
        return Ok(None);
    };
    let Value::Array(given) = given else {
        return Err(wrong_fields(&["$.HttpHeaders".to_owned()]));
    };
    let header = |value| {
        let entry = Body::of(value, HEADER_FIELDS)?;
        Ok(HeaderField {
            name: entry.text("Name").unwrap_or_default(),
            value: entry.text("Value").unwrap_or_default(),
        })
    };
    let headers: Result<Vec<_>, ApiError> = given.into_iter().map(header).collect();
    headers.map(Some)
}

fn one() -> String {
    specimen(&Object::of(&example()))
}

fn example() -> WebhookInfo {
    WebhookInfo {
        id: 1_234_567,
        server_id: 61,
        stream: "outbound".into(),
        triggers: Triggers {
            delivery: true,
            bounce: true,
            spam_complaint: true,
            ..Triggers::default()
        },
        call: Call {
            url: "https://shop.example/hooks/mail".into(),
            auth: Some(BasicAuth {
                username: "hook".into(),
                password: "s3cret".into(),
            }),
            headers: vec![HeaderField {
                name: "X-Shop".into(),
                value: "north".into(),
            }],
            signing_secret: None,
        },
        created: 0,
    }
}

const HEADER_FIELDS: &[Field] = &[
    field("Name", Kind::Text, ""),
    field("Value", Kind::Text, ""),
];
const STREAM: Field = field(
    "MessageStream",
    Kind::Text,
    "outbound if not given; it stays.",
);
const AUTH: Field = field(
    "HttpAuth",
    Kind::Object,
    "Username, Password. Two empty texts take it away.",
);
const HEADERS: Field = field(
    "HttpHeaders",
    Kind::List,
    "Name, Value; all of them, at most 20.",
);
const TRIGGERS: Field = field(
    "Triggers",
    Kind::Object,
    "Open, Click, Delivery, Bounce, SpamComplaint, SubscriptionChange, each with Enabled; Open with PostFirstOpenOnly, Bounce and SpamComplaint with IncludeContent.",
);
const VERIFY: Field = field(
    "Verify",
    Kind::Flag,
    "Whether it must take a specimen for each trigger first. As [webhooks] verify says if not given.",
);
const SECRET: Field = field(
    "SigningSecret",
    Kind::Text,
    "Not Postmark's: signs each request as Standard Webhooks does. whsec_ and base64, or new to draw one; empty for none.",
);
const FIELDS: &[Field] = &[
    field("Url", Kind::Text, "Where it is called, by POST."),
    STREAM,
    AUTH,
    HEADERS,
    TRIGGERS,
    VERIFY,
    SECRET,
];
const NEW_FIELDS: &[Field] = &[
    required("Url", Kind::Text, "Where it is called, by POST."),
    STREAM,
    AUTH,
    HEADERS,
    TRIGGERS,
    VERIFY,
    SECRET,
];
