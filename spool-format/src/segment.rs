//! The header page of a segment (FORMAT.md §3), and the [`Seed`] that ties every record to its segment.
//!
//! The page holds the header twice, each copy under its own checksum: a broken sector there must not cost the 64 MiB
//! behind it, because without the salt no record of the segment verifies.

use crate::bytes::{array, put, u16_at, u32_at, u64_at};
use crate::layout::{
    MAGIC, PAGE, PAGE_OFFSET, POSITION_MAX, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, VERSION, header,
};

/// Which of the two logs a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogKind {
    Mail = 1,
    Event = 2,
}

impl LogKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Mail),
            2 => Some(Self::Event),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Mail => 1,
            Self::Event => 2,
        }
    }
}

/// What the header page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub kind: LogKind,
    /// Grows from segment to segment of a log, by one where no unused segment lay between.
    pub number: u64,
    /// Position of the file's byte 0: not below the `first_position` and `size` of the segment before, added.
    pub first_position: u64,
    /// Whole file, header page included.
    pub size: u64,
    /// The node's epoch (fail-over); 0 until one is needed.
    pub epoch: u64,
    pub created_unix_ms: u64,
    /// Position at which the log before this segment ends. `first_position` when the segment before was sealed (a roll);
    /// what recovery found when it opened this segment after a stop: bytes from there up to `first_position` are void.
    pub previous_end: u64,
    /// Random, drawn anew at each use of the file.
    pub salt: [u8; 16],
}

/// Why a page is not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("shorter than a header page")]
    Short,
    #[error("not a spool segment")]
    Magic,
    #[error("written by a newer version (format {0}, this is format {VERSION})")]
    Newer(u16),
    #[error("the header's checksum does not match")]
    Checksum,
    #[error("the header's {0} is impossible")]
    Field(&'static str),
}

/// State of CRC32C after salt and segment number, and the salt's second half: what binds a record to this use of this
/// segment. Copied freely, computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    pub(crate) crc: u32,
    pub(crate) mark: [u8; 8],
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; PAGE] {
        let mut copy = [0; header::COPY];
        put(&mut copy, header::MAGIC, &MAGIC);
        put(&mut copy, header::VERSION, &VERSION.to_le_bytes());
        put(&mut copy, header::LOG_KIND, &[self.kind.byte()]);
        put(&mut copy, header::NUMBER, &self.number.to_le_bytes());
        put(
            &mut copy,
            header::FIRST_POSITION,
            &self.first_position.to_le_bytes(),
        );
        put(&mut copy, header::SIZE, &self.size.to_le_bytes());
        put(&mut copy, header::EPOCH, &self.epoch.to_le_bytes());
        put(
            &mut copy,
            header::CREATED_UNIX_MS,
            &self.created_unix_ms.to_le_bytes(),
        );
        put(
            &mut copy,
            header::PREVIOUS_END,
            &self.previous_end.to_le_bytes(),
        );
        put(&mut copy, header::SALT, &self.salt);
        let crc = checksum(&copy);
        put(&mut copy, header::CRC, &crc.to_le_bytes());
        // Assert on write what is verified on read.
        assert_eq!(decode_copy(&copy).as_ref(), Ok(self), "impossible header");
        let mut page = [0; PAGE];
        put(&mut page, 0, &copy);
        put(&mut page, header::COPY, &copy);
        page
    }

    /// Reads the header from the first page of a segment: from the second copy where the first is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (first, second) = copies(bytes)?;
        decode_copy(first).or_else(|error| decode_copy(second).map_err(|_| error))
    }

    /// Whether every byte of the header page is as it was written, including the copy that [`decode`](Self::decode) did
    /// not need.
    pub fn is_whole(bytes: &[u8]) -> bool {
        copies(bytes).is_ok_and(|(first, second)| first == second && decode_copy(first).is_ok())
    }

    pub fn seed(&self) -> Seed {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.salt), &self.number.to_le_bytes());
        let mut mark = [0; 8];
        if let Some(last) = self.salt.last_chunk::<8>() {
            mark = *last;
        }
        Seed { crc, mark }
    }

    /// Offset up to which records of writers may reach: the last page is kept for the sealing commit record.
    pub fn limit(&self) -> u64 {
        self.size - PAGE_OFFSET
    }

    /// Position of the first byte after the segment, where the next one begins.
    pub fn next_position(&self) -> u64 {
        self.first_position + self.size
    }
}

fn copies(bytes: &[u8]) -> Result<(&[u8], &[u8]), HeaderError> {
    let page = bytes.get(..PAGE).ok_or(HeaderError::Short)?;
    page.split_at_checked(header::COPY)
        .ok_or(HeaderError::Short)
}

/// CRC32C over one copy without its checksum.
fn checksum(copy: &[u8]) -> u32 {
    let before = copy.get(..header::CRC).unwrap_or_default();
    let after = copy.get(header::NUMBER..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

fn decode_copy(copy: &[u8]) -> Result<SegmentHeader, HeaderError> {
    let short = HeaderError::Short;
    if array(copy, header::MAGIC) != Some(MAGIC) {
        return Err(HeaderError::Magic);
    }
    // Magic, version and checksum keep their places in every later version, so that this answer is always possible.
    if u32_at(copy, header::CRC) != Some(checksum(copy)) {
        return Err(HeaderError::Checksum);
    }
    let version = u16_at(copy, header::VERSION).ok_or(short)?;
    if version > VERSION {
        return Err(HeaderError::Newer(version));
    }
    if version == 0 {
        return Err(HeaderError::Field("version"));
    }
    if u32_at(copy, header::FEATURES) != Some(0) {
        return Err(HeaderError::Field("features"));
    }
    let kind = copy
        .get(header::LOG_KIND)
        .and_then(|&byte| LogKind::from_byte(byte));
    let decoded = SegmentHeader {
        kind: kind.ok_or(HeaderError::Field("log kind"))?,
        number: u64_at(copy, header::NUMBER).ok_or(short)?,
        first_position: u64_at(copy, header::FIRST_POSITION).ok_or(short)?,
        size: u64_at(copy, header::SIZE).ok_or(short)?,
        epoch: u64_at(copy, header::EPOCH).ok_or(short)?,
        created_unix_ms: u64_at(copy, header::CREATED_UNIX_MS).ok_or(short)?,
        previous_end: u64_at(copy, header::PREVIOUS_END).ok_or(short)?,
        salt: array(copy, header::SALT).ok_or(short)?,
    };
    check(&decoded)?;
    Ok(decoded)
}

fn check(header: &SegmentHeader) -> Result<(), HeaderError> {
    let size_fits = (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&header.size);
    if !size_fits || !header.size.is_multiple_of(PAGE_OFFSET) {
        return Err(HeaderError::Field("size"));
    }
    let first = header.first_position;
    if !first.is_multiple_of(PAGE_OFFSET) || first > POSITION_MAX - header.size {
        return Err(HeaderError::Field("first position"));
    }
    if header.previous_end > first || !header.previous_end.is_multiple_of(PAGE_OFFSET) {
        return Err(HeaderError::Field("previous end"));
    }
    Ok(())
}
