//! Which queues belong together: those of a stream, those that stick to a source, those that lead to a path. So a verb
//! on a stream, server, pool, source or site looks at the queues that it means and at no others.
//!
//! Ordered sets, so that a look through one can stop anywhere and go on by number although queues came and went meanwhile.
//! Some 45 bytes a queue, nothing for a recipient.

use std::collections::BTreeSet;

use super::filter::Filter;
use super::key::PoolId;
use super::schedule::Scheduler;

#[derive(Default)]
pub(super) struct Index {
    /// Flow, queue.
    flows: BTreeSet<(u32, u32)>,
    /// Pool, source that it sticks to, queue.
    lanes: BTreeSet<(PoolId, u16, u32)>,
    /// Pool, source, path, queue that leads there.
    ways: BTreeSet<(PoolId, u16, u32, u32)>,
}

/// Queues that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// By number, whatever they are.
    All,
    Flow(u32),
    /// Of a pool.
    Pool(PoolId),
    /// That stick to a source.
    Lane(PoolId, u16),
    /// That take a source and stick to another one.
    Way(PoolId, u16),
    Path(PoolId, u16, u32),
}

/// How far a look through a group is: what comes next, in the group's order.
pub(super) type Cursor = (u16, u32, u32);

impl Index {
    pub(super) fn insert(&mut self, q: u32, pool: PoolId, lane: u16, flow: u32) {
        self.flows.insert((flow, q));
        self.lanes.insert((pool, lane, q));
    }

    pub(super) fn remove(&mut self, q: u32, pool: PoolId, lane: u16, flow: u32) {
        self.flows.remove(&(flow, q));
        self.lanes.remove(&(pool, lane, q));
    }

    pub(super) fn lead(&mut self, q: u32, (pool, lane, path): (PoolId, u16, u32)) {
        self.ways.insert((pool, lane, path, q));
    }

    pub(super) fn detach(&mut self, q: u32, (pool, lane, path): (PoolId, u16, u32)) {
        self.ways.remove(&(pool, lane, path, q));
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // As full as trees are on average.
        2 * (self.flows.len() * size_of::<(u32, u32)>()
            + self.lanes.len() * size_of::<(PoolId, u16, u32)>()
            + self.ways.len() * size_of::<(PoolId, u16, u32, u32)>())
    }
}

impl Scheduler {
    /// The groups in which all queues are that the filter may mean, the fewest that are found at once. Without a domain.
    pub(super) fn groups_of(&self, filter: &Filter) -> Vec<Group> {
        let pools = (0..self.pools.len() as u16).map(PoolId);
        let pools = pools.filter(|pool| filter.pool.is_none_or(|wanted| wanted == *pool));
        if let Some(key) = filter.site.as_deref() {
            let sites = pools.filter_map(|pool| self.pool(pool).sites.get(key));
            let paths = sites.flat_map(|&site| &self.sites[site].paths);
            return paths
                .map(|&p| Group::Path(self.paths[p].pool, self.paths[p].lane, p))
                .collect();
        }
        if filter.server.is_some() || filter.stream.is_some() {
            let flows = self.flows.of(filter.server, filter.stream.as_deref());
            return flows.into_iter().map(Group::Flow).collect();
        }
        if let Some(source) = filter.source {
            let groups = pools.flat_map(|pool| {
                let lanes = self.pool(pool).lanes.iter().zip(0..);
                let mine = lanes.filter(move |(lane, _)| lane.source == source);
                mine.flat_map(move |(_, lane)| [Group::Lane(pool, lane), Group::Way(pool, lane)])
            });
            return groups.collect();
        }
        match filter.pool {
            Some(pool) => vec![Group::Pool(pool)],
            None => vec![Group::All],
        }
    }

    /// The next queues of a group, at most so many, and whether it ends with them.
    pub(super) fn next_in(
        &self,
        group: Group,
        cursor: &mut Cursor,
        most: usize,
    ) -> (Vec<u32>, bool) {
        let index = &self.index;
        let from = *cursor;
        let mut next = from;
        let mut take = |found: &mut dyn Iterator<Item = (Cursor, u32)>| -> Vec<u32> {
            let some = found.take(most);
            some.map(|(at, q)| {
                next = (at.0, at.1, at.2.saturating_add(1));
                q
            })
            .collect()
        };
        let found = match group {
            Group::All => {
                let end = from.2.saturating_add(most as u32);
                let found = (from.2..end).filter(|&q| self.queues.get(q).is_some());
                let found = found.collect();
                *cursor = (0, 0, end);
                return (found, end >= self.queues.slots());
            }
            Group::Flow(flow) => {
                let all = index.flows.range((flow, from.2)..=(flow, u32::MAX));
                take(&mut all.map(|&(_, q)| ((0, 0, q), q)))
            }
            Group::Pool(pool) => {
                let all = index
                    .lanes
                    .range((pool, from.0, from.2)..=(pool, u16::MAX, u32::MAX));
                take(&mut all.map(|&(_, lane, q)| ((lane, 0, q), q)))
            }
            Group::Lane(pool, lane) => {
                let all = index
                    .lanes
                    .range((pool, lane, from.2)..=(pool, lane, u32::MAX));
                take(&mut all.map(|&(_, _, q)| ((0, 0, q), q)))
            }
            Group::Way(pool, lane) => {
                let first = (pool, lane, from.1, from.2);
                let all = index.ways.range(first..=(pool, lane, u32::MAX, u32::MAX));
                let mut found = take(&mut all.map(|&(_, _, path, q)| ((0, path, q), q)));
                let ended = found.len() < most;
                // Its own were found by its name.
                found.retain(|&q| self.queues[q].lane != lane);
                *cursor = next;
                return (found, ended);
            }
            Group::Path(pool, lane, path) => {
                let first = (pool, lane, path, from.2);
                let all = index.ways.range(first..=(pool, lane, path, u32::MAX));
                take(&mut all.map(|&(_, _, _, q)| ((0, 0, q), q)))
            }
        };
        *cursor = next;
        let ended = found.len() < most;
        (found, ended)
    }

    /// The index says of each queue what the queue says.
    /// # Panics
    /// When that does not hold.
    pub(super) fn check_index(&self) {
        let index = &self.index;
        let all = self.queues.len();
        assert_eq!((index.flows.len(), index.lanes.len()), (all, all));
        let mut led = 0;
        for (q, queue) in self.queues.iter() {
            assert!(index.flows.contains(&(queue.flow, q)));
            assert!(index.lanes.contains(&(queue.pool, queue.lane, q)));
            if let Some((pool, lane, path)) = self.way_of(q) {
                assert!(index.ways.contains(&(pool, lane, path, q)));
                led += 1;
            }
        }
        assert_eq!(index.ways.len(), led, "queues that lead somewhere");
    }
}
