//! Where DNS leads: to the hosts in their order, or to the true reason why there is none.

use crate::support::client::message;
use crate::support::dns::Dns;
use crate::support::node::{Seen, TestNode};
use crate::support::process::{Said, posthaste};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

const LOOPBACK_ALLOWED: &str = "allow_networks = [\"127.0.0.0/8\"]";

/// A node that asks `dns` and finds hosts at `port`.
async fn node(dns: &Dns, port: u16, delivery: &str) -> TestNode {
    TestNode::with(&format!(
        "[dns]\nservers = [\"{}\"]\n[delivery]\nport = {port}\n{delivery}\n",
        dns.address
    ))
    .await
}

async fn submit(node: &TestNode, recipient: &str) {
    node.client()
        .await
        .submit(&[recipient], &message("dns", "body"))
        .await;
}

/// The first event behind acceptance that says what became of the recipient.
async fn outcome(node: &TestNode, recipient: &str) -> Seen {
    let is_it = |e: &&Seen| {
        e.recipient == recipient && matches!(e.kind, "delivered" | "bounced" | "expired")
    };
    let events = node
        .events_until(&format!("the outcome of {recipient}"), |events| {
            events.iter().any(|e| is_it(&e))
        })
        .await;
    events.iter().find(is_it).unwrap().clone()
}

async fn explain(node: &TestNode, target: &str) -> Said {
    posthaste(node.dir.path(), &format!("queue explain {target} --json")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_that_is_preferred_comes_first_and_the_next_one_takes_over_when_it_refuses() {
    let dns = Dns::start().await;
    let second = RemoteHost::scripted_on("127.0.0.2:0", |_, _, _| Answer::Usual).await;
    let port = second.address.port();
    // On the same port: one that turns everybody away, and addresses where nobody listens.
    let first = RemoteHost::scripted_on(&format!("127.0.0.3:{port}"), |stage, _, _| match stage {
        Stage::Connect => Answer::line("421 4.3.2 not today"),
        _ => Answer::Usual,
    })
    .await;
    dns.a("second.test", "127.0.0.2");
    dns.a("busy.test", "127.0.0.3");
    dns.a("nobody.test", "127.0.0.4");
    for (domain, worse, better) in [
        ("refused.test", "second.test", "nobody.test"),
        ("busy.example.test", "second.test", "busy.test"),
        ("plain.test", "busy.test", "second.test"),
        ("dangling.test", "second.test", "has-no-address.test"),
    ] {
        dns.mx(domain, 20, worse);
        dns.mx(domain, 10, better);
    }
    dns.a("no-mx.test", "127.0.0.2");
    let node = node(&dns, port, LOOPBACK_ALLOWED).await;
    for domain in [
        "refused.test",
        "busy.example.test",
        "plain.test",
        "dangling.test",
        "no-mx.test",
    ] {
        let recipient = format!("b@{domain}");
        submit(&node, &recipient).await;
        let event = outcome(&node, &recipient).await;
        assert_eq!((event.kind, event.attempts), ("delivered", 1), "{event:?}");
        assert!(
            event.remote_host.contains(&format!("127.0.0.2]:{port}")),
            "{event:?}"
        );
        if domain == "plain.test" {
            assert_eq!(
                first.sessions(),
                1,
                "the better host took it, and the worse one was asked"
            );
        }
    }
    assert!(first.taken().is_empty());
    assert_eq!(second.taken().len(), 5);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dns_rules_out_for_good_bounces_with_its_word_for_it() {
    let dns = Dns::start().await;
    dns.null_mx("no-mail.test");
    dns.mx("to-us.test", 10, "loopback.test");
    dns.a("loopback.test", "127.0.0.1");
    dns.mx("private.test", 10, "private-host.test");
    dns.a("private-host.test", "10.1.2.3");
    dns.mx("nowhere.test", 10, "has-no-address.test");
    let untouched = RemoteHost::start().await;
    let node = node(&dns, untouched.address.port(), "").await;
    for (domain, cause, words) in [
        ("no-mail.test", "domain-no-mail", "5.1.10"),
        ("unknown.test", "domain-unknown", "5.1.2"),
        ("to-us.test", "dns", "5.4.4"),
        ("private.test", "dns", "5.4.4"),
        ("nowhere.test", "dns", "5.4.4"),
    ] {
        let recipient = format!("b@{domain}");
        submit(&node, &recipient).await;
        let event = outcome(&node, &recipient).await;
        assert_eq!(
            (event.kind, event.cause.as_str()),
            ("bounced", cause),
            "{domain}: {event:?}"
        );
        assert!(event.detail.contains(words), "{domain}: {event:?}");
    }
    assert_eq!(untouched.sessions(), 0);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_that_fails_makes_mail_wait_with_the_reason_and_never_bounce() {
    let dns = Dns::start().await;
    let host = RemoteHost::start().await;
    dns.mx("later.test", 10, "mx.test");
    dns.a("mx.test", "127.0.0.1");
    dns.fail(true);
    let node = node(&dns, host.address.port(), LOOPBACK_ALLOWED).await;
    let id = node
        .client()
        .await
        .submit(&["b@later.test"], &message("dns", "body"))
        .await;
    let reason = route_deferred(&node, "later.test").await;
    assert!(
        reason.contains("later.test") && reason.contains("Server Failure"),
        "{reason}"
    );
    // The message says the same, and so does the text for people.
    let recipient = explain(&node, &id).await.expect(0).object();
    assert_eq!(recipient["reasons"][0]["code"], "route_deferred");
    let text = posthaste(node.dir.path(), "queue explain later.test")
        .await
        .expect(0)
        .stdout;
    assert!(text.contains(&reason), "{text}");
    assert!(
        node.events()
            .iter()
            .all(|e| e.kind == "accepted" || (e.kind == "deferred" && e.cause == "dns"))
    );

    dns.fail(false);
    posthaste(node.dir.path(), "queue retry later.test")
        .await
        .expect(0);
    assert_eq!(outcome(&node, "b@later.test").await.kind, "delivered");
    explain(&node, &id).await.expect(1);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_name_server_mail_waits_with_the_reason_and_other_mail_passes() {
    let host = RemoteHost::start().await;
    // A port that nobody answers at any more.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let config = format!(
        "[dns]\nservers = [\"{}\"]\n[[route]]\ndomain = \"routed.test\"\nhosts = [\"{}\"]\n",
        silent, host.address
    );
    let node = TestNode::with(&config).await;
    submit(&node, "b@later.test").await;
    submit(&node, "c@routed.test").await;
    assert_eq!(outcome(&node, "c@routed.test").await.kind, "delivered");
    // Said while it is still hoped for, with the name of who does not answer.
    let early = crate::support::eventually("the silence to be noticed", async || {
        let said = explain(&node, "later.test").await.json();
        let reason = said.first().map(|queue| queue["reasons"][0].clone())?;
        (reason["code"] == "dns_silent").then(|| reason["sentence"].to_string())
    })
    .await;
    assert!(early.contains(&silent.to_string()), "{early}");
    let reason = route_deferred(&node, "later.test").await;
    assert!(reason.contains("later.test"), "{reason}");
    let ended = ["delivered", "bounced", "expired"];
    assert!(
        !node
            .events()
            .iter()
            .any(|e| e.recipient == "b@later.test" && ended.contains(&e.kind))
    );
    node.node.stop().await;
}

/// Waits until the route of a domain is known to be missing for now; returns the sentence.
async fn route_deferred(node: &TestNode, domain: &str) -> String {
    crate::support::eventually("the route look-up to fail", async || {
        let said = explain(node, domain).await;
        let reason = said
            .json()
            .first()
            .map(|queue| queue["reasons"][0].clone())
            .unwrap_or_default();
        let sentence = reason["sentence"].as_str().unwrap_or_default().to_owned();
        (reason["code"] == "route_deferred" && reason["until"].is_string()).then_some(sentence)
    })
    .await
}
