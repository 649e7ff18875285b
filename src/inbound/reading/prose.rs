//! Bounces that were written for people: who is meant, and the words of the host that refused.

use std::collections::HashSet;

use super::mime::{Head, Part};
use super::words::{self, Words};
use super::{Action, Said, address, reply};
use crate::limits;
use crate::mail::EnhancedStatus;
use crate::mail::header::addr_specs;

/// What there is to read, of all parts that are text, within bounds.
pub(super) fn text_of(parts: &[Part<'_>]) -> String {
    let mut text = String::new();
    let plain = parts.iter().any(|part| {
        part.kind != "text/html" && part.is_text() && !part.body.trim_ascii().is_empty()
    });
    for part in parts.iter().filter(|part| part.is_text()) {
        // The same once more.
        if plain && part.kind == "text/html" {
            continue;
        }
        text.push_str(&part.text());
        text.push('\n');
        if text.len() >= limits::REPORT_TEXT {
            break;
        }
    }
    text.truncate(text.floor_char_boundary(limits::REPORT_TEXT));
    text
}

/// `None`: it is no bounce. `automatic`: its head calls it an automatic answer.
pub(super) fn bounce(
    head: &Head<'_>,
    subject: &str,
    text: &str,
    automatic: bool,
) -> Option<Vec<Said>> {
    let from = words::normal(&head.text("From"));
    let by_daemon = Words::DAEMONS.are_in(&from);
    let title = words::normal(subject);
    let failed = head.all("X-Failed-Recipients");
    let own = own_words(text);
    let body = words::normal(own);
    let by_title = Words::BOUNCE_SUBJECT.are_in(&title);
    let by_body = Words::BOUNCE_TEXT.are_in(&body);
    let delayed = Words::DELAYED.are_in(&title) || Words::DELAYED.are_in(&body);
    let is_bounce = !failed.is_empty()
        || by_daemon && (by_title || by_body || delayed)
        || by_title && by_body && !automatic;
    if !is_bounce {
        return None;
    }
    let action = match delayed && !Words::GIVEN_UP.are_in(&body) {
        true => Action::Delayed,
        false => Action::Failed,
    };
    let mut addresses: Vec<String> = failed
        .iter()
        .flat_map(|field| addr_specs(field))
        .filter_map(|text| address(&text))
        .collect();
    if addresses.is_empty() {
        addresses = named(own, head);
    }
    addresses.truncate(RECIPIENTS_MAX);
    let words =
        refusal(own).unwrap_or_else(|| own.split_whitespace().collect::<Vec<_>>().join(" "));
    let reply = reply(&words, None, action);
    let said = |addresses| Said {
        addresses,
        status: reply.status,
        reply: reply.clone(),
        ..Said::nothing(action)
    };
    Some(match addresses.is_empty() {
        true => vec![said(Vec::new())],
        false => addresses
            .into_iter()
            .map(|address| said(vec![address]))
            .collect(),
    })
}

/// In front of the message that is quoted.
fn own_words(text: &str) -> &str {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let bare = words::normal(line);
        if at > 0 && Words::QUOTED_BELOW.are_in(&bare) {
            return &text[..at];
        }
        at += line.len();
    }
    text
}

/// Addresses in the words, but for those of whoever wrote it and whom it was written to.
fn named(text: &str, head: &Head<'_>) -> Vec<String> {
    let own = ["From", "To", "Reply-To", "Sender", "Delivered-To"];
    let own: HashSet<String> = own
        .iter()
        .flat_map(|name| head.all(name))
        .flat_map(|value| addr_specs(&value))
        .map(|a| a.to_lowercase())
        .collect();
    let mut found: Vec<String> = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || "<>()[]\",;".contains(c)) {
        if !word.contains('@') || found.len() == RECIPIENTS_MAX {
            continue;
        }
        let bare = word
            .trim_start_matches("mailto:")
            .trim_matches(['.', ':', '\'', '*', '=', '`']);
        let Some(address) = address(bare) else {
            continue;
        };
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let daemon = ["mailer-daemon@", "postmaster@"]
            .iter()
            .any(|start| address.starts_with(start));
        if domain.contains('.') && !daemon && !own.contains(&address) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// From the first reply code to the end of its paragraph, or else the paragraph with the first enhanced status.
fn refusal(text: &str) -> Option<String> {
    let gaps = ["\n\n", "\r\n\r\n", "\n \n"];
    let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let to_its_end = |from: usize| {
        let end = gaps.iter().filter_map(|gap| text[from..].find(gap)).min();
        &text[from..end.map_or(text.len(), |end| from + end)]
    };
    if let Some(at) = reply_at(text) {
        return Some(joined(to_its_end(at)));
    }
    let (at, status) = status_at(text)?;
    // The words stand before it, as often as behind it.
    let begin = gaps.iter().filter_map(|gap| text[..at].rfind(gap)).max();
    let words = joined(to_its_end(begin.unwrap_or(0)));
    Some(format!("{status} {words}"))
}

/// Three digits of 4yz or 5yz that stand where a reply stands: before a status, at the beginning of a line, or behind a word of those
/// that lead to one.
fn reply_at(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut line, mut tried) = (0, 0);
    for at in 0..bytes.len().saturating_sub(3) {
        if bytes[at] == b'\n' {
            line = at + 1;
            continue;
        }
        let code = &bytes[at..at + 3];
        let before = at.checked_sub(1).map(|place| bytes[place]);
        let is_code = matches!(code[0], b'4' | b'5')
            && code[1..].iter().all(u8::is_ascii_digit)
            && code[1] <= b'7';
        if !is_code || before.is_some_and(|b| b.is_ascii_alphanumeric() || b".-/@_".contains(&b)) {
            continue;
        }
        if !matches!(bytes.get(at + 3), Some(b' ' | b'-' | b'\t')) {
            continue;
        }
        tried += 1;
        if tried > CODES_TRIED {
            return None;
        }
        let rest = text[at + 3..].trim_start_matches([' ', '-', '\t', '#']);
        let with_status = EnhancedStatus::split(rest).0.is_some();
        let led =
            words::normal(&text[text.floor_char_boundary(at.saturating_sub(80)).max(line)..at]);
        let is_led = led.trim_matches(['>', '<', '"', '\'', ' ', '*']).is_empty()
            || Words::LEADS.are_in(&led);
        if with_status || is_led {
            return Some(at);
        }
    }
    None
}

fn status_at(text: &str) -> Option<(usize, EnhancedStatus)> {
    let mut at = 0;
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "(),;#<>[]:".contains(c)) {
        let bare = word.trim_end_matches(|c: char| c.is_whitespace() || "(),;#<>[]:".contains(c));
        if let Ok(status) = bare.parse::<EnhancedStatus>()
            && status.class != 2
        {
            return Some((at, status));
        }
        at += word.len();
    }
    None
}

const RECIPIENTS_MAX: usize = 20;
/// Numbers that may be reply codes.
const CODES_TRIED: usize = 200;
