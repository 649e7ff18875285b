//! Replies beside their rules, tried: what a rule is for, held by the rules themselves.

use std::fmt;

use super::rule::{Expected, Fixture};
use super::{Evidence, Finding, Rules, judge};
use crate::mail::{EnhancedStatus, Reply};
use crate::outcome::{CauseClass, Reach, Reaction};

/// A fixture that is judged otherwise than it says.
#[derive(Clone, Debug)]
pub struct Failed<'a> {
    pub fixture: &'a Fixture,
    pub found: Finding,
}

impl Rules {
    /// All fixtures of all files that are judged otherwise than they say.
    pub fn failing(&self) -> Vec<Failed<'_>> {
        let fixtures = self.fixtures().iter();
        let tried = fixtures.map(|fixture| (fixture, fixture.judge(self)));
        let failing = tried.filter(|(fixture, found)| !fixture.expected.is_met_by(found));
        failing
            .map(|(fixture, found)| Failed { fixture, found })
            .collect()
    }
}

impl Fixture {
    pub fn judge(&self, rules: &Rules) -> Finding {
        let reply = recorded(&self.reply);
        let evidence = Evidence {
            stage: self.stage,
            reply: &reply,
            host: &self.host,
            shared: self.shared,
        };
        judge(Some(rules), &evidence)
    }
}

impl Expected {
    fn is_met_by(&self, found: &Finding) -> bool {
        let rule = match self.rule.as_deref() {
            None => true,
            Some("-") => found.is_the_tables(),
            Some(name) => *name == *found.rule,
        };
        rule && self
            .outcome
            .as_deref()
            .is_none_or(|outcome| outcome == found.outcome())
            && self.cause.is_none_or(|cause| cause == found.class)
            && self.reach.is_none_or(|reach| reach == found.reach)
            && self
                .reaction
                .is_none_or(|reaction| reaction == found.reaction)
    }
}

impl Finding {
    /// `deferred`, `bounced`, `suppressed`.
    pub fn outcome(&self) -> &'static str {
        match self.last {
            _ if self.suppresses() => "suppressed",
            true => "bounced",
            false => "deferred",
        }
    }
}

/// `bounced recipient-unknown, scope recipient, reaction hard (rule x, 90 %)`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outcome, cause) = (self.outcome(), self.class.as_str());
        let (reach, reaction) = (self.reach.as_str(), self.reaction.as_str());
        write!(f, "{outcome} {cause}, scope {reach}, reaction {reaction} ")?;
        match self.is_the_tables() {
            true => write!(f, "(no rule; by {})", self.rule),
            false => write!(f, "(rule {}, {} %)", self.rule, self.confidence),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome.as_deref();
        let words = [
            ("", outcome),
            ("", self.cause.map(CauseClass::as_str)),
            ("scope ", self.reach.map(Reach::as_str)),
            ("reaction ", self.reaction.map(Reaction::as_str)),
            ("rule ", self.rule.as_deref()),
        ];
        let given = words
            .iter()
            .filter_map(|(what, word)| Some((what, (*word)?)));
        for (place, (what, word)) in given.enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{what}{word}")?;
        }
        Ok(())
    }
}

/// A reply as events and fixtures keep it: `CODE [STATUS] TEXT`, further lines with or without code and status.
pub fn recorded(text: &str) -> Reply {
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let (code, status, first) = split(lines.next().unwrap_or_default());
    let mut said = first.to_owned();
    for line in lines {
        let (again, repeated, rest) = split(line);
        said.push('\n');
        said.push_str(match again == code && code.is_some() {
            true if repeated == status => rest,
            true => line.get(4..).unwrap_or_default(),
            false => line,
        });
    }
    Reply::new(code.unwrap_or(0), status, &said)
}

/// Code and status from the front of a line.
fn split(line: &str) -> (Option<u16>, Option<EnhancedStatus>, &str) {
    let code = line
        .get(..3)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let rest = line.get(3..).unwrap_or_default();
    let (Some(code), true) = (code, rest.is_empty() || rest.starts_with([' ', '-'])) else {
        return (None, None, line);
    };
    let rest = rest.get(1..).unwrap_or_default();
    let (status, text) = EnhancedStatus::split(rest);
    (code.parse().ok(), status, text)
}
