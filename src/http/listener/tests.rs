//! Clients that take their time, under a clock that is moved on.

use axum::body::Bytes;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::*;

/// A connection that is being served, and what keeps the node from stopping.
fn connect() -> (DuplexStream, watch::Sender<bool>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (running, stop) = watch::channel(false);
    let routes = Router::new()
        .route("/quick", get(async || "ok"))
        .route("/servers", post(async |_: Bytes| "read"))
        .route("/admin/v1/x", post(async |_: Bytes| "read"));
    let routes = super::super::bounded(routes);
    tokio::spawn(serve_http1(server, routes, Peer(None), stop));
    (client, running)
}

/// What comes until the node closes, which it does between `least` and a second later.
async fn end_after(client: &mut DuplexStream, least: Duration) -> String {
    let mut answer = String::new();
    let early = least.saturating_sub(Duration::from_secs(1));
    let read = timeout(early, client.read_to_string(&mut answer)).await;
    assert!(read.is_err(), "closed too early: {answer}");
    let read = timeout(Duration::from_secs(2), client.read_to_string(&mut answer)).await;
    assert!(read.is_ok(), "not closed after {least:?}: {answer}");
    answer
}

#[tokio::test(start_paused = true)]
async fn a_header_section_that_does_not_end_and_a_connection_without_requests_are_closed() {
    for said in ["", "GET / HTTP/1.1\r\nHost: a\r\nX: "] {
        let (mut client, _running) = connect();
        client.write_all(said.as_bytes()).await.unwrap();
        end_after(&mut client, limits::HTTP_HEADER).await;
    }
    let (mut client, _running) = connect();
    client
        .write_all(b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok") {
        client.read_buf(&mut answer).await.unwrap();
    }
    end_after(&mut client, limits::HTTP_HEADER).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_answered_408_and_the_connection_closed() {
    for (path, key) in [("/servers", "Message"), ("/admin/v1/x", "message")] {
        let (mut client, _running) = connect();
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{{");
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = end_after(&mut client, limits::HTTP_REQUEST).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert!(body[key].as_str().unwrap().contains("30 seconds"), "{body}");
    }
}
