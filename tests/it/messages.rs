//! What was sent, as clients of Postmark see it, and as it stays.

use std::path::Path;

use serde_json::{Value, json};

use crate::official_clients::run;
use crate::sending::post;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::{http, posthaste};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

const TOKEN: &str = "app-secret-token";

async fn host() -> RemoteHost {
    RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("<gone") => Answer::line("550 5.1.1 no such user"),
        _ => Answer::Usual,
    })
    .await
}

async fn get(node: &TestNode, path: &str) -> Value {
    let fields = format!("X-Postmark-Server-Token: {TOKEN}\r\n");
    let (_, text) = http(node.node.http_address(), path, &fields).await;
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_search_messages_and_read_what_became_of_them() {
    for (script, gone) in [
        (["node", "messages.js"], "gone@js.example"),
        (["python3", "messages.py"], "gone@py.example"),
    ] {
        let host = host().await;
        let node = TestNode::routed_to(host.address).await;
        let address = node.node.http_address();
        let url = match script[0] {
            "node" => address.to_string(),
            _ => format!("http://{address}"),
        };
        run(&[script[0], script[1], &url, TOKEN, gone]).await;
        node.node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_found_after_a_restart_and_not_after_it_was_erased() {
    let host = host().await;
    let node = TestNode::routed_to(host.address).await;
    let mail = json!({
        "From": "orders@declared.example", "To": "ann@forget.test", "Subject": "wordsecret", "TextBody": "Hi.",
    });
    let (status, answer) = post(node.node.http_address(), "/email", &mail).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["MessageID"].as_str().unwrap().to_owned();
    node.events_of("delivered", 1).await;
    let search = "/messages/outbound?subject=wordsecret&status=sent";
    let found = async |node: &TestNode, count: u64| {
        eventually("it is found, or not any more", async || {
            (get(node, search).await["TotalCount"] == count).then_some(())
        })
        .await;
    };
    found(&node, 1).await;
    // The reader's place in the log and its tables survive together; what is removed is made again.
    let node = node.restart().await;
    found(&node, 1).await;
    let details = get(&node, &format!("/messages/outbound/{id}/details")).await;
    assert_eq!(
        details["MessageEvents"][0]["Type"], "Delivered",
        "{details}"
    );
    let readers = |data_dir: &Path| std::fs::remove_dir_all(data_dir.join("readers")).unwrap();
    let node = node.restart_after(readers).await;
    found(&node, 1).await;

    let words = "spool erase --recipient ann@forget.test";
    posthaste(node.dir.path(), words).await.expect(0);
    found(&node, 0).await;
    let details = get(&node, &format!("/messages/outbound/{id}/details")).await;
    assert_eq!(details["ErrorCode"], 701, "{details}");
    for name in ["activity.db", "activity.db-wal"] {
        let octets = std::fs::read(node.data_dir().join("readers").join(name)).unwrap_or_default();
        for word in ["wordsecret", "ann@forget"] {
            let place = octets
                .windows(word.len())
                .position(|o| o == word.as_bytes());
            assert_eq!(place, None, "{word} in {name}");
        }
    }
    node.node.stop().await;
}
