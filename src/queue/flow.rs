//! Flows: one stream of one server (tenant). Within a path, flows take turns; within a flow, its queues do.
//!
//! Flows are numbered when they are first seen and stay for as long as the node runs: there are as many as streams.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::key::PoolId;
use crate::config::Share;

/// Whose mail it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowName<'a> {
    /// The tenant.
    pub server: u32,
    pub server_name: &'a str,
    pub stream: &'a str,
}

pub(super) struct Flow {
    pub(super) server: u32,
    pub(super) server_name: Arc<str>,
    pub(super) stream: Arc<str>,
    /// Recipients per round.
    pub(super) weight: u32,
}

impl Flow {
    pub(super) fn is(&self, name: &FlowName<'_>) -> bool {
        self.server == name.server && *self.stream == *name.stream
    }
}

#[derive(Default)]
pub(super) struct Flows {
    weights: Vec<Share>,
    numbers: BTreeMap<u32, Vec<u32>>,
    all: Vec<Flow>,
}

impl Flows {
    pub(super) fn new(weights: Vec<Share>) -> Self {
        Self {
            weights,
            ..Self::default()
        }
    }

    pub(super) fn number(&mut self, name: &FlowName<'_>) -> u32 {
        let of_server = self.numbers.get(&name.server).into_iter().flatten();
        if let Some(&known) = of_server
            .copied()
            .find(|&n| self.all[n as usize].is(name))
            .as_ref()
        {
            return known;
        }
        let number = self.all.len() as u32;
        let weight = self.weight_of(name);
        self.all.push(Flow {
            server: name.server,
            server_name: name.server_name.into(),
            stream: name.stream.into(),
            weight,
        });
        self.numbers.entry(name.server).or_default().push(number);
        number
    }

    fn weight_of(&self, name: &FlowName<'_>) -> u32 {
        let of_server = self
            .weights
            .iter()
            .filter(|w| *w.server == *name.server_name);
        let applies = of_server.filter(|w| w.stream.as_ref().is_none_or(|s| **s == *name.stream));
        let product = applies.fold(1u32, |product, w| product.saturating_mul(w.weight));
        product.clamp(1, WEIGHT_MAX)
    }

    /// Those of a server, of streams of this name, or both.
    pub(super) fn of(&self, server: Option<u32>, stream: Option<&str>) -> Vec<u32> {
        let is_meant = |&n: &u32| stream.is_none_or(|stream| *self.get(n).stream == *stream);
        match server {
            Some(server) => {
                let mine = self.numbers.get(&server).into_iter().flatten();
                mine.copied().filter(is_meant).collect()
            }
            None => (0..self.all.len() as u32).filter(is_meant).collect(),
        }
    }

    pub(super) fn get(&self, number: u32) -> &Flow {
        &self.all[number as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.all.capacity() * (size_of::<Flow>() + 64)
    }
}

/// Of a queue within its pool. `lane` is the source that its messages stick to, as an index into the pool's sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) domain: Arc<str>,
    pub(super) flow: u32,
    pub(super) lane: u16,
    pub(super) home: Home,
}

/// Where a queue's mail is without an operator's directives, and the one that it is set aside for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Home {
    pub(super) pool: PoolId,
    pub(super) lane: u16,
    /// A directive that names messages or tags; 0: none.
    pub(super) aside: u32,
}

impl Home {
    pub(super) const FIRST: Self = Self {
        pool: PoolId(0),
        lane: 0,
        aside: 0,
    };
    pub(super) const LAST: Self = Self {
        pool: PoolId(u16::MAX),
        lane: u16::MAX,
        aside: u32::MAX,
    };
}

/// Domain, flow, lane, home.
pub(super) type Key<'a> = (&'a str, u32, u16, Home);

/// A [`Name`] to search by, without one being made.
pub(super) trait Named {
    fn key(&self) -> Key<'_>;
}

impl Named for Name {
    fn key(&self) -> Key<'_> {
        (&self.domain, self.flow, self.lane, self.home)
    }
}

impl Named for Key<'_> {
    fn key(&self) -> Key<'_> {
        *self
    }
}

impl<'a> Borrow<dyn Named + 'a> for Name {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn Named + '_ {}

impl PartialOrd for dyn Named + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Named + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Of one stream, its server's included.
const WEIGHT_MAX: u32 = 1_000_000;
