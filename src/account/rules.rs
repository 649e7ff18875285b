//! The rules that settings obey, whoever makes them, and the words for breaking one.
//!
//! A [`Rule`] is a decision of the caller: the Postmark API gives each its error code (`http/api/error.rs`), the admin API
//! and the commands a class. The sentence is for people.

use super::model::{Attributes, Color, ServerPatch, TrackLinks, Unsubscribe, parse_rate};
use crate::clock::UnixMs;
use crate::config::{StreamKind, Webhooks};
use crate::mail::Domain;

/// What was asked for and may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub rule: Rule,
    pub message: String,
}

impl Refused {
    pub fn new(rule: Rule, message: impl Into<String>) -> Self {
        Self {
            rule,
            message: message.into(),
        }
    }
}

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    ServerUnknown,
    ServerNameTaken,
    ServerName,
    ServerDeclared,
    ServerDelete,
    HookUrl,
    ColorUnknown,
    InboundDomain,
    InboundDomainTaken,
    SpamThreshold,
    TrackLinksUnknown,
    DeliveryType,
    /// A value of our own settings.
    Value,
    StreamUnknown,
    StreamDeclared,
    StreamType,
    StreamIdMissing,
    StreamIdForm,
    StreamIdPrefix,
    StreamIdReserved,
    StreamIdTaken,
    StreamNameMissing,
    StreamNameLength,
    StreamDescriptionLength,
    StreamDescriptionForm,
    StreamCount,
    StreamInboundOne,
    StreamArchiveDefault,
    StreamArchive,
    StreamPurged,
    UnsubscribeUnknown,
    UnsubscribeForType,
    Pool,
    TokenUnknown,
    TokenCount,
    TokenName,
    SmtpTokenStream,
    SmtpTokenInbound,
    SmtpTokenArchived,
    SmtpTokenSmtpOff,
    SmtpTokenCount,
    DomainUnknown,
    DomainTaken,
    DomainDeclared,
    DomainNameMissing,
    DomainNameLength,
    DomainNameForm,
    /// Another field of a domain.
    DomainField,
    DomainCount,
    PublicMailbox,
    /// A key waits to be published.
    DkimPending,
    /// The key in use is not published.
    DkimFailed,
    DkimNone,
    /// The DNS gave no answer.
    DkimUndecided,
    ReturnPathUndecided,
    SpfUndecided,
    SignatureUnknown,
    SignatureTaken,
    SignatureConfirmed,
    /// A field that must be given is not.
    SignatureField,
    SignatureLength,
    SignatureAddress,
    SignatureCount,
    WebhookUnknown,
    WebhookArchived,
    WebhookInbound,
    WebhookUrl,
    /// A field that a new one cannot have.
    WebhookNew,
    /// One that cannot change.
    WebhookFixed,
    WebhookHeader,
    WebhookCount,
    /// Another field.
    WebhookValue,
    /// A notice could not be mailed.
    NotPosted,
    /// Somebody has been sent enough of them.
    TooManyNotices,
}

/// How the admin API and the commands see a [`Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    NotFound,
    Conflict,
    Invalid,
    /// It may be asked for again later.
    Unavailable,
}

impl Rule {
    pub fn class(self) -> Class {
        match self {
            Self::ServerUnknown
            | Self::StreamUnknown
            | Self::TokenUnknown
            | Self::DomainUnknown
            | Self::SignatureUnknown
            | Self::WebhookUnknown => Class::NotFound,
            Self::DkimUndecided
            | Self::ReturnPathUndecided
            | Self::SpfUndecided
            | Self::NotPosted
            | Self::TooManyNotices => Class::Unavailable,
            Self::ServerNameTaken
            | Self::ServerDeclared
            | Self::ServerDelete
            | Self::InboundDomainTaken
            | Self::StreamDeclared
            | Self::StreamIdTaken
            | Self::StreamCount
            | Self::StreamInboundOne
            | Self::StreamArchiveDefault
            | Self::StreamArchive
            | Self::StreamPurged
            | Self::TokenCount
            | Self::SmtpTokenArchived
            | Self::SmtpTokenSmtpOff
            | Self::SmtpTokenCount
            | Self::DomainTaken
            | Self::DomainDeclared
            | Self::DomainCount
            | Self::DkimPending
            | Self::DkimFailed
            | Self::DkimNone
            | Self::SignatureTaken
            | Self::SignatureConfirmed
            | Self::SignatureCount
            | Self::WebhookArchived
            | Self::WebhookCount => Class::Conflict,
            _ => Class::Invalid,
        }
    }
}

/// The name of a server.
pub(super) fn server_name(name: &str) -> Result<(), Refused> {
    let sound = !name.trim().is_empty()
        && name.len() <= SERVER_NAME_OCTETS_MAX
        && !name.chars().any(char::is_control);
    if sound {
        return Ok(());
    }
    Err(Refused::new(
        Rule::ServerName,
        format!(
            "A server's 'Name' has 1 to {SERVER_NAME_OCTETS_MAX} octets and no control characters."
        ),
    ))
}

/// Takes over what the patch says of a server's attributes.
pub(super) fn apply(
    patch: &ServerPatch,
    to: &mut Attributes,
    webhooks: &Webhooks,
    now: UnixMs,
) -> Result<(), Refused> {
    if let Some(color) = &patch.color {
        to.color = Color::parse(color).ok_or_else(|| {
            let words = Color::WORDS.join(", ");
            Refused::new(Rule::ColorUnknown, format!("'Color' is one of {words}."))
        })?;
    }
    for (given, was, since) in [
        (
            &patch.bounce_hook_url,
            &to.bounce_hook_url,
            &mut to.bounce_hook_since,
        ),
        (
            &patch.delivery_hook_url,
            &to.delivery_hook_url,
            &mut to.delivery_hook_since,
        ),
    ] {
        match given.as_deref() {
            Some("") => *since = 0,
            // One that is changed goes on where it is.
            Some(_) if was.is_empty() => *since = now,
            _ => {}
        }
    }
    let hooks = [
        (&patch.inbound_hook_url, &mut to.inbound_hook_url),
        (&patch.bounce_hook_url, &mut to.bounce_hook_url),
        (&patch.open_hook_url, &mut to.open_hook_url),
        (&patch.delivery_hook_url, &mut to.delivery_hook_url),
        (&patch.click_hook_url, &mut to.click_hook_url),
    ];
    for (given, to) in hooks {
        if let Some(url) = given {
            hook_url(url, webhooks)?;
            to.clone_from(url);
        }
    }
    if let Some(domain) = &patch.inbound_domain {
        to.inbound_domain = inbound_domain(domain)?;
    }
    if let Some(threshold) = patch.inbound_spam_threshold {
        let within = u8::try_from(threshold).ok().filter(|t| *t <= SPAM_MAX);
        to.inbound_spam_threshold = within.ok_or_else(|| {
            Refused::new(
                Rule::SpamThreshold,
                format!("'InboundSpamThreshold' is a number from 0 to {SPAM_MAX}."),
            )
        })?;
    }
    if let Some(track) = patch.track_links.as_deref() {
        to.track_links = TrackLinks::parse(track).ok_or_else(|| {
            let words = TrackLinks::WORDS.join(", ");
            Refused::new(
                Rule::TrackLinksUnknown,
                format!("'TrackLinks' is one of {words}."),
            )
        })?;
    }
    if let Some(rate) = &patch.rate {
        to.rate = parse_rate(rate)?;
    }
    let switches = [
        (patch.smtp_api_activated, &mut to.smtp_api_activated),
        (patch.raw_email_enabled, &mut to.raw_email_enabled),
        (patch.post_first_open_only, &mut to.post_first_open_only),
        (patch.track_opens, &mut to.track_opens),
        (
            patch.include_bounce_content_in_hook,
            &mut to.include_bounce_content_in_hook,
        ),
        (
            patch.enable_smtp_api_error_hooks,
            &mut to.enable_smtp_api_error_hooks,
        ),
        (patch.strict, &mut to.strict),
    ];
    for (given, to) in switches {
        *to = given.unwrap_or(*to);
    }
    Ok(())
}

/// Empty takes it away.
fn hook_url(url: &str, webhooks: &Webhooks) -> Result<(), Refused> {
    if url.is_empty() {
        return Ok(());
    }
    let refused = |why| {
        Refused::new(
            Rule::HookUrl,
            format!("The hook URL '{}' {why}.", shown(url)),
        )
    };
    super::hook_url::parse(url, webhooks)
        .map(drop)
        .map_err(refused)
}

fn inbound_domain(text: &str) -> Result<String, Refused> {
    if text.is_empty() {
        return Ok(String::new());
    }
    match Domain::parse(text) {
        Ok(domain) if domain.literal().is_none() && domain.as_str().contains('.') => {
            Ok(domain.as_str().to_owned())
        }
        _ => Err(Refused::new(
            Rule::InboundDomain,
            format!("The 'InboundDomain' '{}' is no domain.", shown(text)),
        )),
    }
}

/// Postmark's form of a stream id, and the words that are not for people.
pub(super) fn stream_id(id: Option<&str>) -> Result<&str, Refused> {
    let refused = |rule, message: String| Err(Refused::new(rule, message));
    let id = match id {
        None | Some("") => {
            return refused(
                Rule::StreamIdMissing,
                "The 'ID' of the message stream is required.".into(),
            );
        }
        Some(id) => id,
    };
    if !crate::config::is_stream_id(id) {
        return refused(
            Rule::StreamIdForm,
            format!(
                "The message stream 'ID' '{}' is not valid: at most 30 lower-case letters, digits, '-' and '_', the first a letter.",
                shown(id)
            ),
        );
    }
    if id.starts_with("pm-") {
        return refused(
            Rule::StreamIdPrefix,
            "A message stream 'ID' must not start with 'pm-'.".into(),
        );
    }
    if id == "all" {
        return refused(
            Rule::StreamIdReserved,
            "The message stream 'ID' 'all' is reserved.".into(),
        );
    }
    Ok(id)
}

pub(super) fn stream_name(name: Option<&str>) -> Result<&str, Refused> {
    match name.map(str::trim) {
        None | Some("") => Err(Refused::new(
            Rule::StreamNameMissing,
            "The 'Name' of the message stream is required.",
        )),
        Some(name) if name.chars().count() > STREAM_NAME_MAX || has_control(name) => {
            Err(Refused::new(
                Rule::StreamNameLength,
                format!("The 'Name' of a message stream has at most {STREAM_NAME_MAX} characters."),
            ))
        }
        Some(name) => Ok(name),
    }
}

pub(super) fn stream_description(text: &str) -> Result<(), Refused> {
    if text.chars().count() > STREAM_DESCRIPTION_MAX {
        return Err(Refused::new(
            Rule::StreamDescriptionLength,
            format!(
                "The 'Description' of a message stream has at most {STREAM_DESCRIPTION_MAX} characters."
            ),
        ));
    }
    let control = |c: char| c.is_control() && !matches!(c, '\r' | '\n' | '\t');
    if text.contains(['<', '>']) || text.chars().any(control) {
        return Err(Refused::new(
            Rule::StreamDescriptionForm,
            "The 'Description' of a message stream must not contain '<' or '>'.",
        ));
    }
    Ok(())
}

pub(super) fn stream_kind(text: Option<&str>) -> Result<StreamKind, Refused> {
    let is = |word: &str| text.is_some_and(|t| t.eq_ignore_ascii_case(word));
    match () {
        () if is("transactional") => Ok(StreamKind::Transactional),
        // Postmark's word is the plural.
        () if is("broadcasts") || is("broadcast") => Ok(StreamKind::Broadcast),
        () if is("inbound") => Ok(StreamKind::Inbound),
        () => Err(Refused::new(
            Rule::StreamType,
            "'MessageStreamType' is one of Transactional, Broadcasts, Inbound.",
        )),
    }
}

pub(super) fn unsubscribe(text: &str, kind: StreamKind) -> Result<Unsubscribe, Refused> {
    let handling = Unsubscribe::parse(text).ok_or_else(|| {
        Refused::new(
            Rule::UnsubscribeUnknown,
            "'UnsubscribeHandlingType' is one of None, Postmark, Custom.",
        )
    })?;
    let suits = match kind {
        // Whoever gets broadcasts must be able to leave.
        StreamKind::Broadcast => handling != Unsubscribe::None,
        StreamKind::Transactional => true,
        StreamKind::Inbound => handling == Unsubscribe::None,
    };
    match suits {
        true => Ok(handling),
        false => Err(Refused::new(
            Rule::UnsubscribeForType,
            format!(
                "'UnsubscribeHandlingType' '{}' is not supported for this type of message stream.",
                handling.as_str()
            ),
        )),
    }
}

pub(super) fn token_name(name: &str) -> Result<(), Refused> {
    if name.chars().count() <= TOKEN_NAME_MAX && !has_control(name) {
        return Ok(());
    }
    Err(Refused::new(
        Rule::TokenName,
        format!("The name of a token has at most {TOKEN_NAME_MAX} characters."),
    ))
}

pub(super) fn has_control(text: &str) -> bool {
    text.chars()
        .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// What a stranger wrote, fit for a message: without control characters and not long.
pub(super) fn shown(text: &str) -> String {
    let tame = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(SHOWN_MAX).map(tame).collect()
}

const SERVER_NAME_OCTETS_MAX: usize = 100;
const STREAM_NAME_MAX: usize = 100;
const STREAM_DESCRIPTION_MAX: usize = 1_000;
const TOKEN_NAME_MAX: usize = 100;
const SPAM_MAX: u8 = 30;
const SHOWN_MAX: usize = 100;
/// Server tokens of one server, and SMTP tokens of one stream.
pub(super) const SERVER_TOKENS_MAX: usize = 3;
pub(super) const SMTP_TOKENS_MAX: usize = 10;
pub(super) const STREAMS_MAX: usize = 10;
