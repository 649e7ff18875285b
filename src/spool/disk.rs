//! The only way to the spool's files.
//!
//! Promises: every byte that the engine writes, syncs, renames or removes passes one of these two traits, so a test can
//! fail any call ([`memory`]) or replay a power cut after any of them ([`recording`]); [`real`] is what a node uses.
//! Does not know: what the bytes mean.
//!
//! # What is assumed of the medium
//! A byte is written wholly or not at all; a sync that returned success made the file's earlier writes and its length
//! durable; writing a range does not change bytes outside it. **Not** assumed: any order among unsynced pages, atomic
//! 512 or 4096 bytes, zeroes in unwritten space, a file's length or a directory entry without a sync of file or
//! directory, or that a second sync after a failed one means anything.

#[cfg(test)]
pub(crate) mod gated;
pub mod memory;
pub mod powercut;
pub mod real;
pub mod recording;

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use bytes::Bytes;

/// A directory tree of segment files.
pub trait Disk: Send + Sync + 'static {
    /// Creates `path` and its missing parents, each entry durable.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// File names in `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a file that must not exist yet, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Takes the single-writer lock; it is held until the value is dropped, or the process dies.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError>;
    /// Names the file system when space allocated on it can still run out later (copy-on-write, network).
    fn unreliable_allocation(&self, _dir: &Path) -> io::Result<Option<&'static str>> {
        Ok(None)
    }
}

/// An open file. One descriptor per segment, opened before its first write and kept until it is sealed: the kernel
/// reports a write-back error once per open descriptor, and one opened later may miss it.
#[expect(
    clippy::len_without_is_empty,
    reason = "a length on a disk, not a collection"
)]
pub trait DiskFile: Send + Sync {
    /// Real blocks for the first `len` bytes, which become the file's length.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// May write less than asked: use [`write_all_at`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// May read less than asked: use [`read_at_most`].
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Data, and what is needed to find it again (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Syncs what another process left in the cache, and drops the cache, so that reads show the medium.
    fn settle(&self) -> io::Result<()> {
        self.sync()
    }
    /// Gives back the space from `from` to the end; the length stays and the bytes read as zeroes, or as they were.
    fn discard(&self, _from: u64) -> io::Result<()> {
        Ok(())
    }
    /// What is read by this descriptor is read nowhere near it: nothing is to be read ahead.
    fn expect_random(&self) -> io::Result<()> {
        Ok(())
    }
    /// Drops these pages from the cache, where there is one and they are clean.
    fn forget(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64>;
    /// A shared read-only view, named in the message if the medium fails under it. `None`: read with `read_at`.
    fn map(&self, name: &str) -> io::Result<Option<Map>>;
}

/// A shared read-only view of a file.
pub struct Map {
    /// Clones and slices keep the view.
    pub bytes: Bytes,
    /// Dead once the last of them is dropped.
    pub alive: Weak<()>,
}

/// The held single-writer lock.
pub trait Lock: Send + Sync {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub free: u64,
    pub total: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("in use by process {pid}")]
    Held { pid: u32 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes everything, going on after a short write or an interruption.
pub fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(e) if retry(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads until `buffer` is full or the file ends; returns how much.
pub fn read_at_most(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if retry(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

/// No space, or no quota: more of it may appear, unlike with any other error.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
