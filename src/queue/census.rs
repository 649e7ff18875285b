//! Who waits, added up by what people ask for, with ages: a step at a time, as a walk over the recipients.
//!
//! A recipient's age is told by its expiry, where that comes from the age limit of its pool (see `insert.rs`); others are
//! counted as of unknown age. Outcomes are counted per queue since it was made, for whoever compares two censuses.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::key::{PoolId, SourceId};
use super::schedule::{Route, Scheduler};
use super::store::State;
use super::walk::Walk;
use crate::clock::UnixMs;

/// Upper ends of the columns in minutes, as Postfix's qshape has them; a last one is open.
pub const AGE_MINUTES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Domain,
    Site,
    Stream,
    Server,
    Source,
    Pool,
}

/// What a row of a census is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    Domain(PoolId, Arc<str>),
    /// `None`: whose route is not known now.
    Site(PoolId, Option<Arc<str>>),
    /// Of a server, by its id and the name that it had.
    Stream(u32, Arc<str>, Arc<str>),
    Server(u32, Arc<str>),
    /// That mail takes now, or sticks to while its route is not known.
    Source(Option<SourceId>),
    Pool(PoolId),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub ready: u64,
    pub deferred: u64,
    pub in_flight: u64,
    /// By [`AGE_MINUTES`].
    pub ages: [u64; AGE_MINUTES.len() + 1],
    pub age_unknown: u64,
    /// Of the deferred: not attempted yet, because their time has not come.
    pub scheduled: u64,
    pub oldest: Option<UnixMs>,
    /// Recipients that have ended after an attempt, of the queues that there are.
    pub outcomes: u64,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.ready + self.deferred + self.in_flight
    }
}

/// A census under way.
#[derive(Debug)]
pub struct Census {
    by: By,
    walk: Walk,
    groups: FxHashMap<Group, u32>,
    of_queues: FxHashMap<u32, u32>,
    tallies: Vec<Tally>,
}

impl Census {
    pub fn new(by: By) -> Self {
        Self {
            by,
            walk: Walk::default(),
            groups: FxHashMap::default(),
            of_queues: FxHashMap::default(),
            tallies: Vec::new(),
        }
    }

    /// In no particular order.
    pub fn rows(mut self) -> Vec<(Group, Tally)> {
        let groups = self.groups.into_iter();
        let rows = groups.map(|(group, at)| {
            let tally = std::mem::take(&mut self.tallies[at as usize]);
            (group, tally)
        });
        rows.collect()
    }
}

impl Scheduler {
    /// The next step; `true`: it was the last.
    pub fn census(&self, census: &mut Census) -> bool {
        let (entries, done) = self.store.chunk(census.walk.step());
        let mut last = None;
        for (_, entry) in entries {
            let state = entry.state();
            if matches!(state, State::Free | State::Dead) {
                continue;
            }
            // Neighbours in memory came together.
            let at = match last {
                Some((queue, at)) if queue == entry.queue => at,
                _ => self.tally_of(entry.queue, census),
            };
            last = Some((entry.queue, at));
            let tally = &mut census.tallies[at as usize];
            match state {
                State::Ready => tally.ready += 1,
                State::Deferred => {
                    tally.deferred += 1;
                    tally.scheduled += u64::from(entry.attempts == 0);
                }
                _ => tally.in_flight += 1,
            }
            if entry.expires & 1 != 0 {
                tally.age_unknown += 1;
                continue;
            }
            let pool = self.pool(self.queues[entry.queue].pool);
            let max_age = pool.config.retry.max_age.as_millis() as u64;
            let accepted = self.ticks.ms(entry.expires).saturating_sub(max_age);
            let minutes = self.now.saturating_sub(accepted) / 60_000;
            tally.ages[AGE_MINUTES.partition_point(|limit| *limit <= minutes)] += 1;
            tally.oldest = Some(tally.oldest.map_or(accepted, |oldest| oldest.min(accepted)));
        }
        done
    }

    fn tally_of(&self, q: u32, census: &mut Census) -> u32 {
        if let Some(&at) = census.of_queues.get(&q) {
            return at;
        }
        let group = self.group_of(q, census.by);
        let next = census.tallies.len() as u32;
        let at = *census.groups.entry(group).or_insert(next);
        if at == next {
            census.tallies.push(Tally::default());
        }
        census.tallies[at as usize].outcomes += u64::from(self.queues[q].outcomes);
        census.of_queues.insert(q, at);
        at
    }

    fn group_of(&self, q: u32, by: By) -> Group {
        let queue = &self.queues[q];
        let flow = self.flows.get(queue.flow);
        let traits = self.traits(q);
        match by {
            By::Domain => Group::Domain(queue.pool, Arc::clone(&queue.domain)),
            By::Site => Group::Site(queue.pool, self.site_key(queue)),
            By::Stream => Group::Stream(
                flow.server,
                Arc::clone(&flow.server_name),
                Arc::clone(&flow.stream),
            ),
            By::Server => Group::Server(flow.server, Arc::clone(&flow.server_name)),
            By::Source => Group::Source(match queue.route {
                Route::At { .. } => traits.sources[1],
                _ => traits.sources[0],
            }),
            By::Pool => Group::Pool(queue.pool),
        }
    }
}
