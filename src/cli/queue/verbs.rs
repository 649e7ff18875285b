//! The operator's verbs: which mail, why, and for how long.

use clap::Args;

use super::is_message;
use crate::cli::client::AdminClient;
use crate::cli::output::{Listing, Row};
use crate::cli::{Failure, Found, Place, output};
use crate::config::parse_duration;
use crate::http::wire;

/// Which mail: that of which everything named is so.
#[derive(Args)]
struct Which {
    /// A recipient domain or a message id.
    #[arg(value_name = "DOMAIN|ID")]
    target: Option<String>,
    /// One recipient of the message: its address, or its number in order of RCPT.
    #[arg(long, value_name = "RECIPIENT", requires = "target")]
    recipient: Option<String>,
    /// Mail for this recipient domain, as DOMAIN.
    #[arg(long, value_name = "DOMAIN", conflicts_with = "target")]
    domain: Option<String>,
    /// Mail for domains whose mail hosts are this site, by its key in `queue explain`.
    #[arg(long, value_name = "KEY")]
    site: Option<String>,
    /// Mail of this server.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Mail of streams of this id.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Mail in this pool.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Mail that sticks to this source, or goes through it now.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Messages with this tag; their records are read.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// All mail.
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Verb {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Which,
    /// Why: kept with the events.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Standing {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Which,
    /// How long it stands, such as 30m, 2h or 7d; until it is resumed, if not given.
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<String>,
    /// Why: shown by `queue ls` and `queue explain`, and kept with the events.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Resume {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Which,
    /// The one of this id, as `queue directives` lists it.
    #[arg(long, value_name = "ID")]
    directive: Option<u32>,
    /// Why: kept with the events.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[arg(long)]
    json: bool,
}

impl Which {
    fn selector(self) -> Result<wire::Selector, Failure> {
        let mut selector = wire::Selector {
            all: self.all,
            pool: self.pool,
            domain: self.domain,
            site: self.site,
            server: self.server,
            stream: self.stream,
            source: self.source,
            tag: self.tag,
            recipient: self.recipient,
            ..wire::Selector::default()
        };
        match self.target {
            Some(target) if is_message(&target) => selector.message = Some(target),
            Some(target) if selector.recipient.is_none() => selector.domain = Some(target),
            Some(target) => {
                return Err(Failure::usage(format!(
                    "--recipient goes with a message id, and `{target}` is none"
                )));
            }
            None => {}
        }
        Ok(selector)
    }
}

fn needs_selection(selector: &wire::Selector) -> Result<(), Failure> {
    match *selector == wire::Selector::default() {
        true => Err(Failure::usage(
            "say which mail: a domain or message id, --site, --server, --stream, --pool, --source, --tag, or --all".to_owned(),
        )),
        false => Ok(()),
    }
}

impl Verb {
    pub(super) fn run(self, verb: &str, done: &str) -> Result<Found, Failure> {
        let mut selector = self.which.selector()?;
        needs_selection(&selector)?;
        selector.reason = self.reason;
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
}

impl Standing {
    pub(super) fn run(self, verb: &str, to: Option<String>) -> Result<Found, Failure> {
        let mut selector = self.which.selector()?;
        needs_selection(&selector)?;
        let lasts = self.lasts.as_deref().map(parse_duration).transpose();
        let lasts = lasts.map_err(|e| Failure::usage(format!("--for: {e}")))?;
        selector.reason = self.reason;
        selector.for_seconds = lasts.map(|lasts| lasts.as_secs());
        selector.to = to;
        let client = AdminClient::new(&self.place.data_dir()?)?;
        let directed: wire::Directed =
            client.post(&format!("/admin/v1/queue/{verb}"), &selector)?;
        if self.json {
            output::json(&directed)?;
            return Ok(Found::All);
        }
        output::line(words(&directed.directive))?;
        output::line(format!(
            "{} waiting recipients are concerned now",
            directed.ready + directed.deferred
        ))?;
        if directed.in_flight > 0 {
            output::line(format!(
                "{} more are in flight: their attempt ends first",
                directed.in_flight
            ))?;
        }
        Ok(Found::All)
    }
}

impl Resume {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let mut selector = self.which.selector()?;
        if self.directive.is_none() {
            needs_selection(&selector)?;
        }
        (selector.directive, selector.reason) = (self.directive, self.reason);
        let client = AdminClient::new(&self.place.data_dir()?)?;
        let resumed: wire::Resumed = client.post("/admin/v1/queue/resume", &selector)?;
        if resumed.ended.is_empty() {
            return Err(Failure::finding(
                "no suspension or reroute is meant; those that stand: posthaste queue directives"
                    .to_owned(),
            ));
        }
        for ended in &resumed.ended {
            match self.json {
                true => output::json(ended)?,
                false => output::line(format!("ended: {}", words(ended)))?,
            }
        }
        Ok(Found::All)
    }
}

pub(super) fn directives(place: &Place, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let found: wire::Directives = client.get("/admin/v1/queue/directives")?;
    let mut listing = Listing::new(json);
    for directive in &found.directives {
        listing.push(directive)?;
    }
    listing.flush()?;
    if listing.count() == 0 && !json {
        output::line("no suspension and no reroute stands")?;
    }
    Ok(Found::All)
}

/// One directive in a line.
pub(super) fn words(directive: &wire::Directive) -> String {
    let what = match &directive.to {
        None => "is suspended".to_owned(),
        Some(to) => format!("takes pool {to}"),
    };
    let until = match &directive.until {
        Some(until) => format!("until {until}"),
        None => "until it is resumed".to_owned(),
    };
    let reason = directive.reason.as_deref();
    let reason = reason.map(|reason| format!(": {reason}"));
    let dormant = directive.dormant.as_deref();
    let dormant = dormant.map(|why| format!(" (means nothing now: {why})"));
    format!(
        "{}: {} {what} {until}{}{}",
        directive.id,
        directive.selection.words(),
        reason.unwrap_or_default(),
        dormant.unwrap_or_default()
    )
}

impl Row for wire::Directive {
    const COLUMNS: &'static [&'static str] = &[
        ">ID", "WHAT", "WHICH", "TO", ">QUEUES", "SINCE", "UNTIL", "REASON",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.what.clone(),
            self.selection.words(),
            super::or_dash(self.to.as_ref()),
            self.queues.to_string(),
            self.given_at.clone(),
            super::or_dash(self.until.as_ref()),
            match &self.dormant {
                Some(why) => format!("means nothing now: {why}"),
                None => super::or_dash(self.reason.as_ref()),
            },
        ]
    }
}
