//! Reservation, filling and publication of records of a segment, and the closing of a batch.
//!
//! Promises: concurrent writers never wait for each other; what was reserved is published whatever happens to its
//! writer (a dropped [`Reservation`] becomes padding), so nothing can block the log; the batch that [`Region::close`]
//! returns consists of whole, published records and ends at a page.
//! Does not know: files, syncs, who waits.
//!
//! The committer's record and padding are reserved from the same tail as everybody's, so no reservation ever begins
//! inside a page that is being synced (DESIGN §3.3).

use std::sync::Arc;

use spool_format::layout::{COMMIT_RECORD_LEN, PAGE_OFFSET, kind, record, record_flag};
use spool_format::{CommitRecord, RunningHash, Seed, SegmentHeader, commit, frame};

use super::memory::{Image, Ring, Slot, Taken};

/// The records of a segment that is being written.
pub(crate) struct Region {
    image: Image,
    seed: Seed,
}

/// What became of [`Region::append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// Published.
    At { offset: u64, end: u64 },
    /// Did not fit; this caller, and no other, sealed the segment with so many bytes of padding, and has to roll.
    Crossed { padding: u64 },
    /// The segment is sealed.
    Sealed,
}

/// Whole records from page to page, the last a commit record with its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) from: u64,
    pub(crate) end: u64,
    /// Bytes of records: what writers paid for.
    pub(crate) paid: u64,
    /// Without the commit record.
    pub(crate) count: u32,
    pub(crate) sealed: bool,
}

impl Region {
    /// `ring` is the log's, and this its next segment.
    pub(crate) fn new(ring: &Arc<Ring>, header: &SegmentHeader) -> Self {
        let (base, limit) = (header.first_position, header.limit());
        let image = Image::new(ring, base, header.size, PAGE_OFFSET, limit);
        let seed = header.seed();
        Self { image, seed }
    }

    /// End of what was reserved; above the segment's limit when sealed.
    pub(crate) fn tail(&self) -> u64 {
        self.image.tail()
    }

    /// Reserves, copies the payload (`parts`, concatenated), calls `before` with the record's offset and end, publishes.
    pub(crate) fn append(
        &self,
        kind: u8,
        flags: u8,
        parts: &[&[u8]],
        before: impl FnOnce(u64, u64),
    ) -> Appended {
        let payload_len = parts.iter().map(|part| part.len()).sum();
        let record_len = frame::record_len(payload_len);
        match self.image.take(frame::padded_len(record_len)) {
            Taken::Slot(slot) => {
                let (offset, end) = (slot.start(), slot.start() + slot.len() as u64);
                let mut reservation = Reservation::new(slot, self.seed);
                let word = reservation.write(record_len, kind, flags, parts);
                before(offset, end);
                reservation.publish(word);
                Appended::At { offset, end }
            }
            Taken::Crossed(rest) => {
                let padding = rest.as_ref().map_or(0, Slot::len) as u64;
                // Dropped without being written: padding up to the limit.
                drop(rest.map(|slot| Reservation::new(slot, self.seed)));
                Appended::Crossed { padding }
            }
            Taken::Sealed => Appended::Sealed,
        }
    }

    /// Ends the batch that began at `from`: reserves commit record and padding, waits (calling `wait` over and over) until
    /// all below is published, completes them. For the committer only. Seals the segment when it is full, and always
    /// when a writer crossed its limit.
    pub(crate) fn close(&self, from: u64, hash: &mut RunningHash, mut wait: impl FnMut()) -> Batch {
        let slot = self
            .image
            .take_to(|tail| tail + commit::commit_len(tail))
            .unwrap_or_else(|| self.image.take_last());
        let to = slot.start();
        let end = to + slot.len() as u64;
        let sealed = end == self.image.len();
        while self.image.published_up_to(to) < to {
            wait();
        }
        let count = self.image.show(from..to, |bytes| hash.push_batch(bytes));
        let commit = CommitRecord {
            from,
            to,
            count,
            running_hash: hash.value(),
        };
        self.write_commit(slot, &commit, sealed);
        assert_eq!(self.image.published_up_to(end), end);
        Batch {
            from,
            end,
            paid: to - from,
            count,
            sealed,
        }
    }

    fn write_commit(&self, slot: Slot<'_>, commit: &CommitRecord, sealed: bool) {
        let (slot, padding) = if slot.len() > COMMIT_RECORD_LEN {
            let (slot, padding) = slot.split(COMMIT_RECORD_LEN);
            (slot, Some(padding))
        } else {
            (slot, None)
        };
        let flags = if sealed { record_flag::SEAL } else { 0 };
        let mut reservation = Reservation::new(slot, self.seed);
        let payload = commit.encode(self.seed);
        let word = reservation.write(COMMIT_RECORD_LEN, kind::COMMIT, flags, &[&payload]);
        reservation.publish(word);
        drop(padding.map(|slot| Reservation::new(slot, self.seed)));
    }

    /// Shows the bytes of a closed batch.
    pub(crate) fn show<R>(&self, batch: &Batch, see: impl FnOnce(&[u8]) -> R) -> R {
        self.image.show(batch.from..batch.end, see)
    }

    /// The batch is durable: its memory may be used again.
    pub(crate) fn clear(&self, batch: &Batch) {
        self.image.clear(batch.from..batch.end);
    }
}

/// A slot that becomes a padding record unless it is published as something better.
struct Reservation<'a> {
    slot: Option<Slot<'a>>,
    seed: Seed,
}

impl<'a> Reservation<'a> {
    fn new(slot: Slot<'a>, seed: Seed) -> Self {
        let slot = Some(slot);
        Self { slot, seed }
    }

    /// Everything but the length word, which is returned.
    fn write(&mut self, record_len: usize, kind: u8, flags: u8, parts: &[&[u8]]) -> u32 {
        let seed = self.seed;
        let Some(slot) = &mut self.slot else {
            panic!("a reservation is written before it is published");
        };
        let offset = slot.start();
        slot.fill(|body| {
            let mut at = record::PAYLOAD - record::CRC;
            for part in parts {
                body[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            frame::finish_body(body, record_len, kind, flags, seed, offset)
        })
    }

    fn publish(mut self, word: u32) {
        if let Some(slot) = self.slot.take() {
            slot.publish(word);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(len) = self.slot.as_ref().map(Slot::len) {
            let word = self.write(len, kind::PADDING, 0, &[]);
            if let Some(slot) = self.slot.take() {
                slot.publish(word);
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests {
    use spool_format::LogKind;
    use spool_format::layout::{PAGE, SEGMENT_SIZE_MIN};
    use spool_format::scan::{self, Item};

    use super::*;

    fn region() -> (Region, SegmentHeader) {
        let ring = Ring::new(SEGMENT_SIZE_MIN, PAGE_OFFSET).unwrap();
        let header = SegmentHeader {
            kind: LogKind::Mail,
            number: 1,
            first_position: 0,
            size: SEGMENT_SIZE_MIN,
            epoch: 0,
            created_unix_ms: 0,
            previous_end: 0,
            salt: [7; 16],
        };
        (Region::new(&Arc::new(ring), &header), header)
    }

    fn close(region: &Region, header: &SegmentHeader, from: u64) -> Batch {
        region.close(from, &mut RunningHash::start(header), || panic!("waits"))
    }

    #[test]
    fn a_closed_batch_is_what_the_format_reads() {
        let (region, header) = region();
        let mut end = 0;
        for payload in [&b"first"[..], b"second", b""] {
            region.append(kind::EVENT, 0, &[b"<", payload, b">"], |_, e| end = e);
        }
        let batch = close(&region, &header, PAGE_OFFSET);
        assert_eq!((batch.end, batch.count), (2 * PAGE_OFFSET, 3));
        assert!(end < batch.end && !batch.sealed);
        let mut file = header.encode().to_vec();
        region.show(&batch, |bytes| file.extend_from_slice(bytes));
        file.resize(header.size as usize, 0);
        let tail = scan::tail(&file, &header);
        assert_eq!(tail.durable_end, batch.end);
        let payloads: Vec<_> = tail
            .items()
            .filter_map(|item| match item {
                Item::Record(frame) if frame.kind == kind::EVENT => Some(frame.payload.to_vec()),
                Item::Record(_) => None,
                Item::Damage(damage) => panic!("{damage:?}"),
            })
            .collect();
        assert_eq!(payloads, [&b"<first>"[..], b"<second>", b"<>"]);
    }

    #[test]
    fn a_writer_that_panics_after_reserving_leaves_padding() {
        let (region, header) = region();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            region.append(kind::EVENT, 0, &[b"lost"], |_, _| panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        assert!(matches!(
            region.append(kind::EVENT, 0, &[b"kept"], |_, _| {}),
            Appended::At { .. }
        ));
        assert_eq!(close(&region, &header, PAGE_OFFSET).count, 2);
    }

    /// Every way in which the last records can lie before the limit, with the shortest padding among them.
    #[test]
    fn a_crossed_segment_is_sealed_to_its_last_byte() {
        for short_of_limit in (0..=80).step_by(8) {
            let (region, header) = region();
            let room = 2 * PAGE - frame::record_len(0) - short_of_limit;
            region.append(kind::EVENT, 0, &[&vec![1; room]], |_, _| {});
            let next = region.append(kind::EVENT, 0, &[&[2; 80]], |_, _| {});
            let padding = short_of_limit as u64;
            assert_eq!(next, Appended::Crossed { padding });
            let late = region.append(kind::EVENT, 0, &[b""], |_, _| {});
            assert_eq!(late, Appended::Sealed);
            let batch = close(&region, &header, PAGE_OFFSET);
            assert_eq!((batch.end, batch.sealed), (header.size, true));
            let mut file = header.encode().to_vec();
            region.show(&batch, |bytes| file.extend_from_slice(bytes));
            let damaged = scan::sealed(&file, &header, header.size)
                .filter(|item| matches!(item, Item::Damage(_)));
            assert_eq!(damaged.count(), 0, "{short_of_limit}");
            assert!(scan::tail(&file, &header).sealed);
        }
    }

    #[test]
    fn a_commit_that_fills_the_segment_seals_it() {
        let (region, header) = region();
        region.append(kind::EVENT, 0, &[&[0; 2 * PAGE - 40]], |_, _| {});
        let batch = close(&region, &header, PAGE_OFFSET);
        assert_eq!((batch.end, batch.sealed), (header.size, true));
        let late = region.append(kind::EVENT, 0, &[b""], |_, _| {});
        assert_eq!(late, Appended::Sealed);
    }
}
