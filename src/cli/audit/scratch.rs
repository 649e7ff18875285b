//! Entries that do not fit in memory: sorted runs in a file without a name, and the merge of them.
//!
//! The file is unlinked as soon as it is open: it goes with the process, however that ends. A run is written once and read once,
//! in pieces.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use spool_format::RecipientKey;

use super::ledger::Entry;

pub(super) struct Scratch {
    dir: PathBuf,
    /// Opened when it is needed: small logs need none.
    file: Option<File>,
    /// Where each run begins and ends.
    runs: Vec<(u64, u64)>,
}

impl Scratch {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            file: None,
            runs: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn written(&self) -> usize {
        self.runs.len()
    }

    /// Writes a run of all that is in the table, which is empty afterwards.
    pub(super) fn spill(&mut self, entries: &mut FxHashMap<RecipientKey, Entry>) -> io::Result<()> {
        let told = |error: io::Error| {
            let dir = self.dir.display();
            let text = format!("{dir}: {error}; name a directory with more room with --scratch");
            io::Error::new(error.kind(), text)
        };
        if self.file.is_none() {
            self.file = Some(open(&self.dir).map_err(told)?);
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let from = self.runs.last().map_or(0, |(_, end)| *end);
        let mut at = from;
        let mut piece = Vec::with_capacity(PIECE);
        for (key, entry) in sorted(entries.drain()) {
            encode(&key, &entry, &mut piece);
            if piece.len() + SIZE > PIECE {
                file.write_all_at(&piece, at).map_err(told)?;
                at += piece.len() as u64;
                piece.clear();
            }
        }
        file.write_all_at(&piece, at).map_err(told)?;
        self.runs.push((from, at + piece.len() as u64));
        Ok(())
    }
}

fn open(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    loop {
        let path = dir.join(format!("posthaste-audit-{:016x}", fastrand::u64(..)));
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}

fn sorted(
    entries: impl Iterator<Item = (RecipientKey, Entry)>,
) -> std::vec::IntoIter<(RecipientKey, Entry)> {
    let mut sorted: Vec<_> = entries.collect();
    sorted.sort_unstable_by_key(|(key, _)| place(key));
    sorted.into_iter()
}

fn place(key: &RecipientKey) -> ([u8; 16], u16) {
    (key.message, key.number)
}

/// Every recipient once, in order, with all that was read of it.
pub(super) struct Merge<'s> {
    scratch: &'s Scratch,
    runs: Vec<Run>,
    /// Behind the runs.
    table: std::vec::IntoIter<(RecipientKey, Entry)>,
    /// The next of each run, which come first for the same recipient in the order in which they were written.
    heads: BinaryHeap<Reverse<Head>>,
}

/// Recipient, run, and its entry, which does not take part in the order.
struct Head(([u8; 16], u16), usize, Entry);

/// What is left of a run.
struct Run {
    at: u64,
    end: u64,
    piece: Vec<u8>,
    used: usize,
}

impl<'s> Merge<'s> {
    pub(super) fn new(
        scratch: &'s Scratch,
        entries: FxHashMap<RecipientKey, Entry>,
    ) -> io::Result<Self> {
        let run = |&(at, end): &(u64, u64)| Run {
            at,
            end,
            piece: Vec::new(),
            used: 0,
        };
        let mut merge = Self {
            scratch,
            runs: scratch.runs.iter().map(run).collect(),
            table: sorted(entries.into_iter()),
            heads: BinaryHeap::new(),
        };
        for run in 0..=merge.runs.len() {
            merge.advance(run)?;
        }
        Ok(merge)
    }

    pub(super) fn next(&mut self) -> io::Result<Option<(RecipientKey, Entry)>> {
        let Some(Reverse(Head(place, run, mut entry))) = self.heads.pop() else {
            return Ok(None);
        };
        self.advance(run)?;
        while let Some(Reverse(Head(other, run, later))) = self.heads.peek()
            && *other == place
        {
            entry.add(later);
            let run = *run;
            self.heads.pop();
            self.advance(run)?;
        }
        let (message, number) = place;
        Ok(Some((RecipientKey { message, number }, entry)))
    }

    fn advance(&mut self, index: usize) -> io::Result<()> {
        let next = match (self.runs.get_mut(index), &self.scratch.file) {
            (Some(run), Some(file)) => run.next(file)?,
            _ => self.table.next(),
        };
        if let Some((key, entry)) = next {
            self.heads.push(Reverse(Head(place(&key), index, entry)));
        }
        Ok(())
    }
}

impl Run {
    fn next(&mut self, file: &File) -> io::Result<Option<(RecipientKey, Entry)>> {
        if self.used == self.piece.len() {
            let len = (self.end - self.at).min(PIECE_READ as u64) as usize;
            self.piece.resize(len, 0);
            file.read_exact_at(&mut self.piece, self.at)?;
            self.at += len as u64;
            self.used = 0;
        }
        let bytes = &self.piece[self.used..];
        self.used += SIZE.min(bytes.len());
        Ok(decode(bytes))
    }
}

fn encode(key: &RecipientKey, entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.message);
    out.extend_from_slice(&key.number.to_le_bytes());
    out.extend_from_slice(&entry.stream.to_le_bytes());
    out.extend_from_slice(&[entry.flags, entry.ended, entry.again]);
}

fn decode(bytes: &[u8]) -> Option<(RecipientKey, Entry)> {
    let (message, rest) = bytes.split_first_chunk::<16>()?;
    let (number, rest) = rest.split_first_chunk::<2>()?;
    let (stream, rest) = rest.split_first_chunk::<4>()?;
    let [flags, ended, again] = *rest.first_chunk::<3>()?;
    let key = RecipientKey {
        message: *message,
        number: u16::from_le_bytes(*number),
    };
    let stream = u32::from_le_bytes(*stream);
    let entry = Entry {
        stream,
        flags,
        ended,
        again,
    };
    Some((key, entry))
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Octets of an entry.
const SIZE: usize = 16 + 2 + 4 + 3;
/// Written at once.
const PIECE: usize = 1 << 20;
/// Read at once: a whole number of entries.
const PIECE_READ: usize = 2_048 * SIZE;
