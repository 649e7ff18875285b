//! Names of things: small integers for what the scheduler keeps, and the arena that hands them out.

use std::ops::{Index, IndexMut};

pub use crate::config::{PoolId, SourceId};

/// A (pool, recipient domain). Numbers are used again once a queue is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// A (pool, site key): pools share no site, so that no back-off or budget of one can delay another (DESIGN §1.3).
/// Numbers are used again once a site is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u32);

/// One connection's dialogue, from `Work::Open` until it is reported closed. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Values named by a `u32`. Grows by chunks, so that growth never copies: a million queues are added without a stall.
pub(super) struct Arena<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    live: usize,
}

impl<T> Arena<T> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            live: 0,
        }
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.live += 1;
        if let Some(id) = self.free.pop() {
            self.chunks[id as usize / CHUNK][id as usize % CHUNK] = Some(value);
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let whole = (self.chunks.len() - 1) * CHUNK;
        let Some(last) = self.chunks.last_mut() else {
            unreachable!("a chunk was pushed above");
        };
        last.push(Some(value));
        (whole + last.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self
            .chunks
            .get_mut(id as usize / CHUNK)?
            .get_mut(id as usize % CHUNK)?
            .take()?;
        self.free.push(id);
        self.live -= 1;
        Some(value)
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.chunks
            .get(id as usize / CHUNK)?
            .get(id as usize % CHUNK)?
            .as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.chunks
            .get_mut(id as usize / CHUNK)?
            .get_mut(id as usize % CHUNK)?
            .as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.chunks.iter().flatten().enumerate();
        slots.filter_map(|(id, slot)| slot.as_ref().map(|value| (id as u32, value)))
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// One above the highest number ever handed out.
    pub(super) fn slots(&self) -> u32 {
        let last = self.chunks.last().map_or(0, Vec::len);
        let whole = self.chunks.len().saturating_sub(1) * CHUNK;
        (whole + last) as u32
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Option<T>>()
            + self.chunks.capacity() * size_of::<Vec<Option<T>>>()
            + self.free.capacity() * size_of::<u32>()
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        let Some(value) = self.get(id) else {
            panic!("nothing has the number {id}");
        };
        value
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        let Some(value) = self.get_mut(id) else {
            panic!("nothing has the number {id}");
        };
        value
    }
}

const CHUNK: usize = 1024;
