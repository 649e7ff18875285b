//! Every interleaving (of two preemptions) of reservation, publication, commit and wake-up, with the engine's own code on
//! loom's atomics.
//!
//! ```text
//! CARGO_TARGET_DIR=/some/other/dir RUSTFLAGS="--cfg posthaste_loom" cargo test --release --lib spool::loom
//! ```
//! Checked in each: nobody is answered before his record is synced; everybody is answered, once, without anybody else
//! having to come by (a lost wake-up is a deadlock, which loom reports); no byte is read while it is written.
//! Not in the model: rolling (its lock is a real one) and time.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ::loom::sync::Notify;
use ::loom::thread;
use spool_format::layout::{PAGE_OFFSET, kind};

use super::commit::Committer;
use super::disk::memory::MemoryDisk;
use super::disk::recording::RecordingDisk;
use super::sync::AtomicU32;
use super::*;

/// An append that finds a segment and room never waits.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("an append waited"),
    }
}

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

impl Model {
    fn new() -> Self {
        let disk = RecordingDisk::new(MemoryDisk::new());
        let size = 4 * PAGE_OFFSET;
        let ring = Arc::new(Ring::new(10 * PAGE_OFFSET, 0).unwrap());
        let site = Site {
            disk: &disk,
            dir: Path::new("/"),
            kind: LogKind::Mail,
            size,
            epoch: 0,
            clock: Clock::start(),
            ring: &ring,
        };
        let place = Place {
            number: 1,
            first_position: 0,
            previous_end: 0,
        };
        let tail = roll::prepare(&site, place, None).unwrap();
        let shared = Shared::new(Parts {
            kind: LogKind::Mail,
            disk: Arc::new(disk.clone()),
            dir: "/".into(),
            segment_size: size,
            clock: Clock::start(),
            ring,
            tail,
            recovered: Vec::new(),
            gaps: reclaim::Gaps::default(),
            health: Arc::new(watch::Sender::new(None)),
            preparer: Arc::new(PreparerBell::new()),
        });
        let log = Log {
            shared: Arc::new(shared),
        };
        Self { disk, log }
    }

    /// Appends, and has `told` told when the answer comes.
    fn append(&self, byte: u8, told: &Arc<Told>) {
        let (disk, told) = (self.disk.clone(), Arc::clone(told));
        let on_durable: OnDurable = Box::new(move |answer| {
            let position = answer.unwrap().position();
            let bytes = disk.synced_at(position + 16).expect("not synced");
            assert_eq!(bytes[..8], [byte; 8], "not written");
            told.tell();
        });
        let payload = [byte; 8];
        let parts = [&payload[..]];
        let append = self.log.append(kind::EVENT, 0, &parts, Some(on_durable));
        let ticket = at_once(append).unwrap();
        drop(ticket);
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 20_000;
    builder.check(model);
}

#[test]
fn nobody_is_answered_early_and_nobody_is_forgotten() {
    check(|| {
        let model = Arc::new(Model::new());
        let committer = Committer::new(Arc::clone(&model.log.shared));
        let committer = thread::spawn(move || committer.run());
        let (first, second) = (Arc::new(Told::default()), Arc::new(Told::default()));
        let writer = {
            let (model, told) = (Arc::clone(&model), Arc::clone(&second));
            thread::spawn(move || model.append(2, &told))
        };
        model.append(1, &first);
        first.wait();
        second.wait();
        writer.join().unwrap();
        model.log.shared.close();
        committer.join().unwrap();
    });
}

#[test]
fn an_append_that_meets_the_end_of_the_log_is_answered() {
    check(|| {
        let model = Arc::new(Model::new());
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
                match at_once(append) {
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
