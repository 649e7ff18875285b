//! What is true of a reply without any rule: the meaning of its code, its enhanced status and its place in the dialogue
//! (`bounce-and-shaping.md` §1, §2.1 and §2.2).

use super::{Evidence, Finding};
use crate::mail::Reply;
use crate::outcome::{CauseClass, Reach, Reaction};
use crate::smtp::client::session::Stage;

/// Judges by status where it says anything, else by code, else by stage alone.
pub(super) fn judge(evidence: &Evidence<'_>) -> Finding {
    let (stage, reply) = (evidence.stage_for_table(), evidence.reply);
    let (class, rule, confidence) = match by_status(stage, reply) {
        Some(class) => (class, "status", 60),
        None => match by_code(stage, reply.code) {
            CauseClass::Unknown => (CauseClass::Unknown, "stage", 0),
            class => (class, "code", 30),
        },
    };
    let last = is_final(evidence);
    let reach = match reach(stage, class, reply) {
        // At the end of the content of one recipient's message: his mailbox, not the message.
        Reach::Message if class.is_the_recipients() && evidence.names_recipient() => {
            Reach::Recipient
        }
        reach => reach,
    };
    Finding {
        class,
        last,
        rule: rule.into(),
        confidence,
        reach,
        reaction: reaction(evidence, class, reach, last),
        wait: None,
    }
}

/// Whether the code by itself is final where it came. 5yz before MAIL is tried elsewhere and again.
pub(super) fn is_final(evidence: &Evidence<'_>) -> bool {
    let reply = evidence.reply;
    // RFC 5321 §4.5.3.1.10: 552 for "too many recipients" counts as 452.
    let too_many = reply.code == 552 && pair(reply) == Some((5, 3));
    reply.is_permanent() && evidence.blames_mail() && !too_many
}

fn reach(stage: Stage, class: CauseClass, reply: &Reply) -> Reach {
    use CauseClass::{
        Blocklisted, PtrRequired, RateLimited, Reputation, TlsRequired, TooManyConnections,
    };
    let of_source = matches!(
        class,
        Blocklisted | PtrRequired | RateLimited | Reputation | TlsRequired | TooManyConnections
    );
    match stage {
        _ if reply.code == 421 || of_source => Reach::SourceIp,
        Stage::Rcpt => Reach::Recipient,
        Stage::Mail | Stage::Data | Stage::Content => Reach::Message,
        _ => Reach::SourceIp,
    }
}

fn reaction(evidence: &Evidence<'_>, class: CauseClass, reach: Reach, last: bool) -> Reaction {
    use CauseClass::*;
    let status = pair(evidence.reply);
    match class {
        // Ambiguous mailboxes, wrong domains and switched-off mailboxes are too often said of what will work tomorrow.
        RecipientUnknown | RecipientDisabled | DomainNoMail
            if last && evidence.names_recipient() && !matches!(status, Some((1, 4) | (2, 1)))
                // RFC 7504 §3: of that host, and another one may take it.
                && evidence.reply.code != 521 =>
        {
            Reaction::Hard
        }
        AuthFailed | SenderInvalid | PtrRequired | RelayDenied if last => Reaction::Fix,
        _ if last => Reaction::Bounce,
        // A 5yz before MAIL: nothing will change by itself.
        _ if evidence.reply.is_permanent() && !evidence.blames_mail() => Reaction::Alert,
        _ if reach == Reach::SourceIp => Reaction::Backoff,
        _ => Reaction::Retry,
    }
}

fn pair(reply: &Reply) -> Option<(u16, u16)> {
    reply.status.map(|s| (s.subject, s.detail))
}

/// RFC 3463 and its registry (RFC 5248), as far as a code says anything.
fn by_status(stage: Stage, reply: &Reply) -> Option<CauseClass> {
    use CauseClass::*;
    Some(match pair(reply)? {
        (1, 1 | 3 | 4) => RecipientUnknown,
        (1, 2) => DomainUnknown,
        (1, 6) => RecipientDisabled,
        (1, 7 | 8) => SenderInvalid,
        (1, 9) => RemoteSystem,
        (1, 10) => DomainNoMail,
        // Gmail uses x.2.1 also for a recipient who gets mail too quickly; only 5yz can mean disabled.
        (2, 1) if reply.is_permanent() => RecipientDisabled,
        (2, 1) => RecipientRate,
        (2, 2) => RecipientFull,
        (2, 3) | (3, 4) => MessageTooBig,
        (2, 4) | (3, 0 | 1 | 2 | 5) => RemoteSystem,
        (3, 3) | (5, _) => Protocol,
        (4, 1 | 2) => Network,
        (4, 3 | 4) => Dns,
        (4, 5) => RateLimited,
        (4, 6) => RoutingLoop,
        (6, 7..=10) => Protocol,
        (6, _) => ContentPolicy,
        // Refused on purpose without a reason. Before DATA it cannot be the content.
        (7, 0 | 1) if stage < Stage::Data => Reputation,
        (7, 0..=7 | 14..=16) => ContentPolicy,
        (7, 8..=12) => RelayDenied,
        (7, 13) => RecipientDisabled,
        (7, 17..=19) => RecipientUnknown,
        (7, 20..=24 | 26 | 29) => AuthFailed,
        (7, 25) => PtrRequired,
        (7, 27) => SenderInvalid,
        (7, 28) => RateLimited,
        (7, 30) => TlsRequired,
        _ => return None,
    })
}

/// `bounce-and-shaping.md` §2.1.
fn by_code(stage: Stage, code: u16) -> CauseClass {
    use CauseClass::*;
    match code {
        421 if stage < Stage::Mail => TooManyConnections,
        421 | 450 | 451 | 452 if stage != Stage::Rcpt => RemoteSystem,
        452 | 552 if stage == Stage::Rcpt => RecipientFull,
        552 => MessageTooBig,
        454 => TlsRequired,
        455 | 500..=504 | 555 => Protocol,
        521 | 556 => DomainNoMail,
        530 | 535 | 551 => RelayDenied,
        553 if stage == Stage::Mail => SenderInvalid,
        554 if stage < Stage::Mail => Reputation,
        554 if stage >= Stage::Data => ContentPolicy,
        _ => Unknown,
    }
}

#[cfg(test)]
mod tests {
    use crate::classify::{Judge, recorded};
    use crate::outcome::Outcome;
    use crate::smtp::client::session::Stage;

    fn check(stage: Stage, text: &str, expected: &str) {
        let reply = recorded(text);
        let found = match Judge::default().refusal(stage, &reply, false) {
            Outcome::Deferred { scope, cause } => {
                format!("deferred {scope:?} {}", cause.class.as_str())
            }
            Outcome::Bounced { scope, cause } => {
                format!("bounced {scope:?} {}", cause.class.as_str())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{reply} at {stage}");
    }

    #[test]
    fn the_reply_code_decides_and_the_status_explains() {
        check(
            Stage::Rcpt,
            "550 5.1.1 no such user",
            "bounced Recipient recipient-unknown",
        );
        check(
            Stage::Rcpt,
            "450 5.1.1 odd",
            "deferred Recipient recipient-unknown",
        );
        check(
            Stage::Rcpt,
            "550 4.2.2 odd",
            "bounced Recipient recipient-full",
        );
        check(Stage::Rcpt, "550 no", "bounced Recipient unknown");
        check(Stage::Rcpt, "450 later", "deferred Recipient unknown");
        check(
            Stage::Content,
            "554 5.7.1 spam",
            "bounced Message content-policy",
        );
        check(
            Stage::Content,
            "451 4.3.0 oops",
            "deferred Message remote-system",
        );
    }

    #[test]
    fn nobody_is_bounced_for_a_refusal_before_mail() {
        check(
            Stage::Banner,
            "554 go away",
            "deferred SiteFromSource reputation",
        );
        check(Stage::Ehlo, "550 no", "deferred SiteFromSource unknown");
        check(
            Stage::Mail,
            "550 5.1.8 no",
            "bounced Message sender-invalid",
        );
    }

    #[test]
    fn what_is_said_of_the_source_reaches_the_source() {
        check(
            Stage::Rcpt,
            "421 4.7.0 too fast",
            "deferred SiteFromSource reputation",
        );
        check(
            Stage::Rcpt,
            "450 4.7.28 flood",
            "deferred SiteFromSource rate-limited",
        );
        check(
            Stage::Content,
            "421 bye",
            "deferred SiteFromSource remote-system",
        );
    }

    #[test]
    fn an_old_hosts_552_for_too_many_recipients_is_temporary() {
        check(
            Stage::Rcpt,
            "552 5.5.3 too many",
            "deferred Recipient protocol",
        );
    }
}
