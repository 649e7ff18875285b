//! A file system in memory whose calls can be made to fail.
//!
//! Promises: calls are counted from 1 in one sequence over all files; the plan decides which of them fails and how.
//! What a failed call did before it failed is as nasty as the real one: a short write has written its part, a failed
//! sync has synced nothing.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Disk, DiskFile, Lock, LockError, Map, Space};

/// What the call with number `at` does instead of succeeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Eio,
    NoSpace,
    /// A write or read moves half of what was asked for (legal); every other call fails with EIO.
    Short,
    /// A write or read ends with EINTR before it moved anything; every other call fails with EIO.
    Interrupted,
    /// This call and all later ones fail with EIO.
    EioFromHere,
    /// From this call on nothing that needs space (a file made, allocated or written) finds any.
    NoSpaceFromHere,
    /// From this call on every write and read of more than one byte moves half.
    ShortFromHere,
    /// Only syncs count, and that sync fails with EIO.
    SyncEio,
}

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read,
    Write,
    /// Of a file, or of room for it.
    Make,
    Sync,
    Other,
}

/// Cheap to clone; all clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Arc<Node>>,
    locks: Vec<PathBuf>,
    plan: Option<(u64, Fault)>,
    calls: u64,
    syncs: u64,
    dir_syncs: u64,
    /// Bytes that may be allocated in all; `None` is without bound.
    capacity: Option<u64>,
}

#[derive(Default)]
struct Node {
    bytes: Mutex<Vec<u8>>,
    /// Reads that touch it fail with EIO.
    bad: Mutex<Range<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panicking test thread leaves plain data behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, call `at` (1 is the next one) fails as `fault` says.
    pub fn fail(&self, at: u64, fault: Fault) {
        let mut state = lock(&self.state);
        (state.calls, state.syncs) = (0, 0);
        state.plan = Some((at, fault));
    }

    pub fn heal(&self) {
        lock(&self.state).plan = None;
    }

    /// Calls since the last [`Self::fail`]; with [`Fault::SyncEio`] planned, see [`Self::syncs`].
    pub fn calls(&self) -> u64 {
        lock(&self.state).calls
    }

    /// Syncs of files (not of directories) since the last [`Self::fail`].
    pub fn syncs(&self) -> u64 {
        lock(&self.state).syncs
    }

    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.state).capacity = Some(bytes);
    }

    pub fn add_file(&self, path: &Path, bytes: Vec<u8>) {
        let node = Node {
            bytes: Mutex::new(bytes),
            ..Node::default()
        };
        lock(&self.state)
            .names
            .insert(path.to_path_buf(), Arc::new(node));
    }

    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = lock(&self.state);
        let contents = |node: &Arc<Node>| lock(&node.bytes).clone();
        state
            .names
            .iter()
            .map(|(path, node)| (path.clone(), contents(node)))
            .collect()
    }

    /// Changes a file behind the engine's back.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let node = lock(&self.state).names.get(path).cloned();
        let node = node.unwrap_or_else(|| panic!("no file {}", path.display()));
        change(&mut lock(&node.bytes));
    }

    /// The medium gives no byte of `range` any more.
    pub fn spoil(&self, path: &Path, range: Range<u64>) {
        let node = lock(&self.state).names.get(path).cloned();
        let node = node.unwrap_or_else(|| panic!("no file {}", path.display()));
        *lock(&node.bad) = range;
    }

    /// Counts one call. `Ok(true)`: it is to move only half.
    fn call(&self, call: Call) -> io::Result<bool> {
        use rustix::io::Errno;
        let mut state = lock(&self.state);
        state.calls += 1;
        state.syncs += u64::from(call == Call::Sync);
        let Some((at, fault)) = state.plan else {
            return Ok(false);
        };
        let moves = matches!(call, Call::Read | Call::Write);
        let from_here = state.calls >= at;
        let hit = match fault {
            Fault::EioFromHere => from_here,
            Fault::NoSpaceFromHere => from_here && matches!(call, Call::Make | Call::Write),
            Fault::ShortFromHere => from_here && moves,
            Fault::SyncEio => call == Call::Sync && state.syncs == at,
            _ => state.calls == at,
        };
        let error = match fault {
            _ if !hit => return Ok(false),
            Fault::Short | Fault::ShortFromHere if moves => return Ok(true),
            Fault::Interrupted if moves => Errno::INTR,
            Fault::NoSpace | Fault::NoSpaceFromHere => Errno::NOSPC,
            _ => Errno::IO,
        };
        Err(error.into())
    }

    fn node(&self, path: &Path) -> io::Result<Arc<Node>> {
        let state = lock(&self.state);
        let node = state.names.get(path).cloned();
        node.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let state = lock(&self.state);
        state
            .names
            .values()
            .map(|node| lock(&node.bytes).len() as u64)
            .sum()
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        self.call(Call::Other).map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.call(Call::Other)?;
        let state = lock(&self.state);
        let inside = state.names.keys().filter(|p| p.parent() == Some(dir));
        Ok(inside
            .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.call(Call::Make)?;
        let mut state = lock(&self.state);
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = Arc::new(Node::default());
        state.names.insert(path.to_path_buf(), Arc::clone(&node));
        drop(state);
        Ok(self.file(node))
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.call(Call::Other)?;
        Ok(self.file(self.node(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Other)?;
        let mut state = lock(&self.state);
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), node);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Other)?;
        let gone = lock(&self.state).names.remove(path);
        gone.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.call(Call::Other)?;
        lock(&self.state).dir_syncs += 1;
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        self.call(Call::Other)?;
        let capacity = lock(&self.state).capacity;
        let total = capacity.unwrap_or(1 << 50);
        Ok(Space {
            free: total.saturating_sub(self.used()),
            total,
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.call(Call::Other)?;
        let mut state = lock(&self.state);
        if state.locks.iter().any(|held| held == path) {
            let pid = std::process::id();
            return Err(LockError::Held { pid });
        }
        state.locks.push(path.to_path_buf());
        Ok(Box::new(MemoryLock {
            disk: self.clone(),
            path: path.to_path_buf(),
        }))
    }
}

impl MemoryDisk {
    fn file(&self, node: Arc<Node>) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile {
            disk: self.clone(),
            node,
        })
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        lock(&self.disk.state).locks.retain(|p| *p != self.path);
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    node: Arc<Node>,
}

impl DiskFile for MemoryFile {
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.call(Call::Make)?;
        let grows = len.saturating_sub(lock(&self.node.bytes).len() as u64);
        let capacity = lock(&self.disk.state).capacity;
        if capacity.is_some_and(|capacity| self.disk.used() + grows > capacity) {
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::NOSPC.raw_os_error(),
            ));
        }
        lock(&self.node.bytes).resize(len as usize, 0);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let short = self.disk.call(Call::Write)?;
        let count = if short {
            bytes.len().div_ceil(2)
        } else {
            bytes.len()
        };
        let mut content = lock(&self.node.bytes);
        let (start, end) = (offset as usize, offset as usize + count);
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let short = self.disk.call(Call::Read)?;
        let bad = lock(&self.node.bad).clone();
        if offset < bad.end && offset + buffer.len() as u64 > bad.start {
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::IO.raw_os_error(),
            ));
        }
        let content = lock(&self.node.bytes);
        let rest = content.get(offset as usize..).unwrap_or_default();
        let wanted = match buffer.len() {
            len @ 2.. if short => len / 2,
            len => len,
        };
        let count = wanted.min(rest.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(Call::Sync).map(drop)
    }

    fn discard(&self, from: u64) -> io::Result<()> {
        self.disk.call(Call::Other)?;
        if let Some(rest) = lock(&self.node.bytes).get_mut(from as usize..) {
            rest.fill(0);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.call(Call::Other)?;
        Ok(lock(&self.node.bytes).len() as u64)
    }

    fn map(&self, _name: &str) -> io::Result<Option<Map>> {
        Ok(None)
    }
}
