//! Hooks that come, go and come again; and what one attempt is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::sending::call_as;
use crate::support::eventually;
use crate::support::node::TestNode;
use crate::support::process::posthaste;
use crate::support::receiver::{Receiver, Say};
use crate::webhooks::{config, hook, host, node, send};

/// How many rows the ledger has of a hook, retries too.
async fn rows(node: &TestNode, key: &str) -> i64 {
    let file = node.data_dir().join("webhooks.db");
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut ledger = SqliteConnection::connect_with(&options).await.unwrap();
    let counted = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM hook WHERE key = $1) + (SELECT count(*) FROM retry WHERE hook = $1)",
    );
    counted.bind(key).fetch_one(&mut ledger).await.unwrap()
}

/// Two recipients, three events, one of which sets off two triggers' worth of news: whatever comes of an attempt, it was one
/// request, and what comes again says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_attempt_is_one_request_for_each_event_and_recipient() {
    let host = host().await;
    // Each event is taken the second time.
    let seen = std::sync::Mutex::new(BTreeSet::new());
    let receiver =
        Receiver::scripted(
            move |call, _| match seen.lock().unwrap().insert(call.event()) {
                true => Say::Status(500),
                false => Say::Status(200),
            },
        )
        .await;
    let node = node(&host).await;
    let address = node.node.http_address();
    let key = hook(address, &receiver.url(), json!({})).await;
    send(
        address,
        "ada@example.com, bob@example.com, gone@example.com",
    )
    .await;
    receiver.count(8).await;
    eventually("a hook with nothing to do", async || {
        let words = format!("webhook show {key} --json");
        let shown = posthaste(node.dir.path(), &words).await.expect(0).object();
        let is_done = ["retries", "in_flight", "lag_bytes"]
            .iter()
            .all(|k| shown[k] == 0);
        (is_done && shown["taken"] == 4).then_some(())
    })
    .await;
    let calls = receiver.calls();
    let mut attempts: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for call in &calls {
        let told = (
            call.kind(),
            call.header("x-pm-webhook-trace-id"),
            call.header("x-pm-retries-remaining")
                .parse::<i64>()
                .unwrap(),
            &call.text,
        );
        attempts.entry(call.event()).or_default().push(told);
    }
    let mut kinds = Vec::new();
    for told in attempts.values() {
        let [first, second] = told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(
            (first.0, first.1, first.2 - 1),
            (second.0, second.1, second.2)
        );
        kinds.push(first.0);
    }
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["Bounce", "Delivery", "Delivery", "SubscriptionChange"]
    );
    let traces: BTreeSet<_> = attempts.values().map(|told| told[0].1).collect();
    assert_eq!(traces.len(), 4);
    node.node.stop().await;
}

/// A URL that is emptied and set again is another hook, however fast it goes: nothing of the first one's retries is its own,
/// and nothing that is written of the first one's end takes away from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_url_that_is_emptied_and_set_again_begins_anew() {
    let (host, good) = (host().await, Receiver::that_takes_all().await);
    let failing = Receiver::scripted(|_, _| Say::Status(500)).await;
    let mut node = node(&host).await;
    let made = posthaste(node.dir.path(), "server create shop --senders any --json").await;
    let key = format!("s{}-bounce", made.expect(0).object()["id"]);
    let token = posthaste(node.dir.path(), "token create shop --json").await;
    let token = token.expect(0).object()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let fields = [("x-postmark-server-token", token.as_str())];
    let ask = async |node: &TestNode, method, path, body: Value| {
        let address = node.node.http_address();
        let (status, answer) = call_as(&fields, method, address, path, &body).await;
        assert_eq!(status, 200, "{answer}");
    };
    let mail = |to: &str| json!({ "From": "a@declared.example", "To": to, "TextBody": "x" });
    ask(
        &node,
        "PUT",
        "/server",
        json!({ "BounceHookUrl": failing.url() }),
    )
    .await;
    ask(&node, "POST", "/email", mail("gone1@example.com")).await;
    failing.count(1).await;
    for url in [String::new(), good.url()] {
        ask(&node, "PUT", "/server", json!({ "BounceHookUrl": url })).await;
    }
    // At once: the hook begins where the log was when it was set, not when somebody looks.
    ask(&node, "POST", "/email", mail("gone2@example.com")).await;
    good.count(1).await;
    node = node.restart().await;
    ask(&node, "POST", "/email", mail("gone3@example.com")).await;
    let calls = good.count(2).await;
    let told: Vec<_> = calls
        .iter()
        .map(|call| call.body["Email"].as_str().unwrap())
        .collect();
    assert_eq!(told, ["gone2@example.com", "gone3@example.com"]);
    eventually("one row", async || {
        (rows(&node, &key).await == 1).then_some(())
    })
    .await;
    ask(&node, "PUT", "/server", json!({ "BounceHookUrl": "" })).await;
    eventually("no row", async || {
        (rows(&node, &key).await == 0).then_some(())
    })
    .await;
    node.node.stop().await;
}

/// The server stands in the configuration file, so that it might go and come back; the webhook was deleted for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_of_a_webhook_that_is_deleted() {
    let (host, failing) = (
        host().await,
        Receiver::scripted(|_, _| Say::Status(500)).await,
    );
    let node = TestNode::with(&config(host.address)).await;
    let address = node.node.http_address();
    let key = hook(address, &failing.url(), json!({})).await.to_string();
    send(address, "ada@example.com").await;
    eventually("a retry", async || {
        (rows(&node, &key).await == 2).then_some(())
    })
    .await;
    let words = format!("webhook rm {key}");
    posthaste(node.dir.path(), &words).await.expect(0);
    eventually("no row", async || {
        (rows(&node, &key).await == 0).then_some(())
    })
    .await;
    node.node.stop().await;
}
