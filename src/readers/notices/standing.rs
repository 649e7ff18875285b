//! How far the reader of notices is, for operators.

use tokio::sync::watch;

use super::NAME;
use crate::clock::UnixMs;
use crate::readers::{NotRebuilt, Reader, Standing, State};
use crate::spool::Log;

/// How far it is, for others.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) position: u64,
    /// When the last event before it was written; 0: none was read since the start.
    pub(super) at: UnixMs,
    pub(super) based: u64,
    /// Recipients of whom something may have to be told.
    pub(super) live: usize,
    /// Up to where all is told that is to be.
    pub(super) told: u64,
}

/// Looks at the reader at work.
pub struct Watch {
    log: Log,
    seen: watch::Receiver<Seen>,
}

impl Watch {
    pub(super) fn new(log: Log, seen: watch::Receiver<Seen>) -> Self {
        Self { log, seen }
    }

    /// Waits until everything that the event log says up to `position` and that is to be told is in durable mail.
    /// # Cancel safety
    /// It changes nothing.
    pub async fn told(&self, position: u64) {
        let mut seen = self.seen.clone();
        // A reader that has ended tells nothing more.
        let _ = seen.wait_for(|seen| seen.told >= position).await;
    }
}

impl Reader for Watch {
    fn standing(&self) -> Standing {
        let seen = *self.seen.borrow();
        Standing {
            name: NAME,
            state: State::Following,
            position: seen.position,
            lag_bytes: self.log.durable().saturating_sub(seen.position),
            at: Some(seen.at).filter(|at| *at > 0),
            bytes: None,
            entries: Some(seen.live as u64),
            base: Some(seen.based),
            generation: 0,
            trouble: None,
        }
    }

    fn rebuild(&self) -> Result<(), NotRebuilt> {
        Err(NotRebuilt::Never(
            "what this reader made is mail, which has left; it would all be sent once more",
        ))
    }
}
