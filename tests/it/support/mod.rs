//! What the scenarios share: a node in this process, a scriptable remote host, a plain client, a DNS server.

pub mod client;
pub mod node;
pub mod remote_host;

use std::future::Future;
use std::time::Duration;

/// Fails the test, naming what it waited for, instead of hanging. The time is a bound, not a measurement.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
