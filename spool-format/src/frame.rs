//! Record framing (FORMAT.md §4): length, checksum, kind, flags around a payload.
//!
//! [`finish`] completes a record in place, in one pass over its bytes: the writer has already copied the payload where
//! it belongs. [`read`] checks every bound before it uses a length and the checksum before it shows a byte. The checksum
//! depends on the segment's salt, its number and the record's offset, so bytes of the file's earlier life, bytes that
//! were moved, and records that somebody sent us as mail do not verify.

use crate::bytes::{array, put, u32_at};
use crate::layout::{ALIGNMENT, PAGE, RECORD_HEADER, SHORT_PADDING, kind, record};
use crate::segment::Seed;

/// Length of a record with this payload: what `LEN` holds.
pub const fn record_len(payload_len: usize) -> usize {
    RECORD_HEADER + payload_len
}

/// What the record occupies: its length rounded up to [`ALIGNMENT`].
pub const fn padded_len(record_len: usize) -> usize {
    record_len.next_multiple_of(ALIGNMENT)
}

/// `offset` rounded up to the next page: where the batch after a commit record that ends at `offset` begins.
pub const fn page_up(offset: u64) -> u64 {
    offset.next_multiple_of(PAGE as u64)
}

/// A record whose checksum matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// In its segment.
    pub offset: u64,
    pub kind: u8,
    pub flags: u8,
    pub payload: &'a [u8],
    /// As stored: header and payload, unpadded.
    pub record_len: usize,
    /// As stored: the record's hash in the running hash.
    pub crc: u32,
    /// All that it occupies.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// Offset of the next record.
    pub fn end(&self) -> u64 {
        self.offset + padded_len(self.record_len) as u64
    }
}

/// Why the bytes at an offset are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length word is zero: never written, or reserved and not yet published.
    #[error("nothing was written here")]
    Empty,
    #[error("impossible length {0}")]
    Length(u32),
    /// The record would reach past the end of the bytes.
    #[error("the record is cut off")]
    Cut,
    #[error("the checksum does not match")]
    Checksum,
}

/// Writes everything but the length word of a record whose payload is in place, and returns the length word, to be
/// stored last, little-endian, at [`record::LEN`].
///
/// `record` is the whole padded record; what it holds at the length word is not looked at. A padding record may have
/// `record_len` 8 ([`SHORT_PADDING`]) where no more room is left.
/// # Panics
/// When `record` is not `padded_len(record_len)` long, `offset` not aligned, or `record_len` too short for its kind:
/// programming errors.
pub fn finish(
    record: &mut [u8],
    record_len: usize,
    kind: u8,
    flags: u8,
    seed: Seed,
    offset: u64,
) -> u32 {
    let body = record.get_mut(record::CRC..).unwrap_or_default();
    finish_body(body, record_len, kind, flags, seed, offset)
}

/// [`finish`] for a writer whose length word is shared with other threads: `body` is the padded record from
/// [`record::CRC`] on.
/// # Panics
/// As [`finish`].
pub fn finish_body(
    body: &mut [u8],
    record_len: usize,
    kind: u8,
    flags: u8,
    seed: Seed,
    offset: u64,
) -> u32 {
    const SKIPPED: usize = record::CRC;
    assert_eq!(
        body.len() + SKIPPED,
        padded_len(record_len),
        "record and length"
    );
    assert!(offset.is_multiple_of(ALIGNMENT as u64), "offset {offset}");
    let Ok(len) = u32::try_from(record_len) else {
        panic!("record of {record_len} bytes");
    };
    if record_len != SHORT_PADDING {
        assert!(record_len >= RECORD_HEADER, "record of {record_len} bytes");
        put(
            body,
            record::KIND - SKIPPED,
            &[kind, flags, 0, 0, 0, 0, 0, 0],
        );
        if let Some(padding) = body.get_mut(record_len - SKIPPED..) {
            padding.fill(0);
        }
    } else {
        assert_eq!(
            (kind, flags),
            (kind::PADDING, 0),
            "eight bytes hold only padding"
        );
    }
    let covered = body.get(record::KIND - SKIPPED..).unwrap_or_default();
    let crc = checksum(seed, offset, len, covered);
    put(body, record::CRC - SKIPPED, &crc.to_le_bytes());
    len
}

/// [`finish`], and the length word stored: for whoever does not publish to other threads.
pub fn seal(record: &mut [u8], record_len: usize, kind: u8, flags: u8, seed: Seed, offset: u64) {
    let len = finish(record, record_len, kind, flags, seed, offset);
    put(record, record::LEN, &len.to_le_bytes());
}

/// The record at `offset` of a segment, whose byte 0 is the first of `segment`.
pub fn read(segment: &[u8], offset: u64, seed: Seed) -> Result<Frame<'_>, FrameError> {
    let start = usize::try_from(offset).map_err(|_| FrameError::Cut)?;
    read_record(segment.get(start..).ok_or(FrameError::Cut)?, offset, seed)
}

/// The record that `bytes` begin with, read at `offset` of its segment. What follows it is ignored.
pub fn read_record(bytes: &[u8], offset: u64, seed: Seed) -> Result<Frame<'_>, FrameError> {
    let len = u32_at(bytes, record::LEN).ok_or(FrameError::Cut)?;
    let record_len = match usize::try_from(len) {
        Ok(0) => return Err(FrameError::Empty),
        Ok(len) if len == SHORT_PADDING || len >= RECORD_HEADER => len,
        _ => return Err(FrameError::Length(len)),
    };
    if record_len > bytes.len() {
        return Err(FrameError::Cut);
    }
    let record = bytes.get(..padded_len(record_len)).ok_or(FrameError::Cut)?;
    let crc = u32_at(record, record::CRC).ok_or(FrameError::Cut)?;
    let covered = record.get(record::KIND..).ok_or(FrameError::Cut)?;
    if checksum(seed, offset, len, covered) != crc {
        return Err(FrameError::Checksum);
    }
    let [kind, flags] = array(record, record::KIND).unwrap_or([kind::PADDING, 0]);
    Ok(Frame {
        offset,
        kind,
        flags,
        payload: record.get(record::PAYLOAD..record_len).unwrap_or_default(),
        record_len,
        crc,
        bytes: record,
    })
}

/// The order in which the checksum takes the bytes: salt and number (in `seed`), offset, length, then the record from
/// its kind to the end of its padding.
fn checksum(seed: Seed, offset: u64, len: u32, covered: &[u8]) -> u32 {
    let mut front = [0; 12];
    put(&mut front, 0, &offset.to_le_bytes());
    put(&mut front, 8, &len.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed.crc, &front), covered)
}
