//! Power cuts and calls that fail while archives are made, swept and removed.

use super::*;

/// All records of the archives of a disk.
fn archived_of(disk: &MemoryDisk, log: &str) -> BTreeMap<u64, Vec<u8>> {
    let mut records = BTreeMap::new();
    for path in archives(disk, log) {
        let (header, raw) = open_segment_bytes(disk, &path).unwrap();
        for item in scan::sealed(&raw, &header, raw.len() as u64) {
            match item {
                Item::Record(frame) if frame.kind != kind::PADDING => {
                    let position = header.first_position + frame.offset;
                    records.insert(position, frame.payload.to_vec());
                }
                Item::Record(_) => {}
                // A batch that the power cut tore, and nobody was told of: void, and archived as it was found.
                Item::Damage(_) => {}
            }
        }
    }
    records
}

/// What a power cut leaves: every message that was acknowledged is in the log or in an archive, and every archive is whole.
fn look(disk: &MemoryDisk, notes: &[u64], days: &Arc<Days>, deep: bool) {
    let judge = |disk: &MemoryDisk, found: Found| {
        let archived = archived_of(disk, "mail");
        let events = archived_events(disk, &found);
        let ids: BTreeSet<[u8; 16]> = found
            .mail
            .values()
            .chain(archived.values())
            .filter_map(|payload| Some(MessageRecord::decode(payload).ok()?.id))
            .collect();
        let notes: Vec<Note> = notes.iter().map(|id| Note::of(*id)).collect();
        let erased = |message| notes.contains(&Note::Erasing { message });
        for &note in &notes {
            match note {
                Note::Accepted { message } | Note::Happened { message, .. } if erased(message) => {}
                Note::Accepted { message } => {
                    assert!(ids.contains(&world::message_id(message)), "{note:?}");
                }
                Note::Happened {
                    message,
                    recipient,
                    step,
                } => {
                    let payload = world::event_payload(message, recipient, step);
                    assert!(events.contains(&payload), "{note:?}");
                }
                Note::Released { .. } | Note::Erasing { .. } => {}
            }
        }
        let acknowledged = found.damages.iter().filter(|d| d.acknowledged);
        assert_eq!(acknowledged.count(), 0, "{:?}", found.damages);
    };
    // Half an erasure is finished before anything is read.
    crate::spool::erase::redo(disk, Path::new(DIR)).unwrap();
    judge(disk, lives::scan(disk));
    if !deep {
        return;
    }
    let (spool, found) = open_on(disk.clone(), keeping_all(days)).unwrap();
    // Everything is dead now: all of it becomes archives.
    let segments = spool.mail.stat().segments + spool.events.stat().segments;
    spool.allow_reclaim();
    spool.allow_archive_of_events(u64::MAX);
    until("all of the past is archived", || {
        spool.mail.stat().reclaimed + spool.events.stat().reclaimed >= segments - 2
    });
    drop(spool);
    let _ = found;
    judge(disk, lives::scan(disk));
}

fn archived_events(disk: &MemoryDisk, found: &Found) -> BTreeSet<Vec<u8>> {
    let archived = archived_of(disk, "event").into_values();
    archived.chain(found.events.values().cloned()).collect()
}

/// A life with archives of both logs, and one record of a message erased and one archive swept on the way.
fn history(seed: u64, days: &Arc<Days>) -> Recording {
    let disk = MemoryDisk::new();
    let mut life = Life::start_with(disk, keeping_all(days), 1, seed);
    let is_enough = |spool: &Spool| {
        let archives = |log: &Log| log.stat().archives;
        archives(&spool.mail) >= 3 && archives(&spool.events) >= 1
    };
    while !is_enough(&life.spool) {
        life.live(12);
        let durable = life.spool.events.durable();
        life.spool.allow_archive_of_events(durable);
    }
    life.end().0
}

/// Two messages whose segment becomes an archive, which is made anew twice: without what is over, and without what was
/// erased; then it goes.
#[test]
fn a_power_cut_leaves_an_archive_as_it_was_or_as_it_is_to_be() {
    let recorder = RecordingDisk::new(MemoryDisk::new());
    let days = Days::new(10, 45);
    let (spool, _) = open_on(recorder.clone(), keeping(&days)).unwrap();
    let now = Clock::start().unix_ms();
    let short = put(&spool, kind::MESSAGE, &inline(1, "outbound", now));
    let long = put(&spool, kind::MESSAGE, &inline(2, "broadcast", now));
    let other = put(&spool, kind::MESSAGE, &inline(3, "broadcast", now));
    bury(&spool, &[]);
    let (appended, archived, shortened, erased) = (1, 2, 3, 4);
    recorder.note(appended);
    spool.allow_reclaim();
    [short, long, other]
        .iter()
        .for_each(|p| spool.mail.release(*p, 1));
    wait_for_reclaim(&spool, 1);
    recorder.note(archived);
    spool.keeper.sweep(now + 12 * DAY);
    recorder.note(shortened);
    spool.erase(LogKind::Mail, &[other]).unwrap();
    recorder.note(erased);
    let before_the_end = recorder.operation_count();
    spool.keeper.sweep(now + 46 * DAY);
    drop(spool);
    let recording = recorder.recording();
    assert!(recording.operations().len() > before_the_end);
    every_image(&recording, 6, 99, |image, notes| {
        let step = notes.last().copied().unwrap_or(0);
        let mut kinds = BTreeMap::new();
        let all = lives::scan(image);
        for (position, payload) in all.mail.into_iter().chain(archived_of(image, "mail")) {
            let is_message = MessageRecord::decode(&payload).is_ok();
            // Either copy may be the one that is looked at.
            *kinds.entry(position).or_insert(false) |= is_message;
        }
        let readable = |position| kinds.get(&position) == Some(&true);
        // Behind a note, what comes next may have begun.
        if (appended..=archived).contains(&step) {
            assert!(readable(long) && readable(other), "{step}");
            assert!(readable(short) || step == archived);
        }
        if step == shortened {
            assert!(readable(long) && !readable(short));
        }
        let still_there = archives(image, "mail")
            .iter()
            .any(|p| p.ends_with(archive::file_name_of(1, 0)));
        if step == erased && still_there {
            assert!(readable(long));
        }
    });
}

#[test]
fn power_cuts_leave_every_record_in_the_log_or_in_an_archive() {
    let days = Days::new(36_500, 36_500);
    for seed in 0..2 {
        let recording = history(77_000 + seed, &days);
        let mut number = 0;
        random_images(&recording, 150, seed, |image, notes| {
            number += 1;
            look(image, notes, &days, number % 30 == 0);
        });
    }
}

/// The n-th call fails, once or from then on: the segment stays, or its archive is whole.
#[test]
fn any_call_may_fail_while_archives_are_made_swept_and_removed() {
    let days = Days::new(36_500, 36_500);
    for fault in [Fault::Eio, Fault::NoSpace, Fault::Short, Fault::EioFromHere] {
        let mut n = 0;
        loop {
            n += 1;
            let inner = MemoryDisk::new();
            let disk = RecordingDisk::new(inner.clone());
            let Ok((spool, _)) = open_on(disk.clone(), keeping(&days)) else {
                panic!("the disk is whole");
            };
            let now = Clock::start().unix_ms();
            let bytes: Vec<Vec<u8>> = (0..6).map(|id| inline(id, "outbound", now)).collect();
            let positions: Vec<u64> = bytes
                .iter()
                .map(|bytes| put(&spool, kind::MESSAGE, bytes))
                .collect();
            bury(&spool, &positions);
            until("a spare", || lock(&spool.mail.shared.spare).ready.is_some());
            // As the keeper does it, on this thread, so that the n-th call is always the same.
            let segments = spool.mail.shared.segments.load_full();
            inner.fail(n, fault);
            let segment = &segments[0];
            let mail = &spool.mail.shared;
            let archived = spool.keeper.archive_now(segment, now);
            spool.keeper.sweep(now);
            let mut changing = mail.shelf.change();
            let erased = mail.shelf.erase(&mut changing, &positions[1..2], now);
            drop(changing);
            let reached = inner.calls() >= n;
            inner.heal();
            for (position, bytes) in positions.iter().zip(&bytes) {
                let offset = position - segment.first_position();
                if !segment.contains(*position) {
                    continue;
                }
                let record = mail.shelf.read(segment.first_position() + offset);
                match record {
                    Ok(record) if record.kind == kind::ERASED => {
                        assert_eq!(*position, positions[1])
                    }
                    Ok(record) => assert_eq!(record.payload, bytes),
                    // Then it was not said to be there.
                    Err(error) => assert!(archived.is_err(), "call {n}, {fault:?}: {error}"),
                }
            }
            if erased.is_ok_and(|found| found.get(&positions[1]) == Some(&true)) {
                let record = mail.shelf.read(positions[1]).unwrap();
                assert_eq!(record.kind, kind::ERASED);
            }
            drop(segments);
            drop(spool);
            let names = segment_files(&inner, "mail");
            let (spool, _) = open_on(inner.clone(), keeping(&days)).unwrap();
            drop(spool);
            let left = segment_files(&inner, "mail");
            let is_left = |p: &&PathBuf| p.extension().is_some_and(|e| e == "tmp");
            assert_eq!(left.iter().filter(is_left).count(), 0, "{names:?}");
            archived_ok(&inner);
            if !reached {
                break;
            }
        }
        assert!(n > 20, "{fault:?} was met {n} times only");
    }
}
