//! `posthaste suppression`: to whom streams do not send. Asks the running daemon; whoever may open its admin socket may see,
//! make and lift any suppression.

mod csv;
mod import;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hyper::Method;

use super::account::ask;
use super::client::{AdminClient, percent};
use super::output::{self, Listing, Progress, Row};
use super::{Failure, Found, Place};
use crate::http::wire::{self, SuppressionOutcome as Outcome};
use import::Import;

#[derive(Subcommand)]
pub(super) enum SuppressionCommand {
    /// List suppressions: all, or those of a server, a stream, an address.
    #[command(
        after_help = "Examples:\n  posthaste suppression ls --server shop\n  posthaste suppression ls --address ada@example.com\n  posthaste suppression ls --server shop --stream broadcast --reason SpamComplaint --json\n\nExit code 1: there is none. Where addresses are not kept ([suppressions] hashed) hashes are listed; --address finds its own all the same."
    )]
    Ls {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        json: bool,
    },
    /// Suppress addresses in a stream: no mail of it goes there from now on. Only `rm` lifts that.
    #[command(
        after_help = "Examples:\n  posthaste suppression add shop ada@example.com --stream broadcast\n  posthaste suppression add shop ada@example.com bo@example.com --note \"asked by telephone\"\n  posthaste suppression add shop cy@example.com --reason HardBounce --origin Recipient     one that the customer may lift"
    )]
    Add {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        server: String,
        #[arg(required = true)]
        addresses: Vec<String>,
        #[arg(long, default_value = DEFAULT_STREAM)]
        stream: String,
        /// HardBounce, SpamComplaint, ManualSuppression.
        #[arg(long, default_value = "ManualSuppression")]
        reason: String,
        /// Recipient, Customer, Admin: the customer may lift HardBounce of Recipient and ManualSuppression of Customer.
        #[arg(long, default_value = "Admin")]
        origin: String,
        /// A sentence, kept with the event.
        #[arg(long, default_value = "")]
        note: String,
        #[arg(long)]
        json: bool,
    },
    /// Lift suppressions, whoever made them: mail goes there again.
    #[command(
        after_help = "Examples:\n  posthaste suppression rm shop ada@example.com --stream broadcast\n  posthaste suppression rm shop hash:5d41402abc4b2a76b9719d911017c592\n\nExit code 1: one of them was not suppressed."
    )]
    Rm {
        #[command(flatten)]
        place: Place,
        /// Name or id.
        server: String,
        /// Or hashes, as listed.
        #[arg(required = true)]
        addresses: Vec<String>,
        #[arg(long, default_value = DEFAULT_STREAM)]
        stream: String,
        #[arg(long)]
        json: bool,
    },
    /// Read suppressions from a CSV file, such as another service's or another node's.
    ///
    /// The first line names the columns, in any case and order: address (or EmailAddress, Email, Recipient); reason
    /// (SuppressionReason, else ManualSuppression), origin (else Admin), created_at (CreatedAt, else now), server, stream
    /// (else --server, --stream). Others are passed over.
    #[command(
        after_help = "Examples:\n  posthaste suppression import unsubscribed.csv --server shop --stream broadcast\n  posthaste suppression export > all.csv && scp all.csv other: && ssh other posthaste suppression import all.csv\n  zcat list.csv.gz | posthaste suppression import - --server shop --dry-run\n\nWhat is suppressed already stays as it is, unless only the customer's own and the new one is not. A file may be read again: nothing is\nsuppressed twice. Exit code 1: lines were passed over; each is told on standard error."
    )]
    Import(Import),
    /// Write suppressions as a CSV file that `import` reads.
    #[command(
        after_help = "Examples:\n  posthaste suppression export suppressions.csv\n  posthaste suppression export --server shop --stream broadcast | gzip > shop.csv.gz"
    )]
    Export {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// Must not exist; standard output if not given, or `-`.
        file: Option<PathBuf>,
        /// One JSON object a line in place of CSV.
        #[arg(long)]
        json: bool,
    },
}

/// Which suppressions.
#[derive(Args)]
pub(super) struct Which {
    /// Name or id.
    #[arg(long)]
    server: Option<String>,
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// HardBounce, SpamComplaint, ManualSuppression.
    #[arg(long)]
    reason: Option<String>,
    /// Recipient, Customer, Admin.
    #[arg(long)]
    origin: Option<String>,
    /// In any case.
    #[arg(long)]
    address: Option<String>,
}

impl Which {
    fn path(&self) -> String {
        let parts = [
            ("server", &self.server),
            ("stream", &self.stream),
            ("reason", &self.reason),
            ("origin", &self.origin),
            ("address", &self.address),
        ];
        let given = parts
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", percent(value.as_ref()?))));
        format!("{SUPPRESSIONS}?{}", given.collect::<Vec<_>>().join("&"))
    }
}

/// What became of one address, as commands print it.
#[derive(serde::Serialize)]
struct Changed<'a> {
    address: &'a str,
    outcome: Outcome,
}

impl SuppressionCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Ls { place, which, json } => ls(&place, &which, json),
            Self::Add {
                place,
                server,
                addresses,
                stream,
                reason,
                origin,
                note,
                json,
            } => {
                let suppressions = addresses.iter().map(|address| wire::NewSuppression {
                    address: address.clone(),
                    reason: Some(reason.clone()),
                    origin: Some(origin.clone()),
                    created_at: None,
                });
                let change = wire::SuppressionsChange {
                    suppressions: suppressions.collect(),
                    server,
                    stream,
                    note,
                    dry_run: false,
                };
                tell(change_of(&place, SUPPRESSIONS, &change)?, &change, json)
            }
            Self::Rm {
                place,
                server,
                addresses,
                stream,
                json,
            } => {
                let suppressions = addresses.into_iter().map(|address| wire::NewSuppression {
                    address,
                    ..Default::default()
                });
                let change = wire::SuppressionsChange {
                    suppressions: suppressions.collect(),
                    server,
                    stream,
                    ..Default::default()
                };
                let path = format!("{SUPPRESSIONS}/delete");
                tell(change_of(&place, &path, &change)?, &change, json)
            }
            Self::Import(import) => import.run(),
            Self::Export {
                place,
                which,
                file,
                json,
            } => export(&place, &which, file, json),
        }
    }
}

fn ls(place: &Place, which: &Which, json: bool) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let mut listing = Listing::new(json);
    client.follow(
        &which.path(),
        || (),
        |suppression: wire::Suppression| listing.push(&suppression),
    )?;
    listing.flush()?;
    Ok(match listing.count() {
        0 => Found::Finding,
        _ => Found::All,
    })
}

fn export(
    place: &Place,
    which: &Which,
    file: Option<PathBuf>,
    json: bool,
) -> Result<Found, Failure> {
    let client = AdminClient::new(&place.data_dir()?)?;
    let file = file.filter(|file| file.as_os_str() != "-");
    let to_file = file.is_some();
    let out: Box<dyn Write> = match &file {
        Some(path) => Box::new(
            File::create_new(path)
                .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?,
        ),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut out = BufWriter::new(out);
    let mut progress = Progress::new("suppressions written");
    let mut count = 0u64;
    if !json {
        csv::write(&mut out, &COLUMNS)?;
    }
    client.follow(
        &which.path(),
        || (),
        |suppression: wire::Suppression| {
            count += 1;
            if to_file && count.is_multiple_of(PROGRESS_STEP) {
                progress.counted(count);
            }
            if json {
                serde_json::to_writer(&mut out, &suppression).map_err(std::io::Error::from)?;
                return out.write_all(b"\n");
            }
            let row = [
                &suppression.server,
                &suppression.stream,
                &suppression.address,
                &suppression.reason,
                &suppression.origin,
                &suppression.created_at,
            ];
            csv::write(&mut out, &row)
        },
    )?;
    out.flush()?;
    drop((out, progress));
    if let Some(path) = file {
        output::line(format!("{count} suppressions are in {}", path.display()))?;
    }
    Ok(Found::All)
}

fn change_of(
    place: &Place,
    path: &str,
    change: &wire::SuppressionsChange,
) -> Result<wire::SuppressionsChanged, Failure> {
    ask(place, Method::POST, path, Some(change))
}

fn tell(
    changed: wire::SuppressionsChanged,
    change: &wire::SuppressionsChange,
    json: bool,
) -> Result<Found, Failure> {
    let (server, stream) = (&change.server, &change.stream);
    let mut all = true;
    for (row, outcome) in change.suppressions.iter().zip(changed.outcomes) {
        let address = output::printable(&row.address);
        let (text, is_done) = match outcome {
            Outcome::Suppressed => (format!("is suppressed in {server}/{stream}"), true),
            Outcome::Kept => (
                format!(
                    "is suppressed in {server}/{stream} already; posthaste suppression ls --address {address} tells why"
                ),
                true,
            ),
            Outcome::Lifted => (format!("gets mail of {server}/{stream} again"), true),
            Outcome::NotSuppressed => (format!("is not suppressed in {server}/{stream}"), false),
            wrong => (refusal(wrong).to_owned(), false),
        };
        all &= is_done;
        match json {
            true => output::json(&Changed {
                address: &row.address,
                outcome,
            })?,
            false => output::line(format!("{address} {text}"))?,
        }
    }
    Ok(if all { Found::All } else { Found::Finding })
}

fn refusal(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::InvalidAddress => "is no address",
        Outcome::InvalidReason => {
            "has a reason that is none of HardBounce, SpamComplaint, ManualSuppression"
        }
        Outcome::InvalidOrigin => "has an origin that is none of Recipient, Customer, Admin",
        Outcome::InvalidTime => "has a time that is none, such as 2026-03-02T09:15:00Z",
        Outcome::Suppressed | Outcome::Kept | Outcome::Lifted | Outcome::NotSuppressed => "",
    }
}

impl Row for wire::Suppression {
    const COLUMNS: &'static [&'static str] = &[
        "ADDRESS", "SERVER", "STREAM", "REASON", "ORIGIN", "CREATED", ">EVENT",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.server.clone(),
            self.stream.clone(),
            self.reason.clone(),
            self.origin.clone(),
            self.created_at.clone(),
            self.event.to_string(),
        ]
    }
}

const SUPPRESSIONS: &str = "/admin/v1/suppressions";
const DEFAULT_STREAM: &str = "outbound";
const COLUMNS: [&str; 6] = [
    "server",
    "stream",
    "address",
    "reason",
    "origin",
    "created_at",
];
const PROGRESS_STEP: u64 = 1_000;
