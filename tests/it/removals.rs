//! Somebody asks to be forgotten through the API, and is.

use serde_json::{Value, json};

use crate::official_clients::run;
use crate::sending::{call_as, post};
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::http;
use crate::support::remote_host::{Gate, RemoteHost};

const ACCOUNT: &str = "[account]\ntokens = [\"the-account-token\"]\n";

async fn found(node: &TestNode, recipient: &str) -> u64 {
    let path = format!("/messages/outbound?count=1&offset=0&recipient={recipient}");
    let fields = "X-Postmark-Server-Token: app-secret-token\r\n";
    let (_, text) = http(node.node.http_address(), &path, fields).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    // No number: the tables are not there yet.
    answer["TotalCount"].as_u64().unwrap_or(u64::MAX)
}

async fn until_found(node: &TestNode, recipient: &str, count: u64) {
    eventually("so many messages", async || {
        (found(node, recipient).await == count).then_some(())
    })
    .await;
}

async fn send(node: &TestNode, to: &str) {
    let mail = json!({ "From": "orders@declared.example", "To": to, "Subject": "wordsecret", "TextBody": "Hi." });
    let (status, answer) = post(node.node.http_address(), "/email", &mail).await;
    assert_eq!(status, 200, "{answer}");
}

/// Files that hold the word.
fn holding(node: &TestNode, word: &str) -> Vec<std::path::PathBuf> {
    let mut holding = Vec::new();
    let mut dirs = vec![node.data_dir()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(octets) = std::fs::read(&path)
                && octets.windows(word.len()).any(|o| o == word.as_bytes())
            {
                holding.push(path);
            }
        }
    }
    holding
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_have_somebody_forgotten_everywhere() {
    let host = RemoteHost::start().await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    let node = TestNode::with(&format!("{ACCOUNT}{route}")).await;
    send(&node, "ann@forget.example").await;
    send(&node, "ben@keep.example").await;
    node.events_of("delivered", 2).await;
    until_found(&node, "ann@forget.example", 1).await;
    let address = node.node.http_address().to_string();
    run(&[
        "node",
        "removals.js",
        &address,
        "the-account-token",
        "Ann@Forget.example",
    ])
    .await;
    assert_eq!(found(&node, "ann@forget.example").await, 0);
    assert_eq!(found(&node, "ben@keep.example").await, 1);
    assert_eq!(
        holding(&node, "ann@forget.example"),
        Vec::<std::path::PathBuf>::new()
    );
    // Whoever asked is told.
    let notice = host.wait_for(3).await.pop().unwrap();
    assert_eq!(notice.recipients, ["dpo@declared.example"]);
    let text = String::from_utf8_lossy(&notice.content).into_owned();
    assert!(text.contains("Removal of data 1 is done"), "{text}");
    // Once more, with nothing left.
    let url = format!("http://{address}");
    run(&[
        "python3",
        "removals.py",
        &url,
        "the-account-token",
        "ann@forget.example",
    ])
    .await;
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_waits_for_mail_that_waits_and_survives_a_restart() {
    let gate = Gate::closed().await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        gate.host.address
    );
    let node = TestNode::with(&format!("{ACCOUNT}{route}")).await;
    send(&node, "ann@forget.example").await;
    node.events_of("deferred", 1).await;
    let fields = "X-Postmark-Account-Token: the-account-token\r\n";
    let status = async |node: &TestNode| {
        let (_, text) = http(node.node.http_address(), "/data-removals/1", fields).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["Status"].as_str().map(str::to_owned)
    };
    let body =
        json!({ "RequestedBy": "dpo@declared.example", "RequestedFor": "ann@forget.example" });
    let address = node.node.http_address();
    let token = [("X-Postmark-Account-Token", "the-account-token")];
    let (code, answer) = call_as(&token, "POST", address, "/data-removals", &body).await;
    assert_eq!(
        (code, &answer["Status"]),
        (200, &json!("Pending")),
        "{answer}"
    );
    let node = node.restart().await;
    assert_eq!(status(&node).await.as_deref(), Some("Pending"));
    until_found(&node, "ann@forget.example", 1).await;
    gate.open();
    node.events_of("delivered", 1).await;
    eventually("it is done", async || {
        (status(&node).await.as_deref() == Some("Done")).then_some(())
    })
    .await;
    assert_eq!(found(&node, "ann@forget.example").await, 0);
    node.node.stop().await;
}
