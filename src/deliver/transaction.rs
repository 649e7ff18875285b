//! From a session's verdicts to outcomes: the table of what each means for its recipient.

use crate::classify::Judge;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::smtp::client::{Ending, Obstacle, Stage, Verdict};

/// Around a transaction: what its verdicts have to be seen with.
#[derive(Clone, Copy, Default)]
pub(super) struct Circumstances<'a> {
    pub(super) judge: Judge<'a>,
    /// What the host says of the content it says of several recipients.
    pub(super) shared: bool,
    /// How the session ended, if it did with this transaction or one before it.
    pub(super) ending: Option<&'a Ending>,
    /// The connection had carried a transaction before.
    pub(super) reused: bool,
    /// The session ended by a habit of the host's that is avoided from now on.
    pub(super) excused: bool,
}

/// What became of one recipient.
pub(super) fn outcome(verdict: Verdict, around: Circumstances<'_>) -> Outcome {
    let at_mail = around.ending.is_some_and(|e| e.stage() == Stage::Mail);
    if (around.reused && at_mail || around.excused) && was_not_heard(&verdict) {
        // The host had enough of this connection, or mishandled it, for reasons that are none of this message's. On a new
        // connection the same would count, so this cannot go on for ever.
        return Outcome::NotAttempted;
    }
    match verdict {
        Verdict::Accepted { reply } => Outcome::Delivered { reply },
        Verdict::Refused { stage, reply } => around.judge.refusal(stage, &reply, around.shared),
        Verdict::Unsendable(obstacle) => unsendable(obstacle),
        Verdict::Surplus | Verdict::NotReached => Outcome::NotAttempted,
        Verdict::Unanswered { content_sent } => {
            let (scope, cause) = match around.ending {
                Some(ending) => end(ending, around.judge),
                None => unknown_end(),
            };
            match content_sent {
                true => Outcome::Ambiguous { cause },
                false => Outcome::Deferred { scope, cause },
            }
        }
    }
}

/// The failure of a session that ended so; `None` when nobody is to blame. `narrowly`: for one recipient, of whom others are
/// known to fare better.
pub(super) fn failure(around: Circumstances<'_>, narrowly: bool) -> Option<(Scope, Cause)> {
    let ending = around.ending?;
    match ending.stage() {
        Stage::Idle | Stage::Quit => None,
        _ if around.excused => None,
        Stage::Mail if around.reused => None,
        _ if narrowly => Some((Scope::Recipient, end(ending, around.judge).1)),
        _ => Some(end(ending, around.judge)),
    }
}

/// How far the end of a session reaches, and why it came.
pub(super) fn end(ending: &Ending, judge: Judge<'_>) -> (Scope, Cause) {
    if let Ending::Refused { stage, reply } = ending {
        return match judge.refusal(*stage, reply, true) {
            Outcome::Deferred { scope, cause } | Outcome::Bounced { scope, cause } => {
                (scope, cause)
            }
            other => unreachable!("a refusal is deferral or bounce, not {other:?}"),
        };
    }
    let class = match ending {
        Ending::Broken { .. } => CauseClass::Protocol,
        Ending::Withheld => CauseClass::LocalSystem,
        _ => CauseClass::Network,
    };
    // Who breaks off at the content may do so because of it: other messages may fare better.
    let scope = match ending.stage() {
        Stage::Content => Scope::Message,
        _ => Scope::SiteFromSource,
    };
    (scope, Cause::new(class, ending.to_string()))
}

fn unknown_end() -> (Scope, Cause) {
    let cause = Cause::new(CauseClass::LocalSystem, "the session ended here");
    (Scope::Message, cause)
}

fn was_not_heard(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Unanswered { content_sent } => !content_sent,
        Verdict::Refused { stage, reply } => *stage == Stage::Mail && reply.code == 421,
        _ => false,
    }
}

fn unsendable(obstacle: Obstacle) -> Outcome {
    let (scope, class, detail) = match obstacle {
        // RFC 6152 §3 and RFC 6531 §3.2: what the host does not offer is not sent to it. For 8-bit content whose re-encoding
        // would do harm, and for addresses and header sections in UTF-8, that is the end.
        Obstacle::EightBitMime(why) => {
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            (
                Scope::Message,
                CauseClass::ContentPolicy,
                format!(
                    "5.6.3 the content is 8-bit, the remote host does not offer 8BITMIME, and it cannot be re-encoded{why}"
                ),
            )
        }
        Obstacle::SmtpUtf8 => (
            Scope::Message,
            CauseClass::Protocol,
            "5.6.7 the message needs SMTPUTF8, and the remote host does not offer it".to_owned(),
        ),
        Obstacle::Size { limit_bytes } => (
            Scope::Message,
            CauseClass::MessageTooBig,
            format!("5.3.4 the remote host takes at most {limit_bytes} octets"),
        ),
        Obstacle::Content => (
            Scope::Message,
            CauseClass::ContentPolicy,
            "5.6.0 the content has a NUL, a bare CR or a bare LF".to_owned(),
        ),
        Obstacle::Address => (
            Scope::Recipient,
            CauseClass::Protocol,
            "5.1.3 the address cannot be sent in a command".to_owned(),
        ),
    };
    let cause = Cause::new(class, detail);
    Outcome::Bounced { scope, cause }
}
