//! Bases of the event log's readers: what each has made of the log up to a position (DESIGN §3.4).
//!
//! Promises: a base is whole or the one before it; events that a registered reader's base does not cover are kept; a base
//! that cannot be read is reported, and then nothing is dropped until the reader has written another.
//! Does not know: what a state means. It may be larger than memory: it is written and read in pieces.
//!
//! A reader whose state must outlive the log's retention registers once, rebuilds from base and log at each start, and stores
//! a base from time to time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spool_format::base;

use super::disk::{Access, Disk, DiskFile, read_at_most, write_all_at};
use super::sync::{Mutex, lock};
use crate::clock::UnixMs;
use crate::limits;

/// What a reader stored. The file stays open: a newer base does not change what is read here.
pub struct Base {
    /// In the event log: everything before it is in the state.
    pub position: u64,
    pub written_unix_ms: UnixMs,
    file: Arc<dyn DiskFile>,
    state_at: u64,
    state_len: u64,
}

impl Base {
    /// Octets of the state.
    pub fn state_len(&self) -> u64 {
        self.state_len
    }

    /// Fills `buffer` from `offset` of the state on, as far as there is any; returns how much. Blocks.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.state_len.saturating_sub(offset);
        let len = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        let count = read_at_most(
            self.file.as_ref(),
            &mut buffer[..len],
            self.state_at + offset,
        )?;
        match count == len {
            true => Ok(len),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Takes a state in pieces.
pub struct BaseWriter<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    gathered: Vec<u8>,
    written: u64,
    crc: u32,
}

impl BaseWriter<'_> {
    /// Octets of the state so far.
    pub fn state_len(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        match self.gathered.len() >= PIECE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.state_len() > limits::READER_STATE_MAX {
            let text = format!("a state of more than {} bytes", limits::READER_STATE_MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        write_all_at(self.file, &self.gathered, self.at + self.written)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.gathered);
        self.written += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }
}

/// The registered readers.
pub struct ReaderBases {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Position of each reader's base; held while a file takes its place.
    positions: Mutex<BTreeMap<String, u64>>,
}

impl ReaderBases {
    pub(super) fn open(disk: Arc<dyn Disk>, spool_dir: &Path) -> io::Result<Self> {
        let dir = spool_dir.join("readers");
        disk.create_dir(&dir)?;
        let bases = Self {
            disk,
            dir,
            positions: Mutex::default(),
        };
        let mut positions = BTreeMap::new();
        for name in bases.disk.list(&bases.dir)? {
            if name.ends_with(TEMPORARY_SUFFIX) {
                bases.disk.unlink(&bases.dir.join(&name))?;
            } else if let Some(reader) = name.strip_suffix(SUFFIX) {
                let position = match bases.load(reader) {
                    Ok(base) => base.position,
                    Err(error) => {
                        tracing::error!(reader, %error, "a reader's base cannot be read; events are kept until there is another");
                        0
                    }
                };
                positions.insert(reader.to_owned(), position);
            }
        }
        *lock(&bases.positions) = positions;
        Ok(bases)
    }

    /// Adds a reader, or finds it again: from now on the log keeps what its base does not cover. `None`: it has no base yet,
    /// and begins at the start of the log. Blocks for a sync where the reader is new, and while the base is read through.
    /// # Errors
    /// [`io::ErrorKind::InvalidData`]: its base is damaged.
    pub fn register(&self, reader: &str) -> io::Result<Option<Base>> {
        check_name(reader)?;
        let is_known = lock(&self.positions).contains_key(reader);
        if !is_known {
            self.store(reader, 0, &[], 0)?;
            return Ok(None);
        }
        let base = match self.load(reader) {
            // It was put aside.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.store(reader, 0, &[], 0)?;
                return Ok(None);
            }
            base => base?,
        };
        Ok((base.written_unix_ms != 0).then_some(base))
    }

    /// Puts a damaged base aside as `<name>.damaged`, for whoever can make something of it.
    pub fn put_aside(&self, reader: &str) -> io::Result<PathBuf> {
        check_name(reader)?;
        let aside = self.dir.join(format!("{reader}{DAMAGED_SUFFIX}"));
        let mut positions = lock(&self.positions);
        self.disk.rename(&self.path(reader), &aside)?;
        self.disk.sync_dir(&self.dir)?;
        positions.insert(reader.to_owned(), 0);
        Ok(aside)
    }

    /// Replaces a reader's base by one whose state is at hand; see [`Self::write`].
    pub fn store(
        &self,
        reader: &str,
        position: u64,
        state: &[u8],
        now: UnixMs,
    ) -> io::Result<Base> {
        self.write(reader, position, now, &mut |writer| writer.write(state))
    }

    /// Replaces a reader's base by what `fill` writes. On success it survives a power cut. One writer of a reader at a time.
    /// Blocks.
    pub fn write(
        &self,
        reader: &str,
        position: u64,
        now: UnixMs,
        fill: &mut dyn FnMut(&mut BaseWriter<'_>) -> io::Result<()>,
    ) -> io::Result<Base> {
        check_name(reader)?;
        let temporary = self.dir.join(format!("{reader}{TEMPORARY_SUFFIX}"));
        match self.disk.unlink(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&temporary)?;
        let mut front = base::Front {
            name: reader,
            position,
            written_unix_ms: now,
            state_len: 0,
        };
        let mut writer = BaseWriter {
            file: file.as_ref(),
            at: front.state_at() as u64,
            gathered: Vec::new(),
            written: 0,
            crc: 0,
        };
        fill(&mut writer)?;
        writer.flush()?;
        let (state_at, crc) = (writer.at, writer.crc);
        front.state_len = writer.written;
        let state_len = writer.written;
        let front = front.encode(crc).map_err(io::Error::other)?;
        write_all_at(file.as_ref(), &front, 0)?;
        file.sync()?;
        let mut positions = lock(&self.positions);
        self.disk.rename(&temporary, &self.path(reader))?;
        self.disk.sync_dir(&self.dir)?;
        positions.insert(reader.to_owned(), position);
        Ok(Base {
            position,
            written_unix_ms: now,
            file,
            state_at,
            state_len,
        })
    }

    /// Forgets a reader: the log is not kept for it any more.
    pub fn unregister(&self, reader: &str) -> io::Result<()> {
        check_name(reader)?;
        let mut positions = lock(&self.positions);
        match self.disk.unlink(&self.path(reader)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.disk.sync_dir(&self.dir)?;
        positions.remove(reader);
        Ok(())
    }

    /// Events before it are in the bases of all readers; `u64::MAX` where there is no reader.
    pub fn lowest(&self) -> u64 {
        let positions = lock(&self.positions);
        positions.values().copied().min().unwrap_or(u64::MAX)
    }

    /// Reads through the whole file once.
    fn load(&self, reader: &str) -> io::Result<Base> {
        let file = self.disk.open(&self.path(reader), Access::Read)?;
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut piece = vec![0; PIECE];
        let count = read_at_most(file.as_ref(), &mut piece, 0)?;
        let (front, front_len, mut crc) = base::Front::decode(&piece[..count]).map_err(damaged)?;
        let base = Base {
            position: front.position,
            written_unix_ms: front.written_unix_ms,
            file: Arc::clone(&file),
            state_at: front_len as u64,
            state_len: front.state_len,
        };
        let is_his = front.name == reader;
        if !is_his || file.len()? != base.state_at + base.state_len {
            return Err(damaged(base::BaseError::Magic));
        }
        let expected = crc.expected;
        let mut at = 0;
        while at < base.state_len {
            let count = base.read_at(&mut piece, at)?;
            crc.take(&piece[..count]);
            at += count as u64;
        }
        match crc.sum() == expected {
            true => Ok(base),
            false => Err(damaged(base::BaseError::Checksum)),
        }
    }

    fn path(&self, reader: &str) -> PathBuf {
        self.dir.join(format!("{reader}{SUFFIX}"))
    }
}

/// A name becomes a file's name.
fn check_name(reader: &str) -> io::Result<()> {
    let is_fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !reader.is_empty() && reader.len() <= NAME_MAX && reader.bytes().all(is_fit) {
        return Ok(());
    }
    let text = format!("`{reader}` is no name of a reader: lower-case letters, digits and -");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

const SUFFIX: &str = ".base";
const TEMPORARY_SUFFIX: &str = ".tmp";
const DAMAGED_SUFFIX: &str = ".damaged";
const NAME_MAX: usize = 64;
/// Read and written at once; more than stands before a state.
const PIECE: usize = 1 << 20;
