//! What a compactor needs to know of a log: which segments nobody writes any more, who still holds them, and how long a
//! record is without reading it.
//!
//! Promises nothing of its own: a copy is a record like any other, appended and held before the hold on the old one is
//! given back; an old segment that nobody holds is reclaimed like any other. Does not know: what a record means, and
//! whether it is worth it. The node decides (`node/compact.rs`).

use std::ops::Range;

use super::log::Log;
use super::segment::ReadError;
use crate::clock::UnixMs;

/// A segment that is complete and still held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub number: u64,
    pub positions: Range<u64>,
    /// Of its records.
    pub bytes: u64,
    pub created: UnixMs,
    /// What `hold` and `release` left.
    pub live: u64,
}

impl Log {
    /// Oldest first.
    pub fn sealed(&self) -> Vec<Sealed> {
        let segments = self.shared.segments.load();
        let held = segments.iter().filter(|s| s.is_closed() && s.live() > 0);
        held.map(|segment| Sealed {
            number: segment.number(),
            positions: segment.first_position()..segment.header.next_position(),
            bytes: segment.end(),
            created: segment.header.created_unix_ms,
            live: segment.live(),
        })
        .collect()
    }

    /// The bytes that the record at `position` says to occupy. Waits for the medium; the record is not verified.
    pub fn record_bytes(&self, position: u64) -> Result<u64, ReadError> {
        let (segment, offset) = self.shared.durable_segment(position)?;
        segment.record_bytes(self.shared.disk.as_ref(), offset)
    }
}
