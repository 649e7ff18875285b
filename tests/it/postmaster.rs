//! Mail for postmaster and abuse at the inbound listener (RFC 5321 §4.5.1, RFC 2142): it reaches a person, and never loops.

use crate::support::client::Client;
use crate::support::node::TestNode;
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

const MAIL: &str = "From: a@b.test\r\nSubject: Your host\r\n\r\nIt does not answer.\r\n";

async fn node(more: &str, host: &RemoteHost) -> TestNode {
    TestNode::with(&format!(
        "[bounce]\ndomain = \"bounces.test\"\n{more}[[inbound]]\nbind = \"127.0.0.1:0\"\n[account]\nnotices_from = \"node@example.com\"\n[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    ))
    .await
}

/// The reply to the final dot.
async fn write(node: &TestNode, to: &[&str], content: &str) -> String {
    let mut client = Client::connect(node.node.inbound_addresses()[0]).await;
    client.command("MAIL FROM:<a@b.test>", 250).await;
    for to in to {
        client.command(&format!("RCPT TO:<{to}>"), 250).await;
    }
    client.command("DATA", 354).await;
    client.send(content.as_bytes()).await;
    client.send(b".\r\n").await;
    let (code, text) = client.reply().await;
    format!("{code} {text}")
}

async fn kept(node: &TestNode) -> Vec<serde_json::Value> {
    let words = "events tail --no-follow --kind people_mail --json";
    posthaste(node.dir.path(), words).await.expect(0).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_for_postmaster_is_forwarded_in_a_letter_and_never_loops() {
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("gone@") => Answer::line("550 5.1.1 no such user"),
        _ => Answer::Usual,
    })
    .await;
    let node = node("postmaster = \"ops@example.com\"\n", &host).await;
    let to = ["Postmaster", "abuse@BOUNCES.test", "POSTMASTER@mta.test"];
    let said = write(&node, &to, MAIL).await;
    assert!(said.starts_with("250 2.0.0 OK"), "{said}");
    let taken = host.wait_for(1).await;
    assert!(
        taken[0].mail.starts_with("MAIL FROM:<>"),
        "{}",
        taken[0].mail
    );
    assert_eq!(taken[0].recipients, ["ops@example.com"]);
    let letter = String::from_utf8_lossy(&taken[0].content).into_owned();
    for part in [
        "From: Mail for the postmaster <node@example.com>\r\n",
        "To: <ops@example.com>\r\n",
        "Reply-To: <a@b.test>\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "Postmaster@mta.test, abuse@",
        "Content-Type: message/rfc822\r\n\r\nFrom: a@b.test\r\nSubject: Your host\r\n\r\nIt does not answer.\r\n",
    ] {
        assert!(letter.contains(part), "{part}\n{letter}");
    }
    // Sent back here by whoever reads it, it is kept.
    let said = write(&node, &["postmaster@bounces.test"], &letter).await;
    assert!(said.starts_with("250 "), "{said}");
    assert_eq!(kept(&node).await.len(), 1);
    // Too long to be passed on whole.
    let long = format!("{MAIL}{}", "x\r\n".repeat(500_000));
    let said = write(&node, &["postmaster"], &long).await;
    assert_eq!(said, "552 5.3.4 At most 1 MiB for people here");
    assert_eq!(host.taken().len(), 1);

    // Nobody there: that is the end of it.
    let config = |text: String| text.replace("ops@example.com", "gone@example.com");
    node.reload(config).await.unwrap();
    write(&node, &["postmaster"], MAIL).await;
    node.events_of("bounced", 1).await;
    let accepted = posthaste(
        node.dir.path(),
        "events tail --no-follow --kind accepted --json",
    )
    .await;
    assert_eq!(accepted.json().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_address_mail_for_postmaster_is_kept_for_whoever_looks() {
    let host = RemoteHost::start().await;
    let node = node("", &host).await;
    let said = write(&node, &["postmaster"], MAIL).await;
    let events = kept(&node).await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    let id = event["id"].to_string();
    assert_eq!(said, format!("250 2.0.0 OK {id}"));
    assert_eq!(event["recipient"], "postmaster@mta.test");
    assert_eq!(event["detail"], "From <a@b.test>: Your host");
    let read = posthaste(node.dir.path(), &format!("events cat {id}"))
        .await
        .expect(0);
    assert_eq!(read.stdout, MAIL);
    posthaste(node.dir.path(), "events cat 8").await.expect(1);
    assert!(host.taken().is_empty());
}
