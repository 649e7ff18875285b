//! Every bound in the program: its default, its configuration key where there is one, and the reply when it is reached.
//! The table is `threats-and-faults.md` §5; the numbers without a key are compiled in.

mod returns;
mod sinks;
mod webhooks;

use std::time::Duration;

pub use returns::*;
pub use sinks::*;
pub use webhooks::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// Submission: dialogue.
/// Octets of a command line with its CRLF; over it: 500 5.5.2.
pub const COMMAND_LINE_MAX: usize = 2048;
/// Octets of a line within an AUTH exchange (RFC 4954 §4); over it: 500 5.5.6.
pub const AUTH_LINE_MAX: usize = 12_288;
/// Octets without a CRLF after which the connection is closed.
pub const LINE_CAP: usize = 16_384;
/// RCPT accepted in one transaction; the surplus gets 452 4.5.3.
pub const RECIPIENTS_MAX: usize = 1_000;
/// Errors in a session from which on each reply is delayed by a second.
pub const ERRORS_BEFORE_DELAY: u32 = 10;
/// Errors in a session after which it is closed: 421 4.7.0.
pub const ERRORS_MAX: u32 = 20;
/// Commands without effect (NOOP, RSET, EHLO, VRFY ...) in a session: 421 4.7.0.
pub const JUNK_COMMANDS_MAX: u32 = 100;
/// Refused AUTH attempts in a session: 421 4.7.0.
pub const AUTH_FAILURES_PER_SESSION: u32 = 3;
/// Refused AUTH attempts of one address in an hour: 454 4.7.0.
pub const AUTH_FAILURES_PER_ADDRESS_HOUR: u32 = 30;
/// Connections in all: 421 4.3.2.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Connections of one address without trust or AUTH: 421 4.3.2.
pub const CONNECTIONS_PER_ADDRESS: usize = 50;
/// Memory of all content buffers of submissions: 452 4.3.1.
pub const SUBMISSION_BUFFERS_MAX: usize = 1024 * MIB;

// Submission: time.
pub const COMMAND_IDLE: Duration = Duration::from_secs(60);
pub const AUTH_STEP: Duration = Duration::from_secs(30);
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(15);
pub const DATA_IDLE: Duration = Duration::from_secs(60);
/// Lowest content rate, octets a second over [`DATA_RATE_WINDOW`].
pub const DATA_RATE_MIN: u64 = 500;
pub const DATA_RATE_WINDOW: Duration = Duration::from_secs(60);
/// Added to size / [`DATA_RATE_MIN`] for the absolute deadline of one content.
pub const DATA_ABSOLUTE: Duration = Duration::from_secs(600);
pub const SESSION_ABSOLUTE: Duration = Duration::from_secs(3600);

// Content.
/// `[[smtp]] size_max`; over it: 552 5.3.4.
pub const MESSAGE_SIZE_DEFAULT: u64 = 36_700_160;
/// What `size_max` may be raised to.
pub const MESSAGE_SIZE_CAP: u64 = 150 * MIB as u64;
/// Octets of one line of content without CRLF; over it: 550 5.6.0.
pub const CONTENT_LINE_MAX: usize = 65_536;
/// Octets of the header section; over it: 552 5.3.4.
pub const HEADER_SECTION_MAX: usize = 256 * KIB;
/// Octets of one header field; over it: 552 5.3.4.
pub const HEADER_FIELD_MAX: usize = 100 * KIB;
/// Header fields; over it: 554 5.6.0.
pub const HEADER_FIELDS_MAX: usize = 1_000;
/// `Received` fields; over it: 554 5.4.6.
pub const HOPS_MAX: usize = 50;
/// Times our own `Received` marker may occur; from it on: 554 5.4.6.
pub const OWN_HOPS_MAX: usize = 3;
/// Characters of a tag (Postmark).
pub const TAG_CHARS_MAX: usize = 1_000;
/// Metadata fields of a message, characters of a key and of a value (Postmark).
pub const METADATA_FIELDS_MAX: usize = 10;
pub const METADATA_KEY_CHARS_MAX: usize = 20;
pub const METADATA_VALUE_CHARS_MAX: usize = 80;

// Times that a client may ask for.
/// How far ahead a message may be scheduled; beyond: 501 5.5.4 to MAIL, 550 5.6.0 for the header field. Announced in EHLO.
pub const SCHEDULE_MAX: Duration = Duration::from_secs(30 * 86_400);
/// The least time of RFC 2852 that `BY` may ask for, announced in EHLO; less: 555 5.5.4.
pub const DELIVER_BY_MIN: Duration = Duration::from_secs(1);
/// Longest span in a header field; beyond: 550 5.6.0.
pub const TIME_AHEAD_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

// Spool.
/// How long an append waits for a prepared segment before it is refused with 452 4.3.1.
pub const SEGMENT_WAIT: Duration = Duration::from_secs(5);
/// Longest time that records nobody waits for stay unsynced (promise: below one second).
pub const LAZY_COMMIT: Duration = Duration::from_millis(50);
/// One commit covers at most this much, so that latency stays bounded; and so large a record may be.
pub const COMMIT_BYTES_MAX: usize = 4 * MIB;
/// Memory in which the records of a log gather: what is being synced, and what comes behind it (`spool::admit`). The
/// smallest power of two with room for batches of [`COMMIT_BYTES_MAX`].
pub const MAIL_RING: usize = 16 * MIB;
/// Events are small: batches of 2.6 MiB hold ten thousand.
pub const EVENT_RING: usize = 8 * MIB;
/// Records that are read from the medium at one time, because their pages have left memory.
pub const COLD_READS_MAX: usize = 16;
/// Heap of records so read, for as long as their transactions last.
pub const COLD_BYTES_MAX: usize = 256 * MIB;
/// How long such a read waits for its turn until the message is deferred.
pub const COLD_WAIT: Duration = Duration::from_secs(30);
/// Messages whose facts are looked up together, on a thread that may wait for the disk.
pub const COLD_BATCH: usize = 64;
/// Messages that wait for that; above it no recipient is ended that has not been attempted just now.
pub const COLD_BACKLOG_MAX: usize = 4_096;
/// Live bytes of a segment, in percent, at or below which it is mostly dead.
pub const COMPACT_LIVE_PERCENT: u64 = 25;
/// Since a segment was begun: most mail leaves sooner than that by itself.
pub const COMPACT_AGE: Duration = Duration::from_secs(3_600);
/// Mostly dead segments that are worth the copying; when space is short, one is.
pub const COMPACT_SEGMENTS_MIN: usize = 4;
/// Between two looks for them.
pub const COMPACT_PAUSE: Duration = Duration::from_secs(60);
/// Mail copied out of them.
pub const COMPACT_BYTES_PER_SECOND: u64 = 16 * MIB as u64;
/// How often recipients in flight are looked at again before they stay where they are, and the time between.
pub const COMPACT_SECOND_LOOKS: u32 = 5;
pub const COMPACT_SECOND_LOOK_PAUSE: Duration = Duration::from_secs(2);
/// A node whose log failed exits within this time.
pub const EXIT_AFTER_FAILED_SYNC: Duration = Duration::from_secs(10);
/// How long content and events are kept (`[spool] retention`, `event_retention`).
pub const RETENTION: Duration = Duration::from_secs(45 * 86_400);
pub const RETENTION_MAX: Duration = Duration::from_secs(365 * 86_400);
pub const EVENT_RETENTION: Duration = Duration::from_secs(400 * 86_400);
/// Dead segments that wait to be archived above which no rest is taken.
pub const ARCHIVE_BACKLOG: usize = 8;
/// Longest rest after the work on one frame of an archive.
pub const ARCHIVE_REST_MAX: Duration = Duration::from_millis(100);
/// Recipients that `posthaste audit` brings together in memory before it writes them to its scratch file: 29 octets each in a table
/// of 2^21 places, and 28 while they are sorted. What does not fit costs disk, 25 octets each.
pub const AUDIT_ENTRIES: usize = (1 << 21) / 8 * 7;
/// Offences that it names; the others are counted.
pub const AUDIT_OFFENCES: u64 = 10_000;
/// Time until a segment that could not be archived is tried again.
pub const ARCHIVE_RETRY: Duration = Duration::from_secs(30);
/// How often archives are looked at for content whose retention is over.
pub const ARCHIVE_SWEEP: Duration = Duration::from_secs(3600);
/// Content may stay this long after its retention, so that an archive is not made anew for each message.
pub const ARCHIVE_SWEEP_GRACE: Duration = Duration::from_secs(86_400);
/// Longest that mail of a segment may be younger than the segment, for archives that do not tell.
pub const ARCHIVE_LIVED_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Segments that are looked through for the message of content records.
pub const ARCHIVE_LOOK_AHEAD: usize = 16;
/// Archives whose tables are kept in memory.
pub const ARCHIVES_OPEN: usize = 4;
/// Decompressed frames that are kept in memory, 256 KiB each.
pub const ARCHIVE_FRAMES_CACHED: usize = 8;
/// State that a reader of the event log may store in its base.
pub const READER_STATE_MAX: u64 = 8 * 1024 * MIB as u64;
/// Time between probes of a disk that failed at start.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(30);

// Queue.
/// Live recipients; over it: 452 4.3.1.
pub const QUEUE_RECIPIENTS_MAX: usize = 20_000_000;
/// Accepted messages on their way from the spool to the scheduler.
pub const ACCEPTED_CHANNEL: usize = 4_096;
/// Reports on their way from agents to the scheduler.
pub const REPORT_CHANNEL: usize = 4_096;
/// Batches on their way to one session: the one behind that under way, and one more when its report is.
pub const ERRANDS_PER_SESSION: usize = 2;
/// Recipients in one transaction (RFC 5321 §4.5.3.1.8: every host takes 100).
pub const RECIPIENTS_PER_TRANSACTION: usize = 100;
/// Connections of one (source, site).
pub const CONNECTIONS_PER_SOURCE_SITE: usize = 20;
/// Messages on one connection before a new one is opened.
pub const MESSAGES_PER_CONNECTION: u32 = 1_000;
/// A connection without work is closed after this time.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// All delivery connections of the node.
pub const DELIVERY_CONNECTIONS_MAX: usize = 4_000;
/// Who may follow dialogues (`posthaste trace`) at a time; one more gets 503 `unavailable`.
pub const TRACE_FOLLOWERS_MAX: usize = 8;
/// Lines kept for one follower; who reads too slowly loses the oldest, and is told how many.
pub const TRACE_LINES: usize = 4_096;
/// Octets of a line that are shown.
pub const TRACE_LINE_MAX: usize = 1_024;
/// Lines of a session kept until it is known whom it is for: banner, EHLO and STARTTLS of a few hosts.
pub const TRACE_PRELUDE: usize = 256;

/// Of [`DELIVERY_CONNECTIONS_MAX`], the share that broadcast pools leave to transactional ones: one in this many.
pub const CONNECTIONS_KEPT_FROM_BROADCAST: usize = 4;
/// Domains whose route is being looked up at one time; the others wait their turn.
pub const RESOLVES_MAX: usize = 256;
/// A queue without recipients is forgotten, with its route, after this time.
pub const QUEUE_LINGER: Duration = Duration::from_secs(60);
/// A recipient that an earlier life left too old is tried for so long before it expires (a quarter of the age limit at most).
pub const EXPIRY_GRACE: Duration = Duration::from_secs(3600);
/// What may have arrived (the answer to the final dot was lost) is sent again after so long at least.
pub const AMBIGUOUS_WAIT: Duration = Duration::from_secs(600);
/// Octets of the event log in which the last attempts for a domain are searched.
pub const ATTEMPTS_SEARCHED: u64 = 64 * MIB as u64;
/// Attempts of a recipient that may end so; after the last it bounces, cause `ambiguous`.
pub const AMBIGUOUS_ATTEMPTS: u8 = 3;
/// Recipients with such an attempt that are counted, some 40 bytes each; beyond it only the age limit ends them.
pub const AMBIGUOUS_KNOWN_MAX: usize = 1_000_000;
/// Ready recipients wait this long for a connection that is being opened before one more is opened.
pub const OPENING_GRACE: Duration = Duration::from_secs(1);
/// First back-off of a site or route that fails, if the pool's retry time is longer.
pub const SITE_BACKOFF_FIRST_MAX: Duration = Duration::from_secs(300);
/// Longest back-off of a site or route that fails.
pub const SITE_BACKOFF_MAX: Duration = Duration::from_secs(900);
/// New connections in a row that end before an attempt, without saying why, until the source backs off from the site.
pub const FUTILE_CONNECTIONS: u8 = 3;
/// Longest such back-off; the first is a second.
pub const FUTILE_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Recipients that one step of the scheduler moves (timers, operator's verbs) before it looks at its inputs again.
pub const SCHEDULER_STEP: usize = 256;
/// Queues that one step of an operator's verb looks at.
pub const WALK_QUEUES_STEP: usize = 1_024;
/// Chunks of 4,096 recipients that one step of a verb on a tag passes over, because nobody in them has it.
pub const WALK_CHUNKS_STEP: u32 = 4_096;
/// Suspensions and reroutes that stand at one time; over it: 409.
pub const DIRECTIVES_MAX: usize = 256;
/// Longest that one is given for; without a time it stands until it is ended.
pub const DIRECTIVE_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Pause before one whose time is over is ended again, if that failed.
pub const DIRECTIVE_PAUSE: Duration = Duration::from_secs(10);
/// How often what waits is counted by age, for metrics: so often at the most and at the least, between them as often as takes
/// the scheduler a two-hundredth of its time.
pub const AGES_LOOK: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
pub const AGES_SHARE: u32 = 200;
/// Longest time between two looks for one whose time is over: the clock may be set.
pub const DIRECTIVE_LOOK: Duration = Duration::from_secs(60);
/// Rows of one page of `queue ls`.
pub const CENSUS_ROWS_MAX: usize = 10_000;
/// Attempts of a recipient that `queue explain` tells, the latest.
pub const ATTEMPTS_TOLD: usize = 3;
/// Octets of the reason of an operator's verb.
pub const REASON_MAX: usize = 400;
/// Queues that one step looks at on a path before it finds one that may go: they moved to another source, their route is
/// no longer valid, or what was ready in them has expired.
pub const SCHEDULER_QUEUES_STEP: usize = 64;
/// Messages of a connection after which it is given up for other sites of the provider that wait for one.
pub const BUDGET_TURN: u32 = 20;
/// `[[shaping]]` entries, the shipped ones included; each is looked at when a path is made.
pub const SHAPING_RULES_MAX: usize = 1_000;
/// `[[share]]` entries.
pub const SHARES_MAX: usize = 1_000;
/// Failures in a row of one source at a site until mail that sticks to it takes another source there.
pub const PATH_FAILURES_MAX: u32 = 3;
/// A source whose address is missing or whose proxy is dead is tried again after this time, which doubles.
pub const SOURCE_TRIAL: Duration = Duration::from_secs(5);
/// At most.
pub const SOURCE_TRIAL_MAX: Duration = Duration::from_secs(300);
/// A source that is refused everywhere is tried again after this time, which doubles up to [`SITE_BACKOFF_MAX`].
pub const SOURCE_REFUSED_TRIAL: Duration = Duration::from_secs(60);
/// Distinct sites that let a source in nowhere, one after the other, until it is taken out; twice as many are remembered.
pub const SOURCE_REFUSED_SITES: usize = 5;
/// Within this time.
pub const SOURCE_REFUSAL_WINDOW: Duration = Duration::from_secs(900);
/// News of sources that wait for the dispatcher's next round; the oldest is dropped for one more.
pub const SOURCE_CHANGES_MAX: usize = 1_024;
/// Reasons that a row of `queue ls` or `queue explain` names; a domain has a queue for each stream and source.
pub const REASONS_SHOWN: usize = 16;
/// Terminal hand-outs that wait for the dispatcher; expiry pauses above it.
pub const HANDOUTS_MAX: usize = 1_024;
/// Queues of a site that are searched for further recipients of the message whose turn it is.
pub const COMPANION_QUEUES: usize = 16;

// Delivery: what a remote host may send us.
pub const REPLY_LINE_MAX: usize = 4_096;
pub const REPLY_LINES_MAX: usize = 128;
pub const REPLY_OCTETS_MAX: usize = 64 * KIB;

// Classification.
/// Rules in all; over it a file is refused.
pub const RULES_MAX: usize = 10_000;
/// Octets of a file of rules; over it: refused.
pub const RULE_FILE_MAX: usize = MIB;
/// Texts of one rule, and as many that must not be there; over it its file is refused.
pub const RULE_TEXTS_MAX: usize = 256;
/// Longest `wait` of a rule; over it its file is refused.
pub const RULE_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Of that what a recipient waits when not he is meant: a path backs off by itself, and another one may be welcome.
pub const RULE_WAIT_OF_PATH: Duration = Duration::from_secs(600);
/// Octets of a reply's text that are looked at: of a longer one half at its beginning and half at its end.
pub const CLASSIFIED_TEXT: usize = 8 * KIB;
/// Wordings that `rules unmatched` and `rules test` tell apart; what is beyond is only counted.
pub const CLUSTERS_MAX: usize = 10_000;
/// Octets of a wording.
pub const CLUSTER_PATTERN: usize = 300;
/// MAIL until the content may be sent, however slowly the remote host answers.
pub const ENVELOPE_MAX: Duration = Duration::from_secs(1_800);
/// Content that leaves in one flight with MAIL and RCPT, before the remote host has accepted a recipient.
pub const ONE_FLIGHT_CONTENT: u64 = 256 * KIB as u64;
/// How long we wait for the reply to QUIT.
pub const QUIT_WAIT: Duration = Duration::from_secs(5);
/// Addresses of one site that one session tries to reach.
pub const ADDRESSES_TRIED: usize = 10;
/// Time after which an address of the other family is tried beside the first.
pub const CONNECT_HEAD_START: Duration = Duration::from_millis(500);
/// Until the proxy of a source takes our connection; what it then needs to reach the remote host is `[timeouts] connect`.
pub const PROXY_CONNECT: Duration = Duration::from_secs(10);
/// Hosts of which is remembered what they mishandle (`deliver::habits`); above it one is forgotten for each new one.
pub const HABITS_MAX: usize = 10_000;
/// For how long. Long enough to matter, and a host that was repaired is soon used fully.
pub const HABIT_MEMORY: Duration = Duration::from_secs(3_600);
/// Messages whose recipients go one at a time because one of them breaks sessions; above it one is forgotten for each new one.
pub const ISOLATED_MESSAGES_MAX: usize = 10_000;
/// For how long: longer than the longest wait between two attempts.
pub const ISOLATION_MEMORY: Duration = Duration::from_secs(6 * 3_600);
/// One read from a remote host.
pub const CLIENT_READ_BUFFER: usize = 4 * KIB;

/// For so long a request for a verb on the queue waits for its end; then 202, and the end is asked for.
pub const WORK_WAIT: Duration = Duration::from_secs(20);
/// Verbs that took longer whose end is remembered; the oldest is forgotten.
pub const WORKS_MAX: usize = 64;
/// Recipients of one queue that are looked through for a row of it; of a longer one the oldest is not told there.
pub const ROW_LOOK: usize = 262_144;

// Checkpoints.
/// Bytes of the event log behind the newest base checkpoint at which a new one is written, or half the base if that is more:
/// a start reads them at some GB/s, and the checkpoint is rewritten seldom enough to cost less than the events themselves.
pub const CHECKPOINT_EVENTS: u64 = 64 * MIB as u64;
/// Bytes of the mail log behind the newest checkpoint at which the next delta is written: read in a fraction of a second.
pub const CHECKPOINT_MAIL: u64 = 256 * MIB as u64;
/// Deltas of one base; each is one file to open at a start.
pub const CHECKPOINT_DELTAS: usize = 64;
/// Bytes per second that the checkpoint thread reads and writes at most.
pub const CHECKPOINT_RATE: u64 = 128 * MIB as u64;
/// How often the checkpoint thread looks whether there is enough to do.
pub const CHECKPOINT_POLL: Duration = Duration::from_secs(1);
/// Pause after a checkpoint could not be written.
pub const CHECKPOINT_RETRY: Duration = Duration::from_secs(60);
/// Recipients in the map of events that a start keeps in memory, some 30 bytes each. Just below what makes the map double.
pub const RECOVERY_EVENTS: usize = 3_600_000;
/// Bytes of messages that a start keeps in memory before it uses a temporary file.
pub const RECOVERY_PILE: usize = 64 * MIB;
/// Recipients that are given to the scheduler between two of its rounds while a start fills it.
pub const RECOVERY_SLICE: usize = 4_096;
/// Such slices on their way.
pub const RECOVERY_SLICES: usize = 4;

// DNS.
/// MX hosts that are tried.
pub const MX_HOSTS_USED: usize = 10;
/// MX records in one answer; over it the answer is refused.
pub const MX_RECORDS_MAX: usize = 50;
pub const DNS_CACHE_ENTRIES: usize = 200_000;
/// One query to the name servers, in which it is repeated as often as they are slow; it is made twice.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(3);
/// No name server has answered for so long while it was asked: operators are told, before look-ups fail.
pub const DNS_SILENCE: Duration = Duration::from_secs(2);
/// Aliases that lead from one name to the next; more are a mistake of the domain's, and a deferral.
pub const ALIASES_MAX: usize = 8;
/// Hosts without an address that a bounce names.
pub const HOSTS_NAMED_MAX: usize = 3;
/// How long we believe that a name does not exist, at least.
pub const DNS_NEGATIVE_TTL_MIN: Duration = Duration::from_secs(30);
/// Looking for a record that proves something; then: no answer, nothing changes.
/// Two of them fit into [`HTTP_REQUEST`].
pub const DNS_PROOF: Duration = Duration::from_secs(12);
/// Answers that one check of a domain or source reads; what is beyond them is unknown.
pub const CHECK_QUESTIONS_MAX: usize = 400;
/// Records of one answer that a check reads.
pub const CHECK_RECORDS_MAX: usize = 200;
/// Questions of one check that are under way at one time.
pub const CHECK_QUESTIONS_AT_ONCE: usize = 16;
/// One check; what has no answer by then is unknown. Less than [`HTTP_REQUEST`].
pub const CHECK_TIME: Duration = Duration::from_secs(25);
/// Fetching the policy file of MTA-STS, of which connecting to one address; then: unknown. Octets of the file: RFC 8461 §3.3 has
/// 64 KiB in mind.
pub const POLICY_FETCH: Duration = Duration::from_secs(10);
pub const POLICY_CONNECT: Duration = Duration::from_secs(3);
pub const POLICY_BYTES_MAX: usize = 64 * 1_024;
/// Checks that people ask for at one time; the next one waits.
pub const CHECKS_AT_ONCE: usize = 4;
/// Findings of a domain or source that are kept, to tell what changes; octets of the text of an event about them.
pub const FINDINGS_KEPT: usize = 64;
pub const FINDINGS_TOLD: usize = 2_000;
/// `[dnsbl] zones`.
pub const DNSBL_ZONES_MAX: usize = 16;
/// Questions to all lists together in a second, and how long an answer of theirs is kept.
pub const DNSBL_QUERIES_PER_SECOND: u32 = 10;
pub const DNSBL_MEMORY: Duration = Duration::from_secs(900);
/// Answers so kept.
pub const DNSBL_ANSWERS_MAX: usize = 10_000;
/// Queries under way on one connection to a name server.
pub const DNS_QUERIES_ACTIVE: usize = 1_024;
/// A route is resolved again after at least, and at most, this time, whatever the records' TTL.
pub const ROUTE_TTL_MIN: Duration = Duration::from_secs(60);
pub const ROUTE_TTL_MAX: Duration = Duration::from_secs(3_600);
/// How long a look-up that failed counts for other queues of the domain: less than any of them waits to ask again.
pub const DNS_FAILURE_MEMORY: Duration = Duration::from_secs(10);
/// Domains of which that is remembered; of more, every queue asks for itself.
pub const DNS_FAILURES_MAX: usize = 10_000;
/// Addresses kept of one host.
pub const ADDRESSES_PER_HOST: usize = 16;

// Node.
/// SIGTERM: sessions at the final dot and attempts in flight may end within this time.
pub const DRAIN: Duration = Duration::from_secs(10);
/// `orders.json`, all orders until further notice together; one more is refused (409).
pub const ORDERS_BYTES_MAX: usize = 4 * MIB;
/// Octets of the reason that an operator gives with an order.
pub const ORDER_REASON_MAX: usize = 500;
/// Orders of operators on their way to the scheduler.
pub const ORDER_CHANNEL: usize = 64;
/// File descriptors that submission clients cannot use up.
pub const DESCRIPTORS_RESERVED: usize = 512;

// Accounts.
/// Between two looks at the account store: whether it works, and which tokens were used.
pub const ACCOUNT_UPKEEP: Duration = Duration::from_secs(30);
/// Domains of From, those of signatures included; over it: 422, 614.
pub const DOMAINS_MAX: usize = 100_000;
/// Sender signatures; over it: 422, 614.
pub const SIGNATURES_MAX: usize = 100_000;
/// DKIM keys that are being made; the next one waits.
pub const DKIM_KEYS_AT_ONCE: usize = 1;
/// Revoked keys of a domain whose records are still needed; the next key has to wait: 422, 505.
pub const DKIM_KEYS_REVOKED_MAX: usize = 8;
/// Between two looks for the records of a domain for which something waits, or changed lately.
pub const RECHECK_SOON: Duration = Duration::from_secs(3_600);
/// Of any other.
pub const RECHECK_LATER: Duration = Duration::from_secs(86_400);
/// How long [`RECHECK_SOON`] goes on after the last change.
pub const RECHECK_EAGER: Duration = Duration::from_secs(3 * 86_400);
/// Until a record that was not there is looked for again, before its key is paused.
pub const RECHECK_DOUBT: Duration = Duration::from_secs(600);
/// Domains whose records are looked for at one time, one name of each.
pub const RECHECKS_AT_ONCE: usize = 4;
/// Longest time until a domain that is new to the schedule is looked at: all of them at a start, so that name servers
/// are not asked for all at once.
pub const RECHECK_SPREAD: Duration = Duration::from_secs(1_800);
/// How long a DKIM signature is good (`x=`): longer than other hosts queue mail.
pub const SIGNATURE_VALID: Duration = Duration::from_secs(7 * 86_400);
/// How long attempts share a signature; a later one signs anew, so that at least six days are left.
pub const SIGNATURE_REUSED: Duration = Duration::from_secs(86_400);
/// Messages whose signatures are kept for further attempts and sessions, some 1 KiB for each key, three keys at most times;
/// the oldest are made again when they are needed.
pub const SIGNATURES_KEPT: usize = 16_384;
/// Octets of mail that is re-encoded for hosts without 8BITMIME and on its way, all together; the next one waits at most
/// [`RECODE_WAIT`] and is then deferred. What would take more alone bounces with 5.6.3.
pub const RECODED_BYTES_MAX: usize = 128 * MIB;
pub const RECODE_WAIT: Duration = Duration::from_secs(30);
/// Nesting of MIME parts in it; over it: bounced with 5.6.3.
pub const MIME_DEPTH_MAX: usize = 50;
/// Connections to all `[[inbound]]` listeners; over it: 421. Apart from those of customers.
pub const INBOUND_CONNECTIONS_MAX: usize = 500;
/// Octets of a report that is taken, where `size_max` is not configured: 552 5.3.4.
pub const INBOUND_SIZE_DEFAULT: u64 = 25 * MIB as u64;
/// How long one who asks about another message waits for its turn; then 451 4.3.2.
pub const REPORT_SEARCH_WAIT: Duration = Duration::from_secs(20);
/// How long after a message was taken its acceptance is looked for in the event log: a crash may lie between.
pub const REPORT_SEARCH_TIME: Duration = Duration::from_secs(86_400);
/// Events that are looked at for a message that a complaint names without our proof, and such searches in a period (about 0.3 s
/// each): over the first it is not known, over the second 450 4.7.1.
pub const COMPLAINT_SEARCH: usize = 262_144;
pub const COMPLAINT_SEARCHES: u32 = 1_000;
/// Confirmation mails to one address in an hour; over it: 429, 429.
pub const CONFIRMATIONS_PER_ADDRESS_HOUR: u32 = 10;
/// Addresses for which that is counted; when all of them are still in their hour: 429, 429.
pub const CONFIRMATION_ADDRESSES: usize = 10_000;
/// How long the link of a confirmation mail is good.
pub const CONFIRMATION_VALID: Duration = Duration::from_secs(7 * 86_400);

// Suppressions.
/// All of the node, 12 octets of memory each; over it: 503, 1407.
pub const SUPPRESSIONS_MAX: usize = 50_000_000;
/// Changes since the base that are in memory with their addresses, some 110 octets each, or a sixteenth of all if that is
/// more; above it a new base is written, and changes wait for that.
pub const SUPPRESSIONS_SINCE_BASE: usize = 65_536;
/// Bytes of the event log behind the base at which a new one is written, or twice the base if that is more: a start reads them.
pub const SUPPRESSIONS_LOG: u64 = 64 * MIB as u64;
/// Between two places of a base that are remembered: so much is read for one address.
pub const SUPPRESSIONS_INDEX: u64 = 64 * KIB as u64;
/// Addresses in one request of the API (Postmark); over it: 422, 1410.
pub const SUPPRESSIONS_PER_REQUEST: usize = 50;
/// Rows in one request of the admin API; over it: 400.
pub const SUPPRESSION_ROWS: usize = 1_000;
/// Listings under way; the next one gets 503.
pub const SUPPRESSION_DUMPS: usize = 4;
// Readers that keep tables.
/// Records of the event log, and facts of them that matter, that are read before they are written down.
pub const READER_BATCH: usize = 16_384;
pub const READER_FACTS: usize = 1_024;
/// While there is no backlog, batches begin at least so far apart: what comes meanwhile is one transaction.
pub const READER_PACE: Duration = Duration::from_millis(100);
/// Longest rest after a batch while there is more.
pub const READER_REST_MAX: Duration = Duration::from_millis(200);
/// Octets of the log after which it is written down how far it was read, though nothing in them mattered.
pub const READER_CURSOR: u64 = 16 * MIB as u64;
/// Rows past their time that go at once.
pub const READER_EXPIRED: i64 = 10_000;
/// How often it is looked for them.
pub const READER_UPKEEP: Duration = Duration::from_secs(60);
/// Time until what could not be written is tried again.
pub const READER_RETRY: Duration = Duration::from_secs(5);
/// Questions of the API (searches, details, statistics) that each reader's tables answer at once, all servers together, and those of one
/// server; its others wait.
pub const READER_QUESTIONS: u32 = 4;
pub const READER_QUESTIONS_AT_ONCE: usize = 2;
/// Questions of one server that wait or are answered; the next one gets 503 at once.
pub const READER_QUESTIONS_OF_ONE: usize = 64;
/// How long a question waits for its turn, and then for a connection; over it: 503.
pub const READER_QUESTION_WAIT: Duration = Duration::from_secs(5);
/// Time after which one is given up: 503, with the advice to ask for less.
pub const READER_QUESTION_TIME: Duration = Duration::from_secs(5);
/// Octets of each text of a bounce.
pub const BOUNCE_TEXT: usize = 1_024;
// Statistics.
/// Tags of a stream that are counted one by one on a day, the first ones; what has another is in the sums of all only
/// (`posthaste_statistics_untagged_total`).
pub const STATISTICS_TAGS: u64 = 1_000;
/// Age at which their base is written anew: events are kept so much longer than they should.
pub const STATISTICS_BASE: Duration = Duration::from_secs(86_400);
/// Bounces into which a search reaches; more: 422, code 1000 (Postmark).
pub const API_SEARCH_DEPTH: usize = 10_000;
/// Facts of the event log that the activity reader writes at once.
pub const ACTIVITY_FACTS: usize = 8_192;
/// Octets of each text that is kept of a message: subject, names.
pub const ACTIVITY_TEXT: usize = 2_000;
/// Words of a subject by which it is found, and files of a message that are named.
pub const ACTIVITY_SUBJECT_WORDS: usize = 32;
pub const ACTIVITY_ATTACHMENTS: usize = 100;
/// Messages that a search counts; where more are found, `TotalCount` is this: no search reaches further than [`API_SEARCH_DEPTH`].
pub const ACTIVITY_COUNT: i64 = 20_000;
/// Messages whose subjects are looked through for a part of one; in more, whole words are found.
pub const ACTIVITY_SUBJECTS: i64 = 10_000;
/// Messages that are queued, or are not, that a search by words looks at one by one where there are no more of those.
pub const ACTIVITY_FEW: i64 = 1_000;
/// Events of a message that its details show, and of the log that are read for those that the reader has not come to.
pub const ACTIVITY_EVENTS: usize = 5_000;
pub const ACTIVITY_LOG: usize = 262_144;
/// Details that read in the log at once; others wait for [`READER_QUESTION_WAIT`], then: 503.
pub const ACTIVITY_LOOKS: usize = 4;
/// Octets of an event's text in details.
pub const ACTIVITY_EVENT_TEXT: usize = 1_024;
/// Octets of a text in details: body, HTML (Postmark keeps a megabyte); the rest is left out.
pub const ACTIVITY_BODY: usize = 1024 * KIB;
/// Octets of the text that says why somebody was suppressed; the rest is left out.
pub const SUPPRESSION_EVIDENCE: usize = 1_024;

// HTTP.
/// Connections of the `[http]` listener, and of the admin socket; the next one waits.
pub const HTTP_CONNECTIONS_MAX: usize = 1_024;
/// Time to send a request's header section once it has begun; over it: 408.
pub const HTTP_HEADER: Duration = Duration::from_secs(10);
/// Longest idle time of a kept HTTP/1.1 connection.
pub const HTTP_IDLE: Duration = Duration::from_secs(60);
/// A whole request, its body and the answer included; over it: 408.
pub const HTTP_REQUEST: Duration = Duration::from_secs(30);
/// How long a long answer waits for a client that does not read on.
pub const HTTP_PIECE: Duration = Duration::from_secs(30);
/// In each of these a body must come on by so many octets (1 KiB/s); else: 408.
pub const HTTP_BODY_WINDOW: Duration = Duration::from_secs(10);
pub const HTTP_BODY_WINDOW_MIN: usize = 10 * KIB;
/// Octets of a request's header section; over it: 431.
pub const HTTP_HEADER_BYTES_MAX: usize = 16 * KIB;
/// Fields of a request's header section; over it: 431.
pub const HTTP_HEADER_FIELDS_MAX: usize = 100;
/// Requests under way on one HTTP/2 connection; over it the client waits.
pub const HTTP2_STREAMS_MAX: u32 = 100;
/// An HTTP/2 client that says nothing is asked this often whether it is there, and given as long for its answer.
pub const HTTP2_PING: Duration = Duration::from_secs(20);
/// An HTTP/2 connection without a request is closed after one to two of these.
pub const HTTP2_IDLE: Duration = Duration::from_secs(60);
/// Octets of the body of a request to the account API; over it: 413.
pub const HTTP_API_BODY_MAX: usize = MIB;
/// Octets of the body of a request that sends one message (Postmark), and of one that sends many; over it: 413.
pub const HTTP_EMAIL_BODY_MAX: usize = 10 * MIB;
pub const HTTP_BATCH_BODY_MAX: usize = 50 * MIB;
/// Messages of one request (Postmark); over it: 422, 410.
pub const HTTP_BATCH_MESSAGES_MAX: usize = 500;
/// Octets of all bodies that are longer than [`HTTP_BODY_SMALL`] and under way; the next one waits, at most
/// [`HTTP_BODY_WAIT`]: 503, 100.
pub const HTTP_BODIES_MAX: usize = 64 * MIB;
pub const HTTP_BODY_SMALL: usize = 64 * KIB;
pub const HTTP_BODY_WAIT: Duration = Duration::from_secs(10);
/// Recipients of a message in To, Cc and Bcc together (Postmark); over it: 422, 300.
pub const HTTP_RECIPIENTS_MAX: usize = 50;
/// Octets of TextBody and of HtmlBody (Postmark), and of all attachments in base64; over it: 422, 300.
pub const HTTP_TEXT_MAX: usize = 5 * MIB;
pub const HTTP_ATTACHMENTS_MAX: usize = 10 * MIB;
/// Characters of From, and UTF-16 units of Subject (Postmark); over it: 422, 300.
pub const FROM_CHARS_MAX: usize = 255;
pub const SUBJECT_CHARS_MAX: usize = 2_000;
/// Header fields of a client's own in one message, octets of a name and of a value; over it: 422, 300.
pub const HTTP_HEADERS_MAX: usize = 100;
pub const HEADER_NAME_MAX: usize = 76;
pub const HTTP_HEADER_VALUE_MAX: usize = 10 * KIB;
/// Characters of an attachment's name, type and id; over it: 422, 300.
pub const ATTACHMENT_TEXT_CHARS_MAX: usize = 255;
/// Entries of the queue that are dead and wait for their time, from where no message gets another time: 32 MB; then 503, 100.
pub const QUEUE_DEAD_MAX: usize = 1_000_000;
/// How often a scheduled message may get another time, as far as this life of the node knows: each leaves 32 bytes behind
/// until the old time has come; over it: 422, 300.
pub const RESCHEDULES_MAX: u16 = 100;
/// Scheduled messages of one answer, and those that it looks at: the key of the next page is told before they run out.
pub const SCHEDULED_PAGE_MAX: usize = 500;
pub const SCHEDULED_LOOKED_AT_MAX: usize = 5_000;
/// How long the answer to a sender who recalls a message waits until the node has written that down.
pub const RECALL_WAIT: Duration = Duration::from_secs(10);
/// Senders whose message is looked for in the mail log at one time; the others wait, at most [`RECALL_WAIT`]: 503, 100.
pub const CONTENT_SEARCHES: usize = 2;
/// Findings of a dry run; what more there is goes unsaid.
pub const LINT_FINDINGS_MAX: usize = 50;
/// How long an idempotency key is known, how many at most (the oldest are forgotten first), characters of one; octets of
/// the event log behind the base that keeps them.
pub const IDEMPOTENCY_TIME: Duration = Duration::from_secs(86_400);
pub const IDEMPOTENCY_KEYS_MAX: usize = 1_000_000;
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
pub const IDEMPOTENCY_LOG: u64 = 64 * MIB as u64;
/// Nesting of a JSON body; over it: 422, 402.
pub const JSON_DEPTH_MAX: usize = 32;
/// Keys in a JSON body, all levels together; over it: 422, 402.
pub const JSON_KEYS_MAX: usize = 10_000;
/// As [`JSON_KEYS_MAX`], of a request that sends many messages.
pub const JSON_BATCH_KEYS_MAX: usize = 500_000;
/// Octets of the body of an admin request; over it: 413.
pub const HTTP_ADMIN_BODY_MAX: usize = 64 * KIB;
/// Pause after a connection could not be accepted (out of file descriptors).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Clients that are being told no at one time while the disk fails; more are closed without a word.
pub const REFUSALS_AT_ONCE: usize = 256;
/// Time for such a client to take its refusal.
pub const REFUSAL_TIME: Duration = Duration::from_secs(5);
/// Time for the last HTTP answers of a node that stops.
pub const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Pause before an event is written again that found no room.
pub const EVENT_RETRY: Duration = Duration::from_secs(1);
/// Work that the dispatcher executes before it looks at its inputs again.
pub const WORK_PER_ROUND: usize = 256;

// Importing.
/// Octets of the line that says whose a message is: room for its recipients.
pub const IMPORT_ENVELOPE_MAX: usize = 8 * MIB;
/// Recipients of an imported message: as many as a transaction may have had anywhere.
pub const IMPORT_RECIPIENTS_MAX: usize = 10_000;
/// An import that nobody goes on with is over after this time.
pub const IMPORT_IDLE: Duration = Duration::from_secs(600);

// Erasing.
/// Records that one journal names, at most: it and their new bytes are in memory.
pub const ERASE_AT_ONCE: usize = 4_096;
/// How long an erasure waits for those who keep a record of a segment, such as a delivery under way; then its records are
/// left for the next time.
pub const ERASE_PATIENCE: Duration = Duration::from_secs(900);
/// How long it waits for notices by mail that gather, or cannot be sent now: one that is sent later would be missed.
pub const ERASE_NOTICES_WAIT: Duration = Duration::from_secs(30);
/// Messages that an erasure looks up before it erases them; more are done in portions.
pub const ERASE_MESSAGES_AT_ONCE: usize = 200_000;
/// Requests to remove somebody's data that wait; over it: 503, code 100.
pub const REMOVALS_PENDING: usize = 10_000;
/// Time until one that could not be met is tried again: at first, and at most; or ten times what the try took.
pub const REMOVAL_RETRY: Duration = Duration::from_secs(2);
pub const REMOVAL_RETRY_MAX: Duration = Duration::from_secs(900);
pub const REMOVAL_POLL: Duration = Duration::from_millis(100);
/// Erasures that the node remembers the end of.
pub const ERASURES_KNOWN: usize = 16;
/// Messages with waiting recipients that an erasure names.
pub const ERASURE_LIVE_SHOWN: usize = 1_000;
