//! What settings need of the world: answers of the DNS, and a way to write to people.
//!
//! The node implements it (`node/outside.rs`); tests give their own. An error is a sentence about what could not be found
//! out or done: never an answer.

use std::future::Future;
use std::pin::Pin;

use crate::clock::UnixMs;
use crate::mail::{Domain, Mailbox};

/// Asked by changes that need proof, or that tell somebody.
pub trait Outside: Send + Sync {
    /// The TXT records of a name, each in one piece. None: there are none, for certain.
    fn texts(&self, name: String) -> Answer<'_, Vec<String>>;

    /// Where a name's CNAME leads.
    fn alias(&self, name: String) -> Answer<'_, Option<Domain>>;

    /// Whether SPF permits every egress source for a domain of reverse-paths.
    fn spf_permits(&self, domain: String) -> Answer<'_, bool>;
    /// Records what became of a key. It has become so already: nothing is undone when that fails.
    fn tell<'a>(&'a self, news: KeyNews<'a>) -> Telling<'a>;

    /// Mails a notice. `Ok`: it is durable, as every message that is accepted.
    fn post(&self, notice: Notice) -> Answer<'_, ()>;
}

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

pub type Telling<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Something about a DKIM key that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyNews<'a> {
    pub fact: KeyFact,
    pub domain: &'a Domain,
    pub selector: &'a str,
    /// A sentence.
    pub detail: String,
    pub at: UnixMs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFact {
    /// Its record is gone: it signs no more.
    Paused,
    /// Its record is back: it signs again.
    Resumed,
    /// Its record was found: it signs from now on, in the place of the one before.
    Activated,
}

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
