//! What a remote host says: judged by rules, told, tried again with other rules, and its consequences for the recipient.

use crate::support::client::message;
use crate::support::node::{Seen, TestNode};
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

async fn host() -> RemoteHost {
    RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("<gone") => Answer::line("550 5.1.1 <gone>: User unknown"),
        Stage::Rcpt if line.contains("<listed") => {
            Answer::line("554 5.7.1 Client host [127.0.0.1] blocked using zen.spamhaus.org")
        }
        Stage::Rcpt if line.contains("<odd") => {
            Answer::line("550 5.9.9 the moon is in the wrong house (case 48151623)")
        }
        _ => Answer::Usual,
    })
    .await
}

fn of<'e>(events: &'e [Seen], kind: &str, recipient: &str) -> Vec<&'e Seen> {
    let is_it = |event: &&Seen| event.kind == kind && event.recipient.starts_with(recipient);
    events.iter().filter(is_it).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_that_is_not_there_is_suppressed_until_it_is_lifted_and_a_listed_address_of_ours_suppresses_nobody()
 {
    let host = host().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    let both = ["gone@example.org", "listed@example.org"];
    for to in both {
        client.submit(&[to], &message("first", "body")).await;
    }
    let told = |events: &[Seen]| {
        !of(events, "suppressed", "gone").is_empty() && !of(events, "bounced", "listed").is_empty()
    };
    let events = node.events_until("a bounce and a suppression", told).await;
    let made = of(&events, "suppressed", "gone")[0];
    assert_eq!(
        (&*made.cause, &*made.reply),
        ("HardBounce", "550 5.1.1 <gone>: User unknown")
    );
    assert!(
        made.detail
            .ends_with("it bounced for good, by rule recipient-unknown."),
        "{}",
        made.detail
    );

    for to in both {
        client.submit(&[to], &message("second", "body")).await;
    }
    let again = |events: &[Seen]| {
        ["gone", "listed"]
            .iter()
            .all(|to| of(events, "bounced", to).len() == 2)
    };
    let events = node.events_until("two more bounces", again).await;
    assert_eq!(
        of(&events, "bounced", "gone")[1].cause,
        "submission-refused"
    );
    assert_eq!(of(&events, "bounced", "listed")[1].cause, "blocklisted");
    assert!(of(&events, "suppressed", "listed").is_empty());

    // Whoever lifts it is not contradicted by what was before, a restart included.
    let rm = "suppression rm app gone@example.org";
    posthaste(node.dir.path(), rm).await.expect(0);
    let node = node.restart().await;
    let mut client = node.client().await;
    client
        .submit(&["gone@example.org"], &message("third", "body"))
        .await;
    let events = node
        .events_until("a bounce by the host", |events| {
            of(events, "suppressed", "gone").len() == 2
        })
        .await;
    assert_eq!(of(&events, "bounced", "gone")[2].cause, "recipient-unknown");

    let tail = posthaste(node.dir.path(), "events tail --no-follow --json")
        .await
        .expect(0);
    let rows = tail.json();
    let row = rows.iter().find(|row| row["kind"] == "bounced").unwrap();
    for (key, value) in [
        ("rule", "recipient-unknown"),
        ("stage", "rcpt"),
        ("scope", "recipient"),
        ("reaction", "hard"),
        ("bounce_type", "HardBounce"),
    ] {
        assert_eq!(row[key], value, "{key}");
    }
    let suppressed = rows.iter().find(|row| row["kind"] == "suppressed").unwrap();
    assert_eq!(
        (&suppressed["evidence"], &suppressed["rule"]),
        (&row["id"], &row["rule"])
    );
    posthaste(node.dir.path(), "audit").await.expect(0);
    node.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_of_past_days_tell_what_other_rules_would_have_made_of_them() {
    let host = host().await;
    let node = TestNode::routed_to(host.address).await;
    let mut client = node.client().await;
    for to in ["odd@example.org", "odd2@example.org", "listed@example.org"] {
        client.submit(&[to], &message("hello", "body")).await;
    }
    node.events_of("bounced", 3).await;
    let dir = node.dir.path();

    let unmatched = posthaste(dir, "rules unmatched --since -1h --json")
        .await
        .expect(0)
        .json();
    assert_eq!(unmatched.len(), 1, "{unmatched:?}");
    assert_eq!(unmatched[0]["count"], 2);
    assert_eq!(
        unmatched[0]["pattern"],
        "550 5.9.9 the moon is in the wrong house (case N)"
    );

    let rule = "[[rule]]\nname = \"moon\"\ntext = [\"wrong house\"]\ncause = \"recipient-disabled\"\nscope = \"recipient\"\nreaction = \"hard\"\n\
                test = [{ reply = \"550 5.9.9 the moon is in the wrong house\", outcome = \"suppressed\" }]\n";
    std::fs::write(dir.join("moon.toml"), rule).unwrap();
    let changes = posthaste(dir, "rules test moon.toml --json")
        .await
        .expect(0)
        .json();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["count"], 2);
    assert_eq!(
        changes[0]["was"],
        "bounced unknown, recipient, bounce (stage)"
    );
    assert_eq!(
        changes[0]["would_be"],
        "suppressed recipient-disabled, recipient, hard (moon)"
    );

    // Wrong expectations are a finding, wrong rules an error with their place.
    std::fs::write(
        dir.join("moon.toml"),
        rule.replace("\"suppressed\"", "\"deferred\""),
    )
    .unwrap();
    let failed = posthaste(dir, "rules test moon.toml --json")
        .await
        .expect(1)
        .json();
    assert_eq!(
        (&failed[0]["kind"], &failed[0]["place"]),
        (&"failed".into(), &"moon.toml:7".into())
    );
    std::fs::write(
        dir.join("moon.toml"),
        rule.replace("recipient-disabled", "reputation"),
    )
    .unwrap();
    let refused = posthaste(dir, "rules test moon.toml").await.expect(78);
    assert!(
        refused
            .stderr
            .contains("moon.toml:1: rule `moon`: reaction \"hard\""),
        "{}",
        refused.stderr
    );

    // A node takes new rules while it runs, or keeps the old ones.
    let with_rules = |text: String| text + "[classify]\nrules = [\"moon.toml\"]\n";
    let error = node.reload(with_rules).await.unwrap_err().to_string();
    assert!(error.contains("moon.toml:1: rule `moon`"), "{error}");
    std::fs::write(dir.join("moon.toml"), rule).unwrap();
    node.reload(with_rules).await.unwrap();
    client
        .submit(&["odd3@example.org"], &message("hello", "body"))
        .await;
    let made = node.events_of("suppressed", 1).await;
    assert_eq!(made[0].recipient, "odd3@example.org");
    node.node.stop().await;
}
