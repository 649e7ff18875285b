//! Keys by which a client says that a message is the same as before: whoever had no answer sends it again, and it goes once.
//!
//! Promises: of the messages with one key, within [`limits::IDEMPOTENCY_TIME`], one is taken; the others are told of that one.
//! A key that was taken is in the message's own record, so it is exactly as durable as the message.
//! Does not know: where keys come from, nor how they outlive a restart (`readers::idempotency`). Time is an argument.
//!
//! A key is scoped to its server and kept as a hash: 128 bits, so that two of them never meet by chance.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use crate::clock::UnixMs;
use crate::limits;
use crate::mail::MessageId;

/// What a message claims: its key, and what must be the same each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    tag: [u8; 16],
    digest: [u8; 16],
    /// What the client was told beside the id, where that is not the usual.
    pub said: Option<Box<str>>,
}

/// The message that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub id: MessageId,
    pub at: UnixMs,
    pub said: Option<Box<str>>,
}

/// Why a message with a key is neither taken nor one that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("the idempotency key was used for another message within the last 24 hours")]
    Differs,
    #[error("a message with this idempotency key is being accepted at this moment")]
    UnderWay,
}

impl Claim {
    /// `number` tells the messages of one request apart; `same` is what must not change.
    pub fn new(server: u32, key: &str, number: u32, same: &[u8]) -> Self {
        let mut tag = Context::new(&SHA256);
        tag.update(&server.to_le_bytes());
        tag.update(&number.to_le_bytes());
        tag.update(key.as_bytes());
        let mut digest = Context::new(&SHA256);
        digest.update(same);
        Self {
            tag: half(tag),
            digest: half(digest),
            said: None,
        }
    }

    /// As message records and *accepted* events hold it (FORMAT.md §6.1).
    pub fn to_bytes(&self) -> Vec<u8> {
        let said = self.said.as_deref().unwrap_or_default();
        [&self.tag[..], &self.digest, said.as_bytes()].concat()
    }

    /// `None`: written by a version that this one does not know.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first_chunk::<16>()?;
        let (digest, said) = rest.split_first_chunk::<16>()?;
        let said = std::str::from_utf8(said).ok()?;
        Some(Self {
            tag: *tag,
            digest: *digest,
            said: (!said.is_empty()).then(|| said.into()),
        })
    }
}

/// Whether a text can be a key.
pub fn is_key(text: &str) -> bool {
    let fits = (1..=limits::IDEMPOTENCY_KEY_CHARS_MAX).contains(&text.len());
    fits && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// Why it cannot.
pub const NO_KEY: &str = "a key has 1 to 255 printable ASCII characters";
const _: () = assert!(limits::IDEMPOTENCY_KEY_CHARS_MAX == 255);

fn half(hash: Context) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finish().as_ref()[..16]);
    half
}

/// The keys of a node. One lock, held for a look-up; never across I/O.
#[derive(Debug, Default)]
pub struct Keys {
    known: Mutex<Known>,
    is_complete: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<[u8; 16], Entry>,
    /// Those that were taken, oldest first.
    order: VecDeque<(UnixMs, [u8; 16])>,
}

#[derive(Debug)]
enum Entry {
    UnderWay { digest: [u8; 16] },
    Taken { digest: [u8; 16], taken: Taken },
}

impl Entry {
    fn answer(&self, claim: &Claim) -> Result<Taken, Conflict> {
        match self {
            Self::UnderWay { digest } | Self::Taken { digest, .. } if *digest != claim.digest => {
                Err(Conflict::Differs)
            }
            Self::UnderWay { .. } => Err(Conflict::UnderWay),
            Self::Taken { taken, .. } => Ok(taken.clone()),
        }
    }
}

impl Keys {
    /// Everything that a start had to tell was told.
    pub fn complete(&self) {
        // Relaxed: what was told is behind the lock.
        self.is_complete.store(true, Ordering::Relaxed);
    }

    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }

    /// What became of the claim's key so far.
    pub fn find(&self, claim: &Claim, now: UnixMs) -> Option<Result<Taken, Conflict>> {
        let mut known = self.lock();
        known.forget(now);
        Some(known.entries.get(&claim.tag)?.answer(claim))
    }

    /// Holds the key for a message that is about to be written, or tells what became of it.
    pub fn reserve(
        self: &Arc<Self>,
        claim: &Claim,
        now: UnixMs,
    ) -> Result<Reservation, Result<Taken, Conflict>> {
        let mut known = self.lock();
        known.forget(now);
        match known.entries.entry(claim.tag) {
            Place::Occupied(entry) => Err(entry.get().answer(claim)),
            Place::Vacant(place) => {
                let digest = claim.digest;
                place.insert(Entry::UnderWay { digest });
                Ok(Reservation {
                    keys: Arc::clone(self),
                    claim: claim.clone(),
                    is_taken: false,
                })
            }
        }
    }

    /// Takes over what a log says.
    pub fn insert(&self, claim: Claim, id: MessageId, at: UnixMs) {
        self.lock().insert(claim, id, at);
    }

    /// Keys that were taken, oldest first.
    pub fn all(&self) -> Vec<(Claim, MessageId, UnixMs)> {
        let known = self.lock();
        let entries = known.order.iter().filter_map(|(_, tag)| {
            let Entry::Taken { digest, taken } = known.entries.get(tag)? else {
                return None;
            };
            let claim = Claim {
                tag: *tag,
                digest: *digest,
                said: taken.said.clone(),
            };
            Some((claim, taken.id, taken.at))
        });
        entries.collect()
    }

    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, claim: Claim, id: MessageId, at: UnixMs) {
        let Claim { tag, digest, said } = claim;
        let taken = Taken { id, at, said };
        let before = self.entries.insert(tag, Entry::Taken { digest, taken });
        if !matches!(before, Some(Entry::Taken { .. })) {
            self.order.push_back((at, tag));
        }
        while self.order.len() > limits::IDEMPOTENCY_KEYS_MAX {
            self.forget_first();
        }
    }

    fn forget(&mut self, now: UnixMs) {
        let kept = limits::IDEMPOTENCY_TIME.as_millis() as u64;
        while self.order.front().is_some_and(|(at, _)| at + kept <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, tag)) = self.order.pop_front() {
            self.entries.remove(&tag);
        }
    }
}

/// A key that is held. Dropped, it is free again.
#[derive(Debug)]
pub struct Reservation {
    keys: Arc<Keys>,
    claim: Claim,
    is_taken: bool,
}

impl Reservation {
    /// The message is durable.
    pub fn taken(mut self, id: MessageId, at: UnixMs) {
        self.is_taken = true;
        self.keys.insert(self.claim.clone(), id, at);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.is_taken {
            self.keys.lock().entries.remove(&self.claim.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> MessageId {
        MessageId::from_bytes([n; 16])
    }

    #[test]
    fn one_of_the_messages_with_a_key_is_taken_and_the_others_hear_of_it() {
        let keys = Arc::new(Keys::default());
        let claim = Claim::new(1, "key", 0, b"body");
        assert_eq!(keys.find(&claim, 0), None);
        let held = keys.reserve(&claim, 0).unwrap();
        assert_eq!(
            keys.reserve(&claim, 0).unwrap_err(),
            Err(Conflict::UnderWay)
        );
        drop(held);
        keys.reserve(&claim, 0).unwrap().taken(id(1), 5);
        let taken = Taken {
            id: id(1),
            at: 5,
            said: None,
        };
        assert_eq!(keys.find(&claim, 6), Some(Ok(taken.clone())));
        assert_eq!(keys.reserve(&claim, 6).unwrap_err(), Ok(taken));
        let other = Claim::new(1, "key", 0, b"other body");
        assert_eq!(keys.find(&other, 6), Some(Err(Conflict::Differs)));
        for elsewhere in [
            Claim::new(2, "key", 0, b"body"),
            Claim::new(1, "key", 1, b"body"),
        ] {
            assert_eq!(keys.find(&elsewhere, 6), None);
        }
        let day = limits::IDEMPOTENCY_TIME.as_millis() as u64;
        assert!(keys.find(&claim, day + 4).is_some());
        assert_eq!(keys.find(&claim, day + 5), None);
        assert!(keys.is_empty());
    }

    #[test]
    fn a_claim_is_written_and_read_and_what_is_known_can_be_made_again() {
        let mut claim = Claim::new(1, "key", 3, b"body");
        claim.said = Some("Message OK, but".into());
        assert_eq!(Claim::from_bytes(&claim.to_bytes()), Some(claim.clone()));
        assert_eq!(Claim::from_bytes(&[0; 31]), None);
        let keys = Keys::default();
        keys.insert(claim.clone(), id(1), 5);
        keys.insert(claim.clone(), id(1), 5);
        assert_eq!(keys.all(), [(claim.clone(), id(1), 5)]);
        let again = Keys::default();
        for (claim, id, at) in keys.all() {
            again.insert(claim, id, at);
        }
        assert_eq!(again.find(&claim, 6), keys.find(&claim, 6));
    }
}
