//! Checkpoints as files: `spool/checkpoint/<number>.ckp`, written whole or not at all.
//!
//! Promises: a checkpoint is believed only when every byte of it verifies; a crash at any step of writing one leaves those
//! before it as they were; the newest two bases are kept, so that one damaged file costs time and nothing else.
//! Does not know: what to put in, nor when. `backlog` and `checkpointer` do.
//!
//! # Steps of writing
//! 1. `<number>.tmp` is created and written from front to back; its last block says how much there was. A crash here: the
//!    next start removes the file.
//! 2. It is synced, then renamed to `<number>.ckp`, then the directory is synced. A crash here: the name is there or not; if it
//!    is, the content is whole.
//! 3. Only now files that are no longer needed are removed. A crash here: they are removed the next time.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spool_format::checkpoint::{Block, Form, Reading, Summary, Writing};
use spool_format::layout::{checkpoint as layout, checkpoint_block};
use spool_format::{CheckpointError, CheckpointGaps, CheckpointHeader, LiveMessage, Names};

use super::backlog::{BacklogError, Blocks};
use super::disk::{Access, Disk, DiskFile, Lock, read_at_most, write_all_at};
use super::sync::{Mutex, lock};
use crate::metrics;

/// A file that verified, or was just written.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointFile {
    pub(crate) path: PathBuf,
    pub(crate) header: CheckpointHeader,
    pub(crate) summary: Summary,
    pub(crate) bytes: u64,
}

/// A base and the deltas that go on from it without a hole.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) base: CheckpointFile,
    pub(crate) deltas: Vec<CheckpointFile>,
    /// Of the newest of them.
    pub(crate) gaps: CheckpointGaps,
}

impl Chain {
    pub(crate) fn files(&self) -> impl Iterator<Item = &CheckpointFile> {
        std::iter::once(&self.base).chain(&self.deltas)
    }

    /// Messages below are in it.
    pub(crate) fn mail_to(&self) -> u64 {
        let last = self.deltas.last().unwrap_or(&self.base);
        last.header.mail_to
    }

    /// Events below are in it.
    pub(crate) fn event_to(&self) -> u64 {
        self.base.header.event_to
    }
}

/// The directory, and which checkpoint counts.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: Mutex<State>,
    temporaries: AtomicU64,
}

#[derive(Default)]
struct State {
    chain: Option<Chain>,
    /// `event_to` of the base before, while that is a whole file.
    event_to_before: Option<u64>,
    /// Number of the next file.
    next: u64,
    /// Numbers of bases that are kept.
    kept: Vec<u64>,
}

impl Store {
    /// Finds the newest checkpoint that verifies. What does not is told to `damaged`.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        dir: PathBuf,
        mut damaged: impl FnMut(&Path, &str),
    ) -> io::Result<Self> {
        disk.create_dir(&dir)?;
        let store = Self {
            disk: Arc::clone(disk),
            dir,
            state: Mutex::default(),
            temporaries: AtomicU64::new(0),
        };
        let names = store.disk.list(&store.dir)?;
        for name in names.iter().filter(|name| name.ends_with(TEMPORARY)) {
            store.disk.unlink(&store.dir.join(name))?;
        }
        let mut headers = Vec::new();
        let mut next = 1;
        for name in &names {
            let Some(number) = number_of(name) else {
                continue;
            };
            next = next.max(number + 1);
            let path = store.dir.join(name);
            match store.header(&path) {
                Ok(header) if header.number == number => headers.push((path, header)),
                Ok(_) => damaged(&path, "its name is another's"),
                Err(error) => damaged(&path, &error),
            }
        }
        let mut state = State {
            next,
            ..State::default()
        };
        let bases = headers.iter().filter(|(_, h)| h.form == Form::Base);
        let mut bases: Vec<_> = bases.collect();
        bases.sort_by_key(|(_, header)| header.number);
        state.kept = bases.iter().map(|(_, header)| header.number).collect();
        for (path, header) in bases.into_iter().rev() {
            match store.verify(path, header) {
                Ok((file, gaps)) => {
                    state.chain = Some(store.follow(file, gaps, &headers, &mut damaged));
                    break;
                }
                Err(reason) => {
                    damaged(path, &reason);
                    state.kept.retain(|&number| number != header.number);
                }
            }
        }
        *lock(&store.state) = state;
        Ok(store)
    }

    fn follow(
        &self,
        base: CheckpointFile,
        gaps: CheckpointGaps,
        headers: &[(PathBuf, CheckpointHeader)],
        damaged: &mut impl FnMut(&Path, &str),
    ) -> Chain {
        let number = base.header.number;
        let mut deltas: Vec<_> = headers
            .iter()
            .filter(|(_, h)| h.form == Form::Delta && h.base == number)
            .collect();
        deltas.sort_by_key(|(_, header)| header.number);
        let mut chain = Chain {
            base,
            deltas: Vec::new(),
            gaps,
        };
        for (path, header) in deltas {
            if header.mail_from != chain.mail_to() {
                continue;
            }
            match self.verify(path, header) {
                Ok((file, gaps)) => {
                    chain.deltas.push(file);
                    chain.gaps = gaps;
                }
                // Another may have been written in its place.
                Err(reason) => damaged(path, &reason),
            }
        }
        chain
    }

    fn header(&self, path: &Path) -> Result<CheckpointHeader, String> {
        let opened = self.disk.open(path, Access::Read);
        let file = opened.map_err(|error| error.to_string())?;
        read_header(file.as_ref()).map_err(|error| error.to_string())
    }

    fn verify(
        &self,
        path: &Path,
        header: &CheckpointHeader,
    ) -> Result<(CheckpointFile, CheckpointGaps), String> {
        let mut file = CheckpointFile {
            path: path.to_path_buf(),
            header: header.clone(),
            summary: Summary::default(),
            bytes: 0,
        };
        let reason = |error: BacklogError| error.reason;
        let mut blocks = FileBlocks::open(&self.disk, &file).map_err(reason)?;
        let mut block = Vec::new();
        while blocks.next(&mut block).map_err(reason)? {}
        file.summary = std::mem::take(&mut blocks.summary);
        file.bytes = blocks.len;
        Ok((file, blocks.gaps))
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn chain(&self) -> Option<Chain> {
        lock(&self.state).chain.clone()
    }

    /// Position in the mail log up to which the newest checkpoint goes, and in the event log that of the older one of the
    /// newest two: a start needs no event below it.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let state = lock(&self.state);
        Some((state.chain.as_ref()?.mail_to(), state.event_to_before?))
    }

    /// A file that is gone after the next start.
    pub(crate) fn temporary(&self) -> io::Result<(PathBuf, Arc<dyn DiskFile>)> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("pile-{number}.{TEMPORARY}"));
        let file = self.disk.create(&path)?;
        Ok((path, file))
    }

    /// Begins a checkpoint: a base, or with `chain` a delta of it.
    pub(crate) fn begin(
        &self,
        chain: Option<&Chain>,
        to: (u64, u64),
        gaps: CheckpointGaps,
        now: u64,
    ) -> io::Result<Writer> {
        let number = {
            let mut state = lock(&self.state);
            state.next += 1;
            state.next - 1
        };
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let header = CheckpointHeader {
            form: chain.map_or(Form::Base, |_| Form::Delta),
            number,
            base: chain.map_or(number, |chain| chain.base.header.number),
            mail_from: chain.map_or(0, Chain::mail_to),
            mail_to: to.0,
            event_to: chain.map_or(to.1, Chain::event_to),
            created_unix_ms: now,
            salt,
        };
        let path = self.dir.join(format!("{number:016x}.{SUFFIX}"));
        let temporary = path.with_extension(TEMPORARY);
        let (writing, buffer) = Writing::start(&header, &gaps).map_err(io::Error::other)?;
        let file = self.disk.create(&temporary)?;
        Ok(Writer {
            disk: Arc::clone(&self.disk),
            temporary,
            path,
            file,
            header,
            gaps,
            writing: Some(writing),
            buffer,
            written: 0,
        })
    }

    /// Makes a checkpoint the one that counts, and removes those that nobody needs any more.
    pub(crate) fn adopt(&self, writer: Writer) -> io::Result<CheckpointFile> {
        let (file, gaps) = writer.finish(&self.dir)?;
        {
            let mut state = lock(&self.state);
            match file.header.form {
                Form::Base => {
                    state.kept.push(file.header.number);
                    state.event_to_before = state.chain.as_ref().map(Chain::event_to);
                    // The one that was verified or written before this one is the other that is kept.
                    let before = state.chain.as_ref().map(|chain| chain.base.header.number);
                    let number = file.header.number;
                    state
                        .kept
                        .retain(|&kept| kept == number || before.is_none_or(|b| kept == b));
                    let base = file.clone();
                    state.chain = Some(Chain {
                        base,
                        deltas: Vec::new(),
                        gaps,
                    });
                }
                Form::Delta => {
                    if let Some(chain) = &mut state.chain {
                        chain.deltas.push(file.clone());
                        chain.gaps = gaps;
                    }
                }
            }
        }
        if let Err(error) = self.remove_old() {
            tracing::warn!(%error, "an old checkpoint stays behind");
        }
        Ok(file)
    }

    /// Takes a file out of the way that verified and still cannot be used.
    pub(crate) fn put_aside(&self, path: &Path) {
        let moved = self.disk.rename(path, &path.with_extension("bad"));
        if let Err(error) = moved.and_then(|()| self.disk.sync_dir(&self.dir)) {
            tracing::error!(path = %path.display(), %error, "the checkpoint cannot be put aside: remove it by hand");
        }
    }

    fn remove_old(&self) -> io::Result<()> {
        let kept: BTreeSet<u64> = lock(&self.state).kept.iter().copied().collect();
        let oldest = kept.first().copied().unwrap_or_default();
        for name in self.disk.list(&self.dir)? {
            let path = self.dir.join(&name);
            if number_of(&name).is_none() {
                continue;
            }
            let base = self.header(&path).map(|header| header.base);
            // One that cannot be read is evidence until two good ones were written after it.
            let is_old = match base {
                Ok(base) => !kept.contains(&base),
                Err(_) => number_of(&name).is_some_and(|number| number < oldest),
            };
            if is_old {
                self.disk.unlink(&path)?;
            }
        }
        Ok(())
    }
}

/// A checkpoint that is being written.
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    temporary: PathBuf,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: CheckpointHeader,
    gaps: CheckpointGaps,
    /// Nothing once it was finished.
    writing: Option<Writing>,
    buffer: Vec<u8>,
    written: u64,
}

impl Writer {
    pub(crate) fn push(&mut self, message: &LiveMessage, names: &Names) -> io::Result<()> {
        if let Some(writing) = &mut self.writing {
            writing.push(message, names).map_err(io::Error::other)?;
            writing
                .take_full(&mut self.buffer)
                .map_err(io::Error::other)?;
        }
        if self.buffer.len() >= WRITE {
            self.flush()?;
        }
        Ok(())
    }

    /// Bytes on their way to the disk so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    fn flush(&mut self) -> io::Result<()> {
        write_all_at(self.file.as_ref(), &self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, dir: &Path) -> io::Result<(CheckpointFile, CheckpointGaps)> {
        let Some(writing) = self.writing.take() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let summary = writing.finish(&mut self.buffer).map_err(io::Error::other);
        let finished = summary.and_then(|summary| {
            self.flush()?;
            self.file.sync()?;
            self.disk.rename(&self.temporary, &self.path)?;
            Ok(summary)
        });
        let summary = match finished {
            Ok(summary) => summary,
            Err(error) => {
                let _ = self.disk.unlink(&self.temporary);
                return Err(error);
            }
        };
        self.disk.sync_dir(dir)?;
        let file = CheckpointFile {
            path: self.path.clone(),
            header: self.header.clone(),
            summary,
            bytes: self.written,
        };
        Ok((file, std::mem::take(&mut self.gaps)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.writing.is_some() {
            // If it stays, the next start removes it.
            let _ = self.disk.unlink(&self.temporary);
        }
    }
}

/// A checkpoint that a start leaves behind of what it read.
pub(crate) struct Pending {
    store: Arc<Store>,
    writer: Writer,
    /// The directory is this process's for as long as it may be written.
    _lock: Arc<dyn Lock>,
}

impl Pending {
    pub(crate) fn new(store: &Arc<Store>, writer: Writer, lock: &Arc<dyn Lock>) -> Self {
        Self {
            store: Arc::clone(store),
            writer,
            _lock: Arc::clone(lock),
        }
    }

    /// `false`: it could not be written and is given up.
    pub(crate) fn push(&mut self, message: &LiveMessage, names: &Names) -> bool {
        let pushed = self.writer.push(message, names);
        if let Err(error) = &pushed {
            tracing::warn!(%error, "the start leaves no checkpoint behind");
        }
        pushed.is_ok()
    }

    pub(crate) fn finish(self) {
        match self.store.adopt(self.writer) {
            Ok(file) => told(&file, None),
            Err(error) => tracing::warn!(%error, "the start leaves no checkpoint behind"),
        }
    }
}

/// Log and metrics of a checkpoint that was written.
pub(crate) fn told(file: &CheckpointFile, seconds: Option<f64>) {
    let form = match file.header.form {
        Form::Base => "base",
        Form::Delta => "delta",
    };
    metrics::SPOOL_CHECKPOINTS.add_to(form, 1);
    metrics::SPOOL_CHECKPOINT_TIME.set(file.header.created_unix_ms as f64 / 1_000.0);
    if file.header.form == Form::Base {
        metrics::SPOOL_CHECKPOINT_RECIPIENTS.set(file.summary.counts.recipients as f64);
        metrics::SPOOL_CHECKPOINT_BYTES.set(file.bytes as f64);
    }
    if let Some(seconds) = seconds {
        metrics::SPOOL_CHECKPOINT_SECONDS.set(seconds);
    }
    tracing::info!(
        form,
        number = file.header.number,
        messages = file.summary.counts.messages,
        recipients = file.summary.counts.recipients,
        bytes = file.bytes,
        mail_position = file.header.mail_to,
        event_position = file.header.event_to,
        seconds,
        "checkpoint written"
    );
}

/// The blocks of entries of a file, each checked; at the end it is known whether the file is whole.
pub(crate) struct FileBlocks {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    reading: Reading,
    gaps: CheckpointGaps,
    raw: Vec<u8>,
    summary: Summary,
    ended: bool,
}

impl FileBlocks {
    pub(crate) fn open(disk: &Arc<dyn Disk>, known: &CheckpointFile) -> Result<Self, BacklogError> {
        let path = known.path.clone();
        let on = |reason: String| BacklogError {
            path: known.path.clone(),
            reason,
        };
        let file = disk.open(&path, Access::Read);
        let file = file.map_err(|error| on(error.to_string()))?;
        let len = file.len().map_err(|error| on(error.to_string()))?;
        let mut blocks = Self {
            path,
            file,
            len,
            reading: Reading::start(&known.header),
            gaps: CheckpointGaps::default(),
            raw: Vec::new(),
            summary: Summary::default(),
            ended: false,
        };
        blocks.fetch()?;
        let gaps = blocks.reading.gaps(&blocks.raw);
        blocks.gaps = gaps.map_err(|error| on(error.to_string()))?;
        Ok(blocks)
    }

    /// Reads the next block, unchecked.
    fn fetch(&mut self) -> Result<(), BacklogError> {
        let result = (|| -> Result<(), String> {
            let offset = self.reading.offset();
            let io = |error: io::Error| error.to_string();
            let file = self.file.as_ref();
            let mut front = [0; checkpoint_block::PAYLOAD];
            read_at_most(file, &mut front, offset).map_err(io)?;
            let len = Reading::block_len(&front).map_err(|error| error.to_string())?;
            if len as u64 > self.len.saturating_sub(offset) {
                return Err(CheckpointError::Cut.to_string());
            }
            self.raw.resize(len, 0);
            let (head, payload) = self.raw.split_at_mut(front.len());
            head.copy_from_slice(&front);
            read_at_most(file, payload, offset + front.len() as u64).map_err(io)?;
            Ok(())
        })();
        result.map_err(|reason| self.error(reason))
    }

    fn error(&self, reason: String) -> BacklogError {
        let path = self.path.clone();
        BacklogError { path, reason }
    }
}

impl Blocks for FileBlocks {
    fn next(&mut self, block: &mut Vec<u8>) -> Result<bool, BacklogError> {
        if self.ended {
            return Ok(false);
        }
        self.fetch()?;
        match self.reading.block(&self.raw) {
            Ok(Block::Entries(entries)) => {
                block.clear();
                block.extend_from_slice(entries);
                Ok(true)
            }
            Ok(Block::End(summary)) => {
                self.summary = summary;
                self.ended = true;
                match self.reading.offset() == self.len {
                    true => Ok(false),
                    false => Err(self.error("something follows its end".into())),
                }
            }
            Err(error) => Err(self.error(error.to_string())),
        }
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

fn read_header(file: &dyn DiskFile) -> Result<CheckpointHeader, String> {
    let mut bytes = [0; layout::LEN];
    let count = read_at_most(file, &mut bytes, 0).map_err(|error| error.to_string())?;
    CheckpointHeader::decode(&bytes[..count]).map_err(|error| error.to_string())
}

/// The number in a checkpoint's file name.
fn number_of(name: &str) -> Option<u64> {
    let (stem, suffix) = name.split_once('.')?;
    let is_number = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    (suffix == SUFFIX && is_number)
        .then(|| u64::from_str_radix(stem, 16).ok())
        .flatten()
}

const SUFFIX: &str = "ckp";
const TEMPORARY: &str = "tmp";
/// Bytes of one write.
const WRITE: usize = 1 << 20;
