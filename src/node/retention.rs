//! How long content is kept: what the configuration says of the stream, else of the node.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustc_hash::FxHasher;

use crate::account::Accounts;
use crate::config;
use crate::spool::{self, History};

/// Answers from the snapshot of the accounts, so that a reload counts at once.
#[derive(Clone)]
pub(super) struct Retention {
    default: Duration,
    /// Known once the spool is open; until then nothing is asked that would remove something.
    accounts: Arc<OnceLock<Arc<Accounts>>>,
}

impl Retention {
    pub(super) fn new(spool: &config::Spool) -> Self {
        Self {
            default: spool.retention,
            accounts: Arc::default(),
        }
    }

    pub(super) fn history(&self, spool: &config::Spool) -> History {
        History {
            content: Some(Arc::new(self.clone())),
            events: Some(spool.event_retention),
            archive_max: spool.archive_max,
        }
    }

    pub(super) fn set_accounts(&self, accounts: Arc<Accounts>) {
        // Once, at start.
        let _ = self.accounts.set(accounts);
    }

    /// Streams with a retention of their own.
    fn special(&self) -> Vec<(u32, Arc<str>, Duration)> {
        let Some(accounts) = self.accounts.get() else {
            return Vec::new();
        };
        let snapshot = accounts.load();
        let streams = snapshot
            .servers()
            .flat_map(|server| server.streams.iter().map(|stream| (server.id, stream)));
        let mut special: Vec<_> = streams
            .filter_map(|(id, stream)| Some((id, Arc::clone(&stream.id), stream.retention?)))
            .collect();
        special.sort_unstable();
        special
    }
}

impl std::fmt::Debug for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retention")
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

impl spool::Retention for Retention {
    fn of(&self, server_id: u32, stream_id: &str) -> Duration {
        let server = self
            .accounts
            .get()
            .and_then(|accounts| accounts.server_with_id(server_id));
        let stream = server.as_ref().and_then(|server| server.stream(stream_id));
        stream
            .and_then(|stream| stream.retention)
            .unwrap_or(self.default)
    }

    fn longest(&self) -> Duration {
        let special = self.special();
        let longest = special.iter().map(|(_, _, kept)| *kept).max();
        longest.map_or(self.default, |longest| longest.max(self.default))
    }

    fn version(&self) -> u64 {
        let mut hasher = FxHasher::default();
        (self.default, self.special()).hash(&mut hasher);
        hasher.finish()
    }
}
