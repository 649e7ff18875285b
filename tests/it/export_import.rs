//! A queue moves to another node: what was exported there is delivered here, octet for octet, once.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::client::message;
use crate::support::node::TestNode;
use crate::support::process::posthaste;
use crate::support::remote_host::{Gate, RemoteHost};

fn route(to: std::net::SocketAddr) -> String {
    format!("[[route]]\ndomain = \"*\"\nhosts = [\"{to}\"]\n")
}

fn counts(summary: &Value) -> [u64; 4] {
    ["imported", "known", "ended", "refused"].map(|name| summary[name].as_u64().unwrap())
}

async fn import(dir: &Path, words: &str, code: i32) -> Value {
    let said = posthaste(dir, &format!("spool import {words} --json")).await;
    said.expect(code).object()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_moves_to_another_node_octet_for_octet_and_once() {
    let gate = Gate::closed().await;
    let old = TestNode::that_waits_with(&route(gate.host.address)).await;
    let mut client = old.client().await;
    let long = "a line of a long message, of which there are many\r\n".repeat(30_000);
    let mut sent = Vec::new();
    for (recipients, body) in [
        (&["a@one.test"][..], "grüße, octet for octet"),
        (&["b@one.test", "c@two.test"][..], "to two"),
        (&["d@two.test"][..], long.as_str()),
    ] {
        let content = message("moved", body.trim_end());
        sent.push((client.submit(recipients, &content).await, recipients));
    }
    old.events_of("deferred", 4).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queue.jsonl");
    // The node may run or not: it is asked first while it does.
    let running = posthaste(old.dir.path(), "spool export --live")
        .await
        .expect(0);
    assert_eq!(running.stdout.lines().count(), 3);
    let mut contents = Vec::new();
    for (id, _) in &sent {
        let cat = posthaste(old.dir.path(), &format!("spool cat {id}"))
            .await
            .expect(0);
        contents.push(cat.stdout.into_bytes());
    }
    let TestNode {
        node, dir: old_dir, ..
    } = old;
    node.stop().await;
    let exported = posthaste(old_dir.path(), "spool export --live")
        .await
        .expect(0);
    std::fs::write(&file, &exported.stdout).unwrap();
    for (line, (id, recipients)) in exported.stdout.lines().zip(&sent) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["message_id"], id.as_str());
        assert_eq!(
            line["recipients"].as_array().unwrap().len(),
            recipients.len()
        );
        assert_eq!(
            line["recipients"][0]["state"], "deferred",
            "{}",
            line["recipients"]
        );
        assert_eq!(line["recipients"][0]["attempts"], 1);
    }
    let one = posthaste(old_dir.path(), "spool export --live --domain one.test")
        .await
        .expect(0);
    assert_eq!(one.stdout.lines().count(), 2);
    assert!(!one.stdout.contains("c@two.test"));

    let host = RemoteHost::start().await;
    let new = TestNode::routed_to(host.address).await;
    let file = file.to_str().unwrap();
    let planned = import(new.dir.path(), &format!("{file} --dry-run"), 0).await;
    assert_eq!(counts(&planned), [3, 0, 0, 0]);
    assert!(new.events().is_empty(), "a dry run");
    let summary = import(new.dir.path(), file, 0).await;
    assert_eq!(counts(&summary), [3, 0, 0, 0]);
    let delivered = new.events_of("delivered", 4).await;
    for (id, recipients) in &sent {
        for recipient in *recipients {
            let of = delivered
                .iter()
                .filter(|e| e.message_id == *id && e.recipient == *recipient);
            assert_eq!(of.count(), 1, "{id} {recipient}");
        }
    }
    let taken = host.taken();
    for (content, (_, recipients)) in contents.iter().zip(&sent) {
        let of = taken.iter().filter(|t| t.content == *content);
        assert!(of.count() >= 1, "{recipients:?}: other octets");
    }
    // Given again, even after everything has left: nothing is sent twice.
    assert_eq!(counts(&import(new.dir.path(), file, 0).await), [0, 3, 0, 0]);
    let new = new.restart().await;
    assert_eq!(counts(&import(new.dir.path(), file, 0).await), [0, 3, 0, 0]);
    posthaste(new.dir.path(), "audit").await.expect(0);
    posthaste(new.dir.path(), "spool verify").await.expect(0);
    assert_eq!(
        new.events()
            .iter()
            .filter(|e| e.kind == "delivered")
            .count(),
        4
    );
    // The operator's commands know it by its old id.
    posthaste(new.dir.path(), &format!("spool show {}", sent[0].0))
        .await
        .expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_cannot_be_taken_are_named_and_the_others_are_taken() {
    let gate = Gate::closed().await;
    let node = TestNode::that_waits_with(&route(gate.host.address)).await;
    let content = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let good = json!({
        "server": "app", "stream": "outbound", "reverse_path": "s@example.com",
        "message_id": "0192d3a4-5b6c-7def-8123-456789abcdef",
        "recipients": [{"recipient": "a@one.test", "state": "ready"}],
        "content": content("Subject: x\r\n\r\nbody\r\n"),
    });
    let with = |key: &str, value: Value| {
        let mut line = good.clone();
        line[key] = value;
        line["message_id"] = Value::Null;
        line.to_string()
    };
    let lines = [
        good.to_string(),
        with("server", "nobody".into()),
        with("stream", "nothing".into()),
        "{not json".to_owned(),
        with("content", "***".into()),
        with(
            "content",
            content("Subject: x\r\n\r\nbare\nfeed\r\n").into(),
        ),
        with(
            "recipients",
            json!([{"recipient": "no mailbox", "state": "ready"}]),
        ),
        with("reverse_path", "no mailbox".into()),
        String::new(),
        with(
            "recipients",
            json!([{"recipient": "b@one.test", "state": "delivered"}]),
        ),
        with("reverse_path", "".into()),
    ];
    let file = node.dir.path().join("queue.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let said = posthaste(node.dir.path(), "spool import queue.jsonl --json")
        .await
        .expect(1);
    assert_eq!(counts(&said.object()), [2, 0, 1, 7], "{}", said.stderr);
    for line in [2, 3, 4, 5, 6, 7, 8] {
        assert!(
            said.stderr.contains(&format!("line {line}: ")),
            "{}",
            said.stderr
        );
    }
    node.events_of("deferred", 2).await;
    let accepted = node.events_of("accepted", 2).await;
    assert!(accepted.iter().all(|e| e.detail == "imported"));
    // With its own id it can be withdrawn.
    let id = good["message_id"].as_str().unwrap();
    posthaste(node.dir.path(), &format!("queue cancel {id}"))
        .await
        .expect(0);
    node.events_of("cancelled", 1).await;
    node.node.stop().await;
    let dir = node.dir;
    posthaste(dir.path(), "spool import queue.jsonl")
        .await
        .expect(69);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_to_files_and_come_back_from_them() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    let id = client
        .submit(&["a@one.test"], &message("kept", "as a file"))
        .await;
    node.events_of("delivered", 1).await;
    let dir = node.dir.path();
    posthaste(dir, "spool export --format eml").await.expect(2);
    posthaste(dir, "spool export --live").await.expect(1);
    posthaste(dir, "spool export --format eml --dir mail")
        .await
        .expect(0);
    let eml = std::fs::read(dir.join(format!("mail/{id}.eml"))).unwrap();
    assert_eq!(eml, host.taken()[0].content);
    let beside = std::fs::read(dir.join(format!("mail/{id}.json"))).unwrap();
    let envelope: Value = serde_json::from_slice(&beside).unwrap();
    assert_eq!(envelope["recipients"][0]["state"], "delivered");

    let other = TestNode::routed_to(host.address).await;
    let path = dir.join(format!("mail/{id}.eml"));
    let path = path.to_str().unwrap();
    // Nobody waits for it.
    assert_eq!(
        counts(&import(other.dir.path(), path, 0).await),
        [0, 0, 1, 0]
    );
    let again = import(other.dir.path(), &format!("{path} --all"), 0).await;
    assert_eq!(counts(&again), [1, 0, 0, 0]);
    other.events_of("delivered", 1).await;
    let words = format!("{path} --server app --from s@example.com --to b@two.test --to c@two.test");
    assert_eq!(
        counts(&import(other.dir.path(), &words, 0).await),
        [1, 0, 0, 0]
    );
    other.events_of("delivered", 3).await;
    for taken in host.taken() {
        assert_eq!(taken.content, eml);
    }
    std::fs::write(dir.join("unix.eml"), "Subject: x\n\nbody\n").unwrap();
    posthaste(dir, "spool import unix.eml").await.expect(2);
    let words = "unix.eml --server app --from <> --to b@two.test";
    assert_eq!(counts(&import(dir, words, 0).await), [1, 0, 0, 0]);
    let taken = host.taken_until("the file", |t| {
        t.iter().any(|t| t.content == b"Subject: x\r\n\r\nbody\r\n")
    });
    taken.await;
}
