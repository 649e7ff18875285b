//! Reading and writing little-endian integers at checked places. The rest of the crate never indexes.

use crate::RecordError;

/// `N` bytes at `at`, if they are there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// Copies `value` to `at`; a place outside `bytes` is a programming error.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    match bytes
        .get_mut(at..)
        .and_then(|rest| rest.get_mut(..value.len()))
    {
        Some(place) => place.copy_from_slice(value),
        None => panic!("{} bytes at {at} are outside the record", value.len()),
    }
}

/// Takes a payload apart from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(RecordError::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(RecordError::Short(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn text(&mut self, len: usize, what: &'static str) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.take(len, what)?).map_err(|_| RecordError::NotUtf8(what))
    }

    pub(crate) fn bytes16(&mut self, what: &'static str) -> Result<[u8; 16], RecordError> {
        self.array(what)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, RecordError> {
        self.array(what).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, RecordError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, RecordError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, RecordError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A u32 that is a length in memory.
    pub(crate) fn len32(&mut self, what: &'static str) -> Result<usize, RecordError> {
        usize::try_from(self.u32(what)?).map_err(|_| RecordError::Short(what))
    }
}

/// A length as the format's u16.
pub(crate) fn len16(len: usize, what: &'static str) -> Result<u16, RecordError> {
    u16::try_from(len).map_err(|_| RecordError::TooLong(what))
}

/// A length as the format's u32.
pub(crate) fn len32(len: usize, what: &'static str) -> Result<u32, RecordError> {
    u32::try_from(len).map_err(|_| RecordError::TooLong(what))
}
