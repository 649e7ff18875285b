//! Mail by HTTP: clients of Postmark that we did not write send through a running node, and what arrives is what they sent.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::accounts::Fixture;
use crate::official_clients::run;
use crate::support::node::write_config;
use crate::support::process::NodeProcess;
use crate::support::remote_host::{RemoteHost, Taken};
use crate::support::{eventually, within};

const CONFIG: &str = r#"
[[pool]]
name = "bulk"
kind = "broadcast"
sources = [{ name = "bulk1", ip = "127.0.0.2", ehlo = "bulk1.test" }]
[[domain]]
name = "declared.example"
"#;

/// The number that a message of the corpus has.
pub fn numbered(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content).into_owned();
    let (_, rest) = text.split_once("X-Number: ").unwrap();
    rest.split("\r\n").next().unwrap().to_owned()
}

async fn token(fixture: &Fixture) -> String {
    fixture.made("server create shop").await;
    let token = fixture.made("token create shop").await;
    token["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_clients_send() {
    let fixture = Fixture::start(CONFIG).await;
    let token = token(&fixture).await;
    let address = fixture.node.node.http_address().to_string();
    run(&["node", "sending.js", &address, &token]).await;
    run(&[
        "python3",
        "sending.py",
        &format!("http://{address}"),
        &token,
    ])
    .await;
    // So many messages were not refused.
    let taken = fixture.host.wait_for(14).await;
    let whole = taken.iter().find(|t| {
        let text = String::from_utf8_lossy(&t.content);
        text.contains("X-Js: yes")
    });
    let whole = whole.unwrap();
    let recipients: BTreeSet<&str> = whole.recipients.iter().map(String::as_str).collect();
    let wanted = [
        "bo@example.com",
        "cy@example.com",
        "dan@example.com",
        "zoe@example.com",
    ];
    assert_eq!(recipients, wanted.into_iter().collect());
    let text = String::from_utf8_lossy(&whole.content);
    assert!(
        !text.contains("dan@example.com") && !text.contains("X-PM-Metadata"),
        "{text}"
    );
    assert!(
        text.contains("X-PM-Tag: tag\r\n") && text.contains(" with HTTP id "),
        "{text}"
    );
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_ruby_gem_sends() {
    let fixture = Fixture::start(CONFIG).await;
    let token = token(&fixture).await;
    let port = fixture.node.node.http_address().port().to_string();
    run(&["ruby", "sending.rb", "127.0.0.1", &port, &token]).await;
    // A plain one, a whole one, 501 of a batch, and one beside a wrong one.
    let taken = fixture.host.wait_for(504).await;
    let whole = taken.iter().find(|t| {
        let text = String::from_utf8_lossy(&t.content);
        text.contains("X-Ruby: yes")
    });
    let recipients: BTreeSet<&str> = whole
        .unwrap()
        .recipients
        .iter()
        .map(String::as_str)
        .collect();
    let wanted = ["bo@example.com", "cy@example.com", "dan@example.com"];
    assert_eq!(recipients, wanted.into_iter().collect());
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corpus_arrives_as_it_was_sent() {
    let fixture = Fixture::start(CONFIG).await;
    let token = token(&fixture).await;
    let url = format!("http://{}", fixture.node.node.http_address());
    run(&["python3", "corpus.py", "send", &url, &token]).await;
    let all = |taken: &[Taken]| {
        let numbers: BTreeSet<String> = taken.iter().map(|t| numbered(&t.content)).collect();
        numbers.len() == 240
    };
    let taken = fixture.host.taken_until("the corpus", all).await;
    let directory = tempfile::tempdir().unwrap();
    for one in &taken {
        let path = directory.path().join(numbered(&one.content));
        std::fs::write(path, &one.content).unwrap();
    }
    run(&[
        "python3",
        "corpus.py",
        "check",
        directory.path().to_str().unwrap(),
    ])
    .await;
    fixture.stop().await;
}

/// Posts one message after the other until the node dies; what was answered with ErrorCode 0.
async fn post_until_the_end(address: SocketAddr, batch: bool, answered: Arc<Mutex<Vec<String>>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mail = json!({ "From": "a@declared.example", "To": "b@example.com", "TextBody": "x".repeat(2_000) });
    let (path, body) = match batch {
        true => ("/email/batch", json!(vec![mail; 7])),
        false => ("/email", mail),
    };
    loop {
        let request = hyper::Request::post(format!("http://{address}{path}"))
            .header("host", "node.test")
            .header("x-postmark-server-token", "app-secret-token")
            .header("content-type", "application/json")
            .body(axum::body::Body::from(body.to_string()))
            .unwrap();
        let Ok(answer) = client.send_request(request).await else {
            return;
        };
        let Ok(octets) =
            axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 1 << 20).await
        else {
            return;
        };
        let Ok(answer) = serde_json::from_slice::<Value>(&octets) else {
            return;
        };
        let items = answer.as_array().cloned().unwrap_or_else(|| vec![answer]);
        let taken = items.iter().filter(|item| item["ErrorCode"] == 0);
        let ids = taken.map(|item| item["MessageID"].as_str().unwrap().to_owned());
        answered.lock().unwrap().extend(ids);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_with_error_code_0_survives_a_kill() {
    let host = RemoteHost::start().await;
    let dir = tempfile::tempdir().unwrap();
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n{CONFIG}",
            host.address
        ),
    );
    let answered = Arc::new(Mutex::new(Vec::new()));
    for cycle in 1..=3 {
        let mut node = NodeProcess::start(dir.path()).await;
        let line = node.said("serving HTTP").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        let address: SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
        let posting =
            (0..6).map(|n| tokio::spawn(post_until_the_end(address, n == 0, answered.clone())));
        let posting: Vec<_> = posting.collect();
        let counted = answered.clone();
        let enough = || counted.lock().unwrap().len() >= 150 * cycle;
        eventually("enough answers", async || enough().then_some(())).await;
        node.kill().await;
        for one in posting {
            within("a client to notice", one).await.unwrap();
        }
    }
    let answered: BTreeSet<String> = answered.lock().unwrap().iter().cloned().collect();
    let node = NodeProcess::start(dir.path()).await;
    let arrived = |taken: &[Taken]| {
        let ids = taken.iter().map(|t| {
            let text = String::from_utf8_lossy(&t.content).into_owned();
            let (_, rest) = text.split_once("X-PM-Message-Id: ").unwrap();
            rest.split("\r\n").next().unwrap().to_owned()
        });
        answered.is_subset(&ids.collect())
    };
    host.taken_until("everything that was answered", arrived)
        .await;
    node.stop().await;
}

/// POST with an idempotency key.
async fn keyed(address: SocketAddr, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let fields = [TOKEN, ("idempotency-key", key)];
    call_as(&fields, "POST", address, path, body).await
}

/// POST to the API of the server `app`: status and answer.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    call("POST", address, path, body).await
}

/// Any request to the API of the server `app`.
pub async fn call(method: &str, address: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    call_as(&[TOKEN], method, address, path, body).await
}

/// As [`call`], with header fields of one's own in the place of the token.
pub async fn call_as(
    fields: &[(&str, &str)],
    method: &str,
    address: SocketAddr,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut request = hyper::Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("host", "node.test")
        .header("content-type", "application/json");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = match body {
        Value::Null => axum::body::Body::empty(),
        body => axum::body::Body::from(body.to_string()),
    };
    let answer = client.send_request(request.body(body).unwrap());
    let answer = within("an answer", answer).await.unwrap();
    let status = answer.status().as_u16();
    let octets = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 64 << 20).await;
    (status, serde_json::from_slice(&octets.unwrap()).unwrap())
}

const TOKEN: (&str, &str) = ("x-postmark-server-token", "app-secret-token");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_a_key_goes_once_however_often_it_is_sent_and_whatever_happens_between() {
    let host = RemoteHost::start().await;
    let dir = tempfile::tempdir().unwrap();
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n{CONFIG}",
            host.address
        ),
    );
    let http_address = async |node: &NodeProcess| -> SocketAddr {
        let line: Value = serde_json::from_str(&node.said("serving HTTP").await).unwrap();
        line["address"].as_str().unwrap().parse().unwrap()
    };
    let mut node = NodeProcess::start(dir.path()).await;
    let address = http_address(&node).await;
    let mail = json!({ "From": "a@declared.example", "To": "b@example.com", "TextBody": "once" });
    let batch = json!([mail, mail]);
    // A start knows late which keys were used, an empty node's too.
    let ask_until_known = async |address| {
        let answer = eventually("recovery", async || {
            let answer = keyed(address, "/email", "order-1", &mail).await;
            (answer.0 != 503).then_some(answer)
        });
        answer.await
    };
    let first = ask_until_known(address).await;
    assert_eq!(
        (first.0, &first.1["ErrorCode"]),
        (200, &json!(0)),
        "{}",
        first.1
    );
    assert_eq!(keyed(address, "/email", "order-1", &mail).await, first);
    let whole = keyed(address, "/email/batch", "order-1-batch", &batch).await;
    assert_eq!(whole.0, 200);
    let mut client = node.client().await;
    let smtp = b"X-Posthaste-Idempotency-Key: smtp-1\r\nFrom: a@declared.example\r\n\r\nonce\r\n";
    let (code, by_smtp) = client.try_submit("b@example.com", smtp).await.unwrap();
    assert_eq!(code, 250, "{by_smtp}");

    // An answer that was lost: the node died, the client asks again.
    node.kill().await;
    let node = NodeProcess::start(dir.path()).await;
    let address = http_address(&node).await;
    assert_eq!(ask_until_known(address).await, first);
    // Others may be known later than the first.
    let again = eventually("the same answers", async || {
        let answer = keyed(address, "/email/batch", "order-1-batch", &batch).await;
        (answer.0 != 503).then_some(answer)
    });
    assert_eq!(again.await, whole);
    let mut client = node.client().await;
    let later = b"X-Posthaste-Idempotency-Key: smtp-1\r\nFrom: a@declared.example\r\nDate: now\r\n\r\nonce\r\n";
    let again = eventually("the same answer", async || {
        let answer = client.try_submit("b@example.com", later).await.unwrap();
        (answer.0 != 451).then_some(answer)
    });
    assert_eq!(again.await, (250, by_smtp));
    let (code, said) = client.try_submit("c@example.com", later).await.unwrap();
    assert_eq!(code, 550, "{said}");

    let other =
        json!({ "From": "a@declared.example", "To": "b@example.com", "TextBody": "another" });
    let (status, said) = keyed(address, "/email", "order-1", &other).await;
    assert_eq!((status, &said["ErrorCode"]), (409, &json!(300)), "{said}");
    let (status, said) = keyed(address, "/email", "ü", &mail).await;
    assert_eq!((status, &said["ErrorCode"]), (422, &json!(300)), "{said}");
    // Many at once: one is taken.
    let race: Vec<_> = (0..8)
        .map(|_| {
            let mail = mail.clone();
            tokio::spawn(async move { keyed(address, "/email", "race", &mail).await })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for one in race {
        let (status, answer) = one.await.unwrap();
        match status {
            200 => drop(ids.insert(answer["MessageID"].as_str().unwrap().to_owned())),
            409 => assert!(
                answer["Message"]
                    .as_str()
                    .unwrap()
                    .contains("at this moment"),
                "{answer}"
            ),
            _ => panic!("{status}: {answer}"),
        }
    }
    assert_eq!(ids.len(), 1);

    let last =
        json!({ "From": "a@declared.example", "To": "last@example.com", "TextBody": "last" });
    assert_eq!(keyed(address, "/email", "last", &last).await.0, 200);
    let is_last = |taken: &[Taken]| taken.iter().any(|t| t.recipients == ["last@example.com"]);
    let taken = host.taken_until("the last message", is_last).await;
    // One, a batch of two, one by SMTP, the race, the last; a kill may repeat what was under way.
    let ids: BTreeSet<String> = taken
        .iter()
        .map(|t| {
            let text = String::from_utf8_lossy(&t.content).into_owned();
            let (_, rest) = text.split_once("X-PM-Message-Id: ").unwrap();
            rest.split("\r\n").next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids.len(), 6);
    node.stop().await;
}
