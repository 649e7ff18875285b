//! Events handed on to a NATS server with JetStream, Debian's, and to a file, over a kill of either.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use async_nats::jetstream::{self, stream};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::sending::post;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::{free_address, posthaste};
use crate::support::remote_host::RemoteHost;

/// Its streams stay in `dir`.
async fn start_nats(dir: &Path, address: SocketAddr) -> Child {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let child = Command::new("nats-server")
        .args(["-a", &host, "-p", &port, "-js", "-sd"])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("nats-server: {e}; scripts/test installs what the tests need"));
    eventually("the NATS server", async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
    child
}

/// Ids of the events in the stream, in its order; `None` while the server is away.
async fn ids(context: &jetstream::Context) -> Option<Vec<u64>> {
    let mut stream = context.get_stream("mail").await.ok()?;
    let last = stream.info().await.ok()?.state.last_sequence;
    let mut ids = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.ok()?;
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let subject = format!("mail.app.outbound.{}", event["kind"].as_str().unwrap());
        assert_eq!(message.subject.as_str(), subject);
        ids.push(event["id"].as_u64().unwrap());
    }
    Some(ids)
}

async fn send(node: &TestNode, count: usize) {
    for _ in 0..count {
        let mail =
            json!({ "From": "orders@declared.example", "To": "b@a.example", "TextBody": "Hi." });
        let (status, answer) = post(node.node.http_address(), "/email", &mail).await;
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_and_a_file_have_every_event_once_and_in_order_over_restarts_of_either() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let mut nats = start_nats(dir.path(), address).await;
    let client = async_nats::connect(address.to_string()).await.unwrap();
    let context = jetstream::new(client);
    let stream = stream::Config {
        name: "mail".into(),
        subjects: vec!["mail.>".into()],
        ..stream::Config::default()
    };
    context.create_stream(stream).await.unwrap();

    let host = RemoteHost::start().await;
    let file = dir.path().join("events.jsonl");
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n\
         [[sink]]\nname = \"bus\"\ntype = \"nats\"\nurl = \"nats://{address}\"\nsubject = \"mail.{{server}}.{{stream}}.{{kind}}\"\nkinds = [\"accepted\", \"delivered\"]\n\
         [[sink]]\nname = \"lines\"\ntype = \"file\"\npath = {file:?}\nkinds = [\"delivered\"]\n",
        host.address
    );
    let node = TestNode::with(&config).await;
    send(&node, 3).await;
    eventually("six events", async || {
        (ids(&context).await?.len() == 6).then_some(())
    })
    .await;

    // Without the server mail goes on, and so does the file.
    nats.kill().await.unwrap();
    send(&node, 3).await;
    let lines = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let ids = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["id"].as_u64().unwrap()
        });
        ids.collect::<Vec<_>>()
    };
    eventually("six lines", async || (lines().len() == 6).then_some(())).await;
    let rows = posthaste(node.dir.path(), "readers ls --json").await;
    let rows = rows.expect(0).json();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert!(row("sink-bus")["lag_bytes"].as_u64().unwrap() > 0);
    assert_eq!(row("sink-lines")["lag_bytes"], 0);
    // Nor does the node's end lose what the server has not.
    let node = node.restart().await;
    nats = start_nats(dir.path(), address).await;
    send(&node, 1).await;
    let found = eventually("all events", async || {
        let found = ids(&context).await?;
        (found.len() == 14).then_some(found)
    })
    .await;
    assert!(found.is_sorted(), "{found:?}");
    eventually("seven lines", async || (lines().len() == 7).then_some(())).await;
    assert!(lines().is_sorted() && lines().iter().all(|id| found.contains(id)));
    node.node.stop().await;
    nats.kill().await.unwrap();
}
