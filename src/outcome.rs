//! What one attempt decided for one recipient, and how far the decision reaches.
//!
//! The place that meets the remote host's answer says how far it reaches; `queue` turns outcome and scope into the next
//! step. Expiry and cancellation are not answers: `queue` and the operator decide them.

use crate::mail::Reply;

/// The result of one attempt for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered {
        reply: Reply,
    },
    Deferred {
        scope: Scope,
        cause: Cause,
    },
    Bounced {
        scope: Scope,
        cause: Cause,
    },
    /// The final dot was sent and no reply came back: the remote host may or may not have the message (RFC 5321 §4.5.3.2.6,
    /// RFC 1047). Tried again, or ended, by the stream's policy.
    Ambiguous {
        cause: Cause,
    },
    /// The session ended before the attempt reached the remote host's judgement (an idle connection was closed, the node is
    /// stopping): the recipient is ready again and no attempt counts.
    NotAttempted,
}

/// How far a negative answer reaches, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Recipient,
    Message,
    /// This source at this site: other sources may still be welcome.
    SiteFromSource,
    Site,
    /// The source itself, wherever it goes: no site is to blame, and no attempt was made.
    Source,
}

/// Why: the class for machines, the sentence for people, the reply as evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub class: CauseClass,
    /// One sentence, without control characters.
    pub detail: String,
    pub reply: Option<Reply>,
}

impl Cause {
    pub fn new(class: CauseClass, detail: impl Into<String>) -> Self {
        Self {
            class,
            detail: detail.into(),
            reply: None,
        }
    }

    pub fn from_reply(class: CauseClass, detail: impl Into<String>, reply: Reply) -> Self {
        Self {
            class,
            detail: detail.into(),
            reply: Some(reply),
        }
    }
}

macro_rules! cause_classes {
    ($($variant:ident $text:literal,)*) => {
        /// The vocabulary of causes (`bounce-and-shaping.md` §1); the text is what events and the API show.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CauseClass { $($variant,)* }

        impl CauseClass {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

cause_classes! {
    RecipientUnknown "recipient-unknown",
    RecipientDisabled "recipient-disabled",
    RecipientFull "recipient-full",
    RecipientRate "recipient-rate",
    DomainUnknown "domain-unknown",
    DomainNoMail "domain-no-mail",
    SenderInvalid "sender-invalid",
    AuthFailed "auth-failed",
    RateLimited "rate-limited",
    TooManyConnections "too-many-connections",
    Greylisted "greylisted",
    Reputation "reputation",
    Blocklisted "blocklisted",
    ContentSpam "content-spam",
    ContentPolicy "content-policy",
    Virus "virus",
    MessageTooBig "message-too-big",
    TlsRequired "tls-required",
    PtrRequired "ptr-required",
    RelayDenied "relay-denied",
    Protocol "protocol",
    RoutingLoop "routing-loop",
    Network "network",
    Dns "dns",
    RemoteSystem "remote-system",
    LocalSystem "local-system",
    Damaged "damaged",
    Expired "expired",
    Deadline "deadline",
    Admin "admin",
    Sender "sender",
    Ambiguous "ambiguous",
    SubmissionRefused "submission-refused",
    Unknown "unknown",
}
