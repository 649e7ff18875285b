//! Queue and delivery sessions under virtual time against modelled remote sites. Same code as in production: the scheduler,
//! the dialogue, what a session owes, habits and ambiguous ends. No clock, no sleeps, no sockets, no tasks.
//!
//! Each seed is a world: a configuration with limits and shares, tenants with policies of their own, remote sites that speak
//! SMTP octet for octet and have their troubles, mail over some hours, an operator, a crash. A world runs until nothing is
//! live and must hold (`judge.rs`, `watch.rs`): no recipient lost, one outcome each; what we call delivered a host has, and
//! no more often than we doubted; deadlines, releases and retries exact; what is suspended or rerouted handed out as the operator
//! said; no limit exceeded, those of whole providers included, counted from what was handed
//! out and from what hosts saw; none starved where nothing is wrong; no host hammered; and the same trace, bit for bit, when
//! the seed runs again.
//! `SIM_SEED=n` runs one world and prints what became of it, with `SIM_DIALOGUE=1` all that was said; `SIM_SEEDS=n` runs so
//! many (`scripts/test`: 10,000).

mod agent;
mod day;
mod directives;
mod judge;
mod node;
mod operator;
mod plan;
mod shares;
mod site;
mod trouble;
mod watch;
mod wire;
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use posthaste::clock::UnixMs;
use posthaste::config::{Ambiguous, Config, Retry, Share, StreamKind, Timeouts};
use posthaste::deliver::{
    Attempts, Content, Errand, Habits, Handover, Outbound, OutboundRecipient, RecipientResult,
    SessionPlan, Settling, Sign, dials, disposition, judge_ambiguous, trouble_of,
};
use posthaste::outcome::{Cause, CauseClass, Outcome, Scope};
use posthaste::queue::{
    Act as Verb, Affected, Batch, Directive, Disposition, Filter, FlowName, Life, Limits,
    NewRecipient, PoolConfig, PoolId, QueueId, RouteAnswer, Scheduler, Selection, SessionId,
    SessionState, SourceId, Standing, Stop, StopCause, Tag, Trouble as SourceTrouble, Walk,
    Withdrawal, Work,
};
use posthaste::route::NextHop;
use posthaste::smtp::client::{
    ClientEvent, ClientSession, ConnectError, Dial, Ending, Habit, Verdict,
};

use agent::{Agent, Report};
use day::{Day, Times};
use plan::{Dns, Mail, Plan, Rules, Setup};
use site::{Act, Conn, Site};
use trouble::Trouble;
use watch::Watch;
use wire::{Line, Wire};
use world::{EXACT, End, Event, Place, Recipient, Story, World, position_of};

#[test]
fn worlds_lose_nothing_and_replay_bit_for_bit() {
    if let Some(seed) = number("SIM_SEED") {
        let _told = SeedOnPanic(seed);
        let story = World::new(seed).run();
        assert_eq!(World::new(seed).run().trace, story.trace, "not replayable");
        eprintln!("{story:#?}");
        return;
    }
    let count = number("SIM_SEEDS").unwrap_or(500);
    let next = AtomicU64::new(0);
    let all = Mutex::new(BTreeMap::new());
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return;
            }
            let _told = SeedOnPanic(seed);
            let story = World::new(seed).run();
            // Every twentieth is enough to find a clock, an address or a hash order that leaked in.
            if seed.is_multiple_of(20) {
                assert_eq!(World::new(seed).run().trace, story.trace, "not replayable");
            }
            let seen = story.seen.into_iter().map(|(what, n)| (what.to_owned(), n));
            let mut all = all.lock().expect("no world failed");
            let ends = story
                .outcomes
                .into_iter()
                .map(|(end, n)| (format!("{end:?}"), n));
            for (what, count) in seen.chain(ends) {
                *all.entry(what).or_insert(0) += count;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(run);
        }
    });
    let all = all.into_inner().expect("no world failed");
    eprintln!("{count} worlds: {all:#?}");
    // A world in which nothing happens proves nothing.
    assert!(
        count < 1_000 || all.len() == KINDS,
        "something never happened"
    );
}

/// Outcomes, and events that are counted.
const KINDS: usize = 6 + 17;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Names the seed of the world that failed.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of SIM_SEED={} failed", self.0);
        }
    }
}

const START: UnixMs = 1_800_000_000_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const TX: PoolId = PoolId(0);
const BULK: PoolId = PoolId(1);
/// Of the same kind; no stream has it.
const SPARE: PoolId = PoolId(2);
