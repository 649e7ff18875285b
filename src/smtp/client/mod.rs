//! The client role of RFC 5321: handing one message at a time to a remote host, and never guessing what it answered.
//!
//! `session.rs` is the dialogue as a machine without socket, clock or runtime; `reply.rs` reads replies within bounds;
//! `content.rs` checks content and frames it without copying; `driver.rs` owns the socket, TLS and the timer. Sessions say
//! what the remote host did, as data: what it means is `classify`'s to say, what follows from it `deliver`'s and `queue`'s.

pub mod content;
pub mod driver;
pub mod reply;
pub mod session;

pub use driver::{ConnectError, Connection, Dial, Overhear, Said, Step, TlsState};
pub use session::{
    Avoid, ClientEvent, ClientSession, Ending, Habit, Obstacle, OutOfStep, Outbound,
    OutboundRecipient, Settings, Sign, Spoken, Stage, Verdict,
};

/// RFC 5321 §4.5.3.2, as configured.
pub use crate::config::Timeouts;
