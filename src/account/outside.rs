//! What settings need of the world: answers of the DNS, and a way to write to people.
//!
//! The node implements it (`node/outside.rs`); tests give their own. An error is a sentence about what could not be found
//! out or done: never an answer.

use std::future::Future;
use std::pin::Pin;

use crate::mail::{Domain, Mailbox};

/// Asked by changes that need proof, or that tell somebody.
pub trait Outside: Send + Sync {
    /// The TXT records of a name, each in one piece. None: there are none, for certain.
    fn texts(&self, name: String) -> Answer<'_, Vec<String>>;

    /// Where a name's CNAME leads.
    fn alias(&self, name: String) -> Answer<'_, Option<Domain>>;

    /// Whether SPF permits every egress source for a domain of reverse-paths.
    fn spf_permits(&self, domain: String) -> Answer<'_, bool>;

    /// Mails a notice. `Ok`: it is durable, as every message that is accepted.
    fn post(&self, notice: Notice) -> Answer<'_, ()>;
}

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// A mail of the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub from: Mailbox,
    pub to: Mailbox,
    /// ASCII, one line.
    pub subject: String,
    /// Plain text; lines end with LF.
    pub text: String,
}
