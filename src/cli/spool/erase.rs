//! `posthaste spool erase`: removes for good what the spool holds of somebody (FORMAT.md §5.6). The running daemon does it;
//! while none holds the data directory, this command does.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::cli::client::{AdminClient, NoAnswer};
use crate::cli::output::Progress;
use crate::cli::{Failure, Found, Place, output};
use crate::config;
use crate::http::wire;
use crate::node::erase;
use crate::spool::disk::real::RealDisk;
use crate::spool::{OpenError, Options, Spool};

/// Erase for good what the spool holds of somebody: content, envelopes, and the texts of events.
///
/// A message is erased as a whole, for all its recipients; of its events, those of the recipient. What stays are message
/// ids, times, counts and outcomes, so that `audit` and `verify` still hold. Suppressions stay.
#[derive(Args)]
#[command(after_help = "Examples:
  posthaste spool erase --recipient ann@example.com --dry-run
  posthaste spool erase --recipient ann@example.com --cancel
  posthaste spool erase --message 0192d3a4-5b6c-7def-8123-456789abcdef

Exit code 1: recipients of a message still wait (give --cancel), or something could not be erased; give the same command \
again, it does what is left.")]
pub(in crate::cli) struct Erase {
    #[command(flatten)]
    place: Place,
    /// Messages to this mailbox.
    #[arg(long, value_name = "MAILBOX", required_unless_present_any = ["sender", "message"], conflicts_with_all = ["sender", "message"])]
    recipient: Option<String>,
    /// Messages with this reverse-path.
    #[arg(long, value_name = "MAILBOX", conflicts_with = "message")]
    sender: Option<String>,
    /// One message.
    #[arg(long, value_name = "ID")]
    message: Option<String>,
    /// Only messages of this server.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Only messages accepted before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// Tell upper and lower case apart in the local-part; without it, all ways to write a mailbox are meant.
    #[arg(long)]
    exact: bool,
    /// Cancel recipients that still wait, of every message concerned.
    #[arg(long)]
    cancel: bool,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

impl Erase {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.place.data_dir()?;
        let what = wire::NewErasure {
            recipient: self.recipient.clone(),
            sender: self.sender.clone(),
            message: self.message.clone(),
            server: self.server.clone(),
            before: self.before.clone(),
            exact: self.exact,
            cancel: self.cancel,
            dry_run: self.dry_run,
        };
        erase::query(&what).map_err(Failure::usage)?;
        let client = AdminClient::new(&data_dir)?;
        let ended = match client.post::<wire::Erasure>("/admin/v1/erasures", &what) {
            Ok(begun) => wait(&client, begun)?,
            Err(NoAnswer::NoDaemon(no_daemon)) => {
                self.alone(&data_dir, &what)
                    .map_err(|failure| match failure.code {
                        // Somebody holds the directory, and does not listen.
                        LOCKED => Failure::unreachable(no_daemon),
                        _ => failure,
                    })?
            }
            Err(refused) => return Err(refused.into()),
        };
        self.report(&ended)
    }

    fn alone(&self, data_dir: &Path, what: &wire::NewErasure) -> Result<wire::Erasure, Failure> {
        if !data_dir.join("spool").is_dir() {
            return Err(Failure::data_dir(format!(
                "{} holds no spool; name the daemon's data directory with --data-dir or its configuration with --config",
                data_dir.display()
            )));
        }
        if Spool::holder(&RealDisk::new(), data_dir).is_some() {
            return Err(Failure::new(LOCKED, ""));
        }
        if what.cancel {
            return Err(Failure::unreachable(
                "--cancel needs the running daemon, which alone knows what waits; start it, or leave --cancel out",
            ));
        }
        let zone = self.place.config.as_deref().map(config::time_zone_in);
        let zone = zone
            .transpose()
            .map_err(|e| Failure::config(e.to_string()))?;
        let progress = std::cell::RefCell::new(Progress::new("erasing: MiB read"));
        // Whatever the configuration says of it, the file system is the one that holds the spool.
        let options = Options {
            any_file_system: true,
            ..Options::new(data_dir)
        };
        erase::without_node(options, zone, what, &|erasure| {
            show(&mut progress.borrow_mut(), erasure);
        })
        .map_err(|error| match error {
            OpenError::Locked { .. } => Failure::new(LOCKED, error.to_string()),
            OpenError::Io { .. } => Failure::disk(error.to_string()),
            _ => Failure::config(error.to_string()),
        })
    }

    fn report(&self, ended: &wire::Erasure) -> Result<Found, Failure> {
        if self.json {
            output::json(ended)?;
        } else {
            output::line(text(ended))?;
        }
        let left = ended.unerasable + ended.busy;
        match ended.state.as_str() {
            "done" if ended.messages + ended.event_records + ended.mail_records == 0 => {
                Ok(Found::Finding)
            }
            "done" if left == 0 => Ok(Found::All),
            "done" | "refused" => Ok(Found::Finding),
            _ => Err(Failure::disk(ended.error.clone().unwrap_or_default())),
        }
    }
}

fn wait(client: &AdminClient, mut erasure: wire::Erasure) -> Result<wire::Erasure, Failure> {
    let mut progress = Progress::new("erasing: MiB read");
    while erasure.state == "running" {
        std::thread::sleep(POLL);
        erasure = client.get(&format!("/admin/v1/erasures/{}", erasure.id))?;
        show(&mut progress, &erasure);
    }
    Ok(erasure)
}

fn show(progress: &mut Progress, erasure: &wire::Erasure) {
    let mebibytes = |bytes: u64| (bytes >> 20) as usize;
    progress.at(
        mebibytes(erasure.scanned_bytes),
        mebibytes(erasure.total_bytes),
    );
}

fn text(erasure: &wire::Erasure) -> String {
    let wire::Erasure {
        messages,
        mail_records,
        event_records,
        ..
    } = erasure;
    let mut text = match erasure.state.as_str() {
        "refused" => format!(
            "nothing more was erased: {} messages have recipients that still wait; --cancel cancels them, for all recipients of these messages",
            erasure.live_count
        ),
        "failed" => "the erasure failed".to_owned(),
        _ if erasure.dry_run => format!(
            "to be erased: {messages} messages, {mail_records} records of the mail log, {event_records} events"
        ),
        _ => format!(
            "erased: {} records; found: {messages} messages, {mail_records} records of the mail log, {event_records} events",
            erasure.erased
        ),
    };
    for (count, what) in [
        (
            erasure.cancelled,
            "recipients that waited were cancelled first",
        ),
        (erasure.already_erased, "records had been erased before"),
        (
            erasure.unerasable,
            "records are damaged or too short and stay as they are",
        ),
        (
            erasure.busy,
            "records are being read for long and stay; give the command again later",
        ),
    ] {
        if count > 0 {
            text += &format!("\n{count} {what}");
        }
    }
    if erasure.dry_run && erasure.live_count > 0 {
        text += &format!(
            "\n{} of the messages have recipients that still wait",
            erasure.live_count
        );
    }
    for id in &erasure.live {
        text += &format!("\n  {id}");
    }
    text
}

/// Of a failure that another message is better for.
const LOCKED: u8 = 255;
const POLL: Duration = Duration::from_millis(200);
