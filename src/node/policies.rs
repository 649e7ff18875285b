//! How a stream's mail is tried: its waits, its age limit, and what follows an attempt whose answer was lost. What the stream
//! says itself, else what `[retry]` says for its kind.

use std::sync::Arc;

use crate::account::Accounts;
use crate::config::{Ambiguous, Retries, Retry, StreamKind};

/// Answers from the snapshot of the accounts, so that a reload counts at once.
pub(super) struct Policies {
    retries: Retries,
    accounts: Option<Arc<Accounts>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) retry: Retry,
    pub(super) ambiguous: Ambiguous,
}

impl Policies {
    pub(super) fn new(retries: &Retries, accounts: Option<Arc<Accounts>>) -> Self {
        Self {
            retries: retries.clone(),
            accounts,
        }
    }

    /// Of a stream that was deleted since: as for its kind.
    pub(super) fn of(&self, server_id: u32, stream: &str, kind: StreamKind) -> Policy {
        let retry = *self.retries.of(kind);
        let server = self.accounts.as_ref().map(|a| a.server_with_id(server_id));
        match server.flatten().as_ref().and_then(|s| s.stream(stream)) {
            Some(stream) => Policy {
                retry: stream.retry.of(&retry),
                ambiguous: stream.ambiguous,
            },
            None => Policy {
                retry,
                ambiguous: Ambiguous::default(),
            },
        }
    }
}
