//! RFC 3464: groups of fields, the first about the report, each other about a recipient.

use super::mime::{Head, Part};
use super::{Action, Said, address, plain, reply, untyped};
use crate::mail::EnhancedStatus;

/// `None`: there is no such part, or it says nothing of anybody.
pub(super) fn read(parts: &[Part<'_>]) -> Option<Vec<Said>> {
    let mut found = Vec::new();
    for part in parts.iter().filter(|part| is_status(part)) {
        let text = part.text();
        groups(&text, &mut found);
    }
    (!found.is_empty()).then_some(found)
}

fn is_status(part: &Part<'_>) -> bool {
    match part.kind.as_str() {
        "message/delivery-status" | "message/global-delivery-status" => true,
        // In the right place under a wrong name.
        "text/plain" | "text/delivery-status" | "application/octet-stream" => {
            part.report.as_deref() == Some("delivery-status")
                && has_field(part.body, b"final-recipient:")
                && has_field(part.body, b"action:")
        }
        _ => false,
    }
}

fn has_field(body: &[u8], name: &[u8]) -> bool {
    let mut lines = body.split(|&b| b == b'\n').take(200);
    lines.any(|line| {
        line.get(..name.len())
            .is_some_and(|word| word.eq_ignore_ascii_case(name))
    })
}

fn groups(text: &str, found: &mut Vec<Said>) {
    let mut reporter = String::new();
    for group in split(text) {
        let head = Head::of(group.as_bytes());
        if head.is_empty() {
            continue;
        }
        if let Some(name) = head
            .first("Reporting-MTA")
            .or_else(|| head.first("X-Reporting-MTA"))
        {
            reporter = plain(untyped(&name));
        }
        let about_somebody = ["Final-Recipient", "Original-Recipient", "Action"];
        if about_somebody.iter().any(|name| head.has(name)) && found.len() < RECIPIENTS_MAX {
            found.push(recipient(&head, &reporter));
        }
    }
}

/// At empty lines, which may end in any way, and where one is missing before the next recipient. Each ends with an empty line of
/// its own. A line that is no field goes on with the one before it: hosts forget to fold what they quote.
fn split(text: &str) -> Vec<String> {
    let mut groups = vec![String::new()];
    let mut has_recipient = false;
    for line in text.lines() {
        let Some(last) = groups.last_mut() else { break };
        if line.trim().is_empty() {
            if !last.is_empty() {
                groups.push(String::new());
            }
            has_recipient = false;
            continue;
        }
        let is_recipient = is_named(line, "final-recipient");
        if is_recipient && has_recipient {
            // RFC 3464 §2.3: what was first given stands before it.
            let own = last.trim_end().rfind('\n').map_or(0, |end| end + 1);
            let moved = match is_named(&last[own..], "original-recipient") {
                true => last.split_off(own),
                false => String::new(),
            };
            groups.push(moved);
        }
        has_recipient |= is_recipient;
        if let Some(last) = groups.last_mut() {
            let is_folded = line.starts_with([' ', '\t']);
            let is_more = is_folded || !is_field(line);
            // Words before the first field.
            if is_more && last.is_empty() {
                continue;
            }
            if is_more && !is_folded {
                last.push(' ');
            }
            last.push_str(line);
            last.push_str("\r\n");
        }
    }
    groups
}

fn is_named(line: &str, name: &str) -> bool {
    line.split_once(':')
        .is_some_and(|(word, _)| word.trim_end().eq_ignore_ascii_case(name))
}

fn is_field(line: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| {
        let name = name.trim_end();
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())
    })
}

fn recipient(head: &Head<'_>, reporter: &str) -> Said {
    let field = |name| head.first(name).unwrap_or_default();
    let action = match field("Action").trim().to_ascii_lowercase() {
        said if said.starts_with("fail") => Action::Failed,
        said if said.starts_with("delay") => Action::Delayed,
        said if ["delivered", "relayed", "expanded"]
            .iter()
            .any(|w| said.starts_with(w)) =>
        {
            Action::Arrived
        }
        _ => Action::Unclear,
    };
    let named = [
        "Original-Recipient",
        "Final-Recipient",
        "X-Actual-Recipient",
    ];
    let named = named.map(field);
    let mut addresses = Vec::new();
    for address in named.iter().filter_map(|field| address(field)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // Somebody is named, in a way that nobody understands: it is not said of nobody.
    if addresses.is_empty() {
        let named = named.iter().map(|field| plain(untyped(field)));
        addresses.extend(
            named
                .map(|name| name.to_lowercase())
                .find(|n| !n.is_empty()),
        );
    }
    // Some say `5.1.1 (unknown user)`, some `#5.1.1`.
    let status = field("Status");
    let status = status
        .trim_start_matches(['#', ' '])
        .split([' ', '(', '\t'])
        .next();
    let status: Option<EnhancedStatus> = status.and_then(|word| word.parse().ok());
    let diagnostic = field("Diagnostic-Code");
    Said {
        action,
        addresses,
        status,
        reply: reply(untyped(&diagnostic), status, action),
        reporter: reporter.to_owned(),
        remote: host(untyped(&field("Remote-MTA"))),
    }
}

/// The name alone, without address or remark.
fn host(text: &str) -> String {
    let end = text.find([' ', '(', '[']).unwrap_or(text.len());
    plain(text[..end].trim_end_matches('.')).to_ascii_lowercase()
}

/// Of one report.
const RECIPIENTS_MAX: usize = 100;
