//! The submission server (RFC 6409): the dialogue as a pure machine, and the driver that gives it a socket.
//!
//! | File | Tells |
//! |---|---|
//! | [`command`] | one line of text becomes one command, or the reply that refuses it |
//! | [`parameters`] | the ESMTP parameters of MAIL and RCPT |
//! | [`auth`] | the exchanges of AUTH: PLAIN, LOGIN, CRAM-MD5 |
//! | [`submission`] | what one mail transaction says |
//! | [`session`] | the dialogue: octets in; replies and events out |
//! | [`gate`] | what the driver asks of the node behind it |
//! | [`doors`] | who may come in how often: connections and failed AUTHs, over all listeners |
//! | [`proxy`] | the PROXY protocol, before the dialogue begins |
//! | [`tls`] | certificates for listeners |
//! | [`driver`] | sockets, TLS, time-outs, stop |

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub mod auth;
pub mod command;
pub mod doors;
pub mod driver;
pub mod gate;
pub mod parameters;
pub mod proxy;
pub mod session;
pub mod submission;
pub mod tls;

pub use auth::Credentials;
pub use doors::Doors;
pub use driver::{Listener, Times, Tls, TlsSource, bind, serve};
pub use gate::{Accepted, Gate, Intake};
pub use session::{Role, Session, Settings, Stage};
pub use submission::{ContentFacts, Envelope, Recipient, Submission};
pub use tls::{TlsError, server_config};

#[cfg(test)]
mod tests;
