//! Segments in which acknowledged bytes were found damaged.

use super::*;

fn names(disk: &MemoryDisk, suffix: &str) -> Vec<PathBuf> {
    let files = segment_files(disk, "mail").into_iter();
    files
        .filter(|path| path.extension().is_some_and(|e| e == suffix))
        .collect()
}

/// A spool with a few segments; each record is held once. The first is damaged on the medium.
fn damaged_life(disk: &MemoryDisk) -> (Spool, Vec<u64>, PathBuf) {
    let (spool, _) = open(disk);
    let mut positions = Vec::new();
    for number in 0..12 {
        let bytes = payload(number, 5_000);
        let append = async {
            spool
                .mail
                .append_held(kind::CONTENT, 0, &[&bytes], 1, None)
                .await?
                .await
        };
        positions.push(runtime().block_on(append).unwrap().position());
    }
    let segment = spool.mail.shared.segment(positions[0]).unwrap();
    let offset = (positions[0] - segment.first_position()) as usize;
    let path = segment.path.clone();
    disk.edit(&path, |bytes| bytes[offset + 40] ^= 1);
    (spool, positions, path)
}

#[test]
fn a_segment_that_was_read_damaged_is_kept_when_it_is_dead_and_the_others_are_used_again() {
    let disk = MemoryDisk::new();
    let (spool, positions, path) = damaged_life(&disk);
    spool.allow_reclaim();
    assert!(spool.mail.read(positions[0]).is_err());
    let kept = disk.files()[&path].clone();
    for &position in &positions {
        spool.mail.release(position, 1);
    }
    until("all dead segments are out of the log", || {
        spool.mail.stat().segments <= 2
    });
    until("the damaged one is put aside", || {
        !names(&disk, "bad").is_empty()
    });
    let bad = path.with_extension("bad");
    assert_eq!(names(&disk, "bad"), std::slice::from_ref(&bad));
    // Rolling takes the others' files.
    for number in 0..12 {
        append(&spool.mail, &payload(number, 5_000)).unwrap();
    }
    spool.close().unwrap();
    drop(spool);
    let (_spool, found) = open(&disk);
    assert_eq!(found.damages, [], "it is gone on purpose");
    assert_eq!(disk.files()[&bad], kept);
}

#[test]
fn a_segment_that_recovery_found_damaged_is_kept_too() {
    let disk = MemoryDisk::new();
    let (spool, positions, path) = damaged_life(&disk);
    drop(spool);
    let (spool, found) = open(&disk);
    assert_eq!(found.damages.len(), 1);
    assert!(!found.mail.contains_key(&positions[0]));
    spool.allow_reclaim();
    let bad = path.with_extension("bad");
    until("the damaged one is put aside", || {
        names(&disk, "bad") == std::slice::from_ref(&bad)
    });
    drop(spool);
    // A power cut may undo the last step.
    disk.rename(&bad, &path).unwrap();
    let (spool, found) = open(&disk);
    assert_eq!(found.damages, []);
    spool.allow_reclaim();
    until("it is put aside again", || {
        names(&disk, "bad") == std::slice::from_ref(&bad)
    });
}
