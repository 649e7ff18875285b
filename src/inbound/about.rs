//! From what a report says to events: which of a message's recipients it is about, and what it means for each.
//!
//! Promises: of a transaction with several recipients only those are meant whom the report names; what is said of nobody in
//! particular is one event that names nobody. So nobody is suppressed for what was said of another.

use super::Target;
use super::reading::{Action, Kind, Reading, Said, verdict};
use crate::classify::{Finding, Rules, stage_word};
use crate::event::{EventKind, Judged};
use crate::outcome::CauseClass;

/// One event to be.
#[derive(Debug)]
pub(super) struct Fact {
    pub(super) kind: EventKind,
    /// `None`: it does not say whom it is about.
    pub(super) number: Option<u16>,
    /// `None`: nobody knows what it means.
    finding: Option<Finding>,
    pub(super) reply: String,
    pub(super) reporter: String,
    pub(super) sentence: String,
}

impl Fact {
    pub(super) fn class(&self) -> CauseClass {
        let class = self.finding.as_ref().map(|finding| finding.class);
        class.unwrap_or(CauseClass::Unknown)
    }

    pub(super) fn judged(&self) -> Judged<'_> {
        let of = |finding| Judged {
            stage: stage_word(None),
            ..judged(finding)
        };
        self.finding.as_ref().map(of).unwrap_or_default()
    }
}

fn judged(finding: &Finding) -> Judged<'_> {
    Judged {
        scope: finding.reach.as_str(),
        reaction: finding.reaction.as_str(),
        rule: &finding.rule,
        confidence: finding.confidence,
        ..Judged::default()
    }
}

/// None where it says of nobody that anything went wrong: a notice of a delay, of an arrival.
pub(super) fn facts(target: &Target, reading: &Reading, rules: Option<&Rules>) -> Vec<Fact> {
    match reading.kind {
        Kind::Status | Kind::Bounce => bounces(target, reading, rules),
        Kind::Feedback => Vec::new(),
        kind => vec![Fact {
            kind: match kind {
                Kind::Complaint => EventKind::Complained,
                _ => EventKind::BouncedLater,
            },
            number: whose(target, reading),
            finding: verdict(kind),
            reply: String::new(),
            reporter: String::new(),
            sentence: sentence(kind, reading),
        }],
    }
}

fn bounces(target: &Target, reading: &Reading, rules: Option<&Rules>) -> Vec<Fact> {
    let candidates: Vec<u16> = match target.address.recipient {
        Some(number) => vec![number],
        None => target.subject.numbers().collect(),
    };
    let only = candidates.len() == 1;
    let of = |&number: &u16| {
        let path = target.subject.forward_path(number);
        let (said, named) = reading.of(path, only)?;
        Some((number, said, named))
    };
    let found: Vec<_> = candidates.iter().filter_map(of).collect();
    if found.is_empty() {
        let failed = reading.said.iter().find(|said| is_bad(said.action));
        return failed
            .map(|said| bounce(None, said, false, rules))
            .into_iter()
            .collect();
    }
    found
        .into_iter()
        .filter(|(_, said, _)| is_bad(said.action))
        .map(|(number, said, named)| bounce(Some(number), said, named, rules))
        .collect()
}

fn is_bad(action: Action) -> bool {
    matches!(action, Action::Failed | Action::Unclear)
}

fn bounce(number: Option<u16>, said: &Said, named: bool, rules: Option<&Rules>) -> Fact {
    let by = match said.reporter.is_empty() {
        true => "a host that does not say its name",
        false => &said.reporter,
    };
    let at = match said.remote.is_empty() {
        true => String::new(),
        false => format!(" (at {})", said.remote),
    };
    Fact {
        kind: EventKind::BouncedLater,
        number,
        finding: (said.action == Action::Failed).then(|| said.judge(rules, named)),
        reply: said.reply.to_lines(),
        reporter: said.reporter.clone(),
        sentence: format!("Reported by mail from {by}: {}{at}.", said.action.as_str()),
    }
}

/// Whom it is about that is no report of delivery.
fn whose(target: &Target, reading: &Reading) -> Option<u16> {
    if target.address.recipient.is_some() {
        return target.address.recipient;
    }
    let mut numbers = target.subject.numbers();
    let is_named = |path: &str| {
        let said = reading.said.iter().any(|said| said.names(path));
        // Who complains need not be the one whom the message's To shows: he may have had a blind copy.
        let is_shown = reading.kind != Kind::Complaint;
        said || is_shown && reading.original.recipients.contains(&path.to_lowercase())
    };
    let found = numbers.find(|&number| is_named(target.subject.forward_path(number)));
    // One that names two is about neither.
    found.filter(|_| !numbers.any(|number| is_named(target.subject.forward_path(number))))
}

fn sentence(kind: Kind, reading: &Reading) -> String {
    let what = match kind {
        Kind::Complaint => "A complaint came by mail",
        Kind::AutoReply => "An automatic answer came by mail",
        Kind::Challenge => "The sender is asked, by mail, to prove himself",
        Kind::AddressChange => "A new address was told by mail",
        Kind::Unsubscribe => "The recipient asks, by mail, for no more",
        Kind::Letter | Kind::Status | Kind::Bounce | Kind::Feedback => {
            "Mail came back that is no report"
        }
    };
    match reading.subject.is_empty() {
        true => format!("{what}."),
        false => format!("{what}: {}", reading.subject),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Event, Subject};
    use crate::inbound::reading;
    use crate::mail::{MessageId, VerpAddress};

    fn target(recipient: Option<u16>) -> Target {
        let paths = [(0, "a@a.test"), (1, "b@A.test"), (2, "c@a.test")];
        let events = paths.map(|(recipient_number, recipient)| Event {
            message_id: MessageId::new(1, &[1; 10]),
            recipient_number,
            recipient,
            ..Event::nothing()
        });
        let subject = Subject::of_events(&events, Box::default()).unwrap();
        Target {
            address: VerpAddress {
                message: subject.id,
                recipient,
            },
            subject: Arc::new(subject),
            mail_position: None,
        }
    }

    fn status(said: &[(&str, &str)]) -> String {
        let mut text = "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n".to_owned();
        for (recipient, action) in said {
            text += &format!(
                "Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n"
            );
        }
        text + "--b--\r\n"
    }

    fn check(recipient: Option<u16>, content: &str, expected: &[(Option<u16>, &str, &str)]) {
        let facts = facts(&target(recipient), &reading::read(content.as_bytes()), None);
        let found: Vec<_> = facts
            .iter()
            .map(|fact| (fact.number, fact.class().as_str(), fact.judged().reaction))
            .collect();
        assert_eq!(found, expected, "{content}");
    }

    #[test]
    fn only_who_is_named_is_meant_unless_there_is_nobody_else() {
        let unknown = "recipient-unknown";
        let both = status(&[("B@a.test", "failed"), ("c@a.test", "delayed")]);
        check(None, &both, &[(Some(1), unknown, "hard")]);
        check(Some(1), &both, &[(Some(1), unknown, "hard")]);
        check(Some(2), &both, &[]);
        // Whom it names was forwarded to: he is gone, ours is not.
        let elsewhere = status(&[("x@b.test", "failed")]);
        check(Some(0), &elsewhere, &[(Some(0), unknown, "bounce")]);
        check(None, &elsewhere, &[(None, unknown, "bounce")]);
        check(None, &status(&[("a@a.test", "delivered")]), &[]);
    }

    #[test]
    fn a_complaint_is_about_whom_it_names_and_a_letter_about_whom_it_came_back_for() {
        let complaint = |to: &str| {
            format!(
                "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: x\r\nVersion: 1\r\nOriginal-Rcpt-To: <{to}>\r\n\r\n--b--\r\n"
            )
        };
        check(
            None,
            &complaint("c@a.test"),
            &[(Some(2), "complaint", "hard")],
        );
        check(
            Some(0),
            &complaint("redacted"),
            &[(Some(0), "complaint", "hard")],
        );
        let letter = "From: b@a.test\r\nSubject: your mail\r\n\r\nCall me.\r\n";
        check(Some(1), letter, &[(Some(1), "unknown", "")]);
        check(None, letter, &[(None, "unknown", "")]);
    }
}
