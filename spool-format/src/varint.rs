//! Numbers of one to ten bytes, as checkpoints hold them (FORMAT.md §10.3): seven bits a byte, low bits first.

use crate::RecordError;
use crate::bytes::Reader;

pub(crate) fn write(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(low_bits(number) | 0x80);
        number >>= 7;
    }
    out.push(low_bits(number));
}

/// `to - from`, wrapping, so that small steps either way are short: zigzag.
pub(crate) fn write_difference(out: &mut Vec<u8>, from: u64, to: u64) {
    let difference = to.wrapping_sub(from);
    let sign = 0u64.wrapping_sub(difference >> 63);
    write(out, difference << 1 ^ sign);
}

fn low_bits(number: u64) -> u8 {
    let [low, ..] = number.to_le_bytes();
    low & 0x7F
}

pub(crate) trait Varints {
    fn varint(&mut self, what: &'static str) -> Result<u64, RecordError>;

    /// What [`write_difference`] wrote.
    fn difference(&mut self, from: u64, what: &'static str) -> Result<u64, RecordError> {
        let coded = self.varint(what)?;
        let sign = 0u64.wrapping_sub(coded & 1);
        Ok(from.wrapping_add(coded >> 1 ^ sign))
    }

    /// A number of something in memory.
    fn index(&mut self, what: &'static str) -> Result<usize, RecordError> {
        usize::try_from(self.varint(what)?).map_err(|_| RecordError::Short(what))
    }
}

impl Varints for Reader<'_> {
    fn varint(&mut self, what: &'static str) -> Result<u64, RecordError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                // One way to write a number: no trailing zero bytes.
                return if byte == 0 && shift > 0 {
                    Err(RecordError::Mismatch(what))
                } else {
                    Ok(number)
                };
            }
        }
        Err(RecordError::Mismatch(what))
    }
}
