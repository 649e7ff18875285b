//! What threads of the engine share: `std` in the program, `loom` under test (our own feature, since `--cfg loom` would
//! switch dependencies too).

#[cfg(not(feature = "loom"))]
mod primitives {
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence,
    };
    pub(crate) use std::sync::{Mutex, MutexGuard};
    pub(crate) use std::thread::{Thread, current, park, park_timeout, yield_now};
}

#[cfg(feature = "loom")]
mod primitives {
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence,
    };
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    pub(crate) use loom::thread::{Thread, current, park, yield_now};

    /// loom knows no time: a wait that may end by itself is one that ends at once.
    pub(crate) fn park_timeout(_: std::time::Duration) {
        yield_now();
    }
}

pub(crate) use primitives::*;

use std::future::Future;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

/// A mutex whose holder cannot leave the data half changed; a panic elsewhere is no reason to stop.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `future`'s output, unless it takes longer.
pub(crate) async fn at_most<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    // loom knows no time.
    if cfg!(feature = "loom") {
        return Some(future.await);
    }
    tokio::time::timeout(time, future).await.ok()
}

/// A value that is replaced as a whole, and read without a lock.
pub(crate) struct Current<T> {
    #[cfg(not(feature = "loom"))]
    inner: arc_swap::ArcSwap<T>,
    #[cfg(feature = "loom")]
    inner: Mutex<Arc<T>>,
}

#[cfg(not(feature = "loom"))]
impl<T> Current<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        let inner = arc_swap::ArcSwap::new(value);
        Self { inner }
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        self.inner.load_full()
    }

    /// Cheaper than [`Self::load_full`]; not to be used where `see` takes its time.
    pub(crate) fn with<R>(&self, see: impl FnOnce(&Arc<T>) -> R) -> R {
        see(&self.inner.load())
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        self.inner.store(value);
    }
}

#[cfg(feature = "loom")]
impl<T> Current<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        let inner = Mutex::new(value);
        Self { inner }
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        Arc::clone(&lock(&self.inner))
    }

    pub(crate) fn with<R>(&self, see: impl FnOnce(&Arc<T>) -> R) -> R {
        see(&self.load_full())
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        *lock(&self.inner) = value;
    }
}

/// A value that is not there at first, and never changes once it is.
pub(crate) struct Later<T> {
    #[cfg(not(feature = "loom"))]
    inner: OnceLock<Arc<T>>,
    #[cfg(feature = "loom")]
    inner: Mutex<Option<Arc<T>>>,
}

#[cfg(not(feature = "loom"))]
impl<T> Later<T> {
    pub(crate) fn new() -> Self {
        let inner = OnceLock::new();
        Self { inner }
    }

    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.inner.get().map(Arc::clone)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.inner.get().is_some()
    }

    /// Whether it was the first time.
    pub(crate) fn set(&self, value: Arc<T>) -> bool {
        self.inner.set(value).is_ok()
    }
}

#[cfg(feature = "loom")]
impl<T> Later<T> {
    pub(crate) fn new() -> Self {
        let inner = Mutex::new(None);
        Self { inner }
    }

    pub(crate) fn get(&self) -> Option<Arc<T>> {
        lock(&self.inner).clone()
    }

    pub(crate) fn is_set(&self) -> bool {
        lock(&self.inner).is_some()
    }

    pub(crate) fn set(&self, value: Arc<T>) -> bool {
        lock(&self.inner).replace(value).is_none()
    }
}

/// A queue that any thread may push to.
pub(crate) struct Queue<T> {
    #[cfg(not(feature = "loom"))]
    inner: crossbeam_queue::SegQueue<T>,
    #[cfg(feature = "loom")]
    inner: Mutex<std::collections::VecDeque<T>>,
}

#[cfg(not(feature = "loom"))]
impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let inner = crossbeam_queue::SegQueue::new();
        Self { inner }
    }

    pub(crate) fn push(&self, value: T) {
        self.inner.push(value);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.inner.pop()
    }
}

#[cfg(feature = "loom")]
impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let inner = Mutex::new(std::collections::VecDeque::new());
        Self { inner }
    }

    pub(crate) fn push(&self, value: T) {
        lock(&self.inner).push_back(value);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        lock(&self.inner).pop_front()
    }
}

/// How one thread sleeps until others have work for it, without a lock and without a system call while it is awake.
///
/// The sleeper says that it will sleep, then looks for work once more; a ringer leaves work, then looks whether the
/// sleeper sleeps. A sequentially consistent fence between the two steps on either side makes one of them see the other.
pub(crate) struct Doorbell {
    state: AtomicU32,
    sleeper: OnceLock<Thread>,
    /// How many visitors end [`Self::sleep_until_visited`].
    awaited: AtomicU64,
}

const AWAKE: u32 = 0;
/// Sleeps a bounded time, until so many have come as are awaited.
const COUNTING: u32 = 1;
/// Sleeps a bounded time: work that can wait need not wake it.
const DOZING: u32 = 2;
const ASLEEP: u32 = 3;

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU32::new(AWAKE),
            sleeper: OnceLock::new(),
            awaited: AtomicU64::new(0),
        }
    }

    /// The calling thread is the sleeper. Once, before its first [`Self::sleep`].
    pub(crate) fn belongs_to_me(&self) {
        // A second call would be the same thread's: there is one sleeper.
        let _ = self.sleeper.set(current());
    }

    /// Work was left that cannot wait, or the state of things changed.
    pub(crate) fn ring(&self) {
        self.ring_from(COUNTING);
    }

    /// Work was left that cannot wait, by the visitor of this number.
    pub(crate) fn ring_as(&self, number: u64) {
        // Partner: the fence in `sleep_as`.
        fence(Ordering::SeqCst);
        // Acquire: partner of the release in `sleep_as`, so that `awaited` is what this sleep awaits.
        let state = self.state.load(Ordering::Acquire);
        if state > COUNTING || (state == COUNTING && number >= self.awaited.load(Ordering::Relaxed))
        {
            self.wake();
        }
    }

    /// Work was left that can wait for a sleeper that wakes by itself.
    pub(crate) fn ring_lazily(&self) {
        self.ring_from(ASLEEP);
    }

    fn ring_from(&self, lightest: u32) {
        // Partner: the fence in `sleep_as`.
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) >= lightest {
            self.wake();
        }
    }

    fn wake(&self) {
        if self.state.swap(AWAKE, Ordering::Relaxed) != AWAKE
            && let Some(thread) = self.sleeper.get()
        {
            thread.unpark();
        }
    }

    /// Sleeps unless `has_work` already; returns when rung, after `at_most`, or for no reason.
    pub(crate) fn sleep(&self, at_most: Option<Duration>, has_work: impl FnOnce() -> bool) {
        let state = if at_most.is_some() { DOZING } else { ASLEEP };
        self.sleep_as(state, at_most, has_work);
    }

    /// Sleeps until the visitor of the number `awaited` has come, unless `has_come` already.
    pub(crate) fn sleep_until_visited(
        &self,
        awaited: u64,
        at_most: Duration,
        has_come: impl FnOnce() -> bool,
    ) {
        self.awaited.store(awaited, Ordering::Relaxed);
        self.sleep_as(COUNTING, Some(at_most), has_come);
    }

    fn sleep_as(&self, state: u32, at_most: Option<Duration>, has_work: impl FnOnce() -> bool) {
        // Exchanges, not stores: they come after a ringer's exchange in the order of this word's changes.
        // Release: partner of the acquire in `ring_as`.
        self.state.swap(state, Ordering::Release);
        // Partner: the fences in `ring_from` and `ring_as`.
        fence(Ordering::SeqCst);
        if !has_work() {
            match at_most {
                Some(at_most) => park_timeout(at_most),
                None => park(),
            }
        }
        self.state.swap(AWAKE, Ordering::Relaxed);
    }
}
