//! What was sent, as clients of Postmark count it, over a kill and an erasure.

use serde_json::{Value, json};

use crate::official_clients::run;
use crate::sending::post;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::{http, posthaste};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

const TOKEN: &str = "app-secret-token";

async fn sums(node: &TestNode) -> Value {
    let fields = format!("X-Postmark-Server-Token: {TOKEN}\r\n");
    let address = node.node.http_address();
    let (_, text) = http(address, "/stats/outbound", &fields).await;
    serde_json::from_str(&text).unwrap()
}

async fn counted(node: &TestNode, sent: u64, bounced: u64) {
    eventually("the counts", async || {
        let sums = sums(node).await;
        (sums["Sent"] == sent && sums["Bounced"] == bounced).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_read_statistics_and_nothing_is_counted_twice_or_lost() {
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("<gone") => Answer::line("550 5.1.1 no such user"),
        _ => Answer::Usual,
    })
    .await;
    let node = TestNode::routed_to(host.address).await;
    for (to, tag) in [("gone@a.example", "welcome"), ("b@a.example", "")] {
        let mail =
            json!({ "From": "orders@declared.example", "To": to, "TextBody": "Hi.", "Tag": tag });
        let (status, answer) = post(node.node.http_address(), "/email", &mail).await;
        assert_eq!(status, 200, "{answer}");
    }
    counted(&node, 2, 1).await;
    let dir = node.dir.path();
    let made = posthaste(dir, "readers rebuild statistics --json").await;
    assert_eq!(made.expect(0).object()["generation"], 2);
    counted(&node, 2, 1).await;
    let erased = posthaste(dir, "spool erase --recipient gone@a.example").await;
    erased.expect(0);
    counted(&node, 2, 1).await;
    // The events are erased, and the base has what they said.
    posthaste(dir, "readers rebuild statistics").await.expect(0);
    let node = node.restart().await;
    counted(&node, 2, 1).await;

    let address = node.node.http_address();
    let fields = format!("X-Postmark-Server-Token: {TOKEN}\r\n");
    let (_, text) = http(address, "/stats/outbound/sends", &fields).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let today = answer["Days"][0]["Date"].as_str().unwrap();
    run(&["node", "stats.js", &address.to_string(), TOKEN, today]).await;
    let url = format!("http://{address}");
    run(&["python3", "stats.py", &url, TOKEN, today]).await;
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_while_no_node_runs_is_counted_first() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    for to in ["ann@forget.example", "b@keep.example"] {
        let mail = json!({ "From": "orders@declared.example", "To": to, "TextBody": "Hi." });
        let (status, answer) = post(node.node.http_address(), "/email", &mail).await;
        assert_eq!(status, 200, "{answer}");
    }
    node.events_of("delivered", 2).await;
    counted(&node, 2, 0).await;
    // The reader's tables are lost with the node, and nothing of them was written down.
    let node = node
        .restart_after(|data_dir| {
            std::fs::remove_dir_all(data_dir.join("readers")).unwrap();
            let config = data_dir.with_file_name("posthaste.toml");
            let erase = |place: [&str; 2]| {
                std::process::Command::new(env!("CARGO_BIN_EXE_posthaste"))
                    .args(["spool", "erase", "--recipient", "ann@forget.example"])
                    .args(place)
                    .output()
                    .unwrap()
            };
            // Whose days they are cannot be guessed.
            let refused = erase(["--data-dir", data_dir.to_str().unwrap()]);
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(said.contains("with --config"), "{refused:?}");
            let erased = erase(["--config", config.to_str().unwrap()]);
            assert!(erased.status.success(), "{erased:?}");
        })
        .await;
    counted(&node, 2, 0).await;
    posthaste(node.dir.path(), "readers rebuild statistics")
        .await
        .expect(0);
    counted(&node, 2, 0).await;
    node.node.stop().await;
}
