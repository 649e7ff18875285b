//! The operator's verbs on waiting mail.

use serde::{Deserialize, Serialize};

use super::Recipients;

/// Body of `POST /admin/v1/queue/{verb}`. What is named together has to be so together; `all` stands alone, `message` with
/// `recipient` at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// A site's key, as `queue explain` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The stream's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// That mail sticks to, or takes now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// With `message`: one of its recipients, by address or by number in order of RCPT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Why, for those who look at it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `suspend` and `reroute`: how long it stands; until it is ended, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    /// Of `reroute`: the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Of `resume`: the directive to end, instead of a selection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directive: Option<u32>,
}

/// Answer of `retry`, `bounce` and `cancel`: recipients that were found, by the state they were in.
pub type Affected = Recipients;

/// A suspension or a reroute that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    pub id: u32,
    /// `suspend`, `reroute`.
    pub what: String,
    /// Only what selects.
    pub selection: Selector,
    /// Of a reroute: the pool.
    pub to: Option<String>,
    pub reason: Option<String>,
    pub given_at: String,
    /// `null`: until it is ended.
    pub until: Option<String>,
    /// Queues that it holds or has moved, as far as they were looked at.
    #[serde(default)]
    pub queues: u64,
    /// Why it means nothing now: the configuration does not know a name any more.
    #[serde(default)]
    pub dormant: Option<String>,
}

/// `GET /admin/v1/queue/directives`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directives {
    pub directives: Vec<Directive>,
}

/// Answer of `suspend` and `reroute`: what stands now, and the recipients that it found, by the state they were in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directed {
    pub directive: Directive,
    pub ready: u64,
    pub deferred: u64,
    /// Their attempt goes on; it concerns them afterwards.
    pub in_flight: u64,
}

/// Answer of `resume`: the directives that it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    pub ended: Vec<Directive>,
}
