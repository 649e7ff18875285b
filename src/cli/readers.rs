//! `posthaste readers`: what is made of the event log, how far that is, and to have it made again. Asks the running daemon.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;

use super::client::{AdminClient, parse, percent};
use super::output::{Listing, Progress, Row};
use super::queue::or_dash;
use super::{Failure, Found, Place, output};
use crate::http::wire;

#[derive(Subcommand)]
pub(super) enum ReadersCommand {
    /// List the readers: how far each is, and what it keeps.
    #[command(
        after_help = "Examples:\n  posthaste readers ls\n  posthaste readers ls --json | jq 'select(.lag_bytes > 1000000).name'"
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Make again, from its base and the event log, what a reader keeps.
    ///
    /// What it kept answers until the new is complete. The daemon goes on if this command is ended; if the daemon ends, what
    /// was kept stays, and the order is to be given again. Exit code 1: it was not completed.
    #[command(after_help = "Example:\n  posthaste readers rebuild bounces")]
    Rebuild {
        #[command(flatten)]
        place: Place,
        #[arg(value_name = "NAME")]
        reader: String,
        #[arg(long)]
        json: bool,
    },
}

impl ReadersCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls { place, json } => ls(&place, json),
            Self::Rebuild {
                place,
                reader,
                json,
            } => rebuild(&place, &reader, json),
        }
    }
}

fn ls(place: &Place, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let all: wire::Readers = client.get("/admin/v1/readers")?;
    let mut listing = Listing::new(json);
    for reader in &all.readers {
        listing.push(reader)?;
    }
    listing.flush()?;
    Ok(Found::All)
}

fn rebuild(place: &Place, name: &str, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let path = format!("/admin/v1/readers/{}/rebuild", percent(name));
    let begun: wire::Reader = parse(&client.exchange(Method::POST, &path, Vec::new())?)?;
    let mut progress = Progress::new(format!("{name}: KiB of the event log"));
    let made = loop {
        let all: wire::Readers = client.get("/admin/v1/readers")?;
        let now = all.readers.into_iter().find(|reader| reader.name == name);
        let now =
            now.ok_or_else(|| Failure::finding(format!("there is no reader `{name}` any more")))?;
        match &now.rebuilding {
            Some(at) => progress.at(
                (at.position.saturating_sub(at.from) / 1024) as usize,
                (at.until.saturating_sub(at.from) / 1024) as usize,
            ),
            None => break now,
        }
        if let Some(trouble) = &now.trouble {
            tell_trouble(name, trouble);
        }
        std::thread::sleep(AGAIN);
    };
    drop(progress);
    if made.generation <= begun.generation {
        return Err(Failure::finding(format!(
            "{name} was not made again: the daemon was restarted meanwhile, and what was kept still answers; order it again"
        )));
    }
    match json {
        true => output::json(&made)?,
        false => output::line(format!("{name} has been made again from the event log"))?,
    }
    Ok(Found::All)
}

/// Something is in the way; the daemon tries on.
fn tell_trouble(name: &str, trouble: &str) {
    eprintln!("{name} does not get on: {trouble}; the daemon tries again");
}

impl Row for wire::Reader {
    const COLUMNS: &'static [&'static str] = &[
        "READER",
        "STATE",
        ">POSITION",
        ">LAG BYTES",
        "LAST EVENT",
        ">ENTRIES",
        ">BYTES",
        ">BASE",
        "TROUBLE",
    ];

    fn cells(&self) -> Vec<String> {
        let state = match &self.rebuilding {
            Some(at) if at.until > at.from => format!(
                "{} {} %",
                self.state,
                at.position.saturating_sub(at.from) * 100 / (at.until - at.from)
            ),
            _ => self.state.clone(),
        };
        vec![
            self.name.clone(),
            state,
            self.position.to_string(),
            self.lag_bytes.to_string(),
            or_dash(self.at.as_ref()),
            or_dash(self.entries.as_ref()),
            or_dash(self.bytes.as_ref()),
            or_dash(self.base.as_ref()),
            or_dash(self.trouble.as_ref()),
        ]
    }
}

const AGAIN: Duration = Duration::from_millis(200);
