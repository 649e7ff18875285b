//! What the engine promises, on a disk in memory unless the disk itself is the subject.

mod archives;
mod checkpoint;
mod cold;
mod crash;
mod erase;
mod faults;
mod life;
mod lives;
mod quarantine;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spool_format::layout::{kind, record_flag};

use super::disk::Disk;
use super::disk::memory::MemoryDisk;
use super::*;

const DIR: &str = "/data";
/// Small, so that a few records roll: four pages of records.
const SEGMENT: u64 = 6 * 4096;
/// Small too: a lap every few records, and writers that wait for room.
const RING: u64 = 19 * 4096;

fn options(dir: &Path) -> Options {
    Options {
        mail_segment: SEGMENT,
        event_segment: SEGMENT,
        mail_ring: RING,
        event_ring: RING,
        reserve: 0,
        refuse_below: 0,
        ..Options::new(dir)
    }
}

/// What recovery found: payloads by position, and damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    mail: BTreeMap<u64, Vec<u8>>,
    events: BTreeMap<u64, Vec<u8>>,
    damages: Vec<Damage>,
    /// Of the records above, those that are erased (log, position), and those that are copies.
    erased: BTreeSet<(u8, u64)>,
    moved: BTreeSet<u64>,
}

impl Replay for Found {
    fn record(&mut self, log: LogKind, position: u64, frame: &Frame<'_>) {
        let records = match log {
            LogKind::Mail => &mut self.mail,
            LogKind::Event => &mut self.events,
        };
        let twice = records.insert(position, frame.payload.to_vec());
        assert!(twice.is_none(), "{position} replayed twice");
        if frame.kind == kind::ERASED {
            self.erased.insert((log as u8, position));
        }
        if frame.flags & record_flag::MOVED != 0 {
            self.moved.insert(position);
        }
    }

    fn damage(&mut self, _log: LogKind, damage: &Damage) {
        self.damages.push(damage.clone());
    }
}

fn open_on(disk: impl Disk, options: Options) -> Result<(Spool, Found), OpenError> {
    let mut found = Found::default();
    let spool = Spool::open(Arc::new(disk), options, Clock::start(), &mut found)?;
    Ok((spool, found))
}

fn open(disk: &MemoryDisk) -> (Spool, Found) {
    open_on(disk.clone(), options(Path::new(DIR))).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

/// Appends, and waits until it is durable.
fn append(log: &Log, payload: &[u8]) -> Result<Receipt, AppendError> {
    runtime().block_on(async { log.append(kind::EVENT, 0, &[payload], None).await?.await })
}

/// A payload that says which one it is, of a length that varies.
fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
    bytes.splice(
        ..8.min(len),
        number.to_le_bytes().into_iter().take(len.min(8)),
    );
    bytes
}

fn segment_files(disk: &MemoryDisk, log: &str) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join("spool").join(log);
    let files = disk.files().into_keys();
    files.filter(|path| path.starts_with(&dir)).collect()
}

/// Waits for the preparing thread: there is no other event to wait for from outside.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::start();
    let deadline = clock.instant() + Duration::from_secs(60);
    while !holds() {
        assert!(clock.instant() < deadline, "never: {what}");
        // Not a loop of yields: the thread that is waited for may have the lowest priority.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
