//! Compaction over a spool in memory, with a scheduler that nobody else owns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use spool_format::{ContentPart, ContentRecord, List, Recipient, StreamKind};
use tokio::task::JoinHandle;

use super::*;
use crate::clock::UnixMs;
use crate::config::{Config, PoolId, SourceId};
use crate::queue::{
    Disposition, FlowName, Limits, NewRecipient, PoolConfig, RouteAnswer, SessionState, Work,
};
use crate::spool::disk::Disk;
use crate::spool::disk::memory::MemoryDisk;
use crate::spool::disk::recording::{Choice, RecordingDisk};
use crate::spool::{Damage, Frame, LogKind, Options, Replay};

const SEGMENT: u64 = 16 * 4096;
const DIR: &str = "/data";

/// The newest copy of each message, as recovery takes it.
#[derive(Default)]
struct Copies {
    by_id: BTreeMap<u8, (u64, Vec<u8>)>,
    damages: Vec<Damage>,
}

impl Replay for Copies {
    fn record(&mut self, _: LogKind, position: u64, frame: &Frame<'_>) {
        if frame.kind == kind::MESSAGE {
            let id = MessageRecord::decode(frame.payload).unwrap().id[0];
            self.by_id.insert(id, (position, frame.payload.to_vec()));
        }
    }

    fn damage(&mut self, _: LogKind, damage: &Damage) {
        self.damages.push(damage.clone());
    }
}

fn open(disk: impl Disk) -> (Spool, Copies) {
    let options = Options {
        refuse_below: 0,
        reserve: 0,
        mail_segment: SEGMENT,
        event_segment: SEGMENT,
        ..Options::new(Path::new(DIR))
    };
    let mut copies = Copies::default();
    let spool = Spool::open(Arc::new(disk), options, Clock::start(), &mut copies).unwrap();
    (spool, copies)
}

/// Octets that say which part of which message they are.
fn part(id: u8, number: u32) -> Vec<u8> {
    vec![id ^ number as u8; 9_000]
}

struct Bench {
    spool: Arc<Spool>,
    scheduler: Scheduler,
    now: UnixMs,
}

impl Bench {
    fn new(disk: impl Disk) -> Self {
        let (spool, _) = open(disk);
        spool.allow_reclaim();
        let retry = *Config::development(None)
            .retry
            .of(StreamKind::Transactional);
        let pool = PoolConfig {
            kind: StreamKind::Transactional,
            sources: vec![(SourceId(0), 1)],
            retry,
            name: "tx".into(),
            source_names: vec!["tx1".into()],
        };
        Self {
            spool: Arc::new(spool),
            scheduler: Scheduler::new(vec![pool], Limits::default(), 1),
            now: Clock::start().unix_ms(),
        }
    }

    /// A message of `recipients` in the spool, with so many content records or inline.
    async fn message(&self, id: u8, recipients: u16, parts: u32) -> u64 {
        let log = &self.spool.mail;
        let holds = u32::from(recipients);
        let mut table = Vec::new();
        for number in 0..parts {
            let octets = part(id, number);
            let head = ContentRecord::head([id; 16], number);
            let record: [&[u8]; 2] = [&head, &octets];
            let ticket = log
                .append_held(kind::CONTENT, 0, &record, holds, None)
                .await;
            table.push(ContentPart {
                position: ticket.unwrap().position(),
                len: octets.len() as u32,
            });
        }
        let recipient = Recipient {
            forward_path: "ada@example.com",
            domain: "example.com",
            fields: List::new(&[]),
        };
        let recipients = vec![recipient; recipients.into()];
        let content = part(id, 0);
        let content = match parts {
            0 => Content::Inline(&content[..2_000]),
            _ => Content::Records(List::new(&table)),
        };
        let record = MessageRecord {
            id: [id; 16],
            accepted_unix_ms: self.now,
            server_id: 1,
            server_name: "shop",
            stream_id: "outbound",
            stream_kind: StreamKind::Transactional,
            pool: "pool",
            reverse_path: "s@example.net",
            recipients: List::new(&recipients),
            tag: None,
            metadata: List::new(&[]),
            flags: 0,
            header_len: 0,
            fields: List::new(&[]),
            content,
        };
        let mut payload = Vec::new();
        record.encode_head(&mut payload).unwrap();
        if let Content::Inline(octets) = content {
            payload.extend_from_slice(octets);
        }
        let ticket = log
            .append_held(kind::MESSAGE, 0, &[&payload], holds, None)
            .await;
        ticket.unwrap().await.unwrap().position()
    }

    fn insert(&mut self, position: u64, recipients: u16) {
        for number in 0..recipients {
            let new = NewRecipient {
                position,
                number,
                pool: PoolId(0),
                domain: "example.com",
                flow: FlowName {
                    server: 1,
                    server_name: "shop",
                    stream: "outbound",
                },
                message: position,
                tag: None,
                accepted_at: self.now,
                life: Default::default(),
                attempts: 1,
                next_attempt: self.now,
            };
            self.scheduler.insert(self.now, new);
        }
    }

    /// One live message in ten; the others are dead already.
    async fn mostly_dead(&mut self, ids: Range<u8>) -> BTreeSet<u8> {
        let mut live = BTreeSet::new();
        for id in ids {
            let recipients = 1 + u16::from(id % 3);
            let position = self.message(id, recipients, 0).await;
            if id % 10 == 3 {
                self.insert(position, recipients);
                live.insert(id);
            } else {
                self.spool.mail.release(position, recipients.into());
            }
        }
        live
    }

    fn compactor(self, places: &Arc<Places>) -> (Compactor, JoinHandle<Scheduler>) {
        let (orders, mut asked) = mpsc::channel::<Order>(4);
        let (mut scheduler, now) = (self.scheduler, self.now);
        let owner = tokio::spawn(async move {
            while let Some(order) = asked.recv().await {
                order(&mut scheduler, now);
                scheduler.check();
            }
            scheduler
        });
        let mut compactor = Compactor::new(&self.spool, Clock::start(), orders, places);
        compactor.policy = Policy {
            age_min: Duration::ZERO,
            segments_min: 1,
            second_look: Duration::from_millis(1),
            ..Policy::default()
        };
        (compactor, owner)
    }
}

/// What lies at the position, whole: the id, and every octet of it as it was appended.
fn check_message(log: &Log, position: u64) -> u8 {
    let payload = log.read(position).unwrap().payload;
    let record = MessageRecord::decode(&payload).unwrap();
    let id = record.id[0];
    match record.content {
        Content::Inline(octets) => assert_eq!(octets, &part(id, 0)[..2_000]),
        Content::Records(parts) => {
            for (number, entry) in parts.iter().enumerate() {
                let found = log.read(entry.position).unwrap().payload;
                let found = ContentRecord::decode(&found).unwrap();
                assert_eq!((found.message_id, found.number), ([id; 16], number as u32));
                assert_eq!(found.octets, part(id, number as u32));
            }
        }
    }
    id
}

fn live_ids(log: &Log, scheduler: &Scheduler) -> BTreeSet<u8> {
    let messages = scheduler.messages_in(0..u64::MAX);
    messages
        .iter()
        .map(|m| check_message(log, m.position))
        .collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::start();
    let deadline = clock.instant() + Duration::from_secs(20);
    while !holds() {
        assert!(clock.instant() < deadline, "never: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn live_mail_leaves_mostly_dead_segments_and_they_go() {
    let mut bench = Bench::new(MemoryDisk::new());
    let spool = Arc::clone(&bench.spool);
    let expected = bench.mostly_dead(0..200).await;
    let before = spool.mail.stat();
    let live = bench.scheduler.counts().total() as u64;
    assert_eq!(before.live, live);
    assert!(before.segments > 6, "{before:?}");
    let (mut compactor, owner) = bench.compactor(&Arc::default());
    let compacted = compactor.round(false).await.unwrap();
    assert!(compacted.segments > 4, "{compacted:?}");
    assert_eq!(
        compacted.bytes / compacted.messages / 100,
        21,
        "{compacted:?}"
    );
    until("old segments are reclaimed", || {
        spool.mail.stat().segments <= 3
    })
    .await;
    // What had the last of the dead and the first of the copies is sealed now; then nothing is left to do.
    assert!(compactor.round(false).await.unwrap().segments <= 1);
    assert_eq!(compactor.round(false).await.unwrap(), Compacted::default());
    drop(compactor);
    let scheduler = owner.await.unwrap();
    assert_eq!(live_ids(&spool.mail, &scheduler), expected);
    assert_eq!(scheduler.counts().total() as u64, live);
    assert_eq!(spool.mail.stat().live, live, "a hold for each recipient");
}

#[tokio::test]
async fn segments_that_are_young_few_or_full_of_life_are_left_alone() {
    for (age_min, segments_min, live_max_percent) in [(3_600, 1, 25), (0, 100, 25), (0, 1, 1)] {
        let mut bench = Bench::new(MemoryDisk::new());
        bench.mostly_dead(0..100).await;
        let (mut compactor, owner) = bench.compactor(&Arc::default());
        compactor.policy = Policy {
            age_min: Duration::from_secs(age_min),
            segments_min,
            live_max_percent,
            ..compactor.policy
        };
        assert_eq!(compactor.round(false).await.unwrap(), Compacted::default());
        let demanded = compactor.round(true).await.unwrap();
        assert!(demanded.segments > 1, "on demand: {demanded:?}");
        drop(compactor);
        owner.await.unwrap();
    }
}

#[tokio::test]
async fn long_content_moves_with_its_message_also_out_of_an_earlier_segment() {
    let mut bench = Bench::new(MemoryDisk::new());
    let spool = Arc::clone(&bench.spool);
    let places = Arc::new(Places::default());
    bench.mostly_dead(0..20).await;
    // Eight parts of nine kilobytes: more than a segment.
    let position = bench.message(99, 2, 8).await;
    let payload = spool.mail.read(position).unwrap().payload;
    let Content::Records(parts) = MessageRecord::decode(&payload).unwrap().content else {
        panic!("inline")
    };
    let parts: Vec<u64> = parts.iter().map(|part| part.position).collect();
    places.note_parts(position, &parts);
    drop(payload);
    bench.insert(position, 2);
    let last = bench.mostly_dead(100..150).await;
    let (mut compactor, owner) = bench.compactor(&places);
    compactor.round(true).await.unwrap();
    for part in &parts {
        until("parts are gone", || !spool.mail.is_retained(*part)).await;
    }
    drop(compactor);
    let scheduler = owner.await.unwrap();
    let mut expected = last;
    expected.extend([3, 13, 99]);
    assert_eq!(live_ids(&spool.mail, &scheduler), expected);
    let moved = places.of(&[99; 16]);
    let now = *moved.last().unwrap();
    assert!(now > position);
    // Holds are as many as its recipients, on each of its records: all are given back.
    assert_eq!(scheduler.messages_in(now..now + 1)[0].recipients, 2);
    let others = scheduler.counts().total() as u64 - 2;
    assert_eq!(spool.mail.stat().live, others + 2 * 9);
    scheduler.check();
}

#[tokio::test]
async fn what_is_in_flight_stays_where_its_agent_took_it() {
    let mut bench = Bench::new(MemoryDisk::new());
    let spool = Arc::clone(&bench.spool);
    let position = bench.message(200, 1, 0).await;
    bench.insert(position, 1);
    let now = bench.now;
    let session = loop {
        match bench.scheduler.poll(now) {
            Some(Work::Resolve { queue, .. }) => {
                let answer = RouteAnswer::Site {
                    key: "mx".into(),
                    valid_until: now + 1_000_000,
                    provider: None,
                };
                bench.scheduler.routed(now, queue, answer);
            }
            Some(Work::Open { session, .. }) => break session,
            other => panic!("{other:?}"),
        }
    };
    // Another recipient of the same message, which waits.
    spool.mail.hold(position, 1);
    let new = NewRecipient {
        position,
        number: 1,
        pool: PoolId(0),
        domain: "example.org",
        flow: FlowName {
            server: 1,
            server_name: "shop",
            stream: "outbound",
        },
        message: position,
        tag: None,
        accepted_at: now,
        life: Default::default(),
        attempts: 1,
        next_attempt: now + 500_000,
    };
    bench.scheduler.insert(now, new);
    bench.mostly_dead(0..60).await;
    let live = bench.scheduler.counts().total() as u64;
    let places = Arc::new(Places::default());
    let (mut compactor, owner) = bench.compactor(&places);
    compactor.round(true).await.unwrap();
    drop(compactor);
    let mut scheduler = owner.await.unwrap();
    let to = *places.of(&[200; 16]).last().unwrap();
    let at = |scheduler: &Scheduler, position| {
        let found = scheduler.messages_in(position..position + 1);
        found.first().map(|m| (m.recipients, m.in_flight))
    };
    assert_eq!(at(&scheduler, position), Some((1, 1)));
    assert_eq!(at(&scheduler, to), Some((1, 0)));
    // The copy is held for it too: a start would look there for all recipients.
    assert_eq!(spool.mail.stat().live, live + 1);
    assert_eq!(check_message(&spool.mail, position), 200);
    // Its agent reports, its event becomes durable, its hold goes: nobody is surprised.
    let results = [(position, 0, Disposition::Terminal)];
    scheduler.report(now, session, &results, SessionState::Idle);
    scheduler.check();
    spool.mail.release(position, 1);
    until("the old segment is reclaimed", || {
        !spool.mail.is_retained(position)
    })
    .await;
    assert_eq!(check_message(&spool.mail, to), 200);
}

#[tokio::test]
async fn a_live_record_that_cannot_be_read_is_left_and_the_others_move() {
    let disk = MemoryDisk::new();
    let mut bench = Bench::new(disk.clone());
    let spool = Arc::clone(&bench.spool);
    let bad = bench.message(200, 1, 0).await;
    bench.insert(bad, 1);
    let mut expected = bench.mostly_dead(0..60).await;
    let header = 4096;
    let path = Path::new(DIR).join("spool/mail/0000000000000001.seg");
    disk.edit(&path, |bytes| {
        let at = (bad % SEGMENT) as usize;
        assert!(at >= header);
        bytes[at + 100] ^= 1;
    });
    let (mut compactor, owner) = bench.compactor(&Arc::default());
    compactor.round(true).await.unwrap();
    drop(compactor);
    let scheduler = owner.await.unwrap();
    assert_eq!(scheduler.messages_in(bad..bad + 1).len(), 1);
    assert!(spool.mail.is_retained(bad));
    let readable = scheduler.messages_in(0..u64::MAX);
    let readable = readable.iter().filter(|m| m.position != bad);
    let found: BTreeSet<u8> = readable
        .map(|m| check_message(&spool.mail, m.position))
        .collect();
    expected.remove(&200);
    assert_eq!(found, expected);
}

#[tokio::test]
async fn without_space_nothing_is_copied_and_nothing_is_lost() {
    let disk = MemoryDisk::new();
    let mut bench = Bench::new(disk.clone());
    let spool = Arc::clone(&bench.spool);
    let expected = bench.mostly_dead(0..60).await;
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.set_capacity(used as u64);
    // Until no segment can be prepared any more.
    let filler = vec![0; 20_000];
    while spool
        .mail
        .append(kind::CONTENT, 0, &[&filler], None)
        .await
        .is_ok()
    {}
    let live = spool.mail.stat().live;
    let (mut compactor, owner) = bench.compactor(&Arc::default());
    let halted = compactor.round(true).await;
    assert!(matches!(halted, Err(Halt::Full) | Ok(_)), "{halted:?}");
    drop(compactor);
    let scheduler = owner.await.unwrap();
    assert_eq!(live_ids(&spool.mail, &scheduler), expected);
    assert_eq!(spool.mail.stat().live, live);
}

/// Power fails at any point of copying, switching, releasing and reclaiming.
#[test]
fn no_power_cut_loses_a_message_that_moves() {
    let disk = RecordingDisk::new(MemoryDisk::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let (durable_from, expected) = runtime.unwrap().block_on(compact_on(&disk));
    let recording = disk.recording();
    let operations = recording.operations().len();
    assert!(operations > durable_from + 50);
    let seed = 5_150;
    println!("seed {seed}");
    for cut in durable_from..=operations {
        for choice in [
            Choice::Nothing,
            Choice::Everything,
            Choice::Random(seed + cut as u64),
        ] {
            let (spool, copies) = open(recording.image(cut, choice));
            let acknowledged = copies.damages.iter().filter(|d| d.acknowledged);
            assert_eq!(acknowledged.count(), 0, "cut {cut}, {choice:?}");
            for id in &expected {
                let found = copies.by_id.get(id);
                let (position, _) =
                    found.unwrap_or_else(|| panic!("{id} lost at cut {cut}, {choice:?}"));
                assert_eq!(check_message(&spool.mail, *position), *id, "cut {cut}");
            }
        }
    }
}

/// Returns the operation up to which mail was only taken, and what lives.
async fn compact_on(disk: &RecordingDisk) -> (usize, BTreeSet<u8>) {
    let mut bench = Bench::new(disk.clone());
    let spool = Arc::clone(&bench.spool);
    let places = Arc::new(Places::default());
    let mut expected = bench.mostly_dead(0..60).await;
    let long = bench.message(99, 2, 3).await;
    bench.insert(long, 2);
    expected.insert(99);
    bench
        .mostly_dead(100..130)
        .await
        .into_iter()
        .for_each(|id| {
            expected.insert(id);
        });
    let durable_from = disk.recording().operations().len();
    let (mut compactor, owner) = bench.compactor(&places);
    for _ in 0..2 {
        assert!(compactor.round(true).await.unwrap().messages > 5);
    }
    until("segments are reclaimed", || spool.mail.stat().segments <= 4).await;
    drop(compactor);
    owner.await.unwrap();
    (durable_from, expected)
}
