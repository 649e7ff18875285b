//! A dry run: what a message would be, and what is to be said of it. Nothing is stored, no event is written, no key is used up.
//!
//! Everything that would be an error of a real one is the same error. A message that would be taken is answered as usual, with a new
//! `MessageID` that nothing has, and `DryRun` beside the usual keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::lint::{Finding, Findings, Level, lint};
use crate::accept::{Context, Rehearsal};
use crate::account::{Accounts, Standing};
use crate::mail::{Mailbox, ReversePath};

/// The key `DryRun` of an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Report {
    /// In base64, as `/email/raw` takes it.
    content: String,
    /// Octets of it.
    size: usize,
    message_stream: String,
    /// To whom it would go.
    recipients: Vec<String>,
    /// To whom not: they are suppressed.
    inactive: Vec<String>,
    alignment: Alignment,
    findings: Vec<Finding>,
}

/// What DMARC (RFC 7489 §3.1) would find.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Alignment {
    from_domain: String,
    /// A domain that was verified, or a confirmed sender signature.
    from_verified: bool,
    /// `None`: it would leave without a signature.
    #[serde(rename = "DKIMDomain")]
    dkim_domain: Option<String>,
    #[serde(rename = "DKIMSelector")]
    dkim_selector: Option<String>,
    /// Of the reverse-path that it would leave with.
    return_path_domain: Option<String>,
    return_path_aligned: bool,
}

/// Judges a message that would be taken. Takes long with a large one.
pub(super) fn report(
    rehearsal: &Rehearsal,
    context: &Context,
    from: &Mailbox,
    inactive: Vec<String>,
    accounts: &Accounts,
) -> Report {
    let mut found = Findings::default();
    let alignment = alignment(context, from, accounts, &mut found);
    for address in &inactive {
        let text = format!("{address} is suppressed in this stream, and would be left out.");
        found.add(Level::Warning, "suppressed-recipient", text);
    }
    lint(&rehearsal.content, rehearsal.stream_kind, &mut found);
    let recipients = context.recipients.iter();
    Report {
        size: rehearsal.content.len(),
        content: STANDARD.encode(&rehearsal.content),
        message_stream: rehearsal.stream.to_string(),
        recipients: recipients.map(|r| r.path.as_str().to_owned()).collect(),
        inactive,
        alignment,
        findings: found.0,
    }
}

fn alignment(
    context: &Context,
    from: &Mailbox,
    accounts: &Accounts,
    found: &mut Findings,
) -> Alignment {
    let domain = from.domain();
    let from_verified = accounts.standing(from) == Standing::MaySend;
    if !from_verified {
        let text = format!(
            "{domain} is not verified: whoever checks mail cannot tell that it is yours. `posthaste domain add {domain}` says what to publish."
        );
        found.add(Level::Warning, "from-not-verified", text);
    }
    let snapshot = accounts.load();
    // The platform's own keys sign besides, and are not aligned.
    let keys = snapshot.signing_keys(Some(domain));
    let mut own = keys.iter().filter(|key| key.domain == *domain);
    let key = own.clone().next();
    match key.map(|_| own.try_for_each(|key| key.usable())) {
        None => {
            let text = format!(
                "No DKIM key of {domain} is in use: the message would leave without its signature."
            );
            found.add(Level::Warning, "dkim-missing", text);
        }
        Some(Err(why)) => {
            let text = format!(
                "The DKIM key of {domain} cannot be used, so the message would wait: {why}."
            );
            found.add(Level::Error, "dkim-unusable", text);
        }
        Some(Ok(())) => {}
    }
    // As delivery chooses it (`deliver::ReturnPaths`).
    let return_path = match (snapshot.bounce_domain(Some(domain)), &context.reverse_path) {
        (Some(bounces), ReversePath::Mailbox(_)) => Some(bounces),
        (None, ReversePath::Mailbox(mailbox)) => Some(mailbox.domain().as_str()),
        (_, ReversePath::Null) => None,
    };
    let aligned = return_path.is_some_and(|return_path| is_within(return_path, domain.as_str()));
    if !aligned {
        let text = format!(
            "The Return-Path is not within {domain}: SPF does not count for it (RFC 7489 §3.1.2)."
        );
        found.add(Level::Notice, "return-path-not-aligned", text);
    }
    Alignment {
        from_domain: domain.to_string(),
        from_verified,
        dkim_domain: key.map(|key| key.domain.to_string()),
        dkim_selector: key.map(|key| key.selector.clone()),
        return_path_domain: return_path.map(str::to_owned),
        return_path_aligned: aligned,
    }
}

/// The same domain or one below the other. Relaxed alignment asks for the same organisation, of which this is the part that needs
/// no public suffix list.
fn is_within(a: &str, b: &str) -> bool {
    let below = |a: &str, b: &str| {
        a.strip_suffix(b)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    below(a, b) || below(b, a)
}
