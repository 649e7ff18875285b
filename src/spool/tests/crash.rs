//! Power cuts: lives are recorded on a disk that forgets nothing, then cut at every operation, with everything unsynced
//! lost, kept, or decided sector by sector. What must hold of every image is [`lives::look`].
//!
//! `POSTHASTE_POWERCUT_SEED` (the first), `POSTHASTE_POWERCUT_SEEDS` (how many) and `POSTHASTE_POWERCUT_IMAGES` (of each)
//! choose a larger search; `scripts/powercut` runs one over all processors.

use std::collections::BTreeSet;

use super::super::disk::recording::{Choice, Operation};
use super::lives::{self, Life};
use super::world::Note;
use super::*;

fn notes(ids: &[u64]) -> BTreeSet<Note> {
    ids.iter().map(|id| Note::of(*id)).collect()
}

#[test]
fn no_cut_of_a_short_history_loses_or_invents_anything() {
    let seed = 20_260;
    println!("seed {seed}");
    let mut life = Life::start(MemoryDisk::new(), 0, seed);
    life.live(200);
    let (recording, end) = life.end();
    let rolls = recording.operations().iter();
    let rolls = rolls.filter(|op| matches!(op, Operation::Rename { .. }));
    assert!(rolls.count() > 6, "the history rolls and recycles");
    let count = std::cell::Cell::new(0);
    lives::every_image(&recording, 6, seed, |image, ids| {
        count.set(count.get() + 1);
        lives::look(image, &notes(ids), end, count.get() % 3 == 0);
    });
}

/// One seed: a chain of lives, each on an image of the one before, and `images` of them looked at.
fn search(seed: u64, images: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut disk = MemoryDisk::new();
    let (mut known, mut first) = (BTreeSet::new(), 0);
    let chain = rng.usize(1..5);
    for place in 1..=chain {
        let mut life = Life::start(disk, first, rng.u64(..));
        life.live(rng.usize(30..250));
        let (recording, end) = life.end();
        let mut count = 0;
        lives::random_images(&recording, images / chain, rng.u64(..), |image, ids| {
            count += 1;
            let all = notes(ids).union(&known).copied().collect();
            lives::look(image, &all, end, count % 50 == 0);
        });
        let cut = rng.usize(recording.started()..=recording.operations().len());
        known.extend(notes(&recording.notes(cut)));
        disk = recording.image(cut, Choice::Random(rng.u64(..)));
        first = end;
        if place < chain {
            lives::look(&disk, &known, first, false);
        }
    }
}

fn number_from(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[test]
fn ten_thousand_images_of_power_cuts_keep_every_promise() {
    let first = number_from("POSTHASTE_POWERCUT_SEED").unwrap_or(77_001);
    let seeds = number_from("POSTHASTE_POWERCUT_SEEDS").unwrap_or(25);
    let images = number_from("POSTHASTE_POWERCUT_IMAGES").unwrap_or(400);
    for seed in first..first + seeds {
        let searched = std::panic::catch_unwind(|| search(seed, images as usize));
        if let Err(panic) = searched {
            eprintln!("POSTHASTE_POWERCUT_SEED={seed} POSTHASTE_POWERCUT_IMAGES={images}");
            std::panic::resume_unwind(panic);
        }
    }
    println!(
        "seeds {first} to {}, {images} images each",
        first + seeds - 1
    );
}

/// Power fails again and again: in the recovery of the last cut, or soon after it.
#[test]
fn cuts_during_and_after_recovery_lose_nothing_either() {
    let seed = 4_711;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..100 {
        let mut disk = MemoryDisk::new();
        let (mut known, mut first) = (BTreeSet::new(), 0);
        for number in 0..5 {
            let mut life = Life::start(disk, first, rng.u64(..));
            life.live(rng.usize(..40));
            let (recording, end) = life.end();
            first = end;
            let cut = rng.usize(recording.started()..=recording.operations().len());
            known.extend(notes(&recording.notes(cut)));
            disk = recording.image(cut, Choice::Random(rng.u64(..)));
            let looked = std::panic::catch_unwind(|| lives::look(&disk, &known, first, false));
            if let Err(panic) = looked {
                eprintln!("violated in round {round}, life {number}, cut {cut}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// The newest segment of the mail log that is in use, and where its last batch begins.
fn last_batch(disk: &MemoryDisk) -> (PathBuf, usize) {
    let files = segment_files(disk, "mail").into_iter().rev();
    let used = files.filter_map(|path| {
        let bytes = disk.files()[&path].clone();
        let header = spool_format::SegmentHeader::decode(&bytes[..4096]).ok()?;
        let tail = spool_format::scan::tail(&bytes, &header);
        (tail.durable_end > 4096).then_some((path, tail.last_batch as usize))
    });
    used.into_iter().next().expect("nothing was written")
}

/// As if a sector had not reached the medium.
fn tear(disk: &MemoryDisk, path: &Path, at: usize) {
    disk.edit(path, |bytes| bytes[at..at + 8].fill(0));
}

/// What recovery says of a torn write is in the first batch of the next segment, which may be torn itself, again and again.
#[test]
fn what_was_in_doubt_stays_in_doubt_until_the_word_on_it_is_durable() {
    let disk = MemoryDisk::new();
    let (spool, _) = open(&disk);
    for number in 0..3 {
        append(&spool.mail, &payload(number, 1_000)).unwrap();
    }
    drop(spool);
    let (path, at) = last_batch(&disk);
    assert!(at > 4096);
    tear(&disk, &path, at);
    for _ in 0..3 {
        let found = lives::scan(&disk).damages;
        assert!(
            !found.is_empty() && found.iter().all(|d| !d.acknowledged),
            "{found:?}"
        );
        drop(open(&disk));
        assert_eq!(lives::scan(&disk).damages, [], "the word on it is durable");
        let (path, at) = last_batch(&disk);
        assert_eq!(at, 4096);
        tear(&disk, &path, at);
    }
    // A later batch proves that the first of its segment, and so all before it, had been synced.
    let (spool, _) = open(&disk);
    append(&spool.mail, &payload(9, 1_000)).unwrap();
    drop(spool);
    let (path, at) = last_batch(&disk);
    assert!(at > 4096);
    tear(&disk, &path, 4096);
    let found = lives::scan(&disk).damages;
    assert!(
        !found.is_empty() && found.iter().all(|d| d.acknowledged),
        "{found:?}"
    );
}
