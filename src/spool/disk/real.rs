//! The operating system's file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Access, Disk, DiskFile, Lock, LockError, Map, Space};
use crate::spool::memory;

/// Mode of everything that holds mail: the owner, and the group for inspection.
const FILE_MODE: u32 = 0o640;

#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// Also sees to it that a failing medium under a map stops the process with the segment's name.
    pub fn new() -> Self {
        memory::install_sigbus_handler();
        Self
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.create_dir(parent)?;
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        self.sync_dir(parent)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Write)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.take(32).read_to_string(&mut text)?;
                let pid = text.trim().parse().unwrap_or(0);
                return Err(LockError::Held { pid });
            }
            Err(e) => return Err(LockError::Io(e.into())),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn unreliable_allocation(&self, dir: &Path) -> io::Result<Option<&'static str>> {
        // Magic numbers of statfs(2). Overlay file systems pass the call through to the one below.
        Ok(match rustix::fs::statfs(dir)?.f_type as u32 {
            0x9123_683E => Some("btrfs"),
            0x2FC1_2FC1 => Some("zfs"),
            0xCA45_1A4E => Some("bcachefs"),
            0x6969 => Some("nfs"),
            0xFF53_4D42 | 0xFE53_4D42 | 0x517B => Some("smb"),
            0x6573_5546 => Some("fuse"),
            _ => None,
        })
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn allocate(&self, len: u64) -> io::Result<()> {
        // Not `ftruncate`: a hole is space that can be missing later. The system call itself, so that nothing emulates it.
        Ok(rustix::fs::fallocate(
            &self.0,
            FallocateFlags::empty(),
            0,
            len,
        )?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // Not `File::sync_data`: it repeats after EINTR, and a sync that did not succeed is not asked twice.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn settle(&self) -> io::Result<()> {
        self.sync()?;
        Ok(rustix::fs::fadvise(
            &self.0,
            0,
            None,
            rustix::fs::Advice::DontNeed,
        )?)
    }

    fn discard(&self, from: u64) -> io::Result<()> {
        let len = self.len()?.saturating_sub(from);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match len {
            0 => Ok(()),
            len => Ok(rustix::fs::fallocate(&self.0, flags, from, len)?),
        }
    }

    fn expect_random(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(
            &self.0,
            0,
            None,
            rustix::fs::Advice::Random,
        )?)
    }

    fn forget(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(
            &self.0,
            offset,
            NonZeroU64::new(len),
            rustix::fs::Advice::DontNeed,
        )?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn map(&self, name: &str) -> io::Result<Option<Map>> {
        memory::map(&self.0, name).map(Some)
    }
}

/// `flock` lives as long as the descriptor.
struct RealLock {
    _file: File,
}

impl Lock for RealLock {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        let path = dir.path().join("lock");
        let held = disk.lock(&path).unwrap();
        match disk.lock(&path) {
            Err(LockError::Held { pid }) => assert_eq!(pid, std::process::id()),
            other => panic!("locked twice: {:?}", other.err()),
        }
        drop(held);
        assert!(disk.lock(&path).is_ok());
    }

    /// A hole would be space that can be missing later.
    #[test]
    fn allocated_space_is_there_before_anything_is_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = RealDisk::new().create(&path).unwrap();
        file.allocate(1 << 20).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 >= 1 << 20, "{}", metadata.blocks());
    }

    #[test]
    fn discarded_space_is_given_back_and_the_length_stays() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = RealDisk::new().create(&path).unwrap();
        file.allocate(1 << 20).unwrap();
        let before = fs::metadata(&path).unwrap().blocks();
        file.discard(4096).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        assert!(fs::metadata(&path).unwrap().blocks() < before);
    }

    #[test]
    fn a_map_shows_what_was_written_after_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk::new().create(&dir.path().join("a")).unwrap();
        file.allocate(8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        let map = file.map("a").unwrap().unwrap().bytes;
        super::super::write_all_at(file.as_ref(), b"seen", 4096).unwrap();
        assert_eq!(&map[4096..4100], b"seen");
    }
}
