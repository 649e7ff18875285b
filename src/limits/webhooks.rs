//! Bounds of webhooks.

use std::time::Duration;

use super::{KIB, MIB};

/// `[webhooks] concurrency`: requests under way to one hook, each with its body; the rest waits in the event log.
pub const WEBHOOK_REQUESTS: usize = 32;
/// Requests under way to all hooks together; each may have [`WEBHOOK_REQUESTS_ALWAYS`] of its own whatever others have. What a
/// hook may not send yet waits in the event log.
pub const WEBHOOK_REQUESTS_ALL: usize = 2_048;
pub const WEBHOOK_REQUESTS_ALWAYS: usize = 4;
/// Connections of all hooks; beyond, one is closed when it is answered.
pub const WEBHOOK_CONNECTIONS: usize = 2 * WEBHOOK_REQUESTS_ALL;
/// A connection that was idle for so long is not used again: of the servers that are common, gunicorn closes first, after two
/// seconds. It is closed within [`super::READER_UPKEEP`].
pub const WEBHOOK_IDLE: Duration = Duration::from_secs(1);
/// `[webhooks] timeout`.
pub const WEBHOOK_REQUEST: Duration = Duration::from_secs(30);
/// For a connection to one address; then the next one is tried.
pub const WEBHOOK_CONNECT: Duration = Duration::from_secs(5);
/// Octets of an answer that are read; over it the connection is closed, and the status counts all the same.
pub const WEBHOOK_ANSWER_MAX: usize = MIB;
/// From an answer's status to its end; over it likewise.
pub const WEBHOOK_ANSWER: Duration = Duration::from_secs(5);
/// Redirects that are followed; over it: a failure.
pub const WEBHOOK_REDIRECTS: usize = 10;
/// Waits of `[webhooks] bounce_retries` and `event_retries`.
pub const WEBHOOK_RETRIES_OF_ONE: usize = 30;
/// Events of one hook that wait for their retry, some 60 octets each; beyond, new ones wait in the event log.
pub const WEBHOOK_RETRIES: usize = 8_192;
/// Of all hooks together; each may have [`WEBHOOK_RETRIES_ALWAYS`] of its own whatever others have.
pub const WEBHOOK_RETRIES_ALL: usize = 262_144;
pub const WEBHOOK_RETRIES_ALWAYS: usize = 64;
/// Positions of events that a hook has read ahead; more wait in the event log.
pub const WEBHOOK_AHEAD: usize = 512;
/// Failures in a row after which only one event at a time is tried for the first time, and after a rest that doubles from a
/// second to [`WEBHOOK_REST_MAX`].
pub const WEBHOOK_FAILURES: u32 = 5;
/// Longer than any wait between retries: failures further apart are not one.
pub const WEBHOOK_FAILING_GAP: Duration = Duration::from_secs(86_400);
pub const WEBHOOK_REST_MAX: Duration = Duration::from_secs(60);
/// `[webhooks] stop_after`.
pub const WEBHOOK_STOP_AFTER: Duration = Duration::from_secs(5 * 86_400);
/// How often it is written down what a hook has taken: after a crash so much is sent again.
pub const WEBHOOK_FLUSH: Duration = Duration::from_millis(100);
/// How far back a hook begins whose place is lost.
pub const WEBHOOK_LOST: Duration = Duration::from_secs(86_400);
/// Messages of which it is remembered what events tell of them.
pub const WEBHOOK_MESSAGES: usize = 1_024;
/// Messages of which it is remembered that a search did not find them, 16 octets each: the retries of two hooks.
pub const WEBHOOK_UNFOUND: usize = 2 * WEBHOOK_RETRIES;
/// How long it is kept how far a webhook has come whose server is missing from the configuration file.
pub const WEBHOOK_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// How often it is looked for such.
pub const WEBHOOK_SWEEP: Duration = Duration::from_secs(86_400);
/// A hook that has failed for so long, with nothing taken in between, does not count for the lag of webhooks: it is the hook that
/// is behind, not the node.
pub const WEBHOOK_UNWELL: Duration = Duration::from_secs(60);
/// Octets of a bounce's content in a webhook; the rest is left out.
pub const WEBHOOK_CONTENT_MAX: usize = 256 * KIB;
/// Orders of operators that wait for one hook.
pub const WEBHOOK_ORDERS: usize = 4;
/// Stopped hooks that readiness and status name.
pub const WEBHOOK_WARNINGS: usize = 10;
/// How often the gauges of webhooks are brought up to date.
pub const WEBHOOK_GAUGES: Duration = Duration::from_secs(5);
/// Of all triggers, for a verification.
pub const WEBHOOK_VERIFY: Duration = Duration::from_secs(20);
/// Webhooks of one stream (Postmark); over it: 422, 1359.
pub const WEBHOOKS_PER_STREAM: usize = 10;
/// Header fields of a webhook, and octets of a name and a value; over it: 422, 1358.
pub const WEBHOOK_HEADERS: usize = 20;
pub const WEBHOOK_HEADER_NAME: usize = 100;
pub const WEBHOOK_HEADER_VALUE: usize = 2_000;
/// Events that are read to find a message whose event does not say where it lies: about 0.3 s. What is not found has no tag.
pub const WEBHOOK_SEARCH: usize = 262_144;
