//! Jobs for the signing threads: two queues, transactional first, and results that are told several at a time.
//!
//! Promises: a job that came first in its lane is begun first; a result waits for no more than [`TOLD_TOGETHER`] - 1 jobs of the
//! same lane, none of which is longer than one record, and only while there are such; a panic ends one job.
//!
//! Why together: each result wakes the reactor, which on a busy machine takes the processor from the signing thread and leaves
//! it with a cold cache. While signatures are what everything waits for, one such change for four of them is enough.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Which jobs go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Transactional,
    Broadcast,
}

/// How long a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// A record's octets, and a signature: some milliseconds at most.
    OneRecord,
    /// No result of another is held back for it.
    Any,
}

#[derive(Default)]
pub(super) struct Lanes {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    transactional: VecDeque<Queued>,
    broadcast: VecDeque<Queued>,
    /// Threads that sleep and that nobody has woken.
    idle: usize,
    stopped: bool,
}

struct Queued {
    lane: Lane,
    size: Size,
    job: Box<dyn Job>,
}

trait Job: Send {
    fn work(&mut self);
    /// To whoever asked. Dropped instead: they see that nothing comes.
    fn tell(self: Box<Self>);
}

struct Asked<T, W> {
    work: Option<W>,
    result: Option<T>,
    done: oneshot::Sender<T>,
}

impl<T: Send, W: FnOnce() -> T + Send> Job for Asked<T, W> {
    fn work(&mut self) {
        // Whoever asked may be gone: then nobody needs it.
        let work = self.work.take().filter(|_| !self.done.is_closed());
        self.result = work.map(|work| work());
    }

    fn tell(self: Box<Self>) {
        if let Some(result) = self.result {
            drop(self.done.send(result));
        }
    }
}

/// What one thread has done and not told.
#[derive(Default)]
struct Done(Vec<(Lane, Box<dyn Job>)>);

impl Done {
    /// Whether it is to be told before such a job is begun.
    fn goes_before(&self, next: &Queued) -> bool {
        let others = self.0.iter().any(|(lane, _)| *lane != next.lane);
        self.0.len() >= TOLD_TOGETHER || next.size == Size::Any || others
    }

    fn tell(&mut self) {
        for (_, job) in self.0.drain(..) {
            job.tell();
        }
    }
}

impl Lanes {
    /// # Cancel safety
    /// The job is not begun, or its result is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        size: Size,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done, result) = oneshot::channel();
        let job = Box::new(Asked {
            work: Some(work),
            result: None,
            done,
        });
        self.push(Queued { lane, size, job });
        result
            .await
            .map_err(|_| "the signing thread has stopped".to_owned())
    }

    fn push(&self, queued: Queued) {
        let mut waiting = self.lock();
        if waiting.stopped {
            return;
        }
        match queued.lane {
            Lane::Transactional => waiting.transactional.push_back(queued),
            Lane::Broadcast => waiting.broadcast.push_back(queued),
        }
        // A call of the kernel that nobody needs costs as much as all the rest of this.
        let wake = waiting.idle > 0;
        waiting.idle -= usize::from(wake);
        drop(waiting);
        if wake {
            self.more.notify_one();
        }
    }

    /// One thread's life.
    pub(super) fn work(&self) {
        let mut done = Done::default();
        while let Some(Queued { lane, mut job, .. }) = self.next(&mut done) {
            // Its asker sees that nothing comes.
            match catch_unwind(AssertUnwindSafe(|| job.work())) {
                Ok(()) => done.0.push((lane, job)),
                Err(_) => tracing::error!("signing a message failed in the program"),
            }
        }
    }

    fn next(&self, done: &mut Done) -> Option<Queued> {
        let mut waiting = self.lock();
        loop {
            let next = waiting.pop();
            let tell = match &next {
                Some(next) => done.goes_before(next),
                None => !done.0.is_empty(),
            };
            if tell {
                drop(waiting);
                done.tell();
                waiting = self.lock();
            }
            if next.is_some() {
                return next;
            }
            if waiting.stopped {
                return None;
            }
            if !tell {
                waiting.idle += 1;
                waiting = self
                    .more
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// What waits is dropped: its askers see that.
    pub(super) fn stop(&self) {
        *self.lock() = Waiting {
            stopped: true,
            ..Waiting::default()
        };
        self.more.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Queued> {
        let first = self.transactional.pop_front();
        first.or_else(|| self.broadcast.pop_front())
    }
}

const TOLD_TOGETHER: usize = 4;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A job whose result is its name.
    fn ask(
        lanes: &Lanes,
        lane: Lane,
        size: Size,
        name: &'static str,
    ) -> oneshot::Receiver<&'static str> {
        let (done, result) = oneshot::channel();
        let job = Box::new(Asked {
            work: Some(move || name),
            result: None,
            done,
        });
        lanes.push(Queued { lane, size, job });
        result
    }

    #[test]
    fn transactional_mail_is_signed_before_broadcast_mail_that_came_first() {
        let lanes = Lanes::default();
        let mut asked = [
            (Lane::Broadcast, "b1"),
            (Lane::Broadcast, "b2"),
            (Lane::Transactional, "t"),
        ]
        .map(|(lane, name)| ask(&lanes, lane, Size::OneRecord, name));
        let mut done = Done::default();
        for place in [2, 0, 1] {
            let mut next = lanes.next(&mut done).unwrap();
            next.job.work();
            next.job.tell();
            assert!(asked[place].try_recv().is_ok());
        }
    }

    #[test]
    fn results_wait_for_a_few_of_their_kind_and_for_nothing_else() {
        let lanes = Lanes::default();
        let mut done = Done::default();
        let step = |done: &mut Done| {
            let mut next = lanes.next(done).unwrap();
            next.job.work();
            done.0.push((next.lane, next.job));
        };
        let told = |asked: &mut Vec<oneshot::Receiver<&str>>| {
            asked.retain_mut(|one| one.try_recv().is_err());
            asked.len()
        };
        let one = Size::OneRecord;
        let mut asked: Vec<_> = (0..5)
            .map(|_| ask(&lanes, Lane::Broadcast, one, "b"))
            .collect();
        (0..4).for_each(|_| step(&mut done));
        assert_eq!(told(&mut asked), 5);
        step(&mut done);
        assert_eq!(
            told(&mut asked),
            1,
            "four were told before the fifth was begun"
        );
        // Before one of the other lane, before a long one, and when there is nothing to do.
        asked.push(ask(&lanes, Lane::Transactional, one, "t"));
        step(&mut done);
        assert_eq!(told(&mut asked), 1);
        asked.push(ask(&lanes, Lane::Transactional, Size::Any, "long"));
        step(&mut done);
        assert_eq!(told(&mut asked), 1);
        lanes.stop();
        assert!(lanes.next(&mut done).is_none());
        assert_eq!(told(&mut asked), 0);
    }

    #[test]
    fn a_panic_ends_one_signature_and_not_its_thread() {
        let lanes = Arc::new(Lanes::default());
        let thread = std::thread::spawn({
            let lanes = Arc::clone(&lanes);
            move || lanes.work()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            for _ in 0..20 {
                let work = || panic!("a fault in the program");
                let done: Result<(), String> =
                    lanes.run(Lane::Broadcast, Size::OneRecord, work).await;
                assert!(done.is_err());
            }
            assert_eq!(lanes.run(Lane::Broadcast, Size::Any, || 5).await, Ok(5));
        });
        lanes.stop();
        thread.join().unwrap();
    }
}
