//! Power cuts: a history is recorded on a disk that forgets nothing, then cut at every operation, with everything
//! unsynced lost, kept, or decided sector by sector.
//!
//! Checked on every image: what was acknowledged before the cut is there with equal bytes; nothing is there that was
//! never appended; nothing acknowledged is called damaged; recovering again, after recovery wrote what it writes, gives
//! the same.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::disk::recording::{Choice, Operation, Recording, RecordingDisk};
use super::super::recover;
use super::*;

/// Added to the id in a note: the record was released, so it may go.
const RELEASED: u64 = 1 << 32;
/// Added to the id of a record of the event log.
const EVENT: u64 = 1 << 31;

/// A life of the spool on a disk that records it.
struct Life {
    disk: RecordingDisk,
    spool: Spool,
    next: Arc<AtomicU64>,
}

impl Life {
    fn start(disk: MemoryDisk, first_id: u64) -> Self {
        let disk = RecordingDisk::new(disk);
        let options = options(Path::new(DIR));
        let (spool, found) = open_on(disk.clone(), options).unwrap();
        for position in found.mail.keys() {
            spool.mail.hold(*position, 1);
        }
        spool.allow_reclaim();
        let next = Arc::new(AtomicU64::new(first_id));
        Self { disk, spool, next }
    }

    /// Appends a record whose acknowledgement is noted the moment it is given; waits for it if told to.
    fn append(&self, event: bool, len: usize, wait: bool) -> (u64, Option<u64>) {
        let mut id = self.next.fetch_add(1, Ordering::SeqCst);
        let log = if event {
            id |= EVENT;
            &self.spool.events
        } else {
            &self.spool.mail
        };
        let disk = self.disk.clone();
        let on_durable: OnDurable = Box::new(move |answer| {
            if answer.is_ok() {
                disk.note(id);
            }
        });
        let bytes = payload(id, len.max(8));
        let position = runtime().block_on(async {
            let parts = [&bytes[..]];
            let append = log.append_held(kind::EVENT, 0, &parts, 1, Some(on_durable));
            let ticket = append.await.ok()?;
            let position = ticket.position();
            if wait {
                ticket.await.ok()?;
            }
            Some(position)
        });
        (id, position)
    }

    fn release(&self, id: u64, position: u64) {
        self.disk.note(id | RELEASED);
        self.spool.mail.release(position, 1);
    }

    fn end(self) -> Recording {
        drop(self.spool);
        self.disk.recording()
    }
}

/// Appends until the disk has seen `operations`, over several segments, some of which are released and recycled.
fn history(disk: MemoryDisk, first_id: u64, operations: usize, seed: u64) -> Recording {
    let mut rng = fastrand::Rng::with_seed(seed);
    let life = Life::start(disk, first_id);
    let mut live = Vec::new();
    while life.disk.recording().operations().len() < operations {
        let event = rng.u8(..4) == 0;
        let wait = rng.u8(..3) > 0;
        let (id, position) = life.append(event, rng.usize(8..6000), wait);
        if let (Some(position), false) = (position, event) {
            live.push((id, position));
        }
        if live.len() > 6 && rng.bool() {
            for (id, position) in live.drain(..rng.usize(1..5)) {
                life.release(id, position);
            }
        }
    }
    life.end()
}

/// What recovery sees, without starting anything.
fn scan(disk: &MemoryDisk) -> Found {
    let mut found = Found::default();
    for (kind, name) in [(LogKind::Mail, "mail"), (LogKind::Event, "event")] {
        let dir = Path::new(DIR).join("spool").join(name);
        let recovered = recover::recover(disk, &dir, kind, SEGMENT, &mut found);
        assert!(recovered.is_ok(), "{:?}", recovered.err());
    }
    found
}

fn ids(records: &BTreeMap<u64, Vec<u8>>) -> BTreeMap<u64, &[u8]> {
    let id = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let by_id: BTreeMap<u64, &[u8]> = records.values().map(|b| (id(b), &b[..])).collect();
    assert_eq!(by_id.len(), records.len(), "a record is there twice");
    by_id
}

/// `notes`: what had been acknowledged and released when power failed.
fn check(found: &Found, notes: &BTreeSet<u64>, first_unused_id: u64) {
    let mut all = ids(&found.mail);
    all.extend(ids(&found.events));
    for (&id, bytes) in &all {
        assert!(id & !EVENT < first_unused_id, "never appended: {id}");
        assert_eq!(
            *bytes,
            payload(id, bytes.len()),
            "other bytes than appended"
        );
    }
    for &id in notes.iter().filter(|id| **id < RELEASED) {
        let gone = notes.contains(&(id | RELEASED));
        assert!(gone || all.contains_key(&id), "acknowledged and lost: {id}");
    }
    let acknowledged: Vec<_> = found.damages.iter().filter(|d| d.acknowledged).collect();
    assert!(acknowledged.is_empty(), "{acknowledged:?}");
}

/// Recovers for good, then looks again.
fn check_again(disk: &MemoryDisk, before: &Found) {
    let (spool, found) = open(disk);
    assert_eq!(&found, before, "opening sees what scanning saw");
    drop(spool);
    let after = scan(disk);
    assert_eq!((&after.mail, &after.events), (&before.mail, &before.events));
    assert_eq!(after.damages, vec![], "told once, and then void");
}

fn run(recording: &Recording, cut: usize, choice: Choice, deep: bool, first_unused_id: u64) {
    let context = format!("cut {cut} of {}, {choice:?}", recording.operations().len());
    let result = std::panic::catch_unwind(|| {
        let image = recording.image(cut, choice);
        let notes = recording.notes(cut).into_iter().collect();
        let found = scan(&image);
        check(&found, &notes, first_unused_id);
        if deep {
            assert_eq!(scan(&image), found, "scanning changed something");
            check_again(&image, &found);
        }
    });
    if let Err(panic) = result {
        eprintln!("violated at {context}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_cut_of_a_short_history_loses_or_invents_anything() {
    let seed = 20_260;
    println!("seed {seed}");
    let recording = history(MemoryDisk::new(), 1, 200, seed);
    let rolls = recording.operations().iter();
    let rolls = rolls.filter(|op| matches!(op, Operation::Rename { .. }));
    assert!(rolls.count() > 6, "the history rolls and recycles");
    for cut in 0..=recording.operations().len() {
        let mut choices = vec![Choice::Nothing, Choice::Everything];
        choices.extend((0..6).map(|i| Choice::Random(seed + 1000 * cut as u64 + i)));
        for (index, choice) in choices.into_iter().enumerate() {
            run(&recording, cut, choice, index % 3 == 0, 1 << 20);
        }
    }
}

#[test]
fn ten_thousand_images_of_power_cuts_keep_every_promise() {
    let seed = 77_001;
    println!("seed {seed}");
    let histories: Vec<Recording> = (0..8)
        .map(|index| history(MemoryDisk::new(), 1, 150, seed + index))
        .collect();
    let mut rng = fastrand::Rng::with_seed(seed);
    for number in 0..10_000 {
        let recording = &histories[rng.usize(..histories.len())];
        let cut = rng.usize(..=recording.operations().len());
        let choice = Choice::Random(rng.u64(..));
        run(recording, cut, choice, number % 20 == 0, 1 << 20);
    }
}

/// Power fails again and again: in the recovery of the last cut, or soon after it.
#[test]
fn cuts_during_and_after_recovery_lose_nothing_either() {
    let seed = 4_711;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..150 {
        let mut disk = MemoryDisk::new();
        let mut notes = BTreeSet::new();
        let mut first_id = 1;
        for life in 0..4 {
            let recording = history(disk.clone(), first_id, 20 + rng.usize(..60), rng.u64(..));
            first_id += 10_000;
            // What the disk held at the start of a life was durable: no cut before that.
            let started = started(&recording, &disk);
            let cut = rng.usize(started..=recording.operations().len());
            notes.extend(recording.notes(cut));
            disk = recording.image(cut, Choice::Random(rng.u64(..)));
            let found = scan(&disk);
            let result = std::panic::catch_unwind(|| check(&found, &notes, first_id));
            if let Err(panic) = result {
                eprintln!("violated in round {round}, life {life}, cut {cut}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// How many operations describe the disk as it was handed over.
fn started(recording: &Recording, disk: &MemoryDisk) -> usize {
    let known = disk.files().len();
    let operations = recording.operations();
    assert!(operations.len() >= 5 * known);
    5 * known
}
