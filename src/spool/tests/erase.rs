//! Erasing in place: what was named is erased or as it was, whatever fails, and nothing else has changed.

use spool_format::layout::{erased, event};
use spool_format::{ErasedRecord, RedoEntry, redo};
use std::sync::atomic::AtomicBool;

use super::super::disk::memory::Fault;
use super::super::disk::real::RealDisk;
use super::super::disk::recording::RecordingDisk;
use super::super::erase::Erased;
use super::lives;
use super::*;

/// What a log holds, by position: (kind, payload).
type Held = BTreeMap<u64, (u8, Vec<u8>)>;

fn held(log: &Log) -> Held {
    let records = log.records_from(0).map(|found| found.unwrap().0);
    records
        .map(|record| (record.position, (record.kind, record.payload.to_vec())))
        .collect()
}

/// Records in both logs, over several segments, the tail included. Some stand in one sector with others.
fn fill(spool: &Spool) -> [Held; 2] {
    for number in 0..40 {
        let log = if number % 4 == 0 {
            &spool.events
        } else {
            &spool.mail
        };
        let position = append(log, &payload(number, 72 + (number as usize * 131) % 2500));
        log.hold(position.unwrap().position(), 1);
    }
    [held(&spool.mail), held(&spool.events)]
}

/// Every second record of each log.
fn chosen(before: &[Held; 2]) -> [Vec<u64>; 2] {
    [0, 1].map(|log: usize| before[log].keys().copied().step_by(2).collect())
}

fn erase_all(spool: &Spool, named: &[Vec<u64>; 2]) -> Result<Erased, EraseError> {
    let mut sum = spool.erase(LogKind::Event, &named[1])?;
    sum.add(spool.erase(LogKind::Mail, &named[0])?);
    Ok(sum)
}

fn is_erased(now: &(u8, Vec<u8>), before: &[u8]) -> bool {
    let (now_kind, payload) = now;
    if *now_kind != kind::ERASED {
        return false;
    }
    let record = ErasedRecord::decode(payload).unwrap();
    assert_eq!(record.kind, kind::EVENT);
    assert_eq!(record.fixed, &before[..event::FIELDS]);
    assert!(
        payload[erased::FIXED + event::FIELDS..]
            .iter()
            .all(|b| *b == 0)
    );
    assert_eq!(payload.len(), before.len());
    true
}

/// `must`: what has to be erased; `may`: what can be. All else is as it was.
fn check(
    before: &[Held; 2],
    now: &[Held; 2],
    must: impl Fn(usize, u64) -> bool,
    may: &[Vec<u64>; 2],
) {
    for log in 0..2 {
        for (position, (record_kind, payload)) in &before[log] {
            let found = now[log].get(position).expect("a record is lost");
            if is_erased(found, payload) {
                assert!(may[log].contains(position), "nobody named {position}");
            } else {
                assert_eq!(
                    found,
                    &(*record_kind, payload.clone()),
                    "changed: {position}"
                );
                assert!(!must(log, *position), "not erased: {position}");
            }
        }
    }
}

fn now(disk: &MemoryDisk) -> ([Held; 2], Vec<Damage>) {
    let (spool, found) = open(disk);
    ([held(&spool.mail), held(&spool.events)], found.damages)
}

#[test]
fn what_is_named_is_erased_and_nothing_else_and_the_checks_still_hold() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let before = fill(&spool);
    let named = chosen(&before);
    let count = (named[0].len() + named[1].len()) as u64;
    let all = Erased {
        erased: count,
        ..Erased::default()
    };
    assert_eq!(erase_all(&spool, &named).unwrap(), all);
    let after = [held(&spool.mail), held(&spool.events)];
    check(&before, &after, |log, at| named[log].contains(&at), &named);
    let again = Erased {
        already: count,
        ..Erased::default()
    };
    assert_eq!(erase_all(&spool, &named).unwrap(), again);
    assert_eq!([held(&spool.mail), held(&spool.events)], after);
    append(&spool.mail, &payload(99, 100)).unwrap();
    drop(spool);
    let (mut reopened, damages) = now(&disk);
    assert_eq!(damages, vec![]);
    reopened[0].retain(|_, (_, bytes)| bytes[..8] != 99u64.to_le_bytes());
    assert_eq!(reopened, after);
    let journals = disk.files().into_keys();
    let journals = journals.filter(|path| path.starts_with("/data/spool/erase"));
    assert_eq!(journals.count(), 0);
}

#[test]
fn what_cannot_be_erased_is_counted_and_left() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let short = append(&spool.mail, &[7; 71]).unwrap().position();
    let long = append(&spool.mail, &[7; 72]).unwrap().position();
    let behind = spool.mail.durable();
    let named = [short, long, long + 8, behind, behind * 1000];
    let sum = spool.erase(LogKind::Mail, &named).unwrap();
    let expected = Erased {
        erased: 1,
        unerasable: 3,
        gone: 1,
        ..Erased::default()
    };
    assert_eq!(sum, expected);
    let kinds: Vec<u8> = held(&spool.mail).into_values().map(|(k, _)| k).collect();
    assert_eq!(kinds, [kind::EVENT, kind::ERASED]);
}

#[test]
fn power_may_fail_at_any_moment_of_an_erasure() {
    let inner = MemoryDisk::new();
    let (spool, _) = open(&inner);
    let before = fill(&spool);
    let named = chosen(&before);
    drop(spool);
    let disk = RecordingDisk::new(inner);
    let (spool, _) = open_on(disk.clone(), options(Path::new(DIR))).unwrap();
    spool.erase(LogKind::Event, &named[1]).unwrap();
    disk.note(1);
    spool.erase(LogKind::Mail, &named[0]).unwrap();
    disk.note(0);
    drop(spool);
    let seed = 8_015;
    println!("seed {seed}");
    lives::every_image(&disk.recording(), 8, seed, |image, noted| {
        let promised = promises(image);
        let (found, damages) = now(image);
        assert_eq!(damages.iter().filter(|d| d.acknowledged).count(), 0);
        let must = |log: usize, position: u64| {
            let done = noted.contains(&(log as u64)) && named[log].contains(&position);
            done || promised[log].contains(&position)
        };
        check(&before, &found, must, &named);
        assert_eq!(
            promises(image).concat(),
            Vec::<u64>::new(),
            "a journal is left"
        );
        let (again, damages) = now(image);
        assert_eq!((again, damages), (found, vec![]), "not the same again");
    });
}

/// Positions that journals on the disk name.
fn promises(disk: &MemoryDisk) -> [Vec<u64>; 2] {
    let mut promised = [vec![], vec![]];
    let segments: Vec<_> = disk.files().into_values().collect();
    let journals = disk.files().into_iter();
    let journals = journals.filter(|(path, _)| path.extension().is_some_and(|e| e == "redo"));
    for entry in journals.flat_map(|(_, bytes)| redo::decode(&bytes).unwrap()) {
        let header = segments
            .iter()
            .filter_map(|bytes| spool_format::SegmentHeader::decode(bytes).ok())
            .find(|header| entry.is_in(header));
        // Its segment was the recording's: it is there.
        let position = header.unwrap().first_position + entry.offset;
        promised[usize::from(entry.log == LogKind::Event)].push(position);
    }
    promised
}

#[test]
fn any_call_of_an_erasure_may_fail() {
    let faults = [Fault::Eio, Fault::NoSpace, Fault::Short, Fault::EioFromHere];
    for fault in faults {
        for n in 1.. {
            let disk = MemoryDisk::new();
            let (spool, _) = open(&disk);
            let before = fill(&spool);
            let named = chosen(&before);
            until("spares", || {
                [&spool.mail, &spool.events]
                    .iter()
                    .all(|log| lock(&log.shared.spare).ready.is_some())
            });
            disk.fail(n, fault);
            let result = erase_all(&spool, &named);
            let reached = disk.calls() >= n;
            disk.heal();
            drop(spool);
            let complete = result.is_ok_and(|sum| sum.unerasable == 0);
            let (found, damages) = now(&disk);
            assert_eq!(damages, vec![], "{fault:?} at {n}");
            let must = |log: usize, at: u64| complete && named[log].contains(&at);
            check(&before, &found, must, &named);
            let (spool, _) = open(&disk);
            erase_all(&spool, &named).unwrap();
            let found = [held(&spool.mail), held(&spool.events)];
            check(&before, &found, |log, at| named[log].contains(&at), &named);
            if !reached {
                assert!(n > 20, "{fault:?}: {n} calls");
                break;
            }
        }
    }
}

#[test]
fn a_journal_of_another_life_touches_nothing_and_a_damaged_one_is_left() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    let before = fill(&spool);
    drop(spool);
    let path = disk
        .files()
        .into_keys()
        .find(|path| path.starts_with("/data/spool/mail"))
        .unwrap();
    let header = spool_format::SegmentHeader::decode(&disk.files()[&path]).unwrap();
    let (&position, _) = before[0].first_key_value().unwrap();
    let bytes = &disk.files()[&path];
    let frame = spool_format::frame::read(bytes, position, header.seed()).unwrap();
    let mut entry = RedoEntry::of(&header, &frame).unwrap();
    entry.salt[3] ^= 1;
    let dir = Path::new("/data/spool/erase");
    disk.create_dir(dir).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = disk.create(&dir.join(name)).unwrap();
        disk::write_all_at(file.as_ref(), bytes, 0).unwrap();
    };
    write("0000000000000001.redo", &redo::encode(&[entry], 1));
    entry.segment += 1000;
    write("0000000000000002.redo", &redo::encode(&[entry], 1));
    let mut damaged = redo::encode(&[entry], 1);
    damaged[40] ^= 1;
    write("0000000000000003.redo", &damaged);
    write("0000000000000004.tmp", &damaged);
    let (found, damages) = now(&disk);
    assert_eq!((found, damages), (before.clone(), vec![]));
    let names = disk.list(dir).unwrap();
    assert_eq!(names, ["0000000000000003.redo"]);
    // The next erasure is not in its way.
    let (spool, _) = open(&disk);
    let sum = spool.erase(LogKind::Mail, &[position]).unwrap();
    assert_eq!(sum.erased, 1);
    assert_eq!(disk.list(dir).unwrap(), names);
}

#[test]
fn what_a_reader_keeps_does_not_change_and_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open_on(RealDisk::new(), options(dir.path())).unwrap();
    let bytes = payload(1, 3000);
    let position = append(&spool.mail, &bytes).unwrap().position();
    let other = append(&spool.mail, &payload(2, 500)).unwrap().position();
    let kept = spool.mail.read(other).unwrap();
    let segment = spool.mail.shared.segment(position).unwrap();
    let disk = RealDisk::new();
    let still = |patience| segment.still(&disk, patience).unwrap();
    assert!(still(Duration::ZERO).is_none(), "somebody keeps a record");
    assert_eq!(kept.payload, payload(2, 500));
    // Reading goes on meanwhile, and what it gives keeps no map.
    let read = spool.mail.read(position).unwrap();
    drop(kept);
    let waited = still(Duration::ZERO);
    // The read came between the two and mapped the file again.
    assert!(waited.is_none());
    drop((waited, read));
    let resting = still(Duration::from_secs(20)).unwrap();
    let read = spool.mail.read(position).unwrap();
    assert_eq!(read.payload, bytes);
    drop(resting);
    let sum = spool.erase(LogKind::Mail, &[position]).unwrap();
    assert_eq!(sum.erased, 1);
    assert_eq!(read.payload, bytes, "a copy");
    assert_eq!(spool.mail.read(position).unwrap().kind, kind::ERASED);
    assert_eq!(spool.mail.read(other).unwrap().payload, payload(2, 500));
}

#[test]
fn readers_see_a_record_whole_or_erased_and_writers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open_on(RealDisk::new(), options(dir.path())).unwrap();
    let before = fill(&spool);
    let named = chosen(&before);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let found = [held(&spool.mail), held(&spool.events)];
                    check(&before, &found, |_, _| false, &named);
                }
            });
        }
        for position in named[0].iter().rev() {
            assert_eq!(spool.erase(LogKind::Mail, &[*position]).unwrap().erased, 1);
            append(&spool.mail, &payload(1000 + position, 300)).unwrap();
        }
        let sum = spool.erase(LogKind::Event, &named[1]).unwrap();
        assert_eq!(sum.erased, named[1].len() as u64);
        stop.store(true, Ordering::Relaxed);
    });
    let found = [held(&spool.mail), held(&spool.events)];
    check(&before, &found, |log, at| named[log].contains(&at), &named);
}
