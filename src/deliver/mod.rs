//! Attempts: one agent per connection hands over one batch after the other and reports what became of each recipient.
//!
//! Promises: every recipient of every batch that reaches an agent is in exactly one [`Report`], also when the agent panics
//! or is aborted, and never as not attempted once the end of the content was written; an agent always comes to an end,
//! within the time-outs, whatever the remote host does.
//! Deliberately does not know how mail is stored (it asks a [`MessageSource`]), who is next (`queue`), or how outcomes are
//! recorded: the owner of the reports turns them into events.
//!
//! `agent.rs` is the life of a session, `connect.rs` the way to the first host that lets us in. What they decide is apart
//! from their sockets, so that the simulation decides the same: `handover.rs` what a session owes, `attempts.rs` which
//! addresses are tried and what it means when none lets us in, `transaction.rs` from the session's verdicts to outcomes,
//! `ambiguous.rs` what follows from an outcome, `habits.rs` what is remembered of hosts that mishandle what they offer.
//! `sign.rs` makes DKIM signatures, `return_path.rs` reverse-paths, `recode.rs` 7-bit content, `trace.rs` lets operators watch.
//!
//! Why a report carries the state of the session: results and "ready for the next batch" then arrive together, so that one
//! message between tasks, not two, is spent per transaction.

mod agent;
mod ambiguous;
mod attempts;
mod connect;
mod habits;
mod handover;
mod recode;
mod return_path;
mod sign;
pub mod trace;
mod transaction;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::classify::Rules;
use crate::clock::Clock;
use crate::config::{Shaping, Source, SourceId, Timeouts};
use crate::event::Subject;
use crate::limits;
use crate::outcome::{Cause, CauseClass, Outcome, Scope};
use crate::queue::{Batch, BatchRecipient, SessionId, Trouble};
use crate::route::NextHop;

pub use crate::smtp::client::content::{Content, Fetching, Pieces};
pub use crate::smtp::client::driver::opportunistic_tls;
pub use crate::smtp::client::{Avoid, Habit, Sign};
pub use crate::smtp::client::{Outbound, OutboundRecipient};
pub use agent::run_agent;
pub use ambiguous::{disposition, judge_ambiguous};
pub use attempts::{Attempts, Unreached, dials, trouble_of};
pub use connect::missing;
pub use habits::Habits;
pub use handover::{Handover, Settling};
pub use recode::{NotRecoded, Recoder, Room};
pub use return_path::ReturnPaths;
pub use sign::{Lane, Signer, ToSign};
pub use trace::Trace;

/// Where messages come from: the spool, or a test. What has to come from a disk is waited for without blocking the thread.
pub trait MessageSource: Send + Sync {
    /// The message at `position` with these recipients, in this order, for a host that takes content in this form.
    fn load<'a>(
        &'a self,
        position: u64,
        recipients: &'a [BatchRecipient],
        form: Form,
    ) -> Loading<'a, Loaded>;
    /// Only what events say of it, for an attempt that ended before its content was asked for.
    fn subject<'a>(
        &'a self,
        position: u64,
        recipients: &'a [BatchRecipient],
    ) -> Loading<'a, Arc<Subject>>;
}

pub type Loading<'a, T> = Pin<Box<dyn Future<Output = Result<T, LoadError>> + Send + 'a>>;

/// What octets a remote host takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All: it offers 8BITMIME.
    EightBit,
    SevenBit,
}

/// A message for a transaction, and for the events about it.
pub struct Loaded {
    pub mail: Outbound,
    pub subject: Arc<Subject>,
}

/// The message cannot be read or signed now: its recipients are deferred.
#[derive(Debug, thiserror::Error)]
#[error("the message at position {position} cannot be sent: {detail}")]
pub struct LoadError {
    pub position: u64,
    /// [`CauseClass::Damaged`] where trying again does not help by itself.
    pub class: CauseClass,
    pub detail: String,
}

/// What all agents share.
pub struct AgentContext {
    pub messages: Arc<dyn MessageSource>,
    pub sources: Arc<[Source]>,
    pub tls: TlsConnector,
    pub timeouts: Arc<Timeouts>,
    /// What replies mean; swapped at a reload.
    pub rules: Arc<ArcSwap<Rules>>,
    /// Which hosts are whose.
    pub shaping: Arc<Shaping>,
    pub clock: Clock,
    /// Who watches.
    pub trace: Arc<Trace>,
    /// Of [`report_channel_size`].
    pub reports: mpsc::Sender<Report>,
}

/// Each session holds a place for its last word, so that it can be said without waiting; the rest is for reports under way.
pub fn report_channel_size(connections_max: usize) -> usize {
    limits::REPORT_CHANNEL.max(connections_max + REPORTS_UNDER_WAY)
}

const REPORTS_UNDER_WAY: usize = 96;
const _: () =
    assert!(limits::REPORT_CHANNEL >= limits::DELIVERY_CONNECTIONS_MAX + REPORTS_UNDER_WAY);

/// One session to be.
pub struct SessionPlan {
    pub session: SessionId,
    pub source: SourceId,
    /// As [`crate::route::Route::Hosts`] gives them.
    pub hosts: Arc<[NextHop]>,
    /// Of their addresses, those where something is avoided (see [`Habits`]).
    pub avoid: Vec<(IpAddr, Avoid)>,
    pub first: Errand,
}

/// A batch as an agent is handed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    pub batch: Batch,
    /// One of its recipients breaks sessions: each gets a transaction of its own, in one report.
    pub one_by_one: bool,
}

impl From<Batch> for Errand {
    fn from(batch: Batch) -> Self {
        Self {
            batch,
            one_by_one: false,
        }
    }
}

/// What an agent tells its owner.
#[derive(Debug)]
pub struct Report {
    pub session: SessionId,
    pub source: SourceId,
    /// The host that was spoken to, or tried last.
    pub remote: Option<Arc<Remote>>,
    pub results: Vec<RecipientResult>,
    pub state: SessionState,
    /// The next batch may come before this session is idle again: it begins behind the content of the one under way.
    pub runs_ahead: bool,
    /// The host mishandled something.
    pub sign: Option<Sign>,
    /// The position of a message: the session broke in a transaction with several of its recipients.
    pub broken_by: Option<u64>,
    /// No host let us in: what that says of the source.
    pub trouble: Option<Trouble>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct RecipientResult {
    pub position: u64,
    /// `None` where the message was not at hand when this was decided.
    pub subject: Option<Arc<Subject>>,
    pub number: u16,
    /// Attempts before this one.
    pub attempts: u16,
    pub outcome: Outcome,
}

/// How a session stands after a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// The results are of one whole batch, the one that was handed over first; the session takes another.
    Idle,
    /// The last report of this session.
    Closed { failure: Option<(Scope, Cause)> },
}

/// A remote host, as events and logs name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub name: Arc<str>,
    pub address: SocketAddr,
    /// Version and cipher suite; `None` is clear text.
    pub tls: Option<Arc<str>>,
    /// It offers DSN (RFC 3461).
    pub dsn: bool,
}

/// `mx.example.com [192.0.2.1]:25`
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} [{}]:{}",
            self.name,
            self.address.ip(),
            self.address.port()
        )
    }
}
