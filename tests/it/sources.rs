//! Egress sources of a running node: drained, resumed, listed.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, Peers, RemoteHost, Stage};

/// Two sources, tx1 at 127.0.0.3 and tx2 at 127.0.0.2.
const TWO: &str = "ip = \"127.0.0.3\", ehlo = \"tx1.test\" }, { name = \"tx2\", ip = \"127.0.0.2\"";

async fn node_with(sources: &str, host: &RemoteHost) -> TestNode {
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    TestNode::with_source(sources, &config).await
}

impl TestNode {
    async fn source(&self, name: &str) -> Value {
        let rows = posthaste(self.dir.path(), "source ls --json").await;
        let mut rows = rows.expect(0).json().into_iter();
        rows.find(|row| row["name"] == name).unwrap()
    }

    async fn send(&self, count: usize) {
        let mut client = self.client().await;
        for number in 0..count {
            let subject = format!("number {number}");
            client
                .submit(&["b@example.org"], &message(&subject, "hello"))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_drained_over_a_restart_and_its_mail_goes_by_the_others_or_waits() {
    let host = RemoteHost::start().await;
    let node = node_with(TWO, &host).await;
    // Both are used while both are in service.
    node.send(40).await;
    host.wait_for(40).await;
    let both = host.peers();
    assert!(
        both.contains(&"127.0.0.2".to_owned()) && both.contains(&"127.0.0.3".to_owned()),
        "{both:?}"
    );
    let dir = node.dir.path();
    let drained = posthaste(dir, "source drain tx1 --reason listed --json").await;
    let drained = drained.expect(0).object();
    assert_eq!(drained["state"], "drained");
    assert!(drained["reason"].as_str().unwrap().ends_with("(listed)"));
    assert!(drained["messages_hour"].as_u64().unwrap() > 0);
    eventually("the end of its sessions", async || {
        (node.source("tx1").await["connections"] == 0).then_some(())
    })
    .await;
    let from_first = || host.peers().iter().filter(|p| *p == "127.0.0.3").count();
    let before = from_first();
    node.send(40).await;
    host.wait_for(80).await;
    assert_eq!(from_first(), before, "{:?}", host.peers());

    let node = node.restart().await;
    let dir = node.dir.path();
    node.send(20).await;
    host.wait_for(100).await;
    assert_eq!(from_first(), before, "after a restart");
    assert_eq!(node.source("tx2").await["state"], "in_service");

    // Without any source of the pool mail waits, and says for what.
    let text = posthaste(dir, "source drain tx2 --for 2h")
        .await
        .expect(0)
        .stdout;
    assert!(
        text.starts_with("tx2 is drained by an operator") && text.contains("until "),
        "{text}"
    );
    node.send(1).await;
    let row = eventually("mail that waits for a source", async || {
        let explained = posthaste(dir, "queue explain example.org --json").await;
        let rows = explained.json();
        let stopped = |row: &Value| row["reasons"][0]["code"] == "source_drained";
        rows.into_iter().find(stopped)
    })
    .await;
    assert_eq!(row["ready"], 1, "{row}");
    posthaste(dir, "source resume tx1").await.expect(0);
    host.wait_for(101).await;
    assert!(from_first() > before);
    posthaste(dir, "source drain nobody").await.expect(1);
    posthaste(dir, "source drain tx1 --for soon")
        .await
        .expect(2);

    let events = node.events_of("source_stopped", 2).await;
    assert_eq!(
        (events[0].cause.as_str(), events[0].detail.as_str()),
        ("admin", "listed")
    );
    node.events_of("source_resumed", 1).await;
    posthaste(dir, "audit").await.expect(0);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_of_a_source_whose_address_is_not_on_this_host_leaves_by_the_other_one() {
    let host = RemoteHost::start().await;
    // TEST-NET-1 is on no host.
    let sources = TWO.replace("127.0.0.3", "192.0.2.1");
    let node = node_with(&sources, &host).await;
    node.send(30).await;
    host.wait_for(30).await;
    assert!(host.peers().iter().all(|peer| peer == "127.0.0.2"));
    let row = node.source("tx1").await;
    assert_eq!(row["state"], "out");
    let why = row["reason"].as_str().unwrap();
    assert!(why.contains("192.0.2.1 cannot be used"), "{why}");
    let stopped = node.events_of("source_stopped", 1).await;
    assert_eq!(stopped[0].cause, "local-system");
    let events = node.events_of("delivered", 30).await;
    assert!(events.iter().all(|event| event.attempts == 1), "{events:?}");
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_every_site_refuses_is_out_and_its_mail_leaves_by_the_other_one() {
    // Hosts that refuse one address at the banner.
    let mut hosts = Vec::new();
    let mut routes = String::new();
    for number in 0..6 {
        let peers: Arc<OnceLock<Peers>> = Arc::default();
        let seen = Arc::clone(&peers);
        let host = RemoteHost::scripted(move |stage, _, session| {
            let refused = || {
                seen.get()
                    .is_some_and(|peers| peers.of(session) == "127.0.0.3")
            };
            match stage {
                Stage::Connect if refused() => Answer::line("554 5.7.1 you are listed"),
                _ => Answer::Usual,
            }
        });
        let host = host.await;
        let _ = peers.set(host.who());
        routes += &format!(
            "[[route]]\ndomain = \"d{number}.test\"\nhosts = [\"{}\"]\n",
            host.address
        );
        hosts.push(host);
    }
    let node = TestNode::with_source(TWO, &routes).await;
    let mut client = node.client().await;
    let mut sent = 0;
    let out = async {
        loop {
            for number in 0..6 {
                let to = format!("b@d{number}.test");
                client.submit(&[&to], &message("listed", "hello")).await;
                sent += 1;
            }
            if node.source("tx1").await["state"] == "out" {
                return;
            }
        }
    };
    crate::support::within("a source that is taken out", out).await;
    let row = node.source("tx1").await;
    let why = row["reason"].as_str().unwrap();
    assert!(
        why.contains("5 sites") && why.contains("you are listed"),
        "{why}"
    );
    let explained = posthaste(node.dir.path(), "source ls").await;
    assert!(
        explained.stdout.contains("you are listed"),
        "{}",
        explained.stdout
    );
    node.events_of("delivered", sent).await;
    let stopped = node.events_of("source_stopped", 1).await;
    assert_eq!(stopped[0].cause, "reputation");
    node.node.stop().await;
}
