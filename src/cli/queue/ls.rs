//! `posthaste queue ls`: what waits, as a table of destinations and ages.

use clap::{Args, ValueEnum};

use super::verbs::words;
use crate::cli::client::{AdminClient, percent};
use crate::cli::output::{Listing, Row};
use crate::cli::{Failure, Found, Place, output};
use crate::http::wire;

#[derive(Args)]
#[command(
    after_help = "The columns 5 to 1280+ count recipients by the minutes since they were accepted, `?` those with a schedule, a deadline or an age \
limit of their own.\n\nExamples:\n  posthaste queue ls --sort size --limit 20\n  posthaste queue ls --by source\n  posthaste queue ls --json | jq 'select(.deferred > 1000)'"
)]
pub(in crate::cli) struct Ls {
    #[command(flatten)]
    place: Place,
    /// What a row is about.
    #[arg(long, value_enum, default_value_t = By::Domain)]
    by: By,
    #[arg(long, value_enum, default_value_t = Sort::Name)]
    sort: Sort,
    /// Rows at most.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    Domain,
    Site,
    Stream,
    Server,
    Source,
    Pool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    Name,
    Size,
    Age,
}

impl By {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Site => "site",
            Self::Stream => "stream",
            Self::Server => "server",
            Self::Source => "source",
            Self::Pool => "pool",
        }
    }
}

impl Ls {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let client = AdminClient::new(&self.place.data_dir()?)?;
        let mut listing = Listing::new(self.json);
        let sort = match self.sort {
            Sort::Name => "name",
            Sort::Size => "size",
            Sort::Age => "age",
        };
        let base = format!("/admin/v1/queue/census?by={}&sort={sort}", self.by.word());
        let (mut path, mut hidden) = (base.clone(), 0);
        let recipients = loop {
            let left = self
                .limit
                .map(|limit| limit.saturating_sub(listing.count()));
            if let Some(left) = left {
                path += &format!("&limit={}", left.max(1));
            }
            let page: wire::Census = client.get(&path)?;
            for row in page.rows.iter().take(left.unwrap_or(u64::MAX) as usize) {
                listing.push(row)?;
            }
            let ends = self.limit.is_some_and(|limit| listing.count() >= limit);
            match page.next {
                Some(next) if !ends => {
                    path = format!(
                        "{base}&after_pool={}&after_name={}",
                        percent(&next.pool),
                        percent(&next.domain)
                    );
                }
                _ => {
                    hidden = page.groups.saturating_sub(listing.count()).max(hidden);
                    break page.recipients;
                }
            }
        };
        listing.flush()?;
        if self.json {
            return Ok(Found::All);
        }
        let shown = listing.count();
        drop(listing);
        if shown == 0 {
            output::line("nothing waits")?;
        } else {
            let more = match hidden {
                0 => String::new(),
                hidden => format!("; {hidden} more rows: raise --limit"),
            };
            output::line(format!(
                "{} ready, {} deferred, {} in flight{more}",
                recipients.ready, recipients.deferred, recipients.in_flight
            ))?;
        }
        let found: wire::Directives = client.get("/admin/v1/queue/directives")?;
        for directive in &found.directives {
            output::line(format!("directive {}", words(directive)))?;
        }
        Ok(Found::All)
    }
}

impl Row for wire::CensusRow {
    const COLUMNS: &'static [&'static str] = &[
        "POOL",
        "NAME",
        ">TOTAL",
        ">5",
        ">10",
        ">20",
        ">40",
        ">80",
        ">160",
        ">320",
        ">640",
        ">1280",
        ">1280+",
        ">?",
        ">READY",
        ">DEFERRED",
        ">IN FLIGHT",
        "WHY",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            super::or_dash(self.pool.as_ref()),
            name(self),
            (self.ready + self.deferred + self.in_flight).to_string(),
        ];
        // As many as there are columns, whatever a daemon of another version says.
        let ages = self.ages.iter().chain(std::iter::repeat(&0)).take(10);
        cells.extend(ages.chain([&self.age_unknown]).map(u64::to_string));
        cells.extend([self.ready, self.deferred, self.in_flight].map(|n| n.to_string()));
        let codes = super::codes(&self.reasons);
        cells.push(codes.join(" "));
        cells
    }
}

pub(super) fn name(row: &wire::CensusRow) -> String {
    match row.name.as_str() {
        "" => "(not known)".to_owned(),
        name => name.to_owned(),
    }
}
