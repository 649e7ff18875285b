//! Reading records that may have left memory: mail that waited for a day.
//!
//! Promises: [`Log::fetch`] never makes its thread wait for the medium, save where a page is dropped between the question
//! for it and its use; what was not in the page cache before is not there afterwards, so that a large backlog does not
//! push out what is hot; bytes so read lie on the heap for as long as the payload is kept, and no more of them at a time than
//! [`limits::COLD_BYTES_MAX`]. Does not know: why somebody reads.
//!
//! How: the kernel is asked (`mincore`) whether the record's pages are in memory. If so, the payload is a part of the map,
//! as ever. If not, a thread that may wait reads it with `pread` on a descriptor of its own, without read-ahead, and then
//! drops those pages from the cache that were not in it. `O_DIRECT` would need aligned buffers and is refused by some
//! file systems; a read through the map would block and could not return an error.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::log::Log;
use super::segment::{Part, ReadError, Record};
use crate::limits;
use crate::metrics;

/// What bounds the reads of one log.
pub(crate) struct Cold {
    reads: Arc<Semaphore>,
    /// In units of [`UNIT`].
    bytes: Arc<Semaphore>,
}

/// A payload on the heap, and its share of the bound.
struct OnHeap {
    payload: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for OnHeap {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Cold {
    pub(crate) fn new() -> Self {
        Self {
            reads: Arc::new(Semaphore::new(limits::COLD_READS_MAX)),
            bytes: Arc::new(Semaphore::new(limits::COLD_BYTES_MAX / UNIT)),
        }
    }

    async fn share(&self, len: usize) -> Result<OwnedSemaphorePermit, ReadError> {
        let units = len.div_ceil(UNIT).min(limits::COLD_BYTES_MAX / UNIT) as u32;
        permits(&self.bytes, units).await
    }
}

async fn permits(of: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, ReadError> {
    let wait = Arc::clone(of).acquire_many_owned(count);
    match tokio::time::timeout(limits::COLD_WAIT, wait).await {
        Ok(Ok(permit)) => Ok(permit),
        // Nobody closes a semaphore here.
        Ok(Err(_)) | Err(_) => Err(ReadError::Busy),
    }
}

impl Log {
    /// [`Self::read`] for a thread that must not wait for the disk. The payload is a part of the map, or on the heap.
    /// # Errors
    /// [`ReadError::Busy`] where too much was being read for `limits::COLD_WAIT`: later, it may be had.
    /// # Cancel safety
    /// Dropping the future changes nothing; a read that has begun ends by itself.
    pub async fn fetch(&self, position: u64) -> Result<Record, ReadError> {
        if let Some(record) = self.read_resident(position)? {
            return Ok(record);
        }
        let mut len = FIRST_READ;
        loop {
            // Never one share while waiting for another: they would wait for each other.
            let share = self.shared.cold.share(len).await?;
            match self.cold(position, len).await? {
                Part::Whole(record) => {
                    let payload = Bytes::from_owner(OnHeap {
                        payload: record.payload,
                        _share: share,
                    });
                    return Ok(Record { payload, ..record });
                }
                Part::Longer(whole) => len = whole,
            }
        }
    }

    async fn cold(&self, position: u64, len: usize) -> Result<Part, ReadError> {
        let slot = permits(&self.shared.cold.reads, 1).await?;
        let log = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            log.read_part(position, len)
        });
        match read.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => Err(ReadError::Busy),
        }
    }

    /// [`Self::read`] for a thread that may wait, and for records that nobody may need soon again: pages that were not in
    /// memory before are not afterwards. The payload is on the heap.
    pub fn read_aside(&self, position: u64) -> Result<Record, ReadError> {
        let mut len = FIRST_READ;
        loop {
            match self.read_part(position, len)? {
                Part::Whole(record) => return Ok(record),
                Part::Longer(whole) => len = whole,
            }
        }
    }

    fn read_part(&self, position: u64, len: usize) -> Result<Part, ReadError> {
        let started = self.shared.clock.instant();
        let (segment, offset) = self.shared.durable_segment(position)?;
        let part = segment.read_aside(self.shared.disk.as_ref(), offset, len)?;
        if matches!(part, Part::Whole(_)) {
            metrics::SPOOL_COLD_READS.add(1);
        }
        let took = self.shared.clock.instant().duration_since(started);
        metrics::SPOOL_COLD_SECONDS.record(&[], took.as_secs_f64());
        Ok(part)
    }

    fn read_resident(&self, position: u64) -> Result<Option<Record>, ReadError> {
        let (segment, offset) = self.shared.durable_segment(position)?;
        Ok(segment.read_resident(offset))
    }
}

/// Read at first: all of most messages.
const FIRST_READ: usize = 32 * 1024;
/// The heap is counted in this many bytes.
const UNIT: usize = 1024;
