//! A remote host that breaks at each stage of the dialogue: the true reason is recorded, nothing is lost, nothing hangs.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::message;
use crate::support::node::{Seen, TestNode};
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

/// Delivers one message to a host that misbehaves once, at `stage`; returns all events and how often it took the message.
async fn misbehaving_once(stage: Stage, answer: Answer) -> (Vec<Seen>, usize) {
    let what = format!("the recipient's end after {answer:?} at {stage:?}");
    let done = AtomicBool::new(false);
    let host = RemoteHost::scripted(move |at, _, _| {
        if at == stage && !done.swap(true, Ordering::Relaxed) {
            answer.clone()
        } else {
            Answer::Usual
        }
    })
    .await;
    let node = TestNode::with(&format!("{}{}", short_timeouts(), route_to(&host))).await;
    node.client()
        .await
        .submit(&["b@example.org"], &message("once", "hello"))
        .await;
    let ended = |events: &[Seen]| {
        events
            .iter()
            .any(|e| matches!(e.kind, "delivered" | "bounced" | "expired"))
    };
    let unclear = |events: &[Seen]| ended(events) || events.iter().any(|e| e.kind == "ambiguous");
    if !ended(&node.events_until(&what, unclear).await) {
        // It would wait for ten minutes.
        posthaste(node.dir.path(), "queue retry --all")
            .await
            .expect(0);
    }
    let mut events = node.events_until(&what, ended).await;
    // What the operator did is no attempt.
    events.retain(|event| event.kind != "retried");
    let taken = host.taken().len();
    node.node.stop().await;
    (events, taken)
}

/// The same at each stage, all at one time, since each of them waits for a retry.
async fn misbehaving_once_at_each_stage(answer: &Answer) -> Vec<(Stage, Vec<Seen>, usize)> {
    let mut running = tokio::task::JoinSet::new();
    for stage in STAGES {
        let answer = answer.clone();
        running.spawn(async move {
            let (events, taken) = misbehaving_once(stage, answer).await;
            (stage, events, taken)
        });
    }
    running.join_all().await
}

fn short_timeouts() -> &'static str {
    "[timeouts]\nconnect = \"1s\"\nbanner = \"1s\"\ncommand = \"1s\"\ndata = \"1s\"\nblock = \"1s\"\ndot = \"1s\"\n"
}

fn route_to(host: &RemoteHost) -> String {
    format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    )
}

fn kinds(events: &[Seen]) -> Vec<&str> {
    events.iter().map(|e| e.kind).collect()
}

const STAGES: [Stage; 6] = [
    Stage::Connect,
    Stage::Ehlo,
    Stage::Mail,
    Stage::Rcpt,
    Stage::Data,
    Stage::Dot,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_closes_at_any_stage_is_tried_again_and_a_lost_answer_is_ambiguous() {
    for answer in [Answer::Close, Answer::Reset] {
        for (stage, events, taken) in misbehaving_once_at_each_stage(&answer).await {
            let first = if stage == Stage::Dot {
                "ambiguous"
            } else {
                "deferred"
            };
            assert_eq!(
                kinds(&events),
                ["accepted", first, "delivered"],
                "{stage:?}"
            );
            assert_eq!(taken, 1, "{stage:?}");
            assert!(
                !events[1].cause.is_empty() && !events[1].detail.is_empty(),
                "{stage:?}: {:?}",
                events[1]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_falls_silent_at_any_stage_is_given_up_after_its_time_out() {
    for (stage, events, taken) in misbehaving_once_at_each_stage(&Answer::Silence).await {
        let first = if stage == Stage::Dot {
            "ambiguous"
        } else {
            "deferred"
        };
        assert_eq!(
            kinds(&events),
            ["accepted", first, "delivered"],
            "{stage:?}"
        );
        assert_eq!(taken, 1, "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transient_reply_at_any_stage_defers_and_keeps_the_hosts_words() {
    let answer = Answer::line("451 4.7.1 come back later");
    for (stage, events, taken) in misbehaving_once_at_each_stage(&answer).await {
        assert_eq!(
            kinds(&events),
            ["accepted", "deferred", "delivered"],
            "{stage:?}"
        );
        assert_eq!(events[1].reply, "451 4.7.1 come back later", "{stage:?}");
        assert_eq!(taken, 1, "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_reply_bounces_from_mail_on_and_defers_before() {
    let answer = Answer::line("550 5.7.1 not here");
    for (stage, events, _) in misbehaving_once_at_each_stage(&answer).await {
        match stage {
            // No recipient can be blamed for a refused connection (bounce-and-shaping §1).
            Stage::Connect | Stage::Ehlo => assert_eq!(
                kinds(&events),
                ["accepted", "deferred", "delivered"],
                "{stage:?}"
            ),
            _ => {
                assert_eq!(kinds(&events), ["accepted", "bounced"], "{stage:?}");
                assert_eq!(events[1].reply, "550 5.7.1 not here", "{stage:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_a_temporary_failure_at_every_stage() {
    let nonsense = [
        Answer::Octets(b"\xff\xfe\x00garbage\r\n".to_vec()),
        Answer::line("999 nine"),
        Answer::line("25 short"),
        Answer::Lines(vec!["250-mixed".into(), "550 codes".into()]),
        Answer::Octets([b"250-".as_slice(), &[b'x'; 100_000]].concat()),
        Answer::Octets(b"250-endless\r\n".repeat(10_000)),
    ];
    for answer in &nonsense {
        for (stage, events, taken) in misbehaving_once_at_each_stage(answer).await {
            let last = events.last().unwrap();
            assert_eq!(last.kind, "delivered", "{stage:?} {answer:?}: {events:?}");
            assert_eq!(events.len(), 3, "{stage:?}: {events:?}");
            assert!(taken >= 1, "{stage:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_or_a_second_answer_breaks_the_session_and_never_counts_as_delivery() {
    // The answer to DATA brings the answer to the final dot along, before the dot was sent.
    let (events, taken) = misbehaving_once(
        Stage::Data,
        Answer::Octets(b"354 go on\r\n250 2.0.0 taken\r\n".to_vec()),
    )
    .await;
    assert_eq!(events.last().unwrap().kind, "delivered");
    assert!(
        events
            .iter()
            .any(|e| matches!(e.kind, "deferred" | "ambiguous")),
        "{events:?}"
    );
    assert!(taken >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_recipient_gets_its_own_reply() {
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("gone@") => Answer::line("550 5.1.1 no such user"),
        Stage::Rcpt if line.contains("full@") => Answer::line("452 4.2.2 mailbox full"),
        _ => Answer::Usual,
    })
    .await;
    let node = TestNode::routed_to(host.address).await;
    let recipients = ["ok@example.org", "gone@example.org", "full@example.org"];
    node.client()
        .await
        .submit(&recipients, &message("three", "hello"))
        .await;
    let events = node
        .events_until("three outcomes", |e| {
            e.iter().filter(|e| e.kind != "accepted").count() >= 3
        })
        .await;
    let of = |recipient: &str| {
        events
            .iter()
            .find(|e| e.recipient == recipient && e.kind != "accepted")
            .unwrap()
    };
    assert_eq!(of("ok@example.org").kind, "delivered");
    assert_eq!(
        (
            of("gone@example.org").kind,
            of("gone@example.org").cause.as_str()
        ),
        ("bounced", "recipient-unknown")
    );
    assert_eq!(
        (
            of("full@example.org").kind,
            of("full@example.org").cause.as_str()
        ),
        ("deferred", "recipient-full")
    );
    assert_eq!(host.taken()[0].recipients, ["ok@example.org"]);
    node.node.stop().await;
}
