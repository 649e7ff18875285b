//! What mail that came back says: a report of delivery in the form of RFC 3464 or in nobody's form, a complaint (RFC 5965),
//! an automatic answer, a letter. Pure functions.
//!
//! Promises: the content may be anything, and reading it ends, in time linear in [`limits::REPORT_READ`] and in memory of that
//! order; what it says is never trusted further than it goes: who is not named is not suppressed, what contradicts itself
//! neither. Deliberately does not know who may report: whoever calls has checked the address that it came to.
//!
//! `mime.rs` finds the parts, `status.rs` reads RFC 3464, `feedback.rs` RFC 5965, `prose.rs` bounces that are written for people
//! only, `automatic.rs` answers that no person wrote, `original.rs` which of our messages it is about; `words.rs` has the words
//! of many languages.

mod automatic;
mod feedback;
mod mime;
mod original;
mod prose;
mod status;
mod words;

#[cfg(test)]
mod tests;

use crate::classify::{self, Evidence, Finding, Rules};
use crate::limits;
use crate::mail::{EnhancedStatus, Reply};
use crate::outcome::{CauseClass, Reach, Reaction};

pub use original::Original;

/// What came back, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub kind: Kind,
    /// Of each recipient that it names; of nobody in particular where it names none.
    pub said: Vec<Said>,
    /// What it shows of the message that it is about.
    pub original: Original,
    /// Its own subject, for people.
    pub subject: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// RFC 3464.
    Status,
    /// A bounce for people to read.
    Bounce,
    /// RFC 5965: somebody called it spam, fraud or a virus.
    Complaint,
    /// RFC 5965: somebody called it no spam, or something else that is no complaint.
    Feedback,
    /// Vacation notes and other automatic answers (RFC 3834).
    AutoReply,
    /// The sender is asked to prove himself.
    Challenge,
    /// The recipient tells a new address.
    AddressChange,
    /// The recipient wants no more mail.
    Unsubscribe,
    /// Anything else; perhaps a person wrote it.
    Letter,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Bounce => "bounce",
            Self::Complaint => "complaint",
            Self::Feedback => "feedback",
            Self::AutoReply => "auto-reply",
            Self::Challenge => "challenge",
            Self::AddressChange => "address-change",
            Self::Unsubscribe => "unsubscribe",
            Self::Letter => "letter",
        }
    }

    /// The cause of what is no report of delivery.
    pub fn cause(self) -> Option<CauseClass> {
        Some(match self {
            Self::Complaint => CauseClass::Complaint,
            Self::AutoReply => CauseClass::AutoReply,
            Self::Challenge => CauseClass::Challenge,
            Self::AddressChange => CauseClass::AddressChange,
            Self::Unsubscribe => CauseClass::Unsubscribe,
            Self::Status | Self::Bounce | Self::Feedback | Self::Letter => return None,
        })
    }
}

/// RFC 3464 §2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Failed,
    Delayed,
    /// Delivered, relayed, expanded.
    Arrived,
    Unclear,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Arrived => "arrived",
            Self::Unclear => "unclear",
        }
    }
}

/// What is said of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub action: Action,
    /// Its addresses in lower case, the one that we gave first: where it was forwarded there are others. Empty: nobody is named.
    pub addresses: Vec<String>,
    /// RFC 3464 §2.3.4; may contradict the reply.
    pub status: Option<EnhancedStatus>,
    /// The words of the host that refused it, as a reply; made from status and text where there is no reply code.
    pub reply: Reply,
    /// Who says so, and who said it to them.
    pub reporter: String,
    pub remote: String,
}

impl Said {
    /// Of nobody in particular, with nothing but words.
    pub(super) fn nothing(action: Action) -> Self {
        Self {
            action,
            addresses: Vec::new(),
            status: None,
            reply: Reply::new(550, None, ""),
            reporter: String::new(),
            remote: String::new(),
        }
    }

    pub fn names(&self, forward_path: &str) -> bool {
        let path = forward_path.to_lowercase();
        self.addresses.contains(&path)
    }

    /// What it means for a recipient of ours. `named`: the report names him and not only somebody to whom his mail went on.
    pub fn judge(&self, rules: Option<&Rules>, named: bool) -> Finding {
        let host = match self.remote.is_empty() {
            true => &self.reporter,
            false => &self.remote,
        };
        let evidence = Evidence {
            stage: None,
            reply: &self.reply,
            host,
            shared: false,
        };
        let mut found = classify::judge(rules, &evidence);
        found.last = self.action == Action::Failed;
        found.wait = None;
        if !named && found.reach == Reach::Recipient {
            found.reach = Reach::Message;
        }
        // 4yz that were given up, and reports that contradict themselves, say nothing for the next message.
        let sure = named && self.reply.is_permanent() && self.status.is_none_or(|s| s.class == 5);
        found.reaction = match (found.last, found.reaction) {
            (true, Reaction::Hard) if !sure => Reaction::Bounce,
            (true, Reaction::Retry) => Reaction::Bounce,
            (false, Reaction::Hard | Reaction::Bounce) => Reaction::Retry,
            (_, reaction) => reaction,
        };
        found
    }
}

impl Reading {
    /// What is said of the recipient with that forward-path, who is the only one of the message if `only`; and whether it names
    /// him.
    pub fn of(&self, forward_path: &str, only: bool) -> Option<(&Said, bool)> {
        let naming = || self.said.iter().filter(|said| said.names(forward_path));
        let failed = naming().find(|said| said.action == Action::Failed);
        if let Some(said) = failed.or_else(|| naming().next()) {
            // Words for people may name anybody. Who says two things of one recipient is believed the worse one, and it suppresses nobody.
            let is_clear = naming().all(|other| other.action == said.action);
            return Some((said, is_clear && self.kind == Kind::Status));
        }
        // Whom it names if not him, is whoever his mail was forwarded to. One that names nobody means him, and so does one that
        // leaves the domain out, or that nobody understands but for the words of the host that refused.
        let anybody = self.said.iter().filter(|_| only);
        let worst = anybody.max_by_key(|said| said.action == Action::Failed)?;
        let path = forward_path.to_lowercase();
        let local_part = path.rsplit_once('@').map_or("", |(local, _)| local);
        let means_him = match &worst.addresses[..] {
            [] => true,
            [word] if !word.contains('@') => {
                word == local_part
                    || is_named(&worst.reply.to_lines(), &|a| a.eq_ignore_ascii_case(&path))
            }
            _ => false,
        };
        Some((worst, means_him && self.kind == Kind::Status))
    }
}

/// Of what is no report of delivery: what it means for the recipient.
pub fn verdict(kind: Kind) -> Option<Finding> {
    let class = kind.cause()?;
    let suppresses = matches!(kind, Kind::Complaint);
    Some(Finding {
        class,
        last: suppresses,
        rule: kind.as_str().into(),
        confidence: 95,
        reach: Reach::Recipient,
        reaction: match suppresses {
            true => Reaction::Hard,
            false => Reaction::Alert,
        },
        wait: None,
    })
}

/// Reads what came back. Only its beginning counts: what is said stands in front of the message that is returned.
pub fn read(content: &[u8]) -> Reading {
    let content = &content[..content.len().min(limits::REPORT_READ)];
    let parts = mime::parts(content);
    let head = mime::Head::of(content);
    let mut original = Original::of(&parts);
    let subject = plain(&head.text("Subject"));
    let feedback = feedback::read(&head, &parts);
    let (kind, said) = if let Some((kind, said)) = feedback {
        (kind, said)
    } else if let Some(said) = status::read(&parts) {
        (Kind::Status, said)
    } else {
        let automatic = automatic::by_head(&head);
        let text = prose::text_of(&parts);
        // Daemons, too, call their bounces automatic.
        if let Some(said) = prose::bounce(&head, &subject, &text, automatic.is_some()) {
            original.look_in(&text);
            (Kind::Bounce, said)
        } else {
            let by_words = || automatic::by_words(&head, &subject, &text);
            (automatic.unwrap_or_else(by_words), Vec::new())
        }
    };
    Reading {
        kind,
        said,
        original,
        subject,
    }
}

/// Whether an address for which `is` says so stands anywhere in mail: in its fields, its text or what is attached to it, as it is
/// or encoded (RFC 2045, RFC 2047). Of all of it, however long, in time linear in it. Mail with more parts, or deeper ones, or
/// longer fields or runs of encoded words than are looked at counts as mentioning anybody.
pub fn mentions(content: &[u8], is: &dyn Fn(&str) -> bool) -> bool {
    mentions_within(content, is, MENTION_LEVELS)
}

fn mentions_within(content: &[u8], is: &dyn Fn(&str) -> bool, levels: usize) -> bool {
    if in_words(&String::from_utf8_lossy(content), is) {
        return true;
    }
    let Some(parts) = mime::all_parts(content) else {
        return true;
    };
    parts.iter().any(|part| {
        let text = || part.text_within(usize::MAX);
        if matches!(part.kind.as_str(), "message/rfc822" | "message/global") {
            return levels == 0 || mentions_within(text().as_bytes(), is, levels - 1);
        }
        let is_read = part.is_text() || part.is_encoded() || part.kind.starts_with("message/");
        is_read && in_words(&text(), is)
    })
}

/// The same of text.
fn in_words(text: &str, is: &dyn Fn(&str) -> bool) -> bool {
    is_named(text, is) || encoded(text).is_none_or(|runs| runs.iter().any(|run| is_named(run, is)))
}

/// The same of text that is not encoded.
fn is_named(text: &str, is: &dyn Fn(&str) -> bool) -> bool {
    let words = text.split(|c: char| c.is_whitespace() || "<>()[]{},;:\"'`|\\".contains(c));
    let mut words = words.map(|word| word.trim_matches(['.', '=', '*', '?', '!']));
    words.any(|word| word.contains('@') && is(word))
}

/// Encoded words (RFC 2047), decoded: those that follow each other together, since one address may be in several. `None`: a run of
/// them is too long to be looked at.
fn encoded(text: &str) -> Option<Vec<String>> {
    let mut runs = Vec::new();
    let mut run = String::new();
    for word in text.split_whitespace().chain([""]) {
        if let Some(at) = word.find("=?") {
            run.push_str(&word[at..]);
            run.push(' ');
            if run.len() > ENCODED_MAX {
                return None;
            }
        } else if !run.is_empty() {
            runs.extend(mime::decoded(run.trim_end()));
            run.clear();
        }
    }
    Some(runs)
}

/// Fit for events and terminals.
fn plain(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_control());
    kept.take(WORDS_MAX).collect()
}

/// A value behind its type, as in `rfc822; b@example.org` (RFC 3464 §2.1.2).
fn untyped(field: &str) -> &str {
    let is_type = |word: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-';
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(letters)
    };
    match field.split_once(';') {
        Some((kind, value)) if is_type(kind.trim()) => value.trim(),
        _ => field.trim(),
    }
}

/// An address as reports name it: in lower case, without angle brackets and remarks, xtext undone (RFC 3461 §4, RFC 6533 §3).
fn address(field: &str) -> Option<String> {
    if field.len() > FIELD_MAX {
        return None;
    }
    let value = untyped(field);
    let value = match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default(),
        None if value.starts_with('"') => value,
        None => value.split([' ', '\t', '(']).next().unwrap_or_default(),
    };
    let value = code_points(value);
    let bare = value.trim_matches(['<', '>', '"', '\'', ' ']);
    let mut out = String::with_capacity(bare.len());
    let mut rest = bare;
    while let Some(place) = rest.find('+') {
        out.push_str(&rest[..place]);
        let code = rest.get(place + 1..place + 3);
        let octet = code
            .filter(|hex| {
                hex.bytes()
                    .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
            })
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet {
            // Only what xtext has to encode: a plus address may look like it.
            Some(octet @ (b'+' | b'=' | b' ')) => {
                out.push(char::from(octet));
                rest = &rest[place + 3..];
            }
            _ => {
                out.push('+');
                rest = &rest[place + 1..];
            }
        }
    }
    out.push_str(rest);
    let sound = out.len() <= 320
        && out
            .split_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
        && !out.contains(|c: char| c.is_control() || c == ' ');
    sound.then(|| out.to_lowercase())
}

/// `\x{FC}` is `ü` (RFC 6533 §3).
fn code_points(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains("\\x{") {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x{") {
        out.push_str(before);
        let digits = after.split_once('}');
        let point = digits.and_then(|(hex, behind)| {
            let point = u32::from_str_radix(hex, 16).ok()?;
            Some((char::from_u32(point)?, behind))
        });
        match point {
            Some((c, behind)) => {
                out.push(c);
                rest = behind;
            }
            None => {
                out.push_str("\\x{");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

/// Words as a reply. Without a code of their own they have that of `status`, or of `action`.
fn reply(text: &str, status: Option<EnhancedStatus>, action: Action) -> Reply {
    let text = &text[..text.floor_char_boundary(limits::REPORT_DIAGNOSTIC)];
    let digits = text
        .get(..3)
        .filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    let code = digits.and_then(|d| d.parse::<u16>().ok());
    // A longer number is none.
    let is_alone = !text[digits.map_or(0, str::len)..].starts_with(|c: char| c.is_ascii_digit());
    let code = code.filter(|code| is_alone && (400..600).contains(code));
    let rest = match code {
        Some(_) => text[3..].trim_start_matches([' ', '-', '\t']),
        None => text,
    };
    let (own, rest) = leading_status(rest);
    let status = own.or(status);
    let temporary = status.map_or(action == Action::Delayed, |status| status.class == 4);
    let code = code.unwrap_or(if temporary { 450 } else { 550 });
    Reply::new(code, status, rest.trim())
}

/// `5.1.1`, also as `#5.1.1`, `(5.1.1)` or `5.1.1:`.
fn leading_status(text: &str) -> (Option<EnhancedStatus>, &str) {
    let bare = text.trim_start_matches(['#', '(', '<', ' ']);
    let end = bare
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(bare.len());
    match bare[..end].trim_end_matches('.').parse() {
        Ok(status) => (
            Some(status),
            bare[end..].trim_start_matches([')', '>', ':', ';', ',', '-', ' ']),
        ),
        Err(_) => (None, text),
    }
}

/// Messages within messages that are looked into for an address.
const MENTION_LEVELS: usize = 3;
/// Octets of encoded words in a row.
const ENCODED_MAX: usize = 4_000;
/// Octets of a field with an address, each of which may be written as several.
const FIELD_MAX: usize = 2_000;
/// Characters of a name or a subject.
const WORDS_MAX: usize = 300;
