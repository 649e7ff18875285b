//! Suppressions: nobody who is suppressed in a stream gets mail of it, whatever the protocol, and that outlives the node.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::accounts::Fixture;
use crate::official_clients::run;
use crate::sending::post;
use crate::support::client::{auth_plain, message};
use crate::support::eventually;
use crate::support::node::{TestNode, write_config};
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::RemoteHost;

const CONFIG: &str = r#"
[[pool]]
name = "bulk"
kind = "broadcast"
sources = [{ name = "bulk1", ip = "127.0.0.2", ehlo = "bulk1.test" }]
[[domain]]
name = "declared.example"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_smtp_a_suppressed_recipient_is_bounced_and_the_others_get_their_mail() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let said = posthaste(
        node.dir.path(),
        "suppression add app bo@example.com --note asked",
    );
    said.await.expect(0);
    let mut client = node.client().await;
    let recipients = ["ada@example.com", "BO@Example.com", "cy@example.com"];
    let id = client.submit(&recipients, &message("hello", "body")).await;
    let taken = &host.wait_for(1).await[0];
    assert_eq!(taken.recipients, ["ada@example.com", "cy@example.com"]);
    let ended = async || {
        let events = node.events();
        let of_it = events.iter().filter(|e| e.message_id == id);
        (of_it.filter(|e| e.kind != "accepted").count() == 3).then_some(())
    };
    eventually("three outcomes", ended).await;
    let events = node.events();
    let bounced: Vec<_> = events.iter().filter(|e| e.kind == "bounced").collect();
    assert_eq!(bounced.len(), 1, "{events:?}");
    assert_eq!(
        (bounced[0].recipient.as_str(), bounced[0].cause.as_str()),
        ("BO@Example.com", "submission-refused")
    );
    assert_eq!(
        bounced[0].detail,
        "You tried to send to recipient(s) that have been marked as inactive. Found inactive addresses: BO@Example.com. Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression."
    );
    let made = events.iter().find(|e| e.kind == "suppressed").unwrap();
    assert_eq!(
        (&*made.recipient, &*made.cause, &*made.detail),
        ("bo@example.com", "ManualSuppression", "asked")
    );
    posthaste(node.dir.path(), "audit").await.expect(0);

    // Nobody else is left: taken, and bounced; lifted: delivered.
    client
        .submit(&["bo@example.com"], &message("again", "body"))
        .await;
    posthaste(node.dir.path(), "suppression rm app bo@example.com")
        .await
        .expect(0);
    client
        .submit(&["bo@example.com"], &message("at last", "body"))
        .await;
    let taken = host.wait_for(2).await;
    let text = String::from_utf8_lossy(&taken[1].content).into_owned();
    assert!(text.contains("Subject: at last"), "{text}");
    posthaste(node.dir.path(), "audit").await.expect(0);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_server_refuses_mail_to_nobody_but_suppressed_recipients() {
    let fixture = Fixture::start("").await;
    fixture
        .made("server create shop --senders any --set strict=true")
        .await;
    let token = fixture.made("token create shop").await;
    fixture
        .run("suppression add shop bo@example.com cy@example.com", 0)
        .await;
    let mut client = fixture.client().await;
    let token = token["token"].as_str().unwrap();
    client.command(&auth_plain(token), 235).await;
    client.command("MAIL FROM:<sender@example.com>", 250).await;
    client.command("RCPT TO:<bo@example.com>", 250).await;
    client.command("RCPT TO:<cy@example.com>", 250).await;
    client.command("DATA", 354).await;
    client.send(&message("hello", "body")).await;
    let said = client.command(".", 550).await;
    assert!(
        said.starts_with("5.7.1 You tried to send to recipient(s) that have been marked as inactive. Found inactive addresses: bo@example.com, cy@example.com."),
        "{said}"
    );
    // One that may have it gets it.
    client
        .submit(
            &["bo@example.com", "ada@example.com"],
            &message("hello", "body"),
        )
        .await;
    let taken = &fixture.host.wait_for(1).await[0];
    assert_eq!(taken.recipients, ["ada@example.com"]);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_clients_suppress_and_see_what_that_does() {
    for script in [
        &["node", "suppressions.js"],
        &["python3", "suppressions.py"],
    ] {
        let fixture = Fixture::start(CONFIG).await;
        fixture.made("server create shop").await;
        let token = fixture.made("token create shop").await;
        let add =
            "suppression add shop complained@js.example --reason SpamComplaint --origin Recipient";
        fixture.run(add, 0).await;
        let address = fixture.node.node.http_address().to_string();
        let url = match script[0] {
            "node" => address,
            _ => format!("http://{address}"),
        };
        let token = token["token"].as_str().unwrap();
        run(&[script[0], script[1], &url, token]).await;
        fixture.stop().await;
    }
}

async fn http_of(node: &NodeProcess) -> SocketAddr {
    let line = node.said("serving HTTP").await;
    let line: Value = serde_json::from_str(&line).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

/// The process is killed as soon as it has answered, over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_holds_after_a_kill() {
    let host = RemoteHost::start().await;
    let dir = tempfile::tempdir().unwrap();
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    write_config(dir.path(), &route);
    for life in 0..4 {
        let mut node = NodeProcess::start(dir.path()).await;
        let address = http_of(&node).await;
        let path = "/message-streams/outbound/suppressions";
        for number in 0..5 {
            let email = format!("life{life}.{number}@example.com");
            let body = json!({ "Suppressions": [{ "EmailAddress": email }] });
            let (code, answer) = post(address, path, &body).await;
            assert_eq!(code, 200, "{answer}");
        }
        let lifted = format!("life{life}.0@example.com");
        let body = json!({ "Suppressions": [{ "EmailAddress": lifted }] });
        let (code, answer) = post(address, &format!("{path}/delete"), &body).await;
        assert_eq!(answer["Suppressions"][0]["Status"], "Deleted", "{code}");
        node.kill().await;
        node.end().await;
    }
    let node = NodeProcess::start(dir.path()).await;
    let listed = posthaste(dir.path(), "suppression ls --json")
        .await
        .expect(0);
    let mut listed: Vec<String> = listed
        .json()
        .iter()
        .map(|row| row["address"].as_str().unwrap().to_owned())
        .collect();
    listed.sort_unstable();
    let expected: Vec<String> = (0..4)
        .flat_map(|life| (1..5).map(move |number| format!("life{life}.{number}@example.com")))
        .collect();
    assert_eq!(listed, expected);
    let mail = json!({ "From": "a@declared.example", "To": "LIFE2.3@example.com", "Subject": "s", "TextBody": "t" });
    let (code, answer) = post(http_of(&node).await, "/email", &mail).await;
    assert_eq!((code, &answer["ErrorCode"]), (422, &json!(406)), "{answer}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_imported_elsewhere_and_wrong_lines_are_told() {
    let fixture = Fixture::start("").await;
    fixture.made("server create shop").await;
    let dir = fixture.node.dir.path();
    let mut csv = String::from("Email Address,Reason,Created At,comment\r\n");
    for number in 0..2_500 {
        csv += &format!("user{number}@example.com,HardBounce,2026-03-02T09:15:00Z,\"x, y\"\r\n");
    }
    csv += "no address,,,\r\nbo@example.com,Boredom,,\r\ncy@example.com,,yesterday,\r\n\r\nuser7@example.com,,,\r\n";
    std::fs::write(dir.join("list.csv"), csv).unwrap();
    let import = format!(
        "suppression import {} --server shop --stream outbound",
        dir.join("list.csv").display()
    );
    let dry = fixture.run(&format!("{import} --dry-run"), 1).await;
    assert!(
        dry.contains(
            "2504 lines read: 2501 would be suppressed, 0 were already, 3 were passed over"
        ),
        "{dry}"
    );
    let said = fixture.run(&import, 1).await;
    for expected in [
        "2504 lines read: 2500 are suppressed, 1 were already, 3 were passed over",
        "line 2502 is no address",
        "line 2503 has a reason that is none of",
        "line 2504 has a time that is none",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let again = fixture.run(&import, 1).await;
    assert!(
        again.contains(": 0 are suppressed, 2501 were already"),
        "{again}"
    );
    let row = fixture
        .made("suppression ls --address USER9@example.com")
        .await;
    assert_eq!(
        (
            &row["server"],
            &row["stream"],
            &row["reason"],
            &row["origin"],
            &row["created_at"]
        ),
        (
            &json!("shop"),
            &json!("outbound"),
            &json!("HardBounce"),
            &json!("Admin"),
            &json!("2026-03-02T09:15:00.000Z")
        )
    );
    fixture
        .run("suppression ls --address nobody@example.com", 1)
        .await;
    let file = dir.join("out.csv");
    let export = format!("suppression export --server shop {}", file.display());
    let said = fixture.run(&export, 0).await;
    assert!(said.contains("2500 suppressions are in"), "{said}");
    fixture.run(&export, 2).await;

    let other = Fixture::start("[suppressions]\nhashed = true\n").await;
    other.made("server create first").await;
    other.made("server create shop").await;
    let import = format!("suppression import {} --json", file.display());
    let sum: Value = posthaste(other.node.dir.path(), &import)
        .await
        .expect(0)
        .object();
    assert_eq!(
        sum,
        json!({ "read": 2500, "suppressed": 2500, "kept": 0, "invalid": 0 })
    );
    // Only hashes are kept there, which is enough for the same answers.
    let row = other
        .made("suppression ls --address user9@example.com")
        .await;
    assert_eq!(row["created_at"], "2026-03-02T09:15:00.000Z");
    let all = posthaste(other.node.dir.path(), "suppression ls --json")
        .await
        .expect(0)
        .json();
    let hashes = all
        .iter()
        .filter(|row| row["address"].as_str().unwrap().starts_with("hash:"));
    assert_eq!(hashes.count(), 2_500);
    let events = other.node.events();
    assert!(
        events.iter().all(|e| !e.recipient.contains('@')),
        "{events:?}"
    );
    let hash = all[0]["address"].as_str().unwrap();
    other.run(&format!("suppression rm shop {hash}"), 0).await;
    other.run(&format!("suppression rm shop {hash}"), 1).await;
    other.stop().await;
    fixture.stop().await;
}
