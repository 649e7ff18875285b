//! How often an address may come in, over all listeners: open connections, and failed AUTHs in the last hour.
//!
//! One small lock is taken when a connection begins and ends and when an AUTH fails, never for a message. Both tables are
//! bounded, by the connections that there may be and by [`FAILURES_MAX`].

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits;

/// Shared by all listeners of a node.
#[derive(Debug)]
pub struct Doors {
    connections_max: usize,
    per_address_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    /// Only of addresses without trust or AUTH.
    strangers: HashMap<IpAddr, usize>,
    by_address: Failures<IpAddr>,
    by_user: Failures<u64>,
}

/// An open connection; dropping it makes room.
#[derive(Debug)]
pub struct Place {
    pub(super) doors: Arc<Doors>,
    stranger: Option<IpAddr>,
}

impl Doors {
    /// `connections_max` is at most what file descriptors allow.
    pub fn new(connections_max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self {
            connections_max: connections_max.min(limits::CONNECTIONS_MAX),
            per_address_max,
            state: Mutex::default(),
        })
    }

    /// Room for one more connection, if there is any.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.lock();
        if state.connections >= self.connections_max {
            return None;
        }
        state.connections += 1;
        Some(Place {
            doors: Arc::clone(self),
            stranger: None,
        })
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    /// Whether this address failed to authenticate too often within the hour.
    pub fn locked(&self, now: Instant, client: IpAddr) -> bool {
        let failures = self.lock().by_address.count(now, &client);
        failures >= limits::AUTH_FAILURES_PER_ADDRESS_HOUR
    }

    /// Counts a failed AUTH. Returns the failures of this address or this user within the hour, whichever are more: what
    /// the delay of the answer grows with, whether or not the user exists.
    pub fn auth_failed(&self, now: Instant, client: IpAddr, user: &str) -> u32 {
        let user = {
            use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
            BuildHasherDefault::<DefaultHasher>::default().hash_one(user)
        };
        let mut state = self.lock();
        let by_address = state.by_address.add(now, client);
        by_address.max(state.by_user.add(now, user))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters are whole after every statement, so a panic elsewhere does not make them wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts the connection against its address. `false`: there are too many from there.
    pub fn stranger(&mut self, client: IpAddr) -> bool {
        self.known();
        let mut state = self.doors.lock();
        let count = state.strangers.entry(client).or_default();
        if *count >= self.doors.per_address_max {
            return false;
        }
        *count += 1;
        self.stranger = Some(client);
        true
    }

    /// The client has authenticated, or is trusted: its address does not count any more.
    pub fn known(&mut self) {
        if let Some(client) = self.stranger.take() {
            let mut state = self.doors.lock();
            if let Some(count) = state.strangers.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    state.strangers.remove(&client);
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.known();
        self.doors.lock().connections -= 1;
    }
}

/// Failures by key in a window of an hour that starts with the first one.
#[derive(Debug)]
struct Failures<K>(HashMap<K, (Instant, u32)>);

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> Failures<K> {
    fn count(&self, now: Instant, key: &K) -> u32 {
        match self.0.get(key) {
            Some((since, count)) if now.saturating_duration_since(*since) < WINDOW => *count,
            _ => 0,
        }
    }

    fn add(&mut self, now: Instant, key: K) -> u32 {
        if self.0.len() >= FAILURES_MAX && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        let (since, count) = self.0.entry(key).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count
    }

    /// Forgets what is over, else everything with a single failure, else everything: guessing from this many addresses is
    /// not stopped by counting addresses.
    fn make_room(&mut self, now: Instant) {
        self.0
            .retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
        if self.0.len() >= FAILURES_MAX {
            self.0.retain(|_, (_, count)| *count > 1);
        }
        if self.0.len() >= FAILURES_MAX {
            self.0.clear();
        }
    }
}

const WINDOW: Duration = Duration::from_secs(3600);
/// Keys in a table of failures: 50,000 of 40 octets are 2 MB.
const FAILURES_MAX: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_connection_makes_room_when_it_ends() {
        let doors = Doors::new(2, 50);
        let first = doors.enter().unwrap();
        let _second = doors.enter().unwrap();
        assert!(doors.enter().is_none());
        drop(first);
        assert!(doors.enter().is_some());
    }

    #[test]
    fn strangers_of_one_address_are_limited_until_they_are_known() {
        let doors = Doors::new(10, 1);
        let (mut a, mut b) = (doors.enter().unwrap(), doors.enter().unwrap());
        assert!(a.stranger(CLIENT));
        assert!(!b.stranger(CLIENT));
        a.known();
        assert!(b.stranger(CLIENT));
        drop((a, b));
        assert!(doors.lock().strangers.is_empty());
        assert_eq!(doors.connections(), 0);
    }

    #[test]
    fn an_address_is_locked_for_the_rest_of_the_hour() {
        let (doors, now) = (Doors::new(1, 1), Clock::start().instant());
        for n in 1..=limits::AUTH_FAILURES_PER_ADDRESS_HOUR {
            assert!(!doors.locked(now, CLIENT));
            assert_eq!(doors.auth_failed(now, CLIENT, "ada"), n);
        }
        assert!(doors.locked(now, CLIENT));
        assert!(!doors.locked(now, "192.0.2.2".parse().unwrap()));
        assert!(!doors.locked(now + WINDOW, CLIENT));
    }

    #[test]
    fn failures_of_one_user_add_up_over_addresses() {
        let (doors, now) = (Doors::new(1, 1), Clock::start().instant());
        assert_eq!(doors.auth_failed(now, CLIENT, "ada"), 1);
        assert_eq!(
            doors.auth_failed(now, "192.0.2.2".parse().unwrap(), "ada"),
            2
        );
    }

    #[test]
    fn the_table_of_failures_is_bounded() {
        let now = Clock::start().instant();
        let mut failures = Failures::<usize>::default();
        failures.add(now, usize::MAX);
        failures.add(now, usize::MAX);
        for key in 0..2 * FAILURES_MAX {
            failures.add(now, key);
            assert!(failures.0.len() <= FAILURES_MAX);
        }
        assert_eq!(failures.count(now, &usize::MAX), 2);
    }
}
