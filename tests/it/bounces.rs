//! What bounced, as clients of Postmark see it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::official_clients::run;
use crate::sending::post;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::http;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

/// Refuses recipients whose address begins with `gone`, once each.
async fn host() -> RemoteHost {
    RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("<gone") => Answer::line("550 5.1.1 no such user"),
        _ => Answer::Usual,
    })
    .await
}

const TOKEN: &str = "app-secret-token";

/// Sends a message; its id.
async fn send(address: SocketAddr, to: &str) -> String {
    let mail = json!({
        "From": "orders@declared.example", "To": to, "Subject": "Grüße", "TextBody": "Hi.", "Tag": "welcome",
    });
    let (status, answer) = post(address, "/email", &mail).await;
    assert_eq!(status, 200, "{answer}");
    answer["MessageID"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_list_read_dump_and_activate_bounces() {
    for (script, to) in [
        (["node", "bounces.js"], "gone@js.example"),
        (["python3", "bounces.py"], "gone@py.example"),
    ] {
        let host = host().await;
        let node = TestNode::routed_to(host.address).await;
        let address = node.node.http_address();
        let id = send(address, to).await;
        node.events_of("bounced", 1).await;
        suppressed(&node).await;
        let url = match script[0] {
            "node" => address.to_string(),
            _ => format!("http://{address}"),
        };
        run(&[script[0], script[1], &url, TOKEN, &id]).await;
        node.node.stop().await;
    }
}

/// Until the address is suppressed for its hard bounce and the API says so.
async fn suppressed(node: &TestNode) {
    eventually("an inactive bounce", async || {
        let path = "/bounces?inactive=true&count=1&offset=0";
        let fields = format!("X-Postmark-Server-Token: {TOKEN}\r\n");
        let (_, text) = http(node.node.http_address(), path, &fields).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        (answer["TotalCount"] == 1).then_some(())
    })
    .await;
}
