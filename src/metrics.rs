//! Every metric of the node in one table: name, kind, labels and their values, help.
//!
//! Promises: a label has a closed set of values, so the number of series is known at compile time, but for the sources and
//! providers of the configuration, which are known at start; a value outside it counts as `other`. Counting costs one atomic operation and no look-up: handles are made once by [`install`], and before
//! that (in tests, in commands) counting does nothing. Every series exists from the start, with 0.
//! Deliberately does not know who counts, nor how the text is served: `http` does that.

use std::sync::OnceLock;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use spool_format::StreamKind;

use crate::outcome::CauseClass;

macro_rules! table {
    ($($(#[$meta:meta])* $name:ident: $kind:ident = $text:literal $(, $label:literal in $values:expr)*; $help:literal)*) => {
        $($(#[$meta])* #[doc = $help] pub static $name: $kind = $kind::new($text, &[$(Dimension { label: $label, values: $values }),*], $help);)*

        /// All of them, in the order of this file.
        pub static ALL: &[&dyn Metric] = &[$(&$name,)*];
    };
}

table! {
    // Submission.
    SMTP_CONNECTIONS: Gauge = "posthaste_smtp_connections"; "Open connections of submission clients."
    SMTP_SESSIONS: Counter = "posthaste_smtp_sessions_total"; "SMTP sessions begun, of submission, of inbound listeners, and with the built-in sink."
    SMTP_SESSION_PANICS: Counter = "posthaste_smtp_session_panics_total"; "Submission sessions ended by a fault in the program (421)."
    SMTP_AUTH: Counter = "posthaste_smtp_auth_total", "result" in || AUTH_RESULTS.to_vec(); "AUTH exchanges by result."
    SMTP_TLS_HANDSHAKES: Counter = "posthaste_smtp_tls_handshakes_total", "result" in || RESULTS.to_vec(); "TLS handshakes of submission clients."
    SMTP_LIMITS: Counter = "posthaste_smtp_limits_total", "limit" in || SMTP_LIMIT_NAMES.to_vec(); "Times a submission client met a limit."
    MESSAGES_ACCEPTED: Counter = "posthaste_messages_accepted_total", "stream_kind" in || STREAM_KINDS.to_vec(); "Messages made durable and acknowledged."
    RECIPIENTS_ACCEPTED: Counter = "posthaste_recipients_accepted_total", "stream_kind" in || STREAM_KINDS.to_vec(); "Recipients of acknowledged messages."
    CONTENT_ACCEPTED: Counter = "posthaste_content_accepted_bytes_total"; "Content of acknowledged messages."
    MESSAGES_REFUSED: Counter = "posthaste_messages_refused_total", "reason" in || REFUSALS.to_vec(); "Messages that were refused when they were submitted by SMTP; over HTTP see posthaste_http_requests_total."
    SUBMISSION_BUFFERS: Gauge = "posthaste_submission_buffers_bytes"; "Memory that holds content of submissions in progress."

    // Spool.
    SPOOL_COMMITS: Counter = "posthaste_spool_commits_total", "log" in || LOGS.to_vec(); "Group commits, each with one sync."
    SPOOL_COMMIT_SECONDS: Histogram = "posthaste_spool_commit_seconds", "log" in || LOGS.to_vec(); "Time of a group commit from taking the batch to its sync."
    SPOOL_RECORDS: Counter = "posthaste_spool_records_total", "log" in || LOGS.to_vec(); "Records committed."
    SPOOL_WRITTEN: Counter = "posthaste_spool_written_bytes_total", "log" in || LOGS.to_vec(); "Bytes written, commit records and padding included."
    SPOOL_SEGMENTS: Gauge = "posthaste_spool_segments", "log" in || LOGS.to_vec(); "Segments in use."
    SPOOL_COLD_READS: Counter = "posthaste_spool_cold_reads_total"; "Records read from the medium because they had left memory."
    SPOOL_COLD_SECONDS: Histogram = "posthaste_spool_cold_read_seconds"; "Time of such a read."
    SPOOL_COMPACTED: Counter = "posthaste_spool_compacted_segments_total"; "Mostly dead segments whose live mail was copied elsewhere."
    SPOOL_COMPACTED_BYTES: Counter = "posthaste_spool_compacted_bytes_total"; "Live mail so copied."
    SPOOL_QUARANTINED: Counter = "posthaste_spool_quarantined_segments_total", "log" in || LOGS.to_vec(); "Damaged segments kept as .bad for the operator."
    MESSAGES_UNREADABLE: Counter = "posthaste_unreadable_recipients_total"; "Recipients whose message could not be read when something became of them."
    SPOOL_DAMAGE: Counter = "posthaste_spool_damaged_records_total", "log" in || LOGS.to_vec(); "Places where acknowledged bytes did not verify."
    SPOOL_ARCHIVES: Gauge = "posthaste_spool_archives", "log" in || LOGS.to_vec(); "Archived segments."
    SPOOL_ARCHIVE_BYTES: Gauge = "posthaste_spool_archive_bytes", "log" in || LOGS.to_vec(); "Size of the archives."
    SPOOL_ARCHIVED: Counter = "posthaste_spool_archived_segments_total", "log" in || LOGS.to_vec(); "Archives written, those made anew included."
    SPOOL_ARCHIVES_GONE: Counter = "posthaste_spool_archives_removed_total", "reason" in || ARCHIVE_REASONS.to_vec(); "Archives removed, by reason."
    SPOOL_ARCHIVE_FAILURES: Counter = "posthaste_spool_archive_failures_total"; "Times an archive could not be written or read."
    SPOOL_DIGESTS: Counter = "posthaste_spool_digests_total", "log" in || LOGS.to_vec(); "Sealed segments of which a digest was written down."
    SPOOL_DIGEST_FAILURES: Counter = "posthaste_spool_digest_failures_total"; "Times a digest could not be written down; it is tried again."
    SPOOL_UNARCHIVED: Counter = "posthaste_spool_unarchived_segments_total"; "Segments whose content was given up because space was short."
    SPOOL_SHORT: Gauge = "posthaste_spool_space_short"; "1 while free space is below the bound of the alarm."
    SPOOL_ERASED: Counter = "posthaste_spool_erased_records_total", "log" in || LOGS.to_vec(); "Records erased for privacy."
    DATA_REMOVALS: Gauge = "posthaste_data_removals_pending"; "Requests to remove somebody's data that are not met yet."
    READER_LAG: Gauge = "posthaste_reader_lag_bytes", "reader" in reader_names; "Of the event log, that a reader has still to read."
    READER_LAG_SECONDS: Gauge = "posthaste_reader_lag_seconds", "reader" in reader_names; "Age of the last event that a reader has read, while there are more; 0 when it has read all. Of webhooks: of the first event that one has still to be sent; those that have failed for a minute or are stopped do not count."
    READER_FAILURES: Counter = "posthaste_reader_failures_total", "reader" in reader_names; "Times a reader could not write what it keeps; it tries again."
    SINK_EVENTS: Counter = "posthaste_sink_events_total", "sink" in sink_names; "Events that sinks have taken."
    STATISTICS_UNTAGGED: Counter = "posthaste_statistics_untagged_total"; "Times that a tag's counts were left out because its stream had a thousand others on that day; the stream's own are whole."
    WEBHOOKS: Counter = "posthaste_webhook_attempts_total", "result" in || WEBHOOK_RESULTS.to_vec(); "Webhook requests: taken, refused (not tried again), failed (tried again), or given up (the last retry failed)."
    WEBHOOK_SECONDS: Histogram = "posthaste_webhook_seconds", "result" in || WEBHOOK_RESULTS.to_vec(); "Time of a webhook request, redirects included."
    WEBHOOK_HOOKS: Gauge = "posthaste_webhooks", "state" in || WEBHOOK_STATES.to_vec(); "Webhooks and hook URLs of servers: failing ones have taken nothing since a failure or refusal, stopped ones are called no more."
    WEBHOOK_RETRIES: Gauge = "posthaste_webhook_retries"; "Events that wait for a retry, each counted once for each webhook."
    WEBHOOK_IN_FLIGHT: Gauge = "posthaste_webhook_requests"; "Webhook requests under way."
    SPOOL_FREE: Gauge = "posthaste_spool_free_bytes"; "Free space of the spool's file system."
    SPOOL_FULL: Gauge = "posthaste_spool_full"; "1 while new mail is refused for want of space."
    SPOOL_FAILED: Gauge = "posthaste_spool_failed"; "1 after a failed sync: the node refuses and is about to exit."
    SPOOL_CHECKPOINTS: Counter = "posthaste_spool_checkpoints_total", "form" in || CHECKPOINT_FORMS.to_vec(); "Checkpoints written."
    SPOOL_CHECKPOINT_FAILURES: Counter = "posthaste_spool_checkpoint_failures_total"; "Checkpoints that could not be written."
    SPOOL_CHECKPOINT_TIME: Gauge = "posthaste_spool_checkpoint_timestamp_seconds"; "Unix time of the newest checkpoint."
    SPOOL_CHECKPOINT_RECIPIENTS: Gauge = "posthaste_spool_checkpoint_recipients"; "Live recipients in the newest base checkpoint."
    SPOOL_CHECKPOINT_BYTES: Gauge = "posthaste_spool_checkpoint_bytes"; "Size of the newest base checkpoint."
    SPOOL_CHECKPOINT_SECONDS: Gauge = "posthaste_spool_checkpoint_seconds"; "Time that the newest checkpoint took to write."
    SPOOL_RECOVERY_SECONDS: Gauge = "posthaste_spool_recovery_seconds"; "Time of the recovery at start."

    // Queue.
    QUEUE_RECIPIENTS: Gauge = "posthaste_queue_recipients", "state" in || QUEUE_STATES.to_vec(); "Live recipients by state."
    QUEUE_AGES: Gauge = "posthaste_queue_age_recipients", "stream_kind" in || SENDING_KINDS.to_vec(), "age" in || AGES.to_vec(); "Live recipients by age, as queue ls has its columns; unknown: with a schedule, a deadline or an age limit of their own. Counted every few seconds, of long queues once a minute."
    QUEUE_OLDEST: Gauge = "posthaste_queue_oldest_seconds", "stream_kind" in || SENDING_KINDS.to_vec(); "Age of the oldest live recipient whose age is known; 0 where none waits. Counted as often."
    QUEUES: Gauge = "posthaste_queues"; "Queues: pairs of pool and recipient domain."
    QUEUE_SITES: Gauge = "posthaste_queue_sites"; "Sites that queues lead to."
    QUEUE_PATHS: Gauge = "posthaste_queue_paths"; "Paths: pairs of source and site that are in use or remembered."
    QUEUE_FLOWS: Gauge = "posthaste_queue_flows"; "Flows that have had mail since the start: pairs of server and stream."

    // Sources; the label is the name in the configuration.
    SOURCE_UP: Gauge = "posthaste_source_in_service", "source" in source_names; "1 while the source may open connections."
    SOURCE_CONNECTIONS: Gauge = "posthaste_source_connections", "source" in source_names; "Open connections of the source."
    SOURCE_MESSAGES: Counter = "posthaste_source_messages_total", "source" in source_names; "Messages handed to remote hosts by the source."
    SOURCE_STOPS: Counter = "posthaste_source_stops_total", "why" in || SOURCE_STOP_CAUSES.to_vec(); "Times a source was taken out of service."

    // Delivery.
    ATTEMPTS: Counter = "posthaste_delivery_attempts_total", "outcome" in || ATTEMPT_OUTCOMES.to_vec(), "provider" in provider_names; "Attempts by what they decided, and whose host was spoken to; other: of no known provider."
    OUTCOMES: Counter = "posthaste_recipients_ended_total", "outcome" in || TERMINAL_OUTCOMES.to_vec(); "Recipients by their terminal outcome."
    CAUSES: Counter = "posthaste_delivery_failures_total", "cause" in causes, "outcome" in || FAILED_OUTCOMES.to_vec(); "Attempts that did not deliver, by cause and what became of the recipient."
    JUDGED: Counter = "posthaste_replies_judged_total", "by" in || JUDGES.to_vec(); "Refusals by what judged them: a rule, or, where none knew them, enhanced status, code, or stage alone (posthaste rules unmatched)."
    FIRST_ATTEMPT_SECONDS: Histogram = "posthaste_first_attempt_seconds", "stream_kind" in || SENDING_KINDS.to_vec(), "provider" in provider_names; "Time from acceptance, or release of what was scheduled, to the first transaction with a remote host, once a message and session."
    DELIVERY_SECONDS: Histogram = "posthaste_delivery_seconds", "stream_kind" in || SENDING_KINDS.to_vec(), "provider" in provider_names; "Time from acceptance, or release of what was scheduled, to delivery."
    UNDELIVERED_SECONDS: Histogram = "posthaste_undelivered_seconds", "stream_kind" in || SENDING_KINDS.to_vec(), "outcome" in || UNDELIVERED.to_vec(); "Time from acceptance, or release of what was scheduled, to another outcome than delivery."
    DELIVERY_CONNECTIONS: Gauge = "posthaste_delivery_connections"; "Open connections to remote hosts."
    DELIVERY_SESSIONS: Counter = "posthaste_delivery_sessions_total", "result" in || RESULTS.to_vec(); "Ended sessions with remote hosts; failed: the host, or the way to it, did."
    DELIVERY_TLS: Counter = "posthaste_delivery_tls_total", "result" in || TLS_RESULTS.to_vec(); "Ended sessions that reached a remote host, by TLS."
    DELIVERY_TLS_VERSIONS: Counter = "posthaste_delivery_tls_versions_total", "version" in || TLS_VERSIONS.to_vec(); "Of those with TLS, by its version."
    REMOTE_HABITS: Counter = "posthaste_delivery_habits_total", "habit" in || HABITS.to_vec(); "Remote hosts found to mishandle what they offer; it is not used with them for an hour."
    ROUTES: Counter = "posthaste_routes_resolved_total", "result" in || ROUTE_RESULTS.to_vec(); "Look-ups of the next hop of a domain: found, to be tried again, or final refusals."
    SIGNATURES: Counter = "posthaste_dkim_signatures_total", "result" in || SIGNATURE_RESULTS.to_vec(); "DKIM signatures: made, reused at a later attempt or another session, or failed (the message is deferred)."
    NOTICES: Counter = "posthaste_notices_total", "result" in || NOTICE_RESULTS.to_vec(); "Notices by mail (RFC 3464): sent, by what they tell, or not sent, since the reverse-path is suppressed or nobody would take them."
    INBOUND_REPORTS: Counter = "posthaste_inbound_reports_total", "kind" in || REPORT_KINDS.to_vec(); "Mail taken for bounce addresses, by what it was found to be."
    PEOPLE_MAIL: Counter = "posthaste_people_mail_total", "result" in || PEOPLE_MAIL_RESULTS.to_vec(); "Mail for postmaster and abuse at inbound listeners: forwarded, or kept as an event."
    INBOUND_REFUSED: Counter = "posthaste_inbound_recipients_refused_total", "reason" in || INBOUND_REFUSALS.to_vec(); "Recipients refused by inbound listeners."
    COMPLAINTS: Counter = "posthaste_inbound_complaints_total", "result" in || COMPLAINT_RESULTS.to_vec(); "Mail taken at the address for complaints: about a message of ours, about none that is known, or no complaint at all."
    DKIM_LOOKS: Counter = "posthaste_dkim_lookups_total", "result" in || DKIM_LOOK_RESULTS.to_vec(); "Looks for the record of a DKIM key: found, missing (or another), or undecided: no answer."
    DKIM_KEYS: Gauge = "posthaste_dkim_keys", "state" in || DKIM_KEY_STATES.to_vec(); "DKIM keys: active ones sign, pending ones wait for their record, paused ones would sign but their record is gone. Brought up to date every minute."
    DOMAINS_CHECKED: Gauge = "posthaste_domains_checked", "level" in || CHECK_LEVELS.to_vec(); "Domains by the worst that their last check found; never: not checked yet. Brought up to date with the schedule."
    SOURCE_ERRORS: Gauge = "posthaste_source_errors", "source" in source_names; "Findings of level error at the last check of the source."
    SOURCE_LISTINGS: Gauge = "posthaste_source_listings", "source" in source_names; "Blocklists that named an address of the source at its last check, once for each address."
    CHECK_QUESTIONS: Counter = "posthaste_check_questions_total", "result" in || CHECK_RESULTS.to_vec(); "Questions of checks to name servers: answered with records, answered without, or failed."
    RECODED: Counter = "posthaste_delivery_reencoded_total", "result" in || RECODED_RESULTS.to_vec(); "Messages for hosts without 8BITMIME: made 7-bit, or refused (bounced with 5.6.3)."
    SINK_MESSAGES: Counter = "posthaste_sink_messages_total"; "Messages taken by the built-in sink."

    // Node.
    CHANNEL_DEPTH: Gauge = "posthaste_channel_depth", "channel" in || CHANNELS.to_vec(); "Entries waiting in a bounded channel."
    SUPPRESSIONS: Gauge = "posthaste_suppressions"; "Suppressed addresses, each counted once for each stream."
    SUPPRESSED: Counter = "posthaste_suppressions_made_total", "reason" in || SUPPRESSION_REASONS.to_vec(); "Suppressions made."
    UNSUPPRESSED: Counter = "posthaste_suppressions_lifted_total"; "Suppressions lifted."
    ACCOUNT_STORE_OK: Gauge = "posthaste_account_store_ok"; "1 while settings can be read and changed; mail goes on without."
    HTTP_REQUESTS: Counter = "posthaste_http_requests_total", "status" in || HTTP_STATUS.to_vec(); "HTTP requests by class of the answer."
    DIRECTIVES: Gauge = "posthaste_queue_directives"; "Suspensions and reroutes that stand."
    READY: Gauge = "posthaste_ready"; "1 while the node accepts mail."
    STARTED: Gauge = "posthaste_start_time_seconds"; "Start of the node, Unix time."
    BUILD: Gauge = "posthaste_build_info", "version" in || vec![env!("CARGO_PKG_VERSION")]; "Always 1; the version is the label."
}

/// A stream's kind as a value of the label `stream_kind`.
pub fn kind_text(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Transactional => "transactional",
        StreamKind::Broadcast => "broadcast",
        StreamKind::Inbound => "inbound",
    }
}

const STREAM_KINDS: &[&str] = &["transactional", "broadcast", "inbound"];
/// Of streams from which mail is sent.
const SENDING_KINDS: &[&str] = &["transactional", "broadcast"];
/// Upper ends of ages; those of a census, in its order, and what is beyond.
pub const AGES: &[&str] = &[
    "5m", "10m", "20m", "40m", "80m", "160m", "320m", "640m", "1280m", "more", "unknown",
];
const FAILED_OUTCOMES: &[&str] = &["deferred", "bounced", "ambiguous"];
const UNDELIVERED: &[&str] = &["bounced", "expired", "cancelled"];
const TLS_VERSIONS: &[&str] = &["1.2", "1.3"];
const CHECKPOINT_FORMS: [&str; 2] = ["base", "delta"];
const ARCHIVE_REASONS: &[&str] = &["retention", "space", "size", "events"];
const LOGS: &[&str] = &["mail", "event"];
const READERS: &[&str] = &[
    "activity",
    "automatic-suppressions",
    "bounces",
    "notices",
    "statistics",
    "webhooks",
];
const NOTICE_RESULTS: &[&str] = &["failure", "delay", "success", "suppressed", "refused"];
const WEBHOOK_RESULTS: &[&str] = &["taken", "refused", "failed", "given_up"];
const WEBHOOK_STATES: &[&str] = &["ok", "failing", "stopped"];
const RESULTS: &[&str] = &["ok", "failed"];
const AUTH_RESULTS: &[&str] = &["ok", "refused", "locked"];
const SMTP_LIMIT_NAMES: &[&str] = &[
    "connections",
    "connections_per_address",
    "auth_failures",
    "time",
];
const SUPPRESSION_REASONS: &[&str] = &["HardBounce", "SpamComplaint", "ManualSuppression"];
const REFUSALS: &[&str] = &[
    "disk_full",
    "spool_failed",
    "not_delivering",
    "queue_full",
    "busy",
    "too_large",
    "header",
    "loop",
    "stream",
    "policy",
    "revoked",
    "rate",
];
const QUEUE_STATES: &[&str] = &["ready", "deferred", "in_flight"];
const ATTEMPT_OUTCOMES: &[&str] = &[
    "delivered",
    "deferred",
    "bounced",
    "ambiguous",
    "not_attempted",
];
const JUDGES: &[&str] = &["rule", "status", "code", "stage"];
const TERMINAL_OUTCOMES: &[&str] = &["delivered", "bounced", "expired", "cancelled"];
const TLS_RESULTS: &[&str] = &["tls", "clear"];
const CHECK_LEVELS: &[&str] = &["ok", "warn", "error", "never"];
const CHECK_RESULTS: &[&str] = &["found", "nothing", "failed"];
const HABITS: &[&str] = &["ahead", "pipelining", "chunking"];
const REPORT_KINDS: &[&str] = &[
    "status",
    "bounce",
    "complaint",
    "feedback",
    "auto-reply",
    "challenge",
    "address-change",
    "unsubscribe",
    "letter",
];
const PEOPLE_MAIL_RESULTS: &[&str] = &["forwarded", "kept"];
const INBOUND_REFUSALS: &[&str] = &[
    "domain", "form", "foreign", "forged", "expired", "unknown", "too_many", "unsure", "busy",
];
const COMPLAINT_RESULTS: &[&str] = &["resolved", "unknown"];
const DKIM_LOOK_RESULTS: &[&str] = &["found", "missing", "undecided"];
const DKIM_KEY_STATES: &[&str] = &["active", "pending", "paused"];
const RECODED_RESULTS: &[&str] = &["made", "refused"];
const SIGNATURE_RESULTS: &[&str] = &["made", "reused", "failed"];
const ROUTE_RESULTS: &[&str] = &["ok", "temporary", "permanent"];
const SOURCE_STOP_CAUSES: &[&str] = &["drained", "address", "proxy", "refused"];
const CHANNELS: &[&str] = &["accepted", "reports", "orders"];
const HTTP_STATUS: &[&str] = &["2xx", "3xx", "4xx", "5xx"];
const OTHER: &str = "other";
/// Seconds: a sync takes a fraction of a millisecond, a delivery up to days.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0,
];

/// Of what there is for many pairs of labels.
const COARSE_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0,
];

/// As the configuration of this process has them.
fn source_names() -> Vec<&'static str> {
    SOURCE_NAMES.get().cloned().unwrap_or_default()
}

/// Says which sources there are, before [`install`]; the first call counts. The names stay for as long as the process runs.
pub fn name_sources<'a>(names: impl Iterator<Item = &'a str>) {
    SOURCE_NAMES.get_or_init(|| names.map(|name| &*Box::leak(Box::from(name))).collect());
}

/// Says which providers there are, as [`name_sources`] does.
pub fn name_providers<'a>(names: impl Iterator<Item = &'a str>) {
    let names = names.take(PROVIDERS_MAX);
    PROVIDER_NAMES.get_or_init(|| names.map(|name| &*Box::leak(Box::from(name))).collect());
}

fn provider_names() -> Vec<&'static str> {
    PROVIDER_NAMES.get().cloned().unwrap_or_default()
}

/// Says which sinks there are, as [`name_sources`] does of sources.
pub fn name_sinks<'a>(names: impl Iterator<Item = &'a str>) {
    let of_reader = |name| &*Box::leak(sink_reader(name).into_boxed_str());
    SINK_NAMES.get_or_init(|| names.map(of_reader).collect());
}

/// A sink's name as a reader.
pub fn sink_reader(name: &str) -> String {
    format!("sink-{name}")
}

fn sink_names() -> Vec<&'static str> {
    SINK_NAMES.get().cloned().unwrap_or_default()
}

/// Sinks are readers too.
fn reader_names() -> Vec<&'static str> {
    let mut names = READERS.to_vec();
    names.extend(sink_names());
    names
}

static SINK_NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
static SOURCE_NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
static PROVIDER_NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
/// Further ones count as `other`.
const PROVIDERS_MAX: usize = 32;

fn causes() -> Vec<&'static str> {
    let all = CauseClass::ALL.iter();
    let of_attempts = all.filter(|cause| cause.is_of_attempts());
    of_attempts.map(|cause| cause.as_str()).collect()
}

/// A label and every value that it may have.
pub struct Dimension {
    pub label: &'static str,
    pub values: fn() -> Vec<&'static str>,
}

/// What the table says of a metric.
pub trait Metric: Sync {
    fn name(&self) -> &'static str;
    fn kind(&self) -> &'static str;
    fn help(&self) -> &'static str;
    /// None, one or two.
    fn dimensions(&self) -> &'static [Dimension];
    fn register(&self, recorder: &dyn Recorder);
}

type Values = Box<[Box<[&'static str]>]>;

/// One handle for each combination of label values.
struct Series<H> {
    /// Of each label; the last is `other`.
    values: Values,
    /// The last label's values lie side by side.
    handles: Box<[H]>,
}

impl<H> Series<H> {
    fn handle(&self, values: &[&str]) -> Option<&H> {
        let mut at = 0;
        for (of_label, value) in self.values.iter().zip(values) {
            let found = of_label.iter().position(|v| v == value);
            at = at * of_label.len() + found.unwrap_or(of_label.len() - 1);
        }
        self.handles.get(at)
    }
}

macro_rules! kind {
    ($(#[$meta:meta])* $kind:ident, $word:literal, $handle:ty, $register:ident, $describe:ident) => {
        $(#[$meta])*
        pub struct $kind {
            name: &'static str,
            dimensions: &'static [Dimension],
            help: &'static str,
            series: OnceLock<Series<$handle>>,
        }

        impl $kind {
            const fn new(name: &'static str, dimensions: &'static [Dimension], help: &'static str) -> Self {
                Self { name, dimensions, help, series: OnceLock::new() }
            }

            fn handle(&self, values: &[&str]) -> Option<&$handle> {
                debug_assert_eq!(values.len(), self.dimensions.len(), "{}", self.name);
                self.series.get()?.handle(values)
            }
        }

        impl Metric for $kind {
            fn name(&self) -> &'static str {
                self.name
            }

            fn kind(&self) -> &'static str {
                $word
            }

            fn help(&self) -> &'static str {
                self.help
            }

            fn dimensions(&self) -> &'static [Dimension] {
                self.dimensions
            }

            fn register(&self, recorder: &dyn Recorder) {
                recorder.$describe(KeyName::from_const_str(self.name), None, SharedString::const_str(self.help));
                let (values, keys) = series_of(self.name, self.dimensions);
                let handles = keys.iter().map(|key| recorder.$register(key, &METADATA));
                let _ = self.series.set(Series { values, handles: handles.collect() });
            }
        }
    };
}

kind!(
    /// Only grows.
    Counter, "counter", metrics::Counter, register_counter, describe_counter
);
kind!(
    /// Goes up and down.
    Gauge, "gauge", metrics::Gauge, register_gauge, describe_gauge
);
kind!(
    /// Spread of seconds.
    Histogram, "histogram", metrics::Histogram, register_histogram, describe_histogram
);

impl Counter {
    pub fn add(&self, n: u64) {
        self.add_at(&[], n);
    }

    /// Counts under one value of the label.
    pub fn add_to(&self, value: &str, n: u64) {
        self.add_at(&[value], n);
    }

    /// Counts under a value of each label.
    pub fn add_at(&self, values: &[&str], n: u64) {
        if let Some(handle) = self.handle(values) {
            handle.increment(n);
        }
    }
}

impl Gauge {
    pub fn set(&self, value: f64) {
        self.set_at(&[], value);
    }

    pub fn set_of(&self, label_value: &str, value: f64) {
        self.set_at(&[label_value], value);
    }

    pub fn set_at(&self, label_values: &[&str], value: f64) {
        if let Some(handle) = self.handle(label_values) {
            handle.set(value);
        }
    }

    pub fn add(&self, n: f64) {
        if let Some(handle) = self.handle(&[]) {
            handle.increment(n);
        }
    }
}

impl Histogram {
    pub fn record(&self, values: &[&str], seconds: f64) {
        if let Some(handle) = self.handle(values) {
            handle.record(seconds);
        }
    }
}

/// The values of each label, and the keys of their combinations, the last label's side by side.
fn series_of(name: &'static str, dimensions: &'static [Dimension]) -> (Values, Vec<Key>) {
    let mut labels: Vec<Vec<Label>> = vec![Vec::new()];
    let mut values = Vec::new();
    for dimension in dimensions {
        let mut of_label = (dimension.values)();
        of_label.push(OTHER);
        let with = |so_far: &Vec<Label>, value| {
            let mut all = so_far.clone();
            all.push(Label::from_static_parts(dimension.label, value));
            all
        };
        let before = labels.iter();
        labels = before
            .flat_map(|so_far| of_label.iter().map(|value| with(so_far, value)))
            .collect();
        values.push(of_label.into());
    }
    let keys = labels
        .into_iter()
        .map(|labels| Key::from_parts(name, labels));
    (values.into(), keys.collect())
}

/// Where the text for Prometheus comes from.
#[derive(Clone)]
pub struct Exposition {
    handle: PrometheusHandle,
}

impl Exposition {
    /// The exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds histogram samples together; every few seconds, so that they take no more than a bounded memory.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Makes all series. Once per process; later calls return the same.
pub fn install() -> Exposition {
    static INSTALLED: OnceLock<Exposition> = OnceLock::new();
    let exposition = INSTALLED.get_or_init(|| {
        let mut builder = PrometheusBuilder::new();
        for metric in ALL.iter().filter(|m| m.kind() == "histogram") {
            let matcher = Matcher::Full(metric.name().to_owned());
            let buckets = match metric.dimensions().len() {
                2 => COARSE_BUCKETS,
                _ => BUCKETS,
            };
            builder = match builder.set_buckets_for_metric(matcher, buckets) {
                Ok(builder) => builder,
                Err(_) => unreachable!("there are buckets"),
            };
        }
        let recorder = builder.build_recorder();
        for metric in ALL {
            metric.register(&recorder);
        }
        let version = env!("CARGO_PKG_VERSION");
        BUILD.set_of(version, 1.0);
        Exposition {
            handle: recorder.handle(),
        }
    });
    exposition.clone()
}

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_in_base_units_a_help_and_a_bounded_label() {
        let mut names: Vec<&str> = ALL.iter().map(|m| m.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let name = metric.name();
            assert!(name.starts_with("posthaste_"), "{name}");
            assert_eq!(
                metric.kind() == "counter",
                name.ends_with("_total"),
                "{name}"
            );
            assert!(!name.contains("_ms") && !name.contains("millis"), "{name}");
            assert!(metric.help().ends_with('.'), "{name}");
            assert!(metric.dimensions().len() <= 2, "{name}");
            for dimension in metric.dimensions() {
                let values = (dimension.values)();
                assert!(values.len() <= 48 && !values.contains(&OTHER), "{name}");
            }
        }
    }

    #[test]
    fn series_exist_from_the_start_and_unknown_values_count_as_other() {
        let exposition = install();
        MESSAGES_ACCEPTED.add_to("transactional", 2);
        MESSAGES_REFUSED.add_to("of a kind nobody knows", 1);
        QUEUES.set(3.0);
        SPOOL_COMMIT_SECONDS.record(&["mail"], 0.002);
        CAUSES.add_at(&["greylisted", "deferred"], 4);
        CAUSES.add_at(&["greylisted", "another"], 5);
        let text = exposition.render();
        for line in [
            "# TYPE posthaste_messages_accepted_total counter",
            "posthaste_messages_accepted_total{stream_kind=\"broadcast\"} 0",
            "posthaste_messages_refused_total{reason=\"other\"} 1",
            "posthaste_queues 3",
            // Others may commit meanwhile.
            "posthaste_spool_commit_seconds_bucket{log=\"mail\",le=\"0.0025\"} ",
            "posthaste_delivery_failures_total{cause=\"greylisted\",outcome=\"deferred\"} 4",
            "posthaste_delivery_failures_total{cause=\"greylisted\",outcome=\"other\"} 5",
            "posthaste_delivery_failures_total{cause=\"greylisted\",outcome=\"bounced\"} 0",
            "posthaste_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
