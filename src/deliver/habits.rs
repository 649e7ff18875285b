//! What is remembered of hosts that mishandle what they offer, and of messages of which one recipient breaks sessions.
//!
//! Promises: bounded memory; everything is forgotten in time, so that a host that was repaired is soon used fully again.
//! It only ever costs round trips: nothing is decided about mail by it. Kept in memory alone: a restart tries afresh.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::clock::UnixMs;
use crate::limits;
use crate::smtp::client::{Avoid, Habit, Sign};

#[derive(Debug, Default)]
pub struct Habits {
    hosts: BTreeMap<IpAddr, Host>,
    /// By position, until when.
    isolated: BTreeMap<u64, UnixMs>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Host {
    ahead: Strikes,
    pipelining: Strikes,
    chunking: Strikes,
}

#[derive(Clone, Copy, Debug, Default)]
struct Strikes {
    count: u8,
    until: UnixMs,
}

impl Habits {
    /// What is not used with the host at `address`.
    pub fn avoid(&self, now: UnixMs, address: IpAddr) -> Avoid {
        let host = self.hosts.get(&address).copied().unwrap_or_default();
        let pipelining = host.pipelining.stands(now);
        Avoid {
            ahead: pipelining || host.ahead.stands(now),
            pipelining,
            chunking: host.chunking.stands(now),
        }
    }

    /// Says whether it is avoided from now on and was not before. What may have been the network's doing must be seen twice.
    pub fn note(&mut self, now: UnixMs, address: IpAddr, sign: Sign) -> bool {
        if !self.hosts.contains_key(&address) {
            let over = |host: &Host| host.all().iter().all(|strikes| strikes.until <= now);
            make_room(&mut self.hosts, limits::HABITS_MAX, over);
        }
        let host = self.hosts.entry(address).or_default();
        let strikes = match sign.habit {
            Habit::Ahead => &mut host.ahead,
            Habit::Pipelining => &mut host.pipelining,
            Habit::Chunking => &mut host.chunking,
        };
        let stood = strikes.stands(now);
        if strikes.until <= now {
            strikes.count = 0;
        }
        let weight = if sign.certain { STRIKES } else { 1 };
        strikes.count = strikes.count.saturating_add(weight);
        strikes.until = now + limits::HABIT_MEMORY.as_millis() as u64;
        !stood && strikes.stands(now)
    }

    /// A session broke in a transaction with several recipients of the message at `position`.
    pub fn isolate(&mut self, now: UnixMs, position: u64) {
        make_room(&mut self.isolated, limits::ISOLATED_MESSAGES_MAX, |until| {
            *until <= now
        });
        let until = now + limits::ISOLATION_MEMORY.as_millis() as u64;
        self.isolated.insert(position, until);
    }

    /// Whether recipients of the message at `position` go one at a time.
    pub fn is_isolated(&self, now: UnixMs, position: u64) -> bool {
        let until = self.isolated.get(&position);
        until.is_some_and(|until| *until > now)
    }

    /// Hosts of which something is remembered.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }
}

impl Host {
    fn all(&self) -> [Strikes; 3] {
        [self.ahead, self.pipelining, self.chunking]
    }
}

impl Strikes {
    fn stands(self, now: UnixMs) -> bool {
        self.count >= STRIKES && self.until > now
    }
}

/// Drops what is over; if nothing is, something.
fn make_room<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, max: usize, over: impl Fn(&V) -> bool) {
    if map.len() >= max {
        map.retain(|_, value| !over(value));
    }
    if map.len() >= max {
        map.pop_first();
    }
}

/// Signs that are not certain, until they count.
const STRIKES: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: UnixMs = 3_600_000;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn what_may_have_been_chance_counts_the_second_time_and_is_forgotten() {
        let mut habits = Habits::default();
        let chance = Sign {
            habit: Habit::Ahead,
            certain: false,
        };
        assert!(!habits.note(0, address(1), chance));
        assert_eq!(habits.avoid(0, address(1)), Avoid::default());
        // Too late to be the second time.
        assert!(!habits.note(2 * HOUR, address(1), chance));
        assert!(habits.note(2 * HOUR + 1, address(1), chance));
        assert!(habits.avoid(2 * HOUR + 2, address(1)).ahead);
        assert_eq!(habits.avoid(2 * HOUR + 2, address(2)), Avoid::default());
        assert_eq!(habits.avoid(4 * HOUR, address(1)), Avoid::default());
    }

    #[test]
    fn who_mishandles_pipelining_is_sent_nothing_ahead_either() {
        let mut habits = Habits::default();
        let sure = |habit| Sign {
            habit,
            certain: true,
        };
        assert!(habits.note(1, address(1), sure(Habit::Pipelining)));
        assert!(!habits.note(1, address(1), sure(Habit::Pipelining)));
        assert!(habits.note(1, address(1), sure(Habit::Chunking)));
        let avoid = habits.avoid(2, address(1));
        assert!(avoid.pipelining && avoid.ahead && avoid.chunking);
    }

    #[test]
    fn memory_is_bounded() {
        let mut habits = Habits::default();
        let sign = Sign {
            habit: Habit::Chunking,
            certain: true,
        };
        for number in 0..limits::HABITS_MAX as u32 + 10 {
            habits.note(1, address(number), sign);
            habits.isolate(1, u64::from(number));
        }
        assert_eq!(habits.hosts(), limits::HABITS_MAX);
        assert_eq!(habits.isolated.len(), limits::ISOLATED_MESSAGES_MAX);
        let last = limits::HABITS_MAX as u32 + 9;
        assert!(habits.avoid(2, address(last)).chunking && habits.is_isolated(2, last.into()));
        // Those that are over go first.
        habits.note(HOUR + 2, address(0), sign);
        assert_eq!(habits.hosts(), 1);
    }
}
