//! The commands of an operator against a running node: what they print agrees with what happens.

use std::path::Path;

use serde_json::Value;

use crate::support::client::{Client, auth_plain, message};
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::{Said, posthaste};
use crate::support::remote_host::Gate;

/// A node with a host that takes nothing until it is opened, and retries that nobody waits for.
async fn waiting_node(gate: &Gate) -> TestNode {
    let config = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n[delivery]\nconnections_per_site = 2\n",
        gate.host.address
    );
    let config = config + "[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\ntrusted = []\n";
    TestNode::that_waits_with(&config).await
}

impl TestNode {
    async fn run(&self, words: &str) -> Said {
        posthaste(self.dir.path(), words).await
    }

    /// Waits until that many recipients of a domain are deferred.
    async fn deferred(&self, domain: &str, count: u64) -> Value {
        eventually("deferred recipients", async || {
            let rows = self
                .run(&format!("queue explain {domain} --json"))
                .await
                .json();
            rows.into_iter().find(|row| row["deferred"] == count)
        })
        .await
    }
}

fn numbers(affected: &Value) -> [u64; 3] {
    ["ready", "deferred", "in_flight"].map(|state| affected[state].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_listed_explained_retried_bounced_and_cancelled() {
    let gate = Gate::closed().await;
    let node = waiting_node(&gate).await;
    let mut client = node.client().await;
    let first = client
        .submit(
            &["a@one.test", "b@one.test", "c@two.test"],
            &message("first", "body"),
        )
        .await;
    let second = client
        .submit(&["d@one.test"], &message("second", "body"))
        .await;
    let third = client
        .submit(&["e@three.test"], &message("third", "body"))
        .await;
    let row = node.deferred("one.test", 3).await;
    assert_eq!(
        (&row["pool"], &row["domain"]),
        (&"tx".into(), &"one.test".into())
    );
    assert!(
        row["oldest_at"].is_string() && row["next_wake_at"].is_string(),
        "{row}"
    );
    node.deferred("two.test", 1).await;
    node.deferred("three.test", 1).await;

    // Listed, as rows of JSON and as a table.
    let rows = node.run("queue ls --json").await.expect(0).json();
    let listed: Vec<_> = rows
        .iter()
        .map(|row| (row["domain"].as_str().unwrap(), numbers(row)))
        .collect();
    assert_eq!(
        listed,
        [
            ("one.test", [0, 3, 0]),
            ("three.test", [0, 1, 0]),
            ("two.test", [0, 1, 0])
        ]
    );
    let table = node.run("queue ls").await.expect(0).stdout;
    assert!(
        table.starts_with("POOL") && table.contains("three.test") && table.contains("1280+"),
        "{table}"
    );
    // All of them are younger than five minutes.
    assert!(rows.iter().all(|row| row["ages"][0] == row["deferred"]));
    for (by, name) in [
        ("server", "app"),
        ("stream", "app/outbound"),
        ("source", "tx1"),
        ("pool", "tx"),
    ] {
        let said = node.run(&format!("queue ls --by {by} --json")).await;
        let row = said.expect(0).object();
        assert_eq!((&row["name"], numbers(&row)), (&name.into(), [0, 5, 0]));
    }
    let sites = node.run("queue ls --by site --json").await.expect(0).json();
    assert_eq!(sites.len(), 1, "one route, one site: {sites:?}");
    let first_row = node.run("queue ls --sort size --limit 1").await.expect(0);
    let lines: Vec<_> = first_row.stdout.lines().collect();
    assert!(lines[1].contains("one.test"), "{lines:?}");
    assert!(lines[2].contains("2 more rows"), "{lines:?}");
    // No terminal: one frame.
    let frame = node.run("queue top --by domain --sort age").await.expect(0);
    assert!(
        frame.stdout.contains("0 ready, 5 deferred"),
        "{}",
        frame.stdout
    );
    assert!(frame.stdout.contains("two.test"), "{}", frame.stdout);
    let why = node.run("queue explain one.test").await.expect(0).stdout;
    for part in [
        "sticks to source tx1",
        "limit connections 2 (by ",
        "last: Attempt 1 from source tx1",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let why = node.run(&format!("queue explain {first}")).await.expect(0);
    assert!(
        why.stdout.contains("released by: Its next attempt at"),
        "{}",
        why.stdout
    );

    // Explained, by message: each recipient with its own next attempt.
    let recipients = node
        .run(&format!("queue explain {first} --json"))
        .await
        .expect(0)
        .json();
    let explained: Vec<_> = recipients
        .iter()
        .map(|r| {
            (
                r["recipient"].as_str().unwrap(),
                r["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        explained,
        [
            ("a@one.test", "deferred"),
            ("b@one.test", "deferred"),
            ("c@two.test", "deferred")
        ]
    );
    for recipient in &recipients {
        assert_eq!(
            (recipient["attempts"].as_u64(), &recipient["message_id"]),
            (Some(1), &first.as_str().into())
        );
        assert!(
            recipient["next_attempt_at"].as_str().unwrap()
                < recipient["expires_at"].as_str().unwrap(),
            "{recipient}"
        );
    }
    node.run("queue explain nowhere.test").await.expect(1);
    node.run("queue explain 00000000-0000-7000-8000-000000000000")
        .await
        .expect(1);
    node.run("queue explain not..a..domain").await.expect(2);

    // One recipient is bounced, one message cancelled; the rest of a message stays.
    let affected = node
        .run(&format!(
            "queue bounce {first} --recipient b@one.test --json"
        ))
        .await
        .expect(0)
        .object();
    assert_eq!(numbers(&affected), [0, 1, 0]);
    let affected = node
        .run(&format!("queue cancel {second} --json"))
        .await
        .expect(0)
        .object();
    assert_eq!(numbers(&affected), [0, 1, 0]);
    node.run(&format!("queue cancel {second}")).await.expect(1);
    node.run("queue bounce nowhere.test").await.expect(1);
    node.run("queue bounce").await.expect(2);
    node.run("queue cancel one.test --recipient a@one.test")
        .await
        .expect(2);
    let bounced = node.events_of("bounced", 1).await.remove(0);
    assert_eq!(
        (bounced.recipient.as_str(), bounced.cause.as_str()),
        ("b@one.test", "admin")
    );
    let cancelled = node.events_of("cancelled", 1).await.remove(0);
    assert_eq!(
        (cancelled.recipient.as_str(), cancelled.message_id.as_str()),
        ("d@one.test", second.as_str())
    );

    // Tried now, by domain and by message; nobody would have before an hour.
    gate.open();
    let affected = node
        .run("queue retry one.test --json")
        .await
        .expect(0)
        .object();
    assert_eq!(numbers(&affected), [0, 1, 0]);
    assert_eq!(
        node.events_of("delivered", 1).await[0].recipient,
        "a@one.test"
    );
    node.run(&format!("queue retry {third}")).await.expect(0);
    assert_eq!(
        node.events_of("delivered", 2).await[1].recipient,
        "e@three.test"
    );
    node.run("queue retry --all").await.expect(0);
    assert_eq!(
        node.events_of("delivered", 3).await[2].recipient,
        "c@two.test"
    );
    node.run("queue retry --all").await.expect(1);
    assert!(
        node.run("queue ls --json")
            .await
            .expect(0)
            .json()
            .iter()
            .all(|row| numbers(row) == [0, 0, 0])
    );
    node.run(&format!("queue explain {first}")).await.expect(1);

    let audit = node.run("audit --json").await.expect(0).object();
    let expected = [
        ("accepted", 5),
        ("delivered", 3),
        ("bounced", 1),
        ("cancelled", 1),
        ("live", 0),
        ("offenders", 0),
    ];
    for (key, count) in expected {
        assert_eq!(audit[key], count, "{key}: {audit}");
    }
    let dir = node.dir;
    drop(client);
    node.node.stop().await;
    // The daemon is gone: who needs it says so, who reads files does not care.
    posthaste(dir.path(), "queue ls").await.expect(69);
    posthaste(dir.path(), "audit").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_a_token_made_by_commands_submit_at_once_and_until_revoked() {
    let gate = Gate::closed().await;
    gate.open();
    let node = waiting_node(&gate).await;
    let server = node
        .run("server create shop --senders any --json")
        .await
        .expect(0)
        .object();
    assert_eq!(
        (&server["name"], &server["declared"]),
        (&"shop".into(), &false.into())
    );
    node.run("server create shop").await.expect(1);
    let names: Vec<_> = node
        .run("server ls --json")
        .await
        .expect(0)
        .json()
        .iter()
        .map(|s| s["name"].clone())
        .collect();
    assert_eq!(names, ["app", "shop"]);

    let token = node
        .run("token create shop --json")
        .await
        .expect(0)
        .object();
    let text = token["token"].as_str().unwrap();
    // Alone on standard output, for scripts.
    let other = node.run("token create shop").await.expect(0).stdout;
    assert_eq!(other.lines().count(), 1);
    node.run("token create nobody").await.expect(1);
    let listed = node.run("token ls shop --json").await.expect(0);
    assert_eq!(listed.json().len(), 2);
    assert!(
        !listed.stdout.contains(text) && !listed.stdout.contains(other.trim()),
        "{}",
        listed.stdout
    );

    let untrusting = node.node.smtp_addresses()[1];
    let mut client = Client::connect(untrusting).await;
    client.command(&auth_plain(text), 235).await;
    let id = client
        .submit(&["b@example.org"], &message("shop", "body"))
        .await;
    assert_eq!(node.events_of("delivered", 1).await[0].message_id, id);
    let shown = node
        .run(&format!("spool show {id} --json"))
        .await
        .expect(0)
        .object();
    assert_eq!(
        (&shown["server"], &shown["stream"]),
        (&"shop".into(), &"outbound".into())
    );

    node.run(&format!("token revoke shop {}", token["id"]))
        .await
        .expect(0);
    node.run(&format!("token revoke shop {}", token["id"]))
        .await
        .expect(1);
    let mut client = Client::connect(untrusting).await;
    client.command(&auth_plain(text), 535).await;
    client.command(&auth_plain(other.trim()), 235).await;
    drop(client);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_spool_shows_is_what_was_sent_and_what_became_of_it() {
    let gate = Gate::closed().await;
    let node = waiting_node(&gate).await;
    let content = b"From: ada@example.com\r\nSubject: shown\r\nX-PM-Tag: welcome\r\nX-PM-Metadata-order: 881\r\n\r\nb\xc3\xb8dy\r\n";
    let mut client = node.client().await;
    let waits = client
        .submit(&["b@example.org", "c@example.net"], content)
        .await;
    let long = [content.as_slice(), &b"0123456789abcdef\r\n".repeat(200_000)].concat();
    let large = client.submit(&["d@example.org"], &long).await;
    node.events_of("deferred", 3).await;
    let dir = node.dir.path();

    let rows = posthaste(dir, "spool ls --json").await.expect(0).json();
    let listed: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["message_id"].as_str().unwrap(),
                row["live"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(listed, [(waits.as_str(), 2), (large.as_str(), 1)]);
    let shown = posthaste(dir, &format!("spool show {waits} --json"))
        .await
        .expect(0)
        .object();
    assert_eq!(
        (&shown["tag"], &shown["metadata"]["order"]),
        (&"welcome".into(), &"881".into())
    );
    assert_eq!(
        (&shown["reverse_path"], &shown["eight_bit"]),
        (&"sender@example.com".into(), &true.into())
    );
    for (number, recipient) in ["b@example.org", "c@example.net"].into_iter().enumerate() {
        let row = &shown["envelope_recipients"][number];
        assert_eq!(
            (&row["recipient"], &row["state"]),
            (&recipient.into(), &"deferred".into())
        );
        assert_eq!(
            (&row["last_event"]["kind"], &row["last_event"]["reply"]),
            (&"deferred".into(), &"451 4.7.1 not yet".into())
        );
    }
    posthaste(dir, "spool show 00000000-0000-7000-8000-000000000000")
        .await
        .expect(1);
    posthaste(dir, "spool show nonsense").await.expect(2);

    gate.open();
    node.run("queue retry --all").await.expect(0);
    node.events_of("delivered", 3).await;
    // Byte for byte what the remote host got, in one record or in several.
    for (id, to) in [(&waits, "b@example.org"), (&large, "d@example.org")] {
        let taken = gate
            .host
            .taken()
            .into_iter()
            .find(|t| t.recipients.iter().any(|r| r == to))
            .unwrap();
        assert!(cat(dir, id).await == taken.content, "{id}");
    }
    assert_eq!(
        posthaste(dir, "spool ls --live --json")
            .await
            .expect(1)
            .json()
            .len(),
        0
    );
    posthaste(dir, "spool verify").await.expect(0);

    // Counted in the same way by all who count.
    let stat = posthaste(dir, "spool stat --json").await.expect(0).json();
    let events = posthaste(dir, "events tail --no-follow --json")
        .await
        .expect(0)
        .json();
    assert_eq!(
        (&stat[0]["log"], &stat[1]["log"]),
        (&"mail".into(), &"event".into())
    );
    assert_eq!(events.len(), node.events().len());
    let kinds = |kind: &str| events.iter().filter(|e| e["kind"] == kind).count();
    assert_eq!(
        (kinds("accepted"), kinds("deferred"), kinds("delivered")),
        (3, 3, 3)
    );
    for key in [
        "id",
        "at",
        "kind",
        "message_id",
        "recipient",
        "recipient_number",
        "server",
        "stream",
        "source",
        "remote_host",
        "reply",
        "cause",
    ] {
        assert!(events.iter().all(|event| event.get(key).is_some()), "{key}");
    }
    assert_eq!(events[events.len() - 1]["source"], "tx1");
    // A reader goes on where it stopped.
    let after = format!("events tail --no-follow --json --after {}", events[4]["id"]);
    assert_eq!(posthaste(dir, &after).await.expect(0).json(), events[5..]);
    assert_eq!(
        posthaste(dir, "events tail --no-follow --json -n 2")
            .await
            .expect(0)
            .json(),
        events[events.len() - 2..]
    );
    let audit = posthaste(dir, "audit --json").await.expect(0).object();
    assert_eq!(
        (&audit["accepted"], &audit["delivered"], &audit["live"]),
        (&3.into(), &3.into(), &0.into())
    );
    drop(client);
    node.node.stop().await;
}

async fn cat(dir: &Path, id: &str) -> Vec<u8> {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_posthaste"));
    let output = command
        .current_dir(dir)
        .args(["spool", "cat", id, "--data-dir", "data"])
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    output.stdout
}
