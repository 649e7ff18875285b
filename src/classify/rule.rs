//! Rules and the replies beside them, as types and as words.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::stage_word;
use crate::outcome::{CauseClass, Reach, Reaction};
use crate::smtp::client::session::Stage;

/// One file, understood.
#[derive(Clone, Debug, Default)]
pub struct RuleFile {
    pub rules: Vec<Rule>,
    /// Replies with what is expected of all rules together.
    pub fixtures: Vec<Fixture>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: Arc<str>,
    /// `FILE:LINE`.
    pub place: Arc<str>,
    pub said: Said,
    pub class: CauseClass,
    pub reach: Reach,
    pub reaction: Reaction,
    pub confidence: u8,
    pub wait: Option<Duration>,
    pub force: Option<Force>,
}

/// What has to be there for a rule to fit; an empty list asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Suffixes of MX hosts' names, lower case.
    pub mx: Vec<String>,
    /// The inner `None`: reports.
    pub stages: Vec<Option<Stage>>,
    /// Code classes, code families and codes, as ranges.
    pub codes: Vec<(u16, u16)>,
    pub statuses: Vec<StatusRange>,
    /// One of these has to be in the text; lists of pieces that follow one another.
    pub texts: Vec<Vec<String>>,
    /// None of these may be.
    pub not: Vec<Vec<String>>,
}

/// `5.7.606-649`, `x.7.25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    pub class: Option<u8>,
    pub subject: u16,
    pub details: (u16, u16),
}

/// What the reply code does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// A 5yz is tried again.
    Retry,
    /// A 4yz is final.
    Bounce,
}

/// A reply and what is expected of it.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// `FILE:LINE`.
    pub place: Arc<str>,
    /// The rule that it stands beside.
    pub owner: Option<Arc<str>>,
    pub host: String,
    pub stage: Option<Stage>,
    pub shared: bool,
    /// Code, status and text, lines separated by LF.
    pub reply: String,
    pub expected: Expected,
    /// Why that is expected, for people.
    pub why: String,
}

/// What is not named is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// A rule, or `-`: no rule knows it.
    pub rule: Option<String>,
    /// `deferred`, `bounced`, `suppressed`.
    pub outcome: Option<String>,
    pub cause: Option<CauseClass>,
    pub reach: Option<Reach>,
    pub reaction: Option<Reaction>,
}

impl Force {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Bounce => "bounce",
        }
    }
}

/// `stage rcpt or data; code 5yz; status 5.7.606-649; text "a*b"`
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = |&(from, to): &(u16, u16)| match to - from {
            0 => from.to_string(),
            9 => format!("{}z", from / 10),
            _ => format!("{}yz", from / 100),
        };
        let text = |pieces: &Vec<String>| format!("{:?}", pieces.join("*"));
        let parts = [
            ("host below", self.mx.clone()),
            (
                "stage",
                self.stages
                    .iter()
                    .map(|&stage| stage_word(stage).to_owned())
                    .collect(),
            ),
            ("code", self.codes.iter().map(code).collect()),
            (
                "status",
                self.statuses.iter().map(ToString::to_string).collect(),
            ),
            ("text", self.texts.iter().map(text).collect()),
            ("not", self.not.iter().map(text).collect()),
        ];
        let given = parts.iter().filter(|(_, words)| !words.is_empty());
        for (place, (what, words)) in given.enumerate() {
            let joint = if place == 0 { "" } else { "; " };
            write!(f, "{joint}{what} {}", words.join(" or "))?;
        }
        Ok(())
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            Some(class) => write!(f, "{class}.")?,
            None => f.write_str("x.")?,
        }
        let (from, to) = self.details;
        write!(f, "{}.{from}", self.subject)?;
        match from == to {
            true => Ok(()),
            false => write!(f, "-{to}"),
        }
    }
}
