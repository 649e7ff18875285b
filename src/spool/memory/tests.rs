//! Rings, images and maps.

use super::*;

fn image(ring: &Arc<Ring>, base: u64) -> Image {
    Image::new(ring, base, 3 * PAGE_OFFSET, 64, 2 * PAGE_OFFSET)
}

fn ring() -> Arc<Ring> {
    Arc::new(Ring::new(2 * PAGE_OFFSET, 64).unwrap())
}

fn take(image: &Image, len: usize) -> Slot<'_> {
    match image.take(len) {
        Taken::Slot(slot) => slot,
        _ => panic!("no slot"),
    }
}

#[test]
fn a_slot_is_handed_out_once_and_the_limit_is_crossed_once() {
    let ring = Arc::new(Ring::new(PAGE_OFFSET, 64).unwrap());
    let image = Image::new(&ring, 0, 1024, 64, 512);
    let a = take(&image, 64);
    assert_eq!((a.start(), a.len()), (64, 64));
    let Taken::Crossed(Some(rest)) = image.take(400) else {
        panic!("not crossed")
    };
    assert_eq!((rest.start(), rest.len()), (128, 384));
    assert!(matches!(image.take(8), Taken::Sealed));
    assert!(image.take_to(|t| t + 8).is_none());
    assert_eq!(image.take_last().start(), 512);
}

#[test]
fn bytes_are_shown_in_order_of_publication_only() {
    let image = image(&ring(), 0);
    let (mut a, mut b) = (take(&image, 16), take(&image, 24));
    b.fill(|bytes| bytes.fill(2));
    b.publish(24);
    assert_eq!(image.published_up_to(104), 64);
    a.fill(|bytes| bytes.fill(1));
    a.publish(13);
    assert_eq!(image.published_up_to(104), 104);
    image.show(64..104, |bytes| {
        assert_eq!(bytes[..4], 13_u32.to_le_bytes());
        assert_eq!((bytes[15], bytes[39]), (1, 2));
    });
}

#[test]
fn memory_is_used_again_in_the_next_lap_and_slots_across_its_end_are_whole() {
    let ring = Arc::new(Ring::new(PAGE_OFFSET, 72).unwrap());
    let image = image(&ring, 8);
    let mut at = 64;
    for lap in 0..15_u8 {
        let mut slot = take(&image, 520);
        assert_eq!(slot.start(), at);
        slot.fill(|bytes| bytes.fill(lap));
        assert_eq!(
            image.published_up_to(at + 520),
            at,
            "a word of an earlier lap"
        );
        slot.publish(520);
        assert_eq!(image.published_up_to(at + 520), at + 520);
        image.show(at..at + 520, |bytes| {
            assert_eq!(bytes[..4], 520_u32.to_le_bytes());
            assert!(bytes[4..].iter().all(|byte| *byte == lap));
        });
        image.clear(at..at + 520);
        at += 520;
    }
}

#[test]
fn memory_that_was_not_cleared_is_never_handed_out() {
    let ring = ring();
    let image = image(&ring, 0);
    take(&image, PAGE_OFFSET as usize).publish(PAGE_OFFSET as u32);
    let next = self::image(&ring, PAGE_OFFSET);
    take(&next, PAGE_OFFSET as usize).publish(PAGE_OFFSET as u32);
    let overrun = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        next.take(8);
    }));
    assert!(overrun.is_err());
}

/// Runs itself in a child process, which cuts a file that it has mapped.
#[test]
fn a_medium_that_fails_under_a_map_stops_the_process_and_names_the_segment() {
    const NAME: &str = "mail/00000000000000aa";
    if std::env::var_os("POSTHASTE_TEST_SIGBUS").is_some() {
        install_sigbus_handler();
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let map = map(&file, NAME).unwrap();
        file.set_len(0).unwrap();
        std::hint::black_box(map.bytes[4096]);
        std::process::exit(0);
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("spool::memory::tests::a_medium_that_fails_under_a_map_stops_the_process_and_names_the_segment")
        .env("POSTHASTE_TEST_SIGBUS", "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(74), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stderr).contains(NAME));
}
