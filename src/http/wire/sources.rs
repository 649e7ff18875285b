//! Egress sources.

use serde::{Deserialize, Serialize};

/// `GET /admin/v1/sources`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sources {
    pub sources: Vec<Source>,
}

/// An egress source and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub name: String,
    pub pool: String,
    pub addresses: Vec<String>,
    /// What remote hosts see, as far as that is known.
    #[serde(default)]
    pub public_addresses: Vec<String>,
    pub ehlo: String,
    /// Without user and password.
    pub proxy: Option<String>,
    pub weight: u32,
    /// `in_service`, `drained` (by an operator), `out` (by itself).
    pub state: String,
    /// Why it is not in service.
    pub reason: Option<String>,
    pub since: Option<String>,
    /// When it comes back by itself, or is tried again.
    pub until: Option<String>,
    pub connections: u64,
    /// Messages handed over in the last hour.
    pub messages_hour: u64,
    /// When last a site did not let it in, or it could not be used.
    pub last_trouble_at: Option<String>,
    pub last_trouble: Option<String>,
}

/// `POST /admin/v1/sources/{name}/drain`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDrain {
    /// For those who read `source ls` and `queue explain`.
    #[serde(default)]
    pub reason: String,
    /// It resumes by itself after so long.
    pub seconds: Option<u64>,
}
