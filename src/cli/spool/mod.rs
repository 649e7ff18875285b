//! `posthaste spool`: the data directory as it is on disk, read-only, daemon up or down. One file per command.

mod cat;
mod compact;
mod erase;
mod exported;
mod import;
mod ls;
mod show;
mod stat;
mod verify;

use clap::{Args, Subcommand};
use spool_format::{LogKind, MessageRecord, kind};

use super::events::Tail;
use super::logs::LogReader;
use super::output::Progress;
use super::{Failure, Found, Place, logs};
use crate::mail::MessageId;
use ls::MessageRow;

#[derive(Subcommand)]
pub(super) enum SpoolCommand {
    /// Sum up both logs.
    Stat(Listed),
    /// List the messages that are kept.
    Ls {
        #[command(flatten)]
        listed: Listed,
        /// Only messages with recipients that still wait.
        #[arg(long)]
        live: bool,
    },
    /// Show a message: its envelope, and what became of each recipient.
    Show {
        #[command(flatten)]
        listed: Listed,
        id: MessageId,
    },
    /// Write a message's content to standard output, byte for byte.
    Cat {
        #[command(flatten)]
        place: Place,
        id: MessageId,
    },
    /// Read everything and check every checksum and reference. Exit code 1 on damage.
    Verify(Listed),
    /// Have the daemon copy live mail out of complete segments now, however young, few or full of life they are.
    Compact {
        #[command(flatten)]
        place: Place,
    },
    /// Print messages as they are accepted.
    Tail(Tail),
    Erase(erase::Erase),
    Import(import::Import),
}

#[derive(Args)]
pub(super) struct Listed {
    #[command(flatten)]
    place: Place,
    #[arg(long)]
    json: bool,
}

impl Listed {
    fn open(&self, kind: LogKind) -> Result<LogReader, Failure> {
        open(&self.place, kind)
    }
}

fn open(place: &Place, kind: LogKind) -> Result<LogReader, Failure> {
    let mut progress = Progress::new(format!("reading the {} log, segment", logs::name(kind)));
    let reader = LogReader::open(&place.data_dir()?, kind, 0)?;
    Ok(reader.with_progress(move |done, of| progress.at(done, of)))
}

impl SpoolCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Stat(listed) => stat::stat(&listed),
            Self::Ls { listed, live } => ls::ls(&listed, live),
            Self::Show { listed, id } => show::show(&listed, id),
            Self::Cat { place, id } => cat::cat(&place, id),
            Self::Verify(listed) => verify::verify(&listed),
            Self::Erase(erase) => erase.run(),
            Self::Import(import) => import.run(),
            Self::Compact { place } => compact::compact(&place),
            Self::Tail(tail) => tail.run(LogKind::Mail, kind::MESSAGE, |position, payload| {
                let record = MessageRecord::decode(payload).ok()?;
                Some(MessageRow::new(position, &record, None))
            }),
        }
    }
}

fn message_with(id: MessageId, record_kind: u8, payload: &[u8]) -> Option<MessageRecord<'_>> {
    let record = (record_kind == kind::MESSAGE).then(|| MessageRecord::decode(payload).ok())??;
    (record.id == *id.as_bytes()).then_some(record)
}

fn not_found(id: MessageId) -> Failure {
    Failure::finding(format!(
        "the mail log holds no message {id} (any more); its events: posthaste events tail --no-follow"
    ))
}

#[cfg(test)]
mod tests;
