//! All suppressions of the node, as acceptance asks for them.
//!
//! Promises: a look-up is a hash and a search in memory; it takes no lock and waits for no change. An entry costs 12 octets.
//! Does not know: addresses. It holds tags, and for each its reason and origin.
//!
//! How: 16,384 sorted slices by the tag's first 14 bits, each a value of its own that is swapped when an entry of it changes.
//! With 10 million entries a change copies 7 KB, a few microseconds; an open-addressed table would save that, and cost room
//! for its gaps and a pause whenever it grows. The tag's next 92 bits and the four of the suppression are one entry, so that
//! 106 bits tell addresses apart. Fewer slices are longer, more of them leave the cache: both cost time.
//!
//! One writer at a time: two would lose each other's changes.

use std::cmp::Ordering;
use std::sync::Arc;

use arc_swap::ArcSwap;
use memmap2::MmapMut;

use super::{Suppression, Tag, TagKey};
use crate::mail::Mailbox;

/// Shared by those who ask; changed by the one reader that keeps it.
pub struct Set {
    key: TagKey,
    shards: Box<[ArcSwap<Vec<Slot>>]>,
}

/// 92 bits of the tag and, lowest, four of the suppression.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot([u32; 3]);

impl Slot {
    fn new(tag: Tag, suppression: Option<Suppression>) -> Self {
        let bits = tag.0 << SHARD_BITS >> (128 - 96);
        let word = |place: u32| (bits >> (32 * place)) as u32;
        let code = suppression.map_or(0, Suppression::code);
        Self([word(2), word(1), (word(0) & !CODE) | u32::from(code)])
    }

    fn tag_bits(self) -> [u32; 3] {
        [self.0[0], self.0[1], self.0[2] & !CODE]
    }

    /// `None`: it was lifted.
    fn suppression(self) -> Option<Suppression> {
        Suppression::from_code((self.0[2] & CODE) as u8)
    }

    fn compare(self, other: Self) -> Ordering {
        self.tag_bits().cmp(&other.tag_bits())
    }
}

impl Set {
    /// Empty.
    pub fn new(key: TagKey) -> Self {
        Loading::new(key).finish()
    }

    pub fn key(&self) -> &TagKey {
        &self.key
    }

    pub fn of(&self, server: u32, stream: &str, address: &Mailbox) -> Option<Suppression> {
        self.find(self.key.tag(server, stream, address))
    }

    pub fn find(&self, tag: Tag) -> Option<Suppression> {
        let slots = self.shards[shard(tag)].load();
        let wanted = Slot::new(tag, None);
        let place = search(&slots, wanted).ok()?;
        slots[place].suppression()
    }

    /// Puts a suppression, or with `None` takes it away.
    pub fn put(&self, tag: Tag, suppression: Option<Suppression>) {
        let shard = &self.shards[shard(tag)];
        let slots = shard.load();
        let new = Slot::new(tag, suppression);
        let (before, behind) = match search(&slots, new) {
            Ok(place) => (&slots[..place], &slots[place + 1..]),
            Err(_) if suppression.is_none() => return,
            Err(place) => slots.split_at(place),
        };
        let mut changed =
            Vec::with_capacity(before.len() + suppression.iter().len() + behind.len());
        changed.extend_from_slice(before);
        changed.extend(suppression.map(|_| new));
        changed.extend_from_slice(behind);
        shard.store(Arc::new(changed));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|slots| slots.load().len()).sum()
    }

    /// Octets of memory.
    pub fn bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|s| s.load().capacity()).sum();
        slots * size_of::<Slot>() + SHARDS * SHARD_BYTES
    }

    /// Takes over all entries of another set.
    pub fn replace(&self, with: Self) {
        for (here, there) in self.shards.iter().zip(&with.shards) {
            here.store(there.load_full());
        }
    }
}

/// A set that is being filled, for which it need not be in order. What comes later counts.
///
/// Entries wait in maps of their own, which go back to the system whole, until it is known how many each slice holds. Slices that
/// grow one by one would leave half as much again to the allocator, which keeps it.
pub struct Loading {
    key: TagKey,
    /// Entries in the order in which they came, [`PER_SLAB`] in each but the last.
    slabs: Vec<Slab>,
    /// In the last slab.
    used: usize,
    counts: Box<[u32]>,
}

enum Slab {
    Map(MmapMut),
    /// The system gave no map.
    Heap(Box<[u8]>),
}

impl Slab {
    fn new() -> Self {
        match MmapMut::map_anon(SLAB) {
            Ok(map) => Self::Map(map),
            Err(_) => Self::Heap(vec![0; SLAB].into()),
        }
    }

    fn octets(&mut self) -> &mut [u8] {
        match self {
            Self::Map(map) => map,
            Self::Heap(octets) => octets,
        }
    }
}

impl Loading {
    pub fn new(key: TagKey) -> Self {
        Self {
            key,
            slabs: Vec::new(),
            used: PER_SLAB,
            counts: vec![0; SHARDS].into(),
        }
    }

    pub fn key(&self) -> &TagKey {
        &self.key
    }

    pub fn put(&mut self, tag: Tag, suppression: Option<Suppression>) {
        if self.used == PER_SLAB {
            self.slabs.push(Slab::new());
            self.used = 0;
        }
        let (shard, slot) = (shard(tag), Slot::new(tag, suppression));
        let Some(slab) = self.slabs.last_mut() else {
            return;
        };
        let entry = &mut slab.octets()[self.used * ENTRY..][..ENTRY];
        entry[..2].copy_from_slice(&(shard as u16).to_le_bytes());
        for (octets, word) in entry[2..].chunks_exact_mut(4).zip(slot.0) {
            octets.copy_from_slice(&word.to_le_bytes());
        }
        self.used += 1;
        self.counts[shard] += 1;
    }

    pub fn finish(self) -> Set {
        let counts = self.counts.iter();
        let mut shards: Vec<Vec<Slot>> = counts
            .map(|&count| Vec::with_capacity(count as usize))
            .collect();
        let last = self.slabs.len().saturating_sub(1);
        for (number, mut slab) in self.slabs.into_iter().enumerate() {
            let used = if number == last { self.used } else { PER_SLAB };
            for entry in slab.octets()[..used * ENTRY].chunks_exact(ENTRY) {
                let shard = u16::from_le_bytes([entry[0], entry[1]]);
                let word = |at: usize| {
                    u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
                };
                shards[usize::from(shard)].push(Slot([word(2), word(6), word(10)]));
            }
        }
        let shards = shards.into_iter().map(|mut slots| {
            // Stable: of the same tag the last one is the latest.
            slots.sort_by(|a, b| a.compare(*b));
            slots.reverse();
            slots.dedup_by_key(|slot| slot.tag_bits());
            slots.retain(|slot| slot.suppression().is_some());
            slots.reverse();
            slots.shrink_to_fit();
            ArcSwap::from_pointee(slots)
        });
        Set {
            key: self.key,
            shards: shards.collect(),
        }
    }
}

/// As `binary_search`, but from where the tag ought to be, since tags are spread evenly: of 600 it is 12 places off, which is a
/// line or two of the cache next to each other, where halving touches six far apart (of 10 million, a third of the time).
fn search(slots: &[Slot], wanted: Slot) -> Result<usize, usize> {
    let guess = (u64::from(wanted.0[0]) * slots.len() as u64) >> 32;
    // What is wanted is not before `low`, and before `high`.
    let (mut low, mut high) = (guess as usize, guess as usize);
    let mut step = 4;
    while low > 0 && slots[low - 1].compare(wanted).is_ge() {
        (high, low) = (low, low.saturating_sub(step));
        step *= 2;
    }
    let mut step = 4;
    while high < slots.len() && slots[high].compare(wanted).is_le() {
        (low, high) = (high, (high + step).min(slots.len()));
        step *= 2;
    }
    let found = slots[low..high].binary_search_by(|slot| slot.compare(wanted));
    found.map(|place| low + place).map_err(|place| low + place)
}

fn shard(tag: Tag) -> usize {
    (tag.0 >> (128 - SHARD_BITS)) as usize
}

const SHARD_BITS: u32 = 14;
const SHARDS: usize = 1 << SHARD_BITS;
/// The pointer to a slice, its counters, and its place and length.
const SHARD_BYTES: usize = 8 + 16 + 24;
const CODE: u32 = 0xF;
/// Of an entry that waits: the number of its slice, and the slot.
const ENTRY: usize = 2 + 12;
const SLAB: usize = 4 << 20;
const PER_SLAB: usize = SLAB / ENTRY;

const _: () = assert!(size_of::<Slot>() == 12);
const _: () = assert!(SHARDS - 1 <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{Origin, Reason};
    use super::*;

    /// Few tags, of which some differ in their last bits that count only, so that they meet.
    fn tag() -> impl Strategy<Value = Tag> {
        let high = prop_oneof![Just(0u128), Just(1), Just((1 << SHARD_BITS) - 1)];
        let low = prop_oneof![Just(0u128), Just(1), Just(1 << 91), Just((1 << 92) - 1)];
        (high, low).prop_map(|(high, low)| Tag((high << 92 | low) << (128 - 92 - SHARD_BITS)))
    }

    fn suppression() -> impl Strategy<Value = Option<Suppression>> {
        let some = (0..3usize, 0..3usize).prop_map(|(reason, origin)| Suppression {
            reason: Reason::ALL[reason],
            origin: Origin::ALL[origin],
        });
        proptest::option::weighted(0.7, some)
    }

    /// Even and uneven tags, those that are there and those beside them.
    #[test]
    fn the_search_finds_what_halving_finds() {
        let mut rng = fastrand::Rng::with_seed(5);
        for len in [0usize, 1, 2, 3, 10, 1_000, 5_000] {
            for shift in [0, 8, 60] {
                let slot = |bits: u128| Slot::new(Tag(bits >> SHARD_BITS >> shift), None);
                let mut slots: Vec<Slot> = (0..len).map(|_| slot(rng.u128(..))).collect();
                slots.sort_by(|a, b| a.compare(*b));
                slots.dedup();
                let beside = (0..1_000).map(|_| slot(rng.u128(..)));
                let ends = [slot(0), slot(u128::MAX)];
                let there = slots.clone();
                for wanted in there.into_iter().chain(beside).chain(ends) {
                    let halving = slots.binary_search_by(|slot| slot.compare(wanted));
                    assert_eq!(search(&slots, wanted), halving);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_set_holds_what_a_map_holds_whether_loaded_or_changed(
            loaded in proptest::collection::vec((tag(), suppression()), 0..60),
            changes in proptest::collection::vec((tag(), suppression()), 0..60),
        ) {
            let key = TagKey::new([1; 16]);
            let mut model = BTreeMap::new();
            let mut loading = Loading::new(key.clone());
            for (tag, suppression) in loaded {
                loading.put(tag, suppression);
                model.insert(tag, suppression);
            }
            let set = loading.finish();
            for (tag, suppression) in changes {
                prop_assert_eq!(set.find(tag), model.get(&tag).copied().flatten());
                set.put(tag, suppression);
                model.insert(tag, suppression);
            }
            for (tag, suppression) in &model {
                prop_assert_eq!(set.find(*tag), *suppression);
            }
            prop_assert_eq!(set.count(), model.values().flatten().count());
            prop_assert!(set.bytes() <= set.count() * 12 + SHARDS * SHARD_BYTES);
        }
    }
}
