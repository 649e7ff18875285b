//! Digests of sealed segments (FORMAT.md §14): what shows later that history was not changed.
//!
//! A digest is over the digests of a segment's records, so that a record can be erased: what is left of it carries its own.
//! Entries are chained: the last one stands for all. No defence against somebody who makes a whole new file, unless its last
//! chain was noted elsewhere.

use sha2::{Digest as _, Sha256};

use crate::bytes::{array, put, u16_at, u32_at, u64_at};
use crate::frame::Frame;
use crate::layout::{DIGESTS_MAGIC, VERSION, digest_entry, digests_header, erased, kind};
use crate::scan::{self, Item};
use crate::segment::{LogKind, SegmentHeader};

/// SHA-256.
pub type Digest = [u8; 32];

/// Of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    pub digest: Digest,
    /// That verify.
    pub records: u32,
}

/// What the file says of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub log: LogKind,
    pub number: u64,
    pub first_position: u64,
    /// Offset up to which the segment was acknowledged.
    pub end: u64,
    pub salt: [u8; 16],
    pub written_unix_ms: u64,
    pub sum: Sum,
}

/// A file of digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// In order, each with its chain.
    pub entries: Vec<(Entry, Digest)>,
    /// Places, counted from 0, of entries that are damaged or do not follow from the one before.
    pub broken: Vec<u64>,
    /// Where the next entry belongs.
    pub end: u64,
}

/// Why bytes are not a file of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestsError {
    #[error("not a file of digests")]
    Magic,
    #[error("written by a newer version (format {0}, this is format {VERSION})")]
    Newer(u16),
}

/// Of what the record was when it was written.
pub fn of_record(frame: &Frame<'_>) -> Digest {
    let kept: Option<Digest> = match frame.kind {
        kind::ERASED => array(frame.payload, erased::DIGEST),
        _ => None,
    };
    match kept {
        Some(digest) if digest != NONE => digest,
        _ => Sha256::digest(frame.bytes).into(),
    }
}

/// Of the segment up to its end.
pub fn of_segment(segment: &[u8], header: &SegmentHeader, end: u64) -> Sum {
    let (mut sum, mut records) = (Sha256::new(), 0u32);
    for item in scan::sealed(segment, header, end) {
        if let Item::Record(frame) = item {
            sum.update(of_record(&frame));
            records = records.saturating_add(1);
        }
    }
    Sum {
        digest: sum.finalize().into(),
        records,
    }
}

impl Entry {
    pub fn of(segment: &[u8], header: &SegmentHeader, end: u64, now_unix_ms: u64) -> Self {
        Self {
            log: header.kind,
            number: header.number,
            first_position: header.first_position,
            end,
            salt: header.salt,
            written_unix_ms: now_unix_ms,
            sum: of_segment(segment, header, end),
        }
    }

    /// Whether it is about this life of this segment.
    pub fn is_of(&self, header: &SegmentHeader) -> bool {
        (self.log, self.number, self.first_position, self.salt)
            == (
                header.kind,
                header.number,
                header.first_position,
                header.salt,
            )
    }

    /// With the chain of the entry before; its own comes back beside the bytes.
    pub fn encode(&self, before: &Digest) -> ([u8; digest_entry::SIZE], Digest) {
        let mut out = [0; digest_entry::SIZE];
        let log = match self.log {
            LogKind::Mail => 1,
            LogKind::Event => 2,
        };
        put(&mut out, digest_entry::LOG_KIND, &[log]);
        put(&mut out, digest_entry::NUMBER, &self.number.to_le_bytes());
        let first = self.first_position.to_le_bytes();
        put(&mut out, digest_entry::FIRST_POSITION, &first);
        put(&mut out, digest_entry::END, &self.end.to_le_bytes());
        put(&mut out, digest_entry::SALT, &self.salt);
        let written = self.written_unix_ms.to_le_bytes();
        put(&mut out, digest_entry::WRITTEN_UNIX_MS, &written);
        let records = self.sum.records.to_le_bytes();
        put(&mut out, digest_entry::RECORDS, &records);
        put(&mut out, digest_entry::DIGEST, &self.sum.digest);
        let chain = chain(before, &out);
        put(&mut out, digest_entry::CHAIN, &chain);
        let crc = crc(&out);
        put(&mut out, digest_entry::CRC, &crc.to_le_bytes());
        (out, chain)
    }

    /// `None`: no entry, or a damaged one.
    fn decode(bytes: &[u8]) -> Option<(Self, Digest)> {
        if u32_at(bytes, digest_entry::CRC)? != crc(bytes) {
            return None;
        }
        let entry = Self {
            log: match bytes.first()? {
                1 => LogKind::Mail,
                2 => LogKind::Event,
                _ => return None,
            },
            number: u64_at(bytes, digest_entry::NUMBER)?,
            first_position: u64_at(bytes, digest_entry::FIRST_POSITION)?,
            end: u64_at(bytes, digest_entry::END)?,
            salt: array(bytes, digest_entry::SALT)?,
            written_unix_ms: u64_at(bytes, digest_entry::WRITTEN_UNIX_MS)?,
            sum: Sum {
                digest: array(bytes, digest_entry::DIGEST)?,
                records: u32_at(bytes, digest_entry::RECORDS)?,
            },
        };
        Some((entry, array(bytes, digest_entry::CHAIN)?))
    }
}

impl Digests {
    /// What a new file begins with.
    pub fn header() -> [u8; digests_header::ENTRIES] {
        let mut out = [0; digests_header::ENTRIES];
        put(&mut out, digests_header::MAGIC, &DIGESTS_MAGIC);
        put(&mut out, digests_header::VERSION, &VERSION.to_le_bytes());
        out
    }

    /// Reads a whole file.
    pub fn read(file: &[u8]) -> Result<Self, DigestsError> {
        if array(file, digests_header::MAGIC) != Some(DIGESTS_MAGIC) {
            return Err(DigestsError::Magic);
        }
        match u16_at(file, digests_header::VERSION).unwrap_or_default() {
            0 => return Err(DigestsError::Magic),
            1..=VERSION => {}
            newer => return Err(DigestsError::Newer(newer)),
        }
        let mut read = Self {
            end: digests_header::ENTRIES as u64,
            ..Self::default()
        };
        let behind = file.get(digests_header::ENTRIES..).unwrap_or_default();
        let mut torn = Vec::new();
        for (place, bytes) in (0u64..).zip(behind.chunks_exact(digest_entry::SIZE)) {
            let Some((entry, chain_said)) = Entry::decode(bytes) else {
                torn.push(place);
                continue;
            };
            // What lies before a whole entry was not at the end.
            read.broken.append(&mut torn);
            if chain(&read.chain(), bytes) != chain_said {
                read.broken.push(place);
            }
            read.entries.push((entry, chain_said));
            read.end = (digests_header::ENTRIES as u64)
                .saturating_add((place + 1).saturating_mul(digest_entry::SIZE as u64));
        }
        Ok(read)
    }

    /// Of the last entry.
    pub fn chain(&self) -> Digest {
        self.entries.last().map_or(NONE, |(_, chain)| *chain)
    }
}

fn chain(before: &Digest, entry: &[u8]) -> Digest {
    let mut sum = Sha256::new();
    sum.update(before);
    sum.update(entry.get(..digest_entry::RESERVED_1).unwrap_or_default());
    let told = entry.get(digest_entry::NUMBER..digest_entry::CHAIN);
    sum.update(told.unwrap_or_default());
    sum.finalize().into()
}

fn crc(entry: &[u8]) -> u32 {
    let before = entry.get(..digest_entry::CRC).unwrap_or_default();
    let behind = entry.get(digest_entry::NUMBER..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), behind)
}

/// Stands before the first entry, and in records that were erased before there were digests.
const NONE: Digest = [0; 32];

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry {
            log: LogKind::Event,
            number,
            first_position: number << 20,
            end: 1 << 20,
            salt: [7; 16],
            written_unix_ms: 1_785_000_000_000,
            sum: Sum {
                digest: [number as u8; 32],
                records: 9,
            },
        }
    }

    fn file(count: u64) -> Vec<u8> {
        let (mut file, mut before) = (Digests::header().to_vec(), NONE);
        for number in 1..=count {
            let (bytes, chain) = entry(number).encode(&before);
            file.extend_from_slice(&bytes);
            before = chain;
        }
        file
    }

    #[test]
    fn a_torn_entry_at_the_end_means_nothing_and_damage_before_it_is_found() {
        let whole = file(3);
        let read = Digests::read(&whole).unwrap();
        let entries: Vec<Entry> = read.entries.iter().map(|(entry, _)| *entry).collect();
        assert_eq!(entries, [entry(1), entry(2), entry(3)]);
        assert_eq!((&read.broken[..], read.end), (&[][..], whole.len() as u64));
        let last = whole.len() - digest_entry::SIZE;
        for cut in last..whole.len() {
            let read = Digests::read(&whole[..cut]).unwrap();
            assert_eq!((read.entries.len(), read.broken.len()), (2, 0), "{cut}");
            assert_eq!(read.end, last as u64);
        }
        for bit in 8 * digests_header::ENTRIES..8 * whole.len() {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let read = Digests::read(&broken).unwrap();
            match bit / 8 < last {
                true => assert!(!read.broken.is_empty(), "bit {bit}"),
                false => assert_eq!((read.entries.len(), read.end), (2, last as u64)),
            }
        }
    }

    #[test]
    fn an_entry_that_was_left_out_or_made_up_breaks_the_chain() {
        let whole = file(4);
        let at = |n: usize| digests_header::ENTRIES + n * digest_entry::SIZE;
        let without = [&whole[..at(1)], &whole[at(2)..]].concat();
        assert_eq!(Digests::read(&without).unwrap().broken, [1]);
        let mut changed = entry(2);
        changed.sum.digest = [99; 32];
        let (bytes, _) = changed.encode(&Digests::read(&whole[..at(1)]).unwrap().chain());
        let made_up = [&whole[..at(1)], &bytes, &whole[at(2)..]].concat();
        assert_eq!(Digests::read(&made_up).unwrap().broken, [2]);
    }
}
