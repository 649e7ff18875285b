//! `posthaste suppression import`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use serde::Serialize;

use super::super::account::ask;
use super::super::output::{self, Progress};
use super::super::{Failure, Found, Place};
use super::{Outcome, PROGRESS_STEP, SUPPRESSIONS, csv, refusal};
use crate::http::wire;
use crate::limits;

#[derive(Args)]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    place: Place,
    /// `-`: standard input.
    file: PathBuf,
    /// Of lines that name none: name or id.
    #[arg(long)]
    server: Option<String>,
    /// Of lines that name none.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// A sentence, kept with each event.
    #[arg(long, default_value = "")]
    note: String,
    /// Read the file and suppress nobody.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

/// Where the columns are.
#[derive(Default)]
struct Columns {
    address: usize,
    reason: Option<usize>,
    origin: Option<usize>,
    created_at: Option<usize>,
    server: Option<usize>,
    stream: Option<usize>,
}

/// What became of the lines.
#[derive(Default, Serialize)]
struct Sum {
    read: u64,
    suppressed: u64,
    /// They were already.
    kept: u64,
    invalid: u64,
}

/// Lines on their way to one stream.
#[derive(Default)]
struct Batch {
    rows: Vec<wire::NewSuppression>,
    lines: Vec<u64>,
    octets: usize,
}

impl Import {
    pub(in crate::cli) fn run(self) -> Result<Found, Failure> {
        let named = |e: io::Error| Failure::usage(format!("{}: {e}", self.file.display()));
        let (from, size): (Box<dyn BufRead>, u64) = match self.file.as_os_str() == "-" {
            true => (Box::new(io::stdin().lock()), 0),
            false => {
                let file = File::open(&self.file).map_err(named)?;
                let size = file.metadata().map_or(0, |m| m.len());
                (Box::new(BufReader::new(file)), size)
            }
        };
        let mut reader = csv::Reader::new(from);
        let heading = reader.row().map_err(named)?.unwrap_or_default();
        let columns = Columns::of(&heading).ok_or_else(|| {
            Failure::usage(format!(
                "{}: the first line names no column `address` (or EmailAddress, Email, Recipient)",
                self.file.display()
            ))
        })?;
        let mut progress = Progress::new(match size {
            0 => "lines read".to_owned(),
            size => format!("lines read (file of {size} bytes)"),
        });
        let mut batches: BTreeMap<(String, String), Batch> = BTreeMap::new();
        let mut sum = Sum::default();
        while let Some(cells) = reader.row().map_err(named)? {
            sum.read += 1;
            if sum.read.is_multiple_of(PROGRESS_STEP) {
                progress.counted(sum.read);
            }
            let (to, row) = self.row(&columns, &cells, reader.line)?;
            let batch = batches.entry(to.clone()).or_default();
            batch.octets += row.address.len() + ROW_OCTETS;
            batch.rows.push(row);
            batch.lines.push(reader.line);
            if batch.is_full() {
                let batch = std::mem::take(batch);
                self.send(to, batch, &mut sum)?;
            }
        }
        for (to, batch) in batches {
            self.send(to, batch, &mut sum)?;
        }
        drop(progress);
        match self.json {
            true => output::json(&sum)?,
            false => {
                let Sum {
                    read,
                    suppressed,
                    kept,
                    invalid,
                } = &sum;
                let would = if self.dry_run { "would be" } else { "are" };
                output::line(format!(
                    "{read} lines read: {suppressed} {would} suppressed, {kept} were already, {invalid} were passed over"
                ))?;
            }
        }
        Ok(match sum.invalid {
            0 => Found::All,
            _ => Found::Finding,
        })
    }

    fn row(
        &self,
        columns: &Columns,
        cells: &[String],
        line: u64,
    ) -> Result<((String, String), wire::NewSuppression), Failure> {
        let cell = |place: Option<usize>| {
            let text = cells.get(place?)?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let missing = |what: &str| {
            Failure::usage(format!(
                "line {line} names no {what}, and there is no --{what}; what was before it is done"
            ))
        };
        let server = cell(columns.server).or_else(|| self.server.clone());
        let stream = cell(columns.stream).or_else(|| self.stream.clone());
        let to = (
            server.ok_or_else(|| missing("server"))?,
            stream.ok_or_else(|| missing("stream"))?,
        );
        let row = wire::NewSuppression {
            address: cell(Some(columns.address)).unwrap_or_default(),
            reason: cell(columns.reason),
            origin: cell(columns.origin),
            created_at: cell(columns.created_at),
        };
        Ok((to, row))
    }

    fn send(
        &self,
        (server, stream): (String, String),
        batch: Batch,
        sum: &mut Sum,
    ) -> Result<(), Failure> {
        if batch.rows.is_empty() {
            return Ok(());
        }
        let change = wire::SuppressionsChange {
            server,
            stream,
            suppressions: batch.rows,
            note: self.note.clone(),
            dry_run: self.dry_run,
        };
        let changed: wire::SuppressionsChanged =
            ask(&self.place, Method::POST, SUPPRESSIONS, Some(&change))?;
        for (line, outcome) in batch.lines.iter().zip(changed.outcomes) {
            match outcome {
                Outcome::Suppressed => sum.suppressed += 1,
                Outcome::Kept => sum.kept += 1,
                wrong => {
                    sum.invalid += 1;
                    eprintln!("posthaste: line {line} {}", refusal(wrong));
                }
            }
        }
        Ok(())
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.rows.len() >= limits::SUPPRESSION_ROWS
            || self.octets >= limits::HTTP_ADMIN_BODY_MAX / 2
    }
}

impl Columns {
    /// As posthaste, Postmark and others call them.
    fn of(heading: &[String]) -> Option<Self> {
        let find = |names: &[&str]| {
            heading.iter().position(|cell| {
                let cell: String = cell.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
                names.iter().any(|name| cell.eq_ignore_ascii_case(name))
            })
        };
        Some(Self {
            address: find(&["address", "emailaddress", "email", "recipient"])?,
            reason: find(&["reason", "suppressionreason"]),
            origin: find(&["origin"]),
            created_at: find(&["createdat"]),
            server: find(&["server"]),
            stream: find(&["stream", "messagestream"]),
        })
    }
}

/// Of a line's JSON besides its address, at most: what else a row says in words of ours.
const ROW_OCTETS: usize = 160;
