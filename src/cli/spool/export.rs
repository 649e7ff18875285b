//! `posthaste spool export`: messages as lines of JSON, or each as an .eml file with its envelope beside it. Reads the data
//! directory as it is, the daemon up or down; what is in memory is bounded by a part of the messages and one content.

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use spool_format::layout::event_field;
use spool_format::message::flags;
use spool_format::{Content, ContentRecord, LiveMessage, LogKind, MessageRecord, field_tag, kind};

use super::exported::{Exported, ExportedRecipient};
use super::message::State;
use super::progress;
use crate::cli::filter::{MessageFilter, check_times};
use crate::cli::logs::{Flow, Live, LogReader, Records, SLACK_MS, Step, event_of};
use crate::cli::output::Unwritten;
use crate::cli::{Failure, Found, Place};
use crate::clock::{self, UnixMs, rfc3339};
use crate::event::EventKind;
use crate::mail::MessageId;

/// Write messages as lines of JSON, or as .eml files: with envelope, metadata, the state of each recipient, and content octet for
/// octet.
#[derive(Args)]
#[command(after_help = "Examples:
  posthaste spool export --live > queue.jsonl
  posthaste spool export --live --domain example.com | posthaste spool import - --data-dir /other
  posthaste spool export --since -1d --format eml --dir mail

Recipients that a filter does not take are left out. While compaction is at work a message may come twice; import takes it once. \
Erased messages do not come. Exit code 1: nothing matched, \
the content of a message is damaged or gone, or a log is damaged.")]
pub(in crate::cli) struct Export {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: MessageFilter,
    /// Only what still waits: what is to be moved to another node.
    #[arg(long)]
    live: bool,
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Where .eml files go, two files for each message; it is created.
    #[arg(long, value_name = "DIR", required_if_eq("format", "eml"))]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each message, on standard output.
    Jsonl,
    /// ID.eml and ID.json for each message.
    Eml,
}

impl Export {
    pub(super) fn run(self) -> Result<Found, Failure> {
        check_times(self.filter.since, self.filter.until)?;
        let data_dir = self.place.data_dir()?;
        let out = match (self.format, &self.dir) {
            (Format::Eml, Some(dir)) => Out::files(dir)?,
            (Format::Jsonl, None) => Out::Lines(BufWriter::new(io::stdout().lock())),
            _ => return Err(Failure::usage("--dir is for --format eml")),
        };
        let mut work = Work {
            filter: &self.filter,
            now: clock::wall_unix_ms(),
            records: Records::open(&data_dir)?,
            out,
            count: 0,
            broken: 0,
            damaged: false,
        };
        match self.live {
            true => work.live(&data_dir)?,
            false => work.all(&data_dir)?,
        }
        let Work {
            out,
            count,
            broken,
            damaged,
            ..
        } = work;
        out.finish()?;
        if broken > 0 {
            eprintln!(
                "{broken} messages were left out: their content is damaged, erased or gone; posthaste spool verify tells more"
            );
        }
        Ok(match (count, broken) {
            (1.., 0) if !damaged => Found::All,
            _ => Found::Finding,
        })
    }
}

/// What is known of a recipient.
#[derive(Clone, Copy, Debug)]
struct Fate {
    attempts: u32,
    next_attempt: UnixMs,
    ended: Option<State>,
}

impl Fate {
    const NEW: Self = Self {
        attempts: 0,
        next_attempt: 0,
        ended: None,
    };
}

/// A message whose events are to be looked at.
struct Candidate {
    position: u64,
    fates: Vec<Fate>,
}

/// An export under way.
struct Work<'a> {
    filter: &'a MessageFilter,
    now: UnixMs,
    records: Records,
    out: Out,
    count: u64,
    broken: u64,
    /// Something of the logs could not be read.
    damaged: bool,
}

impl Work<'_> {
    fn live(&mut self, data_dir: &Path) -> anyhow::Result<()> {
        let mut live = Live::gather(data_dir, progress)?;
        self.damaged = live.mail.tell_damages() | live.events.tell_damages();
        live.each(&mut |message, names| {
            let Some(origin) = names.origins.get(message.origin) else {
                return Ok(Flow::Continue(()));
            };
            let (server, stream) = (&origin.server_name, &origin.stream_id);
            let (at, len) = (message.accepted_at, message.content_len);
            if self.filter.takes_message(server, stream, at, len, self.now) {
                self.message(message.position, &|number| fate_in(message, number))?;
            }
            Ok(Flow::Continue(()))
        })
    }

    fn all(&mut self, data_dir: &Path) -> anyhow::Result<()> {
        let mut mail = LogReader::open(data_dir, LogKind::Mail, 0)?.with_progress(progress("mail"));
        if let Some(since) = self.filter.since {
            mail.begin_at_time(since.0.saturating_sub(SLACK_MS));
        }
        loop {
            let (mut candidates, index, at_end) = self.gather(&mut mail)?;
            look_up(data_dir, &mut candidates, &index)?;
            for Candidate { position, fates } in candidates {
                self.message(position, &|number| {
                    fates.get(usize::from(number)).copied().unwrap_or(Fate::NEW)
                })?;
            }
            if at_end {
                self.damaged = mail.tell_damages();
                return Ok(());
            }
        }
    }

    /// The next messages that fit, by id, and whether these were the last.
    #[expect(clippy::type_complexity, reason = "read once, next to it")]
    fn gather(
        &self,
        mail: &mut LogReader,
    ) -> anyhow::Result<(Vec<Candidate>, HashMap<[u8; 16], Vec<u32>>, bool)> {
        let (mut candidates, mut index) = (Vec::new(), HashMap::<_, Vec<u32>>::new());
        loop {
            let Some(segment) = mail.next_segment() else {
                return Ok((candidates, index, true));
            };
            let until = self.filter.until.map(|u| u.0.saturating_add(SLACK_MS));
            if until.is_some_and(|until| segment.began_at() > until) {
                return Ok((candidates, index, true));
            }
            let fate = Fate {
                // What became of those whose events are not kept any more.
                ended: segment.archive.as_ref().map(|_| State::Ended),
                ..Fate::NEW
            };
            let step = mail.step(&mut |position, frame| {
                if frame.kind == kind::MESSAGE
                    && let Ok(record) = MessageRecord::decode(frame.payload)
                    && self.filter.takes_record(&record, self.now)
                {
                    let number = candidates.len() as u32;
                    index.entry(record.id).or_default().push(number);
                    let fates = vec![fate; record.recipients.len()];
                    candidates.push(Candidate { position, fates });
                }
                match candidates.len() < PART {
                    true => Flow::Continue(()),
                    false => Flow::Break(()),
                }
            })?;
            match step {
                Step::Segment => {}
                Step::End => return Ok((candidates, index, true)),
                Step::Stopped => return Ok((candidates, index, false)),
            }
        }
    }

    fn message(&mut self, position: u64, fate: &dyn Fn(u16) -> Fate) -> anyhow::Result<()> {
        let payload = self.records.at(position, |_, frame| {
            (frame.kind == kind::MESSAGE).then(|| frame.payload.to_vec())
        })?;
        // Taken back or erased since, or damaged.
        let Some(payload) = payload.flatten() else {
            self.broken += 1;
            return Ok(());
        };
        let record = MessageRecord::decode(&payload).context("message record")?;
        let recipients = self.recipients(&record, fate);
        if recipients.is_empty() {
            return Ok(());
        }
        let Some(content) = self.content(&record)? else {
            self.broken += 1;
            return Ok(());
        };
        let mut exported = exported(&record, recipients);
        // Its sender may have moved it since.
        let untried = exported.recipients.iter().filter(|r| r.attempts == 0);
        let release = untried.filter_map(|r| r.next_attempt_at.clone()).min();
        exported.scheduled_at = release.or(exported.scheduled_at);
        self.out.write(exported, &content)?;
        self.count += 1;
        Ok(())
    }

    fn recipients(
        &self,
        record: &MessageRecord<'_>,
        fate: &dyn Fn(u16) -> Fate,
    ) -> Vec<ExportedRecipient> {
        if !self.filter.takes_record(record, self.now) {
            return Vec::new();
        }
        let all = (0..=u16::MAX).zip(record.recipients.iter());
        let wanted = all.filter(|(_, r)| self.filter.takes_recipient(r.domain, r.forward_path));
        wanted
            .map(|(recipient_number, recipient)| {
                let fate = fate(recipient_number);
                let state = fate
                    .ended
                    .unwrap_or(State::live(fate.next_attempt, self.now));
                let text = |tag| recipient.fields.find_text(tag).map(str::to_owned);
                ExportedRecipient {
                    recipient_number,
                    recipient: recipient.forward_path.into(),
                    domain: recipient.domain.into(),
                    state: state.as_str().into(),
                    attempts: fate.attempts,
                    next_attempt_at: (state == State::Deferred).then(|| rfc3339(fate.next_attempt)),
                    notify: text(field_tag::DSN_NOTIFY),
                    original_recipient: text(field_tag::DSN_ORCPT),
                }
            })
            .collect()
    }

    /// All of it, or `None`.
    fn content(&mut self, record: &MessageRecord<'_>) -> anyhow::Result<Option<Vec<u8>>> {
        let parts = match record.content {
            Content::Inline(octets) => return Ok(Some(octets.to_vec())),
            Content::Records(parts) => parts,
        };
        let mut all = Vec::with_capacity(record.content.len() as usize);
        for part in parts.iter() {
            let octets = self.records.at(part.position, |_, frame| {
                let content = ContentRecord::decode(frame.payload).ok()?;
                let is_part = frame.kind == kind::CONTENT && content.message_id == record.id;
                is_part.then(|| content.octets.to_vec())
            })?;
            match octets.flatten() {
                Some(octets) if octets.len() == part.len as usize => all.extend(octets),
                _ => return Ok(None),
            }
        }
        Ok(Some(all))
    }
}

fn fate_in(message: &LiveMessage, number: u16) -> Fate {
    let alive = message.recipients.iter().find(|r| r.number == number);
    alive.map_or(
        Fate {
            ended: Some(State::Ended),
            ..Fate::NEW
        },
        |recipient| Fate {
            attempts: recipient.attempts.into(),
            next_attempt: recipient.next_attempt,
            ended: None,
        },
    )
}

/// Asks the events what became of the recipients.
fn look_up(
    data_dir: &Path,
    candidates: &mut [Candidate],
    index: &HashMap<[u8; 16], Vec<u32>>,
) -> anyhow::Result<()> {
    let ids = index.keys().map(|id| MessageId::from_bytes(*id).unix_ms());
    let Some(first) = ids.min() else {
        return Ok(());
    };
    let mut events = LogReader::open(data_dir, LogKind::Event, 0)?.with_progress(progress("event"));
    events.begin_at_time(first.saturating_sub(SLACK_MS));
    let _ = events.read(&mut |_, frame| {
        let Some(event) = event_of(frame) else {
            return Flow::Continue(());
        };
        for &number in index.get(&event.message_id).into_iter().flatten() {
            let fates = &mut candidates[number as usize].fates;
            let Some(fate) = fates.get_mut(usize::from(event.recipient_number)) else {
                continue;
            };
            let number = |tag| event.fields.find_number(tag);
            let kind = EventKind::from_code(event.kind);
            if let Some(state) = kind.and_then(State::ended_by) {
                fate.ended = Some(state);
            } else if let Some(next) = number(event_field::NEXT_ATTEMPT_MS) {
                fate.next_attempt = next;
            }
            if let Some(attempts) = number(event_field::ATTEMPTS) {
                fate.attempts = attempts as u32;
            }
        }
        Flow::Continue(())
    })?;
    Ok(())
}

fn exported(record: &MessageRecord<'_>, recipients: Vec<ExportedRecipient>) -> Exported {
    let text = |tag| record.fields.find_text(tag).map(str::to_owned);
    let time = |tag| record.fields.find_number(tag).map(rfc3339);
    let metadata = record.metadata.iter();
    Exported {
        message_id: Some(MessageId::from_bytes(record.id).to_string()),
        accepted_at: Some(rfc3339(record.accepted_unix_ms)),
        server: record.server_name.into(),
        stream: Some(record.stream_id.into()),
        stream_type: Some(record.stream_kind.as_str().into()),
        pool: Some(record.pool.into()),
        reverse_path: record.reverse_path.into(),
        recipients,
        tag: record.tag.map(str::to_owned),
        metadata: metadata
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        eight_bit: record.flags & flags::EIGHT_BIT != 0,
        smtputf8: record.flags & flags::SMTPUTF8 != 0,
        client_ip: text(field_tag::CLIENT_IP),
        helo: text(field_tag::HELO),
        protocol: text(field_tag::PROTOCOL),
        credential: text(field_tag::CREDENTIAL),
        envelope_id: text(field_tag::DSN_ENVID),
        dsn_return: text(field_tag::DSN_RET),
        scheduled_at: time(field_tag::SCHEDULE),
        deadline_at: time(field_tag::DEADLINE),
        content_bytes: record.content.len(),
        content: None,
    }
}

/// Where messages go.
enum Out {
    Lines(BufWriter<StdoutLock<'static>>),
    Files(PathBuf),
}

impl Out {
    fn files(dir: &Path) -> Result<Self, Failure> {
        // Mail is for the eyes of whoever exports it.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Failure::usage(format!("{}: {e}", dir.display())))?;
        Ok(Self::Files(dir.to_path_buf()))
    }

    fn write(&mut self, mut message: Exported, content: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Lines(out) => {
                message.content = Some(STANDARD.encode(content));
                let written = serde_json::to_writer(&mut *out, &message);
                let written = written.map_err(io::Error::from);
                written
                    .and_then(|()| out.write_all(b"\n"))
                    .map_err(Unwritten)?;
            }
            Self::Files(dir) => {
                let name = message.message_id.clone().unwrap_or_default();
                let mut envelope = serde_json::to_vec_pretty(&message)?;
                envelope.push(b'\n');
                write(&dir.join(format!("{name}.eml")), content)?;
                write(&dir.join(format!("{name}.json")), &envelope)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Lines(mut out) => out.flush(),
            Self::Files(_) => Ok(()),
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Messages whose recipients are looked up together.
const PART: usize = 50_000;
