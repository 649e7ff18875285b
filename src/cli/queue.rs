//! `posthaste queue`: what waits and why, and the operator's verbs. Asks the running daemon.

mod ls;
mod top;
mod verbs;

use clap::Subcommand;
use serde::Serialize;

use self::ls::Ls;
use self::top::Top;
use self::verbs::{Resume, Standing, Verb};
use super::client::{AdminClient, percent};
use super::{Failure, Found, Place, output};
use crate::http::wire;
use crate::mail::MessageId;

#[derive(Subcommand)]
pub(super) enum QueueCommand {
    /// List what waits: by pool and recipient domain, or by site, stream, server, source, pool.
    Ls(Ls),
    /// Watch what waits, in a terminal.
    Top(Top),
    /// Say why mail for a domain, or a message, is waiting, and what would release it.
    #[command(
        after_help = "Examples:\n  posthaste queue explain example.org\n  posthaste queue explain 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --json"
    )]
    Explain {
        #[command(flatten)]
        place: Place,
        /// A recipient domain or a message id.
        #[arg(value_name = "DOMAIN|ID")]
        target: String,
        #[arg(long)]
        json: bool,
    },
    /// List the suspensions and reroutes that stand.
    #[command(
        after_help = "Examples:\n  posthaste queue directives\n  posthaste queue directives --json | jq 'select(.until == null)'"
    )]
    Directives {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Make waiting recipients ready now.
    #[command(
        after_help = "Examples:\n  posthaste queue retry example.org\n  posthaste queue retry 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --recipient bo@example.org\n  posthaste queue retry --all"
    )]
    Retry(Verb),
    /// End waiting recipients as bounced, cause admin.
    #[command(
        after_help = "Examples:\n  posthaste queue bounce example.org --reason 'domain is closed'\n  posthaste queue bounce 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --recipient bo@example.org\n  posthaste queue bounce --server shop --stream news"
    )]
    Bounce(Verb),
    /// End waiting recipients as cancelled.
    #[command(
        after_help = "Examples:\n  posthaste queue cancel example.org\n  posthaste queue cancel 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --recipient bo@example.org\n  posthaste queue cancel --tag spring-sale"
    )]
    Cancel(Verb),
    /// Make no attempt for mail that waits or comes, until it is resumed or the time is over. It ages meanwhile.
    #[command(
        after_help = "Examples:\n  posthaste queue suspend example.org --for 2h --reason 'they asked us to'\n  posthaste queue suspend --source tx1 --reason 'blocklisted'\n  posthaste queue suspend --server shop --tag spring-sale"
    )]
    Suspend(Standing),
    /// Send mail that waits or comes through another pool of the same kind, until it is resumed or the time is over.
    #[command(
        after_help = "Examples:\n  posthaste queue reroute example.org --to warm --for 2d\n  posthaste queue reroute --pool bulk --domain example.org --to bulk2"
    )]
    Reroute {
        #[command(flatten)]
        standing: Standing,
        /// The pool.
        #[arg(long, value_name = "POOL")]
        to: String,
    },
    /// End suspensions and reroutes: one by its id, or each whose selection names all that this one names.
    #[command(
        after_help = "Examples:\n  posthaste queue resume --directive 3\n  posthaste queue resume example.org\n  posthaste queue resume --all"
    )]
    Resume(Resume),
}

impl QueueCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls(ls) => ls.run(),
            Self::Top(top) => top.run(),
            Self::Explain {
                place,
                target,
                json,
            } => explain(&place, &target, json),
            Self::Directives { place, json } => verbs::directives(&place, json),
            Self::Retry(verb) => verb.run("retry", "ready now"),
            Self::Bounce(verb) => verb.run("bounce", "bounced"),
            Self::Cancel(verb) => verb.run("cancel", "cancelled"),
            Self::Suspend(standing) => standing.run("suspend", None),
            Self::Reroute { standing, to } => standing.run("reroute", Some(to)),
            Self::Resume(resume) => resume.run(),
        }
    }
}

fn explain(place: &Place, target: &str, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let key = if is_message(target) {
        "message"
    } else {
        "domain"
    };
    let path = format!("/admin/v1/explain?{key}={}", percent(target));
    let found: wire::Explanations = client.get(&path)?;
    if found.queues.is_empty() && found.recipients.is_empty() {
        return Err(Failure::finding(format!(
            "nothing waits for {target}; what became of a message: posthaste spool show ID"
        )));
    }
    for queue in &found.queues {
        match json {
            true => output::json(queue)?,
            false => output::line(queue_text(queue))?,
        }
    }
    if !json {
        for attempt in &found.attempts_told {
            output::line(format!("last: {}", attempt.sentence))?;
        }
    }
    for recipient in &found.recipients {
        match json {
            true => output::json(recipient)?,
            false => output::line(recipient_text(recipient))?,
        }
    }
    Ok(Found::All)
}

/// Why, in words of one: each once.
fn codes(reasons: &[wire::Reason]) -> Vec<&str> {
    let mut codes = Vec::new();
    for reason in reasons {
        if !codes.contains(&reason.code.as_str()) {
            codes.push(reason.code.as_str());
        }
    }
    codes
}

fn is_message(target: &str) -> bool {
    target.parse::<MessageId>().is_ok()
}

fn queue_text(queue: &wire::Queue) -> String {
    let mut text = format!(
        "{} via pool {}: {} ready, {} deferred, {} in flight",
        queue.domain, queue.pool, queue.ready, queue.deferred, queue.in_flight
    );
    add(&mut text, "site", queue.site.as_ref());
    add(&mut text, "oldest accepted", queue.oldest_at.as_ref());
    add(&mut text, "next look", queue.next_wake_at.as_ref());
    add_reasons(&mut text, &queue.reasons);
    for way in &queue.ways {
        add_way(&mut text, way);
    }
    text
}

fn add_way(text: &mut String, way: &wire::Way) {
    let takes = match &way.takes {
        Some(takes) if way.takes != way.sticks_to => format!(", takes {takes} now"),
        _ => String::new(),
    };
    *text += &format!(
        "\n  way: {}/{} (share {}) sticks to source {}{takes}; the pool has {}",
        way.server,
        way.stream,
        way.share,
        way.sticks_to.as_deref().unwrap_or("none"),
        match way.sources.is_empty() {
            true => "no source".to_owned(),
            false => way.sources.join(", "),
        }
    );
    for limit in &way.limits {
        *text += &format!(
            "\n    limit {} {} (by {})",
            limit.limit, limit.value, limit.rule
        );
    }
}

fn recipient_text(recipient: &wire::Explanation) -> String {
    let mut text = format!(
        "{} (recipient {} of {}): {}, {} attempts",
        recipient.recipient,
        recipient.recipient_number,
        recipient.message_id,
        recipient.state,
        recipient.attempts
    );
    add(&mut text, "pool", Some(&recipient.pool));
    add(&mut text, "domain", Some(&recipient.domain));
    add(&mut text, "site", recipient.site.as_ref());
    add(
        &mut text,
        "next attempt",
        recipient.next_attempt_at.as_ref(),
    );
    add(&mut text, "in flight since", recipient.since.as_ref());
    add(
        &mut text,
        "place in line at its site",
        recipient.ahead.map(|n| n.to_string()).as_ref(),
    );
    add(&mut text, "given up at", Some(&recipient.expires_at));
    add_reasons(&mut text, &recipient.reasons);
    if let Some(way) = &recipient.way {
        add_way(&mut text, way);
    }
    // The last one is among the reasons.
    let told = recipient.attempts_told.iter().rev().skip(1).rev();
    for attempt in told {
        text += &format!("\n  before: {}", attempt.sentence);
    }
    if !recipient.release.is_empty() {
        text += &format!("\n  released by: {}", recipient.release);
    }
    text
}

fn add(text: &mut String, label: &str, value: Option<&String>) {
    if let Some(value) = value {
        *text += &format!("\n  {label}: {value}");
    }
}

fn add_reasons(text: &mut String, reasons: &[wire::Reason]) {
    for reason in reasons {
        *text += &format!("\n  waits: {}", reason.sentence);
        if let Some(until) = &reason.until {
            *text += &format!(" (until {until})");
        }
    }
}

/// For tables: what is not there shows as a dash.
pub(super) fn or_dash(value: Option<&(impl Serialize + ToString)>) -> String {
    value.map_or_else(|| "-".into(), ToString::to_string)
}
