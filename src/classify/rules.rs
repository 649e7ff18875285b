//! [`Rules`]: all rules in their order, compiled to one automaton over their pieces of text.
//!
//! A pattern is pieces that follow one another, with anything between them. One pass over the reply finds all pieces of all
//! rules (Aho-Corasick, linear in the reply whatever it holds) and carries every pattern as far as it gets; only rules whose
//! text is there, and those that ask for none, are looked at. Regular expressions would say more; but a remote host could
//! choose a text for which thousands of them at once cost milliseconds, and postmasters would have to read them.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, MatchKind};

use super::Evidence;
use super::file::{self, normal};
use super::rule::{Fixture, Rule, RuleFile, StatusRange};
use crate::config::{ConfigError, Problem, Shaping};
use crate::limits;
use crate::mail::Reply;
use crate::smtp::client::session::Stage;

pub struct Rules {
    rules: Vec<Rule>,
    fixtures: Vec<Fixture>,
    pieces: AhoCorasick,
    /// For each piece, where it stands: pattern, and place in it.
    places: Vec<Vec<(u32, u32)>>,
    patterns: Vec<Pattern>,
    /// Rules that ask for no text, in order.
    textless: Vec<u32>,
}

struct Pattern {
    rule: u32,
    pieces: u32,
    /// Its rule does not fit where this is.
    negative: bool,
}

/// How far a pattern got: pieces found, and where the last one ended.
#[derive(Clone, Copy, Default)]
struct Progress {
    found: u32,
    end: u32,
}

/// No rules: the table of codes judges alone.
impl Default for Rules {
    fn default() -> Self {
        Self::build(Vec::new(), Vec::new())
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules", self.rules.len())
    }
}

impl Rules {
    /// The shipped rules alone.
    pub fn shipped(shaping: &Shaping) -> Result<Self, ConfigError> {
        Self::load(&[], shaping)
    }

    /// The operator's files in their order, then the shipped rules.
    /// # Errors
    /// The first file that cannot be read or holds what is no rule, with all its problems.
    pub fn load(files: &[PathBuf], shaping: &Shaping) -> Result<Self, ConfigError> {
        let mut texts = Vec::with_capacity(files.len() + 1);
        for path in files {
            let text = std::fs::read_to_string(path)
                .map_err(|error| problem(path, 0, format!("cannot be read: {error}")))?;
            if text.len() > limits::RULE_FILE_MAX {
                let max = limits::RULE_FILE_MAX;
                return Err(problem(path, 0, format!("longer than {max} octets")));
            }
            texts.push((path.as_path(), text));
        }
        texts.push((Path::new(SHIPPED_NAME), SHIPPED.to_owned()));
        let texts = texts.iter().map(|(path, text)| (*path, text.as_str()));
        Self::compile(texts, shaping)
    }

    /// From texts, each with the name of its file.
    /// # Errors
    /// As [`Self::load`].
    pub fn compile<'a>(
        texts: impl Iterator<Item = (&'a Path, &'a str)>,
        shaping: &Shaping,
    ) -> Result<Self, ConfigError> {
        let (mut rules, mut fixtures) = (Vec::<Rule>::new(), Vec::new());
        let mut named: HashMap<_, usize> = HashMap::new();
        for (path, text) in texts {
            let RuleFile {
                rules: more,
                fixtures: mut tests,
            } = file::read(text, path, shaping)?;
            for rule in more {
                // An operator's rule of the same name takes the shipped one's place; in one file it is a slip.
                if let Some(&at) = named.get(&rule.name) {
                    if same_file(&rules[at], &rule) {
                        let line = line_of(&rule);
                        let message =
                            format!("rule `{}` stands at {} already", rule.name, rules[at].place);
                        return Err(problem(path, line, message));
                    }
                    tests.retain(|test| test.owner.as_ref() != Some(&rule.name));
                    continue;
                }
                named.insert(rule.name.clone(), rules.len());
                rules.push(rule);
            }
            fixtures.extend(tests);
            if rules.len() > limits::RULES_MAX {
                let max = limits::RULES_MAX;
                return Err(problem(path, 0, format!("more than {max} rules in all")));
            }
        }
        Ok(Self::build(rules, fixtures))
    }

    fn build(rules: Vec<Rule>, fixtures: Vec<Fixture>) -> Self {
        let mut ids: HashMap<&str, usize> = HashMap::new();
        let mut pieces: Vec<&str> = Vec::new();
        let mut places: Vec<Vec<(u32, u32)>> = Vec::new();
        let (mut patterns, mut textless) = (Vec::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            let texts = rule.said.texts.iter().map(|text| (text, false));
            let not = rule.said.not.iter().map(|text| (text, true));
            for (text, negative) in texts.chain(not) {
                for (place, piece) in text.iter().enumerate() {
                    let id = *ids.entry(piece).or_insert_with(|| {
                        pieces.push(piece);
                        places.push(Vec::new());
                        pieces.len() - 1
                    });
                    places[id].push((patterns.len() as u32, place as u32));
                }
                patterns.push(Pattern {
                    rule: index as u32,
                    pieces: text.len() as u32,
                    negative,
                });
            }
            if rule.said.texts.is_empty() {
                textless.push(index as u32);
            }
        }
        // A pattern that has a piece twice must not take both from one occurrence: later places first.
        for place in &mut places {
            place.sort_unstable_by_key(|&(pattern, place)| (pattern, std::cmp::Reverse(place)));
        }
        let pieces = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&pieces)
            // Only more than 2^31 states could fail; limits.rs allows a thousandth of that.
            .expect("the rules' texts are bounded");
        Self {
            rules,
            fixtures,
            pieces,
            places,
            patterns,
            textless,
        }
    }

    /// All rules, in the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    pub fn fixtures(&self) -> &[Fixture] {
        &self.fixtures
    }

    /// The first rule that fits.
    pub fn find(&self, evidence: &Evidence<'_>) -> Option<&Rule> {
        let text = joined(evidence.reply);
        let mut progress = vec![Progress::default(); self.patterns.len()];
        // By rule: its text is there; what must not be there is.
        let mut hits: Vec<u32> = self.textless.clone();
        let mut barred = vec![false; self.rules.len()];
        for found in self.pieces.find_overlapping_iter(text.as_str()) {
            let (start, end) = (found.start() as u32, found.end() as u32);
            for &(pattern, place) in &self.places[found.pattern().as_usize()] {
                let at = &mut progress[pattern as usize];
                if at.found != place || at.end > start {
                    continue;
                }
                *at = Progress {
                    found: place + 1,
                    end,
                };
                let pattern = &self.patterns[pattern as usize];
                if at.found == pattern.pieces {
                    match pattern.negative {
                        true => barred[pattern.rule as usize] = true,
                        false => hits.push(pattern.rule),
                    }
                }
            }
        }
        hits.sort_unstable();
        let mut hits = hits.into_iter().map(|index| index as usize);
        let first = hits.find(|&index| !barred[index] && fits(&self.rules[index], evidence))?;
        Some(&self.rules[first])
    }
}

/// Everything but the text.
fn fits(rule: &Rule, evidence: &Evidence<'_>) -> bool {
    let (said, reply) = (&rule.said, evidence.reply);
    let of = |list: bool, fits: bool| list || fits;
    of(
        said.codes.is_empty(),
        said.codes
            .iter()
            .any(|&(from, to)| (from..=to).contains(&reply.code)),
    ) && of(
        said.statuses.is_empty(),
        said.statuses.iter().any(|range| range.holds(reply)),
    ) && of(
        said.stages.is_empty(),
        said.stages
            .iter()
            .any(|&stage| was_at(stage, evidence.stage)),
    ) && of(
        said.mx.is_empty(),
        said.mx.iter().any(|mx| is_below(evidence.host, mx)),
    )
}

/// A report does not say where in the dialogue its words were said, only that mail was refused.
fn was_at(asked: Option<Stage>, stage: Option<Stage>) -> bool {
    asked == stage || stage.is_none() && asked.is_some_and(|asked| asked >= Stage::Mail)
}

fn is_below(host: &str, suffix: &str) -> bool {
    let rest = host.len().checked_sub(suffix.len());
    rest.and_then(|at| host.split_at_checked(at))
        .is_some_and(|(rest, end)| {
            end.eq_ignore_ascii_case(suffix) && (rest.is_empty() || rest.ends_with('.'))
        })
}

impl StatusRange {
    fn holds(&self, reply: &Reply) -> bool {
        reply.status.is_some_and(|status| {
            self.class.is_none_or(|class| class == status.class)
                && self.subject == status.subject
                && (self.details.0..=self.details.1).contains(&status.detail)
        })
    }
}

/// All lines, as patterns are written; with a space at both ends, so that a pattern can ask for a whole word there too.
fn joined(reply: &Reply) -> String {
    let text = reply.text();
    let text = match text.len() <= limits::CLASSIFIED_TEXT {
        true => normal(text),
        false => {
            // The deciding words stand at the beginning, or in the last line.
            let half = limits::CLASSIFIED_TEXT / 2;
            let (head, tail) = (
                text.floor_char_boundary(half),
                text.ceil_char_boundary(text.len() - half),
            );
            normal(&text[..head]) + " " + &normal(&text[tail..])
        }
    };
    format!(" {} ", text.trim())
}

fn same_file(a: &Rule, b: &Rule) -> bool {
    let file = |rule: &Rule| rule.place.rsplit_once(':').map(|(file, _)| file.to_owned());
    file(a) == file(b)
}

fn line_of(rule: &Rule) -> usize {
    let line = rule
        .place
        .rsplit_once(':')
        .and_then(|(_, line)| line.parse().ok());
    line.unwrap_or(0)
}

fn problem(file: &Path, line: usize, message: String) -> ConfigError {
    ConfigError {
        file: file.into(),
        problems: vec![Problem {
            line,
            key: String::new(),
            message,
        }],
    }
}

/// As messages name the file that is part of the program.
const SHIPPED_NAME: &str = "shipped rules";
const SHIPPED: &str = include_str!("rules.toml");
