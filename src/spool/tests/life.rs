//! Ordinary life: appending, reading, rolling, restarting, reclaiming.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::disk::memory::Fault;
use super::super::disk::real::RealDisk;
use super::*;
use spool_format::frame;

#[test]
fn what_was_acknowledged_is_read_back_now_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let (spool, found) = open_on(RealDisk::new(), options.clone()).unwrap();
    assert_eq!(found, Found::default());
    let mut written = BTreeMap::new();
    for number in 0..50 {
        let bytes = payload(number, 10 + number as usize * 37);
        let receipt = append(&spool.mail, &bytes).unwrap();
        let record = spool.mail.read(receipt.position()).unwrap();
        assert_eq!(record.payload, bytes);
        written.insert(receipt.position(), bytes);
    }
    assert!(spool.mail.stat().segments > 1, "it rolled");
    let read: BTreeMap<u64, Vec<u8>> = spool
        .mail
        .records_from(0)
        .map(|item| item.map(|(record, _)| (record.position, record.payload.to_vec())))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(read, written);
    spool.close().unwrap();
    drop(spool);
    for _ in 0..3 {
        let (spool, found) = open_on(RealDisk::new(), options.clone()).unwrap();
        assert_eq!((&found.mail, found.damages.len()), (&written, 0));
        for (position, bytes) in &written {
            assert_eq!(spool.mail.read(*position).unwrap().payload, bytes);
        }
    }
}

#[test]
fn records_of_concurrent_writers_are_all_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        mail_segment: 64 * 4096,
        ..options(dir.path())
    };
    let (spool, _) = open_on(RealDisk::new(), options.clone()).unwrap();
    let written = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (spool, written) = (&spool, &written);
            scope.spawn(move || {
                for number in 0..60 {
                    let number = writer * 1000 + number;
                    let bytes = payload(number, (number as usize * 131) % 5000);
                    let receipt = append(&spool.mail, &bytes).unwrap();
                    written.lock().unwrap().insert(receipt.position(), bytes);
                }
            });
        }
    });
    let written = written.into_inner().unwrap();
    assert_eq!(written.len(), 480);
    let stat = spool.mail.stat();
    assert!(stat.commits < stat.records, "writers share syncs: {stat:?}");
    drop(spool);
    let (_, found) = open_on(RealDisk::new(), options).unwrap();
    assert_eq!((found.mail, found.damages), (written, vec![]));
}

#[test]
fn lazy_records_become_durable_by_themselves_and_before_later_ones() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let lazy = runtime()
        .block_on(spool.events.append_lazy(kind::EVENT, 0, &[b"lazy"]))
        .unwrap();
    let receipt = append(&spool.events, b"waited for").unwrap();
    assert!(lazy < receipt.position());
    assert_eq!(spool.events.read(lazy).unwrap().payload, &b"lazy"[..]);
    let lazy = runtime()
        .block_on(spool.events.append_lazy(kind::EVENT, 0, &[b"alone"]))
        .unwrap();
    let mut watch = spool.events.watch();
    runtime()
        .block_on(watch.wait_for(|durable| *durable > lazy))
        .unwrap();
    assert_eq!(spool.events.read(lazy).unwrap().payload, &b"alone"[..]);
}

#[test]
fn a_dropped_ticket_withdraws_nothing_and_its_callback_runs() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let on_durable: OnDurable = Box::new(move |answer| {
        assert!(answer.is_ok());
        count.fetch_add(1, Ordering::SeqCst);
    });
    let ticket = runtime()
        .block_on(
            spool
                .mail
                .append(kind::EVENT, 0, &[b"kept"], Some(on_durable)),
        )
        .unwrap();
    let position = ticket.position();
    drop(ticket);
    spool.close().unwrap();
    assert_eq!(called.load(Ordering::SeqCst), 1);
    drop(spool);
    assert_eq!(open(&disk).1.mail[&position], b"kept");
}

#[test]
fn an_idle_log_does_not_sync() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    append(&spool.mail, b"one").unwrap();
    until("spares", || {
        segment_files(&disk, "mail").len() == 2 && segment_files(&disk, "event").len() == 2
    });
    // A thread that only looks may sync once more for the spare that was just seen.
    drop(spool);
    let (spool, _) = open(&disk);
    until("spares", || {
        let made = segment_files(&disk, "mail").len() + segment_files(&disk, "event").len();
        let ready = |log: &Log| lock(&log.shared.spare).ready.is_some();
        made >= 4 && ready(&spool.mail) && ready(&spool.events)
    });
    disk.fail(u64::MAX, Fault::Eio);
    assert_eq!(spool.mail.stat().commits, 0);
    drop(spool);
    assert_eq!(disk.syncs(), 0, "a log without records was synced");
}

#[test]
fn a_record_that_fits_no_segment_is_refused_and_the_largest_is_taken() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let max = spool.mail.payload_max();
    let refused = append(&spool.mail, &vec![1; max + 1]);
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    for _ in 0..3 {
        append(&spool.mail, &vec![1; max]).unwrap();
        append(&spool.mail, b"small").unwrap();
    }
    drop(spool);
    let (_, found) = open(&disk);
    assert_eq!((found.mail.len(), found.damages.len()), (6, 0));
}

#[test]
fn a_closed_log_refuses() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    spool.close().unwrap();
    assert_eq!(append(&spool.mail, b"late"), Err(AppendError::Stopped));
}

#[test]
fn two_nodes_on_one_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open_on(RealDisk::new(), options(dir.path())).unwrap();
    match open_on(RealDisk::new(), options(dir.path())) {
        Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, std::process::id()),
        other => panic!("{:?}", other.err()),
    }
    drop(spool);
    assert!(open_on(RealDisk::new(), options(dir.path())).is_ok());
}

fn append_held(spool: &Spool, bytes: &[u8]) -> u64 {
    runtime().block_on(async {
        let parts = [bytes];
        let append = spool.mail.append_held(kind::EVENT, 0, &parts, 1, None);
        append.await.unwrap().await.unwrap().position()
    })
}

/// Fills segments with held records until there are `count`.
fn fill(spool: &Spool, count: u64) -> Vec<u64> {
    let mut positions = Vec::new();
    while spool.mail.stat().segments < count {
        let bytes = payload(positions.len() as u64, 3000);
        let position = append_held(spool, &bytes);
        positions.push(position);
    }
    positions
}

#[test]
fn a_segment_is_recycled_when_nobody_holds_it_and_not_before() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let positions = fill(&spool, 4);
    spool.allow_reclaim();
    let segment = |position: u64| position / SEGMENT;
    let second: Vec<u64> = positions
        .iter()
        .copied()
        .filter(|position| segment(*position) == 1)
        .collect();
    for position in &second[1..] {
        spool.mail.release(*position, 1);
    }
    assert_eq!(spool.mail.stat().reclaimed, 0);
    spool.mail.release(second[0], 1);
    until("reclaimed", || spool.mail.stat().reclaimed == 1);
    assert!(matches!(
        spool.mail.read(second[0]),
        Err(ReadError::NotRetained(_))
    ));
    assert!(spool.mail.read(positions[0]).is_ok());
    let kept = spool
        .mail
        .records_from(0)
        .map(|item| item.unwrap().0.position);
    let kept: Vec<u64> = kept.collect();
    let expected: Vec<u64> = positions
        .iter()
        .copied()
        .filter(|position| segment(*position) != 1)
        .collect();
    assert_eq!(kept, expected);
    drop(spool);
    let (_, found) = open(&disk);
    assert_eq!(found.damages, vec![], "a hole made on purpose is no damage");
    assert_eq!(found.mail.keys().copied().collect::<Vec<_>>(), expected);
}

#[test]
fn stale_bytes_of_a_recycled_segment_never_verify() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let positions = fill(&spool, 4);
    spool.allow_reclaim();
    for position in &positions {
        spool.mail.release(*position, 1);
    }
    until("reclaimed", || spool.mail.stat().reclaimed == 3);
    // Into recycled files, whose old records lie where the new ones end.
    let mut written = Vec::new();
    for number in 0..20 {
        let bytes = payload(1000 + number, 2990);
        let position = append_held(&spool, &bytes);
        written.push((position, bytes));
    }
    let stale = |bytes: &[u8]| {
        (0..positions.len() as u64).any(|n| bytes.windows(8).any(|w| w == &payload(n, 3000)[..8]))
    };
    assert!(
        disk.files().values().any(|bytes| stale(bytes)),
        "the test sees recycled bytes"
    );
    drop(spool);
    let (_, found) = open(&disk);
    assert_eq!(found.damages, vec![]);
    for (position, bytes) in &written {
        assert_eq!(&found.mail[position], bytes);
    }
    let old = found.mail.iter().filter(|(position, bytes)| {
        !written.iter().any(|(p, _)| p == *position) && bytes.len() == 3000
    });
    // Only the segment that was current when everything was released may still show its own.
    assert!(old.map(|(p, _)| p / SEGMENT).all(|segment| segment == 3));
}

#[test]
fn every_use_of_a_file_has_a_salt_of_its_own() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let positions = fill(&spool, 4);
    // A file that is being made has no salt yet.
    let ready = |log: &Log| lock(&log.shared.spare).ready.is_some();
    until("spares", || ready(&spool.mail) && ready(&spool.events));
    let salts = |disk: &MemoryDisk| -> BTreeSet<[u8; 16]> {
        let files = disk.files();
        let headers = files.values().filter_map(|bytes| {
            let header = spool_format::SegmentHeader::decode(bytes).ok()?;
            Some(header.salt)
        });
        headers.collect()
    };
    let first = salts(&disk);
    let files = segment_files(&disk, "mail").len() + segment_files(&disk, "event").len();
    assert_eq!(first.len(), files, "no two files have the same");
    spool.allow_reclaim();
    for position in &positions {
        spool.mail.release(*position, 1);
    }
    until("reclaimed", || spool.mail.stat().reclaimed == 3);
    fill(&spool, 5);
    drop(spool);
    let headers = segment_files(&disk, "mail").into_iter();
    let last = headers.filter(|path| path.extension().is_some_and(|e| e == "seg"));
    let last = disk.files().remove(&last.max().unwrap()).unwrap();
    let salt = spool_format::SegmentHeader::decode(&last).unwrap().salt;
    assert!(!first.contains(&salt), "a recycled file has a new one");
}

/// Inodes of the files in the mail log's directory, dead ones included.
fn inodes(dir: &Path) -> BTreeSet<u64> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir.join("spool/mail")).unwrap();
    entries
        .map(|e| e.unwrap().metadata().unwrap().ino())
        .collect()
}

#[test]
fn a_file_is_used_again_unless_somebody_holds_its_map() {
    for hold in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = open_on(RealDisk::new(), options(dir.path())).unwrap();
        let positions = fill(&spool, 3);
        until("a spare", || lock(&spool.mail.shared.spare).ready.is_some());
        let path = roll::segment_path(&dir.path().join("spool/mail"), 1);
        let first = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let record = spool.mail.read(positions[0]).unwrap();
        let held = hold.then_some(record);
        spool.allow_reclaim();
        for position in positions.iter().filter(|p| *p / SEGMENT == 0) {
            spool.mail.release(*position, 1);
        }
        until("reclaimed", || spool.mail.stat().reclaimed == 1);
        fill(&spool, 5);
        assert_eq!(inodes(dir.path()).contains(&first), !hold, "held: {hold}");
        if let Some(held) = held {
            assert_eq!(held.payload, payload(0, 3000));
        }
    }
}

/// The end of a segment that a stop left unfinished is known from the header of the next one.
#[test]
fn the_segment_that_says_where_an_earlier_one_ends_stays_with_it() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let deferred = append_held(&spool, b"deferred for days");
    drop(spool);
    // A record that was on its way when the power failed: whole, never committed.
    disk.edit(&segment_files(&disk, "mail")[0], |bytes| {
        let seed = spool_format::SegmentHeader::decode(bytes).unwrap().seed();
        let record = &mut bytes[2 * 4096..][..frame::record_len(8)];
        frame::seal(record, frame::record_len(8), kind::EVENT, 0, seed, 2 * 4096);
    });
    let (spool, _) = open(&disk);
    spool.mail.hold(deferred, 1);
    let positions = fill(&spool, 4);
    spool.allow_reclaim();
    for position in &positions {
        spool.mail.release(*position, 1);
    }
    until("reclaimed", || spool.mail.stat().reclaimed > 0);
    drop(spool);
    let (spool, found) = open(&disk);
    assert_eq!(found.damages, vec![]);
    let never_committed = found.mail.get(&(2 * 4096));
    assert_eq!(never_committed, None, "cut before, and back");
    assert_eq!(
        spool.mail.read(deferred).unwrap().payload,
        &b"deferred for days"[..]
    );
}

#[test]
fn a_missing_segment_in_the_middle_is_reported_and_the_others_are_read() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let positions = fill(&spool, 4);
    drop(spool);
    let gone = segment_files(&disk, "mail")[1].clone();
    disk.unlink(&gone).unwrap();
    let (spool, found) = open(&disk);
    assert_eq!(found.damages.len(), 1, "{:?}", found.damages);
    assert_eq!(
        (found.damages[0].segment, found.damages[0].reason),
        (2, "missing segment")
    );
    let kept = positions.iter().filter(|p| *p / SEGMENT != 1).count();
    assert_eq!(found.mail.len(), kept);
    assert_eq!(spool.mail.records_from(0).count(), kept);
}
