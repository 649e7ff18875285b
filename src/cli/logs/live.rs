//! Who lives: from the newest checkpoint and the ends of both logs, or from the logs alone. The same fold as recovery's
//! (`spool_format::live`), over files that are only read.
//!
//! The mail log is read before the event log: what ends meanwhile counts as ended, what comes meanwhile does not count. Of a
//! message of the mail log some 25 bytes are kept, of the checkpoint nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use spool_format::checkpoint::{Block, Counts, Form, Reading};
use spool_format::layout::{checkpoint as layout, checkpoint_block};
use spool_format::{
    CheckpointHeader, EntryReader, EntryWriter, Fold, LiveMessage, LogKind, Names, kind,
};

use super::{Flow, LogReader, NewProgress};

/// A checkpoint's files, the base first.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Chain {
    files: Vec<(PathBuf, CheckpointHeader, Counts)>,
}

/// Both logs and the checkpoint, gathered.
pub(in crate::cli) struct Live {
    pub(in crate::cli) names: Names,
    pub(in crate::cli) checkpoint: Option<Chain>,
    /// As far as they were read: behind the checkpoint, or whole.
    pub(in crate::cli) mail: LogReader,
    pub(in crate::cli) events: LogReader,
    fold: Fold,
    pile: Vec<Vec<u8>>,
    /// Time of the newest message and of the newest event that were read.
    pub(in crate::cli) last_message_at: Option<u64>,
    pub(in crate::cli) last_event_at: Option<u64>,
}

/// Takes a live message, in order of position.
pub(in crate::cli) type Visit<'v> = &'v mut dyn FnMut(&LiveMessage, &Names) -> anyhow::Result<Flow>;

impl Chain {
    /// The newest checkpoint that verifies, if there is one.
    pub(in crate::cli) fn newest(data_dir: &Path) -> Option<Self> {
        let dir = data_dir.join("spool/checkpoint");
        let mut headers = Vec::new();
        for entry in std::fs::read_dir(dir).ok()?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == SUFFIX)
                && let Ok(header) = header_of(&path)
            {
                headers.push((path, header));
            }
        }
        headers.sort_by_key(|(_, header)| std::cmp::Reverse(header.number));
        let bases = headers.iter().filter(|(_, h)| h.form == Form::Base);
        for (path, header) in bases {
            let Ok(counts) = verify(path, header) else {
                continue;
            };
            let mut files = vec![(path.clone(), header.clone(), counts)];
            let mut reached = header.mail_to;
            let is_delta = |h: &CheckpointHeader| h.form == Form::Delta && h.base == header.number;
            for (path, delta) in headers.iter().rev().filter(|(_, h)| is_delta(h)) {
                match verify(path, delta) {
                    Ok(counts) if delta.mail_from == reached => {
                        reached = delta.mail_to;
                        files.push((path.clone(), delta.clone(), counts));
                    }
                    _ => break,
                }
            }
            return Some(Self { files });
        }
        None
    }

    pub(in crate::cli) fn files(&self) -> &[(PathBuf, CheckpointHeader, Counts)] {
        &self.files
    }

    fn newest_header(&self) -> Option<&CheckpointHeader> {
        self.files.last().map(|(_, header, _)| header)
    }

    pub(in crate::cli) fn created_unix_ms(&self) -> u64 {
        self.newest_header().map_or(0, |h| h.created_unix_ms)
    }

    /// Messages below are in it.
    pub(in crate::cli) fn mail_to(&self) -> u64 {
        self.newest_header().map_or(0, |h| h.mail_to)
    }

    /// Events below are in it.
    pub(in crate::cli) fn event_to(&self) -> u64 {
        self.files.first().map_or(0, |(_, h, _)| h.event_to)
    }
}

/// Every checkpoint file that is there, and what is wrong with it.
pub(in crate::cli) fn check_checkpoints(data_dir: &Path) -> Vec<(PathBuf, Option<String>)> {
    let Ok(entries) = std::fs::read_dir(data_dir.join("spool/checkpoint")) else {
        return Vec::new();
    };
    let mut checked = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|e| e != SUFFIX) {
            continue;
        }
        let mut names = Names::default();
        let result = header_of(&path).and_then(|header| {
            verify(&path, &header)?;
            entries_of(&path, &header, &mut names)
        });
        // One that is gone now was replaced.
        if path.exists() {
            checked.push((path, result.err().map(|error| format!("{error:#}"))));
        }
    }
    checked.sort();
    checked
}

fn entries_of(path: &Path, header: &CheckpointHeader, names: &mut Names) -> anyhow::Result<()> {
    entries(path, header, names, &mut |_, _| Ok(Flow::Continue(()))).map(drop)
}

impl Live {
    /// Reads what is needed to know who lives.
    pub(in crate::cli) fn gather(data_dir: &Path, progress: NewProgress) -> anyhow::Result<Self> {
        let checkpoint = Chain::newest(data_dir);
        let (mail_from, event_from) = checkpoint
            .as_ref()
            .map_or((0, 0), |chain| (chain.mail_to(), chain.event_to()));
        let reader = |log, from| {
            let reader = match log {
                // Nobody lives in an archive.
                LogKind::Mail => LogReader::open_in_use(data_dir, log, from)?,
                LogKind::Event => LogReader::open(data_dir, log, from)?,
            };
            anyhow::Ok(reader.with_progress(progress(super::name(log))))
        };
        let mut live = Self {
            mail: reader(LogKind::Mail, mail_from)?,
            events: reader(LogKind::Event, event_from)?,
            names: Names::default(),
            fold: match checkpoint {
                Some(_) => Fold::from_checkpoint(),
                None => Fold::from_start(),
            },
            checkpoint,
            pile: Vec::new(),
            last_message_at: None,
            last_event_at: None,
        };
        live.note_copies()?;
        live.read_mail()?;
        live.read_events()?;
        Ok(live)
    }

    /// Those that compaction made since the base.
    fn note_copies(&mut self) -> anyhow::Result<()> {
        let Some(chain) = self.checkpoint.clone() else {
            return Ok(());
        };
        for (path, header, counts) in chain.files() {
            if counts.copies > 0 {
                let fold = &mut self.fold;
                let _ = entries(path, header, &mut self.names, &mut |message, _| {
                    fold.copy(message);
                    Ok(Flow::Continue(()))
                })?;
            }
        }
        Ok(())
    }

    fn read_mail(&mut self) -> anyhow::Result<()> {
        let (names, fold, pile) = (&mut self.names, &mut self.fold, &mut self.pile);
        let mut writer = EntryWriter::default();
        let mut message = LiveMessage::default();
        let mut failed = None;
        let last = &mut self.last_message_at;
        let _ = self.mail.read(&mut |position, frame| {
            // What cannot be read as a message is kept and not delivered; an erased message has no live recipients.
            if frame.kind == kind::MESSAGE
                && message
                    .read(position, frame.flags, frame.payload, names)
                    .is_ok()
            {
                fold.copy(&message);
                *last = (*last).max(Some(message.accepted_at));
                if !message.recipients.is_empty()
                    && let Err(error) = writer.push(&message, names)
                {
                    failed = Some(error);
                    return Flow::Break(());
                }
                if writer.len() >= PILE {
                    pile.push(writer.take());
                }
            }
            Flow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(anyhow!("a message record cannot be kept: {error}"));
        }
        pile.push(writer.take());
        Ok(())
    }

    fn read_events(&mut self) -> anyhow::Result<()> {
        let (fold, last) = (&mut self.fold, &mut self.last_event_at);
        let _ = self.events.read(&mut |_, frame| {
            if fold.event(frame.kind, frame.payload).is_err() {
                fold.event_lost();
            }
            if let Some(event) = super::find::event_of(frame) {
                *last = Some(event.at_unix_ms);
            }
            Flow::Continue(())
        })?;
        if self.events.damages().iter().any(|d| d.acknowledged) {
            self.fold.event_lost();
        }
        Ok(())
    }

    /// Visits every message with a live recipient, once, in order of the position where it lies.
    pub(in crate::cli) fn each(&mut self, visit: Visit<'_>) -> anyhow::Result<()> {
        let mut names = std::mem::take(&mut self.names);
        let mut order = Order {
            fold: &mut self.fold,
            moved: BTreeMap::new(),
            visit,
        };
        let files = self.checkpoint.iter().flat_map(|chain| chain.files.iter());
        let mut flow = Flow::Continue(());
        for (path, header, _) in files {
            flow = entries(path, header, &mut names, &mut |message, names| {
                order.take(message, names)
            })?;
            if flow.is_break() {
                break;
            }
        }
        let mut reader = EntryReader::default();
        let mut message = LiveMessage::default();
        for block in std::mem::take(&mut self.pile) {
            let mut rest = block.as_slice();
            reader.block();
            while flow.is_continue() && reader.next(&mut rest, &mut names, &mut message)? {
                flow = order.take(&mut message, &names)?;
            }
        }
        if flow.is_continue() {
            let _ = order.take_moved(u64::MAX, &names)?;
        }
        self.names = names;
        Ok(())
    }
}

/// Settles messages in their order and shows them where they lie now.
struct Order<'a> {
    fold: &'a mut Fold,
    /// By position: told where their earlier record lay.
    moved: BTreeMap<u64, LiveMessage>,
    visit: Visit<'a>,
}

impl Order<'_> {
    fn take(&mut self, message: &mut LiveMessage, names: &Names) -> anyhow::Result<Flow> {
        let lay = message.position;
        if !self.fold.settle(message) {
            return Ok(Flow::Continue(()));
        }
        if message.position > lay {
            self.moved.insert(message.position, message.clone());
            return Ok(Flow::Continue(()));
        }
        if self.take_moved(message.position, names)?.is_break() {
            return Ok(Flow::Break(()));
        }
        (self.visit)(message, names)
    }

    fn take_moved(&mut self, below: u64, names: &Names) -> anyhow::Result<Flow> {
        while let Some(entry) = self.moved.first_entry()
            && *entry.key() < below
        {
            let message = entry.remove();
            if (self.visit)(&message, names)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }
}

fn header_of(path: &Path) -> anyhow::Result<CheckpointHeader> {
    let mut bytes = vec![0; layout::LEN];
    File::open(path)?.read_exact(&mut bytes)?;
    Ok(CheckpointHeader::decode(&bytes)?)
}

/// Reads the whole file and checks it: a checkpoint is believed whole or not at all.
fn verify(path: &Path, header: &CheckpointHeader) -> anyhow::Result<Counts> {
    blocks(path, header, &mut |_| Ok(Flow::Continue(())))?
        .ok_or_else(|| anyhow!("{} has no end", path.display()))
}

fn entries(
    path: &Path,
    header: &CheckpointHeader,
    names: &mut Names,
    visit: &mut dyn FnMut(&mut LiveMessage, &Names) -> anyhow::Result<Flow>,
) -> anyhow::Result<Flow> {
    let mut reader = EntryReader::default();
    let mut message = LiveMessage::default();
    let mut flow = Flow::Continue(());
    blocks(path, header, &mut |mut rest| {
        reader.block();
        while flow.is_continue() && reader.next(&mut rest, names, &mut message)? {
            flow = visit(&mut message, names)?;
        }
        Ok(flow)
    })
    .with_context(|| format!("the checkpoint {} cannot be read", path.display()))?;
    Ok(flow)
}

/// Calls `take` with each block of entries; what the end says, if it was reached.
fn blocks(
    path: &Path,
    header: &CheckpointHeader,
    take: &mut dyn FnMut(&[u8]) -> anyhow::Result<Flow>,
) -> anyhow::Result<Option<Counts>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    io::copy(&mut file.by_ref().take(layout::LEN as u64), &mut io::sink())?;
    let mut reading = Reading::start(header);
    let mut block = Vec::new();
    let mut is_first = true;
    loop {
        block.resize(checkpoint_block::PAYLOAD, 0);
        file.read_exact(&mut block)?;
        let whole = Reading::block_len(&block)?;
        if whole as u64 > len.saturating_sub(reading.offset()) {
            return Err(anyhow!("{} is cut off", path.display()));
        }
        block.resize(whole, 0);
        file.read_exact(&mut block[checkpoint_block::PAYLOAD..])?;
        if std::mem::take(&mut is_first) {
            reading.gaps(&block)?;
            continue;
        }
        match reading.block(&block)? {
            Block::Entries(entries) => {
                if take(entries)?.is_break() {
                    return Ok(None);
                }
            }
            Block::End(summary) => return Ok(Some(summary.counts)),
        }
    }
}

/// File names of checkpoints end with it.
const SUFFIX: &str = "ckp";
/// Bytes of messages that are kept in one piece.
const PILE: usize = 256 << 10;
