//! What lives, from a checkpoint and what was read of both logs behind it: gathered small, then told one by one.
//!
//! Promises: a message that was told is final, so deliveries may begin while others are still being told; memory stays
//! bounded however long the logs are, as long as the disk takes a temporary file.
//! Does not know who asks: a start, which fills the scheduler, and the checkpoint thread, which writes the next checkpoint,
//! read the same state by the same code.
//!
//! # How it works
//! Messages of the mail log are kept as a checkpoint would hold them, some 25 bytes each ([`Pile`]), and beyond
//! [`Sizes::kept_mail`] in a file without a name to come back to. The event log goes into the fold's map; when
//! [`Sizes::kept_events`] recipients are in it, all that lives is told once into a new pile and the map begins anew.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use spool_format::checkpoint::BLOCK;
use spool_format::layout::{kind, record_flag};
use spool_format::{
    EntryReader, EntryWriter, Fold, Frame, LiveMessage, LogKind, Names, RecordError, StreamKind,
};

use super::checkpoint::{Chain, FileBlocks, Pending, Store};
use super::disk::{Disk, DiskFile, read_at_most, write_all_at};
use super::recover::{Damage, Replay};
use crate::limits;

/// When checkpoints are written, and how much a start keeps in memory; `limits` says why.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the event log behind the newest base at which the next is written.
    pub checkpoint_events: u64,
    /// Bytes of the mail log behind the newest checkpoint at which the next delta is written.
    pub checkpoint_mail: u64,
    /// Recipients in the map of events.
    pub kept_events: usize,
    /// Bytes of messages.
    pub kept_mail: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            checkpoint_events: limits::CHECKPOINT_EVENTS,
            checkpoint_mail: limits::CHECKPOINT_MAIL,
            kept_events: limits::RECOVERY_EVENTS,
            kept_mail: limits::RECOVERY_PILE,
        }
    }
}

/// Why what lives cannot be told to the end.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct BacklogError {
    pub path: PathBuf,
    pub reason: String,
}

/// Takes in both logs: all of the mail log first.
pub(crate) struct Gathering {
    store: Arc<Store>,
    sizes: Sizes,
    chain: Vec<Entries>,
    pile: Pile,
    fold: Fold,
    names: Names,
    message: LiveMessage,
    /// Recipients in the checkpoint and the pile.
    recipients: u64,
    /// Egress pools that the checkpoint names.
    pools: Vec<(Box<str>, StreamKind)>,
    /// The map of events began anew, so it cannot tell who is missing.
    condensed: bool,
}

impl Gathering {
    /// Behind this checkpoint, or from the beginning of both logs.
    pub(crate) fn behind(
        store: &Arc<Store>,
        chain: Option<&Chain>,
        sizes: Sizes,
    ) -> Result<Self, BacklogError> {
        let mut gathering = Self {
            store: Arc::clone(store),
            sizes,
            chain: Vec::new(),
            pile: Pile::default(),
            fold: chain.map_or_else(Fold::from_start, |_| Fold::from_checkpoint()),
            names: Names::default(),
            message: LiveMessage::default(),
            recipients: 0,
            pools: Vec::new(),
            condensed: false,
        };
        for file in chain.into_iter().flat_map(Chain::files) {
            gathering.pools.extend_from_slice(&file.summary.pools);
            gathering.recipients += file.summary.counts.recipients;
            let open = || FileBlocks::open(store.disk(), file).map(|b| Entries::of(Box::new(b)));
            if file.summary.counts.copies > 0 {
                let mut entries = open()?;
                while entries.next(&mut gathering.names, &mut gathering.message)? {
                    gathering.fold.copy(&gathering.message);
                }
            }
            gathering.chain.push(open()?);
        }
        Ok(gathering)
    }

    /// A record of the mail log.
    pub(crate) fn mail(
        &mut self,
        position: u64,
        record_kind: u8,
        flags: u8,
        payload: &[u8],
    ) -> Result<(), RecordError> {
        if record_kind != kind::MESSAGE {
            return Ok(());
        }
        let message = &mut self.message;
        message.read(position, flags, payload, &mut self.names)?;
        if flags & record_flag::MOVED != 0 {
            self.fold.copy(message);
        }
        if !message.recipients.is_empty() {
            self.recipients += message.recipients.len() as u64;
            self.pile
                .push(message, &self.names, &self.store, self.sizes.kept_mail)?;
        }
        Ok(())
    }

    /// A record of the event log.
    pub(crate) fn event(&mut self, record_kind: u8, payload: &[u8]) -> Result<(), RecordError> {
        let result = self.fold.event(record_kind, payload);
        if result.is_err() {
            self.fold.event_lost();
        }
        result
    }

    /// Bytes of the event log could not be read.
    pub(crate) fn event_lost(&mut self) {
        self.fold.event_lost();
    }

    /// To be called now and then while events are taken in: keeps them few.
    pub(crate) fn condense(&mut self) -> Result<(), BacklogError> {
        if self.fold.tail().len() < self.sizes.kept_events {
            return Ok(());
        }
        let mut before = Backlog::of(
            std::mem::take(&mut self.chain),
            std::mem::take(&mut self.pile),
            std::mem::take(&mut self.fold),
            std::mem::take(&mut self.names),
        )?;
        let mut recipients = 0;
        while before.next(&mut self.message)? {
            recipients += self.message.recipients.len() as u64;
            self.message.is_copy = false;
            self.pile
                .push(
                    &self.message,
                    &before.names,
                    &self.store,
                    self.sizes.kept_mail,
                )
                .map_err(|error| BacklogError {
                    path: self.store.dir().to_path_buf(),
                    reason: error.to_string(),
                })?;
        }
        self.names = before.names;
        self.fold = Fold::from_checkpoint();
        self.recipients = recipients;
        self.condensed = true;
        Ok(())
    }

    /// Everything was taken in.
    pub(crate) fn finish(self) -> Result<Backlog, BacklogError> {
        let mut pools = self.pools;
        for origin in self.names.origins.all() {
            pools.push((Box::from(&*origin.pool), origin.stream_kind));
        }
        pools.sort_by(|a, b| (&a.0, a.1.as_str()).cmp(&(&b.0, b.1.as_str())));
        pools.dedup();
        let mut backlog = Backlog::of(self.chain, self.pile, self.fold, self.names)?;
        backlog.expected = self.recipients;
        backlog.condensed = self.condensed;
        backlog.pools = pools;
        Ok(backlog)
    }
}

/// Takes what recovery reads: for the backlog, and for whoever opens the spool.
pub(crate) struct Intake<'a> {
    pub(crate) gathering: Gathering,
    pub(crate) replay: &'a mut dyn Replay,
    pub(crate) failure: Option<BacklogError>,
}

impl Replay for Intake<'_> {
    fn record(&mut self, log: LogKind, position: u64, frame: &Frame<'_>) {
        let taken = match log {
            LogKind::Mail => self
                .gathering
                .mail(position, frame.kind, frame.flags, frame.payload),
            LogKind::Event => self.gathering.event(frame.kind, frame.payload),
        };
        if let Err(error) = taken {
            self.replay.unreadable(log, position, error);
        }
        if log == LogKind::Event && self.failure.is_none() {
            self.failure = self.gathering.condense().err();
        }
        self.replay.record(log, position, frame);
    }

    fn damage(&mut self, log: LogKind, damage: &Damage) {
        if log == LogKind::Event && damage.acknowledged {
            self.gathering.event_lost();
        }
        self.replay.damage(log, damage);
    }

    fn unreadable(&mut self, log: LogKind, position: u64, error: RecordError) {
        self.replay.unreadable(log, position, error);
    }

    fn progress(&mut self, log: LogKind, segments: usize, of: usize) {
        self.replay.progress(log, segments, of);
    }
}

/// The live messages, in the order of their acceptance as far as compaction left it.
pub struct Backlog {
    parts: VecDeque<Entries>,
    fold: Fold,
    names: Names,
    expected: u64,
    pools: Vec<(Box<str>, StreamKind)>,
    /// A checkpoint that is written of what is told.
    pending: Option<Pending>,
    condensed: bool,
}

impl Backlog {
    fn of(chain: Vec<Entries>, pile: Pile, fold: Fold, names: Names) -> Result<Self, BacklogError> {
        let mut parts: VecDeque<_> = chain.into();
        parts.push_back(Entries::of(Box::new(pile.into_blocks())));
        Ok(Self {
            parts,
            fold,
            names,
            expected: 0,
            pools: Vec::new(),
            pending: None,
            condensed: false,
        })
    }

    /// Also leaves a checkpoint behind once all was told.
    pub(crate) fn keep(&mut self, pending: Pending) {
        self.pending = Some(pending);
    }

    /// Recipients at most.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// Every egress pool that a message in it may name, with the kind of stream that did.
    pub fn pools(&self) -> &[(Box<str>, StreamKind)] {
        &self.pools
    }

    /// Once all was told: recipients that were accepted, as far as the events go that were read, have no outcome, and of whose
    /// message there is no record. Where there were too many events to hold, none are known.
    pub fn lost(&self) -> usize {
        match self.condensed {
            true => 0,
            false => self.fold.lost(),
        }
    }

    /// What the numbers in messages mean. Grows while messages are told.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The next live message. `false`: there is none.
    pub fn next(&mut self, message: &mut LiveMessage) -> Result<bool, BacklogError> {
        while let Some(part) = self.parts.front_mut() {
            if !part.next(&mut self.names, message)? {
                self.parts.pop_front();
                continue;
            }
            if self.fold.settle(message) {
                if let Some(pending) = &mut self.pending {
                    message.is_copy = false;
                    if !pending.push(message, &self.names) {
                        self.pending = None;
                    }
                }
                return Ok(true);
            }
        }
        if let Some(pending) = self.pending.take() {
            pending.finish();
        }
        Ok(false)
    }
}

/// Blocks of entries, one after another.
pub(crate) trait Blocks: Send {
    /// Replaces `block` with the next one. `false`: there is none.
    fn next(&mut self, block: &mut Vec<u8>) -> Result<bool, BacklogError>;
    fn path(&self) -> PathBuf;
}

/// Entries of one file or pile.
struct Entries {
    blocks: Box<dyn Blocks>,
    reader: EntryReader,
    block: Vec<u8>,
    at: usize,
}

impl Entries {
    fn of(blocks: Box<dyn Blocks>) -> Self {
        Self {
            blocks,
            reader: EntryReader::default(),
            block: Vec::new(),
            at: 0,
        }
    }

    fn next(&mut self, names: &mut Names, message: &mut LiveMessage) -> Result<bool, BacklogError> {
        loop {
            let mut rest = &self.block[self.at..];
            let found = self.reader.next(&mut rest, names, message);
            self.at = self.block.len() - rest.len();
            match found {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => {
                    return Err(BacklogError {
                        path: self.blocks.path(),
                        reason: error.to_string(),
                    });
                }
            }
            self.at = 0;
            self.block.clear();
            if !self.blocks.next(&mut self.block)? {
                return Ok(false);
            }
            self.reader.block();
        }
    }
}

/// Messages in their short form: in memory, the first of them in a temporary file when they are many.
#[derive(Default)]
struct Pile {
    entries: EntryWriter,
    blocks: VecDeque<Vec<u8>>,
    bytes: usize,
    spill: Option<Spill>,
    /// The disk did not take it: everything stays in memory.
    unspillable: bool,
}

struct Spill {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Lengths and checksums.
    blocks: VecDeque<(usize, u32)>,
    end: u64,
}

impl Pile {
    fn push(
        &mut self,
        message: &LiveMessage,
        names: &Names,
        store: &Store,
        kept: usize,
    ) -> Result<(), RecordError> {
        self.entries.push(message, names)?;
        if self.entries.len() >= BLOCK.min(kept) {
            self.close_block();
            if self.bytes > kept && !self.unspillable {
                self.spill(store);
            }
        }
        Ok(())
    }

    fn close_block(&mut self) {
        let block = self.entries.take();
        self.bytes += block.len();
        self.blocks.push_back(block);
    }

    fn spill(&mut self, store: &Store) {
        if let Err(error) = self.try_spill(store) {
            tracing::warn!(%error, "no temporary file for the recovery: it stays in memory");
            self.unspillable = true;
        }
    }

    fn try_spill(&mut self, store: &Store) -> io::Result<()> {
        if self.spill.is_none() {
            let (path, file) = store.temporary()?;
            let disk = Arc::clone(store.disk());
            self.spill = Some(Spill {
                disk,
                path,
                file,
                blocks: VecDeque::new(),
                end: 0,
            });
        }
        let Some(spill) = &mut self.spill else {
            return Ok(());
        };
        while let Some(block) = self.blocks.front() {
            write_all_at(spill.file.as_ref(), block, spill.end)?;
            spill.blocks.push_back((block.len(), crc32c::crc32c(block)));
            spill.end += block.len() as u64;
            self.bytes -= block.len();
            self.blocks.pop_front();
        }
        Ok(())
    }

    fn into_blocks(mut self) -> PileBlocks {
        if !self.entries.is_empty() {
            self.close_block();
        }
        PileBlocks {
            spill: self.spill,
            read: 0,
            memory: self.blocks,
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // If it stays, the next start removes it.
        let _ = self.disk.unlink(&self.path);
    }
}

struct PileBlocks {
    spill: Option<Spill>,
    read: u64,
    memory: VecDeque<Vec<u8>>,
}

impl Blocks for PileBlocks {
    fn next(&mut self, block: &mut Vec<u8>) -> Result<bool, BacklogError> {
        if let Some(spill) = &mut self.spill {
            if let Some((len, crc)) = spill.blocks.pop_front() {
                block.resize(len, 0);
                let read = read_at_most(spill.file.as_ref(), block, self.read);
                self.read += len as u64;
                let reason = match read {
                    Ok(_) if crc32c::crc32c(block) == crc => return Ok(true),
                    Ok(_) => "a checksum does not match".to_owned(),
                    Err(error) => error.to_string(),
                };
                let path = spill.path.clone();
                return Err(BacklogError { path, reason });
            }
            self.spill = None;
        }
        match self.memory.pop_front() {
            Some(next) => *block = next,
            None => return Ok(false),
        }
        Ok(true)
    }

    fn path(&self) -> PathBuf {
        let spill = self.spill.as_ref().map(|spill| spill.path.clone());
        spill.unwrap_or_else(|| PathBuf::from("memory"))
    }
}
