//! Readers of the event log: what each makes of it can be thrown away and made again from its base and the log (DESIGN §2).

pub mod activity;
pub mod automatic;
pub mod bounces;
pub mod idempotency;
pub mod notices;
pub mod row;
pub mod sinks;
pub mod statistics;
pub mod suppressions;
pub mod tables;
pub mod webhooks;

use std::sync::Arc;

use spool_format::layout::event::AT_UNIX_MS;

use crate::clock::UnixMs;
use crate::metrics;

/// What an operator asks of any reader.
pub trait Reader: Send + Sync {
    /// Blocks for some looks at the file system at most.
    fn standing(&self) -> Standing;

    /// Begins to make again what it keeps, from base and log; what it kept answers until that is done.
    fn rebuild(&self) -> Result<(), NotRebuilt>;
}

impl<R: Reader> Reader for Arc<R> {
    fn standing(&self) -> Standing {
        (**self).standing()
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        (**self).rebuild()
    }
}

/// How far a reader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub name: &'static str,
    pub state: State,
    /// Everything before it was read.
    pub position: u64,
    /// Of the log behind that.
    pub lag_bytes: u64,
    /// When the last event that it read was written.
    pub at: Option<UnixMs>,
    /// Of what it keeps on disk, where that is a file of its own.
    pub bytes: Option<u64>,
    pub entries: Option<u64>,
    /// Events before it are not needed to make it again.
    pub base: Option<u64>,
    /// Goes up when it has been made again.
    pub generation: u64,
    /// Why it does not get on.
    pub trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Opening,
    Following,
    /// Where the new state began to read, and how far it is.
    Rebuilding {
        from: u64,
        position: u64,
    },
}

/// Why a reader is not made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRebuilt {
    #[error("it is being made again already")]
    UnderWay,
    /// What to do instead.
    #[error("{0}")]
    Never(&'static str),
}

/// When an event was written.
fn written_at(payload: &[u8]) -> Option<UnixMs> {
    let octets = payload.get(AT_UNIX_MS..AT_UNIX_MS + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(octets))
}

/// Tells how much of the log a reader has still to read, and how long ago the last event that it has read was written (0: nothing that
/// tells a time was). A reader that waits for something tells it again and again.
fn tell_lag(name: &'static str, bytes: u64, at: UnixMs, now: UnixMs) {
    metrics::READER_LAG.set_of(name, bytes as f64);
    let seconds = match (bytes, at) {
        (0, _) | (_, 0) => 0.0,
        _ => now.saturating_sub(at) as f64 / 1_000.0,
    };
    metrics::READER_LAG_SECONDS.set_of(name, seconds);
}
