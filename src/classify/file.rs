//! Rules as they are written: TOML to [`Rule`]s, every problem with its file, line and rule.
//!
//! What a rule may not do is refused here, before it judges anybody: to suppress recipients for what is not theirs, to end
//! on a status alone what a host calls temporary, or never to match.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::source::{Located, Reader, Tables, section};
use crate::config::{ConfigError, Problem, Shaping};
use crate::limits;
use crate::outcome::{CauseClass, Reach, Reaction};
use crate::smtp::client::session::Stage;

use super::rule::{Expected, Fixture, Force, Rule, RuleFile, Said, StatusRange};
use super::stage_of;

type Optional<T> = Option<Located<T>>;
type List<T> = Option<Vec<Located<T>>>;

section! { RawFile { rule: Tables<RawRule>, reply: Tables<RawReply>, } }

section! {
    RawRule {
        name: Optional<String>,
        provider: List<String>,
        mx: List<String>,
        stage: List<String>,
        code: List<String>,
        status: List<String>,
        text: List<String>,
        not: List<String>,
        cause: Optional<String>,
        scope: Optional<String>,
        reaction: Optional<String>,
        confidence: Optional<u64>,
        wait: Optional<Duration>,
        force: Optional<String>,
        test: Tables<RawReply>,
    }
}

section! {
    RawReply {
        host: Optional<String>,
        stage: Optional<String>,
        shared: Optional<bool>,
        reply: Optional<Words>,
        rule: Optional<String>,
        outcome: Optional<String>,
        cause: Optional<String>,
        scope: Optional<String>,
        reaction: Optional<String>,
        why: Optional<String>,
    }
}

/// Text that may have lines.
#[derive(Clone, Debug)]
pub(super) struct Words(String);

impl crate::config::source::Leaf for Words {
    fn read(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or("must be a reply in quotes, its lines separated by \\n")?;
        let code = text.get(..3).and_then(|code| code.parse::<u16>().ok());
        match code.is_some_and(|code| (200..600).contains(&code)) {
            true => Ok(Self(text.trim_end().to_owned())),
            false => Err("must begin with a reply code of three digits".into()),
        }
    }
}

/// Reads one file's text. `file` names it in messages; providers are those of `shaping`.
/// # Errors
/// Everything that is wrong with it.
pub(super) fn read(text: &str, file: &Path, shaping: &Shaping) -> Result<RuleFile, ConfigError> {
    let mut reader = Reader::new(text);
    let raw: Option<RawFile> = reader.read();
    let mut scribe = Scribe {
        file,
        shaping,
        problems: reader.problems,
        rule: String::new(),
    };
    let read = raw.map(|raw| scribe.file(&raw)).unwrap_or_default();
    match scribe.problems.is_empty() {
        true => Ok(read),
        false => Err(ConfigError {
            file: file.into(),
            problems: scribe.problems,
        }),
    }
}

struct Scribe<'a> {
    file: &'a Path,
    shaping: &'a Shaping,
    problems: Vec<Problem>,
    /// The name of the rule that is read.
    rule: String,
}

impl Scribe<'_> {
    fn file(&mut self, raw: &RawFile) -> RuleFile {
        let mut file = RuleFile::default();
        for raw in raw.rule.as_deref().unwrap_or_default() {
            if file.rules.len() == limits::RULES_MAX {
                let max = limits::RULES_MAX;
                self.problem(raw.at.line, format!("more than {max} rules in one file"));
                break;
            }
            self.rule = raw.name.as_ref().map_or("", |name| name).to_owned();
            file.rules.extend(self.rule(raw));
            for fixture in raw.test.as_deref().unwrap_or_default() {
                file.fixtures.extend(self.test_of(raw, fixture));
            }
        }
        self.rule.clear();
        for raw in raw.reply.as_deref().unwrap_or_default() {
            file.fixtures.extend(self.fixture(raw));
        }
        file
    }

    fn rule(&mut self, raw: &Located<RawRule>) -> Option<Rule> {
        let line = raw.at.line;
        let name = self.required(line, &raw.name, "name")?;
        let sound = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
        if !sound || name.len() > 64 || super::is_the_tables(&name) {
            self.problem(line, "name must be lower-case letters, digits, `-`, `.` and `_`, 64 at most, and not `status`, `code` or `stage`");
        }
        let class = self.word(line, &raw.cause, "cause", CauseClass::parse, "cause")?;
        let reach = self.word(line, &raw.scope, "scope", Reach::parse, "scope")?;
        let reaction = self.word(line, &raw.reaction, "reaction", Reaction::parse, "reaction")?;
        let force = match raw.force.as_ref().map(|force| force.value.as_str()) {
            None => None,
            Some("retry") => Some(Force::Retry),
            Some("bounce") => Some(Force::Bounce),
            Some(other) => {
                self.problem(
                    line,
                    format!("force must be \"retry\" or \"bounce\", not `{other}`"),
                );
                None
            }
        };
        let rule = Rule {
            name: name.as_str().into(),
            place: self.place(line),
            said: self.said(raw),
            class,
            reach,
            reaction,
            confidence: match raw.confidence.as_ref().map_or(90, |given| given.value) {
                given @ 1..=100 => given as u8,
                _ => {
                    self.problem(line, "confidence must be 1 to 100");
                    0
                }
            },
            wait: raw.wait.as_ref().map(|wait| wait.value),
            force,
        };
        self.judge(line, &rule);
        Some(rule)
    }

    /// What no rule may do.
    fn judge(&mut self, line: usize, rule: &Rule) {
        let said = &rule.said;
        if rule.reaction == Reaction::Hard && !rule.class.is_the_recipients() {
            let cause = rule.class.as_str();
            self.problem(
                line,
                format!("reaction \"hard\" suppresses the recipient, and cause \"{cause}\" is not the recipient's; use \"bounce\""),
            );
        }
        if rule.reaction == Reaction::Hard
            && rule.reach != Reach::Recipient
            && rule.class != CauseClass::DomainNoMail
        {
            self.problem(line, "reaction \"hard\" needs scope \"recipient\"");
        }
        if said.texts.is_empty() && said.statuses.is_empty() && said.codes.is_empty() {
            self.problem(
                line,
                "has neither text, status nor code, so it would judge everything",
            );
        }
        if rule.force == Some(Force::Bounce) && said.texts.is_empty() {
            self.problem(
                line,
                "force = \"bounce\" makes a temporary refusal final and needs a text to know it by",
            );
        }
        if rule.wait.is_some_and(|wait| wait > limits::RULE_WAIT_MAX) {
            self.problem(line, "wait must be a day at most");
        }
    }

    fn said(&mut self, raw: &Located<RawRule>) -> Said {
        let mut said = Said::default();
        for provider in raw.provider.iter().flatten() {
            match self.shaping.suffixes_of(provider) {
                Some(suffixes) => said.mx.extend(suffixes.iter().cloned()),
                None => self.problem(
                    provider.at.line,
                    format!("no provider is called `{}`; `config show` lists them, [[shaping]] adds one, mx = [\"example.com\"] needs none", provider.value),
                ),
            }
        }
        let suffix = |mx: &Located<String>| mx.trim_start_matches('.').to_ascii_lowercase();
        said.mx.extend(raw.mx.iter().flatten().map(suffix));
        for word in raw.stage.iter().flatten() {
            match stage_of(word) {
                Some(stage) => said.stages.push(stage),
                None => self.problem(word.at.line, format!("no stage is called `{}`; there are banner, ehlo, starttls, mail, rcpt, data, content and report", word.value)),
            }
        }
        for word in raw.code.iter().flatten() {
            match code_range(word) {
                Some(range) => said.codes.push(range),
                None => self.problem(
                    word.at.line,
                    format!(
                        "`{}` is no reply code; write 550, or 55 or 5 for all that begin so",
                        word.value
                    ),
                ),
            }
        }
        for word in raw.status.iter().flatten() {
            match status_range(word) {
                Some(range) => said.statuses.push(range),
                None => self.problem(
                    word.at.line,
                    format!(
                        "`{}` is no status; write 5.7.1, x.7.25 or 5.7.606-649",
                        word.value
                    ),
                ),
            }
        }
        said.texts = self.patterns(&raw.text);
        said.not = self.patterns(&raw.not);
        said
    }

    fn patterns(&mut self, raw: &List<String>) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for text in raw.iter().flatten() {
            let pieces: Vec<String> = text
                .split('*')
                .map(normal)
                .filter(|p| !p.is_empty())
                .collect();
            match pieces.iter().any(|piece| piece.trim().chars().count() >= 2) {
                true => all.push(pieces),
                false => self.problem(text.at.line, "a text must have two characters at least"),
            }
        }
        if all.len() > limits::RULE_TEXTS_MAX {
            let max = limits::RULE_TEXTS_MAX;
            self.problem(0, format!("more than {max} texts"));
        }
        all
    }

    /// A reply beside its rule: what it is said by, and the rule's own judgement, are expected unless it says otherwise.
    fn test_of(&mut self, rule: &Located<RawRule>, raw: &Located<RawReply>) -> Option<Fixture> {
        let mut fixture = self.fixture(raw)?;
        fixture.owner = rule.name.as_ref().map(|name| name.as_str().into());
        if fixture.expected.rule.is_none() {
            fixture.expected.rule = rule.name.as_ref().map(|name| name.value.clone());
        }
        if fixture.host.is_empty() {
            let mut of_provider = rule.provider.iter().flatten();
            let of_mx = rule.mx.iter().flatten().next().map(|mx| mx.value.clone());
            let suffix = of_provider
                .next()
                .and_then(|provider| self.shaping.suffixes_of(provider)?.first().cloned())
                .or(of_mx);
            fixture.host = suffix.map_or_else(String::new, |suffix| format!("mx.{suffix}"));
        }
        if fixture.expected.outcome.is_none() {
            self.problem(
                raw.at.line,
                "a test needs outcome = \"deferred\", \"bounced\" or \"suppressed\"",
            );
        }
        Some(fixture)
    }

    fn fixture(&mut self, raw: &Located<RawReply>) -> Option<Fixture> {
        let line = raw.at.line;
        let Some(reply) = &raw.reply else {
            self.problem(
                line,
                "a reply to be tried is missing: reply = \"550 5.1.1 no such user\"",
            );
            return None;
        };
        let stage = match raw.stage.as_ref().map(|stage| stage_of(stage)) {
            None => Some(Stage::Rcpt),
            Some(Some(stage)) => stage,
            Some(None) => {
                self.problem(line, "no such stage; there are banner, ehlo, starttls, mail, rcpt, data, content and report");
                return None;
            }
        };
        let outcome = raw.outcome.as_ref().map(|outcome| outcome.value.clone());
        if outcome.as_deref().is_some_and(|o| !OUTCOMES.contains(&o)) {
            self.problem(
                line,
                "outcome must be \"deferred\", \"bounced\" or \"suppressed\"",
            );
        }
        let expected = Expected {
            rule: raw.rule.as_ref().map(|rule| rule.value.clone()),
            outcome,
            cause: self.known(line, &raw.cause, CauseClass::parse, "cause"),
            reach: self.known(line, &raw.scope, Reach::parse, "scope"),
            reaction: self.known(line, &raw.reaction, Reaction::parse, "reaction"),
        };
        Some(Fixture {
            place: self.place(line),
            owner: None,
            host: raw
                .host
                .as_ref()
                .map(|host| host.to_ascii_lowercase())
                .unwrap_or_default(),
            stage,
            shared: raw.shared.as_ref().is_some_and(|shared| shared.value),
            reply: reply.0.clone(),
            expected,
            why: raw
                .why
                .as_ref()
                .map(|why| why.value.clone())
                .unwrap_or_default(),
        })
    }

    fn required(&mut self, line: usize, value: &Optional<String>, key: &str) -> Option<String> {
        if value.is_none() {
            self.problem(line, format!("{key} is missing"));
        }
        value.as_ref().map(|value| value.value.clone())
    }

    fn word<T>(
        &mut self,
        line: usize,
        value: &Optional<String>,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
        what: &str,
    ) -> Option<T> {
        self.required(line, value, key)?;
        self.known(line, value, parse, what)
    }

    fn known<T>(
        &mut self,
        line: usize,
        value: &Optional<String>,
        parse: impl Fn(&str) -> Option<T>,
        what: &str,
    ) -> Option<T> {
        let value = value.as_ref()?;
        let known = parse(value);
        if known.is_none() {
            let word = &value.value;
            self.problem(
                line,
                format!("`{word}` is no {what}; `posthaste rules words` lists them"),
            );
        }
        known
    }

    fn place(&self, line: usize) -> Arc<str> {
        format!("{}:{line}", self.file.display()).into()
    }

    fn problem(&mut self, line: usize, message: impl Into<String>) {
        let key = match self.rule.as_str() {
            "" => String::new(),
            name => format!("rule `{name}`"),
        };
        self.problems.push(Problem {
            line,
            key,
            message: message.into(),
        });
    }
}

/// `550`, `55`, `5`: everything that begins so.
fn code_range(word: &str) -> Option<(u16, u16)> {
    let number: u16 = word.parse().ok()?;
    match word.len() {
        1 if (2..=5).contains(&number) => Some((number * 100, number * 100 + 99)),
        2 if (20..=59).contains(&number) => Some((number * 10, number * 10 + 9)),
        3 if (200..=599).contains(&number) => Some((number, number)),
        _ => None,
    }
}

fn status_range(word: &str) -> Option<StatusRange> {
    let mut parts = word.split('.');
    let class = match parts.next()? {
        "x" => None,
        class => Some(
            class
                .parse()
                .ok()
                .filter(|class| matches!(class, 2 | 4 | 5))?,
        ),
    };
    let subject = parts.next()?.parse().ok()?;
    let details = match parts.next()?.split_once('-') {
        Some((from, to)) => (from.parse().ok()?, to.parse().ok()?),
        None => {
            let detail = word.rsplit('.').next()?.parse().ok()?;
            (detail, detail)
        }
    };
    (parts.next().is_none() && details.0 <= details.1).then_some(StatusRange {
        class,
        subject,
        details,
    })
}

/// As replies are compared: in lower case, each run of white space one space.
pub(super) fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut space = false;
    for c in text.chars() {
        if c.is_whitespace() {
            space = true;
            continue;
        }
        if std::mem::take(&mut space) {
            out.push(' ');
        }
        out.extend(c.to_lowercase());
    }
    if space {
        out.push(' ');
    }
    out
}

const OUTCOMES: [&str; 3] = ["deferred", "bounced", "suppressed"];
