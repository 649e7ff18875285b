//! What the scenarios share: a node in this process, a scriptable remote host, a plain client, a DNS server.

pub mod client;
pub mod disk;
pub mod dns;
pub mod node;
pub mod process;
pub mod receiver;
pub mod remote_host;

use std::future::Future;
use std::time::Duration;

/// How long a scenario waits before it fails. A bound, not a measurement.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test, naming what it waited for, instead of hanging.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Looks again and again at what tells nobody when it changes, until `look` finds it.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    })
    .await
}
