//! Somebody asks to be forgotten: what the spool holds of them goes, what it owes others stays, and the books still balance.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::support::client::{Client, message};
use crate::support::eventually;
use crate::support::node::{COMMON, TestNode};
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::{Answer, Gate, RemoteHost, Stage};

const OTHER: &str = "ben@keep.test";

async fn submit(client: &mut Client, recipients: &[&str], word: &str) -> String {
    client.submit(recipients, &message(word, word)).await
}

/// Every byte that the node keeps, but for what a file held in an earlier life.
fn stored(data_dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for dir in [
        "spool/mail",
        "spool/event",
        "spool/erase",
        "spool/checkpoint",
    ] {
        let Ok(files) = std::fs::read_dir(data_dir.join(dir)) else {
            continue;
        };
        for file in files {
            all.extend(std::fs::read(file.unwrap().path()).unwrap());
        }
    }
    all
}

fn holds(data_dir: &Path, word: &str) -> bool {
    has(&stored(data_dir), word)
}

fn count(erasure: &Value, field: &str) -> u64 {
    erasure[field].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_of_a_recipient_is_gone_and_everything_else_still_holds() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    let alone = submit(&mut client, &["Ann@Forget.test"], "wordone").await;
    let shared = submit(&mut client, &[OTHER, "ann@forget.test"], "wordtwo").await;
    let long = "wordlong ".repeat(200_000);
    let content = message(
        "long",
        &long.replace("wordlong wordlong ", "wordlong wordlong\r\n"),
    );
    let long = client.submit(&["ann@FORGET.test"], &content).await;
    let kept = submit(&mut client, &[OTHER], "wordkept").await;
    host.wait_for(4).await;
    node.events_of("delivered", 5).await;
    let dir = node.dir.path();
    let before = posthaste(dir, "audit --json").await.expect(0).sums();

    let words = "spool erase --recipient ann@forget.test --json";
    let planned = posthaste(dir, &format!("{words} --dry-run"))
        .await
        .expect(0)
        .object();
    assert_eq!(
        (count(&planned, "messages"), count(&planned, "erased")),
        (3, 0),
        "{planned}"
    );
    assert!(holds(&node.data_dir(), "ann@forget.test"));

    let erased = posthaste(dir, words).await.expect(0).object();
    assert_eq!(erased["state"], "done", "{erased}");
    assert_eq!(count(&erased, "messages"), 3);
    let records = count(&erased, "mail_records") + count(&erased, "event_records");
    assert_eq!(count(&erased, "erased"), records, "{erased}");
    // Two for each of three recipients: accepted and delivered.
    assert_eq!(count(&erased, "event_records"), 6, "{erased}");
    assert!(
        count(&erased, "mail_records") >= 5,
        "content records too: {erased}"
    );

    for word in [
        "ann@forget.test",
        "Ann@Forget.test",
        "ann@FORGET.test",
        "wordone",
        "wordtwo",
        "wordlong",
    ] {
        assert!(!holds(&node.data_dir(), word), "{word} is still there");
    }
    assert!(holds(&node.data_dir(), "wordkept"));
    posthaste(dir, "spool verify").await.expect(0);
    let after = posthaste(dir, "audit --json").await.expect(0).sums();
    assert_eq!(before, after, "the audit's sums");
    for id in [&alone, &shared, &long] {
        posthaste(dir, &format!("spool cat {id}")).await.expect(1);
    }
    let cat = posthaste(dir, &format!("spool cat {kept}")).await.expect(0);
    assert!(cat.stdout.contains("wordkept"), "{}", cat.stdout);
    posthaste(dir, "spool ls --json").await.expect(0);
    posthaste(dir, "spool stat --json").await.expect(0);
    let events = posthaste(dir, "events tail --no-follow --json")
        .await
        .expect(0);
    assert!(!events.stdout.contains("forget"), "{}", events.stdout);
    assert!(events.stdout.contains(OTHER), "{}", events.stdout);

    // Again: nothing is left to do. New mail to the same person is new.
    posthaste(dir, words).await.expect(1);
    submit(&mut client, &["ann@forget.test"], "wordnew").await;
    node.events_of("delivered", 3).await;
    let node = node.restart().await;
    let dir = node.dir.path();
    posthaste(dir, "spool verify").await.expect(0);
    posthaste(dir, "audit").await.expect(0);
    assert!(holds(&node.data_dir(), "wordnew"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_that_waits_is_not_erased_unless_it_is_cancelled_first() {
    let gate = Gate::closed().await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        gate.host.address
    );
    let node = TestNode::that_waits_with(&route).await;
    let mut client = node.client().await;
    let waiting = submit(&mut client, &["ann@forget.test", OTHER], "wordone").await;
    node.events_of("deferred", 2).await;
    let dir = node.dir.path();
    let refused = posthaste(dir, "spool erase --recipient ann@forget.test --json")
        .await
        .expect(1)
        .object();
    assert_eq!(refused["state"], "refused", "{refused}");
    assert_eq!(refused["live"][0], waiting.as_str(), "{refused}");
    assert!(holds(&node.data_dir(), "wordone"));

    let erased = posthaste(
        dir,
        "spool erase --recipient ann@forget.test --cancel --json",
    )
    .await
    .expect(0)
    .object();
    assert_eq!(
        (count(&erased, "cancelled"), &erased["state"]),
        (2, &"done".into()),
        "{erased}"
    );
    assert!(!holds(&node.data_dir(), "wordone") && !holds(&node.data_dir(), "ann@forget.test"));
    // Of the other recipient only the message is gone.
    let events = node.events();
    let other: Vec<_> = events
        .iter()
        .map(|e| (e.kind, e.recipient.as_str()))
        .collect();
    assert_eq!(
        other,
        [
            ("accepted", OTHER),
            ("deferred", OTHER),
            ("cancelled", OTHER)
        ]
    );
    let audit = posthaste(dir, "audit --json").await.expect(0).object();
    assert_eq!(
        (count(&audit, "accepted"), count(&audit, "cancelled")),
        (2, 2),
        "{audit}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_or_one_message_is_erased_too_and_filters_are_kept_to() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    let one = submit(&mut client, &["a@one.test"], "wordone").await;
    submit(&mut client, &["b@two.test"], "wordtwo").await;
    node.events_of("delivered", 2).await;
    let dir = node.dir.path();
    let erased = posthaste(dir, &format!("spool erase --message {one} --json"))
        .await
        .expect(0)
        .object();
    assert_eq!(count(&erased, "erased"), 3, "{erased}");
    assert!(!holds(&node.data_dir(), "wordone") && holds(&node.data_dir(), "wordtwo"));

    let sender = "spool erase --sender sender@example.com";
    for filter in ["--server other", "--before 2020-01-01T00:00:00Z"] {
        posthaste(dir, &format!("{sender} {filter}"))
            .await
            .expect(1);
        assert!(holds(&node.data_dir(), "wordtwo"), "{filter}");
    }
    posthaste(
        dir,
        &format!("{sender} --before 2999-01-01T00:00:00Z --server app"),
    )
    .await
    .expect(0);
    assert!(!holds(&node.data_dir(), "wordtwo") && !holds(&node.data_dir(), "b@two.test"));
    posthaste(dir, "audit").await.expect(0);

    for wrong in [
        "--recipient nobody",
        "--message 12",
        "",
        "--recipient a@b.test --sender a@b.test",
    ] {
        posthaste(dir, &format!("spool erase {wrong}"))
            .await
            .expect(2);
    }
}

/// Decompressed, as far as they are.
fn archived(data_dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(data_dir.join("spool/mail")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "arc") {
            // It may go meanwhile.
            let bytes = std::fs::read(&path).unwrap_or_default();
            if let Ok(archive) = spool_format::archive::Archive::parse(&bytes) {
                all.extend(archive.segment().0);
            }
        }
    }
    all
}

fn has(bytes: &[u8], word: &str) -> bool {
    memchr::memmem::find(bytes, word.as_bytes()).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_left_into_archives_is_erased_there() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    submit(&mut client, &["ann@forget.test"], "wordone").await;
    submit(&mut client, &[OTHER], "wordkept").await;
    // Enough for the segment to be left, and its file to be taken back.
    let filler = message(
        "filler",
        &"octets and octets and octets and octets\r\n".repeat(20_000),
    );
    for _ in 0..8 {
        client.submit(&["c@filler.test"], &filler).await;
    }
    node.events_of("delivered", 10).await;
    let data = node.data_dir();
    eventually("an archive", async || {
        let bytes = archived(&data);
        (has(&bytes, "wordone") && has(&bytes, "wordkept")).then_some(())
    })
    .await;
    let dir = node.dir.path();
    let before = posthaste(dir, "audit --json").await.expect(0).sums();
    let erased = posthaste(dir, "spool erase --recipient ann@forget.test --json")
        .await
        .expect(0)
        .object();
    assert_eq!(count(&erased, "erased"), 3, "{erased}");
    let bytes = archived(&data);
    assert!(!has(&bytes, "wordone") && !has(&bytes, "ann@forget.test"));
    assert!(has(&bytes, "wordkept"));
    let words = [
        "spool ls --json",
        "events tail --no-follow --json",
        "spool export",
    ];
    for words in words {
        let said = posthaste(dir, words).await;
        assert!(
            !said.stdout.contains("forget.test"),
            "{words}: {}",
            said.stdout
        );
    }
    posthaste(dir, "spool verify").await.expect(0);
    let after = posthaste(dir, "audit --json").await.expect(0).sums();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_daemon_the_command_erases_by_itself() {
    let host = RemoteHost::start().await;
    let dir = tempfile::tempdir().unwrap();
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    crate::support::node::write_config(dir.path(), &route);
    let node = NodeProcess::start(dir.path()).await;
    let mut client = node.client().await;
    submit(&mut client, &["ann@forget.test"], "wordone").await;
    submit(&mut client, &[OTHER], "wordkept").await;
    host.wait_for(2).await;
    node.stop().await;
    let words = "spool erase --recipient ann@forget.test --json";
    posthaste(dir.path(), &format!("{words} --cancel"))
        .await
        .expect(69);
    let erased = posthaste(dir.path(), words).await.expect(0).object();
    assert_eq!(count(&erased, "erased"), 3, "{erased}");
    let data = dir.path().join("data");
    assert!(!holds(&data, "ann@forget.test") && !holds(&data, "wordone"));
    assert!(holds(&data, "wordkept"));
    posthaste(dir.path(), "spool verify").await.expect(0);
    let node = NodeProcess::start(dir.path()).await;
    node.stop().await;
    posthaste(dir.path(), "audit").await.expect(0);
}

/// A letter that the node keeps or forwards, and the report that a host sends back: whatever is stored of her in them.
async fn write(node: &TestNode, from: &str, to: &[&str], content: &str) {
    let mut client = Client::connect(node.node.inbound_addresses()[0]).await;
    client.command(&format!("MAIL FROM:<{from}>"), 250).await;
    for to in to {
        client.command(&format!("RCPT TO:<{to}>"), 250).await;
    }
    client.command("DATA", 354).await;
    client.send(content.as_bytes()).await;
    client.command(".", 250).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_reports_and_letters_in_which_a_recipient_is_named_go_with_his_mail() {
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        // For which nobody is suppressed: that would stay.
        Stage::Rcpt if line.contains("forget.test") => Answer::line("550 5.7.1 not for you"),
        _ => Answer::Usual,
    })
    .await;
    let config = COMMON.replace("name = \"app\"\n", "name = \"app\"\nnotify = \"dsn\"\n")
        + "[bounce]\ndomain = \"bounces.test\"\n[[inbound]]\nbind = \"127.0.0.1:0\"\n[account]\nnotices_from = \"node@example.com\"\n"
        + &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        );
    let dir = tempfile::TempDir::new().unwrap();
    let node = TestNode::start(dir, config).await;
    let mut client = node.client().await;
    // Hers bounces, and so a notice goes to the sender, with the header section of the message.
    submit(&mut client, &["ann@forget.test"], "wordone").await;
    submit(&mut client, &["ben@forget.test"], "wordben").await;
    host.taken_until("notices", |taken| taken.len() == 2).await;
    node.events_of("delivered", 2).await;
    // One report about both; what it says stands in the event about the other.
    let to = ["ben@keep.test", "ann@keep.test"];
    client.submit(&to, &message("wordtwo", "wordtwo")).await;
    node.events_of("delivered", 4).await;
    let taken = host.taken_until("it", |taken| taken.len() == 3).await;
    let (_, path) = taken[2].mail.split_once('<').unwrap();
    let path = path.split_once('>').unwrap().0.to_owned();
    let report: String = to
        .iter()
        .map(|to| {
            format!("Final-Recipient: rfc822; {to}\r\nAction: failed\r\nStatus: 5.7.1\r\n\r\n")
        })
        .collect();
    let report = format!(
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; wordreport.test\r\n\r\n{report}--b--\r\n"
    );
    write(&node, "", &[&path], &report).await;
    node.events_of("bounced_later", 2).await;
    host.taken_until("its notice", |taken| taken.len() == 4)
        .await;
    node.events_of("delivered", 5).await;
    // Kept, as nobody is named who reads them: hers, one that names her where only a reader of mail finds her, and another's.
    let encoded = BASE64_STANDARD.encode("Ask ANN@forget.test. wordthree");
    let attached = format!(
        "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n{encoded}\r\n"
    );
    for (from, content) in [
        ("ann@forget.test", "Subject: wordletter\r\n\r\nHello.\r\n"),
        ("x@y.test", &attached),
        ("x@y.test", "Subject: wordkept\r\n\r\nHello.\r\n"),
    ] {
        write(&node, from, &["postmaster"], content).await;
    }
    // Forwarded.
    let postmaster = "domain = \"bounces.test\"\npostmaster = \"ops@example.com\"\n";
    let reload = |text: String| text.replace("domain = \"bounces.test\"\n", postmaster);
    node.reload(reload).await.unwrap();
    let forwarded = "From: Ann <ann@forget.test>\r\nSubject: wordforwarded\r\n\r\nHello.\r\n";
    write(&node, "", &["postmaster"], forwarded).await;
    host.taken_until("the letter", |taken| taken.len() == 5)
        .await;
    node.events_of("delivered", 6).await;
    let dir = node.dir.path();
    let before = posthaste(dir, "audit --json").await.expect(0).sums();
    let data = node.data_dir();
    assert!(holds(&data, "wordreport") && holds(&data, &encoded));

    let said = posthaste(dir, "spool erase --recipient ann@forget.test --json");
    let erased = said.await.expect(0).object();
    let records = count(&erased, "mail_records") + count(&erased, "event_records");
    assert_eq!(count(&erased, "erased"), records, "{erased}");
    for word in [
        "ann@forget.test",
        "wordone",
        "wordletter",
        &encoded,
        "wordforwarded",
    ] {
        assert!(!holds(&data, word), "{word} is still there");
    }
    for word in ["wordkept", "wordben", "ben@forget.test", "wordreport"] {
        assert!(holds(&data, word), "{word} is gone");
    }
    posthaste(dir, "spool erase --recipient ann@forget.test")
        .await
        .expect(1);
    // What is said of both goes with either.
    posthaste(dir, "spool erase --recipient ann@keep.test")
        .await
        .expect(0);
    for word in ["ann@keep.test", "wordtwo", "wordreport"] {
        assert!(!holds(&data, word), "{word} is still there");
    }
    assert!(holds(&data, "wordben"));
    posthaste(dir, "spool verify").await.expect(0);
    let after = posthaste(dir, "audit --json").await.expect(0).sums();
    assert_eq!(before, after, "the audit's sums");
    // Nobody is told once more of what was told already.
    let node = node.restart().await;
    submit(&mut node.client().await, &["ben@keep.test"], "wordlast").await;
    let taken = host.taken_until("the last", |taken| taken.len() >= 6).await;
    assert_eq!(taken.len(), 6);
    // Without a node, the rest.
    let TestNode { node, dir, .. } = node;
    node.stop().await;
    let said = posthaste(dir.path(), "spool erase --recipient ben@forget.test --json");
    let erased = said.await.expect(0).object();
    assert!(count(&erased, "mail_records") >= 2, "{erased}");
    let data = dir.path().join("data");
    assert!(!holds(&data, "ben@forget.test") && !holds(&data, "wordben"));
    posthaste(dir.path(), "audit").await.expect(0);
}
