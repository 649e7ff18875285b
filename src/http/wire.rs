//! Exactly the JSON of the admin API, as the daemon writes it and the command line reads it.
//!
//! snake_case, times RFC 3339 in UTC, `null` for what is not there. Fields may be added; a reader ignores those that it
//! does not know.

mod accounts;
mod census;
mod checks;
mod control;
mod identities;
mod readers;
mod sources;
mod suppressions;
mod webhooks;

use serde::{Deserialize, Serialize};

pub use accounts::*;
pub use census::*;
pub use checks::*;
pub use control::*;
pub use identities::*;
pub use readers::*;
pub use sources::*;
pub use suppressions::*;
pub use webhooks::*;

/// `GET /admin/v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub hostname: String,
    pub started_at: String,
    /// Accepts mail.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
    pub development: bool,
    pub recipients: Recipients,
    pub queues: u64,
    pub sites: u64,
    pub delivery_connections: u64,
    pub spool: Vec<LogStatus>,
    /// What an operator should look at although mail goes on.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Live recipients by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipients {
    pub ready: u64,
    pub deferred: u64,
    pub in_flight: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// `mail` or `event`.
    pub log: String,
    /// Position of the first retained record.
    pub start: u64,
    /// Position up to which everything is on stable storage.
    pub durable: u64,
    pub segments: u64,
    /// Archived segments, and their bytes.
    #[serde(default)]
    pub archives: u64,
    #[serde(default)]
    pub archive_bytes: u64,
    pub damaged: u64,
}

/// A line of `GET /admin/v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
    pub at: String,
    /// Of this life of the daemon.
    pub session: Option<u64>,
    pub source: Option<String>,
    pub host: Option<String>,
    /// Address and port.
    pub remote: Option<String>,
    /// Ids of the messages whose transactions are under way.
    pub messages: Vec<String>,
    /// `client`: we said it; `host`: the remote host did; `note`: it happened; `lost`: lines were, since they came faster
    /// than they were read.
    pub voice: String,
    /// Control characters are escaped as `\\xNN`, others that steer a terminal as `\\u{N}`, a backslash is doubled.
    pub text: String,
}

/// `GET /admin/v1/queues`: a page in the order of pool and domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queues {
    pub queues: Vec<Queue>,
    /// Give it as `after_pool` and `after_domain` for the next page; `null` on the last.
    pub next: Option<QueueKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueKey {
    pub pool: String,
    pub domain: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    pub pool: String,
    pub domain: String,
    /// The MX set that limits apply to, once it is known.
    pub site: Option<String>,
    pub ready: u64,
    pub deferred: u64,
    pub in_flight: u64,
    /// Acceptance of the oldest recipient that waits.
    pub oldest_at: Option<String>,
    /// When the queue is looked at next if nothing happens before.
    pub next_wake_at: Option<String>,
    /// What its ready recipients wait for.
    pub reasons: Vec<Reason>,
    /// The ways that its mail takes: a source and a stream each, the first few.
    #[serde(default)]
    pub ways: Vec<Way>,
}

/// Why something waits: a word for scripts, a sentence for people, and when it will be looked at again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    pub sentence: String,
    pub until: Option<String>,
}

/// `GET /admin/v1/explain`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanations {
    /// Asked for a domain: its queues.
    pub queues: Vec<Queue>,
    /// What the last attempts for it came to, of the last hour, oldest first.
    #[serde(default)]
    pub attempts_told: Vec<Reason>,
    /// Asked for a message: its live recipients.
    pub recipients: Vec<Explanation>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub message_id: String,
    pub recipient: String,
    pub recipient_number: u16,
    pub pool: String,
    pub domain: String,
    pub site: Option<String>,
    /// `ready`, `deferred`, `in_flight`, `leaving`.
    pub state: String,
    pub attempts: u32,
    /// Deferred: when it becomes ready.
    pub next_attempt_at: Option<String>,
    /// In flight: since when.
    pub since: Option<String>,
    /// Ready: how many ready recipients of its site go before it, itself included.
    pub ahead: Option<u64>,
    pub expires_at: String,
    pub reasons: Vec<Reason>,
    #[serde(default)]
    pub way: Option<Way>,
    /// What its last attempts came to, oldest first.
    #[serde(default)]
    pub attempts_told: Vec<Reason>,
    /// What would release it.
    #[serde(default)]
    pub release: String,
}

/// Body of `POST /admin/v1/erasures`: exactly one of `recipient`, `sender`, `message`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewErasure {
    /// An address: messages that it is a recipient of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// An address: messages whose reverse-path it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// A message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Only messages of this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Only messages accepted before this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Upper and lower case are different in the local-part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// Cancels recipients that still wait; without it, one that does refuses the whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// Only looks and counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Answer of `POST /admin/v1/imports` and `GET /admin/v1/imports/{id}`: a session of taking messages over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub id: u64,
    /// `reading`: which messages there are is being looked up; `ready`.
    pub state: String,
    /// Messages that this node knows.
    pub known: u64,
}

/// First line of the body of `POST /admin/v1/imports/{id}/messages`. Behind the line feed: `content_bytes` octets of content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportedMessage {
    /// `null`: a new one.
    #[serde(default)]
    pub message_id: Option<String>,
    /// `null`: now.
    #[serde(default)]
    pub accepted_at: Option<String>,
    pub server: String,
    #[serde(default)]
    pub stream: Option<String>,
    /// Empty: null.
    pub reverse_path: String,
    /// In the order that they get their numbers in.
    pub recipients: Vec<ImportedRecipient>,
    #[serde(default)]
    pub tag: Option<String>,
    #[serde(default)]
    pub metadata: Vec<(String, String)>,
    #[serde(default)]
    pub smtputf8: bool,
    #[serde(default)]
    pub client_ip: Option<String>,
    #[serde(default)]
    pub helo: Option<String>,
    #[serde(default)]
    pub envelope_id: Option<String>,
    /// `FULL` or `HDRS`.
    #[serde(default)]
    pub dsn_return: Option<String>,
    /// Before it there is no attempt.
    #[serde(default)]
    pub scheduled_at: Option<String>,
    #[serde(default)]
    pub deadline_at: Option<String>,
    pub content_bytes: u64,
    /// Only checked.
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportedRecipient {
    pub recipient: String,
    /// RFC 3461 §4.1, upper case.
    #[serde(default)]
    pub notify: Option<String>,
    #[serde(default)]
    pub original_recipient: Option<String>,
}

/// Answer of `POST /admin/v1/imports/{id}/messages`: the message is durable, if it was not just checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub message_id: String,
    /// `accepted`, `known` (it was there before; nothing was done), `checked`.
    pub outcome: String,
}

/// Answer of `POST /admin/v1/erasures` and `GET /admin/v1/erasures/{id}`. Never says whom it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Since the start of the node.
    pub id: u64,
    /// `running`, `done`, `refused` (recipients that still wait: `live`), `failed`.
    pub state: String,
    pub started_at: String,
    pub ended_at: Option<String>,
    pub dry_run: bool,
    /// Bytes of both logs that were looked at, and that there are.
    pub scanned_bytes: u64,
    pub total_bytes: u64,
    /// Messages that match and whose records are there.
    pub messages: u64,
    /// Records that match, message and content records, and events.
    pub mail_records: u64,
    pub event_records: u64,
    /// Of these: erased now, erased before, left because they are damaged, left because somebody reads them for long.
    pub erased: u64,
    pub already_erased: u64,
    pub unerasable: u64,
    pub busy: u64,
    /// Recipients that were cancelled.
    pub cancelled: u64,
    /// Messages with recipients that still wait: how many, and the first of them.
    pub live_count: u64,
    pub live: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The answer to a request for work that goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// False: such work was under way already.
    pub begun: bool,
}

/// Something takes long and goes on: `GET /admin/v1/queue/running/{work}` tells its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub work: u64,
    pub message: String,
}

/// Every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `not_found`, `conflict`, `invalid`, `unauthorized`, `unavailable`, `failed`.
    pub error: String,
    /// One sentence for people.
    pub message: String,
}
