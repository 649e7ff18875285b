//! What comes back, what follows from it, and what is told of it.

use std::time::Duration;

use super::{KIB, MIB};

// Automatic suppressions.
/// Messages in a row that met a full mailbox, over [`FULL_TIME`] at least, after which its recipient is suppressed.
pub const FULL_BOUNCES: u16 = 5;
pub const FULL_TIME: Duration = Duration::from_secs(14 * 24 * 3600);
/// After so long without another message to a full mailbox its count begins anew.
pub const FULL_MEMORY: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long after its 250 a host may still report a full mailbox: RFC 5321 §4.5.4.1 has it try for four to five days. Only then
/// has the message arrived.
pub const FULL_OPEN_TIME: Duration = Duration::from_secs(5 * 24 * 3600);
/// Deliveries to one such mailbox about which a report may still come; further ones count as if it had come.
pub const FULL_OPEN: usize = 4;
/// Recipients that wait for a full mailbox, some 20 octets each: should their message be given up, it counts. Of more it does not.
pub const FULL_WAITING_MAX: usize = 200_000;
/// Full mailboxes that are counted; more are not, and so not suppressed.
pub const FULL_MAILBOXES_MAX: usize = 200_000;
/// Octets of the event log that a start may have to read for them: then their reader writes a base.
pub const AUTOMATIC_LOG: u64 = 16 * MIB as u64;
/// Pause after a suppression that could not be written down.
pub const AUTOMATIC_RETRY: Duration = Duration::from_secs(5);

// Notices by mail (RFC 3464).
/// How long outcomes of one message gather, so that one notice tells them.
pub const NOTICE_GATHER: Duration = Duration::from_secs(1);
/// After so long without an outcome a delay is told, once, to whom asked for it: a host that is down for the night is not.
pub const NOTICE_DELAY: Duration = Duration::from_secs(4 * 3600);
/// Recipients of one notice; the others are in the next.
pub const NOTICE_RECIPIENTS_MAX: usize = 100;
/// Outcomes that gather; then they are told before more of the log is read.
pub const NOTICE_OUTCOMES_MAX: usize = 1_000;
/// Recipients without an outcome whose delay may be told or whose last deferral is known, some 60 octets each; of more nothing is
/// told but the outcome.
pub const NOTICE_LIVE_MAX: usize = 100_000;
/// Recipients whose failure was told, some 20 octets each, so that a host that repeats its report is not passed on; of more, those
/// of the oldest messages are forgotten, and a report about one is told again.
pub const NOTICE_FAILED_MAX: usize = 200_000;
/// Octets of a message that RET=FULL returns whole; of a longer one its header section.
pub const NOTICE_CONTENT_MAX: usize = MIB;
/// Octets of the event log that a start may have to read for them: then their reader writes a base.
pub const NOTICE_LOG: u64 = 16 * MIB as u64;
/// Pause after a notice that the node would not take.
pub const NOTICE_RETRY: Duration = Duration::from_secs(5);

// What comes back by mail.
/// Octets of a report that are read: what it says stands in front of the message that it returns.
pub const REPORT_READ: usize = 256 * KIB;
/// Octets of the words of a report that are looked at.
pub const REPORT_TEXT: usize = 32 * KIB;
/// Octets of what a report quotes of a remote host's reply.
pub const REPORT_DIAGNOSTIC: usize = 1_000;
/// Octets of a report that are kept, from its beginning: a report stands before the message that it returns.
pub const REPORT_KEPT: usize = 128 * KIB;
/// Octets of one mail for postmaster or abuse, which is forwarded whole; over it: 552 5.3.4. What is kept instead is cut as reports are.
pub const PEOPLE_MAIL_MAX: usize = MIB;
/// Such mail in [`REPORTS_PERIOD`], whoever sends it; over it: 450 4.7.1. At a time; over it: 451 4.3.2.
pub const PEOPLE_MAIL_PER_PERIOD: u32 = 200;
pub const PEOPLE_MAIL_AT_ONCE: usize = 16;
/// Reports about one message in a period, and messages for which that is counted; over the first: 450 4.7.1.
pub const REPORTS_PER_MESSAGE: u32 = 200;
pub const REPORTS_PERIOD: Duration = Duration::from_secs(3_600);
pub const REPORTS_MESSAGES_COUNTED: usize = 65_536;
/// Messages that reports asked about and that are remembered with their recipients.
pub const REPORTS_KNOWN: usize = 256;
