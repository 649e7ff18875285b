//! Checkpoints: whatever is taken when, damaged, lost or cut off by a power failure, a start finds the same recipients.

use std::collections::BTreeSet;

use spool_format::event::event_kind;
use spool_format::layout::record_flag;
use spool_format::{
    Content, EventRecord, Field, LiveMessage, MessageRecord, Recipient, StreamKind,
};

use super::super::checkpointer::Checkpointer;
use super::super::disk::memory::Fault;
use super::super::disk::recording::RecordingDisk;
use super::super::roll::PreparerBell;
use super::lives::every_image;
use super::*;

/// Who lives: message, number of the recipient, and what is known of it.
type Living = BTreeMap<(u64, u16), State>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    position: u64,
    domain: String,
    attempts: u16,
    next_attempt: u64,
    announced: bool,
}

fn id(message: u64) -> [u8; 16] {
    let mut id = [7; 16];
    id[8..].copy_from_slice(&message.to_le_bytes());
    id
}

fn domain(message: u64, number: u16) -> String {
    format!("d{}.example", (message + u64::from(number)) % 5)
}

fn message_payload(message: u64, recipients: u16) -> Vec<u8> {
    let domains: Vec<String> = (0..recipients).map(|n| domain(message, n)).collect();
    let of = |domain| Recipient {
        forward_path: "someone",
        domain,
        fields: Default::default(),
    };
    let recipients: Vec<_> = domains.iter().map(|domain| of(domain)).collect();
    let content = vec![b'x'; 100 + 37 * (message as usize % 40)];
    let record = MessageRecord {
        id: id(message),
        accepted_unix_ms: 1_000_000 + 17 * message,
        server_id: 7,
        server_name: "shop",
        stream_id: "receipts",
        stream_kind: StreamKind::Transactional,
        pool: if message.is_multiple_of(3) {
            "tx"
        } else {
            "other"
        },
        reverse_path: "",
        recipients: (&recipients).into(),
        tag: None,
        metadata: Default::default(),
        flags: 0,
        header_len: 0,
        fields: Default::default(),
        content: Content::Inline(&content),
    };
    let mut payload = Vec::new();
    record.encode_head(&mut payload).unwrap();
    payload.extend_from_slice(&content);
    payload
}

/// A node's use of the spool, without a node: what lives is known from what was written.
struct Life {
    spool: Spool,
    living: Living,
    /// Recipients of each message that lives.
    left: BTreeMap<u64, BTreeSet<u16>>,
    next: u64,
    rng: fastrand::Rng,
    runtime: tokio::runtime::Runtime,
}

impl Life {
    /// Opens the spool and takes over what it tells.
    fn start(disk: impl Disk, next: u64, seed: u64) -> Self {
        Self::start_with(disk, next, seed, Sizes::default())
    }

    fn start_with(disk: impl Disk, next: u64, seed: u64, sizes: Sizes) -> Self {
        let options = Options {
            sizes,
            ..options(Path::new(DIR))
        };
        let (spool, _) = open_on(disk, options).unwrap();
        let living = told(&spool);
        let mut left = BTreeMap::<u64, BTreeSet<u16>>::new();
        for (&(message, number), state) in &living {
            spool.mail.hold(state.position, 1);
            left.entry(message).or_default().insert(number);
        }
        spool.allow_reclaim();
        Self {
            spool,
            living,
            left,
            next,
            rng: fastrand::Rng::with_seed(seed),
            runtime: runtime(),
        }
    }

    fn checkpointer(&self) -> Checkpointer {
        checkpointer(&self.spool)
    }

    fn step(&mut self) {
        match self.rng.u8(..10) {
            0..=3 => self.accept(),
            4..=5 => self.event(event_kind::DEFERRED),
            6..=7 => self.event(event_kind::DELIVERED),
            8 => self.event(event_kind::BOUNCED),
            _ => self.compact(),
        }
    }

    fn accept(&mut self) {
        let message = self.next;
        self.next += 1;
        let recipients = 1 + (message % 3) as u16;
        let payload = message_payload(message, recipients);
        let position = self.append_message(0, &payload, u32::from(recipients));
        for number in 0..recipients {
            self.left.entry(message).or_default().insert(number);
            let state = State {
                position,
                domain: domain(message, number),
                ..State::default()
            };
            self.living.insert((message, number), state);
        }
        if self.rng.u8(..5) > 0 {
            for number in 0..recipients {
                self.write_event(event_kind::ACCEPTED, message, number, 0, 0);
            }
        }
    }

    fn append_message(&self, flags: u8, payload: &[u8], holds: u32) -> u64 {
        let mail = &self.spool.mail;
        let append = async {
            let parts = [payload];
            let append = mail.append_held(kind::MESSAGE, flags, &parts, holds, None);
            append.await.unwrap().await.unwrap().position()
        };
        self.runtime.block_on(append)
    }

    fn write_event(&mut self, kind: u16, message: u64, number: u16, attempts: u32, next: u64) {
        let (attempts_bytes, next_bytes) = (attempts.to_le_bytes(), next.to_le_bytes());
        let fields = [
            Field::new(spool_format::event::event_field::ATTEMPTS, &attempts_bytes),
            Field::new(
                spool_format::event::event_field::NEXT_ATTEMPT_MS,
                &next_bytes,
            ),
        ];
        let record = EventRecord {
            kind,
            at_unix_ms: 1,
            message_id: id(message),
            recipient_number: number,
            fields: (&fields).into(),
        };
        let mut payload = Vec::new();
        record.encode(&mut payload).unwrap();
        append(&self.spool.events, &payload).unwrap();
        if let Some(state) = self.living.get_mut(&(message, number)) {
            state.announced = true;
            if attempts > 0 {
                state.attempts = attempts as u16;
                state.next_attempt = next;
            }
        }
    }

    fn someone(&mut self) -> Option<(u64, u16)> {
        let keys: Vec<_> = self.living.keys().copied().collect();
        self.rng.choice(keys)
    }

    fn event(&mut self, kind: u16) {
        let Some((message, number)) = self.someone() else {
            return;
        };
        if kind == event_kind::DEFERRED {
            let attempts = u32::from(self.living[&(message, number)].attempts) + 1;
            let next = self.rng.u64(1..1_000_000);
            return self.write_event(kind, message, number, attempts, next);
        }
        self.write_event(kind, message, number, 1, 0);
        let ended = self.living.remove(&(message, number)).unwrap();
        let left = self.left.get_mut(&message).unwrap();
        left.remove(&number);
        if left.is_empty() {
            self.left.remove(&message);
        }
        self.spool.mail.release(ended.position, 1);
    }

    /// What compaction does to one message: a copy, then the switch, then the old claim is given back.
    fn compact(&mut self) {
        let Some((message, number)) = self.someone() else {
            return;
        };
        let old = self.living[&(message, number)].position;
        let live = self.left[&message].clone();
        // Their *accepted* events were written long ago.
        for &number in &live {
            if !self.living[&(message, number)].announced {
                self.write_event(event_kind::ACCEPTED, message, number, 0, 0);
            }
        }
        let payload = message_payload(message, 1 + (message % 3) as u16);
        let position = self.append_message(record_flag::MOVED, &payload, live.len() as u32);
        for &number in &live {
            self.living.get_mut(&(message, number)).unwrap().position = position;
        }
        self.spool.mail.release(old, live.len() as u32);
    }
}

fn checkpointer(spool: &Spool) -> Checkpointer {
    Checkpointer {
        store: Arc::clone(&spool.store),
        mail: Arc::clone(&spool.mail.shared),
        events: Arc::clone(&spool.events.shared),
        space: Arc::clone(&spool.space),
        bell: Arc::new(PreparerBell::new()),
        clock: Clock::start(),
        sizes: Sizes::default(),
    }
}

/// What a start finds.
fn told(spool: &Spool) -> Living {
    let mut backlog = spool.take_backlog().unwrap();
    let mut message = LiveMessage::default();
    let mut living = Living::new();
    while backlog.next(&mut message).unwrap() {
        let number_of: [u8; 8] = message.id[8..].try_into().unwrap();
        let origin = backlog.names().origins.get(message.origin).unwrap();
        let pool = (Box::from(&*origin.pool), origin.stream_kind);
        assert!(backlog.pools().contains(&pool), "{pool:?}");
        assert_eq!((origin.server_id, &*origin.server_name), (7, "shop"));
        for recipient in &message.recipients {
            let domain = backlog.names().domains.get(recipient.domain).unwrap();
            let state = State {
                position: message.position,
                domain: domain.to_string(),
                attempts: recipient.attempts,
                next_attempt: recipient.next_attempt,
                announced: recipient.announced,
            };
            let key = (u64::from_le_bytes(number_of), recipient.number);
            assert_eq!(living.insert(key, state), None, "{key:?} is told twice");
        }
    }
    living
}

/// What a start finds on a copy of this disk.
fn living_on(disk: &MemoryDisk) -> Living {
    let (spool, found) = open(&copy(disk));
    let damaged = found.damages.iter().any(|damage| damage.acknowledged);
    assert!(!damaged, "{:?}", found.damages);
    told(&spool)
}

fn copy(disk: &MemoryDisk) -> MemoryDisk {
    let copied = MemoryDisk::new();
    for (path, bytes) in disk.files() {
        copied.add_file(&path, bytes);
    }
    copied
}

fn checkpoints(disk: &MemoryDisk) -> Vec<PathBuf> {
    segment_files(disk, "checkpoint")
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "ckp"))
        .collect()
}

/// The same disk without these files.
fn without(disk: &MemoryDisk, paths: &[PathBuf]) -> MemoryDisk {
    let less = copy(disk);
    for path in paths {
        less.unlink(path).unwrap();
    }
    less
}

#[test]
fn a_start_with_a_checkpoint_finds_what_one_without_finds() {
    for seed in 0..40 {
        let disk = MemoryDisk::new();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut next = 0;
        for _ in 0..4 {
            let mut life = Life::start(disk.clone(), next, rng.u64(..));
            for _ in 0..rng.usize(10..60) {
                life.step();
                if rng.u8(..12) == 0 {
                    let base = rng.bool();
                    life.checkpointer().write_now(base).unwrap();
                }
            }
            next = life.next;
            let expected = life.living.clone();
            drop(life);
            assert_eq!(living_on(&disk), expected, "seed {seed}");
            // Reading changed nothing, and the logs say the same by themselves.
            let all = checkpoints(&disk);
            assert_eq!(living_on(&without(&disk, &all)), expected, "seed {seed}");
        }
    }
}

/// A disk with two bases, deltas of the newer one, and logs that go on behind them.
fn with_checkpoints() -> (MemoryDisk, Living) {
    let disk = MemoryDisk::new();
    let mut life = Life::start(disk.clone(), 0, 4);
    for base in [true, false, true, false, false] {
        for _ in 0..30 {
            life.step();
        }
        life.checkpointer().write_now(base).unwrap();
    }
    for _ in 0..20 {
        life.step();
    }
    assert!(life.spool.checkpointed().is_some());
    let living = life.living.clone();
    drop(life);
    (disk, living)
}

#[test]
fn every_flipped_byte_and_every_cut_of_a_checkpoint_is_found_and_costs_nothing() {
    let (disk, expected) = with_checkpoints();
    let files = checkpoints(&disk);
    assert_eq!(files.len(), 5, "{files:?}");
    let newest_base = files[2].clone();
    let newest_delta = files[4].clone();
    for path in [newest_base, newest_delta] {
        let bytes = disk.files()[&path].clone();
        let step = 1 + bytes.len() / 150;
        for at in (0..bytes.len()).step_by(step) {
            let damaged = copy(&disk);
            damaged.edit(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            assert_eq!(living_on(&damaged), expected, "byte {at} of {path:?}");
            let cut = copy(&disk);
            cut.edit(&path, |bytes| bytes.truncate(at));
            assert_eq!(living_on(&cut), expected, "{path:?} cut at {at}");
        }
        let longer = copy(&disk);
        longer.edit(&path, |bytes| bytes.push(0));
        assert_eq!(living_on(&longer), expected);
    }
    for lost in 0..1 << files.len() {
        let lost_files: Vec<_> = (0..files.len())
            .filter(|n| lost >> n & 1 == 1)
            .map(|n| files[n].clone())
            .collect();
        assert_eq!(
            living_on(&without(&disk, &lost_files)),
            expected,
            "{lost:b}"
        );
    }
}

#[test]
fn segments_below_the_checkpoint_are_not_read_at_a_start() {
    let disk = MemoryDisk::new();
    let mut life = Life::start(disk.clone(), 0, 1);
    for _ in 0..60 {
        life.accept();
    }
    life.checkpointer().write_now(true).unwrap();
    let expected = life.living.clone();
    drop(life);
    let first = segment_files(&disk, "mail")[0].clone();
    let damaged = copy(&disk);
    damaged.edit(&first, |bytes| bytes[5_000] ^= 1);
    assert_eq!(living_on(&damaged), expected);
    // Without the checkpoint it is met at once.
    let (_, found) = open(&without(&damaged, &checkpoints(&damaged)));
    assert_eq!(found.damages.len(), 1);
}

#[test]
fn the_newest_two_bases_are_kept_with_their_deltas() {
    let disk = MemoryDisk::new();
    let mut life = Life::start(disk.clone(), 0, 2);
    assert_eq!(life.spool.checkpointed(), None);
    let mut before = 0;
    for round in 0..4 {
        for base in [true, false] {
            for _ in 0..10 {
                life.step();
            }
            life.checkpointer().write_now(base).unwrap();
        }
        let kept = checkpoints(&disk).len();
        assert_eq!(kept, if round == 0 { 2 } else { 4 });
        let bound = life.spool.checkpointed();
        assert_eq!(bound.is_some(), round > 0);
        if let Some((mail, events)) = bound {
            assert!(events >= before && mail <= life.spool.mail.durable());
            before = events;
        }
    }
}

#[test]
fn a_power_cut_at_any_step_of_writing_a_checkpoint_is_harmless() {
    let start = MemoryDisk::new();
    let mut life = Life::start(start.clone(), 0, 3);
    for _ in 0..25 {
        life.step();
    }
    life.checkpointer().write_now(true).unwrap();
    let next = life.next;
    drop(life);
    let recorder = RecordingDisk::new(start);
    let mut life = Life::start(recorder.clone(), next, 5);
    let mut states = vec![life.living.clone()];
    for base in [false, true, true] {
        for _ in 0..6 {
            life.step();
            recorder.note(states.len() as u64);
            states.push(life.living.clone());
        }
        life.checkpointer().write_now(base).unwrap();
    }
    drop(life);
    every_image(&recorder.recording(), 3, 11, |image, notes| {
        let (spool, found) = open(image);
        let damaged = found.damages.iter().any(|damage| damage.acknowledged);
        assert!(!damaged, "{:?}", found.damages);
        let living = told(&spool);
        drop(spool);
        // At least what was noted last, at most one step more: a step may be half done when the power goes.
        let last = notes.iter().max().copied().unwrap_or(0) as usize;
        let noted = &states[last];
        let after = states.get(last + 1).unwrap_or(noted);
        for key in noted.keys().filter(|key| after.contains_key(key)) {
            assert!(living.contains_key(key), "{key:?} was lost");
        }
        for key in living.keys() {
            assert!(
                noted.contains_key(key) || after.contains_key(key),
                "{key:?} came back"
            );
        }
        assert_eq!(living_on(image), living, "the second start differs");
    });
}

#[test]
fn whichever_call_fails_a_checkpoint_is_whole_or_not_there() {
    let (start, expected) = with_checkpoints();
    for fault in [Fault::Eio, Fault::NoSpace, Fault::Short, Fault::EioFromHere] {
        for at in 1.. {
            let disk = copy(&start);
            let (spool, _) = open(&disk);
            assert_eq!(told(&spool), expected);
            let checkpointer = checkpointer(&spool);
            disk.fail(at, fault);
            let written = checkpointer.write_now(at % 2 == 0);
            let calls = disk.calls();
            disk.heal();
            drop(spool);
            assert_eq!(living_on(&disk), expected, "call {at}: {written:?}");
            if calls < at && at % 2 == 0 {
                break;
            }
        }
    }
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_reported_and_no_position_is_given_twice() {
    let disk = MemoryDisk::new();
    let mut life = Life::start(disk.clone(), 0, 6);
    for _ in 0..40 {
        life.accept();
    }
    life.checkpointer().write_now(true).unwrap();
    let mail = life.spool.mail.durable();
    drop(life);
    let segments = segment_files(&disk, "mail");
    let shorter = without(&disk, &segments[segments.len() / 2..]);
    let (spool, found) = open(&shorter);
    let reasons: Vec<_> = found.damages.iter().map(|d| d.reason).collect();
    assert!(
        reasons.contains(&"the log ends before its checkpoint"),
        "{reasons:?}"
    );
    assert!(spool.mail.durable() >= mail);
}

/// Everything happens after little.
const SMALL: Sizes = Sizes {
    checkpoint_events: 12_000,
    checkpoint_mail: 40_000,
    kept_events: 7,
    kept_mail: 200,
};

#[test]
fn a_start_that_may_keep_little_in_memory_finds_the_same() {
    for seed in 0..10 {
        let disk = MemoryDisk::new();
        let mut life = Life::start(disk.clone(), 0, seed);
        for _ in 0..120 {
            life.step();
        }
        let (next, expected) = (life.next, life.living.clone());
        drop(life);
        let short = Life::start_with(disk.clone(), next, seed, SMALL);
        assert_eq!(short.living, expected, "seed {seed}");
        // It read much, so it left a checkpoint behind; what spilled is gone.
        drop(short);
        assert!(!checkpoints(&disk).is_empty(), "seed {seed}");
        let left = segment_files(&disk, "checkpoint");
        assert_eq!(left, checkpoints(&disk), "seed {seed}");
        assert_eq!(living_on(&disk), expected, "seed {seed}");
    }
}

#[test]
fn checkpoints_are_written_as_the_logs_grow() {
    let disk = MemoryDisk::new();
    let sizes = Sizes {
        // Else there are only bases.
        checkpoint_events: 1 << 40,
        ..SMALL
    };
    let mut life = Life::start_with(disk.clone(), 0, 9, sizes);
    until("a base and a delta", || {
        life.step();
        let chain = life.spool.store.chain();
        chain.is_some_and(|chain| !chain.deltas.is_empty())
    });
    let expected = life.living.clone();
    drop(life);
    assert_eq!(living_on(&disk), expected);
}
