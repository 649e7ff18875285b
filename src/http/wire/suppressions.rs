//! Suppressions in the admin API.

use serde::{Deserialize, Serialize};

/// A line of `GET /admin/v1/suppressions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    pub server: String,
    pub stream: String,
    /// Or `hash:` and 32 digits, where addresses are not kept.
    pub address: String,
    pub reason: String,
    pub origin: String,
    pub created_at: String,
    /// The event's id.
    pub event: u64,
}

/// What is to be suppressed in a stream, or lifted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuppressionsChange {
    pub server: String,
    pub stream: String,
    pub suppressions: Vec<NewSuppression>,
    /// A sentence, kept with the event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Only say what would become of them.
    #[serde(default)]
    pub dry_run: bool,
}

/// One of them. To lift it, the address is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSuppression {
    pub address: String,
    /// `ManualSuppression` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `Admin` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// RFC 3339; now if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// One outcome for each, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionsChanged {
    pub outcomes: Vec<SuppressionOutcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionOutcome {
    Suppressed,
    /// It was already, for a reason that stays.
    Kept,
    Lifted,
    NotSuppressed,
    /// The address is none.
    InvalidAddress,
    InvalidReason,
    InvalidOrigin,
    InvalidTime,
}
