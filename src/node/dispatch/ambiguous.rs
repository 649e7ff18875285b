//! Attempts whose answer to the final dot was lost: the remote host may have the message, or not (RFC 1047).
//!
//! The stream decides: *stop* ends the recipient at once (*bounced*, cause `ambiguous`: nobody is suppressed for it), for
//! codes that must not come twice. *Retry* sends it again, with the same Message-ID, after [`limits::AMBIGUOUS_WAIT`] at least;
//! but a site that takes messages and never says so would get them for days, so the third time is the last.
//! Counted here for recipients that live; a start brings the counts back from the events, checkpoints included.

use rustc_hash::FxHashMap;

use super::Dispatcher;
use crate::clock::UnixMs;
use crate::config::Ambiguous;
use crate::deliver::RecipientResult;
use crate::limits;
use crate::mail::MessageId;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};

/// By recipient: how many attempts ended so.
#[derive(Default)]
pub(super) struct Ambiguities(FxHashMap<(MessageId, u16), u8>);

impl Ambiguities {
    /// Of an earlier life.
    pub(super) fn restore(&mut self, id: MessageId, number: u16, count: u8) {
        self.put(id, number, count);
    }

    /// One more; how many there are now. Beyond the bound it is always the first: then the age limit ends it.
    fn count(&mut self, id: MessageId, number: u16) -> u8 {
        let count = self.0.get(&(id, number)).map_or(1, |n| n.saturating_add(1));
        self.put(id, number, count);
        count
    }

    fn put(&mut self, id: MessageId, number: u16, count: u8) {
        if self.0.len() < limits::AMBIGUOUS_KNOWN_MAX || self.0.contains_key(&(id, number)) {
            self.0.insert((id, number), count);
        }
    }

    /// The recipient has ended.
    pub(super) fn forget(&mut self, id: MessageId, number: u16) {
        if !self.0.is_empty() {
            self.0.remove(&(id, number));
        }
    }
}

impl Dispatcher {
    /// Ends a recipient whose attempt was ambiguous, if it is not to be tried again.
    pub(super) fn judge_ambiguous(&mut self, result: &mut RecipientResult) {
        let (Outcome::Ambiguous { cause }, Some(subject)) = (&result.outcome, &result.subject)
        else {
            return;
        };
        let count = self.ambiguities.count(subject.id, result.number);
        let policy =
            self.parts
                .policies
                .of(subject.server_id, subject.stream(), subject.stream_kind);
        let why = match policy.ambiguous {
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
        result.outcome = Outcome::Bounced {
            scope: Scope::Recipient,
            cause: Cause {
                class: CauseClass::Ambiguous,
                detail,
                reply: cause.reply.clone(),
            },
        };
    }
}

/// Not before it is what may have arrived sent again.
pub(super) fn not_before(now: UnixMs) -> UnixMs {
    now + limits::AMBIGUOUS_WAIT.as_millis() as u64
}
