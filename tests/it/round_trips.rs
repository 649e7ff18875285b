//! Remote hosts that take whole transactions at once: what is sent how, and what becomes of mail when they cannot after all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::client::message;
use crate::support::node::{Seen, TestNode};
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

fn offers(keywords: &[&str]) -> Answer {
    let mut lines = vec!["250-remote.test".to_owned()];
    lines.extend(keywords.iter().map(|keyword| format!("250-{keyword}")));
    lines.push("250 8BITMIME".into());
    Answer::Lines(lines)
}

const ALL: &[&str] = &["PIPELINING", "CHUNKING", "ENHANCEDSTATUSCODES"];

/// One connection at a time.
async fn node_for(host: &RemoteHost) -> TestNode {
    TestNode::with(&format!(
        "[delivery]\nconnections_per_site = 1\n[timeouts]\ncommand = \"2s\"\ndata = \"2s\"\ndot = \"2s\"\n\
         [[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    ))
    .await
}

fn outcomes(events: &[Seen]) -> BTreeMap<&str, usize> {
    let mut count = BTreeMap::new();
    for event in events {
        *count.entry(event.kind).or_default() += 1;
    }
    count
}

/// Of a hundred first attempts 30 are refused for now and 5 for good, at RCPT and at the content in turns; the host runs
/// ahead with all of them on one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_refuses_a_third_gets_each_message_once_and_each_has_its_outcome() {
    for keywords in [ALL, &["PIPELINING"]] {
        let (contents, envelopes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let host = RemoteHost::scripted(move |stage, line, _| match stage {
            Stage::Ehlo => offers(keywords),
            Stage::Rcpt if line.contains("<gone") => Answer::line("550 5.1.1 no such user"),
            Stage::Rcpt
                if line.contains("<r") && envelopes.fetch_add(1, Ordering::Relaxed) % 6 == 0 =>
            {
                Answer::line("450 4.2.0 later")
            }
            Stage::Dot if contents.fetch_add(1, Ordering::Relaxed) % 6 == 5 => {
                Answer::line("451 4.3.0 later")
            }
            _ => Answer::Usual,
        })
        .await;
        let node = node_for(&host).await;
        let mut client = node.client().await;
        for number in 0..100 {
            let name = if number % 20 == 7 { "gone" } else { "r" };
            let to = format!("{name}{number}@example.org");
            client
                .submit(&[&to], &message(&format!("m{number}"), "hello"))
                .await;
        }
        let ended = |events: &[Seen]| {
            let count = outcomes(events);
            count.get("delivered").unwrap_or(&0) + count.get("bounced").unwrap_or(&0) == 100
        };
        let events = node.events_until("a hundred outcomes", ended).await;
        let count = outcomes(&events);
        assert_eq!((count["delivered"], count["bounced"]), (95, 5));
        assert!(count["deferred"] >= 20, "{count:?}");
        assert_eq!(count.get("ambiguous"), None);
        let taken: Vec<String> = host
            .taken()
            .into_iter()
            .flat_map(|t| t.recipients)
            .collect();
        let once: BTreeSet<&String> = taken.iter().collect();
        assert_eq!((taken.len(), once.len()), (95, 95));
        node.node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_offers_chunking_without_knowing_it_gets_data_and_no_deferral() {
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Ehlo => offers(ALL),
        Stage::Dot if line.starts_with("BDAT") => Answer::line("502 5.5.2 what is BDAT"),
        _ => Answer::Usual,
    })
    .await;
    let node = node_for(&host).await;
    let mut client = node.client().await;
    for number in 0..3 {
        let name = format!("m{number}");
        client
            .submit(&["b@example.org"], &message(&name, "hello"))
            .await;
    }
    let events = node
        .events_until("three deliveries", |e| {
            outcomes(e).get("delivered") == Some(&3)
        })
        .await;
    assert_eq!(
        outcomes(&events),
        BTreeMap::from([("accepted", 3), ("delivered", 3)])
    );
    assert_eq!(host.taken().len(), 3);
    // The first connection, and the one that avoids it.
    assert_eq!(host.sessions(), 2);
    node.node.stop().await;
}

/// As above with replies: one too many, at one command of the first connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_given_twice_is_noticed_and_the_message_delivered_another_time() {
    for (stage, keywords) in [
        (Stage::Mail, ALL),
        (Stage::Rcpt, ALL),
        (Stage::Mail, &["PIPELINING"]),
        (Stage::Rcpt, &["PIPELINING"]),
        (Stage::Data, &["PIPELINING"]),
    ] {
        let host = RemoteHost::scripted(move |at, _, session| match at {
            Stage::Ehlo => offers(keywords),
            at if at == stage && session == 0 => match at {
                Stage::Data => Answer::Octets(b"354 go\r\n354 go\r\n".to_vec()),
                Stage::Mail => Answer::Octets(b"250 2.1.0 ok\r\n250 2.1.0 ok\r\n".to_vec()),
                _ => Answer::Octets(b"250 2.1.5 ok\r\n250 2.1.5 ok\r\n".to_vec()),
            },
            _ => Answer::Usual,
        })
        .await;
        let node = node_for(&host).await;
        let mut client = node.client().await;
        client
            .submit(&["b@example.org"], &message("twice", "hello"))
            .await;
        // Whose content was on its way waits for long; the operator does not.
        node.events_until("the end of an attempt", |events| events.len() > 1)
            .await;
        posthaste(node.dir.path(), "queue retry --all").await;
        let events = node
            .events_until("a delivery", |e| outcomes(e).contains_key("delivered"))
            .await;
        assert_eq!(host.sessions(), 2, "{stage:?}: {events:?}");
        node.node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_at_whom_the_host_talks_nonsense_does_not_hold_up_the_others() {
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Ehlo => offers(&["PIPELINING"]),
        Stage::Rcpt if line.contains("<odd@") => Answer::Octets(b"\xfe\xff what?\r\n".to_vec()),
        _ => Answer::Usual,
    })
    .await;
    let node = node_for(&host).await;
    let mut client = node.client().await;
    let to = ["a@example.org", "odd@example.org", "b@example.org"];
    client.submit(&to, &message("three", "hello")).await;
    let events = node
        .events_until("two deliveries", |e| {
            outcomes(e).get("delivered") == Some(&2)
        })
        .await;
    let others = events.iter().filter(|e| e.recipient != "odd@example.org");
    assert!(others.clone().all(|e| e.kind != "deferred"), "{events:?}");
    let odd = events
        .iter()
        .find(|e| e.recipient == "odd@example.org" && e.kind == "deferred");
    assert_eq!(odd.unwrap().cause, "protocol");
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_in_no_charset_is_kept_as_far_as_it_can_be_read() {
    let host = RemoteHost::scripted(|stage, _, _| match stage {
        Stage::Rcpt => Answer::Octets(b"550 5.1.1 Empf\xe4nger \x1b[2J unbekannt\r\n".to_vec()),
        _ => Answer::Usual,
    })
    .await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    client
        .submit(&["b@example.org"], &message("eight", "hello"))
        .await;
    let events = node
        .events_until("a bounce", |e| outcomes(e).contains_key("bounced"))
        .await;
    let reply = &events.last().unwrap().reply;
    assert_eq!(reply, "550 5.1.1 Empf\u{fffd}nger ?[2J unbekannt");
    node.node.stop().await;
}
