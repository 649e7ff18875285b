//! A notice as mail: a report of three parts (RFC 3462, now RFC 6522), for people, for programs (RFC 3464), and what came back.
//!
//! Promises: the head (but for an address in To that is not) and the first two parts are ASCII in lines that every host takes,
//! whatever remote hosts and senders wrote; nothing they wrote makes a field or a part of its own. `Date`, `Message-ID` and `Received` come when it is accepted.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::notice::{Notice, Person, What};
use crate::clock::rfc5322;
use crate::limits;
use crate::mail::EnhancedStatus;
use crate::mail::header::Section;
use crate::outcome::CauseClass;

/// What is returned of the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned<'a> {
    pub(super) header: &'a [u8],
    /// With it: the whole message.
    pub(super) body: Option<&'a [u8]>,
}

/// The notice as `hostname` sends it.
pub(super) fn compose(notice: &Notice, hostname: &str, returned: Option<Returned<'_>>) -> Vec<u8> {
    let boundary = boundary(notice, returned);
    let mut head = String::new();
    let subject = match notice.what {
        What::Failed => "Undelivered mail",
        What::Delayed => "Delayed mail (it is still being tried)",
        What::Relayed => "Mail was passed on",
    };
    let _ = write!(
        head,
        "From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\nTo: <{}>\r\nSubject: {subject}\r\n",
        notice.to
    );
    let original = returned.and_then(|returned| message_id(returned.header));
    if let Some(id) = original {
        let _ = write!(head, "In-Reply-To: {id}\r\nReferences: {id}\r\n");
    }
    // RFC 2045 §6.4: a whole says what its parts are.
    let is_eight_bit =
        returned.is_some_and(|r| r.header.is_ascii() && !r.body.unwrap_or_default().is_ascii());
    let encoding = match is_eight_bit {
        true => "Content-Transfer-Encoding: 8bit\r\n",
        false => "",
    };
    // RFC 3834 §5, RFC 6522 §3.
    let _ = write!(
        head,
        "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n{encoding}Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
    );
    let open = |head: &mut String| {
        let _ = write!(head, "--{boundary}\r\n");
    };
    open(&mut head);
    put_text(&mut head, &words(notice, hostname));
    open(&mut head);
    head.push_str(
        "Content-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n",
    );
    put_status(&mut head, notice, hostname);
    let mut octets = head.into_bytes();
    if let Some(returned) = returned {
        octets.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        put_returned(&mut octets, returned);
    }
    octets.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    octets
}

/// RFC 2046 §5.1.1: no line of a part begins with it. `=_` is in no text that is encoded, and a message cannot know what
/// position its outcome will have; it is looked for all the same.
fn boundary(notice: &Notice, returned: Option<Returned<'_>>) -> String {
    let first = notice.people.first().map_or(0, |person| person.event);
    let mut boundary = format!("=_{first}.{}", notice.message);
    while returned
        .is_some_and(|r| holds(r.header, &boundary) || holds(r.body.unwrap_or_default(), &boundary))
    {
        boundary.push('_');
    }
    boundary
}

fn holds(octets: &[u8], text: &str) -> bool {
    octets.windows(text.len()).any(|w| w == text.as_bytes())
}

/// Fit for a field: one line, ASCII.
fn message_id(header: &[u8]) -> Option<String> {
    let section =
        Section::parse(header, limits::HEADER_FIELDS_MAX, limits::HEADER_FIELD_MAX).ok()?;
    let id = section.first("Message-ID")?;
    let is_fit = id.len() <= ID_MAX && id.bytes().all(|b| b.is_ascii_graphic());
    is_fit.then_some(id)
}

/// For people.
fn words(notice: &Notice, hostname: &str) -> String {
    let sent = rfc5322(notice.arrival);
    let mut text = format!("This is the mail system at host {hostname}.\n\n");
    let what = match notice.what {
        What::Failed => "could not be delivered to the recipients below. It is not tried again.",
        What::Delayed => {
            "could not be delivered to the recipients below yet. It is tried on; you need not send it again."
        }
        What::Relayed => {
            "was passed on to the hosts below. They do not tell what becomes of it, so this is the last notice of it."
        }
    };
    wrap(&mut text, "", &format!("Your message of {sent} {what}"));
    for person in &notice.people {
        let _ = write!(text, "\n<{}>\n", one_line(&person.recipient));
        if !person.reply.is_empty() {
            let who = match person.remote.is_empty() {
                true => "a remote host",
                false => &person.remote,
            };
            wrap(
                &mut text,
                "    ",
                &format!("{} said: {}", one_line(who), one_line(&person.reply)),
            );
        }
        if !person.detail.is_empty() {
            wrap(&mut text, "    ", &one_line(&person.detail));
        }
        if let Some(until) = person.retry_until {
            wrap(
                &mut text,
                "    ",
                &format!("It is tried until {}.", rfc5322(until)),
            );
        }
    }
    text
}

/// RFC 3464 §2: fields of the message, then a group for each recipient.
fn put_status(out: &mut String, notice: &Notice, hostname: &str) {
    put(out, "Reporting-MTA", &format!("dns; {hostname}"));
    if let Some(id) = decoded(&notice.envelope_id) {
        put(out, "Original-Envelope-Id", &id);
    }
    put(out, "Arrival-Date", &rfc5322(notice.arrival));
    put(out, "X-Posthaste-Message-Id", &notice.message.to_string());
    for person in &notice.people {
        out.push_str("\r\n");
        let original = person.original.split_once(';');
        if let Some((kind, address)) = original.and_then(|(kind, a)| Some((kind, decoded(a)?))) {
            put(out, "Original-Recipient", &format!("{kind}; {address}"));
        }
        put(out, "Final-Recipient", &typed(&person.recipient));
        let action = match notice.what {
            What::Failed => "failed",
            What::Delayed => "delayed",
            What::Relayed => "relayed",
        };
        put(out, "Action", action);
        put(out, "Status", &status(notice.what, person).to_string());
        let remote = person.remote.split(' ').next().unwrap_or_default();
        if !remote.is_empty() {
            put(out, "Remote-MTA", &format!("dns; {remote}"));
        }
        if !person.reply.is_empty() {
            put(out, "Diagnostic-Code", &format!("smtp; {}", person.reply));
        } else if !person.detail.is_empty() {
            put(
                out,
                "Diagnostic-Code",
                &format!("X-Posthaste; {}", person.detail),
            );
        }
        if let Some(at) = person.attempted_at {
            put(out, "Last-Attempt-Date", &rfc5322(at));
        }
        if let Some(until) = person.retry_until {
            put(out, "Will-Retry-Until", &rfc5322(until));
        }
    }
    out.push_str("\r\n");
}

/// RFC 6522 §3 and §4. What is not ASCII is encoded: only 8-bit bodies of whole messages, which may not be (RFC 2046 §5.2.1),
/// stay as they are.
fn put_returned(out: &mut Vec<u8>, returned: Returned<'_>) {
    let Returned { header, body } = returned;
    out.extend_from_slice(b"Content-Description: ");
    let Some(body) = body else {
        out.extend_from_slice(
            b"Header section of the message\r\nContent-Type: text/rfc822-headers",
        );
        match header.is_ascii() {
            true => put_part(out, "", header),
            false => put_base64(out, "; charset=utf-8", header),
        }
        return;
    };
    let whole = [header, body].concat();
    match (header.is_ascii(), body.is_ascii()) {
        (true, true) => {
            out.extend_from_slice(b"The message\r\nContent-Type: message/rfc822");
            put_part(out, "", &whole);
        }
        (true, false) => {
            out.extend_from_slice(b"The message\r\nContent-Type: message/rfc822");
            put_part(out, "\r\nContent-Transfer-Encoding: 8bit", &whole);
        }
        // RFC 6532 §3.7, which may be encoded.
        (false, _) => {
            out.extend_from_slice(b"The message\r\nContent-Type: message/global");
            put_base64(out, "", &whole);
        }
    }
}

fn put_part(out: &mut Vec<u8>, more: &str, octets: &[u8]) {
    out.extend_from_slice(more.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(octets);
    if !octets.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
}

fn put_base64(out: &mut Vec<u8>, more: &str, octets: &[u8]) {
    out.extend_from_slice(more.as_bytes());
    out.extend_from_slice(b"\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    // RFC 2045 §6.8: lines of at most 76 characters.
    for line in STANDARD.encode(octets).as_bytes().chunks(76) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
}

fn put_text(out: &mut String, text: &str) {
    let text = text.replace('\n', "\r\n");
    out.push_str("Content-Description: Notification\r\nContent-Type: text/plain; charset=");
    if text.is_ascii() {
        let _ = write!(out, "us-ascii\r\n\r\n{text}");
        return;
    }
    out.push_str("utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    for line in STANDARD.encode(text).as_bytes().chunks(76) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push_str("\r\n");
    }
}

/// A field whose value may be anything: it becomes ASCII without control characters, folded at its spaces.
fn put(out: &mut String, name: &str, value: &str) {
    let value: String = one_line(value)
        .chars()
        .map(|c| if c.is_ascii() { c } else { '?' })
        .take(VALUE_MAX)
        .collect();
    let mut line = format!("{name}:");
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        if line.len() + 1 + word.len() > LINE && line.contains(' ') {
            let _ = write!(out, "{line}\r\n");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = write!(out, "{line}\r\n");
}

fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut line = indent.to_owned();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if line.len() + word.len() > LINE && line.len() > indent.len() {
            let _ = writeln!(out, "{}", line.trim_end());
            line = indent.to_owned();
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(VALUE_MAX);
    text[..end].replace(|c: char| c.is_control(), " ")
}

/// RFC 3464 §2.3.2; RFC 6533 §3 for what is not ASCII, in the form for reports that are.
fn typed(address: &str) -> String {
    if address.is_ascii() {
        return format!("rfc822; {address}");
    }
    let mut text = "utf-8; ".to_owned();
    for c in address.chars() {
        match c.is_ascii_graphic() && !matches!(c, '\\' | '+' | '=') {
            true => text.push(c),
            false => {
                let _ = write!(text, "\\x{{{:X}}}", u32::from(c));
            }
        }
    }
    text
}

/// RFC 3461 §4: xtext undone. `None`: there is none, or it says what no field may.
fn decoded(xtext: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(xtext.len());
    let mut rest = xtext.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = match (first, behind) {
            (b'+', [a, b, behind @ ..]) => {
                let digits = [*a, *b];
                let digits = std::str::from_utf8(&digits).ok()?;
                octets.push(u8::from_str_radix(digits, 16).ok()?);
                behind
            }
            _ => {
                octets.push(*first);
                behind
            }
        };
    }
    let text = String::from_utf8(octets).ok()?;
    let is_fit = text.chars().all(|c| c.is_ascii() && !c.is_control());
    (is_fit && !text.is_empty()).then_some(text)
}

/// RFC 3464 §2.3.4: what the remote host said, or else what became of the recipient. Of an expiry it is that.
fn status(what: What, person: &Person) -> EnhancedStatus {
    let class = match what {
        What::Relayed => 2,
        What::Delayed => 4,
        What::Failed => 5,
    };
    let cause = CauseClass::parse(person.cause);
    if what == What::Failed && matches!(cause, Some(CauseClass::Expired | CauseClass::Deadline)) {
        return EnhancedStatus::new(4, 4, 7);
    }
    let said = person.reply.get(4..).unwrap_or_default();
    let said = EnhancedStatus::split(said).0;
    let said = said.or_else(|| EnhancedStatus::split(&person.detail).0);
    // A rule may have ended what a host wanted to see again.
    let fits = |s: &EnhancedStatus| s.class == class || class == 5 && s.class == 4;
    said.filter(fits).unwrap_or_else(|| {
        let (subject, detail) = match what {
            What::Failed => meant(cause),
            What::Delayed if person.reply.is_empty() => (4, 1),
            _ => (0, 0),
        };
        EnhancedStatus::new(class, subject, detail)
    })
}

/// Subject and detail (RFC 3463 §3, RFC 7505 §4.2).
fn meant(cause: Option<CauseClass>) -> (u16, u16) {
    use CauseClass::*;
    match cause {
        Some(RecipientUnknown) => (1, 1),
        Some(DomainUnknown) => (1, 2),
        Some(AddressInvalid) => (1, 3),
        Some(SenderInvalid) => (1, 8),
        Some(DomainNoMail) => (1, 10),
        Some(RecipientDisabled) => (2, 1),
        Some(RecipientFull) => (2, 2),
        Some(MessageTooBig) => (3, 4),
        Some(RemoteSystem | LocalSystem | Damaged) => (3, 0),
        Some(Network) => (4, 1),
        Some(Ambiguous) => (4, 2),
        Some(Dns) => (4, 4),
        Some(RoutingLoop) => (4, 6),
        Some(Protocol) => (5, 0),
        Some(ContentSpam | ContentPolicy | Virus | Reputation | Blocklisted) => (7, 1),
        Some(SubmissionRefused | Admin | RelayDenied | AuthFailed | DmarcPolicy) => (7, 1),
        _ => (0, 0),
    }
}

/// RFC 5322 §2.1.1 wants 78; a word that is longer stays whole.
const LINE: usize = 76;
/// Octets of what somebody else wrote, in one field or sentence: below the 998 of a line, were it one word.
const VALUE_MAX: usize = 900;
/// Of the original's `Message-ID`.
const ID_MAX: usize = 250;

#[cfg(test)]
mod tests;
