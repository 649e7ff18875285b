//! A disk that remembers the order of everything, and can be cut off from power at any point of it.
//!
//! Promises: [`Recording::image`] builds a disk as it may look after a power cut behind operation `cut`: everything
//! synced is kept; of each unsynced write every 512-byte sector is independently old, new, or torn at a random byte;
//! pages persist in any order; lengths, creations, renames and removals without a directory sync go either way. Writes
//! that a failed sync covered stay doubtful for ever: a later sync that succeeds proves nothing for them.
//!
//! The acknowledgements that the engine gave are part of the record ([`Recording::note`]), so a test knows what must be
//! there after the cut.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::MemoryDisk;
use super::{Access, Disk, DiskFile, Lock, LockError, Map, Space};

const SECTOR: usize = 512;

/// One step of the history.
#[derive(Clone, Debug)]
pub enum Operation {
    Create {
        path: PathBuf,
        file: usize,
    },
    Length {
        file: usize,
        len: u64,
    },
    Write {
        file: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    Sync {
        file: usize,
        done: bool,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    SyncDir {
        dir: PathBuf,
    },
    /// The engine acknowledged what the test calls `id`.
    Note {
        id: u64,
    },
}

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

/// Wraps the disk that answers, writes down what it did. Clones share the record.
#[derive(Clone)]
pub struct RecordingDisk {
    inner: MemoryDisk,
    record: Arc<Mutex<Recording>>,
}

/// The history so far.
#[derive(Clone, Default)]
pub struct Recording {
    operations: Vec<Operation>,
    files: BTreeMap<PathBuf, usize>,
    file_count: usize,
}

impl RecordingDisk {
    pub fn new(inner: MemoryDisk) -> Self {
        let mut record = Recording::default();
        for (path, bytes) in inner.files() {
            // What is there at the start is durable.
            let file = record.name(&path);
            record.push(Operation::Create {
                path: path.clone(),
                file,
            });
            record.push(Operation::Length {
                file,
                len: bytes.len() as u64,
            });
            record.push(Operation::Write {
                file,
                offset: 0,
                bytes,
            });
            record.push(Operation::Sync { file, done: true });
            if let Some(dir) = path.parent() {
                let dir = dir.to_path_buf();
                record.push(Operation::SyncDir { dir });
            }
        }
        Self {
            inner,
            record: Arc::new(Mutex::new(record)),
        }
    }

    fn record(&self) -> MutexGuard<'_, Recording> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, id: u64) {
        self.record().push(Operation::Note { id });
    }

    pub fn recording(&self) -> Recording {
        self.record().clone()
    }

    /// Whether these bytes were written at `offset` of whatever file, and a sync of that file has succeeded since.
    pub fn is_synced(&self, offset: u64, wanted: &[u8]) -> bool {
        let record = self.record();
        let mut synced = Vec::new();
        record
            .operations
            .iter()
            .rev()
            .any(|operation| match operation {
                Operation::Sync { file, done: true } => {
                    synced.push(*file);
                    false
                }
                Operation::Write {
                    file,
                    offset: start,
                    bytes,
                } => {
                    let at = offset.checked_sub(*start).unwrap_or(u64::MAX) as usize;
                    let there = bytes
                        .get(at..)
                        .is_some_and(|bytes| bytes.starts_with(wanted));
                    there && synced.contains(file)
                }
                _ => false,
            })
    }
}

impl Recording {
    fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    fn name(&mut self, path: &Path) -> usize {
        let file = self.file_count;
        self.file_count += 1;
        self.files.insert(path.to_path_buf(), file);
        file
    }

    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Acknowledged before the cut.
    pub fn notes(&self, cut: usize) -> Vec<u64> {
        let ids = self.operations[..cut].iter().map(|op| match op {
            Operation::Note { id } => Some(*id),
            _ => None,
        });
        ids.flatten().collect()
    }

    /// The disk after power failed behind the first `cut` operations.
    pub fn image(&self, cut: usize, choice: Choice) -> MemoryDisk {
        let mut dice = Dice::new(choice);
        let mut model = Model::default();
        for operation in &self.operations[..cut] {
            model.apply(operation);
        }
        model.settle(&mut dice)
    }
}

/// What is durable, and what is not yet, behind some operation.
#[derive(Default)]
struct Model {
    files: BTreeMap<usize, Contents>,
    entries: BTreeMap<PathBuf, usize>,
    pending_entries: Vec<Entry>,
    /// Names as the running system sees them.
    live: BTreeMap<PathBuf, usize>,
}

#[derive(Default)]
struct Contents {
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Covered by a sync that failed.
    doubtful: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
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
}

impl Model {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { path, file } => {
                self.live.insert(path.clone(), *file);
                self.pending_entries.push(Entry::Add(path.clone(), *file));
            }
            Operation::Length { file, len } => {
                let contents = self.files.entry(*file).or_default();
                contents.pending.push(Change::Length(*len));
            }
            Operation::Write {
                file,
                offset,
                bytes,
            } => {
                let contents = self.files.entry(*file).or_default();
                contents.pending.push(Change::Write(*offset, bytes.clone()));
            }
            Operation::Sync { file, done: true } => {
                let contents = self.files.entry(*file).or_default();
                for change in std::mem::take(&mut contents.pending) {
                    change.whole(&mut contents.durable);
                }
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
                for entry in pending {
                    if entry.touches(dir) {
                        self.enter(&entry);
                    } else {
                        self.pending_entries.push(entry);
                    }
                }
            }
            Operation::Note { .. } => {}
        }
    }

    fn enter(&mut self, entry: &Entry) {
        match entry {
            Entry::Add(path, file) => {
                self.entries.insert(path.clone(), *file);
            }
            Entry::Move(from, to, file) => {
                self.entries.remove(from);
                self.entries.insert(to.clone(), *file);
            }
            Entry::Remove(path) => {
                self.entries.remove(path);
            }
        }
    }

    fn settle(mut self, dice: &mut Dice) -> MemoryDisk {
        for entry in std::mem::take(&mut self.pending_entries) {
            if dice.survives() {
                self.enter(&entry);
            }
        }
        let disk = MemoryDisk::new();
        let mut done: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (path, file) in &self.entries {
            let bytes = done.entry(*file).or_insert_with(|| {
                let contents = self.files.remove(file).unwrap_or_default();
                contents.settle(dice)
            });
            disk.add_file(path, bytes.clone());
        }
        disk
    }
}

impl Contents {
    fn settle(self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable;
        for change in self.doubtful.into_iter().chain(self.pending) {
            match change {
                Change::Length(_) if dice.survives() => change.whole(&mut bytes),
                Change::Length(_) => {}
                Change::Write(offset, data) => sectors(&mut bytes, offset as usize, &data, dice),
            }
        }
        bytes
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
        // A length that was never made durable cuts what was written beyond it.
        let keep_to = keep_to.min(bytes.len().saturating_sub(offset));
        if keep_from < keep_to {
            bytes[offset + keep_from..offset + keep_to].copy_from_slice(&data[keep_from..keep_to]);
        }
        at = end;
    }
}

impl Change {
    fn whole(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(len) => {
                if bytes.len() < *len as usize {
                    bytes.resize(*len as usize, 0);
                }
            }
            Self::Write(offset, data) => {
                let (start, end) = (*offset as usize, *offset as usize + data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
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

impl Disk for RecordingDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // Directories are taken as durable once made: the real disk syncs each one's parent.
        self.inner.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut record = self.record();
        let inner = self.inner.create(path)?;
        let file = record.name(path);
        record.push(Operation::Create {
            path: path.to_path_buf(),
            file,
        });
        Ok(self.file(inner, file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let record = self.record();
        let inner = self.inner.open(path, access)?;
        let file = *record.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(inner, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut record = self.record();
        self.inner.rename(from, to)?;
        if let Some(file) = record.files.remove(from) {
            record.files.insert(to.to_path_buf(), file);
        }
        record.push(Operation::Rename {
            from: from.to_path_buf(),
            to: to.to_path_buf(),
        });
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut record = self.record();
        self.inner.unlink(path)?;
        record.files.remove(path);
        let path = path.to_path_buf();
        record.push(Operation::Unlink { path });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut record = self.record();
        self.inner.sync_dir(dir)?;
        let dir = dir.to_path_buf();
        record.push(Operation::SyncDir { dir });
        Ok(())
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.inner.space(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.inner.lock(path)
    }
}

impl RecordingDisk {
    fn file(&self, inner: Arc<dyn DiskFile>, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(RecordingFile {
            disk: self.clone(),
            inner,
            file,
        })
    }
}

struct RecordingFile {
    disk: RecordingDisk,
    inner: Arc<dyn DiskFile>,
    file: usize,
}

impl DiskFile for RecordingFile {
    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut record = self.disk.record();
        self.inner.allocate(len)?;
        let file = self.file;
        record.push(Operation::Length { file, len });
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut record = self.disk.record();
        let count = self.inner.write_at(bytes, offset)?;
        record.push(Operation::Write {
            file: self.file,
            offset,
            bytes: bytes[..count].to_vec(),
        });
        Ok(count)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let mut record = self.disk.record();
        let result = self.inner.sync();
        record.push(Operation::Sync {
            file: self.file,
            done: result.is_ok(),
        });
        result
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, _name: &str) -> io::Result<Option<Map>> {
        Ok(None)
    }
}
