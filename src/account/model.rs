//! What people set, as everybody reads it: servers with their streams and tokens.
//!
//! What nothing searches by is one JSON document per row (`Attributes`, `StreamText`): a new setting then needs no
//! migration, and a row written by an older version reads with the defaults.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rate::Usage;
use super::rules::{Refused, Rule};
use super::webhooks::WebhookInfo;
use crate::clock::UnixMs;
use crate::config::{
    Ambiguous, MessageIdPolicy, Notify, PoolId, Rate, RetryOverride, SendersPolicy, StreamKind,
};

/// A server (the tenant) with all that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerInfo {
    pub id: u32,
    pub name: Arc<str>,
    /// Declared in the configuration file, whose settings count.
    pub declared: bool,
    pub senders: SendersPolicy,
    pub message_id: MessageIdPolicy,
    pub notify: Notify,
    pub sandbox: bool,
    pub attributes: Attributes,
    pub created: UnixMs,
    pub streams: Vec<StreamInfo>,
    pub tokens: Vec<TokenInfo>,
    pub webhooks: Vec<Arc<WebhookInfo>>,
}

impl ServerInfo {
    pub fn stream(&self, id: &str) -> Option<&StreamInfo> {
        self.streams.iter().find(|s| &*s.id == id)
    }

    /// Streams that count against the limit: archived ones do not.
    pub fn active_streams(&self) -> usize {
        self.streams.iter().filter(|s| !s.archived()).count()
    }
}

/// Postmark's attributes of a server, and ours. The defaults are those of a new server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    pub color: Color,
    pub smtp_api_activated: bool,
    pub raw_email_enabled: bool,
    pub inbound_hook_url: String,
    pub bounce_hook_url: String,
    pub open_hook_url: String,
    pub delivery_hook_url: String,
    pub click_hook_url: String,
    /// When the hook URL of bounces, and that of deliveries, was set; 0: none is, or before this was kept.
    pub bounce_hook_since: UnixMs,
    pub delivery_hook_since: UnixMs,
    pub post_first_open_only: bool,
    pub inbound_domain: String,
    /// 32 hexadecimal digits.
    pub inbound_hash: String,
    pub inbound_spam_threshold: u8,
    pub track_opens: bool,
    pub track_links: TrackLinks,
    pub include_bounce_content_in_hook: bool,
    pub enable_smtp_api_error_hooks: bool,
    /// Refuse at the end of DATA instead of taking and bouncing.
    pub strict: bool,
    /// Of each credential of the server that has none of its own.
    #[serde(with = "rate_text")]
    pub rate: Option<Rate>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            color: Color::Grey,
            smtp_api_activated: true,
            raw_email_enabled: false,
            inbound_hook_url: String::new(),
            bounce_hook_url: String::new(),
            open_hook_url: String::new(),
            delivery_hook_url: String::new(),
            click_hook_url: String::new(),
            bounce_hook_since: 0,
            delivery_hook_since: 0,
            post_first_open_only: false,
            inbound_domain: String::new(),
            inbound_hash: String::new(),
            inbound_spam_threshold: 0,
            track_opens: false,
            track_links: TrackLinks::None,
            include_bounce_content_in_hook: false,
            enable_smtp_api_error_hooks: false,
            strict: false,
            rate: None,
        }
    }
}

/// Words of a closed set, read without regard to case.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal $(| $alias:literal)*),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $(#[serde(rename = $word)] $variant,)* }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            pub fn parse(text: &str) -> Option<Self> {
                $(if text.eq_ignore_ascii_case($word) $(|| text.eq_ignore_ascii_case($alias))* { return Some(Self::$variant); })*
                None
            }

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// Of a server in lists and on screens.
    Color {
        Purple = "purple", Blue = "blue",
        // Older documents of Postmark spell it so.
        Turquoise = "turquoise" | "turqoise",
        Green = "green", Red = "red", Yellow = "yellow", Grey = "grey", Orange = "orange",
    }
}

words! {
    /// Which links are tracked.
    TrackLinks { None = "None", HtmlAndText = "HtmlAndText", HtmlOnly = "HtmlOnly", TextOnly = "TextOnly" }
}

words! {
    /// Who handles unsubscribing.
    Unsubscribe { None = "None", Postmark = "Postmark", Custom = "Custom" }
}

/// A message stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    pub id: Arc<str>,
    pub kind: StreamKind,
    pub text: StreamText,
    /// The pool that was named for it.
    pub pool_name: Option<Arc<str>>,
    /// With the default pool filled in. `None`: there is no pool for it, and sending on it is refused (DESIGN §5).
    pub pool: Option<PoolId>,
    /// How long its content is kept; `None`: as the node keeps it.
    pub retention: Option<Duration>,
    pub retry: RetryOverride,
    pub ambiguous: Ambiguous,
    pub created: UnixMs,
    pub updated: Option<UnixMs>,
    pub archived_at: Option<UnixMs>,
}

/// What is said about a stream and steers no mail yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamText {
    pub name: String,
    pub description: String,
    pub unsubscribe: Unsubscribe,
}

impl Default for StreamText {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            unsubscribe: Unsubscribe::None,
        }
    }
}

impl StreamText {
    /// Of the streams that every server has.
    pub fn of_default(kind: StreamKind) -> Self {
        let name = match kind {
            StreamKind::Transactional => "Default Transactional Stream",
            StreamKind::Broadcast => "Default Broadcast Stream",
            StreamKind::Inbound => "Default Inbound Stream",
        };
        Self {
            name: name.to_owned(),
            description: String::new(),
            unsubscribe: Unsubscribe::default_for(kind),
        }
    }
}

impl Unsubscribe {
    pub fn default_for(kind: StreamKind) -> Self {
        match kind {
            StreamKind::Broadcast => Self::Postmark,
            StreamKind::Transactional | StreamKind::Inbound => Self::None,
        }
    }
}

impl StreamInfo {
    pub fn archived(&self) -> bool {
        self.archived_at.is_some()
    }

    /// An archived stream's last day.
    pub fn purged_at(&self) -> Option<UnixMs> {
        self.archived_at.map(|at| at + PURGE_AFTER_MS)
    }
}

/// A credential as it is listed.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// `None`: it stands in the configuration file.
    pub id: Option<u32>,
    pub kind: TokenKind,
    pub stream: Option<Arc<str>>,
    /// What people call it.
    pub name: String,
    pub access_key: Option<Arc<str>>,
    /// Server tokens only: their text, which Postmark's API lists.
    pub text: Option<Arc<str>>,
    pub rate: Option<Rate>,
    pub created: Option<UnixMs>,
    pub revoked: Option<UnixMs>,
    pub usage: Arc<Usage>,
}

/// The usage counts on and is no part of what a token is.
impl PartialEq for TokenInfo {
    fn eq(&self, other: &Self) -> bool {
        let key = |t: &Self| (t.id, t.kind, t.stream.clone(), t.created, t.revoked, t.rate);
        key(self) == key(other) && self.text == other.text && self.access_key == other.access_key
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// HTTP, and SMTP as user name and password.
    Server,
    /// SMTP only: access key and secret key, bound to a stream.
    Smtp,
    /// HTTP: servers, domains, senders.
    Account,
}

impl TokenKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Smtp => "smtp",
            Self::Account => "account",
        }
    }
}

/// What is to change in a server, or how a new one differs from the defaults. As the admin API takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub senders: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_api_activated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_email_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_hook_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounce_hook_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_hook_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_hook_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub click_hook_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_first_open_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_spam_threshold: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_opens: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_links: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_bounce_content_in_hook: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_smtp_api_error_hooks: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// `none` takes the limit away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
}

/// A new stream, or what is to change in one. As the admin API takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<String>,
    /// `default` takes the name of a pool away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// A new token. As the admin API takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewToken {
    /// `server` if not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<TokenKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
}

pub(super) fn parse_rate(text: &str) -> Result<Option<Rate>, Refused> {
    match text {
        "none" => Ok(None),
        text => match text.parse() {
            Ok(rate) => Ok(Some(rate)),
            Err(message) => Err(Refused::new(Rule::Value, message)),
        },
    }
}

pub fn senders_text(senders: SendersPolicy) -> &'static str {
    match senders {
        SendersPolicy::Verified => "verified",
        SendersPolicy::Any => "any",
    }
}

pub fn message_id_text(message_id: MessageIdPolicy) -> &'static str {
    match message_id {
        MessageIdPolicy::Keep => "keep",
        MessageIdPolicy::Replace => "replace",
    }
}

pub fn delivery_type_text(sandbox: bool) -> &'static str {
    if sandbox { "sandbox" } else { "live" }
}

mod rate_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::config::Rate;

    pub(super) fn serialize<S: Serializer>(rate: &Option<Rate>, to: S) -> Result<S::Ok, S::Error> {
        rate.map(|rate| rate.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Rate>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

/// Postmark keeps an archived stream for 45 days.
pub const PURGE_AFTER_MS: UnixMs = 45 * 86_400_000;
