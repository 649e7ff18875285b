//! Clients of Postmark that we did not write and did not change, against a running node. `scripts/test` installs them.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::accounts::Fixture;
use crate::support::dns::Dns;
use crate::support::process::http;
use crate::support::within;

pub const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Runs a program of `tests/clients`, which must end well.
pub async fn run(words: &[&str]) {
    let what = words.join(" ");
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("PYTHONPATH", "python")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.current_dir(CLIENTS).stdin(Stdio::null());
    let output = within(&what, output.kill_on_drop(true).output())
        .await
        .unwrap_or_else(|e| panic!("{what}: {e}; scripts/test installs what the tests need"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed: {text}");
}

/// A server token that is good for one request.
async fn limited_token(fixture: &Fixture) -> String {
    fixture.made("server create limited").await;
    let token = fixture.made("token create limited --rate 1/h").await;
    token["token"].as_str().unwrap().to_owned()
}

const ACCOUNT: &str = "[account]\ntokens = [\"the-account-token\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_node_client_manages_an_account() {
    let fixture = Fixture::start(ACCOUNT).await;
    let address = fixture.node.node.http_address().to_string();
    let limited = limited_token(&fixture).await;
    run(&[
        "node",
        "accounts.js",
        &address,
        "the-account-token",
        &limited,
    ])
    .await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_clients_manage_an_account() {
    let fixture = Fixture::start(ACCOUNT).await;
    let url = format!("http://{}", fixture.node.node.http_address());
    let limited = limited_token(&fixture).await;
    run(&[
        "python3",
        "accounts.py",
        &url,
        "the-account-token",
        &limited,
    ])
    .await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_manage_domains_and_sender_signatures() {
    let dns = Dns::start().await;
    let config = format!("{ACCOUNT}[dns]\nservers = [\"{}\"]\n", dns.address);
    let fixture = Fixture::start(&config).await;
    let address = fixture.node.node.http_address().to_string();
    run(&["node", "identities.js", &address, "the-account-token"]).await;
    let url = format!("http://{address}");
    run(&["python3", "identities.py", &url, "the-account-token"]).await;
    // Each signature was mailed its link, and each resend once more.
    fixture.host.wait_for(6).await;
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_described_and_speaks_http_2() {
    let fixture = Fixture::start(ACCOUNT).await;
    let address = fixture.node.node.http_address();
    let (code, text) = http(address, "/OpenAPI.json", "").await;
    assert_eq!(code, 200, "{text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["openapi"], "3.1.0");

    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("http://{address}/servers"))
        .header("x-postmark-account-token", "the-account-token")
        .body(axum::body::Body::empty())
        .unwrap();
    let answer = within("an answer over HTTP/2", client.send_request(request))
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.version()),
        (200, hyper::Version::HTTP_2)
    );
    drop((client, answer));
    connection.abort();
    fixture.stop().await;
}

/// Whether the node answers 400 or closes; nothing that hides behind may be answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_hide_others_are_refused_and_the_connection_is_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fixture = Fixture::start(ACCOUNT).await;
    let address = fixture.node.node.http_address();
    let hidden = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: identity, chunked, gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X: y\r\n Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let request = format!(
            "POST /servers HTTP/1.1\r\nHost: x\r\nX-Postmark-Account-Token: the-account-token\r\n{head}\r\n0\r\n\r\n{hidden}"
        );
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the end", stream.read_to_string(&mut answer))
            .await
            .unwrap_or_default();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
        assert!(!answer.contains("ok\n"), "{head:?}: {answer}");
    }
    fixture.stop().await;
}
