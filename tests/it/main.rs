//! The node as a whole, against hosts and clients that behave and misbehave. One scenario per file.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test fails by panicking, and support is no public interface"
)]

mod clients;
mod remote_host_misbehaves;
mod start_and_stop;
mod submission;
mod support;
