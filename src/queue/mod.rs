//! Who is next, and why not yet: the scheduler of delivery, as a pure machine.
//!
//! Promises: every recipient that is inserted is at every moment in exactly one state of the table below, has an owner or
//! a wake-up time, and is handed out as ended exactly once. Per recipient it keeps 32 bytes and never the content. Each
//! step is O(log n) at most. A path that is throttled or fails sleeps once; what waits behind it does not wake.
//! Deliberately does not know SMTP, DNS, disks, tokio or the clock: time and seed are arguments, work is returned, and
//! the simulation (`tests/sim/`) runs this same code. It reads no reply: causes pass through unopened.
//!
//! | State | Owner or wake-up | Left by | A crash here means |
//! |---|---|---|---|
//! | ready | its queue's turn at its site, or the queue's route answer; the queue's timer at expiry | hand-out in a [`Batch`] → in flight; [`Work::Expire`]; operator; route refused | ready again after recovery |
//! | deferred | its queue's timer at the next attempt or expiry, whichever is first | timer or operator → ready; operator; route refused | deferred again, from the event's next attempt |
//! | in flight | one session | [`Scheduler::report`]: ended, deferred, or ready again | one attempt may be repeated |
//! | leaving | the hand-out list | [`Work::Expire`], [`Work::Withdrawn`], [`Work::Unroutable`] | as before the verb |
//!
//! How it works. A *queue* holds the ready and deferred recipients of one flow (server and stream) for one (pool, domain)
//! that stick to one source, in ordered lists; a timer set holds one time per queue, not per recipient. *Sites* (pool, site
//! key) hold a back-off, their *paths* (source at a site) the connections, a back-off and the rings of queues that have ready
//! recipients: flows take turns by deficit round robin, queues of a flow one after the other. Paths that may have something
//! to do stand in a line per class; transactional lines are looked at first. `poll` runs a bounded number of timers, then
//! returns the first thing to do. People see queues as (pool, domain): `explain.rs` adds them up.
//!
//! Ready recipients are ordered by expiry, oldest first, in two lists (new ones and those that were deferred before) that
//! take turns: the front of a list is then the first to expire, so the queue's one timer is the whole sweeper and expiry
//! is exact in every state, at O(log n) per expired recipient. A scan over all recipients was the obvious other; it
//! costs while nothing happens and is late by a round.
//!
//! Files: `key.rs` and `flow.rs` names; `store.rs` and `order.rs` the recipients; `retry.rs` waits; `timers.rs` wake-ups;
//! `pacing.rs` sites, paths and sessions; `paths.rs` which source is taken, `sources.rs` how sources stand, `health.rs` whether they work;
//! `schedule.rs` the state; `insert.rs` insertion; `poll.rs` timers and what is done first; `rates.rs` rates and volumes,
//! `budgets.rs` those of a whole provider; `turns.rs` who is next on a path; `report.rs` what an attempt came to;
//! `control.rs` the operator's verbs; `scheduled.rs` the sender's, on what is not released yet; `walk.rs` those on many queues, in
//! steps, which `index.rs` finds; `filter.rs` whom they mean;
//! `directives.rs` suspensions and reroutes; `census.rs` figures for people; `moving.rs` compaction; `explain.rs` reasons as data; `check.rs` the invariants.
//! Places kept for what comes: `Scheduler::choose` in `turns.rs` asks the limits of a path, where an adaptive pace will lower
//! them.

mod budgets;
mod census;
mod check;
mod control;
mod directives;
mod explain;
mod filter;
mod flow;
mod health;
mod index;
mod insert;
mod key;
mod moving;
mod order;
mod pacing;
mod paths;
mod poll;
mod rates;
mod report;
mod retry;
mod schedule;
mod scheduled;
mod sources;
mod store;
mod timers;
mod turns;
mod walk;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use spool_format::tag_mark;

use crate::clock::UnixMs;
use crate::config::{ProviderId, Retry, StreamKind};
use crate::limits;
use crate::outcome::{Cause, Scope};

pub use census::{AGE_MINUTES, By, Census, Group, Tally};
pub use control::{Affected, Selection, Withdrawal};
pub use directives::{Directive, Standing};
pub use explain::{Explanation, Place, QueueRow, Reason, Way};
pub use filter::Filter;
pub use flow::FlowName;
pub use health::Trouble;
pub use insert::Known;
pub use key::{PoolId, QueueId, SessionId, SiteId, SourceId};
pub use moving::{MessageAt, Moved};
pub use rates::Pace;
pub use schedule::Scheduler;
pub use scheduled::Release;
pub use sources::{SourceChange, SourceRow, Stop, StopCause};
pub use walk::{Act, Candidate, Walk};

/// One egress pool as the scheduler needs it. [`PoolId`] is the index in the list given to [`Scheduler::new`].
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Transactional pools go first; every other kind counts as broadcast.
    pub kind: StreamKind,
    /// With weights; a source of weight 0 opens nothing.
    pub sources: Vec<(SourceId, u32)>,
    pub retry: Retry,
    /// As rules of shaping name them.
    pub name: Arc<str>,
    /// In the order of `sources`.
    pub source_names: Vec<Arc<str>>,
}

/// The scheduler's bounds; [`Default`] takes them from [`crate::limits`].
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_per_source_site: usize,
    /// Of the node. Broadcast pools leave a part to transactional ones.
    pub connections: usize,
    pub connection_idle: Duration,
    pub messages_per_connection: u32,
    pub recipients_per_transaction: usize,
    /// Route look-ups at one time.
    pub resolves: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_source_site: limits::CONNECTIONS_PER_SOURCE_SITE,
            connections: limits::DELIVERY_CONNECTIONS_MAX,
            connection_idle: limits::CONNECTION_IDLE,
            messages_per_connection: limits::MESSAGES_PER_CONNECTION,
            recipients_per_transaction: limits::RECIPIENTS_PER_TRANSACTION,
            resolves: limits::RESOLVES_MAX,
        }
    }
}

/// What bounds a recipient's life besides the settings of its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// It expires at this age, which counts from its release if it is scheduled. `None`: the pool's.
    pub max_age: Option<Duration>,
    /// Longest wait for an attempt that is believed of an earlier life. `None`: the pool's.
    pub max_wait: Option<Duration>,
    /// It expires then, if that is earlier than its age says.
    pub deadline: Option<UnixMs>,
    /// Scheduled: no attempt is made before.
    pub release_at: Option<UnixMs>,
}

/// The tag of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag<'a> {
    Text(&'a str),
    /// Of a message whose record was not read: [`spool_format::tag_mark`].
    Mark(u16),
}

impl<'a> Tag<'a> {
    fn mark(tag: Option<Self>) -> u16 {
        match tag {
            Some(Self::Mark(mark)) => mark,
            Some(Self::Text(text)) => tag_mark(Some(text)),
            None => tag_mark(None),
        }
    }

    fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Mark(_) => None,
        }
    }
}

/// A recipient that was accepted, or found live by recovery.
#[derive(Clone, Copy, Debug)]
pub struct NewRecipient<'a> {
    /// Of the message record in the mail log.
    pub position: u64,
    pub number: u16,
    pub pool: PoolId,
    /// Normalised: lower case, A-labels.
    pub domain: &'a str,
    pub flow: FlowName<'a>,
    /// Random, and the message's wherever it lies: it decides which source the message sticks to.
    pub message: u64,
    pub tag: Option<Tag<'a>>,
    pub accepted_at: UnixMs,
    pub life: Life,
    /// Attempts made before, for recovery.
    pub attempts: u16,
    /// Not later than now: ready. Of one that is scheduled, and was not attempted, the release counts.
    pub next_attempt: UnixMs,
}

/// One transaction: one message and those of its recipients that go to one site together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub position: u64,
    pub pool: PoolId,
    pub recipients: SmallVec<[BatchRecipient; 4]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRecipient {
    pub number: u16,
    /// Attempts made before this one.
    pub attempts: u16,
}

/// What the owner of the scheduler is to do. Each recipient of `Expire`, `Unroutable` and `Withdrawn` is forgotten here:
/// writing the terminal event is the owner's from then on.
#[derive(Clone, Debug)]
pub enum Work {
    /// Look up the route and answer with [`Scheduler::routed`], always.
    Resolve {
        queue: QueueId,
        pool: PoolId,
        domain: Arc<str>,
    },
    /// Open a connection from `source` to the site and begin with `first`. Every session is in the end reported
    /// [`SessionState::Closed`], once, also after [`Work::Close`].
    Open {
        session: SessionId,
        source: SourceId,
        pool: PoolId,
        site: SiteId,
        site_key: Arc<str>,
        first: Batch,
    },
    /// To an open session: one without work, or one with a batch that [`Scheduler::runs_ahead`]; then this is the batch
    /// behind it. If the session has just closed, its report gives the batch back.
    Deliver { session: SessionId, batch: Batch },
    /// Unused for too long, used up, or in the way of another site. It has no work.
    Close { session: SessionId },
    /// Its age limit is reached, or its deadline.
    Expire {
        position: u64,
        number: u16,
        attempts: u16,
    },
    /// Its domain takes no mail.
    Unroutable {
        position: u64,
        number: u16,
        attempts: u16,
        cause: Arc<Cause>,
    },
    /// An operator's verb reached it.
    Withdrawn {
        position: u64,
        number: u16,
        attempts: u16,
        how: Withdrawal,
        /// The operator's words.
        why: Option<Arc<str>>,
    },
}

/// The answer to [`Work::Resolve`].
#[derive(Clone, Debug)]
pub enum RouteAnswer {
    /// `key` names the rolled-up set of hosts: domains with one key share connections and limits.
    /// `provider` decides on limits.
    Site {
        key: Arc<str>,
        valid_until: UnixMs,
        provider: Option<ProviderId>,
    },
    /// No answer now: the queue sleeps, longer each time.
    Defer { cause: Arc<Cause> },
    /// Final: every recipient of the queue is handed out as [`Work::Unroutable`].
    Refused { cause: Arc<Cause> },
}

/// What an attempt came to, for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The owner has the terminal event.
    Terminal,
    /// Again later: after the wait of its stream, or else of the pool, and not before that time.
    Retry {
        not_before: Option<UnixMs>,
        retry: Option<Retry>,
    },
    /// It never came to an attempt: ready again, nothing counted.
    NotAttempted,
}

/// How a session stands after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The batch that it was given first is over. It goes on with the one behind, or is free for the next.
    Idle,
    /// Gone. With a scope of [`Scope::SiteFromSource`] or [`Scope::Site`], new connections back off; narrower ones, and
    /// [`Scope::Source`], count as no failure of the site.
    Closed { site_failure: Option<Scope> },
}

/// Recipients by state. `leaving` are handed out as ended by the next polls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ready: usize,
    pub deferred: usize,
    pub in_flight: usize,
    pub leaving: usize,
}

impl Counts {
    pub fn total(&self) -> usize {
        self.ready + self.deferred + self.in_flight + self.leaving
    }
}
