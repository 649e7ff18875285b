//! The words of a session with its owner: what goes in, what comes out, and how it can end.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fmt;
use std::sync::Arc;

use crate::mail::{DsnRecipient, DsnReturn, NotSevenBit, Reply};
use crate::smtp::client::Timeouts;
use crate::smtp::client::content::Content;
use crate::smtp::client::reply::Malformed;

/// How this side presents itself, and for how long it waits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The EHLO name of the egress source.
    pub ehlo: Arc<str>,
    /// Use STARTTLS when it is offered.
    pub starttls: bool,
    pub avoid: Avoid,
    pub timeouts: Arc<Timeouts>,
}

/// What is not used although the host offers it, because it has mishandled it before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Avoid {
    /// A transaction that begins before the reply to the one before.
    pub ahead: bool,
    /// More than one command at a time; implies `ahead`.
    pub pipelining: bool,
    pub chunking: bool,
}

/// What a host mishandled, as far as the session can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Habit {
    /// It lost, or answered wrongly, what came behind the end of a content.
    Ahead,
    /// It lost, or answered wrongly, commands that came together.
    Pipelining,
    /// It offers CHUNKING and does not know BDAT.
    Chunking,
}

impl Habit {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::Pipelining => "pipelining",
            Self::Chunking => "chunking",
        }
    }
}

/// The sign of a [`Habit`] in how a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    pub habit: Habit,
    /// The host's replies show it. Otherwise a lost connection may have been the network's doing.
    pub certain: bool,
}

/// One message for one transaction.
#[derive(Clone, Debug, Default)]
pub struct Outbound {
    /// Without angle brackets; empty is null.
    pub reverse_path: String,
    pub recipients: Vec<OutboundRecipient>,
    /// As it was accepted: header section and body, not dot-stuffed.
    pub content: Content,
    /// The content may have octets above 127.
    pub eight_bit: bool,
    /// Why it was not re-encoded, where that was tried.
    pub not_seven_bit: Option<NotSevenBit>,
    /// The header section needs SMTPUTF8 (RFC 6532). Addresses that need it are found here.
    pub smtputf8: bool,
    /// RFC 3461 §4.4, xtext as given.
    pub envelope_id: Option<String>,
    pub ret: Option<DsnReturn>,
}

#[derive(Clone, Debug, Default)]
pub struct OutboundRecipient {
    /// Its number in the message.
    pub number: u16,
    /// Without angle brackets.
    pub forward_path: String,
    pub dsn: DsnRecipient,
}

/// What became of one recipient in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host took the content for this recipient.
    Accepted { reply: Reply },
    /// The host said no, 4yz or 5yz, in answer to `stage`.
    Refused { stage: Stage, reply: Reply },
    /// It was not even tried: the message cannot go to this host as it is.
    Unsendable(Obstacle),
    /// RFC 5321 §4.5.3.1.10: too many recipients for one transaction; welcome in the next.
    Surplus,
    /// The session ended first. `content_sent`: the end of the content was written, so the host may have taken it.
    Unanswered { content_sent: bool },
    /// The session ended before its turn came: in the transaction before this one, or at another recipient of this one.
    /// Its content was not sent.
    NotReached,
}

/// Why a message cannot go to a host as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// 8-bit content that stays so for this reason, if it is known, and the host does not offer 8BITMIME.
    EightBitMime(Option<NotSevenBit>),
    /// An address or the header section needs SMTPUTF8, and the host does not offer it.
    SmtpUtf8,
    /// RFC 1870 §6.1: the host takes no more than `limit_bytes`.
    Size { limit_bytes: u64 },
    /// The content has a bare CR, a bare LF or a NUL.
    Content,
    /// The address has a control character.
    Address,
}

/// Where in the dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Connect,
    Banner,
    Ehlo,
    StartTls,
    Tls,
    /// Between transactions.
    Idle,
    Mail,
    Rcpt,
    Data,
    /// The content, its end, and the reply to it.
    Content,
    Quit,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "the connection",
            Self::Banner => "the banner",
            Self::Ehlo => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Tls => "the TLS handshake",
            Self::Idle => "the idle connection",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "the end of content",
            Self::Quit => "QUIT",
        })
    }
}

/// The remote host broke the protocol. Nothing more is sent on that connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfStep {
    #[error("it sent octets before we had sent what they answer")]
    Early,
    #[error("{0}")]
    Malformed(Malformed),
    #[error("it answered {code}, which is no answer to that")]
    Unexpected { code: u16 },
    #[error(
        "it answered the content with what belongs to an address ({code} with a status of 1.x): its replies are out of step"
    )]
    Misplaced { code: u16 },
    #[error("its answers do not tell to what they belong, and QUIT was answered {code}")]
    Unplaced { code: u16 },
    /// What it then reads as commands is our content.
    #[error("it offers CHUNKING and answered {code} to BDAT")]
    NoChunking { code: u16 },
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In the host's words: a refusal of banner or EHLO, or a 421 anywhere.
    Refused {
        stage: Stage,
        reply: Reply,
    },
    Broken {
        stage: Stage,
        why: OutOfStep,
    },
    TimedOut {
        stage: Stage,
    },
    /// Closed or reset.
    Lost {
        stage: Stage,
    },
    /// A piece of the content could not be had again, or is not what was checked: we broke off.
    Withheld,
    /// We said QUIT.
    Quit,
}

impl Ending {
    pub fn stage(&self) -> Stage {
        match self {
            Self::Refused { stage, .. }
            | Self::Broken { stage, .. }
            | Self::TimedOut { stage }
            | Self::Lost { stage } => *stage,
            Self::Withheld => Stage::Content,
            Self::Quit => Stage::Quit,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { stage, reply } => write!(f, "refused at {stage}: {reply}"),
            Self::Broken { stage, why } => {
                write!(f, "the remote host broke the protocol at {stage}: {why}")
            }
            Self::TimedOut { stage } => write!(f, "no answer in time at {stage}"),
            Self::Lost { stage } => write!(f, "connection lost at {stage}"),
            Self::Withheld => f.write_str("our content could not be read to its end"),
            Self::Quit => f.write_str("closed"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Do the TLS handshake now, then call [`ClientSession::handle_tls`].
    StartTls,
    /// [`ClientSession::begin`] and [`ClientSession::quit`] may be called.
    Ready,
    /// The next transaction may begin behind the one under way: [`ClientSession::may_begin`].
    Room,
    /// The transaction ended: a verdict for each recipient, in the order of [`Outbound::recipients`].
    Done(Vec<Verdict>),
    /// Nothing follows.
    Ended(Ending),
}
