//! Archives (FORMAT.md §11): a segment that is not written any more, compressed, so that its records can be read for as
//! long as they are to be kept.
//!
//! Promises: what is decompressed is byte for byte the segment up to its end, as it was when it was archived; one record
//! costs the frames that it lies in; every broken byte is found; a frame that pretends to be small costs no more memory than
//! a frame may have. Does not know: files, and how long what is kept. [`ledger`] says what is in a segment, and takes out
//! what is over.
//!
//! The segment is compressed in frames of [`ARCHIVE_FRAME`] bytes, each on its own. What is needed to find them is at the end of
//! the file, where a writer knows it; the segment's header is at the beginning as well, so that a file tells what it is.
//! Not one stream for the segment: a record of 10 KB would cost the decompression of 64 MiB.

pub mod ledger;

use std::io;
use std::ops::Range;

use crate::bytes::{Reader, array, len16, put, u16_at, u32_at, u64_at};
use crate::layout::{
    ARCHIVE_FRAME, ARCHIVE_MAGIC, PAGE_OFFSET, SEGMENT_SIZE_MAX, VERSION, archive_footer,
    archive_frame, archive_header, header,
};
use crate::{HeaderError, RecordError, SegmentHeader};

pub use ledger::{Contents, Owners, StreamKey, StreamSpan};

/// Why bytes are not an archive, or not to be had from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    #[error("not an archive, or cut off")]
    Magic,
    #[error("written by a newer version (format {0}, this is format {VERSION})")]
    Newer(u16),
    #[error("the checksum of the archive's {0} does not match")]
    Checksum(&'static str),
    #[error("the archive's {0} is impossible")]
    Field(&'static str),
    #[error("frame {0} of the archive cannot be decompressed")]
    Frame(u32),
}

/// Lengths and times at the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Bytes of the segment, from its first one on.
    pub raw_len: u64,
    /// Where in the file the tables are.
    pub tables: u64,
    pub tables_len: u64,
    pub frames: u32,
    streams: u32,
    owners: u32,
    /// Records that hold what their writer wrote.
    pub records: u32,
    /// Of these records, as far as they tell; both 0 where there is none.
    pub oldest_unix_ms: u64,
    pub youngest_unix_ms: u64,
    pub archived_unix_ms: u64,
    tables_crc: u32,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// In the file.
    pub offset: u64,
    pub len: u32,
    pub crc: u32,
}

/// What the tables at the end say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub frames: Vec<FrameEntry>,
    pub streams: Vec<StreamSpan>,
    /// Streams of messages of which only content is in the segment.
    pub owners: Owners,
}

/// An archive, all of its bytes at hand.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    pub header: SegmentHeader,
    pub footer: Footer,
    pub tables: Tables,
    bytes: &'a [u8],
}

/// Compresses a segment. `raw` is its bytes up to its end, `put_out` takes the file from its first byte on. Returns the
/// file's length.
/// # Errors
/// Those of `put_out`, and of the compressor.
/// # Panics
/// When `raw` is no segment of this header: a programming error.
pub fn encode(
    segment: &SegmentHeader,
    raw: &[u8],
    contents: &Contents,
    archived_unix_ms: u64,
    level: i32,
    mut put_out: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    assert_eq!(
        SegmentHeader::decode(raw).as_ref(),
        Ok(segment),
        "not this segment"
    );
    let raw_len = raw.len() as u64;
    assert!(raw_len <= segment.size, "longer than its segment");
    put_out(&head(segment))?;
    let mut offset = archive_header::FRAMES as u64;
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    let mut frames = Vec::with_capacity(raw.len().div_ceil(ARCHIVE_FRAME) * archive_frame::SIZE);
    let mut count = 0;
    for piece in raw.chunks(ARCHIVE_FRAME) {
        let compressed = compressor.compress(piece)?;
        let len = u32::try_from(compressed.len()).map_err(io::Error::other)?;
        frames.extend_from_slice(&offset.to_le_bytes());
        frames.extend_from_slice(&len.to_le_bytes());
        frames.extend_from_slice(&crc32c::crc32c(&compressed).to_le_bytes());
        put_out(&compressed)?;
        offset += u64::from(len);
        count += 1;
    }
    let mut tables = frames;
    encode_tables(contents, &mut tables).map_err(io::Error::other)?;
    let footer = Footer {
        raw_len,
        tables: offset,
        tables_len: tables.len() as u64,
        frames: count,
        streams: u32::try_from(contents.streams.len()).map_err(io::Error::other)?,
        owners: u32::try_from(contents.owners.len()).map_err(io::Error::other)?,
        records: contents.records,
        oldest_unix_ms: contents.oldest_unix_ms,
        youngest_unix_ms: contents.youngest_unix_ms,
        archived_unix_ms,
        tables_crc: crc32c::crc32c(&tables),
    };
    put_out(&tables)?;
    put_out(&footer.encode())?;
    Ok(footer.file_len())
}

fn head(segment: &SegmentHeader) -> [u8; archive_header::FRAMES] {
    let mut head = [0; archive_header::FRAMES];
    put(&mut head, archive_header::MAGIC, &ARCHIVE_MAGIC);
    put(&mut head, archive_header::VERSION, &VERSION.to_le_bytes());
    let page = segment.encode();
    let copy = page.first_chunk::<{ header::COPY }>();
    put(
        &mut head,
        archive_header::SEGMENT_HEADER,
        copy.map_or(&[], |copy| copy),
    );
    head
}

fn encode_tables(contents: &Contents, out: &mut Vec<u8>) -> Result<(), RecordError> {
    for span in &contents.streams {
        let id = &span.key.stream_id;
        let id_len = len16(id.len(), "stream id")?;
        out.extend_from_slice(&span.key.server_id.to_le_bytes());
        out.extend_from_slice(&span.records.to_le_bytes());
        out.extend_from_slice(&span.oldest_unix_ms.to_le_bytes());
        out.extend_from_slice(&span.youngest_unix_ms.to_le_bytes());
        out.extend_from_slice(&id_len.to_le_bytes());
        out.extend_from_slice(id.as_bytes());
    }
    for (id, key) in &contents.owners {
        let known = contents.streams.iter().position(|span| span.key == *key);
        let stream = known.ok_or(RecordError::Mismatch("owner"))?;
        let stream = u32::try_from(stream).map_err(|_| RecordError::TooLong("streams"))?;
        out.extend_from_slice(id);
        out.extend_from_slice(&stream.to_le_bytes());
    }
    Ok(())
}

/// The header of the segment, from the beginning of the file.
pub fn segment_header(head: &[u8]) -> Result<SegmentHeader, ArchiveError> {
    if array(head, archive_header::MAGIC) != Some(ARCHIVE_MAGIC) {
        return Err(ArchiveError::Magic);
    }
    let version = u16_at(head, archive_header::VERSION).ok_or(ArchiveError::Magic)?;
    check_version(version)?;
    if array(head, archive_header::RESERVED) != Some([0; 6]) {
        return Err(ArchiveError::Field("header"));
    }
    let copy = head
        .get(archive_header::SEGMENT_HEADER..archive_header::FRAMES)
        .ok_or(ArchiveError::Magic)?;
    // A page of which only the first copy is there.
    let mut page = copy.to_vec();
    page.resize(2 * header::COPY, 0);
    SegmentHeader::decode(&page).map_err(|error| match error {
        HeaderError::Newer(version) => ArchiveError::Newer(version),
        _ => ArchiveError::Checksum("segment header"),
    })
}

fn check_version(version: u16) -> Result<(), ArchiveError> {
    match version {
        0 => Err(ArchiveError::Field("version")),
        1..=VERSION => Ok(()),
        newer => Err(ArchiveError::Newer(newer)),
    }
}

impl Footer {
    fn encode(&self) -> [u8; archive_footer::LEN] {
        let mut out = [0; archive_footer::LEN];
        for (at, value) in [
            (archive_footer::RAW_LEN, self.raw_len),
            (archive_footer::TABLES, self.tables),
            (archive_footer::OLDEST_UNIX_MS, self.oldest_unix_ms),
            (archive_footer::YOUNGEST_UNIX_MS, self.youngest_unix_ms),
            (archive_footer::ARCHIVED_UNIX_MS, self.archived_unix_ms),
        ] {
            put(&mut out, at, &value.to_le_bytes());
        }
        for (at, value) in [
            (archive_footer::FRAMES, self.frames),
            (archive_footer::STREAMS, self.streams),
            (archive_footer::OWNERS, self.owners),
            (archive_footer::RECORDS, self.records),
            (archive_footer::TABLES_CRC, self.tables_crc),
        ] {
            put(&mut out, at, &value.to_le_bytes());
        }
        put(&mut out, archive_footer::VERSION, &VERSION.to_le_bytes());
        let crc = crc32c::crc32c(out.get(..archive_footer::CRC).unwrap_or_default());
        put(&mut out, archive_footer::CRC, &crc.to_le_bytes());
        put(&mut out, archive_footer::MAGIC, &ARCHIVE_MAGIC);
        out
    }

    /// `tail`: the last [`archive_footer::LEN`] bytes of a file of `file_len`, or more of its end.
    pub fn decode(tail: &[u8], file_len: u64) -> Result<Self, ArchiveError> {
        let start = tail.len().checked_sub(archive_footer::LEN);
        let tail = start.and_then(|start| tail.get(start..));
        let tail = tail.ok_or(ArchiveError::Magic)?;
        if array(tail, archive_footer::MAGIC) != Some(ARCHIVE_MAGIC) {
            return Err(ArchiveError::Magic);
        }
        let covered = tail.get(..archive_footer::CRC).unwrap_or_default();
        if u32_at(tail, archive_footer::CRC) != Some(crc32c::crc32c(covered)) {
            return Err(ArchiveError::Checksum("footer"));
        }
        check_version(u16_at(tail, archive_footer::VERSION).unwrap_or_default())?;
        let long = |at| u64_at(tail, at).ok_or(ArchiveError::Magic);
        let int = |at| u32_at(tail, at).ok_or(ArchiveError::Magic);
        let tables = long(archive_footer::TABLES)?;
        let behind = file_len.checked_sub(archive_footer::LEN as u64);
        let tables_len = behind.and_then(|behind| behind.checked_sub(tables));
        let footer = Self {
            raw_len: long(archive_footer::RAW_LEN)?,
            tables,
            tables_len: tables_len.ok_or(ArchiveError::Field("length"))?,
            frames: int(archive_footer::FRAMES)?,
            streams: int(archive_footer::STREAMS)?,
            owners: int(archive_footer::OWNERS)?,
            records: int(archive_footer::RECORDS)?,
            oldest_unix_ms: long(archive_footer::OLDEST_UNIX_MS)?,
            youngest_unix_ms: long(archive_footer::YOUNGEST_UNIX_MS)?,
            archived_unix_ms: long(archive_footer::ARCHIVED_UNIX_MS)?,
            tables_crc: int(archive_footer::TABLES_CRC)?,
        };
        let possible = (PAGE_OFFSET..=SEGMENT_SIZE_MAX).contains(&footer.raw_len)
            && u64::from(footer.frames) == footer.raw_len.div_ceil(ARCHIVE_FRAME as u64)
            && tables >= archive_header::FRAMES as u64;
        if !possible {
            return Err(ArchiveError::Field("length"));
        }
        Ok(footer)
    }

    pub fn file_len(&self) -> u64 {
        self.tables + self.tables_len + archive_footer::LEN as u64
    }

    /// Frames that hold the bytes from `offset` to `end` of the segment.
    pub fn frames_of(&self, offset: u64, end: u64) -> Range<u32> {
        let number = |at: u64| u32::try_from(at).unwrap_or(u32::MAX).min(self.frames);
        let frame = ARCHIVE_FRAME as u64;
        number(offset / frame)..number(end.div_ceil(frame))
    }

    /// Bytes of the segment in this frame.
    pub fn frame_len(&self, number: u32) -> usize {
        let before = u64::from(number) * ARCHIVE_FRAME as u64;
        let rest = self.raw_len.saturating_sub(before);
        usize::try_from(rest).map_or(ARCHIVE_FRAME, |rest| rest.min(ARCHIVE_FRAME))
    }
}

impl Tables {
    /// `bytes`: from [`Footer::tables`] on, [`Footer::tables_len`] of them.
    pub fn decode(bytes: &[u8], footer: &Footer) -> Result<Self, ArchiveError> {
        if bytes.len() as u64 != footer.tables_len || crc32c::crc32c(bytes) != footer.tables_crc {
            return Err(ArchiveError::Checksum("tables"));
        }
        let mut reader = Reader::new(bytes);
        Self::take(&mut reader, footer).map_err(|_| ArchiveError::Field("tables"))
    }

    fn take(reader: &mut Reader<'_>, footer: &Footer) -> Result<Self, RecordError> {
        const WHAT: &str = "tables";
        let mut tables = Self::default();
        let mut offset = archive_header::FRAMES as u64;
        for _ in 0..footer.frames {
            let entry = FrameEntry {
                offset: reader.u64(WHAT)?,
                len: reader.u32(WHAT)?,
                crc: reader.u32(WHAT)?,
            };
            if entry.offset != offset {
                return Err(RecordError::Mismatch(WHAT));
            }
            offset += u64::from(entry.len);
            tables.frames.push(entry);
        }
        if offset != footer.tables {
            return Err(RecordError::Mismatch(WHAT));
        }
        for _ in 0..footer.streams {
            let server_id = reader.u32(WHAT)?;
            let records = reader.u32(WHAT)?;
            let (oldest_unix_ms, youngest_unix_ms) = (reader.u64(WHAT)?, reader.u64(WHAT)?);
            let id_len = reader.u16(WHAT)?;
            let stream_id = reader.text(id_len.into(), WHAT)?.into();
            tables.streams.push(StreamSpan {
                key: StreamKey {
                    server_id,
                    stream_id,
                },
                records,
                oldest_unix_ms,
                youngest_unix_ms,
            });
        }
        for _ in 0..footer.owners {
            let id = reader.bytes16(WHAT)?;
            let stream = usize::try_from(reader.u32(WHAT)?).unwrap_or(usize::MAX);
            let span = tables
                .streams
                .get(stream)
                .ok_or(RecordError::Mismatch(WHAT))?;
            tables.owners.insert(id, span.key.clone());
        }
        match reader.is_empty() {
            true => Ok(tables),
            false => Err(RecordError::Mismatch(WHAT)),
        }
    }
}

/// What frame `number` holds of the segment. Never more than a frame's worth of memory.
pub fn decode_frame(
    compressed: &[u8],
    number: u32,
    entry: &FrameEntry,
    footer: &Footer,
) -> Result<Vec<u8>, ArchiveError> {
    if compressed.len() as u64 != u64::from(entry.len) || crc32c::crc32c(compressed) != entry.crc {
        return Err(ArchiveError::Frame(number));
    }
    let len = footer.frame_len(number);
    match zstd::bulk::decompress(compressed, len) {
        Ok(raw) if raw.len() == len => Ok(raw),
        _ => Err(ArchiveError::Frame(number)),
    }
}

impl<'a> Archive<'a> {
    /// `bytes`: the whole file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ArchiveError> {
        let footer = Footer::decode(bytes, bytes.len() as u64)?;
        let range = footer.tables..footer.tables + footer.tables_len;
        let tables = slice(bytes, range).ok_or(ArchiveError::Field("length"))?;
        let tables = Tables::decode(tables, &footer)?;
        let archive = Self {
            header: segment_header(bytes).or_else(|error| match error {
                ArchiveError::Newer(_) => Err(error),
                // The segment has its own, in the first frame.
                _ => header_of_first_frame(bytes, &tables, &footer).ok_or(error),
            })?,
            footer,
            tables,
            bytes,
        };
        if footer.raw_len > archive.header.size {
            return Err(ArchiveError::Field("length"));
        }
        Ok(archive)
    }

    pub fn frame(&self, number: u32) -> Result<Vec<u8>, ArchiveError> {
        read_frame(self.bytes, number, &self.tables, &self.footer)
    }

    /// The segment up to its end. Frames that are broken are zeros, which do not verify as records; where they lie is the
    /// second part of the answer.
    pub fn segment(&self) -> (Vec<u8>, Vec<Range<u64>>) {
        let mut raw = Vec::new();
        let mut broken = Vec::new();
        for number in 0..self.footer.frames {
            let start = raw.len();
            match self.frame(number) {
                Ok(frame) => raw.extend_from_slice(&frame),
                Err(_) => {
                    raw.resize(start + self.footer.frame_len(number), 0);
                    broken.push(start as u64..raw.len() as u64);
                }
            }
        }
        (raw, broken)
    }
}

fn header_of_first_frame(bytes: &[u8], tables: &Tables, footer: &Footer) -> Option<SegmentHeader> {
    let raw = read_frame(bytes, 0, tables, footer).ok()?;
    SegmentHeader::decode(&raw).ok()
}

fn read_frame(
    bytes: &[u8],
    number: u32,
    tables: &Tables,
    footer: &Footer,
) -> Result<Vec<u8>, ArchiveError> {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    let entry = tables.frames.get(index);
    let entry = entry.ok_or(ArchiveError::Frame(number))?;
    let range = entry.offset..entry.offset + u64::from(entry.len);
    let compressed = slice(bytes, range).ok_or(ArchiveError::Frame(number))?;
    decode_frame(compressed, number, entry, footer)
}

fn slice(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    let start = usize::try_from(range.start).ok()?;
    bytes.get(start..usize::try_from(range.end).ok()?)
}

/// What an archive of this segment is called.
pub fn file_name(segment: &SegmentHeader) -> String {
    file_name_of(segment.number, segment.first_position)
}

/// What an archive of the segment with this number and first position is called.
pub fn file_name_of(number: u64, first_position: u64) -> String {
    format!("{number:016x}-{first_position:016x}.arc")
}

/// The segment's number and first position in an archive's name.
pub fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let (number, first_position) = name.strip_suffix(".arc")?.split_once('-')?;
    let hexadecimal = |text: &str| {
        let fits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    Some((hexadecimal(number)?, hexadecimal(first_position)?))
}
