//! What is kept of segments that are gone, and for how long.

mod events;
mod faults;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::archive::open_segment_bytes;
use super::super::disk::Access;
use super::super::disk::memory::Fault;
use super::super::disk::recording::{Recording, RecordingDisk};
use super::lives::{Life, every_image, random_images};
use super::world::{self, Note};
use super::*;
use spool_format::scan::{self, Item};
use spool_format::{
    Content, ContentPart, ContentRecord, EventRecord, Fields, List, MessageRecord, StreamKind,
    archive,
};

const DAY: u64 = 86_400_000;
/// Long after the node's clock.
const LATER: u64 = 4_000_000_000_000;

/// Days by stream; changed by tests.
#[derive(Debug)]
struct Days {
    outbound: AtomicU64,
    other: u64,
}

impl Days {
    fn new(outbound: u64, other: u64) -> Arc<Self> {
        let outbound = AtomicU64::new(outbound);
        Arc::new(Self { outbound, other })
    }
}

impl Retention for Days {
    fn of(&self, _server_id: u32, stream_id: &str) -> Duration {
        let days = match stream_id {
            "outbound" => self.outbound.load(Ordering::Relaxed),
            _ => self.other,
        };
        Duration::from_millis(days * DAY)
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.other.max(self.outbound.load(Ordering::Relaxed)) * DAY)
    }

    fn version(&self) -> u64 {
        self.outbound.load(Ordering::Relaxed)
    }
}

fn keeping(days: &Arc<Days>) -> Options {
    let history = History {
        content: Some(Arc::clone(days) as Arc<dyn Retention>),
        ..History::default()
    };
    Options {
        history,
        ..options(Path::new(DIR))
    }
}

fn message(id: u8, stream_id: &str, accepted_unix_ms: u64, content: Content<'_>) -> Vec<u8> {
    let mut message_id = [id; 16];
    message_id[..6].copy_from_slice(&accepted_unix_ms.to_be_bytes()[2..]);
    let record = MessageRecord {
        id: message_id,
        accepted_unix_ms,
        server_id: 1,
        server_name: "app",
        stream_id,
        stream_kind: StreamKind::Transactional,
        pool: "tx",
        reverse_path: "ann@example.com",
        recipients: List::default(),
        tag: None,
        metadata: List::default(),
        flags: 0,
        header_len: 0,
        fields: Fields::default(),
        content,
    };
    let mut payload = Vec::new();
    record.encode_head(&mut payload).unwrap();
    if let Content::Inline(octets) = content {
        payload.extend_from_slice(octets);
    }
    payload
}

fn inline(id: u8, stream_id: &str, accepted_unix_ms: u64) -> Vec<u8> {
    let content = payload(id.into(), 2500);
    message(id, stream_id, accepted_unix_ms, Content::Inline(&content))
}

fn put(spool: &Spool, kind: u8, bytes: &[u8]) -> u64 {
    runtime().block_on(async {
        let parts = [bytes];
        let append = spool.mail.append_held(kind, 0, &parts, 1, None);
        append.await.unwrap().await.unwrap().position()
    })
}

/// Rolls until the segment of `position` is sealed, and lets go of everything that was put.
fn bury(spool: &Spool, positions: &[u64]) {
    let from = spool.mail.stat().durable;
    while spool.mail.stat().durable < from + SEGMENT {
        let filler = message(250, "none", 1, Content::Inline(&[7; 3000]));
        let position = put(spool, kind::MESSAGE, &filler);
        spool.mail.release(position, 1);
    }
    for position in positions {
        spool.mail.release(*position, 1);
    }
}

fn wait_for_reclaim(spool: &Spool, count: u64) {
    until("dead segments are taken back", || {
        spool.mail.stat().reclaimed >= count
    });
}

fn archives(disk: &MemoryDisk, log: &str) -> Vec<PathBuf> {
    let files = segment_files(disk, log).into_iter();
    files
        .filter(|path| path.extension().is_some_and(|e| e == "arc"))
        .collect()
}

#[test]
fn what_a_dead_segment_held_is_read_from_its_archive_now_and_after_a_restart() {
    let disk = MemoryDisk::new();
    let days = Days::new(45, 45);
    let (spool, _) = open_on(disk.clone(), keeping(&days)).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let written: BTreeMap<u64, Vec<u8>> = (0..12)
        .map(|id| {
            let bytes = inline(id, "outbound", now);
            (put(&spool, kind::MESSAGE, &bytes), bytes)
        })
        .collect();
    let positions: Vec<u64> = written.keys().copied().collect();
    bury(&spool, &positions);
    wait_for_reclaim(&spool, 3);
    let check = |spool: &Spool| {
        for (position, bytes) in &written {
            assert_eq!(spool.mail.read(*position).unwrap().payload, bytes);
        }
    };
    check(&spool);
    let stat = spool.mail.stat();
    assert!(stat.archives >= 3 && stat.archive_bytes > 0, "{stat:?}");
    assert!(stat.start > positions[5], "the segments are gone: {stat:?}");
    assert!(
        spool.mail.read(positions[0] + 8).is_err(),
        "inside a record"
    );
    drop(spool);
    let (spool, found) = open_on(disk.clone(), keeping(&days)).unwrap();
    assert_eq!(found.damages, vec![]);
    assert!(
        !found.mail.contains_key(&positions[0]),
        "no part of the log"
    );
    check(&spool);
}

#[test]
fn content_without_retention_goes_with_its_segment() {
    let disk = MemoryDisk::new();
    let (spool, _) = open_on(disk.clone(), keeping(&Days::new(0, 0))).unwrap();
    spool.allow_reclaim();
    let position = put(&spool, kind::MESSAGE, &inline(1, "outbound", 1));
    bury(&spool, &[position]);
    wait_for_reclaim(&spool, 1);
    assert!(matches!(
        spool.mail.read(position),
        Err(ReadError::NotRetained(_))
    ));
    assert_eq!(archives(&disk, "mail"), Vec::<PathBuf>::new());
}

/// It once held up all that died after it.
#[test]
fn a_segment_that_the_medium_does_not_give_stays_and_the_others_go() {
    let disk = MemoryDisk::new();
    let (spool, _) = open_on(disk.clone(), keeping(&Days::new(45, 45))).unwrap();
    let now = Clock::start().unix_ms();
    let mut put_and_roll = |id| {
        let position = put(&spool, kind::MESSAGE, &inline(id, "outbound", now));
        bury(&spool, &[]);
        position
    };
    let [unread, partly, good] = [1, 2, 3].map(&mut put_and_roll);
    let path_of = |position| spool.mail.shared.segment(position).unwrap().path.clone();
    let (unread_path, partly_path) = (path_of(unread), path_of(partly));
    disk.spoil(&unread_path, 4096..SEGMENT);
    // The first page of its records; the message is not in it.
    let offset = partly % SEGMENT / 4096 * 4096;
    let page = if offset > 4096 { 4096 } else { 3 * 4096 };
    disk.spoil(&partly_path, page..page + 4096);
    spool.allow_reclaim();
    for position in [unread, partly, good] {
        spool.mail.release(position, 1);
    }
    until("the others are taken back", || {
        !spool.mail.is_retained(partly) && !spool.mail.is_retained(good)
    });
    assert!(spool.mail.is_retained(unread));
    let files = segment_files(&disk, "mail");
    assert!(files.contains(&unread_path), "{files:?}");
    assert!(
        files.contains(&partly_path.with_extension("bad")),
        "{files:?}"
    );
}

#[test]
fn streams_that_share_a_segment_keep_their_own_times() {
    let disk = MemoryDisk::new();
    let days = Days::new(0, 400);
    let (spool, _) = open_on(disk.clone(), keeping(&days)).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let short = put(&spool, kind::MESSAGE, &inline(1, "outbound", now));
    let long_bytes = inline(2, "broadcast", now);
    let long = put(&spool, kind::MESSAGE, &long_bytes);
    bury(&spool, &[short, long]);
    until("the segment is archived", || {
        spool.mail.read(short).unwrap().kind == kind::ERASED
    });
    assert_eq!(spool.mail.read(long).unwrap().payload, long_bytes);
    let erased = spool.mail.read(short).unwrap();
    assert_eq!(erased.kind, kind::ERASED);
    let text = b"ann@example.com";
    assert!(!erased.payload.windows(text.len()).any(|w| w == text));
}

/// A large message: its stream is known by a record that comes a segment later.
#[test]
fn content_records_follow_the_stream_of_their_message() {
    let disk = MemoryDisk::new();
    let (spool, _) = open_on(disk.clone(), keeping(&Days::new(0, 400))).unwrap();
    spool.allow_reclaim();
    // A while ago: this clock and the node's need not agree to the millisecond.
    let now = Clock::start().unix_ms() - 1_000;
    let mut parts = Vec::new();
    let streams = ["outbound", "broadcast"];
    for (id, _) in (1u8..).zip(streams) {
        let mut message_id = [id; 16];
        message_id[..6].copy_from_slice(&now.to_be_bytes()[2..]);
        let bytes = [&ContentRecord::head(message_id, 0)[..], &[id; 900]].concat();
        parts.push(put(&spool, kind::CONTENT, &bytes));
    }
    let filler = put(&spool, kind::MESSAGE, &inline(9, "broadcast", now));
    bury(&spool, &[filler]);
    for ((id, stream), &position) in (1u8..).zip(streams).zip(&parts) {
        let part = [ContentPart { position, len: 900 }];
        let content = Content::Records(List::new(&part));
        let bytes = message(id, stream, now, content);
        let own = put(&spool, kind::MESSAGE, &bytes);
        assert!(own / SEGMENT > position / SEGMENT);
        spool.mail.release(own, 1);
    }
    assert_eq!(spool.mail.read(parts[0]).unwrap().kind, kind::CONTENT);
    parts.iter().for_each(|p| spool.mail.release(*p, 1));
    until("the segment is archived", || {
        spool.mail.read(parts[0]).unwrap().kind == kind::ERASED
    });
    assert_eq!(spool.mail.read(parts[1]).unwrap().kind, kind::CONTENT);
}

#[test]
fn what_is_over_is_taken_out_of_its_archive_and_at_last_the_archive_goes() {
    let disk = MemoryDisk::new();
    let days = Days::new(10, 45);
    let (spool, _) = open_on(disk.clone(), keeping(&days)).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let short = put(&spool, kind::MESSAGE, &inline(1, "outbound", now));
    let long = put(&spool, kind::MESSAGE, &inline(2, "broadcast", now));
    bury(&spool, &[short, long]);
    wait_for_reclaim(&spool, 1);
    let kind_of = |position| spool.mail.read(position).map(|record| record.kind);
    // Within a day of its time.
    for (after, short_kind) in [
        (9 * DAY, kind::MESSAGE),
        (10 * DAY, kind::MESSAGE),
        (11 * DAY, kind::ERASED),
        (44 * DAY, kind::ERASED),
    ] {
        spool.keeper.sweep(now + after);
        assert_eq!(kind_of(short).unwrap(), short_kind, "after {after} ms");
        assert_eq!(kind_of(long).unwrap(), kind::MESSAGE);
    }
    spool.keeper.sweep(now + 45 * DAY);
    assert!(matches!(kind_of(long), Err(ReadError::NotRetained(_))));
    let first = archive::file_name_of(1, 0);
    assert!(!archives(&disk, "mail").iter().any(|p| p.ends_with(&first)));
}

#[test]
fn a_retention_that_is_made_shorter_counts_at_once() {
    let disk = MemoryDisk::new();
    let days = Days::new(45, 45);
    let (spool, _) = open_on(disk.clone(), keeping(&days)).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let position = put(&spool, kind::MESSAGE, &inline(1, "outbound", now - 2 * DAY));
    bury(&spool, &[position]);
    wait_for_reclaim(&spool, 1);
    assert_eq!(spool.mail.read(position).unwrap().kind, kind::MESSAGE);
    days.outbound.store(1, Ordering::Relaxed);
    spool.keeper.bell.ring();
    until("it is swept", || {
        let read = spool.mail.read(position);
        read.is_err() || read.is_ok_and(|record| record.kind == kind::ERASED)
    });
}

/// Once a start looked through the archives while the account store, which has the streams' own times, was still being opened.
#[test]
fn nothing_is_over_before_a_start_knows_the_times_of_the_streams() {
    /// Everything is over; counts how often it was asked for its version.
    #[derive(Debug, Default)]
    struct Nothing(AtomicU64);

    impl Retention for Nothing {
        fn of(&self, _: u32, _: &str) -> Duration {
            Duration::ZERO
        }

        fn longest(&self) -> Duration {
            Duration::ZERO
        }

        fn version(&self) -> u64 {
            self.0.fetch_add(1, Ordering::Relaxed);
            1
        }
    }

    let disk = MemoryDisk::new();
    let (spool, _) = open_on(disk.clone(), keeping(&Days::new(45, 45))).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let position = put(&spool, kind::MESSAGE, &inline(1, "outbound", now));
    bury(&spool, &[position]);
    wait_for_reclaim(&spool, 1);
    drop(spool);
    let kept = archives(&disk, "mail");
    assert!(!kept.is_empty());
    let nothing = Arc::new(Nothing::default());
    let history = History {
        content: Some(Arc::clone(&nothing) as Arc<dyn Retention>),
        ..History::default()
    };
    let options = Options {
        history,
        ..options(Path::new(DIR))
    };
    let (spool, _) = open_on(disk.clone(), options).unwrap();
    until("two rounds", || nothing.0.load(Ordering::Relaxed) > 1);
    assert_eq!(archives(&disk, "mail"), kept);
    spool.allow_reclaim();
    until("all is over", || archives(&disk, "mail").is_empty());
}

#[test]
fn what_was_erased_stays_erased_when_a_power_cut_brings_its_segment_back() {
    let disk = MemoryDisk::new();
    let days = Days::new(45, 45);
    let (spool, _) = open_on(disk.clone(), keeping(&days)).unwrap();
    let now = Clock::start().unix_ms();
    let kept = put(&spool, kind::MESSAGE, &inline(1, "outbound", now));
    let erased = put(&spool, kind::MESSAGE, &inline(2, "outbound", now));
    let path = Path::new(DIR).join("spool/mail/0000000000000001.seg");
    bury(&spool, &[]);
    let segment = disk.files()[&path].clone();
    spool.allow_reclaim();
    spool.mail.release(kept, 1);
    spool.mail.release(erased, 1);
    wait_for_reclaim(&spool, 1);
    let hit = spool.erase(LogKind::Mail, &[erased, 1 << 40]).unwrap();
    assert_eq!((hit.erased, hit.gone), (1, 1));
    let again = spool.erase(LogKind::Mail, &[erased]).unwrap();
    assert_eq!((again.erased, again.already), (0, 1), "once is enough");
    let check = |spool: &Spool| {
        assert_eq!(spool.mail.read(kept).unwrap().kind, kind::MESSAGE);
        assert_eq!(spool.mail.read(erased).unwrap().kind, kind::ERASED);
    };
    check(&spool);
    drop(spool);
    disk.add_file(&path, segment);
    let (spool, found) = open_on(disk.clone(), keeping(&days)).unwrap();
    assert!(found.mail.contains_key(&erased), "the segment is back");
    spool.allow_reclaim();
    wait_for_reclaim(&spool, 1);
    check(&spool);
}

#[test]
fn a_damaged_frame_costs_its_records_and_the_archive_stays_readable() {
    let disk = MemoryDisk::new();
    let days = Days::new(45, 45);
    let big = Options {
        mail_segment: 200 * 4096,
        ..keeping(&days)
    };
    let (spool, _) = open_on(disk.clone(), big).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let mut positions = Vec::new();
    while spool.mail.stat().segments < 2 {
        let content = payload(positions.len() as u64, 9000);
        let bytes = message(1, "outbound", now, Content::Inline(&content));
        positions.push(put(&spool, kind::MESSAGE, &bytes));
    }
    positions.iter().for_each(|p| spool.mail.release(*p, 1));
    wait_for_reclaim(&spool, 1);
    let path = archives(&disk, "mail")[0].clone();
    let bytes = disk.files()[&path].clone();
    let parsed = archive::Archive::parse(&bytes).unwrap();
    let hit = parsed.tables.frames[1].offset as usize + 9;
    drop(spool);
    disk.edit(&path, |bytes| bytes[hit] ^= 1);
    let (spool, _) = open_on(disk.clone(), keeping(&days)).unwrap();
    let in_frame = |position: u64| (position + 9200) / (256 << 10) >= 1 && position < 512 << 10;
    let (mut lost, mut read) = (0, 0);
    for &position in positions.iter().filter(|p| **p < 200 * 4096) {
        match spool.mail.read(position) {
            Ok(record) => {
                assert!(!in_frame(position) && record.kind == kind::MESSAGE);
                read += 1;
            }
            Err(ReadError::Damaged { resume, .. }) => {
                assert!(in_frame(position) && resume > position);
                lost += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(lost > 20 && read > 20, "{lost} lost, {read} read");
    let (header, raw) = open_segment_bytes(&disk, &path).unwrap();
    let found = scan::sealed(&raw, &header, raw.len() as u64);
    let damages = found.filter(|item| matches!(item, Item::Damage(_)));
    assert!(damages.count() > 0);
}

fn archived_ok(disk: &MemoryDisk) {
    for path in archives(disk, "mail") {
        open_segment_bytes(disk, &path).unwrap();
    }
}

#[test]
fn when_space_is_short_the_oldest_archives_go_and_new_mail_is_taken() {
    let disk = MemoryDisk::new();
    let days = Days::new(400, 400);
    let options = Options {
        warn_below: 1 << 40,
        refuse_below: 1 << 40,
        ..keeping(&days)
    };
    // A fifth of it, and a tenth.
    disk.set_capacity(100 * SEGMENT);
    let (spool, _) = open_on(disk.clone(), options).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    let mut positions = Vec::new();
    for id in 0..40 {
        let content = payload(id, 9_000);
        let bytes = message(1, "outbound", now, Content::Inline(&content));
        let position = put(&spool, kind::MESSAGE, &bytes);
        spool.mail.release(position, 1);
        positions.push(position);
    }
    until("archives are all there is", || {
        let files = segment_files(&disk, "mail");
        let (archives, others) = (archives(&disk, "mail").len(), files.len());
        archives == 40 && others <= archives + 4
    });
    assert!(!spool.pressure().short);
    let free = disk.space(Path::new(DIR)).unwrap().free;
    let other = Path::new(DIR).join("other");
    disk.add_file(&other, vec![0; (free - 18 * SEGMENT) as usize]);
    until("the oldest archives go", || {
        spool.mail.read(positions[0]).is_err() && !spool.pressure().short
    });
    assert!(!spool.full());
    assert!(
        spool.mail.read(positions[30]).is_ok(),
        "not more than it takes"
    );
    let (more, mut len) = (Path::new(DIR).join("more"), 0);
    until("then, without archives, new mail is refused", || {
        let free = disk.space(Path::new(DIR)).unwrap().free;
        len += free.saturating_sub(5 * SEGMENT);
        disk.add_file(&more, vec![0; len as usize]);
        spool.full() && spool.mail.stat().archives == 0
    });
    disk.unlink(&other).unwrap();
    until("space is back", || !spool.full() && !spool.pressure().short);
}

#[test]
fn archives_are_bounded_where_a_bound_is_set() {
    let disk = MemoryDisk::new();
    let mut options = keeping(&Days::new(400, 400));
    options.history.archive_max = Some(40_000);
    let (spool, _) = open_on(disk.clone(), options).unwrap();
    spool.allow_reclaim();
    let now = Clock::start().unix_ms();
    for id in 0..30 {
        let content = payload(id, 9_000);
        let bytes = message(1, "outbound", now, Content::Inline(&content));
        let position = put(&spool, kind::MESSAGE, &bytes);
        spool.mail.release(position, 1);
    }
    until("segments are taken back", || {
        let stat = spool.mail.stat();
        let is_bounded = stat.archives > 0 && stat.archive_bytes <= 40_000;
        stat.reclaimed >= 10 && is_bounded && stat.segments == 1
    });
    let open = disk.open(&archives(&disk, "mail")[0], Access::Read);
    assert!(open.is_ok(), "the list is what is there");
}

fn keeping_all(days: &Arc<Days>) -> Options {
    let mut options = keeping(days);
    options.history.events = Some(Duration::from_millis(36_500 * DAY));
    options
}
