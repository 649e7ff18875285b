//! Parameters of MAIL and RCPT that travel with an envelope.

use std::time::Duration;

/// RFC 6152 and RFC 3030: what the client declared its content to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    #[default]
    SevenBit,
    EightBitMime,
}

/// RFC 3461 §4.1: when a notice is wanted. Default (none given) is failure, and delay at our discretion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DsnNotify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl DsnNotify {
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self {
        success: false,
        failure: false,
        delay: false,
    };
}

/// RFC 3461 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    Full,
    Headers,
}

/// What RCPT said about notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DsnRecipient {
    pub notify: Option<DsnNotify>,
    /// RFC 3461 §4.2, still in xtext, as given.
    pub original_recipient: Option<String>,
}

/// RFC 4865 §4: until when a message is held before its first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// From acceptance on.
    For(Duration),
    /// Milliseconds since 1970 UTC.
    Until(u64),
}
