//! What a disk may hold after a power cut.
//!
//! Promises: whatever a successful sync covered is kept; of everything else each part goes its own way. Of an unsynced
//! write every 512-byte sector is old, new, or torn at a random byte, independently of all others and of the order in
//! which they were written. A length that was not synced may be kept or not, of a file that grew by a write too, and the
//! space that was gained and never written holds bytes of another file. Creations, renames and removals without a sync of
//! the directory go either way, each for itself. Writes that a failed sync covered stay doubtful for ever: a later sync
//! that succeeds proves nothing for them.
//!
//! A [`Timeline`] takes the operations of a recording one by one; at any point of it any number of images can be drawn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::memory::MemoryDisk;
use super::recording::Operation;

const SECTOR: usize = 512;

/// How unsynced work is decided in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nothing unsynced survives.
    Nothing,
    /// Everything unsynced survives.
    Everything,
    /// Each decision drawn from this seed.
    Random(u64),
}

/// What is durable, and what is not yet, behind some operation.
#[derive(Default)]
pub struct Timeline {
    files: BTreeMap<usize, Contents>,
    entries: BTreeMap<PathBuf, usize>,
    pending_entries: Vec<Entry>,
    /// Names as the running system sees them.
    live: BTreeMap<PathBuf, usize>,
}

#[derive(Clone, Default)]
struct Contents {
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Covered by a sync that failed.
    doubtful: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Length(u64),
    Write(u64, Arc<[u8]>),
    Discard(u64),
}

enum Entry {
    Add(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

impl Entry {
    fn touches(&self, dir: &Path) -> bool {
        let path = match self {
            Self::Add(path, _) | Self::Move(_, path, _) | Self::Remove(path) => path,
        };
        path.parent() == Some(dir)
    }

    fn enter(&self, entries: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, file) => {
                entries.insert(path.clone(), *file);
            }
            Self::Move(from, to, file) => {
                entries.remove(from);
                entries.insert(to.clone(), *file);
            }
            Self::Remove(path) => {
                entries.remove(path);
            }
        }
    }
}

impl Timeline {
    /// The next operation has happened.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { path, file } => {
                self.live.insert(path.clone(), *file);
                self.files.entry(*file).or_default();
                self.pending_entries.push(Entry::Add(path.clone(), *file));
            }
            Operation::Length { file, len } => self.change(*file, Change::Length(*len)),
            Operation::Write {
                file,
                offset,
                bytes,
            } => self.change(*file, Change::Write(*offset, Arc::clone(bytes))),
            Operation::Discard { file, from } => self.change(*file, Change::Discard(*from)),
            Operation::Sync { file, done: true } => {
                let mut contents = self.files.remove(file).unwrap_or_default();
                for change in std::mem::take(&mut contents.pending) {
                    let stale = self.stale(change.end());
                    change.whole(&mut contents.durable, stale);
                }
                self.files.insert(*file, contents);
            }
            Operation::Sync { file, done: false } => {
                let contents = self.files.entry(*file).or_default();
                let lost = std::mem::take(&mut contents.pending);
                contents.doubtful.extend(lost);
            }
            Operation::Rename { from, to } => {
                if let Some(file) = self.live.remove(from) {
                    self.live.insert(to.clone(), file);
                    let entry = Entry::Move(from.clone(), to.clone(), file);
                    self.pending_entries.push(entry);
                }
            }
            Operation::Unlink { path } => {
                self.live.remove(path);
                self.pending_entries.push(Entry::Remove(path.clone()));
            }
            Operation::SyncDir { dir } => {
                let pending = std::mem::take(&mut self.pending_entries);
                let (done, left) = pending.into_iter().partition(|entry| entry.touches(dir));
                self.pending_entries = left;
                let done: Vec<Entry> = done;
                done.iter().for_each(|entry| entry.enter(&mut self.entries));
            }
            Operation::Note { .. } => {}
        }
    }

    fn change(&mut self, file: usize, change: Change) {
        self.files.entry(file).or_default().pending.push(change);
    }

    /// What never-written space shows: the longest other file, as if its blocks had been handed on.
    fn stale(&self, end: usize) -> &[u8] {
        let longest = self.files.values().max_by_key(|other| other.durable.len());
        let bytes = longest.map_or(&[][..], |other| &other.durable);
        &bytes[..bytes.len().min(end)]
    }

    /// The disk if power fails now. Any number of them may be drawn.
    pub fn image(&self, choice: Choice) -> MemoryDisk {
        let mut dice = Dice::new(choice);
        let mut entries = self.entries.clone();
        for entry in &self.pending_entries {
            if dice.survives() {
                entry.enter(&mut entries);
            }
        }
        let disk = MemoryDisk::new();
        let mut settled: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (path, file) in entries {
            let bytes = settled.entry(file).or_insert_with(|| {
                let contents = self.files.get(&file);
                contents.map_or_else(Vec::new, |contents| self.settle(contents, &mut dice))
            });
            disk.add_file(&path, bytes.clone());
        }
        disk
    }

    fn settle(&self, contents: &Contents, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = contents.durable.clone();
        for change in contents.doubtful.iter().chain(&contents.pending) {
            let stale = self.stale(change.end());
            match change {
                Change::Write(offset, data) => {
                    let start = *offset as usize;
                    if start + data.len() > bytes.len() && dice.survives() {
                        grow(&mut bytes, start + data.len(), stale);
                    }
                    sectors(&mut bytes, start, data, dice);
                }
                _ if dice.survives() => change.whole(&mut bytes, stale),
                _ => {}
            }
        }
        bytes
    }
}

/// To at least `len`, the rest as `stale` has it there, or zero.
fn grow(bytes: &mut Vec<u8>, len: usize, stale: &[u8]) {
    if bytes.len() < len {
        let known = bytes.len()..len.min(stale.len());
        bytes.extend_from_slice(stale.get(known).unwrap_or_default());
        bytes.resize(len, 0);
    }
}

/// Applies the sectors of one unsynced write that the dice let live.
fn sectors(bytes: &mut [u8], offset: usize, data: &[u8], dice: &mut Dice) {
    let mut at = 0;
    while at < data.len() {
        let end = data
            .len()
            .min((offset + at) / SECTOR * SECTOR + SECTOR - offset);
        let (keep_from, keep_to) = dice.part_of(at, end);
        // A length that did not survive cuts what was written beyond it.
        let keep_to = keep_to.min(bytes.len().saturating_sub(offset));
        if keep_from < keep_to {
            bytes[offset + keep_from..offset + keep_to].copy_from_slice(&data[keep_from..keep_to]);
        }
        at = end;
    }
}

impl Change {
    /// The file's least length behind it.
    fn end(&self) -> usize {
        match self {
            Self::Length(len) => *len as usize,
            Self::Write(offset, data) => *offset as usize + data.len(),
            Self::Discard(_) => 0,
        }
    }

    fn whole(&self, bytes: &mut Vec<u8>, stale: &[u8]) {
        grow(bytes, self.end(), stale);
        match self {
            Self::Length(_) => {}
            Self::Write(offset, data) => {
                let start = *offset as usize;
                bytes[start..start + data.len()].copy_from_slice(data);
            }
            Self::Discard(from) => {
                if let Some(rest) = bytes.get_mut(*from as usize..) {
                    rest.fill(0);
                }
            }
        }
    }
}

/// Decides what survives.
enum Dice {
    Fixed(bool),
    Random {
        rng: fastrand::Rng,
        /// Out of 256, how likely a sector persisted; drawn per image so that nearly-all and nearly-none occur.
        bias: u8,
    },
}

impl Dice {
    fn new(choice: Choice) -> Self {
        match choice {
            Choice::Nothing => Self::Fixed(false),
            Choice::Everything => Self::Fixed(true),
            Choice::Random(seed) => {
                let mut rng = fastrand::Rng::with_seed(seed);
                let bias = *rng.choice(&[8, 64, 128, 192, 248]).unwrap_or(&128);
                Self::Random { rng, bias }
            }
        }
    }

    fn survives(&mut self) -> bool {
        match self {
            Self::Fixed(answer) => *answer,
            Self::Random { rng, bias } => rng.u8(..) < *bias,
        }
    }

    /// Which part of `from..to` was written: none, all, or all on one side of a random byte.
    fn part_of(&mut self, from: usize, to: usize) -> (usize, usize) {
        match self {
            Self::Fixed(true) => (from, to),
            Self::Fixed(false) => (from, from),
            Self::Random { rng, bias } => match rng.u8(..8) {
                0 => (from, rng.usize(from..to)),
                1 => (rng.usize(from..to), to),
                _ if rng.u8(..) < *bias => (from, to),
                _ => (from, from),
            },
        }
    }
}
