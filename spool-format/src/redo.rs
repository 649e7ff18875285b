//! The redo journal of an erasure (FORMAT.md §12): all that is needed to overwrite records again without reading them.
//!
//! An erasure overwrites synced bytes in place; a loss of power may leave a record half old and half new. The journal is
//! durable before the first byte is overwritten, so a start can finish what was begun. Doing it again changes nothing.
//! A journal names each segment by its number and salt: a file that has another life since is not touched.

use crate::RecordError;
use crate::bytes::{array, put, u16_at, u32_at, u64_at};
use crate::frame::{Frame, padded_len};
use crate::layout::{
    ALIGNMENT, FIXED_MAX, PAGE_OFFSET, RECORD_HEADER, REDO_MAGIC, VERSION, erasable_len, fixed_len,
    redo_entry, redo_header,
};
use crate::marker::ErasedRecord;
use crate::segment::{LogKind, SegmentHeader};

/// A record that is to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedoEntry {
    pub log: LogKind,
    /// Number of the segment.
    pub segment: u64,
    pub salt: [u8; 16],
    /// Of the record in its segment.
    pub offset: u64,
    pub record_len: u32,
    pub flags: u8,
    /// As first written.
    pub crc: u32,
    pub kind: u8,
    pub digest: [u8; 32],
    /// As much of it as [`fixed_len`] says, then zeros.
    pub fixed: [u8; FIXED_MAX],
}

impl RedoEntry {
    /// `None` where the record is of a kind that is not erased, or too short.
    pub fn of(header: &SegmentHeader, frame: &Frame<'_>) -> Option<Self> {
        let erased = ErasedRecord::of(frame)?;
        let mut fixed = [0; FIXED_MAX];
        put(&mut fixed, 0, erased.fixed);
        Some(Self {
            log: header.kind,
            segment: header.number,
            salt: header.salt,
            offset: frame.offset,
            record_len: u32::try_from(frame.record_len).ok()?,
            flags: frame.flags,
            crc: erased.crc,
            kind: erased.kind,
            digest: erased.digest,
            fixed,
        })
    }

    /// Whether the record lies in this segment, in this life of its file.
    pub fn is_in(&self, header: &SegmentHeader) -> bool {
        let end = self.offset.saturating_add(padded_len(self.len()) as u64);
        self.log == header.kind
            && self.segment == header.number
            && self.salt == header.salt
            && end <= header.size
    }

    /// The erased record, as it is to lie at `offset`.
    /// # Panics
    /// When the record lies in another segment: a programming error.
    pub fn record(&self, header: &SegmentHeader) -> Vec<u8> {
        assert!(self.is_in(header), "segment {}", self.segment);
        let erased = ErasedRecord {
            crc: self.crc,
            kind: self.kind,
            digest: self.digest,
            fixed: self
                .fixed
                .get(..fixed_len(self.kind).unwrap_or_default())
                .unwrap_or_default(),
        };
        // `of` and `decode` have seen to its length.
        erased
            .encode(self.len(), self.flags, header.seed(), self.offset)
            .unwrap_or_default()
    }

    /// Erases the record in `segment`, the bytes of its segment from the first one on.
    pub fn apply(&self, header: &SegmentHeader, segment: &mut [u8]) {
        let record = self.record(header);
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(record.len());
        if let Some(place) = segment.get_mut(start..end) {
            place.copy_from_slice(&record);
        }
    }

    fn len(&self) -> usize {
        usize::try_from(self.record_len).unwrap_or(usize::MAX)
    }

    fn encode(&self, out: &mut [u8]) {
        let log = match self.log {
            LogKind::Mail => 1,
            LogKind::Event => 2,
        };
        put(out, redo_entry::LOG_KIND, &[log, self.kind, self.flags]);
        put(out, redo_entry::LEN, &self.record_len.to_le_bytes());
        put(out, redo_entry::SEGMENT, &self.segment.to_le_bytes());
        put(out, redo_entry::OFFSET, &self.offset.to_le_bytes());
        put(out, redo_entry::SALT, &self.salt);
        put(out, redo_entry::CRC, &self.crc.to_le_bytes());
        let fixed_len = fixed_len(self.kind).unwrap_or_default();
        let fixed_len = u32::try_from(fixed_len).unwrap_or_default();
        put(out, redo_entry::FIXED_LEN, &fixed_len.to_le_bytes());
        put(out, redo_entry::DIGEST, &self.digest);
        put(out, redo_entry::FIXED, &self.fixed);
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let short = RecordError::Short("entry");
        let mismatch = RecordError::Mismatch("entry");
        let [log, kind, flags] = array(bytes, redo_entry::LOG_KIND).ok_or(short)?;
        let entry = Self {
            log: match log {
                1 => LogKind::Mail,
                2 => LogKind::Event,
                _ => return Err(RecordError::Unknown("log kind")),
            },
            segment: u64_at(bytes, redo_entry::SEGMENT).ok_or(short)?,
            salt: array(bytes, redo_entry::SALT).ok_or(short)?,
            offset: u64_at(bytes, redo_entry::OFFSET).ok_or(short)?,
            record_len: u32_at(bytes, redo_entry::LEN).ok_or(short)?,
            flags,
            crc: u32_at(bytes, redo_entry::CRC).ok_or(short)?,
            kind,
            digest: array(bytes, redo_entry::DIGEST).ok_or(short)?,
            fixed: array(bytes, redo_entry::FIXED).ok_or(short)?,
        };
        let erasable = erasable_len(kind).ok_or(RecordError::Unknown("kind of record"))?;
        let fixed = fixed_len(kind).unwrap_or_default();
        let fixed_fits = u32_at(bytes, redo_entry::FIXED_LEN).map(u64::from) == Some(fixed as u64);
        let offset_fits =
            entry.offset >= PAGE_OFFSET && entry.offset.is_multiple_of(ALIGNMENT as u64);
        if !fixed_fits || !offset_fits || entry.len() < RECORD_HEADER + erasable {
            return Err(mismatch);
        }
        Ok(entry)
    }
}

/// A whole journal.
pub fn encode(entries: &[RedoEntry], created_unix_ms: u64) -> Vec<u8> {
    let len = redo_header::ENTRIES_BEGIN + entries.len() * redo_entry::SIZE;
    let mut journal = vec![0; len];
    put(&mut journal, redo_header::MAGIC, &REDO_MAGIC);
    put(&mut journal, redo_header::VERSION, &VERSION.to_le_bytes());
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    put(&mut journal, redo_header::ENTRIES, &count.to_le_bytes());
    put(
        &mut journal,
        redo_header::CREATED_UNIX_MS,
        &created_unix_ms.to_le_bytes(),
    );
    let (_, places) = journal
        .split_at_mut_checked(redo_header::ENTRIES_BEGIN)
        .unwrap_or_default();
    for (place, entry) in places.chunks_exact_mut(redo_entry::SIZE).zip(entries) {
        entry.encode(place);
    }
    let crc = checksum(&journal);
    put(&mut journal, redo_header::CRC, &crc.to_le_bytes());
    journal
}

/// The entries of a journal.
/// # Errors
/// When a byte of it is not as it was written. Nothing of it may then be done.
pub fn decode(journal: &[u8]) -> Result<Vec<RedoEntry>, RecordError> {
    if array(journal, redo_header::MAGIC) != Some(REDO_MAGIC) {
        return Err(RecordError::Unknown("journal"));
    }
    if u32_at(journal, redo_header::CRC) != Some(checksum(journal)) {
        return Err(RecordError::Mismatch("checksum"));
    }
    match u16_at(journal, redo_header::VERSION) {
        Some(1..=VERSION) => {}
        _ => return Err(RecordError::Unknown("version")),
    }
    let entries = journal
        .get(redo_header::ENTRIES_BEGIN..)
        .ok_or(RecordError::Short("header"))?;
    let chunks = entries.chunks_exact(redo_entry::SIZE);
    let count = u32_at(journal, redo_header::ENTRIES).map(u64::from);
    if !chunks.remainder().is_empty() || count != Some(chunks.len() as u64) {
        return Err(RecordError::Mismatch("number of entries"));
    }
    chunks.map(RedoEntry::decode).collect()
}

fn checksum(journal: &[u8]) -> u32 {
    let before = journal.get(..redo_header::CRC).unwrap_or_default();
    let after = journal
        .get(redo_header::ENTRIES_BEGIN..)
        .unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}
