//! What the driver asks of the node behind it. `node.rs` implements [`Gate`] by delegating to `account` and `accept`, once for
//! each listener, so that the answers can depend on the listener's configuration; tests and the built-in sink bring their own.
//!
//! The driver knows no account, no stream and no spool: everything that is refused here comes as the reply to give.

use std::future::Future;
use std::net::IpAddr;

use crate::mail::{ForwardPath, Reply};

use super::auth::Credentials;
use super::submission::{ContentFacts, Submission};

/// A listener's door to the node.
pub trait Gate: Send + Sync + 'static {
    /// Who submits: a server, a stream, and how that is known.
    type Sender: Clone + Send + Sync + 'static;
    type Intake: Intake;

    /// A reply when the node takes nothing at all: told instead of the greeting, and then closed. It should be a 421.
    fn refusal(&self) -> Option<Reply> {
        None
    }

    /// The same answer, in the same time, for an unknown user and a wrong password.
    fn authenticate(&self, credentials: &Credentials) -> Option<Self::Sender>;

    /// Who the `LOGIN` of an XCLIENT is. The host that says so has checked the password; the default takes a server token,
    /// which is user name and password in one.
    fn login(&self, name: &str) -> Option<Self::Sender> {
        self.authenticate(&Credentials::Password {
            user: name.to_owned(),
            password: name.to_owned(),
        })
    }

    /// As whom a client from a trusted network submits without AUTH.
    fn trusted(&self, client: IpAddr) -> Option<Self::Sender>;

    /// As whom anybody hands in mail. `None`: nobody does without trust or AUTH.
    fn stranger(&self) -> Option<Self::Sender> {
        None
    }

    /// Whether there is such a recipient; asked by sessions of [`Role::Inbound`](super::Role) only.
    fn recipient(&self, path: &ForwardPath) -> impl Future<Output = Result<(), Reply>> + Send {
        let _ = path;
        std::future::ready(Ok(()))
    }

    /// Whether connections from this address begin with a PROXY header. They then must.
    fn proxy(&self, peer: IpAddr) -> bool;

    /// Whether this address may say by XCLIENT who its client is.
    fn xclient(&self, client: IpAddr) -> bool;

    /// An envelope is complete, content follows.
    fn begin(&self, sender: &Self::Sender, submission: Submission) -> Result<Self::Intake, Reply>;
}

/// One message on its way in. Dropped unfinished, it leaves nothing.
pub trait Intake: Send {
    /// Proof that the message is durable: made from the spool's receipt and from nothing else (DESIGN §1.1). The positive
    /// reply can only be had from such a value, in one place of the driver.
    type Accepted: Accepted;

    /// The next octets of the content, decoded.
    /// # Errors
    /// The message is refused. The intake is dropped; the client is told after the true end of its content.
    fn push(&mut self, content: &[u8]) -> impl Future<Output = Result<(), Reply>> + Send;

    /// The content is complete and without flaw. Returns when it is durable.
    fn finish(
        self,
        facts: ContentFacts,
    ) -> impl Future<Output = Result<Self::Accepted, Reply>> + Send;
}

/// See [`Intake::Accepted`].
pub trait Accepted: Send {
    /// `<MessageID>` of `250 2.0.0 OK <MessageID>`.
    fn message_id(&self) -> String;
}
