//! Every interleaving (of one or two preemptions) of admission, reservation, publication, commit, roll and wake-up, with
//! the engine's own code on loom's atomics.
//!
//! ```text
//! scripts/loom
//! ```
//! Checked in each: nobody is answered before his record is synced; everybody is answered, once, without anybody else
//! having to come by (a lost wake-up is a deadlock, which loom reports); no byte is read while it is written, nor memory
//! of the ring used again before it was cleared.
//! Not in the model: time; the inside of tokio's `Notify`, which is taken at its word.

use std::path::Path;

use ::loom::future::block_on;
use ::loom::sync::Notify;
use ::loom::thread;
use spool_format::layout::{PAGE_OFFSET, kind};

use super::commit::Committer;
use super::disk::memory::MemoryDisk;
use super::disk::recording::RecordingDisk;
use super::sync::AtomicU32;
use super::*;

/// Told once; waiting ends for no other reason.
#[derive(Default)]
struct Told {
    answers: AtomicU32,
    bell: Bell,
}

struct Bell(Notify);

impl Default for Bell {
    fn default() -> Self {
        Self(Notify::new())
    }
}

impl Told {
    fn tell(&self) {
        let before = self.answers.fetch_add(1, Ordering::Release);
        assert_eq!(before, 0, "answered twice");
        self.bell.0.notify();
    }

    fn wait(&self) {
        // loom's own waits may end spuriously.
        while self.answers.load(Ordering::Acquire) == 0 {
            self.bell.0.wait();
        }
    }
}

struct Model {
    disk: RecordingDisk,
    log: Log,
}

/// Room for one record of the model (24 bytes), not for two.
const ONE_RECORD: u64 = 40;

impl Model {
    fn new(segment_pages: u64, batch_max: u64) -> Self {
        let disk = RecordingDisk::new(MemoryDisk::new());
        let size = segment_pages * PAGE_OFFSET;
        let ring = Arc::new(Ring::new(RING, 0).unwrap());
        let tail = make(&disk, &ring, size, 1);
        let all: Arc<dyn Disk> = Arc::new(disk.clone());
        let shelf = Shelf::open(LogKind::Mail, Arc::clone(&all), Path::new("/")).unwrap();
        let shared = Shared::new(Parts {
            kind: LogKind::Mail,
            disk: all,
            dir: "/".into(),
            segment_size: size,
            clock: Clock::start(),
            credits: Credits::new(RING, batch_max),
            ring,
            tail,
            recovered: Vec::new(),
            gaps: reclaim::Gaps::default(),
            shelf,
            health: Arc::new(watch::Sender::new(None)),
            preparer: Arc::new(PreparerBell::new()),
        });
        let log = Log {
            shared: Arc::new(shared),
        };
        Self { disk, log }
    }

    /// As the preparing thread does.
    fn supply(&self, number: u64) {
        let shared = &self.log.shared;
        let tail = make(&self.disk, &shared.ring, shared.segment_size, number);
        shared.supply(tail);
    }

    /// Appends, and has `told` told when the answer comes.
    fn append(&self, byte: u8, told: &Arc<Told>) {
        let (disk, told) = (self.disk.clone(), Arc::clone(told));
        let segment = self.log.shared.segment_size;
        let on_durable: OnDurable = Box::new(move |answer| {
            let offset = answer.unwrap().position() % segment;
            assert!(disk.is_synced(offset + 16, &[byte; 8]), "not synced");
            told.tell();
        });
        let payload = [byte; 8];
        let parts = [&payload[..]];
        let append = self.log.append(kind::EVENT, 0, &parts, Some(on_durable));
        drop(block_on(append).unwrap());
    }

    /// Without a second thread.
    fn append_and_commit(&self, byte: u8, committer: &mut Committer) {
        let told = Arc::new(Told::default());
        self.append(byte, &told);
        assert!(committer.turn());
        told.wait();
    }

    /// Appends here and in another thread while the committer runs in a third, and waits until both are answered.
    fn append_both(self, committer: Committer) {
        let model = Arc::new(self);
        let committer = thread::spawn(move || committer.run());
        let (first, second) = (Arc::new(Told::default()), Arc::new(Told::default()));
        let writer = {
            let (model, told) = (Arc::clone(&model), Arc::clone(&second));
            thread::spawn(move || model.append(0xB2, &told))
        };
        model.append(0xB1, &first);
        first.wait();
        second.wait();
        writer.join().unwrap();
        model.log.shared.close();
        committer.join().unwrap();
    }
}

fn make(disk: &RecordingDisk, ring: &Arc<Ring>, size: u64, number: u64) -> Arc<roll::Tail> {
    let site = Site {
        disk,
        dir: Path::new("/"),
        kind: LogKind::Mail,
        size,
        epoch: 0,
        clock: Clock::start(),
        ring,
        race: &|_| 1.0,
    };
    let first_position = (number - 1) * size;
    let place = Place {
        number,
        first_position,
        previous_end: first_position,
    };
    roll::prepare(&site, place, None).unwrap()
}

/// Where a second writer takes part, all ways of one preemption, which are tens of thousands; else of two.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

#[test]
fn nobody_is_answered_early_and_nobody_is_forgotten() {
    check(1, || {
        let model = Model::new(4, u64::MAX);
        let committer = Committer::new(Arc::clone(&model.log.shared));
        model.append_both(committer);
    });
}

#[test]
fn who_waits_for_room_is_woken_by_the_commit_that_makes_it() {
    check(1, || {
        let model = Model::new(16, ONE_RECORD);
        let committer = Committer::new(Arc::clone(&model.log.shared));
        model.append_both(committer);
    });
}

#[test]
fn writers_at_the_end_of_a_segment_go_on_in_the_next() {
    check(1, || {
        let model = Model::new(4, u64::MAX);
        let mut committer = Committer::new(Arc::clone(&model.log.shared));
        model.append_and_commit(0xA1, &mut committer);
        model.append_and_commit(0xA2, &mut committer);
        model.supply(2);
        model.append_both(committer);
    });
}

#[test]
fn a_writer_that_waits_for_a_segment_goes_on_when_it_is_there() {
    check(2, || {
        let model = Arc::new(Model::new(4, ONE_RECORD));
        let mut committer = Committer::new(Arc::clone(&model.log.shared));
        model.append_and_commit(0xA1, &mut committer);
        model.append_and_commit(0xA2, &mut committer);
        let committer = thread::spawn(move || committer.run());
        let told = Arc::new(Told::default());
        let writer = {
            let (model, told) = (Arc::clone(&model), Arc::clone(&told));
            thread::spawn(move || model.append(0xB1, &told))
        };
        model.supply(2);
        told.wait();
        writer.join().unwrap();
        model.log.shared.close();
        committer.join().unwrap();
    });
}

#[test]
fn memory_of_an_earlier_lap_is_as_new() {
    check(1, || {
        let model = Model::new(16, ONE_RECORD);
        let mut committer = Committer::new(Arc::clone(&model.log.shared));
        // A page each: what follows lies where the first of these were.
        for byte in 0..RING / PAGE_OFFSET {
            model.append_and_commit(byte as u8, &mut committer);
        }
        model.append_both(committer);
    });
}

#[test]
fn an_append_that_meets_the_end_of_the_log_is_answered() {
    check(2, || {
        let model = Arc::new(Model::new(4, u64::MAX));
        let committer = Committer::new(Arc::clone(&model.log.shared));
        let committer = thread::spawn(move || committer.run());
        let told = Arc::new(Told::default());
        let writer = {
            let (model, told) = (Arc::clone(&model), Arc::clone(&told));
            thread::spawn(move || {
                let asked = Arc::clone(&told);
                let on_durable: OnDurable = Box::new(move |_| asked.tell());
                let parts = [&b"late"[..]];
                let append = model.log.append(kind::EVENT, 0, &parts, Some(on_durable));
                match block_on(append) {
                    Ok(_) => told.wait(),
                    Err(error) => assert_eq!(error, AppendError::Stopped),
                }
            })
        };
        model.log.shared.close();
        writer.join().unwrap();
        committer.join().unwrap();
    });
}

/// The smallest.
const RING: u64 = 9 * PAGE_OFFSET;
