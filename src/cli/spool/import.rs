//! `posthaste spool import`: gives messages to the running daemon, each durable before the next word about it is said. So a
//! queue moves to another node.
//!
//! A few messages are under way at a time, so that they share syncs. What is in memory is bounded by [`BYTES_AT_ONCE`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Method;
use serde::Serialize;

use super::exported::{Exported, ExportedRecipient};
use crate::cli::client::{AdminClient, NoAnswer, parse};
use crate::cli::{Failure, Found, Place, UNREACHABLE, output};
use crate::http::wire;

/// Give messages to the running daemon: the lines of `spool export`, or one message from an .eml file.
///
/// Content is taken octet for octet, without another Received or Message-ID. Messages of an export keep their id and the time from
/// which their age counts; their attempts begin anew. Those that the node knows already are passed over, so that an import
/// may be given again after whatever stopped it.
#[derive(Args)]
#[command(after_help = "Examples:
  posthaste spool export --live --data-dir /old | posthaste spool import -
  posthaste spool import queue.jsonl --dry-run
  posthaste spool import note.eml --server app --from a@example.com --to b@example.org
  posthaste spool import mail/ID.eml               with the ID.json of its export beside it

The servers and streams that messages name must exist on this node, or be replaced by --server and --stream. The node that the \
messages come from must not deliver them as well: stop it first, or cancel them there. Exit code 1: a line was refused.")]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    place: Place,
    /// Lines of JSON, or a message whose name ends in .eml; `-`: standard input.
    file: PathBuf,
    /// Recipients that have ended too. Without it, only those that still wait.
    #[arg(long)]
    all: bool,
    /// The server of all messages.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// The message stream of all messages.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Of an .eml: the reverse-path; `<>`: null.
    #[arg(long, value_name = "MAILBOX")]
    from: Option<String>,
    /// Of an .eml: a recipient. May be given several times.
    #[arg(long, value_name = "MAILBOX")]
    to: Vec<String>,
    /// Have everything checked, take nothing.
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
struct Summary {
    lines: u64,
    /// Durable on this node now; with --dry-run, fit to be.
    imported: u64,
    /// There before.
    known: u64,
    /// Nobody waits for them.
    ended: u64,
    refused: u64,
}

/// One message on its way.
struct Work {
    line: u64,
    bytes: Vec<u8>,
}

impl Import {
    pub(super) fn run(self) -> Result<Found, Failure> {
        let data_dir = self.place.data_dir()?;
        let input: Box<dyn Read + Send> = match self.file.to_str() {
            Some("-") => Box::new(io::stdin()),
            _ => Box::new(
                File::open(&self.file)
                    .map_err(|e| Failure::usage(format!("{}: {e}", self.file.display())))?,
            ),
        };
        let is_eml = !self.to.is_empty() || self.file.extension().is_some_and(|e| e == "eml");
        let client = AdminClient::new(&data_dir)?;
        let session = begin(&client)?;
        let job = Job {
            import: &self,
            data_dir: &data_dir,
            session,
            counts: Counts::default(),
            stopped: Mutex::new(None),
            budget: Budget::default(),
        };
        let done = match is_eml {
            true => job.one(input),
            false => job.lines(input),
        };
        // If the daemon has gone, so has the session.
        let path = format!("/admin/v1/imports/{session}");
        let _ = client.exchange(Method::DELETE, &path, Vec::new());
        let summary = job.counts.summary();
        let stopped = job.stopped.into_inner();
        self.report(&summary)?;
        done?;
        match stopped.unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(failure),
            None if summary.refused > 0 => Ok(Found::Finding),
            None => Ok(Found::All),
        }
    }

    fn report(&self, summary: &Summary) -> Result<(), Failure> {
        if self.json {
            output::json(summary)?;
            return Ok(());
        }
        let Summary {
            imported,
            known,
            ended,
            refused,
            ..
        } = summary;
        let verb = if self.dry_run { "checked" } else { "imported" };
        output::line(format!(
            "{imported} {verb}, {known} were there before, {ended} have nobody that waits, {refused} refused"
        ))?;
        Ok(())
    }

    /// The message of an .eml file.
    fn eml(&self, octets: Vec<u8>) -> Result<(Exported, Vec<u8>), String> {
        let beside = self.file.with_extension("json");
        if self.to.is_empty() && self.file.extension().is_some() && beside.is_file() {
            let envelope = std::fs::read(&beside).map_err(|e| e.to_string());
            let message: Exported = envelope
                .and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()))
                .map_err(|e| format!("{}: {e}", beside.display()))?;
            return Ok((self.placed(message), octets));
        }
        let (Some(server), Some(from), false) = (&self.server, &self.from, self.to.is_empty())
        else {
            return Err(
                "an .eml needs --server, --from and --to, or the .json of its export beside it"
                    .to_owned(),
            );
        };
        let bare = |text: &str| {
            let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
            inner.unwrap_or(text).to_owned()
        };
        let recipients = self.to.iter().map(|to| ExportedRecipient {
            recipient: bare(to),
            state: "ready".to_owned(),
            ..ExportedRecipient::default()
        });
        let message = Exported {
            server: server.clone(),
            stream: self.stream.clone(),
            reverse_path: bare(from),
            recipients: recipients.collect(),
            smtputf8: !octets.is_ascii(),
            ..Exported::default()
        };
        Ok((message, with_crlf(octets)))
    }

    /// The message of a line.
    fn exported(&self, line: &[u8]) -> Result<(Exported, Vec<u8>), String> {
        let mut message: Exported = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let content = message
            .content
            .take()
            .ok_or("it has no content; give the .eml beside it, or export as jsonl")?;
        let content = STANDARD
            .decode(content)
            .map_err(|e| format!("content: {e}"))?;
        Ok((self.placed(message), content))
    }

    fn placed(&self, mut message: Exported) -> Exported {
        if let Some(server) = &self.server {
            message.server.clone_from(server);
        }
        if self.stream.is_some() {
            message.stream.clone_from(&self.stream);
        }
        message
    }
}

/// Files of systems whose lines end in LF alone: RFC 5322 §2.1 wants CRLF. Anything else is left as it is.
fn with_crlf(octets: Vec<u8>) -> Vec<u8> {
    if octets.contains(&b'\r') {
        return octets;
    }
    let lines = octets.split_inclusive(|&octet| octet == b'\n');
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 32);
    for line in lines {
        match line.split_last() {
            Some((b'\n', text)) => {
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            _ => out.extend_from_slice(line),
        }
    }
    out
}

/// Begins a session and waits until the daemon knows what it has.
fn begin(client: &AdminClient) -> Result<u64, Failure> {
    let mut import: wire::Import = client.post("/admin/v1/imports", &())?;
    while import.state == "reading" {
        std::thread::sleep(POLL);
        import = client.get(&format!("/admin/v1/imports/{}", import.id))?;
    }
    Ok(import.id)
}

/// An import under way.
struct Job<'a> {
    import: &'a Import,
    data_dir: &'a Path,
    session: u64,
    counts: Counts,
    /// Why nothing more is taken.
    stopped: Mutex<Option<Failure>>,
    budget: Budget,
}

#[derive(Default)]
struct Counts {
    lines: AtomicU64,
    imported: AtomicU64,
    known: AtomicU64,
    ended: AtomicU64,
    refused: AtomicU64,
    has_stopped: AtomicBool,
}

impl Counts {
    fn summary(&self) -> Summary {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            lines: count(&self.lines),
            imported: count(&self.imported),
            known: count(&self.known),
            ended: count(&self.ended),
            refused: count(&self.refused),
        }
    }
}

impl Job<'_> {
    fn one(&self, mut input: impl Read) -> Result<(), Failure> {
        let mut octets = Vec::new();
        input
            .by_ref()
            .take(LINE_MAX as u64)
            .read_to_end(&mut octets)
            .map_err(|e| Failure::disk(format!("the input cannot be read: {e}")))?;
        let client = AdminClient::new(self.data_dir)?;
        self.counts.lines.fetch_add(1, Ordering::Relaxed);
        let message = self.import.eml(octets).map_err(Failure::usage)?;
        self.give(&client, 1, message);
        Ok(())
    }

    fn lines(&self, input: impl Read) -> Result<(), Failure> {
        let (give, take) = std::sync::mpsc::sync_channel::<Work>(0);
        let take = Mutex::new(take);
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for _ in 0..AT_ONCE {
                let client = AdminClient::new(self.data_dir)?;
                let take = &take;
                workers.push(scope.spawn(move || {
                    loop {
                        let work = locked(take).recv();
                        let Ok(work) = work else { return };
                        self.line(&client, &work);
                        self.budget.give_back(work.bytes.len());
                    }
                }));
            }
            let mut input = BufReader::with_capacity(1 << 20, input);
            let read = self.read(&mut input, |work| give.send(work).is_ok());
            drop(give);
            read
        })
    }

    fn read(
        &self,
        input: &mut impl BufRead,
        mut give: impl FnMut(Work) -> bool,
    ) -> Result<(), Failure> {
        for line in 1.. {
            if self.counts.has_stopped.load(Ordering::Relaxed) {
                break;
            }
            let mut bytes = Vec::new();
            let count = input
                .by_ref()
                .take(LINE_MAX as u64)
                .read_until(b'\n', &mut bytes)
                .map_err(|e| Failure::disk(format!("line {line} cannot be read: {e}")))?;
            if count == 0 {
                break;
            }
            if count == LINE_MAX {
                return Err(Failure::usage(format!(
                    "line {line} is longer than {LINE_MAX} octets; the rest was not looked at"
                )));
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            self.counts.lines.fetch_add(1, Ordering::Relaxed);
            self.budget.take(bytes.len());
            if !give(Work { line, bytes }) {
                break;
            }
        }
        Ok(())
    }

    fn line(&self, client: &AdminClient, work: &Work) {
        match self.import.exported(&work.bytes) {
            Ok(message) => self.give(client, work.line, message),
            Err(error) => self.refused(work.line, &error),
        }
    }

    fn give(&self, client: &AdminClient, line: u64, (message, content): (Exported, Vec<u8>)) {
        let counts = &self.counts;
        let octets = content.len() as u64;
        let Some(mut message) = message.to_import(self.import.all, octets) else {
            counts.ended.fetch_add(1, Ordering::Relaxed);
            return;
        };
        message.dry_run = self.import.dry_run;
        let mut body = match serde_json::to_vec(&message) {
            Ok(body) => body,
            Err(error) => return self.refused(line, &error.to_string()),
        };
        body.push(b'\n');
        body.extend_from_slice(&content);
        drop(content);
        let path = format!("/admin/v1/imports/{}/messages", self.session);
        let answer = client.exchange(Method::POST, &path, body);
        match answer.and_then(|answer| parse::<wire::Imported>(&answer)) {
            Ok(imported) if imported.outcome == "known" => {
                counts.known.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {
                counts.imported.fetch_add(1, Ordering::Relaxed);
            }
            Err(NoAnswer::Refused(failure)) if failure.code != UNREACHABLE => {
                self.refused(line, &failure.message);
            }
            // The next line would fare no better.
            Err(error) => {
                let failure = Failure::from(error);
                let message = format!(
                    "line {line}: {}; nothing behind it was taken, give the import again",
                    failure.message
                );
                counts.has_stopped.store(true, Ordering::Relaxed);
                let failure = Failure { message, ..failure };
                locked(&self.stopped).get_or_insert(failure);
            }
        }
    }

    fn refused(&self, line: u64, why: &str) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        eprintln!("line {line}: {}", output::printable(why));
    }
}

/// Octets of lines that are in memory.
#[derive(Default)]
struct Budget {
    used: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    /// Waits until there is room; a line that is larger than all of it goes alone.
    fn take(&self, len: usize) {
        let mut used = locked(&self.used);
        while *used > 0 && *used + len > BYTES_AT_ONCE {
            used = self
                .freed
                .wait(used)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *used += len;
    }

    fn give_back(&self, len: usize) {
        *locked(&self.used) -= len;
        self.freed.notify_one();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages that are given to the daemon at one time.
const AT_ONCE: usize = 16;
const BYTES_AT_ONCE: usize = 64 << 20;
/// The largest content in base64, and a large envelope.
const LINE_MAX: usize = 256 << 20;
const POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_without_any_carriage_return_get_them() {
        for (given, expected) in [
            ("a\n\nb\n", "a\r\n\r\nb\r\n"),
            ("a\nb", "a\r\nb"),
            ("a\r\n\nb\n", "a\r\n\nb\n"),
            ("", ""),
        ] {
            assert_eq!(with_crlf(given.into()), expected.as_bytes());
        }
    }

    #[test]
    fn those_who_still_wait_are_imported_unless_all_are_asked_for() {
        let recipient = |name: &str, state: &str| ExportedRecipient {
            recipient: name.to_owned(),
            state: state.to_owned(),
            ..ExportedRecipient::default()
        };
        let message = Exported {
            recipients: vec![
                recipient("a", "ready"),
                recipient("b", "delivered"),
                recipient("c", "deferred"),
            ],
            ..Exported::default()
        };
        let names = |all| {
            let import = message.to_import(all, 0)?;
            let names = import.recipients.iter().map(|r| r.recipient.clone());
            Some(names.collect::<Vec<_>>())
        };
        assert_eq!(names(false).unwrap(), ["a", "c"]);
        assert_eq!(names(true).unwrap().len(), 3);
        let ended = Exported {
            recipients: vec![recipient("b", "bounced")],
            ..Exported::default()
        };
        assert_eq!(ended.to_import(false, 0), None);
    }
}
