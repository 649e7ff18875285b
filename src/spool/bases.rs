//! Bases of the event log's readers: what each has made of the log up to a position (DESIGN §3.4).
//!
//! Promises: a base is whole or the one before it; events that a registered reader's base does not cover are kept; a base
//! that cannot be read is reported, and then nothing is dropped until the reader has written another.
//! Does not know: what a state means.
//!
//! A reader whose state must outlive the log's retention registers once, rebuilds from base and log at each start, and stores
//! a base from time to time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spool_format::base;

use super::disk::{Access, Disk, read_at_most, write_all_at};
use super::sync::{Mutex, lock};
use crate::clock::UnixMs;
use crate::limits;

/// What a reader stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// In the event log: everything before it is in the state.
    pub position: u64,
    pub written_unix_ms: UnixMs,
    pub state: Vec<u8>,
}

/// The registered readers.
pub struct ReaderBases {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Position of each reader's base; held while a file is changed.
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

    /// Adds a reader, or finds it again: from now on the log keeps what its base does not cover. `None`: it has no base that
    /// can be read, and begins at the start of the log. Blocks for a sync where the reader is new.
    pub fn register(&self, reader: &str) -> io::Result<Option<Base>> {
        check_name(reader)?;
        let is_known = lock(&self.positions).contains_key(reader);
        if !is_known {
            self.store(reader, 0, &[], 0)?;
            return Ok(None);
        }
        match self.load(reader) {
            Ok(base) if base.written_unix_ms == 0 => Ok(None),
            Ok(base) => Ok(Some(base)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a reader's base. On success it survives a power cut. Blocks.
    pub fn store(&self, reader: &str, position: u64, state: &[u8], now: UnixMs) -> io::Result<()> {
        check_name(reader)?;
        if state.len() > limits::READER_STATE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a state of {} bytes", state.len()),
            ));
        }
        let base = base::Base {
            name: reader,
            position,
            written_unix_ms: now,
            state,
        };
        let bytes = base.encode().map_err(io::Error::other)?;
        let path = self.path(reader);
        let temporary = self.dir.join(format!("{reader}{TEMPORARY_SUFFIX}"));
        let mut positions = lock(&self.positions);
        match self.disk.unlink(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&temporary)?;
        write_all_at(file.as_ref(), &bytes, 0)?;
        file.sync()?;
        self.disk.rename(&temporary, &path)?;
        self.disk.sync_dir(&self.dir)?;
        positions.insert(reader.to_owned(), position);
        Ok(())
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

    fn load(&self, reader: &str) -> io::Result<Base> {
        let file = self.disk.open(&self.path(reader), Access::Read)?;
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if len > limits::READER_STATE_MAX + FRONT_MAX {
            return Err(damaged(base::BaseError::Magic));
        }
        let mut bytes = vec![0; len];
        let count = read_at_most(file.as_ref(), &mut bytes, 0)?;
        bytes.truncate(count);
        let base = base::Base::decode(&bytes).map_err(damaged)?;
        if base.name != reader {
            return Err(damaged(base::BaseError::Magic));
        }
        Ok(Base {
            position: base.position,
            written_unix_ms: base.written_unix_ms,
            state: base.state.to_vec(),
        })
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
const NAME_MAX: usize = 64;
/// What stands before the state, and more.
const FRONT_MAX: usize = 4096;
