//! What one attempt decided for one recipient, and how far the decision reaches.
//!
//! The place that meets the remote host's answer says how far it reaches; `queue` turns outcome and scope into the next
//! step. Expiry and cancellation are not answers: `queue` and the operator decide them.

use std::sync::Arc;
use std::time::Duration;

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
    /// How the reply was judged; `None` where no remote host's words were.
    pub ruling: Option<Box<Ruling>>,
}

impl Cause {
    pub fn new(class: CauseClass, detail: impl Into<String>) -> Self {
        Self {
            class,
            detail: detail.into(),
            reply: None,
            ruling: None,
        }
    }

    pub fn from_reply(
        class: CauseClass,
        detail: impl Into<String>,
        reply: Reply,
        ruling: Ruling,
    ) -> Self {
        Self {
            class,
            detail: detail.into(),
            reply: Some(reply),
            ruling: Some(Box::new(ruling)),
        }
    }
}

/// What was concluded from a remote host's words besides their cause, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Its name; of what no rule knows: `status`, `code` or `stage`, by which the table judged.
    pub rule: Arc<str>,
    /// Of 100.
    pub confidence: u8,
    /// The command that was answered, as rules name it.
    pub stage: &'static str,
    pub reach: Reach,
    pub reaction: Reaction,
    /// The recipient is not tried again sooner.
    pub wait: Option<Duration>,
}

macro_rules! vocabulary {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$of])* $variant,)* }

        impl $name {
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

vocabulary! {
    /// The vocabulary of causes (`bounce-and-shaping.md` §1); the text is what events and the API show.
    CauseClass {
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
    /// The recipient's address is none.
    AddressInvalid "address-invalid",
    /// The policy that the From domain publishes (RFC 7489).
    DmarcPolicy "dmarc-policy",
    /// Reported later by mail: not that the message did not arrive.
    AutoReply "auto-reply",
    Challenge "challenge",
    AddressChange "address-change",
    Complaint "complaint",
    Unsubscribe "unsubscribe",
    /// Only test addresses ask for these so far.
    Subscribe "subscribe",
    OpenRelayTest "open-relay-test",
    Deactivated "deactivated",
    Unconfirmed "unconfirmed",
    InboundFailed "inbound-failed",
    TemplateFailed "template-failed",
    Unknown "unknown",
    }
}

impl CauseClass {
    /// Whether an attempt can end for it. The others are a sender's doing, or what test addresses ask for.
    pub fn is_of_attempts(self) -> bool {
        !matches!(
            self,
            Self::Sender
                | Self::Subscribe
                | Self::OpenRelayTest
                | Self::Deactivated
                | Self::Unconfirmed
                | Self::InboundFailed
                | Self::TemplateFailed
        )
    }

    /// Says something about the recipient that holds for every further message: only these may suppress him.
    pub fn is_the_recipients(self) -> bool {
        matches!(
            self,
            Self::RecipientUnknown
                | Self::RecipientDisabled
                | Self::RecipientFull
                | Self::DomainNoMail
                | Self::AddressInvalid
                | Self::Complaint
                | Self::Unsubscribe
        )
    }
}

vocabulary! {
    /// Who else meets the same refusal.
    Reach {
        Recipient "recipient",
        Message "message",
        /// Whatever links to the same domain.
        ContentUrl "content-url",
        /// Whatever has the same `Message-ID`.
        MessageIdField "message-id",
        FromDomain "from-domain",
        DkimDomain "dkim-domain",
        SpfDomain "spf-domain",
        SourceIp "source-ip",
        IpNetblock "ip-netblock",
        Stream "stream",
        DestinationDomain "destination-domain",
        DestinationSite "destination-site",
        MxHost "mx-host",
        /// Whatever we send: our doing.
        Ourselves "self",
    }
}

impl Reach {
    /// As far as the queue tells mail apart. What reaches a part of our mail that has no queue of its own reaches the message:
    /// to slow the path would hit those who are welcome.
    pub fn scope(self) -> Scope {
        match self {
            Self::Recipient | Self::DestinationDomain => Scope::Recipient,
            Self::SourceIp | Self::IpNetblock | Self::MxHost => Scope::SiteFromSource,
            Self::DestinationSite => Scope::Site,
            _ => Scope::Message,
        }
    }
}

vocabulary! {
    /// What a reply asks for.
    Reaction {
        /// Again, by the stream's schedule.
        Retry "retry",
        /// Again, and fewer at a time.
        Backoff "backoff",
        /// Nothing for a while.
        Suspend "suspend",
        /// The connection has had enough; another one may begin at once.
        Close "close",
        NextMx "next-mx",
        NextSource "next-source",
        /// Final for this message; others may fare better.
        Bounce "bounce",
        /// Final, and no further message will arrive: the recipient is suppressed.
        Hard "hard",
        /// The sender's configuration is wrong.
        Fix "fix",
        /// The operator must look.
        Alert "alert",
    }
}
