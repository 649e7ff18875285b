//! `posthaste spool`: the data directory as it is on disk, read-only, daemon up or down. One file per command.

mod at;
mod cat;
mod compact;
mod erase;
mod export;
mod exported;
mod import;
mod ls;
mod message;
mod quarantined;
mod references;
mod show;
mod stat;
mod verify;

use clap::{Args, Subcommand};
use spool_format::{LogKind, MessageRecord, kind};

use super::events::Tail;
use super::filter::MessageFilter;
use super::logs::{Finder, FoundMessage, IdPrefix};
use super::output::Progress;
use super::{Failure, Found, Place};
use crate::mail::MessageId;
use message::MessageRow;

#[derive(Subcommand)]
#[command(after_help = "\
All of these only read: the daemon may run or not, the directory may be a copy, and its group may look (no lock is taken, nothing \
is written). Exit codes: 0 done; 1 a finding (damage, nothing matched); 2 usage; 73 no spool there, or not readable; 74 the disk failed.")]
pub(super) enum SpoolCommand {
    /// Sum up both logs, the archives and what waits: by destination and age.
    Stat(stat::Stat),
    /// List the messages that are kept, in order of position.
    Ls(ls::Ls),
    /// Show a message: its envelope, every event of it, and where its bytes lie.
    #[command(after_help = "Examples:
  posthaste spool show 019a1f0e-7b1c-7cc3-98c4-dc0c0c07398f
  posthaste spool show 019a1f0e7b1                 the beginning is enough where it is unambiguous
  posthaste spool show --json 019a1f0e7b1 | jq .events

Exit code 1: no message, or several, have this id.")]
    Show {
        #[command(flatten)]
        listed: Listed,
        /// A message id, or its first digits.
        #[arg(value_name = "ID")]
        id: IdPrefix,
    },
    /// Write a message's content to standard output, byte for byte.
    #[command(after_help = "Examples:
  posthaste spool cat 019a1f0e7b1 > message.eml
  posthaste spool cat --headers 019a1f0e7b1

Archives are read as well. Exit code 1: there is no such message any more, it was erased, or a part of it is damaged.")]
    Cat(cat::Cat),
    /// Read everything and check every checksum and reference. Exit code 1 on damage.
    Verify(verify::Verify),
    /// Have the daemon copy live mail out of complete segments now, however young, few or full of life they are.
    #[command(after_help = "Example:\n  posthaste spool compact --config /etc/posthaste.toml")]
    Compact {
        #[command(flatten)]
        place: Place,
    },
    /// Print messages as they are accepted.
    #[command(after_help = "Examples:
  posthaste spool tail -n 10
  posthaste spool tail --since -10m --domain example.com --json

Goes on through restarts of the daemon, and while segments are taken back.")]
    Tail {
        #[command(flatten)]
        tail: Tail,
        #[command(flatten)]
        filter: TailFilter,
    },
    /// Show the queue, or one message, as it was at a past moment (time travel), from the event log.
    At(at::At),
    Erase(erase::Erase),
    Export(export::Export),
    Import(import::Import),
}

#[derive(Args)]
pub(super) struct Listed {
    #[command(flatten)]
    place: Place,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

/// [`MessageFilter`] without the times, which say where to begin.
#[derive(Args)]
pub(super) struct TailFilter {
    /// Only messages with a recipient in this domain.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Only messages of this message stream.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Only messages of this server.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
}

impl SpoolCommand {
    pub(super) fn run(self) -> Result<Found, Failure> {
        match self {
            Self::Stat(stat) => stat.run(),
            Self::Ls(ls) => ls.run(),
            Self::Show { listed, id } => show::show(&listed, &id),
            Self::Cat(cat) => cat.run(),
            Self::Verify(verify) => verify.run(),
            Self::Tail { tail, filter } => filter.tail(tail),
            Self::At(at) => at.run(),
            Self::Erase(erase) => erase.run(),
            Self::Export(export) => export.run(),
            Self::Import(import) => import.run(),
            Self::Compact { place } => compact::compact(&place),
        }
    }
}

impl TailFilter {
    fn tail(self, tail: Tail) -> Result<Found, Failure> {
        let filter = MessageFilter {
            domain: self.domain,
            stream: self.stream,
            server: self.server,
            since: tail.since,
            ..MessageFilter::default()
        };
        tail.run(LogKind::Mail, |position, frame| {
            let record = (frame.kind == kind::MESSAGE)
                .then(|| MessageRecord::decode(frame.payload).ok())??;
            filter
                .takes_record(&record, u64::MAX)
                .then(|| MessageRow::new(position, &record))
        })
    }
}

/// Tells on a terminal how far the reading of a log is.
pub(super) fn progress(log: &'static str) -> Box<dyn FnMut(usize, usize)> {
    let mut progress = Progress::new(format!("reading the {log} log, segment"));
    Box::new(move |done, of| progress.at(done, of))
}

/// The one message whose id is, or begins with, `prefix`. Events up to `until_ms`.
fn find_one(place: &Place, prefix: &IdPrefix, until_ms: u64) -> Result<FoundMessage, Failure> {
    let data_dir = place.data_dir()?;
    let mut found = Finder::new(&data_dir, progress).find(prefix, until_ms)?;
    match found.len() {
        0 => Err(Failure::finding(format!(
            "the logs hold no message {prefix} (any more); posthaste spool ls shows those that are kept"
        ))),
        1 => Ok(found.remove(0)),
        many => {
            let few = found.iter().take(10);
            let ids: Vec<String> = few
                .map(|m| MessageId::from_bytes(m.id).to_string())
                .collect();
            Err(Failure::finding(format!(
                "{many} or more messages have ids that begin with {prefix}; give more of it: {}",
                ids.join(" ")
            )))
        }
    }
}

#[cfg(test)]
mod tests;
