//! `posthaste queue`: what waits and why, and the operator's verbs. Asks the running daemon.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::{AdminClient, percent};
use super::output::{Listing, Row};
use super::{Failure, Found, Place, output};
use crate::http::wire;
use crate::mail::MessageId;

#[derive(Subcommand)]
pub(super) enum QueueCommand {
    /// List the queues: one per pool and recipient domain.
    #[command(
        after_help = "Examples:\n  posthaste queue ls\n  posthaste queue ls --json | jq 'select(.deferred > 1000)'"
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
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
    /// Make waiting recipients ready now.
    #[command(
        after_help = "Examples:\n  posthaste queue retry example.org\n  posthaste queue retry 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --recipient bo@example.org\n  posthaste queue retry --all"
    )]
    Retry(Verb),
    /// End waiting recipients as bounced, cause admin.
    #[command(
        after_help = "Examples:\n  posthaste queue bounce example.org\n  posthaste queue bounce 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --recipient bo@example.org\n  posthaste queue bounce --all"
    )]
    Bounce(Verb),
    /// End waiting recipients as cancelled.
    #[command(
        after_help = "Examples:\n  posthaste queue cancel example.org\n  posthaste queue cancel 019a1f0e-7b1c-7d30-8a4e-5f6b7c8d9e0f --recipient bo@example.org\n  posthaste queue cancel --all"
    )]
    Cancel(Verb),
}

#[derive(Args)]
pub(super) struct Verb {
    #[command(flatten)]
    place: Place,
    /// A recipient domain or a message id.
    #[arg(
        value_name = "DOMAIN|ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    target: Option<String>,
    /// One recipient of the message: its address, or its number in order of RCPT.
    #[arg(long, value_name = "RECIPIENT", requires = "target")]
    recipient: Option<String>,
    /// Every recipient that waits.
    #[arg(long)]
    all: bool,
    #[arg(long)]
    json: bool,
}

impl QueueCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls { place, json } => ls(&place, json),
            Self::Explain {
                place,
                target,
                json,
            } => explain(&place, &target, json),
            Self::Retry(verb) => verb.run("retry", "ready now"),
            Self::Bounce(verb) => verb.run("bounce", "bounced"),
            Self::Cancel(verb) => verb.run("cancel", "cancelled"),
        }
    }
}

fn ls(place: &Place, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let mut listing = Listing::new(json);
    let mut path = String::from("/admin/v1/queues");
    loop {
        let page: wire::Queues = client.get(&path)?;
        // A queue without recipients is only the scheduler's memory of a route.
        let waiting = |q: &&wire::Queue| q.ready + q.deferred + q.in_flight > 0;
        for queue in page.queues.iter().filter(waiting) {
            listing.push(queue)?;
        }
        let Some(next) = page.next else { break };
        path = format!(
            "/admin/v1/queues?after_pool={}&after_domain={}",
            percent(&next.pool),
            percent(&next.domain)
        );
    }
    listing.flush()?;
    if listing.count() == 0 && !json {
        output::line("nothing waits")?;
    }
    Ok(Found::All)
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
    for recipient in &found.recipients {
        match json {
            true => output::json(recipient)?,
            false => output::line(recipient_text(recipient))?,
        }
    }
    Ok(Found::All)
}

impl Verb {
    fn run(self, verb: &str, done: &str) -> Result<Found, Failure> {
        let selector = self.selector()?;
        let client = AdminClient::new(&self.place.data_dir()?)?;
        let affected: wire::Affected =
            client.post(&format!("/admin/v1/queue/{verb}"), &selector)?;
        let wire::Affected {
            ready,
            deferred,
            in_flight,
        } = affected;
        match self.json {
            true => output::json(&affected)?,
            false => {
                output::line(format!("{} recipients {done}", ready + deferred))?;
                if in_flight > 0 {
                    output::line(format!(
                        "{in_flight} more are in flight: their attempt decides first"
                    ))?;
                }
            }
        }
        Ok(match ready + deferred + in_flight {
            0 => Found::Finding,
            _ => Found::All,
        })
    }

    fn selector(&self) -> Result<wire::Selector, Failure> {
        let mut selector = wire::Selector {
            all: self.all,
            ..wire::Selector::default()
        };
        match &self.target {
            Some(target) if is_message(target) => selector.message = Some(target.clone()),
            Some(target) if self.recipient.is_none() => selector.domain = Some(target.clone()),
            Some(target) => {
                return Err(Failure::usage(format!(
                    "--recipient goes with a message id, and `{target}` is none"
                )));
            }
            None => {}
        }
        selector.recipient.clone_from(&self.recipient);
        Ok(selector)
    }
}

fn is_message(target: &str) -> bool {
    target.parse::<MessageId>().is_ok()
}

impl Row for wire::Queue {
    const COLUMNS: &'static [&'static str] = &[
        "POOL",
        "DOMAIN",
        ">READY",
        ">DEFERRED",
        ">IN FLIGHT",
        "OLDEST",
        "NEXT",
        "WHY",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.pool.clone(),
            self.domain.clone(),
            self.ready.to_string(),
            self.deferred.to_string(),
            self.in_flight.to_string(),
            or_dash(self.oldest_at.as_ref()),
            or_dash(self.next_wake_at.as_ref()),
            self.reasons
                .iter()
                .map(|r| r.code.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        ]
    }
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
    text
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
