//! `posthaste source`: the addresses that mail leaves from, how they stand, and the operator's verbs. Asks the running daemon.

use clap::Subcommand;
use hyper::Method;

use super::client::{AdminClient, parse, percent};
use super::output::{Listing, Row};
use super::queue::or_dash;
use super::{Failure, Found, Place, output};
use crate::config::parse_duration;
use crate::http::wire;

#[derive(Subcommand)]
pub(super) enum SourceCommand {
    /// List the sources: addresses, pool, whether they are in service and why not.
    #[command(
        after_help = "Examples:\n  posthaste source ls\n  posthaste source ls --json | jq -r 'select(.state != \"in_service\").name'"
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Ask the DNS about the sources: PTR, EHLO name and address, SPF of the EHLO name, the blocklists of [dnsbl].
    ///
    /// Exit code 1: something is wrong.
    #[command(
        after_help = "Examples:\n  posthaste source check\n  posthaste source check tx1\n  posthaste source check --json | jq -c 'select(.level != \"ok\")'"
    )]
    Check {
        #[command(flatten)]
        place: Place,
        /// [default: all]
        #[arg(value_name = "NAME")]
        source: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Empty a source: it opens no connections, its sessions end with what they have, its mail goes by the pool's other sources,
    /// or waits. Stays over restarts.
    #[command(
        after_help = "Examples:\n  posthaste source drain tx1 --reason \"listed at Example RBL\"\n  posthaste source drain tx1 --for 2h"
    )]
    Drain {
        #[command(flatten)]
        place: Place,
        #[arg(value_name = "NAME")]
        source: String,
        /// For those who wonder why: source ls, queue explain and events show it.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// It resumes by itself after so long: 30m, 2h, 1d. [default: until it is resumed]
        #[arg(long = "for", value_name = "TIME")]
        time: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Put a source into service again.
    #[command(after_help = "Example:\n  posthaste source resume tx1")]
    Resume {
        #[command(flatten)]
        place: Place,
        #[arg(value_name = "NAME")]
        source: String,
        #[arg(long)]
        json: bool,
    },
}

impl SourceCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls { place, json } => ls(&place, json),
            Self::Check {
                place,
                source,
                json,
            } => check(&place, source, json),
            Self::Drain {
                place,
                source,
                reason,
                time,
                json,
            } => {
                let seconds = time.as_deref().map(seconds_of).transpose()?;
                let body = serde_json::to_vec(&wire::NewDrain { reason, seconds })
                    .map_err(|e| Failure::usage(e.to_string()))?;
                order(&place, &source, "drain", body, json)
            }
            Self::Resume {
                place,
                source,
                json,
            } => order(&place, &source, "resume", Vec::new(), json),
        }
    }
}

fn seconds_of(text: &str) -> Result<u64, Failure> {
    let wrong = |reason| Failure::usage(format!("--for {text}: {reason}"));
    Ok(parse_duration(text)
        .map_err(wrong)?
        .as_millis()
        .div_ceil(1_000) as u64)
}

fn ls(place: &Place, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let all: wire::Sources = client.get("/admin/v1/sources")?;
    let mut listing = Listing::new(json);
    for source in &all.sources {
        listing.push(source)?;
    }
    listing.flush()?;
    Ok(Found::All)
}

/// One after the other: each has its time.
fn check(place: &Place, source: Option<String>, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let names = match source {
        Some(name) => vec![name],
        None => {
            let all: wire::Sources = client.get("/admin/v1/sources")?;
            all.sources.into_iter().map(|source| source.name).collect()
        }
    };
    let mut found = Found::All;
    for name in names {
        let path = format!("/admin/v1/sources/{}/check", percent(&name));
        let checked: wire::Check = parse(&client.exchange(Method::POST, &path, Vec::new())?)?;
        if let Found::Finding = super::check::show(&checked, json)? {
            found = Found::Finding;
        }
    }
    Ok(found)
}

fn order(
    place: &Place,
    source: &str,
    verb: &str,
    body: Vec<u8>,
    json: bool,
) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let path = format!("/admin/v1/sources/{}/{verb}", percent(source));
    let answer = client.exchange(Method::POST, &path, body)?;
    let source: wire::Source = parse(&answer)?;
    match json {
        true => output::json(&source)?,
        false => output::line(sentence(&source))?,
    }
    Ok(Found::All)
}

fn sentence(source: &wire::Source) -> String {
    let name = &source.name;
    let Some(reason) = &source.reason else {
        return format!("{name} is in service");
    };
    let until = match &source.until {
        Some(until) => format!(", until {until}"),
        None => String::new(),
    };
    let open = match source.connections {
        0 => String::new(),
        open => format!("; {open} connections end with what they have"),
    };
    format!("{name} {reason}{until}{open}")
}

impl Row for wire::Source {
    const COLUMNS: &'static [&'static str] = &[
        "SOURCE",
        "POOL",
        "ADDRESSES",
        "EHLO",
        ">WEIGHT",
        "STATE",
        ">CONNECTIONS",
        ">MESSAGES/H",
        "UNTIL",
        "WHY",
        "LAST TROUBLE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.pool.clone(),
            self.addresses.join(" "),
            self.ehlo.clone(),
            self.weight.to_string(),
            self.state.clone(),
            self.connections.to_string(),
            self.messages_hour.to_string(),
            or_dash(self.until.as_ref()),
            or_dash(self.reason.as_ref()),
            or_dash(self.last_trouble_at.as_ref()),
        ]
    }
}
