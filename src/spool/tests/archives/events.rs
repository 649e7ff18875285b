//! The event log's past: read through its archives, dropped when nobody needs it, and what readers keep beyond it.

use super::*;
use crate::spool::bases::Base;

fn event(id: u8, at: u64) -> Vec<u8> {
    let padding = [id; 700];
    let fields = [spool_format::Field::new(65_000, &padding)];
    let record = EventRecord {
        kind: spool_format::layout::event_kind::DELIVERED,
        at_unix_ms: at,
        message_id: [id; 16],
        recipient_number: 0,
        fields: Fields::new(&fields),
    };
    let mut payload = Vec::new();
    record.encode(&mut payload).unwrap();
    payload
}

fn append_events(spool: &Spool, count: u8, at: u64) -> Vec<u64> {
    let appended = (0..count).map(|id| append(&spool.events, &event(id, at)).unwrap());
    appended.map(|receipt| receipt.position()).collect()
}

fn read_all(spool: &Spool) -> Vec<u64> {
    let records = spool.events.records_from(0);
    records.map(|item| item.unwrap().0.position).collect()
}

#[test]
fn the_event_log_is_read_through_its_archives_from_the_beginning() {
    let disk = MemoryDisk::new();
    let days = Days::new(45, 45);
    let (spool, _) = open_on(disk.clone(), keeping_all(&days)).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let positions = append_events(&spool, 100, now);
    let covered = positions[70];
    assert_eq!(spool.events.stat().reclaimed, 0, "no checkpoint yet");
    spool.allow_archive_of_events(covered);
    let whole = covered / SEGMENT;
    until("segments below the checkpoint are archived", || {
        spool.events.stat().reclaimed == whole
    });
    assert_eq!(archives(&disk, "event").len() as u64, whole);
    let check = |spool: &Spool| {
        assert_eq!(read_all(spool), positions);
        assert_eq!(spool.events.start(), 4096);
        for &position in &positions {
            assert_eq!(spool.events.read(position).unwrap().kind, kind::EVENT);
        }
        // From the middle of an archive, and from the last record of one.
        for from in [5, 17, 18, 60] {
            let next = spool.events.next(positions[from]).unwrap().unwrap();
            assert_eq!(next.0.position, positions[from]);
        }
    };
    check(&spool);
    assert_eq!(spool.events.position_before(1), 4096);
    drop(spool);
    let (spool, found) = open_on(disk.clone(), keeping_all(&days)).unwrap();
    assert_eq!(found.damages, vec![]);
    check(&spool);
    // An archive that cannot be read costs itself.
    drop(spool);
    let path = archives(&disk, "event")[1].clone();
    disk.edit(&path, |bytes| bytes.truncate(100));
    let (spool, _) = open_on(disk.clone(), keeping_all(&days)).unwrap();
    let items: Vec<_> = spool.events.records_from(0).collect();
    assert_eq!(items.iter().filter(|item| item.is_err()).count(), 1);
    let read = items
        .iter()
        .filter_map(|i| Some(i.as_ref().ok()?.0.position));
    let expected = positions.iter().filter(|p| **p / SEGMENT != 1);
    assert!(read.eq(expected.copied()));
}

fn state_of(base: &Base) -> Vec<u8> {
    let mut state = vec![0; base.state_len() as usize];
    assert_eq!(base.read_at(&mut state, 0).unwrap(), state.len());
    state
}

#[test]
fn events_go_when_they_are_old_and_a_checkpoint_and_every_reader_cover_them() {
    let disk = MemoryDisk::new();
    let mut options = keeping(&Days::new(45, 45));
    options.history.events = Some(Duration::from_millis(400 * DAY));
    let (spool, _) = open_on(disk.clone(), options.clone()).unwrap();
    spool.allow_reclaim();
    let readers = spool.readers();
    assert!(readers.register("statistics").unwrap().is_none());
    // Older than the segments of the mail log.
    let positions = append_events(&spool, 100, 1_000);
    spool.allow_archive_of_events(positions[70]);
    let whole = positions[70] / SEGMENT;
    until("archives", || spool.events.stat().reclaimed == whole);
    spool.keeper.sweep(400 * DAY + 1_000);
    assert_eq!(read_all(&spool), positions, "a reader has no base");
    readers
        .store("statistics", positions[30], b"30", 7)
        .unwrap();
    spool.keeper.sweep(400 * DAY + 999);
    assert_eq!(read_all(&spool), positions, "not old enough");
    spool.keeper.sweep(400 * DAY + 1_000);
    let gone = positions[30] / SEGMENT * SEGMENT;
    let kept: Vec<u64> = positions.iter().copied().filter(|p| *p >= gone).collect();
    assert!(kept.len() < 100 && read_all(&spool) == kept);
    assert_eq!(spool.events.start(), gone + 4096);
    readers.store("statistics", u64::MAX, b"all", 8).unwrap();
    spool.keeper.sweep(400 * DAY + 1_000);
    let start = whole * SEGMENT;
    let kept: Vec<u64> = positions.iter().copied().filter(|p| *p >= start).collect();
    assert_eq!(read_all(&spool), kept, "a checkpoint does not cover more");
    drop(spool);
    let (spool, found) = open_on(disk.clone(), options).unwrap();
    assert_eq!(found.damages, vec![], "the log just begins later");
    assert_eq!(read_all(&spool), kept);
}

#[test]
fn events_about_mail_that_is_still_there_are_kept_however_old() {
    let disk = MemoryDisk::new();
    let mut options = keeping(&Days::new(45, 45));
    options.history.events = Some(Duration::from_millis(DAY));
    let (spool, _) = open_on(disk, options).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let positions = append_events(&spool, 60, now);
    spool.allow_archive_of_events(u64::MAX);
    until("archives", || spool.events.stat().archives >= 2);
    spool.keeper.sweep(LATER);
    assert_eq!(read_all(&spool), positions);
}

/// A reader as issue 9 will have them: counts events, and outlives what it counted.
#[test]
fn a_reader_rebuilds_from_its_base_and_what_is_left_of_the_log() {
    let disk = MemoryDisk::new();
    let mut options = keeping(&Days::new(45, 45));
    options.history.events = Some(Duration::from_millis(DAY));
    let rebuild = |spool: &Spool| -> u64 {
        let base = spool.readers().register("counter").unwrap();
        let (from, mut count) = base.map_or((0, 0), |base| {
            let count = u64::from_le_bytes(state_of(&base)[..].try_into().unwrap());
            (base.position, count)
        });
        for item in spool.events.records_from(from) {
            count += u64::from(item.unwrap().0.kind == kind::EVENT);
        }
        count
    };
    let mut total = 0;
    for life in 0..4 {
        let (spool, found) = open_on(disk.clone(), options.clone()).unwrap();
        assert_eq!(found.damages, vec![]);
        spool.allow_reclaim();
        assert_eq!(rebuild(&spool), total, "life {life}");
        append_events(&spool, 40, 1_000);
        total += 40;
        assert_eq!(rebuild(&spool), total);
        let durable = spool.events.durable();
        let state = total.to_le_bytes();
        spool
            .readers()
            .store("counter", durable, &state, LATER)
            .unwrap();
        spool.allow_archive_of_events(durable);
        until("archives", || spool.events.stat().reclaimed >= 1);
        spool.keeper.sweep(LATER);
        assert!(spool.events.start() > 4096, "life {life}");
    }
}

#[test]
fn a_base_is_the_old_or_the_new_one_after_a_power_cut() {
    let recorder = RecordingDisk::new(MemoryDisk::new());
    let dir = Path::new(DIR).join("spool");
    let bases = ReaderBases::open(Arc::new(recorder.clone()), &dir).unwrap();
    assert!(bases.register("a").unwrap().is_none());
    for number in 1..6u64 {
        let state = payload(number, 700 * number as usize);
        bases.store("a", number, &state, number).unwrap();
        recorder.note(number);
    }
    every_image(&recorder.recording(), 8, 5, |image, notes| {
        let bases = ReaderBases::open(Arc::new(image.clone()), &dir).unwrap();
        let acknowledged = notes.last().copied().unwrap_or(0);
        let found = bases.register("a").unwrap();
        let position = found.as_ref().map_or(0, |base| base.position);
        assert!((acknowledged..=acknowledged + 1).contains(&position));
        assert_eq!(bases.lowest(), position);
        if let Some(base) = found {
            assert_eq!(state_of(&base), payload(position, 700 * position as usize));
        }
    });
}

#[test]
fn a_base_that_cannot_be_read_keeps_the_log_until_there_is_another() {
    let disk = MemoryDisk::new();
    let dir = Path::new(DIR).join("spool");
    let open = || ReaderBases::open(Arc::new(disk.clone()), &dir).unwrap();
    let bases = open();
    assert_eq!(bases.lowest(), u64::MAX);
    bases.register("a").unwrap();
    bases.store("a", 500, b"state", 1).unwrap();
    bases.store("b", 900, b"state", 1).unwrap();
    assert_eq!((bases.lowest(), open().lowest()), (500, 500));
    for wrong in ["", "../a", "A", "a.b", &"a".repeat(65)] {
        assert!(bases.store(wrong, 1, b"", 1).is_err(), "{wrong}");
    }
    disk.edit(&dir.join("readers/a.base"), |bytes| bytes[30] ^= 1);
    let bases = open();
    let damaged = bases.register("a").err().map(|error| error.kind());
    assert_eq!(
        (bases.lowest(), damaged),
        (0, Some(io::ErrorKind::InvalidData))
    );
    bases.store("a", 700, b"rebuilt", 2).unwrap();
    assert_eq!(bases.lowest(), 700);
    bases.unregister("a").unwrap();
    assert_eq!((bases.lowest(), open().lowest()), (900, 900));
}
