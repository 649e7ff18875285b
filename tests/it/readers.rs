//! Readers of the event log as an operator sees them: how far they are, and made again while they answer.

use serde_json::{Value, json};

use crate::sending::post;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::{http, posthaste};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

async fn count(node: &TestNode) -> u64 {
    let fields = "X-Postmark-Server-Token: app-secret-token\r\n";
    let path = "/bounces?count=1&offset=0";
    let (status, text) = http(node.node.http_address(), path, fields).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["TotalCount"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_listed_and_made_again_while_they_answer() {
    let host = RemoteHost::scripted(|stage, _, _| match stage {
        Stage::Rcpt => Answer::line("550 5.1.1 no such user"),
        _ => Answer::Usual,
    })
    .await;
    let node = TestNode::routed_to(host.address).await;
    for number in 0..3 {
        let to = format!("gone{number}@a.example");
        let mail = json!({ "From": "orders@declared.example", "To": to, "TextBody": "Hi." });
        let (status, answer) = post(node.node.http_address(), "/email", &mail).await;
        assert_eq!(status, 200, "{answer}");
    }
    node.events_of("bounced", 3).await;
    let dir = node.dir.path();
    let reader = async |name: &str| {
        let rows = posthaste(dir, "readers ls --json").await.expect(0).json();
        let mut rows = rows.into_iter();
        rows.find(|row| row["name"] == name).unwrap()
    };
    let bounces = eventually("a reader that has read all", async || {
        let row = reader("bounces").await;
        let is_there = row["lag_bytes"] == 0 && count(&node).await == 3;
        is_there.then_some(row)
    })
    .await;
    assert_eq!(
        (
            &bounces["state"],
            &bounces["generation"],
            &bounces["trouble"]
        ),
        (&json!("following"), &json!(1), &Value::Null)
    );
    assert!(bounces["bytes"].as_u64().unwrap() > 0 && bounces["at"].is_string());
    assert!(reader("suppressions").await["entries"].is_u64());
    assert!(reader("automatic-suppressions").await["base"].is_u64());

    let made = posthaste(dir, "readers rebuild bounces --json").await;
    assert_eq!(made.expect(0).object()["generation"], 2);
    assert_eq!(count(&node).await, 3);
    for (name, why) in [
        ("suppressions", "restart the node"),
        ("nothing", "there is no reader `nothing`"),
    ] {
        let said = posthaste(dir, &format!("readers rebuild {name}")).await;
        let said = said.expect(1);
        assert!(said.stderr.contains(why), "{}", said.stderr);
    }
    // What was made again is what the next life finds.
    let node = node.restart().await;
    eventually("the tables", async || {
        let fields = "X-Postmark-Server-Token: app-secret-token\r\n";
        let (status, _) = http(
            node.node.http_address(),
            "/bounces?count=1&offset=0",
            fields,
        )
        .await;
        (status == 200).then_some(())
    })
    .await;
    assert_eq!(count(&node).await, 3);
    node.node.stop().await;
}
