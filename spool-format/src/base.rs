//! A reader's base (FORMAT.md §13): what a reader of the event log made of everything before a position, so that the log
//! need not be kept for it. What the state means is the reader's.

use crate::RecordError;
use crate::bytes::{Reader, array, len16, u16_at, u32_at};
use crate::layout::{BASE_MAGIC, VERSION, base};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base<'a> {
    pub name: &'a str,
    /// In the event log: everything before it is in the state.
    pub position: u64,
    pub written_unix_ms: u64,
    pub state: &'a [u8],
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

impl<'a> Base<'a> {
    /// The whole file.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let name_len = len16(self.name.len(), "name")?;
        let mut out = Vec::with_capacity(base::VARIABLE + self.name.len() + self.state.len());
        out.extend_from_slice(&BASE_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&name_len.to_le_bytes());
        let mut rest = Vec::with_capacity(out.capacity() - base::POSITION);
        rest.extend_from_slice(&self.position.to_le_bytes());
        rest.extend_from_slice(&self.written_unix_ms.to_le_bytes());
        rest.extend_from_slice(&(self.state.len() as u64).to_le_bytes());
        rest.extend_from_slice(self.name.as_bytes());
        rest.extend_from_slice(self.state);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &rest);
        out.extend_from_slice(&crc.to_le_bytes());
        out.append(&mut rest);
        Ok(out)
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, BaseError> {
        if array(bytes, base::MAGIC) != Some(BASE_MAGIC) {
            return Err(BaseError::Magic);
        }
        let before = bytes.get(..base::CRC).ok_or(BaseError::Magic)?;
        let behind = bytes.get(base::POSITION..).ok_or(BaseError::Magic)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(before), behind);
        if u32_at(bytes, base::CRC) != Some(crc) {
            return Err(BaseError::Checksum);
        }
        match u16_at(bytes, base::VERSION).unwrap_or_default() {
            0 => return Err(BaseError::Magic),
            1..=VERSION => {}
            newer => return Err(BaseError::Newer(newer)),
        }
        let name_len = u16_at(bytes, base::NAME_LEN).unwrap_or_default();
        let mut reader = Reader::new(behind);
        let position = reader.u64("position")?;
        let written_unix_ms = reader.u64("time")?;
        let state_len = reader.u64("length of the state")?;
        let name = reader.text(name_len.into(), "name")?;
        let state = reader.rest();
        if state.len() as u64 != state_len {
            return Err(RecordError::Mismatch("length of the state").into());
        }
        Ok(Self {
            name,
            position,
            written_unix_ms,
            state,
        })
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

    #[test]
    fn a_base_is_read_as_it_was_written_and_every_flipped_bit_is_found() {
        let written = Base {
            name: "statistics",
            position: 1 << 40,
            written_unix_ms: 1_785_000_000_000,
            state: b"17 delivered",
        };
        let bytes = written.encode().unwrap();
        assert_eq!(Base::decode(&bytes), Ok(written));
        for bit in 0..8 * bytes.len() {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(Base::decode(&broken).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Base::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}
