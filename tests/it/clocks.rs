//! The wall clock of the machine is wrong, or is set: mail is neither lost, nor given up, nor left for weeks.

use tempfile::TempDir;

use crate::support::client::message;
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::Gate;

/// A node takes mail, and defers it, by one clock; the next one finds it by another, `days` later or earlier.
async fn set_between_two_lives(days: &str) {
    let dir = TempDir::new().unwrap();
    let gate = Gate::closed().await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        gate.host.address
    );
    write_config(dir.path(), &route);
    let node = NodeProcess::start(dir.path()).await;
    for n in 0..3 {
        let content = message(&format!("message {n}"), "body");
        node.client()
            .await
            .submit(&["b@example.org"], &content)
            .await;
    }
    gate.host.wait_for_sessions(1).await;
    node.stop().await;

    gate.open();
    let faketime = ["faketime", "-f", days];
    let node = NodeProcess::start_under(&faketime, dir.path()).await;
    gate.host.wait_for(3).await;
    let content = message("by the new clock", "body");
    node.client()
        .await
        .submit(&["c@example.org"], &content)
        .await;
    gate.host.wait_for(4).await;
    node.stop().await;
    posthaste(dir.path(), "audit").await.expect(0);
    posthaste(dir.path(), "spool verify").await.expect(0);
    // And back again.
    let node = NodeProcess::start(dir.path()).await;
    let content = message("by the old clock", "body");
    node.client()
        .await
        .submit(&["d@example.org"], &content)
        .await;
    gate.host.wait_for(5).await;
    node.stop().await;
    assert_eq!(gate.host.taken().len(), 5, "each once");
    posthaste(dir.path(), "audit").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_between_two_lives_costs_no_mail_and_no_weeks() {
    tokio::join!(
        set_between_two_lives("-30d"),
        set_between_two_lives("-2h"),
        set_between_two_lives("+20m"),
        set_between_two_lives("+30d")
    );
}
