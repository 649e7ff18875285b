//! Requests against receivers of this process: kept connections, redirects, TLS, answers without an end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::*;

/// Answers by the path of the request.
async fn answer(
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = Response::builder();
    let answer = match request.uri().path() {
        "/fine" if request.method() == "POST" => answer.body(Full::default()),
        "/seen" if request.method() == "GET" => answer.body(Full::default()),
        "/other" => answer
            .status(303)
            .header("location", "/seen")
            .body(Full::default()),
        "/moved" => answer
            .status(308)
            .header("location", "/fine")
            .body(Full::default()),
        "/bare" => answer.status(302).body(Full::default()),
        "/round" => answer
            .status(307)
            .header("location", "/round")
            .body(Full::default()),
        "/down" => answer
            .status(307)
            .header("location", "http://127.0.0.1:1/")
            .body(Full::default()),
        "/file" => answer
            .status(307)
            .header("location", "file:///etc/passwd")
            .body(Full::default()),
        "/large" => answer
            .status(503)
            .body(Full::new(vec![b'x'; 3 << 20].into())),
        _ => answer.status(404).body(Full::default()),
    };
    Ok(answer.unwrap())
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

/// Each connection serves `requests` and is then closed.
async fn server(requests: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, requests));
        }
    });
    Server {
        address,
        connections,
    }
}

async fn serve(stream: TcpStream, requests: usize) {
    let left = Arc::new(AtomicUsize::new(requests));
    let service = service_fn(move |request| {
        let left = Arc::clone(&left);
        async move {
            let mut said = answer(request).await?;
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                let close = hyper::header::HeaderValue::from_static("close");
                said.headers_mut().insert("connection", close);
            }
            Ok::<_, Infallible>(said)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn client(extra_roots: Option<PathBuf>) -> Client {
    let rules = config::Webhooks {
        allow_networks: vec!["127.0.0.1/32".parse().unwrap()],
        ..config::Webhooks::default()
    };
    let records = Arc::new(Records::new(&[]).unwrap());
    Client::new(rules, records, extra_roots, Clock::start())
}

async fn post(client: &Client, lines: &Lines, url: &str) -> Result<u16, String> {
    let url = Url::parse(url).unwrap();
    let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"{}"));
    let posted = client.post(lines, &url, &headers, &body).await;
    posted.map(|status| status.as_u16())
}

#[tokio::test]
async fn connections_are_kept_and_one_that_was_closed_costs_no_attempt() {
    for (requests, expected) in [(usize::MAX, 1), (4, 3)] {
        let (server, client, lines) = (server(requests).await, client(None), Lines::default());
        for _ in 0..12 {
            let url = format!("http://{}/fine", server.address);
            assert_eq!(post(&client, &lines, &url).await, Ok(200));
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), expected);
        // One that was idle for as long as some servers wait is not used again.
        lines.thin(Clock::start().instant() + limits::WEBHOOK_IDLE);
        let url = format!("http://{}/fine", server.address);
        assert_eq!(post(&client, &lines, &url).await, Ok(200));
        assert_eq!(server.connections.load(Ordering::Relaxed), expected + 1);
    }
}

#[tokio::test]
async fn redirects_are_followed_to_their_end_and_no_further_than_they_may() {
    let (server, client, lines) = (server(usize::MAX).await, client(None), Lines::default());
    for (path, expected) in [
        ("fine", Ok(200)),
        ("moved", Ok(200)),
        ("other", Ok(200)),
        ("bare", Ok(302)),
        ("nowhere", Ok(404)),
        ("large", Ok(503)),
        ("round", Err("more than 10 times")),
        ("file", Err("what is no hook")),
    ] {
        let found = post(
            &client,
            &lines,
            &format!("http://{}/{path}", server.address),
        )
        .await;
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{path}"),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{path}: {why}"),
            _ => panic!("{path}: {found:?}"),
        }
    }
    let refused = post(&client, &lines, "http://127.0.0.2:9/")
        .await
        .unwrap_err();
    assert!(refused.contains("an internal address"), "{refused}");
}

#[tokio::test]
async fn a_certificate_is_verified_and_https_does_not_become_http() {
    let dir = tempfile::tempdir().unwrap();
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, identity.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(identity.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    let url = |path: &str| format!("https://localhost:{port}/{path}");
    let trusting = client(Some(file));
    let lines = Lines::default();
    assert_eq!(post(&trusting, &lines, &url("fine")).await, Ok(200));
    let down = post(&trusting, &lines, &url("down")).await.unwrap_err();
    assert!(down.contains("from https to http"), "{down}");
    let stranger = post(&client(None), &Lines::default(), &url("fine"))
        .await
        .unwrap_err();
    assert!(
        stranger.starts_with("TLS:") || stranger.contains("root certificates"),
        "{stranger}"
    );
    // Another name than the certificate's.
    let (lines, url) = (Lines::default(), format!("https://127.0.0.1:{port}/fine"));
    let other = post(&trusting, &lines, &url).await.unwrap_err();
    assert!(other.starts_with("TLS:"), "{other}");
}

/// What came over the connection may have been read by whoever closed it: a second request in the same attempt would be one
/// that no schedule knows of.
#[tokio::test]
async fn one_attempt_is_one_request_also_where_a_kept_connection_ends_without_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let requests = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = Vec::new();
            // The first is answered; the second is read to its end and then nothing is said.
            for is_answered in [true, false] {
                while !seen.ends_with(b"{}") {
                    if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                seen.clear();
                counted.fetch_add(1, Ordering::Relaxed);
                if is_answered {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    });
    let (client, lines) = (client(None), Lines::default());
    assert_eq!(post(&client, &lines, &url).await, Ok(200));
    let ended = post(&client, &lines, &url).await.unwrap_err();
    assert!(ended.contains("before its answer"), "{ended}");
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    // The next attempt makes a connection of its own.
    assert_eq!(post(&client, &lines, &url).await, Ok(200));
    assert_eq!(requests.load(Ordering::Relaxed), 3);
}

/// Whoever says 200 has taken it, whatever becomes of the text that follows.
#[tokio::test]
async fn a_status_counts_although_its_answer_breaks_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = Vec::new();
            while !seen.ends_with(b"{}") {
                stream.read_buf(&mut seen).await.unwrap();
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
            stream.write_all(answer).await.unwrap();
        }
    });
    let (client, lines) = (client(None), Lines::default());
    for _ in 0..2 {
        assert_eq!(post(&client, &lines, &url).await, Ok(200));
    }
}

/// However it is written, and by whatever way it is come to.
#[tokio::test]
async fn no_address_of_an_inner_network_is_connected_to() {
    let client = client(None);
    for host in [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.2",
        "0x7f.2",
        "2130706434",
        "017700000002",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::10.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:0:10.0.0.1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:a00:1::]",
        "[fd00::1]",
        "[fe80::1]",
        "[ff02::1]",
        "user:password@10.0.0.1",
    ] {
        let url = format!("https://{host}/");
        let refused = post(&client, &Lines::default(), &url).await.unwrap_err();
        assert!(refused.contains("an internal address"), "{host}: {refused}");
    }
    let port = post(&client, &Lines::default(), "https://1.1.1.1:25/").await;
    assert!(port.unwrap_err().contains("names port 25"));
    let http = post(&client, &Lines::default(), "http://1.1.1.1/").await;
    assert!(http.unwrap_err().contains("must begin with https://"));
}
