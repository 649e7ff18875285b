//! Disks that fail, fill up, rot.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::disk::memory::Fault;
use super::super::disk::recording::{Choice, RecordingDisk};
use super::*;

/// One life on a disk that may fail at any call: opens, appends. Returns what was acknowledged. Lives differ by the
/// number of their first record.
fn live_through(disk: &RecordingDisk, first: u64) -> BTreeMap<u64, Vec<u8>> {
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    let opened = open_on(disk.clone(), options(Path::new(DIR)));
    let Ok((spool, found)) = opened else {
        return BTreeMap::new();
    };
    for position in found.mail.keys() {
        spool.mail.hold(*position, 1);
    }
    spool.allow_reclaim();
    let runtime = runtime();
    for number in first..first + 14 {
        let log = if number % 3 == 2 {
            &spool.events
        } else {
            &spool.mail
        };
        let bytes = payload(number, 500 + 400 * (number - first) as usize);
        let (acks, copy) = (Arc::clone(&acknowledged), bytes.clone());
        let on_durable: OnDurable = Box::new(move |answer| {
            if let Ok(receipt) = answer {
                acks.lock().unwrap().insert(number, (receipt, copy));
            }
        });
        let parts = [&bytes[..]];
        let append = log.append_held(kind::EVENT, 0, &parts, 1, Some(on_durable));
        runtime.block_on(async {
            if let Ok(ticket) = append.await {
                // An error here is the promise that nothing was promised.
                let _ = ticket.await;
            }
        });
    }
    drop(spool);
    let acknowledged = acknowledged.lock().unwrap();
    acknowledged
        .iter()
        .map(|(number, (_, bytes))| (*number, bytes.clone()))
        .collect()
}

fn check(disk: &MemoryDisk, acknowledged: &BTreeMap<u64, Vec<u8>>) {
    let (spool, found) = open(disk);
    let all: BTreeSet<&Vec<u8>> = found.mail.values().chain(found.events.values()).collect();
    for (number, bytes) in acknowledged {
        assert!(all.contains(bytes), "acknowledged and lost: {number}");
    }
    for bytes in all {
        let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(bytes, &payload(number, bytes.len()), "never appended");
    }
    drop(spool);
    let (_, again) = open(disk);
    assert_eq!((again.mail, again.events), (found.mail, found.events));
}

/// Lives through `fault` at the n-th call, for n = 1, 2, 3 … until a life does not get that far; returns how many there were.
fn at_every_call(what: &str, plan: impl Fn(&RecordingDisk, &MemoryDisk, u64) -> Reached) -> u64 {
    for n in 1.. {
        let inner = MemoryDisk::new();
        // An earlier life, so that recovery has something to fail at.
        let mut all = live_through(&RecordingDisk::new(inner.clone()), 0);
        assert_eq!(all.len(), 14);
        let disk = RecordingDisk::new(inner.clone());
        let reached = plan(&disk, &inner, n);
        all.extend(live_through(&disk, 100));
        let reached = reached(&disk, &inner);
        inner.heal();
        let looked = std::panic::catch_unwind(|| {
            check(&inner, &all);
            let recording = disk.recording();
            let end = recording.operations().len();
            check(&recording.image(end, Choice::Nothing), &all);
            check(&recording.image(end, Choice::Random(n)), &all);
        });
        if let Err(panic) = looked {
            eprintln!("violated when call {n} fails: {what}");
            std::panic::resume_unwind(panic);
        }
        if !reached {
            println!("{what}: {} calls", n - 1);
            return n - 1;
        }
    }
    0
}

/// Whether the planned fault was met.
type Reached = Box<dyn Fn(&RecordingDisk, &MemoryDisk) -> bool>;

fn any_call_may_fail(faults: &[Fault]) {
    for &fault in faults {
        let calls = at_every_call(&format!("{fault:?}"), |_, inner, n| {
            inner.fail(n, fault);
            Box::new(move |_, inner| inner.calls() >= n)
        });
        assert!(calls >= 60, "{fault:?} was met {calls} times only");
    }
}

#[test]
fn any_call_may_fail_once() {
    any_call_may_fail(&[Fault::Eio, Fault::NoSpace, Fault::Short, Fault::Interrupted]);
}

#[test]
fn any_call_may_fail_and_all_that_follow() {
    any_call_may_fail(&[
        Fault::EioFromHere,
        Fault::NoSpaceFromHere,
        Fault::ShortFromHere,
    ]);
}

/// The kernel takes the bytes and loses them later. It says so once, to those who had the file open.
#[test]
fn a_write_that_is_lost_after_it_succeeded_is_never_acknowledged() {
    let writes = at_every_call("lost in write-back", |disk, _, n| {
        disk.lose_write(n);
        Box::new(|disk, _| !disk.is_write_to_be_lost())
    });
    assert!(writes >= 20, "{writes}");
}

#[test]
fn a_failed_sync_is_final_for_its_log_and_the_other_goes_on() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    append(&spool.mail, b"before").unwrap();
    until("spares", || {
        [&spool.mail, &spool.events]
            .iter()
            .all(|log| lock(&log.shared.spare).ready.is_some())
    });
    let failed = spool.failed();
    assert!(failed.borrow().is_none());
    let durable = spool.mail.durable();
    let reader = spool.mail.clone();
    disk.fail(1, Fault::SyncEio);
    assert_eq!(append(&spool.mail, b"lost"), Err(AppendError::Stopped));
    disk.heal();
    assert_eq!(*reader.watch().borrow(), durable, "nobody was told more");
    assert!(matches!(
        reader.read(durable),
        Err(ReadError::NotDurable(_))
    ));
    for _ in 0..3 {
        assert_eq!(append(&spool.mail, b"refused"), Err(AppendError::Stopped));
    }
    assert_eq!(spool.mail.durable(), durable);
    assert_eq!(disk.syncs(), 1, "nothing is synced again");
    assert!(failed.borrow().as_ref().unwrap().contains("mail log"));
    append(&spool.events, b"an outcome").unwrap();
    assert!(spool.mail.stat().failed && !spool.events.stat().failed);
    assert_eq!(spool.close(), Err(AppendError::Stopped));
    drop(spool);
    let (_, found) = open(&disk);
    assert!(found.mail.values().any(|bytes| bytes == b"before"));
    assert!(found.events.values().any(|bytes| bytes == b"an outcome"));
}

#[test]
fn everybody_who_waits_for_a_failing_sync_is_told() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    disk.fail(1, Fault::EioFromHere);
    let (refused, called) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (spool, refused, called) = (&spool, &refused, &called);
            scope.spawn(move || {
                for number in 0..20 {
                    let count = Arc::clone(called);
                    let on_durable: OnDurable = Box::new(move |answer| {
                        assert_eq!(answer, Err(AppendError::Stopped));
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                    let bytes = payload(writer * 100 + number, 200);
                    let parts = [&bytes[..]];
                    let append = spool.mail.append(kind::EVENT, 0, &parts, Some(on_durable));
                    match runtime().block_on(append) {
                        Ok(ticket) => {
                            let answer = runtime().block_on(ticket);
                            assert_eq!(answer, Err(AppendError::Stopped));
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => assert_eq!(error, AppendError::Stopped),
                    }
                }
            });
        }
    });
    let refused = refused.into_inner();
    assert!(refused > 0);
    assert_eq!(called.load(Ordering::SeqCst), refused, "told in both ways");
}

#[test]
fn a_full_disk_is_met_at_preparation_and_outcomes_still_have_room() {
    let disk = MemoryDisk::new();
    let full = Options {
        // Room for one event segment beyond what mail may take.
        reserve: 2 * SEGMENT,
        ..options(Path::new(DIR))
    };
    disk.set_capacity(8 * SEGMENT);
    let (spool, _) = open_on(disk.clone(), full.clone()).unwrap();
    let mut accepted = 0;
    let refused = loop {
        match append(&spool.mail, &payload(accepted, 3000)) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Full);
    assert!(accepted >= 8 && spool.full());
    assert!(spool.failed().borrow().is_none(), "nothing has failed");
    // More than the segments that the event log has ready.
    for number in 0..12 {
        append(&spool.events, &payload(number, 3000)).unwrap();
    }
    // Space returns: no restart is needed.
    disk.set_capacity(100 * SEGMENT);
    spool.bell.ring();
    until("room again", || !spool.full());
    append(&spool.mail, &payload(accepted, 3000)).unwrap();
    drop(spool);
    let (_, found) = open_on(disk, full).unwrap();
    assert_eq!(
        (found.mail.len() as u64, found.events.len()),
        (accepted + 1, 12)
    );
}

#[test]
fn little_free_space_is_told_before_anything_fails() {
    let disk = MemoryDisk::new();
    disk.set_capacity(100 * SEGMENT);
    let options = Options {
        refuse_below: u64::MAX,
        ..options(Path::new(DIR))
    };
    // A tenth of the disk is the smaller bound.
    disk.add_file(Path::new("/data/other"), vec![0; 89 * SEGMENT as usize]);
    let (spool, _) = open_on(disk.clone(), options).unwrap();
    until("told", || spool.full());
    append(&spool.mail, b"what was begun is finished").unwrap();
    disk.unlink(Path::new("/data/other")).unwrap();
    spool.bell.ring();
    until("withdrawn", || !spool.full());
}

#[test]
fn a_disk_that_does_not_sync_fails_the_probe() {
    let disk = MemoryDisk::new();
    let probe = |disk: &MemoryDisk| Spool::probe(disk, Path::new(DIR));
    probe(&disk).unwrap();
    disk.fail(1, Fault::SyncEio);
    assert!(probe(&disk).is_err());
    disk.heal();
    probe(&disk).unwrap();
}

/// Three sealed segments, one record after the other, and the files as they were left.
fn three_segments() -> (MemoryDisk, BTreeMap<u64, Vec<u8>>) {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let mut number = 0;
    while spool.mail.stat().segments < 4 {
        append(&spool.mail, &payload(number, 700)).unwrap();
        number += 1;
    }
    drop(spool);
    let (_, found) = open(&disk);
    (disk, found.mail)
}

#[test]
fn a_flipped_bit_costs_one_record_and_is_reported() {
    let (disk, written) = three_segments();
    let path = segment_files(&disk, "mail")[1].clone();
    let mut rng = fastrand::Rng::with_seed(1);
    for at in (0..SEGMENT as usize).step_by(13) {
        let bit = 1 << rng.u8(..8);
        disk.edit(&path, |bytes| bytes[at] ^= bit);
        let (_, found) = open(&scratch(&disk));
        let lost: Vec<_> = written
            .keys()
            .filter(|p| !found.mail.contains_key(p))
            .collect();
        assert!(lost.len() <= 1, "byte {at}: {lost:?}");
        assert!(!found.damages.is_empty(), "byte {at} is not noticed");
        let known = |damage: &Damage| damage.segment == 2 && damage.acknowledged;
        assert!(found.damages.iter().all(known), "{found:?}");
        let invented = found.mail.iter().find(|(p, b)| written.get(p) != Some(b));
        assert_eq!(invented, None, "byte {at}");
        disk.edit(&path, |bytes| bytes[at] ^= bit);
    }
}

#[test]
fn a_truncated_segment_costs_what_was_cut_and_is_reported() {
    let (disk, written) = three_segments();
    let path = segment_files(&disk, "mail")[1].clone();
    let whole = disk.files().remove(&path).unwrap();
    for len in (0..SEGMENT as usize).step_by(509) {
        disk.edit(&path, |bytes| bytes.truncate(len));
        let (_, found) = open(&scratch(&disk));
        let kept = written.iter().filter(|(position, bytes)| {
            let offset = (**position).checked_sub(SEGMENT).filter(|o| *o < SEGMENT);
            offset.is_none_or(|offset| offset as usize + 16 + bytes.len() <= len)
        });
        let kept: BTreeMap<u64, Vec<u8>> = kept.map(|(p, b)| (*p, b.clone())).collect();
        let expected = if len < 4096 {
            kept.into_iter().filter(|(p, _)| p / SEGMENT != 1).collect()
        } else {
            kept
        };
        // A record whose padding was cut is cut.
        let missing = expected.len() - found.mail.len();
        assert!(missing <= 1, "{len}: {missing}");
        assert!(!found.damages.is_empty(), "{len}");
        disk.edit(&path, |bytes| bytes.clone_from(&whole));
    }
}

/// Its end cannot be told from its commit records any more: some may be among what was cut.
#[test]
fn a_last_segment_that_was_cut_is_never_taken_for_a_shorter_log() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    for number in 0..4 {
        append(&spool.mail, &payload(number, 1000)).unwrap();
    }
    drop(spool);
    let path = segment_files(&disk, "mail")[0].clone();
    let whole = disk.files().remove(&path).unwrap();
    for len in (0..SEGMENT as usize).step_by(61) {
        disk.edit(&path, |bytes| bytes.truncate(len));
        let copy = scratch(&disk);
        let (spool, found) = open(&copy);
        assert!(found.damages.iter().any(|d| d.acknowledged), "length {len}");
        // One record in each page.
        assert!(
            found.mail.len() + 1 >= (len / 4096).clamp(1, 5) - 1,
            "length {len}: {}",
            found.mail.len()
        );
        append(&spool.mail, b"new").unwrap();
        drop(spool);
        let (_, again) = open(&copy);
        assert_eq!(again.mail.len(), found.mail.len() + 1, "length {len}");
        disk.edit(&path, |bytes| bytes.clone_from(&whole));
    }
}

/// A copy, so that what recovery writes does not add up.
fn scratch(disk: &MemoryDisk) -> MemoryDisk {
    let copy = MemoryDisk::new();
    for (path, bytes) in disk.files() {
        copy.add_file(&path, bytes);
    }
    copy
}

#[test]
fn a_damaged_record_is_refused_and_readers_go_on_behind_it() {
    let (disk, written) = three_segments();
    let (spool, _) = open(&disk);
    let victim = *written.keys().nth(2).unwrap();
    let path = segment_files(&disk, "mail")[0].clone();
    disk.edit(&path, |bytes| bytes[victim as usize + 100] ^= 1);
    match spool.mail.read(victim) {
        Err(ReadError::Damaged { position, .. }) => assert_eq!(position, victim),
        other => panic!("{other:?}"),
    }
    let items: Vec<_> = spool.mail.records_from(0).collect();
    let good = items.iter().filter(|item| item.is_ok()).count();
    assert_eq!((good, items.len()), (written.len() - 1, written.len()));
}

/// The last segment cannot be told from a torn one where its pages are unreadable: nothing of it may be given up.
#[test]
fn an_unreadable_page_of_the_last_segment_cuts_nothing_off() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    for number in 0..4 {
        append(&spool.mail, &payload(number, 1000)).unwrap();
    }
    drop(spool);
    let path = segment_files(&disk, "mail")[0].clone();
    disk.spoil(&path, 8192..3 * 8192);
    let (spool, found) = open(&disk);
    assert_eq!(found.mail.len(), 1, "what can be read is there");
    assert!(!found.damages.is_empty());
    append(&spool.mail, &payload(9, 1000)).unwrap();
    drop(spool);
    // The medium came back to its senses.
    disk.spoil(&path, 0..0);
    let (_, found) = open(&disk);
    assert_eq!(found.mail.len(), 5);
}

#[test]
fn a_segment_with_an_unreadable_header_is_left_alone() {
    let (disk, written) = three_segments();
    let files = segment_files(&disk, "mail");
    let path = files.last().unwrap().clone();
    let before = disk.files()[&path].clone();
    disk.edit(&path, |bytes| bytes[..4096].fill(0));
    let (spool, found) = open(&disk);
    assert_eq!(found.damages.len(), 1, "{:?}", found.damages);
    append(&spool.mail, b"new").unwrap();
    drop(spool);
    disk.edit(&path, |bytes| bytes.clone_from(&before));
    let (_, found) = open(&disk);
    assert!(written.iter().all(|(p, b)| found.mail.get(p) == Some(b)));
}
