//! What a monitoring system asks: that the numbers are those of what happened, who may see them, and whether mail is taken.

use posthaste::metrics;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::support::client::{Client, auth_plain, message};
use crate::support::eventually;
use crate::support::node::{TestNode, write_config};
use crate::support::process::{NodeProcess, http, http_over, posthaste, value_of};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_is_what_the_metrics_count() {
    let dir = TempDir::new().unwrap();
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("gone@") => Answer::line("550 5.1.1 no such user"),
        Stage::Rcpt if line.contains("waits@") => Answer::line("451 4.7.1 not yet"),
        _ => Answer::Usual,
    })
    .await;
    let listener = "[[smtp]]\nbind = \"127.0.0.1:0\"\ntls = \"off\"\ntrusted = []\n\
        [[sink]]\nname = \"lines\"\ntype = \"file\"\npath = \"events.jsonl\"\n";
    write_config(
        dir.path(),
        &format!(
            "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n{listener}",
            host.address
        ),
    );
    let node = NodeProcess::start(dir.path()).await;

    // All are there from the start, at zero.
    let (_, text) = node.get("/metrics").await;
    for metric in metrics::ALL {
        let line = format!("# TYPE {} {}\n", metric.name(), metric.kind());
        assert!(text.contains(&line), "{line}");
    }
    // What the configuration names has series of its own.
    for series in [
        "messages_accepted_total{stream_kind=\"transactional\"}",
        "source_messages_total{source=\"tx1\"}",
        "source_messages_total{source=\"sandbox\"}",
        "delivery_attempts_total{outcome=\"delivered\",provider=\"google\"}",
        "reader_failures_total{reader=\"sink-lines\"}",
    ] {
        let series = format!("posthaste_{series}");
        assert_eq!(value_of(&text, &series), 0.0, "{series}");
    }

    let mut client = node.client().await;
    client
        .submit(
            &["a@example.org", "gone@example.org"],
            &message("first", "body"),
        )
        .await;
    client
        .submit(
            &["b@example.org", "waits@example.org"],
            &message("second", "body"),
        )
        .await;
    client.command("MAIL FROM:<a@example.com>", 250).await;
    client.command("RCPT TO:<b@example.org>", 250).await;
    client.command("DATA", 354).await;
    client
        .send(b"From: a@example.com\r\nX-PM-Message-Stream: nowhere\r\n\r\nbody\r\n")
        .await;
    client.command(".", 550).await;
    let mut stranger = Client::connect(node.smtp_of(1).await).await;
    stranger.command(&auth_plain("wrong"), 535).await;

    for (series, expected) in [
        (
            "messages_accepted_total{stream_kind=\"transactional\"}",
            2.0,
        ),
        (
            "recipients_accepted_total{stream_kind=\"transactional\"}",
            4.0,
        ),
        ("messages_refused_total{reason=\"stream\"}", 1.0),
        ("recipients_ended_total{outcome=\"delivered\"}", 2.0),
        ("recipients_ended_total{outcome=\"bounced\"}", 1.0),
        (
            "delivery_attempts_total{outcome=\"delivered\",provider=\"other\"}",
            2.0,
        ),
        (
            "delivery_attempts_total{outcome=\"bounced\",provider=\"other\"}",
            1.0,
        ),
        (
            "delivery_failures_total{cause=\"recipient-unknown\",outcome=\"bounced\"}",
            1.0,
        ),
        (
            "first_attempt_seconds_count{stream_kind=\"transactional\",provider=\"other\"}",
            2.0,
        ),
        (
            "delivery_seconds_count{stream_kind=\"transactional\",provider=\"other\"}",
            2.0,
        ),
        (
            "undelivered_seconds_count{stream_kind=\"transactional\",outcome=\"bounced\"}",
            1.0,
        ),
        (
            "queue_age_recipients{stream_kind=\"transactional\",age=\"5m\"}",
            1.0,
        ),
        (
            "queue_age_recipients{stream_kind=\"broadcast\",age=\"5m\"}",
            0.0,
        ),
        ("queue_recipients{state=\"deferred\"}", 1.0),
        ("queue_recipients{state=\"ready\"}", 0.0),
        ("queues", 1.0),
        ("smtp_auth_total{result=\"refused\"}", 1.0),
        ("smtp_sessions_total", 2.0),
        ("smtp_connections", 2.0),
        ("ready", 1.0),
        ("spool_full", 0.0),
        ("spool_failed", 0.0),
        ("spool_damaged_records_total{log=\"mail\"}", 0.0),
    ] {
        let series = format!("posthaste_{series}");
        // Gauges are looked at once a second; what happened need not be counted in the same moment.
        eventually(&format!("{series} {expected}"), async || {
            (node.metric(&series).await == expected).then_some(())
        })
        .await;
    }
    for (series, at_least) in [
        ("source_messages_total{source=\"tx1\"}", 2.0),
        ("spool_commits_total{log=\"mail\"}", 2.0),
        ("spool_records_total{log=\"event\"}", 7.0),
        ("spool_written_bytes_total{log=\"mail\"}", 8192.0),
        ("spool_commit_seconds_count{log=\"mail\"}", 2.0),
        ("spool_segments{log=\"mail\"}", 1.0),
        ("spool_free_bytes", 1.0),
        ("content_accepted_bytes_total", 200.0),
        ("http_requests_total{status=\"2xx\"}", 2.0),
        ("start_time_seconds", 1.7e9),
    ] {
        let found = node.metric(&format!("posthaste_{series}")).await;
        assert!(found >= at_least, "{series}: {found}");
    }
    // Readers that have read all are not behind, whatever the log has written for itself.
    eventually("readers that have read all", async || {
        let listed = posthaste(dir.path(), "readers ls --json").await.expect(0);
        let behind = listed.json().iter().any(|row| row["lag_bytes"] != 0);
        let (_, text) = node.get("/metrics").await;
        let mut lags = text
            .lines()
            .filter(|l| l.starts_with("posthaste_reader_lag_"));
        (!behind && lags.all(|line| line.ends_with(" 0"))).then_some(())
    })
    .await;
    // The sum that the audit proves.
    let (_, text) = node.get("/metrics").await;
    let sum: f64 = ["delivered", "bounced", "expired", "cancelled"]
        .map(|outcome| {
            value_of(
                &text,
                &format!("posthaste_recipients_ended_total{{outcome=\"{outcome}\"}}"),
            )
        })
        .iter()
        .sum();
    assert_eq!(sum + 1.0, 4.0);
    drop((client, stranger));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_for_the_networks_and_tokens_that_are_named() {
    // By default: loopback.
    let open = TestNode::with("").await;
    let (status, text) = http(open.node.http_address(), "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(text.contains("\nposthaste_build_info{version=\""), "{text}");
    open.node.stop().await;

    let by_token =
        TestNode::with("[admin]\ntokens = [\"an-admin-token-of-the-test\"]\nmetrics_from = []\n")
            .await;
    let address = by_token.node.http_address();
    let token = "Authorization: Bearer an-admin-token-of-the-test\r\n";
    assert_eq!(http(address, "/metrics", "").await.0, 403);
    assert_eq!(
        http(
            address,
            "/metrics",
            "Authorization: Bearer app-secret-token\r\n"
        )
        .await
        .0,
        403
    );
    assert_eq!(http(address, "/metrics", token).await.0, 200);
    // No header makes an address of somebody else's.
    assert_eq!(
        http(address, "/metrics", "X-Forwarded-For: 127.0.0.1\r\n")
            .await
            .0,
        403
    );
    // The admin API takes the token only, health needs none.
    assert_eq!(http(address, "/admin/v1/status", "").await.0, 401);
    assert_eq!(http(address, "/admin/v1/status", token).await.0, 200);
    assert_eq!(
        http(address, "/healthz", "").await,
        (200, "ok\n".to_owned())
    );
    assert_eq!(
        http(address, "/readyz", "").await,
        (200, "ready\n".to_owned())
    );
    assert_eq!(http(address, "/nothing", "").await.0, 404);
    by_token.node.stop().await;

    let by_network = TestNode::with("[admin]\nmetrics_from = [\"127.0.0.2/32\"]\n").await;
    let address = by_network.node.http_address();
    for (from, expected) in [("127.0.0.1:0", 403), ("127.0.0.2:0", 200)] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from.parse().unwrap()).unwrap();
        let (status, _) = http_over(socket.connect(address).await.unwrap(), "/metrics").await;
        assert_eq!(status, expected, "{from}");
    }
    by_network.node.stop().await;
}
