//! A disk that remembers the order of everything, and can be cut off from power at any point of it.
//!
//! Promises: every change is in the record, in the order in which the calls returned; [`Recording::image`] builds a disk
//! as it may look after a power cut behind operation `cut` (what may happen to unsynced work is in [`super::powercut`]).
//! The acknowledgements that the engine gave are part of the record ([`RecordingDisk::note`]), so a test knows what must
//! be there after the cut.
//!
//! It can also fail as write-back does: [`RecordingDisk::lose_write`] has the kernel take a write and lose it later. As on
//! Linux, that is told once, to the next sync of each descriptor that was open then, and to none that is opened later.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::memory::MemoryDisk;
pub use super::powercut::Choice;
use super::powercut::Timeline;
use super::{Access, Disk, DiskFile, Lock, LockError, Map, Space};

/// One step of the history.
#[derive(Clone)]
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
        bytes: Arc<[u8]>,
    },
    Discard {
        file: usize,
        from: u64,
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
    /// The engine acknowledged what the test calls `id`, or the test did something that it has to remember.
    Note {
        id: u64,
    },
}

impl std::fmt::Debug for Operation {
    /// Without the bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create { path, file } => write!(f, "create {file} {}", path.display()),
            Self::Length { file, len } => write!(f, "length {file} {len}"),
            Self::Write {
                file,
                offset,
                bytes,
            } => write!(f, "write {file} {offset}+{}", bytes.len()),
            Self::Discard { file, from } => write!(f, "discard {file} {from}"),
            Self::Sync { file, done } => write!(f, "sync {file} {done}"),
            Self::Rename { from, to } => write!(f, "rename {} {}", from.display(), to.display()),
            Self::Unlink { path } => write!(f, "unlink {}", path.display()),
            Self::SyncDir { dir } => write!(f, "sync {}", dir.display()),
            Self::Note { id } => write!(f, "note {id:#x}"),
        }
    }
}

/// Wraps the disk that answers, writes down what it did. Clones share the record.
#[derive(Clone)]
pub struct RecordingDisk {
    inner: MemoryDisk,
    record: Arc<Mutex<Recording>>,
    faults: Arc<Mutex<WriteBack>>,
}

/// The history so far.
#[derive(Clone, Default)]
pub struct Recording {
    operations: Vec<Operation>,
    files: BTreeMap<PathBuf, usize>,
    file_count: usize,
    started: usize,
}

/// Writes that the kernel will lose.
#[derive(Default)]
struct WriteBack {
    /// Writes until then; zero: none is lost.
    countdown: u64,
    /// Per open descriptor: its file, and whether its next sync fails.
    open: Vec<(usize, Weak<AtomicBool>)>,
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
                bytes: bytes.into(),
            });
            record.push(Operation::Sync { file, done: true });
            if let Some(dir) = path.parent() {
                let dir = dir.to_path_buf();
                record.push(Operation::SyncDir { dir });
            }
        }
        record.started = record.operations.len();
        Self {
            inner,
            record: Arc::new(Mutex::new(record)),
            faults: Arc::default(),
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

    /// How many operations there are so far.
    pub fn operation_count(&self) -> usize {
        self.record().operations.len()
    }

    /// The `at`-th write from now (1 is the next) succeeds, and is lost afterwards.
    pub fn lose_write(&self, at: u64) {
        self.faults().countdown = at;
    }

    /// Whether the write of [`Self::lose_write`] is still to come.
    pub fn is_write_to_be_lost(&self) -> bool {
        self.faults().countdown > 0
    }

    fn faults(&self) -> MutexGuard<'_, WriteBack> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the write that was just made to `file` is lost.
    fn loses(&self, file: usize) -> bool {
        let mut faults = self.faults();
        let lost = faults.countdown == 1;
        faults.countdown = faults.countdown.saturating_sub(1);
        faults.open.retain(|(_, flag)| flag.strong_count() > 0);
        for (_, flag) in faults.open.iter().filter(|(open, _)| lost && *open == file) {
            if let Some(flag) = flag.upgrade() {
                flag.store(true, Ordering::SeqCst);
            }
        }
        lost
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

    /// How many operations describe the disk as it was handed over. No cut lies before that: it was durable.
    pub fn started(&self) -> usize {
        self.started
    }

    /// Acknowledged before the cut.
    pub fn notes(&self, cut: usize) -> Vec<u64> {
        let ids = self.operations[..cut].iter().map(|op| match op {
            Operation::Note { id } => Some(*id),
            _ => None,
        });
        ids.flatten().collect()
    }

    /// The disk after power failed behind the first `cut` operations. Many images of one recording are drawn faster from a
    /// [`Timeline`].
    pub fn image(&self, cut: usize, choice: Choice) -> MemoryDisk {
        let mut timeline = Timeline::default();
        for operation in &self.operations[..cut] {
            timeline.apply(operation);
        }
        timeline.image(choice)
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
        let write_back_failed = Arc::new(AtomicBool::new(false));
        let flag = Arc::downgrade(&write_back_failed);
        self.faults().open.push((file, flag));
        Arc::new(RecordingFile {
            disk: self.clone(),
            inner,
            file,
            write_back_failed,
        })
    }
}

struct RecordingFile {
    disk: RecordingDisk,
    inner: Arc<dyn DiskFile>,
    file: usize,
    /// Told by the next sync, once.
    write_back_failed: Arc<AtomicBool>,
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
            bytes: bytes[..count].into(),
        });
        if self.disk.loses(self.file) {
            let file = self.file;
            record.push(Operation::Sync { file, done: false });
        }
        Ok(count)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let mut record = self.disk.record();
        let result = match self.write_back_failed.swap(false, Ordering::SeqCst) {
            true => Err(rustix::io::Errno::IO.into()),
            false => self.inner.sync(),
        };
        record.push(Operation::Sync {
            file: self.file,
            done: result.is_ok(),
        });
        result
    }

    fn discard(&self, from: u64) -> io::Result<()> {
        let mut record = self.disk.record();
        self.inner.discard(from)?;
        let file = self.file;
        record.push(Operation::Discard { file, from });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn map(&self, _name: &str) -> io::Result<Option<Map>> {
        Ok(None)
    }
}
