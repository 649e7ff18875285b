//! Cold reads: what has left memory is read beside the page cache, by threads that may wait.

use super::super::disk::Access;
use super::super::disk::gated::GatedDisk;
use super::super::disk::real::RealDisk;
use super::super::memory;
use super::*;
use crate::limits;

/// The pages of `range` of the segment that are in memory; once it was read, so that it is mapped.
fn resident_pages(spool: &Spool, position: u64, len: usize) -> usize {
    let segment = spool.mail.shared.segment(position).unwrap();
    let map = segment.map_bytes().unwrap();
    let start = (position - segment.first_position()) as usize;
    let pages = memory::residency(&map[start..start + len]);
    pages.into_iter().filter(|is| *is).count()
}

#[test]
fn mail_that_left_memory_is_read_and_does_not_come_back_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        mail_segment: 64 * 4096,
        mail_ring: limits::MAIL_RING as u64,
        ..options(dir.path())
    };
    let (spool, _) = open_on(RealDisk::new(), options.clone()).unwrap();
    let small = payload(1, 9_000);
    let large = payload(2, 60_000);
    let positions = [&small, &large].map(|bytes| append(&spool.mail, bytes).unwrap().position());
    drop(spool);
    let (spool, _) = open_on(RealDisk::new(), options).unwrap();
    let path = spool
        .mail
        .shared
        .segment(positions[0])
        .unwrap()
        .path
        .clone();
    let disk = RealDisk::new();
    disk.open(&path, Access::Read).unwrap().settle().unwrap();
    for (position, bytes) in positions.into_iter().zip([&small, &large]) {
        let record = runtime().block_on(spool.mail.fetch(position)).unwrap();
        assert_eq!(
            (record.position, &record.payload[..]),
            (position, &bytes[..])
        );
        let pages = resident_pages(&spool, position, bytes.len());
        if pages == bytes.len() / 4096 + 1 {
            // A file system in memory, as tests may find in their directory for temporary files.
            return;
        }
        assert_eq!(pages, 0, "of {position}");
    }
    // What is in memory is a part of the map, and stays there.
    let read = spool.mail.read(positions[0]).unwrap().payload;
    let fetched = runtime().block_on(spool.mail.fetch(positions[0])).unwrap();
    assert_eq!(read.as_ptr(), fetched.payload.as_ptr());
    assert!(resident_pages(&spool, positions[0], small.len()) > 0);
}

#[test]
fn a_cold_read_gives_what_a_read_gives_for_every_record_and_every_damage() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let mut positions = Vec::new();
    for number in 0..40 {
        let bytes = payload(number, (number as usize * 997) % 9_000);
        positions.push(append(&spool.mail, &bytes).unwrap().position());
    }
    let bad = positions[7];
    let segment = spool.mail.shared.segment(bad).unwrap();
    let offset = (bad - segment.first_position()) as usize;
    disk.edit(&segment.path, |bytes| bytes[offset + 20] ^= 1);
    let nowhere = [0, 8, positions[0] + 8, u64::MAX / 2, spool.mail.durable()];
    for position in positions.into_iter().chain(nowhere) {
        let shown = |read: Result<Record, ReadError>| match read {
            Ok(record) => Ok(record),
            Err(error) => Err(error.to_string()),
        };
        let expected = shown(spool.mail.read(position));
        let fetched = runtime().block_on(spool.mail.fetch(position));
        assert_eq!(shown(fetched), expected, "at {position}");
        assert_eq!(shown(spool.mail.read_aside(position)), expected);
    }
}

/// On a runtime with one thread: if that thread waited for the disk, nothing would ever open the gate.
#[test]
fn a_disk_that_does_not_answer_holds_up_only_those_who_read_from_it() {
    let disk = GatedDisk::default();
    let (spool, _) = open_on(disk.clone(), options(Path::new(DIR))).unwrap();
    let bytes = payload(1, 9_000);
    let position = append(&spool.mail, &bytes).unwrap().position();
    disk.close();
    runtime().block_on(async {
        let readers = limits::COLD_READS_MAX + 4;
        let mut reads = tokio::task::JoinSet::new();
        for _ in 0..readers {
            let log = spool.mail.clone();
            reads.spawn(async move { log.fetch(position).await });
        }
        while disk.waiting() < limits::COLD_READS_MAX {
            tokio::task::yield_now().await;
        }
        // Mail is taken meanwhile.
        let ticket = spool.mail.append(kind::EVENT, 0, &[b"new"], None).await;
        ticket.unwrap().await.unwrap();
        assert_eq!(
            disk.waiting(),
            limits::COLD_READS_MAX,
            "no more than that at a time"
        );
        disk.open_gate();
        while let Some(read) = reads.join_next().await {
            assert_eq!(read.unwrap().unwrap().payload, bytes);
        }
    });
}

#[test]
fn want_of_descriptors_passes_and_a_failing_medium_does_not() {
    let io = |code| ReadError::Io {
        segment: 1,
        error: io::Error::from_raw_os_error(code),
    };
    let [descriptors, memory, medium, missing] = [24, 12, 5, 2];
    for error in [io(descriptors), io(memory), ReadError::Busy] {
        assert!(error.may_pass(), "{error}");
    }
    for error in [io(medium), io(missing), ReadError::NotRetained(8)] {
        assert!(!error.may_pass(), "{error}");
    }
}
