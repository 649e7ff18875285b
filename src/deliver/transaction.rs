//! From a session's verdicts to outcomes: the table of what each means for its recipient.

use crate::classify::Judge;
use crate::outcome::{Cause, CauseClass, Outcome, Reaction, Scope};
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
    let enough = around.reused && around.ending.is_some_and(|e| had_enough(e, around.judge));
    if (enough || around.excused) && was_not_heard(&verdict) {
        // The host had enough of this connection, or mishandled it, for reasons that are none of this message's. On a new
        // connection the same would count, so this cannot go on for ever.
        return Outcome::NotAttempted;
    }
    match verdict {
        Verdict::Accepted { reply } => Outcome::Delivered { reply },
        Verdict::Refused { stage, reply } => {
            match around.judge.refusal(stage, &reply, around.shared) {
                // The connection has had enough, not the recipient: the same as above, in words.
                Outcome::Deferred { cause, .. }
                    if around.reused && asks_for(&cause) == Some(Reaction::Close) =>
                {
                    Outcome::NotAttempted
                }
                outcome => outcome,
            }
        }
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
        _ if around.reused && had_enough(ending, around.judge) => None,
        _ if narrowly => Some((Scope::Recipient, end(ending, around.judge).1)),
        _ => Some(end(ending, around.judge)),
    }
}

/// Whether the host ended the session only since it had carried enough.
fn had_enough(ending: &Ending, judge: Judge<'_>) -> bool {
    ending.stage() == Stage::Mail
        || matches!(ending, Ending::Refused { .. })
            && asks_for(&end(ending, judge).1) == Some(Reaction::Close)
}

/// What a reply asks for besides its outcome, as far as a session can do it.
pub(super) enum Parting {
    /// No further transaction on this connection; others may begin at once.
    Enough,
    /// Nor on others from this source, as long as another one is welcome.
    OtherSource(Cause),
}

/// `bounce-and-shaping.md` §1: what slows a whole path down is its owner's to decide, by more than one reply.
pub(super) fn parting(reply_to: &Verdict, around: Circumstances<'_>) -> Option<Parting> {
    let Verdict::Refused { stage, reply } = reply_to else {
        return None;
    };
    let refused = around.judge.refusal(*stage, reply, around.shared);
    let (Outcome::Deferred { scope, cause } | Outcome::Bounced { scope, cause }) = refused else {
        return None;
    };
    match asks_for(&cause)? {
        Reaction::Close => Some(Parting::Enough),
        Reaction::NextSource if scope == Scope::SiteFromSource => Some(Parting::OtherSource(cause)),
        _ => None,
    }
}

fn asks_for(cause: &Cause) -> Option<Reaction> {
    cause.ruling.as_ref().map(|ruling| ruling.reaction)
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
