//! Mail with a time of its own: deadlines after which nobody wants it, and releases before which nobody does.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::client::message;
use crate::support::node::TestNode;
use crate::support::process::{Said, posthaste};
use crate::support::remote_host::{Gate, RemoteHost};
use crate::support::within;

fn route(to: std::net::SocketAddr) -> String {
    format!("[[route]]\ndomain = \"*\"\nhosts = [\"{to}\"]\n")
}

fn with_field(field: &str) -> Vec<u8> {
    [
        format!("{field}\r\n").into_bytes(),
        message("timed", "body"),
    ]
    .concat()
}

async fn run(node: &TestNode, words: &str) -> Said {
    posthaste(node.dir.path(), words).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_delivered_by_its_deadline_expires_and_says_so() {
    let gate = Gate::closed().await;
    let node = TestNode::with(&route(gate.host.address)).await;
    let mut client = node.client().await;
    client
        .submit(&["a@one.test"], &with_field("X-Posthaste-Deadline: 3s"))
        .await;
    client
        .command("MAIL FROM:<sender@example.com> BY=3;R", 250)
        .await;
    client.command("RCPT TO:<b@one.test>", 250).await;
    client.command("DATA", 354).await;
    client.send(&message("by", "body")).await;
    client.command(".", 250).await;
    let forever = client
        .submit(&["c@one.test"], &message("kept", "body"))
        .await;
    let expired = node.events_of("expired", 2).await;
    for event in &expired {
        assert_eq!(event.cause, "deadline", "{event:?}");
        assert!(event.detail.contains("5.4.7"), "{event:?}");
        assert_ne!(event.message_id, forever);
    }
    gate.open();
    // In time it is delivered, and nobody learns that there was a deadline.
    client
        .submit(&["d@one.test"], &with_field("X-Posthaste-Deadline: 1h"))
        .await;
    let taken = gate.host.wait_for(2).await;
    for taken in &taken {
        let content = String::from_utf8_lossy(&taken.content).to_ascii_lowercase();
        assert!(!content.contains("x-posthaste"), "{content}");
    }
    node.node.stop().await;
    posthaste(node.dir.path(), "audit").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_cannot_be_kept_is_refused_and_says_why() {
    let host = RemoteHost::start().await;
    let node = TestNode::with(&route(host.address)).await;
    let mut client = node.client().await;
    client.send(b"EHLO client.test\r\n").await;
    let (_, capabilities) = client.reply().await;
    assert!(capabilities.contains("DELIVERBY 1"), "{capabilities}");
    assert!(
        capabilities.contains("FUTURERELEASE 2592000 20"),
        "{capabilities}"
    );
    for (field, words) in [
        ("X-Posthaste-Deadline: soon", "neither a time"),
        (
            "X-Posthaste-Deadline: 2020-01-01T00:00:00Z",
            "has passed already",
        ),
        ("X-Posthaste-Deadline: 2090-01-01T00:00:00", "no time zone"),
        (
            "X-Posthaste-Deadline: 1h\r\nX-Posthaste-Deadline: 2h",
            "more than once",
        ),
        ("X-Posthaste-Send-At: 2090-01-01T00:00:00Z", "30 days"),
    ] {
        let refused = client.try_submit("b@example.org", &with_field(field)).await;
        let (code, text) = refused.unwrap();
        assert!(code == 550 && text.contains("5.6.0"), "{code} {text}");
        assert!(text.contains(words), "{field}: {text}");
        client.command("RSET", 250).await;
    }
    for (parameter, code) in [
        ("HOLDFOR=2592001", 501),
        ("HOLDUNTIL=2020-01-01T00:00:00Z", 501),
        ("HOLDUNTIL=2090-01-01T00:00:00Z", 501),
        ("HOLDFOR=1 HOLDUNTIL=2090-01-01T00:00:00Z", 501),
        ("BY=0;R", 501),
        ("BY=60;N", 555),
        ("BY=60;RT", 555),
    ] {
        let mail = format!("MAIL FROM:<sender@example.com> {parameter}");
        client.command(&mail, code).await;
    }
    node.node.stop().await;
    assert!(host.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scheduled_is_shown_kept_over_restarts_moved_and_cancelled() {
    let host = RemoteHost::start().await;
    let mut node = TestNode::with(&route(host.address)).await;
    let mut client = node.client().await;
    let mut ids = Vec::new();
    for recipient in ["a@one.test", "b@one.test", "c@one.test"] {
        let field = "X-Posthaste-Send-At: 2h\r\nX-Posthaste-Deadline: 30m";
        ids.push(client.submit(&[recipient], &with_field(field)).await);
    }
    drop(client);
    node.events_of("accepted", 3).await;
    for round in 0..2 {
        let row = run(&node, "queue ls --json").await.expect(0).object();
        assert_eq!(
            (&row["deferred"], &row["oldest_at"]),
            (&3.into(), &Value::Null),
            "{row}"
        );
        assert_eq!(row["reasons"][0]["code"], "scheduled", "{row}");
        let explained = run(&node, &format!("queue explain {} --json", ids[0])).await;
        let explained = explained.expect(0).object();
        assert_eq!(explained["state"], "deferred");
        assert_eq!(explained["reasons"][0]["code"], "scheduled");
        let at = |value: &Value| posthaste::clock::parse_rfc3339(value.as_str().unwrap()).unwrap();
        let release = at(&explained["next_attempt_at"]);
        let left = at(&explained["expires_at"]) - release;
        assert!((1_799_000..1_801_000).contains(&left), "{explained}");
        // Everything at once does not mean it.
        run(&node, "queue retry --all").await;
        let listed = run(&node, "spool ls --state deferred --json")
            .await
            .expect(0)
            .json();
        assert_eq!(listed.len(), 3);
        assert_eq!(listed[0]["scheduled_at"], listed[0]["next_attempt_at"]);
        let table = run(&node, "spool ls").await.expect(0).stdout;
        assert!(table.contains("deferred (scheduled)"), "{table}");
        let shown = run(&node, &format!("spool show {} --json", ids[0])).await;
        let shown = shown.expect(0).object();
        assert_eq!(
            shown["envelope_recipients"][0]["reason"], "scheduled",
            "{shown}"
        );
        let past = run(&node, "spool at 2100-01-01 --ls --json")
            .await
            .expect(0)
            .json();
        assert_eq!(past.len(), 3);
        let then = run(&node, "spool at now --ls --json")
            .await
            .expect(0)
            .json();
        assert_eq!(then[0]["reason"], "scheduled", "{then:?}");
        if round == 0 {
            node = node.restart().await;
        }
    }
    let affected = run(&node, &format!("queue cancel {} --json", ids[0])).await;
    assert_eq!(affected.expect(0).object()["deferred"], 1);
    node.events_of("cancelled", 1).await;
    // By its name it goes at once.
    run(&node, &format!("queue retry {}", ids[1]))
        .await
        .expect(0);
    host.wait_for(1).await;
    node.events_of("delivered", 1).await;
    let exported = run(&node, "spool export --live").await.expect(0);
    node.node.stop().await;
    posthaste(node.dir.path(), "audit").await.expect(0);

    let other = TestNode::with(&route(host.address)).await;
    let file = other.dir.path().join("queue.jsonl");
    std::fs::write(&file, &exported.stdout).unwrap();
    run(&other, &format!("spool import {}", file.display()))
        .await
        .expect(0);
    let moved = run(&other, &format!("queue explain {} --json", ids[2])).await;
    let moved = moved.expect(0).object();
    assert_eq!(moved["reasons"][0]["code"], "scheduled", "{moved}");
    other.node.stop().await;
    assert_eq!(host.taken().len(), 1);
}

/// Python's smtplib hands the parameters of MAIL on as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_hold_a_message_for_seconds_and_it_is_sent_then_and_not_before() {
    let host = RemoteHost::start().await;
    let node = TestNode::with(&route(host.address)).await;
    let script = format!(
        "import smtplib\ns = smtplib.SMTP('127.0.0.1', {})\ns.ehlo('client.test')\nassert s.has_extn('futurerelease') and s.has_extn('deliverby')\n\
         s.sendmail('a@example.com', ['b@example.org'], 'From: a@example.com\\r\\nSubject: held\\r\\n\\r\\nbody\\r\\n', mail_options=['HOLDFOR=2', 'BY=60;R'])\ns.quit()",
        node.smtp().port()
    );
    let before = posthaste::clock::wall_unix_ms();
    let mut python = Command::new("python3");
    let python = python.args(["-c", &script]).stdin(Stdio::null()).output();
    let said = within("smtplib", python).await.unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    host.wait_for(1).await;
    let waited = posthaste::clock::wall_unix_ms() - before;
    assert!(waited >= 2_000, "{waited} ms");
    node.node.stop().await;
}
