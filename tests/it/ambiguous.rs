//! The remote host takes the message and is gone before it says so: the stream decides whether it is sent again.

use crate::support::client::message;
use crate::support::node::TestNode;
use crate::support::process::posthaste;
use crate::support::remote_host::{Answer, RemoteHost, Stage};

async fn host_that_never_says_so() -> RemoteHost {
    RemoteHost::scripted(|stage, _, _| match stage {
        Stage::Dot => Answer::Close,
        _ => Answer::Usual,
    })
    .await
}

fn route(host: &RemoteHost) -> String {
    format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_codes_bounces_at_once_what_may_have_arrived() {
    let host = host_that_never_says_so().await;
    let stream =
        "[[server.stream]]\nid = \"outbound\"\ntype = \"transactional\"\nambiguous = \"stop\"\n";
    let node = TestNode::with(&(route(&host) + stream)).await;
    node.client()
        .await
        .submit(&["b@example.org"], &message("your code", "4711"))
        .await;
    let bounced = node.events_of("bounced", 1).await.remove(0);
    assert_eq!((bounced.cause.as_str(), bounced.attempts), ("ambiguous", 1));
    assert!(bounced.detail.contains("policy"), "{bounced:?}");
    assert!(!node.events().iter().any(|e| e.kind == "suppressed"));
    assert_eq!(host.sessions(), 1);
    node.node.stop().await;
    posthaste(node.dir.path(), "audit").await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_streams_send_again_after_ten_minutes_and_three_times_at_most_restarts_included() {
    let host = host_that_never_says_so().await;
    let mut node = TestNode::with(&route(&host)).await;
    let id = node
        .client()
        .await
        .submit(&["b@example.org"], &message("news", "hello"))
        .await;
    for attempt in 1..=2 {
        node.events_of("ambiguous", attempt).await;
        let said = posthaste(node.dir.path(), &format!("queue explain {id} --json")).await;
        let waits = said.expect(0).object();
        assert_eq!(
            (&waits["state"], &waits["attempts"]),
            (&"deferred".into(), &attempt.into())
        );
        let at = |value: &serde_json::Value| {
            posthaste::clock::parse_rfc3339(value.as_str().unwrap()).unwrap()
        };
        let wait = at(&waits["next_attempt_at"]).saturating_sub(posthaste::clock::wall_unix_ms());
        assert!((590_000..610_000).contains(&wait), "{wait}");
        node = node.restart().await;
        posthaste(node.dir.path(), &format!("queue retry {id}"))
            .await
            .expect(0);
    }
    let bounced = node.events_of("bounced", 1).await.remove(0);
    assert_eq!((bounced.cause.as_str(), bounced.attempts), ("ambiguous", 3));
    assert!(bounced.detail.contains("3 attempts"), "{bounced:?}");
    assert_eq!(host.sessions(), 3);
    node.node.stop().await;
    posthaste(node.dir.path(), "audit").await.expect(0);
}
