//! What waits, added up: the table of `queue ls` and the rows of `queue top`.

use serde::{Deserialize, Serialize};

use super::{QueueKey, Reason, Recipients};

/// `GET /admin/v1/queue/census`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Census {
    pub rows: Vec<CensusRow>,
    /// Rows on all pages.
    pub groups: u64,
    /// Of all pages.
    pub recipients: Recipients,
    /// Sorted by name: give it as `after_pool` and `after_name` for the next page; `null` on the last.
    pub next: Option<QueueKey>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CensusRow {
    /// By domain, site or pool.
    pub pool: Option<String>,
    /// By domain.
    pub domain: Option<String>,
    /// Of what the row is about; empty: a site that is not known.
    pub name: String,
    /// By domain: the MX set that limits apply to, once it is known.
    pub site: Option<String>,
    pub ready: u64,
    pub deferred: u64,
    pub in_flight: u64,
    /// Recipients by age, up to 5, 10, 20, 40, 80, 160, 320, 640, 1280 minutes, and above.
    pub ages: Vec<u64>,
    /// Those with a schedule, a deadline or an age limit of their own.
    pub age_unknown: u64,
    pub oldest_at: Option<String>,
    /// Recipients that have ended after an attempt, of the queues that there are: two answers tell the rate.
    pub outcomes: u64,
    /// By domain: when it is looked at next if nothing happens before.
    pub next_wake_at: Option<String>,
    /// By domain: what its recipients wait for.
    pub reasons: Vec<Reason>,
}

/// The way that waiting mail takes, and what holds for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Its pool's sources with their weights.
    pub sources: Vec<String>,
    /// The source that it sticks to.
    pub sticks_to: Option<String>,
    /// The source that it takes at its site now, once that is known.
    pub takes: Option<String>,
    pub server: String,
    pub stream: String,
    /// Recipients in a round of turns at its site.
    pub share: u32,
    /// Of the source at the site.
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub limit: String,
    pub value: String,
    /// That set it.
    pub rule: String,
}
