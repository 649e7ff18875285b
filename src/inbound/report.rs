//! What a report says (RFC 3464): of whom, and what became of the message there.
//!
//! Promises: the content may be anything, and this ends, in time linear in its length; what is not a report in this form is
//! *unclear*, not an error. Only the machine-readable part counts: the words for people are in every language.

use super::Target;
use crate::classify::{self, Evidence, Finding, Rules};
use crate::mail::header::Section;
use crate::mail::mime::{Delimiters, MediaType};
use crate::mail::{EnhancedStatus, Reply};
use crate::outcome::CauseClass;

/// Of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) action: Action,
    /// Its address as we gave it, and as it was where it ended; folded.
    addresses: Vec<String>,
    pub(super) class: CauseClass,
    /// Of one that failed.
    pub(super) finding: Option<Finding>,
    /// The words of the host that refused it.
    pub(super) diagnostic: String,
    /// Who says so.
    pub(super) reporter: String,
    pub(super) sentence: String,
}

/// RFC 3464 §2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Failed,
    Delayed,
    /// Delivered, relayed, expanded.
    Arrived,
    /// No report that we can read.
    Unclear,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Arrived => "arrived",
            Self::Unclear => "unclear",
        }
    }
}

/// One for each recipient that is named; one that is unclear where none is.
pub(super) fn read(content: &[u8], rules: Option<&Rules>) -> Vec<Reported> {
    let status = delivery_status(content, DEPTH_MAX);
    let reported = status.map(|body| recipients(body, rules));
    let reported = reported.unwrap_or_default();
    match reported.is_empty() {
        false => reported,
        true => vec![Reported {
            action: Action::Unclear,
            addresses: Vec::new(),
            class: CauseClass::Unknown,
            finding: None,
            diagnostic: String::new(),
            reporter: String::new(),
            sentence: "Mail came back that is no report in the form of RFC 3464.".into(),
        }],
    }
}

/// What a report says of whom.
pub(super) struct About<'r> {
    /// `None`: it does not say.
    pub(super) number: Option<u16>,
    /// He is named, and not only somebody to whom his mail went on.
    pub(super) named: bool,
    pub(super) said: &'r Reported,
}

/// Which of the target's recipients a report is about.
pub(super) fn about<'r>(target: &Target, reported: &'r [Reported]) -> Vec<About<'r>> {
    let is_named = |said: &Reported, number| {
        let path = target.subject.forward_path(number).to_lowercase();
        said.addresses.contains(&path)
    };
    if let Some(number) = target.address.recipient {
        // It was the only one. Where it was forwarded to, a report may name others.
        let named = reported.iter().find(|said| is_named(said, number));
        let failed = reported.iter().find(|said| said.action == Action::Failed);
        let said = named.or(failed).or(reported.first());
        let of = |said| About {
            number: Some(number),
            named: named.is_some(),
            said,
        };
        return said.map(of).into_iter().collect();
    }
    let numbers = || target.subject.numbers();
    let mut found = Vec::new();
    for said in reported {
        let number = numbers().find(|&number| is_named(said, number));
        found.push(About {
            number,
            named: number.is_some(),
            said,
        });
    }
    // What is known of somebody is worth more than what is said of nobody.
    if found.iter().any(|about| about.named) {
        found.retain(|about| about.named);
    } else {
        found.truncate(1);
    }
    found
}

/// The body of the message/delivery-status part.
fn delivery_status(entity: &[u8], levels_left: usize) -> Option<&[u8]> {
    let section = Section::parse(entity, FIELDS_MAX, FIELD_OCTETS_MAX).ok()?;
    let body = &entity[section.end()..];
    let media_type = MediaType::of(&section.first("Content-Type").unwrap_or_default());
    match (media_type.kind.as_str(), media_type.subtype.as_str()) {
        ("message", "delivery-status" | "global-delivery-status") => Some(body),
        ("multipart", _) => {
            let boundary = media_type.boundary()?;
            let levels_left = levels_left.checked_sub(1)?;
            let mut delimiters = Delimiters::new(body, &boundary);
            let mut part = delimiters.next()?.end;
            for delimiter in delimiters {
                let end = delimiter.start.max(part);
                if let Some(found) = delivery_status(&body[part..end], levels_left) {
                    return Some(found);
                }
                part = delimiter.end;
            }
            // Cut off: what is kept of a report may end within its last part.
            delivery_status(&body[part..], levels_left)
        }
        _ => None,
    }
}

/// RFC 3464 §2.1: groups of fields; the first is about the report, each other about a recipient.
fn recipients(body: &[u8], rules: Option<&Rules>) -> Vec<Reported> {
    let mut rest = body;
    let mut reporter = String::new();
    let mut found = Vec::new();
    while found.len() < RECIPIENTS_MAX {
        while let Some(behind) = rest.strip_prefix(b"\r\n") {
            rest = behind;
        }
        let Ok(group) = Section::parse(rest, FIELDS_MAX, FIELD_OCTETS_MAX) else {
            break;
        };
        if group.end() == 0 {
            break;
        }
        match group.first("Action") {
            None if found.is_empty() && reporter.is_empty() => {
                reporter = group.first("Reporting-MTA").map(value).unwrap_or_default();
            }
            None => {}
            Some(action) => found.push(recipient(&group, &action, &reporter, rules)),
        }
        rest = &rest[group.end()..];
    }
    found
}

fn recipient(group: &Section<'_>, action: &str, reporter: &str, rules: Option<&Rules>) -> Reported {
    let action = match action.trim().to_ascii_lowercase().as_str() {
        "failed" => Action::Failed,
        "delayed" => Action::Delayed,
        "delivered" | "relayed" | "expanded" => Action::Arrived,
        _ => Action::Unclear,
    };
    let addresses = ["Original-Recipient", "Final-Recipient"]
        .iter()
        .filter_map(|name| group.first(name))
        .map(|address| value(address).to_lowercase())
        .collect();
    let status = group.first("Status");
    let status = status.and_then(|text| EnhancedStatus::split(text.trim()).0);
    let diagnostic = group
        .first("Diagnostic-Code")
        .map(value)
        .unwrap_or_default();
    let reply = reply(&diagnostic, status);
    let host = group.first("Remote-MTA").map(value).unwrap_or_default();
    let finding = (action == Action::Failed).then(|| {
        let evidence = Evidence {
            stage: None,
            reply: &reply,
            host: if host.is_empty() { reporter } else { &host },
            shared: false,
        };
        classify::judge(rules, &evidence)
    });
    let class = finding.as_ref().map(|finding| finding.class);
    let at = match host.is_empty() {
        true => String::new(),
        false => format!(" (at {host})"),
    };
    Reported {
        sentence: format!("{reporter} reports by mail: {}{at}.", action.as_str()),
        action,
        addresses,
        class: class.unwrap_or(CauseClass::Unknown),
        finding,
        diagnostic: reply.to_lines(),
        reporter: reporter.to_owned(),
    }
}

/// The words as a reply. Without a code of its own it has that of its status.
fn reply(diagnostic: &str, status: Option<EnhancedStatus>) -> Reply {
    let code = diagnostic
        .get(..3)
        .and_then(|code| code.parse::<u16>().ok());
    let code = code.filter(|code| (400..600).contains(code));
    let text = match code {
        Some(_) => diagnostic[3..].trim_start_matches([' ', '-']),
        None => diagnostic,
    };
    let (own, text) = EnhancedStatus::split(text);
    let transient = status.is_some_and(|status| status.class == 4);
    let code = code.unwrap_or(if transient { 450 } else { 550 });
    Reply::new(code, own.or(status), text)
}

/// Behind the type, as in `rfc822; b@example.org`; fit for events and terminals.
fn value(field: String) -> String {
    let value = field.split_once(';').map_or(&*field, |(_, value)| value);
    let plain = value.trim().chars().filter(|c| !c.is_control());
    plain.take(VALUE_CHARS_MAX).collect()
}

/// Parts within parts that are looked into.
const DEPTH_MAX: usize = 8;
const FIELDS_MAX: usize = 1_000;
const FIELD_OCTETS_MAX: usize = 64 * 1024;
const RECIPIENTS_MAX: usize = 100;
const VALUE_CHARS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKind, Subject};
    use crate::mail::{MessageId, VerpAddress};
    use std::sync::Arc;

    const DSN: &str = "From: <>\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"b\"\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.org\r\nArrival-Date: Fri, 27 Nov 2026 20:00:00 +0000\r\n\r\nOriginal-Recipient: rfc822;B@example.org\r\nFinal-Recipient: rfc822; b.real@inside.example.org\r\nAction: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; inside.example.org\r\nDiagnostic-Code: smtp; 550 5.1.1 <b.real@inside.example.org>\r\n user unknown\r\n\r\nFinal-Recipient: rfc822; c@example.org\r\nAction: delayed\r\nStatus: 4.4.1\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: x\r\n--b--\r\n";

    fn target(recipient: Option<u16>) -> Target {
        let event = Event {
            kind: EventKind::Accepted,
            message_id: MessageId::new(1, &[1; 10]),
            ..Event::nothing()
        };
        let paths = [
            (0, "a@example.org"),
            (1, "b@EXAMPLE.org"),
            (2, "c@example.org"),
        ];
        let subject = Subject::of_events(&event, paths.into_iter(), Box::default());
        Target {
            address: VerpAddress {
                message: subject.id,
                recipient,
            },
            subject: Arc::new(subject),
        }
    }

    #[test]
    fn each_recipient_of_a_report_is_found_with_its_words_and_cause() {
        let reported = read(DSN.as_bytes(), None);
        assert_eq!(reported.len(), 2);
        let failed = &reported[0];
        assert_eq!(failed.class, CauseClass::RecipientUnknown);
        assert_eq!(
            failed.diagnostic,
            "550 5.1.1 <b.real@inside.example.org> user unknown"
        );
        assert_eq!(failed.reporter, "mx.example.org");
        let numbers = |recipient| -> Vec<_> {
            about(&target(recipient), &reported)
                .into_iter()
                .map(|about| (about.number, about.said.action))
                .collect()
        };
        assert_eq!(
            numbers(None),
            [(Some(1), Action::Failed), (Some(2), Action::Delayed)]
        );
        assert_eq!(numbers(Some(2)), [(Some(2), Action::Delayed)]);
        // Forwarded to somebody else.
        assert_eq!(numbers(Some(0)), [(Some(0), Action::Failed)]);
    }

    #[test]
    fn what_is_cut_off_is_read_as_far_as_it_goes_and_anything_else_is_unclear() {
        for end in 0..DSN.len() {
            let reported = read(&DSN.as_bytes()[..end], None);
            assert!(!reported.is_empty());
        }
        let nested = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n".repeat(1_000);
        for content in [
            "",
            "Subject: out of office\r\n\r\nback on Monday\r\n",
            &nested,
        ] {
            let reported = read(content.as_bytes(), None);
            assert_eq!(reported[0].action, Action::Unclear);
            assert_eq!(about(&target(None), &reported)[0].number, None);
            assert_eq!(about(&target(Some(1)), &reported)[0].number, Some(1));
        }
    }
}
