//! Mail that its sender holds back: listed, moved and cancelled over HTTP, and what a crash does to that: nothing.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::sending::{call, post};
use crate::support::eventually;
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, posthaste};
use crate::support::remote_host::{RemoteHost, Taken};

async fn http_address(node: &NodeProcess) -> SocketAddr {
    let line: Value = serde_json::from_str(&node.said("serving HTTP").await).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

async fn sent(address: SocketAddr, to: &str, send_at: &str) -> String {
    let mail = json!({ "From": "Ada <a@shop.test>", "To": to, "Subject": "Später", "TextBody": "x", "SendAt": send_at, "Tag": "t",
        "Metadata": { "order": "7" } });
    let (status, answer) = post(address, "/email", &mail).await;
    assert_eq!(status, 200, "{answer}");
    answer["MessageID"].as_str().unwrap().to_owned()
}

async fn listed(address: SocketAddr) -> Vec<Value> {
    let list = eventually("the list", async || {
        let (status, list) = call("GET", address, "/email/scheduled?count=500", &Value::Null).await;
        (status == 200).then_some(list)
    });
    list.await["Messages"].as_array().unwrap().clone()
}

/// Sorted: two of one millisecond are in the order of their ids.
fn ids(list: &[Value]) -> Vec<&str> {
    let ids = list.iter().map(|m| m["MessageID"].as_str().unwrap());
    sorted(ids.collect())
}

fn sorted(mut ids: Vec<&str>) -> Vec<&str> {
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scheduled_is_listed_moved_and_cancelled_and_stays_so_over_a_kill() {
    let host = RemoteHost::start().await;
    let dir = tempfile::tempdir().unwrap();
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    write_config(
        dir.path(),
        &format!(
            "{route}[[server]]\nname = \"other\"\ntokens = [\"other-token\"]\nsenders = \"any\"\n"
        ),
    );
    let mut node = NodeProcess::start(dir.path()).await;
    let address = http_address(&node).await;
    let moved = sent(address, "moved@one.test, cc@two.test", "1h").await;
    let cancelled = sent(address, "cancelled@one.test, more@two.test", "1h").await;
    let kept = sent(address, "kept@one.test", "2h").await;
    let brought_forward = sent(address, "forward@one.test", "3h").await;
    let list = listed(address).await;
    assert_eq!(
        ids(&list),
        sorted(vec![
            moved.as_str(),
            cancelled.as_str(),
            kept.as_str(),
            brought_forward.as_str()
        ])
    );
    let first = list.iter().find(|m| m["MessageID"] == moved).unwrap();
    assert_eq!(first["From"], "Ada <a@shop.test>");
    assert_eq!(
        (&first["Subject"], &first["Tag"], &first["Metadata"]),
        (&json!("Später"), &json!("t"), &json!({ "order": "7" }))
    );
    assert_eq!(
        first["Recipients"],
        json!(["moved@one.test", "cc@two.test"])
    );

    let path = |id: &str| format!("/email/scheduled/{id}");
    let later = json!({ "SendAt": "2037-01-01T00:00:00Z" });
    let (status, said) = call("PUT", address, &path(&moved), &later).await;
    assert_eq!((status, &said["ErrorCode"]), (422, &json!(300)), "{said}");
    let (status, said) = call("PUT", address, &path(&moved), &json!({ "SendAt": "20d" })).await;
    assert_eq!(status, 200, "{said}");
    let new_time = said["SendAt"].clone();
    assert_ne!(new_time, first["SendAt"]);
    let (status, said) = call("DELETE", address, &path(&cancelled), &Value::Null).await;
    assert_eq!((status, &said["ErrorCode"]), (200, &json!(0)), "{said}");
    // Answered is durable: from here on the process may die.
    node.kill().await;

    let node = NodeProcess::start(dir.path()).await;
    let address = http_address(&node).await;
    let list = listed(address).await;
    assert_eq!(
        ids(&list),
        sorted(vec![
            moved.as_str(),
            kept.as_str(),
            brought_forward.as_str()
        ])
    );
    let again = list.iter().find(|m| m["MessageID"] == moved).unwrap();
    assert_eq!(again["SendAt"], new_time);
    for method in ["GET", "PUT", "DELETE"] {
        let (status, said) = call(
            method,
            address,
            &path(&cancelled),
            &json!({ "SendAt": "1h" }),
        )
        .await;
        assert_eq!((status, &said["ErrorCode"]), (422, &json!(701)), "{said}");
    }
    let events = posthaste(dir.path(), "events tail --no-follow --json")
        .await
        .expect(0);
    let events: Vec<Value> = events
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| {
        events
            .iter()
            .filter(|event| event["kind"] == kind)
            .collect::<Vec<_>>()
    };
    let ended = of("cancelled");
    assert_eq!(ended.len(), 2);
    assert!(
        ended
            .iter()
            .all(|event| event["cause"] == "sender" && event["message_id"] == cancelled),
        "{ended:?}"
    );
    assert_eq!(of("rescheduled").len(), 2);
    let shown = posthaste(dir.path(), "spool ls --json --state deferred")
        .await
        .expect(0);
    let second = new_time.as_str().unwrap().trim_end_matches('Z');
    assert!(shown.stdout.contains(second), "{}", shown.stdout);

    // At once: the time that it had is not waited for.
    let (status, said) = call(
        "PUT",
        address,
        &path(&brought_forward),
        &json!({ "SendAt": "0s" }),
    )
    .await;
    assert_eq!(status, 200, "{said}");
    let came = |taken: &[Taken]| taken.iter().any(|t| t.recipients == ["forward@one.test"]);
    let taken = host
        .taken_until("the message that was brought forward", came)
        .await;
    assert_eq!(taken.len(), 1);
    let gone = eventually("the list without it", async || {
        let list = listed(address).await;
        (list.len() == 2).then_some(list)
    });
    assert_eq!(
        ids(&gone.await),
        sorted(vec![moved.as_str(), kept.as_str()])
    );
    let audit = posthaste(dir.path(), "audit").await.expect(0);
    assert!(audit.stdout.contains('='), "{}", audit.stdout);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_told_page_by_page_and_moved_again_and_again_it_stays_one() {
    let host = RemoteHost::start().await;
    let dir = tempfile::tempdir().unwrap();
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            host.address
        ),
    );
    let node = NodeProcess::start(dir.path()).await;
    let address = http_address(&node).await;
    let one = json!({ "From": "a@shop.test", "To": "b@one.test", "TextBody": "x", "SendAt": "1h" });
    // Once a start is through.
    listed(address).await;
    let (status, answers) = post(address, "/email/batch", &json!(vec![one; 130])).await;
    assert_eq!(status, 200);
    let mut expected: Vec<String> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["MessageID"].as_str().unwrap().to_owned())
        .collect();
    expected.sort();
    let (mut found, mut key) = (Vec::new(), String::new());
    loop {
        let path = format!("/email/scheduled?count=60&paginationKey={key}");
        let (status, page) = call("GET", address, &path, &Value::Null).await;
        assert_eq!(status, 200, "{page}");
        let messages = page["Messages"].as_array().unwrap();
        assert!(messages.len() <= 60);
        found.extend(ids(messages).into_iter().map(str::to_owned));
        match page["PaginationKey"].as_str() {
            Some(next) => key = next.to_owned(),
            None => break,
        }
    }
    // Pages are in order of acceptance; ids of one millisecond have no order.
    found.sort();
    assert_eq!(found, expected);
    let path = format!("/email/scheduled/{}", expected[0]);
    let mut last = (0, Value::Null);
    for hours in 2..=102 {
        last = call(
            "PUT",
            address,
            &path,
            &json!({ "SendAt": format!("{hours}h") }),
        )
        .await;
        if last.0 != 200 {
            break;
        }
    }
    assert_eq!(
        (last.0, &last.1["ErrorCode"]),
        (422, &json!(300)),
        "{}",
        last.1
    );
    assert!(
        last.1["Message"].as_str().unwrap().contains("100 times"),
        "{}",
        last.1
    );
    assert_eq!(listed(address).await.len(), 130);
    node.stop().await;
}
