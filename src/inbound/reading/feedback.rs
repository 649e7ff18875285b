//! RFC 5965: what somebody said of a message that arrived.

use super::mime::{Head, Part};
use super::{Action, Kind, Said, address, plain};

/// `None`: there is no such part.
pub(super) fn read(head: &Head<'_>, parts: &[Part<'_>]) -> Option<(Kind, Vec<Said>)> {
    let Some(part) = parts
        .iter()
        .find(|part| part.kind == "message/feedback-report")
    else {
        return by_head(head, parts);
    };
    let text = part.text().replace("\r\n", "\n").replace('\n', "\r\n");
    let fields = Head::of(text.as_bytes());
    let kind = fields.first("Feedback-Type").unwrap_or_default();
    let kind = match kind.trim().to_ascii_lowercase().as_str() {
        "abuse" | "fraud" | "virus" | "complaint" => Kind::Complaint,
        // RFC 5965 §7.3: other types may come; none of them says that it was spam.
        "opt-out" | "opt-out-list" => Kind::Unsubscribe,
        _ => Kind::Feedback,
    };
    let mut said = Said::nothing(Action::Arrived);
    let named = ["Original-Rcpt-To", "Removal-Recipient", "Redacted-Address"];
    for field in named.iter().flat_map(|name| fields.all(name)) {
        said.addresses.extend(address(&field));
    }
    said.addresses.truncate(20);
    said.reporter = plain(&fields.first("User-Agent").unwrap_or_default());
    Some((kind, vec![said]))
}

/// Loops that forward the message as it is, with a head of their own.
fn by_head(head: &Head<'_>, parts: &[Part<'_>]) -> Option<(Kind, Vec<Said>)> {
    let mut originals = parts.iter().filter(|part| part.kind == "message/rfc822");
    let complainer = originals.find_map(|part| {
        let field = Head::of(part.body).first("X-HmXmrOriginalRecipient")?;
        Some(field.trim().trim_matches(['<', '>']).to_lowercase())
    });
    let marked = head.has("X-Loop-Complaint") || head.has("X-Feedback-Report");
    (marked || complainer.is_some()).then(|| {
        let said = Said {
            addresses: complainer.into_iter().collect(),
            ..Said::nothing(Action::Arrived)
        };
        (Kind::Complaint, vec![said])
    })
}
