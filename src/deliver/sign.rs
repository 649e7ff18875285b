//! Signing what is to leave: which key, on threads of its own, once for each message.
//!
//! Promises: mail for which there is a key in use, its domain's or the platform's, never leaves without that signature (what
//! cannot be signed is an error, and deferred); a message is signed once however many sessions ask, and anew only when its
//! signatures have aged or other keys are in use; transactional mail is signed before broadcast mail; no signature is made on
//! the reactor.
//! What waits here is bounded by the sessions: each waits for one signature.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{OnceCell, oneshot};

use super::Pieces;
use crate::account::Accounts;
use crate::clock::{Clock, UnixMs};
use crate::limits;
use crate::metrics;
use crate::sign::{Keys, Unsigned, from_domain};

/// Signs for all sessions. Its threads end with it.
pub struct Signer {
    accounts: Arc<Accounts>,
    clock: Clock,
    kept: Mutex<Kept>,
    lanes: Arc<Lanes>,
    threads: Vec<JoinHandle<()>>,
}

/// What is signed.
pub enum ToSign {
    Whole(Bytes),
    /// Long content: pieces by their names, in order.
    Pieces(Arc<dyn Pieces>, Vec<u64>),
}

/// Which jobs go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Transactional,
    Broadcast,
}

impl Signer {
    /// With as many threads as there are processors.
    pub fn new(accounts: Arc<Accounts>, clock: Clock) -> Self {
        let lanes = Arc::new(Lanes::default());
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let thread = |number: usize| {
            let lanes = Arc::clone(&lanes);
            let named = std::thread::Builder::new().name(format!("sign-{number}"));
            named
                .spawn(move || lanes.work())
                .inspect_err(|error| tracing::error!(%error, "a signing thread cannot be started"))
                .ok()
        };
        let threads: Vec<_> = (0..count).filter_map(thread).collect();
        if threads.is_empty() {
            lanes.stop();
        }
        Self {
            accounts,
            clock,
            kept: Mutex::default(),
            lanes,
            threads,
        }
    }

    /// The keys that sign content which begins so: those of the domain in From, and the platform's. The whole header section
    /// must be there. None: it leaves unsigned.
    pub fn keys_for(&self, beginning: &[u8]) -> Keys {
        let snapshot = self.accounts.load();
        // Where nothing is signed nothing is looked for.
        match snapshot.signs() {
            true => snapshot.signing_keys(from_domain(beginning).as_ref()),
            false => Keys::new(),
        }
    }

    /// The fields that go in front of the message at `position`, or why there are none. There is one key at least.
    /// # Cancel safety
    /// A signature under way is lost; whoever waits for the same one makes it.
    pub async fn sign(
        &self,
        position: u64,
        lane: Lane,
        keys: Keys,
        content: ToSign,
    ) -> Result<Bytes, String> {
        let kept = self.kept(position, &keys);
        if let Some(made) = kept.fields.get() {
            metrics::SIGNATURES.add_to("reused", keys.len() as u64);
            return Ok(made.clone());
        }
        let making = || self.make(lane, keys.clone(), content, kept.since / 1_000);
        let made = kept.fields.get_or_try_init(making).await;
        if made.is_err() {
            metrics::SIGNATURES.add_to("failed", 1);
        }
        made.cloned()
    }

    /// Other work on content that is to leave, on the same threads.
    /// # Cancel safety
    /// It is not begun, or its result is lost.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        self.lanes.run(lane, work).await
    }

    fn kept(&self, position: u64, keys: &Keys) -> Arc<Signatures> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.of(position, keys, self.clock.unix_ms())
    }

    async fn make(
        &self,
        lane: Lane,
        keys: Keys,
        content: ToSign,
        now: u64,
    ) -> Result<Bytes, String> {
        let mut unsigned = Unsigned::default();
        let last = match content {
            ToSign::Whole(octets) => octets,
            ToSign::Pieces(source, names) => {
                for name in names {
                    let piece = source.fetch(name).await?;
                    let update = move || {
                        unsigned.update(&piece);
                        unsigned
                    };
                    unsigned = self.lanes.run(lane, update).await?;
                }
                Bytes::new()
            }
        };
        let count = keys.len() as u64;
        let sign = move || {
            unsigned.update(&last);
            unsigned.sign(&keys, now)
        };
        let fields = self.lanes.run(lane, sign).await?;
        let fields = fields.map_err(|error| error.to_string())?;
        metrics::SIGNATURES.add_to("made", count);
        Ok(fields.into())
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.lanes.stop();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// One message's signatures, made or being made.
struct Signatures {
    keys: Keys,
    since: UnixMs,
    fields: OnceCell<Bytes>,
}

/// The newest signatures, by position.
#[derive(Default)]
struct Kept {
    signatures: HashMap<u64, Arc<Signatures>>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl Kept {
    fn of(&mut self, position: u64, keys: &Keys, now: UnixMs) -> Arc<Signatures> {
        let reuse = limits::SIGNATURE_REUSED.as_millis() as u64;
        let fits = |kept: &&Arc<Signatures>| {
            let mut pairs = kept.keys.iter().zip(keys);
            let same = kept.keys.len() == keys.len() && pairs.all(|(a, b)| Arc::ptr_eq(a, b));
            same && now.saturating_sub(kept.since) < reuse
        };
        if let Some(kept) = self.signatures.get(&position).filter(fits) {
            return Arc::clone(kept);
        }
        let new = Arc::new(Signatures {
            keys: keys.clone(),
            since: now,
            fields: OnceCell::new(),
        });
        if self.signatures.insert(position, Arc::clone(&new)).is_none() {
            self.order.push_back(position);
        }
        while self.order.len() > limits::SIGNATURES_KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.signatures.remove(&oldest);
            }
        }
        new
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Jobs for the threads.
#[derive(Default)]
struct Lanes {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    transactional: VecDeque<Job>,
    broadcast: VecDeque<Job>,
    stopped: bool,
}

impl Lanes {
    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done, result) = oneshot::channel();
        self.push(
            lane,
            Box::new(move || {
                // Whoever asked may be gone: then nobody needs it.
                if !done.is_closed() {
                    drop(done.send(work()));
                }
            }),
        );
        result
            .await
            .map_err(|_| "the signing thread has stopped".to_owned())
    }

    fn push(&self, lane: Lane, job: Job) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.stopped {
            return;
        }
        match lane {
            Lane::Transactional => waiting.transactional.push_back(job),
            Lane::Broadcast => waiting.broadcast.push_back(job),
        }
        drop(waiting);
        self.more.notify_one();
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            // Its asker sees that nothing comes.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("signing a message failed in the program");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if waiting.stopped {
                return None;
            }
            if let Some(job) = waiting.pop() {
                return Some(job);
            }
            waiting = self
                .more
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What waits is dropped: its askers see that.
    fn stop(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = Waiting {
            stopped: true,
            ..Waiting::default()
        };
        drop(waiting);
        self.more.notify_all();
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Job> {
        let first = self.transactional.pop_front();
        first.or_else(|| self.broadcast.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{Algorithm, SigningKey};

    #[test]
    fn transactional_mail_is_signed_before_broadcast_mail_that_came_first() {
        let lanes = Lanes::default();
        let said = Arc::new(Mutex::new(Vec::new()));
        for (lane, name) in [
            (Lane::Broadcast, "b1"),
            (Lane::Broadcast, "b2"),
            (Lane::Transactional, "t"),
        ] {
            let said = Arc::clone(&said);
            lanes.push(lane, Box::new(move || said.lock().unwrap().push(name)));
        }
        for _ in 0..3 {
            lanes.next().unwrap()();
        }
        assert_eq!(*said.lock().unwrap(), ["t", "b1", "b2"]);
    }

    #[test]
    fn a_signature_is_kept_until_it_ages_its_key_changes_or_there_are_too_many() {
        let key = |selector: &str| {
            let domain = crate::mail::Domain::parse("example.com").unwrap();
            let key = SigningKey::new(domain, selector.into(), Algorithm::Rsa, None);
            Keys::from_elem(Arc::new(key), 1)
        };
        let (old, new) = (key("old"), key("new"));
        let reuse = limits::SIGNATURE_REUSED.as_millis() as u64;
        let mut kept = Kept::default();
        let first = kept.of(1, &old, 0);
        assert!(Arc::ptr_eq(&first, &kept.of(1, &old, reuse - 1)));
        assert!(!Arc::ptr_eq(&first, &kept.of(1, &old, reuse)));
        let second = kept.of(1, &new, reuse);
        assert!(Arc::ptr_eq(&second, &kept.of(1, &new, reuse)));
        for position in 2..=limits::SIGNATURES_KEPT as u64 + 1 {
            kept.of(position, &new, reuse);
        }
        assert_eq!(kept.signatures.len(), limits::SIGNATURES_KEPT);
        assert!(!Arc::ptr_eq(&second, &kept.of(1, &new, reuse)));
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
                let done: Result<(), String> = lanes.run(Lane::Broadcast, work).await;
                assert!(done.is_err());
            }
            assert_eq!(lanes.run(Lane::Broadcast, || 5).await, Ok(5));
        });
        lanes.stop();
        thread.join().unwrap();
    }
}
