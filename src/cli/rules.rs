//! `posthaste rules`: what replies mean, and what other rules would have made of those that came.

mod recorded;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::filter::Moment;
use super::output::{Listing, Row};
use super::{Failure, Found, Place};
use crate::classify::{BounceType, Rule, Rules};
use crate::config::{self, Config, Shaping, text_of_duration};
use crate::outcome::{CauseClass, Reach, Reaction};

use recorded::{Change, Replies};

#[derive(Subcommand)]
pub(super) enum RulesCommand {
    /// List all rules in the order in which they are asked.
    #[command(after_help = "Example:\n  posthaste rules ls --config /etc/posthaste.toml")]
    Ls {
        #[command(flatten)]
        with: With,
        /// One JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show one rule: when it fits, what it concludes, and the replies that it is tried on.
    #[command(after_help = "Example:\n  posthaste rules show google-recipient-rate")]
    Show {
        name: String,
        #[command(flatten)]
        with: With,
    },
    /// The words that rules are written with.
    #[command(after_help = "Example:\n  posthaste rules words")]
    Words,
    /// Try rules on the replies beside them, and on those in the event log: what would change.
    #[command(after_long_help = "Examples:
  posthaste rules test                           the rules in use, on all replies that are kept
  posthaste rules test new.toml --since -7d      with a further file before them, on those of a week
  posthaste rules test new.toml --json

Exit code 1: a reply beside a rule is judged otherwise than it says. Recorded replies that would be judged otherwise than they
were are listed and change nothing.")]
    Test {
        /// Asked before all others.
        files: Vec<PathBuf>,
        #[command(flatten)]
        with: With,
        #[command(flatten)]
        when: When,
    },
    /// Gather the replies in the event log that no rule knows, by what they say.
    #[command(after_long_help = "Examples:
  posthaste rules unmatched --since -1d
  posthaste rules unmatched --json

What differs from one to the next (addresses, hosts, numbers, ids) is masked. The most frequent are first.")]
    Unmatched {
        #[command(flatten)]
        with: With,
        #[command(flatten)]
        when: When,
    },
}

/// Which rules, and whose log.
#[derive(Args)]
#[group(skip)]
pub(super) struct With {
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
#[group(skip)]
pub(super) struct When {
    /// Only replies since this time: RFC 3339, or -7d.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<Moment>,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

impl RulesCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls { with, json } => {
                let rules = with.rules(&[])?;
                let mut listing = Listing::new(json);
                rules
                    .iter()
                    .try_for_each(|rule| listing.push(&RuleRow::new(rule)))?;
                listing.flush()?;
                Ok(Found::All)
            }
            Self::Show { name, with } => show(&with.rules(&[])?, &name),
            Self::Words => words(),
            Self::Test { files, with, when } => {
                let rules = with.rules(&files)?;
                let failing = tell_failing(&rules, when.json)?;
                if let Some(replies) = with.replies(&when)? {
                    let changes = replies.changes(&rules)?;
                    tell_changes(&changes, when.json)?;
                }
                Ok(match failing {
                    0 => Found::All,
                    _ => Found::Finding,
                })
            }
            Self::Unmatched { with, when } => {
                let rules = with.rules(&[])?;
                let dir = with.place.data_dir()?;
                let replies = with.replies(&when)?.ok_or_else(|| {
                    Failure::data_dir(format!(
                        "{}: there is no event log; name another one with --data-dir",
                        dir.display()
                    ))
                })?;
                let (clusters, beyond) = replies.unmatched(&rules)?;
                let mut listing = Listing::new(when.json);
                clusters
                    .iter()
                    .try_for_each(|cluster| listing.push(cluster))?;
                listing.flush()?;
                if beyond > 0 {
                    eprintln!(
                        "{beyond} replies of still other wordings are not listed; ask for a shorter time with --since"
                    );
                }
                Ok(Found::All)
            }
        }
    }
}

impl With {
    fn rules(&self, before: &[PathBuf]) -> Result<Rules, Failure> {
        let (files, shaping) = self.configured()?;
        let files: Vec<PathBuf> = before.iter().cloned().chain(files).collect();
        Rules::load(&files, &shaping).map_err(|problems| Failure::config(problems.to_string()))
    }

    /// The operator's files, and the providers that rules may name.
    fn configured(&self) -> Result<(Vec<PathBuf>, std::sync::Arc<Shaping>), Failure> {
        match &self.place.config {
            Some(file) => config::rules_in(file).map_err(|e| Failure::config(e.to_string())),
            None => Ok((Vec::new(), Config::development(None).shaping)),
        }
    }

    /// `None`: there is no event log.
    fn replies(&self, when: &When) -> Result<Option<Replies>, Failure> {
        let dir = self.place.data_dir()?;
        if !dir.join("spool").is_dir() && self.place.data_dir.is_none() {
            eprintln!(
                "{}: there is no event log, so only the replies beside the rules are tried",
                dir.display()
            );
            return Ok(None);
        }
        Ok(Some(Replies::open(&dir, when.since)?))
    }
}

#[derive(Serialize)]
struct RuleRow {
    name: String,
    place: String,
    when: String,
    cause: &'static str,
    scope: &'static str,
    reaction: &'static str,
    wait: Option<String>,
    force: Option<&'static str>,
    confidence: u8,
    bounce_type: &'static str,
}

impl RuleRow {
    fn new(rule: &Rule) -> Self {
        Self {
            name: rule.name.to_string(),
            place: rule.place.to_string(),
            when: rule.said.to_string(),
            cause: rule.class.as_str(),
            scope: rule.reach.as_str(),
            reaction: rule.reaction.as_str(),
            wait: rule.wait.map(text_of_duration),
            force: rule.force.map(|force| force.as_str()),
            confidence: rule.confidence,
            bounce_type: BounceType::of(rule.class, false).as_str(),
        }
    }
}

impl Row for RuleRow {
    const COLUMNS: &'static [&'static str] = &[
        "RULE", "CAUSE", "SCOPE", "REACTION", "WAIT", ">%", "FROM", "WHEN",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.cause.into(),
            self.scope.into(),
            self.reaction.into(),
            self.wait.clone().unwrap_or_else(|| "-".into()),
            self.confidence.to_string(),
            self.place.clone(),
            self.when.clone(),
        ]
    }
}

fn show(rules: &Rules, name: &str) -> Result<Found, Failure> {
    let Some(rule) = rules.iter().find(|rule| *rule.name == *name) else {
        return Err(Failure::finding(format!(
            "no rule is called `{name}`; posthaste rules ls lists them"
        )));
    };
    let row = RuleRow::new(rule);
    let mut out = io::stdout().lock();
    writeln!(out, "{name}, {}", row.place)?;
    writeln!(out, "  fits when    {}", row.when)?;
    writeln!(
        out,
        "  cause        {} (bounce type {})",
        row.cause, row.bounce_type
    )?;
    writeln!(out, "  scope        {}", row.scope)?;
    writeln!(out, "  reaction     {}", row.reaction)?;
    if let Some(wait) = &row.wait {
        writeln!(out, "  wait         {wait}")?;
    }
    if let Some(force) = row.force {
        writeln!(out, "  force        {force}, whatever the reply code says")?;
    }
    writeln!(out, "  confidence   {} %", row.confidence)?;
    for fixture in rules
        .fixtures()
        .iter()
        .filter(|f| f.owner.as_deref() == Some(name))
    {
        let reply = fixture.reply.replace('\n', "\n               ");
        writeln!(
            out,
            "  tried on     {reply}\n               {}",
            fixture.judge(rules)
        )?;
    }
    Ok(Found::All)
}

fn words() -> Result<Found, Failure> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "cause, with the bounce type of the API that comes of it; * may suppress the recipient:"
    )?;
    for cause in CauseClass::ALL {
        let mark = if cause.is_the_recipients() { "*" } else { " " };
        writeln!(
            out,
            " {mark} {:22} {}",
            cause.as_str(),
            BounceType::of(*cause, false).as_str()
        )?;
    }
    writeln!(
        out,
        "scope:\n   {}",
        Reach::ALL
            .iter()
            .map(|word| word.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    )?;
    writeln!(
        out,
        "reaction:\n   {}",
        Reaction::ALL
            .iter()
            .map(|word| word.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    )?;
    writeln!(
        out,
        "stage:\n   banner, ehlo, starttls, mail, rcpt, data, content, report"
    )?;
    writeln!(
        out,
        "force:\n   retry (a 5yz is tried again), bounce (a 4yz is final)"
    )?;
    Ok(Found::All)
}

#[derive(Serialize)]
struct FailedRow {
    kind: &'static str,
    place: String,
    reply: String,
    expected: String,
    found: String,
    why: String,
}

impl Row for FailedRow {
    const COLUMNS: &'static [&'static str] = &["AT", "EXPECTED", "FOUND", "REPLY"];

    fn cells(&self) -> Vec<String> {
        let reply = self.reply.replace('\n', " ");
        vec![
            self.place.clone(),
            self.expected.clone(),
            self.found.clone(),
            reply,
        ]
    }
}

fn tell_failing(rules: &Rules, json: bool) -> Result<usize, Failure> {
    let failing = rules.failing();
    let mut listing = Listing::new(json);
    for failed in &failing {
        listing.push(&FailedRow {
            kind: "failed",
            place: failed.fixture.place.to_string(),
            reply: failed.fixture.reply.clone(),
            expected: failed.fixture.expected.to_string(),
            found: failed.found.to_string(),
            why: failed.fixture.why.clone(),
        })?;
    }
    listing.flush()?;
    let (all, failed) = (rules.fixtures().len(), failing.len());
    match failed {
        0 => eprintln!(
            "{all} replies beside {} rules are judged as they say",
            rules.iter().count()
        ),
        _ => eprintln!("{failed} of {all} replies beside rules are judged otherwise than they say"),
    }
    Ok(failed)
}

fn tell_changes(changes: &recorded::Changes, json: bool) -> Result<(), Failure> {
    let mut listing = Listing::new(json);
    for change in &changes.found {
        listing.push(change)?;
    }
    listing.flush()?;
    let changed: u64 = changes.found.iter().map(Change::count).sum();
    eprintln!(
        "{} recorded replies tried: {changed} would be judged otherwise, {} by another rule with the same result",
        changes.tried, changes.renamed
    );
    if changes.unknown > 0 {
        eprintln!(
            "{} more were recorded by a version that did not say what they answered; they are not tried",
            changes.unknown
        );
    }
    if changes.beyond > 0 {
        eprintln!(
            "{} changes of still other kinds are not listed; ask for a shorter time with --since",
            changes.beyond
        );
    }
    Ok(())
}
