//! Checks of domains and sources.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::clock::{UnixMs, rfc3339};

/// `POST /admin/v1/domains/{name}/check`, `POST /admin/v1/sources/{name}/check`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The domain's name, or the source's.
    pub name: String,
    pub checked_at: String,
    /// Of the worst finding.
    pub level: String,
    pub findings: Vec<Finding>,
}

/// One record that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Says what is the matter; never changes.
    pub id: String,
    /// `ok`, `warn`, `unknown` (the DNS did not answer) or `error`.
    pub level: String,
    /// A record type and a name, or an address.
    pub about: String,
    pub wanted: String,
    pub found: String,
    /// What to do, in a sentence; empty: nothing.
    pub advice: String,
}

impl Check {
    pub fn of(name: String, findings: &[check::Finding], now: UnixMs) -> Self {
        Self {
            name,
            checked_at: rfc3339(now),
            level: check::worst(findings).as_str().into(),
            findings: findings.iter().map(Finding::of).collect(),
        }
    }
}

impl Finding {
    fn of(finding: &check::Finding) -> Self {
        Self {
            id: finding.id.into(),
            level: finding.level.as_str().into(),
            about: finding.about.clone(),
            wanted: finding.wanted.clone(),
            found: finding.found.clone(),
            advice: finding.advice.clone(),
        }
    }
}
