//! What is put in front of a message's header section and what is left out of it. Every other octet stays as it came.

use std::fmt::Write;
use std::net::IpAddr;
use std::ops::Range;

use super::policy::{self, Assignment};
use super::times::{self, Times};
use super::{Context, Refusal, Refused, Shared, Tracking};
use crate::account::model::TrackLinks;
use crate::clock::{UnixMs, rfc5322};
use crate::config::MessageIdPolicy;
use crate::idempotency::Claim;
use crate::limits;
use crate::mail::MessageId;
use crate::mail::header::{Field, HeaderError, Section};

/// The edits of one message, over the octets that the client sent.
#[derive(Debug)]
pub(super) struct Stamp {
    /// New fields, in front of everything.
    pub(super) prefix: String,
    /// What stays of the client's header section, as ranges.
    pub(super) kept: Vec<Range<usize>>,
    /// Where the body begins in the client's octets.
    pub(super) body: usize,
    /// The empty line, when the client sent none.
    pub(super) separator: &'static [u8],
    /// The client's header section holds nothing but ASCII.
    pub(super) ascii_header: bool,
    pub(super) tag: Option<String>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) tracking: Tracking,
    pub(super) claim: Option<Claim>,
    pub(super) times: Times,
    pub(super) bounce_type: Option<String>,
    /// What becomes of it is told by mail.
    pub(super) notices: bool,
}

impl Stamp {
    /// The content as it is stored: new fields, kept fields, body.
    pub(super) fn pieces<'a>(&'a self, octets: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::with_capacity(self.kept.len() + 3);
        pieces.push(self.prefix.as_bytes());
        pieces.extend(self.kept.iter().map(|range| &octets[range.clone()]));
        pieces.push(self.separator);
        pieces.push(&octets[self.body..]);
        pieces
    }

    /// Octets of the stored header section with its empty line.
    pub(super) fn header_len(&self) -> usize {
        self.prefix.len()
            + self.kept.iter().map(ExactSizeIterator::len).sum::<usize>()
            + self.separator.len()
    }
}

/// Reads a header section within the limits.
pub(super) fn read_section(octets: &[u8]) -> Result<Section<'_>, Refusal> {
    Section::parse(octets, limits::HEADER_FIELDS_MAX, limits::HEADER_FIELD_MAX).map_err(|error| {
        match error {
            HeaderError::TooManyFields(count) => Refusal::TooManyFields(count),
            HeaderError::FieldTooLong(octets) => Refusal::HeaderTooLarge(octets),
        }
    })
}

/// Decides the edits and the stream of a message whose header section is complete in `octets`.
pub(super) fn stamp(
    octets: &[u8],
    context: &Context,
    shared: &Shared,
    id: MessageId,
    accepted_at: UnixMs,
) -> Result<(Stamp, Assignment), Refusal> {
    let section = read_section(octets)?;
    if let Some(import) = &context.import {
        return import.untouched(octets, &section, context, &shared.pools);
    }
    refuse_repeated(&section)?;
    refuse_loop(&section, &shared.hostname)?;
    let times = times::times(&section, context, accepted_at)?;
    let given = context.given.as_ref();
    let keep_id = given.is_some()
        || context.sender.server.message_id == MessageIdPolicy::Keep
        || section
            .first("X-PM-KeepID")
            .is_some_and(|v| v.eq_ignore_ascii_case("true"));

    let mut prefix = received(context, &shared.hostname, id, accepted_at);
    let _ = write!(prefix, "X-PM-Message-Id: {id}\r\n");
    if section.first("Date").is_none() {
        let _ = write!(prefix, "Date: {}\r\n", rfc5322(accepted_at));
    }
    if !keep_id || section.first("Message-ID").is_none() {
        let _ = write!(prefix, "Message-ID: <{id}@{}>\r\n", shared.hostname);
    }

    let mut kept: Vec<Range<usize>> = Vec::with_capacity(8);
    for field in section.fields() {
        if must_not_leave(&section, field, &shared.hostname)
            || (!keep_id && section.is_named(field, "Message-ID"))
        {
            continue;
        }
        match kept.last_mut() {
            Some(last) if last.end == field.octets.start => last.end = field.octets.end,
            _ => kept.push(field.octets.clone()),
        }
    }
    // A body that follows without an empty line gets one: our fields come before it.
    let body = section.end();
    let separator: &'static [u8] = if section.is_terminated() || body < octets.len() {
        b"\r\n"
    } else {
        b""
    };

    let named = given.and_then(|given| given.stream.clone());
    let named = named.or_else(|| section.first("X-PM-Message-Stream"));
    let mut assignment = policy::assign(context, &shared.pools, named.as_deref())?;
    let from = section.first("From");
    let mut refused = policy::check_from(context, &shared.accounts, from.as_deref())
        .err()
        .map(|refused| refused.to_string());
    let tag = given.and_then(|given| given.tag.clone());
    let tag = tag.or_else(|| section.first("X-PM-Tag").filter(|tag| !tag.is_empty()));
    if tag
        .as_ref()
        .is_some_and(|tag| tag.chars().count() > limits::TAG_CHARS_MAX)
    {
        refused = Some(format!(
            "The tag is longer than {} characters.",
            limits::TAG_CHARS_MAX
        ));
    }
    let metadata = match given {
        Some(given) if !given.metadata.is_empty() => given.metadata.clone(),
        _ => metadata(&section),
    };
    if let Err(reason) = check_metadata(&metadata) {
        refused = Some(reason);
    }
    if let Some(reason) = refused {
        if context.sender.server.attributes.strict || given.is_some() {
            return Err(Refusal::NotAllowed(reason));
        }
        assignment.refused = Refused::All(reason);
    }
    policy::check_recipients(context, &shared.suppressions, &mut assignment)?;
    Ok((
        Stamp {
            prefix,
            kept,
            body,
            separator,
            ascii_header: octets[..body].is_ascii(),
            tag,
            metadata,
            tracking: tracking(
                &section,
                given.map(|given| given.tracking).unwrap_or_default(),
            ),
            claim: match given {
                Some(given) => given.claim.clone(),
                None => claim(&section, context)?,
            },
            times,
            bounce_type: section
                .first("X-PM-Bounce-Type")
                .filter(|word| !word.is_empty() && word.len() <= BOUNCE_TYPE_MAX),
            notices: policy::wants_notices(context, &section),
        },
        assignment,
    ))
}

/// RFC 5322 §3.6: at most once each. Two of them make filters and readers disagree on what the message says.
fn refuse_repeated(section: &Section<'_>) -> Result<(), Refusal> {
    let repeated = |name: &&'static str| section.named(name).nth(1).is_some();
    match ["From", "Subject", "Date", "Message-ID"]
        .iter()
        .find(|name| repeated(name))
    {
        Some(name) => Err(Refusal::RepeatedField(name)),
        None => Ok(()),
    }
}

/// RFC 5321 §6.3: count the hops; our own mark tells a tight loop early.
fn refuse_loop(section: &Section<'_>, hostname: &str) -> Result<(), Refusal> {
    let hops = section.named("Received").count();
    let mark = format!("by {hostname} (Posthaste)");
    let own = section
        .named("Received")
        .filter(|f| section.value(f).contains(&mark))
        .count();
    if hops > limits::HOPS_MAX || own >= limits::OWN_HOPS_MAX {
        Err(Refusal::Loop(hops))
    } else {
        Ok(())
    }
}

/// Fields for us or for nobody: blind copies, our control fields, and results that only a receiver may state
/// (RFC 8601 §5: forged ones in our name are removed).
fn must_not_leave(section: &Section<'_>, field: &Field, hostname: &str) -> bool {
    let name = section.name(field).to_ascii_lowercase();
    match name.as_slice() {
        b"bcc" | b"resent-bcc" | b"return-path" => true,
        b"x-pm-tag" => false,
        b"authentication-results" => {
            let value = section.value(field);
            let service = value.split([';', ' ', '\t']).next().unwrap_or_default();
            service.eq_ignore_ascii_case(hostname)
        }
        _ => name.starts_with(b"x-pm-") || name.starts_with(b"x-posthaste-"),
    }
}

/// RFC 5321 §4.4. The recipient is left out: with several of them it would disclose blind copies.
fn received(context: &Context, hostname: &str, id: MessageId, accepted_at: UnixMs) -> String {
    let address = match context.client_ip {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    };
    let name = context
        .client_name
        .as_deref()
        .map(|name| format!("{} ", tame(name)))
        .unwrap_or_default();
    let tls = context
        .tls
        .as_deref()
        .map(|tls| format!(" ({tls})"))
        .unwrap_or_default();
    format!(
        "Received: from {} ({name}{address})\r\n\tby {hostname} (Posthaste) with {}{tls} id {id};\r\n\t{}\r\n",
        tame(&context.helo),
        context.protocol,
        rfc5322(accepted_at)
    )
}

/// A name that the client or a proxy chose: only octets that cannot end the clause.
fn tame(name: &str) -> String {
    let safe = |c: &char| c.is_ascii_alphanumeric() || ".-_[]:".contains(*c);
    let tamed: String = name.chars().filter(safe).take(255).collect();
    if tamed.is_empty() {
        "unknown".to_owned()
    } else {
        tamed
    }
}

/// `X-PM-Metadata-*`; a repeated key gets a number behind it (postmark-smtp §2).
fn metadata(section: &Section<'_>) -> Vec<(String, String)> {
    const PREFIX: &[u8] = b"x-pm-metadata-";
    let mut found: Vec<(String, String)> = Vec::new();
    for field in section.fields() {
        let name = section.name(field);
        if name.len() <= PREFIX.len() || !name[..PREFIX.len()].eq_ignore_ascii_case(PREFIX) {
            continue;
        }
        // One too many is enough to refuse the message; more would only cost time.
        if found.len() > limits::METADATA_FIELDS_MAX {
            break;
        }
        let key = String::from_utf8_lossy(&name[PREFIX.len()..]).into_owned();
        let taken = |key: &str, found: &[(String, String)]| {
            found.iter().any(|(k, _)| k.eq_ignore_ascii_case(key))
        };
        let mut unique = key.clone();
        let mut suffix = 2;
        while taken(&unique, &found) {
            unique = format!("{key}{suffix}");
            suffix += 1;
        }
        found.push((unique, section.value(field)));
    }
    found
}

/// What the message says, or else its fields; the spelling with more hyphens is one guide's. What is no known word says nothing.
fn tracking(section: &Section<'_>, given: Tracking) -> Tracking {
    let field = |names: [&str; 2]| names.iter().find_map(|name| section.first(name));
    let flag = |text: String| match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    let opens = || field(["X-PM-TrackOpens", "X-PM-Track-Opens"]).and_then(flag);
    let links = || {
        let said = field(["X-PM-TrackLinks", "X-PM-Track-Links"]);
        TrackLinks::parse(&said?)
    };
    Tracking {
        opens: given.opens.or_else(opens),
        links: given.links.or_else(links),
    }
}

/// Over SMTP: the same key and the same envelope are the same message, since clients write a new date and new boundaries each time.
fn claim(section: &Section<'_>, context: &Context) -> Result<Option<Claim>, Refusal> {
    let mut found = section.named(IDEMPOTENCY_KEY);
    let Some(field) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(Refusal::RepeatedField(IDEMPOTENCY_KEY));
    }
    let key = section.value(field);
    if !crate::idempotency::is_key(&key) {
        return Err(Refusal::BadField {
            field: IDEMPOTENCY_KEY,
            reason: crate::idempotency::NO_KEY.to_owned(),
        });
    }
    let recipients = context.recipients.iter().map(|r| r.path.as_str());
    let paths = std::iter::once(context.reverse_path.as_str()).chain(recipients);
    let envelope = paths.collect::<Vec<_>>().join("\n");
    let server = context.sender.server.id;
    Ok(Some(Claim::new(server, &key, 0, envelope.as_bytes())))
}

fn check_metadata(metadata: &[(String, String)]) -> Result<(), String> {
    if metadata.len() > limits::METADATA_FIELDS_MAX {
        return Err(format!(
            "The message has more than {} metadata fields.",
            limits::METADATA_FIELDS_MAX
        ));
    }
    for (key, value) in metadata {
        if key.chars().count() > limits::METADATA_KEY_CHARS_MAX {
            return Err(format!(
                "The metadata key '{key}' is longer than {} characters.",
                limits::METADATA_KEY_CHARS_MAX
            ));
        }
        if value.chars().count() > limits::METADATA_VALUE_CHARS_MAX {
            return Err(format!(
                "The value of metadata '{key}' is longer than {} characters.",
                limits::METADATA_VALUE_CHARS_MAX
            ));
        }
    }
    Ok(())
}

/// Octets; the longest word is shorter.
const BOUNCE_TYPE_MAX: usize = 64;
const IDEMPOTENCY_KEY: &str = "X-Posthaste-Idempotency-Key";
