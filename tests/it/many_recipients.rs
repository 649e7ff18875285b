//! Messages with many recipients: how many there may be, and that each of them ends once.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_recipients_are_taken_and_the_next_is_told_to_come_in_another_transaction() {
    let host = RemoteHost::start().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    client.command("MAIL FROM:<a@example.com>", 250).await;
    let rcpt = |n: usize| format!("RCPT TO:<r{n}@d{}.test>\r\n", n % 7);
    // Pipelined, as clients with so many do.
    client
        .send((0..1_002).map(rcpt).collect::<String>().as_bytes())
        .await;
    for n in 0..1_002 {
        let (code, text) = client.reply().await;
        match n {
            0..1_000 => assert_eq!(code, 250, "recipient {n}: {text}"),
            _ => assert!(
                code == 452 && text.starts_with("4.5.3 "),
                "recipient {n}: {code} {text}"
            ),
        }
    }
    client.command("DATA", 354).await;
    client.send(&message("to many", "body")).await;
    client.command(".", 250).await;
    // The transaction is over and with it the count.
    client
        .submit(
            &["r1000@d0.test", "r1001@d0.test"],
            &message("the rest", "body"),
        )
        .await;

    node.events_of("delivered", 1_002).await;
    let taken = host.taken();
    let recipients: Vec<String> = taken.iter().flat_map(|t| t.recipients.clone()).collect();
    let expected: HashSet<String> = (0..1_000)
        .map(|n| format!("r{n}@d{}.test", n % 7))
        .collect();
    let found: HashSet<String> = recipients
        .iter()
        .filter(|r| !r.starts_with("r100") || r.len() < 13)
        .cloned()
        .collect();
    assert_eq!(recipients.len(), 1_002);
    assert!(found.is_superset(&expected));
    assert!(taken.iter().all(|t| t.recipients.len() <= 100));
    // Shared, as far as a transaction goes: one for each hundred.
    assert!(
        taken.len() <= 1_002 / 100 + 8,
        "{} transactions",
        taken.len()
    );
    drop(client);
    node.node.stop().await;
}

/// What the remote host thinks of a recipient, by the number in its name.
fn fate(recipient: &str) -> &'static str {
    let number: usize = recipient
        .trim_start_matches('r')
        .split('@')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    ["taken", "unknown", "later", "taken", "lost"][number % 5]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_hundred_recipients_over_twenty_domains_ends_exactly_once() {
    let put_off: Mutex<HashSet<String>> = Mutex::default();
    let lost: Mutex<HashSet<usize>> = Mutex::default();
    let host = RemoteHost::scripted(move |stage, line, session| {
        let recipient = line.split(['<', '>']).nth(1).unwrap_or_default();
        match stage {
            Stage::Rcpt => match fate(recipient) {
                "unknown" => Answer::line("550 5.1.1 no such user"),
                "later" if put_off.lock().unwrap().insert(recipient.to_owned()) => {
                    Answer::line("450 4.7.1 greylisted")
                }
                "lost" if put_off.lock().unwrap().insert(recipient.to_owned()) => {
                    lost.lock().unwrap().insert(session);
                    Answer::Usual
                }
                _ => Answer::Usual,
            },
            // The host takes the message, and its answer never comes: sent again, as nobody can know.
            Stage::Dot if lost.lock().unwrap().remove(&session) => Answer::Close,
            _ => Answer::Usual,
        }
    })
    .await;
    let node = TestNode::routed_to(host.address).await;
    let recipients: Vec<String> = (0..100)
        .map(|n| format!("r{n}@d{}.example.org", n % 20))
        .collect();
    let list: Vec<&str> = recipients.iter().map(String::as_str).collect();
    node.client()
        .await
        .submit(&list, &message("to a hundred", "body"))
        .await;

    let is_end = |kind: &str| matches!(kind, "delivered" | "bounced" | "expired" | "cancelled");
    let events = eventually("a hundred outcomes", async || {
        // What may have arrived waits for ten minutes, if nobody wants it sooner.
        posthaste(node.dir.path(), "queue retry --all").await;
        let events = node.events();
        let ended = events.iter().filter(|e| is_end(e.kind)).count();
        (ended >= 100).then_some(events)
    })
    .await;
    let mut ends: HashMap<&str, Vec<&str>> = HashMap::new();
    for event in events.iter().filter(|e| is_end(e.kind)) {
        ends.entry(&event.recipient).or_default().push(event.kind);
    }
    for recipient in &list {
        let expected = if fate(recipient) == "unknown" {
            "bounced"
        } else {
            "delivered"
        };
        assert_eq!(ends.remove(recipient), Some(vec![expected]), "{recipient}");
    }
    assert!(ends.is_empty(), "{ends:?}");
    assert!(
        events.iter().any(|e| e.kind == "ambiguous") && events.iter().any(|e| e.kind == "deferred")
    );
    // Who was told 250 to the final dot never sees it again.
    let taken: Vec<String> = host
        .taken()
        .into_iter()
        .flat_map(|t| t.recipients)
        .collect();
    assert_eq!(taken.len(), 80);
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 80);
    node.node.stop().await;
    let audit = posthaste(node.dir.path(), "audit --json")
        .await
        .expect(0)
        .object();
    assert_eq!(
        (&audit["delivered"], &audit["bounced"], &audit["live"]),
        (&80.into(), &20.into(), &0.into())
    );
}
