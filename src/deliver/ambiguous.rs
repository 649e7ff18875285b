//! What follows from an outcome: another attempt, or none.
//!
//! Where the answer to the final dot was lost, the remote host may have the message, or not (RFC 1047). The stream decides:
//! *stop* ends the recipient at once (*bounced*, cause `ambiguous`: nobody is suppressed for it), for codes that must not
//! come twice. *Retry* sends it again, with the same Message-ID, after [`limits::AMBIGUOUS_WAIT`] at least; but a site that
//! takes messages and never says so would get them for days, so the third time is the last.

use crate::clock::UnixMs;
use crate::config::{Ambiguous, Retry};
use crate::limits;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::queue::Disposition;

/// Ends a recipient whose attempt was ambiguous, if it is not to be tried again. `count`: its attempts that ended so, this
/// one included.
pub fn judge_ambiguous(outcome: &mut Outcome, policy: Ambiguous, count: u8) {
    let Outcome::Ambiguous { cause } = outcome else {
        return;
    };
    let why = match policy {
        Ambiguous::Stop => {
            "the stream's policy is not to send again what may have arrived".to_owned()
        }
        Ambiguous::Retry if count >= limits::AMBIGUOUS_ATTEMPTS => {
            format!("{count} attempts have ended so, and it may have arrived each time")
        }
        Ambiguous::Retry => return,
    };
    let detail = format!(
        "The answer to the final dot was lost, and {why}: {}",
        cause.detail
    );
    *outcome = Outcome::Bounced {
        scope: Scope::Recipient,
        cause: Cause {
            class: CauseClass::Ambiguous,
            detail,
            ..cause.clone()
        },
    };
}

/// What the scheduler is told. `retry`: the waits of the recipient's stream, where they are known.
pub fn disposition(outcome: &Outcome, now: UnixMs, retry: Option<Retry>) -> Disposition {
    let not_before = match outcome {
        Outcome::Delivered { .. } | Outcome::Bounced { .. } => return Disposition::Terminal,
        Outcome::NotAttempted => return Disposition::NotAttempted,
        Outcome::Deferred { cause, .. } => {
            let wait = cause.ruling.as_ref().and_then(|ruling| ruling.wait);
            wait.map(|wait| now + wait.as_millis() as u64)
        }
        Outcome::Ambiguous { .. } => Some(now + limits::AMBIGUOUS_WAIT.as_millis() as u64),
    };
    Disposition::Retry { not_before, retry }
}
