//! Webhooks: where events of a stream go, and which. Making and changing them, by Postmark's rules.
//!
//! A declared server may have webhooks of the store, as it may have tokens. What calls them (`readers::webhooks`) follows the
//! snapshot.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

use super::hook_url;
use super::rules::{self, Refused, Rule};
use super::secret;
use super::store::WebhookRow;
use super::{Change, ChangeError, ServerInfo, Settings, StoreError};
use crate::clock::UnixMs;
use crate::config::{StreamKind, Webhooks};
use crate::limits;

/// A webhook as everybody reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookInfo {
    pub id: u32,
    pub server_id: u32,
    pub stream: Arc<str>,
    pub triggers: Triggers,
    pub call: Call,
    pub created: UnixMs,
}

/// Which events it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Triggers {
    pub open: bool,
    pub post_first_open_only: bool,
    pub click: bool,
    pub delivery: bool,
    pub bounce: bool,
    pub bounce_content: bool,
    pub spam_complaint: bool,
    pub spam_complaint_content: bool,
    pub subscription_change: bool,
}

/// How it is called. All of it may be secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Call {
    pub url: String,
    pub auth: Option<BasicAuth>,
    pub headers: Vec<HeaderField>,
    /// `whsec_` and base64 (Standard Webhooks).
    pub signing_secret: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    pub username: String,
    #[serde(default)]
    pub password: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderField {
    pub name: String,
    pub value: String,
}

/// A new webhook, or what is to change in one. As the admin API takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Of a new one only; `outbound` if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Two empty texts take it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<BasicAuth>,
    /// All of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<HeaderField>>,
    /// `new` draws one, the empty text takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_first_open_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub click: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounce: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounce_content: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spam_complaint: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spam_complaint_content: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_change: Option<bool>,
}

impl Settings {
    /// What a new webhook would be, so that it can be called before it is one; its id is 0.
    pub fn draft_webhook(
        &self,
        server_id: u32,
        new: &WebhookPatch,
        now: UnixMs,
    ) -> Result<WebhookInfo, Refused> {
        let server = self.known(server_id)?;
        let stream = stream_for(&server, new.stream.as_deref())?;
        let count = server
            .webhooks
            .iter()
            .filter(|w| *w.stream == *stream)
            .count();
        if count >= limits::WEBHOOKS_PER_STREAM {
            let max = limits::WEBHOOKS_PER_STREAM;
            return Err(Refused::new(
                Rule::WebhookCount,
                format!("A message stream has at most {max} webhooks; delete one first."),
            ));
        }
        let mut draft = WebhookInfo {
            id: 0,
            server_id,
            stream: stream.into(),
            triggers: Triggers::default(),
            call: Call::default(),
            created: now,
        };
        self.apply_webhook(new, &mut draft)?;
        match draft.call.url.is_empty() {
            false => Ok(draft),
            true => Err(Refused::new(Rule::WebhookUrl, "The 'Url' is required.")),
        }
    }

    /// It gets what happens from now on.
    pub async fn create_webhook(
        &self,
        server_id: u32,
        new: &WebhookPatch,
        now: UnixMs,
    ) -> Result<Arc<WebhookInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let draft = self.draft_webhook(server_id, new, now)?;
        let created = self.store.create_webhook(&row_of(&draft)).await;
        let id = self.noting(created)?;
        self.changed(Change::Server(server_id)).await?;
        Ok(self.webhook_of(server_id, id)?)
    }

    /// What a webhook would be after a change.
    pub fn redraft_webhook(
        &self,
        server_id: u32,
        id: u32,
        patch: &WebhookPatch,
    ) -> Result<WebhookInfo, Refused> {
        let mut draft = WebhookInfo::clone(&*self.webhook_of(server_id, id)?);
        if patch.stream.as_deref().is_some_and(|s| *s != *draft.stream) {
            return Err(Refused::new(
                Rule::WebhookFixed,
                "The 'MessageStream' of a webhook cannot be changed.",
            ));
        }
        self.apply_webhook(patch, &mut draft)?;
        Ok(draft)
    }

    pub async fn edit_webhook(
        &self,
        server_id: u32,
        id: u32,
        patch: &WebhookPatch,
    ) -> Result<Arc<WebhookInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let draft = self.redraft_webhook(server_id, id, patch)?;
        let updated = self.store.update_webhook(&row_of(&draft)).await;
        self.noting(updated)?;
        self.changed(Change::Server(server_id)).await?;
        Ok(self.webhook_of(server_id, id)?)
    }

    pub async fn delete_webhook(
        &self,
        server_id: u32,
        id: u32,
    ) -> Result<Arc<WebhookInfo>, ChangeError> {
        let _one = self.changing.lock().await;
        let webhook = self.webhook_of(server_id, id)?;
        let deleted = self.store.delete_webhook(id).await;
        self.noting(deleted)?;
        self.changed(Change::Server(server_id)).await?;
        Ok(webhook)
    }

    /// A webhook is named together with its owner: the wrong owner and an unknown id look the same.
    pub fn webhook_of(&self, server_id: u32, id: u32) -> Result<Arc<WebhookInfo>, Refused> {
        let server = self.known(server_id)?;
        let found = server.webhooks.iter().find(|webhook| webhook.id == id);
        found.cloned().ok_or_else(unknown)
    }

    /// Whoever's it is: for the operator.
    pub fn webhook(&self, id: u32) -> Result<(Arc<ServerInfo>, Arc<WebhookInfo>), Refused> {
        let snapshot = self.accounts.load();
        let found = snapshot.servers().find_map(|server| {
            let webhook = server.webhooks.iter().find(|webhook| webhook.id == id)?;
            Some((Arc::clone(server), Arc::clone(webhook)))
        });
        found.ok_or_else(unknown)
    }

    /// Puts what the store says of a server's webhooks into the snapshot's form.
    pub(super) fn webhooks_of(&self, rows: Vec<WebhookRow>) -> Vec<Arc<WebhookInfo>> {
        let known = rows.into_iter().filter_map(|row| {
            if row.call.is_none() {
                tracing::error!(
                    webhook = row.id,
                    "a webhook in the account store cannot be read with this node.key: it is not called; delete it and make it anew"
                );
            }
            Some(Arc::new(WebhookInfo {
                id: row.id,
                server_id: row.server_id,
                stream: row.stream.into(),
                triggers: row.triggers,
                call: row.call?,
                created: row.created,
            }))
        });
        known.collect()
    }

    fn apply_webhook(&self, patch: &WebhookPatch, to: &mut WebhookInfo) -> Result<(), Refused> {
        if let Some(url) = &patch.url {
            webhook_url(url, &self.config.load().webhooks)?;
            to.call.url.clone_from(url);
        }
        if let Some(auth) = &patch.auth {
            to.call.auth = basic_auth(auth)?;
        }
        if let Some(headers) = &patch.headers {
            header_fields(headers)?;
            to.call.headers.clone_from(headers);
        }
        if let Some(secret) = &patch.signing_secret {
            to.call.signing_secret = signing_secret(secret)?;
        }
        let triggers = &mut to.triggers;
        for (given, to) in [
            (patch.open, &mut triggers.open),
            (
                patch.post_first_open_only,
                &mut triggers.post_first_open_only,
            ),
            (patch.click, &mut triggers.click),
            (patch.delivery, &mut triggers.delivery),
            (patch.bounce, &mut triggers.bounce),
            (patch.bounce_content, &mut triggers.bounce_content),
            (patch.spam_complaint, &mut triggers.spam_complaint),
            (
                patch.spam_complaint_content,
                &mut triggers.spam_complaint_content,
            ),
            (patch.subscription_change, &mut triggers.subscription_change),
        ] {
            *to = given.unwrap_or(*to);
        }
        Ok(())
    }
}

/// The octets of a signing secret, if it is one (Standard Webhooks: 24 to 64 of them).
pub fn signing_key(secret: &str) -> Option<Vec<u8>> {
    let bytes = BASE64_STANDARD
        .decode(secret.strip_prefix(SECRET_PREFIX)?)
        .ok()?;
    (24..=64).contains(&bytes.len()).then_some(bytes)
}

fn stream_for<'a>(server: &ServerInfo, id: Option<&'a str>) -> Result<&'a str, Refused> {
    let id = id.filter(|id| !id.is_empty()).unwrap_or("outbound");
    let Some(stream) = server.stream(id) else {
        return Err(Refused::new(
            Rule::StreamUnknown,
            format!(
                "The stream provided: '{}' does not exist on this server.",
                rules::shown(id)
            ),
        ));
    };
    if stream.kind == StreamKind::Inbound {
        return Err(Refused::new(
            Rule::WebhookInbound,
            "An inbound stream has no webhooks; set the server's 'InboundHookUrl'.",
        ));
    }
    match stream.archived() {
        false => Ok(id),
        true => Err(Refused::new(
            Rule::WebhookArchived,
            "The message stream is archived.",
        )),
    }
}

fn webhook_url(url: &str, webhooks: &Webhooks) -> Result<(), Refused> {
    let refused = |why: String| Refused::new(Rule::WebhookUrl, why);
    if url.is_empty() {
        return Err(refused("The 'Url' is required.".into()));
    }
    hook_url::parse(url, webhooks)
        .map(drop)
        .map_err(|why| refused(format!("The 'Url' '{}' {why}.", rules::shown(url))))
}

fn basic_auth(auth: &BasicAuth) -> Result<Option<BasicAuth>, Refused> {
    if auth.username.is_empty() && auth.password.is_empty() {
        return Ok(None);
    }
    // RFC 7617 §2: a colon would begin the password.
    let is_sound = |text: &str| text.len() <= AUTH_OCTETS_MAX && !rules::has_control(text);
    match is_sound(&auth.username) && is_sound(&auth.password) && !auth.username.contains(':') {
        true => Ok(Some(auth.clone())),
        false => Err(Refused::new(
            Rule::WebhookValue,
            format!(
                "'HttpAuth' has at most {AUTH_OCTETS_MAX} octets each, no control characters, and no ':' in 'Username'."
            ),
        )),
    }
}

fn header_fields(fields: &[HeaderField]) -> Result<(), Refused> {
    let refused = |why: String| Err(Refused::new(Rule::WebhookHeader, why));
    if fields.len() > limits::WEBHOOK_HEADERS {
        return refused(format!(
            "'HttpHeaders' has at most {} entries.",
            limits::WEBHOOK_HEADERS
        ));
    }
    for field in fields {
        let shown = rules::shown(&field.name);
        let is_token = field.name.parse::<hyper::header::HeaderName>().is_ok();
        if !is_token || field.name.len() > limits::WEBHOOK_HEADER_NAME {
            return refused(format!(
                "'HttpHeaders' has the name '{shown}', which is none."
            ));
        }
        if OURS
            .iter()
            .any(|ours| ours.eq_ignore_ascii_case(&field.name))
        {
            return refused(format!(
                "'HttpHeaders' must not set '{shown}', which is set here."
            ));
        }
        let is_value = hyper::header::HeaderValue::from_str(&field.value).is_ok();
        if !is_value || field.value.len() > limits::WEBHOOK_HEADER_VALUE {
            return refused(format!(
                "'HttpHeaders' has a value of '{shown}' that no header field can have."
            ));
        }
    }
    Ok(())
}

fn signing_secret(given: &str) -> Result<Option<String>, Refused> {
    match given {
        "" => Ok(None),
        "new" => {
            let drawn = secret::random::<32>().map_err(|error| {
                Refused::new(
                    Rule::WebhookValue,
                    format!("A secret cannot be drawn: {error}."),
                )
            })?;
            Ok(Some(format!(
                "{SECRET_PREFIX}{}",
                BASE64_STANDARD.encode(drawn)
            )))
        }
        given if signing_key(given).is_some() => Ok(Some(given.to_owned())),
        _ => Err(Refused::new(
            Rule::WebhookValue,
            "'SigningSecret' is whsec_ and base64 of 24 to 64 octets, or new, or empty for none.",
        )),
    }
}

fn row_of(webhook: &WebhookInfo) -> WebhookRow {
    WebhookRow {
        id: webhook.id,
        server_id: webhook.server_id,
        stream: webhook.stream.to_string(),
        triggers: webhook.triggers,
        call: Some(webhook.call.clone()),
        created: webhook.created,
    }
}

fn unknown() -> Refused {
    Refused::new(
        Rule::WebhookUnknown,
        "The webhook with this ID was not found.",
    )
}

impl From<secret::KeyError> for ChangeError {
    fn from(error: secret::KeyError) -> Self {
        StoreError::Key(error).into()
    }
}

const SECRET_PREFIX: &str = "whsec_";
const AUTH_OCTETS_MAX: usize = 500;
/// What a request is made of.
const OURS: [&str; 14] = [
    "Host",
    "Content-Length",
    "Content-Type",
    "Transfer-Encoding",
    "Connection",
    "Upgrade",
    "Expect",
    "TE",
    "X-PM-Webhook-Trace-Id",
    "X-PM-Webhook-Event-Id",
    "X-PM-Retries-Remaining",
    "Webhook-Id",
    "Webhook-Timestamp",
    "Webhook-Signature",
];
