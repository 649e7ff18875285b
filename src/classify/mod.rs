//! What a remote host's words mean: their cause, who is affected, what they ask for, and whether they are final. On four
//! axes, since one ("hard" or "soft") either loses good recipients or hammers on closed doors.
//!
//! Promises: the reply code decides between retry and bounce unless a rule says the opposite in so many words; stage,
//! enhanced status and text give cause and reach. A refusal before MAIL never bounces anybody, since no recipient can be
//! blamed for it. Nobody is suppressed for what was said of our address, our domain or our content. A reply costs
//! microseconds, whatever it holds and however many rules there are.
//! Deliberately does not know what follows: `queue` does.
//!
//! How: rules are data (`rules.toml`, and the operator's files before it), in order; the first one that fits judges
//! (`rules.rs`). What none fits is judged by the table of codes (`table.rs`). `rule.rs` has them as types, `file.rs` reads them, `fixtures.rs` tries them
//! on the replies that stand beside them, `clusters.rs` gathers what nobody knows, `bounce_type.rs` says all of it in
//! Postmark's words.

mod bounce_type;
mod clusters;
mod file;
mod fixtures;
mod rule;
mod rules;
mod table;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use crate::mail::Reply;
use crate::outcome::{Cause, CauseClass, Outcome, Reach, Reaction, Ruling, Scope};
use crate::smtp::client::session::Stage;

pub use bounce_type::BounceType;
pub use clusters::{Cluster, Clusters, Sample};
pub use fixtures::{Failed, recorded};
pub use rule::{Expected, Fixture, Force, Rule, RuleFile, Said};
pub use rules::Rules;

/// What is judged, and what it is seen with.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What it answered; `None`: it stands in a report that came by mail.
    pub stage: Option<Stage>,
    pub reply: &'a Reply,
    /// The MX host that said it; empty where that is not known.
    pub host: &'a str,
    /// It was said of several recipients at once.
    pub shared: bool,
}

impl Evidence<'_> {
    /// Somebody's mail was refused, not a connection.
    fn blames_mail(&self) -> bool {
        self.stage.is_none_or(|stage| stage >= Stage::Mail)
    }

    /// It was said of this recipient and of nobody else.
    fn names_recipient(&self) -> bool {
        match self.stage {
            None | Some(Stage::Rcpt) => true,
            Some(Stage::Data | Stage::Content) => !self.shared,
            Some(_) => false,
        }
    }

    fn stage_for_table(&self) -> Stage {
        self.stage.unwrap_or(Stage::Content)
    }
}

/// What was concluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub class: CauseClass,
    /// No further attempt.
    pub last: bool,
    /// The rule's name; `status`, `code` or `stage` where the table judged.
    pub rule: Arc<str>,
    /// Of 100.
    pub confidence: u8,
    pub reach: Reach,
    pub reaction: Reaction,
    pub wait: Option<Duration>,
}

impl Finding {
    /// The recipient is to be suppressed for it.
    pub fn suppresses(&self) -> bool {
        self.last && self.reaction == Reaction::Hard && self.class.is_the_recipients()
    }

    /// No rule knew it.
    pub fn is_the_tables(&self) -> bool {
        is_the_tables(&self.rule)
    }

    pub fn bounce_type(&self) -> BounceType {
        BounceType::of(self.class, !self.last)
    }
}

/// Whether a ruling of that name is none of a rule.
pub fn is_the_tables(rule: &str) -> bool {
    matches!(rule, "status" | "code" | "stage")
}

/// Judges a negative reply, by rules where there are any.
pub fn judge(rules: Option<&Rules>, evidence: &Evidence<'_>) -> Finding {
    let found = rules.and_then(|rules| rules.find(evidence));
    match found {
        Some(rule) => by_rule(rule, evidence),
        None => table::judge(evidence),
    }
}

fn by_rule(rule: &Rule, evidence: &Evidence<'_>) -> Finding {
    let last = match rule.force {
        None => table::is_final(evidence),
        Some(Force::Retry) => false,
        Some(Force::Bounce) => evidence.blames_mail(),
    };
    let reaction = match rule.reaction {
        // Who is not named, or may come again, is not suppressed.
        Reaction::Hard if last && !evidence.names_recipient() => Reaction::Bounce,
        Reaction::Hard | Reaction::Bounce if !last => Reaction::Retry,
        reaction => reaction,
    };
    Finding {
        class: rule.class,
        last,
        rule: Arc::clone(&rule.name),
        confidence: rule.confidence,
        reach: match rule.reach {
            // Said of several at once, it need not be true of this one.
            Reach::Recipient if !evidence.names_recipient() => Reach::Message,
            reach => reach,
        },
        reaction,
        // Where the path is meant, another source may be welcome meanwhile.
        wait: rule
            .wait
            .filter(|_| !last)
            .map(|wait| match rule.reach.scope() {
                Scope::Recipient => wait,
                _ => wait.min(limits::RULE_WAIT_OF_PATH),
            }),
    }
}

/// Who judges what the hosts of a session say.
#[derive(Clone, Copy, Default)]
pub struct Judge<'a> {
    /// `None`: the table alone.
    pub rules: Option<&'a Rules>,
    /// The MX host.
    pub host: &'a str,
}

impl Judge<'_> {
    /// What was answered at `stage`, to several recipients at once if it was `shared`.
    pub fn refusal(&self, stage: Stage, reply: &Reply, shared: bool) -> Outcome {
        let evidence = Evidence {
            stage: Some(stage),
            reply,
            host: self.host,
            shared,
        };
        let finding = judge(self.rules, &evidence);
        let detail = format!("the remote host refused at {stage}");
        let scope = finding.reach.scope();
        let ruling = Ruling {
            rule: finding.rule,
            confidence: finding.confidence,
            stage: stage_word(evidence.stage),
            reach: finding.reach,
            reaction: finding.reaction,
            wait: finding.wait,
        };
        let cause = Cause::from_reply(finding.class, detail, reply.clone(), ruling);
        match finding.last {
            true => Outcome::Bounced { scope, cause },
            false => Outcome::Deferred { scope, cause },
        }
    }
}

/// As rules and events name it.
pub fn stage_word(stage: Option<Stage>) -> &'static str {
    let found = STAGES.iter().find(|(_, of)| *of == stage);
    found.map_or("connect", |(word, _)| word)
}

/// The outer `None`: no such word; the inner: a report.
pub fn stage_of(word: &str) -> Option<Option<Stage>> {
    let found = STAGES.iter().find(|(known, _)| *known == word);
    found.map(|(_, stage)| *stage)
}

const STAGES: &[(&str, Option<Stage>)] = &[
    ("connect", Some(Stage::Connect)),
    ("banner", Some(Stage::Banner)),
    ("ehlo", Some(Stage::Ehlo)),
    ("starttls", Some(Stage::StartTls)),
    ("tls", Some(Stage::Tls)),
    ("idle", Some(Stage::Idle)),
    ("mail", Some(Stage::Mail)),
    ("rcpt", Some(Stage::Rcpt)),
    ("data", Some(Stage::Data)),
    ("content", Some(Stage::Content)),
    ("quit", Some(Stage::Quit)),
    ("report", None),
];
