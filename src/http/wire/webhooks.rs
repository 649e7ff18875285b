//! Webhooks in the admin API. The body of what makes and changes one is [`crate::account::WebhookPatch`].

use serde::{Deserialize, Serialize};

use crate::account::WebhookInfo;
use crate::clock::rfc3339;
use crate::readers::webhooks::{State, Trigger, Verified, shown_url};

/// `GET /admin/v1/webhooks`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhooks {
    pub webhooks: Vec<Webhook>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// The id; of a hook URL of a server itself `s`, the server's id, and which.
    pub key: String,
    pub server: String,
    /// `null`: all streams.
    pub stream: Option<String>,
    pub url: String,
    pub triggers: Vec<String>,
    /// Whether requests carry a signature.
    pub signed: bool,
    pub created_at: Option<String>,
    /// `ok`, `failing`, `stopped`, or `starting`.
    pub state: String,
    /// Of the event log, that it has not been sent or left to its retries.
    pub lag_bytes: u64,
    pub retries: u64,
    pub in_flight: u64,
    pub next_retry_at: Option<String>,
    pub last_success_at: Option<String>,
    pub last_failure_at: Option<String>,
    pub last_failure: Option<String>,
    pub failing_since: Option<String>,
    pub stopped_at: Option<String>,
    pub stopped_why: Option<String>,
    /// Of what is sent again.
    pub replay_from: Option<String>,
    pub replay_to: Option<String>,
    /// Requests since the start of the node.
    pub taken: u64,
    pub refused: u64,
    pub failed: u64,
    pub given_up: u64,
    /// Only in the answer that set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<String>,
}

impl Webhook {
    /// As it is doing.
    pub fn of(state: &State, webhook: Option<&WebhookInfo>) -> Self {
        let health = &state.health;
        let triggers = state.triggers.iter();
        Self {
            key: state.key.clone(),
            server: state.server.to_string(),
            stream: state.stream.as_deref().map(str::to_owned),
            url: state.url.clone(),
            triggers: triggers.map(|t| t.as_str().to_owned()).collect(),
            signed: webhook.is_some_and(|w| w.call.signing_secret.is_some()),
            created_at: webhook.map(|w| rfc3339(w.created)),
            state: match (&health.stopped, health.failing_since) {
                (Some(_), _) => "stopped",
                (None, Some(_)) => "failing",
                (None, None) => "ok",
            }
            .into(),
            lag_bytes: state.lag,
            retries: state.retries as u64,
            in_flight: state.in_flight as u64,
            next_retry_at: state.next_retry.map(rfc3339),
            last_success_at: health.succeeded.map(rfc3339),
            last_failure_at: health.failed.map(rfc3339),
            last_failure: health.failed.map(|_| health.failure.clone()),
            failing_since: health.failing_since.map(rfc3339),
            stopped_at: health.stopped.as_ref().map(|(at, _)| rfc3339(*at)),
            stopped_why: health.stopped.as_ref().map(|(_, why)| why.clone()),
            replay_from: state.replay.map(|replay| rfc3339(replay.from)),
            replay_to: state.replay.map(|replay| rfc3339(replay.to)),
            taken: state.taken,
            refused: state.refused,
            failed: state.failed,
            given_up: state.given_up,
            signing_secret: None,
        }
    }

    /// One that is set and not at work yet.
    pub fn starting(server: &str, webhook: &WebhookInfo) -> Self {
        Self {
            key: webhook.id.to_string(),
            server: server.to_owned(),
            stream: Some(webhook.stream.to_string()),
            url: url::Url::parse(&webhook.call.url)
                .map_or_else(|_| String::new(), |url| shown_url(&url)),
            triggers: {
                let triggers = Trigger::all_of(&webhook.triggers);
                triggers.map(|t| t.as_str().to_owned()).collect()
            },
            signed: webhook.call.signing_secret.is_some(),
            created_at: Some(rfc3339(webhook.created)),
            state: "starting".into(),
            ..Self::default()
        }
    }
}

/// Body of `POST /admin/v1/webhooks/{key}/replay`. `to`: now if it is not given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookReplay {
    pub from: String,
    #[serde(default)]
    pub to: Option<String>,
}

/// Body of `POST /admin/v1/webhooks/{key}/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookResume {
    /// Without what waits.
    pub skip: bool,
}

/// `POST /admin/v1/webhooks/{key}/verify`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookVerified {
    pub results: Vec<TriggerVerified>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerVerified {
    pub trigger: String,
    pub success: bool,
    pub status: Option<u16>,
    pub message: String,
}

impl From<&Verified> for TriggerVerified {
    fn from(verified: &Verified) -> Self {
        Self {
            trigger: verified.trigger.as_str().to_owned(),
            success: verified.is_success(),
            status: verified.status,
            message: verified.message.clone(),
        }
    }
}
