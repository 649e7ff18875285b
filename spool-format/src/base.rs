//! A reader's base (FORMAT.md §13): what a reader of the event log made of everything before a position, so that the log
//! need not be kept for it. What the state means is the reader's; it may be large, so it is written and read in pieces.

use crate::RecordError;
use crate::bytes::{Reader, array, len16, u16_at, u32_at};
use crate::layout::{BASE_MAGIC, VERSION, base};

/// What stands before the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front<'a> {
    pub name: &'a str,
    /// In the event log: everything before it is in the state.
    pub position: u64,
    pub written_unix_ms: u64,
    /// Bytes, to the end of the file.
    pub state_len: u64,
}

/// Why bytes are not a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    #[error("not a reader's base")]
    Magic,
    #[error("written by a newer version (format {0}, this is format {VERSION})")]
    Newer(u16),
    #[error("the base's checksum does not match")]
    Checksum,
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The checksum of a file whose state is still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseCrc {
    /// As the file says it.
    pub expected: u32,
    sum: u32,
}

impl BaseCrc {
    /// The next bytes of the state.
    pub fn take(&mut self, state: &[u8]) {
        self.sum = crc32c::crc32c_append(self.sum, state);
    }

    pub fn sum(&self) -> u32 {
        self.sum
    }
}

impl<'a> Front<'a> {
    /// Where the state begins.
    pub fn state_at(&self) -> usize {
        base::VARIABLE + self.name.len()
    }

    /// `state_crc`: CRC32C of the state.
    pub fn encode(&self, state_crc: u32) -> Result<Vec<u8>, RecordError> {
        let name_len = len16(self.name.len(), "name")?;
        let state_len = usize::try_from(self.state_len)
            .map_err(|_| RecordError::Mismatch("length of the state"))?;
        let mut out = Vec::with_capacity(self.state_at());
        out.extend_from_slice(&BASE_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&name_len.to_le_bytes());
        let mut rest = Vec::with_capacity(out.capacity() - base::POSITION);
        rest.extend_from_slice(&self.position.to_le_bytes());
        rest.extend_from_slice(&self.written_unix_ms.to_le_bytes());
        rest.extend_from_slice(&self.state_len.to_le_bytes());
        rest.extend_from_slice(self.name.as_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &rest);
        let crc = crc32c::crc32c_combine(crc, state_crc, state_len);
        out.extend_from_slice(&crc.to_le_bytes());
        out.append(&mut rest);
        Ok(out)
    }

    /// From the beginning of a file; also where the state begins, and what it must add up to.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize, BaseCrc), BaseError> {
        if array(bytes, base::MAGIC) != Some(BASE_MAGIC) {
            return Err(BaseError::Magic);
        }
        match u16_at(bytes, base::VERSION).unwrap_or_default() {
            0 => return Err(BaseError::Magic),
            1..=VERSION => {}
            newer => return Err(BaseError::Newer(newer)),
        }
        let before = bytes.get(..base::CRC).ok_or(BaseError::Magic)?;
        let expected = u32_at(bytes, base::CRC).ok_or(BaseError::Magic)?;
        let behind = bytes.get(base::POSITION..).ok_or(BaseError::Magic)?;
        let name_len = u16_at(bytes, base::NAME_LEN).unwrap_or_default();
        let mut reader = Reader::new(behind);
        let front = Self {
            position: reader.u64("position")?,
            written_unix_ms: reader.u64("time")?,
            state_len: reader.u64("length of the state")?,
            name: reader.text(name_len.into(), "name")?,
        };
        let len = front.state_at();
        let behind = bytes.get(base::POSITION..len).ok_or(BaseError::Magic)?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(before), behind);
        Ok((front, len, BaseCrc { expected, sum }))
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
mod tests {
    use super::*;

    /// The whole file, read as a reader does.
    fn read(bytes: &[u8]) -> Result<(Front<'_>, &[u8]), BaseError> {
        let (front, at, mut crc) = Front::decode(bytes)?;
        for piece in bytes[at..].chunks(5) {
            crc.take(piece);
        }
        match crc.sum() == crc.expected && (bytes.len() - at) as u64 == front.state_len {
            true => Ok((front, &bytes[at..])),
            false => Err(BaseError::Checksum),
        }
    }

    #[test]
    fn a_base_is_read_as_it_was_written_and_every_flipped_bit_is_found() {
        let state = b"17 delivered";
        let written = Front {
            name: "statistics",
            position: 1 << 40,
            written_unix_ms: 1_785_000_000_000,
            state_len: state.len() as u64,
        };
        let mut bytes = written.encode(crc32c::crc32c(state)).unwrap();
        assert_eq!(bytes.len(), written.state_at());
        bytes.extend_from_slice(state);
        assert_eq!(read(&bytes), Ok((written, state.as_slice())));
        for bit in 0..8 * bytes.len() {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&broken).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}
