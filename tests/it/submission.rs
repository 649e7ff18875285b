//! From a client's words to what the remote host receives.

use crate::support::client::{Client, message};
use crate::support::node::TestNode;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

/// Header section (with its empty line) and body.
fn split(content: &[u8]) -> (String, Vec<u8>) {
    let end = content.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (
        String::from_utf8(content[..end].to_vec()).unwrap(),
        content[end..].to_vec(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_arrives_as_sent_with_our_fields_in_front_and_control_fields_left_out() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let body =
        b".\tleading dot\r\n..two\r\n\r\n8-bit: \xc3\xa9 \xff\r\ntrailing blank \r\n".as_slice();
    let sent = [
        b"From: Ada <ada@example.com>\r\nBcc: hidden@example.org\r\nSubject: folded\r\n subject\r\nX-PM-Tag: welcome\r\n\
        X-PM-Metadata-order: 881\r\nReturn-Path: <forged@example.net>\r\nX-Own:  kept as it is\r\n\r\n"
            .as_slice(),
        body,
    ]
    .concat();
    let mut client = node.client().await;
    let id = client.submit(&["b@example.org"], &dot_stuffed(&sent)).await;

    let taken = host.wait_for(1).await.remove(0);
    let (header, received_body) = split(&taken.content);
    assert_eq!(received_body, body);
    let expected_tail = "From: Ada <ada@example.com>\r\nSubject: folded\r\n subject\r\nX-PM-Tag: welcome\r\nX-Own:  kept as it is\r\n\r\n";
    assert!(header.ends_with(expected_tail), "{header}");
    let added = &header[..header.len() - expected_tail.len()];
    assert!(
        added.starts_with(
            "Received: from client.test ([127.0.0.1])\r\n\tby mta.test (Posthaste) with ESMTP id "
        ),
        "{added}"
    );
    assert!(
        added.contains(&format!("\r\nX-PM-Message-Id: {id}\r\n")),
        "{added}"
    );
    assert!(
        added.contains(&format!("\r\nMessage-ID: <{id}@mta.test>\r\n")),
        "{added}"
    );
    assert_eq!(added.matches("\r\nDate: ").count(), 1, "{added}");
    assert!(
        taken.mail.starts_with("MAIL FROM:<sender@example.com>"),
        "{}",
        taken.mail
    );
    node.node.stop().await;
}

fn dot_stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in content.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_is_delivered_octet_for_octet() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let line: Vec<u8> = (0..76).map(|i| b'a' + (i % 26)).chain(*b"\r\n").collect();
    let body = line.repeat(20_000_000 / line.len());
    let sent = [
        b"From: a@example.com\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <x@y>\r\n\r\n"
            .as_slice(),
        &body,
    ]
    .concat();
    node.client()
        .await
        .submit(&["b@example.org", "c@example.net"], &sent)
        .await;
    for taken in host.wait_for(2).await {
        let (header, received) = split(&taken.content);
        assert!(header.contains("Message-ID: <x@y>\r\n"));
        assert!(
            received == body,
            "the body of {} octets differs",
            body.len()
        );
    }
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_before_the_final_dot_leaves_nothing() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    for sent in [
        "From: a@example.com\r\n\r\nhalf a mess",
        &"x".repeat(3_000_000),
    ] {
        let mut client = node.client().await;
        client.command("MAIL FROM:<a@example.com>", 250).await;
        client.command("RCPT TO:<b@example.org>", 250).await;
        client.command("DATA", 354).await;
        client
            .send(sent.replace("xxxxxxxx", "xxxxxx\r\n").as_bytes())
            .await;
        drop(client);
    }
    // A later message passes by: the vanished ones would have been first.
    node.client()
        .await
        .submit(&["c@example.org"], &message("whole", "body"))
        .await;
    let taken = host.wait_for(1).await;
    node.events_of("delivered", 1).await;
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].recipients, ["c@example.org"]);
    assert!(node.events().iter().all(|e| e.recipient == "c@example.org"));
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggled_ends_of_data_are_read_to_the_true_end_and_refused() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let smuggled = "MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nFrom: evil@example.com\r\n\r\nowned";
    for end in ["\n.\r\n", "\r\n.\n", "\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n"] {
        let mut client = node.client().await;
        client.command("MAIL FROM:<a@example.com>", 250).await;
        client.command("RCPT TO:<b@example.org>", 250).await;
        client.command("DATA", 354).await;
        client
            .send(format!("From: a@example.com\r\n\r\nhello{end}{smuggled}\r\n.\r\n").as_bytes())
            .await;
        let text = client.expect(550).await;
        assert!(text.starts_with("5.6.0"), "{text}");
        client.command("QUIT", 221).await;
    }
    node.client()
        .await
        .submit(&["c@example.org"], &message("clean", "body"))
        .await;
    assert_eq!(host.wait_for(1).await[0].recipients, ["c@example.org"]);
    assert_eq!(node.events_of("accepted", 1).await.len(), 1);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_delivered_after_a_restart_and_only_once() {
    let host = RemoteHost::scripted(|stage, line, session| match stage {
        Stage::Rcpt if session == 0 && line.contains("late@") => {
            Answer::line("451 4.7.1 greylisted")
        }
        _ => Answer::Usual,
    })
    .await;
    let node = TestNode::routed_to(host.address).await;
    node.client()
        .await
        .submit(
            &["early@example.org", "late@example.org"],
            &message("two", "body"),
        )
        .await;
    node.events_of("deferred", 1).await;
    node.events_of("delivered", 1).await;
    let node = node.restart().await;
    node.events_of("delivered", 2).await;
    let recipients: Vec<_> = host.taken().into_iter().map(|t| t.recipients).collect();
    assert_eq!(recipients, [["early@example.org"], ["late@example.org"]]);
    // Nothing is announced or delivered again.
    let node = node.restart().await;
    assert_eq!(
        node.events()
            .iter()
            .filter(|e| e.kind == "accepted")
            .count(),
        2
    );
    assert_eq!(
        node.events()
            .iter()
            .filter(|e| e.kind == "delivered")
            .count(),
        2
    );
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_pool_is_refused_and_an_unknown_one_too() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    for (stream, word) in [
        ("broadcast", "pool"),
        ("nowhere", "does not exist"),
        ("inbound", "does not send"),
    ] {
        let mut client = node.client().await;
        client.command("MAIL FROM:<a@example.com>", 250).await;
        client.command("RCPT TO:<b@example.org>", 250).await;
        client.command("DATA", 354).await;
        client
            .send(
                format!("From: a@example.com\r\nX-PM-Message-Stream: {stream}\r\n\r\nhello\r\n")
                    .as_bytes(),
            )
            .await;
        let text = client.command(".", 550).await;
        assert!(text.starts_with("5.7.1") && text.contains(word), "{text}");
    }
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_is_ended() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let hops = "Received: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\r\n".repeat(51);
    let own = "Received: from x ([192.0.2.1])\r\n\tby mta.test (Posthaste) with ESMTP id y; Thu, 1 Jan 2026 00:00:00 +0000\r\n".repeat(3);
    for header in [hops, own] {
        let mut client = Client::connect(node.smtp()).await;
        client.command("MAIL FROM:<a@example.com>", 250).await;
        client.command("RCPT TO:<b@example.org>", 250).await;
        client.command("DATA", 354).await;
        client
            .send(format!("{header}From: a@example.com\r\n\r\nhello\r\n").as_bytes())
            .await;
        let text = client.command(".", 554).await;
        assert!(text.starts_with("5.4.6"), "{text}");
    }
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_plain_ascii_goes_to_plain_hosts_whatever_was_declared() {
    let host = RemoteHost::scripted(|stage, _, _| match stage {
        Stage::Ehlo => Answer::line("250 plain.test"),
        _ => Answer::Usual,
    })
    .await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    client
        .command("MAIL FROM:<a@example.com> BODY=8BITMIME SMTPUTF8", 250)
        .await;
    client.command("RCPT TO:<plain@example.org>", 250).await;
    client.command("DATA", 354).await;
    client.send(&message("plain", "body")).await;
    client.command(".", 250).await;
    client
        .submit(&["eight@example.org"], &message("8-bit", "grüße"))
        .await;
    let taken = host.wait_for(2).await;
    let of = |recipient: &str| taken.iter().find(|t| t.recipients == [recipient]).unwrap();
    of("plain@example.org");
    // Re-encoded: tests/it/seven_bit.rs says how.
    assert!(of("eight@example.org").content.is_ascii());

    let declared = "MAIL FROM:<a@example.com> BODY=8BITMIME SMTPUTF8";
    client.command(declared, 250).await;
    client.command("RCPT TO:<grüße@example.org>", 250).await;
    client.command("DATA", 354).await;
    client.send(&message("no way in ASCII", "body")).await;
    client.command(".", 250).await;
    let bounced = node.events_of("bounced", 1).await;
    assert_eq!(bounced[0].recipient, "grüße@example.org");
    assert!(bounced[0].detail.contains("5.6.7"), "{:?}", bounced[0]);
    node.node.stop().await;
}
