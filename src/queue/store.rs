//! Where the recipients are: 32 bytes each, in chunks, with room for the links of one ordered list.
//!
//! Growth allocates one chunk and copies nothing; an empty chunk is given back. There is no index by position: it would
//! cost as much as the recipient. Each chunk knows the range of positions in it, and since recipients come in the order
//! of their positions, a search looks into few chunks. Operators search, and senders for what they have scheduled.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut, Range};

use spool_format::{TAG_MARKS, TAG_UNKNOWN};

use super::retry::Tick;

/// One live recipient. `left` and `right` belong to the [`super::order::Ordered`] that holds it.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Of the message record in the mail log, below 2^53; above it the mark of its tag.
    place: u64,
    /// End of its life, whatever its state.
    pub(super) expires: Tick,
    /// Deferred: next attempt. In flight: handed out at.
    pub(super) due: Tick,
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) queue: u32,
    /// In order of RCPT.
    pub(super) number: u16,
    /// Attempts made; stays at 255.
    pub(super) attempts: u8,
    /// Three bits of state, five of rank (in a heap) or mark (in flight).
    tag: u8,
}

const _: () = assert!(size_of::<Entry>() == 32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A slot that nobody uses.
    Free,
    Ready,
    Deferred,
    InFlight,
    /// Handed out or moved; the list that still links it drops it when it comes to the front.
    Dead,
}

impl Entry {
    pub(super) fn new(position: u64, number: u16, queue: u32, attempts: u8, expires: Tick) -> Self {
        assert!(position <= POSITION, "position {position}");
        Self {
            place: position & POSITION,
            expires,
            due: expires,
            left: NONE,
            right: NONE,
            queue,
            number,
            attempts,
            tag: State::Dead as u8,
        }
    }

    pub(super) fn tagged(mut self, mark: u16) -> Self {
        self.place = self.position() | u64::from(mark) << POSITION_BITS;
        self
    }

    pub(super) fn position(&self) -> u64 {
        self.place & POSITION
    }

    /// [`spool_format::tag_mark`].
    pub(super) fn mark(&self) -> u16 {
        (self.place >> POSITION_BITS) as u16
    }

    pub(super) fn state(&self) -> State {
        match self.tag & STATE_BITS {
            1 => State::Ready,
            2 => State::Deferred,
            3 => State::InFlight,
            4 => State::Dead,
            _ => State::Free,
        }
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.tag = state as u8;
    }

    /// Stays linked where it is: the rank is kept.
    pub(super) fn die(&mut self) {
        self.tag = self.tag & !STATE_BITS | State::Dead as u8;
    }

    pub(super) fn rank(&self) -> u8 {
        self.tag >> 3
    }

    pub(super) fn set_rank(&mut self, rank: u8) {
        self.tag = self.tag & STATE_BITS | rank << 3;
    }
}

pub(super) struct Store {
    chunks: Vec<Chunk>,
    /// Chunks with room; the lowest is filled first, so that the others run empty.
    roomy: BTreeSet<u32>,
    used: usize,
}

struct Chunk {
    /// Empty when the memory was given back.
    entries: Box<[Entry]>,
    free: u32,
    used: u32,
    low: u64,
    high: u64,
    /// Marks that came into it, a bit for each.
    marks: Box<[u64]>,
}

impl Chunk {
    fn void() -> Self {
        Self {
            entries: Box::default(),
            free: NONE,
            used: 0,
            low: u64::MAX,
            high: 0,
            marks: Box::default(),
        }
    }

    /// All slots free, chained in order, so that neighbours in time are neighbours in memory.
    fn fill(&mut self) {
        let mut free = Entry::new(0, 0, NONE, 0, 0);
        free.set_state(State::Free);
        self.entries = vec![free; CHUNK].into_boxed_slice();
        for slot in 1..CHUNK {
            self.entries[slot - 1].left = slot as u32;
        }
        self.marks = vec![0; MARK_WORDS].into_boxed_slice();
        self.free = 0;
    }

    /// The lowest chunk keeps its memory: a queue that runs empty again and again would allocate each time.
    fn clear(&mut self, keep_memory: bool) {
        if keep_memory {
            (self.low, self.high) = (u64::MAX, 0);
            self.marks.fill(0);
        } else {
            *self = Self::void();
        }
    }
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            roomy: BTreeSet::new(),
            used: 0,
        }
    }

    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        let number = self.roomy.first().copied().unwrap_or_else(|| {
            self.chunks.push(Chunk::void());
            self.roomy.insert(self.chunks.len() as u32 - 1);
            self.chunks.len() as u32 - 1
        });
        let chunk = &mut self.chunks[number as usize];
        if chunk.entries.is_empty() {
            chunk.fill();
        }
        let slot = chunk.free;
        chunk.free = chunk.entries[slot as usize].left;
        chunk.entries[slot as usize] = entry;
        chunk.used += 1;
        chunk.low = chunk.low.min(entry.position());
        chunk.high = chunk.high.max(entry.position());
        let mark = usize::from(entry.mark());
        chunk.marks[mark / 64] |= 1 << (mark % 64);
        if chunk.free == NONE {
            self.roomy.remove(&number);
        }
        self.used += 1;
        number << CHUNK_BITS | slot
    }

    pub(super) fn remove(&mut self, index: u32) {
        let number = index >> CHUNK_BITS;
        let chunk = &mut self.chunks[number as usize];
        let entry = &mut chunk.entries[(index & SLOT_MASK) as usize];
        assert_ne!(entry.state(), State::Free, "slot {index} is freed twice");
        entry.set_state(State::Free);
        entry.left = chunk.free;
        chunk.free = index & SLOT_MASK;
        chunk.used -= 1;
        self.used -= 1;
        self.roomy.insert(number);
        if chunk.used == 0 {
            chunk.clear(number == 0);
        }
    }

    /// The used slots of a chunk; `true`: it is the last.
    pub(super) fn chunk(&self, number: u32) -> (impl Iterator<Item = (u32, &Entry)>, bool) {
        let chunk = self.chunks.get(number as usize).into_iter();
        let entries = chunk.flat_map(move |chunk| numbered(number as usize, chunk));
        (entries, number as usize + 1 >= self.chunks.len())
    }

    /// Whether recipients of this mark, or of none that is known, may be in the chunk.
    pub(super) fn may_hold(&self, number: u32, mark: u16) -> bool {
        let has = |chunk: &Chunk, mark: u16| {
            let word = chunk.marks.get(usize::from(mark) / 64);
            word.is_some_and(|word| word >> (mark % 64) & 1 == 1)
        };
        let chunk = self.chunks.get(number as usize);
        chunk.is_some_and(|chunk| has(chunk, mark) || has(chunk, TAG_UNKNOWN))
    }

    pub(super) fn chunks(&self) -> u32 {
        self.chunks.len() as u32
    }

    /// `None`: there never was such a slot.
    pub(super) fn get(&self, index: u32) -> Option<&Entry> {
        let chunk = self.chunks.get((index >> CHUNK_BITS) as usize)?;
        chunk.entries.get((index & SLOT_MASK) as usize)
    }

    /// Every used slot, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(number, chunk)| numbered(number, chunk))
    }

    /// The recipients of the message at `position`.
    pub(super) fn at_position(&self, position: u64) -> Vec<u32> {
        let chunks = self.chunks.iter().enumerate();
        let near = chunks.filter(|(_, chunk)| chunk.low <= position && position <= chunk.high);
        near.flat_map(|(number, chunk)| numbered(number, chunk))
            .filter(|(_, entry)| entry.position() == position && entry.state() != State::Dead)
            .map(|(index, _)| index)
            .collect()
    }

    /// Every recipient at a position of the range, in no particular order.
    pub(super) fn in_range(&self, positions: Range<u64>, mut found: impl FnMut(&Entry)) {
        let near = |chunk: &&Chunk| chunk.low < positions.end && positions.start <= chunk.high;
        for chunk in self.chunks.iter().filter(near) {
            let entries = chunk.entries.iter();
            let live = entries.filter(|entry| !matches!(entry.state(), State::Free | State::Dead));
            live.filter(|entry| positions.contains(&entry.position()))
                .for_each(&mut found);
        }
    }

    /// The message of this recipient lies elsewhere from now on.
    pub(super) fn reposition(&mut self, index: u32, position: u64) {
        let chunk = &mut self.chunks[(index >> CHUNK_BITS) as usize];
        chunk.low = chunk.low.min(position);
        chunk.high = chunk.high.max(position);
        let entry = &mut chunk.entries[(index & SLOT_MASK) as usize];
        entry.place = position & POSITION | entry.place & !POSITION;
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let entries: usize = self.chunks.iter().map(|chunk| chunk.entries.len()).sum();
        let marks = entries / CHUNK * MARK_WORDS * size_of::<u64>();
        marks + entries * size_of::<Entry>() + self.chunks.capacity() * size_of::<Chunk>()
    }
}

fn numbered(number: usize, chunk: &Chunk) -> impl Iterator<Item = (u32, &Entry)> {
    let used = chunk
        .entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.state() != State::Free);
    used.map(move |(slot, entry)| ((number << CHUNK_BITS | slot) as u32, entry))
}

impl Index<u32> for Store {
    type Output = Entry;

    fn index(&self, index: u32) -> &Entry {
        &self.chunks[(index >> CHUNK_BITS) as usize].entries[(index & SLOT_MASK) as usize]
    }
}

impl IndexMut<u32> for Store {
    fn index_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.chunks[(index >> CHUNK_BITS) as usize].entries[(index & SLOT_MASK) as usize]
    }
}

const POSITION_BITS: u32 = 53;
const POSITION: u64 = (1 << POSITION_BITS) - 1;
const MARK_WORDS: usize = TAG_MARKS as usize / 64;
const _: () = assert!(TAG_MARKS as u64 <= 1 << (64 - POSITION_BITS));

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

const STATE_BITS: u8 = 0b111;
const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;
const SLOT_MASK: u32 = CHUNK as u32 - 1;
