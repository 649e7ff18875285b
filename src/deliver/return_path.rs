//! Where bounces of a message are to go: the reverse-path of its transactions.
//!
//! Promises: the null reverse-path stays null, so that no bounce is ever made of a bounce (RFC 5321 §4.5.5); where neither the
//! domain in From nor the node has a domain for bounces, the submitted one is used.
//!
//! Why one address for a transaction and not one for each recipient: recipients of a message at a site share a transaction,
//! which has one reverse-path. A report names its recipient by itself; where there is one only, the address names it too.

use std::sync::Arc;

use crate::account::Accounts;
use crate::mail::{MessageId, VerpAddress};
use crate::sign::from_domain;

/// Makes reverse-paths.
pub struct ReturnPaths {
    accounts: Arc<Accounts>,
}

impl ReturnPaths {
    pub fn new(accounts: Arc<Accounts>) -> Self {
        Self { accounts }
    }

    /// The reverse-path for a transaction of these recipients; `None`: the submitted one. `beginning`: the whole header section
    /// at least.
    pub fn of(
        &self,
        beginning: &[u8],
        submitted: &str,
        message: MessageId,
        mut recipients: impl Iterator<Item = u16>,
    ) -> Option<String> {
        if submitted.is_empty() {
            return None;
        }
        let snapshot = self.accounts.load();
        let from = match snapshot.has_return_paths() {
            true => from_domain(beginning),
            false => None,
        };
        let domain = snapshot.bounce_domain(from.as_ref())?;
        let address = VerpAddress {
            message,
            recipient: recipients.next().filter(|_| recipients.next().is_none()),
        };
        let local_part = snapshot.verp().local_part(address);
        Some(format!("{local_part}@{domain}"))
    }
}
