//! The dashboard and the alert rules, by a real Prometheus that scrapes a real node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use posthaste::metrics;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::support::client::message;
use crate::support::eventually;
use crate::support::node::write_config;
use crate::support::process::{NodeProcess, free_address};
use crate::support::remote_host::{Answer, RemoteHost, Stage};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("monitoring")
        .join(name)
}

/// Runs promtool; what it printed.
async fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; scripts/test installs it"));
    let mut stdin = child.stdin.take().unwrap();
    // One that reads nothing may have ended.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let said = child.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{arguments:?}: {text}{errors}");
    text
}

/// Every expression of the dashboard, as it is with all nodes chosen.
fn expressions() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if name == "expr" => found.push(text.clone()),
                        _ => collect(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let text = std::fs::read_to_string(file("dashboard.json")).unwrap();
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut found);
    let shown = |text: String| {
        text.replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
    };
    found.into_iter().map(shown).collect()
}

/// The metrics that a text in PromQL names, without the suffixes of histograms.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("posthaste_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_there_are() {
    let known: BTreeSet<&str> = metrics::ALL.iter().map(|metric| metric.name()).collect();
    let alerts = std::fs::read_to_string(file("alerts.yml")).unwrap();
    let expressions = expressions();
    assert!(expressions.len() > 60);
    for text in expressions.iter().chain([&alerts]) {
        for name in named(text) {
            assert!(known.contains(&*name), "{name} in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_hold_what_their_tests_say() {
    let path = |name| file(name).display().to_string();
    promtool(&["check", "rules", &path("alerts.yml")], "").await;
    promtool(&["test", "rules", &path("alerts.test.yml")], "").await;
}

async fn prometheus(dir: &Path, node: &str) -> (Child, String) {
    let address = free_address().to_string();
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n- job_name: posthaste\n  static_configs: [{{ targets: [\"{node}\"] }}]\n",
        file("alerts.yml").display()
    );
    let at = dir.join("prometheus.yml");
    std::fs::write(&at, config).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", at.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("prometheus: {error}; scripts/test installs it"));
    (child, format!("http://{address}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_scrapes_a_node_and_answers_all_that_dashboard_and_alerts_ask() {
    let dir = TempDir::new().unwrap();
    let host = RemoteHost::scripted(|stage, line, _| match stage {
        Stage::Rcpt if line.contains("gone@") => Answer::line("550 5.1.1 no such user"),
        Stage::Rcpt if line.contains("waits@") => Answer::line("451 4.7.1 not yet"),
        _ => Answer::Usual,
    })
    .await;
    let route = format!(
        "[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        host.address
    );
    write_config(dir.path(), &route);
    let node = NodeProcess::start(dir.path()).await;
    let recipients = ["a@example.org", "gone@example.org", "waits@example.org"];
    let mail = message("seen", "body");
    node.client().await.submit(&recipients, &mail).await;
    let (_, text) = node.get("/metrics").await;
    promtool(&["check", "metrics"], &text).await;

    let (mut server, url) = prometheus(dir.path(), &http_address(&node).await).await;
    let ask = async |expression: &str| {
        // Not before it listens.
        let said = Command::new("promtool")
            .args(["query", "instant", &url, expression])
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        said.status.success().then_some(text).ok_or(errors)
    };
    for expected in [
        "up{job=\"posthaste\"} == 1",
        "posthaste_delivery_attempts_total{outcome=\"deferred\",provider=\"other\"} >= 1",
        "posthaste_delivery_failures_total{cause=\"recipient-unknown\",outcome=\"bounced\"} >= 1",
        "posthaste_delivery_seconds_count{stream_kind=\"transactional\",provider=\"other\"} >= 1",
        "sum (posthaste_queue_age_recipients{stream_kind=\"transactional\",age=\"5m\"}) == 1",
        // Two scrapes make a rate.
        "rate(posthaste_http_requests_total{status=\"2xx\"}[1m]) > 0",
    ] {
        eventually(expected, async || {
            ask(expected)
                .await
                .ok()
                .filter(|text| !text.trim().is_empty())
        })
        .await;
    }
    for expression in expressions() {
        if let Err(why) = ask(&expression).await {
            panic!("{expression}: {why}");
        }
    }
    // Nothing is wrong with this node.
    let firing = ask("ALERTS{alertstate=\"firing\"}").await.unwrap();
    assert_eq!(firing.trim(), "");
    server.kill().await.unwrap();
    node.stop().await;
}

async fn http_address(node: &NodeProcess) -> String {
    let line: Value = serde_json::from_str(&node.said("serving HTTP").await).unwrap();
    line["address"].as_str().unwrap().to_owned()
}
